"""The board's end of the serial link (:mod:`accel.link`)."""

from __future__ import annotations

from amaranth import *
from amaranth.lib import crc, stream, wiring
from amaranth.lib.wiring import In, Out

from accel.isa import CSR, CSR_BYTES, REGISTERS
from accel.link import (
    ADDRESS_BYTES,
    ANSWER,
    CRC_BYTES,
    IDENTITY_BYTES,
    LENGTH_BYTES,
    LINK_VERSION,
    REGISTER_BYTES,
    REQUEST,
    Command,
    Status,
)
from rtl.csr import axi_lite_signature
from rtl.wishbone import axi_signature

__all__ = ["Link"]

_INCR = 1


class Link(wiring.Component):
    """Carry out what the host asks for: bytes of memory, registers of the engine.

    A byte of memory is an AXI access of its own: the line is slower. Memory is the link's only while the engine does not run,
    which is seen in STATUS before every access; nothing but the link starts the engine.

    Parameters
    ----------
    bus_bytes
        Bytes a beat of memory.
    memory_bytes
        Its size; it begins at address 0.
    protected_bytes
        So many of its first are the program, which is not written.
    identity
        Tells which program that is: ``IDENTITY_BYTES`` bytes.
    silence
        Cycles without a byte after which a request that is not complete is given up.

    Members
    -------
    i_byte, i_valid, i_line_idle
        From the receiver.
    o
        To the transmitter.
    lite
        To the engine's registers.
    axi
        To memory, while ``o_owner`` is high; single beats.
    o_owner
        Memory is the link's.
    o_refused
        The last answer was not OK.
    """

    def __init__(self, *, bus_bytes: int, memory_bytes: int, protected_bytes: int, identity: bytes, silence: int) -> None:
        self.bus_bytes = bus_bytes
        self.memory_bytes = memory_bytes
        self.protected_bytes = protected_bytes
        self.identity = identity
        self.silence = silence
        super().__init__(
            {
                "i_byte": In(8),
                "i_valid": In(1),
                "i_line_idle": In(1),
                "o": Out(stream.Signature(8)),
                "lite": Out(axi_lite_signature()),
                "axi": Out(axi_signature(bus_bytes)),
                "o_owner": Out(1),
                "o_refused": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.crc = check = crc.catalog.CRC16_IBM_3740(data_width=8).create()
        lite, axi = self.lite, self.axi

        header = Signal(8 * (1 + LENGTH_BYTES + ADDRESS_BYTES))
        command, length, address = header[:8], header[8 : 8 + 8 * LENGTH_BYTES], header[8 + 8 * LENGTH_BYTES :]
        status = Signal(Status)
        count = Signal(8 * LENGTH_BYTES)
        word = Signal(32)
        place = Signal(32)
        octet = Signal(8)
        wants_memory, wants_register, writes = Signal(), Signal(), Signal()
        m.d.comb += [
            wants_memory.eq((command == Command.READ) | (command == Command.WRITE)),
            wants_register.eq((command == Command.READ_REGISTER) | (command == Command.WRITE_REGISTER)),
            writes.eq((command == Command.WRITE) | (command == Command.WRITE_REGISTER)),
        ]

        # ---- silence ----
        quiet = Signal(range(self.silence + 1))
        silent = Signal()
        m.d.comb += silent.eq(quiet == self.silence)
        with m.If(~self.i_line_idle):
            m.d.sync += quiet.eq(0)
        with m.Elif(~silent):
            m.d.sync += quiet.eq(quiet + 1)

        # ---- memory: single beats of a byte ----
        beat_bits = (self.bus_bytes - 1).bit_length()
        lane = place[:beat_bits]
        m.d.comb += [
            axi.araddr.eq(place),
            axi.arsize.eq(beat_bits),
            axi.arburst.eq(_INCR),
            axi.awaddr.eq(place),
            axi.awsize.eq(beat_bits),
            axi.awburst.eq(_INCR),
            axi.wdata.eq(octet.replicate(self.bus_bytes)),
            axi.wstrb.eq(1 << lane),
            axi.wlast.eq(1),
        ]
        # ---- registers ----
        busy = lite.rdata[next(f.offset for f in REGISTERS[CSR.STATUS].fields if f.name == "busy")]
        m.d.comb += [
            lite.araddr.eq(Mux(wants_register, address[: len(lite.araddr)], CSR.STATUS)),
            lite.awaddr.eq(address[: len(lite.awaddr)]),
            lite.wdata.eq(word),
            lite.wstrb.eq(-1),
        ]

        def refuse(reason: Status) -> None:
            m.d.sync += status.eq(reason)

        def give_up(*, where: str) -> None:
            with m.If(silent):
                refuse(Status.INCOMPLETE)
                m.next = where

        with m.FSM():
            with m.State("Mark"):
                m.d.comb += check.start.eq(1)
                m.d.sync += [count.eq(0), status.eq(Status.OK), self.o_owner.eq(0)]
                with m.If(self.i_valid & (self.i_byte == REQUEST)):
                    m.next = "Header"
            with m.State("Header"):
                take = self.i_valid
                m.d.comb += [check.data.eq(self.i_byte), check.valid.eq(take)]
                give_up(where="Answer")
                with m.If(take):
                    m.d.sync += count.eq(count + 1)
                    with m.If(count < len(header) // 8):
                        m.d.sync += header.eq(Cat(header[8:], self.i_byte))
                    with m.If(count == len(header) // 8 + CRC_BYTES - 1):
                        m.next = "Understand"

            with m.State("Understand"):
                m.d.comb += check.start.eq(1)
                m.d.sync += [count.eq(0), place.eq(address)]
                end = Signal(33)
                m.d.comb += end.eq(address + length)
                with m.If(~check.match_detected):
                    refuse(Status.BAD_REQUEST)
                    m.next = "Drain"
                with m.Elif(wants_memory & (length != 0)):
                    with m.If((end > self.memory_bytes) | (writes & (address < self.protected_bytes))):
                        refuse(Status.BAD_ADDRESS)
                    m.next = "Busy?"
                with m.Elif(wants_register & (length == REGISTER_BYTES)):
                    with m.If(address >= CSR_BYTES):
                        refuse(Status.BAD_ADDRESS)
                        m.next = "Answer"
                        with m.If(writes):
                            m.next = "Payload"
                    with m.Elif(writes):
                        m.next = "Payload"
                    with m.Else():
                        m.next = "Read register"
                with m.Elif((command == Command.IDENTIFY) & (length == 1 + IDENTITY_BYTES)):
                    m.next = "Answer"
                with m.Else():
                    refuse(Status.BAD_COMMAND)
                    m.next = "Drain"

            # What follows a request that was not understood may be data of any length.
            with m.State("Drain"):
                with m.If(silent):
                    m.next = "Answer"

            with m.State("Busy?"):
                m.d.comb += lite.arvalid.eq(1)
                with m.If(lite.arready):
                    m.next = "Busy"
            with m.State("Busy"):
                m.d.comb += lite.rready.eq(1)
                with m.If(lite.rvalid):
                    with m.If(busy):
                        refuse(Status.BUSY)
                    with m.Else():
                        m.d.sync += self.o_owner.eq(1)
                    m.next = "Answer"
                    with m.If(writes):
                        m.next = "Payload"
            with m.State("Read register"):
                m.d.comb += lite.arvalid.eq(1)
                with m.If(lite.arready):
                    m.next = "Register read"
            with m.State("Register read"):
                m.d.comb += lite.rready.eq(1)
                with m.If(lite.rvalid):
                    m.d.sync += word.eq(lite.rdata)
                    with m.If(lite.rresp != 0):
                        refuse(Status.REFUSED)
                    m.next = "Answer"

            # ---- data of a write ----
            with m.State("Payload"):
                m.d.comb += [check.data.eq(self.i_byte), check.valid.eq(self.i_valid)]
                give_up(where="Answer")
                with m.If(self.i_valid):
                    m.d.sync += [octet.eq(self.i_byte), count.eq(count + 1), word.eq(Cat(word[8:], self.i_byte))]
                    with m.If((command == Command.WRITE) & (status == Status.OK)):
                        m.next = "Write"
                    with m.Elif(count == length - 1):
                        m.d.sync += count.eq(0)
                        m.next = "Payload's CRC"
            with m.State("Write"):
                m.d.comb += axi.awvalid.eq(1)
                with m.If(axi.awready):
                    m.next = "Write data"
            with m.State("Write data"):
                m.d.comb += axi.wvalid.eq(1)
                with m.If(axi.wready):
                    m.next = "Written"
            with m.State("Written"):
                m.d.comb += axi.bready.eq(1)
                with m.If(axi.bvalid):
                    m.d.sync += place.eq(place + 1)
                    m.next = "Payload"
                    with m.If(count == length):
                        m.d.sync += count.eq(0)
                        m.next = "Payload's CRC"
            with m.State("Payload's CRC"):
                m.d.comb += [check.data.eq(self.i_byte), check.valid.eq(self.i_valid)]
                give_up(where="Answer")
                with m.If(self.i_valid):
                    m.d.sync += count.eq(count + 1)
                    with m.If(count == CRC_BYTES - 1):
                        m.next = "Payload complete"
            with m.State("Payload complete"):
                m.next = "Answer"
                with m.If(status == Status.OK):
                    with m.If(~check.match_detected):
                        refuse(Status.BAD_DATA)
                    with m.Elif(wants_register):
                        m.next = "Write register"
            with m.State("Write register"):
                m.d.comb += [lite.awvalid.eq(1), lite.wvalid.eq(1)]
                with m.If(lite.awready & lite.wready):
                    m.next = "Register written"
            with m.State("Register written"):
                m.d.comb += lite.bready.eq(1)
                with m.If(lite.bvalid):
                    with m.If(lite.bresp != 0):
                        refuse(Status.REFUSED)
                    m.next = "Answer"

            # ---- the answer ----
            with m.State("Answer"):
                m.d.comb += check.start.eq(1)
                m.d.sync += [count.eq(0), self.o_refused.eq(status != Status.OK)]
                with m.If(writes | (status != Status.OK)):
                    m.d.sync += length.eq(0)
                m.next = "Answer's header"
            with m.State("Answer's header"):
                front = Cat(C(ANSWER, 8), status, C(0, 8 - len(status)), length, check.crc[8:], check.crc[:8])
                m.d.comb += [
                    self.o.valid.eq(1),
                    self.o.payload.eq(front.word_select(count[:3], 8)),
                    check.data.eq(self.o.payload),
                    check.valid.eq(self.o.ready & (count != 0) & (count < 2 + LENGTH_BYTES)),
                ]
                with m.If(self.o.ready):
                    m.d.sync += count.eq(count + 1)
                    with m.If(count == len(front) // 8 - 1):
                        m.d.comb += check.start.eq(1)
                        m.d.sync += count.eq(0)
                        m.next = "Fetch"
                        with m.If(length == 0):
                            m.next = "Mark"
            with m.State("Fetch"):
                m.next = "Send"
                with m.Switch(command):
                    with m.Case(Command.READ):
                        m.next = "Read"
                    with m.Case(Command.READ_REGISTER):
                        m.d.sync += [octet.eq(word), word.eq(word >> 8)]
                    with m.Default():
                        known = C(int.from_bytes(bytes((LINK_VERSION,)) + self.identity, "little"), 8 * (1 + IDENTITY_BYTES))
                        m.d.sync += octet.eq(known.word_select(count[:4], 8))
            with m.State("Read"):
                m.d.comb += axi.arvalid.eq(1)
                with m.If(axi.arready):
                    m.next = "Take"
            with m.State("Take"):
                m.d.comb += axi.rready.eq(1)
                with m.If(axi.rvalid):
                    m.d.sync += [octet.eq(axi.rdata.word_select(lane, 8)), place.eq(place + 1)]
                    m.next = "Send"
            with m.State("Send"):
                m.d.comb += [
                    self.o.valid.eq(1),
                    self.o.payload.eq(octet),
                    check.data.eq(octet),
                    check.valid.eq(self.o.ready),
                ]
                with m.If(self.o.ready):
                    m.d.sync += count.eq(count + 1)
                    m.next = "Fetch"
                    with m.If(count == length - 1):
                        m.d.sync += count.eq(0)
                        m.next = "Answer's CRC"
            with m.State("Answer's CRC"):
                m.d.comb += [self.o.valid.eq(1), self.o.payload.eq(Mux(count == 0, check.crc[8:], check.crc[:8]))]
                with m.If(self.o.ready):
                    m.d.sync += count.eq(count + 1)
                    with m.If(count == CRC_BYTES - 1):
                        m.next = "Mark"
        return m
