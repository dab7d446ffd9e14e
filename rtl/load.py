"""The load unit: memory -> on-chip memories."""

from __future__ import annotations

from amaranth import *
from amaranth.lib import data, fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from accel.config import EngineConfig
from accel.isa import MAX_SHARE_LOG2, PARAMETER, PARAMETER_BYTES, PERIOD_THREE, Opcode, Target, UnitState
from rtl.layouts import ORDER_BITS, completed_layout, entry_layout, fields_layout, instruction_layout, is_ordered, loop_step
from rtl.read_port import read_beat_layout
from rtl.scratchpad import scratchpad_write_layout
from rtl.store import table_write_layout
from rtl.weights import weight_write_layout
from rtl.write_port import BURST_BEATS, address_layout

__all__ = ["LoadUnit"]

#: LOADs whose addresses have been sent and whose data are still to come.
IN_FLIGHT = 4


class LoadUnit(wiring.Component):
    """Run LOAD instructions in order.

    The *requester* sends an instruction's addresses as soon as its orders allow, up to ``IN_FLIGHT`` instructions ahead of the
    *receiver*, so that the memory's latency is paid once. The receiver cuts beats into elements, or joins them, and writes one
    element a cycle. Of the scratchpad's write port it leaves the output stage the share that the instruction says: a fixed share
    rather than an arbiter, because nothing that the output stage does can then reach the read channel, so that what memory does
    stays independent of it.

    Parameters
    ----------
    config
        The engine's configuration.

    Members
    -------
    i_entry
        Queue of LOADs.
    i_completed
        Counters of finished instructions.
    i_writes_idle
        Every write to memory is acknowledged (for ``fence``).
    i_halt
        Send no further address.
    o_address
        Read bursts wanted (relative to the base).
    i_beat
        Their beats, in order.
    o_write, o_weight, o_table
        Writes to the scratchpad, the weight memory, and the parameters and tables.
    o_retire
        An instruction has written everything.
    o_fault, o_fault_index
        A read was answered with an error; the instruction that caused it.
    o_state
        What this cycle is spent on.
    """

    def __init__(self, *, config: EngineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "i_entry": In(stream.Signature(entry_layout())),
                "i_completed": In(completed_layout()),
                "i_writes_idle": In(1),
                "i_halt": In(1),
                "o_address": Out(stream.Signature(address_layout)),
                "i_beat": In(stream.Signature(read_beat_layout(config.bus_bytes))),
                "o_write": Out(scratchpad_write_layout(config.rows)),
                "o_weight": Out(weight_write_layout(config.columns)),
                "o_table": Out(table_write_layout(config.lanes)),
                "o_retire": Out(1),
                "o_fault": Out(1),
                "o_fault_index": Out(ORDER_BITS),
                "o_state": Out(UnitState),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        layout = instruction_layout(Opcode.LOAD)
        in_flight_layout = data.StructLayout({"word": layout.size, "index": ORDER_BITS})
        m.submodules.in_flight = in_flight = fifo.SyncFIFO(width=in_flight_layout.size, depth=IN_FLIGHT)
        self._request(m, layout, in_flight, in_flight_layout)
        self._receive(m, layout, in_flight, in_flight_layout)
        return m

    def _request(
        self, m: Module, layout: data.FlexibleLayout, in_flight: fifo.SyncFIFO, in_flight_layout: data.StructLayout
    ) -> None:
        beat_bits = (self.config.bus_bytes - 1).bit_length()
        entry = self.i_entry.payload
        load = data.View(layout, entry.word)

        may_begin = Signal()
        m.d.comb += may_begin.eq(
            self.i_entry.valid
            & ~self.i_halt
            & is_ordered(entry.orders.load, self.i_completed.load)
            & is_ordered(entry.orders.execute, self.i_completed.execute)
            & is_ordered(entry.orders.store, self.i_completed.store)
            & (~load.fence | self.i_writes_idle)
            & in_flight.w_rdy
        )
        announced = data.View(in_flight_layout, in_flight.w_data)
        m.d.comb += [announced.word.eq(entry.word), announced.index.eq(entry.index)]

        count_z, count_y = Signal(12), Signal(12)
        row, plane = Signal(32), Signal(32)
        beat = Signal(32 - beat_bits)
        left = Signal(16 + 6)
        burst = Signal(range(BURST_BEATS + 1))
        to_boundary = BURST_BEATS - beat[: (BURST_BEATS - 1).bit_length()]
        row_bytes = Signal(16 + 6)
        row_done = Signal()
        m.d.comb += [
            burst.eq(Mux(left < to_boundary, left, to_boundary)),
            row_bytes.eq(load.n_x << load.element_log2),
            self.o_address.payload.address.eq(Cat(Const(0, beat_bits), beat)),
            self.o_address.payload.length.eq(burst - 1),
        ]
        (step_z, _), done = loop_step(m, counts=[count_z, count_y], limits=[load.n_z, load.n_y], advance=row_done)

        with m.FSM():
            with m.State("Begin"):
                with m.If(may_begin):
                    m.d.comb += in_flight.w_en.eq(1)
                    m.d.sync += [row.eq(load.memory_address), plane.eq(load.memory_address)]
                    with m.If(load.target == Target.FILL):
                        m.d.comb += self.i_entry.ready.eq(1)
                    with m.Else():
                        m.next = "Row"
            with m.State("Row"):
                m.d.sync += [
                    beat.eq(row >> beat_bits),
                    left.eq(((row[:beat_bits] + row_bytes - 1) >> beat_bits) + 1),
                ]
                m.next = "Burst"
            with m.State("Burst"):
                m.d.comb += self.o_address.valid.eq(1)
                with m.If(self.o_address.ready):
                    m.d.sync += [beat.eq(beat + burst), left.eq(left - burst)]
                    with m.If(left == burst):
                        m.d.comb += row_done.eq(1)
                        with m.If(done):
                            m.d.comb += self.i_entry.ready.eq(1)
                            m.next = "Begin"
                        with m.Else():
                            m.next = "Row"
                        with m.If(step_z):
                            m.d.sync += [row.eq(plane + load.memory_stride_z), plane.eq(plane + load.memory_stride_z)]
                        with m.Else():
                            m.d.sync += row.eq(row + load.memory_stride_y)

        m.d.comb += self.o_state.eq(UnitState.IDLE)
        with m.If(self.i_entry.valid):
            m.d.comb += self.o_state.eq(UnitState.WAIT_PIPELINE)
            with m.If(~is_ordered(entry.orders.execute, self.i_completed.execute)):
                m.d.comb += self.o_state.eq(UnitState.WAIT_EXECUTE)
            with m.Elif(~is_ordered(entry.orders.store, self.i_completed.store)):
                m.d.comb += self.o_state.eq(UnitState.WAIT_STORE)
            with m.Elif(~is_ordered(entry.orders.load, self.i_completed.load)):
                m.d.comb += self.o_state.eq(UnitState.WAIT_LOAD)
            with m.Elif(load.fence & ~self.i_writes_idle):
                m.d.comb += self.o_state.eq(UnitState.WAIT_MEMORY)

    def _receive(
        self, m: Module, layout: data.FlexibleLayout, in_flight: fifo.SyncFIFO, in_flight_layout: data.StructLayout
    ) -> None:
        config = self.config
        bus = config.bus_bytes
        beat_bits = (bus - 1).bit_length()
        current = data.View(in_flight_layout, in_flight.r_data)
        load = data.View(layout, current.word)
        largest = max(config.word_bytes, config.weight_word_bytes, PARAMETER_BYTES)

        # ---- beats -> elements ----
        held = Signal(8 * bus)
        held_valid = Signal()
        held_error = Signal()
        count_z, count_y, count_x = Signal(12), Signal(12), Signal(16)
        row_starts = Signal(init=1)
        position = Signal(6)
        row_low, plane_low = Signal(6), Signal(6)
        part = Signal(6)
        gathered = Signal(8 * max(0, largest - bus))

        active = in_flight.r_rdy
        is_fill = load.target == Target.FILL
        element_bytes = Signal(7)
        whole_beat = Signal()
        at = Signal(6)
        here_row = Signal(6)
        begun = Signal()
        m.d.comb += [
            element_bytes.eq(1 << load.element_log2),
            whole_beat.eq(load.element_log2 >= beat_bits),
            here_row.eq(Mux(begun, row_low, load.memory_address[:6])),
            at.eq(Mux(whole_beat, 0, Mux(row_starts, here_row, position)) & (bus - 1)),
        ]
        # bit n: the last of 2**n cycles, which the output stage has
        phase = Signal(MAX_SHARE_LOG2)
        m.d.sync += phase.eq(phase + 1)
        left_alone = Cat(0, *(phase[:n].all() for n in range(1, MAX_SHARE_LOG2 + 1))).bit_select(load.share_log2, 1)
        allowed = Signal()
        m.d.comb += allowed.eq(~left_alone | ~(is_fill | (load.target == Target.ACTIVATIONS)))
        take = Signal()
        complete = Signal()
        emit = Signal()
        (step_z, step_y, _), done = loop_step(
            m, counts=[count_z, count_y, count_x], limits=[load.n_z, load.n_y, load.n_x], advance=emit
        )
        row_ends = count_x == load.n_x - 1
        last_part = (part + 1) << beat_bits >= element_bytes
        beat_ends = whole_beat | row_ends | ((at + element_bytes)[: beat_bits + 1] >= bus)
        m.d.comb += [
            complete.eq(~whole_beat | last_part),
            take.eq(active & ~is_fill & held_valid & (allowed | ~complete)),
            emit.eq(active & allowed & (is_fill | (held_valid & complete))),
            self.i_beat.ready.eq(~held_valid | (take & beat_ends)),
        ]
        with m.If(self.i_beat.valid & self.i_beat.ready):
            m.d.sync += [
                held.eq(self.i_beat.payload.data),
                held_error.eq(self.i_beat.payload.error),
                held_valid.eq(1),
            ]
        with m.Elif(take & beat_ends):
            m.d.sync += held_valid.eq(0)
        with m.If(take & whole_beat):
            m.d.sync += part.eq(Mux(last_part, 0, part + 1))
        m.d.comb += [
            self.o_fault.eq(take & held_error),
            self.o_fault_index.eq(current.index),
        ]

        # element: the bytes of this beat from ``at`` on, or those gathered and this beat behind them
        element = Signal(8 * max(largest, bus))
        m.d.comb += element.eq(held >> (at << 3))
        if largest > bus:
            with m.If(whole_beat):
                for n in range(largest // bus):
                    with m.If(part == n):
                        m.d.comb += element.word_select(n, 8 * bus).eq(held)
                    with m.Elif(part > n):
                        m.d.comb += element.word_select(n, 8 * bus).eq(gathered.word_select(n, 8 * bus))
            for n in range(largest // bus - 1):
                with m.If(take & (part == n)):
                    m.d.sync += gathered.word_select(n, 8 * bus).eq(held)

        # ---- local addresses ----
        local, local_row, local_plane = Signal(16), Signal(16), Signal(16)
        lane = Signal(range(config.lanes))
        here, here_local_row, here_plane, here_plane_low = Signal(16), Signal(16), Signal(16), Signal(6)
        m.d.comb += [
            here.eq(Mux(begun, local, load.local_address)),
            here_local_row.eq(Mux(begun, local_row, load.local_address)),
            here_plane.eq(Mux(begun, local_plane, load.local_address)),
            here_plane_low.eq(Mux(begun, plane_low, load.memory_address[:6])),
        ]
        is_parameters = load.target == Target.PARAMETERS
        with m.If(emit):
            m.d.sync += [begun.eq(~done), row_starts.eq(row_ends), position.eq((at + element_bytes)[:6])]
            m.d.sync += [
                row_low.eq(here_row),
                plane_low.eq(here_plane_low),
                local_row.eq(here_local_row),
                local_plane.eq(here_plane),
            ]
            with m.If(step_z):
                next_plane = (here_plane + load.local_stride_z)[:16]
                next_low = (here_plane_low + load.memory_stride_z)[:6]
                m.d.sync += [local_plane.eq(next_plane), local_row.eq(next_plane), local.eq(next_plane)]
                m.d.sync += [plane_low.eq(next_low), row_low.eq(next_low)]
            with m.Elif(step_y):
                next_row = (here_local_row + load.local_stride_y)[:16]
                m.d.sync += [local_row.eq(next_row), local.eq(next_row)]
                m.d.sync += row_low.eq((here_row + load.memory_stride_y)[:6])
            with m.Else():
                m.d.sync += local.eq(here + (~is_parameters | (lane == config.lanes - 1)))
            with m.If(is_parameters):
                m.d.sync += lane.eq(Mux((lane == config.lanes - 1) | done, 0, lane + 1))
            with m.If(done):
                m.d.comb += in_flight.r_en.eq(1)

        # ---- writes, registered ----
        to_scratchpad = emit & (is_fill | (load.target == Target.ACTIVATIONS))
        m.d.sync += [
            self.o_write.mask.eq(to_scratchpad.replicate(config.rows)),
            self.o_write.address.eq(here),
            self.o_weight.enable.eq(emit & (load.target == Target.WEIGHTS)),
            self.o_weight.address.eq(here),
            self.o_table.table.eq(emit & (load.target == Target.TABLE)),
            self.o_table.pair.eq(emit & (load.target == Target.PAIR_TABLE)),
            self.o_table.address.eq(here),
            self.o_table.value.eq(element[:32]),
        ]
        for bank in range(config.rows):
            byte = Signal(8, name=f"byte_{bank}")
            m.d.comb += byte.eq(element.word_select(bank, 8))
            with m.Switch(load.period_log2):
                for log2 in range((config.rows - 1).bit_length()):
                    with m.Case(log2):
                        m.d.comb += byte.eq(element.word_select(bank % (1 << log2), 8))
                with m.Case(PERIOD_THREE):
                    m.d.comb += byte.eq(element.word_select(bank % 3, 8))
            m.d.sync += self.o_write.data[bank].eq(Mux(is_fill, load.fill_value, byte))
        for column in range(config.columns):
            m.d.sync += self.o_weight.data[column].eq(element.word_select(column, 8))
        for n in range(config.lanes):
            m.d.sync += self.o_table.parameter[n].eq(emit & is_parameters & (lane == n))
        raw = data.View(fields_layout(PARAMETER, 8 * PARAMETER_BYTES), element[: 8 * PARAMETER_BYTES])
        m.d.sync += [
            self.o_table.entry.bias.eq(raw.bias),
            self.o_table.entry.multiplier.eq(raw.multiplier),
            self.o_table.entry.first_shift.eq(raw.first_shift[:5]),
            self.o_table.entry.second_shift.eq(raw.second_shift[:5]),
        ]
        # retire once the last write is in memory
        written = Signal(2)
        m.d.sync += [written.eq(Cat(emit & done, written[0])), self.o_retire.eq(written[1])]

        with m.If(active):
            m.d.comb += self.o_state.eq(
                Mux(emit | take, UnitState.BUSY, Mux(is_fill | held_valid, UnitState.WAIT_PIPELINE, UnitState.WAIT_MEMORY))
            )
