// Gives a multiplier every combination of operands, and counts the products that are wrong. The first operand changes every cycle;
// the second is taken once for all values of the first, and shown as something else while it is not.
module bench #(parameter BITS = 16) (input clk, output reg done, output reg [31:0] checked, output reg [31:0] wrong);
    reg [BITS:0] now = 0, last = 0, earlier = 0;
    reg begun = 0, known = 0;
    initial {done, checked, wrong} = 0;
    wire [7:0] a = now[7:0];
    wire [BITS-9:0] b = now[BITS-1:8];
    wire take = a == 0;
    wire [7:0] o_a;
    wire signed [15:0] product, wanted = $signed(earlier[7:0]) * $signed(earlier[15:8]);
`ifdef PAIR
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
