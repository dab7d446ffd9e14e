"""The Wishbone bridges: every byte and error gets through, whatever the slave's pace; and a network on the whole thing."""

import numpy as np
import pytest
from amaranth.hdl import Module

from accel import golden
from accel.compiler import compile_network
from accel.config import PRESETS
from accel.isa import CSR, Error, register_fields, register_value
from accel.testing import random_image, random_network
from rtl.csr import Registers
from rtl.wishbone import OUTSTANDING, WishboneControl, WishboneEngine, WishboneMemory

BUS = 4
SIZE = 4096
BASE = 0x1000_0000
OKAY, SLVERR = 0, 2


class Slave:
    """A Wishbone slave: pipelined, with a latency, stalls at random; or classic, where an access waits on the bus for its answer.

    ``port`` has the signals by their names without direction. Accesses outside of the memory are answered with err.
    """

    def __init__(self, port, memory, rng, *, latency=1, stall=0.0, classic=False, base=BASE):
        self.port, self.memory, self.rng, self.base = port, memory, rng, base
        self.latency, self.stall, self.classic = latency, stall, classic
        self.most = 0
        """Most accesses that were under way at once."""

    def access(self, we, adr, sel, dat):
        """Return (data read, error), after writing."""
        width = len(self.port["sel"])
        assert adr % width == 0
        offset = adr - self.base
        if not 0 <= offset <= len(self.memory) - width:
            return 0, True
        place = self.memory[offset : offset + width]
        value = int.from_bytes(place.tobytes(), "little")
        for n in range(width):
            if we and sel >> n & 1:
                place[n] = dat >> 8 * n & 0xFF
        return value, False

    async def serve(self, ctx):
        port = self.port
        garbage = (1 << len(port["dat_r"])) - 1
        inputs = [port[name] for name in ("cyc", "stb", "we", "adr", "sel", "dat_w")]
        queue = []  # (cycle of the answer, answer)
        held = None
        age = cycle = 0
        while True:
            due = bool(queue) and queue[0][0] <= cycle
            data, error = queue.pop(0)[1] if due else (garbage, False)
            stalled = not due if self.classic else bool(self.rng.random() < self.stall)
            for name, value in (("ack", due and not error), ("err", due and error), ("dat_r", data), ("stall", stalled)):
                ctx.set(port[name], value)
            _, _, cyc, stb, *request = await ctx.tick().sample(*inputs)
            request = [int(value) for value in request]
            assert cyc or not (stb or due or queue), "cyc fell before the last answer"
            assert held is None or (stb and request == held), "a request changed before it was taken"
            held = request if stb and stalled else None
            age = age + 1 if held else 0
            if stb and self.classic and not due and not queue and age > self.latency:
                queue.append((cycle + 1, self.access(*request)))
            elif stb and not self.classic and not stalled:
                queue.append((cycle + self.latency, self.access(*request)))
            self.most = max(self.most, len(queue))
            cycle += 1


def plain_port(port):
    return {name: getattr(port, name) for name in port.signature.members}


PACES = {
    "at once": dict(latency=1),
    "slow": dict(latency=12),
    "stalling": dict(latency=3, stall=0.4),
    "classic": dict(latency=0, classic=True),
    "classic, slow": dict(latency=3, classic=True, stall=0.3),
}


