"""From a 32-bit sum to an 8-bit activation."""

from __future__ import annotations

import itertools

from amaranth import *
from amaranth.hdl import ShapeLike
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from accel.config import Multiply
from accel.numerics import INT8_MAX, INT8_MIN, Rounding
from rtl.multiply import Product

__all__ = ["Requantiser", "parameter_layout", "recipe_layout", "saturate"]

#: One channel's bias, Q31 multiplier and the two shifts of :func:`accel.numerics.shift_stages`.
parameter_layout = data.StructLayout({"bias": signed(32), "multiplier": 31, "first_shift": 5, "second_shift": 5})

# Cycles that a sum takes to get so far in a lane, as its registers make it (what goes with it is delayed by these): to its
# product, through the first shift but for the last bit of its distance, through the whole of it, through the second but for its
# last bit, to whether it is rounded up, to the byte.
_PRODUCT = 4
_FIRST = _PRODUCT + 1
_ONCE = _FIRST + 1
_TWICE = _ONCE + 1
_ROUNDED = _TWICE + 1
_BYTE = _ROUNDED + 1

#: What an instruction asks of all its channels.
recipe_layout = data.StructLayout({"rounding": Rounding, "zero_point": signed(8), "minimum": signed(8), "maximum": signed(8)})


def saturate(value: Value, minimum: Value | int, maximum: Value | int) -> Value:
    """Return ``value`` held between two signed bounds."""
    return Mux(value < minimum, minimum, Mux(value > maximum, maximum, value))


