"""The systolic array: matrix products with the stated skews and latency, tiles without a bubble between them."""

import numpy as np
import pytest

from rtl.array import SystolicArray


def rtl_products(bench, rows, columns, tiles):
    """Return the sums ``(pixels, columns)`` of tiles (weights ``(rows, columns)``, activations ``(pixels, rows)``) back to back.

    Every sum is looked for in the one cycle that the docstring names.
    """
    pixels = [len(activations) for _, activations in tiles]
    swaps = rows + np.cumsum([0, *pixels[:-1]])
    # A tile's shadow weights move while the tile before streams, beginning in the very cycle of its swap.
    shifts = [0, *swaps[:-1]]
    cycles = int(swaps[-1]) + pixels[-1] + rows + 2 + columns
    activations = np.zeros((cycles, rows), np.int64)
    swap = np.zeros((cycles, rows), np.int64)
    weights = np.zeros((cycles, columns), np.int64)
    shift = np.zeros((cycles, rows), np.int64)
    for (tile, values), at, first in zip(tiles, swaps, shifts, strict=True):
        for r in range(rows):
            activations[at + r : at + r + len(values), r] = values[:, r]
            swap[at + r, r] = 1
            shift[first + r : first + rows, r] = 1
        for c in range(columns):
            weights[first + c : first + c + rows, c] = tile[::-1, c]
    inputs = [
        {
            "i_activations": activations[n].tolist(),
            "i_swap": int(sum(int(bit) << r for r, bit in enumerate(swap[n]))),
            "i_weights": weights[n].tolist(),
            "i_shift": int(sum(int(bit) << r for r, bit in enumerate(shift[n]))),
        }
        for n in range(cycles)
    ]
    seen = bench.trace(SystolicArray(rows=rows, columns=columns), inputs, ["o_sums"])
    return [
        np.array([[seen[at + p + rows + 2 + c]["o_sums"][c] for c in range(columns)] for p in range(count)])
        for at, count in zip(swaps, pixels, strict=True)
    ]


def ref_products(tiles):
    return [activations @ weights for weights, activations in tiles]


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (2, 2), (3, 5), (5, 3), (1, 4), (4, 1), (8, 8)])
@pytest.mark.parametrize("seed", range(2))
def test_products_of_random_tiles(bench, rows, columns, seed):
    rng = np.random.default_rng([seed, rows, columns])
    tiles = [
        (rng.integers(-128, 128, (rows, columns)), rng.integers(-128, 128, (int(count), rows)))
        # ``rows`` pixels are the least that give the next tile time to shift in
        for count in (rows, rows + 3, rows, rows, 2 * rows + 1)
    ]
    for got, expected in zip(rtl_products(bench, rows, columns, tiles), ref_products(tiles), strict=True):
        assert np.array_equal(got, expected), f"seed {seed}"


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 8])
def test_the_most_extreme_sums(bench, rows):
    """Every product is 16384 or -16256: the largest and the smallest sum that int8 can make."""
    extremes = np.array([[-128], [127]])
    tiles = [(np.full((rows, 2), -128), np.repeat(extremes, max(1, rows), axis=0) * np.ones((1, rows), np.int64))]
    got = rtl_products(bench, rows, 2, tiles)[0]
    expected = ref_products(tiles)[0]
    assert np.array_equal(got, expected)
