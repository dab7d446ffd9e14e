"""The simulating backends on an engine small enough to be trusted: results, cycles, counters, waveforms, and every bad end."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from accel.isa import UnitState
from accel.program import MemoryTiming, Program, RunResult
from sim.backends import NamedBackend
from sim.harness import SimulationError
from sim.memory import ProtocolError
from sim.pysim import PysimBackend
from sim.verilator import VerilatorBackend, missing_tool

TIMINGS = (
    MemoryTiming(),
    MemoryTiming(latency=1),
    MemoryTiming(latency=5, interval=4),
    MemoryTiming(stall_seed=1),
    MemoryTiming(latency=3, interval=2, stall_seed=2, stall_percent=80),
)


def _backend(name: str, copy: SimpleNamespace, misdeed: str = "") -> NamedBackend:
    if name == "pysim":
        return PysimBackend(component=copy.component(misdeed))
    missing = missing_tool()
    if missing is not None:
        pytest.skip(missing)
    return VerilatorBackend(verilog=copy.verilog(misdeed))


@pytest.fixture(params=["pysim", "verilator"])
def backend(request: pytest.FixtureRequest, copy: SimpleNamespace) -> Callable[..., NamedBackend]:
    """Either simulating backend, of the copy engine with some misdeed."""
    return lambda misdeed="": _backend(request.param, copy, misdeed)


def _assert_equal(first: RunResult, second: RunResult) -> None:
    assert np.array_equal(first.outputs, second.outputs)
    assert first.cycles == second.cycles
    assert first.counters == second.counters
    assert first.retired is not None
    assert second.retired is not None
    np.testing.assert_array_equal(first.retired, second.retired)
    np.testing.assert_array_equal(first.spent, second.spent)


@pytest.mark.parametrize("timing", TIMINGS, ids=repr)
@pytest.mark.parametrize("preset", ["tiny", "large"])
def test_both_backends_agree_in_everything(copy: SimpleNamespace, preset: str, timing: MemoryTiming) -> None:
    program, images = copy.program(preset), copy.images(3)
    first = _backend("pysim", copy).run(program, images, timing=timing)
    second = _backend("verilator", copy).run(program, images, timing=timing)
    assert np.array_equal(first.outputs, np.array(images))
    _assert_equal(first, second)


def test_time_is_told_from_start_to_done(backend: Callable[..., NamedBackend], copy: SimpleNamespace) -> None:
    program = copy.program("tiny")  # 36 beats of two bytes
    latency, beats = 11, 36
    result = backend().run(program, copy.images(2), timing=MemoryTiming(latency=latency))
    # address; beats; one cycle of execution; address; beats; response
    loaded = latency + beats
    ended = loaded + 1 + 1 + beats + latency
    assert result.cycles == (ended, ended)
    assert result.retired is not None
    for retired in result.retired:
        assert retired.tolist() == [0, loaded - 1, loaded, ended - 1, ended]
    assert result.counters is not None
    load = result.counters[0]["load"].states
    assert load[UnitState.BUSY] == beats
    assert load[UnitState.WAIT_MEMORY] == latency
    for unit in result.counters[0].values():
        assert sum(unit.states) == ended


def test_progress_counts_the_cycles_of_all_images(backend: Callable[..., NamedBackend], copy: SimpleNamespace) -> None:
    seen: list[int] = []
    result = backend().run(copy.program("tiny"), copy.images(3), progress=seen.append)
    assert seen == sorted(seen)
    assert result.cycles is not None
    assert sum(result.cycles) <= seen[-1] < sum(result.cycles) + 3 * 50  # setting up and reading back take cycles too


@pytest.mark.parametrize(
    ("misdeed", "error", "text"),
    [
        ("outside", SimulationError, "copy: the engine stopped with error READ_FAULT at instruction 1 LOAD"),
        ("hang", SimulationError, "copy: nothing has moved in the engine for too long, so the run was stopped in cycle"),
        ("early", ProtocolError, "read data channel in cycle [0-9]+: the engine was done while transfers were outstanding"),
    ],
)
def test_a_bad_end_is_one_sentence(
    backend: Callable[..., NamedBackend], copy: SimpleNamespace, misdeed: str, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text) as caught:
        backend(misdeed).run(copy.program("tiny"), copy.images(1))
    assert "\n" not in str(caught.value)


def test_a_hang_tells_what_each_unit_waits_for(copy: SimpleNamespace) -> None:
    units = (
        "load is WAIT_STORE at instruction 1 LOAD",
        "execute is IDLE at instruction 2 EXECUTE",
        "store is IDLE at instruction 3 STORE",
    )
    with pytest.raises(SimulationError, match=".*; ".join(units)):
        _backend("pysim", copy, "hang").run(copy.program("tiny"), copy.images(1), timing=MemoryTiming(latency=1))


def test_a_busy_engine_that_never_ends_is_stopped(copy: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sim.harness.cycle_limit", lambda program, timing: 700)
    with pytest.raises(SimulationError, match="not ended where any program would have, so the run was stopped in cycle 700: "):
        _backend("pysim", copy, "forever").run(copy.program("tiny"), copy.images(1))


@pytest.mark.parametrize(
    ("misdeed", "text"),
    [
        ("wrap", "read address channel in cycle [0-9]+: the burst is not of type INCR"),
        ("size", "read address channel .*: the burst's beats are not as wide as the bus"),
        ("crosses", "read address channel .*: the burst crosses a multiple of 4096 bytes"),
        ("drops", "read address channel .*: valid fell before ready"),
        ("changes", "read address channel .*: the payload changed while it waited for ready"),
        ("strobe", "write data channel .*: a strobe is set below the burst's address"),
        ("last", "write data channel .*: wlast is not exactly on the last beat"),
        ("refuses", "control channel .*: a register access was answered with an error"),
    ],
)
def test_a_broken_bus_rule_stops_the_run(copy: SimpleNamespace, misdeed: str, text: str) -> None:
    backend = _backend("pysim", copy, misdeed)
    with pytest.raises(ProtocolError, match=text):
        backend.run(copy.program("tiny"), copy.images(1), timing=MemoryTiming(stall_seed=0, stall_percent=90))


def test_an_instruction_that_never_finishes_is_missed(copy: SimpleNamespace) -> None:
    with pytest.raises(SimulationError, match="copy: the execute unit finished 0 instructions where the program has 1"):
        _backend("pysim", copy, "lost").run(copy.program("tiny"), copy.images(1))


def _waveforms_are_whole(path: Path) -> bool:
    text = path.read_text(encoding="utf-8")
    return "$enddefinitions" in text and "interrupt" in text and text.endswith("\n")


def test_waveforms_are_written(backend: Callable[..., NamedBackend], copy: SimpleNamespace, tmp_path: Path) -> None:
    program, images = copy.program("tiny"), copy.images(2)
    plain = backend().run(program, images)
    traced = backend().run(program, images, vcd=tmp_path / "run.vcd")
    _assert_equal(plain, traced)
    assert [path.name for path in tmp_path.iterdir()] == ["run.vcd"]
    assert _waveforms_are_whole(tmp_path / "run.vcd")


def test_waveforms_of_a_failed_run_are_kept(copy: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(SimulationError):
        _backend("pysim", copy, "outside").run(copy.program("tiny"), copy.images(1), vcd=tmp_path / "run.vcd")
    assert [path.name for path in tmp_path.iterdir()] == ["run.vcd"]
    assert _waveforms_are_whole(tmp_path / "run.vcd")


def test_an_interrupted_run_leaves_nothing(backend: Callable[..., NamedBackend], copy: SimpleNamespace, tmp_path: Path) -> None:
    def interrupt(cycles: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        backend().run(copy.program("tiny"), copy.images(1), vcd=tmp_path / "run.vcd", progress=interrupt)
    assert not list(tmp_path.iterdir())


def test_waveforms_that_cannot_be_written_are_refused(copy: SimpleNamespace, tmp_path: Path) -> None:
    target = tmp_path / "nowhere" / "run.vcd"
    with pytest.raises(SimulationError, match=rf"^{re.escape(str(target))}: the waveforms cannot be written there: No such file"):
        _backend("pysim", copy).run(copy.program("tiny"), copy.images(1), vcd=target)


def test_a_wrong_image_is_refused(backend: Callable[..., NamedBackend], copy: SimpleNamespace) -> None:
    program: Program = copy.program("tiny")
    with pytest.raises(Exception, match="input: must be int8 of shape"):
        backend().run(program, [np.zeros((1, 2, 3), np.int8)])


def test_memory_is_fresh_for_every_image(copy: SimpleNamespace) -> None:
    """A program that writes over its own input must not be seen by the next image."""
    program = copy.program("tiny")
    images = copy.images(1) * 2
    result = _backend("pysim", copy).run(replace(program, output=program.input), images)
    assert np.array_equal(result.outputs, np.array(images))
