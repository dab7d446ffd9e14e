// What the board design instantiates of Lattice's primitives, for a simulation. The PLL passes its input on: a cycle of the pin is one
// of the design, whatever their frequencies are on a board.
module IB (input I, output O);
    assign O = I;
endmodule

module OBZ (input I, input T, output O);
    assign O = T ? 1'bz : I;
endmodule

module EHXPLLL #(
    parameter CLKI_DIV = 1,
    parameter CLKFB_DIV = 1,
    parameter CLKOP_DIV = 1,
    parameter CLKOP_CPHASE = 0,
    parameter CLKOP_ENABLE = "ENABLED",
    parameter FEEDBK_PATH = "CLKOP"
) (
    input CLKI, CLKFB, RST, STDBY, PHASESEL0, PHASESEL1, PHASEDIR, PHASESTEP, PHASELOADREG, PLLWAKESYNC, ENCLKOP,
    output CLKOP,
    output reg LOCK
);
    // locked some time after it has begun
    reg [3:0] settling = 0;
    assign CLKOP = CLKI;
    initial LOCK = 0;
    always @(posedge CLKI) begin
        if (settling != 15) settling <= settling + 1;
        LOCK <= settling == 15;
    end
endmodule
