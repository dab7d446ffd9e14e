"""The arithmetic contract against exact references written from the definitions of gemmlowp, TensorFlow Lite and ONNX."""

from fractions import Fraction
from typing import cast

import numpy as np
import pytest

from accel.emulator import round_in_stages
from accel.numerics import (
    MAX_SHIFT,
    MIN_SHIFT,
    NumericsError,
    Rounding,
    channel_sums,
    quantise_multiplier,
    requantise,
    shift_stages,
    wrap_int32,
)

SEED = 20240607
EXTREME_SUMS = [-(2**31), -(2**31) + 1, -(2**30), -(2**30) - 1, -3, -2, -1, 0, 1, 2, 3, 2**30 - 1, 2**30, 2**31 - 1]
EXTREME_MULTIPLIERS = [0, 1, 2, 3, 2**29, 2**30 - 1, 2**30, 2**30 + 1, 3 << 29, 2**31 - 2, 2**31 - 1]


def divide_toward_zero(dividend: int, divisor: int) -> int:
    """Return the quotient as C's ``/`` truncates it."""
    quotient = abs(dividend) // abs(divisor)
    return quotient if (dividend < 0) == (divisor < 0) else -quotient


def ref_double_away(total: int, multiplier: int, shift: int) -> int:
    """TensorFlow Lite's MultiplyByQuantizedMultiplier, from gemmlowp's fixedpoint.h, in unbounded integers."""
    left, right = max(shift, 0), max(-shift, 0)
    # SaturatingRoundingDoublingHighMul: nudge, then C's truncating division by 2**31
    product = total * 2**left * multiplier
    nudge = 1 << 30 if product >= 0 else 1 - (1 << 30)
    high = divide_toward_zero(product + nudge, 1 << 31)
    # RoundingDivideByPOT
    mask = (1 << right) - 1
    remainder = high & mask
    threshold = (mask >> 1) + (1 if high < 0 else 0)
    return (high >> right) + (1 if remainder > threshold else 0)


def ref_single_up(total: int, multiplier: int, shift: int) -> int:
    """Round once: the floor of the exact value plus one half."""
    exact = Fraction(total) * multiplier * Fraction(2) ** (shift - 31)
    return (exact + Fraction(1, 2)).__floor__()


def ref_half_even(total: int, multiplier: int, shift: int) -> int:
    """Round once: Python's own rounding of a fraction is half to even."""
    return round(Fraction(total) * multiplier * Fraction(2) ** (shift - 31))


REFERENCES = {Rounding.DOUBLE_AWAY: ref_double_away, Rounding.SINGLE_UP: ref_single_up, Rounding.HALF_EVEN: ref_half_even}


def check(rounding: Rounding, totals: np.ndarray, multipliers: np.ndarray, shifts: np.ndarray) -> None:
    """Compare both implementations with the reference, element by element."""
    expected = [REFERENCES[rounding](int(t), int(m), int(s)) for t, m, s in np.nditer([totals, multipliers, shifts], ["refs_ok"])]
    assert requantise(totals, multipliers, shifts, rounding).tolist() == expected, f"seed {SEED}"
    stages = np.array([shift_stages(int(s), rounding) for s in shifts])
    assert round_in_stages(totals * multipliers, stages[:, 0], stages[:, 1], rounding).tolist() == expected, f"seed {SEED}"


@pytest.mark.parametrize("rounding", Rounding)
def test_extremes(rounding: Rounding) -> None:
    shifts = [MIN_SHIFT, MIN_SHIFT + 1, -17, -2, -1, 0, 1, 2, 13, MAX_SHIFT - 1, MAX_SHIFT]
    grid = np.meshgrid(EXTREME_SUMS, EXTREME_MULTIPLIERS, shifts)
    check(rounding, *(axis.reshape(-1).astype(np.int64) for axis in grid))


@pytest.mark.parametrize("rounding", Rounding)
def test_random_values_of_every_magnitude(rounding: Rounding) -> None:
    rng = np.random.default_rng(SEED + rounding)
    count = 4000
    totals = rng.integers(-(2**31), 2**31, count) >> rng.integers(0, 31, count)
    multipliers = rng.integers(0, 2**31, count) >> rng.integers(0, 31, count)
    check(rounding, totals, multipliers, rng.integers(MIN_SHIFT, MAX_SHIFT + 1, count))


@pytest.mark.parametrize("rounding", Rounding)
@pytest.mark.parametrize("shift", range(MIN_SHIFT, MAX_SHIFT + 1))
def test_ties_and_their_neighbours(rounding: Rounding, shift: int) -> None:
    """With powers of two every product is a tie or one step beside it."""
    rng = np.random.default_rng(SEED + shift)
    exponent = rng.integers(0, 31, 200)
    odd = 2 * rng.integers(-64, 64, 200) + 1
    totals = np.clip(odd << np.clip(30 - shift - exponent, 0, 24), -(2**31), 2**31 - 1) + rng.integers(-1, 2, 200)
    check(rounding, np.clip(totals, -(2**31), 2**31 - 1), np.int64(1) << exponent, np.full(200, shift))


