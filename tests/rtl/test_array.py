"""The systolic array: matrix products and windows with the stated skews and latency, one after the other without a bubble."""

from dataclasses import dataclass

import numpy as np
import pytest

from accel.config import Multiply
from accel.isa import WINDOW_TAPS
from rtl.array import SystolicArray


def portable(rows, columns):
    return {}


def some_in_logic(rows, columns):
    return {"logic_elements": rows * columns // 2}


def in_pairs(rows, columns):
    return {"form": Multiply.PAIRS, "logic_elements": columns // 3}


#: Functions from the size of an array to how its elements multiply; and some seeds for each.
MULTIPLIERS = [portable, some_in_logic, in_pairs]
SEEDED = [(0, portable), (1, portable), (2, some_in_logic), (3, in_pairs)]


@dataclass
class Tile:
    """A pass: weights ``(rows, columns)`` and the pixels' bytes, ``(pixels, rows)`` for products, ``(pixels, columns)`` for windows
    (of lines of ``line`` pixels)."""

    weights: np.ndarray
    pixels: np.ndarray
    line: int = 0

    def reference(self):
        """Return the sums ``(pixels, columns)`` and which of the pixels have one: those with nothing but zeros before the first."""
        if not self.line:
            return self.pixels @ self.weights, np.full(len(self.pixels), True)
        count, columns = self.pixels.shape
        sums = np.zeros((count, columns), np.int64)
        defined = np.full(count, True)
        for row in np.flatnonzero(self.weights.any(axis=1)):
            behind = row // WINDOW_TAPS * self.line + row % WINDOW_TAPS
            defined[:behind] = False
            for u in range(behind, count):
                sums[u] += self.pixels[u - behind] * self.weights[row]
        return sums, defined


def bits(values):
    return int(sum(int(bit) << n for n, bit in enumerate(values)))


def rtl_sums(bench, tiles, rng, *, lines=0, depth=0, **multipliers):
    """Return the sums ``(pixels, columns)`` of each tile, one straight after the other.

    Every sum is looked for in the one cycle that the docstring names; whatever is not meant for that cycle is random.
    """
    rows, columns = tiles[0].weights.shape
    pixels = [len(tile.pixels) for tile in tiles]
    swaps = rows + np.cumsum([0, *pixels[:-1]])
    # A tile's shadow weights move while the tile before streams, beginning in the very cycle of its swap.
    shifts = [0, *swaps[:-1]]
    cycles = int(swaps[-1]) + pixels[-1] + rows + 2 + columns
    activations = rng.integers(-128, 128, (cycles, rows))
    tops = rng.integers(-128, 128, (cycles, columns))
    weights = rng.integers(-128, 128, (cycles, columns))
    lag = rng.integers(0, max(depth, 1), cycles)
    swap, shift, vertical = (np.zeros((cycles, rows), np.int64) for _ in range(3))
    for tile, at, first in zip(tiles, swaps, shifts, strict=True):
        count = len(tile.pixels)
        for r in range(rows):
            swap[at + r, r] = 1
            shift[first + r : first + rows, r] = 1
            if tile.line:
                vertical[at + r : at + r + count, r] = 1
            else:
                activations[at + r : at + r + count, r] = tile.pixels[:, r]
        for c in range(columns):
            weights[first + c : first + c + rows, c] = tile.weights[::-1, c]
            if tile.line:
                tops[at + c : at + c + count, c] = tile.pixels[:, c]
        if tile.line:
            lag[at : at + count] = tile.line - WINDOW_TAPS
    inputs = [
        {
            "i_activations": activations[n].tolist(),
            "i_tops": tops[n].tolist(),
            "i_swap": bits(swap[n]),
            "i_vertical": bits(vertical[n]),
            "i_lag": int(lag[n]),
            "i_weights": weights[n].tolist(),
            "i_shift": bits(shift[n]),
        }
        for n in range(cycles)
    ]
    array = SystolicArray(rows=rows, columns=columns, lines=lines, depth=depth, **multipliers)
    seen = bench.trace(array, inputs, ["o_sums"])
    return [
        np.array([[seen[at + p + rows + 2 + c]["o_sums"][c] for c in range(columns)] for p in range(count)])
        for at, count in zip(swaps, pixels, strict=True)
    ]


def check(bench, tiles, rng, note, **path):
    """Compare every sum that is defined; return how many that were in each tile."""
    counts = []
    for n, (got, tile) in enumerate(zip(rtl_sums(bench, tiles, rng, **path), tiles, strict=True)):
        expected, defined = tile.reference()
        assert np.array_equal(got[defined], expected[defined]), f"{note}, tile {n}"
        counts.append(int(defined.sum()))
    return counts


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (2, 2), (3, 5), (5, 3), (1, 4), (4, 1), (8, 8)])
@pytest.mark.parametrize(("seed", "multipliers"), SEEDED)
def test_products_of_random_tiles(bench, rows, columns, seed, multipliers):
    rng = np.random.default_rng([seed, rows, columns])
    tiles = [
        Tile(rng.integers(-128, 128, (rows, columns)), rng.integers(-128, 128, (int(count), rows)))
        # ``rows`` pixels are the least that give the next tile time to shift in
        for count in (rows, rows + 3, rows, rows, 2 * rows + 1)
    ]
    check(bench, tiles, rng, f"seed {seed}", **multipliers(rows, columns))


