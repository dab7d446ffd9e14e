"""The output stage: every byte as the instruction set says, whatever its ports do, and as many cycles as it promises."""

from collections import deque
from dataclasses import replace

import numpy as np
import pytest

from accel.config import PRESETS
from accel.isa import Instruction, Opcode, Source, UnitState
from accel.numerics import Rounding, requantise, shift_stages
from rtl.accumulators import READ_LATENCY
from rtl.layouts import ORDER_BITS, QUEUES
from rtl.requantise import Requantiser
from rtl.store import PAIR_LATENCY, RESULTS, TABLE_LATENCY, StoreUnit

CONFIGS = {
    "tiny": PRESETS["tiny"],
    "small": PRESETS["small"],
    "thin": replace(PRESETS["small"], rows=3, columns=6, lanes=3, parameter_channels=96, elementwise=False),
    "wide": replace(PRESETS["small"], columns=8, lanes=4, parameter_channels=128, tables=False),
    "tall": replace(PRESETS["small"], rows=6, columns=2, lanes=2, tables=False, elementwise=False),
}
NO_ORDER = {queue: {"met": 1, "missing": 0} for queue in QUEUES}
ONCE = {"minimum": -128, "maximum": 127, "pool": 1, "groups": 1, "n_x": 1, "n_y": 1, "period_log2": 7, "to_scratchpad": 1}
WORDS = 256


def ref_latency(config):
    """Return the cycles from a group's issue to its write."""
    return 1 + READ_LATENCY + PAIR_LATENCY * config.elementwise + Requantiser.LATENCY + TABLE_LATENCY * config.tables + 1


