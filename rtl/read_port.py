"""The AXI4 read channels, shared by instruction fetch and the load unit."""

from __future__ import annotations

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from rtl.queue import Queue
from rtl.write_port import address_layout

__all__ = ["ReadPort", "read_beat_layout"]

#: Read bursts that may be under way.
OUTSTANDING = 16


def read_beat_layout(bus_bytes: int) -> data.StructLayout:
    """Return a beat of read data."""
    return data.StructLayout({"data": 8 * bus_bytes, "error": 1, "last": 1})


class ReadPort(wiring.Component):
    """Send two masters' bursts to memory, the first master's before the second's, and hand back each one's beats.

    Parameters
    ----------
    bus_bytes
        Bytes of a beat.

    Members
    -------
    i_fetch, i_load
        Bursts wanted, relative to the base; at most one is taken in a cycle.
    o_fetch_beat, o_load_beat
        Their beats.
    i_halt
        Take no further burst, and take every beat: from the next cycle on.
    i_base
        Added to every address: a multiple of 4096.
    o_address, i_beat
        AXI4 channels AR and R.
    o_idle
        No burst is under way.
    o_quiet
        Nor will there be one, because of a halt.
    """

    def __init__(self, *, bus_bytes: int) -> None:
        self.bus_bytes = bus_bytes
        beat = stream.Signature(read_beat_layout(bus_bytes))
        address = stream.Signature(address_layout)
        super().__init__(
            {
                "i_fetch": In(address),
                "i_load": In(address),
                "o_fetch_beat": Out(beat),
                "o_load_beat": Out(beat),
                "i_halt": In(1),
                "i_base": In(32),
                "o_address": Out(address),
                "i_beat": In(beat),
                "o_idle": Out(1),
                "o_quiet": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.owners = owners = Queue(shape=1, depth=OUTSTANDING, through=True)
        free = Signal()
        take_fetch = Signal()
        take_load = Signal()
        # near to what it holds up
        halted = Signal()
        m.d.sync += halted.eq(self.i_halt)
        m.d.comb += [
            free.eq((~self.o_address.valid | self.o_address.ready) & owners.w_rdy & ~halted),
            self.i_fetch.ready.eq(free),
            self.i_load.ready.eq(free & ~self.i_fetch.valid),
            take_fetch.eq(self.i_fetch.valid & self.i_fetch.ready),
            take_load.eq(self.i_load.valid & self.i_load.ready),
            owners.w_en.eq(take_fetch | take_load),
            owners.w_data.eq(take_load),
        ]
        chosen = Mux(self.i_fetch.valid, self.i_fetch.payload.as_value(), self.i_load.payload.as_value())
        burst = data.View(address_layout, chosen)
        with m.If(take_fetch | take_load):
            m.d.sync += [
                self.o_address.valid.eq(1),
                self.o_address.payload.address.eq(burst.address + self.i_base),
                self.o_address.payload.length.eq(burst.length),
            ]
        with m.Elif(self.o_address.ready):
            m.d.sync += self.o_address.valid.eq(0)

        to_load = owners.r_data
        m.d.comb += [
            self.o_fetch_beat.payload.eq(self.i_beat.payload),
            self.o_load_beat.payload.eq(self.i_beat.payload),
            self.o_fetch_beat.valid.eq(self.i_beat.valid & owners.r_rdy & ~to_load),
            self.o_load_beat.valid.eq(self.i_beat.valid & owners.r_rdy & to_load),
            self.i_beat.ready.eq(owners.r_rdy & (Mux(to_load, self.o_load_beat.ready, self.o_fetch_beat.ready) | halted)),
            owners.r_en.eq(self.i_beat.valid & self.i_beat.ready & self.i_beat.payload.last),
            self.o_idle.eq(~owners.r_rdy),
            self.o_quiet.eq(self.o_idle & halted),
        ]
        return m
