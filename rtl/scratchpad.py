"""Banked activation memory with skewed addresses."""

from __future__ import annotations

from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from rtl.ram import ram

__all__ = ["Scratchpad", "pixel_layout", "scratchpad_write_layout", "tap_layout"]

#: A pixel for all rows: ``offset`` is added to each row's tap; ``first`` is the first pixel of a pass, with which rows change to
#: their next tap. ``vertical`` and ``lag`` are for the array.
pixel_layout = data.StructLayout({"first": 1, "vertical": 1, "lag": 8, "offset": 16})

#: One of the ``rows`` taps of the next pass, the last row's first; ``start`` with the first of them.
tap_layout = data.StructLayout({"start": 1, "address": 16})


def scratchpad_write_layout(rows: int) -> data.StructLayout:
    """Return a write: a byte for each bank whose ``mask`` bit is set, all at one address."""
    return data.StructLayout({"mask": rows, "address": 16, "data": data.ArrayLayout(8, rows)})


class Scratchpad(wiring.Component):
    """``rows`` byte-wide banks; row r reads bank r at ``offset + tap[r]``, one cycle after row r-1.

    Row r's byte leaves ``4 + r`` cycles after its pixel was at ``i_pixel``, with ``o_swap`` telling the first of a pass.
    The next pass's taps shift down the rows as weights do in the array; they must all have been given ``1`` cycle before the first
    pixel of their pass, and may follow from the cycle in which the previous pass's first pixel is given.
    A write is readable by a pixel given in the next cycle.

    Parameters
    ----------
    rows
        Banks.
    depth
        Words: a power of two.

    Members
    -------
    i_pixel
        Pixel, every cycle (unless ``first`` a value that is not a pixel does no harm).
    i_tap
        Taps of the next pass: ``rows`` of them in consecutive cycles, ``start`` with the first.
    i_write
        Write.
    o_bytes
        For each row.
    o_swap, o_vertical
        For each row.
    o_lag
        With row 0's byte.
    o_shift
        For each row: when the array's first column takes a shadow weight, ``4`` cycles after the row took its tap.
    """

    def __init__(self, *, rows: int, depth: int) -> None:
        self.rows = rows
        self.depth = depth
        super().__init__(
            {
                "i_pixel": In(pixel_layout),
                "i_tap": In(tap_layout),
                "i_write": In(scratchpad_write_layout(rows)),
                "o_bytes": Out(data.ArrayLayout(signed(8), rows)),
                "o_swap": Out(rows),
                "o_vertical": Out(rows),
                "o_lag": Out(8),
                "o_shift": Out(rows),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        address_bits = (self.depth - 1).bit_length()

        # What goes with a pixel besides its address, a bit for each cycle since: row r's byte comes three cycles after its offset,
        # which is when the row three below has its own.
        firsts = Signal(self.rows + 3)
        verticals = Signal(self.rows + 3)
        starts = Signal(self.rows)
        m.d.sync += [
            firsts.eq(Cat(self.i_pixel.first, firsts)),
            verticals.eq(Cat(self.i_pixel.vertical, verticals)),
            starts.eq(Cat(self.i_tap.start, starts)),
        ]
        m.d.comb += [
            self.o_swap.eq(firsts[3:]),
            self.o_vertical.eq(verticals[3:]),
            self.o_lag.eq(_delayed(m, self.i_pixel.lag, 4, "lag")),
        ]

        offset_in: Value = self.i_pixel.offset
        tap_in: Value = self.i_tap.address
        takes = Signal(self.rows)
        for r in range(self.rows):
            # Each row controls its own shadow tap, so that nothing is broadcast: it takes rows - r taps, the first r cycles after
            # row 0.
            start_in = starts[r - 1] if r else self.i_tap.start
            first_in = firsts[r - 1] if r else self.i_pixel.first
            remaining = Signal(range(self.rows - r + 1), name=f"remaining_{r}")
            shadow = Signal(16, name=f"shadow_{r}", reset_less=True)
            m.d.comb += takes[r].eq(start_in | (remaining != 0))
            with m.If(start_in):
                m.d.sync += remaining.eq(self.rows - r - 1)
            with m.Elif(remaining != 0):
                m.d.sync += remaining.eq(remaining - 1)
            with m.If(takes[r]):
                m.d.sync += shadow.eq(tap_in)

            tap = Signal(16, name=f"tap_{r}", reset_less=True)
            offset = Signal(16, name=f"offset_{r}", reset_less=True)
            m.d.sync += offset.eq(offset_in)
            with m.If(first_in):
                m.d.sync += tap.eq(shadow)

            address = Signal(address_bits, name=f"address_{r}", reset_less=True)
            m.d.sync += address.eq((offset + tap)[:address_bits])

            m.submodules[f"bank_{r}"] = bank = ram(shape=8, depth=self.depth)
            read = bank.read_port()
            write = bank.write_port()
            byte = Signal(8, name=f"byte_{r}", reset_less=True)
            m.d.comb += [
                read.addr.eq(address),
                read.en.eq(1),
                write.addr.eq(self.i_write.address[:address_bits]),
                write.data.eq(self.i_write.data[r]),
                write.en.eq(self.i_write.mask[r]),
                self.o_bytes[r].eq(byte),
            ]
            # a register behind the memory: block RAM outputs are slow
            m.d.sync += byte.eq(read.data)
            offset_in, tap_in = offset, shadow
        m.d.comb += self.o_shift.eq(_delayed(m, takes, 4, "shift"))
        return m


def _delayed(m: Module, signal: Value, cycles: int, name: str) -> Value:
    for n in range(cycles):
        later = Signal.like(signal, name=f"{name}_{n}")
        m.d.sync += later.eq(signal)
        signal = later
    return signal
