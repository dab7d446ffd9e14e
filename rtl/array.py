"""The systolic array."""

from __future__ import annotations

from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from rtl.pe import PE, sum_width

__all__ = ["SystolicArray"]


class SystolicArray(wiring.Component):
    """Weight-stationary array: ``rows`` input channels by ``columns`` output channels.

    Row r's activation enters r cycles after row 0's. Column c's sum of that pixel leaves ``rows + 2 + c`` cycles after row 0's
    activation entered. One pixel a cycle; swaps travel with the wavefront, so weight tiles follow each other without a bubble.

    Parameters
    ----------
    rows, columns
        Size of the array.

    Members
    -------
    i_activations
        int8 for each row, skewed by one cycle a row.
    i_swap
        For each row, with the first activation that needs the shadow weights.
    i_weights
        int8 for each column, skewed by one cycle a column: shadow weights, the last row's first.
    i_shift
        For each row: column 0 takes the shadow weight from above. Row r must see it from r cycles after row 0 until row 0's last.
    o_sums
        For each column, skewed by one cycle a column.
    """

    def __init__(self, *, rows: int, columns: int) -> None:
        self.rows = rows
        self.columns = columns
        self.width = sum_width(rows)
        super().__init__(
            {
                "i_activations": In(data.ArrayLayout(signed(8), rows)),
                "i_swap": In(rows),
                "i_weights": In(data.ArrayLayout(signed(8), columns)),
                "i_shift": In(rows),
                "o_sums": Out(data.ArrayLayout(signed(self.width), columns)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        above: list[PE | None] = [None] * self.columns
        for r in range(self.rows):
            left: PE | None = None
            for c in range(self.columns):
                pe = PE(width=self.width)
                m.submodules[f"pe_{r}_{c}"] = pe
                m.d.comb += [
                    pe.i_activation.eq(self.i_activations[r] if left is None else left.o_activation),
                    pe.i_swap.eq(self.i_swap[r] if left is None else left.o_swap),
                    pe.i_shift.eq(self.i_shift[r] if left is None else left.o_shift),
                ]
                top = above[c]
                if top is None:
                    m.d.comb += pe.i_weight.eq(self.i_weights[c])
                else:
                    m.d.comb += [pe.i_weight.eq(top.o_weight), pe.i_sum.eq(top.o_sum)]
                left = above[c] = pe
        for c, bottom in enumerate(above):
            assert bottom is not None
            m.d.comb += self.o_sums[c].eq(bottom.o_sum)
        return m
