"""The registers on AXI4-Lite: every access, wrong ones too, and the pulses and levels behind them."""

import numpy as np
import pytest

from accel.isa import CSR, ISA_VERSION, Error
from rtl.csr import Registers

OKAY, SLVERR = 0, 2
DIGEST = 0xFEDC_BA98_7654_3210
WRITABLE = (CSR.CONTROL, CSR.BASE, CSR.INTERRUPT_ENABLE)


class Host:
    """A master with an access at a time; each channel begins, and each response is taken, after a delay of its own."""

    def __init__(self, block, delays=(0, 0, 0)):
        self.bus = block.bus
        self.delays = delays

    async def write(self, ctx, address, value, strobes=15):
        bus = self.bus
        address_delay, data_delay, response_delay = self.delays
        address_open = data_open = True
        cycle = 0
        while address_open or data_open:
            ctx.set(bus.awvalid, address_open and cycle >= address_delay)
            ctx.set(bus.awaddr, address if address_open and cycle >= address_delay else 0xFF)
            ctx.set(bus.wvalid, data_open and cycle >= data_delay)
            ctx.set(bus.wdata, value if data_open and cycle >= data_delay else 0xFFFF_FFFF)
            ctx.set(bus.wstrb, strobes)
            _, _, aw, awready, w, wready = await ctx.tick().sample(bus.awvalid, bus.awready, bus.wvalid, bus.wready)
            address_open = address_open and not (aw and awready)
            data_open = data_open and not (w and wready)
            cycle += 1
            assert cycle < 50
        ctx.set(bus.awvalid, 0)
        ctx.set(bus.wvalid, 0)
        return await self._response(ctx, bus.bvalid, bus.bready, bus.bresp, response_delay)

    async def read(self, ctx, address):
        bus = self.bus
        ctx.set(bus.araddr, address)
        ctx.set(bus.arvalid, 1)
        while not (await ctx.tick().sample(bus.arready))[2]:
            pass
        ctx.set(bus.arvalid, 0)
        ctx.set(bus.araddr, 0xFF)
        data = ctx.get(bus.rdata)
        code = await self._response(ctx, bus.rvalid, bus.rready, bus.rresp, self.delays[2])
        assert ctx.get(bus.rdata) == data, "read data did not hold"
        return code, data

    async def _response(self, ctx, valid, ready, code, delay):
        assert ctx.get(valid), "the response comes in the cycle after the access"
        first = ctx.get(code)
        for _ in range(delay):
            await ctx.tick()
            assert ctx.get(valid), "valid fell before ready"
            assert ctx.get(code) == first
        ctx.set(ready, 1)
        await ctx.tick()
        ctx.set(ready, 0)
        assert not ctx.get(valid), "the response stayed after it was taken"
        return first


class Pulses:
    """Counts the cycles in which o_start and o_clear are high."""

    def __init__(self, block):
        self.block = block
        self.start = self.clear = 0

    async def watch(self, ctx):
        while True:
            _, _, start, clear = await ctx.tick().sample(self.block.o_start, self.block.o_clear)
            self.start += start
            self.clear += clear


@pytest.mark.parametrize("delays", [(0, 0, 0), (3, 0, 0), (0, 4, 2), (2, 1, 5)])
def test_reads_and_writes(bench, delays):
    block = Registers(digest=DIGEST)
    host = Host(block, delays)
    pulses = Pulses(block)

    async def testbench(ctx):
        ctx.set(block.i_cycles, 0x1234_5678)
        ctx.set(block.i_error_address, 0x20 * 99)
        constants = {
            CSR.CONTROL: 0,
            CSR.BASE: 0,
            CSR.ERROR_ADDRESS: 0x20 * 99,
            CSR.CYCLES: 0x1234_5678,
            CSR.ISA_VERSION: ISA_VERSION,
            CSR.DIGEST_LOW: DIGEST & 0xFFFF_FFFF,
            CSR.DIGEST_HIGH: DIGEST >> 32,
            CSR.INTERRUPT_ENABLE: 0,
            CSR.STATUS: 0,
        }
        assert set(constants) == set(CSR)
        for register, value in constants.items():
            assert await host.read(ctx, register) == (OKAY, value), register.name
        assert await host.write(ctx, CSR.BASE, 0xABCD_EFFF) == OKAY
        assert ctx.get(block.o_base) == 0xABCD_E000
        assert await host.read(ctx, CSR.BASE) == (OKAY, 0xABCD_E000)
        assert await host.write(ctx, CSR.INTERRUPT_ENABLE, 0xFFFF_FFFF) == OKAY
        assert await host.read(ctx, CSR.INTERRUPT_ENABLE) == (OKAY, 1)
        assert (pulses.start, pulses.clear) == (0, 0)
        assert await host.write(ctx, CSR.CONTROL, 1) == OKAY
        assert (pulses.start, pulses.clear) == (1, 0)
        assert await host.write(ctx, CSR.CONTROL, 2) == OKAY
        assert (pulses.start, pulses.clear) == (1, 1)
        assert await host.write(ctx, CSR.CONTROL, 0) == OKAY
        assert (pulses.start, pulses.clear) == (1, 1)

    bench.run(block, testbench, background=[pulses.watch])


