"""The integers of TensorFlow Lite's kernels, as tflite-micro's reference kernels compute them for int8.

Each function names the kernel whose definition it follows; the tests compare all of them with tflite-micro, byte by byte. A kernel
that takes one byte and gives one becomes a table of 256, indexed by the byte + 128. Scales are float32, and where a kernel
multiplies or divides them in float32 so does the function here, as the last bit of a multiplier may depend on it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from accel.numerics import INT8_MAX, INT8_MIN, NumericsError, Rounding, quantise_multiplier, requantise

__all__ = [
    "FIXED_GRIDS",
    "Grid",
    "activation_range",
    "add_factor",
    "add_operand",
    "average_factor",
    "hard_swish_table",
    "leaky_relu_table",
    "logistic_table",
    "mean_factor",
    "relu6_table",
    "relu_table",
    "requantise_table",
    "tanh_table",
]

Int8Array = npt.NDArray[np.int8]
Int32Array = npt.NDArray[np.int32]
IntArray = npt.NDArray[np.int64]

#: Scale and zero point (of int8) of a map.
Grid = tuple[np.float32, int]

#: Grids of outputs that the kernel fixes.
FIXED_GRIDS: Mapping[str, Grid] = MappingProxyType({"LOGISTIC": (np.float32(1 / 256), INT8_MIN), "TANH": (np.float32(1 / 128), 0)})

_BYTES = np.arange(INT8_MIN, INT8_MAX + 1, dtype=np.int64)
_AWAY = Rounding.DOUBLE_AWAY

#: Bits that ADD gives its operands below their own.
_ADD_SHIFT = 20

#: The largest window for which :func:`average_factor` moves nothing but ties: a sum of n bytes is below 256 * n in magnitude,
#: the factor less than 2**-31 too large, and what is no tie at least 1/(2 * n) away from one.
_MAX_COUNT = math.isqrt((1 << 31) // (2 * 256))


def activation_range(activation: str, scale: np.float32, zero_point: int) -> tuple[int, int]:
    """Return the bytes to which a fused activation clamps (``CalculateActivationRangeQuantized``).

    Raises :class:`KeyError` for an activation that is no clamp.
    """
    low, high = {"NONE": (None, None), "RELU": (0.0, None), "RELU6": (0.0, 6.0), "RELU_N1_TO_1": (-1.0, 1.0)}[activation]
    bounds = [None if bound is None else _byte(bound, scale, zero_point) for bound in (low, high)]
    minimum, maximum = (INT8_MIN if bounds[0] is None else bounds[0]), (INT8_MAX if bounds[1] is None else bounds[1])
    return minimum, maximum


def _byte(value: float, scale: np.float32, zero_point: int) -> int:
    return int(np.clip(_round(np.float32(value) / scale) + zero_point, INT8_MIN, INT8_MAX))


def _round(value: np.float32 | float) -> int:
    """Round half away from zero, as ``std::round`` does."""
    return int(math.copysign(math.floor(abs(float(value)) + 0.5), value))


def _scaled(values: IntArray, real: float) -> IntArray:
    """Return ``MultiplyByQuantizedMultiplier`` by a real factor."""
    return requantise(values, *quantise_multiplier(real), _AWAY)


def _table(values: IntArray, zero_point: int, low: int = INT8_MIN, high: int = INT8_MAX) -> Int8Array:
    return np.clip(values + zero_point, low, high).astype(np.int8)


# Arithmetic


def add_operand(scale: float, zero_point: int, largest: float) -> Int32Array:
    """Return ADD's rescaled operand for every byte, where ``largest`` is the larger of both operands' scales."""
    return _scaled((_BYTES - zero_point) << _ADD_SHIFT, float(scale) / (2 * float(largest))).astype(np.int32)


def add_factor(largest: float, scale: float) -> tuple[int, int]:
    """Return multiplier and shift from the sum of two operands to ADD's output of a ``scale``."""
    return quantise_multiplier(2 * float(largest) / ((1 << _ADD_SHIFT) * float(scale)))


