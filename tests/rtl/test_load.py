"""The load unit: every element to its place in order, whatever the bus and the memory do, and no cycle more than it must."""

from collections import deque
from dataclasses import replace

import numpy as np
import pytest

from accel import isa
from accel.config import PRESETS
from accel.isa import MAX_SHARE_LOG2, PERIOD_THREE, Instruction, Opcode, Target, UnitState
from rtl.layouts import ORDER_BITS, QUEUES
from rtl.load import IN_FLIGHT, LoadUnit
from rtl.write_port import BURST_BEATS

SMALL = PRESETS["small"]
CONFIGS = {
    "thin": replace(SMALL, bus_bytes=2),
    "small": SMALL,
    "fat": replace(SMALL, bus_bytes=32),
    "odd": replace(SMALL, rows=3, columns=6, lanes=3, bus_bytes=8, parameter_channels=96),
    "least": replace(PRESETS["tiny"], lanes=2, parameter_channels=64),
}
SIZE = 1 << 13
NO_ORDER = {queue: {"met": 1, "missing": 0} for queue in QUEUES}
ONCE = {"n_x": 1, "n_y": 1, "n_z": 1, "period_log2": 7}


def ref_writes(config, load, memory):
    """Return the writes of a LOAD, in order: kind, address, bytes (or value)."""
    writes = []
    element = 1 << load["element_log2"]
    target = load["target"]
    period = 3 if load["period_log2"] == PERIOD_THREE else 1 << load["period_log2"]
    for z in range(load["n_z"]):
        for y in range(load["n_y"]):
            for x in range(load["n_x"]):
                start = load["memory_address"] + z * load["memory_stride_z"] + y * load["memory_stride_y"] + x * element
                content = memory[start : start + element].tolist()
                place = load["local_address"] + z * load["local_stride_z"] + y * load["local_stride_y"] & 0xFFFF
                address = place + x & 0xFFFF
                if target == Target.FILL:
                    writes.append(("scratchpad", address, [load["fill_value"]] * config.rows))
                elif target == Target.ACTIVATIONS:
                    writes.append(("scratchpad", address, [content[r % period] for r in range(config.rows)]))
                elif target == Target.WEIGHTS:
                    writes.append(("weights", address, content[: config.columns]))
                elif target == Target.PARAMETERS:
                    word = int.from_bytes(bytes(content), "little")
                    values = {f.name: word >> f.offset & (1 << f.width) - 1 for f in isa.PARAMETER}
                    entry = (values["bias"], values["multiplier"], values["first_shift"] & 31, values["second_shift"] & 31)
                    writes.append((f"parameter {x % config.lanes}", place + x // config.lanes, entry))
                else:
                    kind = "table" if target == Target.TABLE else "pair"
                    writes.append((kind, address, int.from_bytes(bytes(content), "little")))
    return writes


def ref_bursts(config, load):
    """Return the bursts of a LOAD: address and beats."""
    bus = config.bus_bytes
    bursts = []
    if load["target"] == Target.FILL:
        return bursts
    for z in range(load["n_z"]):
        for y in range(load["n_y"]):
            start = load["memory_address"] + z * load["memory_stride_z"] + y * load["memory_stride_y"]
            beat, end = start // bus, (start + (load["n_x"] << load["element_log2"]) - 1) // bus + 1
            while beat < end:
                cut = min(end, (beat // BURST_BEATS + 1) * BURST_BEATS)
                bursts.append((beat * bus, cut - beat))
                beat = cut
    return bursts


class Around:
    """Memory, and a record of what was written in which cycle."""

    def __init__(self, config, *, seed=0, stall=0.0, latency=1, bad=()):
        self.config, self.stall, self.latency, self.bad = config, stall, latency, bad
        self.rng = np.random.default_rng(seed)
        self.memory = self.rng.integers(0, 256, SIZE, np.uint8)
        self.block = LoadUnit(config=config)
        self.bursts, self.sent, self.writes, self.written, self.retired, self.faults, self.states = [], [], [], [], [], [], []
        self.cycle = 0

    @property
    def now(self):
        """The cycle that a testbench is in: those in front run before :meth:`serve` has counted the one that ended."""
        return self.cycle + 1

    def note(self, write, weight, table):
        config = self.config
        seen = []
        if write.mask:
            assert write.mask == (1 << config.rows) - 1
            seen.append(("scratchpad", write.address, [write.data[r] for r in range(config.rows)]))
        if weight.enable:
            seen.append(("weights", weight.address, [weight.data[c] for c in range(config.columns)]))
        for lane in range(config.lanes):
            if table.parameter >> lane & 1:
                entry = table.entry
                bits = (entry.bias & 0xFFFF_FFFF, entry.multiplier, entry.first_shift, entry.second_shift)
                seen.append((f"parameter {lane}", table.address, bits))
        if table.table:
            seen.append(("table", table.address, table.value & 255))
        if table.pair:
            seen.append(("pair", table.address, table.value))
        assert len(seen) <= 1
        self.writes += seen
        self.written += [self.cycle] * len(seen)

    async def serve(self, ctx):
        block, bus = self.block, self.config.bus_bytes
        beats = deque()
        valid = False
        while True:
            ctx.set(block.o_address.ready, self.rng.random() >= self.stall)
            if not valid and beats and beats[0][0] <= self.cycle and self.rng.random() >= self.stall:
                valid = True
            at, last = beats[0][1:] if valid else (0, 1)
            data = int.from_bytes(self.memory[at : at + bus].tobytes(), "little") if valid else (1 << 8 * bus) - 1
            ctx.set(block.i_beat.payload, {"data": data, "error": not valid or at in self.bad, "last": last})
            ctx.set(block.i_beat.valid, valid)
            _, _, shown, ready, address, length, taken, write, weight, table, retire, fault, index, state = await ctx.tick().sample(
                *(block.o_address.valid, block.o_address.ready),
                *(block.o_address.payload.address, block.o_address.payload.length),
                block.i_beat.ready,
                *(block.o_write, block.o_weight, block.o_table, block.o_retire, block.o_fault, block.o_fault_index),
                block.o_state,
            )
            if valid and taken:
                beats.popleft()
                valid = False
            if shown and ready:
                self.bursts.append((address, length + 1))
                self.sent.append(self.cycle)
                for n in range(length + 1):
                    beats.append((self.cycle + self.latency, (address + n * bus) % SIZE, n == length))
            self.note(write, weight, table)
            if retire:
                self.retired.append(self.cycle)
            if fault:
                self.faults.append(index)
            self.states.append(UnitState(state))
            self.cycle += 1

    def run(self, bench, loads, *, stall=0.0, limit=5000):
        async def host(ctx):
            await bench.send(ctx, self.block.i_entry, entries_of(loads), np.random.default_rng(1), stall)
            while len(self.retired) < len(loads):
                await ctx.tick()
            await bench.repeat(ctx, 10)
            assert ctx.get(self.block.o_state) == UnitState.IDLE
            assert not ctx.get(self.block.o_address.valid)

        bench.run(self.block, host, background=[self.serve], limit=limit)


def entries_of(loads, orders=NO_ORDER):
    return [{"word": int.from_bytes(load.encode(), "little"), "index": 10 + n, "orders": orders} for n, load in enumerate(loads)]


def random_load(config, rng):
    """Draw a LOAD for any target."""
    target = Target(int(rng.choice(6, p=(0.4, 0.15, 0.15, 0.1, 0.1, 0.1))))
    log2 = {
        Target.ACTIVATIONS: int(rng.integers(0, config.word_bytes.bit_length())),
        Target.WEIGHTS: config.weight_word_bytes.bit_length() - 1,
        Target.PARAMETERS: 4,
        Target.TABLE: 0,
        Target.PAIR_TABLE: 2,
        Target.FILL: 0,
    }[target]
    n_x, n_y, n_z = int(rng.integers(1, 14)), int(rng.integers(1, 4)), int(rng.integers(1, 3))
    periods = list(range(log2 + 1))
    if 1 << log2 >= config.rows:
        periods += [7] * len(periods)
    if 1 << log2 >= min(3, config.rows):
        periods += [PERIOD_THREE] * 2
    values = {
        "target": target,
        "element_log2": log2,
        "period_log2": int(rng.choice(periods)),
        "share_log2": int(rng.integers(0, MAX_SHARE_LOG2 + 1)),
        "fill_value": int(rng.integers(0, 256)),
        "memory_address": int(rng.integers(0, 1000)) << log2 & 0xFFF,
        "memory_stride_y": (n_x + int(rng.integers(0, 5))) << log2,
        "memory_stride_z": int(rng.integers(0, 60)) << log2,
        "local_address": int(rng.integers(0, 1 << 16)),
        "local_stride_y": int(rng.integers(0, 1 << 16)),
        "local_stride_z": int(rng.integers(0, 1 << 16)),
        "n_x": n_x,
        "n_y": n_y,
        "n_z": n_z,
    }
    if target == Target.PARAMETERS:
        values |= {"n_y": 1, "n_z": 1, "local_address": int(rng.integers(0, 50))}
    return Instruction(Opcode.LOAD, values)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("stall", [0.0, 0.5])
def test_random_loads(bench, name, stall):
    seed = 1
    config = CONFIGS[name]
    rng = np.random.default_rng([seed, list(CONFIGS).index(name)])
    loads = [random_load(config, rng) for _ in range(9)]
    around = Around(config, seed=seed, stall=stall, latency=5)
    around.run(bench, loads, stall=stall / 2)
    expected = [write for load in loads for write in ref_writes(config, load, around.memory)]
    for n, (got, wanted) in enumerate(zip(around.writes, expected, strict=False)):
        assert got == wanted, f"seed {seed}: write {n}"
    assert len(around.writes) == len(expected), f"seed {seed}"
    assert around.bursts == [burst for load in loads for burst in ref_bursts(config, load)], f"seed {seed}"
    assert around.faults == []


@pytest.mark.parametrize(("name", "target", "log2", "pace"), [
    ("small", Target.WEIGHTS, 2, 1),
    ("fat", Target.WEIGHTS, 2, 1),
    ("thin", Target.WEIGHTS, 2, 2),
    ("thin", Target.PARAMETERS, 4, 8),
    ("fat", Target.TABLE, 0, 1),
])  # fmt: skip
def test_pace(bench, name, target, log2, pace):
    """An element a cycle, or as fast as its beats come; the retirement two cycles after the last write."""
    config = CONFIGS[name]
    around = Around(config, latency=3)
    count = 12
    around.run(bench, [Instruction(Opcode.LOAD, ONCE | {"target": target, "element_log2": log2, "n_x": count})])
    # address sent in cycle 2, first beat 3 later, held a cycle later; an element waits for its last beat; a register
    first = 2 + 3 + 1 + (pace - 1) + 1
    assert around.sent[0] == 2
    assert around.written == [first + pace * n for n in range(count)]
    assert around.retired == [around.written[-1] + 2]


@pytest.mark.parametrize("target", [Target.FILL, Target.ACTIVATIONS, Target.WEIGHTS])
@pytest.mark.parametrize("share_log2", range(MAX_SHARE_LOG2 + 1))
def test_the_output_stages_share(bench, target, share_log2):
    """One cycle in ``2**share_log2`` (none for 0) is left free on the scratchpad's write port, and only there."""
    config = CONFIGS["small"]
    around = Around(config, latency=1)
    values = ONCE | {"target": target, "element_log2": 2, "n_x": 50, "fill_value": 9, "share_log2": share_log2}
    around.run(bench, [Instruction(Opcode.LOAD, values)])
    cycles = range(around.written[0], around.written[-1] + 1)
    # cycles are counted from reset; a write is shown a cycle after it was allowed
    shares = share_log2 > 0 and target != Target.WEIGHTS
    free = [cycle for cycle in cycles if shares and cycle % (1 << share_log2) == 0]
    assert around.written == [cycle for cycle in cycles if cycle not in free]
    assert len(free) >= (50 >> share_log2 if shares else 0)


def test_fill_reads_nothing(bench):
    config = CONFIGS["small"]
    around = Around(config)
    load = Instruction(Opcode.LOAD, ONCE | {"target": Target.FILL, "n_x": 3, "n_y": 2, "local_stride_y": 9, "fill_value": 0x85})
    around.run(bench, [load])
    assert around.bursts == []
    assert around.writes == [("scratchpad", 9 * y + x, [0x85] * config.rows) for y in range(2) for x in range(3)]
    # seen in cycle 0, at the receiver in cycle 2, written from cycle 3 on
    assert around.written == [3, 4, 5, 6, 7, 8]
    assert around.retired == [10]


@pytest.mark.parametrize(
    ("name", "banks"), [("small", [0, 1, 2, 0]), ("odd", [0, 1, 2]), ("least", [0, 1]), ("eight", [0, 1, 2, 0, 1, 2, 0, 1])]
)
def test_three_bytes_of_four_go_round_the_banks(bench, name, banks):
    """An image's pixels of three channels: the fourth byte of an element is not used."""
    config = PRESETS["base"] if name == "eight" else CONFIGS[name]
    log2 = min(2, config.word_bytes.bit_length() - 1)
    load = Instruction(Opcode.LOAD, ONCE | {"element_log2": log2, "period_log2": PERIOD_THREE, "memory_address": 40, "n_x": 5})
    around = Around(config)
    around.run(bench, [load])
    elements = around.memory[40 : 40 + (5 << log2)].reshape(5, -1)
    assert around.writes == [("scratchpad", n, [int(elements[n, bank]) for bank in banks]) for n in range(5)]


def test_bursts_are_cut(bench):
    """At 64 beats, at whose multiples they end."""
    config = CONFIGS["thin"]
    loads = [Instruction(Opcode.LOAD, ONCE | {"target": Target.TABLE, "memory_address": 101, "n_x": 300})]
    around = Around(config)
    around.run(bench, loads)
    assert around.bursts == [(100, 14), (128, 64), (256, 64), (384, 9)]
    assert around.writes == ref_writes(config, loads[0], around.memory)


def test_requests_run_ahead(bench):
    """The addresses of ``IN_FLIGHT`` LOADs are sent before the first datum comes, and no more."""
    config = CONFIGS["small"]
    loads = [
        Instruction(Opcode.LOAD, ONCE | {"target": Target.WEIGHTS, "element_log2": 2, "memory_address": 64 * n}) for n in range(6)
    ]
    around = Around(config, latency=40)
    around.run(bench, loads)
    # three cycles each: begin, row, burst
    assert around.sent[:IN_FLIGHT] == [2 + 3 * n for n in range(IN_FLIGHT)]
    assert around.sent[IN_FLIGHT] == around.written[0] - 1 + 1 + 2
    assert around.written[1] - around.written[0] == 3


@pytest.mark.parametrize(
    ("queue", "state"),
    [
        ("load", UnitState.WAIT_LOAD),
        ("execute", UnitState.WAIT_EXECUTE),
        ("store", UnitState.WAIT_STORE),
        (None, UnitState.WAIT_MEMORY),
    ],
)
def test_orders_and_fence(bench, queue, state):
    """Nothing is asked of memory before the order holds (or, with a fence, every write is acknowledged)."""
    around = Around(CONFIGS["small"])
    block = around.block
    seen = {}

    async def host(ctx):
        orders = NO_ORDER | ({queue: {"met": 0, "missing": (1 << ORDER_BITS) - 5}} if queue else {})
        load = Instruction(Opcode.LOAD, ONCE | {"element_log2": 2, "fence": int(queue is None)})
        ctx.set(block.i_writes_idle, queue is not None)
        ctx.set(block.i_entry.payload, entries_of([load], orders)[0])
        ctx.set(block.i_entry.valid, 1)
        await bench.repeat(ctx, 20)
        seen["before"] = set(around.states[-19:])
        ctx.set(block.i_entry.payload.orders, NO_ORDER)
        ctx.set(block.i_writes_idle, 1)
        seen["held"] = around.now
        await bench.until(ctx, block.i_entry.ready)
        ctx.set(block.i_entry.valid, 0)
        await ctx.tick()

    bench.run(block, host, background=[around.serve])
    assert seen["before"] == {state}
    # begin, row, burst
    assert around.sent == [seen["held"] + 2]


def test_faults_name_their_instruction(bench):
    """Errors in the first of two beats of an element, in a beat of the next LOAD, and none of the others'."""
    config = CONFIGS["thin"]
    loads = [
        Instruction(Opcode.LOAD, ONCE | {"element_log2": 2, "memory_address": 64 * n, "n_x": 3, "target": Target.WEIGHTS})
        for n in range(4)
    ]
    around = Around(config, bad={64 + 4, 128 + 10})
    around.run(bench, loads)
    assert around.faults == [11, 12]
