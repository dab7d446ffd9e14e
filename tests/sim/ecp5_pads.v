// For Yosys's techmap: a netlist's pads as wires, because Verilator does not connect an inout to a port of one direction.
module TRELLIS_IO (inout B, input I, input T, output O);
    parameter DIR = "INPUT";
    generate
        if (DIR == "INPUT") assign O = B;
        else assign B = I;
    endgenerate
endmodule
