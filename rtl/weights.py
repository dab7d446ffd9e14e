"""Banked weight memory with skewed addresses."""

from __future__ import annotations

from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from rtl.ram import ram

__all__ = ["WeightMemory", "weight_write_layout"]


def weight_write_layout(columns: int) -> data.StructLayout:
    """Return a write to the weight memory."""
    return data.StructLayout({"enable": 1, "address": 16, "data": data.ArrayLayout(8, columns)})


class WeightMemory(wiring.Component):
    """``columns`` byte-wide banks; column c reads bank c at the common address, one cycle after column c-1.

    Column c's byte leaves ``4 + c`` cycles after its address was at ``i_address``: two stages bring the address to the memory
    (which matches the taps of the same pass, see the scratchpad), one is the memory, one the register behind it, and the array's
    shadow takes it at the end of that cycle.

    Parameters
    ----------
    columns
        Banks.
    depth
        Words: a power of two.

    Members
    -------
    i_address
        Word to read.
    i_write
        ``enable``, ``address`` and a byte for each bank.
    o_bytes
        For each column.
    """

    def __init__(self, *, columns: int, depth: int) -> None:
        self.columns = columns
        self.depth = depth
        super().__init__(
            {
                "i_address": In(16),
                "i_write": In(weight_write_layout(columns)),
                "o_bytes": Out(data.ArrayLayout(signed(8), columns)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bits = (self.depth - 1).bit_length()
        early = Signal(bits, reset_less=True)
        m.d.sync += early.eq(self.i_address[:bits])
        address: Signal = early
        for c in range(self.columns):
            skewed = Signal(bits, name=f"address_{c}", reset_less=True)
            m.d.sync += skewed.eq(address)
            m.submodules[f"bank_{c}"] = bank = ram(shape=8, depth=self.depth)
            read = bank.read_port()
            write = bank.write_port()
            byte = Signal(8, name=f"byte_{c}", reset_less=True)
            m.d.sync += byte.eq(read.data)
            m.d.comb += [
                read.addr.eq(skewed),
                read.en.eq(1),
                write.addr.eq(self.i_write.address[:bits]),
                write.data.eq(self.i_write.data[c]),
                write.en.eq(self.i_write.enable),
                self.o_bytes[c].eq(byte),
            ]
            address = skewed
        return m
