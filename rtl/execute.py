"""The execute unit: weights and taps into the shadows, pixels into the scratchpad's address pipeline."""

from __future__ import annotations

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from accel.config import EngineConfig
from accel.isa import WINDOW_TAPS, Opcode, Operation, UnitState
from rtl.accumulators import REVISIT, control_layout
from rtl.dispatch import EntryQueue
from rtl.layouts import (
    completed_layout,
    entry_layout,
    execute_entry_layout,
    instruction_layout,
    loop_ahead,
    reached,
    retire_layout,
)
from rtl.scratchpad import pixel_layout, tap_layout

__all__ = ["ExecuteUnit"]

#: Instructions that the weight loader may have handed to the pixel streamer. An array has two rows or more, so one is handed over
#: every two cycles at most, and is at the head when its weights are there: that their queue is not ``through`` costs no cycle.
HANDED = 2


class ExecuteUnit(wiring.Component):
    """Run EXECUTE instructions in order, pass after pass.

    Two sequencers work one pass apart. The *weight loader* takes ``rows`` cycles to shift a pass's weights and taps into the shadow
    registers; the *pixel streamer* swaps them in and gives one pixel a cycle. Pass k+1 is loaded while pass k streams, so a pass of
    M pixels takes ``max(M, rows, REVISIT)`` cycles::

        loader    |  pass 0  |  pass 1  |    | pass 2  |
        streamer             |  pass 0 pixels | pass 1 pixels | ...

    The loader waits for the order after LOADs, the streamer for the others. An instruction that uses another path to the
    accumulators than the one before waits until that path is empty; one that accumulates onto earlier results, and every pass of
    one that reduces windows, waits ``REVISIT`` cycles.

    Parameters
    ----------
    config
        The engine's configuration.

    Members
    -------
    i_entry
        Queue of EXECUTEs.
    i_completed, i_retire
        Counters of finished instructions, and whether they step.
    o_tap, o_weight_address
        To scratchpad and weight memory, in step.
    o_pixel, o_control
        To scratchpad and accumulators, in step.
    o_state
        What this cycle is spent on.
    """

    def __init__(self, *, config: EngineConfig) -> None:
        self.config = config
        self.shifts = -(-config.rows // config.columns)
        super().__init__(
            {
                "i_entry": In(stream.Signature(execute_entry_layout())),
                "i_completed": In(completed_layout()),
                "i_retire": In(retire_layout()),
                "o_tap": Out(tap_layout),
                "o_weight_address": Out(16),
                "o_pixel": Out(pixel_layout),
                "o_control": Out(control_layout(self.shifts)),
                "o_state": Out(UnitState),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        rows = self.config.rows
        layout = instruction_layout(Opcode.EXECUTE)

        # ---- weight loader ----
        entry = self.i_entry.payload
        loading = data.View(layout, entry.word)
        # what the streamer must know of an instruction: its word, and what follows from it
        handed_layout = data.StructLayout(
            {
                "word": layout,
                "orders": entry_layout()["orders"].shape,
                "window": 1,
                "same_path": 1,
                "shift": range(self.shifts),
                # which counts are 1, and whether those of the pixel loops all are
                "only": data.StructLayout({name: 1 for name in ("py", "px", "wy", "wx", "ky", "kx")}),
                "single": 1,
            }
        )
        m.submodules.handed = handed = EntryQueue(layout=handed_layout, depth=HANDED, orders=("execute", "store"))
        active = Signal()
        filling = Signal(range(rows))
        shadow_busy = Signal()
        shadow_full = Signal()
        shadow_last = Signal()
        pass_begins = Signal()
        begin = Signal()
        is_window = loading.operation == Operation.WINDOW
        path = Cat((loading.operation == Operation.ARRAY) | is_window, loading.row_offset)
        last_path = Signal.like(path)
        announced = handed.i_entry.payload
        m.d.comb += [
            begin.eq(self.i_entry.valid & ~active & entry.orders.load.met & handed.i_entry.ready),
            handed.i_completed.eq(self.i_completed),
            handed.i_retire.eq(self.i_retire),
            handed.i_entry.valid.eq(begin),
            announced.word.eq(entry.word),
            announced.window.eq(is_window),
            announced.same_path.eq(path == last_path),
            announced.shift.eq(_quotient(loading.row_offset, self.config.columns, self.shifts)),
            *(announced.only[axis].eq(loading[f"n_{axis}"] == 1) for axis in ("py", "px", "wy", "wx")),
            announced.only.ky.eq(entry.only.ky),
            announced.only.kx.eq(entry.only.kx),
            announced.single.eq(announced.only.py & announced.only.px & announced.only.wy & announced.only.wx),
        ]
        for name in ("execute", "store"):
            order = entry.orders[name]
            met = order.met | reached(order, self.i_completed[name], self.i_retire[name])
            m.d.comb += [announced.orders[name].met.eq(met), announced.orders[name].missing.eq(order.missing)]
        with m.If(begin):
            m.d.sync += [active.eq(1), last_path.eq(path)]

        # The first row takes its values from the instruction, so that no cycle is needed to set the registers up.
        going = Signal()
        exhausted = Signal(reset_less=True)
        weight = Signal(16, reset_less=True)
        rows_left, tap_ending = Signal(6, reset_less=True), Signal(reset_less=True)
        here_exhausted, here_weight, here_rows_left, tap_ends = Signal(), Signal(16), Signal(6), Signal()
        m.d.comb += [
            here_weight.eq(Mux(going, weight, loading.weights)),
            # a WINDOW has a single pass, whatever its kernel
            here_exhausted.eq(Mux(going, exhausted, is_window)),
            here_rows_left.eq(Mux(going, rows_left, loading.tap_rows)),
            tap_ends.eq(Mux(going, tap_ending, entry.only.tap_rows)),
        ]
        tap, tap_ky, tap_block = (Signal(16, name=name, reset_less=True) for name in ("tap", "tap_ky", "tap_block"))
        here_tap, here_ky, here_block = (Mux(going, register, 0) for register in (tap, tap_ky, tap_block))

        give = Signal()
        starts = Signal()
        unfilled = Signal(init=1)
        m.d.comb += [
            starts.eq((active | begin) & unfilled & (~shadow_busy | pass_begins)),
            give.eq(starts | ~unfilled),
        ]
        last_row = Signal()
        (step_block, step_ky, _), last_tap, last_tap_begun = loop_ahead(
            m,
            begun=going,
            limits=[loading.n_block, loading.n_ky, loading.n_kx],
            only=[entry.only.block, entry.only.ky, entry.only.kx],
            single=entry.only.block & entry.only.ky & entry.only.kx,
            keep=give,
            advance=tap_ends & ~here_exhausted,
        )
        # (what is not asked for until something begins needs no enable, whose wire would be long)
        m.d.sync += [self.o_tap.start.eq(starts), self.o_tap.address.eq(here_tap), self.o_weight_address.eq(here_weight)]
        with m.If(give):
            m.d.sync += [
                weight.eq(here_weight + 1),
                going.eq(1),
                exhausted.eq(here_exhausted),
                filling.eq(Mux(last_row, 0, filling + 1)),
                unfilled.eq(last_row),
                last_row.eq(filling == rows - 2),
            ]
            with m.If(tap_ends | last_row):
                m.d.sync += [rows_left.eq(loading.tap_rows), tap_ending.eq(entry.only.tap_rows)]
            with m.Else():
                m.d.sync += [rows_left.eq(here_rows_left - 1), tap_ending.eq(here_rows_left == 2)]
            # (whatever they become, they do with ``give``, so it is their enable and no more: it comes late)
            m.d.sync += [tap.eq(here_tap), tap_ky.eq(here_ky), tap_block.eq(here_block)]
            with m.If(tap_ends & ~here_exhausted):
                with m.If(last_tap):
                    # the rest of the pass repeats the last tap
                    m.d.sync += exhausted.eq(1)
                with m.Elif(step_block):
                    following = here_block + loading.stride_block
                    m.d.sync += [tap_block.eq(following), tap_ky.eq(following), tap.eq(following)]
                with m.Elif(step_ky):
                    following = here_ky + loading.stride_ky
                    m.d.sync += [tap_ky.eq(following), tap.eq(following)]
                with m.Else():
                    m.d.sync += tap.eq(here_tap + loading.stride_kx)
        # once a pass has begun to be loaded it is loaded to its end, so this one is given
        with m.If(last_row):
            # (an array has two rows or more, so an earlier row set ``going``, and the registers behind it say what they hold)
            ends = exhausted | (tap_ending & last_tap_begun)
            m.d.sync += [shadow_full.eq(1), shadow_last.eq(ends)]
            with m.If(ends):
                m.d.sync += [active.eq(0), going.eq(0)]
                m.d.comb += self.i_entry.ready.eq(1)
        with m.If(starts):
            m.d.sync += shadow_busy.eq(1)
        with m.Elif(pass_begins):
            m.d.sync += shadow_busy.eq(0)
        with m.If(pass_begins):
            m.d.sync += shadow_full.eq(0)

        # ---- pixel streamer ----
        head = handed.o_entry.payload
        streaming = head.word
        offset, offset_wy, offset_px, offset_py = (
            Signal(16, name=name, reset_less=True) for name in ("offset", "offset_wy", "offset_px", "offset_py")
        )
        accumulator = Signal(16, reset_less=True)
        inside = Signal()
        first_pass = Signal(init=1)
        # Cycles since the present pass began and since the last pixel, as far as anybody asks; each question is answered a cycle
        # before.
        settle = rows + REVISIT
        since_begin, since_pixel = Signal(range(REVISIT)), Signal(range(settle))
        spaced, revisits, settled = (Signal(name=name, init=1) for name in ("spaced", "revisits", "settled"))

        # Whether the first sums would be read before the last ones are written: not if they lie apart. For the next instruction
        # this is found while the last pixel is given, whose sum is at ``accumulator`` or, of a single pixel, where the instruction
        # says; for one that comes to the head later, as it comes.
        near = Signal(reset_less=True)
        last_sums = Signal(16, reset_less=True)
        second = handed.o_second.word.accumulators

        def lies_near(last: Value, first: Value) -> Value:
            # (that is "< REVISIT - 1", of which a second chain of carries would be made behind the first)
            distance = (last - first)[:16]
            bits = (REVISIT - 1).bit_length()
            return ~distance[bits:].any() & distance[:bits].matches(*range(REVISIT - 1))

        with m.If(~handed.o_moves):
            m.d.sync += near.eq(lies_near(last_sums, streaming.accumulators))
        with m.Else():
            last = Mux(handed.o_entry.valid, streaming.accumulators, last_sums)
            m.d.sync += near.eq(Mux(inside, lies_near(accumulator, second), lies_near(last, second)))

        may_begin = Signal()
        m.d.comb += [
            may_begin.eq(
                handed.o_entry.valid
                & ~inside
                & shadow_full
                & spaced
                & Mux(
                    first_pass,
                    head.orders.execute.met
                    & head.orders.store.met
                    & (head.same_path | settled)
                    & (~streaming.accumulate | revisits | ~near),
                    ~streaming.reduce | revisits,
                )
            ),
            pass_begins.eq(may_begin),
        ]
        issue = Signal()
        m.d.comb += issue.eq(may_begin | inside)
        (step_py, step_px, step_wy, _), pass_ends, _ = loop_ahead(
            m,
            begun=inside,
            limits=[streaming.n_py, streaming.n_px, streaming.n_wy, streaming.n_wx],
            only=[head.only.py, head.only.px, head.only.wy, head.only.wx],
            single=head.single,
            keep=issue,
            advance=Const(1),
        )

        # The first pixel of a pass takes its address from the instruction, so that no cycle is needed to set the registers up.
        here, here_wy, here_px, here_py = Signal(16), Signal(16), Signal(16), Signal(16)
        sums_at = Signal(16)
        m.d.comb += [
            here.eq(Mux(inside, offset, streaming.activations)),
            here_wy.eq(Mux(inside, offset_wy, streaming.activations)),
            here_px.eq(Mux(inside, offset_px, streaming.activations)),
            here_py.eq(Mux(inside, offset_py, streaming.activations)),
            sums_at.eq(Mux(inside, accumulator, streaming.accumulators)),
        ]
        # Of the pixels of WINDOW, those with a whole window behind them (and of every other line or column) have a result.
        line_has = _every(
            m, "line", begun=inside, first=streaming.n_ky, only=head.only.ky, stride=streaming.stride_ky, step=step_py, keep=issue
        )
        column_has = _every(
            m,
            "column",
            begun=inside,
            first=streaming.n_kx,
            only=head.only.kx,
            stride=streaming.stride_kx,
            step=Const(1),
            keep=issue,
            again=step_py,
        )
        has_result = line_has & column_has
        # of the pixels of a reduced window, the first takes the sum so far from memory
        inside_window = Signal()
        to_wx = (here + streaming.stride_wx)[:16]
        to_wy = (here_wy + streaming.stride_wy)[:16]
        to_px = (here_px + streaming.stride_px)[:16]
        to_py = (here_py + streaming.stride_py)[:16]

        instruction_ends = Signal()
        # The token of a pass is given up when the pass begins, so whether it is the last is remembered.
        is_last = Signal()
        last_pass = Signal()
        m.d.comb += [
            last_pass.eq(Mux(inside, is_last, shadow_last)),
            # (issue & pass_ends & last_pass, taken apart: on it hangs what holds a whole instruction)
            instruction_ends.eq((inside & pass_ends & is_last) | (may_begin & head.single & shadow_last)),
            handed.o_entry.ready.eq(instruction_ends),
        ]
        m.d.sync += [
            self.o_control.valid.eq(issue),
            self.o_pixel.first.eq(may_begin),
            self.o_pixel.vertical.eq(issue & head.window),
            # (nobody asks for these without a pixel, so they need no enable, whose wire would be long)
            accumulator.eq(sums_at + Mux(head.window, has_result, ~streaming.reduce | step_px)),
            self.o_pixel.offset.eq(here),
            self.o_control.last.eq(instruction_ends),
            self.o_control.drop.eq(head.window & ~has_result),
            self.o_control.overwrite.eq(first_pass & ~streaming.accumulate & ~inside_window),
            self.o_control.forward.eq(inside_window),
            # a sum is a sum: windows come out of the array as any other
            self.o_control.operation.eq(Mux(head.window, Operation.ARRAY, streaming.operation)),
            self.o_control.shift.eq(head.shift),
            self.o_control.address.eq(sums_at),
        ]
        with m.If(step_py):
            m.d.sync += [offset.eq(to_py), offset_wy.eq(to_py), offset_px.eq(to_py), offset_py.eq(to_py)]
        with m.Elif(step_px):
            m.d.sync += [offset.eq(to_px), offset_wy.eq(to_px), offset_px.eq(to_px), offset_py.eq(here_py)]
        with m.Elif(step_wy):
            m.d.sync += [offset.eq(to_wy), offset_wy.eq(to_wy), offset_px.eq(here_px), offset_py.eq(here_py)]
        with m.Else():
            m.d.sync += [offset.eq(to_wx), offset_wy.eq(here_wy), offset_px.eq(here_px), offset_py.eq(here_py)]
        with m.If(may_begin):
            m.d.sync += [since_begin.eq(0), spaced.eq(0), is_last.eq(shadow_last)]
        with m.Elif(~spaced):
            m.d.sync += [since_begin.eq(since_begin + 1), spaced.eq(since_begin == REVISIT - 2)]
        with m.If(issue):
            m.d.sync += [since_pixel.eq(0), revisits.eq(0), settled.eq(0)]
        with m.Elif(~settled):
            m.d.sync += [since_pixel.eq(since_pixel + 1), settled.eq(since_pixel == settle - 1)]
            with m.If(since_pixel == REVISIT - 2):
                m.d.sync += revisits.eq(1)
        with m.If(issue):
            m.d.sync += [
                last_sums.eq(sums_at),
                inside.eq(~pass_ends),
                inside_window.eq(streaming.reduce & ~step_px),
                self.o_pixel.lag.eq(streaming.n_px - WINDOW_TAPS),
            ]
            with m.If(pass_ends):
                m.d.sync += first_pass.eq(last_pass)

        # ---- state ----
        m.d.comb += self.o_state.eq(UnitState.IDLE)
        with m.If(issue):
            m.d.comb += self.o_state.eq(UnitState.BUSY)
        with m.Elif(handed.o_entry.valid & first_pass & ~head.orders.store.met):
            m.d.comb += self.o_state.eq(UnitState.WAIT_STORE)
        with m.Elif(handed.o_entry.valid & first_pass & ~head.orders.execute.met):
            m.d.comb += self.o_state.eq(UnitState.WAIT_EXECUTE)
        with m.Elif(handed.o_entry.valid):
            m.d.comb += self.o_state.eq(Mux(shadow_full, UnitState.WAIT_PIPELINE, UnitState.WAIT_WEIGHTS))
        with m.Elif(self.i_entry.valid):
            m.d.comb += self.o_state.eq(Mux(entry.orders.load.met, UnitState.WAIT_WEIGHTS, UnitState.WAIT_LOAD))
        return m


def _every(
    m: Module,
    name: str,
    *,
    begun: Value,
    first: Value,
    only: Value,
    stride: Value,
    step: Value,
    keep: Value,
    again: Value | None = None,
) -> Value:
    """Return whether a counter from 1 on that steps with ``step`` (and starts ``again`` with that) stands at ``first``, or a
    multiple of ``stride`` (1 or 2) beyond it; ``begun``, ``only`` and ``keep`` as in :func:`loop_ahead`."""
    left = Signal.like(first, name=f"{name}_left", reset_less=True)
    last = Signal(name=f"{name}_has", reset_less=True)
    here_left = Mux(begun, left, first)
    here_last = Mux(begun, last, only)
    with m.If(keep):
        m.d.sync += [left.eq(here_left), last.eq(here_last)]
        with m.If(step & here_last):
            m.d.sync += [left.eq(2), last.eq(~stride[1])]
        with m.Elif(step):
            m.d.sync += [left.eq(here_left - 1), last.eq(here_left == 2)]
        if again is not None:
            with m.If(again):
                m.d.sync += [left.eq(first), last.eq(only)]
    return here_last


def _quotient(value: Value, divisor: int, quotients: int) -> Value:
    """Return ``value // divisor`` for a value of few quotients."""
    quotient: Value = Const(0, range(quotients))
    for n in range(1, quotients):
        quotient = Mux(value >= n * divisor, n, quotient)
    return quotient
