"""How each ONNX operator is read. ``HANDLERS`` is the list of what is supported."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from accel.errors import SystolithError
from accel.frontends.activations import FUNCTIONS, Function, clamp
from accel.frontends.onnx_graph import Handler, Importer, Node, is_channels_first
from accel.frontends.onnx_values import (
    Average,
    Constant,
    Dequantised,
    FloatInput,
    Host,
    Index,
    Joined,
    LayoutError,
    Linear,
    Pool,
    QuantisedConstant,
    Real,
    Sum,
    Value,
    View,
    channels_first,
    dequantised_constant,
)
from accel.graph import Shape, Window

__all__ = ["HANDLERS"]

# Quantisation


def _quantize_linear(g: Importer, node: Node) -> None:
    value = g.value(node, 0)
    if isinstance(value, Host):
        g.store(node, value)
        return
    output = node.get("output_dtype", 0)
    unsigned = len(node.inputs) < 3 and output in (0, 2)
    if output not in (0, 2, 3):
        raise g.error(node, "quantises to another type than int8 and uint8; use one of these")
    if isinstance(value, Constant | QuantisedConstant):
        scale, zero = g.scale_and_zero(node, 1, unsigned=unsigned, what="output")
        if zero.dtype not in (np.int8, np.uint8):
            raise g.error(node, f"quantises a constant to {zero.dtype}; use int8 or uint8")
        real = dequantised_constant(value)
        around = [1] * real.ndim
        if (scale.ndim or zero.ndim) and real.ndim:
            around[node.get("axis", 1)] = -1
        limits = np.iinfo(zero.dtype)
        quotient = np.rint(real / (scale.reshape(around) if scale.ndim else scale)).astype(np.float64)
        bytes_ = np.clip(quotient + (zero.reshape(around) if zero.ndim else zero), limits.min, limits.max)
        g.store(node, Constant(bytes_.astype(zero.dtype)))
        return
    number, zero_point, is_unsigned = g.grid(node, 1, unsigned=unsigned, what="output")
    if isinstance(value, FloatInput):
        g.store(node, g.input_quantised(node, value, number, zero_point, unsigned=is_unsigned))
    else:
        g.store(node, g.quantised(node, g.real(node), number, zero_point, unsigned=is_unsigned))


def _dequantize_linear(g: Importer, node: Node) -> None:
    value = g.value(node, 0)
    if isinstance(value, Host):
        g.store(node, value)
    elif isinstance(value, View):
        g.store(node, g.dequantised(node, value, 1))
    elif isinstance(value, Constant):
        if node.get("block_size", 0):
            raise g.error(node, "quantises in blocks; use one scale for a tensor or for an output channel")
        scale, zero = g.scale_and_zero(node, 1, unsigned=value.array.dtype == np.uint8, what="input")
        axis = node.get("axis", 1)
        g.store(node, g.quantised_constant(node, value.array, scale, zero, axis + value.array.ndim if axis < 0 else axis))
    else:
        raise g.error(node, "its input must be bytes, but it is real already")


def _finish(g: Importer, node: Node, real: Real, position: int) -> None:
    """Quantise a QLinear operator's result by the scale and zero point in its inputs from ``position`` on."""
    scale, zero_point, unsigned = g.grid(node, position, unsigned=True, what="output")
    g.store(node, g.quantised(node, real, scale, zero_point, unsigned=unsigned))


def _bytes_input(g: Importer, node: Node, position: int = 0) -> Real:
    """Return a QLinear operator's activation at ``position``, with the scale and zero point that follow it."""
    value = g.value(node, position)
    if isinstance(value, View):
        return g.dequantised(node, value, position + 1)
    raise g.not_quantised(node, value)


# Convolutions and fully connected layers


def _weights(g: Importer, node: Node, position: int) -> QuantisedConstant:
    """Return the weights of a Conv, Gemm or MatMul."""
    value = g.value(node, position)
    if isinstance(value, QuantisedConstant):
        return value
    if isinstance(value, Constant):
        return g.real_weights(node, value)
    raise g.error(node, "its weights must be constant; a product of two activations is not supported")


