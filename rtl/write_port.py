"""The AXI4 write channels."""

from __future__ import annotations

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from rtl.layouts import ORDER_BITS
from rtl.queue import Queue
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
    i_base
        What is added to addresses: a multiple of 4096.
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
                "i_base": In(32),
                "i_halt": In(1),
                "o_address": Out(stream.Signature(address_layout)),
                "o_data": Out(stream.Signature(write_beat_layout(bus_bytes))),
                "i_response": In(stream.Signature(response_layout)),
                "o_idle": Out(1, init=1),
                "o_fault": Out(1),
                "o_fault_index": Out(ORDER_BITS),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bus = self.bus_bytes
        beat_bits = (bus - 1).bit_length()
        word_bits = (self.word_bytes - 1).bit_length()

        m.submodules.transfers = transfers = Queue(shape=transfer_layout(), depth=TRANSFERS, through=True)
        m.d.comb += [
            transfers.w_data.eq(self.i_transfer.payload),
            transfers.w_en.eq(self.i_transfer.valid),
            self.i_transfer.ready.eq(transfers.w_rdy),
        ]
        beat_layout = data.StructLayout({"data": 8 * bus, "strobe": bus})
        m.submodules.beats = beats = Queue(shape=beat_layout, depth=BEATS, through=True)
        self._pack(m, beats)

        # Of the transfer under way: where its next row begins, a row's bytes less one, rows still to come.
        row = Signal(32, reset_less=True)
        stride = Signal(24, reset_less=True)
        row_bytes = Signal(12 + word_bits, reset_less=True)
        rows_left = Signal(12, reset_less=True)
        index = Signal(ORDER_BITS, reset_less=True)
        # Of the row under way: where its next burst begins, and how far it reaches from the boundary before that: to which beat.
        beat = Signal(32 - beat_bits, reset_less=True)
        reach = Signal(range(-(-((1 << 12 + word_bits) - 1 + BURST_BEATS * bus) // bus)), reset_less=True)
        m.submodules.pending = pending = Queue(shape=ORDER_BITS, depth=OUTSTANDING, through=True)

        # Of the burst under way: its address, its beats less one, as many of those as are still to be sent, and whether it is the
        # row's last. Address and data are offered side by side: a memory may take either first.
        length_bits = (BURST_BEATS - 1).bit_length()
        address = Signal.like(beat)
        length = Signal(length_bits, reset_less=True)
        unsent = Signal(length_bits, reset_less=True)
        row_ends = Signal(reset_less=True)
        address_valid = Signal()
        data_open = Signal()
        data_last = Signal()
        send_beat = Signal()
        address_done = Signal()
        data_done = Signal()
        entry = beats.r_data
        # A halted engine may deliver no more words, but a burst once begun must be finished. Once a beat is hollow, so are those
        # that follow: what arrives now belongs to places that have passed.
        hollow = Signal()
        hollowed = Signal()
        m.d.sync += hollowed.eq(hollow)
        m.d.comb += [
            hollow.eq(hollowed | (self.i_halt & ~beats.r_rdy)),
            self.o_address.payload.address.eq(Cat(Const(0, beat_bits), address)),
            self.o_address.payload.length.eq(length),
            self.o_address.valid.eq(address_valid),
            self.o_data.payload.data.eq(Mux(hollow, 0, entry.data)),
            self.o_data.payload.strobe.eq(Mux(hollow, 0, entry.strobe)),
            data_last.eq(unsent == 0),
            self.o_data.payload.last.eq(data_last),
            self.o_data.valid.eq(data_open & (beats.r_rdy | hollowed | self.i_halt)),
            send_beat.eq(self.o_data.valid & self.o_data.ready),
            beats.r_en.eq(data_open & self.o_data.ready & ~hollowed),
            address_done.eq(~address_valid | self.o_address.ready),
            data_done.eq(~data_open | (send_beat & data_last)),
        ]
        with m.If(self.o_address.ready):
            m.d.sync += address_valid.eq(0)
        with m.If(send_beat):
            m.d.sync += [unsent.eq(unsent - 1), data_open.eq(~data_last)]

        idle = Signal(init=1)

        def go(state: str) -> None:
            m.next = state
            m.d.sync += idle.eq(state == "Idle")

        with m.FSM():
            with m.State("Idle"):
                transfer = transfers.r_data
                m.d.comb += transfers.r_en.eq(~self.i_halt)
                m.d.sync += [
                    row.eq(transfer.address + self.i_base),
                    stride.eq(transfer.stride_y),
                    row_bytes.eq(((transfer.n_x - 1) << word_bits) + ((1 << word_bits) - 1)),
                    rows_left.eq(transfer.n_y),
                    index.eq(transfer.index),
                ]
                with m.If(transfers.r_rdy & ~self.i_halt):
                    go("Row")
            with m.State("Row"):
                m.d.sync += [
                    beat.eq(row >> beat_bits),
                    reach.eq((row_bytes + row[: beat_bits + length_bits]) >> beat_bits),
                    row.eq(row + stride),
                    rows_left.eq(rows_left - 1),
                ]
                with m.If(self.i_halt):
                    go("Idle")
                with m.Else():
                    go("Room")
            with m.State("Room"):
                beyond = reach[length_bits:].any()
                here = (Mux(beyond, BURST_BEATS - 1, reach[:length_bits]) - beat[:length_bits])[:length_bits]
                m.d.sync += [address.eq(beat), length.eq(here), unsent.eq(here), row_ends.eq(~beyond)]
                with m.If(self.i_halt):
                    go("Idle")
                with m.Elif(pending.w_rdy):
                    # if the row goes on, then from the boundary
                    m.d.sync += [
                        beat.eq(Cat(Const(0, length_bits), beat[length_bits:] + 1)),
                        reach.eq(reach - BURST_BEATS),
                        address_valid.eq(1),
                        data_open.eq(1),
                    ]
                    go("Burst")
            with m.State("Burst"):
                with m.If(address_done & data_done):
                    with m.If(self.i_halt):
                        go("Idle")
                    with m.Elif(~row_ends):
                        go("Room")
                    with m.Elif(rows_left == 0):
                        go("Idle")
                    with m.Else():
                        go("Row")

        m.d.comb += [
            pending.w_data.eq(index),
            pending.w_en.eq(self.o_address.valid & self.o_address.ready),
            self.i_response.ready.eq(1),
            pending.r_en.eq(self.i_response.valid),
            self.o_fault.eq(self.i_response.valid & self.i_response.payload.error),
            self.o_fault_index.eq(pending.r_data),
        ]
        # What will be so in the next cycle: nothing comes, and no response is missing but the one that is there. (A burst is not
        # acknowledged before it has ended.)
        m.d.sync += self.o_idle.eq(
            idle
            & (~(transfers.r_rdy | self.i_transfer.valid) | self.i_halt)
            & ~pending.o_behind
            & (~pending.r_rdy | self.i_response.valid)
        )
        return m

    def _pack(self, m: Module, beats: Queue) -> None:
        """Gather words into beats, or cut them into beats."""
        word = self.i_word.payload
        out = beats.w_data
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
        gathered = Signal.like(out)
        merged = Signal.like(out)
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
