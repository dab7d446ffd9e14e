"""Registers behind block RAM: which of them move into it, and that the rest stays as it was."""

import json

import pytest

from accel.fpga import area, parse_device, synthesise

pytestmark = pytest.mark.slow

DEVICE = parse_device("LFE5U-25F-6BG381")


def memory(width, read, also="", word="word <= words[a];"):
    """Return a memory of 512 words whose ``word`` is registered as ``read`` says."""
    return f"""
module memory (
    input clk, rst, en, we, input [8:0] a, w, input [{width - 1}:0] d, output reg [{width - 1}:0] q, output [{width - 1}:0] o
);
    (* ram_style = "block", no_rw_check *) reg [{width - 1}:0] words [0:511];
    reg [{width - 1}:0] word;
    assign o = {also or 0};
    always @(posedge clk) begin
        if (we) words[w] <= d;
        {word}
        {read}
    end
endmodule
"""


def modes(verilog):
    """Return how a memory's outputs are registered, and how many registers are outside."""
    netlist = synthesise(verilog, "memory", DEVICE)
    module = json.loads(netlist.file.read_text(encoding="utf-8"))["modules"]["memory"]
    found = [c["parameters"] for c in module["cells"].values() if c["type"] == "DP16KD"]
    assert found
    registers = sum(cell["type"] == "TRELLIS_FF" for cell in module["cells"].values())
    assert netlist.cells.get("TRELLIS_FF", 0) == registers
    assert area(netlist, DEVICE)["ffs"].used == registers
    return {(one["REGMODE_A"], one["REGMODE_B"]) for one in found}, registers


@pytest.mark.parametrize(("width", "expected"), [(9, ("NOREG", "OUTREG")), (36, ("OUTREG", "OUTREG")), (72, ("OUTREG", "OUTREG"))])
def test_registers_without_enable_move_in(width, expected):
    assert modes(memory(width, "q <= word;")) == ({expected}, 0)


@pytest.mark.parametrize(
    ("read", "also"),
    [
        ("if (en) q <= word;", ""),
        ("if (rst) q <= 0; else q <= word;", ""),
        ("q <= word;", "word"),
        ("q <= word ^ d;", ""),
    ],
    ids=["enable", "reset", "seen at once", "logic"],
)
def test_others_stay_where_they_are(read, also):
    assert modes(memory(36, read, also)) == ({("NOREG", "NOREG")}, 36)


@pytest.mark.parametrize(
    "word", ["if (rst) word <= 0; else word <= words[a];", "if (en) word <= words[a];"], ids=["reset", "enable"]
)
def test_those_behind_a_port_with_an_enable_or_reset_stay(word):
    found, registers = modes(memory(36, "q <= word;", word=word))
    assert found == {("NOREG", "NOREG")}
    assert registers >= 36


@pytest.mark.parametrize("width", [9, 36])
def test_each_bit_of_the_register_is_the_memory_s_at_the_same_place(width):
    """Bit n of the output is driven by the place of bit n in the memory, which that of the input shows."""
    netlist = synthesise(memory(width, "q <= word;"), "memory", DEVICE)
    module = json.loads(netlist.file.read_text(encoding="utf-8"))["modules"]["memory"]
    (ram,) = (cell for cell in module["cells"].values() if cell["type"] == "DP16KD")
    ports = ram["connections"]

    def bits(*names):
        return [ports[f"{name}{n}"][0] for name in names for n in range(18)]

    # of 36 bits the lower 18 are A's; of 9 each port has its own
    inputs, outputs = (bits("DIA", "DIB"), bits("DOA", "DOB")) if width == 36 else (bits("DIA")[:9], bits("DOB")[:9])
    places = [inputs.index(bit) for bit in module["ports"]["d"]["bits"]]
    assert sorted(places) == list(range(width))
    assert [outputs[place] for place in places] == module["ports"]["q"]["bits"]


def test_an_output_may_have_any_name():
    verilog = (
        memory(36, "q <= word ^ d;", "word").replace("o,", "DI,").replace(" o\n", " DI\n").replace("assign o =", "assign DI =")
    )
    assert "output [35:0] DI" in verilog
    assert modes(verilog)[0] == {("NOREG", "NOREG")}


def test_a_design_without_registers_is_left_alone():
    netlist = synthesise("module gate (input a, b, output y); assign y = a & b; endmodule", "gate", DEVICE)
    assert "TRELLIS_FF" not in netlist.cells
