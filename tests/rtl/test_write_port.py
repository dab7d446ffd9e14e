"""The write port: rows of words become full beats and long bursts, and memory holds what the strobes say."""

from collections import deque

import numpy as np
import pytest

from accel.program import MemoryTiming
from rtl.write_port import BURST_BEATS, OUTSTANDING, WritePort
from sim.memory import MasterSignals, Memory

SIZE = 1 << 15


class Slave:
    """The memory model on the write channels (which checks the protocol), and what it saw."""

    def __init__(self, block, *, bus_bytes, timing, size=SIZE, seed=0):
        self.block = block
        self.bytes = np.random.default_rng(seed).integers(0, 256, size, np.uint8)
        self.memory = Memory(self.bytes, base=0, bus_bytes=bus_bytes, timing=timing)
        self.bus_bytes = bus_bytes
        self.bursts = []
        self.strobes = []
        self.data_cycles = []
        self.address_shown = []
        self.faults = []
        self.acknowledged = 0
        self.most = 0

    async def serve(self, ctx):
        block, memory = self.block, self.memory
        was_shown = False
        while True:
            memory.drive()
            ctx.set(block.o_address.ready, memory.awready)
            ctx.set(block.o_data.ready, memory.wready)
            ctx.set(block.i_response.valid, memory.bvalid)
            ctx.set(block.i_response.payload.error, memory.bresp >> 1)
            _, _, aw, address, length, w, data, strobe, last, bready, fault, index = await ctx.tick().sample(
                block.o_address.valid,
                block.o_address.payload.address,
                block.o_address.payload.length,
                block.o_data.valid,
                block.o_data.payload.data,
                block.o_data.payload.strobe,
                block.o_data.payload.last,
                block.i_response.ready,
                block.o_fault,
                block.o_fault_index,
            )
            if aw and not was_shown:
                self.address_shown.append(memory.cycle)
            was_shown = aw and not memory.awready
            if aw and memory.awready:
                self.bursts.append((address, length + 1))
            if w and memory.wready:
                self.strobes.append(strobe)
                self.data_cycles.append(memory.cycle)
            self.acknowledged += memory.bvalid and bready
            self.most = max(self.most, len(self.bursts) - self.acknowledged)
            if fault:
                self.faults.append(index)
            size = self.bus_bytes.bit_length() - 1
            memory.step(MasterSignals(address, length, size, 1, aw, data, strobe, last, w, bready, 0, 0, size, 1, 0, 1))


