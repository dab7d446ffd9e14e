"""Instruction fetch and dispatch."""

from __future__ import annotations

from amaranth import *
from amaranth.lib import data, stream, wiring
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
from rtl.layouts import (
    ORDER_BITS,
    QUEUES,
    completed_layout,
    entry_layout,
    execute_entry_layout,
    instruction_layout,
    reached,
    retire_layout,
)
from rtl.queue import Queue
from rtl.read_port import read_beat_layout
from rtl.write_port import address_layout

__all__ = ["Dispatcher", "EntryQueue"]

_ENTRIES = {"load": entry_layout(), "execute": execute_entry_layout(), "store": entry_layout()}

#: Parts of the question whether an instruction is well-formed.
_PARTS = 6
#: What is known of an instruction when it comes into the buffer: which unit it is for, if it is well-formed; else what it is. Of
#: BEGIN, what fits.
_kind_layout = data.StructLayout({name: 1 for name in (*QUEUES, "end", "begin", "version", "digest", "error")})
_fetched_layout = data.StructLayout({"word": 8 * INSTRUCTION_BYTES, "kind": _kind_layout})

#: More than the instructions of a unit that can be under way: in its queue, and behind it a few for each stage of its pipeline.
UNFINISHED_BITS = 9

#: Bytes fetched at a time, and instructions that the prefetch buffer holds.
FETCH_BYTES = 128
PREFETCH = 16


