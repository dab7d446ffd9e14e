"""The golden model: what a network computes, byte for byte, in NumPy and without any engine.

It follows the definitions in :mod:`accel.graph` and :mod:`accel.numerics` and nothing else, and every other implementation is
compared with it. Maps are int8, channels last, here in batches ``(images, height, width, channels)``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from accel.errors import SystolithError
from accel.graph import Add, AveragePool, Concat, Conv2D, Lookup, MaxPool, Network, Operator, Requantisation, Window
from accel.numerics import INT8_MIN, requantise, wrap_int32

__all__ = ["GoldenError", "add", "average_pool", "concat", "conv2d", "lookup", "max_pool", "run", "run_all"]

Int8Array = npt.NDArray[np.int8]
_Element = TypeVar("_Element", bound=np.generic)

#: Elements that one block of unrolled windows may take, so that a large layer or batch needs little memory.
_BLOCK_ELEMENTS = 1 << 23


class GoldenError(SystolithError):
    """Data that a network or layer cannot take."""


def run(network: Network, images: npt.ArrayLike) -> Int8Array:
    """Return the output maps ``(N, height, width, channels)`` for int8 images ``(N, height, width, channels)``.

    Raises :class:`GoldenError` for another shape or type.
    """
    maps = _checked_images(network, np.asarray(images))
    last_use = {tensor: i for i, op in enumerate(network.operators) for tensor in op.inputs}
    live = {network.input.name: maps}
    for i, op in enumerate(network.operators):
        live[op.output] = _apply(network, op, tuple(live[name] for name in op.inputs))
        for name in (*op.inputs, op.output):
            if last_use.get(name, i) <= i and name != network.output:
                live.pop(name, None)
    return live[network.output]


def run_all(network: Network, image: npt.ArrayLike) -> dict[str, Int8Array]:
    """Return every map ``(height, width, channels)`` by tensor name, input and intermediates included, for one int8 image.

    Raises :class:`GoldenError` for another shape or type.
    """
    image = np.asarray(image)
    maps = {network.input.name: _checked_images(network, image[np.newaxis])}
    for op in network.operators:
        maps[op.output] = _apply(network, op, tuple(maps[name] for name in op.inputs))
    return {name: batch[0] for name, batch in maps.items()}


def conv2d(layer: Conv2D, maps: Int8Array, input_zero_point: int) -> Int8Array:
    """Return the convolution (plain, grouped, depthwise or fully connected) of int8 maps ``(N, height, width, channels)``.

    Padding reads as ``input_zero_point``, so it adds nothing. Raises :class:`GoldenError` for maps of another shape or type.
    """
    _check_maps(layer.name, maps)
    count, height, width, _ = maps.shape
    out_h, out_w, out_c = layer.output_shape(((height, width, maps.shape[3]),))
    inputs = _padded(maps, layer.window, fill=input_zero_point).astype(np.int32) - input_zero_point
    weights = layer.weights.astype(np.int32) - layer.weight_zero_point.astype(np.int32).reshape(-1, 1, 1, 1)
    sums: npt.NDArray[np.int32] | npt.NDArray[np.float64]
    if layer.weights.shape[3] == 1:
        sums = _convolve_depthwise(inputs, weights, layer.window, (out_h, out_w))
    else:
        sums = _convolve_groups(inputs, weights, layer.window, (out_h, out_w), layer.groups)
    result = np.empty((count, out_h, out_w, out_c), np.int8)
    for images in _blocks(count, out_h * out_w * out_c):
        result[images] = _finish(wrap_int32(sums[images].astype(np.int64) + layer.bias), layer.requantisation)
    return result if layer.table is None else _look_up(layer.table, result)


def max_pool(layer: MaxPool, maps: Int8Array) -> Int8Array:
    """Return the clamped maximum in each window of int8 maps ``(N, height, width, channels)``."""
    _check_maps(layer.name, maps)
    out_h, out_w, _ = layer.output_shape((maps.shape[1:],))
    padded = _padded(maps, layer.window, fill=INT8_MIN)  # the smallest byte never wins over a real one
    result = np.full((maps.shape[0], out_h, out_w, maps.shape[3]), INT8_MIN, np.int8)
    for tap in _taps(padded, layer.window, (out_h, out_w)):
        np.maximum(result, tap, out=result)
    return np.clip(result, np.int8(layer.minimum), np.int8(layer.maximum))


def average_pool(layer: AveragePool, maps: Int8Array) -> Int8Array:
    """Return the requantised sum in each window of int8 maps ``(N, height, width, channels)``; padding adds nothing."""
    _check_maps(layer.name, maps)
    count, height, width, channels = maps.shape
    out_h, out_w, _ = layer.output_shape(((height, width, channels),))
    centred = _padded(maps, layer.window, fill=layer.input_zero_point).astype(np.int32) - layer.input_zero_point
    sums = np.zeros((count, out_h, out_w, channels), np.int32)
    for tap in _taps(centred, layer.window, (out_h, out_w)):
        sums += tap
    factors = [[layer.factors[int(n)] for n in row] for row in layer.counts(height, width)]
    multiplier, shift = np.moveaxis(np.array(factors, np.int64), -1, 0)[..., np.newaxis]
    scaled = requantise(sums, multiplier, shift, layer.requantisation.rounding)
    return _place(scaled, layer.requantisation)


def add(layer: Add, left: Int8Array, right: Int8Array) -> Int8Array:
    """Return the residual sum of two batches of int8 maps of one shape ``(N, height, width, channels)``."""
    _check_maps(layer.name, left)
    _check_maps(layer.name, right)
    if left.shape[0] != right.shape[0]:
        raise GoldenError(f"{layer.name}: adds batches of one length, not {left.shape[0]} and {right.shape[0]} maps")
    layer.output_shape((left.shape[1:], right.shape[1:]))
    first, second = (table.astype(np.int64) for table in layer.tables)
    return _finish(wrap_int32(first[left.astype(np.intp) + 128] + second[right.astype(np.intp) + 128]), layer.requantisation)


def concat(layer: Concat, *maps: Int8Array) -> Int8Array:
    """Return batches of int8 maps ``(N, height, width, channels)`` joined along the channels."""
    for batch in maps:
        _check_maps(layer.name, batch)
    if len({len(batch) for batch in maps}) > 1:
        raise GoldenError(f"{layer.name}: joins batches of one length, not {' and '.join(str(len(batch)) for batch in maps)} maps")
    layer.output_shape(tuple(batch.shape[1:] for batch in maps))
    return np.concatenate(maps, axis=3)


def lookup(layer: Lookup, maps: Int8Array) -> Int8Array:
    """Return ``table[x + 128]`` for every byte of int8 maps ``(N, height, width, channels)``."""
    _check_maps(layer.name, maps)
    return _look_up(layer.table, maps)


def _apply(network: Network, op: Operator, inputs: tuple[Int8Array, ...]) -> Int8Array:
    match op:
        case Conv2D():
            return conv2d(op, inputs[0], network.tensor(op.inputs[0]).zero_point)
        case MaxPool():
            return max_pool(op, inputs[0])
        case AveragePool():
            return average_pool(op, inputs[0])
        case Add():
            return add(op, *inputs)
        case Lookup():
            return lookup(op, inputs[0])
        case Concat():
            return concat(op, *inputs)


def _checked_images(network: Network, images: npt.NDArray[np.generic]) -> Int8Array:
    if images.dtype != np.int8 or images.ndim != 4 or images.shape[1:] != network.input.shape:
        raise GoldenError(
            f"{network.name}: images must be int8 of shape {network.input.shape} each, not {images.dtype} {images.shape[1:]}"
        )
    if not len(images):
        raise GoldenError(f"{network.name}: there must be at least one image")
    return np.asarray(images, np.int8)


def _check_maps(layer: str, maps: Int8Array) -> None:
    if maps.dtype != np.int8 or maps.ndim != 4:
        raise GoldenError(f"{layer}: maps must be int8 of shape (images, height, width, channels), not {maps.dtype} {maps.shape}")


def _padded(maps: Int8Array, window: Window, *, fill: int) -> Int8Array:
    top, left, bottom, right = window.padding
    return np.pad(maps, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=fill)


def _taps(padded: npt.NDArray[_Element], window: Window, out: tuple[int, int]) -> Iterator[npt.NDArray[_Element]]:
    """Yield, for each tap of the kernel in row order, the view ``(N, out height, out width, channels)`` that it reads."""
    (step_y, step_x), (dilation_y, dilation_x) = window.stride, window.dilation
    for ky in range(window.kernel[0]):
        rows = slice(ky * dilation_y, ky * dilation_y + (out[0] - 1) * step_y + 1, step_y)
        for kx in range(window.kernel[1]):
            yield padded[:, rows, kx * dilation_x : kx * dilation_x + (out[1] - 1) * step_x + 1 : step_x]


def _blocks(count: int, elements: int) -> Iterator[slice]:
    """Yield slices over ``count`` items of ``elements`` each, every one within the block size (or of one item)."""
    step = max(1, _BLOCK_ELEMENTS // elements)
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


def _convolve_depthwise(
    inputs: npt.NDArray[np.int32], weights: npt.NDArray[np.int32], window: Window, out: tuple[int, int]
) -> npt.NDArray[np.int32]:
    """Return the sums ``(N, out height, out width, out channels)`` where every output channel reads a single input channel."""
    inputs = np.repeat(inputs, weights.shape[0] // inputs.shape[3], axis=3)
    sums = np.zeros((inputs.shape[0], *out, weights.shape[0]), np.int32)  # int32 arrays wrap as the accumulators do
    for tap, tap_weights in zip(_taps(inputs, window, out), weights.reshape(weights.shape[0], -1).T, strict=True):
        sums += tap * tap_weights
    return sums


def _convolve_groups(
    inputs: npt.NDArray[np.int32], weights: npt.NDArray[np.int32], window: Window, out: tuple[int, int], groups: int
) -> npt.NDArray[np.float64]:
    """Return the exact (not wrapped) sums ``(N, out height, out width, out channels)`` by im2col and matrix product.

    The product runs in floating point, for which NumPy has BLAS and for integers has not, and is exact all the same: as long as no
    partial sum in any order can exceed the significand (2**53, or 2**24 for the twice as fast single precision), every
    intermediate is an integer that the format holds.
    """
    count, out_c, per_group = inputs.shape[0], weights.shape[0] // groups, weights.shape[3]
    length = weights[0].size
    bound = length * max(1, int(np.abs(inputs).max())) * max(1, int(np.abs(weights).max()))
    dtype = np.dtype(np.float32 if bound < 1 << 24 else np.float64)
    kernels = weights.reshape(groups, out_c, length).transpose(0, 2, 1).astype(dtype)
    (step_y, step_x), (dilation_y, dilation_x) = window.stride, window.dilation
    sums = np.empty((count, *out, groups * out_c), np.float64)
    for group in range(groups):
        part = inputs[..., group * per_group : (group + 1) * per_group].astype(dtype)
        bytes_n, bytes_y, bytes_x, bytes_c = part.strides
        windows = np.lib.stride_tricks.as_strided(
            part,
            (count, *out, *window.kernel, per_group),
            (bytes_n, step_y * bytes_y, step_x * bytes_x, dilation_y * bytes_y, dilation_x * bytes_x, bytes_c),
            writeable=False,
        )
        columns = slice(group * out_c, (group + 1) * out_c)
        for images in _blocks(count, out[0] * out[1] * length):
            for rows in _blocks(out[0], out[1] * length * (images.stop - images.start)):
                block = windows[images, rows]
                product = block.reshape(-1, length) @ kernels[group]
                sums[images, rows, :, columns] = product.reshape(*block.shape[:3], out_c)
    return sums


def _finish(sums: npt.NDArray[np.int64], to: Requantisation) -> Int8Array:
    return _place(requantise(sums, to.multiplier, to.shift, to.rounding), to)


def _place(values: npt.NDArray[np.int64], to: Requantisation) -> Int8Array:
    return np.clip(values + to.zero_point, to.minimum, to.maximum).astype(np.int8)


def _look_up(table: Int8Array, maps: Int8Array) -> Int8Array:
    return table[maps.astype(np.intp) + 128]