def _bytes_weights(g: Importer, node: Node, position: int, axis: int) -> QuantisedConstant:
    """Return the weights of a QLinear operator, scale and zero point following; per-channel ones lie along ``axis``."""
    value = g.value(node, position)
    if not isinstance(value, Constant):
        raise g.error(node, "its weights must be constant; a product of two activations is not supported")
    scale, zero = g.scale_and_zero(node, position + 1, unsigned=value.array.dtype == np.uint8, what="weights'")
    return g.quantised_constant(node, value.array, scale, zero, axis + value.array.ndim if axis < 0 else axis)


def _linear(
    g: Importer,
    node: Node,
    source: Dequantised,
    weights: QuantisedConstant,
    window: Window,
    bias: Value | None,
    *,
    groups: int = 1,
    shape: Shape,
    arrange: Callable[[npt.NDArray[np.int8]], npt.NDArray[np.int8]],
    output_axis: int,
) -> Linear:
    """Return a layer with weights arranged as (out, kernel height, kernel width, in) by ``arrange``."""
    if weights.type_name not in ("int8", "uint8"):
        raise g.error(node, f"its weights must be int8 or uint8, not {weights.type_name}")
    if weights.axis not in (None, output_axis):
        raise g.error(
            node, f"its weights have scales along axis {weights.axis}; they must lie along the output channels, axis {output_axis}"
        )
    layer = Linear(
        name=node.name,
        label=node.label,
        source=source,
        window=window,
        weights=np.ascontiguousarray(arrange(weights.values)),
        weight_scale=weights.scale.reshape(-1),
        weight_zero_point=weights.zero_point.reshape(-1).astype(np.int32),
        bias=np.zeros(shape[2], np.int64),
        groups=groups,
        shape=shape,
    )
    return _with_bias(g, node, layer, bias)


def _with_bias(g: Importer, node: Node, layer: Linear, value: Value | None) -> Linear:
    """Return the layer with a constant added to its sums, in their units."""
    if value is None:
        return layer
    if not isinstance(value, Constant | QuantisedConstant):
        raise g.error(node, "its bias must be constant")
    scale = layer.accumulator_scale.astype(np.float64)
    bias: npt.NDArray[Any]
    if isinstance(value, Constant) and value.array.dtype == np.int32:
        bias = value.array.reshape(-1)
    elif isinstance(value, QuantisedConstant) and not value.zero_point.any() and np.allclose(value.scale, scale, rtol=1e-6, atol=0):
        bias = value.values.reshape(-1)
    else:
        real = dequantised_constant(value).astype(np.float64).reshape(-1)
        if not np.isfinite(real).all():
            raise g.error(node, "its bias holds NaN or infinity; every weight must be finite")
        bias = np.rint(real / scale)
        if not np.allclose(bias * scale, real, rtol=1e-6, atol=0):
            g.note_rounding(f"{node.name}: the bias is rounded to the scale of the sums, input scale times weight scale")
    if bias.size not in (1, layer.shape[2]):
        raise g.error(node, f"its bias has {bias.size} values for {layer.shape[2]} output channels")
    total = layer.bias + bias.astype(np.int64)
    if int(np.abs(total).max()) >= 1 << 31:
        raise g.error(
            node,
            "its bias does not fit 32 bits in units of input scale times weight scale; quantise the weights on a coarser scale",
        )
    return replace(layer, bias=total)


def _conv(g: Importer, node: Node) -> None:
    g.store(node, _convolved(g, node, g.real(node), _weights(g, node, 1), g.value(node, 2)))


def _qlinear_conv(g: Importer, node: Node) -> None:
    real = _convolved(g, node, _bytes_input(g, node), _bytes_weights(g, node, 3, axis=0), g.value(node, 8))
    _finish(g, node, real, 6)


def _convolved(g: Importer, node: Node, real: Real, weights: QuantisedConstant, bias: Value | None) -> Real:
    source, index = g.settled(node, real)
    height, width, channels = source.map.shape
    g.check_spatial(node, (height, width, channels), index)
    if weights.values.ndim != index.ndim:
        raise g.error(node, f"its weights {weights.values.shape} do not fit an input of shape {index.shape}")
    filters, depth, *kernel = weights.values.shape
    groups = node.get("group", 1)
    if groups < 1 or depth * groups != channels or filters % groups:
        raise g.error(node, f"weights {weights.values.shape} in {groups} groups do not fit {channels} input channels")
    window = _window(g, node, kernel, (height, width))
    shape = (*_fitting(g, node, window, (height, width)), filters)
    layer = _linear(
        g,
        node,
        source,
        weights,
        window,
        bias,
        groups=groups,
        shape=shape,
        arrange=lambda w: w.reshape(filters, depth, *window.kernel).transpose(0, 2, 3, 1),
        output_axis=0,
    )
    return Real(layer, shape, channels_first(shape, index.ndim))


