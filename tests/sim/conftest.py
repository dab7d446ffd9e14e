"""An engine small enough to be trusted, with the real one's ports: it copies a burst.

The backends are tested on it, whatever the real one does.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from amaranth.back import verilog
from amaranth.hdl import Const, Module, Mux, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from accel.config import PRESETS, EngineConfig
from accel.isa import CSR, Error, Instruction, Opcode, UnitState
from accel.program import Program, TensorBinding

#: Input map of the copy program: 72 bytes a plane at every preset's width or less, and two planes at some.
SHAPE = (3, 3, 8)
SOURCE, DESTINATION = 4096, 8192


def engine_ports(bus_bytes: int) -> dict[str, object]:
    """The members of ``rtl.engine.Engine``."""
    width = 8 * bus_bytes
    ports: dict[str, object] = {}
    for address in ("aw", "ar"):
        for name, bits in (("addr", 32), ("len", 8), ("size", 3), ("burst", 2), ("valid", 1)):
            ports[f"m_axi_{address}{name}"] = Out(bits)
        ports[f"m_axi_{address}ready"] = In(1)
        for name, bits in (("addr", 8), ("valid", 1)):
            ports[f"s_axil_{address}{name}"] = In(bits)
        ports[f"s_axil_{address}ready"] = Out(1)
    ports |= {
        "m_axi_wdata": Out(width),
        "m_axi_wstrb": Out(bus_bytes),
        "m_axi_wlast": Out(1),
        "m_axi_wvalid": Out(1),
        "m_axi_wready": In(1),
    }
    ports |= {"m_axi_bresp": In(2), "m_axi_bvalid": In(1), "m_axi_bready": Out(1)}
    ports |= {"m_axi_rdata": In(width), "m_axi_rresp": In(2), "m_axi_rlast": In(1), "m_axi_rvalid": In(1), "m_axi_rready": Out(1)}
    ports |= {"s_axil_wdata": In(32), "s_axil_wstrb": In(4), "s_axil_wvalid": In(1), "s_axil_wready": Out(1)}
    ports |= {"s_axil_bresp": Out(2), "s_axil_bvalid": Out(1), "s_axil_bready": In(1)}
    ports |= {"s_axil_rdata": Out(32), "s_axil_rresp": Out(2), "s_axil_rvalid": Out(1), "s_axil_rready": In(1)}
    ports["interrupt"] = Out(1)
    for unit in ("load", "execute", "store"):
        ports |= {f"trace_{unit}_state": Out(3), f"trace_{unit}_retire": Out(1)}
    return ports


class CopyEngine(wiring.Component):
    """Reads ``beats`` beats at BASE + ``SOURCE`` and writes them to BASE + ``DESTINATION``; then is done.

    ``misdeed``, if given, is what it does wrong: see the tests.
    """

    def __init__(self, config: EngineConfig, *, beats: int, misdeed: str = "") -> None:
        self.beats = beats
        self.misdeed = misdeed
        self.bus_bytes = config.bus_bytes
        super().__init__(engine_ports(config.bus_bytes))

    def elaborate(self, _platform: object) -> Module:
        m = Module()
        start, base, enable, done, code = Signal(), Signal(32), Signal(), Signal(), Signal(8)
        busy, cycles = Signal(), Signal(32)
        self._control(m, start, base, enable, busy, done, code, cycles)
        with m.If(busy):
            m.d.sync += cycles.eq(cycles + 1)
        m.d.comb += self.interrupt.eq(enable & (done | ((code != 0) & ~busy)))

        m.submodules.buffer = buffer = memory.Memory(shape=8 * self.bus_bytes, depth=self.beats, init=[])
        write = buffer.write_port()
        read = buffer.read_port(domain="comb")
        beat = Signal(range(self.beats + 1))
        source, destination = base + SOURCE, base + DESTINATION
        if self.misdeed == "outside":
            source = base + (1 << 20)
        m.d.comb += [
            self.m_axi_araddr.eq(source + (4096 - self.bus_bytes) * (self.misdeed == "crosses")),
            self.m_axi_arlen.eq(self.beats - 1),
            self.m_axi_arsize.eq(int(math.log2(self.bus_bytes)) + (self.misdeed == "size")),
            self.m_axi_arburst.eq(2 if self.misdeed == "wrap" else 1),
            self.m_axi_awaddr.eq(destination + (self.misdeed == "strobe")),
            self.m_axi_awlen.eq(self.m_axi_arlen),
            self.m_axi_awsize.eq(int(math.log2(self.bus_bytes))),
            self.m_axi_awburst.eq(1),
            write.addr.eq(beat),
            write.data.eq(self.m_axi_rdata),
            read.addr.eq(beat),
            self.m_axi_wdata.eq(read.data),
            self.m_axi_wstrb.eq(-1),
            self.m_axi_wlast.eq((beat == self.beats - 1) ^ (self.misdeed == "last")),
        ]
        load, execute, store = self.trace_load_state, self.trace_execute_state, self.trace_store_state
        waited = Signal(16)
        with m.FSM():
            with m.State("idle"), m.If(start):
                m.d.sync += [busy.eq(1), done.eq(0), cycles.eq(0), beat.eq(0), waited.eq(0)]
                m.next = "hang" if self.misdeed == "hang" else "forever" if self.misdeed == "forever" else "address"
            with m.State("hang"):
                m.d.comb += load.eq(UnitState.WAIT_STORE)
            with m.State("forever"):
                m.d.comb += load.eq(UnitState.BUSY)
            with m.State("address"):
                m.d.sync += waited.eq(waited + 1)
                m.d.comb += [load.eq(UnitState.WAIT_MEMORY), self.m_axi_arvalid.eq(1)]
                if self.misdeed == "drops":
                    m.d.comb += self.m_axi_arvalid.eq(waited != 1)
                if self.misdeed == "changes":
                    m.d.comb += self.m_axi_araddr.eq(source + (waited << 6)[:9])
                with m.If(self.m_axi_arvalid & self.m_axi_arready):
                    m.next = "read"
            with m.State("read"):
                m.d.comb += [self.m_axi_rready.eq(1), write.en.eq(self.m_axi_rvalid), execute.eq(UnitState.WAIT_LOAD)]
                m.d.comb += load.eq(Mux(self.m_axi_rvalid, UnitState.BUSY, UnitState.WAIT_MEMORY))
                with m.If(self.m_axi_rvalid):
                    m.d.sync += beat.eq(beat + 1)
                    with m.If(self.m_axi_rresp != 0):
                        m.d.sync += code.eq(Error.READ_FAULT)
                    with m.If(self.m_axi_rlast):
                        m.d.comb += self.trace_load_retire.eq(1)
                        m.d.sync += beat.eq(0)
                        m.next = "execute"
                        if self.misdeed == "early":
                            m.next = "late"
                if self.misdeed == "early":
                    with m.If(self.m_axi_rvalid):
                        m.d.sync += done.eq(1)
            with m.State("late"):
                m.next = "idle"
            with m.State("execute"):
                m.d.comb += [
                    execute.eq(UnitState.BUSY),
                    store.eq(UnitState.WAIT_EXECUTE),
                    self.trace_execute_retire.eq(self.misdeed != "lost"),
                ]
                m.next = "write address"
                with m.If(code != 0):
                    m.d.sync += busy.eq(0)
                    m.next = "idle"
            with m.State("write address"):
                m.d.comb += [store.eq(UnitState.WAIT_MEMORY), self.m_axi_awvalid.eq(1)]
                with m.If(self.m_axi_awready):
                    m.next = "write"
            with m.State("write"):
                m.d.comb += [store.eq(UnitState.BUSY), self.m_axi_wvalid.eq(1)]
                with m.If(self.m_axi_wready):
                    m.d.sync += beat.eq(beat + 1)
                    with m.If(beat == self.beats - 1):
                        m.next = "response"
            with m.State("response"):
                m.d.comb += [
                    store.eq(UnitState.WAIT_MEMORY),
                    self.m_axi_bready.eq(1),
                    self.trace_store_retire.eq(self.m_axi_bvalid),
                ]
                with m.If(self.m_axi_bvalid):
                    m.d.sync += [busy.eq(0), done.eq(1)]
                    m.next = "idle"
        return m

    def _control(
        self, m: Module, start: Signal, base: Signal, enable: Signal, busy: Signal, done: Signal, code: Signal, cycles: Signal
    ) -> None:
        address = Signal(8)
        have_address, have_data = Signal(), Signal()
        data = Signal(32)
        m.d.comb += [self.s_axil_awready.eq(~have_address), self.s_axil_wready.eq(~have_data)]
        with m.If(self.s_axil_awvalid & self.s_axil_awready):
            m.d.sync += [address.eq(self.s_axil_awaddr), have_address.eq(1)]
        with m.If(self.s_axil_wvalid & self.s_axil_wready):
            m.d.sync += [data.eq(self.s_axil_wdata), have_data.eq(1)]
        m.d.comb += self.s_axil_bresp.eq(2 if self.misdeed == "refuses" else 0)
        with m.If(have_address & have_data & ~self.s_axil_bvalid):
            m.d.sync += self.s_axil_bvalid.eq(1)
            with m.Switch(address):
                with m.Case(CSR.BASE):
                    m.d.sync += base.eq(data)
                with m.Case(CSR.INTERRUPT_ENABLE):
                    m.d.sync += enable.eq(data[0])
                with m.Case(CSR.CONTROL):
                    m.d.comb += start.eq(data[0])
        with m.If(self.s_axil_bvalid & self.s_axil_bready):
            m.d.sync += [self.s_axil_bvalid.eq(0), have_address.eq(0), have_data.eq(0)]
        m.d.comb += self.s_axil_arready.eq(~self.s_axil_rvalid)
        with m.If(self.s_axil_arvalid & self.s_axil_arready):
            m.d.sync += self.s_axil_rvalid.eq(1)
            with m.Switch(self.s_axil_araddr):
                with m.Case(CSR.STATUS):
                    m.d.sync += self.s_axil_rdata.eq((code << 8) | ((code != 0) << 2) | (done << 1) | busy)
                with m.Case(CSR.CYCLES):
                    m.d.sync += self.s_axil_rdata.eq(cycles)
                with m.Case(CSR.ERROR_ADDRESS):
                    m.d.sync += self.s_axil_rdata.eq(Const(32))
        with m.If(self.s_axil_rvalid & self.s_axil_rready):
            m.d.sync += self.s_axil_rvalid.eq(0)


def copy_program(preset: str) -> Program:
    """A program that is only looked at by the backend: the copy engine knows what to do."""
    config = PRESETS[preset]
    element = min(config.word_bytes, 8)
    binding = TensorBinding(name="input", shape=SHAPE, address=SOURCE, channels_per_word=element, element_bytes=element)
    instructions = (
        Instruction(Opcode.BEGIN),
        Instruction(Opcode.LOAD, {"n_x": 9, "n_y": 1, "n_z": 1}),
        Instruction(Opcode.EXECUTE, {"n_px": 9, "n_py": 1, "n_wy": 1, "n_wx": 1, "n_block": 1, "n_ky": 1, "n_kx": 1}),
        Instruction(Opcode.STORE, {"n_x": 9, "n_y": 1, "to_memory": 1, "groups": 1, "pool": 1}),
        Instruction(Opcode.END),
    )
    image = np.frombuffer(b"".join(instruction.encode() for instruction in instructions), np.uint8)
    return Program(
        network="copy",
        config=config,
        instructions=instructions,
        pack=lambda: image,
        memory_bytes=DESTINATION + binding.nbytes,
        input=binding,
        output=replace(binding, name="output", address=DESTINATION),
        layers=(),
    )


def copy_images(count: int) -> list[np.ndarray]:
    """Random input maps."""
    return list(np.random.default_rng(7).integers(-128, 128, (count, *SHAPE)).astype(np.int8))


def _component(misdeed: str = "") -> Callable[[EngineConfig], CopyEngine]:
    return lambda config: CopyEngine(config, beats=-(-math.prod(SHAPE) // config.bus_bytes), misdeed=misdeed)


def _verilog(misdeed: str = "") -> Callable[[EngineConfig], str]:
    return lambda config: verilog.convert(_component(misdeed)(config), name="engine", emit_src=False, strip_internal_attrs=True)


@pytest.fixture(scope="session")
def copy() -> SimpleNamespace:
    """The copy engine: ``component(misdeed)`` and ``verilog(misdeed)`` for the backends, ``program(preset)``, ``images(count)``."""
    return SimpleNamespace(component=_component, verilog=_verilog, program=copy_program, images=copy_images)
