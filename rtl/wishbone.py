"""The engine on a Wishbone B4 bus, behind two bridges."""

from __future__ import annotations

from amaranth import *
from amaranth.lib import data, fifo, wiring
from amaranth.lib.wiring import In, Out

from accel.config import EngineConfig
from accel.isa import CSR_BYTES
from rtl.csr import axi_lite_signature
from rtl.engine import Engine, axi_members

__all__ = ["WishboneControl", "WishboneEngine", "WishboneMemory", "axi_signature", "wishbone_signature"]

#: Accesses under way at most. As many read beats find room here: so many cycles a memory may take without slowing down a burst.
OUTSTANDING = 32

#: Write bursts that may wait for their response.
WRITE_BURSTS = 4

_SLAVE_ERROR = 2


def wishbone_signature(*, address_bits: int, data_bytes: int) -> wiring.Signature:
    """Return a Wishbone B4 port of 8-bit granularity with byte addresses, seen from the master."""
    return wiring.Signature(
        {
            "adr": Out(address_bits),
            "dat_w": Out(8 * data_bytes),
            "dat_r": In(8 * data_bytes),
            "sel": Out(data_bytes),
            "we": Out(1),
            "cyc": Out(1),
            "stb": Out(1),
            "ack": In(1),
            "err": In(1),
            "stall": In(1),
        }
    )


def axi_signature(bus_bytes: int) -> wiring.Signature:
    """Return the engine's AXI4 port."""
    return wiring.Signature({name.removeprefix("m_axi_"): member for name, member in axi_members(bus_bytes).items()})


