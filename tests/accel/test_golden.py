"""The golden model against ``onnx.reference`` and ONNX Runtime, which know nothing of this project.

How equality can be exact although ONNX scales are floats: the reference multiplies its int32 sums by a float32 factor in double
precision, where a sum below 2**29 times 24 bits is exact, and a float32 factor is also exactly a Q31 multiplier and a shift.
What is left is its last step, which adds the output's zero point *before* it rounds half to even, where the contract (and ONNX
Runtime) adds it after. The two differ only at a tie and an odd zero point. So factors that are powers of two, where ties abound,
go with even zero points here, and factors with long mantissas, which cannot give a tie, with any. ONNX Runtime then checks
the odd ones.
"""

import math
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from accel import golden
from accel.golden import GoldenError
from accel.graph import Add, AveragePool, Concat, Conv2D, Lookup, MaxPool, Network, Requantisation, Shape, Tensor, Window
from accel.numerics import Rounding, quantise_multiplier

Array = npt.NDArray[Any]
SEEDS = range(25)
TYPES = {"int8": TensorProto.INT8, "int32": TensorProto.INT32, "float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE}


# The reference


def onnx_model(
    nodes: list[onnx.NodeProto], inputs: dict[str, Array], constants: dict[str, Array], output: str = "int8"
) -> onnx.ModelProto:
    """Return a model from ``inputs`` to a tensor ``y`` of the given type."""
    graph = helper.make_graph(
        nodes,
        "reference",
        [helper.make_tensor_value_info(name, TYPES[str(value.dtype)], value.shape) for name, value in inputs.items()],
        [helper.make_tensor_value_info("y", TYPES[output], [None] * next(iter(inputs.values())).ndim)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.checker.check_model(model)
    return model


def run_onnx(model: onnx.ModelProto, inputs: dict[str, Array]) -> Array:
    """Return what onnx.reference makes of a model with one output."""
    outputs: Any = ReferenceEvaluator(model).run(None, inputs)
    return np.asarray(outputs[0])


def ref_onnx(op: str, inputs: dict[str, Array], constants: dict[str, Array], output: str = "int8", **attributes: Any) -> Array:
    """Return what onnx.reference makes of one operator whose operands are named in order, inputs first."""
    node = helper.make_node(op, [*inputs, *constants], ["y"], **attributes)
    return run_onnx(onnx_model([node], inputs, constants, output), inputs)


def attributes_of(window: Window) -> dict[str, Any]:
    return {"kernel_shape": window.kernel, "strides": window.stride, "pads": window.padding, "dilations": window.dilation}


def channels_first(maps: Array) -> Array:
    return np.ascontiguousarray(np.moveaxis(maps, -1, 1))


def channels_last(maps: Array) -> Array:
    return np.ascontiguousarray(np.moveaxis(maps, 1, -1))


# Random cases


def random_int8(rng: np.random.Generator, *shape: int) -> npt.NDArray[np.int8]:
    return rng.integers(-128, 128, shape, np.int8)


def random_window(rng: np.random.Generator, height: int, width: int, *, dilated: bool = True, pooling: bool = False) -> Window:
    """Return a window that fits the map; for ``pooling``, with less padding than kernel."""
    while True:
        kernel = tuple(int(n) for n in rng.integers(1, 5, 2))
        padding = tuple(int(rng.integers(0, kernel[i % 2] if pooling else 4)) for i in range(4))
        window = Window(
            kernel=(kernel[0], kernel[1]),
            stride=(int(rng.integers(1, 4)), int(rng.integers(1, 4))),
            padding=(padding[0], padding[1], padding[2], padding[3]),
            dilation=(int(rng.integers(1, 4)), int(rng.integers(1, 4))) if dilated else (1, 1),
        )
        if min(window.output_size(height, width)) >= 1:
            return window


def requantisation(factors: list[float], rounding: Rounding = Rounding.HALF_EVEN, **others: int) -> Requantisation:
    """Return the exact integer form of float32 factors."""
    pairs = [quantise_multiplier(factor) for factor in factors]
    for factor, (multiplier, shift) in zip(factors, pairs, strict=True):
        assert Fraction(multiplier) * Fraction(2) ** (shift - 31) == Fraction(factor), "the factor must be exact in Q31"
    multipliers, shifts = (np.array(column, np.int32) for column in zip(*pairs, strict=True))
    return Requantisation(multiplier=multipliers, shift=shifts, rounding=rounding, **{"zero_point": 0} | others)


class ConvCase:
    """A random convolution with ONNX's scales, and the layer with the integers that stand for them."""

    def __init__(self, seed: int, *, depthwise: bool = False) -> None:
        rng = np.random.default_rng(seed)
        self.rng = rng
        self.groups = int(rng.integers(2, 7)) if depthwise else int(rng.choice([1, 1, 2, 3]))
        per_group_in = 1 if depthwise else int(rng.integers(1, 6))
        out = self.groups * int(rng.integers(1, 3) if depthwise else rng.integers(1, 6))
        height, width = (int(n) for n in rng.integers(3, 10, 2))
        self.window = random_window(rng, height, width)
        self.has_ties = seed % 2 == 0
        bits = 4 if self.has_ties else 8  # small operands and factors of 1/2 to 1/8 make many ties
        self.x = random_int8(rng, int(rng.integers(1, 4)), height, width, per_group_in * self.groups) >> 8 - bits
        self.weights = random_int8(rng, out, *self.window.kernel, per_group_in) >> 8 - bits
        self.bias = rng.integers(-20, 20, out).astype(np.int32) << bits
        self.x_zero = int(rng.integers(-128, 128)) >> 8 - bits
        self.w_zero = random_int8(rng, out if seed % 3 == 0 else 1) >> 8 - bits if seed % 4 > 1 else np.zeros(1, np.int8)
        self.y_zero = int(rng.integers(-30, 30)) * (2 if self.has_ties else 1)
        self.per_channel = bool(rng.integers(0, 2))
        count = out if self.per_channel else 1
        if self.has_ties:
            self.x_scale, self.y_scale = np.float32(0.25), np.float32(2.0)
            self.w_scale = np.exp2(rng.integers(0, 3, count)).astype(np.float32)
        else:
            taps = self.weights[0].size
            typical = 74 * 74 * math.sqrt(taps) + taps * abs(self.x_zero * float(np.abs(self.w_zero.astype(int)).max()))
            self.x_scale, self.y_scale = np.float32(rng.uniform(0.01, 0.1)), np.float32(rng.uniform(0.01, 0.1))
            self.w_scale = (self.y_scale / self.x_scale * 60 / typical * rng.uniform(0.5, 2, count)).astype(np.float32)

    def factors(self) -> list[float]:
        """Return the factors, rounded to float32 as in the reference."""
        return [float(f) for f in np.atleast_1d(self.x_scale * self.w_scale / self.y_scale)]

    def layer(self, **others: Any) -> Conv2D:
        values: dict[str, Any] = {"requantisation": requantisation(self.factors(), zero_point=self.y_zero)}
        return Conv2D(
            name="conv",
            inputs=("x",),
            output="y",
            window=self.window,
            weights=self.weights,
            bias=self.bias,
            weight_zero_point=self.w_zero.astype(np.int32),
            groups=self.groups,
            **values | others,
        )

    def onnx_constants(self) -> dict[str, Array]:
        return {
            "x_scale": np.array(self.x_scale),
            "x_zero": np.array(self.x_zero, np.int8),
            "w": channels_first(self.weights),
            "w_scale": self.w_scale if self.per_channel else self.w_scale.reshape(()),
            "w_zero": self.w_zero if len(self.w_zero) > 1 else self.w_zero.reshape(()),
            "y_scale": np.array(self.y_scale),
            "y_zero": np.array(self.y_zero, np.int8),
            "bias": self.bias,
        }


# Convolution


@pytest.mark.parametrize("depthwise", [False, True], ids=["dense", "depthwise"])
@pytest.mark.parametrize("seed", SEEDS)
def test_conv2d_is_qlinearconv(seed: int, depthwise: bool) -> None:
    case = ConvCase(seed, depthwise=depthwise)
    constants = case.onnx_constants()
    expected = ref_onnx("QLinearConv", {"x": channels_first(case.x)}, constants, group=case.groups, **attributes_of(case.window))
    actual = golden.conv2d(case.layer(), case.x, case.x_zero)
    np.testing.assert_array_equal(actual, channels_last(expected), err_msg=f"seed {seed}")


@pytest.mark.parametrize("seed", SEEDS)
def test_conv2d_sums_are_those_of_convinteger(seed: int) -> None:
    """Sums of the reference, biased and rounded half up in unbounded integers: also checks bias, clamp and table."""
    case = ConvCase(seed)
    constants = {"w": channels_first(case.weights), "x_zero": np.array(case.x_zero, np.int8), "w_zero": case.w_zero}
    if len(case.w_zero) == 1:
        constants["w_zero"] = case.w_zero.reshape(())
    nodes = {"x": channels_first(case.x)}
    sums = ref_onnx("ConvInteger", nodes, constants, "int32", group=case.groups, **attributes_of(case.window))
    shift = int(case.rng.integers(0, 12))
    low, high = sorted(int(n) for n in case.rng.integers(-128, 128, 2))
    table = random_int8(case.rng, 256)
    biased = channels_last(sums).astype(np.int64) + case.bias
    rounded = np.floor(biased / 2.0**shift + 0.5).astype(np.int64)  # exact: 32 bits in a double
    clamped = np.clip(rounded + case.y_zero, low, high)
    layer = case.layer(
        table=table,
        requantisation=requantisation([2.0**-shift], Rounding.SINGLE_UP, zero_point=case.y_zero, minimum=low, maximum=high),
    )
    actual = golden.conv2d(layer, case.x, case.x_zero)
    np.testing.assert_array_equal(actual, table[clamped + 128], err_msg=f"seed {seed}")


@pytest.mark.parametrize("seed", range(10))
def test_conv2d_is_onnx_runtimes_at_ties_and_odd_zero_points(seed: int) -> None:
    """The operands are small, so that ONNX Runtime's kernels for older processors, which add two products in 16 bits, are exact."""
    case = ConvCase(2 * seed)
    assert case.has_ties
    case.y_zero = case.y_zero // 2 * 2 + 1
    inputs, constants = {"x": channels_first(case.x)}, case.onnx_constants()
    node = helper.make_node("QLinearConv", [*inputs, *constants], ["y"], group=case.groups, **attributes_of(case.window))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    model = onnx_model([node], inputs, constants).SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    expected = channels_last(session.run(None, inputs)[0])
    np.testing.assert_array_equal(golden.conv2d(case.layer(), case.x, case.x_zero), expected, err_msg=f"seed {2 * seed}")


@pytest.mark.parametrize("seed", SEEDS)
def test_fully_connected_is_qlinearmatmul(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width, channels, out, batch = (int(n) for n in rng.integers(1, 7, 5))
    x = random_int8(rng, batch, height, width, channels)
    weights = random_int8(rng, out, height, width, channels)
    ties = seed % 2 == 0
    y_zero = int(rng.integers(-64, 64)) * (2 if ties else 1)
    factor = np.float32(2.0**-8) if ties else np.float32(rng.uniform(0.001, 0.01))
    x_zero, w_zero = int(rng.integers(-128, 128)), random_int8(rng, out)
    expected = ref_onnx(
        "QLinearMatMul",
        {"a": x.reshape(batch, -1)},
        {
            "a_scale": np.array(factor),
            "a_zero": np.array(x_zero, np.int8),
            "b": np.ascontiguousarray(weights.reshape(out, -1).T),
            "b_scale": np.array(1, np.float32),
            "b_zero": w_zero,
            "y_scale": np.array(1, np.float32),
            "y_zero": np.array(y_zero, np.int8),
        },
    )
    layer = Conv2D(
        name="fc",
        inputs=("x",),
        output="y",
        window=Window(kernel=(height, width)),
        weights=weights,
        bias=np.zeros(out, np.int32),
        weight_zero_point=w_zero.astype(np.int32),
        requantisation=requantisation([float(factor)], zero_point=y_zero),
    )
    np.testing.assert_array_equal(golden.conv2d(layer, x, x_zero).reshape(batch, out), expected, err_msg=f"seed {seed}")


def unbounded_conv(layer: Conv2D, x: Array, x_zero: int, pixel: tuple[int, int], channel: int) -> int:
    """Return one sum of an ungrouped, unpadded, undilated convolution of one map in Python's integers."""
    total = int(layer.bias[channel])
    for ky, kx, c in np.ndindex(layer.weights.shape[1:]):
        byte = int(x[0, pixel[0] * layer.window.stride[0] + ky, pixel[1] * layer.window.stride[1] + kx, c])
        total += (byte - x_zero) * (int(layer.weights[channel, ky, kx, c]) - int(layer.weight_zero_point[0]))
    return total


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("bias", [2**31 - 1, -(2**31)])
def test_sums_wrap_at_32_bits(bias: int, channels: int) -> None:
    rng = np.random.default_rng(channels)
    layer = Conv2D(
        name="conv",
        inputs=("x",),
        output="y",
        window=Window(kernel=(3, 3), stride=(1, 2)),
        weights=random_int8(rng, 2, 3, 3, channels),
        bias=np.full(2, bias, np.int32),
        weight_zero_point=np.array([-128 if bias > 0 else 127], np.int32),
        requantisation=requantisation([2.0**-24], Rounding.SINGLE_UP, zero_point=1),
    )
    x = random_int8(rng, 1, 5, 7, channels)
    actual = golden.conv2d(layer, x, -128)
    wrapped = 0
    for y, xx, c in np.ndindex(3, 3, 2):
        total = unbounded_conv(layer, x, -128, (y, xx), c)
        as_int32 = (total + 2**31) % 2**32 - 2**31
        wrapped += total != as_int32
        assert actual[0, y, xx, c] == max(-128, min(127, (as_int32 + 2**23 >> 24) + 1))
    assert wrapped > 0, "the case must exercise the wrap"


def test_sums_beyond_single_precision_are_exact() -> None:
    """All operands extreme: 2**24 is passed many times over, and the low bits still decide."""
    channels = 600
    x = np.full((1, 4, 4, channels), 127, np.int8)
    x[0, 0, 0, 0] = 126
    layer = Conv2D(
        name="conv",
        inputs=("x",),
        output="y",
        window=Window(kernel=(4, 4)),
        weights=np.full((1, 4, 4, channels), 127, np.int8),
        bias=np.array([-(16 * channels * 255 * 255) + 255 + 77], np.int32),
        weight_zero_point=np.array([-128], np.int32),
        requantisation=requantisation([1.0]),
    )
    assert golden.conv2d(layer, x, -128).tolist() == [[[[77]]]]


def test_large_layers_are_computed_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    case = ConvCase(3)
    whole = golden.conv2d(case.layer(), case.x, case.x_zero)
    for size in (1, 100, 1000):
        monkeypatch.setattr(golden, "_BLOCK_ELEMENTS", size)
        np.testing.assert_array_equal(golden.conv2d(case.layer(), case.x, case.x_zero), whole)


# Pooling


@pytest.mark.parametrize("seed", SEEDS)
def test_max_pool(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = random_int8(rng, 2, *(int(n) for n in rng.integers(4, 10, 2)), int(rng.integers(1, 5)))
    window = random_window(rng, x.shape[1], x.shape[2], pooling=True)
    low, high = (-128, 127) if seed % 2 else sorted(int(n) for n in rng.integers(-128, 128, 2))
    expected = ref_onnx("MaxPool", {"x": channels_first(x)}, {}, **attributes_of(window))
    layer = MaxPool(name="pool", inputs=("x",), output="y", window=window, minimum=low, maximum=high)
    np.testing.assert_array_equal(golden.max_pool(layer, x), np.clip(channels_last(expected), low, high), err_msg=f"seed {seed}")


def exact(total: int, multiplier: int, shift: int, rounding: Rounding) -> int:
    """Return the requantised sum in unbounded rational arithmetic (``DOUBLE_AWAY`` only where one rounding is all there is)."""
    value = Fraction(total) * multiplier * Fraction(2) ** (shift - 31)
    if rounding is Rounding.HALF_EVEN:
        return round(value)
    assert rounding is Rounding.SINGLE_UP or shift >= 0
    return math.floor(value + Fraction(1, 2))


@pytest.mark.parametrize("count_padding", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_average_pool(seed: int, count_padding: bool) -> None:
    """The reference's averages of real numbers, times its own counts, are the exact sums."""
    rng = np.random.default_rng(seed)
    x = random_int8(rng, 2, *(int(n) for n in rng.integers(4, 10, 2)), int(rng.integers(1, 5)))
    window = random_window(rng, x.shape[1], x.shape[2], dilated=False, pooling=True)
    if seed % 5 == 0:  # global
        window = Window(kernel=(x.shape[1], x.shape[2]))
    zero = int(rng.integers(-128, 128))
    attributes = {"kernel_shape": window.kernel, "strides": window.stride, "pads": window.padding}
    centred = {"x": channels_first(x).astype(np.float64) - zero}
    taps = math.prod(window.kernel)
    inside = {"x": np.ones((1, 1, *x.shape[1:3]))}
    share = ref_onnx("AveragePool", inside, {}, "float64", count_include_pad=1, **attributes)[0, 0] * taps
    counts = np.rint(share).astype(int)
    averages = ref_onnx("AveragePool", centred, {}, "float64", count_include_pad=int(count_padding), **attributes)
    sums = np.rint(averages * (taps if count_padding else counts)).astype(int)
    used = {taps} if count_padding else {int(n) for n in counts.flat}
    factors = {n: quantise_multiplier(1 / n) if n > 1 else (2**31 - 1, 0) for n in used}
    rounding = Rounding(seed % 3)
    if rounding is Rounding.DOUBLE_AWAY:
        factors = {n: (2**31 // n if n > 1 else 2**31 - 1, 0) for n in used}
    y_zero = int(rng.integers(-128, 128))
    layer = AveragePool(
        name="pool",
        inputs=("x",),
        output="y",
        window=window,
        input_zero_point=zero,
        factors=factors,
        requantisation=requantisation([1.0], rounding, zero_point=y_zero, minimum=-100, maximum=90),
        count_padding=count_padding,
    )
    actual = golden.average_pool(layer, x)
    for n, y, xx, c in np.ndindex(actual.shape):
        multiplier, shift = factors[taps if count_padding else int(counts[y, xx])]
        expected = exact(int(sums[n, c, y, xx]), multiplier, shift, rounding) + y_zero
        assert actual[n, y, xx, c] == max(-100, min(90, expected)), f"seed {seed}, at {(n, y, xx, c)}"


# Element-wise


@pytest.mark.parametrize("seed", SEEDS)
def test_add_is_dequantise_add_quantise(seed: int) -> None:
    """Scales of few bits, so that the reference's real numbers are exact: a/64*3 + b/128*5, in units of 1/128."""
    rng = np.random.default_rng(seed)
    a, b = random_int8(rng, 2, 3, 4, 5), random_int8(rng, 2, 3, 4, 5)
    a_zero, b_zero, y_zero = random_int8(rng, 3)
    y_log2 = int(rng.integers(-5, 2))
    constants = {
        "a_scale": np.array(3 / 64, np.float32),
        "a_zero": np.array(a_zero),
        "b_scale": np.array(5 / 128, np.float32),
        "b_zero": np.array(b_zero),
        "y_scale": np.array(2.0**y_log2, np.float32),
        "y_zero": np.array(y_zero),
    }
    nodes = [
        helper.make_node("DequantizeLinear", ["a", "a_scale", "a_zero"], ["real_a"]),
        helper.make_node("DequantizeLinear", ["b", "b_scale", "b_zero"], ["real_b"]),
        helper.make_node("Add", ["real_a", "real_b"], ["sum"]),
        helper.make_node("QuantizeLinear", ["sum", "y_scale", "y_zero"], ["y"]),
    ]
    inputs: dict[str, Array] = {"a": a, "b": b}
    expected = run_onnx(onnx_model(nodes, inputs, constants), inputs)
    codes = np.arange(-128, 128)
    layer = Add(
        name="add",
        inputs=("a", "b"),
        output="y",
        tables=((6 * (codes - int(a_zero))).astype(np.int32), (5 * (codes - int(b_zero))).astype(np.int32)),
        requantisation=requantisation([2.0 ** (-7 - y_log2)], zero_point=int(y_zero)),
    )
    np.testing.assert_array_equal(golden.add(layer, a, b), expected, err_msg=f"seed {seed}")


def test_add_wraps_at_32_bits() -> None:
    tables = (np.full(256, 2**31 - 1, np.int32), np.arange(256, dtype=np.int32))
    layer = Add(name="add", inputs=("a", "b"), output="y", tables=tables, requantisation=requantisation([2.0**-24]))
    zeros = np.zeros((1, 1, 1, 1), np.int8)
    assert golden.add(layer, zeros, np.full((1, 1, 1, 1), -128, np.int8)).item() == 127
    assert golden.add(layer, zeros, np.full((1, 1, 1, 1), -127, np.int8)).item() == -128


def test_lookup_is_a_leaky_relu() -> None:
    zero = -3
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "scale", "zero"], ["real"]),
        helper.make_node("LeakyRelu", ["real"], ["leaky"], alpha=0.25),
        helper.make_node("QuantizeLinear", ["leaky", "scale", "zero"], ["y"]),
    ]
    constants: dict[str, Array] = {"scale": np.array(0.5, np.float32), "zero": np.array(zero, np.int8)}
    x = random_int8(np.random.default_rng(5), 2, 7, 6, 5)
    expected = run_onnx(onnx_model(nodes, {"x": x}, constants), {"x": x})
    table = [code if code >= zero else round(Fraction(code - zero, 4)) + zero for code in range(-128, 128)]
    layer = Lookup(name="leaky", inputs=("x",), output="y", table=np.array(table, np.int8))
    np.testing.assert_array_equal(golden.lookup(layer, x), expected)


def test_concat_is_the_operator() -> None:
    rng = np.random.default_rng(6)
    maps = {name: random_int8(rng, 2, 7, 6, channels) for name, channels in (("a", 3), ("b", 1), ("c", 5))}
    node = helper.make_node("Concat", ["a", "b", "c"], ["y"], axis=3)
    layer = Concat(name="join", inputs=("a", "b", "c"), output="y")
    np.testing.assert_array_equal(golden.concat(layer, *maps.values()), run_onnx(onnx_model([node], maps, {}), maps))


# Networks


def small_network(rng: np.random.Generator) -> tuple[Network, onnx.ModelProto]:
    """Return convolution, max pool, convolution, fully connected layer, in both forms; zero points are even."""
    zero = {"x": 4, "a": -30, "b": 6, "y": 20}
    weights = {"first": random_int8(rng, 5, 3, 3, 2), "second": random_int8(rng, 6, 2, 2, 5), "last": random_int8(rng, 7, 3, 3, 6)}
    bias = {name: rng.integers(-999, 999, len(w)).astype(np.int32) for name, w in weights.items()}
    factor = {"first": 2.0**-8, "second": 2.0**-9, "last": 2.0**-9}
    windows = {"first": Window(kernel=(3, 3), padding=(1, 1, 1, 1)), "second": Window(kernel=(2, 2)), "last": Window(kernel=(3, 3))}
    ends = {"first": ("x", "a"), "second": ("p", "b"), "last": ("b", "y")}
    layers = {
        name: Conv2D(
            name=name,
            inputs=(ends[name][0],),
            output=ends[name][1],
            window=windows[name],
            weights=weights[name],
            bias=bias[name],
            requantisation=requantisation([factor[name]], zero_point=zero[ends[name][1]]),
        )
        for name in weights
    }
    pool = MaxPool(name="pool", inputs=("a",), output="p", window=Window(kernel=(2, 2), stride=(2, 2)))
    shapes: dict[str, Shape] = {"a": (8, 8, 5), "p": (4, 4, 5), "b": (3, 3, 6), "y": (1, 1, 7)}
    network = Network(
        name="small",
        input=Tensor(name="x", shape=(8, 8, 2), zero_point=zero["x"]),
        operators=(layers["first"], pool, layers["second"], layers["last"]),
        tensors={
            name: Tensor(name=name, shape=shape, zero_point=zero["a" if name == "p" else name]) for name, shape in shapes.items()
        },
        output="y",
    )
    constants: dict[str, Array] = {"one": np.array(1, np.float32), "none": np.array(0, np.int8)}
    nodes = []
    for name, (source, target) in ends.items():
        source_zero = "zero_" + ("a" if source == "p" else source)
        constants |= {
            f"w_{name}": channels_first(weights[name]),
            f"b_{name}": bias[name],
            f"s_{name}": np.array(factor[name], np.float32),
        }
        constants |= {f"zero_{t}": np.array(z, np.int8) for t, z in zero.items()}
        operands = [source, "one", source_zero, f"w_{name}", f"s_{name}", "none", "one", f"zero_{target}", f"b_{name}"]
        nodes.append(helper.make_node("QLinearConv", operands, [target], pads=windows[name].padding))
    nodes.insert(1, helper.make_node("MaxPool", ["a"], ["p"], kernel_shape=(2, 2), strides=(2, 2)))
    return network, onnx_model(nodes, {"x": np.zeros((5, 2, 8, 8), np.int8)}, constants)


def test_a_network_equals_the_reference_after_every_layer() -> None:
    rng = np.random.default_rng(11)
    network, model = small_network(rng)
    images = random_int8(rng, 5, 8, 8, 2)
    expected = channels_last(run_onnx(model, {"x": channels_first(images)}))
    assert len(np.unique(expected)) > 10
    np.testing.assert_array_equal(golden.run(network, images), expected)
    for image, output in zip(images, expected, strict=True):
        maps = golden.run_all(network, image)
        assert list(maps) == ["x", "a", "p", "b", "y"]
        assert all(maps[name].shape == network.tensor(name).shape and maps[name].dtype == np.int8 for name in maps)
        np.testing.assert_array_equal(maps["y"], output)
        np.testing.assert_array_equal(maps["x"], image)


def residual_network() -> Network:
    """Return a network in which a map is read twice, once long after it was written, and the output is read again."""
    identity = np.arange(-128, 128)
    to_int8 = requantisation([0.5])
    table = np.array(-identity.clip(-127), np.int8)
    layers = (
        Lookup(name="negate", inputs=("x",), output="a", table=table),
        MaxPool(name="pool", inputs=("a",), output="b", window=Window(kernel=(1, 1))),
        Add(
            name="add",
            inputs=("b", "x"),
            output="y",
            tables=(identity.astype(np.int32), 3 * identity.astype(np.int32)),
            requantisation=to_int8,
        ),
        Lookup(name="unused", inputs=("y",), output="z", table=table),
    )
    tensors = {name: Tensor(name=name, shape=(2, 2, 1)) for name in "abyz"}
    return Network(name="residual", input=Tensor(name="x", shape=(2, 2, 1)), operators=layers, tensors=tensors, output="y")


def test_maps_live_as_long_as_they_are_read() -> None:
    image = np.array([[[5], [-3]], [[100], [-128]]], np.int8)
    # -x + 3x, halved
    assert golden.run(residual_network(), image[np.newaxis]).reshape(-1).tolist() == [5, -3, 100, -128]
    assert set(golden.run_all(residual_network(), image)) == set("xabyz")


# Refusals


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        (np.zeros((1, 2, 2, 1), np.uint8), "residual: images must be int8 of shape (2, 2, 1) each, not uint8 (2, 2, 1)"),
        (np.zeros((1, 2, 3, 1), np.int8), "residual: images must be int8 of shape (2, 2, 1) each, not int8 (2, 3, 1)"),
        (np.zeros((2, 2, 1), np.int8), "residual: images must be int8 of shape (2, 2, 1) each, not int8 (2, 1)"),
        (np.zeros((1, 2, 2, 1)), "residual: images must be int8 of shape (2, 2, 1) each, not float64 (2, 2, 1)"),
        (np.zeros((0, 2, 2, 1), np.int8), "residual: there must be at least one image"),
    ],
)
def test_bad_images_are_refused(images: Array, sentence: str) -> None:
    with pytest.raises(GoldenError) as caught:
        golden.run(residual_network(), images)
    assert str(caught.value) == sentence


def test_a_bad_single_image_is_refused() -> None:
    with pytest.raises(GoldenError, match="images must be int8"):
        golden.run_all(residual_network(), np.zeros((2, 2, 1), np.int16))


def test_bad_maps_are_refused() -> None:
    layer = Lookup(name="lookup", inputs=("x",), output="y", table=np.zeros(256, np.int8))
    with pytest.raises(GoldenError) as caught:
        golden.lookup(layer, np.zeros((2, 2, 1), np.int8))
    assert str(caught.value) == "lookup: maps must be int8 of shape (images, height, width, channels), not int8 (2, 2, 1)"


def test_batches_of_different_lengths_are_refused() -> None:
    add = residual_network().operators[2]
    assert isinstance(add, Add)
    with pytest.raises(GoldenError) as caught:
        golden.add(add, np.zeros((1, 2, 2, 1), np.int8), np.zeros((2, 2, 2, 1), np.int8))
    assert str(caught.value) == "add: adds batches of one length, not 1 and 2 maps"
    join = Concat(name="join", inputs=("a", "b"), output="y")
    with pytest.raises(GoldenError) as caught:
        golden.concat(join, np.zeros((1, 2, 2, 1), np.int8), np.zeros((2, 2, 2, 1), np.int8))
    assert str(caught.value) == "join: joins batches of one length, not 1 and 2 maps"