def _gemm(g: Importer, node: Node) -> None:
    _check_gemm(g, node)
    transposed = bool(node.get("transB", 0))
    if node.get("beta", 1.0) != 1.0 and g.value(node, 2) is not None:
        raise g.error(node, f"beta must be 1, not {node.get('beta', 1.0)}; multiply the bias by it")
    g.store(node, _connected(g, node, g.real(node), _weights(g, node, 1), g.value(node, 2), transposed=transposed))


def _qgemm(g: Importer, node: Node) -> None:
    _check_gemm(g, node)
    transposed = bool(node.get("transB", 0))
    if g.value(node, 7) is None:
        raise g.error(node, "its result is not quantised; give its output scale and zero point")
    weights = _bytes_weights(g, node, 3, axis=0 if transposed else 1)
    _finish(g, node, _connected(g, node, _bytes_input(g, node), weights, g.value(node, 6), transposed=transposed), 7)


def _check_gemm(g: Importer, node: Node) -> None:
    if node.get("transA", 0):
        raise g.error(node, "transA must be 0: the batch comes first")
    if node.get("alpha", 1.0) != 1.0:
        raise g.error(node, f"alpha must be 1, not {node.get('alpha', 1.0)}; multiply the weights' scale by it")


def _matmul(g: Importer, node: Node) -> None:
    g.store(node, _connected(g, node, g.real(node), _weights(g, node, 1), None, transposed=False))


def _qlinear_matmul(g: Importer, node: Node) -> None:
    _finish(g, node, _connected(g, node, _bytes_input(g, node), _bytes_weights(g, node, 3, axis=-1), None, transposed=False), 6)


