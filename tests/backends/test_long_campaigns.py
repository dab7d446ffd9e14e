"""What takes long: a thousand random layers and whole large networks, every byte and every cycle, with five memories each."""

from __future__ import annotations

import numpy as np
import pytest

from accel import golden
from accel.compiler import compile_network
from accel.config import PRESETS
from accel.frontends import load_network
from accel.program import MemoryTiming
from accel.testing import assert_time_is_known, random_image, random_network
from sim.backends import get_backend
from sim.harness import SimulationError

pytestmark = pytest.mark.full

MEMORIES = (
    MemoryTiming(),
    MemoryTiming(latency=1),
    MemoryTiming(latency=100),
    MemoryTiming(latency=7, interval=2),
    MemoryTiming(latency=40, interval=5),
)
#: Seeds that no other test uses; each batch of them has more than 250 layers, which is counted.
BATCHES = {"tiny": range(5000, 5100), "small": range(5100, 5200), "base": range(5200, 5300), "large": range(5300, 5400)}
LAYERS = 250
MACS = {"tiny": 10_000, "small": 20_000, "base": 50_000, "large": 100_000}

NETWORKS = [("base", "mobilenetv1-0.25-96"), ("large", "resnet8"), ("large", "dscnn"), ("large", "mobilenetv1-0.25-96")]
LARGE = [("large", "resnet18"), ("large", "squeezenet")]


def _backend():
    try:
        return get_backend("verilator")
    except SimulationError as missing:
        pytest.skip(str(missing))


@pytest.mark.parametrize("config", BATCHES)
def test_random_layers(config: str) -> None:
    layers = 0
    for seed in BATCHES[config]:
        rng = np.random.default_rng(seed)
        network = random_network(rng, MACS[config], lanes=PRESETS[config].lanes)
        images = [random_image(rng, network)]
        program = compile_network(network, PRESETS[config])
        expected = golden.run(network, images)
        for memory in MEMORIES:
            result = _backend().run(program, images, timing=memory)
            np.testing.assert_array_equal(result.outputs, expected, err_msg=f"seed {seed}, {memory}")
            assert_time_is_known(program, memory, result, f"seed {seed}")
        layers += len(network.operators)
    assert layers >= LAYERS


@pytest.mark.parametrize(
    ("config", "name", "memories"), [*((c, n, MEMORIES) for c, n in NETWORKS), *((c, n, MEMORIES[:1]) for c, n in LARGE)]
)
def test_whole_networks(config: str, name: str, memories: tuple[MemoryTiming, ...]) -> None:
    seed = 11
    network = load_network(name)
    image = random_image(np.random.default_rng(seed), network)
    program = compile_network(network, PRESETS[config])
    expected = golden.run(network, image[None])
    for memory in memories:
        result = _backend().run(program, [image], timing=memory)
        np.testing.assert_array_equal(result.outputs, expected, err_msg=f"{memory}, seed {seed}")
        assert_time_is_known(program, memory, result, f"seed {seed}")
