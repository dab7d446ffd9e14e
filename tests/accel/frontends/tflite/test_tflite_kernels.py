"""What the comparison with tflite-micro cannot reach: every sum of an average, and the ends of what a kernel takes."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from accel.frontends.tflite_kernels import activation_range, average_factor, mean_factor
from accel.numerics import NumericsError, Rounding, requantise


@pytest.mark.parametrize("count", [*range(1, 50), 121, 1024, 2047, 2048])
def test_averages_round_ties_away_from_zero(count: int) -> None:
    """For every sum of ``count`` bytes; of the largest windows, at ties and beside them."""
    sums = np.arange(-128 * count, 127 * count + 1)
    if count > 64:
        ties = np.array([math.floor(Fraction(2 * k + 1, 2) * count) for k in range(-128, 127)])
        sums = np.concatenate([ties - 1, ties, ties + 1])
    magnitude = (2 * np.abs(sums) + count) // (2 * count)
    actual = requantise(sums, *average_factor(count), Rounding.SINGLE_UP)
    np.testing.assert_array_equal(actual, np.sign(sums) * magnitude)


def test_windows_too_large_for_one_factor() -> None:
    with pytest.raises(NumericsError, match="at most 2048 values, not 2049"):
        average_factor(2049)


def test_mean_folds_the_count_into_the_multiplier() -> None:
    """Sixteen values at equal scales: the factor 1/16 in six bits less than the multiplier has."""
    multiplier, shift = mean_factor(16, 1.0)
    assert Fraction(multiplier) * Fraction(2) ** (shift - 31) == Fraction(1, 16)


@pytest.mark.parametrize(
    ("activation", "expected"), [("NONE", (-128, 127)), ("RELU", (-10, 127)), ("RELU6", (-10, 50)), ("RELU_N1_TO_1", (-20, 0))]
)
def test_fused_activations_clamp(activation: str, expected: tuple[int, int]) -> None:
    assert activation_range(activation, np.float32(0.1), -10) == expected
