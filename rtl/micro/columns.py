"""Eight columns of multiply-accumulate, their finished sums on the way out, and the memory of sums."""

from __future__ import annotations

from amaranth import *
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from rtl.micro.primitives import PairOfProducts

__all__ = ["Columns", "Sums"]

_SUM_BITS = 32


class Columns(wiring.Component):
    """One byte times the weights of all columns each cycle, added up; what was added up leaves column by column.

    ::

        cycle      n        n+1       n+2       n+3       n+4
        i_byte     last               next
        i_take              1
        o_taken                       1
        o_sum                                   column 0  column 1 ...

    Bytes may come in every cycle but those of ``i_take``, and ``i_take`` in every ``columns``-th cycle at most.

    Parameters
    ----------
    columns
        Columns: an even number.

    Members
    -------
    i_byte, i_weights, i_valid
        An activation and each column's weight.
    i_take
        All bytes of the sums were given.
    o_taken
        The sums leave from the next cycle on.
    o_sum
        The sum of the next column in each cycle.
    """

    def __init__(self, *, columns: int) -> None:
        self.columns = columns
        super().__init__(
            {
                "i_byte": In(signed(8)),
                "i_weights": In(data.ArrayLayout(signed(8), columns)),
                "i_valid": In(1),
                "i_take": In(1),
                "o_taken": Out(1),
                "o_sum": Out(signed(_SUM_BITS)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        valid = Signal()
        m.d.sync += [valid.eq(self.i_valid), self.o_taken.eq(self.i_take)]

        leaving: Value = Const(0, signed(_SUM_BITS))
        for pair in reversed(range(self.columns // 2)):
            multiplier = PairOfProducts()
            m.submodules[f"products_{pair}"] = multiplier
            m.d.comb += multiplier.i_common.eq(self.i_byte)
            for half in (1, 0):
                column = 2 * pair + half
                m.d.comb += multiplier.i_operands[half].eq(self.i_weights[column])
                total = Signal(signed(_SUM_BITS), name=f"total_{column}")
                going = Signal(signed(_SUM_BITS), name=f"leaving_{column}", reset_less=True)
                with m.If(self.o_taken):
                    m.d.sync += total.eq(0)
                with m.Elif(valid):
                    m.d.sync += total.eq(total + multiplier.o_products[half])
                m.d.sync += going.eq(Mux(self.o_taken, total, leaving))
                leaving = going
        m.d.comb += self.o_sum.eq(leaving)
        return m


class Sums(wiring.Component):
    """The memory of sums: each is read, and in the next cycle written with what came.

    Parameters
    ----------
    depth
        Sums it holds.

    Members
    -------
    i_address
        The sum to read.
    i_update
        It will be written in the next cycle. The same sum is not read in that one.
    i_value, i_keep, i_maximum
        In that next cycle: a value to take the sum's place or, with ``i_keep``, be added to it; or the larger of both stays.
    o_sum
        The sum read in the cycle before.
    """

    def __init__(self, *, depth: int) -> None:
        self.depth = depth
        super().__init__(
            {
                "i_address": In(range(depth)),
                "i_update": In(1),
                "i_value": In(signed(_SUM_BITS)),
                "i_keep": In(1),
                "i_maximum": In(1),
                "o_sum": Out(signed(_SUM_BITS)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.sums = sums = memory.Memory(shape=signed(_SUM_BITS), depth=self.depth, init=[])
        read, write = sums.read_port(), sums.write_port()
        m.d.comb += [read.addr.eq(self.i_address), self.o_sum.eq(read.data)]
        m.d.sync += [write.addr.eq(self.i_address), write.en.eq(self.i_update)]
        added = (self.i_value + Mux(self.i_keep & ~self.i_maximum, read.data, 0))[:_SUM_BITS]
        larger = self.i_keep & self.i_maximum & (read.data > self.i_value)
        m.d.comb += write.data.eq(Mux(larger, read.data, added))
        return m
