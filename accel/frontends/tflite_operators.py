"""How each TFLite operator is read. ``HANDLERS`` is the list of what is supported."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from accel.frontends import tflite_kernels as kernels
from accel.frontends.tflite_file import FileOperator, FileTensor
from accel.frontends.tflite_graph import CONVERT, Handler, Importer, Padding, Value, requantisation
from accel.frontends.tflite_kernels import Grid
from accel.graph import Add, AveragePool, Concat, Conv2D, Lookup, MaxPool, Window
from accel.numerics import INT8_MIN, Rounding, quantise_multiplier

__all__ = ["HANDLERS"]

Int8Array = npt.NDArray[np.int8]
Int32Array = npt.NDArray[np.int32]

# Convolutions and fully connected layers


def _weights(g: Importer, op: FileOperator, axis: int, rank: int) -> tuple[FileTensor, Int8Array, Int32Array]:
    """Return the weights' tensor, the weights moved to int8, and their zero points: one, or one for each output channel."""
    tensor = g.constant(op, 1, "weights")
    data = tensor.data
    if data is None or data.dtype not in (np.int8, np.uint8):
        raise g.error(op, f"its weights are {tensor.kind.lower()}, but must be int8 or uint8; {CONVERT}")
    if data.ndim != rank or not data.size:
        raise g.error(op, f"its weights must have {rank} dimensions of at least 1, not shape {data.shape}")
    channels = data.shape[axis]
    counts = len(tensor.scale), len(tensor.zero_point)
    if counts[0] not in (1, channels) or counts[1] not in (0, 1, counts[0]) or (counts[0] > 1 and tensor.axis != axis):
        raise g.error(
            op,
            f"its weights have {counts[0]} scales along axis {tensor.axis} and {counts[1]} zero points; "
            f"they must have one, or {channels} along axis {axis}",
        )
    if not (np.isfinite(tensor.scale) & (tensor.scale > 0)).all():
        raise g.error(op, "its weights' scales must be finite and positive; export the model again")
    moved = 128 if data.dtype == np.uint8 else 0
    zero_point = np.asarray(tensor.zero_point if counts[1] else np.zeros(1, np.int64)) - moved
    if zero_point.min() < -128 or zero_point.max() > 127:
        raise g.error(op, f"its weights' zero points do not fit {tensor.kind.lower()}; export the model again")
    return tensor, (data.astype(np.int16) - moved).astype(np.int8), zero_point.astype(np.int32)


def _bias(g: Importer, op: FileOperator, channels: int) -> Int32Array:
    if g.tensor(op, 2) is None:
        return np.zeros(channels, np.int32)
    data = g.constant(op, 2, "bias").data
    if data is None or data.dtype != np.int32 or data.size != channels:
        raise g.error(op, f"its bias must be {channels} int32 numbers, one for each output channel; {CONVERT}")
    return data.reshape(-1).astype(np.int32)


def _linear(
    g: Importer,
    op: FileOperator,
    value: Value,
    window: Window,
    parameters: tuple[FileTensor, Int8Array, Int32Array],
    arranged: Int8Array,
    *,
    in_float: bool,
    groups: int = 1,
) -> None:
    """Add a layer with weights arranged as (out, kernel height, kernel width, in / groups).

    ``in_float``: the kernel multiplies a single pair of scales in float32.
    """
    tensor, _, zero_point = parameters
    grid = g.output_grid(op)
    # Unsigned layers are LiteRT's alone, whose fully connected kernel rounds once.
    is_single = tensor.kind == "UINT8" and op.kind == "FULLY_CONNECTED"
    if (tensor.kind == "UINT8") != (g.output(op).kind == "UINT8"):
        raise g.error(op, f"its weights are {tensor.kind.lower()}, but its result {g.output(op).kind.lower()}; {CONVERT}")
    if tensor.kind == "INT8" and zero_point.any() and op.kind != "FULLY_CONNECTED":
        raise g.error(op, f"its int8 weights must have the zero point 0; {CONVERT}")
    if in_float and len(tensor.scale) == 1:
        products = (value.grid[0] * tensor.scale).astype(np.float64)
    else:
        products = np.float64(value.grid[0]) * tensor.scale.astype(np.float64)
    factors = [quantise_multiplier(product / float(grid[0])) for product in products.tolist()]
    g.layer(
        op,
        Conv2D,
        [value],
        grid,
        window=window,
        weights=np.ascontiguousarray(arranged),
        bias=_bias(g, op, len(arranged)),
        weight_zero_point=zero_point,
        groups=groups,
        requantisation=requantisation(
            factors, grid[1], _clamp(g, op, grid), Rounding.SINGLE_UP if is_single else Rounding.DOUBLE_AWAY
        ),
    )