class Requantiser(wiring.Component):
    """``lanes`` times ``clamp(round((sum + bias) * multiplier, by the two shifts) + zero_point)``, each cycle, ``LATENCY`` cycles
    later. (No register has an enable: they would be wires from one end of the output stage to the other.)

    Equal to :func:`accel.numerics.requantise` for every input.

    Parameters
    ----------
    lanes
        Sums a cycle.
    multiply
        Form of the multipliers (of :class:`rtl.multiply.Product`). Without any a sum is only shifted, whatever multiplier the
        parameters hold.

    Members
    -------
    i_sums
        int32 for each lane (wraps when the bias is added).
    i_parameters
        For each lane, with the sums.
    i_recipe
        With the sums, the same for all lanes.
    o_bytes
        int8 for each lane.
    """

    LATENCY = _BYTE

    def __init__(self, *, lanes: int, multiply: Multiply | None) -> None:
        self.lanes = lanes
        self.multiply = multiply
        super().__init__(
            {
                "i_sums": In(data.ArrayLayout(signed(32), lanes)),
                "i_parameters": In(data.ArrayLayout(parameter_layout, lanes)),
                "i_recipe": In(recipe_layout),
                "o_bytes": Out(data.ArrayLayout(signed(8), lanes)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        recipes: list[data.View] = [self.i_recipe]
        for n in range(_ROUNDED):
            recipe = Signal(recipe_layout, name=f"recipe_{n}", reset_less=True)
            m.d.sync += recipe.eq(recipes[-1])
            recipes.append(recipe)
        for lane in range(self.lanes):
            m.d.comb += self.o_bytes[lane].eq(self._lane(m, lane, recipes))
        return m

    def _lane(self, m: Module, lane: int, recipes: list[data.View]) -> Value:
        """Build one lane; ``recipes[n]`` is the recipe of the sum that entered n cycles ago."""
        parameter = self.i_parameters[lane]

        def register(shape: ShapeLike, name: str) -> Signal:
            return Signal(shape, name=f"{name}_{lane}", reset_less=True)

        first_shifts = [parameter.first_shift]
        second_shifts = [parameter.second_shift]
        for shifts, stages, name in ((first_shifts, _FIRST, "first_shift"), (second_shifts, _TWICE, "second_shift")):
            for n in range(stages):
                later = register(5, f"{name}_{n}")
                m.d.sync += later.eq(shifts[-1])
                shifts.append(later)

        # The bias.
        biased = register(signed(32), "biased")
        m.d.sync += biased.eq((self.i_sums[lane] + parameter.bias)[:32].as_signed())

        # The product, by way of those of the operands' halves. The way to a multiplier may be long: it has a cycle to itself.
        product = register(signed(63), "product")
        if self.multiply is None:
            first, second = register(signed(32), "biased_again"), register(signed(32), "biased_still")
            m.d.sync += [first.eq(biased), second.eq(first), product.eq(second)]
        else:
            multiplier = register(31, "multiplier")
            m.d.sync += multiplier.eq(parameter.multiplier)
            products = {}
            for upper_a, upper_b in itertools.product((False, True), repeat=2):
                a = biased[16:].as_signed() if upper_a else biased[:16]
                b = multiplier[16:] if upper_b else multiplier[:16]
                part = Product(form=self.multiply, a=a.shape(), b=b.shape())
                m.submodules[f"product_{lane}_{2 * upper_a + upper_b}"] = part
                m.d.comb += [part.i_a.eq(a), part.i_b.eq(b)]
                products[upper_a, upper_b] = part.o_product
            low, inner, other, high = (products[upper] for upper in sorted(products))
            m.d.sync += product.eq(Cat(low[:16], _sum_of_three(Cat(low[16:], high).as_signed(), inner, other)))

        # The first shift. Where it rounds, the highest of the bits that it drops is added (as good as half a step before it);
        # else any bit among them is remembered. The last bit of the distance is left to the cycle of the addition.
        double = recipes[_PRODUCT - 1].rounding == Rounding.DOUBLE_AWAY
        below = register(31, "below")
        half = register(31, "half")
        distance = first_shifts[_PRODUCT - 1]
        m.d.sync += [below.eq(Mux(double, 0, _below(distance))), half.eq(Mux(double, _half(distance), 0))]
        shifted = register(signed(63), "shifted")
        carry = register(1, "carry")
        sticky = register(1, "sticky")
        m.d.sync += [
            shifted.eq(product >> (first_shifts[_PRODUCT] & 0b11110)),
            carry.eq((product[:31] & half).any()),
            sticky.eq((product[:31] & below).any()),
        ]
        once = register(signed(64), "once")
        once_sticky = register(1, "once_sticky")
        m.d.sync += [once.eq(Mux(first_shifts[_FIRST][0], shifted >> 1, shifted) + carry), once_sticky.eq(sticky)]

        # The second shift, but for the last bit of its distance, keeping the bit below the point and whether anything lies below
        # that. A sum beyond 42 bits is beyond the clamp, however far it is shifted.
        dropped = register(31, "dropped")
        highest = register(31, "highest")
        m.d.sync += [dropped.eq(_below(second_shifts[_FIRST]) >> 1), highest.eq(_half(second_shifts[_FIRST]))]
        twice = register(signed(42), "twice")
        negative = register(1, "negative")
        huge = register(1, "huge")
        half_bit = register(1, "half_bit")
        rest = register(1, "rest")
        m.d.sync += [
            twice.eq(once[:42].as_signed() >> (second_shifts[_ONCE] & 0b11110)),
            negative.eq(once[-1]),
            huge.eq(once[41:].any() & ~once[41:].all()),
            half_bit.eq((once[:31] & highest).any()),
            rest.eq((once[:31] & dropped).any() | once_sticky),
        ]

        # Whether to round up; 10 bits hold everything that this, the zero point and the clamp can bring back into a byte. If
        # there are more, the tenth is made to differ from the sign, which is beyond the clamp.
        fine = second_shifts[_TWICE][0]
        up = register(1, "up")
        near = register(signed(11), "near")
        # (the tenth bit counts among those above unless it is shifted down; the highest is the sign, if the sum was not huge)
        above = twice[10:-1]
        positive = ~(Cat(above, huge).any() | (twice[9] & ~fine))
        fits = Mux(negative, Cat(above, ~huge).all() & (twice[9] | fine), positive)
        with m.Switch(recipes[_TWICE].rounding):
            with m.Case(Rounding.DOUBLE_AWAY):
                m.d.sync += up.eq(half_bit & (rest | ~negative))
            with m.Case(Rounding.SINGLE_UP):
                m.d.sync += up.eq(half_bit)
            with m.Case(Rounding.HALF_EVEN):
                m.d.sync += up.eq(half_bit & (rest | Mux(fine, twice[1], twice[0])))
        m.d.sync += near.eq(Cat(Mux(fine, twice[1:10], twice[:9]), Mux(fits, negative, ~negative), negative))

        # Rounding, zero point and clamp.
        byte = register(signed(8), "byte")
        final = recipes[_ROUNDED]
        m.d.sync += byte.eq(saturate(near + final.zero_point + up, final.minimum, final.maximum))
        return byte


def _sum_of_three(a: Value, b: Value, c: Value) -> Value:
    """Return ``a + b + c``, as wide as ``a``, with one chain of carries for two additions."""
    width = len(a)
    a, b, c = ((value | C(0, signed(width)))[:width] for value in (a, b, c))  # each extended by its sign
    return ((a ^ b ^ c) + Cat(C(0, 1), (a & b) | (a & c) | (b & c)))[:width]


def _below(shift: Value) -> Value:
    """Return the bits that a shift by 0 to 31 drops, as a mask."""
    return ~(((1 << 31) - 1) << shift)[:31]


def _half(shift: Value) -> Value:
    """Return the highest of them."""
    return ((1 << shift) >> 1)[:31]


assert (INT8_MIN, INT8_MAX) == (-128, 127), "the byte lanes are int8"
