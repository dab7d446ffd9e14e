"""A serial line: 8 data bits, no parity, one stop bit."""

from __future__ import annotations

from amaranth import *
from amaranth.lib import cdc, stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["UartReceiver", "UartTransmitter"]

_DATA_BITS = 8


class UartReceiver(wiring.Component):
    """Take bytes from a line. A byte comes out in the middle of its stop bit; one without a stop bit is dropped.

    Parameters
    ----------
    divisor
        Cycles a bit, at least :data:`accel.link.MIN_DIVISOR`.

    Members
    -------
    i_rx
        The line, from outside of the clock domain.
    o_byte, o_valid
        A byte, for one cycle.
    o_idle
        Nothing is under way.
    """

    def __init__(self, *, divisor: int) -> None:
        self.divisor = divisor
        super().__init__({"i_rx": In(1, init=1), "o_byte": Out(8), "o_valid": Out(1), "o_idle": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        rx = Signal(init=1)
        m.submodules.synchroniser = cdc.FFSynchronizer(self.i_rx, rx, init=1)
        timer = Signal(range(self.divisor))
        bit = Signal(range(_DATA_BITS))
        with m.If(timer != 0):
            m.d.sync += timer.eq(timer - 1)
        with m.FSM() as fsm:
            with m.State("Idle"):
                m.d.sync += timer.eq(self.divisor // 2 - 1)
                with m.If(~rx):
                    m.next = "Start"
            with m.State("Start"):
                with m.If(timer == 0):
                    m.d.sync += [timer.eq(self.divisor - 1), bit.eq(0)]
                    m.next = "Data"
                    with m.If(rx):  # it was no more than a spike
                        m.next = "Idle"
            with m.State("Data"):
                with m.If(timer == 0):
                    m.d.sync += [timer.eq(self.divisor - 1), bit.eq(bit + 1), self.o_byte.eq(Cat(self.o_byte[1:], rx))]
                    with m.If(bit == _DATA_BITS - 1):
                        m.next = "Stop"
            with m.State("Stop"):
                with m.If(timer == 0):
                    m.d.comb += self.o_valid.eq(rx)
                    m.next = "Idle"
                    with m.If(~rx):
                        m.next = "Break"
            with m.State("Break"):
                with m.If(rx):
                    m.next = "Idle"
        m.d.comb += self.o_idle.eq(fsm.ongoing("Idle"))
        return m


class UartTransmitter(wiring.Component):
    """Put bytes on a line, one after the other without a pause.

    Parameters
    ----------
    divisor
        Cycles a bit.

    Members
    -------
    i
        Bytes.
    o_tx
        The line.
    """

    def __init__(self, *, divisor: int) -> None:
        self.divisor = divisor
        super().__init__({"i": In(stream.Signature(8)), "o_tx": Out(1, init=1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        timer = Signal(range(self.divisor))
        # the byte and its stop bit, below them the bit on the line
        bits = Signal(_DATA_BITS + 1, init=-1)
        left = Signal(range(_DATA_BITS + 2))
        m.d.comb += self.i.ready.eq((left == 0) & (timer == 0))
        with m.If(timer != 0):
            m.d.sync += timer.eq(timer - 1)
        with m.Elif(left != 0):
            m.d.sync += [timer.eq(self.divisor - 1), left.eq(left - 1), self.o_tx.eq(bits[0]), bits.eq(Cat(bits[1:], 1))]
        with m.Elif(self.i.valid):
            m.d.sync += [timer.eq(self.divisor - 1), left.eq(_DATA_BITS + 1), self.o_tx.eq(0), bits.eq(Cat(self.i.payload, 1))]
        return m
