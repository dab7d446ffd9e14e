"""The order in which a STORE reads sums."""

from __future__ import annotations

from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from accel.config import EngineConfig
from accel.isa import INSTRUCTION_BYTES, Opcode
from rtl.layouts import instruction_layout

__all__ = ["Windows"]


class Windows(wiring.Component):
    """Names the sums of a STORE, one a cycle: of each pooling window, of each of its channels, the window's words.

    It goes on beyond the last word; who counts what comes out at the end knows when to stop.

    Parameters
    ----------
    config
        The engine's configuration.

    Members
    -------
    i_word
        The instruction.
    i_start
        Begin in the next cycle.
    i_step
        The present sum is read.
    o_sum
        Its address.
    o_parameter
        Address of its channel's parameters.
    o_first, o_last
        It is the first of its window and channel, the last.
    """

    def __init__(self, *, config: EngineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "i_word": In(8 * INSTRUCTION_BYTES),
                "i_start": In(1),
                "i_step": In(1),
                "o_sum": Out(range(2 * config.accumulator_words * config.columns)),
                "o_parameter": Out(range(config.parameter_channels)),
                "o_first": Out(1),
                "o_last": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        store = data.View(instruction_layout(Opcode.STORE), self.i_word)
        begun, word = (Signal(range(2 * config.accumulator_words)) for _ in range(2))
        left = Signal(8)  # words of the window after this one
        group = Signal(range(config.rows))
        last_group = group == store.groups - 1
        m.d.comb += [
            self.o_first.eq(left == store.pool - 1),
            self.o_last.eq(left == 0),
            self.o_parameter.eq(store.parameters + group),
            self.o_sum.eq(Cat((store.first_group + group)[: (config.columns - 1).bit_length()], word)),
        ]
        with m.If(self.i_start):
            m.d.sync += [begun.eq(store.accumulators), word.eq(store.accumulators), group.eq(0), left.eq(store.pool - 1)]
        with m.Elif(self.i_step):
            m.d.sync += [word.eq(word + 1), left.eq(left - 1)]
            with m.If(self.o_last):
                m.d.sync += left.eq(store.pool - 1)
                with m.If(last_group):
                    m.d.sync += [group.eq(0), begun.eq(word + 1)]
                with m.Else():
                    m.d.sync += [group.eq(group + 1), word.eq(begun)]
        return m