class WishboneMemory(wiring.Component):
    """Turn AXI4 bursts into accesses of a pipelined Wishbone master, one a cycle.

    Accesses are answered in order. Reads and writes take turns by the beat: a write beat goes first when it is there, so neither
    waits for data of the other. A write is answered when all its beats are; an access answered with ``err`` makes its read beat,
    or its write burst, an error.

    Parameters
    ----------
    bus_bytes
        Bytes a beat.

    Members
    -------
    axi
        AXI4: INCR bursts of full beats, no IDs.
    wb
        Wishbone. A classic slave does as well, with ``stall`` high in every cycle of ``cyc`` without ``ack`` or ``err``.
    """

    def __init__(self, *, bus_bytes: int) -> None:
        self.bus_bytes = bus_bytes
        super().__init__(
            {
                "axi": In(axi_signature(bus_bytes)),
                "wb": Out(wishbone_signature(address_bits=32, data_bytes=bus_bytes)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        axi, wb = self.axi, self.wb
        beat_layout = data.StructLayout({"data": 8 * self.bus_bytes, "error": 1, "last": 1})
        tag_layout = data.StructLayout({"write": 1, "last": 1})
        m.submodules.tags = tags = fifo.SyncFIFO(width=tag_layout.size, depth=OUTSTANDING)
        m.submodules.beats = beats = fifo.SyncFIFO(width=beat_layout.size, depth=OUTSTANDING)
        m.submodules.responses = responses = fifo.SyncFIFO(width=1, depth=WRITE_BURSTS)

        # ---- bursts: what is left of the one of each direction ----
        read_address, write_address = Signal(32), Signal(32)
        read_left, write_left = Signal(9), Signal(9)
        reads_owed = Signal(range(OUTSTANDING + 1))
        writes_owed = Signal(range(WRITE_BURSTS + 1))
        m.d.comb += [
            axi.arready.eq(read_left == 0),
            axi.awready.eq((write_left == 0) & (writes_owed != WRITE_BURSTS)),
        ]
        take_burst = Signal()
        m.d.comb += take_burst.eq(axi.awvalid & axi.awready)

        # ---- requests ----
        free = Signal()
        issue_read, issue_write = Signal(), Signal()
        tag = Signal(tag_layout)
        m.d.comb += [
            free.eq((~wb.stb | ~wb.stall) & tags.w_rdy),
            issue_write.eq(free & (write_left != 0) & axi.wvalid),
            issue_read.eq(free & ~issue_write & (read_left != 0) & (reads_owed != OUTSTANDING)),
            axi.wready.eq(issue_write),
            tag.write.eq(issue_write),
            tag.last.eq(Mux(issue_write, write_left, read_left) == 1),
            tags.w_data.eq(tag),
            tags.w_en.eq(issue_read | issue_write),
            wb.cyc.eq(tags.level != 0),
        ]
        with m.If(tags.w_en):
            m.d.sync += [
                wb.stb.eq(1),
                wb.we.eq(issue_write),
                wb.adr.eq(Mux(issue_write, write_address, read_address)),
                wb.sel.eq(Mux(issue_write, axi.wstrb, ~Const(0, self.bus_bytes))),
                wb.dat_w.eq(axi.wdata),
            ]
        with m.Elif(~wb.stall):
            m.d.sync += wb.stb.eq(0)

        with m.If(axi.arvalid & axi.arready):
            m.d.sync += [read_address.eq(axi.araddr), read_left.eq(axi.arlen + 1)]
        with m.Elif(issue_read):
            m.d.sync += [read_address.eq(read_address + self.bus_bytes), read_left.eq(read_left - 1)]
        with m.If(take_burst):
            m.d.sync += [write_address.eq(axi.awaddr), write_left.eq(axi.awlen + 1)]
        with m.Elif(issue_write):
            m.d.sync += [write_address.eq(write_address + self.bus_bytes), write_left.eq(write_left - 1)]

        # ---- answers ----
        answered = Signal()
        failed = Signal()
        oldest = data.View(tag_layout, tags.r_data)
        beat = Signal(beat_layout)
        shown = data.View(beat_layout, beats.r_data)
        m.d.comb += [
            answered.eq((wb.ack | wb.err) & tags.r_rdy),
            tags.r_en.eq(answered),
            beat.data.eq(wb.dat_r),
            beat.error.eq(wb.err),
            beat.last.eq(oldest.last),
            beats.w_data.eq(beat),
            beats.w_en.eq(answered & ~oldest.write),
            axi.rvalid.eq(beats.r_rdy),
            axi.rdata.eq(shown.data),
            axi.rresp.eq(Mux(shown.error, _SLAVE_ERROR, 0)),
            axi.rlast.eq(shown.last),
            beats.r_en.eq(axi.rready),
            responses.w_data.eq(failed | wb.err),
            responses.w_en.eq(answered & oldest.write & oldest.last),
            axi.bvalid.eq(responses.r_rdy),
            axi.bresp.eq(Mux(responses.r_data, _SLAVE_ERROR, 0)),
            responses.r_en.eq(axi.bready),
        ]
        with m.If(answered & oldest.write):
            m.d.sync += failed.eq(~oldest.last & (failed | wb.err))
        m.d.sync += [
            reads_owed.eq(reads_owed + issue_read - (axi.rvalid & axi.rready)),
            writes_owed.eq(writes_owed + take_burst - (axi.bvalid & axi.bready)),
        ]
        return m


class WishboneControl(wiring.Component):
    """Turn accesses of a Wishbone master, pipelined or classic, into accesses of AXI4-Lite registers, one at a time.

    ``stall`` is low only with ``ack`` or ``err``: a pipelined master holds its request until then, as a classic one does anyway.
    What the registers refuse is answered with ``err``.

    Members
    -------
    wb
        Wishbone, 32 bits.
    lite
        AXI4-Lite; the registers answer in the cycle after the access.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "wb": In(wishbone_signature(address_bits=(CSR_BYTES - 1).bit_length(), data_bytes=4)),
                "lite": Out(axi_lite_signature()),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        wb, lite = self.wb, self.lite
        request = Signal()
        sent = Signal()
        over = Signal()
        failed = Signal()
        m.d.comb += [
            request.eq(wb.cyc & wb.stb),
            lite.awaddr.eq(wb.adr),
            lite.araddr.eq(wb.adr),
            lite.wdata.eq(wb.dat_w),
            lite.wstrb.eq(wb.sel),
            lite.awvalid.eq(request & wb.we & ~sent),
            lite.wvalid.eq(request & wb.we & ~sent),
            lite.arvalid.eq(request & ~wb.we & ~sent),
            # a master may give up: what was answered then is taken all the same
            lite.bready.eq(1),
            lite.rready.eq(1),
            over.eq(request & sent & (lite.bvalid | lite.rvalid)),
            failed.eq(Mux(wb.we, lite.bresp, lite.rresp) != 0),
            wb.dat_r.eq(lite.rdata),
            wb.ack.eq(over & ~failed),
            wb.err.eq(over & failed),
            wb.stall.eq(~over),
        ]
        m.d.sync += sent.eq(request & ~over & (sent | Mux(wb.we, lite.awready & lite.wready, lite.arready)))
        return m


#: Names of Wishbone's signals at the ports of a core, without direction.
_PORT_NAMES = {
    name: name.removesuffix("_w").removesuffix("_r") for name in wishbone_signature(address_bits=1, data_bytes=1).members
}


class WishboneEngine(wiring.Component):
    """The engine with Wishbone B4 in place of AXI.

    Parameters
    ----------
    config
        The engine's configuration.

    Members
    -------
    m_wb_*
        Master to memory, pipelined, ``bus_bytes`` wide, byte addresses (see :class:`WishboneMemory` for classic slaves).
    s_wb_*
        Slave with the registers, pipelined or classic.
    interrupt
        Level, while enabled and done or failed.
    """

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self._memory = WishboneMemory(bus_bytes=config.bus_bytes)
        self._control = WishboneControl()
        members = {}
        for prefix, port in (("m_wb_", self._memory.wb), ("s_wb_", self._control.wb)):
            for name, member in port.signature.members.items():
                members[_outer(prefix, name, member.flow)] = member
        super().__init__(members | {"interrupt": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.memory = memory = self._memory
        m.submodules.control = control = self._control
        m.submodules.engine = engine = Engine(self.config)
        for prefix, inside in (("m_axi_", memory.axi), ("s_axil_", control.lite)):
            for name in inside.signature.members:
                _join(m, getattr(engine, prefix + name), getattr(inside, name), engine.signature.members[prefix + name].flow)
        for prefix, port in (("m_wb_", memory.wb), ("s_wb_", control.wb)):
            for name, member in port.signature.members.items():
                _join(m, getattr(port, name), getattr(self, _outer(prefix, name, member.flow)), member.flow)
        m.d.comb += self.interrupt.eq(engine.interrupt)
        return m


def _outer(prefix: str, name: str, flow: wiring.Flow) -> str:
    """Return the name of a port by Wishbone's custom: with its direction at the end."""
    return f"{prefix}{_PORT_NAMES[name]}_{'o' if flow == Out else 'i'}"


def _join(m: Module, one: Value, other: Value, flow: wiring.Flow) -> None:
    """Connect two signals, ``flow`` telling whether the first drives the second."""
    m.d.comb += other.eq(one) if flow == Out else one.eq(other)