class EntryQueue(wiring.Component):
    """A queue of instructions that knows of its head, in a register, which orders are met.

    An order that is met stays so. One that is not is looked at anew in each cycle in which its instruction is at the head or about
    to come there.

    Parameters
    ----------
    layout
        An entry's, with ``orders``.
    depth
        Entries.
    orders
        Those of interest.

    Members
    -------
    i_completed, i_retire
        Counters of finished instructions, and whether they step.
    i_entry
        An instruction, with the orders that are known to be met in the next cycle.
    o_entry
        The head, with the orders that are met now (the one part of it that may change while it waits).
    """

    def __init__(self, *, layout: data.StructLayout, depth: int, orders: tuple[str, ...] = QUEUES) -> None:
        self.layout = layout
        self.depth = depth
        self.orders = orders
        super().__init__(
            {
                "i_completed": In(completed_layout()),
                "i_retire": In(retire_layout()),
                "i_entry": In(stream.Signature(layout)),
                "o_entry": Out(stream.Signature(layout)),
                "o_moves": Out(1),
                "o_second": Out(layout),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.queue = queue = Queue(shape=self.layout, depth=self.depth, through=False)
        m.d.comb += [
            queue.w_data.eq(self.i_entry.payload),
            queue.w_en.eq(self.i_entry.valid),
            self.i_entry.ready.eq(queue.w_rdy),
            self.o_entry.payload.eq(queue.r_data),
            self.o_entry.valid.eq(queue.r_rdy),
            queue.r_en.eq(self.o_entry.ready),
            self.o_moves.eq(queue.o_moves),
            self.o_second.eq(queue.o_second),
        ]
        for name in self.orders:
            head, second = queue.r_data.orders[name], queue.o_second.orders[name]
            completed, retire = self.i_completed[name], self.i_retire[name]
            met = Signal(name=f"met_{name}", reset_less=True)
            with m.If(~queue.o_moves):
                m.d.sync += met.eq(met | reached(head, completed, retire))
            with m.Else():
                m.d.sync += met.eq(second.met | reached(second, completed, retire))
            m.d.comb += self.o_entry.payload.orders[name].met.eq(met)
        return m


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
        Stop: another part of the engine has failed, so the program does not end.
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
                "i_retire": In(retire_layout()),
                "o_address": Out(stream.Signature(address_layout)),
                "i_beat": In(stream.Signature(read_beat_layout(config.bus_bytes))),
                **{f"o_{queue}": Out(stream.Signature(layout)) for queue, layout in _ENTRIES.items()},
                "o_completed": Out(completed_layout()),
                "o_done": Out(1),
                "o_error": Out(Error),
                "o_index": Out(ORDER_BITS),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        buffer = self._fetch(m)
        fetched = buffer.r_data
        kind = fetched.kind

        # ---- queues ----
        index = Signal(ORDER_BITS)
        # all units' instructions have the order fields in the same place
        fields = data.View(instruction_layout(Opcode.LOAD), fetched.word)
        orders = Signal(entry_layout()["orders"].shape)
        queues = {}
        all_retired: Value = Const(1)
        for name, layout in _ENTRIES.items():
            m.submodules[f"{name}_queue"] = queue = EntryQueue(layout=layout, depth=QUEUE_DEPTH)
            queues[name] = queue
            wiring.connect(m, queue.o_entry, wiring.flipped(getattr(self, f"o_{name}")))
            entry = queue.i_entry.payload
            m.d.comb += [
                queue.i_completed.eq(self.o_completed),
                queue.i_retire.eq(self.i_retire),
                entry.word.eq(fetched.word),
                entry.index.eq(index),
                entry.orders.eq(orders),
            ]
            taken = queue.i_entry.valid & queue.i_entry.ready
            retire = self.i_retire[name]
            dispatched = Signal(ORDER_BITS, name=f"dispatched_{name}")
            # minus those dispatched and not finished: a distance is enough if their sum, and a step, is not negative
            unfinished = Signal(signed(UNFINISHED_BITS), name=f"unfinished_{name}")
            with m.If(taken):
                m.d.sync += dispatched.eq(dispatched + 1)
            with m.If(retire):
                m.d.sync += self.o_completed[name].eq(self.o_completed[name] + 1)
            with m.If(taken & ~retire):
                m.d.sync += unfinished.eq(unfinished - 1)
            with m.Elif(retire & ~taken):
                m.d.sync += unfinished.eq(unfinished + 1)
            all_retired = all_retired & (unfinished == 0)

            distance = fields[f"after_{name}"]
            slack = Cat(Const(1, 1), distance, Const(0, 1)).as_signed() + Cat(retire, unfinished).as_signed()
            m.d.comb += [
                orders[name].met.eq((distance == UNORDERED) | ~slack[-1]),
                orders[name].missing.eq(distance - dispatched),
            ]
        execute = data.View(instruction_layout(Opcode.EXECUTE), fetched.word)
        only = queues["execute"].i_entry.payload.only
        m.d.comb += [
            only.block.eq(execute.n_block == 1),
            only.ky.eq(execute.n_ky == 1),
            only.kx.eq(execute.n_kx == 1),
            only.tap_rows.eq(execute.tap_rows == 1),
        ]

        # ---- dispatch ----
        # before BEGIN; after it and before the end; an instruction's index would not fit
        starting = Signal(init=1)
        running = Signal()
        ended = Signal()
        overrun = Signal()
        begin = Signal()
        fits = kind.begin & kind.version & kind.digest
        m.d.comb += [
            *(queue.i_entry.valid.eq(buffer.r_rdy & running & kind[name]) for name, queue in queues.items()),
            begin.eq(buffer.r_rdy & starting & fits),
            # (whether there is a head, the buffer knows itself: what is asked of a head goes a long way)
            buffer.r_en.eq(
                (starting & fits) | (running & Cat(kind[name] & queue.i_entry.ready for name, queue in queues.items()).any())
            ),
        ]
        with m.If(buffer.r_en & buffer.r_rdy):
            m.d.sync += index.eq(index + 1)
            with m.If(index == (1 << ORDER_BITS) - 2):
                m.d.sync += [overrun.eq(1), running.eq(0)]

        def refuse(error: Error) -> None:
            m.d.sync += [self.o_error.eq(error), self.o_index.eq(index), starting.eq(0), running.eq(0), overrun.eq(0)]

        with m.If(begin):
            m.d.sync += [starting.eq(0), running.eq(1)]
        with m.Elif(buffer.r_rdy & (starting | running | overrun)):
            with m.If(kind.error):
                refuse(Error.READ_FAULT)
            with m.Elif(running):
                with m.If(kind.end):
                    m.d.sync += [running.eq(0), ended.eq(1)]
                with m.Elif(~(kind.load | kind.execute | kind.store)):
                    refuse(Error.BAD_OPCODE)
            with m.Elif(overrun | ~kind.begin):
                refuse(Error.BAD_OPCODE)
            with m.Elif(~kind.version):
                refuse(Error.BAD_VERSION)
            with m.Else():
                refuse(Error.BAD_DIGEST)
        with m.If(self.i_halt):
            m.d.sync += [starting.eq(0), running.eq(0), overrun.eq(0)]

        # a fault in the last answer from memory is known when all is idle, not before
        m.d.sync += self.o_done.eq(ended & all_retired & self.i_idle & ~self.i_halt)
        return m

    def _faults(self, word: Value) -> Value:
        """Return what is wrong with an instruction for a unit, in ``_PARTS`` parts."""
        checks = {Opcode.LOAD: self._bad_load, Opcode.EXECUTE: self._bad_execute, Opcode.STORE: self._bad_store}
        found = {code: check(data.View(instruction_layout(code), word)) for code, check in checks.items()}
        parts = []
        for part in range(_PARTS):
            bad: Value = Const(0)
            for code, faults in found.items():
                bad = bad | ((word[:4] == code) & Cat(faults[part::_PARTS]).any())
            parts.append(bad)
        return Cat(parts)

    def _kind(self, word: Value, error: Value, faults: Value) -> dict[str, Value]:
        """Return what is known of an instruction: see ``_kind_layout``."""
        opcode = word[:4]
        begin = data.View(instruction_layout(Opcode.BEGIN), word)
        codes = zip(QUEUES, (Opcode.LOAD, Opcode.EXECUTE, Opcode.STORE), strict=True)
        return {name: ~error & (opcode == code) & ~faults.any() for name, code in codes} | {
            "end": ~error & (opcode == Opcode.END),
            "begin": ~error & (opcode == Opcode.BEGIN) & (begin.magic == MAGIC),
            "version": begin.isa_version == ISA_VERSION,
            "digest": begin.digest == self.config.digest,
            "error": error,
        }

    # What would hang a unit, or leave it out of step with the memory port or with what the instruction set says, is refused here:
    # each of these returns all that may be wrong.

    def _bad_load(self, load: data.View) -> list[Value]:
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
        low = (load.memory_address | load.memory_stride_y | load.memory_stride_z)[:6]
        return [
            *((load.target != Target.FILL) & low[bit] & (load.element_log2 > bit) for bit in range(6)),
            *_zeros(load, "n_x", "n_y", "n_z"),
            load.target > max(Target),
            *((load.target == target) & (load.element_log2 != log2) for target, log2 in element.items()),
            *(load.target == target for target in absent),
            (load.target == Target.ACTIVATIONS) & (load.element_log2 > _log2(config.word_bytes)),
            (load.target == Target.PARAMETERS) & ((load.n_y != 1) | (load.n_z != 1)),
        ]

    def _bad_execute(self, execute: data.View) -> list[Value]:
        rows, columns = self.config.rows, self.config.columns
        is_array = execute.operation == Operation.ARRAY
        is_window = execute.operation == Operation.WINDOW
        if self.config.window_lines:
            bad_window = [
                execute.n_px < execute.n_kx,
                execute.n_py < execute.n_ky,
                execute.n_px <= WINDOW_TAPS,
                execute.n_px > self.config.window_pixels,
                execute.n_block != 1,
                execute.n_wy != 1,
                execute.n_wx != 1,
                ~execute.stride_ky.matches(1, 2),
                ~execute.stride_kx.matches(1, 2),
                execute.row_offset != 0,
                execute.reduce,
            ]
        else:
            bad_window = [Const(1)]
        return [
            *(is_window & bad for bad in bad_window),
            *_zeros(execute, "n_block", "n_ky", "n_kx", "n_py", "n_px", "n_wy", "n_wx"),
            execute.operation > max(Operation),
            Mux(is_array, (execute.tap_rows == 0) | (execute.tap_rows > rows), execute.tap_rows != rows),
            ~is_array & ~execute.row_offset.matches(*range(0, rows, columns)),
        ]

    def _bad_store(self, store: data.View) -> list[Value]:
        config = self.config
        lanes = config.lanes
        # the finished bytes must lie in one word, in steps of whole groups; the columns must be there
        in_word = [
            (store.byte_offset == byte) & (store.groups <= (config.rows - byte) // lanes) for byte in range(0, config.rows, lanes)
        ]
        there = [
            (store.first_group == group) & (store.groups <= config.column_groups - group) for group in range(config.column_groups)
        ]
        unaligned = (store.memory_address | store.memory_stride_y)[: _log2(config.word_bytes)].any()
        return [
            ~Cat(in_word).any(),
            ~Cat(there).any(),
            *_zeros(store, "n_x", "n_y", "pool", "groups"),
            store.rounding > max(Rounding),
            (~Const(config.tables) & store.use_table) | (~Const(config.elementwise) & store.source),
            store.to_memory & unaligned,
        ]

    def _fetch(self, m: Module) -> Queue:
        """Read ahead into a buffer of instructions and return it."""
        bus = self.config.bus_bytes
        m.submodules.prefetch = buffer = Queue(shape=_fetched_layout, depth=PREFETCH, through=False)
        chunk = FETCH_BYTES // INSTRUCTION_BYTES

        # Bursts that the buffer has room for, besides those on their way to it: as many ones. A chunk of instructions that has left
        # makes room for another. (The read port takes no address in a halt.)
        room = Signal(PREFETCH // chunk, init=-1)
        left = Signal(range(chunk))
        address = Signal(32 - _log2(FETCH_BYTES))
        m.d.comb += [
            self.o_address.payload.address.eq(Cat(Const(0, _log2(FETCH_BYTES)), address)),
            self.o_address.payload.length.eq(FETCH_BYTES // bus - 1),
            self.o_address.valid.eq(room[0]),
        ]
        pops = buffer.r_en & buffer.r_rdy
        taken = room[0] & self.o_address.ready
        frees = pops & (left == chunk - 1)
        with m.If(pops):
            m.d.sync += left.eq(left + 1)
        with m.If(taken):
            m.d.sync += address.eq(address + 1)
        with m.If(taken & ~frees):
            m.d.sync += room.eq(room[1:])
        with m.Elif(frees & ~taken):
            m.d.sync += room.eq(Cat(1, room))

        # An instruction waits a cycle before the buffer, between the two halves of the question whether it is well-formed.
        beat = self.i_beat.payload
        arrives = Signal()
        word = Signal(8 * INSTRUCTION_BYTES)
        error = Signal()
        waiting = Signal(8 * INSTRUCTION_BYTES, reset_less=True)
        waiting_error = Signal()
        waiting_faults = Signal(_PARTS, reset_less=True)
        m.d.sync += buffer.w_en.eq(arrives)
        with m.If(arrives):
            m.d.sync += waiting_faults.eq(self._faults(word))
        kind = self._kind(waiting, waiting_error, waiting_faults)
        m.d.comb += [buffer.w_data.word.eq(waiting), *(buffer.w_data.kind[name].eq(value) for name, value in kind.items())]

        parts = max(INSTRUCTION_BYTES // bus, bus // INSTRUCTION_BYTES)
        part = Signal(range(parts))
        with m.If(self.i_beat.valid):
            m.d.sync += part.eq(Mux(part == parts - 1, 0, part + 1))
        if bus <= INSTRUCTION_BYTES:
            m.d.comb += [
                self.i_beat.ready.eq(1),
                arrives.eq(self.i_beat.valid & (part == parts - 1)),
                word.eq(waiting),
                word.word_select(parts - 1, 8 * bus).eq(beat.data),
                # of any of its beats
                error.eq(beat.error | ((part != 0) & waiting_error)),
            ]
            with m.If(self.i_beat.valid):
                m.d.sync += waiting_error.eq(error)
                for n in range(parts):
                    with m.If(part == n):
                        m.d.sync += waiting.word_select(n, 8 * bus).eq(beat.data)
        else:
            m.d.comb += [
                self.i_beat.ready.eq(part == parts - 1),
                arrives.eq(self.i_beat.valid),
                word.eq(beat.data.word_select(part, 8 * INSTRUCTION_BYTES)),
                error.eq(beat.error),
            ]
            with m.If(arrives):
                m.d.sync += [waiting.eq(word), waiting_error.eq(error)]
        return buffer


def _log2(value: int) -> int:
    return value.bit_length() - 1


def _zeros(view: data.View, *names: str) -> list[Value]:
    """Return which of the fields are zero: a loop that would not end."""
    return [view[name] == 0 for name in names]
