"""From a 32-bit sum to an 8-bit activation."""

from __future__ import annotations

from amaranth import *
from amaranth.hdl import ShapeLike
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
    """``lanes`` times ``clamp(round((sum + bias) * multiplier, by the two shifts) + zero_point)``, each cycle, ``LATENCY`` cycles
    later.

    Equal to :func:`accel.numerics.requantise` for every input.

    Parameters
    ----------
    lanes
        Sums a cycle.
    multiplier
        Whether there are multipliers; without them a sum is only shifted, whatever multiplier the parameters hold.

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

    LATENCY = 8

    def __init__(self, *, lanes: int, multiplier: bool) -> None:
        self.lanes = lanes
        self.multiplier = multiplier
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
        for n in range(7):
            recipe = Signal(recipe_layout, name=f"recipe_{n}", reset_less=True)
            m.d.sync += recipe.eq(recipes[-1])
            recipes.append(recipe)
        # for all lanes, with stage 3: whether the first shift rounds
        double = Signal(reset_less=True)
        m.d.sync += double.eq(recipes[2].rounding == Rounding.DOUBLE_AWAY)
        for lane in range(self.lanes):
            m.d.comb += self.o_bytes[lane].eq(self._lane(m, lane, recipes, double))
        return m

    def _lane(self, m: Module, lane: int, recipes: list[data.View], double: Value) -> Value:
        """Build one lane; ``recipes[n]`` is the recipe of the sum that entered n cycles ago."""
        parameter = self.i_parameters[lane]

        def register(shape: ShapeLike, name: str) -> Signal:
            return Signal(shape, name=f"{name}_{lane}", reset_less=True)

        first_shifts = [parameter.first_shift]
        second_shifts = [parameter.second_shift]
        for shifts, stages, name in ((first_shifts, 4, "first_shift"), (second_shifts, 5, "second_shift")):
            for n in range(stages):
                later = register(5, f"{name}_{n}")
                m.d.sync += later.eq(shifts[-1])
                shifts.append(later)

        # 1: bias
        biased = register(signed(32), "biased")
        m.d.sync += biased.eq((self.i_sums[lane] + parameter.bias)[:32].as_signed())

        # 2, 3: product, by way of those of the operands' halves, so that a multiplier has the way between two registers to itself
        product = register(signed(63), "product")
        if self.multiplier:
            multiplier = register(31, "multiplier")
            m.d.sync += multiplier.eq(parameter.multiplier)
            low, middle, cross, high = (
                register(signed(bits), name) for bits, name in ((32, "low"), (32, "middle"), (33, "cross"), (31, "high"))
            )
            m.d.sync += [
                low.eq(biased[:16] * multiplier[:16]),
                middle.eq(biased[:16] * multiplier[16:]),
                cross.eq(biased[16:].as_signed() * multiplier[:16]),
                high.eq(biased[16:].as_signed() * multiplier[16:]),
            ]
            m.d.sync += product.eq(Cat(low, high).as_signed() + ((middle + cross) << 16))
        else:
            later = register(signed(32), "biased_again")
            m.d.sync += [later.eq(biased), product.eq(later)]

        # 4: half of the first step is added only where that step rounds; else any bit that the first shift drops is remembered
        first_shift = first_shifts[2]
        below = register(31, "below")
        half = register(31, "half")
        ones = _ones(first_shift)
        m.d.sync += [below.eq(ones), half.eq(ones ^ (ones >> 1))]
        rounded = register(signed(64), "rounded")
        sticky = register(1, "sticky")
        m.d.sync += [
            rounded.eq(product + (half & double.replicate(31))),
            sticky.eq((product[:31] & below).any() & ~double),
        ]

        # 5: first shift
        once = register(signed(64), "once")
        once_sticky = register(1, "once_sticky")
        m.d.sync += [once.eq(rounded >> first_shifts[4]), once_sticky.eq(sticky)]

        # 6: second shift, keeping the bit below the point and whether anything lies below that
        dropped = register(31, "dropped")
        highest = register(31, "highest")
        ones = _ones(second_shifts[4])
        m.d.sync += [dropped.eq(ones >> 1), highest.eq(ones ^ (ones >> 1))]
        twice = register(signed(64), "twice")
        half_bit = register(1, "half_bit")
        rest = register(1, "rest")
        m.d.sync += [
            twice.eq(once >> second_shifts[5]),
            half_bit.eq((once[:31] & highest).any()),
            rest.eq((once[:31] & dropped).any() | once_sticky),
        ]

        # 7: whether to round up; 10 bits hold everything that this, the zero point and the clamp can bring back into a byte
        up = register(1, "up")
        with m.Switch(recipes[6].rounding):
            with m.Case(Rounding.DOUBLE_AWAY):
                m.d.sync += up.eq(half_bit & (rest | ~twice[-1]))
            with m.Case(Rounding.SINGLE_UP):
                m.d.sync += up.eq(half_bit)
            with m.Case(Rounding.HALF_EVEN):
                m.d.sync += up.eq(half_bit & (rest | twice[0]))
        near = register(signed(10), "near")
        m.d.sync += near.eq(saturate(twice, -(1 << 9), (1 << 9) - 1))

        # 8: round, zero point and clamp
        byte = register(signed(8), "byte")
        final = recipes[7]
        m.d.sync += byte.eq(saturate(near + final.zero_point + up, final.minimum, final.maximum))
        return byte


def _ones(count: Value) -> Value:
    """Return as many ones as ``count`` (0 to 31) says, in 31 bits."""
    return ((1 << count) - 1)[:31]


assert (INT8_MIN, INT8_MAX) == (-128, 127), "the byte lanes are int8"
