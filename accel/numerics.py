"""The arithmetic contract: how a 32-bit sum becomes an 8-bit activation.

A real factor ``multiplier * 2**(shift - 31)`` is a Q31 multiplier (0 to 2**31 - 1) and a shift (-31 to 30), one pair for each
output channel. All engines, models and tests share the definitions here; hardware and NumPy are compared over them.
"""

from __future__ import annotations

import enum
import math

import numpy as np
import numpy.typing as npt

from accel.errors import SystolithError

__all__ = [
    "IDENTITY",
    "INT8_MAX",
    "INT8_MIN",
    "MAX_SHIFT",
    "MIN_SHIFT",
    "NumericsError",
    "Rounding",
    "channel_sums",
    "quantise_multiplier",
    "requantise",
    "shift_stages",
    "wrap_int32",
]

INT8_MIN = -128
INT8_MAX = 127
MIN_SHIFT = -31
MAX_SHIFT = 30

#: Multiplier and shift that change nothing, in any rounding.
IDENTITY = (1 << 30, 1)

IntArray = npt.NDArray[np.int64]


class NumericsError(SystolithError):
    """A scale that the arithmetic contract cannot hold."""


class Rounding(enum.IntEnum):
    """How the product of sum and multiplier is brought back to an integer."""

    DOUBLE_AWAY = 0
    """Half up at bit 31, then half away from zero (tflite-micro, CMSIS-NN, gemmlowp's two steps)."""
    SINGLE_UP = 1
    """One rounding, half up (LiteRT's fully connected kernel)."""
    HALF_EVEN = 2
    """One rounding, half to even (ONNX)."""


def channel_sums(weights: npt.NDArray[np.int8]) -> IntArray:
    """Return the sum of each output channel's weights (its first axis). Any shape; int64 ``(channels,)`` out."""
    if weights.size and not any(weights.strides):
        # one value stands for all, as in a built-in network whose weights nobody asked for: there may be a hundred million
        return np.full(len(weights), int(weights.flat[0]) * weights[0].size, np.int64)
    sums: IntArray = weights.sum(axis=tuple(range(1, weights.ndim)), dtype=np.int64)
    return sums


def wrap_int32(values: npt.ArrayLike) -> IntArray:
    """Return ``values`` reduced to signed 32 bits, as the accumulators do. Any shape; int64 out."""
    return ((np.asarray(values, dtype=np.int64) + (1 << 31)) & 0xFFFF_FFFF) - (1 << 31)


def quantise_multiplier(real: float) -> tuple[int, int]:
    """Return ``(multiplier, shift)`` nearest to ``real`` (the convention of TensorFlow Lite's ``QuantizeMultiplier``).

    A factor below 2**-32 becomes zero. Raises :class:`NumericsError` for a negative, infinite or NaN factor, or one of 2**30 and
    more.
    """
    if not math.isfinite(real) or real < 0:
        raise NumericsError(f"a scale factor must be finite and not negative, not {real}")
    mantissa, shift = math.frexp(real)
    # Ties go up, as in std::round: the product has at most 53 bits, so adding a half is exact.
    multiplier = math.floor(mantissa * (1 << 31) + 0.5)
    if multiplier == 1 << 31:
        multiplier >>= 1
        shift += 1
    if shift > MAX_SHIFT:
        raise NumericsError(f"a scale factor must be below 2**{MAX_SHIFT}, not {real}")
    if multiplier == 0 or shift < MIN_SHIFT:
        return 0, 0
    return multiplier, shift


def shift_stages(shift: int, rounding: Rounding) -> tuple[int, int]:
    """Return the two right shifts of the hardware's rounder, each 0 to 31, for a factor's ``shift``.

    ``DOUBLE_AWAY`` rounds at both. The single-rounding modes truncate at the first, keeping its lost bits as a sticky bit.
    """
    if not MIN_SHIFT <= shift <= MAX_SHIFT:
        raise NumericsError(f"a shift must be from {MIN_SHIFT} to {MAX_SHIFT}, not {shift}")
    if rounding is Rounding.DOUBLE_AWAY:
        return 31 - max(shift, 0), max(-shift, 0)
    total = 31 - shift
    second = min(total, 31)
    return total - second, second


def requantise(sums: npt.ArrayLike, multiplier: npt.ArrayLike, shift: npt.ArrayLike, rounding: Rounding) -> IntArray:
    """Return ``round(sums * multiplier * 2**(shift - 31))`` in the given mode, before zero point and clamp.

    ``sums`` are signed 32-bit; ``multiplier`` and ``shift`` broadcast against them. The product has 63 bits and never overflows.
    Source of ``DOUBLE_AWAY``: gemmlowp's ``SaturatingRoundingDoublingHighMul`` and ``RoundingDivideByPOT``.
    """
    shift = np.asarray(shift, dtype=np.int64)
    product = np.asarray(sums, dtype=np.int64) * np.asarray(multiplier, dtype=np.int64)
    if rounding is Rounding.DOUBLE_AWAY:
        first = 31 - np.maximum(shift, 0)
        second = np.maximum(-shift, 0)
        value = (product + (np.int64(1) << (first - 1))) >> first
        remainder = value & ((np.int64(1) << second) - 1)
        threshold = ((np.int64(1) << second) >> 1) - (second > 0) + (value < 0)
        # remainder > threshold, where threshold is (2**second - 1) >> 1 plus one for negative values
        return np.asarray((value >> second) + ((second > 0) & (remainder > threshold)), dtype=np.int64)
    total = 31 - shift
    floor = product >> total
    remainder = product - (floor << total)
    half = np.int64(1) << (total - 1)
    if rounding is Rounding.SINGLE_UP:
        return np.asarray(floor + (remainder >= half), dtype=np.int64)
    if rounding is Rounding.HALF_EVEN:
        return np.asarray(floor + ((remainder > half) | ((remainder == half) & ((floor & 1) == 1))), dtype=np.int64)
    raise NumericsError(f"rounding must be one of {', '.join(mode.name for mode in Rounding)}, not {rounding!r}")
