// Pads of Lattice's that the board design instantiates, for a simulation of it before synthesis.
module IB (input I, output O);
    assign O = I;
endmodule

module OBZ (input I, input T, output O);
    assign O = T ? 1'bz : I;
endmodule
