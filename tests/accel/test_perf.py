"""The cycle model mirrors numbers of the hardware, which it may not import: here they are compared."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest

from accel import perf
from accel.compiler import compile_network
from accel.config import PRESETS, EngineConfig
from accel.frontends import load_network
from accel.isa import INSTRUCTION_BYTES, UNORDERED, Instruction, Opcode, Target, UnitState
from accel.perf import ports, replay
from accel.perf.replay import Replay
from accel.program import UNITS, Bytes, MemoryTiming
from accel.testing import ODD_CONFIGS, assert_time_is_known, random_image, random_network
from rtl import accumulators, dispatch, execute, load, read_port, store, write_port
from rtl.requantise import Requantiser
from sim.backends import get_backend
from sim.harness import SimulationError

MIRRORED = {
    ports: {
        "BURST_BEATS": write_port.BURST_BEATS,
        "_READS": read_port.OUTSTANDING,
        "_WRITES": write_port.OUTSTANDING,
        "_TRANSFERS": write_port.TRANSFERS,
        "_BEATS": write_port.BEATS,
    },
    replay: {
        "_FETCH_BYTES": dispatch.FETCH_BYTES,
        "_PREFETCH": dispatch.PREFETCH,
        "_IN_FLIGHT": load.IN_FLIGHT,
        "REVISIT": accumulators.REVISIT,
        "_RESULTS": store.RESULTS,
        "_HANDED": execute.HANDED,
    },
}


@pytest.mark.parametrize("module", MIRRORED)
def test_constants_are_the_hardwares(module: ModuleType) -> None:
    assert {name: getattr(module, name) for name in MIRRORED[module]} == MIRRORED[module]


def test_latencies_that_the_model_has_as_numbers() -> None:
    """``_store`` counts them, and ``_fetch`` whole bursts of instructions: a change of the hardware must come by here."""
    assert accumulators.READ_LATENCY == 3
    assert store.PAIR_LATENCY == 3
    assert Requantiser.LATENCY == 9
    assert store.TABLE_LATENCY == 3
    assert dispatch.FETCH_BYTES % INSTRUCTION_BYTES == 0


@pytest.mark.parametrize("preset", ["base", "large"])
def test_lenet_takes_the_cycles_of_the_engine(preset: str) -> None:
    try:
        backend = get_backend("verilator")
    except SimulationError as missing:
        pytest.skip(str(missing))
    seed = 1
    network = load_network("lenet5")
    program = compile_network(network, PRESETS[preset])
    image = random_image(np.random.default_rng(seed), network)
    for timing in (MemoryTiming(latency=1), MemoryTiming(), MemoryTiming(latency=75, interval=3)):
        assert_time_is_known(program, timing, backend.run(program, [image], timing=timing), f"seed {seed}")


class Watched(list[int]):
    """Cycles in which something happens, none of which may be past when it becomes known: what depends on it has gone by."""

    def __init__(self, replay: Replay, what: str) -> None:
        super().__init__()
        self._replay = replay
        self._what = what

    def append(self, cycle: int) -> None:
        assert cycle >= self._replay.now, f"{self._what} {len(self)} of cycle {cycle} is known in cycle {self._replay.now}"
        super().append(cycle)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every replay of this test check that nothing is known too late."""
    begin = Replay.run

    def run(self: Replay) -> perf.Estimate:
        self.now = 0
        self.dispatched = Watched(self, "dispatch")
        for unit, name in zip(self.units, UNITS, strict=True):
            unit.popped, unit.seen, unit.finished = (Watched(self, f"{name} {what}") for what in ("popped", "seen", "finished"))
        return begin(self)

    monkeypatch.setattr(Replay, "run", run)


@pytest.mark.usefixtures("watched")
@pytest.mark.parametrize("config", [*PRESETS.values(), *ODD_CONFIGS], ids=lambda config: config.name)
def test_nothing_is_known_too_late(config: EngineConfig) -> None:
    for seed in range(6):
        program = compile_network(random_network(np.random.default_rng(seed), 20_000, lanes=config.lanes), config)
        for timing in (MemoryTiming(latency=1), MemoryTiming(latency=75, interval=3)):
            assert perf.estimate(program, timing).cycles > 0, f"seed {seed}"


@pytest.mark.usefixtures("watched")
def test_credits_of_pooled_groups_come_back_while_a_load_has_the_port() -> None:
    """One group of eight is written, and waits for the LOAD; the pool swallows the others, whose credits are used meanwhile."""
    program = compile_network(random_network(np.random.default_rng(0), 20_000), PRESETS["base"])
    free = {"after_load": UNORDERED, "after_execute": UNORDERED, "after_store": UNORDERED}
    load = free | {"target": Target.ACTIVATIONS, "n_x": 8, "memory_stride_y": 8, "n_y": 50, "n_z": 1}
    pooled = free | {"to_scratchpad": 1, "pool": 8, "groups": 1, "n_x": 12, "n_y": 1, "scratchpad": 1000}
    units = (Instruction(Opcode.LOAD, load), Instruction(Opcode.STORE, pooled))
    program = replace(program, instructions=(program.instructions[0], *units, program.instructions[-1]), layers=())
    estimated = perf.estimate(program)
    # the last group is issued long before the first of the twelve results is written
    assert estimated.ended[2] < estimated.retired[1] < estimated.retired[2] < estimated.retired[1] + 2 * 12


def test_an_estimate_needs_no_data() -> None:
    def pack() -> Bytes:
        raise AssertionError("the image was asked for")

    program = compile_network(load_network("lenet5"), PRESETS["base"])
    assert perf.estimate(replace(program, pack=pack)).cycles == perf.estimate(program).cycles


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("seed", range(5))
def test_units_work_on_one_instruction_after_the_other(preset: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    program = compile_network(random_network(rng, 20_000), PRESETS[preset])
    timing = MemoryTiming(latency=int(rng.integers(1, 60)), interval=int(rng.integers(1, 4)))
    estimate = perf.estimate(program, timing)
    what = f"seed {seed}, {timing}"
    np.testing.assert_array_equal(estimate.states.sum(axis=1), estimate.cycles, err_msg=what)
    np.testing.assert_array_equal(estimate.spent[-1], estimate.states, err_msg=what)
    opcodes = np.array([instruction.opcode for instruction in program.instructions])
    for unit, line in zip(UNITS, estimate.timelines, strict=True):
        mine = opcodes == Opcode[unit.upper()]
        started, ended = estimate.started[mine], estimate.ended[mine]
        before, after = (line.spent(times)[:, UnitState.BUSY] for times in (started, ended + 1))
        # from the first to the last cycle of an instruction, and never in between
        np.testing.assert_array_equal(before, [0, *after[:-1]], err_msg=what)
        assert after[-1] == estimate.states[UNITS.index(unit), UnitState.BUSY], what
        np.testing.assert_array_equal(line.spent(started + 1)[:, UnitState.BUSY], before + 1, err_msg=what)
        np.testing.assert_array_equal(line.spent(ended)[:, UnitState.BUSY], after - 1, err_msg=what)
        assert np.all(ended < estimate.retired[mine]), what


def test_progress_is_told_now_and_then() -> None:
    told: list[int] = []
    program = compile_network(load_network("mobilenetv1-0.25-96"), PRESETS["base"], advance=told.append)
    count = len(program.instructions)
    assert count > 2048
    assert told == list(range(1024, count, 1024))
    told.clear()
    perf.estimate(program, advance=told.append)
    assert told == list(range(0, count, 1024))
