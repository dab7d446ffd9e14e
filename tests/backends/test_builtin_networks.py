"""The built-in networks that are small enough, whole: every output byte, and every cycle as the model says."""

from __future__ import annotations

import numpy as np
import pytest

from accel import golden
from accel.compiler import compile_network
from accel.config import PRESETS
from accel.frontends import load_network
from accel.program import MemoryTiming
from accel.testing import assert_time_is_known, random_image
from sim.backends import get_backend
from sim.harness import SimulationError

SMALL = ("lenet5", "resnet8", "dscnn", "mobilenetv1-0.25-96", "autoencoder")
TIMINGS = (MemoryTiming(), MemoryTiming(latency=100), MemoryTiming(latency=3, interval=2))
SEED = 5


@pytest.mark.parametrize("name", SMALL)
def test_emulator(name: str) -> None:
    network = load_network(name)
    image = random_image(np.random.default_rng(SEED), network)
    result = get_backend("emulator").run(compile_network(network, PRESETS["base"]), [image])
    np.testing.assert_array_equal(result.outputs, golden.run(network, image[None]), err_msg=f"seed {SEED}")


@pytest.mark.parametrize("config", ["base", "large"])
@pytest.mark.parametrize("name", SMALL)
def test_verilator_and_cycle_model(name: str, config: str) -> None:
    try:
        backend = get_backend("verilator")
    except SimulationError as missing:
        pytest.skip(str(missing))
    network = load_network(name)
    image = random_image(np.random.default_rng(SEED), network)
    program = compile_network(network, PRESETS[config])
    expected = golden.run(network, image[None])
    for timing in TIMINGS:
        result = backend.run(program, [image], timing=timing)
        np.testing.assert_array_equal(result.outputs, expected, err_msg=f"{timing}, seed {SEED}")
        assert_time_is_known(program, timing, result, f"seed {SEED}")
