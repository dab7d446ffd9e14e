"""Where the elements of a LOAD go."""

from __future__ import annotations

from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from accel.config import EngineConfig
from accel.isa import INSTRUCTION_BYTES, PERIOD_THREE, Opcode, Target
from rtl.layouts import instruction_layout
from rtl.micro.primitives import WORD_BYTES

__all__ = ["Loader"]


class Loader(wiring.Component):
    """Brings the words that memory is asked for to the on-chip memories, the cycle after.

    Parameters
    ----------
    config
        The engine's configuration.

    Members
    -------
    i_word
        The instruction, also in the cycle after the last element.
    i_valid, i_low, i_address
        An element is asked for: the lowest bits of its address in memory, and its address on chip.
    i_second_half
        The second word of parameters is asked for.
    i_data
        What memory answers, a cycle later.
    o_address
        In that cycle: where to write.
    o_banks, o_bytes
        Which banks of the scratchpad, and what each gets.
    o_weights, o_parameters, o_shifts
        Write ``i_data`` to the weights, to the first part of the parameters, to the second.
    """

    def __init__(self, *, config: EngineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "i_word": In(8 * INSTRUCTION_BYTES),
                "i_valid": In(1),
                "i_low": In(range(WORD_BYTES)),
                "i_address": In(16),
                "i_second_half": In(1),
                "i_data": In(data.ArrayLayout(8, WORD_BYTES)),
                "o_address": Out(16),
                "o_banks": Out(config.rows),
                "o_bytes": Out(data.ArrayLayout(8, config.rows)),
                "o_weights": Out(1),
                "o_parameters": Out(1),
                "o_shifts": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        rows = self.config.rows
        load = data.View(instruction_layout(Opcode.LOAD), self.i_word)
        valid, second_half = Signal(), Signal(reset_less=True)
        low = Signal(self.i_low.shape(), reset_less=True)
        address = Signal(self.o_address.shape(), reset_less=True)
        m.d.sync += [
            valid.eq(self.i_valid),
            second_half.eq(self.i_second_half),
            low.eq(self.i_low),
            address.eq(self.i_address),
        ]
        element = Signal(8 * rows)  # what lies beyond it may go to banks that get anything
        m.d.comb += [
            self.o_address.eq(address),
            element.eq(Value.cast(self.i_data) >> Cat(Const(0, 3), low)),
            self.o_weights.eq(valid & (load.target == Target.WEIGHTS)),
            self.o_parameters.eq(valid & (load.target == Target.PARAMETERS) & ~second_half),
            self.o_shifts.eq(valid & (load.target == Target.PARAMETERS) & second_half),
            self.o_banks.eq((valid & ((load.target == Target.ACTIVATIONS) | (load.target == Target.FILL))).replicate(rows)),
        ]
        for row in range(rows):
            with m.If(load.target == Target.FILL):
                m.d.comb += self.o_bytes[row].eq(load.fill_value)
            with m.Else():
                with m.Switch(load.period_log2):
                    with m.Case(PERIOD_THREE):
                        m.d.comb += self.o_bytes[row].eq(element.word_select(row % 3, 8))
                    for log2 in range((rows - 1).bit_length()):
                        with m.Case(log2):
                            m.d.comb += self.o_bytes[row].eq(element.word_select(row % (1 << log2), 8))
                    with m.Default():
                        m.d.comb += self.o_bytes[row].eq(element.word_select(row, 8))
        return m
