"""Engine, memory and serial link: a design that needs nothing but a clock and two wires."""

from __future__ import annotations

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from accel.config import EngineConfig
from rtl.board.link import Link
from rtl.board.memory import OnChipMemory
from rtl.board.uart import UartReceiver, UartTransmitter
from rtl.csr import axi_lite_signature
from rtl.engine import Engine
from rtl.wishbone import axi_signature

__all__ = ["System"]


class System(wiring.Component):
    """The engine with its program in a memory on the chip, and the link to a host.

    Parameters
    ----------
    config
        The engine's configuration.
    image
        The program, which memory holds from address 0 on.
    memory_bytes
        Size of the memory.
    identity
        Tells which program that is (:data:`accel.link.IDENTITY_BYTES` bytes).
    divisor
        Cycles a bit on the line.
    silence
        Cycles without a byte after which the link gives up a request.

    Members
    -------
    i_rx, o_tx
        The serial line.
    o_refused
        The link's last answer was not OK.
    """

    def __init__(
        self, config: EngineConfig, *, image: bytes, memory_bytes: int, identity: bytes, divisor: int, silence: int
    ) -> None:
        self.config = config
        bus = config.bus_bytes
        words = -(-memory_bytes // bus)
        self._memory = OnChipMemory(bus_bytes=bus, words=words, image=image)
        self._link = Link(bus_bytes=bus, memory_bytes=words * bus, protected_bytes=len(image), identity=identity, silence=silence)
        self._receiver = UartReceiver(divisor=divisor)
        self._transmitter = UartTransmitter(divisor=divisor)
        super().__init__({"i_rx": In(1, init=1), "o_tx": Out(1, init=1), "o_refused": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.engine = engine = Engine(self.config)
        m.submodules.memory = memory = self._memory
        m.submodules.link = link = self._link
        m.submodules.receiver = receiver = self._receiver
        m.submodules.transmitter = transmitter = self._transmitter
        wiring.connect(m, link.o, transmitter.i)
        m.d.comb += [
            receiver.i_rx.eq(self.i_rx),
            self.o_tx.eq(transmitter.o_tx),
            self.o_refused.eq(link.o_refused),
            link.i_byte.eq(receiver.o_byte),
            link.i_valid.eq(receiver.o_valid),
            link.i_line_idle.eq(receiver.o_idle),
        ]
        for name, member in axi_lite_signature().members.items():
            inside, outside = getattr(link.lite, name), getattr(engine, f"s_axil_{name}")
            m.d.comb += outside.eq(inside) if member.flow == Out else inside.eq(outside)
        # Nothing of the one is under way when the other gets the memory, so its answers may go to both.
        for name, member in axi_signature(self.config.bus_bytes).members.items():
            mine, theirs, port = getattr(engine, f"m_axi_{name}"), getattr(link.axi, name), getattr(memory.axi, name)
            if member.flow == Out:
                m.d.comb += port.eq(Mux(link.o_owner, theirs, mine))
            else:
                m.d.comb += [mine.eq(port), theirs.eq(port)]
        return m
