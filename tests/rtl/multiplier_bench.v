// Gives a multiplier every combination of operands, and counts the products that are wrong. The first operand changes every cycle;
// the second is taken once for all values of the first, and shown as something else while it is not. With WIDE, operands of up to
// 16 bits, both new in every cycle: each of them at the ends of its range half of the time, and scattered over it else.
module bench #(parameter BITS = 16, WIDE = 16, SIGNED = 0) (input clk, output reg done, output reg [31:0] checked, output reg [31:0] wrong);
    reg [BITS:0] now = 0, last = 0, earlier = 0;
    reg begun = 0, known = 0;
    initial {done, checked, wrong} = 0;
    wire [7:0] a = now[7:0];
    wire [BITS-9:0] b = now[BITS-1:8];
    wire take = a == 0;
    wire [7:0] o_a;
    wire signed [15:0] product, wanted = $signed(earlier[7:0]) * $signed(earlier[15:8]);
`ifdef WIDE
    function [15:0] chosen(input [15:0] value, input [2:0] how);
        chosen = how < 4 ? value : how == 4 ? 16'h0000 : how == 5 ? 16'hffff : how == 6 ? 16'h8000 : 16'h7fff;
    endfunction
    wire [31:0] scattered = (32'(now) ^ (32'(now) >> 7)) * 32'h9e3779b1;
    wire [15:0] wide_a = chosen(scattered[15:0], now[2:0]);
    wire [WIDE-1:0] wide_b = WIDE'(chosen(scattered[31:16], now[5:3]));
    reg signed [16:0] last_a, earlier_a;
    reg signed [WIDE:0] last_b, earlier_b;
    wire [WIDE+15:0] wide_product, wide_wanted = (WIDE+16)'(earlier_a * earlier_b);
    systolith multiplier (.clk(clk), .rst(1'b0), .i_a(wide_a), .i_b(wide_b), .o_product(wide_product));
    wire fault = wide_product !== wide_wanted;
    always @(posedge clk) begin
        {last_a, earlier_a} <= {SIGNED & wide_a[15], wide_a, last_a};
        {last_b, earlier_b} <= {1'b0, wide_b, last_b};
    end
`elsif PAIR
    wire signed [15:0] high, second_wanted = $signed(earlier[7:0]) * $signed(earlier[BITS-1:BITS-8]);
    wire borrow;
    wire signed [15:0] second = high + borrow;
    systolith multiplier (
        .clk(clk), .rst(1'b0), .i_a(a), .i_bs(take ? b : ~b ^ {2{a}}), .i_take(take),
        .o_a(o_a), .o_low(product), .o_high(high), .o_borrow(borrow)
    );
    wire fault = product !== wanted || second !== second_wanted || o_a !== last[7:0];
`else
    systolith multiplier (
        .clk(clk), .rst(1'b0), .i_a(a), .i_b(take ? b : ~b ^ a), .i_take(take), .o_a(o_a), .o_product(product)
    );
    wire fault = product !== wanted || o_a !== last[7:0];
`endif
    always @(posedge clk) begin
        now <= now + 1;
        {last, earlier} <= {now, last};
        {begun, known} <= {1'b1, begun};
        if (known && !earlier[BITS]) begin
            checked <= checked + 1;
            wrong <= wrong + fault;
        end
        done <= earlier[BITS];
    end
endmodule
