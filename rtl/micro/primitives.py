"""What an iCE40UP5K has in silicon, each with a portable form that does the same in every cycle.

``verilog.convert(..., platform=ICE40)`` instantiates the blocks of the part; any other platform gets the portable form.
"""

from __future__ import annotations

from typing import Any

from amaranth import *
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["ICE40", "WORD_BYTES", "LargeMemory", "PairOfProducts", "WideProduct"]

#: The platform for which primitives are instantiated.
ICE40 = "ice40"

#: Bytes of a word of :class:`LargeMemory`: four SB_SPRAM256KA side by side.
WORD_BYTES = 8
_BLOCKS, _BLOCK_BITS = 4, 16

#: SB_MAC16: nothing is held, loaded or reset. Lattice, "iCE40 Technology Library".
_MAC16_IDLE: dict[str, Any] = {
    "i_CE": Const(1),
    **{f"i_{name}": Const(0, 16) for name in "CD"},
    **{f"i_{name}HOLD": Const(0) for name in "ABCD"},
    **{f"i_{name}{half}": Const(0) for name in ("IRST", "ORST", "OLOAD", "ADDSUB", "OHOLD") for half in ("TOP", "BOT")},
    **{f"i_{name}": Const(0) for name in ("CI", "ACCUMCI", "SIGNEXTIN")},
}
#: Values of TOPOUTPUT_SELECT and BOTOUTPUT_SELECT: the 8 x 8 products, and the 16 x 16 product.
_BYTES_OUT, _PRODUCT_OUT = 2, 3


class PairOfProducts(wiring.Component):
    """Two products of signed bytes, a cycle later: one SB_MAC16.

    Members
    -------
    i_common
        The operand of both.
    i_operands
        The operand of each.
    o_products
        The products, a cycle later.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "i_common": In(signed(8)),
                "i_operands": In(data.ArrayLayout(signed(8), 2)),
                "o_products": Out(data.ArrayLayout(signed(16), 2)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        if platform != ICE40:
            for operand, product in zip(self.i_operands, self.o_products, strict=True):
                register = Signal(signed(16), reset_less=True)
                m.d.sync += register.eq(self.i_common * operand)
                m.d.comb += product.eq(register)
            return m
        m.submodules.mac = Instance(
            "SB_MAC16",
            p_MODE_8x8=Const(1, 1),
            p_A_SIGNED=Const(1, 1),
            p_B_SIGNED=Const(1, 1),
            p_TOP_8x8_MULT_REG=Const(1, 1),
            p_BOT_8x8_MULT_REG=Const(1, 1),
            p_TOPOUTPUT_SELECT=Const(_BYTES_OUT, 2),
            p_BOTOUTPUT_SELECT=Const(_BYTES_OUT, 2),
            i_CLK=ClockSignal(),
            i_A=Cat(self.i_common, self.i_common),
            i_B=Value.cast(self.i_operands),
            o_O=Value.cast(self.o_products),
            **_MAC16_IDLE,
        )
        return m


class WideProduct(wiring.Component):
    """The product of a signed number of 32 and an unsigned one of 31 bits, three cycles after the second: four SB_MAC16.

    ``o_product`` in cycle n is ``i_signed`` of cycle n - 2 times ``i_unsigned`` of cycle n - 3, so that a number can be worked on
    for a cycle while the other waits in the multiplier's own register.
    """

    def __init__(self) -> None:
        super().__init__({"i_signed": In(signed(32)), "i_unsigned": In(31), "o_product": Out(signed(64))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        parts = {"low": (self.i_signed[:16], False), "high": (self.i_signed[16:], True)}
        others = {"low": self.i_unsigned[:16], "high": self.i_unsigned[16:]}
        products: dict[tuple[str, str], Value] = {}
        for one, (part, is_signed) in parts.items():
            for two, other in others.items():
                build = self._block if platform == ICE40 else self._portable
                product = build(m, f"{one}_{two}", part, is_signed, other)
                products[one, two] = product.as_signed() if is_signed else product
        # The products of like parts lie side by side, the others across them.
        outer = Cat(products["low", "low"], products["high", "high"]).as_signed()
        across = Signal(signed(34))
        m.d.comb += across.eq(products["low", "high"] + products["high", "low"])
        result = Signal(signed(64), reset_less=True)
        m.d.sync += [result[:16].eq(outer[:16]), result[16:].eq(outer[16:].as_signed() + across)]
        m.d.comb += self.o_product.eq(result)
        return m

    def _portable(self, m: Module, name: str, part: Value, is_signed: bool, other: Value) -> Value:
        waiting = Signal(16, name=f"waiting_{name}", reset_less=True)
        product = Signal(32, name=f"product_{name}", reset_less=True)
        m.d.sync += [waiting.eq(other), product.eq((part.as_signed() if is_signed else part) * waiting)]
        return product

    def _block(self, m: Module, name: str, part: Value, is_signed: bool, other: Value) -> Value:
        product = Signal(32, name=f"product_{name}")
        m.submodules[f"mac_{name}"] = Instance(
            "SB_MAC16",
            p_A_SIGNED=Const(is_signed, 1),
            p_B_REG=Const(1, 1),
            p_PIPELINE_16x16_MULT_REG2=Const(1, 1),
            p_TOPOUTPUT_SELECT=Const(_PRODUCT_OUT, 2),
            p_BOTOUTPUT_SELECT=Const(_PRODUCT_OUT, 2),
            i_CLK=ClockSignal(),
            i_A=part,
            i_B=Cat(other, Const(0, 16 - len(other))),
            o_O=product,
            **_MAC16_IDLE,
        )
        return product


class LargeMemory(wiring.Component):
    """128 kB of words of eight bytes, read or written once a cycle; its contents at first are anything. Four SB_SPRAM256KA.

    Members
    -------
    i_address, i_data, i_mask
        A word, and which of its bytes to write; all zero reads.
    o_data
        The word of the cycle before, if that was a read.
    """

    WORDS = 1 << 14

    def __init__(self) -> None:
        super().__init__(
            {
                "i_address": In(range(self.WORDS)),
                "i_data": In(8 * WORD_BYTES),
                "i_mask": In(WORD_BYTES),
                "o_data": Out(8 * WORD_BYTES),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        if platform != ICE40:
            m.submodules.words = words = memory.Memory(shape=8 * WORD_BYTES, depth=self.WORDS, init=[])
            read, write = words.read_port(), words.write_port(granularity=8)
            m.d.comb += [
                read.addr.eq(self.i_address),
                write.addr.eq(self.i_address),
                write.data.eq(self.i_data),
                write.en.eq(self.i_mask),
                self.o_data.eq(read.data),
            ]
            return m
        for n in range(_BLOCKS):
            mask = self.i_mask.word_select(n, _BLOCK_BITS // 8)
            m.submodules[f"block_{n}"] = Instance(
                "SB_SPRAM256KA",
                i_CLOCK=ClockSignal(),
                i_ADDRESS=self.i_address,
                i_DATAIN=self.i_data.word_select(n, _BLOCK_BITS),
                # a bit for every four
                i_MASKWREN=Cat(bit.replicate(2) for bit in mask),
                i_WREN=mask.any(),
                i_CHIPSELECT=Const(1),
                i_STANDBY=Const(0),
                i_SLEEP=Const(0),
                i_POWEROFF=Const(1),  # low switches off
                o_DATAOUT=self.o_data.word_select(n, _BLOCK_BITS),
            )
        return m