class World:
    """Random accumulators, parameters and tables, and what the output stage makes of them."""

    def __init__(self, config, rng):
        self.config, self.rng = config, rng
        self.sums = rng.integers(-(1 << 15), 1 << 15, (WORDS, config.columns))
        self.rounding = Rounding(int(rng.integers(3)))
        channels = config.parameter_channels
        self.bias = rng.integers(-(1 << 14), 1 << 14, channels)
        self.multiplier = rng.integers(1 << 29, 1 << 31, channels)
        self.shift = rng.integers(-9, -6, channels)
        self.table = rng.integers(-128, 128, 256)
        self.pairs = rng.integers(-(1 << 14), 1 << 14, 512)

    def table_writes(self):
        """Return the load unit's writes that set it up."""
        lanes = self.config.lanes
        nothing = {"parameter": 0, "table": 0, "pair": 0, "address": 0, "value": 0}
        for channel in range(self.config.parameter_channels):
            first, second = shift_stages(int(self.shift[channel]), self.rounding)
            entry = {"bias": int(self.bias[channel]), "multiplier": int(self.multiplier[channel])}
            entry |= {"first_shift": first, "second_shift": second}
            yield nothing | {"parameter": 1 << channel % lanes, "address": channel // lanes, "entry": entry}
        for n, value in enumerate(self.table if self.config.tables else ()):
            yield nothing | {"table": 1, "address": n, "value": int(value) & 0xFFFF_FFFF}
        for n, value in enumerate(self.pairs if self.config.elementwise else ()):
            yield nothing | {"pair": 1, "address": n, "value": int(value) & 0xFFFF_FFFF}
        yield nothing

    def random_store(self):
        """Draw a STORE."""
        rng, config = self.rng, self.config
        word_groups = config.rows // config.lanes
        groups = int(rng.integers(1, min(word_groups, config.column_groups) + 1))
        values = {
            "source": int(config.elementwise and rng.random() < 0.3),
            "rounding": self.rounding,
            "use_table": int(config.tables and rng.random() < 0.4),
            "minimum": int(rng.integers(-128, 0)),
            "maximum": int(rng.integers(0, 128)),
            "zero_point": int(rng.integers(-128, 128)),
            "pool": int(rng.integers(1, 5)),
            "groups": groups,
            "first_group": int(rng.integers(0, config.column_groups - groups + 1)),
            "byte_offset": config.lanes * int(rng.integers(0, word_groups - groups + 1)),
            "period_log2": 7,
            "n_x": int(rng.integers(1, 6)),
            "n_y": int(rng.integers(1, 4)),
            "accumulators": int(rng.integers(0, 100)),
            "parameters": int(rng.integers(0, config.parameter_groups - groups + 1)),
            "scratchpad": int(rng.integers(0, 60)),
            "scratchpad_stride_y": int(rng.integers(5, 20)),
            "memory_address": config.word_bytes * int(rng.integers(0, 1000)),
            "memory_stride_y": config.word_bytes * int(rng.integers(5, 1000)),
        }
        values["to_scratchpad"], values["to_memory"] = [(1, 0), (0, 1), (1, 1)][int(rng.integers(3))]
        periods = [p for p in range(config.rows.bit_length() - 1) if groups * config.lanes <= 1 << p]
        if periods and rng.random() < 0.5:
            values |= {"period_log2": int(rng.choice(periods)), "byte_offset": 0}
        return Instruction(Opcode.STORE, values)

    def byte(self, store, word, group, lane):
        """Return the byte of one sum."""
        column = (store["first_group"] + group) * self.config.lanes + lane
        channel = (store["parameters"] + group) * self.config.lanes + lane
        total = int(self.sums[word, column])
        if store["source"] == Source.PAIR:
            total = int(self.pairs[total & 255] + self.pairs[256 + (total >> 8 & 255)])
        value = int(requantise(total + int(self.bias[channel]), self.multiplier[channel], self.shift[channel], self.rounding))
        value = min(max(value + store["zero_point"], store["minimum"]), store["maximum"])
        return int(self.table[value & 255]) if store["use_table"] else value

    def run(self, stores):
        """Return the scratchpad (None where nothing was written), the transfers, and the words with their strobes."""
        config = self.config
        scratchpad = {}
        transfers, words = [], []
        for index, store in enumerate(stores):
            accumulator = store["accumulators"]
            if store["to_memory"]:
                transfers.append(
                    {"address": store["memory_address"], "stride_y": store["memory_stride_y"]}
                    | {"n_x": store["n_x"], "n_y": store["n_y"], "index": index}
                )
            for y in range(store["n_y"]):
                for x in range(store["n_x"]):
                    found = {
                        store["byte_offset"] + group * config.lanes + lane: max(
                            self.byte(store, accumulator + n, group, lane) for n in range(store["pool"])
                        )
                        for group in range(store["groups"])
                        for lane in range(config.lanes)
                    }
                    accumulator += store["pool"]
                    if store["to_scratchpad"]:
                        address = store["scratchpad"] + y * store["scratchpad_stride_y"] + x
                        for bank in range(config.rows):
                            source = bank % (1 << store["period_log2"])
                            if source in found:
                                scratchpad[address, bank] = found[source] & 255
                    if store["to_memory"]:
                        low = store["memory_address"] + y * store["memory_stride_y"] + x * config.word_bytes
                        content = {byte: value & 255 for byte, value in found.items()}
                        words.append((low % 64, int(x == store["n_x"] - 1), content))
        return scratchpad, transfers, words


class Around:
    """The accumulators, the ports, and a record of what was seen in which cycle."""

    def __init__(self, world, *, seed=0, stall=0.0, hold=0):
        self.world, self.stall, self.hold = world, stall, hold
        self.rng = np.random.default_rng(seed)
        self.block = StoreUnit(config=world.config)
        self.scratchpad, self.transfers, self.words = {}, [], []
        self.writes, self.retired, self.states = [], [], []
        self.cycle = 0

    async def serve(self, ctx):
        block, lanes = self.block, self.world.config.lanes
        waiting = deque([(0, 0)] * (READ_LATENCY - 1))
        shown = None
        while True:
            blocked = self.cycle < self.hold or self.rng.random() < self.stall
            ctx.set(block.i_blocked, blocked)
            ctx.set(block.o_word.ready, self.cycle >= self.hold and self.rng.random() >= self.stall)
            ctx.set(block.o_transfer.ready, self.rng.random() >= self.stall)
            (
                _,
                _,
                drain,
                write,
                word,
                word_valid,
                word_ready,
                transfer,
                transfer_valid,
                transfer_ready,
                retire,
                state,
            ) = await ctx.tick().sample(
                block.o_drain,
                block.o_write,
                *(block.o_word.payload, block.o_word.valid, block.o_word.ready),
                *(block.o_transfer.payload, block.o_transfer.valid, block.o_transfer.ready),
                block.o_retire,
                block.o_state,
            )
            if write.mask:
                assert not blocked, "a write while the port was taken"
                self.writes.append(self.cycle)
                for bank in range(self.world.config.rows):
                    if write.mask >> bank & 1:
                        self.scratchpad[write.address, bank] = write.data[bank]
            if shown is not None:
                assert word_valid, "a word went away"
                assert word.as_value().value == shown, "a word changed before it was taken"
            shown = word.as_value().value if word_valid and not word_ready else None
            if word_valid and word_ready:
                content = {n: word.data >> 8 * n & 255 for n in range(self.world.config.word_bytes) if word.strobe >> n & 1}
                self.words.append((word.address, word.row_last, content))
            if transfer_valid and transfer_ready:
                self.transfers.append({name: int(transfer[name]) for name in ("address", "stride_y", "n_x", "n_y", "index")})
            if retire:
                self.retired.append(self.cycle)
            self.states.append(UnitState(state))
            waiting.append((drain.address, drain.group))
            address, group = waiting.popleft()
            ctx.set(block.i_lanes, [int(self.world.sums[address % WORDS, group * lanes + n]) for n in range(lanes)])
            self.cycle += 1

    @property
    def now(self):
        """The cycle that a testbench is in: those in front run before :meth:`serve` has counted the one that ended."""
        return self.cycle + 1

    async def set_up(self, ctx):
        for write in self.world.table_writes():
            ctx.set(self.block.i_table, write)
            await ctx.tick()


def entries_of(stores, orders=NO_ORDER):
    return [
        {"word": int.from_bytes(store.encode(), "little"), "index": index, "orders": orders} for index, store in enumerate(stores)
    ]


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("stall", [0.0, 0.5])
def test_random_stores(bench, name, stall):
    seed = 1
    rng = np.random.default_rng([seed, list(CONFIGS).index(name)])
    world = World(CONFIGS[name], rng)
    stores = [world.random_store() for _ in range(7)]
    around = Around(world, seed=seed, stall=stall)

    async def run(ctx):
        await around.set_up(ctx)
        await bench.send(ctx, around.block.i_entry, entries_of(stores), np.random.default_rng(seed), stall / 2)
        while len(around.retired) < len(stores):
            await ctx.tick()
        await bench.repeat(ctx, 30)
        assert ctx.get(around.block.o_state) == UnitState.IDLE

    bench.run(around.block, run, background=[around.serve], limit=6000)
    scratchpad, transfers, words = world.run(stores)
    assert around.scratchpad == scratchpad, f"seed {seed}"
    assert around.transfers == transfers, f"seed {seed}"
    assert around.words == words, f"seed {seed}"
    assert len(around.retired) == len(stores)


@pytest.mark.parametrize("name", CONFIGS)
def test_time(bench, name):
    """A group a cycle; the next instruction's first two cycles after this one's last; one to memory another cycle later."""
    config = CONFIGS[name]
    world = World(config, np.random.default_rng(2))
    shapes = [(3, 2, 0), (1, 1, 0), (4, 1, 1)]
    stores = [
        Instruction(Opcode.STORE, ONCE | {"n_x": n_x, "n_y": n_y, "to_memory": memory, "rounding": world.rounding})
        for n_x, n_y, memory in shapes
    ]
    around = Around(world)
    begun = []

    async def run(ctx):
        await ctx.tick()
        begun.append(around.now)
        await bench.send(ctx, around.block.i_entry, entries_of(stores), np.random.default_rng(0), 0.0)
        while len(around.retired) < len(stores):
            await ctx.tick()

    bench.run(around.block, run, background=[around.serve])
    expected, retired = [], []
    issue = begun[0] + 1
    for n_x, n_y, memory in shapes:
        issue += memory
        expected += [issue + ref_latency(config) + n for n in range(n_x * n_y)]
        retired.append(expected[-1] + 1)
        issue += n_x * n_y + 1
    assert around.writes == expected
    assert around.retired == retired


@pytest.mark.parametrize("pool", [1, 3])
def test_credits(bench, pool):
    """With its ports shut it issues ``RESULTS`` groups that will want them and no more, and loses none."""
    config = CONFIGS["tall"]
    world = World(config, np.random.default_rng(3))
    store = Instruction(Opcode.STORE, ONCE | {"n_x": 60, "pool": pool, "rounding": world.rounding})
    hold = config.parameter_channels + 50 + pool * 60
    around = Around(world, hold=hold)
    issued = []

    async def run(ctx):
        await around.set_up(ctx)
        await bench.send(ctx, around.block.i_entry, entries_of([store]), np.random.default_rng(0), 0.0)
        while not around.retired:
            await ctx.tick()
        issued.append(sum(state is UnitState.BUSY for state in around.states[:hold]))

    bench.run(around.block, run, background=[around.serve], limit=3000)
    # one result waits in every place; those that the pool swallows give theirs back
    assert issued == [RESULTS * pool]
    assert around.scratchpad == world.run([store])[0]
    # from then on a write a cycle, as far as the pool gives them
    assert around.writes[:RESULTS] == list(range(hold, hold + RESULTS))
    assert UnitState.WAIT_PIPELINE in around.states


@pytest.mark.parametrize(
    ("queue", "state"),
    [("load", UnitState.WAIT_LOAD), ("execute", UnitState.WAIT_EXECUTE), ("store", UnitState.WAIT_STORE)],
)
def test_orders(bench, queue, state):
    """Nothing is issued before the order holds, and at once when it does."""
    config = CONFIGS["tall"]
    world = World(config, np.random.default_rng(4))
    store = Instruction(Opcode.STORE, ONCE | {"rounding": world.rounding})
    around = Around(world)
    seen = {}

    async def run(ctx):
        orders = NO_ORDER | {queue: {"met": 0, "missing": (1 << ORDER_BITS) - 5}}
        ctx.set(around.block.i_entry.payload, entries_of([store], orders)[0])
        ctx.set(around.block.i_entry.valid, 1)
        await bench.repeat(ctx, 20)
        seen["before"] = set(around.states[-19:])
        ctx.set(around.block.i_entry.payload.orders, NO_ORDER)
        seen["held"] = around.now
        await bench.until(ctx, around.block.i_entry.ready)
        ctx.set(around.block.i_entry.valid, 0)
        while not around.writes:
            await ctx.tick()

    bench.run(around.block, run, background=[around.serve])
    assert seen["before"] == {state}
    assert around.writes == [seen["held"] + 1 + ref_latency(config)]
