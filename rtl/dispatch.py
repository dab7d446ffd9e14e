"""Instruction fetch and dispatch."""

from __future__ import annotations

from amaranth import *
from amaranth.lib import data, fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from accel.config import QUEUE_DEPTH, EngineConfig
from accel.isa import (
    INSTRUCTION_BYTES,
    ISA_VERSION,
    MAGIC,
    PARAMETER_BYTES,
    UNORDERED,
    WINDOW_TAPS,
    Error,
    Opcode,
    Operation,
    Target,
)
from accel.numerics import Rounding
from rtl.layouts import ORDER_BITS, QUEUES, completed_layout, entry_layout, instruction_layout
from rtl.read_port import read_beat_layout
from rtl.write_port import address_layout

__all__ = ["Dispatcher"]

#: Bytes fetched at a time, and instructions that the prefetch buffer holds.
FETCH_BYTES = 128
PREFETCH = 16


class Dispatcher(wiring.Component):
    """Fetch the program from address 0 (of the base) on and hand each instruction to its unit's queue, one a cycle at most.

    BEGIN must come first and fit this engine. END waits for all units; then ``o_done`` stays high. An instruction that is none, or
    that has a count of zero (a loop that would not end), stops the engine.

    Parameters
    ----------
    config
        The engine's configuration.

    Members
    -------
    i_halt
        Stop: another part of the engine has failed.
    i_idle
        No unit or port has anything left to do.
    i_retire
        For each queue, an instruction has finished.
    o_address, i_beat
        Instruction reads.
    o_load, o_execute, o_store
        The queues.
    o_completed
        Counters of finished instructions.
    o_done
        The program has ended.
    o_error, o_index
        Why the program was refused, and at which instruction.
    """

    def __init__(self, *, config: EngineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "i_halt": In(1),
                "i_idle": In(1),
                "i_retire": In(data.StructLayout({queue: 1 for queue in QUEUES})),
                "o_address": Out(stream.Signature(address_layout)),
                "i_beat": In(stream.Signature(read_beat_layout(config.bus_bytes))),
                **{f"o_{queue}": Out(stream.Signature(entry_layout())) for queue in QUEUES},
                "o_completed": Out(completed_layout()),
                "o_done": Out(1),
                "o_error": Out(Error),
                "o_index": Out(ORDER_BITS),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        buffer = self._fetch(m)
        fetched = data.View(data.StructLayout({"word": 8 * INSTRUCTION_BYTES, "error": 1}), buffer.r_data)

        opcode = fetched.word[:4]
        begin = data.View(instruction_layout(Opcode.BEGIN), fetched.word)
        load = data.View(instruction_layout(Opcode.LOAD), fetched.word)

        # ---- queues ----
        index = Signal(ORDER_BITS)
        queues = {}
        dispatched = {}
        for name, code in zip(QUEUES, (Opcode.LOAD, Opcode.EXECUTE, Opcode.STORE), strict=True):
            queue = fifo.SyncFIFO(width=entry_layout().size, depth=QUEUE_DEPTH)
            m.submodules[f"{name}_queue"] = queue
            out = getattr(self, f"o_{name}")
            m.d.comb += [out.payload.eq(queue.r_data), out.valid.eq(queue.r_rdy), queue.r_en.eq(out.ready)]
            queues[code] = queue
            count = Signal(ORDER_BITS, name=f"dispatched_{name}")
            with m.If(queue.w_en):
                m.d.sync += count.eq(count + 1)
            dispatched[name] = count
            with m.If(self.i_retire[name]):
                m.d.sync += self.o_completed[name].eq(self.o_completed[name] + 1)

        # all units' instructions have the order fields in the same place
        entry = Signal(entry_layout())
        m.d.comb += [entry.word.eq(fetched.word), entry.index.eq(index)]
        for name in QUEUES:
            distance = load[f"after_{name}"]
            m.d.comb += [
                entry.orders[name].active.eq((distance != UNORDERED) & (dispatched[name] > distance)),
                entry.orders[name].target.eq(dispatched[name] - distance),
            ]
        for queue in queues.values():
            m.d.comb += queue.w_data.eq(entry)

        # ---- dispatch ----
        malformed = Signal()
        with m.Switch(opcode):
            for code, check in (
                (Opcode.LOAD, self._bad_load),
                (Opcode.EXECUTE, self._bad_execute),
                (Opcode.STORE, self._bad_store),
            ):
                with m.Case(code):
                    m.d.comb += malformed.eq(check(data.View(instruction_layout(code), fetched.word)))

        begun = Signal()
        ended = Signal()

        def refuse(error: Error) -> None:
            m.d.sync += [self.o_error.eq(error), self.o_index.eq(index)]

        with m.If(buffer.r_rdy & ~self.i_halt & ~ended & (self.o_error == Error.NONE)):
            with m.If(fetched.error):
                refuse(Error.READ_FAULT)
            with m.Elif(~begun):
                with m.If((opcode != Opcode.BEGIN) | (begin.magic != MAGIC)):
                    refuse(Error.BAD_OPCODE)
                with m.Elif(begin.isa_version != ISA_VERSION):
                    refuse(Error.BAD_VERSION)
                with m.Elif(begin.digest != self.config.digest):
                    refuse(Error.BAD_DIGEST)
                with m.Else():
                    m.d.comb += buffer.r_en.eq(1)
                    m.d.sync += [begun.eq(1), index.eq(index + 1)]
            with m.Elif(malformed | (index == (1 << ORDER_BITS) - 1)):
                refuse(Error.BAD_OPCODE)
            with m.Else():
                with m.Switch(opcode):
                    for code, queue in queues.items():
                        with m.Case(code):
                            with m.If(queue.w_rdy):
                                m.d.comb += [queue.w_en.eq(1), buffer.r_en.eq(1)]
                                m.d.sync += index.eq(index + 1)
                    with m.Case(Opcode.END):
                        m.d.sync += ended.eq(1)
                    with m.Default():
                        refuse(Error.BAD_OPCODE)

        all_retired: Value = Const(1)
        for name in QUEUES:
            all_retired = all_retired & (self.o_completed[name] == dispatched[name])
        m.d.sync += self.o_done.eq(ended & all_retired & self.i_idle)
        return m

    # What would hang a unit, or leave it out of step with the memory port or with what the instruction set says, is refused here.

    def _bad_load(self, load: data.View) -> Value:
        config = self.config
        element = {
            Target.WEIGHTS: _log2(config.weight_word_bytes),
            Target.PARAMETERS: _log2(PARAMETER_BYTES),
            Target.TABLE: 0,
            Target.PAIR_TABLE: 2,
        }
        absent = [
            *([] if config.tables else [Target.TABLE]),
            *([] if config.elementwise else [Target.PAIR_TABLE]),
        ]
        bad = _any_zero(load, "n_x", "n_y", "n_z") | (load.target > max(Target))
        for target, log2 in element.items():
            bad = bad | ((load.target == target) & (load.element_log2 != log2))
        for target in absent:
            bad = bad | (load.target == target)
        bad = bad | ((load.target == Target.ACTIVATIONS) & (load.element_log2 > _log2(config.word_bytes)))
        bad = bad | ((load.target == Target.PARAMETERS) & ((load.n_y != 1) | (load.n_z != 1)))
        low = (load.memory_address | load.memory_stride_y | load.memory_stride_z)[:6]
        below = ((1 << load.element_log2) - 1)[:6]
        return bad | ((load.target != Target.FILL) & (low & below).any())

    def _bad_execute(self, execute: data.View) -> Value:
        rows, columns = self.config.rows, self.config.columns
        counts = ("n_block", "n_ky", "n_kx", "n_py", "n_px", "n_wy", "n_wx")
        is_array = execute.operation == Operation.ARRAY
        bad_window: Value = Const(1)
        if self.config.window_lines:
            bad_window = (
                (execute.n_px <= WINDOW_TAPS)
                | (execute.n_px > self.config.window_pixels)
                | (execute.n_px < execute.n_kx)
                | (execute.n_py < execute.n_ky)
                | (execute.n_block != 1)
                | (execute.n_wy != 1)
                | (execute.n_wx != 1)
                | ~execute.stride_ky.matches(1, 2)
                | ~execute.stride_kx.matches(1, 2)
                | (execute.row_offset != 0)
                | execute.reduce
            )
        return (
            _any_zero(execute, *counts)
            | (execute.operation > max(Operation))
            | Mux(is_array, (execute.tap_rows == 0) | (execute.tap_rows > rows), execute.tap_rows != rows)
            | (~is_array & ~execute.row_offset.matches(*range(0, rows, columns)))
            | ((execute.operation == Operation.WINDOW) & bad_window)
        )

    def _bad_store(self, store: data.View) -> Value:
        config = self.config
        lanes = config.lanes
        features = (~Const(config.tables) & store.use_table) | (~Const(config.elementwise) & store.source)
        # the finished bytes must lie in one word, in steps of whole groups
        fits: Value = Const(0)
        for byte in range(0, config.rows, lanes):
            fits = fits | ((store.byte_offset == byte) & (store.groups <= (config.rows - byte) // lanes))
        unaligned = (store.memory_address | store.memory_stride_y)[: _log2(config.word_bytes)].any()
        return (
            _any_zero(store, "n_x", "n_y", "pool", "groups")
            | ((store.first_group + store.groups) > config.column_groups)
            | (store.rounding > max(Rounding))
            | features
            | ~fits
            | (store.to_memory & unaligned)
        )

    def _fetch(self, m: Module) -> fifo.SyncFIFO:
        """Read ahead into a buffer of instructions (each with the error flag of its beats) and return it."""
        bus = self.config.bus_bytes
        layout = data.StructLayout({"word": 8 * INSTRUCTION_BYTES, "error": 1})
        m.submodules.prefetch = buffer = fifo.SyncFIFO(width=layout.size, depth=PREFETCH)
        chunk = FETCH_BYTES // INSTRUCTION_BYTES

        # instructions in the buffer or on their way to it
        promised = Signal(range(PREFETCH + 1))
        address = Signal(32)
        sent = Signal()
        m.d.comb += [
            self.o_address.payload.address.eq(address),
            self.o_address.payload.length.eq(FETCH_BYTES // bus - 1),
            self.o_address.valid.eq(sent | ((promised <= PREFETCH - chunk) & ~self.i_halt & ~self.o_done)),
        ]
        taken = Signal()
        m.d.comb += taken.eq(self.o_address.valid & self.o_address.ready)
        # an address once shown must stay, even when the engine halts
        m.d.sync += sent.eq(self.o_address.valid & ~self.o_address.ready)
        with m.If(taken):
            m.d.sync += address.eq(address + FETCH_BYTES)
        m.d.sync += promised.eq(promised + Mux(taken, chunk, 0) - (buffer.r_en & buffer.r_rdy))

        entry = data.View(layout, buffer.w_data)
        beat = self.i_beat.payload
        if bus <= INSTRUCTION_BYTES:
            parts = INSTRUCTION_BYTES // bus
            part = Signal(range(parts))
            gathered = Signal(8 * INSTRUCTION_BYTES)
            error = Signal()
            word = Signal(8 * INSTRUCTION_BYTES)
            m.d.comb += [
                word.eq(gathered),
                word.word_select(parts - 1, 8 * bus).eq(beat.data),
                entry.word.eq(word),
                entry.error.eq(error | beat.error),
                buffer.w_en.eq(self.i_beat.valid & (part == parts - 1)),
                self.i_beat.ready.eq(1),
            ]
            with m.If(self.i_beat.valid):
                m.d.sync += part.eq(Mux(part == parts - 1, 0, part + 1))
                m.d.sync += error.eq(Mux(part == parts - 1, 0, error | beat.error))
                for n in range(parts - 1):
                    with m.If(part == n):
                        m.d.sync += gathered.word_select(n, 8 * bus).eq(beat.data)
        else:
            parts = bus // INSTRUCTION_BYTES
            part = Signal(range(parts))
            m.d.comb += [
                entry.word.eq(beat.data.word_select(part, 8 * INSTRUCTION_BYTES)),
                entry.error.eq(beat.error),
                buffer.w_en.eq(self.i_beat.valid),
                self.i_beat.ready.eq(part == parts - 1),
            ]
            with m.If(self.i_beat.valid):
                m.d.sync += part.eq(Mux(part == parts - 1, 0, part + 1))
        return buffer


def _log2(value: int) -> int:
    return value.bit_length() - 1


def _any_zero(view: data.View, *names: str) -> Value:
    """Return whether one of the fields is zero: a loop that would not end."""
    zero: Value = Const(0)
    for name in names:
        zero = zero | (view[name] == 0)
    return zero
