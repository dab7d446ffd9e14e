"""The read port: two masters' bursts on one channel, the first one's first, each one's beats back to it."""

from collections import deque

import numpy as np
import pytest

from rtl.read_port import OUTSTANDING, ReadPort

BASE = 0xFFFF_F000


class Memory:
    """Answers each burst, in order, with beats that carry the burst's number; the sizes of its delays are random."""

    def __init__(self, bench, block, rng, *, stall, delay=0):
        self.until = bench.until
        self.block, self.rng, self.stall, self.delay = block, rng, stall, delay
        self.bursts = []
        self.cycles = []
        self.waiting = deque()
        self.under_way = self.most = 0
        self.cycle = 0

    async def accept(self, ctx):
        block = self.block
        shown = None
        while True:
            ctx.set(block.o_address.ready, self.rng.random() >= self.stall)
            _, _, valid, ready, address, length, idle = await ctx.tick().sample(
                block.o_address.valid,
                block.o_address.ready,
                block.o_address.payload.address,
                block.o_address.payload.length,
                block.o_idle,
            )
            assert not (idle and (valid or self.under_way)), "idle with a burst under way"
            if shown is not None:
                assert (valid, address, length) == (1, *shown), "the address changed before it was taken"
            shown = (address, length) if valid and not ready else None
            if valid and ready:
                number = len(self.bursts)
                self.bursts.append((address, length))
                self.cycles.append(self.cycle)
                for n in range(length + 1):
                    error = int(self.rng.random() < 0.2)
                    self.waiting.append((self.cycle + self.delay, {"data": (number << 8 | n), "error": error, "last": n == length}))
                self.under_way += 1
                self.most = max(self.most, self.under_way)
            self.cycle += 1

    async def answer(self, ctx):
        block = self.block
        while True:
            while not self.waiting or self.waiting[0][0] > self.cycle or self.rng.random() < self.stall:
                ctx.set(block.i_beat.payload, {"data": 0xDEAD, "error": 1, "last": 1})
                await ctx.tick()
            ctx.set(block.i_beat.payload, self.waiting[0][1])
            ctx.set(block.i_beat.valid, 1)
            await self.until(ctx, block.i_beat.ready)
            ctx.set(block.i_beat.valid, 0)
            self.under_way -= self.waiting.popleft()[1]["last"]


@pytest.mark.parametrize("stall", [0.0, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_each_master_gets_its_own_beats(bench, seed, stall):
    rng = np.random.default_rng([seed, int(stall * 10)])
    block = ReadPort(bus_bytes=4)
    memory = Memory(bench, block, rng, stall=stall, delay=int(rng.integers(0, 20)))
    wanted = {
        name: [{"address": int(rng.integers(0, 1 << 32)), "length": int(rng.integers(0, 5))} for _ in range(40)]
        for name in ("fetch", "load")
    }
    got = {"fetch": [], "load": []}
    idle = []

    def sender(name):
        async def send(ctx):
            ctx.set(block.i_base, BASE)
            await bench.send(ctx, getattr(block, f"i_{name}"), wanted[name], np.random.default_rng(seed), stall)
            total = sum(burst["length"] + 1 for burst in wanted[name])
            while len(got[name]) < total:
                await ctx.tick()
            await ctx.tick()
            idle.append(ctx.get(block.o_idle))

        return send

    def receiver(name):
        async def receive(ctx):
            await bench.receive(ctx, getattr(block, f"o_{name}_beat"), np.random.default_rng(seed + 9), stall, got[name].append)

        return receive

    background = [memory.accept, memory.answer, receiver("fetch"), receiver("load")]
    bench.run(block, sender("fetch"), sender("load"), background=background)
    assert idle[-1], f"seed {seed}: not idle at the end"
    # every burst went out once, each master's in order
    sent = [((burst["address"] + BASE) % (1 << 32), burst["length"]) for bursts in wanted.values() for burst in bursts]
    assert sorted(memory.bursts) == sorted(sent), f"seed {seed}"
    for name, bursts in wanted.items():
        beats = iter(got[name])
        for burst in bursts:
            taken = [next(beats) for _ in range(burst["length"] + 1)]
            number = taken[0]["data"] >> 8
            assert memory.bursts[number] == ((burst["address"] + BASE) % (1 << 32), burst["length"]), f"seed {seed}: {name}"
            assert [beat["data"] for beat in taken] == [number << 8 | n for n in range(burst["length"] + 1)], f"seed {seed}: {name}"
            assert [beat["last"] for beat in taken] == [0] * burst["length"] + [1]
    assert memory.most <= OUTSTANDING


def test_fetch_goes_first_and_an_address_leaves_every_cycle(bench):
    block = ReadPort(bus_bytes=2)
    memory = Memory(bench, block, np.random.default_rng(0), stall=0.0, delay=1000)

    async def both(ctx):
        ctx.set(block.i_fetch.valid, 1)
        ctx.set(block.i_load.valid, 1)
        ctx.set(block.i_load.payload, {"address": 0x800, "length": 0})
        for n in range(5):
            ctx.set(block.i_fetch.payload, {"address": n * 0x10, "length": 7})
            assert ctx.get(block.i_fetch.ready)
            assert not ctx.get(block.i_load.ready)
            await ctx.tick()
        ctx.set(block.i_fetch.valid, 0)
        assert ctx.get(block.i_load.ready)
        await bench.repeat(ctx, 3)
        ctx.set(block.i_load.valid, 0)
        await bench.repeat(ctx, 3)

    bench.run(block, both, background=[memory.accept])
    assert memory.bursts == [*((n * 0x10, 7) for n in range(5)), *[(0x800, 0)] * 3]
    # registered: in the cycle after it was taken
    assert memory.cycles == list(range(1, 9))


def test_no_more_bursts_than_can_be_remembered(bench):
    block = ReadPort(bus_bytes=2)
    memory = Memory(bench, block, np.random.default_rng(0), stall=0.0, delay=200)

    async def load(ctx):
        bursts = [{"address": 64 * n, "length": 1} for n in range(OUTSTANDING + 8)]
        await bench.send(ctx, block.i_load, bursts, np.random.default_rng(0), 0)
        await bench.until(ctx, block.o_idle)

    async def take(ctx):
        await bench.receive(ctx, block.o_load_beat, np.random.default_rng(0), 0, lambda beat: None)

    bench.run(block, load, background=[memory.accept, memory.answer, take])
    assert memory.most == OUTSTANDING
    assert len(memory.bursts) == OUTSTANDING + 8
