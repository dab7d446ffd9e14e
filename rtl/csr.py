"""Control and status registers on AXI4-Lite."""

from __future__ import annotations

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from accel.isa import CSR, CSR_BYTES, ISA_VERSION, REGISTERS, Error

__all__ = ["Registers", "axi_lite_signature"]


def axi_lite_signature() -> wiring.Signature:
    """Return an AXI4-Lite port of 32 data bits, with the addresses of the registers alone, seen from the master."""
    return wiring.Signature(
        {
            "awaddr": Out(range(CSR_BYTES)),
            "awvalid": Out(1),
            "awready": In(1),
            "wdata": Out(32),
            "wstrb": Out(4),
            "wvalid": Out(1),
            "wready": In(1),
            "bresp": In(2),
            "bvalid": In(1),
            "bready": Out(1),
            "araddr": Out(range(CSR_BYTES)),
            "arvalid": Out(1),
            "arready": In(1),
            "rdata": In(32),
            "rresp": In(2),
            "rvalid": In(1),
            "rready": Out(1),
        }
    )


def _fields(register: CSR, word: Value) -> dict[str, Value]:
    """Return the fields of a register in a word."""
    return {f.name: word[f.offset : f.offset + f.width] for f in REGISTERS[register].fields}


def _word(register: CSR, fields: dict[str, Value]) -> Value:
    """Return the word of a register with these fields."""
    parts: list[Value] = []
    for f in REGISTERS[register].fields:
        parts += [Const(0, f.offset - len(Cat(parts))), Value.cast(fields[f.name])]
    return Cat(parts)


class Registers(wiring.Component):
    """The registers of :class:`accel.isa.CSR`. One access at a time; a write needs all four byte strobes, and unknown addresses
    answer SLVERR.

    Parameters
    ----------
    digest
        Digest of the configuration.

    Members
    -------
    bus
        AXI4-Lite.
    i_busy, i_done, i_error, i_error_address, i_cycles
        Shown in the registers.
    o_start, o_clear
        One-cycle pulses.
    o_base
        Base address.
    o_interrupt
        Level: enabled, and done or failed.
    """

    def __init__(self, *, digest: int) -> None:
        self.digest = digest
        super().__init__(
            {
                "bus": In(axi_lite_signature()),
                "i_busy": In(1),
                "i_done": In(1),
                "i_error": In(Error),
                "i_error_address": In(32),
                "i_cycles": In(32),
                "o_start": Out(1),
                "o_clear": Out(1),
                "o_base": Out(32),
                "o_interrupt": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bus = self.bus
        enabled = Signal()
        failed = self.i_error != Error.NONE

        # ---- write: address and data are taken together ----
        write = Signal()
        write_known = Signal()
        m.d.comb += [
            write.eq(bus.awvalid & bus.wvalid & ~bus.bvalid),
            bus.awready.eq(write),
            bus.wready.eq(write),
        ]
        with m.If(write & bus.wstrb.all()):
            with m.Switch(bus.awaddr):
                with m.Case(CSR.CONTROL):
                    command = _fields(CSR.CONTROL, bus.wdata)
                    m.d.comb += [write_known.eq(1), self.o_start.eq(command["start"]), self.o_clear.eq(command["clear"])]
                with m.Case(CSR.BASE):
                    m.d.comb += write_known.eq(1)
                    with m.If(~self.i_busy):
                        m.d.sync += self.o_base.eq(_word(CSR.BASE, _fields(CSR.BASE, bus.wdata)))
                with m.Case(CSR.INTERRUPT_ENABLE):
                    m.d.comb += write_known.eq(1)
                    m.d.sync += enabled.eq(bus.wdata[0])
        with m.If(write):
            m.d.sync += [bus.bvalid.eq(1), bus.bresp.eq(Mux(write_known, 0, 2))]
        with m.Elif(bus.bready):
            m.d.sync += bus.bvalid.eq(0)

        # ---- read ----
        read = Signal()
        values = {
            CSR.CONTROL: Const(0, 32),
            CSR.STATUS: _word(CSR.STATUS, {"busy": self.i_busy, "done": self.i_done, "error": failed, "code": self.i_error}),
            CSR.BASE: self.o_base,
            CSR.ERROR_ADDRESS: self.i_error_address,
            CSR.CYCLES: self.i_cycles,
            CSR.ISA_VERSION: Const(ISA_VERSION, 32),
            CSR.DIGEST_LOW: Const(self.digest & 0xFFFF_FFFF, 32),
            CSR.DIGEST_HIGH: Const(self.digest >> 32, 32),
            CSR.INTERRUPT_ENABLE: enabled,
        }
        m.d.comb += [read.eq(bus.arvalid & ~bus.rvalid), bus.arready.eq(read)]
        with m.If(read):
            m.d.sync += [bus.rvalid.eq(1), bus.rresp.eq(2), bus.rdata.eq(0)]
            with m.Switch(bus.araddr):
                for address, value in values.items():
                    with m.Case(address):
                        m.d.sync += [bus.rdata.eq(value), bus.rresp.eq(0)]
        with m.Elif(bus.rready):
            m.d.sync += bus.rvalid.eq(0)

        m.d.comb += self.o_interrupt.eq(enabled & (self.i_done | failed))
        return m
