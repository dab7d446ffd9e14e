"""The execute unit: weights and taps into the shadows, pixels into the scratchpad's address pipeline."""

from __future__ import annotations

from amaranth import *
from amaranth.lib import data, fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from accel.config import EngineConfig
from accel.isa import WINDOW_TAPS, Opcode, Operation, UnitState
from rtl.accumulators import REVISIT, control_layout
from rtl.layouts import completed_layout, entry_layout, instruction_layout, is_ordered, loop_step
from rtl.scratchpad import pixel_layout, tap_layout

__all__ = ["ExecuteUnit"]

#: Instructions that the weight loader may have handed to the pixel streamer.
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
    i_completed
        Counters of finished instructions.
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
                "i_entry": In(stream.Signature(entry_layout())),
                "i_completed": In(completed_layout()),
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
        entry_shape = entry_layout()

        # ---- weight loader ----
        entry = self.i_entry.payload
        loading = data.View(layout, entry.word)
        m.submodules.handed = handed = fifo.SyncFIFO(width=entry_shape.size, depth=HANDED)
        active = Signal()
        filling = Signal(range(rows))
        shadow_busy = Signal()
        shadow_full = Signal()
        shadow_last = Signal()
        pass_begins = Signal()
        exhausted = Signal()
        sub_row = Signal(6)
        weight = Signal(16)
        count_block, count_ky, count_kx = Signal(12), Signal(8), Signal(8)
        tap, tap_ky, tap_block = Signal(16), Signal(16), Signal(16)

        begin = Signal()
        m.d.comb += [
            begin.eq(self.i_entry.valid & ~active & is_ordered(entry.orders.load, self.i_completed.load) & handed.w_rdy),
            handed.w_data.eq(entry),
            handed.w_en.eq(begin),
        ]
        # The first row takes its values from the instruction, so that no cycle is needed to set the registers up.
        here_weight, here_tap, here_exhausted = Signal(16), Signal(16), Signal()
        m.d.comb += [here_weight.eq(weight), here_tap.eq(tap), here_exhausted.eq(exhausted)]
        with m.If(begin):
            m.d.comb += [
                here_weight.eq(loading.weights),
                here_tap.eq(0),
                # a WINDOW has a single pass, whatever its kernel
                here_exhausted.eq(loading.operation == Operation.WINDOW),
            ]
            m.d.sync += [active.eq(1), exhausted.eq(here_exhausted), weight.eq(here_weight)]
            m.d.sync += [tap.eq(0), tap_ky.eq(0), tap_block.eq(0)]

        give = Signal()
        starts = Signal()
        m.d.comb += [
            starts.eq((active | begin) & (filling == 0) & (~shadow_busy | pass_begins)),
            give.eq(starts | (filling != 0)),
        ]
        last_row = filling == rows - 1
        tap_ends = sub_row == loading.tap_rows - 1
        (step_block, step_ky, _), last_tap = loop_step(
            m,
            counts=[count_block, count_ky, count_kx],
            limits=[loading.n_block, loading.n_ky, loading.n_kx],
            advance=give & tap_ends & ~here_exhausted,
        )
        m.d.sync += self.o_tap.start.eq(starts)
        with m.If(give):
            m.d.sync += [
                self.o_tap.address.eq(here_tap),
                self.o_weight_address.eq(here_weight),
                weight.eq(here_weight + 1),
                filling.eq(Mux(last_row, 0, filling + 1)),
                sub_row.eq(Mux(tap_ends, 0, sub_row + 1)),
            ]
            with m.If(tap_ends & ~here_exhausted):
                with m.If(last_tap):
                    # the rest of the pass repeats the last tap
                    m.d.sync += exhausted.eq(1)
                with m.Elif(step_block):
                    following = Mux(begin, 0, tap_block) + loading.stride_block
                    m.d.sync += [tap_block.eq(following), tap_ky.eq(following), tap.eq(following)]
                with m.Elif(step_ky):
                    following = Mux(begin, 0, tap_ky) + loading.stride_ky
                    m.d.sync += [tap_ky.eq(following), tap.eq(following)]
                with m.Else():
                    m.d.sync += tap.eq(here_tap + loading.stride_kx)
            with m.If(last_row):
                ends = exhausted | (tap_ends & last_tap)
                m.d.sync += [shadow_full.eq(1), shadow_last.eq(ends), sub_row.eq(0)]
                with m.If(ends):
                    m.d.sync += active.eq(0)
                    m.d.comb += self.i_entry.ready.eq(1)
        with m.If(starts):
            m.d.sync += shadow_busy.eq(1)
        with m.Elif(pass_begins):
            m.d.sync += shadow_busy.eq(0)
        with m.If(pass_begins):
            m.d.sync += shadow_full.eq(0)

        # ---- pixel streamer ----
        head = data.View(entry_shape, handed.r_data)
        streaming = data.View(layout, head.word)
        count_py, count_px, count_wy, count_wx = Signal(10), Signal(10), Signal(4), Signal(4)
        offset, offset_wy, offset_px, offset_py = Signal(16), Signal(16), Signal(16), Signal(16)
        accumulator = Signal(16)
        inside = Signal()
        first_pass = Signal(init=1)
        # cycles since the present pass began and since the last pixel, as far as anybody asks
        settle = rows + REVISIT
        since_begin = Signal(range(settle + 1), init=settle)
        since_pixel = Signal(range(settle + 1), init=settle)
        is_window = streaming.operation == Operation.WINDOW
        path = Cat((streaming.operation == Operation.ARRAY) | is_window, streaming.row_offset)
        last_path = Signal.like(path)

        ordered = Signal()
        quiet = Signal()
        last_sums = Signal(16)
        revisits = Signal()
        revisits_last = Signal()
        may_begin = Signal()
        m.d.comb += [
            ordered.eq(
                is_ordered(head.orders.execute, self.i_completed.execute) & is_ordered(head.orders.store, self.i_completed.store)
            ),
            revisits.eq(since_pixel >= REVISIT - 1),
            # whether the first sums would be read before the last ones are written: not if they lie apart
            revisits_last.eq((last_sums - streaming.accumulators)[:16] < REVISIT - 1),
            quiet.eq(((path == last_path) | (since_pixel == settle)) & (~streaming.accumulate | revisits | ~revisits_last)),
            may_begin.eq(
                handed.r_rdy
                & ~inside
                & shadow_full
                & (since_begin >= REVISIT - 1)
                & Mux(first_pass, ordered & quiet, ~streaming.reduce | revisits)
            ),
            pass_begins.eq(may_begin),
        ]
        issue = Signal()
        m.d.comb += issue.eq(may_begin | inside)
        (step_py, step_px, step_wy, _), pass_ends = loop_step(
            m,
            counts=[count_py, count_px, count_wy, count_wx],
            limits=[streaming.n_py, streaming.n_px, streaming.n_wy, streaming.n_wx],
            advance=issue,
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
        has_result = Signal()
        m.d.comb += has_result.eq(
            _reached(count_py, streaming.n_ky, streaming.stride_ky) & _reached(count_px, streaming.n_kx, streaming.stride_kx)
        )
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
            instruction_ends.eq(issue & pass_ends & last_pass),
            handed.r_en.eq(instruction_ends),
        ]
        m.d.sync += [
            self.o_control.valid.eq(issue),
            self.o_pixel.first.eq(may_begin),
            self.o_pixel.vertical.eq(issue & is_window),
        ]
        with m.If(since_begin != settle):
            m.d.sync += since_begin.eq(since_begin + 1)
        with m.If(since_pixel != settle):
            m.d.sync += since_pixel.eq(since_pixel + 1)
        with m.If(may_begin):
            m.d.sync += [since_begin.eq(0), last_path.eq(path), is_last.eq(shadow_last)]
        with m.If(issue):
            m.d.sync += [
                since_pixel.eq(0),
                last_sums.eq(sums_at),
                inside.eq(~pass_ends),
                accumulator.eq(sums_at + Mux(is_window, has_result, ~streaming.reduce | step_px)),
                inside_window.eq(streaming.reduce & ~step_px),
                self.o_pixel.offset.eq(here),
                self.o_pixel.lag.eq(streaming.n_px - WINDOW_TAPS),
                self.o_control.last.eq(instruction_ends),
                self.o_control.drop.eq(is_window & ~has_result),
                self.o_control.overwrite.eq(first_pass & ~streaming.accumulate & ~inside_window),
                self.o_control.forward.eq(inside_window),
                # a sum is a sum: windows come out of the array as any other
                self.o_control.operation.eq(Mux(is_window, Operation.ARRAY, streaming.operation)),
                self.o_control.shift.eq(_quotient(streaming.row_offset, self.config.columns, self.shifts)),
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
            with m.If(pass_ends):
                m.d.sync += first_pass.eq(last_pass)

        # ---- state ----
        m.d.comb += self.o_state.eq(UnitState.IDLE)
        with m.If(issue):
            m.d.comb += self.o_state.eq(UnitState.BUSY)
        with m.Elif(handed.r_rdy & first_pass & ~is_ordered(head.orders.store, self.i_completed.store)):
            m.d.comb += self.o_state.eq(UnitState.WAIT_STORE)
        with m.Elif(handed.r_rdy & first_pass & ~is_ordered(head.orders.execute, self.i_completed.execute)):
            m.d.comb += self.o_state.eq(UnitState.WAIT_EXECUTE)
        with m.Elif(handed.r_rdy):
            m.d.comb += self.o_state.eq(Mux(shadow_full, UnitState.WAIT_PIPELINE, UnitState.WAIT_WEIGHTS))
        with m.Elif(self.i_entry.valid):
            m.d.comb += self.o_state.eq(
                Mux(is_ordered(entry.orders.load, self.i_completed.load), UnitState.WAIT_WEIGHTS, UnitState.WAIT_LOAD)
            )
        return m


def _reached(count: Value, kernel: Value, stride: Value) -> Value:
    """Return whether ``count`` is ``kernel - 1``, or a multiple of ``stride`` (1 or 2) beyond it."""
    last = kernel - 1
    return (count >= last) & (~stride[1] | (count[0] == last[0]))


def _quotient(value: Value, divisor: int, quotients: int) -> Value:
    """Return ``value // divisor`` for a value of few quotients."""
    quotient: Value = Const(0, range(quotients))
    for n in range(1, quotients):
        quotient = Mux(value >= n * divisor, n, quotient)
    return quotient
