"""Weights and parameters as the engine reads them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from accel.compiler.stages import Bytes, Int8Array, Stage, Unit
from accel.config import EngineConfig
from accel.graph import Conv2D
from accel.isa import PARAMETER_BYTES, WINDOW_TAPS
from accel.numerics import INT8_MAX, INT8_MIN, Rounding, channel_sums, shift_stages, wrap_int32

__all__ = [
    "Box",
    "factor_shifts",
    "fold_bias",
    "pack_parameters",
    "pack_table",
    "pack_weights",
    "packed_words",
    "unit_weights",
    "weight_parts",
    "window_weights",
]

#: Ranges of planes, kernel rows and kernel columns: ``((first, last), (first, last), (first, last))``, planes counted from the
#: map's first.
Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]

#: Largest shift of one stage of the rounder.
MAX_STAGE = 31


def weight_parts(conv: Conv2D) -> tuple[Int8Array, ...]:
    """Return int8 arrays that sum to the weights less their zero points: one, or up to three where the difference leaves 8 bits."""
    if not conv.weight_zero_point.any():
        return (conv.weights,)
    rest = conv.weights.astype(np.int16) - conv.weight_zero_point.astype(np.int16)[:, None, None, None]
    parts: list[Int8Array] = []
    while not parts or rest.any():
        part = np.clip(rest, INT8_MIN, INT8_MAX).astype(np.int8)
        parts.append(part)
        rest = rest - part
    return tuple(parts)


def fold_bias(conv: Conv2D, input_zero_point: int) -> npt.NDArray[np.int64]:
    """Return the bias that makes sums over raw bytes equal sums over bytes less the input's zero point."""
    totals = channel_sums(conv.weights) - conv.weight_zero_point.astype(np.int64) * conv.weights[0].size
    return wrap_int32(conv.bias.astype(np.int64) - input_zero_point * totals)


def factor_shifts(multiplier: int, shift: int, rounding: Rounding, config: EngineConfig) -> tuple[int, int] | None:
    """Return the two right shifts that apply a factor after its multiplier.

    An engine without multipliers has only the shifts, so they make up for a multiplier that is a power of two (or zero); None
    when it is another, or when the factor would shift left.
    """
    first, second = shift_stages(shift, rounding)
    if config.multiplier:
        return first, second
    if multiplier == 0:
        return MAX_STAGE, MAX_STAGE
    if multiplier & (multiplier - 1):
        return None
    left = multiplier.bit_length() - 1
    if rounding is Rounding.DOUBLE_AWAY:
        return (first - left, second) if first >= left else None
    total = first + second - left
    return (total - min(total, MAX_STAGE), min(total, MAX_STAGE)) if total >= 0 else None


def pack_parameters(
    bias: npt.ArrayLike, multiplier: npt.ArrayLike, shift: npt.ArrayLike, rounding: Rounding, channels: int, config: EngineConfig
) -> Bytes:
    """Return parameter entries, uint8 ``(channels rounded up to lanes, 16)``; the arguments broadcast to ``channels``."""
    entries = np.zeros(
        -(-channels // config.lanes) * config.lanes,
        np.dtype([("bias", "<i4"), ("multiplier", "<u4"), ("first", "u1"), ("second", "u1"), ("rest", "V6")]),
    )
    assert entries.itemsize == PARAMETER_BYTES
    factors = zip(np.atleast_1d(multiplier).tolist(), np.atleast_1d(shift).tolist(), strict=True)
    # Layers were refused before if an engine without multipliers cannot shift by their factors.
    shifts = np.array([factor_shifts(m, s, rounding, config) for m, s in factors], np.uint8)
    entries["bias"][:channels] = bias
    entries["multiplier"][:channels] = multiplier
    entries["first"][:channels] = shifts[:, 0]
    entries["second"][:channels] = shifts[:, 1]
    return entries.view(np.uint8).reshape(-1, PARAMETER_BYTES)


def pack_table(table: npt.NDArray[np.generic]) -> Bytes:
    """Return a table indexed by ``byte + 128`` as one indexed by the byte read as unsigned, in bytes."""
    return np.frombuffer(np.roll(table, 128).tobytes(), np.uint8)


def unit_weights(stage: Stage, unit: Unit, config: EngineConfig) -> Int8Array:
    """Return a unit's weights, int8 ``(parts, planes, height, width, rows, columns)``, zero where no channel or group connects."""
    height, width = stage.window.kernel
    rows = config.rows
    planes = unit.last_plane - unit.first_plane
    depth = stage.weights[0].shape[3]
    filters_per_group = stage.shape[2] // stage.groups
    result = np.zeros((len(stage.weights), planes, height, width, rows, config.columns), np.int8)
    flat = np.zeros((unit.channels, height, width, planes * rows), np.int8)
    for index, part in enumerate(stage.weights):
        chosen = part[unit.first_channel : unit.first_channel + unit.channels]
        if stage.groups == 1:
            flat[..., :depth] = chosen
        else:
            for column in range(unit.channels):
                start = (unit.first_channel + column) // filters_per_group * depth - unit.first_plane * rows
                flat[column, ..., start : start + depth] = chosen[column]
        result[index, ..., : unit.channels] = flat.reshape(-1, height, width, planes, rows).transpose(3, 1, 2, 4, 0)
    return result


def window_weights(stage: Stage, unit: Unit, part: int, config: EngineConfig) -> Bytes:
    """Return the weight words of a unit's WINDOWs, one tile after the other: uint8 ``(windows * rows, weight_word_bytes)``."""
    windows = stage.windows(config)
    words = np.zeros((len(windows), config.rows, config.weight_word_bytes), np.int8)
    chosen = stage.weights[part][unit.first_channel : unit.first_channel + unit.channels, :, :, 0]
    for tile, ((top, bottom), (left, right)) in zip(words, windows, strict=True):
        _, end = stage.pass_columns((left, right))
        for y in range(top, bottom):
            for x in range(left, right):
                # the latest line and pixel are on the first row, whose word is the last
                row = (bottom - 1 - y) * WINDOW_TAPS + end - 1 - x
                tile[config.rows - 1 - row, : unit.channels] = chosen[:, y, x]
    return words.reshape(-1, config.weight_word_bytes).view(np.uint8)


def packed_words(taps: int, tap_rows: int, config: EngineConfig) -> int:
    """Return the weight words of one EXECUTE over ``taps`` taps: ``rows`` for each pass."""
    return -(-taps // (config.rows // tap_rows)) * config.rows


def pack_weights(weights: Int8Array, tap_rows: int, config: EngineConfig) -> Bytes:
    """Return the weight words of one EXECUTE in the order it takes them, uint8 ``(passes * rows, weight_word_bytes)``.

    ``weights`` int8 ``(planes, height, width, rows, columns)``. A pass holds ``rows // tap_rows`` taps, each with its rows in
    falling order.
    """
    # bank r holds byte r % tap_rows, and the rows of a pass are counted from the last
    taps = np.roll(weights.reshape(-1, *weights.shape[3:])[:, :tap_rows], -(config.rows % tap_rows), axis=1)
    group = config.rows // tap_rows
    passes = -(-len(taps) // group)
    words = np.zeros((passes * group, tap_rows, config.weight_word_bytes), np.int8)
    words[: len(taps), :, : config.columns] = taps[:, ::-1]
    # rows that are left over belong to no tap
    tiles = words.reshape(passes, group * tap_rows, -1)
    left_over = config.rows - group * tap_rows
    return np.pad(tiles, ((0, 0), (0, left_over), (0, 0))).reshape(passes * config.rows, -1).view(np.uint8)
