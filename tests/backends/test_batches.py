"""Batches on the hardware: every output byte of every image, and every cycle as the model says."""

from __future__ import annotations

import numpy as np
import pytest

from accel import golden
from accel.compiler import compile_network
from accel.config import PRESETS
from accel.frontends import load_network
from accel.graph import Network
from accel.program import MemoryTiming
from accel.testing import assert_time_is_known, random_image, random_network
from sim.backends import NamedBackend, get_backend
from sim.harness import SimulationError

#: Multiply-accumulates a layer, at most about.
MACS = {"tiny": 10_000, "small": 20_000, "base": 20_000, "large": 20_000}
SEEDS = range(3000, 3015)


@pytest.fixture
def verilator() -> NamedBackend:
    try:
        return get_backend("verilator")
    except SimulationError as missing:
        pytest.skip(str(missing))


def check(backend: NamedBackend, network: Network, config: str, batch: int, *, more: int, seed: int, timing: MemoryTiming) -> None:
    """Run a full batch and ``more`` images."""
    rng = np.random.default_rng(seed)
    images = np.stack([random_image(rng, network) for _ in range(batch + more)])
    program = compile_network(network, PRESETS[config], batch=batch)
    result = backend.run(program, list(images), timing=timing)
    what = f"seed {seed} on {config}, batch {batch}"
    np.testing.assert_array_equal(result.outputs, golden.run(network, images), err_msg=what)
    assert result.cycles is not None
    assert len(result.cycles) == (2 if more else 1)
    assert_time_is_known(program, timing, result, what)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("config", PRESETS)
def test_random_networks(verilator: NamedBackend, config: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    network = random_network(rng, MACS[config], lanes=PRESETS[config].lanes)
    timing = MemoryTiming(latency=int(rng.integers(1, 41)), interval=int(rng.choice([1, 1, 2, 5])))
    check(verilator, network, config, 2 + seed % 4, more=1, seed=seed, timing=timing)


@pytest.mark.parametrize("timing", [MemoryTiming(), MemoryTiming(latency=100, interval=2)], ids=str)
@pytest.mark.parametrize("config", ["base", "large"])
@pytest.mark.parametrize("name", ["lenet5", "resnet8", "dscnn", "autoencoder"])
def test_built_in_networks(verilator: NamedBackend, name: str, config: str, timing: MemoryTiming) -> None:
    check(verilator, load_network(name), config, 4, more=0, seed=7, timing=timing)


@pytest.mark.parametrize("seed", range(3))
def test_pysim(seed: int) -> None:
    network = random_network(np.random.default_rng(seed), 300)
    check(get_backend("pysim"), network, "tiny", 2, more=1, seed=seed, timing=MemoryTiming(latency=5))
