"""The scratchpad: skewed reads, taps that shift down the rows, byte-masked writes."""

import numpy as np
import pytest

from rtl.scratchpad import Scratchpad

OUTPUTS = ("o_bytes", "o_swap", "o_vertical", "o_lag", "o_shift")


class Model:
    """What the banks hold in each cycle, for reads that are looked for in one cycle."""

    def __init__(self, rows, depth):
        self.rows = rows
        self.depth = depth
        self.writes = []

    def byte(self, row, address, cycle):
        """Return a bank's byte as of all writes of cycles before ``cycle``."""
        value = 0
        for when, mask, at, data in self.writes:
            if when < cycle and mask >> row & 1 and at % self.depth == address % self.depth:
                value = data[row]
        return value - 256 * (value > 127)


def schedule(rng, rows, passes, gap):
    """Draw passes of ``(first pixel's cycle, cycle of the first tap, taps for the last row first, pixel offsets)``."""
    drawn = []
    begin = 2 + rows
    tap_at = 2
    for _ in range(passes):
        count = rows + int(rng.integers(0, 4)) if gap else rows
        taps = rng.integers(0, 1 << 16, rows).tolist()
        drawn.append((begin, tap_at, taps, rng.integers(0, 1 << 16, count).tolist()))
        # the earliest that is promised: taps from the cycle of the pass before's first pixel on
        tap_at = begin + (int(rng.integers(0, count - rows + 1)) if gap else 0)
        begin += count
    return drawn


@pytest.mark.parametrize(("rows", "depth"), [(1, 2), (2, 4), (3, 8), (5, 64), (8, 16)])
@pytest.mark.parametrize("gap", [False, True])
def test_rows_read_at_their_own_tap(bench, rows, depth, gap):
    seed = 7
    rng = np.random.default_rng([seed, rows, gap])
    passes = schedule(rng, rows, 8, gap)
    end = passes[-1][0] + len(passes[-1][3])
    cycles = end + rows + 5
    model = Model(rows, depth)
    inputs = []
    for cycle in range(cycles):
        values = {
            "i_pixel": {
                "first": 0,
                "vertical": int(rng.integers(0, 2)),
                "lag": int(rng.integers(0, 256)),
                "offset": int(rng.integers(0, 1 << 16)),
            },
            "i_tap": {"start": 0, "address": int(rng.integers(0, 1 << 16))},
        }
        mask, address = int(rng.integers(0, 1 << rows)), int(rng.integers(0, 1 << 16))
        data = rng.integers(0, 256, rows).tolist()
        values["i_write"] = {"mask": mask, "address": address, "data": data}
        model.writes.append((cycle, mask, address, data))
        inputs.append(values)
    for begin, tap_at, taps, offsets in passes:
        for n, tap in enumerate(taps):
            inputs[tap_at + n]["i_tap"] = {"start": int(n == 0), "address": tap}
        for n, offset in enumerate(offsets):
            inputs[begin + n]["i_pixel"] |= {"first": int(n == 0), "offset": offset}
    seen = bench.trace(Scratchpad(rows=rows, depth=depth), inputs, OUTPUTS)

    swaps, shifts = set(), set()
    for begin, tap_at, taps, offsets in passes:
        for row in range(rows):
            swaps.add((begin + 4 + row, row))
            shifts |= {(tap_at + n + 4, row) for n in range(row, rows)}
            for n, offset in enumerate(offsets):
                cycle = begin + n
                # rows of later numbers read later, and see what was written meanwhile
                expected = model.byte(row, offset + taps[rows - 1 - row], cycle + 2 + row)
                assert seen[cycle + 4 + row]["o_bytes"][row] == expected, f"seed {seed}: row {row} of the pixel in cycle {cycle}"
    # what goes with a pixel goes with it through every row, and the lag with row 0's byte
    pixels = [values["i_pixel"] for values in inputs]
    verticals = {
        (cycle + 4 + row, row)
        for cycle, pixel in enumerate(pixels)
        for row in range(rows)
        if pixel["vertical"] and cycle + 4 + row < cycles
    }
    assert [values["o_lag"] for values in seen[4:]] == [pixel["lag"] for pixel in pixels[:-4]], f"seed {seed}"
    for name, expected in (("o_swap", swaps), ("o_vertical", verticals), ("o_shift", shifts)):
        got = {(cycle, row) for cycle, values in enumerate(seen) for row in range(rows) if values[name] >> row & 1}
        assert got == expected, f"seed {seed}: {name}"


def test_a_write_is_readable_by_the_pixel_of_the_next_cycle(bench):
    idle = {"i_pixel": {"first": 0, "offset": 0}, "i_tap": {"start": 0, "address": 0}, "i_write": {"mask": 0, "address": 0}}
    rows = 3
    inputs = [dict(idle) for _ in range(12)]
    for n in range(rows):
        inputs[n]["i_tap"] = {"start": int(n == 0), "address": 10 * n}
    inputs[3]["i_write"] = {"mask": 0b101, "address": 25, "data": [0x80, 0x22, 0x7F]}
    inputs[4]["i_write"] = {"mask": 0b010, "address": 15, "data": [0x11, 0xFF, 0x33]}
    # the last row's tap came first: row 0 has 20, row 1 has 10, row 2 has 0
    inputs[4]["i_pixel"] = {"first": 1, "offset": 5}
    inputs[5]["i_pixel"] = {"first": 0, "offset": 25}
    seen = bench.trace(Scratchpad(rows=rows, depth=32), inputs, OUTPUTS)
    assert seen[8]["o_bytes"][0] == -128
    assert seen[9]["o_bytes"][1] == -1
    assert seen[11]["o_bytes"][2] == 127
