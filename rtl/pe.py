"""The processing element."""

from __future__ import annotations

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["PE", "sum_width"]


def sum_width(rows: int) -> int:
    """Return the bits that hold a sum of ``rows`` products of two int8."""
    return 16 + (rows - 1).bit_length()


class PE(wiring.Component):
    """Multiply an activation by the weight held here and add it to the sum from above.

    A sum leaves three cycles after its activation arrived and one cycle after the sum from above arrived; activations leave one
    cycle after they arrived. One of each every cycle::

        i_activation --[a]--+--> o_activation        i_sum ----+
                            |                                  |
                 weight --> * --[product]--------------------> + --[s]--> o_sum

    The next weight waits in the shadow register. ``i_swap`` comes with the first activation that needs it. Shadows form a shift
    register down the column, which moves while ``i_shift`` is high.

    With a vertical path an activation may also come from above, and leaves downwards two cycles later: one more than the sums
    take, so that a column of such elements is a systolic FIR filter (H. T. Kung, "Why Systolic Architectures?", Computer 15(1),
    1982)::

        i_above --[a]--[b]--> o_below

    Parameters
    ----------
    width
        Bits of a sum.
    vertical
        Whether there is a path from above.

    Members
    -------
    i_activation, o_activation
        int8, moving right.
    i_above, o_below, i_vertical
        int8, moving down; taken in place of ``i_activation`` while ``i_vertical`` is high. Only with a vertical path.
    i_swap
        Comes with the activation that is the first for the shadow weight.
    i_weight, o_weight
        int8, shadow weights moving down.
    i_shift
        Shifts the shadow.
    i_sum, o_sum
        Partial sums moving down.
    """

    def __init__(self, *, width: int, vertical: bool = False) -> None:
        self.width = width
        self.vertical = vertical
        path = {"i_above": In(signed(8)), "i_vertical": In(1), "o_below": Out(signed(8))}
        super().__init__(
            {
                "i_activation": In(signed(8)),
                "i_swap": In(1),
                "i_weight": In(signed(8)),
                "i_shift": In(1),
                "i_sum": In(signed(width)),
                "o_activation": Out(signed(8)),
                "o_weight": Out(signed(8)),
                "o_sum": Out(signed(width)),
            }
            | (path if vertical else {})
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        activation = Signal(signed(8), reset_less=True)
        weight = Signal(signed(8), reset_less=True)
        shadow = Signal(signed(8), reset_less=True)
        product = Signal(signed(16), reset_less=True)
        total = Signal(signed(self.width), reset_less=True)

        m.d.sync += [
            activation.eq(self.i_activation),
            product.eq(activation * weight),
            # width is chosen so that this cannot overflow
            total.eq(self.i_sum + product),
        ]
        if self.vertical:
            below = Signal(signed(8), reset_less=True)
            m.d.sync += below.eq(activation)
            m.d.comb += self.o_below.eq(below)
            with m.If(self.i_vertical):
                m.d.sync += activation.eq(self.i_above)
        with m.If(self.i_swap):
            m.d.sync += weight.eq(shadow)
        with m.If(self.i_shift):
            m.d.sync += shadow.eq(self.i_weight)
        m.d.comb += [
            self.o_activation.eq(activation),
            self.o_weight.eq(shadow),
            self.o_sum.eq(total),
        ]
        return m
