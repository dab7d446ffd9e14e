"""Which row, which weights, which sum: what an EXECUTE needs beside its loops."""

from __future__ import annotations

from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from accel.config import EngineConfig
from accel.isa import INSTRUCTION_BYTES, Opcode, Operation
from rtl.layouts import instruction_layout
from rtl.micro.columns import Columns, Sums

__all__ = ["SETTLED", "Executor"]

#: A following EXECUTE or STORE touches no sum earlier than so many cycles after the end of an EXECUTE: its fetch takes them.
SETTLED = 7


class Executor(wiring.Component):
    """Multiplies and adds the bytes that the loops lead to, or passes them by, and keeps the sums.

    A pixel's taps follow each other, row after row, the last row first; then its sum is put away. Sums of the array leave their
    columns while the next pixel's are added up, so a pixel takes ``columns`` cycles at least.

    Parameters
    ----------
    config
        The engine's configuration.

    Members
    -------
    i_word
        The instruction, to the end of it.
    i_start
        It begins in the next cycle.
    i_issue
        A byte is asked for.
    i_turn
        The taps are through: the pixel ends. Only when ``o_may_turn``.
    i_last_tap, i_window_ends
        The loops over taps are in their last iteration; those over a window are.
    o_row
        The row whose byte is asked for.
    o_step_taps
        The next byte is of the next tap.
    o_pixel_ends
        The byte asked for is the pixel's last.
    o_may_turn, o_settled
        The columns have room for a pixel's sums; sums will be in place when a next instruction needs them.
    o_weight
        Address of the weight word for the byte asked for.
    i_byte, i_weights
        What was asked for, a cycle later.
    i_read
        Address of a sum to read outside of EXECUTE.
    o_sum
        A cycle later: that sum.
    """

    def __init__(self, *, config: EngineConfig) -> None:
        self.config = config
        self.sums = 2 * config.accumulator_words * config.columns
        super().__init__(
            {
                "i_word": In(8 * INSTRUCTION_BYTES),
                "i_start": In(1),
                "i_issue": In(1),
                "i_turn": In(1),
                "i_last_tap": In(1),
                "i_window_ends": In(1),
                "o_row": Out(range(config.rows)),
                "o_step_taps": Out(1),
                "o_pixel_ends": Out(1),
                "o_may_turn": Out(1),
                "o_settled": Out(1),
                "o_weight": Out(range(config.weight_words)),
                "i_byte": In(signed(8)),
                "i_weights": In(data.ArrayLayout(signed(8), config.columns)),
                "i_read": In(range(self.sums)),
                "o_sum": Out(signed(32)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        rows, columns = self.config.rows, self.config.columns
        execute = data.View(instruction_layout(Opcode.EXECUTE), self.i_word)
        is_array = execute.operation == Operation.ARRAY
        m.submodules.columns = array = Columns(columns=columns)
        m.submodules.sums = sums = Sums(depth=self.sums)

        # ---- rows of a pass, and the rows of its taps ----
        row, rest = Signal(range(rows)), Signal(range(rows))  # rows after this one: of the pass, of the tap
        weight = Signal(self.o_weight.shape())
        tap_ends = (rest == 0) & (row >= execute.tap_rows)
        m.d.comb += [
            self.o_row.eq(row),
            self.o_weight.eq(weight),
            self.o_step_taps.eq(self.i_issue & ~self.i_last_tap & (tap_ends | (row == 0))),
            self.o_pixel_ends.eq((row == 0) & self.i_last_tap),
        ]
        with m.If(self.i_start | self.i_turn):
            m.d.sync += [row.eq(rows - 1), rest.eq(execute.tap_rows - 1), weight.eq(execute.weights)]
        with m.Elif(self.i_issue):
            m.d.sync += [row.eq(Mux(row == 0, rows - 1, row - 1)), weight.eq(weight + 1)]
            with m.If(self.o_step_taps):
                m.d.sync += rest.eq(execute.tap_rows - 1)
            with m.Elif(rest != 0):
                m.d.sync += rest.eq(rest - 1)

        # ---- the word of sums that the pixel belongs to; ``fresh`` until something of this instruction is in it ----
        word = Signal(range(self.sums // columns))
        fresh = Signal()
        advance = ~execute.reduce | self.i_window_ends
        with m.If(self.i_start):
            m.d.sync += [word.eq(execute.accumulators), fresh.eq(1)]
        with m.Elif(self.i_turn):
            m.d.sync += [word.eq(word + advance), fresh.eq(advance)]
        with m.Elif(self.i_issue & (row == 0) & ~is_array):
            m.d.sync += fresh.eq(0)
        keep = execute.accumulate | ~fresh

        # ---- sums of the array leave column by column, for a word that may not be the present one any more ----
        room = Signal(range(columns))
        with m.If(self.i_turn & is_array):
            m.d.sync += room.eq(columns - 1)
        with m.Elif(room != 0):
            m.d.sync += room.eq(room - 1)
        m.d.comb += [self.o_may_turn.eq(room == 0), self.o_settled.eq(~is_array | (room <= SETTLED - 2))]
        turned = Signal()
        turned_word, leaving_word = Signal(word.shape(), reset_less=True), Signal(word.shape(), reset_less=True)
        turned_keep, leaving_keep = Signal(reset_less=True), Signal(reset_less=True)
        m.d.sync += turned.eq(self.i_turn & is_array)
        with m.If(self.i_turn):
            m.d.sync += [turned_word.eq(word), turned_keep.eq(keep)]
        with m.If(turned):
            m.d.sync += [leaving_word.eq(turned_word), leaving_keep.eq(turned_keep)]
        column = Signal(range(columns))
        leaving = array.o_taken | (column != 0)
        with m.If(leaving):
            m.d.sync += column.eq(Mux(column == columns - 1, 0, column + 1))

        asked = Signal()
        m.d.sync += asked.eq(self.i_issue & is_array)
        m.d.comb += [
            array.i_byte.eq(self.i_byte),
            array.i_weights.eq(self.i_weights),
            array.i_valid.eq(asked),
            array.i_take.eq(turned),
        ]

        # ---- sums: of the array, of bytes that pass it by, or read ----
        passes_by = self.i_issue & ~is_array
        was_leaving, was_keep = Signal(), Signal(reset_less=True)
        m.d.sync += [was_leaving.eq(leaving), was_keep.eq(Mux(leaving, leaving_keep, keep))]
        bits = (columns - 1).bit_length()
        with m.If(leaving):
            m.d.comb += sums.i_address.eq(Cat(column, leaving_word))
        with m.Elif(passes_by):
            m.d.comb += sums.i_address.eq(Cat(row, Const(0, bits - len(row)), word))
        with m.Else():
            m.d.comb += sums.i_address.eq(self.i_read)
        passed = Signal(signed(17))
        with m.Switch(execute.operation):
            with m.Case(Operation.LOW):
                m.d.comb += passed.eq(self.i_byte.as_unsigned())
            with m.Case(Operation.HIGH):
                m.d.comb += passed.eq(Cat(Const(0, 8), self.i_byte))
            with m.Default():
                m.d.comb += passed.eq(self.i_byte)
        m.d.comb += [
            sums.i_update.eq(leaving | passes_by),
            sums.i_value.eq(Mux(was_leaving, array.o_sum, passed)),
            sums.i_keep.eq(was_keep),
            sums.i_maximum.eq(~was_leaving & (execute.operation == Operation.MAX)),
            self.o_sum.eq(sums.o_sum),
        ]
        return m
