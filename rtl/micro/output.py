"""From sums to bytes: a channel's sums of a pooling window come one a cycle, and its byte leaves."""

from __future__ import annotations

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from accel.numerics import Rounding
from rtl.micro.primitives import WideProduct
from rtl.requantise import parameter_layout, recipe_layout, saturate

__all__ = ["Output"]

#: Bits of a rounded product that the zero point and the clamp could bring back into a byte.
_NEAR_BITS = 10


class Output(wiring.Component):
    """The largest of some sums with their bias, requantised: ``LATENCY`` cycles after the last sum, one sum a cycle.

    Requantisation and clamp keep the order of numbers, so the maximum of the window is taken before them and not behind.

    Members
    -------
    i_sum, i_parameter
        A sum of a channel, and that channel's parameters, with every sum.
    i_first, i_last
        It is the window's first sum, its last.
    i_recipe
        What the instruction asks for, as long as there is anything here.
    i_clear
        Forget what is under way.
    o_byte, o_valid
        A finished byte.
    """

    LATENCY = 9

    def __init__(self) -> None:
        super().__init__(
            {
                "i_sum": In(signed(32)),
                "i_parameter": In(parameter_layout),
                "i_first": In(1),
                "i_last": In(1),
                "i_recipe": In(recipe_layout),
                "i_clear": In(1),
                "o_byte": Out(signed(8)),
                "o_valid": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        valid = [self.i_last]
        for n in range(self.LATENCY):
            later = Signal(name=f"valid_{n + 1}")
            m.d.sync += later.eq(valid[-1] & ~self.i_clear)
            valid.append(later)
        m.d.comb += self.o_valid.eq(valid[-1])

        def delayed(value: Value, cycles: int, name: str) -> list[Value]:
            """Return ``value`` and what it was up to ``cycles`` cycles ago."""
            found = [value]
            for n in range(cycles):
                later = Signal(value.shape(), name=f"{name}_{n + 1}", reset_less=True)
                m.d.sync += later.eq(found[-1])
                found.append(later)
            return found

        multiplier = delayed(self.i_parameter.multiplier, 1, "multiplier")
        first_shift = delayed(self.i_parameter.first_shift, 5, "first_shift")
        second_shift = delayed(self.i_parameter.second_shift, 6, "second_shift")
        double = self.i_recipe.rounding == Rounding.DOUBLE_AWAY

        # 1: bias
        biased = Signal(signed(32), reset_less=True)
        is_first = Signal(reset_less=True)
        m.d.sync += [biased.eq((self.i_sum + self.i_parameter.bias)[:32].as_signed()), is_first.eq(self.i_first)]

        # 2: the largest so far
        largest = Signal(signed(32), reset_less=True)
        with m.If(is_first | (biased > largest)):
            m.d.sync += largest.eq(biased)

        # 3, 4: product
        m.submodules.product = product = WideProduct()
        m.d.comb += [product.i_signed.eq(largest), product.i_unsigned.eq(multiplier[1])]

        # 5: half of the first step is added only where that step rounds; the others remember whether anything is lost
        rounded = Signal(signed(64), reset_less=True)
        sticky = Signal(reset_less=True)
        below = Signal(31, reset_less=True)
        m.d.sync += below.eq((1 << first_shift[3]) - 1)
        half = below ^ (below >> 1)
        m.d.sync += [
            rounded.eq(product.o_product + Mux(double, half, 0)),
            sticky.eq((product.o_product[:31] & below).any() & ~double),
        ]

        # 6: first shift
        once = Signal(signed(64), reset_less=True)
        once_sticky = Signal(reset_less=True)
        m.d.sync += [once.eq(rounded >> first_shift[5]), once_sticky.eq(sticky)]

        # 7: second shift, keeping the bit below the point and whether anything lies below that
        twice = Signal(signed(64), reset_less=True)
        half_bit, rest = Signal(reset_less=True), Signal(reset_less=True)
        dropped = Signal(31, reset_less=True)
        m.d.sync += dropped.eq((1 << second_shift[5]) - 1)
        m.d.sync += [
            twice.eq(once >> second_shift[6]),
            half_bit.eq((once[:31] & (dropped ^ (dropped >> 1))).any()),
            rest.eq((once[:31] & (dropped >> 1)).any() | once_sticky),
        ]

        # 8: round what is near a byte; what is not stays as far as that tells, and rounding does not matter to it
        up = Signal()
        with m.Switch(self.i_recipe.rounding):
            with m.Case(Rounding.DOUBLE_AWAY):
                m.d.comb += up.eq(half_bit & (rest | ~twice[-1]))
            with m.Case(Rounding.SINGLE_UP):
                m.d.comb += up.eq(half_bit)
            with m.Case(Rounding.HALF_EVEN):
                m.d.comb += up.eq(half_bit & (rest | twice[0]))
        beyond = twice[_NEAR_BITS - 1 :]
        near = Signal(signed(_NEAR_BITS), reset_less=True)
        round_up = Signal(reset_less=True)
        with m.If(beyond.all() | ~beyond.any()):
            m.d.sync += near.eq(twice)
        with m.Else():
            m.d.sync += near.eq(Mux(twice[-1], -1 << (_NEAR_BITS - 1), (1 << (_NEAR_BITS - 1)) - 1))
        m.d.sync += round_up.eq(up)

        # 9: zero point, clamp
        byte = Signal(signed(8), reset_less=True)
        shifted = Signal(signed(_NEAR_BITS + 2))
        m.d.comb += shifted.eq(near + round_up + self.i_recipe.zero_point)
        m.d.sync += byte.eq(saturate(shifted, self.i_recipe.minimum, self.i_recipe.maximum))
        m.d.comb += self.o_byte.eq(byte)
        return m
