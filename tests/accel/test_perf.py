"""The cycle model mirrors numbers of the hardware, which it may not import: here they are compared."""

from __future__ import annotations

import numpy as np
import pytest

from accel import perf
from accel.compiler import compile_network
from accel.config import PRESETS
from accel.frontends import load_network
from accel.isa import INSTRUCTION_BYTES
from accel.program import MemoryTiming
from accel.testing import random_image
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
    "_SHARE": load.SHARE,
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
        result = backend.run(program, [image], timing=timing)
        estimate = perf.estimate(program, timing)
        assert result.cycles == (estimate.cycles,), f"{timing}, seed {seed}"
        assert result.retired is not None
        np.testing.assert_array_equal(result.retired[0], estimate.retired, err_msg=f"{timing}, seed {seed}")
