"""The whole engine."""

from __future__ import annotations

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from accel.config import EngineConfig, Multiply
from accel.isa import INSTRUCTION_BYTES, Error, UnitState
from rtl.accumulators import Accumulators
from rtl.array import SystolicArray
from rtl.csr import Registers, axi_lite_signature
from rtl.dispatch import Dispatcher
from rtl.execute import ExecuteUnit
from rtl.layouts import QUEUES
from rtl.load import LoadUnit
from rtl.read_port import ReadPort
from rtl.reset import OwnReset
from rtl.scratchpad import Scratchpad
from rtl.store import StoreUnit
from rtl.weights import WeightMemory
from rtl.write_port import WritePort

__all__ = ["Core", "Engine", "axi_members"]

_AXI_INCR = 1

#: Registers between the decision that the core begins or ends and the core's reset.
RESET_STAGES = 2


def axi_members(bus_bytes: int) -> dict[str, wiring.Member]:
    """Return the AXI4 master's signals (without IDs: responses come in order)."""
    return {
        "m_axi_awaddr": Out(32),
        "m_axi_awlen": Out(8),
        "m_axi_awsize": Out(3),
        "m_axi_awburst": Out(2),
        "m_axi_awvalid": Out(1),
        "m_axi_awready": In(1),
        "m_axi_wdata": Out(8 * bus_bytes),
        "m_axi_wstrb": Out(bus_bytes),
        "m_axi_wlast": Out(1),
        "m_axi_wvalid": Out(1),
        "m_axi_wready": In(1),
        "m_axi_bresp": In(2),
        "m_axi_bvalid": In(1),
        "m_axi_bready": Out(1),
        "m_axi_araddr": Out(32),
        "m_axi_arlen": Out(8),
        "m_axi_arsize": Out(3),
        "m_axi_arburst": Out(2),
        "m_axi_arvalid": Out(1),
        "m_axi_arready": In(1),
        "m_axi_rdata": In(8 * bus_bytes),
        "m_axi_rresp": In(2),
        "m_axi_rlast": In(1),
        "m_axi_rvalid": In(1),
        "m_axi_rready": Out(1),
    }


def _trace_members() -> dict[str, wiring.Member]:
    """Return the trace port: each unit's state in every cycle, and a pulse for each finished instruction."""
    states = {f"trace_{queue}_state": Out(UnitState) for queue in QUEUES}
    return states | {f"trace_{queue}_retire": Out(1) for queue in QUEUES}