def test_status_shows_busy_done_and_error(bench):
    block = Registers(digest=DIGEST)
    host = Host(block)

    async def testbench(ctx):
        for busy, done, error in [(1, 0, Error.NONE), (0, 1, Error.NONE), *((0, 0, error) for error in Error)]:
            ctx.set(block.i_busy, busy)
            ctx.set(block.i_done, done)
            ctx.set(block.i_error, error)
            expected = busy | done << 1 | (error is not Error.NONE) << 2 | error << 8
            assert await host.read(ctx, CSR.STATUS) == (OKAY, expected)

    bench.run(block, testbench)


def test_wrong_accesses_answer_slverr_and_change_nothing(bench):
    block = Registers(digest=DIGEST)
    host = Host(block)
    pulses = Pulses(block)

    async def testbench(ctx):
        await host.write(ctx, CSR.BASE, 0x5555_5000)
        await host.write(ctx, CSR.INTERRUPT_ENABLE, 1)
        for address in range(256):
            if address not in list(CSR):
                assert await host.read(ctx, address) == (SLVERR, 0), hex(address)
            if address not in WRITABLE:
                assert await host.write(ctx, address, 0) == SLVERR, hex(address)
        for strobes in range(15):
            for register in WRITABLE:
                assert await host.write(ctx, register, 0xFFFF_FFFE, strobes) == SLVERR, (
                    f"{register.name} with strobes {strobes:04b}"
                )
        assert (pulses.start, pulses.clear) == (0, 0)
        assert await host.read(ctx, CSR.BASE) == (OKAY, 0x5555_5000)
        assert await host.read(ctx, CSR.INTERRUPT_ENABLE) == (OKAY, 1)

    bench.run(block, testbench)


def test_base_stays_while_busy(bench):
    block = Registers(digest=DIGEST)
    host = Host(block)

    async def testbench(ctx):
        await host.write(ctx, CSR.BASE, 0x1000)
        ctx.set(block.i_busy, 1)
        assert await host.write(ctx, CSR.BASE, 0x2000) == OKAY
        assert ctx.get(block.o_base) == 0x1000
        ctx.set(block.i_busy, 0)
        assert await host.write(ctx, CSR.BASE, 0x2000) == OKAY
        assert ctx.get(block.o_base) == 0x2000

    bench.run(block, testbench)


def test_interrupt_is_a_level(bench):
    block = Registers(digest=DIGEST)
    host = Host(block)

    async def testbench(ctx):
        for enabled in (0, 1):
            await host.write(ctx, CSR.INTERRUPT_ENABLE, enabled)
            for done, error in [(0, Error.NONE), (1, Error.NONE), (0, Error.BAD_DIGEST), (1, Error.READ_FAULT), (0, Error.NONE)]:
                ctx.set(block.i_done, done)
                ctx.set(block.i_error, error)
                await ctx.tick()
                assert ctx.get(block.o_interrupt) == int(enabled and bool(done or error))

    bench.run(block, testbench)


def test_one_access_at_a_time(bench):
    """While a response waits nothing more is taken, and the response holds."""
    block = Registers(digest=DIGEST)
    bus = block.bus

    async def testbench(ctx):
        for signal, value in [(bus.awaddr, CSR.BASE), (bus.wdata, 0x1000), (bus.wstrb, 15), (bus.araddr, CSR.ISA_VERSION)]:
            ctx.set(signal, value)
        for signal in (bus.awvalid, bus.wvalid, bus.arvalid):
            ctx.set(signal, 1)
        await ctx.tick()
        ctx.set(bus.awaddr, 0xFC)
        ctx.set(bus.araddr, 0xFC)
        for _ in range(5):
            assert not ctx.get(bus.awready | bus.wready | bus.arready)
            await ctx.tick()
            assert (ctx.get(bus.bvalid), ctx.get(bus.bresp)) == (1, OKAY)
            assert (ctx.get(bus.rvalid), ctx.get(bus.rresp), ctx.get(bus.rdata)) == (1, OKAY, ISA_VERSION)
        ctx.set(bus.bready, 1)
        ctx.set(bus.rready, 1)
        await ctx.tick()
        assert ctx.get(bus.awready & bus.wready & bus.arready)
        await ctx.tick()
        assert (ctx.get(bus.bresp), ctx.get(bus.rresp), ctx.get(bus.rdata)) == (SLVERR, SLVERR, 0)

    bench.run(block, testbench)


@pytest.mark.parametrize("seed", range(3))
def test_reads_and_writes_at_once(bench, seed):
    """Both directions under random delays: every access is answered once, in order."""
    block = Registers(digest=DIGEST)
    rng = np.random.default_rng(seed)
    written = []

    async def writer(ctx):
        for n in range(40):
            host = Host(block, tuple(int(d) for d in rng.integers(0, 4, 3)))
            good = bool(rng.integers(0, 2))
            code = await host.write(ctx, CSR.BASE if good else 0x40, n << 12)
            assert code == (OKAY if good else SLVERR), f"seed {seed}"
            if good:
                written.append(n << 12)
                assert ctx.get(block.o_base) == n << 12, f"seed {seed}"

    async def reader(ctx):
        for _ in range(60):
            host = Host(block, (0, 0, int(rng.integers(0, 4))))
            code, value = await host.read(ctx, CSR.BASE)
            assert code == OKAY
            assert value in {0, *(n << 12 for n in range(40))}, f"seed {seed}"

    bench.run(block, writer, reader)
    assert written