@pytest.mark.parametrize("multipliers", MULTIPLIERS)
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 8])
def test_the_most_extreme_sums(bench, rows, multipliers):
    """Every product is 16384 or -16256: the largest and the smallest sum that int8 can make."""
    extremes = np.array([[-128], [127]])
    tile = Tile(np.full((rows, 2), -128), np.repeat(extremes, max(1, rows), axis=0) * np.ones((1, rows), np.int64))
    check(bench, [tile], np.random.default_rng(0), "extremes", **multipliers(rows, 2))


def window(rng, rows, columns, line, count, *, kernel):
    """Draw a tile of windows with weights for ``kernel`` lines and taps, the others zero."""
    weights = rng.integers(-128, 128, (rows, columns))
    for row in range(rows):
        if row // WINDOW_TAPS >= kernel[0] or row % WINDOW_TAPS >= kernel[1]:
            weights[row] = 0
    return Tile(weights, rng.integers(-128, 128, (count, columns)), line)


def product(rng, rows, columns, count):
    return Tile(rng.integers(-128, 128, (rows, columns)), rng.integers(-128, 128, (count, rows)))


#: rows, columns, lines, depth: the least, rows and columns beside the path, three lines, not square either way.
WINDOWS = [(3, 1, 1, 4), (4, 4, 1, 8), (6, 2, 2, 8), (7, 8, 2, 4), (9, 9, 3, 8), (11, 4, 3, 16), (9, 12, 3, 4)]


@pytest.mark.parametrize(("rows", "columns", "lines", "depth"), WINDOWS)
@pytest.mark.parametrize(("seed", "multipliers"), SEEDED)
def test_windows_and_products_in_any_order(bench, rows, columns, lines, depth, seed, multipliers):
    """Windows of every line length that the lag allows, next to each other and to products; each pass begins as early as it may."""
    rng = np.random.default_rng([seed, rows, columns])
    shortest, longest = WINDOW_TAPS + 1, depth - 1 + WINDOW_TAPS

    def random_window():
        line = int(rng.choice([shortest, longest, int(rng.integers(shortest, longest + 1))]))
        kernel = int(rng.integers(1, lines + 1)), int(rng.integers(1, WINDOW_TAPS + 1))
        return window(rng, rows, columns, line, max(rows, kernel[0] * line + int(rng.integers(0, 4))), kernel=kernel)

    def random_product():
        return product(rng, rows, columns, rows + int(rng.choice([0, 0, 3])))

    # every pair of neighbours: window after window, product after window, window after product
    tiles = [make() for make in (random_window, random_window, random_product, random_window, random_product, random_product) * 2]
    path = {"lines": lines, "depth": depth, **multipliers(rows, columns)}
    assert min(check(bench, tiles, rng, f"seed {seed}", **path)) > 0


@pytest.mark.parametrize(("lines", "depth"), [(1, 4), (2, 8), (3, 8)])
def test_a_line_from_the_shortest_to_the_longest(bench, lines, depth):
    """A lag from 1 to ``depth - 1``, each once, the whole kernel in use."""
    rng = np.random.default_rng(lines)
    rows, columns = lines * WINDOW_TAPS, 2
    tiles = [
        window(rng, rows, columns, lag + WINDOW_TAPS, lines * (lag + WINDOW_TAPS) + 2, kernel=(lines, WINDOW_TAPS))
        for lag in (*range(1, depth), *range(depth - 1, 0, -1))
    ]
    assert min(check(bench, tiles, rng, f"seed {lines}", lines=lines, depth=depth)) > 0


def test_the_longest_lines(bench):
    """As many pixels as the largest configuration takes at once, between two short lines."""
    rng = np.random.default_rng(256)
    rows, columns = 2 * WINDOW_TAPS, 2
    tiles = [window(rng, rows, columns, line, line + 20, kernel=(2, WINDOW_TAPS)) for line in (4, 256, 5)]
    check(bench, tiles, rng, "seed 256", lines=2, depth=256)


def test_a_window_is_a_convolution_of_each_channel(bench):
    """A 3x3 kernel over a map of 5 by 6, of which every sum with a whole window behind it is one output pixel."""
    rng = np.random.default_rng(5)
    rows, columns, height, width = 9, 3, 5, 6
    image = rng.integers(-128, 128, (height, width, columns))
    kernel = rng.integers(-128, 128, (3, 3, columns))
    # row b*3 + j multiplies the byte of b lines and j pixels ago
    weights = kernel[::-1, ::-1].reshape(rows, columns)
    tile = Tile(weights, image.reshape(-1, columns), width)
    sums = rtl_sums(bench, [tile], rng, lines=3, depth=4)[0].reshape(height, width, columns)
    for y, x in np.ndindex(height - 2, width - 2):
        expected = (image[y : y + 3, x : x + 3] * kernel).sum(axis=(0, 1))
        assert sums[y + 2, x + 2].tolist() == expected.tolist(), f"seed 5: pixel {y}, {x}"


def test_the_most_extreme_windows(bench):
    for byte in (-128, 127):
        tile = Tile(np.full((9, 2), -128), np.full((20, 2), byte), 5)
        assert check(bench, [tile], np.random.default_rng(0), f"bytes of {byte}", lines=3, depth=4) == [20 - 2 * 5 - 2]
