"""The processing element."""

from __future__ import annotations

from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from accel.config import Multiply
from rtl.multiply import Multiplier, PairMultiplier

__all__ = ["PE", "PairPE", "sum_width"]


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
    form
        How it multiplies.

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

    def __init__(self, *, width: int, vertical: bool = False, form: Multiply = Multiply.PORTABLE) -> None:
        self.width = width
        self.vertical = vertical
        self.form = form
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
        m.submodules.multiplier = multiplier = Multiplier(form=self.form)
        shadow = Signal(signed(8), reset_less=True)
        total = Signal(signed(self.width), reset_less=True)

        m.d.comb += [
            multiplier.i_a.eq(self.i_activation),
            multiplier.i_b.eq(shadow),
            multiplier.i_take.eq(self.i_swap),
        ]
        if self.vertical:
            below = Signal(signed(8), reset_less=True)
            m.d.sync += below.eq(multiplier.o_a)
            m.d.comb += self.o_below.eq(below)
            with m.If(self.i_vertical):
                m.d.comb += multiplier.i_a.eq(self.i_above)
        with m.If(self.i_shift):
            m.d.sync += shadow.eq(self.i_weight)
        # width is chosen so that this cannot overflow
        m.d.sync += total.eq(self.i_sum + multiplier.o_product)
        m.d.comb += [
            self.o_activation.eq(multiplier.o_a),
            self.o_weight.eq(shadow),
            self.o_sum.eq(total),
        ]
        return m


class PairPE(wiring.Component):
    """Two neighbours of a row on one multiplier: in every cycle what two :class:`PE` without a vertical path do.

    The second element's activation is the first one's of a cycle ago. So both products are made for the first element, and the
    second one waits for a cycle. Its weight is then needed a cycle early, when its shadow may just be on its way, and is taken from
    there.

    Parameters
    ----------
    width
        Bits of a sum.

    Members
    -------
    i_activation, o_activation
        int8, moving right; two cycles.
    i_swap
        As the first element gets it; there is none of the second's.
    i_weights, o_weights, i_shifts, i_sums, o_sums
        Of both, as those of :class:`PE`.
    """

    def __init__(self, *, width: int) -> None:
        self.width = width
        bytes_of_both = data.ArrayLayout(signed(8), 2)
        sums_of_both = data.ArrayLayout(signed(width), 2)
        super().__init__(
            {
                "i_activation": In(signed(8)),
                "i_swap": In(1),
                "i_weights": In(bytes_of_both),
                "i_shifts": In(2),
                "i_sums": In(sums_of_both),
                "o_activation": Out(signed(8)),
                "o_weights": Out(bytes_of_both),
                "o_sums": Out(sums_of_both),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.multiplier = multiplier = PairMultiplier()

        def register(shape: Shape, name: str) -> Signal:
            return Signal(shape, name=name, reset_less=True)

        activation = register(signed(8), "activation")
        shadows = [register(signed(8), f"shadow_{n}") for n in range(2)]
        totals = [register(signed(self.width), f"total_{n}") for n in range(2)]
        high, borrow = register(signed(16), "high"), register(unsigned(1), "borrow")

        for n, shadow in enumerate(shadows):
            with m.If(self.i_shifts[n]):
                m.d.sync += shadow.eq(self.i_weights[n])
            m.d.comb += [self.o_weights[n].eq(shadow), self.o_sums[n].eq(totals[n])]
        m.d.comb += [
            multiplier.i_a.eq(self.i_activation),
            multiplier.i_bs[0].eq(shadows[0]),
            # the shift of this cycle is the last of the second shadow's: the next weights come with its own swap at the earliest
            multiplier.i_bs[1].eq(Mux(self.i_shifts[1], self.i_weights[1], shadows[1])),
            multiplier.i_take.eq(self.i_swap),
            self.o_activation.eq(activation),
        ]
        m.d.sync += [
            activation.eq(multiplier.o_a),
            high.eq(multiplier.o_high),
            borrow.eq(multiplier.o_borrow),
            # width is chosen so that these cannot overflow
            totals[0].eq(self.i_sums[0] + multiplier.o_low),
            totals[1].eq(self.i_sums[1] + high + borrow),
        ]
        return m