@pytest.mark.parametrize(
    ("rounding", "expected"),
    [
        # sums / 4 for -6, -5, ... 6, that is 2 right shifts after the multiplication by 1/2 at bit 31
        (Rounding.DOUBLE_AWAY, [-2, -1, -1, -1, -1, 0, 0, 1, 1, 1, 1, 2, 2]),
        (Rounding.SINGLE_UP, [-1, -1, -1, -1, 0, 0, 0, 0, 1, 1, 1, 1, 2]),
        (Rounding.HALF_EVEN, [-2, -1, -1, -1, 0, 0, 0, 0, 0, 1, 1, 1, 2]),
    ],
)
def test_the_three_modes_differ_as_their_names_say(rounding: Rounding, expected: list[int]) -> None:
    assert requantise(np.arange(-6, 7), 1 << 30, -1, rounding).tolist() == expected


def test_requantise_broadcasts_one_factor_per_channel() -> None:
    sums = np.array([[100, 100], [-100, -100]])
    assert requantise(sums, [1 << 30, 1 << 30], [0, 1], Rounding.HALF_EVEN).tolist() == [[50, 100], [-50, -100]]


def test_requantise_refuses_an_unknown_mode() -> None:
    with pytest.raises(NumericsError, match="rounding must be one of DOUBLE_AWAY, SINGLE_UP, HALF_EVEN, not 3"):
        requantise(0, 0, 0, cast(Rounding, 3))


@pytest.mark.parametrize("rounding", Rounding)
def test_stages_fit_the_hardware_and_make_up_the_shift(rounding: Rounding) -> None:
    for shift in range(MIN_SHIFT, MAX_SHIFT + 1):
        first, second = shift_stages(shift, rounding)
        assert 0 <= first <= 31
        assert 0 <= second <= 31
        assert first + second == 31 - shift
        if rounding is not Rounding.DOUBLE_AWAY:
            assert second >= 1, "the single rounding takes place at the second stage"


@pytest.mark.parametrize("shift", [MIN_SHIFT - 1, MAX_SHIFT + 1])
def test_stages_refuse_a_shift_out_of_range(shift: int) -> None:
    with pytest.raises(NumericsError, match=f"a shift must be from -31 to 30, not {shift}"):
        shift_stages(shift, Rounding.SINGLE_UP)


def test_wrap_int32() -> None:
    values = [0, 2**31 - 1, 2**31, -(2**31), -(2**31) - 1, 2**32, 2**32 + 5, -(2**33) - 7, 2**62]
    expected = [(v + 2**31) % 2**32 - 2**31 for v in values]
    assert wrap_int32(values).tolist() == expected
    assert wrap_int32(np.array(values)).dtype == np.int64


@pytest.mark.parametrize(
    ("real", "expected"),
    [
        (1.0, (1 << 30, 1)),
        (0.5, (1 << 30, 0)),
        (0.75, (3 << 29, 0)),
        (0.0, (0, 0)),
        (2.0**-31, (1 << 30, -30)),
        (2.0**-32, (1 << 30, -31)),
        (2.0**-33, (0, 0)),
        (float(2**30) - 1, (2**31 - 2, 30)),
        ((2**30 + 0.5) / 2**31, (2**30 + 1, 0)),  # a tie goes up, not to the even number below
        (1 - 2.0**-53, (1 << 30, 1)),  # rounds up to 2**31, so one more shift
        (0.0003, (round(0.6144 * 2**31), -11)),
    ],
)
def test_quantise_multiplier(real: float, expected: tuple[int, int]) -> None:
    assert quantise_multiplier(real) == expected


def test_quantise_multiplier_is_the_nearest() -> None:
    rng = np.random.default_rng(SEED)
    for real in np.exp2(rng.uniform(-31, 29, 500)):
        multiplier, shift = quantise_multiplier(float(real))
        assert 1 << 30 <= multiplier < 1 << 31, f"seed {SEED}"
        exact = Fraction(float(real)) / Fraction(2) ** (shift - 31)
        assert abs(exact - multiplier) <= Fraction(1, 2), f"seed {SEED}"


@pytest.mark.parametrize("real", [-0.5, float("inf"), float("nan")])
def test_quantise_multiplier_refuses_what_is_no_scale(real: float) -> None:
    with pytest.raises(NumericsError, match=f"a scale factor must be finite and not negative, not {real}"):
        quantise_multiplier(real)


@pytest.mark.parametrize("real", [2.0**30, 1e30])
def test_quantise_multiplier_refuses_a_factor_that_is_too_large(real: float) -> None:
    with pytest.raises(NumericsError, match=r"a scale factor must be below 2\*\*30, not"):
        quantise_multiplier(real)


@pytest.mark.parametrize("value", [-128, -3, 0, 127])
def test_sums_of_weights_that_are_one_value(value: int) -> None:
    shape = (5, 3, 2, 7)
    stored = np.full(shape, value, np.int8)
    assert channel_sums(np.broadcast_to(np.int8(value), shape)).tolist() == channel_sums(stored).tolist() == [value * 42] * 5


def test_sums_of_weights() -> None:
    weights = np.random.default_rng(SEED).integers(-128, 128, (6, 3, 3, 4), np.int8)
    assert channel_sums(weights).tolist() == [sum(map(int, channel.reshape(-1))) for channel in weights]