def average_factor(count: int) -> tuple[int, int]:
    """Return multiplier and shift that divide a sum of ``count`` bytes with ties away from zero, under ``SINGLE_UP``.

    AVERAGE_POOL_2D adds half the count, with the sum's sign, and divides. The factor is a little above 1/count: that moves ties
    away from zero, and nothing else across one. Raises :class:`NumericsError` for a count so large that it could.
    """
    if count > _MAX_COUNT:
        raise NumericsError(f"an average must be of at most {_MAX_COUNT} values, not {count}")
    return min((1 << 31) // count + 1, (1 << 31) - 1), 0


def mean_factor(count: int, ratio: float) -> tuple[int, int]:
    """Return multiplier and shift of MEAN, which folds the count into the factor ``ratio`` (input scale to output scale)."""
    multiplier, shift = quantise_multiplier(ratio)
    bits = min(count.bit_length() - 1, 32, 31 + shift)
    return (multiplier << bits) // count, shift - bits


# Tables


def requantise_table(source: Grid, target: Grid) -> Int8Array:
    """Return QUANTIZE from one grid (scale, zero point) of bytes to another."""
    return _table(_scaled(_BYTES - source[1], float(source[0]) / float(target[0])), target[1])


def relu_table(source: Grid, target: Grid) -> Int8Array:
    """Return RELU as a layer of its own."""
    return np.maximum(requantise_table(source, target), np.int8(target[1]))


def relu6_table(source: Grid) -> Int8Array:
    """Return RELU6 as a layer of its own; the kernel only clamps, so both grids must be one."""
    return np.clip(_BYTES, source[1], _byte(6.0, *source)).astype(np.int8)


def leaky_relu_table(source: Grid, target: Grid, alpha: float) -> Int8Array:
    """Return LEAKY_RELU of a slope ``alpha`` of at least 0."""
    centred = _BYTES - source[1]
    below = _scaled(centred, float(source[0] * np.float32(alpha) / target[0]))
    return _table(np.where(centred >= 0, _scaled(centred, float(source[0] / target[0])), below), target[1])


def hard_swish_table(source: Grid, target: Grid) -> Int8Array:
    """Return HARD_SWISH, computed in 16 bits. Raises :class:`NumericsError` where the kernel refuses the scales."""
    fine = np.float32(1 / 128) * source[0]
    output_multiplier, output_shift = _sixteen_bits(float(fine / target[0]))
    if output_shift > 0:
        raise NumericsError(f"HARD_SWISH takes an input scale of at most 128 times the output scale, not {fine / target[0]:.4g}")
    relu_multiplier, relu_shift = _sixteen_bits(float(fine / np.float32(3 / 32768)))
    value = (_BYTES - source[1]) << 7
    scaled = _high_product(value, output_multiplier)
    relu = _short(value << max(relu_shift - 1, 0))
    relu = _high_product(relu, relu_multiplier)
    relu = _short(relu << 1) if relu_shift > 0 else _divided(relu, -relu_shift)
    gate = (relu + (1 << 15)) >> 1
    product = gate * scaled
    # SaturatingDoublingHighMul truncates towards zero.
    truncated = np.sign(product) * (np.abs(product) >> 15)
    return _table(_divided(truncated, -output_shift), target[1])


def _sixteen_bits(real: float) -> tuple[int, int]:
    """Return a factor's multiplier in 16 bits (``DownScaleInt32ToInt16Multiplier``) and its shift."""
    multiplier, shift = quantise_multiplier(real)
    return min((multiplier + (1 << 15)) >> 16, (1 << 15) - 1), shift


def _short(values: IntArray) -> IntArray:
    return np.clip(values, -(1 << 15), (1 << 15) - 1)


def _high_product(values: IntArray, multiplier: int) -> IntArray:
    """Return gemmlowp's ``SaturatingRoundingDoublingHighMul`` in 16 bits, for a multiplier that is not negative."""
    return (values * multiplier + (1 << 14)) >> 15


def logistic_table(source: Grid) -> Int8Array:
    """Return LOGISTIC, whose output has scale 1/256 and zero point -128."""
    return _saturating_function(source, _logistic, output_bits=8, zero_point=INT8_MIN)


def tanh_table(source: Grid) -> Int8Array:
    """Return TANH, whose output has scale 1/128 and zero point 0."""
    return _saturating_function(source, _tanh, output_bits=7, zero_point=0)


# gemmlowp's fixed point (fixedpoint.h): int32 raw values, here as Python's integers. Qn has n integer bits.

_ONE = (1 << 31) - 1
_INPUT_BITS = 4


def _saturating_function(source: Grid, function: Callable[[int], int], *, output_bits: int, zero_point: int) -> Int8Array:
    multiplier, shift = quantise_multiplier(float(source[0]) * (1 << (31 - _INPUT_BITS)))
    radius = math.floor(((1 << _INPUT_BITS) - 1) * (1 << (31 - _INPUT_BITS)) / 2.0**shift)
    table = []
    for code in range(INT8_MIN, INT8_MAX + 1):
        value = code - source[1]
        if abs(value) >= radius:
            result = INT8_MAX if value > 0 else INT8_MIN
        else:
            fixed = int(requantise(value, multiplier, shift, _AWAY))
            result = int(np.clip(_divide(function(fixed), 31 - output_bits) + zero_point, INT8_MIN, INT8_MAX))
        table.append(result)
    return np.array(table, np.int8)


def _divide(value: int, exponent: int) -> int:
    """Return ``RoundingDivideByPOT``: ties away from zero."""
    return int(_divided(np.array(value, np.int64), exponent))


def _divided(values: IntArray, exponent: int) -> IntArray:
    return np.asarray(np.sign(values) * ((np.abs(values) + ((1 << exponent) >> 1)) >> exponent))


def _shift_left(value: int, bits: int) -> int:
    """Return ``SaturatingRoundingMultiplyByPOT`` for a positive exponent."""
    return max(-(1 << 31), min(value << bits, _ONE))


def _product(a: int, b: int) -> int:
    """Return ``SaturatingRoundingDoublingHighMul``."""
    return min((a * b + (1 << 30)) >> 31, _ONE)


def _exp_of_negative(value: int, bits: int) -> int:
    """Return exp of a number of at most 0 with so many integer bits, in Q0."""
    if value == 0:
        return _ONE
    quarter = 1 << (31 - bits - 2)
    modulo = (value & (quarter - 1)) - quarter
    result = _exp_near_zero(_shift_left(modulo, bits))
    remainder = modulo - value
    for exponent in range(-2, bits):
        if remainder & (1 << (31 - bits + exponent)):
            result = _product(result, round(math.exp(-(2.0**exponent)) * 2.0**31))
    return result


def _exp_near_zero(value: int) -> int:
    """Return exp of a Q0 number from -1/4 to 0, in Q0: the fourth-order polynomial around -1/8."""
    constant = round(math.exp(-1 / 8) * 2.0**31)
    third = round(2.0**31 / 3)
    x = value + (1 << 28)
    x2 = _product(x, x)
    x3 = _product(x2, x)
    x4 = _product(x2, x2)
    tail = _divide(_product(_divide(x4, 2) + x3, third) + x2, 1)
    return constant + _product(constant, x + tail)


def _newton(value: int) -> int:
    """Return 2 / (1 + a) in Q2 for a Q0 number ``a`` from 0 to 1: three Newton steps from a linear guess at its half."""
    half = (value + _ONE + 1) >> 1
    x = round(48 / 17 * 2.0**29) + _product(half, round(-32 / 17 * 2.0**29))
    for _ in range(3):
        x += _shift_left(_product(x, (1 << 29) - _product(half, x)), 2)
    return x


def _logistic(value: int) -> int:
    """Return 1 / (1 + exp(-x)) of a Q4 number, in Q0."""
    if value == 0:
        return 1 << 30
    positive = _shift_left(_newton(_exp_of_negative(-abs(value), _INPUT_BITS)), 1)
    return positive if value > 0 else _ONE - positive


def _tanh(value: int) -> int:
    """Return tanh of a Q4 number, in Q0: (1 - a) / (1 + a) for a = exp(-2 |x|), which is 2 / (1 + a) - 1."""
    if value == 0:
        return 0
    # Twice a Q4 number is a Q5 number of the same raw value.
    positive = _shift_left(_newton(_exp_of_negative(-abs(value), _INPUT_BITS + 1)) - (1 << 29), 2)
    return positive if value > 0 else -positive
