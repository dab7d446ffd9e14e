"""The small engine: memory, on-chip memories, and the one sequence that carries out an instruction after the other."""

from __future__ import annotations

from amaranth import *
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from accel.config import EngineConfig
from accel.isa import INSTRUCTION_BYTES, ISA_VERSION, MAGIC, PARAMETER, Error, Opcode, Target
from rtl.layouts import fields_layout, instruction_layout
from rtl.micro.decode import LOCAL_BITS, LOOPS, MEMORY_BITS, TAPS, Decoder
from rtl.micro.execute import Executor
from rtl.micro.load import Loader
from rtl.micro.loops import Addresses, Counters
from rtl.micro.output import Output
from rtl.micro.primitives import WORD_BYTES, LargeMemory
from rtl.micro.store import Windows

__all__ = ["INDEX_BITS", "MicroEngine"]

#: Words of the large memory that an instruction takes, and the bits of an instruction's number.
_PARTS = INSTRUCTION_BYTES // WORD_BYTES
INDEX_BITS = (LargeMemory.WORDS // _PARTS - 1).bit_length()

#: A channel's parameters as they come from memory: the first word whole, of the second the two shifts.
_PARAMETER = fields_layout(PARAMETER, 2 * 8 * WORD_BYTES)
_SHIFT_BITS = 5


class MicroEngine(wiring.Component):
    """Runs the program at the start of its own memory, one instruction after the other.

    The same instructions as :class:`rtl.engine.Engine`, with the same outcome, in the cycles of :mod:`accel.micro`::

          +------------------ memory (128 kB) <-----------------+
          |                   |   |   |                         |
          v                   |   |   +--> parameters --+       |
     instruction              |   +--> weights          |       |
          |                   v           |             v       |
     loops, addresses ---> scratchpad --> x --> sums -> output -+
                              ^                           |
                              +---------------------------+

    Parameters
    ----------
    config
        One of a micro engine.
    trace
        Whether there are the outputs that a simulation looks at.

    Members
    -------
    i_address, i_data, i_mask, o_data
        The memory (:class:`rtl.micro.primitives.LargeMemory`), for the host, while ``o_busy`` is low.
    i_start
        Begin with the first instruction, unless busy.
    o_busy, o_done
        A program runs; it has run to its end.
    o_error, o_index
        Why the program was stopped, and the instruction at which it is.
    o_cycles
        Cycles in which ``o_busy`` was high.
    o_unit
        With ``trace``: 1 to 3 while a LOAD, EXECUTE or STORE is carried out.
    """

    def __init__(self, config: EngineConfig, *, trace: bool = False) -> None:
        assert config.micro
        self.config = config
        self.trace = trace
        super().__init__(
            {
                "i_address": In(range(LargeMemory.WORDS)),
                "i_data": In(8 * WORD_BYTES),
                "i_mask": In(WORD_BYTES),
                "o_data": Out(8 * WORD_BYTES),
                "i_start": In(1),
                "o_busy": Out(1),
                "o_done": Out(1),
                "o_error": Out(Error),
                "o_index": Out(INDEX_BITS),
                "o_cycles": Out(32),
                **({"o_unit": Out(2)} if trace else {}),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        word = Signal(8 * INSTRUCTION_BYTES, reset_less=True)
        begin = data.View(instruction_layout(Opcode.BEGIN), word)
        load = data.View(instruction_layout(Opcode.LOAD), word)
        store = data.View(instruction_layout(Opcode.STORE), word)

        m.submodules.large = large = LargeMemory()
        m.submodules.decoder = decoder = Decoder(config=config)
        m.submodules.loops = loops = Counters(widths=LOOPS)
        m.submodules.taps = taps = Counters(widths=TAPS)
        m.submodules.first = first = Addresses(loops=len(LOOPS), width=LOCAL_BITS)
        m.submodules.second = second = Addresses(loops=len(TAPS), width=MEMORY_BITS)
        m.submodules.loader = loader = Loader(config=config)
        m.submodules.executor = executor = Executor(config=config)
        m.submodules.windows = windows = Windows(config=config)
        m.submodules.output = output = Output()
        m.d.comb += [reader.i_word.eq(word) for reader in (decoder, loader, executor, windows)]

        # ---- loops and addresses; outside of EXECUTE the second addresses follow the loops, of which the third does not turn ----
        starts = Signal()
        m.d.comb += [
            loops.i_counts.eq(decoder.o_counts),
            loops.i_start.eq(starts),
            first.i_base.eq(decoder.o_base),
            first.i_strides.eq(decoder.o_strides),
            first.i_start.eq(starts),
            first.i_step.eq(loops.i_step),
            first.i_steps.eq(loops.o_steps),
            taps.i_counts.eq(decoder.o_taps),
            taps.i_start.eq(starts | executor.i_turn),
            taps.i_step.eq(executor.o_step_taps),
            second.i_base.eq(decoder.o_second_base),
            second.i_strides.eq(decoder.o_second_strides),
            second.i_start.eq(starts | executor.i_turn),
            second.i_step.eq(taps.i_step),
            second.i_steps.eq(taps.o_steps),
            executor.i_start.eq(starts),
            executor.i_last_tap.eq(taps.o_last),
            executor.i_window_ends.eq(~loops.o_steps[2:].any()),
            windows.i_start.eq(starts),
        ]
        with m.If(begin.opcode != Opcode.EXECUTE):
            m.d.comb += [second.i_step.eq(loops.i_step), second.i_steps.eq(Cat(loops.o_steps[:2], loops.o_steps[3]))]

        # ---- on-chip memories ----
        in_store, finished = Signal(), Signal()  # a STORE is carried out; one of its bytes is finished
        target_byte = Signal(range(config.rows))
        row = Signal(executor.o_row.shape(), reset_less=True)
        m.d.sync += row.eq(executor.o_row)
        banks = []
        for bank in range(config.rows):
            m.submodules[f"bank_{bank}"] = cells = memory.Memory(shape=signed(8), depth=config.scratchpad_words, init=[])
            read, write = cells.read_port(), cells.write_port()
            banks.append(read.data)
            m.d.comb += [
                read.addr.eq(first.o_address + second.o_address),
                write.addr.eq(Mux(finished, first.o_address, loader.o_address)),
                write.data.eq(Mux(finished, output.o_byte, loader.o_bytes[bank])),
                write.en.eq(loader.o_banks[bank] | (finished & store.to_scratchpad & self._repeats(store, target_byte, bank))),
            ]
        m.submodules.weights = weights = memory.Memory(shape=8 * WORD_BYTES, depth=config.weight_words, init=[])
        read, write = weights.read_port(), weights.write_port()
        m.d.comb += [
            read.addr.eq(executor.o_weight),
            executor.i_weights.eq(read.data),
            executor.i_byte.eq(Array(banks)[row]),
            write.addr.eq(loader.o_address),
            write.data.eq(large.o_data),
            write.en.eq(loader.o_weights),
        ]
        shifts = Cat(_field(large.o_data, name)[:_SHIFT_BITS] for name in ("first_shift", "second_shift"))
        parameters: list[Value] = []
        for name, content, enable in (("factors", large.o_data, loader.o_parameters), ("shifts", shifts, loader.o_shifts)):
            m.submodules[name] = cells = memory.Memory(shape=len(content), depth=config.parameter_channels, init=[])
            read, write = cells.read_port(), cells.write_port()
            m.d.comb += [
                read.addr.eq(windows.o_parameter),
                write.addr.eq(loader.o_address),
                write.data.eq(content),
                write.en.eq(enable),
            ]
            parameters.append(read.data)
        m.d.comb += [
            output.i_parameter.bias.eq(_field(parameters[0], "bias")),
            output.i_parameter.multiplier.eq(_field(parameters[0], "multiplier")),
            output.i_parameter.first_shift.eq(parameters[1][:_SHIFT_BITS]),
            output.i_parameter.second_shift.eq(parameters[1][_SHIFT_BITS:]),
        ]

        # ---- the large memory ----
        byte_bits = (WORD_BYTES - 1).bit_length()
        at = Signal(MEMORY_BITS)
        m.d.comb += [
            at.eq(second.o_address | Mux(in_store, target_byte, 0)),  # words lie at multiples of themselves
            large.i_address.eq(at[byte_bits:] | loader.i_second_half),
            large.i_data.eq(output.o_byte.as_unsigned().replicate(WORD_BYTES)),
            large.i_mask.eq(Mux(finished & store.to_memory, 1 << at[:byte_bits], 0)),
            loader.i_low.eq(at),
            loader.i_address.eq(first.o_address),
            loader.i_data.eq(large.o_data),
            self.o_data.eq(large.o_data),
        ]

        # ---- the sequence ----
        part = Signal(range(_PARTS + 1))
        begun = Signal()
        refusal = Signal(Error, reset_less=True)
        read_sum = Signal()
        group = Signal(range(config.rows))  # of the byte that comes out next
        m.d.comb += [
            self.o_busy.eq(1),
            executor.i_read.eq(windows.o_sum),
            output.i_sum.eq(executor.o_sum),
            output.i_recipe.rounding.eq(store.rounding),
            output.i_recipe.zero_point.eq(store.zero_point),
            output.i_recipe.minimum.eq(store.minimum),
            output.i_recipe.maximum.eq(store.maximum),
            output.i_clear.eq(~in_store),
            finished.eq(in_store & output.o_valid),
            target_byte.eq(store.byte_offset + group),
            windows.i_step.eq(in_store),
        ]
        last_sum = Signal()
        m.d.sync += [read_sum.eq(in_store), output.i_first.eq(windows.o_first), last_sum.eq(windows.o_last)]
        m.d.comb += output.i_last.eq(read_sum & last_sum)
        m.d.sync += self.o_cycles.eq(self.o_cycles + self.o_busy)

        def finish() -> None:
            m.d.sync += [self.o_index.eq(self.o_index + 1), part.eq(0)]
            m.next = "FETCH"

        with m.FSM() as sequence:
            with m.State("IDLE"):
                m.d.comb += [
                    self.o_busy.eq(0),
                    large.i_address.eq(self.i_address),
                    large.i_data.eq(self.i_data),
                    large.i_mask.eq(self.i_mask),
                ]
                with m.If(self.i_start):
                    m.d.sync += [self.o_done.eq(0), self.o_error.eq(Error.NONE), self.o_index.eq(0), self.o_cycles.eq(0)]
                    m.d.sync += [begun.eq(0), part.eq(0)]
                    m.next = "FETCH"

            with m.State("FETCH"):
                m.d.comb += large.i_address.eq(Cat(part[: (_PARTS - 1).bit_length()], self.o_index))
                m.d.sync += part.eq(part + 1)
                with m.If(part != 0):
                    m.d.sync += word.eq(Cat(word[8 * WORD_BYTES :], large.o_data))
                with m.If(part == _PARTS):
                    m.next = "CHECK"

            with m.State("CHECK"):
                m.d.sync += refusal.eq(Error.NONE)
                with m.If(begun):
                    with m.If(decoder.o_malformed & (begin.opcode != Opcode.END)):
                        m.d.sync += refusal.eq(Error.BAD_OPCODE)
                with m.Else():
                    with m.If((begin.opcode != Opcode.BEGIN) | (begin.magic != MAGIC)):
                        m.d.sync += refusal.eq(Error.BAD_OPCODE)
                    with m.Elif(begin.isa_version != ISA_VERSION):
                        m.d.sync += refusal.eq(Error.BAD_VERSION)
                    with m.Elif(begin.digest != config.digest):
                        m.d.sync += refusal.eq(Error.BAD_DIGEST)
                m.next = "ACT"

            with m.State("ACT"):
                m.d.comb += starts.eq(1)
                m.d.sync += [begun.eq(1), group.eq(0), self.o_error.eq(refusal)]
                with m.If(refusal != Error.NONE):
                    m.next = "IDLE"
                with m.Elif(~begun):
                    finish()
                with m.Elif(begin.opcode == Opcode.END):
                    m.d.sync += self.o_done.eq(1)
                    m.next = "IDLE"
                with m.Else():
                    with m.Switch(begin.opcode):
                        with m.Case(Opcode.LOAD):
                            m.next = "LOAD"
                        with m.Case(Opcode.EXECUTE):
                            m.next = "TAPS"
                        with m.Case(Opcode.STORE):
                            m.next = "STORE"

            with m.State("LOAD"):
                half = Signal()
                m.d.comb += [loader.i_valid.eq(1), loader.i_second_half.eq(half)]
                with m.If((load.target == Target.PARAMETERS) & ~half):
                    m.d.sync += half.eq(1)
                with m.Else():
                    m.d.sync += half.eq(0)
                    m.d.comb += loops.i_step.eq(1)
                    with m.If(loops.o_last):
                        finish()

            with m.State("TAPS"):
                m.d.comb += executor.i_issue.eq(1)
                with m.If(executor.o_pixel_ends):
                    m.next = "TURN"

            with m.State("TURN"):
                with m.If(executor.o_may_turn):
                    m.d.comb += [executor.i_turn.eq(1), loops.i_step.eq(1)]
                    with m.If(loops.o_last):
                        m.next = "SETTLE"
                    with m.Else():
                        m.next = "TAPS"

            with m.State("SETTLE"):
                with m.If(executor.o_settled):
                    finish()

            with m.State("STORE"):
                m.d.comb += in_store.eq(1)
                with m.If(finished):
                    m.d.sync += group.eq(group + 1)
                    with m.If(group == store.groups - 1):
                        m.d.sync += group.eq(0)
                        m.d.comb += loops.i_step.eq(1)
                        with m.If(loops.o_last):
                            finish()

        if self.trace:
            executes = sequence.ongoing("TAPS") | sequence.ongoing("TURN") | sequence.ongoing("SETTLE")
            units = (sequence.ongoing("LOAD"), executes, sequence.ongoing("STORE"))
            for number, ongoing in enumerate(units, 1):
                with m.If(ongoing):
                    m.d.comb += self.o_unit.eq(number)
        return m

    def _repeats(self, store: data.View, byte: Value, bank: int) -> Value:
        """Return whether a bank gets a byte of the word that is stored."""
        found: Value = byte == bank
        for log2 in range((self.config.rows - 1).bit_length()):
            found = Mux(store.period_log2 == log2, byte == bank % (1 << log2), found)
        return found


def _field(word: Value, name: str) -> Value:
    """Return a field of a channel's parameters from the word of memory that it lies in."""
    field = _PARAMETER[name]
    offset = field.offset % (8 * WORD_BYTES)
    return word[offset : offset + field.width]
