"""The AXI4 write channels."""

from __future__ import annotations

from amaranth import *
from amaranth.lib import data, fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from rtl.layouts import ORDER_BITS
from rtl.store import transfer_layout, word_layout

__all__ = ["BURST_BEATS", "WritePort", "address_layout", "response_layout", "write_beat_layout"]

#: Longest burst; bursts never cross a multiple of it, so (with at most 64 bytes a beat) never a multiple of 4096 bytes.
BURST_BEATS = 64

#: Transfers announced ahead, and beats gathered ahead of the bus.
TRANSFERS = 4
BEATS = 16

#: Write bursts that may wait for their response.
OUTSTANDING = 8

address_layout = data.StructLayout({"address": 32, "length": 8})
response_layout = data.StructLayout({"error": 1})


def write_beat_layout(bus_bytes: int) -> data.StructLayout:
    """Return a beat of write data."""
    return data.StructLayout({"data": 8 * bus_bytes, "strobe": bus_bytes, "last": 1})


class WritePort(wiring.Component):
    """Write rows of activation words to memory, packed into full beats and long bursts.

    Parameters
    ----------
    word_bytes, bus_bytes
        Bytes of an activation word in memory and of a beat.

    Members
    -------
    i_transfer
        Rows to come (address relative to the base).
    i_word
        Their words, in order.
    i_halt
        Finish the burst under way with empty beats and begin no other.
    o_address, o_data, i_response
        AXI4 channels AW, W and B.
    o_idle
        Every transfer is acknowledged.
    o_fault, o_fault_index
        A write was answered with an error; the instruction that caused it.
    """

    def __init__(self, *, word_bytes: int, bus_bytes: int) -> None:
        self.word_bytes = word_bytes
        self.bus_bytes = bus_bytes
        super().__init__(
            {
                "i_transfer": In(stream.Signature(transfer_layout())),
                "i_word": In(stream.Signature(word_layout(word_bytes))),
                "i_halt": In(1),
                "o_address": Out(stream.Signature(address_layout)),
                "o_data": Out(stream.Signature(write_beat_layout(bus_bytes))),
                "i_response": In(stream.Signature(response_layout)),
                "o_idle": Out(1),
                "o_fault": Out(1),
                "o_fault_index": Out(ORDER_BITS),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bus = self.bus_bytes
        beat_bits = (bus - 1).bit_length()
        word_bits = (self.word_bytes - 1).bit_length()

        m.submodules.transfers = transfers = fifo.SyncFIFO(width=transfer_layout().size, depth=TRANSFERS)
        m.d.comb += [
            transfers.w_data.eq(self.i_transfer.payload),
            transfers.w_en.eq(self.i_transfer.valid),
            self.i_transfer.ready.eq(transfers.w_rdy),
        ]
        beat_layout = data.StructLayout({"data": 8 * bus, "strobe": bus})
        m.submodules.beats = beats = fifo.SyncFIFO(width=beat_layout.size, depth=BEATS)
        self._pack(m, beats, beat_layout)

        transfer = data.View(transfer_layout(), transfers.r_data)
        row = Signal(32)
        rows_left = Signal(12)
        beat = Signal(32 - beat_bits)
        beats_left = Signal(13 + word_bits)
        burst = Signal(range(BURST_BEATS + 1))
        m.submodules.pending = pending = fifo.SyncFIFO(width=ORDER_BITS, depth=OUTSTANDING)

        to_boundary = BURST_BEATS - beat[: (BURST_BEATS - 1).bit_length()]
        m.d.comb += [
            burst.eq(Mux(beats_left < to_boundary, beats_left, to_boundary)),
            self.o_address.payload.address.eq(Cat(Const(0, beat_bits), beat)),
            self.o_address.payload.length.eq(burst - 1),
        ]
        # Address and data are offered side by side: a memory may take either first.
        address_sent = Signal()
        beats_sent = Signal(range(BURST_BEATS + 1))
        address_done = Signal()
        data_done = Signal()
        send_beat = Signal()
        entry = data.View(beat_layout, beats.r_data)
        # A halted engine may deliver no more words, but a burst once begun must be finished. Once a beat is hollow, so are those
        # that follow: what arrives now belongs to places that have passed.
        hollow = Signal()
        hollowed = Signal()
        m.d.sync += hollowed.eq(hollow)
        m.d.comb += [
            hollow.eq(hollowed | (self.i_halt & ~beats.r_rdy)),
            self.o_data.payload.data.eq(Mux(hollow, 0, entry.data)),
            self.o_data.payload.strobe.eq(Mux(hollow, 0, entry.strobe)),
            self.o_data.payload.last.eq(beats_sent == burst - 1),
            send_beat.eq(self.o_data.valid & self.o_data.ready),
            address_done.eq(address_sent | (self.o_address.valid & self.o_address.ready)),
            data_done.eq((beats_sent == burst) | (send_beat & self.o_data.payload.last)),
        ]

        with m.FSM() as fsm:
            with m.State("Idle"):
                with m.If(transfers.r_rdy & ~self.i_halt):
                    m.d.sync += [row.eq(transfer.address), rows_left.eq(transfer.n_y)]
                    m.next = "Row"
            with m.State("Row"):
                with m.If(self.i_halt):
                    m.next = "Idle"
                with m.Else():
                    m.next = "Room"
                row_bytes = transfer.n_x << word_bits
                m.d.sync += [
                    beat.eq(row >> beat_bits),
                    beats_left.eq(((row[:beat_bits] + row_bytes - 1) >> beat_bits) + 1),
                ]
            with m.State("Room"):
                with m.If(self.i_halt):
                    m.next = "Idle"
                with m.Elif(pending.w_rdy):
                    m.next = "Burst"
            with m.State("Burst"):
                m.d.comb += [
                    self.o_address.valid.eq(~address_sent),
                    self.o_data.valid.eq((beats.r_rdy | hollow) & (beats_sent != burst)),
                    beats.r_en.eq(send_beat & ~hollow),
                ]
                m.d.sync += [address_sent.eq(address_done), beats_sent.eq(beats_sent + send_beat)]
                with m.If(address_done & data_done):
                    m.d.sync += [
                        address_sent.eq(0),
                        beats_sent.eq(0),
                        beat.eq(beat + burst),
                        beats_left.eq(beats_left - burst),
                    ]
                    with m.If(self.i_halt):
                        m.next = "Idle"
                    with m.Elif(beats_left != burst):
                        m.next = "Room"
                    with m.Elif(rows_left == 1):
                        m.d.comb += transfers.r_en.eq(1)
                        m.next = "Idle"
                    with m.Else():
                        m.d.sync += [row.eq(row + transfer.stride_y), rows_left.eq(rows_left - 1)]
                        m.next = "Row"

        m.d.comb += [
            pending.w_data.eq(transfer.index),
            pending.w_en.eq(self.o_address.valid & self.o_address.ready),
            self.i_response.ready.eq(1),
            pending.r_en.eq(self.i_response.valid),
            self.o_fault.eq(self.i_response.valid & self.i_response.payload.error),
            self.o_fault_index.eq(pending.r_data),
            # (a fifo shows an entry one cycle after it was written; level counts it at once)
            self.o_idle.eq(fsm.ongoing("Idle") & ((transfers.level == 0) | self.i_halt) & (pending.level == 0)),
        ]
        return m

    def _pack(self, m: Module, beats: fifo.SyncFIFO, beat_layout: data.StructLayout) -> None:
        """Gather words into beats, or cut them into beats."""
        word = self.i_word.payload
        out = data.View(beat_layout, beats.w_data)
        if self.word_bytes > self.bus_bytes:
            parts = self.word_bytes // self.bus_bytes
            part = Signal(range(parts))
            m.d.comb += [
                out.data.eq(word.data.word_select(part, 8 * self.bus_bytes)),
                out.strobe.eq(word.strobe.word_select(part, self.bus_bytes)),
                beats.w_en.eq(self.i_word.valid),
                self.i_word.ready.eq(beats.w_rdy & (part == parts - 1)),
            ]
            with m.If(beats.w_en & beats.w_rdy):
                m.d.sync += part.eq(part + 1)
            return
        slots = self.bus_bytes // self.word_bytes
        gathered = Signal(beat_layout)
        merged = Signal(beat_layout)
        slot = (word.address >> (self.word_bytes - 1).bit_length())[: max(1, (slots - 1).bit_length())] if slots > 1 else Const(0)
        m.d.comb += merged.eq(gathered)
        for n in range(slots):
            with m.If(slot == n):
                m.d.comb += [
                    merged.data.word_select(n, 8 * self.word_bytes).eq(word.data),
                    merged.strobe.word_select(n, self.word_bytes).eq(word.strobe),
                ]
        full = (slot == slots - 1) | word.row_last
        m.d.comb += [
            out.eq(merged),
            beats.w_en.eq(self.i_word.valid & full),
            self.i_word.ready.eq(beats.w_rdy | ~full),
        ]
        with m.If(self.i_word.valid & self.i_word.ready):
            m.d.sync += gathered.eq(merged)
            with m.If(full):
                m.d.sync += gathered.strobe.eq(0)