def _clamp(g: Importer, op: FileOperator, grid: Grid) -> tuple[int, int]:
    """Return the bytes to which the fused activation clamps."""
    activation = op.options["FusedActivationFunction"]
    try:
        return kernels.activation_range(activation, *grid)
    except KeyError:
        raise g.error(op, f"its fused activation {activation} is not supported; use NONE, RELU, RELU6 or RELU_N1_TO_1") from None


def _conv(g: Importer, op: FileOperator) -> None:
    value = g.spatial(op, g.padded_value(op))
    parameters = _weights(g, op, 0, 4)
    weights, channels = parameters[1], value.map.shape[2]
    filters, *kernel, depth = weights.shape
    if channels % depth or filters % (channels // depth):
        raise g.error(op, f"weights {weights.shape} do not fit {channels} input channels")
    window, value = _window(g, op, value, (kernel[0], kernel[1]))
    in_float = g.output(op).kind == "UINT8"
    _linear(g, op, value, window, parameters, weights, in_float=in_float, groups=channels // depth)


def _depthwise(g: Importer, op: FileOperator) -> None:
    value = g.spatial(op, g.padded_value(op))
    parameters = _weights(g, op, 3, 4)
    weights, channels = parameters[1], value.map.shape[2]
    if weights.shape[0] != 1 or weights.shape[3] % channels:
        raise g.error(op, f"weights {weights.shape} do not fit {channels} input channels")
    window, value = _window(g, op, value, (weights.shape[1], weights.shape[2]))
    in_float = g.output(op).kind == "UINT8"
    _linear(g, op, value, window, parameters, weights.transpose(3, 1, 2, 0), in_float=in_float, groups=channels)


def _fully_connected(g: Importer, op: FileOperator) -> None:
    value = g.value(op)
    parameters = _weights(g, op, 0, 2)
    if op.options["WeightsFormat"]:
        raise g.error(op, "its weights are shuffled for another processor; convert the model without that")
    height, width, channels = value.map.shape
    outputs, depth = parameters[1].shape
    if depth == height * width * channels:
        kernel = height, width
    elif depth == channels:
        kernel = 1, 1
    else:
        raise g.error(op, f"weights {parameters[1].shape} do not fit a map of {value.map.shape}")
    arranged = parameters[1].reshape(outputs, *kernel, channels)
    _linear(g, op, value, Window(kernel=kernel), parameters, arranged, in_float=True)


# Windows


def _window(g: Importer, op: FileOperator, value: Value, kernel: tuple[int, int]) -> tuple[Window, Value]:
    """Return the window of a convolution, and its input without the padding, which the window has taken in where that is exact."""
    if value.pad_value != value.map.zero_point:
        value = g.settled(value)
    dilation = op.options["DilationHFactor"], op.options["DilationWFactor"]
    return _sliding(g, op, value, kernel, dilation), replace(value, padding=(0, 0, 0, 0))


def _sliding(g: Importer, op: FileOperator, value: Value, kernel: tuple[int, int], dilation: tuple[int, int] = (1, 1)) -> Window:
    """Return the window that an operator's options describe, with the padding around its input."""
    stride = op.options["StrideH"], op.options["StrideW"]
    if min(*stride, *dilation, *kernel) < 1:
        raise g.error(op, f"kernel {kernel}, strides {stride} and dilations {dilation} must be at least 1")
    top, left, bottom, right = value.padding
    padding = [top, left, bottom, right]
    if op.options["Padding"] == "SAME":
        for axis, size in enumerate((value.map.shape[0] + top + bottom, value.map.shape[1] + left + right)):
            total = max(0, (-(-size // stride[axis]) - 1) * stride[axis] + (kernel[axis] - 1) * dilation[axis] + 1 - size)
            padding[axis] += total // 2
            padding[axis + 2] += total - total // 2
    elif op.options["Padding"] != "VALID":
        raise g.error(op, f"its padding must be SAME or VALID, not {op.options['Padding']}")
    return Window(kernel=kernel, stride=stride, padding=(padding[0], padding[1], padding[2], padding[3]), dilation=dilation)


def _pool_window(g: Importer, op: FileOperator, value: Value) -> Window:
    return _sliding(g, op, value, (op.options["FilterHeight"], op.options["FilterWidth"]))


def _max_pool(g: Importer, op: FileOperator) -> None:
    value = g.spatial(op, g.padded_value(op))
    kernel = op.options["FilterHeight"], op.options["FilterWidth"]
    # The smallest byte never wins, so such padding is the pool's own, unless a whole window lies in it.
    is_own = value.pad_value == INT8_MIN and all(side < kernel[i % 2] for i, side in enumerate(value.padding))
    if not is_own:
        value = g.settled(value)
    grid = g.same_grid(op, value)
    minimum, maximum = _clamp(g, op, grid)
    g.layer(op, MaxPool, [value], grid, window=_pool_window(g, op, value), minimum=minimum, maximum=maximum)


def _average_pool(g: Importer, op: FileOperator) -> None:
    value = g.spatial(op, g.value(op))
    grid = g.same_grid(op, value)
    window = _pool_window(g, op, value)
    # Bytes are summed as they are; unsigned ones from 0 on, so that ties go up.
    base = INT8_MIN if g.output(op).kind == "UINT8" else 0
    factors = {count: kernels.average_factor(count) for count in range(1, math.prod(window.kernel) + 1)}
    g.layer(
        op,
        AveragePool,
        [value],
        grid,
        window=window,
        input_zero_point=base,
        factors=factors,
        requantisation=requantisation([(0, 0)], base, _clamp(g, op, grid), Rounding.SINGLE_UP),
    )


def _mean(g: Importer, op: FileOperator) -> None:
    value = g.value(op)
    _check_signed(g, op)
    rank = len(value.dims)
    axes = {axis % rank for axis in g.integers(op, 1, "axes").reshape(-1).tolist()}
    kept = [axis for axis, size in enumerate(value.dims) if size > 1 and axis not in axes]
    height, width, channels = value.map.shape
    if value.dims[-1] != channels or rank - 1 in axes or any(axis < rank - 1 for axis in kept):
        raise g.error(op, f"averages the axes {sorted(axes)} of {value.dims}; only height and width together are supported")
    grid = g.output_grid(op)
    count = height * width
    factor = kernels.mean_factor(count, float(value.grid[0]) / float(grid[0]))
    g.layer(
        op,
        AveragePool,
        [value],
        grid,
        window=Window(kernel=(height, width)),
        input_zero_point=value.grid[1],
        factors={count: factor},
        requantisation=requantisation([(0, 0)], grid[1]),
    )


def _pad(g: Importer, op: FileOperator) -> None:
    value = g.spatial(op, g.padded_value(op))
    grid = g.same_grid(op, value)
    sides = g.integers(op, 1, "paddings")
    if sides.shape != (4, 2) or sides.min() < 0 or sides[[0, 3]].any():
        raise g.error(op, f"its paddings must be of height and width alone, and not negative, not {sides.tolist()}")
    pad_value = grid[1]
    if (given := g.tensor(op, 2)) is not None:
        data = g.constant(op, 2, "padding value").data
        if data is None or data.dtype not in (np.int8, np.uint8) or data.size != 1:
            raise g.error(op, f"its padding value must be one byte, not {given.kind.lower()}")
        pad_value = int(data.reshape(())) - (128 if data.dtype == np.uint8 else 0)
    if any(value.padding) and value.pad_value != pad_value:
        value = g.settled(value)
    (top, bottom), (left, right) = sides[1:3].tolist()
    before = value.padding
    padding: Padding = (before[0] + top, before[1] + left, before[2] + bottom, before[3] + right)
    dims = (1, value.dims[1] + top + bottom, value.dims[2] + left + right, value.dims[3])
    if dims != g.output(op).shape:
        raise g.error(op, f"its result is {dims}, but the file says {g.output(op).shape}; export the model again")
    g.values[op.outputs[0]] = replace(value, dims=dims, padding=padding, pad_value=pad_value)


# Element by element


def _check_signed(g: Importer, op: FileOperator) -> None:
    if g.output(op).kind == "UINT8":
        raise g.error(op, "is supported for int8 only; convert the model with int8 operators")


def _add(g: Importer, op: FileOperator) -> None:
    for position in (0, 1):
        tensor = g.tensor(op, position)
        if tensor is not None and tensor.is_constant:
            raise g.error(op, "adds a constant; the nearest supported form is the bias of a CONV_2D or DEPTHWISE_CONV_2D")
    values = g.value(op, 0), g.value(op, 1)
    if values[0].dims != values[1].dims:
        raise g.error(op, f"adds {values[0].dims} and {values[1].dims}; broadcasting is not supported")
    grid = g.output_grid(op)
    scales = [float(value.map.scale) for value in values]
    tables = [kernels.add_operand(scale, value.grid[1], max(scales)) for scale, value in zip(scales, values, strict=True)]
    factor = kernels.add_factor(max(scales), float(grid[0]))
    g.layer(
        op,
        Add,
        values,
        grid,
        tables=(tables[0], tables[1]),
        requantisation=requantisation([factor], grid[1], _clamp(g, op, grid)),
    )


def _concatenation(g: Importer, op: FileOperator) -> None:
    values = [g.value(op, position) for position in range(len(op.inputs))]
    for value in values:
        g.same_grid(op, value)
    if op.options["FusedActivationFunction"] != "NONE":
        raise g.error(op, f"its fused activation {op.options['FusedActivationFunction']} is not supported; use NONE")
    axis = op.options["Axis"]
    for value in values:
        rank = len(value.dims)
        if axis % rank != rank - 1 or value.dims[-1] != value.map.shape[2]:
            raise g.error(op, f"joins the axis {axis} of {value.dims}; only the channels, the last axis, can be joined")
    g.layer(op, Concat, values, g.output_grid(op))


def _table(make: Callable[[Importer, FileOperator, Grid, Grid], Int8Array]) -> Handler:
    """Return the handler of a kernel that maps one byte to one."""

    def handle(g: Importer, op: FileOperator) -> None:
        value = g.value(op)
        _check_signed(g, op)
        grid = g.output_grid(op)
        table = make(g, op, value.grid, grid)
        g.layer(op, Lookup, [value], grid, table=table)

    return handle


def _relu6(g: Importer, op: FileOperator, source: Grid, target: Grid) -> Int8Array:
    g.same_grid(op, g.value(op))
    return kernels.relu6_table(source)


def _leaky_relu(g: Importer, op: FileOperator, source: Grid, target: Grid) -> Int8Array:
    alpha = op.options["Alpha"]
    if not 0 <= alpha < math.inf:
        raise g.error(op, f"its slope must be at least 0, not {alpha}")
    return kernels.leaky_relu_table(source, target, alpha)


def _on_fixed_grid(make: Callable[[Grid], Int8Array], kind: str) -> Handler:
    """Return the handler of a kernel whose output always has one grid."""
    scale, zero_point = kernels.FIXED_GRIDS[kind]

    def table(g: Importer, op: FileOperator, source: Grid, target: Grid) -> Int8Array:
        if target != (scale, zero_point):
            given = f"not {target[0]:g} and {target[1]}"
            raise g.error(op, f"its result must have scale {scale:g} and zero point {zero_point}, {given}; {CONVERT}")
        return make(source)

    return _table(table)


def _quantize(g: Importer, op: FileOperator) -> None:
    grid = g.output_grid(op)
    if op.inputs[0] == g.model.inputs[0] and g.model.tensors[op.inputs[0]].kind == "FLOAT32":
        value = g.values.get(op.inputs[0]) or g.set_input(grid)
        if value.grid != grid:
            raise g.error(op, "the model's input is quantised a second time with another scale; quantise it once")
        g.values[op.outputs[0]] = value
        return
    value = g.any_value(op)
    if value.host or value.grid == grid:
        g.values[op.outputs[0]] = value
        return
    value = g.settled(value)
    table = kernels.requantise_table(value.grid, grid)
    g.layer(op, Lookup, [value], grid, table=table)


# What moves no byte, and what the host does


def _view(g: Importer, op: FileOperator) -> None:
    value = g.any_value(op)
    value = value if value.host else g.settled(value)
    dims = g.output(op).shape
    if math.prod(dims) != math.prod(value.dims):
        raise g.error(op, f"makes {dims} of {value.dims}, which has another number of values; export the model again")
    g.values[op.outputs[0]] = replace(value, dims=dims)


def _dequantize(g: Importer, op: FileOperator) -> None:
    value = g.any_value(op)
    value = value if value.host else replace(g.settled(value), host=op.label)
    g.values[op.outputs[0]] = value


def _host(g: Importer, op: FileOperator) -> None:
    """Leave an operator to the host, which is right only at the end of a model."""
    value = g.any_value(op)
    g.notes.append(f"{op.label} at the end is left to the host")
    g.values[op.outputs[0]] = value if value.host else replace(g.settled(value), host=op.label)


#: What reads each operator.
HANDLERS: Mapping[str, Handler] = MappingProxyType(
    {
        "ADD": _add,
        "ARG_MAX": _host,
        "AVERAGE_POOL_2D": _average_pool,
        "CONCATENATION": _concatenation,
        "CONV_2D": _conv,
        "DEPTHWISE_CONV_2D": _depthwise,
        "DEQUANTIZE": _dequantize,
        "EXPAND_DIMS": _view,
        "FULLY_CONNECTED": _fully_connected,
        "HARD_SWISH": _table(lambda g, op, source, target: kernels.hard_swish_table(source, target)),
        "LEAKY_RELU": _table(_leaky_relu),
        "LOGISTIC": _on_fixed_grid(kernels.logistic_table, "LOGISTIC"),
        "LOG_SOFTMAX": _host,
        "MAX_POOL_2D": _max_pool,
        "MEAN": _mean,
        "PAD": _pad,
        "PADV2": _pad,
        "QUANTIZE": _quantize,
        "RELU": _table(lambda g, op, source, target: kernels.relu_table(source, target)),
        "RELU6": _table(_relu6),
        "RESHAPE": _view,
        "SOFTMAX": _host,
        "SQUEEZE": _view,
        "TANH": _on_fixed_grid(kernels.tanh_table, "TANH"),
    }
)
