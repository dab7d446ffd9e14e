"""The execute unit: every tap, weight, pixel and sum of the instruction's loops, in the cycles that its promise names."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from accel.config import PRESETS
from accel.isa import WINDOW_TAPS, Instruction, Opcode, Operation, UnitState
from rtl.accumulators import REVISIT
from rtl.execute import ExecuteUnit
from rtl.layouts import ORDER_BITS, QUEUES

CONFIGS = {
    "2x2": PRESETS["tiny"],
    "4x4": PRESETS["small"],
    "6x2": replace(PRESETS["small"], rows=6, columns=2, lanes=2),
    "3x6": replace(PRESETS["small"], rows=3, columns=6, lanes=3, parameter_channels=96),
}
NO_ORDER = {queue: {"met": 1, "missing": 0} for queue in QUEUES}
TAPS = ("n_block", "n_ky", "n_kx")
PIXELS = ("n_py", "n_px", "n_wy", "n_wx")
ONCE = {name: 1 for name in TAPS + PIXELS}


def walk(execute, names):
    """Return the addresses of nested loops over ``n_*`` with their ``stride_*``, innermost last."""
    counts = [range(execute[name]) for name in names]
    strides = [execute[name.replace("n_", "stride_")] for name in names]
    return [sum(n * stride for n, stride in zip(at, strides, strict=True)) & 0xFFFF for at in itertools.product(*counts)]


def ref_execute(config, execute):
    """Return, for each pass, its taps and weight addresses, and its pixels: address and what is done with the sums.

    What the instruction set leaves open is None.
    """
    rows = config.rows
    if execute["operation"] == Operation.WINDOW:
        passes = [[0] * rows]
    else:
        taps = walk(execute, TAPS)
        at_once = rows // execute["tap_rows"]
        taps += [taps[-1]] * (-len(taps) % at_once)
        passes = [
            [tap for tap in taps[n : n + at_once] for _ in range(execute["tap_rows"])] + [None] * (rows % execute["tap_rows"])
            for n in range(0, len(taps), at_once)
        ]
    found = []
    for n, mine in enumerate(passes):
        weights = [execute["weights"] + n * rows + r & 0xFFFF for r in range(rows)]
        overwrite = int(not n and not execute["accumulate"])
        pixels = (ref_window if execute["operation"] == Operation.WINDOW else ref_pixels)(execute, overwrite)
        for index, pixel in enumerate(pixels):
            pixel |= {"first": int(not index), "last": 0, "shift": execute["row_offset"] // config.columns}
        found.append((list(zip(mine, weights, strict=True)), pixels))
    found[-1][1][-1]["last"] = 1
    return found


def ref_pixels(execute, overwrite):
    """Return the pixels of a pass; the first ones of reduced windows go to memory's sums, the others onto the one before."""
    window = execute["n_wy"] * execute["n_wx"] if execute["reduce"] else 1
    return [
        {
            "offset": execute["activations"] + pixel & 0xFFFF,
            "address": execute["accumulators"] + index // window,
            "overwrite": overwrite if index % window == 0 else 0,
            "forward": int(index % window != 0),
            "drop": 0,
            "operation": execute["operation"],
            "vertical": 0,
            "lag": None,
        }
        for index, pixel in enumerate(walk(execute, PIXELS))
    ]


def ref_window(execute, overwrite):
    """Return the pixels of a WINDOW; those that end one have a result, which is a sum like any other."""
    lines = range(execute["n_ky"] - 1, execute["n_py"], execute["stride_ky"])
    places = range(execute["n_kx"] - 1, execute["n_px"], execute["stride_kx"])
    results = list(itertools.product(lines, places))
    pixels = []
    for at in itertools.product(range(execute["n_py"]), range(execute["n_px"])):
        kept = at in results
        pixels.append(
            {
                "offset": execute["activations"] + at[0] * execute["stride_py"] + at[1] * execute["stride_px"] & 0xFFFF,
                "address": execute["accumulators"] + results.index(at) if kept else None,
                "overwrite": overwrite if kept else None,
                "forward": 0 if kept else None,
                "drop": int(not kept),
                "operation": Operation.ARRAY,
                "vertical": 1,
                "lag": execute["n_px"] - WINDOW_TAPS,
            }
        )
    return pixels


