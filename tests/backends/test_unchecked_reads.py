"""No word of a memory without a check of its addresses is wanted in the cycle in which it is written.

A simulated memory gives the old word then, a block RAM whatever it likes: here it gives a wrong one, and all results stay right.
"""

import numpy as np
import pytest
from amaranth.hdl import Elaboratable, Module, Mux, Signal, Value
from amaranth.lib import memory
from amaranth.sim import Simulator

import rtl.accumulators
import rtl.scratchpad
import rtl.store
import rtl.weights
from accel import golden
from accel.compiler import compile_network
from accel.config import PRESETS
from accel.frontends import load_network, sample_images
from accel.images import as_images
from accel.program import MemoryTiming
from accel.testing import assert_time_is_known, random_image, random_network
from sim.export import verilog_of
from sim.verilator import VerilatorBackend, engine_verilog, missing_tool

CONFIG = PRESETS["small"]
USERS = (rtl.accumulators, rtl.scratchpad, rtl.store, rtl.weights)


class Spiteful(Elaboratable):
    """A memory whose word comes out inverted when it is read in the cycle in which it is written."""

    def __init__(self, *, shape, depth, init=()):
        self.memory = memory.Memory(shape=shape, depth=depth, init=init)
        self.reads = []
        self.writes = []

    def read_port(self):
        inside = self.memory.read_port()
        self.reads.append((inside, inside.signature.create()))
        return self.reads[-1][1]

    def write_port(self, **options):
        self.writes.append(self.memory.write_port(**options))
        return self.writes[-1]

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = self.memory
        for inside, outside in self.reads:
            meets = Signal()
            with m.If(outside.en):
                m.d.sync += meets.eq(
                    Value.cast(sum((port.en.any() & (port.addr == outside.addr) for port in self.writes), start=False)).any()
                )
            word = Value.cast(inside.data)
            m.d.comb += [
                inside.en.eq(outside.en),
                inside.addr.eq(outside.addr),
                Value.cast(outside.data).eq(Mux(meets, ~word, word)),
            ]
        return m


def test_the_memory_is_spiteful():
    m = Module()
    m.submodules.bank = bank = Spiteful(shape=8, depth=4, init=[1, 2, 3, 4])
    read, write = bank.read_port(), bank.write_port()
    seen = []

    async def run(ctx):
        ctx.set(read.en, 1)
        for write_address in (0, 2, 2):
            ctx.set(write.en, 1)
            ctx.set(read.addr, 2)
            ctx.set(write.addr, write_address)
            ctx.set(write.data, 9)
            await ctx.tick()
            seen.append(ctx.get(read.data))

    simulator = Simulator(m)
    simulator.add_clock(1e-6)
    simulator.add_testbench(run)
    simulator.run()
    assert seen == [3, 3 ^ 0xFF, 9 ^ 0xFF]


@pytest.fixture(scope="module")
def spiteful():
    if (missing := missing_tool()) is not None:
        pytest.skip(missing)
    with pytest.MonkeyPatch.context() as patch:
        for user in USERS:
            patch.setattr(user, "ram", Spiteful)
        text = verilog_of(CONFIG)
    assert text != engine_verilog(CONFIG)
    return VerilatorBackend(verilog=lambda _: text)


def check(backend, network, images, timing, what):
    program = compile_network(network, CONFIG)
    result = backend.run(program, images, timing=timing)
    np.testing.assert_array_equal(result.outputs, golden.run(network, np.stack(images)), err_msg=what)
    assert_time_is_known(program, timing, result, what)


@pytest.mark.slow
@pytest.mark.parametrize("latency", [1, 20])
def test_nothing_comes_of_it_in_lenet(spiteful, latency):
    network = load_network("lenet5")
    samples = sample_images("lenet5")
    images = list(as_images(samples[0][:2], network))
    check(spiteful, network, images, MemoryTiming(latency=latency), "lenet5")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3000, 3024))
def test_nothing_comes_of_it_in_random_networks(spiteful, seed):
    rng = np.random.default_rng(seed)
    network = random_network(rng, 20_000, lanes=CONFIG.lanes)
    check(spiteful, network, [random_image(rng, network)], MemoryTiming(latency=int(rng.integers(1, 41))), f"seed {seed}")
