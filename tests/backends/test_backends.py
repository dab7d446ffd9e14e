"""Random networks x presets x backends: every output byte is the golden model's, whatever the memory does."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import pytest

from accel import golden
from accel.compiler import compile_network
from accel.config import PRESETS
from accel.program import UNITS, MemoryTiming, Program, RunResult
from accel.testing import assert_time_is_known, random_image, random_network
from sim.backends import NamedBackend, get_backend
from sim.harness import SimulationError

CONFIGS = {
    **PRESETS,
    "tall": replace(PRESETS["small"], name="tall", rows=8, columns=2, lanes=1),
    "wide": replace(PRESETS["small"], name="wide", rows=3, columns=6, lanes=3, bus_bytes=16, parameter_channels=96),
}

#: Multiply-accumulates a layer, at most about: what a configuration does in some thousand cycles.
MACS = {"tiny": 10_000, "small": 20_000, "base": 50_000, "large": 100_000, "tall": 20_000, "wide": 20_000}

#: Enough networks for 500 layers on each preset (test_there_are_500_layers counts them).
SEEDS = range(190)
FEW_SEEDS = range(40)
PYSIM_SEEDS = range(1000, 1006)
PYSIM_MACS = 300

CASES = [
    *((config, backend, seed) for config in PRESETS for backend in ("emulator", "verilator") for seed in SEEDS),
    *((config, backend, seed) for config in ("tall", "wide") for backend in ("emulator", "verilator") for seed in FEW_SEEDS),
    *(("tiny", "pysim", seed) for seed in PYSIM_SEEDS),
]


@functools.cache
def _backend(name: str) -> NamedBackend:
    try:
        return get_backend(name)
    except SimulationError as missing:
        pytest.skip(str(missing))


def _timing(rng: np.random.Generator) -> MemoryTiming:
    """A memory between ideal and miserable, in half of the cases with random stalls."""
    return MemoryTiming(
        latency=int(rng.integers(1, 41)),
        interval=int(rng.choice([1, 1, 1, 2, 5])),
        stall_seed=int(rng.integers(1 << 32)) if rng.random() < 0.5 else None,
        stall_percent=int(rng.integers(5, 80)),
    )


def _assert_time_adds_up(program: Program, result: RunResult) -> None:
    """Cycles do not depend on the data, each unit accounts for every one of them, and each unit's instructions retire in order."""
    assert result.cycles is not None
    assert result.counters is not None
    assert result.retired is not None
    assert len(set(result.cycles)) == 1
    opcodes = np.array([instruction.opcode for instruction in program.instructions])
    for cycles, counters, retired in zip(result.cycles, result.counters, result.retired, strict=True):
        assert all(sum(counters[unit].states) == cycles for unit in UNITS)
        assert (retired[0], retired[-1]) == (0, cycles)
        for opcode in set(opcodes[1:-1]):
            mine = retired[opcodes == opcode]
            assert np.all(np.diff(mine) > 0)
            assert 0 < mine[0] <= mine[-1] < cycles


@pytest.mark.parametrize(("config", "backend", "seed"), CASES, ids=lambda value: str(value))
def test_random_network_equals_golden(config: str, backend: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    network = random_network(rng, MACS[config] if backend != "pysim" else PYSIM_MACS, lanes=CONFIGS[config].lanes)
    images = [random_image(rng, network) for _ in range(2 if backend != "pysim" else 1)]
    program = compile_network(network, CONFIGS[config])
    timing = _timing(rng)
    result = _backend(backend).run(program, images, timing=timing)
    np.testing.assert_array_equal(result.outputs, golden.run(network, images), err_msg=f"seed {seed}")
    if _backend(backend).cycle_accurate:
        _assert_time_adds_up(program, result)
        if timing.stall_seed is None:
            assert_time_is_known(program, timing, result, f"seed {seed}")


@pytest.mark.parametrize("seed", range(2000, 2005))
def test_verilator_and_pysim_agree_in_every_cycle(seed: int) -> None:
    rng = np.random.default_rng(seed)
    network = random_network(rng, PYSIM_MACS)
    images = [random_image(rng, network)]
    program = compile_network(network, PRESETS["tiny"])
    timing = _timing(rng)
    first, second = (_backend(name).run(program, images, timing=timing) for name in ("verilator", "pysim"))
    np.testing.assert_array_equal(first.outputs, second.outputs)
    assert first.cycles == second.cycles
    assert first.counters == second.counters
    np.testing.assert_array_equal(first.retired, second.retired)
    np.testing.assert_array_equal(first.spent, second.spent)


@pytest.mark.parametrize("config", PRESETS)
def test_there_are_500_layers(config: str) -> None:
    lanes = CONFIGS[config].lanes
    networks = (random_network(np.random.default_rng(seed), MACS[config], lanes=lanes) for seed in SEEDS)
    assert sum(len(network.operators) for network in networks) >= 500
