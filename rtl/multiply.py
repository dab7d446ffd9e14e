"""Products, in the forms that devices have for them: the one place where a vendor's cell stands."""

from __future__ import annotations

from amaranth import *
from amaranth.hdl import ShapeLike
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from accel.config import Multiply

__all__ = ["Multiplier", "PairMultiplier", "Product"]


class Multiplier(wiring.Component):
    """The product of the ``i_a`` of two cycles ago and the last ``i_b`` that was taken by the end of that cycle. One a cycle.

    In every form::

        i_a --[a]--+--> o_a
                   |
                   * --[product]--> o_product
                   |
        i_b --[b]--+
               ^
        i_take-'

    ``PORTABLE`` leaves the multiplier to synthesis: DSP48E1 and SB_MAC16 absorb the registers, Gowin has a MULT9X9 for it.
    ``LOGIC`` is made of adders, for which no synthesis takes a multiplier. ``ECP5`` is a MULT18X18D, into which Yosys absorbs no
    register: here it has three of its own.

    Parameters
    ----------
    form
        One of :class:`accel.config.Multiply` but ``PAIRS``, which is :class:`PairMultiplier`.

    Members
    -------
    i_a, o_a
        int8; ``o_a`` one cycle after ``i_a``.
    i_b, i_take
        int8, and whether it is taken.
    o_product
        int16.
    """

    def __init__(self, *, form: Multiply) -> None:
        self.form = form
        super().__init__(
            {
                "i_a": In(signed(8)),
                "i_b": In(signed(8)),
                "i_take": In(1),
                "o_a": Out(signed(8)),
                "o_product": Out(signed(16)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        a = Signal(signed(8), reset_less=True)
        m.d.sync += a.eq(self.i_a)
        m.d.comb += self.o_a.eq(a)
        b = Signal(signed(8), reset_less=True)
        with m.If(self.i_take):
            m.d.sync += b.eq(self.i_b)
        if self.form == Multiply.ECP5:
            # what ``b`` is after this cycle
            m.submodules.cell = _mult18x18d(self.i_a, Mux(self.i_take, self.i_b, b), self.o_product)
            return m
        product = Signal(signed(16), reset_less=True)
        m.d.sync += product.eq(_booth(a, b) if self.form == Multiply.LOGIC else a * b)
        m.d.comb += self.o_product.eq(product)
        return m


class PairMultiplier(wiring.Component):
    """Two products that share ``a``, of one multiplier of 25 by 8 bits: a DSP48E1 where each alone would take one.

    ``i_bs`` are taken together. With b = b1 * 2^16 + b0 the product a * b is a * b1 in its upper half, less one if a * b0, in its
    lower half, is negative. So the second product is ``o_high + o_borrow``, whose addition its user makes a carry of his own.
    As in Fu et al., "Deep Learning with INT8 Optimization on Xilinx Devices", Xilinx WP486, 2017.

    Members
    -------
    i_a, o_a
        int8; ``o_a`` one cycle after ``i_a``.
    i_bs, i_take
        Two int8, and whether they are taken.
    o_low, o_high, o_borrow
        int16, int16, and a bit, two cycles after ``i_a``.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "i_a": In(signed(8)),
                "i_bs": In(data.ArrayLayout(signed(8), 2)),
                "i_take": In(1),
                "o_a": Out(signed(8)),
                "o_low": Out(signed(16)),
                "o_high": Out(signed(16)),
                "o_borrow": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        a = Signal(signed(8), reset_less=True)
        both = Signal(signed(25), reset_less=True)
        product = Signal(signed(33), reset_less=True)
        m.d.sync += [a.eq(self.i_a), product.eq(a * both)]
        with m.If(self.i_take):
            m.d.sync += both.eq((self.i_bs[1] << 16) + self.i_bs[0])
        m.d.comb += [
            self.o_a.eq(a),
            self.o_low.eq(product[:16].as_signed()),
            # no product of bytes, nor that less one, needs the last bit
            self.o_high.eq(product[16:32].as_signed()),
            self.o_borrow.eq(product[15]),
        ]
        return m


class Product(wiring.Component):
    """The product of the ``i_a`` and ``i_b`` of two cycles ago. One a cycle.

    In every form::

        i_a --[a]-- * --[product]--> o_product
        i_b --[b]---'

    Parameters
    ----------
    form
        ``ECP5``, a MULT18X18D with all three registers in it, or ``PORTABLE``, which leaves it to synthesis.
    a, b
        Shapes of the operands: of signed ones 18 bits at most, else 17.

    Members
    -------
    i_a, i_b, o_product
        See above. The product has the operands' bits together, and is signed if one of them is.
    """

    def __init__(self, *, form: Multiply, a: ShapeLike, b: ShapeLike) -> None:
        self.form = form
        a, b = Shape.cast(a), Shape.cast(b)
        super().__init__({"i_a": In(a), "i_b": In(b), "o_product": Out(Shape(a.width + b.width, a.signed or b.signed))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        if self.form == Multiply.ECP5:
            m.submodules.cell = _mult18x18d(self.i_a, self.i_b, self.o_product)
            return m
        a, b = (Signal.like(operand, name=name, reset_less=True) for operand, name in ((self.i_a, "a"), (self.i_b, "b")))
        product = Signal.like(self.o_product, name="product", reset_less=True)
        m.d.sync += [a.eq(self.i_a), b.eq(self.i_b), product.eq(a * b)]
        m.d.comb += self.o_product.eq(product)
        return m


def _booth(a: Signal, b: Signal) -> Value:
    """Return a * b by Booth's algorithm of radix 4, b in four digits from -2 to 2 (O. L. MacSorley, "High-Speed Arithmetic in
    Binary Computers", Proc. IRE 49(1), 1961)."""
    digits = Cat(C(0, 1), b)
    multiples, negative = [], []
    for n in range(4):
        digit = digits[2 * n : 2 * n + 3]
        magnitude = Mux((digit == 3) | (digit == 4), Cat(C(0, 1), a), Mux(digit[0] ^ digit[1], Cat(a, a[7]), 0))
        # a negative multiple is its complement, and the one that is missing goes where the next multiple has no bits
        multiples.append((magnitude ^ digit[2].replicate(9)).as_signed())
        negative.append(digit[2])

    def after(n: int) -> Value:
        return Cat(negative[n - 1], C(0, 1), multiples[n]).as_signed()

    return (multiples[0] + after(1)) + ((after(2) + (after(3) << 2)) << 2) + (negative[3] << 6)


def _mult18x18d(a: Value, b: Value, product: Value) -> Instance:
    """Return a MULT18X18D with a register at each operand and at its output.

    Lattice FPGA-TN-02205, "ECP5 and ECP5-5G sysDSP Usage Guide". The operands are the highest bits of its own, so that none of
    theirs is wired many times; their product is the highest bits of its result.

    None of the registers has an enable, so what must wait is kept in front of them: Project Trellis knows no bits for which of the
    four enables of its block a multiplier's output register goes by, so none of them may be anything but 1. Both operands have one,
    because nextpnr takes a multiplier with one operand in a register for one without any, which is 3 ns slower.
    """
    ports: dict[str, Value] = {}
    places = []
    for name, operand in (("A", a), ("B", b)):
        bits = operand if operand.shape().signed else Cat(operand, C(0, 1))
        place = 18 - len(bits)
        ports |= {f"i_{name}{n}": bits[n - place] if n >= place else C(0, 1) for n in range(18)}
        places.append(place)
    ports |= {f"o_P{sum(places) + n}": product[n] for n in range(len(product))}
    return Instance(
        "MULT18X18D",
        p_REG_INPUTA_CLK="CLK0",
        p_REG_INPUTB_CLK="CLK0",
        p_REG_OUTPUT_CLK="CLK0",
        i_CLK0=ClockSignal(),
        i_CE0=C(1),
        i_RST0=C(0),
        i_SIGNEDA=C(1),
        i_SIGNEDB=C(1),
        i_SOURCEA=C(0),
        i_SOURCEB=C(0),
        **ports,
    )
