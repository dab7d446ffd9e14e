"""Counters step as nested loops do, and addresses are the sum of their strides."""

import itertools
from typing import Any

import numpy as np
import pytest
from amaranth import Module

from rtl.micro.loops import Addresses, Counters

SEEDS = range(8)


@pytest.mark.parametrize("seed", SEEDS)
def test_counters_step_as_nested_loops(bench: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 5, 3).tolist()
    points = list(itertools.product(*map(range, counts)))
    # which loop goes on: the outermost that differs, none after the last point
    steps = [next(n for n in range(3) if a[n] != b[n]) for a, b in itertools.pairwise(points)]
    expected = [*((1 << step, 0) for step in steps), (0, 1)]
    seen: list[tuple[int, int]] = []
    block = Counters(widths=(3, 4, 5))

    async def testbench(ctx: Any) -> None:
        ctx.set(block.i_counts, dict(zip(("_0", "_1", "_2"), counts, strict=True)))
        ctx.set(block.i_start, 1)
        await ctx.tick()
        ctx.set(block.i_start, 0)
        for _ in range(2 * len(points)):
            while rng.random() < 0.3:
                await ctx.tick()
            seen.append((ctx.get(block.o_steps), ctx.get(block.o_last)))
            ctx.set(block.i_step, 1)
            await ctx.tick()
            ctx.set(block.i_step, 0)

    bench.run(block, testbench)
    assert seen == 2 * expected, f"seed {seed}, counts {counts}"


@pytest.mark.parametrize("seed", SEEDS)
def test_addresses_are_sums_of_strides_and_wrap(bench: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 4, 3).tolist()
    width = 9
    base, *strides = rng.integers(0, 1 << width, 4).tolist()
    points = list(itertools.product(*map(range, counts)))
    expected = [(base + sum(i * stride for i, stride in zip(point, strides, strict=True))) % (1 << width) for point in points]
    counters, addresses = Counters(widths=(2, 2, 2)), Addresses(loops=3, width=width)
    seen: list[int] = []

    m = Module()
    m.submodules.counters = counters
    m.submodules.addresses = addresses
    m.d.comb += [
        addresses.i_start.eq(counters.i_start),
        addresses.i_step.eq(counters.i_step),
        addresses.i_steps.eq(counters.o_steps),
    ]

    async def testbench(ctx: Any) -> None:
        ctx.set(counters.i_counts, dict(zip(("_0", "_1", "_2"), counts, strict=True)))
        ctx.set(addresses.i_base, base)
        ctx.set(addresses.i_strides, strides)
        ctx.set(counters.i_start, 1)
        await ctx.tick()
        ctx.set(counters.i_start, 0)
        for _ in points:
            while rng.random() < 0.3:
                await ctx.tick()
            seen.append(ctx.get(addresses.o_address))
            ctx.set(counters.i_step, 1)
            await ctx.tick()
            ctx.set(counters.i_step, 0)

    bench.run(m, testbench)
    assert seen == expected, f"seed {seed}"