def _connected(g: Importer, node: Node, real: Real, weights: QuantisedConstant, bias: Value | None, *, transposed: bool) -> Real:
    """Return a product with a matrix: a kernel that covers the map, or one of 1x1 where every pixel is multiplied alike."""
    source, index = g.settled(node, real)
    map_shape = source.map.shape
    if weights.values.ndim != 2 or index.ndim < 2 or weights.values.shape[1 if transposed else 0] != index.shape[-1]:
        raise g.error(
            node, f"weights {weights.values.shape}{' transposed' if transposed else ''} do not fit an input of shape {index.shape}"
        )
    outputs = weights.values.shape[0 if transposed else 1]
    positions = index.reshape(-1, index.shape[-1])
    kernel: tuple[int, int]
    if len(positions) == 1:
        kernel, shape = map_shape[:2], (1, 1, outputs)
    elif index.shape[-1] == map_shape[2] and np.array_equal(positions.reshape(-1), np.arange(positions.size)):
        kernel, shape = (1, 1), (*map_shape[:2], outputs)
    else:
        raise LayoutError(
            f"{g.name}: {node.label}: multiplies an axis of {index.shape} that is not the channels of {map_shape}; flatten it first"
        )

    def arrange(values: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
        """Put the weights in the map's order; the flattened input may have the channels first."""
        rows = values if transposed else values.T
        arranged = np.empty_like(rows)
        arranged[:, positions[0]] = rows
        return arranged.reshape(outputs, *kernel, map_shape[2])

    layer = _linear(
        g,
        node,
        source,
        weights,
        Window(kernel=kernel),
        bias,
        shape=shape,
        arrange=arrange,
        output_axis=0 if transposed else 1,
    )
    return Real(layer, shape, np.arange(math.prod(shape)).reshape(*index.shape[:-1], outputs))


# Windows


def _window(g: Importer, node: Node, kernel: list[int], size: tuple[int, int], *, ceiling: bool = False) -> Window:
    """Return the window that a node's attributes describe on a map of ``size``; one-dimensional ones lie along the width."""
    rank = len(kernel)
    strides = node.get("strides", [1] * rank)
    dilations = node.get("dilations", [1] * rank)
    pads = node.get("pads", [0] * (2 * rank))
    if rank not in (1, 2) or len(strides) != rank or len(dilations) != rank or len(pads) != 2 * rank:
        raise g.error(
            node, f"kernel {kernel}, strides {strides}, dilations {dilations} and pads {pads} must be for 1 or 2 dimensions alike"
        )
    lengths = size[2 - rank :]
    auto = node.get("auto_pad", "NOTSET")
    before, after = list(pads[:rank]), list(pads[rank:])
    if auto == "VALID":
        before, after = [0] * rank, [0] * rank
    elif auto in ("SAME_UPPER", "SAME_LOWER"):
        for i, length in enumerate(lengths):
            total = max((-(-length // strides[i]) - 1) * strides[i] + (kernel[i] - 1) * dilations[i] + 1 - length, 0)
            before[i] = (total + (auto == "SAME_LOWER")) // 2
            after[i] = total - before[i]
    elif auto != "NOTSET":
        raise g.error(node, f"auto_pad must be NOTSET, VALID, SAME_UPPER or SAME_LOWER, not {auto}")
    if ceiling:
        for i, length in enumerate(lengths):
            extent = (kernel[i] - 1) * dilations[i] + 1
            count = -(-(length + before[i] + after[i] - extent) // strides[i]) + 1
            # A last window that would start in the padding is left out.
            count -= (count - 1) * strides[i] >= length + before[i]
            after[i] = max(after[i], (count - 1) * strides[i] + extent - length - before[i])
    one, zero = [1] * (2 - rank), [0] * (2 - rank)
    try:
        return Window(
            kernel=_pair(one, kernel),
            stride=_pair(one, strides),
            dilation=_pair(one, dilations),
            padding=(*_pair(zero, before), *_pair(zero, after)),
        )
    except SystolithError as error:
        raise g.error(node, str(error)) from None


def _pair(lead: list[int], numbers: list[int]) -> tuple[int, int]:
    first, second = (*lead, *numbers)
    return int(first), int(second)


def _fitting(g: Importer, node: Node, window: Window, size: tuple[int, int]) -> tuple[int, int]:
    out = window.output_size(*size)
    if min(out) < 1:
        raise g.error(node, f"a window of {window.extent} with padding {window.padding} does not fit a map of {size}")
    return out


def _max_pool(g: Importer, node: Node) -> None:
    value = g.value(node, 0)
    if not isinstance(value, View | Real):
        raise g.not_quantised(node, value)
    if len(node.outputs) > 1 and node.outputs[1]:
        raise g.error(node, "its second output, the indices, is not supported")
    map_shape = value.map.shape if isinstance(value, View) else value.shape
    g.check_spatial(node, map_shape, value.index)
    window = _window(g, node, node.get("kernel_shape", []), map_shape[:2], ceiling=bool(node.get("ceil_mode", 0)))
    shape = (*_fitting(g, node, window, map_shape[:2]), map_shape[2])
    pool, index = Pool(node.name, window), channels_first(shape, value.index.ndim)
    if isinstance(value, View):
        g.store(node, View(g.pool_bytes(value.map, pool), index))
    else:
        g.store(node, replace(value, shape=shape, index=index, steps=(*value.steps, pool)))


def _average_pool(g: Importer, node: Node) -> None:
    g.note_rounding(f"{node.name}: averages exactly, where ONNX Runtime adds float32 numbers: ties may differ by one")
    g.store(node, _averaged(g, node, g.real(node)))


def _qlinear_average_pool(g: Importer, node: Node) -> None:
    if node.get("channels_last", 0):
        raise g.error(node, "channels_last must be 0")
    _finish(g, node, _averaged(g, node, _bytes_input(g, node)), 3)


def _averaged(g: Importer, node: Node, real: Real) -> Real:
    source, index = g.settled(node, real)
    size = source.map.shape[:2]
    g.check_spatial(node, source.map.shape, index)
    include = bool(node.get("count_include_pad", 0))
    window = _window(g, node, node.get("kernel_shape", []), size, ceiling=bool(node.get("ceil_mode", 0)))
    if include and window.padding != _window(g, node, node.get("kernel_shape", []), size).padding:
        raise g.error(node, "ceil_mode with count_include_pad is not supported where the last window reaches beyond the padding")
    shape = (*_fitting(g, node, window, size), source.map.shape[2])
    core = Average(
        name=node.name, label=node.label, source=source, window=window, count_padding=include, is_global=False, shape=shape
    )
    return Real(core, shape, channels_first(shape, index.ndim))


def _global_average_pool(g: Importer, node: Node) -> None:
    real = g.real(node)
    g.store(node, _whole_average(g, node, real, tuple(range(2, real.index.ndim)), keep=True))


def _qlinear_global_average_pool(g: Importer, node: Node) -> None:
    real = _bytes_input(g, node)
    rank = real.index.ndim
    axes = tuple(range(1, rank - 1)) if node.get("channels_last", 0) else tuple(range(2, rank))
    _finish(g, node, _whole_average(g, node, real, axes, keep=True), 3)


def _reduce_mean(g: Importer, node: Node) -> None:
    real = g.real(node)
    rank = real.index.ndim
    axes = node.get("axes", None)
    if axes is None:
        given = g.constant(node, 1, "axes")
        axes = list(range(rank)) if given is None else given.reshape(-1).tolist()
    kept = bool(node.get("keepdims", 1))
    g.store(node, _whole_average(g, node, real, tuple(axis % rank for axis in axes), keep=kept))


def _whole_average(g: Importer, node: Node, real: Real, axes: tuple[int, ...], *, keep: bool) -> Real:
    """Return the mean over whole axes, which must be height and width together."""
    source, index = g.settled(node, real)
    height, width, channels = source.map.shape
    rest = tuple(axis for axis in range(index.ndim) if axis not in axes)
    rows = index.transpose(*rest, *axes).reshape(math.prod(index.shape[axis] for axis in rest), -1)
    if rows.shape != (channels, height * width) or not (rows % channels == np.arange(channels)[:, None]).all():
        raise g.error(
            node, f"averages the axes {axes} of {index.shape}; only height and width together, of each channel, are supported"
        )
    shape = (1, 1, channels)
    core = Average(
        name=node.name,
        label=node.label,
        source=source,
        window=Window(kernel=(height, width)),
        count_padding=False,
        is_global=True,
        shape=shape,
    )
    kept = tuple(1 if axis in axes else index.shape[axis] for axis in range(index.ndim))
    return Real(core, shape, np.arange(channels).reshape(kept if keep else tuple(index.shape[axis] for axis in rest)))


# Functions of one value


def _function(g: Importer, node: Node) -> None:
    g.store(node, _applied(g.real(node), _function_of(node, node.op_type)))


def _applied(real: Real, function: Function) -> Real:
    return replace(real, steps=(*real.steps, function))


def _function_of(node: Node, kind: str) -> Function:
    defaults, make, monotone = FUNCTIONS[kind]
    values = {name: node.get(name, default) for name, default in defaults.items()}
    rising = monotone and all(not isinstance(value, float) or value >= 0 for value in values.values())
    return Function(node.name, kind, make(**values), None, rising)


def _qlinear_function(kind: str) -> Handler:
    def handle(g: Importer, node: Node) -> None:
        _finish(g, node, _applied(_bytes_input(g, node), _function_of(node, kind)), 3)

    return handle


def _relu(g: Importer, node: Node) -> None:
    g.store(node, _applied(g.real(node), clamp(node.name, "Relu", 0.0, math.inf)))


def _clip(g: Importer, node: Node) -> None:
    limits = [node.get("min", -math.inf), node.get("max", math.inf)]
    for position, what in ((1, "minimum"), (2, "maximum")):
        array = g.constant(node, position, what)
        if array is not None:
            if array.size != 1:
                raise g.error(node, f"its {what} must be a single number, not of shape {array.shape}")
            limits[position - 1] = float(array.reshape(()))
    g.store(node, _applied(g.real(node), clamp(node.name, "Clip", *limits)))


def _prelu(g: Importer, node: Node) -> None:
    slope = g.constant(node, 1, "slope")
    if slope is None or slope.size != 1:
        raise g.error(node, "its slope must be a single number for all channels, as in LeakyRelu")
    _, make, _ = FUNCTIONS["LeakyRelu"]
    alpha = float(slope.reshape(()))
    g.store(node, _applied(g.real(node), Function(node.name, "PRelu", make(alpha=alpha), None, alpha >= 0)))


# Two operands


def _add(g: Importer, node: Node) -> None:
    left, right = g.value(node, 0), g.value(node, 1)
    if isinstance(left, Real) and isinstance(right, Real):
        g.store(node, _summed(g, node, left, right))
        return
    real, constant = (left, right) if isinstance(left, Real) else (right, left)
    if (
        isinstance(real, Real)
        and isinstance(real.core, Linear)
        and not real.steps
        and isinstance(constant, Constant | QuantisedConstant)
    ):
        g.store(node, replace(real, core=_with_bias(g, node, real.core, _per_channel(g, node, real, constant))))
        return
    _with_number(g, node)


def _sum(g: Importer, node: Node) -> None:
    if len(node.inputs) > 2:
        raise g.error(node, f"sums {len(node.inputs)} activations; the nearest supported form is a chain of Adds, each quantised")
    if len(node.inputs) == 1:
        g.store(node, g.real(node))
    else:
        _add(g, node)


def _qlinear_add(g: Importer, node: Node) -> None:
    _finish(g, node, _summed(g, node, _bytes_input(g, node, 0), _bytes_input(g, node, 3)), 6)


def _summed(g: Importer, node: Node, left: Real, right: Real) -> Real:
    (first, first_index), (second, second_index) = g.settled(node, left), g.settled(node, right)
    if first.map.shape != second.map.shape or first_index.size != second_index.size:
        raise g.error(node, f"adds maps of shapes {first_index.shape} and {second_index.shape}; broadcasting is not supported")
    if first_index.shape != second_index.shape or not np.array_equal(first_index, second_index):
        raise LayoutError(
            f"{g.name}: {node.label}: adds two maps whose axes are in different orders; bring them to one order first"
        )
    if first == second:
        twice = Function(node.name, "Add", lambda x: x + x, None, True)
        return Real(first, first.map.shape, first_index, (twice,))
    shape = first.map.shape
    return Real(Sum(name=node.name, label=node.label, sources=(first, second), shape=shape), shape, first_index)


def _concat(g: Importer, node: Node) -> None:
    g.store(node, _joined(g, node, [g.real(node, position) for position in range(len(node.inputs))]))


def _qlinear_concat(g: Importer, node: Node) -> None:
    if len(node.inputs) % 3 != 2:
        raise g.error(
            node, f"must have an output scale and zero point and three inputs for each map, not {len(node.inputs)} inputs"
        )
    _finish(g, node, _joined(g, node, [_bytes_input(g, node, position) for position in range(2, len(node.inputs), 3)]), 0)


def _joined(g: Importer, node: Node, reals: list[Real]) -> Real:
    settled = [g.settled(node, real) for real in reals]
    sources = tuple(source for source, _ in settled)
    shapes = [index.shape for _, index in settled]
    rank, axis = len(shapes[0]), node.get("axis", 1)
    if any(len(shape) != rank for shape in shapes) or not -rank <= axis < rank:
        raise g.error(node, f"joins activations of shapes {shapes} along axis {axis}")
    is_first = all(is_channels_first(index, source.map.shape) for source, index in settled)
    is_last = all(np.array_equal(index.reshape(-1), np.arange(index.size)) for _, index in settled)
    if not is_first and not is_last:
        raise LayoutError(f"{g.name}: {node.label}: joins maps whose axes are in different orders; bring them to one order first")
    places = zip(sources, shapes, strict=True)
    if axis % rank != (1 if is_first else rank - 1) or any(source.map.shape[2] != dims[axis] for source, dims in places):
        raise g.error(node, f"joins activations of shapes {shapes} along axis {axis}; only channels can be joined")
    if len({source.map.shape[:2] for source in sources}) > 1:
        raise g.error(node, f"joins activations of shapes {shapes}, which must be of one height and width")
    shape = (*sources[0].map.shape[:2], sum(source.map.shape[2] for source in sources))
    index = channels_first(shape, rank) if is_first else np.arange(math.prod(shape)).reshape(*shapes[0][:-1], shape[2])
    return Real(Joined(name=node.name, label=node.label, sources=sources, shape=shape), shape, index)


def _with_number(g: Importer, node: Node) -> None:
    """Read Add, Sub, Mul or Div with a constant that is the same number everywhere."""
    position = 0 if isinstance(g.value(node, 0), Real) else 1
    other = g.value(node, 1 - position)
    real = g.real(node, position)
    if isinstance(other, Real):
        raise g.error(node, f"{node.op_type} of two activations is not supported; they can only be joined by Add and Concat")
    if not isinstance(other, Constant | QuantisedConstant):
        raise g.not_quantised(node, other)
    _, single = _broadcast(g, node, real, other)
    if single is None:
        raise g.error(
            node,
            "its constant is not the same everywhere and cannot be folded into a layer before it; "
            "fold it first (onnxruntime's quant_pre_process does), then quantise",
        )
    number = np.float32(single)
    evaluations: dict[tuple[str, int], tuple[Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]], bool]] = {
        ("Add", 0): (lambda x: x + number, True),
        ("Add", 1): (lambda x: x + number, True),
        ("Sub", 0): (lambda x: x - number, True),
        ("Sub", 1): (lambda x: number - x, False),
        ("Mul", 0): (lambda x: x * number, bool(number >= 0)),
        ("Mul", 1): (lambda x: x * number, bool(number >= 0)),
        ("Div", 0): (lambda x: x / number, bool(number > 0)),
    }
    if (node.op_type, position) not in evaluations or (node.op_type == "Div" and number == 0):
        raise g.error(node, "divides by an activation or by 0; the nearest supported form divides an activation by a constant")
    evaluate, monotone = evaluations[node.op_type, position]
    g.store(node, _applied(real, Function(node.name, node.op_type, evaluate, None, monotone)))


def _broadcast(
    g: Importer, node: Node, real: Real, constant: Constant | QuantisedConstant
) -> tuple[npt.NDArray[np.float32], float | None]:
    """Return a constant's real values spread over an activation, and the number they all are, if they are."""
    values = dequantised_constant(constant)
    if not np.isfinite(values).all():
        raise g.error(node, "its constant holds NaN or infinity")
    try:
        spread = np.broadcast_to(values, real.index.shape)
    except ValueError:
        raise g.error(node, f"a constant of shape {values.shape} does not fit an activation of shape {real.index.shape}") from None
    return spread, float(values.reshape(-1)[0]) if values.size and (values == values.reshape(-1)[0]).all() else None


def _per_channel(g: Importer, node: Node, real: Real, constant: Constant | QuantisedConstant) -> Constant:
    """Return a constant as one number for each channel."""
    spread, _ = _broadcast(g, node, real, constant)
    values = np.empty(spread.size, np.float32)
    values[real.index.reshape(-1)] = spread.reshape(-1)
    rows = values.reshape(-1, real.shape[2])
    if not (rows == rows[0]).all():
        raise g.error(node, "its constant must be one number for each channel")
    return Constant(rows[0])


# Views


def _view(change: Callable[[Importer, Node, npt.NDArray[Any]], npt.NDArray[Any]]) -> Handler:
    """Return the handler of an operator that only renames axes or positions."""

    def handle(g: Importer, node: Node) -> None:
        value = g.value(node, 0)
        if isinstance(value, Host):
            g.store(node, value)
            return
        try:
            if isinstance(value, View | Real | FloatInput):
                index: Index = change(g, node, value.index)
                g.store(node, replace(value, index=index))
                return
            if isinstance(value, QuantisedConstant):
                g.store(node, _changed_constant(g, node, value, change))
                return
        except (ValueError, IndexError, np.exceptions.AxisError) as error:
            raise g.error(node, f"does not fit its input: {error}") from None
        raise g.not_quantised(node, value)

    return handle


def _changed_constant(
    g: Importer, node: Node, value: QuantisedConstant, change: Callable[[Importer, Node, npt.NDArray[Any]], npt.NDArray[Any]]
) -> QuantisedConstant:
    changed = change(g, node, value.values)
    if value.axis is None:
        return replace(value, values=changed)
    # Follow the channel axis: number the channels, and find the axis along which the numbers run afterwards.
    around = [1] * value.values.ndim
    around[value.axis] = -1
    numbers = change(g, node, np.broadcast_to(np.arange(value.values.shape[value.axis]).reshape(around), value.values.shape))
    for axis, length in enumerate(numbers.shape):
        shape = [1] * numbers.ndim
        shape[axis] = -1
        if length == value.values.shape[value.axis] and (numbers == np.arange(length).reshape(shape)).all():
            return replace(value, values=changed, axis=axis)
    raise g.error(node, "moves weights between channels that have scales of their own")


def _reshape(g: Importer, node: Node, index: npt.NDArray[Any]) -> npt.NDArray[Any]:
    target = g.constant(node, 1, "shape")
    shape = node.get("shape", []) if target is None else target.reshape(-1).tolist()
    if not node.get("allowzero", 0):
        shape = [index.shape[i] if n == 0 else n for i, n in enumerate(shape)]
    return index.reshape(shape)


def _flatten(g: Importer, node: Node, index: npt.NDArray[Any]) -> npt.NDArray[Any]:
    axis = node.get("axis", 1)
    return index.reshape(math.prod(index.shape[: axis + index.ndim if axis < 0 else axis]), -1)


def _axes(g: Importer, node: Node) -> tuple[int, ...] | None:
    given = g.constant(node, 1, "axes")
    axes = node.get("axes", None) if given is None else given.reshape(-1).tolist()
    return None if axes is None else tuple(axes)


def _squeeze(g: Importer, node: Node, index: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.squeeze(index, _axes(g, node))


def _unsqueeze(g: Importer, node: Node, index: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.expand_dims(index, _axes(g, node) or ())


def _transpose(g: Importer, node: Node, index: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return index.transpose(node.get("perm", None))


def _same(g: Importer, node: Node, index: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return index


def _cast(g: Importer, node: Node) -> None:
    value = g.value(node, 0)
    if not isinstance(value, Host) and node.get("to", 1) != 1:
        raise g.error(
            node, "converts an activation to another type; only float32 between DequantizeLinear and QuantizeLinear is supported"
        )
    assert value is not None
    g.store(node, value)


def _shape(g: Importer, node: Node) -> None:
    value = g.value(node, 0)
    if isinstance(value, View | Real | FloatInput):
        dims: tuple[int, ...] = value.index.shape
    elif isinstance(value, QuantisedConstant):
        dims = value.values.shape
    else:
        raise g.not_quantised(node, value)
    g.store(node, Constant(np.array(dims[node.get("start", 0) : node.get("end", len(dims))], np.int64)))


def _host(g: Importer, node: Node) -> None:
    """Leave an operator to the host, which is right only at the end of a model."""
    value = g.value(node, 0)
    if isinstance(value, FloatInput) or not isinstance(value, View | Real | Host):
        raise g.not_quantised(node, value)
    g.notes.append(f"{node.op_type} {node.name} at the end is left to the host")
    g.store(node, value if isinstance(value, Host) else Host(value))


#: What reads each operator, of the standard set or of com.microsoft.
HANDLERS: Mapping[str, Handler] = MappingProxyType(
    {
        "Add": _add,
        "ArgMax": _host,
        "AveragePool": _average_pool,
        "Cast": _cast,
        "Clip": _clip,
        "Concat": _concat,
        "Conv": _conv,
        "DequantizeLinear": _dequantize_linear,
        "Div": _with_number,
        "Dropout": _view(_same),
        "Flatten": _view(_flatten),
        "Gemm": _gemm,
        "GlobalAveragePool": _global_average_pool,
        "Identity": _view(_same),
        "LogSoftmax": _host,
        "MatMul": _matmul,
        "MaxPool": _max_pool,
        "Mul": _with_number,
        "PRelu": _prelu,
        "QGemm": _qgemm,
        "QLinearAdd": _qlinear_add,
        "QLinearAveragePool": _qlinear_average_pool,
        "QLinearConcat": _qlinear_concat,
        "QLinearConv": _qlinear_conv,
        "QLinearGlobalAveragePool": _qlinear_global_average_pool,
        "QLinearLeakyRelu": _qlinear_function("LeakyRelu"),
        "QLinearMatMul": _qlinear_matmul,
        "QLinearSigmoid": _qlinear_function("Sigmoid"),
        "QLinearSoftmax": _host,
        "QuantizeLinear": _quantize_linear,
        "ReduceMean": _reduce_mean,
        "Relu": _relu,
        "Reshape": _view(_reshape),
        "Shape": _shape,
        "Softmax": _host,
        "Squeeze": _view(_squeeze),
        "Sub": _with_number,
        "Sum": _sum,
        "Transpose": _view(_transpose),
        "Unsqueeze": _view(_unsqueeze),
        **dict.fromkeys(FUNCTIONS, _function),
    }
)
