"""Registers behind block RAM: which of them move into it, and that the rest stays as it was."""

import json

import pytest

from accel.fpga import area, parse_device, synthesise

pytestmark = pytest.mark.slow

DEVICE = parse_device("LFE5U-25F-6BG381")


def memory(width, read, also=""):
    """Return a memory of 512 words whose word is registered as ``read`` says."""
    return f"""
module memory (
    input clk, rst, en, we, input [8:0] a, w, input [{width - 1}:0] d, output reg [{width - 1}:0] q, output [{width - 1}:0] o
);
    (* ram_style = "block", no_rw_check *) reg [{width - 1}:0] words [0:511];
    reg [{width - 1}:0] word;
    assign o = {also or 0};
    always @(posedge clk) begin
        if (we) words[w] <= d;
        word <= words[a];
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


def test_what_reads_the_register_reads_the_memory():
    """The netlist's output is driven by the memory itself."""
    netlist = synthesise(memory(36, "q <= word;"), "memory", DEVICE)
    module = json.loads(netlist.file.read_text(encoding="utf-8"))["modules"]["memory"]
    (ram,) = (cell for cell in module["cells"].values() if cell["type"] == "DP16KD")
    driven = {bit for port, bits in ram["connections"].items() if port.startswith("DO") for bit in bits}
    assert set(module["ports"]["q"]["bits"]) <= driven
    assert ram["connections"]["OCEA"] == ram["connections"]["OCEB"] == ["1"]
