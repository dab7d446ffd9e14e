"""What resets a component that has a reset of its own, and what does not."""

import numpy as np
import pytest
from amaranth.back import rtlil
from amaranth.hdl import Module, ResetInserter, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from rtl.reset import OwnReset


class Counters(wiring.Component):
    """Two counters: of one, every bit is reset, of the other none."""

    def __init__(self):
        super().__init__({"o_count": Out(8, init=5), "o_free": Out(8)})

    def elaborate(self, platform):
        m = Module()
        free = Signal(8, reset_less=True)
        m.d.comb += self.o_free.eq(free)
        m.d.sync += [self.o_count.eq(self.o_count + 1), free.eq(free + 1)]
        return m


class Both(wiring.Component):
    """Such counters with a reset of their own, and others without, in a domain that has one."""

    def __init__(self):
        super().__init__({"i_domain": In(1), "i_own": In(1), "o_own": Out(8), "o_free": Out(8), "o_other": Out(8)})

    def elaborate(self, platform):
        m, inner = Module(), Module()
        inner.submodules.own = OwnReset(self.i_own)(own := Counters())
        inner.submodules.other = other = Counters()
        m.submodules.inner = ResetInserter(self.i_domain)(inner)
        m.d.comb += [self.o_own.eq(own.o_count), self.o_free.eq(own.o_free), self.o_other.eq(other.o_count)]
        return m


@pytest.mark.parametrize("seed", range(3))
def test_only_its_own_reset_counts(bench, seed):
    rng = np.random.default_rng(seed)
    block = Both()
    resets = (rng.random((200, 2)) < 0.1).astype(int).tolist()

    async def run(ctx):
        own, other = 5, 5
        for cycle, (by_own, by_domain) in enumerate(resets):
            ctx.set(block.i_own, by_own)
            ctx.set(block.i_domain, by_domain)
            *_, seen, free, beside = await ctx.tick().sample(block.o_own, block.o_free, block.o_other)
            assert (seen, free, beside) == (own, cycle % 256, other), f"seed {seed}, cycle {cycle}"
            own = 5 if by_own else (own + 1) % 256
            other = 5 if by_domain else (other + 1) % 256

    bench.run(block, run)


def test_registers_may_be_driven_in_parts():
    m = Module()
    parts = Signal(6)
    m.d.sync += [parts[0].eq(1), parts[4:].eq(2)]
    reset = Signal()
    wrapped = OwnReset(reset)(m)
    rtlil.convert(wrapped, ports=[reset, parts])
    with pytest.raises(RuntimeError, match="register parts"):
        rtlil.convert(wrapped, ports=[reset, parts])


def test_a_component_is_wrapped_once():
    counters = Counters()
    wrapped = OwnReset(Signal())(counters)
    rtlil.convert(wrapped, ports=[counters.o_count])
    with pytest.raises(RuntimeError, match="register o_count has a reset of its own already: a component is wrapped once"):
        rtlil.convert(wrapped, ports=[counters.o_count])
