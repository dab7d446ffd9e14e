"""The systolic array."""

from __future__ import annotations

from amaranth import *
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from accel.config import Multiply
from accel.isa import WINDOW_TAPS
from rtl.pe import PE, PairPE, sum_width

__all__ = ["SystolicArray"]

#: Cycles from ``i_lag`` until the row below a block takes by it: a pixel's sums come down the block's rows, a cycle each.
_LINE_LATENCY = WINDOW_TAPS


class SystolicArray(wiring.Component):
    """Weight-stationary array: ``rows`` input channels by ``columns`` output channels.

    Row r's activation enters r cycles after row 0's. Column c's sum of that pixel leaves ``rows + 2 + c`` cycles after row 0's
    activation entered. One pixel a cycle; swaps travel with the wavefront, so weight tiles follow each other without a bubble.

    Windows: while ``i_vertical`` comes with the pixels, a column takes the bytes of its own channel from ``i_tops``, and they move
    down ``lines`` blocks of ``WINDOW_TAPS`` rows, one cycle slower than the sums. So row j of a block multiplies the byte of j
    pixels ago. Between two blocks a line buffer holds them back, so that a block lies ``i_lag + WINDOW_TAPS`` pixels behind the one
    above it (a line of a map). Sums leave as they always do.

    Parameters
    ----------
    rows, columns
        Size of the array.
    lines
        Blocks with a vertical path; 0 for none.
    depth
        Bytes of a line buffer: a power of two above the largest lag. Columns share none, so there is one for every column between
        two blocks.
    form
        How elements multiply. In pairs only those below the vertical path do, and in an odd column the last alone.
    logic_elements
        Elements that multiply in logic instead: the first ones, row by row.

    Members
    -------
    i_activations
        int8 for each row, skewed by one cycle a row.
    i_swap
        For each row, with the first activation that needs the shadow weights.
    i_vertical
        For each row, with the activations that are to come from above (or from the top).
    i_tops
        int8 for each column, skewed by one cycle a column: column 0's together with row 0's activation.
    i_lag
        With row 0's activation; at least 1.
    i_weights
        int8 for each column, skewed by one cycle a column: shadow weights, the last row's first.
    i_shift
        For each row: column 0 takes the shadow weight from above. Row r must see it from r cycles after row 0 until row 0's last.
    o_sums
        For each column, skewed by one cycle a column.
    """

    def __init__(
        self,
        *,
        rows: int,
        columns: int,
        lines: int = 0,
        depth: int = 0,
        form: Multiply = Multiply.PORTABLE,
        logic_elements: int = 0,
    ) -> None:
        self.rows = rows
        self.columns = columns
        self.lines = lines
        self.depth = depth
        self.form = form
        self.logic_elements = logic_elements
        self.width = sum_width(rows)
        super().__init__(
            {
                "i_activations": In(data.ArrayLayout(signed(8), rows)),
                "i_swap": In(rows),
                "i_vertical": In(rows),
                "i_tops": In(data.ArrayLayout(signed(8), columns)),
                "i_lag": In(range(max(depth, 1))),
                "i_weights": In(data.ArrayLayout(signed(8), columns)),
                "i_shift": In(rows),
                "o_sums": Out(data.ArrayLayout(signed(self.width), columns)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        places = self._places(m) if self.lines > 1 else []
        # what travels to the right with the activations, a bit for each row
        swaps: list[Value] = [self.i_swap]
        shifts: list[Value] = [self.i_shift]
        verticals: list[Value] = [self.i_vertical[: self.lines * WINDOW_TAPS]]
        for c in range(self.columns - 1):
            swaps.append(_later(m, swaps[-1], f"swap_{c}", kept=True))
            shifts.append(_later(m, shifts[-1], f"shift_{c}", kept=True))
            if self.lines:
                verticals.append(_later(m, verticals[-1], f"vertical_{c}", kept=True))
        # what moves down, for each column
        sums: list[Value] = [C(0, signed(self.width))] * self.columns
        weights: list[Value] = [self.i_weights[c] for c in range(self.columns)]
        below: list[Value] = [self.i_tops[c] for c in range(self.columns)]
        for r in range(self.rows):
            vertical = r < self.lines * WINDOW_TAPS
            activation: Value = self.i_activations[r]
            c = 0
            while c < self.columns:
                if self._paired(r, c):
                    m.submodules[f"pe_{r}_{c}"] = pair = PairPE(width=self.width)
                    m.d.comb += [
                        pair.i_activation.eq(activation),
                        pair.i_swap.eq(swaps[c][r]),
                        pair.i_shifts.eq(Cat(shifts[c][r], shifts[c + 1][r])),
                        *(pair.i_weights[n].eq(weights[c + n]) for n in range(2)),
                        *(pair.i_sums[n].eq(sums[c + n]) for n in range(2)),
                    ]
                    activation = pair.o_activation
                    weights[c : c + 2] = [pair.o_weights[n] for n in range(2)]
                    sums[c : c + 2] = [pair.o_sums[n] for n in range(2)]
                    c += 2
                    continue
                m.submodules[f"pe_{r}_{c}"] = pe = PE(width=self.width, vertical=vertical, form=self._form(r, c))
                m.d.comb += [
                    pe.i_activation.eq(activation),
                    pe.i_swap.eq(swaps[c][r]),
                    pe.i_shift.eq(shifts[c][r]),
                    pe.i_weight.eq(weights[c]),
                    pe.i_sum.eq(sums[c]),
                ]
                if vertical:
                    above = below[c]
                    if r and r % WINDOW_TAPS == 0:
                        above = self._line(m, f"line_{r}_{c}", above, *places[r - WINDOW_TAPS + c])
                    m.d.comb += [pe.i_vertical.eq(verticals[c][r]), pe.i_above.eq(above)]
                    below[c] = pe.o_below
                activation, weights[c], sums[c] = pe.o_activation, pe.o_weight, pe.o_sum
                c += 1
        m.d.comb += [self.o_sums[c].eq(sums[c]) for c in range(self.columns)]
        return m

    def _form(self, row: int, column: int) -> Multiply:
        """Return how an element multiplies that shares its multiplier with none."""
        if row * self.columns + column < self.logic_elements:
            return Multiply.LOGIC
        return Multiply.PORTABLE if self.form == Multiply.PAIRS else self.form

    def _paired(self, row: int, column: int) -> bool:
        """Return whether an element shares its multiplier with the one on its right: their activations must be the same."""
        return (
            self.form == Multiply.PAIRS
            and row >= self.lines * WINDOW_TAPS
            and column % 2 == 0
            and column + 1 < self.columns
            and row * self.columns + column >= self.logic_elements
        )

    def _places(self, m: Module) -> list[tuple[Signal, Signal]]:
        """Return where line buffers are written and read: for column 0 below the first block, and for every cycle after that."""
        lag: Value = self.i_lag
        for n in range(_LINE_LATENCY - 1):
            lag = _later(m, lag, f"lag_{n}")
        # (what counts is how far apart they are, so they may begin anywhere)
        bits = range(self.depth)
        write_at = Signal(bits, name="write_at_0", reset_less=True)
        read_at = Signal(bits, name="read_at_0", reset_less=True)
        m.d.sync += [write_at.eq(write_at + 1), read_at.eq(write_at + 1 - lag)]
        places = [(write_at, read_at)]
        for n in range(1, (self.lines - 2) * WINDOW_TAPS + self.columns):
            write_at = _later(m, write_at, f"write_at_{n}")
            read_at = _later(m, read_at, f"read_at_{n}")
            places.append((write_at, read_at))
        return places

    def _line(self, m: Module, name: str, byte: Value, write_at: Signal, read_at: Signal) -> Value:
        """Return a byte as it was ``write_at - read_at`` cycles ago."""
        line = memory.Memory(shape=signed(8), depth=self.depth, init=[])
        m.submodules[name] = line
        write = line.write_port()
        read = line.read_port(domain="comb")
        m.d.comb += [write.addr.eq(write_at), write.data.eq(byte), write.en.eq(1), read.addr.eq(read_at)]
        return read.data


def _later(m: Module, value: Value, name: str, *, kept: bool = False) -> Signal:
    """Return a value as it was a cycle ago.

    It needs no reset, whose wire would lead all over the array. What is left of a program that was stopped moves on as fast as what
    comes after it, so it is gone from every place before that gets there; and what it does on its way, to weights and shadows, is
    of no account, for a program brings its own.

    ``kept``: in a register of its own. What comes to a row a cycle after the row above is the same there as a column further on
    above, all along the diagonal; synthesis would make one register of these, with wires across the whole array.
    """
    later = Signal.like(value, name=name, reset_less=True, attrs={"keep": 1} if kept else {})
    m.d.sync += later.eq(value)
    return later
