"""Nested loops: counters that say which loop steps, and addresses that follow them."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Addresses", "Counters"]


class Counters(wiring.Component):
    """Counts nested loops, the last innermost.

    Parameters
    ----------
    widths
        Bits of each loop's count.

    Members
    -------
    i_counts
        Iterations of each loop, at least 1; they stay as long as it counts.
    i_start
        Begin with the first iteration.
    i_step
        Go on to the next. After the last comes the first again.
    o_steps
        One bit a loop: which loop goes on with the next step, the loops inside of it starting anew; none after the last.
    o_last
        This is the last iteration of all loops.
    """

    def __init__(self, *, widths: Sequence[int]) -> None:
        self.widths = tuple(widths)
        counts = data.StructLayout({f"_{n}": width for n, width in enumerate(self.widths)})
        loops = len(self.widths)
        super().__init__({"i_counts": In(counts), "i_start": In(1), "i_step": In(1), "o_steps": Out(loops), "o_last": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        inside_at_end: Value = Const(1)
        for loop, width in reversed(list(enumerate(self.widths))):
            count = self.i_counts[f"_{loop}"]
            left = Signal(width, name=f"left_{loop}", reset_less=True)  # iterations after this one
            at_end = Signal(name=f"at_end_{loop}", reset_less=True)  # there is none; a register, for addresses depend on it
            following = (Mux(self.i_start | at_end, count, left) - 1)[:width]
            m.d.comb += self.o_steps[loop].eq(inside_at_end & ~at_end)
            with m.If(self.i_start | (self.i_step & inside_at_end)):
                m.d.sync += [left.eq(following), at_end.eq(following == 0)]
            inside_at_end = inside_at_end & at_end
        m.d.comb += self.o_last.eq(inside_at_end)
        return m


class Addresses(wiring.Component):
    """The address ``base + i*stride_i + j*stride_j + ...`` of nested loops, by one adder.

    For each loop it keeps the address at which the loop's iteration began.

    Parameters
    ----------
    loops
        Number of loops.
    width
        Bits of an address; it wraps.

    Members
    -------
    i_base, i_strides
        The first address, and what each loop adds; they stay.
    i_start
        Begin with the first address.
    i_step, i_steps
        Go on: the loop whose bit is set, at most one, the loops inside of it starting anew (``Counters.o_steps``).
    o_address
        The address.
    """

    def __init__(self, *, loops: int, width: int) -> None:
        self.loops = loops
        self.width = width
        super().__init__(
            {
                "i_base": In(width),
                "i_strides": In(data.ArrayLayout(width, loops)),
                "i_start": In(1),
                "i_step": In(1),
                "i_steps": In(loops),
                "o_address": Out(width),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        begun = [Signal(self.width, name=f"begun_{loop}", reset_less=True) for loop in range(self.loops)]
        start, stride = Signal(self.width), Signal(self.width)
        for loop in range(self.loops):
            with m.If(self.i_steps[loop]):
                m.d.comb += [start.eq(begun[loop]), stride.eq(self.i_strides[loop])]
        following = Mux(self.i_start, self.i_base, (start + stride)[: self.width])
        for loop in range(self.loops):
            with m.If(self.i_start | (self.i_step & self.i_steps[: loop + 1].any())):
                m.d.sync += begun[loop].eq(following)
        m.d.comb += self.o_address.eq(begun[-1])
        return m