def stands_at(execute):
    """Return the accumulator address that an instruction stands at with its last pixel."""
    if execute["operation"] != Operation.WINDOW:
        return ref_pixels(execute, 0)[-1]["address"]
    pixels = ref_window(execute, 0)
    return execute["accumulators"] + sum(not pixel["drop"] for pixel in pixels[:-1])


def ref_times(config, executes):
    """Return, for instructions that are all there from cycle 0 on and never wait for another unit, the cycles of each pass's first
    tap and first pixel, as they are seen at the ports."""
    rows = config.rows
    settle = rows + REVISIT
    times = []
    loader, first, end, path, length, last_sums = 0, None, None, None, 0, None
    starts, ends = [], []
    for index, execute in enumerate(executes):
        mine = (execute["operation"] in (Operation.ARRAY, Operation.WINDOW), execute["row_offset"])
        begin = loader
        if index >= 2:
            begin = max(begin, ends[index - 2] + 1)  # two instructions may be handed over at a time
        filling = begin  # the first row is given in the very cycle
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
                # the first sums are read before the last are written, unless they lie apart
                near = not n and execute["accumulate"] and (last_sums - execute["accumulators"] & 0xFFFF) < REVISIT - 1
                if near or (n and execute["reduce"]):
                    ready = max(ready, end + REVISIT)
                first = ready
            times.append((filling + 1, first + 1))
            filling += rows
            length = len(pixels)
            end = first + length - 1
        loader = filling
        path = mine
        last_sums = stands_at(execute)
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
                names = ("address", "overwrite", "forward", "drop", "shift", "last")
                found = {name: int(getattr(control, name)) for name in names} | {"operation": int(control.operation)}
                self.pixels.append(found | {name: int(getattr(pixel, name)) for name in ("offset", "first", "vertical", "lag")})
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
    names = {"block": "n_block", "ky": "n_ky", "kx": "n_kx", "tap_rows": "tap_rows"}
    return [
        {
            "word": int.from_bytes(one.encode(), "little"),
            "index": n,
            "orders": orders,
            "only": {name: int(one[field] == 1) for name, field in names.items()},
        }
        for n, one in enumerate(executes)
    ]


