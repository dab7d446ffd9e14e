"""The cycle model mirrors numbers of the hardware, which it may not import: here they are compared."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from accel import perf
from accel.compiler import compile_network
from accel.config import PRESETS
from accel.frontends import load_network
from accel.isa import INSTRUCTION_BYTES, Opcode, UnitState
from accel.program import UNITS, Bytes, MemoryTiming
from accel.testing import assert_time_is_known, random_image, random_network
from rtl import accumulators, dispatch, execute, load, read_port, store, write_port
from rtl.requantise import Requantiser
from sim.backends import get_backend
from sim.harness import SimulationError

MIRRORED = {
    "_BURST_BEATS": write_port.BURST_BEATS,
    "_FETCH_BYTES": dispatch.FETCH_BYTES,
    "_PREFETCH": dispatch.PREFETCH,
    "_READS": read_port.OUTSTANDING,
    "_WRITES": write_port.OUTSTANDING,
    "_IN_FLIGHT": load.IN_FLIGHT,
    "_REVISIT": accumulators.REVISIT,
    "_RESULTS": store.RESULTS,
    "_TRANSFERS": write_port.TRANSFERS,
    "_BEATS": write_port.BEATS,
    "_HANDED": execute.HANDED,
}


@pytest.mark.parametrize("name", MIRRORED)
def test_constants_are_the_hardwares(name: str) -> None:
    assert getattr(perf, name) == MIRRORED[name]


def test_latencies_that_the_model_has_as_numbers() -> None:
    """``_store`` counts them, and ``_fetch`` whole bursts of instructions: a change of the hardware must come by here."""
    assert accumulators.READ_LATENCY == 3
    assert Requantiser.LATENCY == 8
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