def bursts_of(rng):
    """Return random bursts, reads in one half of the memory and writes in the other, some of both beyond its end."""
    reads, writes = [], []
    for list_, start in ((reads, 0), (writes, SIZE // 2)):
        for _ in range(12):
            length = int(rng.integers(1, 65))
            first = int(rng.integers(0, SIZE // 2 - BUS * length + 1)) // BUS * BUS
            beyond = rng.random() < 0.2
            list_.append((BASE + (SIZE if beyond else start) + first, length))
    return reads, writes


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("pace", PACES)
def test_bursts_reach_memory_and_come_back(bench, pace, seed):
    rng = np.random.default_rng(seed)
    memory = rng.integers(0, 256, SIZE, np.uint8)
    expected = memory.copy()
    reads, writes = bursts_of(rng)
    block = WishboneMemory(bus_bytes=BUS)
    axi = block.axi
    slave = Slave(plain_port(block.wb), memory, rng, **PACES[pace])
    beats = [[(int(rng.integers(1 << 32)), int(rng.integers(16))) for _ in range(length)] for _, length in writes]
    for (address, _), data in zip(writes, beats, strict=True):
        for n, (word, strobe) in enumerate(data):
            for byte in range(BUS):
                offset = address - BASE + BUS * n + byte
                if strobe >> byte & 1 and offset < SIZE:
                    expected[offset] = word >> 8 * byte & 0xFF
    note = f"{pace}, seed {seed}"

    async def offer(ctx, valid, ready, signals, values):
        for row in values:
            while rng.random() < 0.2:
                await ctx.tick()
            for signal, value in zip(signals, row, strict=True):
                ctx.set(signal, value)
            ctx.set(valid, 1)
            await bench.until(ctx, ready)
            ctx.set(valid, 0)

    async def take(ctx, valid, ready, signals, count):
        seen = []
        while len(seen) < count:
            ctx.set(ready, bool(rng.random() < 0.8))
            _, _, there, taken, *values = await ctx.tick().sample(valid, ready, *signals)
            if there and taken:
                seen.append(tuple(map(int, values)))
        ctx.set(ready, 0)
        return seen

    async def read_addresses(ctx):
        await offer(ctx, axi.arvalid, axi.arready, (axi.araddr, axi.arlen), [(a, n - 1) for a, n in reads])

    async def write_addresses(ctx):
        await offer(ctx, axi.awvalid, axi.awready, (axi.awaddr, axi.awlen), [(a, n - 1) for a, n in writes])

    async def write_data(ctx):
        await offer(ctx, axi.wvalid, axi.wready, (axi.wdata, axi.wstrb), [beat for data in beats for beat in data])

    async def read_data(ctx):
        total = sum(length for _, length in reads)
        seen = await take(ctx, axi.rvalid, axi.rready, (axi.rdata, axi.rresp, axi.rlast), total)
        wanted = []
        for address, length in reads:
            for n in range(length):
                offset = address - BASE + BUS * n
                good = offset < SIZE
                word = int.from_bytes(expected[offset : offset + BUS].tobytes(), "little") if good else 0
                wanted.append((word, OKAY if good else SLVERR, int(n == length - 1)))
        assert seen == wanted, note

    async def write_responses(ctx):
        seen = await take(ctx, axi.bvalid, axi.bready, (axi.bresp,), len(writes))
        assert seen == [(OKAY if address - BASE < SIZE else SLVERR,) for address, _ in writes], note

    bench.run(
        block,
        *(read_addresses, write_addresses, write_data, read_data, write_responses),
        background=[slave.serve],
        limit=30_000,
    )
    assert np.array_equal(memory, expected), note
    assert slave.most <= OUTSTANDING, note


def test_a_burst_takes_a_cycle_a_beat(bench):
    block = WishboneMemory(bus_bytes=BUS)
    axi = block.axi
    memory = np.arange(SIZE, dtype=np.uint64).astype(np.uint8)
    slave = Slave(plain_port(block.wb), memory, np.random.default_rng(0), latency=20)
    cycles = []

    async def host(ctx):
        ctx.set(axi.rready, 1)
        ctx.set(axi.araddr, BASE)
        ctx.set(axi.arlen, 63)
        ctx.set(axi.arvalid, 1)
        await bench.until(ctx, axi.arready)
        ctx.set(axi.arvalid, 0)
        cycle = 0
        while len(cycles) < 64:
            _, _, valid = await ctx.tick().sample(axi.rvalid)
            cycle += 1
            if valid:
                cycles.append(cycle)

    bench.run(block, host, background=[slave.serve])
    assert cycles == list(range(cycles[0], cycles[0] + 64))


class Host:
    """A Wishbone master, pipelined or classic."""

    def __init__(self, bench, port, *, classic):
        self.bench, self.port, self.classic = bench, port, classic

    async def access(self, ctx, adr, we, dat=0, sel=15):
        """Return (err, data read) of one access."""
        port = self.port
        for name, value in (("adr", adr), ("we", we), ("dat_w", dat), ("sel", sel), ("cyc", 1), ("stb", 1)):
            ctx.set(port[name], value)
        for _ in range(20):
            _, _, stall, ack, err, data = await ctx.tick().sample(port["stall"], port["ack"], port["err"], port["dat_r"])
            assert not (ack and err)
            if not stall and not self.classic:
                ctx.set(port["stb"], 0)
            if ack or err:
                ctx.set(port["stb"], 0)
                ctx.set(port["cyc"], 0)
                return bool(err), int(data)
        raise AssertionError("no answer")

    async def read(self, ctx, register):
        error, value = await self.access(ctx, register, 0)
        assert not error
        return value

    async def write(self, ctx, register, value):
        error, _ = await self.access(ctx, register, 1, value)
        assert not error


@pytest.mark.parametrize("classic", [False, True], ids=["pipelined", "classic"])
def test_registers_are_read_and_written_and_refuse(bench, classic):
    m = Module()
    m.submodules.control = control = WishboneControl()
    m.submodules.registers = registers = Registers(digest=0x1234_5678_9ABC_DEF0)
    lite = registers.bus
    for name, member in lite.signature.members.items():
        ours, theirs = getattr(control.lite, name), getattr(lite, name)
        m.d.comb += ours.eq(theirs) if member.flow.name == "Out" else theirs.eq(ours)
    starts = []

    async def host(ctx):
        port = Host(bench, plain_port(control.wb), classic=classic)
        assert await port.access(ctx, CSR.DIGEST_LOW, 0) == (False, 0x9ABC_DEF0)
        assert await port.access(ctx, CSR.DIGEST_HIGH, 0) == (False, 0x1234_5678)
        await port.write(ctx, CSR.BASE, 0x7654_3210)
        assert await port.access(ctx, CSR.BASE, 0) == (False, 0x7654_3000)
        assert (await port.access(ctx, CSR.BASE, 1, 0, sel=7))[0]
        assert (await port.access(ctx, 0xFC, 0))[0]
        assert (await port.access(ctx, CSR.STATUS, 1, 1))[0]
        await port.write(ctx, CSR.CONTROL, register_value(CSR.CONTROL, start=1))
        # a master that gives up half way does no harm
        ctx.set(control.wb.cyc, 1)
        ctx.set(control.wb.stb, 1)
        ctx.set(control.wb.we, 0)
        await ctx.tick()
        ctx.set(control.wb.cyc, 0)
        ctx.set(control.wb.stb, 0)
        await ctx.tick()
        assert await port.access(ctx, CSR.BASE, 0) == (False, 0x7654_3000)

    async def watch(ctx):
        while True:
            _, _, start = await ctx.tick().sample(registers.o_start)
            starts.append(int(start))

    bench.run(m, host, background=[watch])
    assert sum(starts) == 1


def engine_port(engine, prefix, master):
    """Return the signals of one port of the engine by their names without direction."""
    out, into = ("o", "i") if master else ("i", "o")
    directions = dict.fromkeys(("adr", "sel", "we", "cyc", "stb", "dat"), out)
    port = {name: getattr(engine, f"{prefix}{name}_{way}") for name, way in directions.items()}
    port |= {name: getattr(engine, f"{prefix}{name}_{into}") for name in ("ack", "err", "stall")}
    return port | {"dat_w": port["dat"], "dat_r": getattr(engine, f"{prefix}dat_{into}")}


@pytest.mark.parametrize("pace", ["at once", "stalling", "classic"])
def test_a_network_runs_from_memory_to_memory(bench, pace):
    """The whole engine behind Wishbone: a random network to the byte, then a program of another configuration, which it refuses."""
    seed = 5
    rng = np.random.default_rng(seed)
    network = random_network(rng, 3000)
    config = PRESETS["tiny"]
    program = compile_network(network, config)
    image = random_image(rng, network)
    memory = program.memory(image)
    engine = WishboneEngine(config)
    slave = Slave(engine_port(engine, "m_wb_", True), memory, rng, **PACES[pace])
    note = f"{pace}, seed {seed}"

    async def run(ctx, host):
        await host.write(ctx, CSR.CONTROL, register_value(CSR.CONTROL, start=1))
        await bench.until(ctx, engine.interrupt)
        return register_fields(CSR.STATUS, await host.read(ctx, CSR.STATUS))

    async def testbench(ctx):
        host = Host(bench, engine_port(engine, "s_wb_", False), classic=PACES[pace].get("classic", False))
        await host.write(ctx, CSR.BASE, BASE)
        await host.write(ctx, CSR.INTERRUPT_ENABLE, 1)
        assert await run(ctx, host) == {"busy": 0, "done": 1, "error": 0, "code": 0}, note
        np.testing.assert_array_equal(program.result(memory), golden.run(network, image[None])[0], err_msg=note)
        memory[8] ^= 1  # in the digest
        assert await run(ctx, host) == {"busy": 0, "done": 0, "error": 1, "code": Error.BAD_DIGEST}, note
        await host.write(ctx, CSR.CONTROL, register_value(CSR.CONTROL, clear=1))
        assert await host.read(ctx, CSR.STATUS) == 0

    bench.run(engine, testbench, background=[slave.serve], limit=100_000)
