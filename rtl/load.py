"""The load unit: memory -> on-chip memories."""

from __future__ import annotations

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from accel.config import EngineConfig
from accel.isa import MAX_SHARE_LOG2, PARAMETER, PARAMETER_BYTES, PERIOD_THREE, Opcode, Target, UnitState
from rtl.layouts import ORDER_BITS, entry_layout, fields_layout, instruction_layout, loop_ahead
from rtl.queue import Queue
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
    i_writes_idle
        Every write to memory is acknowledged (for ``fence``).
    o_address
        Read bursts wanted (relative to the base). Once no more of them are taken, nothing comes to its end but what was under way.
    i_beat
        Their beats, in order.
    o_write, o_weight, o_table
        Writes to the scratchpad, the weight memory, and the parameters and tables.
    o_will_write
        Whether something is written to the scratchpad in the next cycle.
    o_retire
        An instruction has written everything.
    o_fault, o_fault_index
        A read was answered with an error; the instruction that caused it. Before it retires.
    o_state
        What this cycle is spent on.
    """

    def __init__(self, *, config: EngineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "i_entry": In(stream.Signature(entry_layout())),
                "i_writes_idle": In(1),
                "o_address": Out(stream.Signature(address_layout)),
                "i_beat": In(stream.Signature(read_beat_layout(config.bus_bytes))),
                "o_write": Out(scratchpad_write_layout(config.rows)),
                "o_will_write": Out(1),
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
        m.submodules.in_flight = in_flight = Queue(shape=self._in_flight_layout(), depth=IN_FLIGHT, through=False)
        self._request(m, in_flight)
        self._receive(m, in_flight)
        return m

    def _in_flight_layout(self) -> data.StructLayout:
        """Return what the receiver must know of an instruction: its word, and what follows from it."""
        beat_bits = (self.config.bus_bytes - 1).bit_length()
        return data.StructLayout(
            {
                "word": instruction_layout(Opcode.LOAD),
                "index": ORDER_BITS,
                # by target; ``scratchpad`` for both of its
                "fill": 1,
                "scratchpad": 1,
                "weights": 1,
                "parameters": 1,
                "table": 1,
                "pair": 1,
                # what is left to the output stage of the scratchpad's write port
                "share_log2": 2,
                # bytes of an element; whether it takes whole beats, a single one at most, and how many
                "element": 7,
                "whole": 1,
                "single": 1,
                "beats": 7,
                # the bits of an aligned element's place in a beat that are 0
                "below": beat_bits,
                # which counts are 1
                "only": data.StructLayout({"z": 1, "y": 1, "x": 1}),
            }
        )

    def _request(self, m: Module, in_flight: Queue) -> None:
        beat_bits = (self.config.bus_bytes - 1).bit_length()
        block_bits = beat_bits + (BURST_BEATS - 1).bit_length()
        entry = self.i_entry.payload
        load = data.View(instruction_layout(Opcode.LOAD), entry.word)
        is_fill = load.target == Target.FILL
        element = 1 << load.element_log2

        may_begin = Signal()
        m.d.comb += may_begin.eq(
            self.i_entry.valid
            & entry.orders.load.met
            & entry.orders.execute.met
            & entry.orders.store.met
            & (~load.fence | self.i_writes_idle)
            & in_flight.w_rdy
        )
        announced = in_flight.w_data
        whole = load.element_log2 >= beat_bits
        m.d.comb += [
            announced.word.eq(entry.word),
            announced.index.eq(entry.index),
            announced.fill.eq(is_fill),
            announced.scratchpad.eq(is_fill | (load.target == Target.ACTIVATIONS)),
            announced.weights.eq(load.target == Target.WEIGHTS),
            announced.parameters.eq(load.target == Target.PARAMETERS),
            announced.table.eq(load.target == Target.TABLE),
            announced.pair.eq(load.target == Target.PAIR_TABLE),
            announced.share_log2.eq(Mux(announced.scratchpad, load.share_log2, 0)),
            announced.element.eq(element),
            announced.whole.eq(whole),
            announced.single.eq(load.element_log2 <= beat_bits),
            announced.beats.eq(element >> beat_bits),
            announced.below.eq(Mux(whole, -1, element - 1)),
            *(announced.only[axis].eq(load[f"n_{axis}"] == 1) for axis in "zyx"),
        ]

        row, plane = Signal(32), Signal(32)
        # Bursts end at multiples of their greatest length. So only a row's first one begins elsewhere, and only its last one ends
        # elsewhere: how many boundaries lie ahead, and the last beat's place behind the last of them, say it all.
        beat = Signal(32 - beat_bits)
        boundaries = Signal(16 + 7 - block_bits)
        is_last_burst = Signal()
        # of the last row, too
        is_last = Signal(reset_less=True)
        last_beat = Signal((BURST_BEATS - 1).bit_length())
        first_beat = beat[: len(last_beat)]
        row_done = Signal()
        # What follows from the instruction alone has a register too: a row's first address is found a cycle later at the earliest.
        span = Signal(16 + 6, reset_less=True)
        only_z, only_y = Signal(reset_less=True), Signal(reset_less=True)
        m.d.sync += [span.eq((load.n_x << load.element_log2) - 1), only_z.eq(announced.only.z), only_y.eq(announced.only.y)]
        m.d.comb += [
            self.o_address.payload.address.eq(Cat(Const(0, beat_bits), beat)),
            self.o_address.payload.length.eq((Mux(is_last_burst, last_beat, BURST_BEATS - 1) - first_beat)[: len(last_beat)]),
        ]
        stepping = Signal()
        (step_z, _), done, _ = loop_ahead(
            m,
            begun=stepping,
            limits=[load.n_z, load.n_y],
            only=[only_z, only_y],
            single=only_z & only_y,
            keep=row_done,
            advance=Const(1),
        )

        with m.FSM():
            with m.State("Begin"):
                with m.If(may_begin):
                    m.d.comb += in_flight.w_en.eq(1)
                    m.d.sync += [row.eq(load.memory_address), plane.eq(load.memory_address), stepping.eq(0)]
                    with m.If(is_fill):
                        m.d.comb += self.i_entry.ready.eq(1)
                    with m.Else():
                        m.next = "Row"
            with m.State("Row"):
                end = row[:block_bits] + span
                m.d.sync += [
                    beat.eq(row >> beat_bits),
                    boundaries.eq(end >> block_bits),
                    is_last_burst.eq(end >> block_bits == 0),
                    is_last.eq((end >> block_bits == 0) & done),
                    last_beat.eq(end[beat_bits:block_bits]),
                ]
                m.next = "Burst"
            with m.State("Burst"):
                m.d.comb += self.o_address.valid.eq(1)
                with m.If(self.o_address.ready):
                    m.d.sync += [
                        beat.eq(Cat(Const(0, len(first_beat)), beat[len(first_beat) :] + 1)),
                        boundaries.eq(boundaries - 1),
                        is_last_burst.eq(boundaries == 1),
                        is_last.eq((boundaries == 1) & done),
                    ]
                    # (a way of its own to the queue, on which all that waits in it hangs)
                    m.d.comb += self.i_entry.ready.eq(is_last)
                    with m.If(is_last_burst):
                        m.d.comb += row_done.eq(1)
                        m.d.sync += stepping.eq(1)
                        with m.If(done):
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
            with m.If(~entry.orders.execute.met):
                m.d.comb += self.o_state.eq(UnitState.WAIT_EXECUTE)
            with m.Elif(~entry.orders.store.met):
                m.d.comb += self.o_state.eq(UnitState.WAIT_STORE)
            with m.Elif(~entry.orders.load.met):
                m.d.comb += self.o_state.eq(UnitState.WAIT_LOAD)
            with m.Elif(load.fence & ~self.i_writes_idle):
                m.d.comb += self.o_state.eq(UnitState.WAIT_MEMORY)

    def _receive(self, m: Module, in_flight: Queue) -> None:
        config = self.config
        bus = config.bus_bytes
        beat_bits = (bus - 1).bit_length()
        current = in_flight.r_data
        load = current.word
        largest = max(config.word_bytes, config.weight_word_bytes, PARAMETER_BYTES)
        # The registers are set for an instruction as it comes to the head, so that none of its elements is unlike the others.
        moves = in_flight.o_moves
        coming = in_flight.o_second

        # ---- beats -> elements ----
        held = Signal(8 * bus, reset_less=True)
        held_valid = Signal()
        held_error = Signal(reset_less=True)
        # where the element begins in the beat; and the same with ones below, which are all that there is in the last of a beat
        at, place = Signal(beat_bits, reset_less=True), Signal(beat_bits, reset_less=True)
        row_low, plane_low = Signal(6, reset_less=True), Signal(6, reset_less=True)
        part = Signal(range(max(2, largest // bus)))
        complete = Signal(reset_less=True)
        gathered = Signal(8 * max(0, largest - bus), reset_less=True)

        # whether this is not the last of ``2**share_log2`` cycles, which the output stage has
        phase = Signal(MAX_SHARE_LOG2)
        left_alone = Cat(0, *(phase[:n] == (1 << n) - 2 for n in range(1, MAX_SHARE_LOG2 + 1)))
        m.d.sync += phase.eq(phase + 1)
        will_be_allowed = ~left_alone.bit_select(Mux(moves, coming.share_log2, current.share_log2), 1)
        active = in_flight.r_rdy
        is_fill = current.fill
        # A beat, or a part of an element, is taken, and an element is given. Much hangs on both, so they are registers, and worked
        # out from what will be.
        take = Signal()
        emit = Signal()
        beat_ends = Signal()

        # loops, innermost last
        lasts = {axis: Signal(name=f"last_{axis}", reset_less=True) for axis in "zyx"}
        carry: Value = emit
        for axis in "xyz":
            left = Signal.like(load[f"n_{axis}"], name=f"left_{axis}", reset_less=True)
            with m.If(moves):
                m.d.sync += [left.eq(coming.word[f"n_{axis}"]), lasts[axis].eq(coming.only[axis])]
            with m.Elif(carry):
                with m.If(lasts[axis]):
                    m.d.sync += [left.eq(load[f"n_{axis}"]), lasts[axis].eq(current.only[axis])]
                with m.Else():
                    m.d.sync += [left.eq(left - 1), lasts[axis].eq(left == 2)]
            carry = carry & lasts[axis]
        row_ends = lasts["x"]
        plane_ends = lasts["x"] & lasts["y"]
        done = plane_ends & lasts["z"]
        will_be_held = Signal()
        m.d.comb += [
            beat_ends.eq(row_ends | place.all()),
            self.i_beat.ready.eq(~held_valid | (take & beat_ends)),
            will_be_held.eq(self.i_beat.valid | (held_valid & ~(take & beat_ends))),
            in_flight.r_en.eq(emit & done),
        ]
        m.d.sync += held_valid.eq(will_be_held)
        with m.If(self.i_beat.ready):
            m.d.sync += [held.eq(self.i_beat.payload.data), held_error.eq(self.i_beat.payload.error)]
        will_be_complete = Signal()
        if largest > bus:
            m.d.sync += complete.eq(will_be_complete)
            m.d.comb += will_be_complete.eq(complete)
            with m.If(take & current.whole):
                m.d.sync += part.eq(Mux(complete, 0, part + 1))
                m.d.comb += will_be_complete.eq(Mux(complete, current.single, part + 2 == current.beats))
            with m.If(moves):
                m.d.comb += will_be_complete.eq(coming.single)
        else:
            m.d.comb += [complete.eq(1), will_be_complete.eq(1)]
        will_be_active = Mux(moves, in_flight.o_behind, 1)
        will_be_fill = Mux(moves, coming.fill, is_fill)
        m.d.sync += [
            take.eq(will_be_active & ~will_be_fill & will_be_held & (will_be_allowed | ~will_be_complete)),
            emit.eq(will_be_active & will_be_allowed & (will_be_fill | (will_be_held & will_be_complete))),
        ]
        m.d.sync += [self.o_fault.eq(take & held_error), self.o_fault_index.eq(current.index)]

        # The beat, or those gathered and this beat behind them. An element is aligned, so its n-th byte is where the bits of n are
        # set in its own place.
        size = max(largest, bus)
        wide = Signal(8 * size)
        for n in range(size // bus):
            m.d.comb += wide.word_select(n, 8 * bus).eq(held)
            if n < size // bus - 1:
                with m.If(part > n):
                    m.d.comb += wide.word_select(n, 8 * bus).eq(gathered.word_select(n, 8 * bus))
                with m.If(take & (part == n)):
                    m.d.sync += gathered.word_select(n, 8 * bus).eq(held)

        def element(size: int) -> Value:
            """Return an element of so many bytes."""
            return wide.word_select(at >> (size - 1).bit_length(), 8 * size)

        # ---- local addresses ----
        local, local_row, local_plane = (Signal(16, name=name, reset_less=True) for name in ("local", "local_row", "local_plane"))
        lane = Signal(range(config.lanes))
        next_local, next_low = Signal(16), Signal(6)
        with m.If(row_ends & lasts["y"]):
            m.d.comb += [next_local.eq(local_plane + load.local_stride_z), next_low.eq(plane_low + load.memory_stride_z[:6])]
        with m.Elif(row_ends):
            m.d.comb += [next_local.eq(local_row + load.local_stride_y), next_low.eq(row_low + load.memory_stride_y[:6])]
        with m.Else():
            m.d.comb += next_local.eq(local + (~current.parameters | (lane == config.lanes - 1)))
            m.d.comb += next_low.eq(at + current.element)
        start = coming.word.memory_address[:6]
        coming_at, following_at = Signal.like(at), Signal.like(at)
        m.d.comb += [coming_at.eq(Mux(coming.whole, 0, start)), following_at.eq(Mux(current.whole, 0, next_low))]
        with m.If(moves):
            m.d.sync += [local.eq(coming.word.local_address), at.eq(coming_at), place.eq(start | coming.below)]
            m.d.sync += [local_row.eq(coming.word.local_address), local_plane.eq(coming.word.local_address)]
            m.d.sync += [row_low.eq(start), plane_low.eq(start)]
        with m.Elif(emit):
            m.d.sync += [local.eq(next_local), at.eq(following_at), place.eq(next_low | current.below)]
            with m.If(row_ends):
                m.d.sync += [local_row.eq(next_local), row_low.eq(next_low)]
            with m.If(plane_ends):
                m.d.sync += [local_plane.eq(next_local), plane_low.eq(next_low)]
        with m.If(emit & current.parameters):
            m.d.sync += lane.eq(Mux((lane == config.lanes - 1) | done, 0, lane + 1))

        # ---- writes, registered ----
        # what is written needs no reset, only whether
        write, weight, table = (
            Signal(port.shape(), name=name, reset_less=True)
            for name, port in (("write", self.o_write), ("weight", self.o_weight), ("table", self.o_table))
        )
        writes, writes_weight, writes_table, writes_pair = Signal(), Signal(), Signal(), Signal()
        writes_parameter = Signal(config.lanes)
        m.d.comb += [
            self.o_will_write.eq(emit & current.scratchpad),
            self.o_write.eq(write),
            self.o_write.mask.eq(writes.replicate(config.rows)),
            self.o_weight.eq(weight),
            self.o_weight.enable.eq(writes_weight),
            self.o_table.eq(table),
            self.o_table.table.eq(writes_table),
            self.o_table.pair.eq(writes_pair),
            self.o_table.parameter.eq(writes_parameter),
        ]
        m.d.sync += [
            writes.eq(self.o_will_write),
            writes_weight.eq(emit & current.weights),
            writes_table.eq(emit & current.table),
            writes_pair.eq(emit & current.pair),
            write.address.eq(local),
            weight.address.eq(local),
            table.address.eq(local),
            table.value.eq(Cat(element(1), element(4)[8:])),
        ]
        for bank in range(config.rows):
            # which byte of an element the bank has, and which of the beat that is; set, as the registers above, when an instruction
            # comes to the head
            index, coming_index = (
                Signal(range(config.word_bytes), name=f"{name}_{bank}", reset_less=True) for name in ("index", "coming_index")
            )
            with m.Switch(coming.word.period_log2):
                for log2 in range((config.rows - 1).bit_length()):
                    with m.Case(log2):
                        m.d.comb += coming_index.eq(bank % (1 << log2))
                with m.Case(PERIOD_THREE):
                    m.d.comb += coming_index.eq(bank % 3)
                with m.Default():
                    m.d.comb += coming_index.eq(bank)
            place_of = Signal(range(max(config.word_bytes, bus)), name=f"place_{bank}", reset_less=True)
            with m.If(moves):
                m.d.sync += [index.eq(coming_index), place_of.eq(coming_at | coming_index)]
            with m.Elif(emit):
                m.d.sync += place_of.eq(following_at | index)
            # (no element for the scratchpad is gathered that a single beat holds)
            source = held if config.word_bytes <= bus else wide[: 8 * config.word_bytes]
            m.d.sync += write.data[bank].eq(Mux(is_fill, load.fill_value, source.word_select(place_of, 8)))
        weights = element(config.weight_word_bytes)
        for column in range(config.columns):
            m.d.sync += weight.data[column].eq(weights.word_select(column, 8))
        for n in range(config.lanes):
            m.d.sync += writes_parameter[n].eq(emit & current.parameters & (lane == n))
        raw = data.View(fields_layout(PARAMETER, 8 * PARAMETER_BYTES), element(PARAMETER_BYTES))
        m.d.sync += [
            table.entry.bias.eq(raw.bias),
            table.entry.multiplier.eq(raw.multiplier),
            table.entry.first_shift.eq(raw.first_shift[:5]),
            table.entry.second_shift.eq(raw.second_shift[:5]),
        ]
        # retire once the last write is in memory
        written = Signal(2)
        m.d.sync += [written.eq(Cat(emit & done, written[0])), self.o_retire.eq(written[1])]

        with m.If(in_flight.o_behind):
            m.d.comb += self.o_state.eq(UnitState.WAIT_PIPELINE)  # in the cycle before it comes to the head
        with m.If(active):
            m.d.comb += self.o_state.eq(
                Mux(emit | take, UnitState.BUSY, Mux(is_fill | held_valid, UnitState.WAIT_PIPELINE, UnitState.WAIT_MEMORY))
            )
