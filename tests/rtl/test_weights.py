"""The weight memory: a byte a column, a cycle apart."""

import numpy as np
import pytest

from rtl.weights import WeightMemory

LATENCY = 4


@pytest.mark.parametrize(("columns", "depth"), [(1, 2), (2, 4), (3, 16), (5, 8), (8, 64)])
def test_reads_among_writes(bench, columns, depth):
    seed = 11
    rng = np.random.default_rng([seed, columns])
    cycles = 120
    enables = rng.random(cycles) < 0.5
    writes = rng.integers(0, 1 << 16, cycles)
    reads = rng.integers(0, 1 << 16, cycles)
    contents = rng.integers(0, 256, (cycles, columns))
    inputs = [
        {
            "i_address": int(reads[n]),
            "i_write": {"enable": int(enables[n]), "address": int(writes[n]), "data": contents[n].tolist()},
        }
        for n in range(cycles)
    ]
    seen = bench.trace(WeightMemory(columns=columns, depth=depth), inputs, ["o_bytes"])
    history = np.zeros((cycles, depth, columns), np.int64)
    for n in range(1, cycles):
        history[n] = history[n - 1]
        if enables[n - 1]:
            history[n, writes[n - 1] % depth] = contents[n - 1]
    for n in range(cycles - LATENCY - columns):
        for c in range(columns):
            # column c reads its bank c cycles after column 0, and sees what was written meanwhile
            byte = int(history[n + 2 + c, reads[n] % depth, c])
            expected = byte - 256 * (byte > 127)
            assert seen[n + LATENCY + c]["o_bytes"][c] == expected, f"seed {seed}: column {c} of the address in cycle {n}"


def test_weights_arrive_with_their_taps(bench):
    """An address given with a row's tap reaches the array's first column in the cycle the scratchpad tells it to shift."""
    from rtl.scratchpad import Scratchpad

    tap = {"i_tap": {"start": 1, "address": 0}}
    scratchpad = bench.trace(Scratchpad(rows=1, depth=4), [tap, {"i_tap": {"start": 0, "address": 0}}], ["o_shift"], more=8)
    write = {"i_write": {"enable": 1, "address": 3, "data": [77]}, "i_address": 0}
    read = {"i_write": {"enable": 0, "address": 0, "data": [0]}, "i_address": 3}
    other = {"i_address": 0}
    weights = bench.trace(WeightMemory(columns=1, depth=4), [write, read, other], ["o_bytes"], more=8)
    shift = next(n for n, values in enumerate(scratchpad) if values["o_shift"])
    assert [n - 1 for n, values in enumerate(weights) if values["o_bytes"] == [77]] == [shift]