def ref_bursts(transfers, word_bytes, bus_bytes):
    """Return the bursts of transfers: each row's beats, cut at multiples of ``BURST_BEATS``."""
    bursts = []
    for address, stride, n_x, n_y, _ in transfers:
        for y in range(n_y):
            begin = address + y * stride
            beat, end = begin // bus_bytes, (begin + n_x * word_bytes - 1) // bus_bytes + 1
            while beat < end:
                cut = min(end, (beat // BURST_BEATS + 1) * BURST_BEATS)
                bursts.append((beat * bus_bytes, cut - beat))
                beat = cut
    return bursts


def make_words(rng, transfers, word_bytes, content):
    """Return the transfers' words as payloads, and put them into ``content`` as their strobes say."""
    words = []
    for address, stride, n_x, n_y, _ in transfers:
        for y in range(n_y):
            for x in range(n_x):
                at = address + y * stride + x * word_bytes
                data = rng.integers(0, 256, word_bytes, np.uint8)
                strobe = (1 << word_bytes) - 1 if rng.random() < 0.5 else int(rng.integers(0, 1 << word_bytes))
                for n in range(word_bytes):
                    if strobe >> n & 1:
                        content[at + n] = data[n]
                words.append(
                    {"data": int.from_bytes(data, "little"), "strobe": strobe, "row_last": int(x == n_x - 1), "address": at % 64}
                )
    return words


def payload(transfer):
    return dict(zip(("address", "stride_y", "n_x", "n_y", "index"), transfer, strict=True))


def run(bench, seed, word_bytes, bus_bytes, transfers, timing, stall, *, limit=9000):
    """Write everything and return the slave; memory is as it must be, and in the bursts that must be."""
    rng = np.random.default_rng([seed, word_bytes, bus_bytes])
    block = WritePort(word_bytes=word_bytes, bus_bytes=bus_bytes)
    slave = Slave(block, bus_bytes=bus_bytes, timing=timing, seed=seed)
    expected = slave.bytes.copy()
    words = make_words(rng, transfers, word_bytes, expected)

    async def announce(ctx):
        await bench.send(ctx, block.i_transfer, [payload(transfer) for transfer in transfers], np.random.default_rng(seed), stall)

    async def deliver(ctx):
        # the output stage delivers no word before its transfer was taken
        await bench.repeat(ctx, 2)
        await bench.send(ctx, block.i_word, words, np.random.default_rng(seed + 1), stall)
        await bench.until(ctx, block.o_idle)
        assert slave.acknowledged == len(ref_bursts(transfers, word_bytes, bus_bytes)), f"seed {seed}: idle too early"

    bench.run(block, announce, deliver, background=[slave.serve], limit=limit)
    assert np.array_equal(slave.bytes, expected), f"seed {seed}"
    assert slave.bursts == ref_bursts(transfers, word_bytes, bus_bytes), f"seed {seed}"
    assert slave.faults == []
    return slave


@pytest.mark.parametrize(("word_bytes", "bus_bytes"), [(2, 2), (4, 4), (2, 4), (4, 16), (1, 64), (2, 64), (8, 2), (16, 4), (4, 2)])
@pytest.mark.parametrize("stall", [0, 40])
def test_random_transfers(bench, word_bytes, bus_bytes, stall):
    seed = 3
    rng = np.random.default_rng([seed, word_bytes, bus_bytes, stall])
    transfers = []
    free = 0
    for index in range(7):
        n_x, n_y = int(rng.integers(1, 20)), int(rng.integers(1, 5))
        stride = (n_x + int(rng.integers(0, 6))) * word_bytes
        address = free + word_bytes * int(rng.integers(0, 9))
        transfers.append((address, stride, n_x, n_y, 1000 + index))
        free = address + stride * n_y
    timing = MemoryTiming(latency=7, interval=1, stall_seed=seed if stall else None, stall_percent=stall)
    run(bench, seed, word_bytes, bus_bytes, transfers, timing, stall / 100)


@pytest.mark.parametrize(("word_bytes", "bus_bytes"), [(2, 2), (8, 64), (16, 16)])
def test_bursts_end_at_64_beats_and_4096_bytes(bench, word_bytes, bus_bytes):
    line = BURST_BEATS * bus_bytes
    words = line // word_bytes
    transfers = [
        (line - 2 * bus_bytes, 0, 5, 1, 1),  # over one boundary
        (2 * line, 0, words, 1, 2),  # exactly one burst
        (4 * line - word_bytes, 0, words + 2, 1, 3),  # over two
        (6 * line + word_bytes, 0, words - 1, 1, 4),  # up to a boundary and no further
    ]
    slave = run(bench, 5, word_bytes, bus_bytes, transfers, MemoryTiming(latency=5, interval=1), 0)
    for address, beats in slave.bursts:
        assert beats <= BURST_BEATS
        assert address // 4096 == (address + beats * bus_bytes - 1) // 4096


def test_strides_may_go_backwards_through_32_bits(bench):
    """A stride is added modulo 2**32, and rows of one word that share a beat are bursts of their own."""
    transfers = [(96, 4, 1, 3, 1), (64, 0, 2, 1, 2), (8, 100, 3, 3, 3)]
    run(bench, 6, 4, 16, transfers, MemoryTiming(latency=3, interval=1), 0)


@pytest.mark.parametrize(("word_bytes", "bus_bytes"), [(4, 4), (8, 2), (2, 16)])
def test_full_bandwidth(bench, word_bytes, bus_bytes):
    """Within a burst a beat leaves every cycle, as long as words come as fast."""
    beats = BURST_BEATS
    slave = run(bench, 7, word_bytes, bus_bytes, [(0, 0, beats * bus_bytes // word_bytes, 1, 1)], MemoryTiming(latency=9), 0)
    spent = slave.data_cycles[-1] - slave.data_cycles[0] + 1
    # a word is taken in each cycle; a wide beat needs several words
    assert spent == (beats if word_bytes >= bus_bytes else (beats - 1) * bus_bytes // word_bytes + 1)


def test_no_more_bursts_than_can_be_remembered(bench):
    """Twenty bursts of a beat each, against a memory that answers late."""
    transfers = [(n * 8, 4, 1, 2, n) for n in range(10)]
    slave = run(bench, 8, 4, 4, transfers, MemoryTiming(latency=150, interval=1), 0)
    assert slave.most == OUTSTANDING


@pytest.mark.parametrize("latency", [1, 30])
def test_a_fault_names_its_instruction(bench, latency):
    """Transfers whose bursts go beyond memory; responses may come long after, with others' bursts under way."""
    block = WritePort(word_bytes=4, bus_bytes=4)
    slave = Slave(block, bus_bytes=4, timing=MemoryTiming(latency=latency), size=256)
    transfers = [(0, 8, 1, 2, 11), (1024, 8, 1, 2, 22), (64, 0, 3, 1, 33), (252, 0, 2, 1, 44), (128, 4, 1, 1, 55)]
    words = make_words(np.random.default_rng(1), transfers, 4, np.zeros(4096, np.uint8))

    async def announce(ctx):
        await bench.send(ctx, block.i_transfer, [payload(t) for t in transfers], np.random.default_rng(1), 0)

    async def deliver(ctx):
        await bench.repeat(ctx, 2)
        await bench.send(ctx, block.i_word, words, np.random.default_rng(1), 0)
        await bench.until(ctx, block.o_idle)

    bench.run(block, announce, deliver, background=[slave.serve])
    assert slave.faults == [22, 22, 44]


@pytest.mark.parametrize("seed", range(24))
def test_a_halt_finishes_the_burst_and_begins_no_other(bench, seed):
    """Whenever it comes, and whether or not words still arrive: the protocol is kept and the port becomes idle."""
    rng = np.random.default_rng(seed)
    word_bytes, bus_bytes = [(4, 4), (8, 2), (2, 8)][seed % 3]
    block = WritePort(word_bytes=word_bytes, bus_bytes=bus_bytes)
    stall = int(rng.choice([0, 30, 70]))
    timing = MemoryTiming(latency=4, interval=int(rng.integers(1, 4)), stall_seed=seed if stall else None, stall_percent=stall)
    slave = Slave(block, bus_bytes=bus_bytes, timing=timing, seed=seed)
    before = slave.bytes.copy()
    expected = slave.bytes.copy()
    transfers = [(n * 512 + 8, 80, 9, 4, n) for n in range(4)]
    words = deque(make_words(rng, transfers, word_bytes, expected))
    when = int(rng.integers(1, 120))
    pace = float(rng.choice([0.05, 0.3, 1.0]))
    stops = bool(rng.integers(0, 2))  # whether the output stage stands still from the halt on

    async def announce(ctx):
        for transfer in transfers:
            ctx.set(block.i_transfer.payload, payload(transfer))
            ctx.set(block.i_transfer.valid, 1)
            await ctx.tick()
        ctx.set(block.i_transfer.valid, 0)

    async def deliver(ctx):
        await bench.repeat(ctx, 2)
        while words:
            while rng.random() >= pace or (stops and ctx.get(block.i_halt)):
                await ctx.tick()
            ctx.set(block.i_word.payload, words.popleft())
            ctx.set(block.i_word.valid, 1)
            await bench.until(ctx, block.i_word.ready)
            ctx.set(block.i_word.valid, 0)

    async def halt(ctx):
        await bench.repeat(ctx, when)
        ctx.set(block.i_halt, 1)
        halted = slave.memory.cycle
        await bench.until(ctx, block.o_idle)
        assert slave.acknowledged == len(slave.bursts), f"seed {seed}: idle with a burst under way"
        assert len(slave.strobes) == sum(beats for _, beats in slave.bursts), f"seed {seed}: a burst was not finished"
        idle = len(slave.bursts)
        await bench.repeat(ctx, 80)
        assert len(slave.bursts) == idle, f"seed {seed}: a burst began after the port was idle"
        # (an address that was chosen in the cycle of the halt is shown in the one after it)
        assert all(cycle <= halted + 1 for cycle in slave.address_shown), f"seed {seed}: a burst began after the halt"

    bench.run(block, announce, halt, background=[slave.serve, deliver])
    changed = slave.bytes != before
    assert np.array_equal(slave.bytes[changed], expected[changed]), f"seed {seed}: a byte that was never sent"


@pytest.mark.parametrize("first", ["address", "data"])
def test_memory_may_take_either_channel_first(bench, first):
    """AXI lets a memory wait for one channel before it takes the other, whichever it likes."""
    beats = 5
    block = WritePort(word_bytes=4, bus_bytes=4)
    taken = []

    async def announce(ctx):
        await bench.send(ctx, block.i_transfer, [payload((0, 0, beats, 1, 1))], np.random.default_rng(0), 0)
        words = [{"data": n, "strobe": 15, "row_last": int(n == beats - 1), "address": 4 * n} for n in range(beats)]
        await bench.send(ctx, block.i_word, words, np.random.default_rng(0), 0)
        await bench.until(ctx, block.o_idle)

    async def memory(ctx):
        if first == "address":
            ctx.set(block.o_address.ready, 1)
            await bench.until(ctx, block.o_address.valid)
            ctx.set(block.o_address.ready, 0)
        ctx.set(block.o_data.ready, 1)
        while len(taken) < beats:
            _, _, valid, data = await ctx.tick().sample(block.o_data.valid, block.o_data.payload.data)
            if valid:
                taken.append(data)
        ctx.set(block.o_data.ready, 0)
        if first == "data":
            ctx.set(block.o_address.ready, 1)
            await bench.until(ctx, block.o_address.valid)
            ctx.set(block.o_address.ready, 0)
        await bench.repeat(ctx, 2)
        ctx.set(block.i_response.valid, 1)
        await bench.until(ctx, block.i_response.ready)
        ctx.set(block.i_response.valid, 0)

    bench.run(block, announce, memory, limit=200)
    assert taken == list(range(beats))