class Core(wiring.Component):
    """Everything but the registers: runs the program at ``i_base`` from reset on.

    Parameters
    ----------
    config
        The engine's configuration.

    Members
    -------
    i_base
        Byte address of the program.
    i_abort
        Stop the program with the error ABORTED.
    o_done
        The program has ended and all its writes are acknowledged.
    o_error, o_error_index
        Why the program was stopped, and at which instruction.
    o_quiet
        After an error: nothing is under way on the memory port, and nothing will be.
    """

    def __init__(self, *, config: EngineConfig) -> None:
        self.config = config
        super().__init__(
            axi_members(config.bus_bytes)
            | _trace_members()
            | {
                "i_base": In(32),
                "i_abort": In(1),
                "o_done": Out(1),
                "o_error": Out(Error),
                "o_error_index": Out(24),
                "o_quiet": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        m.submodules.dispatcher = dispatcher = Dispatcher(config=config)
        m.submodules.load = load = LoadUnit(config=config)
        m.submodules.execute = execute = ExecuteUnit(config=config)
        m.submodules.store = store = StoreUnit(config=config)
        m.submodules.read_port = read_port = ReadPort(bus_bytes=config.bus_bytes)
        m.submodules.write_port = write_port = WritePort(word_bytes=config.word_bytes, bus_bytes=config.bus_bytes)
        m.submodules.scratchpad = scratchpad = Scratchpad(rows=config.rows, depth=config.scratchpad_words)
        m.submodules.weights = weights = WeightMemory(columns=config.columns, depth=config.weight_words)
        m.submodules.array = array = SystolicArray(
            rows=config.rows,
            columns=config.columns,
            lines=config.window_lines,
            depth=config.window_pixels,
            form=Multiply(config.multiply),
            logic_elements=config.logic_elements,
        )
        m.submodules.accumulators = accumulators = Accumulators(
            rows=config.rows,
            columns=config.columns,
            depth=config.accumulator_words,
            lanes=config.lanes,
            width=array.width,
        )

        # ---- data ----
        # (one register for each of those that ask, near to them)
        load_writes, blocked = (Signal(name=name, attrs={"keep": 1}) for name in ("load_writes", "blocked"))
        m.d.sync += [load_writes.eq(load.o_will_write), blocked.eq(load.o_will_write)]
        # (no reset: a cycle after those of the units there is nothing to write)
        scratchpad_write = Signal.like(scratchpad.i_write, reset_less=True)
        m.d.comb += [
            store.i_blocked.eq(blocked),
            scratchpad.i_write.eq(scratchpad_write),
            scratchpad.i_pixel.eq(execute.o_pixel),
            scratchpad.i_tap.eq(execute.o_tap),
            weights.i_address.eq(execute.o_weight_address),
            weights.i_write.eq(load.o_weight),
            array.i_activations.eq(scratchpad.o_bytes),
            array.i_swap.eq(scratchpad.o_swap),
            array.i_vertical.eq(scratchpad.o_vertical),
            array.i_lag.eq(scratchpad.o_lag),
            # a column takes the bytes of its own channel; columns beyond the rows have none
            *(array.i_tops[c].eq(scratchpad.o_bytes[c]) for c in range(min(config.rows, config.columns))),
            array.i_shift.eq(scratchpad.o_shift),
            array.i_weights.eq(weights.o_bytes),
            accumulators.i_control.eq(execute.o_control),
            accumulators.i_sums.eq(array.o_sums),
            accumulators.i_bytes.eq(scratchpad.o_bytes),
            accumulators.i_drain.eq(store.o_drain),
            store.i_lanes.eq(accumulators.o_lanes),
            store.i_table.eq(load.o_table),
        ]
        m.d.sync += scratchpad_write.eq(Mux(load_writes, load.o_write.as_value(), store.o_write.as_value()))

        # ---- instructions ----
        retire = {"load": load.o_retire, "execute": accumulators.o_done, "store": store.o_retire}
        states = {"load": load.o_state, "execute": execute.o_state, "store": store.o_state}
        wiring.connect(m, dispatcher.o_load, load.i_entry)
        wiring.connect(m, dispatcher.o_execute, execute.i_entry)
        wiring.connect(m, dispatcher.o_store, store.i_entry)
        m.d.comb += [
            execute.i_completed.eq(dispatcher.o_completed),
            execute.i_retire.eq(dispatcher.i_retire),
        ]
        for queue in QUEUES:
            m.d.comb += [
                dispatcher.i_retire[queue].eq(retire[queue]),
                getattr(self, f"trace_{queue}_state").eq(states[queue]),
                getattr(self, f"trace_{queue}_retire").eq(retire[queue]),
            ]

        # ---- memory ----
        wiring.connect(m, dispatcher.o_address, read_port.i_fetch)
        wiring.connect(m, read_port.o_fetch_beat, dispatcher.i_beat)
        wiring.connect(m, load.o_address, read_port.i_load)
        wiring.connect(m, read_port.o_load_beat, load.i_beat)
        wiring.connect(m, store.o_transfer, write_port.i_transfer)
        wiring.connect(m, store.o_word, write_port.i_word)
        beat_size = (config.bus_bytes - 1).bit_length()
        m.d.comb += [
            read_port.i_base.eq(self.i_base),
            write_port.i_base.eq(self.i_base),
            self.m_axi_araddr.eq(read_port.o_address.payload.address),
            self.m_axi_arlen.eq(read_port.o_address.payload.length),
            self.m_axi_arsize.eq(beat_size),
            self.m_axi_arburst.eq(_AXI_INCR),
            self.m_axi_arvalid.eq(read_port.o_address.valid),
            read_port.o_address.ready.eq(self.m_axi_arready),
            read_port.i_beat.payload.data.eq(self.m_axi_rdata),
            read_port.i_beat.payload.error.eq(self.m_axi_rresp[1]),
            read_port.i_beat.payload.last.eq(self.m_axi_rlast),
            read_port.i_beat.valid.eq(self.m_axi_rvalid),
            self.m_axi_rready.eq(read_port.i_beat.ready),
            self.m_axi_awaddr.eq(write_port.o_address.payload.address),
            self.m_axi_awlen.eq(write_port.o_address.payload.length),
            self.m_axi_awsize.eq(beat_size),
            self.m_axi_awburst.eq(_AXI_INCR),
            self.m_axi_awvalid.eq(write_port.o_address.valid),
            write_port.o_address.ready.eq(self.m_axi_awready),
            self.m_axi_wdata.eq(write_port.o_data.payload.data),
            self.m_axi_wstrb.eq(write_port.o_data.payload.strobe),
            self.m_axi_wlast.eq(write_port.o_data.payload.last),
            self.m_axi_wvalid.eq(write_port.o_data.valid),
            write_port.o_data.ready.eq(self.m_axi_wready),
            write_port.i_response.payload.error.eq(self.m_axi_bresp[1]),
            write_port.i_response.valid.eq(self.m_axi_bvalid),
            self.m_axi_bready.eq(write_port.i_response.ready),
        ]

        # ---- end and errors ----
        # with ``o_error``: a register of its own, because much hangs on it
        halt = Signal()
        m.d.comb += [
            dispatcher.i_halt.eq(halt),
            read_port.i_halt.eq(halt),
            write_port.i_halt.eq(halt),
            load.i_writes_idle.eq(write_port.o_idle),
            dispatcher.i_idle.eq(write_port.o_idle & read_port.o_idle),
            self.o_quiet.eq(write_port.o_idle & read_port.o_quiet),
            # a program that is stopped in the cycle of its end, or the one before, has been stopped: it is not done as well
            self.o_done.eq(dispatcher.o_done & ~halt & ~self.i_abort),
        ]
        # the first error stays
        with m.If(~halt):
            with m.If(load.o_fault):
                m.d.sync += [halt.eq(1), self.o_error.eq(Error.READ_FAULT), self.o_error_index.eq(load.o_fault_index)]
            with m.Elif(write_port.o_fault):
                m.d.sync += [halt.eq(1), self.o_error.eq(Error.WRITE_FAULT), self.o_error_index.eq(write_port.o_fault_index)]
            with m.Elif(dispatcher.o_error != Error.NONE):
                m.d.sync += [halt.eq(1), self.o_error.eq(dispatcher.o_error), self.o_error_index.eq(dispatcher.o_index)]
            with m.Elif(self.i_abort):
                m.d.sync += [halt.eq(1), self.o_error.eq(Error.ABORTED), self.o_error_index.eq(dispatcher.o_index)]
        return m


class Engine(wiring.Component):
    """A fixed-point systolic convolution and pooling engine with an AXI4 master and AXI4-Lite registers.

    The host puts a program's memory image at a multiple of 4096, writes that address to BASE and 1 to CONTROL, and waits for
    ``interrupt`` (or polls STATUS). See :class:`accel.isa.CSR`.

    Parameters
    ----------
    config
        The engine's configuration.
    trace
        Whether the trace ports are there.

    Members
    -------
    m_axi_*
        AXI4 master, ``bus_bytes`` wide, INCR bursts of up to 64 full beats, no IDs.
    s_axil_*
        AXI4-Lite registers.
    interrupt
        Level, while enabled and done or failed.
    trace_*
        What each unit does in every cycle (:class:`accel.isa.UnitState`), and pulses for finished instructions; for a simulation,
        which looks at the same core through them, and there only.
    """

    def __init__(self, config: EngineConfig, *, trace: bool = False) -> None:
        self.config = config
        self.trace = trace
        lite = {
            f"s_axil_{name}": In(member.shape) if member.flow == Out else Out(member.shape)
            for name, member in axi_lite_signature().members.items()
        }
        seen = _trace_members() if trace else {}
        super().__init__(axi_members(config.bus_bytes) | lite | seen | {"interrupt": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.registers = registers = Registers(digest=self.config.digest)
        for name, member in axi_lite_signature().members.items():
            outside, inside = getattr(self, f"s_axil_{name}"), getattr(registers.bus, name)
            m.d.comb += inside.eq(outside) if member.flow == Out else outside.eq(inside)

        core = Core(config=self.config)
        running = Signal()
        held = Signal(init=1)
        # The core's reset is a wire to every corner of it. It has a cycle from ``held`` to the copies that are made of its last
        # register, and one from those on.
        resets = [Signal(name=f"reset_{n}", init=1) for n in range(RESET_STAGES)]
        m.d.sync += [later.eq(sooner) for later, sooner in zip(resets, [held, *resets], strict=False)]
        m.submodules.core = OwnReset(resets[-1])(core)
        for name in core.signature.members:
            if name in self.signature.members:
                outside, inside = getattr(self, name), getattr(core, name)
                m.d.comb += outside.eq(inside) if core.signature.members[name].flow == Out else inside.eq(outside)

        # The core is held in reset except while a program runs, so that every program starts alike. It is released from an error
        # only once the memory port is quiet: a burst under way must be finished first.
        done = Signal()
        error = Signal(Error)
        error_index = Signal(24)
        cycles = Signal(32)
        # a program that is wanted before the core has come to its reset
        wanted = Signal()
        # the core runs it, and is no longer as the last one left it
        begun = Signal()
        # it is to be aborted as soon as it can be told
        aborted = Signal()
        m.d.comb += [
            core.i_base.eq(registers.o_base),
            core.i_abort.eq(registers.o_clear | aborted),
            registers.i_busy.eq(running | wanted),
            registers.i_done.eq(done),
            registers.i_error.eq(error),
            registers.i_error_address.eq(error_index * INSTRUCTION_BYTES),
            registers.i_cycles.eq(cycles),
            self.interrupt.eq(registers.o_interrupt),
            begun.eq(running & ~resets[-1]),
        ]
        with m.If(begun):
            m.d.sync += aborted.eq(0)
        with m.Elif((running | wanted) & registers.o_clear):
            m.d.sync += aborted.eq(1)
        with m.If(running):
            m.d.sync += cycles.eq(cycles + begun)
            with m.If(begun & (core.o_done | ((core.o_error != Error.NONE) & core.o_quiet))):
                m.d.sync += [
                    running.eq(0),
                    held.eq(1),
                    done.eq(core.o_done),
                    error.eq(core.o_error),
                    error_index.eq(core.o_error_index),
                ]
        with m.Else():
            with m.If((registers.o_start | wanted) & (error == Error.NONE)):
                m.d.sync += [wanted.eq(~resets[-1]), done.eq(0)]
                with m.If(resets[-1]):
                    m.d.sync += [running.eq(1), held.eq(0), cycles.eq(0)]
            with m.Elif(registers.o_clear):
                m.d.sync += [done.eq(0), error.eq(Error.NONE), error_index.eq(0)]
        return m