def random_execute(config, rng):
    """Draw an EXECUTE of few passes and pixels."""
    operation = Operation(int(rng.choice([0, 0, 0, 1, 2, 3, 4, 5, 5])))
    if operation is Operation.WINDOW:
        return random_window(config, rng)
    values = {name: int(rng.integers(1, 4)) for name in TAPS} | {name: int(rng.integers(1, 4)) for name in PIXELS}
    if rng.random() < 0.5:
        values |= {"n_py": 1, "n_wy": 1, "n_wx": 1}
    values |= {name.replace("n_", "stride_"): int(rng.integers(0, 1 << 16)) for name in TAPS + PIXELS}
    values |= {"operation": operation, "accumulate": int(rng.integers(0, 2)), "reduce": int(rng.integers(0, 2))}
    values["tap_rows"] = int(rng.integers(1, config.rows + 1)) if operation == Operation.ARRAY else config.rows
    if operation != Operation.ARRAY:
        values["row_offset"] = config.columns * int(rng.integers(0, -(-config.rows // config.columns)))
    values |= {name: int(rng.integers(0, 1 << 16)) for name in ("activations", "weights")}
    values["accumulators"] = int(rng.integers(0, 40))
    return Instruction(Opcode.EXECUTE, values)


def random_window(config, rng):
    """Draw a WINDOW: a kernel from one pixel to all of the map."""
    n_py, n_px = int(rng.integers(1, 9)), int(rng.integers(WINDOW_TAPS + 1, 12))
    values = ONCE | {
        "operation": Operation.WINDOW,
        "accumulate": int(rng.integers(0, 2)),
        "tap_rows": config.rows,
        "n_py": n_py,
        "n_px": n_px,
        "n_ky": int(rng.integers(1, n_py + 1)),
        "n_kx": int(rng.integers(1, n_px + 1)),
        "accumulators": int(rng.integers(0, 40)),
    }
    values |= {name: int(rng.integers(0, 1 << 16)) for name in ("activations", "weights", "stride_py", "stride_px")}
    return Instruction(Opcode.EXECUTE, values | {name: int(rng.integers(1, 3)) for name in ("stride_ky", "stride_kx")})


def check(around, executes, note):
    """Compare everything that was given with the reference, as far as that says anything."""
    passes = [one for execute in executes for one in ref_execute(around.config, execute)]
    taps = [tap for mine, _ in passes for tap in mine]
    seen = [
        (address if wanted is not None else None, weight) for (address, weight), (wanted, _) in zip(around.taps, taps, strict=True)
    ]
    assert seen == taps, note
    pixels = [pixel for _, mine in passes for pixel in mine]
    for n, (got, wanted) in enumerate(zip(around.pixels, pixels, strict=True)):
        assert {name: got[name] if value is not None else None for name, value in wanted.items()} == wanted, f"{note}, pixel {n}"


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("seed", [1, 2])
def test_random_executes(bench, name, seed):
    config = CONFIGS[name]
    rng = np.random.default_rng([seed, list(CONFIGS).index(name)])
    executes = [random_execute(config, rng) for _ in range(12)]
    around = Around(config)
    around.run(bench, executes, limit=20000)
    check(around, executes, f"seed {seed}")
    assert list(zip(around.starts, around.firsts, strict=True)) == ref_times(config, executes), f"seed {seed}"


@pytest.mark.parametrize("name", CONFIGS)
def test_stalled_queue(bench, name):
    seed = 3
    config = CONFIGS[name]
    executes = [random_execute(config, np.random.default_rng([seed, n])) for n in range(6)]
    around = Around(config)
    around.run(bench, executes, stall=0.9, seed=seed, limit=20000)
    check(around, executes, f"seed {seed}")


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("pixels", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize("reduce", [0, 1])
def test_a_pass_takes_its_pixels_or_its_weights(bench, name, pixels, reduce):
    """``max(M, rows, REVISIT)`` cycles; where windows are reduced, the last sum must be written before the next pass begins."""
    config = CONFIGS[name]
    values = {"tap_rows": config.rows, "n_kx": 4, "n_wx": pixels, "stride_kx": 1, "reduce": reduce}
    execute = Instruction(Opcode.EXECUTE, ONCE | values)
    around = Around(config)
    around.run(bench, [execute])
    period = max(pixels + (REVISIT - 1 if reduce else 0), config.rows, REVISIT)
    # ``rows`` cycles of weights from the very first on, each a register before the port
    first = config.rows + 1
    assert around.starts[0] == 1
    assert around.firsts == [first + n * period for n in range(4)]
    assert around.pixel_cycles == [first + n * period + p for n in range(4) for p in range(pixels)]
    check(around, [execute], f"{pixels} pixels")


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


def test_taps_on_rows_that_do_not_divide(bench):
    """Taps of three rows on eight: two a pass, on rows 5 to 7 and 2 to 4; what rows 0 and 1 get, the last two given, is open."""
    strides = {"stride_kx": 10, "stride_ky": 100}
    executes = [
        Instruction(Opcode.EXECUTE, ONCE | strides | {"tap_rows": 3, "n_kx": 3, "n_ky": 3, "weights": 50}),
        Instruction(Opcode.EXECUTE, ONCE | strides | {"tap_rows": 3, "n_kx": 2, "weights": 90}),
        Instruction(Opcode.EXECUTE, ONCE | strides | {"tap_rows": 5, "n_kx": 2, "weights": 98}),
    ]
    around = Around(PRESETS["base"])
    around.run(bench, executes)
    passes = [[tap for tap, _ in around.taps[n : n + 8]] for n in range(0, len(around.taps), 8)]
    assert [one[:6] for one in passes[:6]] == [
        *([0] * 3 + [10] * 3, [20] * 3 + [100] * 3, [110] * 3 + [120] * 3, [200] * 3 + [210] * 3),
        # the taps have run out
        [220] * 6,
        [0] * 3 + [10] * 3,
    ]
    assert [one[:5] for one in passes[6:]] == [[0] * 5, [10] * 5]
    assert [weight for _, weight in around.taps] == [*range(50, 90), *range(90, 98), *range(98, 114)]


def test_reduced_windows(bench):
    """Two windows of two by two, two passes: a word for each; all but a window's first pixel go onto the pixel before."""
    config = CONFIGS["4x4"]
    values = {"tap_rows": 4, "n_kx": 2, "n_px": 2, "n_wy": 2, "n_wx": 2, "accumulators": 7, "reduce": 1}
    around = Around(config)
    around.run(bench, [Instruction(Opcode.EXECUTE, ONCE | values)])
    seen = [(pixel["address"], pixel["overwrite"], pixel["forward"]) for pixel in around.pixels]
    assert seen == [
        *((7, 1, 0), (7, 0, 1), (7, 0, 1), (7, 0, 1), (8, 1, 0), (8, 0, 1), (8, 0, 1), (8, 0, 1)),
        *((7, 0, 0), (7, 0, 1), (7, 0, 1), (7, 0, 1), (8, 0, 0), (8, 0, 1), (8, 0, 1), (8, 0, 1)),
    ]
    # the last pixel of the first pass, and the first of the second, which waits for the write though it goes to another word
    assert around.pixel_cycles[8] - around.pixel_cycles[7] == REVISIT


def test_windows(bench):
    """Three by three with strides of 2 by 1 on five lines of six: results on lines 2 and 4, from pixel 2 on."""
    config = CONFIGS["4x4"]
    values = {
        "operation": Operation.WINDOW,
        "tap_rows": 4,
        "n_py": 5,
        "n_px": 6,
        "n_ky": 3,
        "n_kx": 3,
        "stride_ky": 2,
        "stride_kx": 1,
    }
    values |= {"activations": 100, "stride_py": 20, "stride_px": 2, "weights": 60, "accumulators": 7}
    around = Around(config)
    around.run(bench, [Instruction(Opcode.EXECUTE, ONCE | values)])
    # a single pass, whose rows all read the same pixel
    assert around.taps == [(0, 60), (0, 61), (0, 62), (0, 63)]
    assert len(around.starts) == len(around.firsts) == 1
    assert [pixel["offset"] for pixel in around.pixels] == [100 + 20 * y + 2 * x for y in range(5) for x in range(6)]
    assert {(pixel["vertical"], pixel["lag"], pixel["operation"]) for pixel in around.pixels} == {
        (1, 6 - WINDOW_TAPS, Operation.ARRAY)
    }
    kept = {n: pixel["address"] for n, pixel in enumerate(around.pixels) if not pixel["drop"]}
    assert kept == {14: 7, 15: 8, 16: 9, 17: 10, 26: 11, 27: 12, 28: 13, 29: 14}
    assert around.pixel_cycles == list(range(around.pixel_cycles[0], around.pixel_cycles[0] + 30))


@pytest.mark.parametrize(
    "changes",
    [
        {"n_px": 256, "n_py": 3, "n_kx": 255, "n_ky": 2},
        {"n_px": 200, "n_py": 2, "n_kx": 3, "n_ky": 1, "stride_kx": 2},
        {"n_px": 4, "n_py": 300, "n_kx": 2, "n_ky": 255, "stride_ky": 2},
        {"n_px": 4, "n_py": 1, "n_kx": 4, "n_ky": 1},
    ],
)
def test_windows_of_any_size(bench, changes):
    """To the last bit of the kernel's fields, and of the lag."""
    config = CONFIGS["4x4"]
    values = {"operation": Operation.WINDOW, "tap_rows": 4, "stride_ky": 1, "stride_kx": 1, "stride_py": 300, "stride_px": 1}
    execute = Instruction(Opcode.EXECUTE, ONCE | values | changes)
    around = Around(config)
    around.run(bench, [execute])
    check(around, [execute], str(changes))


def once(config, **changes):
    return Instruction(Opcode.EXECUTE, ONCE | {"tap_rows": config.rows, "n_px": 20} | changes)


WINDOW = {"operation": Operation.WINDOW, "n_kx": 3, "stride_ky": 1, "stride_kx": 1}


@pytest.mark.parametrize(("first", "second", "gap"), [
    ({}, {}, 1),
    ({}, {"operation": Operation.SUM}, 6 + REVISIT + 1),
    ({"operation": Operation.SUM}, {}, 6 + REVISIT + 1),
    ({"operation": Operation.SUM}, {"operation": Operation.MAX}, 1),
    ({"operation": Operation.SUM}, {"operation": Operation.SUM, "row_offset": 2}, 6 + REVISIT + 1),
    ({"operation": Operation.LOW, "row_offset": 4}, {"operation": Operation.HIGH, "row_offset": 4}, 1),
    # the sums of twenty pixels are at 0 to 19
    *(({}, {"accumulate": 1, "accumulators": 19 - n}, gap) for n, gap in ((-1, 1), (0, REVISIT), (2, REVISIT), (3, 1), (19, 1))),
    ({"operation": Operation.LOW}, {"operation": Operation.HIGH, "accumulate": 1, "accumulators": 18}, REVISIT),
    ({"operation": Operation.LOW}, {"accumulate": 1}, 6 + REVISIT + 1),
    # windows come out of the array as all sums do
    ({}, WINDOW, 1),
    (WINDOW, {}, 1),
    (WINDOW, WINDOW, 1),
    # a kernel of three has eighteen results of twenty pixels
    *((WINDOW, WINDOW | {"accumulate": 1, "accumulators": 17 - n}, gap) for n, gap in ((0, REVISIT), (2, REVISIT), (3, 1))),
    (WINDOW, {"operation": Operation.MAX}, 6 + REVISIT + 1),
    ({"operation": Operation.MAX}, WINDOW, 6 + REVISIT + 1),
    # only an instruction's own passes wait for reduced windows
    ({"reduce": 1}, {"reduce": 1}, 1),
    ({"reduce": 1}, {"reduce": 1, "accumulate": 1, "accumulators": 17}, REVISIT),
])  # fmt: skip
def test_gap_between_instructions(bench, first, second, gap):
    """From the last pixel to the next instruction's first: the path must be empty when it changes, sums written when added to."""
    config = CONFIGS["6x2"]
    around = Around(config)
    around.run(bench, [once(config, **first), once(config, **second)])
    assert around.pixel_cycles[20] - around.pixel_cycles[19] == gap


@pytest.mark.parametrize(("sums", "near"), [(19, True), (17, True), (16, False), (0, False)])
@pytest.mark.parametrize("name", ["2x2", "6x2"])
def test_gap_before_an_instruction_that_comes_late(bench, name, sums, near):
    """Sums that are added to must be written, even if the instruction comes when none is at the streamer, and is loaded at once."""
    config = CONFIGS[name]
    waited = 0
    for late in range(16):
        around = Around(config)

        async def host(ctx, around=around, late=late):
            first, second = entries_of([once(config), once(config, accumulate=1, accumulators=sums)])
            await bench.send(ctx, around.block.i_entry, [first], np.random.default_rng(0), 0.0)
            await bench.repeat(ctx, 10 + late)
            await bench.send(ctx, around.block.i_entry, [second], np.random.default_rng(0), 0.0)
            await bench.repeat(ctx, 60)

        bench.run(around.block, host, background=[around.watch])
        # as soon as it is there its weights are loaded, the first of them a cycle before ``starts``
        ready, end = around.starts[1] + config.rows, around.pixel_cycles[19]
        assert around.pixel_cycles[20] == max(ready, end + (REVISIT if near else 1)), f"{late} cycles"
        waited += end + 1 < around.pixel_cycles[20] > ready
    assert bool(waited) == near


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
        ctx.set(
            block.i_entry.payload, entries_of([once(config)], NO_ORDER | {queue: {"met": 0, "missing": (1 << ORDER_BITS) - 5}})[0]
        )
        ctx.set(block.i_entry.valid, 1)
        for cycle in range(held):
            # it is seen from the next cycle on
            ctx.set(block.i_retire, {queue: int(cycle == held - 1)})
            _, _, taken = await ctx.tick().sample(block.i_entry.ready)
            if taken:
                ctx.set(block.i_entry.valid, 0)
            assert not (taken and queue == "load"), f"taken in cycle {cycle}"
        assert len(around.starts) == loads
        assert not around.pixels
        ctx.set(block.i_completed, {queue: 5})
        ctx.set(block.i_retire, {queue: 0})
        ctx.set(block.i_entry.payload.orders.load.met, 1)
        for _ in range(40):
            _, _, taken = await ctx.tick().sample(block.i_entry.ready)
            if taken:
                ctx.set(block.i_entry.valid, 0)

    bench.run(block, host, background=[around.watch])
    assert around.states[held - 1] == state
    assert around.firsts == [held + 1 if loads else held + config.rows + 1]
    assert len(around.pixels) == 20
