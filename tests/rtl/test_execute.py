"""The execute unit: every tap, weight, pixel and sum of the instruction's loops, in the cycles that its promise names."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from accel.config import PRESETS
from accel.isa import Instruction, Opcode, Operation, UnitState
from rtl.accumulators import REVISIT
from rtl.execute import ExecuteUnit
from rtl.layouts import QUEUES

CONFIGS = {
    "2x2": PRESETS["tiny"],
    "4x4": PRESETS["small"],
    "6x2": replace(PRESETS["small"], rows=6, columns=2, lanes=2),
    "3x6": replace(PRESETS["small"], rows=3, columns=6, lanes=3, parameter_channels=96),
}
NO_ORDER = {queue: {"active": 0, "target": 0} for queue in QUEUES}
TAPS = ("n_block", "n_ky", "n_kx")
PIXELS = ("n_py", "n_px", "n_wy", "n_wx")
ONCE = {name: 1 for name in TAPS + PIXELS}


def walk(execute, names):
    """Return the addresses of nested loops over ``n_*`` with their ``stride_*``, innermost last."""
    counts = [range(execute[name]) for name in names]
    strides = [execute[name.replace("n_", "stride_")] for name in names]
    return [sum(n * stride for n, stride in zip(at, strides, strict=True)) & 0xFFFF for at in itertools.product(*counts)]


def ref_execute(config, execute):
    """Return, for each pass, its taps and weight addresses, and its pixels: address and what is done with the sums."""
    rows = config.rows
    taps = [tap for tap in walk(execute, TAPS) for _ in range(execute["tap_rows"])]
    per_pass = rows // execute["tap_rows"] * execute["tap_rows"]
    passes = -(-len(taps) // per_pass)
    taps += [taps[-1]] * (passes * per_pass - len(taps))
    found = []
    for n in range(passes):
        mine = taps[n * per_pass : (n + 1) * per_pass]
        weights = [execute["weights"] + n * rows + r & 0xFFFF for r in range(rows)]
        pixels = [
            {
                "offset": execute["activations"] + pixel & 0xFFFF,
                "first": int(not index),
                "address": execute["accumulators"] + index,
                "overwrite": int(not n and not execute["accumulate"]),
                "operation": execute["operation"],
                "shift": execute["row_offset"] // config.columns,
            }
            for index, pixel in enumerate(walk(execute, PIXELS))
        ]
        found.append((list(zip(mine, weights, strict=True)), pixels))
    found[-1][1][-1]["last"] = 1
    return found


def ref_times(config, executes):
    """Return, for instructions that are all there from cycle 0 on and never wait for another unit, the cycles of each pass's first
    tap and first pixel, as they are seen at the ports."""
    rows = config.rows
    settle = rows + REVISIT
    times = []
    loader, first, end, path, length = 0, None, None, None, 0
    starts, ends = [], []
    for index, execute in enumerate(executes):
        mine = (execute["operation"] == Operation.ARRAY, execute["row_offset"])
        begin = loader
        if index >= 2:
            begin = max(begin, ends[index - 2] + 1)  # two instructions may be handed over at a time
        filling = begin + 1
        for n, (_, pixels) in enumerate(ref_execute(config, execute)):
            if n or index:
                # the shadows are free when the pass before has taken them
                filling = max(filling, first)
            ready = filling + rows
            if first is None:
                first = ready
            else:
                ready = max(ready, first + max(length, REVISIT), end + 1)
                if not n and mine != path:
                    ready = max(ready, end + settle + 1)
                if not n and execute["accumulate"]:
                    ready = max(ready, end + REVISIT)
                first = ready
            times.append((filling + 1, first + 1))
            filling += rows
            length = len(pixels)
            end = first + length - 1
        loader = filling
        path = mine
        starts.append(begin)
        ends.append(end)
    return times


class Around:
    """A record of what the unit gives in which cycle."""

    def __init__(self, config):
        self.config = config
        self.block = ExecuteUnit(config=config)
        self.taps, self.pixels, self.states = [], [], []
        self.starts, self.firsts = [], []
        self.pixel_cycles = []
        self.cycle = 0

    async def watch(self, ctx):
        block = self.block
        left = 0
        while True:
            _, _, tap, weight, pixel, control, state = await ctx.tick().sample(
                block.o_tap, block.o_weight_address, block.o_pixel, block.o_control, block.o_state
            )
            if tap.start:
                assert not left, "a tile begins inside another"
                left = self.config.rows
                self.starts.append(self.cycle)
            if left:
                self.taps.append((tap.address, weight))
                left -= 1
            if pixel.first:
                assert control.valid
                self.firsts.append(self.cycle)
            if control.valid:
                names = ("address", "overwrite", "shift", "last")
                found = {name: int(getattr(control, name)) for name in names} | {"operation": int(control.operation)}
                self.pixels.append(found | {"offset": pixel.offset, "first": pixel.first})
                self.pixel_cycles.append(self.cycle)
            self.states.append(UnitState(state))
            self.cycle += 1

    def run(self, bench, executes, *, stall=0.0, seed=0, limit=5000):
        wanted = sum(len(pixels) for execute in executes for _, pixels in ref_execute(self.config, execute))

        async def host(ctx):
            await bench.send(ctx, self.block.i_entry, entries_of(executes), np.random.default_rng(seed), stall)
            while len(self.pixels) < wanted:
                await ctx.tick()
            await bench.repeat(ctx, 10)
            assert ctx.get(self.block.o_state) == UnitState.IDLE

        bench.run(self.block, host, background=[self.watch], limit=limit)


def entries_of(executes, orders=NO_ORDER):
    return [{"word": int.from_bytes(one.encode(), "little"), "index": n, "orders": orders} for n, one in enumerate(executes)]


def random_execute(config, rng):
    """Draw an EXECUTE of few passes and pixels."""
    operation = Operation(int(rng.choice([0, 0, 0, 1, 2, 3, 4])))
    values = {name: int(rng.integers(1, 4)) for name in TAPS} | {name: int(rng.integers(1, 4)) for name in PIXELS}
    if rng.random() < 0.5:
        values |= {"n_py": 1, "n_wy": 1, "n_wx": 1}
    values |= {name.replace("n_", "stride_"): int(rng.integers(0, 1 << 16)) for name in TAPS + PIXELS}
    divisors = [n for n in range(1, config.rows + 1) if config.rows % n == 0]
    values |= {"operation": operation, "tap_rows": int(rng.choice(divisors)), "accumulate": int(rng.integers(0, 2))}
    if operation != Operation.ARRAY:
        values["row_offset"] = config.columns * int(rng.integers(0, -(-config.rows // config.columns)))
    values |= {name: int(rng.integers(0, 1 << 16)) for name in ("activations", "weights")}
    values["accumulators"] = int(rng.integers(0, 1000))
    return Instruction(Opcode.EXECUTE, values)


def check(around, executes, note):
    passes = [one for execute in executes for one in ref_execute(around.config, execute)]
    assert around.taps == [tap for taps, _ in passes for tap in taps], note
    assert around.pixels == [{"last": 0} | pixel for _, pixels in passes for pixel in pixels], note


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("seed", [1, 2])
def test_random_executes(bench, name, seed):
    config = CONFIGS[name]
    rng = np.random.default_rng([seed, list(CONFIGS).index(name)])
    executes = [random_execute(config, rng) for _ in range(10)]
    around = Around(config)
    around.run(bench, executes)
    check(around, executes, f"seed {seed}")
    assert list(zip(around.starts, around.firsts, strict=True)) == ref_times(config, executes), f"seed {seed}"


@pytest.mark.parametrize("name", CONFIGS)
def test_stalled_queue(bench, name):
    seed = 3
    config = CONFIGS[name]
    executes = [random_execute(config, np.random.default_rng([seed, n])) for n in range(6)]
    around = Around(config)
    around.run(bench, executes, stall=0.9, seed=seed)
    check(around, executes, f"seed {seed}")


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("pixels", [1, 2, 3, 4, 5, 9])
def test_a_pass_takes_its_pixels_or_its_weights(bench, name, pixels):
    """``max(M, rows, REVISIT)`` cycles, within an instruction and from one to the next."""
    config = CONFIGS[name]
    execute = Instruction(Opcode.EXECUTE, ONCE | {"tap_rows": config.rows, "n_kx": 4, "n_px": pixels, "stride_kx": 1})
    around = Around(config)
    around.run(bench, [execute])
    period = max(pixels, config.rows, REVISIT)
    # begin, then ``rows`` cycles of weights, each a register before the port
    first = 1 + config.rows + 1
    assert around.starts[0] == 2
    assert around.firsts == [first + n * period for n in range(4)]
    assert around.pixel_cycles == [first + n * period + p for n in range(4) for p in range(pixels)]


def test_taps_run_out(bench):
    """Three taps on pairs of six rows, then five of single rows: the rest repeats the last tap."""
    config = CONFIGS["6x2"]
    strides = {"stride_kx": 10, "stride_ky": 100, "stride_block": 1000}
    executes = [
        Instruction(Opcode.EXECUTE, ONCE | strides | {"tap_rows": 2, "n_kx": 2, "n_ky": 2, "weights": 50}),
        Instruction(Opcode.EXECUTE, ONCE | strides | {"tap_rows": 1, "n_block": 5, "weights": 70}),
        Instruction(Opcode.EXECUTE, ONCE | strides | {"tap_rows": 6, "n_kx": 2, "weights": 80}),
    ]
    around = Around(config)
    around.run(bench, executes)
    assert [tap for tap, _ in around.taps] == [
        *(0, 0, 10, 10, 100, 100),
        *(110, 110, 110, 110, 110, 110),
        *(0, 1000, 2000, 3000, 4000, 4000),
        *[0] * 6,
        *[10] * 6,
    ]
    assert [weight for _, weight in around.taps] == [*range(50, 62), *range(70, 76), *range(80, 92)]


def once(config, **changes):
    return Instruction(Opcode.EXECUTE, ONCE | {"tap_rows": config.rows, "n_px": 20} | changes)


@pytest.mark.parametrize(("first", "second", "gap"), [
    ({}, {}, 1),
    ({}, {"operation": Operation.SUM}, 6 + REVISIT + 1),
    ({"operation": Operation.SUM}, {}, 6 + REVISIT + 1),
    ({"operation": Operation.SUM}, {"operation": Operation.MAX}, 1),
    ({"operation": Operation.SUM}, {"operation": Operation.SUM, "row_offset": 2}, 6 + REVISIT + 1),
    ({"operation": Operation.LOW, "row_offset": 4}, {"operation": Operation.HIGH, "row_offset": 4}, 1),
    ({}, {"accumulate": 1}, REVISIT),
    ({"operation": Operation.LOW}, {"operation": Operation.HIGH, "accumulate": 1}, REVISIT),
    ({"operation": Operation.LOW}, {"accumulate": 1}, 6 + REVISIT + 1),
])  # fmt: skip
def test_gap_between_instructions(bench, first, second, gap):
    """From the last pixel to the next instruction's first: the path must be empty when it changes, sums written when added to."""
    config = CONFIGS["6x2"]
    around = Around(config)
    around.run(bench, [once(config, **first), once(config, **second)])
    assert around.pixel_cycles[20] - around.pixel_cycles[19] == gap


