"""The roofline against sums done by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import pytest

from accel import roofline
from accel.compiler import compile_network
from accel.config import DESIGNS, PRESETS
from accel.frontends import load_network
from accel.graph import Conv2D, Network
from accel.program import MemoryTiming


def compute(macs: int, config: str) -> Fraction:
    return Fraction(macs, PRESETS[config].macs_per_cycle)


def move(config: str, *maps: int) -> Fraction:
    return Fraction(sum(maps), PRESETS[config].bus_bytes)


def bounds_of(network: Network, config: str, batch: int = 1) -> dict[str, Fraction]:
    program = compile_network(network, PRESETS[config], batch=batch)
    return dict(zip((layer.name for layer in program.layers), roofline.layer_bounds(network, program), strict=True))


@pytest.mark.parametrize("config", ["base", "large"])
def test_lenet5(config: str) -> None:
    assert bounds_of(load_network("lenet5"), config) == {
        "conv1+conv1_pool": compute(117_600, config),
        "conv2+conv2_pool": compute(240_000, config),
        "fc1": move(config, 5 * 5 * 16 * 120, 5 * 5 * 16, 120),
        "fc2": move(config, 120 * 84, 120, 84),
        "fc3": move(config, 84 * 10, 84, 10),
    }


@pytest.mark.parametrize("config", ["base", "large"])
def test_a_batch_reads_weights_once(config: str) -> None:
    assert bounds_of(load_network("lenet5"), config, batch=16) == {
        "conv1+conv1_pool": compute(16 * 117_600, config),
        "conv2+conv2_pool": compute(16 * 240_000, config),
        "fc1": max(move(config, 5 * 5 * 16 * 120, 16 * 5 * 5 * 16, 16 * 120), compute(16 * 48_000, config)),
        "fc2": max(move(config, 120 * 84, 16 * 120, 16 * 84), compute(16 * 10_080, config)),
        "fc3": move(config, 84 * 10, 16 * 84, 16 * 10),
    }


def test_a_slow_memory_takes_its_cycles_for_each_beat() -> None:
    network = load_network("lenet5")
    program = compile_network(network, PRESETS["large"])
    at_once = roofline.layer_bounds(network, program)
    slow = roofline.layer_bounds(network, program, MemoryTiming(latency=300, interval=7))
    conv1, *_, fc3 = zip(at_once, slow, strict=True)
    assert conv1 == (compute(117_600, "large"), move("large", 7 * (5 * 5 * 6 + 32 * 32 + 28 * 28 * 6)))
    assert fc3[1] == 7 * fc3[0]


def test_a_micro_engine_has_a_memory_of_its_own() -> None:
    network = load_network("lenet5")
    program = compile_network(network, DESIGNS["micro"])
    assert roofline.layer_bounds(network, program, MemoryTiming(interval=7)) == roofline.layer_bounds(network, program)


def test_the_total_is_in_whole_cycles() -> None:
    totals = {
        config: roofline.total_cycles(list(bounds_of(load_network("lenet5"), config).values())) for config in ("base", "large")
    }
    assert totals == {"base": math.ceil(13_054.75), "large": math.ceil(5_130.5)}
    assert roofline.total_cycles([]) == 0


def test_pools_and_adds_cost_nothing_and_depthwise_layers_move_bytes() -> None:
    resnet = bounds_of(load_network("resnet8"), "base")
    assert {name for name, bound in resnet.items() if not bound} == {"stack1.add", "stack2.add", "stack3.add", "avgpool"}
    dscnn = bounds_of(load_network("dscnn"), "base")
    assert dscnn["dw1"] == move("base", 3 * 3 * 64, 25 * 5 * 64, 25 * 5 * 64)
    assert dscnn["pw1"] == compute(512_000, "base")


def test_a_layer_name_may_hold_a_plus() -> None:
    network = load_network("lenet5")
    renamed = replace(
        network,
        operators=tuple(replace(op, name=f"a+{op.name}" if isinstance(op, Conv2D) else op.name) for op in network.operators),
    )
    assert list(bounds_of(renamed, "base").values()) == list(bounds_of(network, "base").values())
    assert "a+conv1+conv1_pool" in bounds_of(renamed, "base")
