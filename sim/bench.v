// The engine with a register before each input.
// The bench sets, before a rising edge, what the inputs shall be after it, so that one evaluation a cycle settles everything.
module bench #(
    parameter BYTES = 8
) (
    input clk,
    input rst,
    output [31:0] m_axi_awaddr,
    output [7:0] m_axi_awlen,
    output [2:0] m_axi_awsize,
    output [1:0] m_axi_awburst,
    output m_axi_awvalid,
    input m_axi_awready,
    output [8*BYTES-1:0] m_axi_wdata,
    output [BYTES-1:0] m_axi_wstrb,
    output m_axi_wlast,
    output m_axi_wvalid,
    input m_axi_wready,
    input [1:0] m_axi_bresp,
    input m_axi_bvalid,
    output m_axi_bready,
    output [31:0] m_axi_araddr,
    output [7:0] m_axi_arlen,
    output [2:0] m_axi_arsize,
    output [1:0] m_axi_arburst,
    output m_axi_arvalid,
    input m_axi_arready,
    input [8*BYTES-1:0] m_axi_rdata,
    input [1:0] m_axi_rresp,
    input m_axi_rlast,
    input m_axi_rvalid,
    output m_axi_rready,
    input [7:0] s_axil_awaddr,
    input s_axil_awvalid,
    output s_axil_awready,
    input [31:0] s_axil_wdata,
    input s_axil_wvalid,
    output s_axil_wready,
    output [1:0] s_axil_bresp,
    output s_axil_bvalid,
    input [7:0] s_axil_araddr,
    input s_axil_arvalid,
    output s_axil_arready,
    output [31:0] s_axil_rdata,
    output [1:0] s_axil_rresp,
    output s_axil_rvalid,
    output rings,
    output [8:0] states,
    output [2:0] retires
);
    reg reset, awready, wready, bvalid, arready, rlast, rvalid, aw, w, ar;
    reg [1:0] bresp, rresp;
    reg [8*BYTES-1:0] rdata;
    reg [7:0] awaddr, araddr;
    reg [31:0] wdata;
    always @(posedge clk) begin
        reset <= rst;
        awready <= m_axi_awready;
        wready <= m_axi_wready;
        bresp <= m_axi_bresp;
        bvalid <= m_axi_bvalid;
        arready <= m_axi_arready;
        rdata <= m_axi_rdata;
        rresp <= m_axi_rresp;
        rlast <= m_axi_rlast;
        rvalid <= m_axi_rvalid;
        awaddr <= s_axil_awaddr;
        aw <= s_axil_awvalid;
        wdata <= s_axil_wdata;
        w <= s_axil_wvalid;
        araddr <= s_axil_araddr;
        ar <= s_axil_arvalid;
    end

    engine engine (
        .clk(clk), .rst(reset),
        .m_axi_awaddr(m_axi_awaddr), .m_axi_awlen(m_axi_awlen), .m_axi_awsize(m_axi_awsize), .m_axi_awburst(m_axi_awburst),
        .m_axi_awvalid(m_axi_awvalid), .m_axi_awready(awready),
        .m_axi_wdata(m_axi_wdata), .m_axi_wstrb(m_axi_wstrb), .m_axi_wlast(m_axi_wlast),
        .m_axi_wvalid(m_axi_wvalid), .m_axi_wready(wready),
        .m_axi_bresp(bresp), .m_axi_bvalid(bvalid), .m_axi_bready(m_axi_bready),
        .m_axi_araddr(m_axi_araddr), .m_axi_arlen(m_axi_arlen), .m_axi_arsize(m_axi_arsize), .m_axi_arburst(m_axi_arburst),
        .m_axi_arvalid(m_axi_arvalid), .m_axi_arready(arready),
        .m_axi_rdata(rdata), .m_axi_rresp(rresp), .m_axi_rlast(rlast), .m_axi_rvalid(rvalid), .m_axi_rready(m_axi_rready),
        .s_axil_awaddr(awaddr), .s_axil_awvalid(aw), .s_axil_awready(s_axil_awready),
        .s_axil_wdata(wdata), .s_axil_wstrb(4'hF), .s_axil_wvalid(w), .s_axil_wready(s_axil_wready),
        .s_axil_bresp(s_axil_bresp), .s_axil_bvalid(s_axil_bvalid), .s_axil_bready(1'b1),
        .s_axil_araddr(araddr), .s_axil_arvalid(ar), .s_axil_arready(s_axil_arready),
        .s_axil_rdata(s_axil_rdata), .s_axil_rresp(s_axil_rresp), .s_axil_rvalid(s_axil_rvalid), .s_axil_rready(1'b1),
        .interrupt(rings),
        .trace_load_state(states[2:0]), .trace_execute_state(states[5:3]), .trace_store_state(states[8:6]),
        .trace_load_retire(retires[0]), .trace_execute_retire(retires[1]), .trace_store_retire(retires[2])
    );
endmodule