@pytest.mark.parametrize(
    ("queue", "state", "loads"),
    [("load", UnitState.WAIT_LOAD, 0), ("execute", UnitState.WAIT_EXECUTE, 1), ("store", UnitState.WAIT_STORE, 1)],
)
def test_orders(bench, queue, state, loads):
    """Weights wait for the LOADs; the pixels for the rest, with the weights already there."""
    config = CONFIGS["4x4"]
    around = Around(config)
    block = around.block
    held = 30

    async def host(ctx):
        ctx.set(block.i_completed, {name: 4 if name == queue else 9 for name in QUEUES})
        ctx.set(block.i_entry.payload, entries_of([once(config)], NO_ORDER | {queue: {"active": 1, "target": 5}})[0])
        ctx.set(block.i_entry.valid, 1)
        for cycle in range(held):
            _, _, taken = await ctx.tick().sample(block.i_entry.ready)
            if taken:
                ctx.set(block.i_entry.valid, 0)
            assert not (taken and queue == "load"), f"taken in cycle {cycle}"
        assert len(around.starts) == loads
        assert not around.pixels
        ctx.set(block.i_completed, {queue: 5})
        for _ in range(40):
            _, _, taken = await ctx.tick().sample(block.i_entry.ready)
            if taken:
                ctx.set(block.i_entry.valid, 0)

    bench.run(block, host, background=[around.watch])
    assert around.states[held - 1] == state
    assert around.firsts == [held + 1 if loads else held + 1 + config.rows + 1]
    assert len(around.pixels) == 20
