"""From a 32-bit sum to an 8-bit activation."""

from __future__ import annotations

from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from accel.numerics import INT8_MAX, INT8_MIN, Rounding

__all__ = ["Requantiser", "parameter_layout", "recipe_layout", "saturate"]

#: One channel's bias, Q31 multiplier and the two shifts of :func:`accel.numerics.shift_stages`.
parameter_layout = data.StructLayout({"bias": signed(32), "multiplier": 31, "first_shift": 5, "second_shift": 5})

#: What an instruction asks of all its channels.
recipe_layout = data.StructLayout({"rounding": Rounding, "zero_point": signed(8), "minimum": signed(8), "maximum": signed(8)})


def saturate(value: Value, minimum: Value | int, maximum: Value | int) -> Value:
    """Return ``value`` held between two signed bounds."""
    return Mux(value < minimum, minimum, Mux(value > maximum, maximum, value))


class Requantiser(wiring.Component):
    """One lane: ``clamp(round((sum + bias) * multiplier, by the two shifts) + zero_point)``, one a cycle, ``LATENCY`` cycles later.

    Equal to :func:`accel.numerics.requantise` for every input.

    Parameters
    ----------
    multiplier
        Whether there is a multiplier; without one the multiplier is 2**30 whatever the parameters say.

    Members
    -------
    i_sum
        int32 (wraps when the bias is added).
    i_parameter
        With the sum.
    i_recipe
        With the sum.
    o_byte
        int8.
    """

    LATENCY = 8

    def __init__(self, *, multiplier: bool) -> None:
        self.multiplier = multiplier
        super().__init__(
            {
                "i_sum": In(signed(32)),
                "i_parameter": In(parameter_layout),
                "i_recipe": In(recipe_layout),
                "o_byte": Out(signed(8)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        recipes: list[data.View] = [self.i_recipe]
        shifts: list[data.View] = [self.i_parameter]
        for n in range(6):
            recipe = Signal(recipe_layout, name=f"recipe_{n}", reset_less=True)
            m.d.sync += recipe.eq(recipes[-1])
            recipes.append(recipe)
        for n in range(5):
            shift = Signal(parameter_layout, name=f"shift_{n}", reset_less=True)
            m.d.sync += shift.eq(shifts[-1])
            shifts.append(shift)

        # 1: bias
        biased = Signal(signed(32), reset_less=True)
        m.d.sync += biased.eq((self.i_sum + self.i_parameter.bias)[:32].as_signed())

        # 2, 3: product, with a second register for the multiplier blocks to absorb
        product = Signal(signed(63), reset_less=True)
        product_again = Signal(signed(63), reset_less=True)
        factor = shifts[1].multiplier if self.multiplier else Const(1 << 30, 31)
        m.d.sync += [product.eq(biased * factor), product_again.eq(product)]

        # 4: half of the first step is added only where that step rounds
        rounded = Signal(signed(64), reset_less=True)
        sticky = Signal(reset_less=True)
        first_shift = shifts[3].first_shift
        half = Signal(32)
        with m.If((recipes[3].rounding == Rounding.DOUBLE_AWAY) & (first_shift != 0)):
            m.d.comb += half.eq(1 << (first_shift - 1)[:5])
        below = Signal(32)
        m.d.comb += below.eq((1 << first_shift) - 1)
        m.d.sync += [
            rounded.eq(product_again + half),
            sticky.eq((product_again[:32] & below).any() & (recipes[3].rounding != Rounding.DOUBLE_AWAY)),
        ]

        # 5: first shift
        once = Signal(signed(64), reset_less=True)
        once_sticky = Signal(reset_less=True)
        m.d.sync += [once.eq(rounded >> shifts[4].first_shift), once_sticky.eq(sticky)]

        # 6: second shift, keeping the bit below the point and whether anything lies below that
        second_shift = shifts[5].second_shift
        twice = Signal(signed(64), reset_less=True)
        half_bit = Signal(reset_less=True)
        rest = Signal(reset_less=True)
        extended = Signal(signed(65))
        m.d.comb += extended.eq(Cat(Const(0, 1), once).as_signed())
        rest_mask = Signal(32)
        m.d.comb += rest_mask.eq(((1 << second_shift) - 1) >> 1)
        shifted = Signal(signed(65))
        m.d.comb += shifted.eq(extended >> second_shift)
        m.d.sync += [
            Cat(half_bit, twice).eq(shifted),
            rest.eq((once[:32] & rest_mask).any() | once_sticky),
        ]

        # 7: round
        rounding = recipes[6].rounding
        up = Signal()
        with m.Switch(rounding):
            with m.Case(Rounding.DOUBLE_AWAY):
                m.d.comb += up.eq(half_bit & (rest | ~twice[-1]))
            with m.Case(Rounding.SINGLE_UP):
                m.d.comb += up.eq(half_bit)
            with m.Case(Rounding.HALF_EVEN):
                m.d.comb += up.eq(half_bit & (rest | twice[0]))
        # 10 bits hold everything that the zero point and the clamp can bring back into a byte
        near = Signal(signed(10), reset_less=True)
        final = Signal(recipe_layout, reset_less=True)
        m.d.sync += [
            near.eq(saturate(twice + up, -(1 << 9), (1 << 9) - 1)),
            final.eq(recipes[6]),
        ]

        # 8: zero point and clamp
        m.d.sync += self.o_byte.eq(saturate(near + final.zero_point, final.minimum, final.maximum))
        return m


assert (INT8_MIN, INT8_MAX) == (-128, 127), "the byte lanes are int8"
