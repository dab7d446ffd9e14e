"""The systolic array."""

from __future__ import annotations

from amaranth import *
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from accel.isa import WINDOW_TAPS
from rtl.pe import PE, sum_width

__all__ = ["SystolicArray"]

#: Cycles from ``i_lag`` until the first byte that it delays is taken: down a block's rows, two cycles each, and out of the line.
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
        Bytes of a line buffer: a power of two above the largest lag. At most two columns share nothing, so it is best small.

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

    def __init__(self, *, rows: int, columns: int, lines: int = 0, depth: int = 0) -> None:
        self.rows = rows
        self.columns = columns
        self.lines = lines
        self.depth = depth
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
        vertical_rows = self.lines * WINDOW_TAPS
        places = self._places(m) if self.lines > 1 else []
        # what travels to the right with the activations, a bit for each row
        swap: Value = self.i_swap
        shift: Value = self.i_shift
        vertical: Value = self.i_vertical
        left: list[Value] = [self.i_activations[r] for r in range(self.rows)]
        for c in range(self.columns):
            above: PE | None = None
            for r in range(self.rows):
                pe = PE(width=self.width, vertical=r < vertical_rows)
                m.submodules[f"pe_{r}_{c}"] = pe
                m.d.comb += [
                    pe.i_activation.eq(left[r]),
                    pe.i_swap.eq(swap[r]),
                    pe.i_shift.eq(shift[r]),
                    pe.i_weight.eq(self.i_weights[c] if above is None else above.o_weight),
                ]
                if above is not None:
                    m.d.comb += pe.i_sum.eq(above.o_sum)
                if pe.vertical:
                    m.d.comb += pe.i_vertical.eq(vertical[r])
                    if above is None:
                        m.d.comb += pe.i_above.eq(self.i_tops[c])
                    elif r % WINDOW_TAPS:
                        m.d.comb += pe.i_above.eq(above.o_below)
                    else:
                        write_at, read_at = places[r - WINDOW_TAPS + c]
                        m.d.comb += pe.i_above.eq(self._line(m, f"line_{r}_{c}", above.o_below, write_at, read_at))
                left[r] = pe.o_activation
                above = pe
            assert above is not None
            m.d.comb += self.o_sums[c].eq(above.o_sum)
            if c < self.columns - 1:
                swap = _later(m, swap, f"swap_{c}")
                shift = _later(m, shift, f"shift_{c}")
                if self.lines:
                    vertical = _later(m, vertical, f"vertical_{c}")
        return m

    def _places(self, m: Module) -> list[tuple[Signal, Signal]]:
        """Return where line buffers are written and read: for column 0 below the first block, and for every cycle after that."""
        lag: Value = self.i_lag
        for n in range(_LINE_LATENCY - 1):
            lag = _later(m, lag, f"lag_{n}")
        bits = range(self.depth)
        write_at = Signal(bits, name="write_at_0")
        read_at = Signal(bits, name="read_at_0")
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


def _later(m: Module, value: Value, name: str) -> Signal:
    later = Signal.like(value, name=name)
    m.d.sync += later.eq(value)
    return later
