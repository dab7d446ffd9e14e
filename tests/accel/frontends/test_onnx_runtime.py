"""Imported models against ONNX Runtime, byte for byte.

QOperator models run there without optimisations and QDQ models with them, which is how the runtime computes both in integers: QDQ
models without optimisations are computed in floating point.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator

from accel import golden
from accel.frontends.onnx import load_onnx
from accel.images import as_images

pytest.importorskip("onnxruntime")

SHARED = Path(__file__).parents[4] / "shared" / "data"

IMAGES = 3


def random_bytes(rng: np.random.Generator, dtype: Any, *shape: int) -> np.ndarray:
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, shape, endpoint=True).astype(dtype)


def random_zero(rng: np.random.Generator, dtype: Any) -> Any:
    """Return a zero point not so far out that every result saturates."""
    limits = np.iinfo(dtype)
    return dtype(rng.integers(limits.min + 60, limits.max - 60, endpoint=True))


def element(dtype: Any) -> int:
    return TensorProto.UINT8 if dtype == np.uint8 else TensorProto.INT8


CONVOLUTIONS = [
    # input (C, H, W), weights (M, C/g, kh, kw), attributes
    ((1, 1, 1), (1, 1, 1, 1), {}),
    ((1, 28, 28), (8, 1, 5, 5), {"pads": [2, 2, 2, 2]}),
    ((3, 9, 11), (5, 3, 3, 3), {"strides": [2, 3]}),
    ((3, 9, 11), (5, 3, 3, 2), {"pads": [1, 0, 2, 1], "dilations": [2, 1]}),
    ((6, 8, 8), (4, 3, 3, 3), {"group": 2, "auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ((7, 8, 9), (7, 1, 3, 3), {"group": 7, "pads": [1, 1, 1, 1]}),
    ((4, 7, 7), (8, 1, 3, 3), {"group": 4, "auto_pad": "SAME_LOWER", "strides": [2, 2]}),
    ((5, 6, 6), (3, 5, 1, 1), {"auto_pad": "VALID"}),
]


@pytest.mark.parametrize("per_channel", [False, True], ids=["tensor", "channel"])
@pytest.mark.parametrize("activations", [np.int8, np.uint8])
@pytest.mark.parametrize("form", ["qoperator", "qdq"])
@pytest.mark.parametrize("case", range(len(CONVOLUTIONS)))
def test_convolution(bench: Any, case: int, form: str, activations: Any, per_channel: bool) -> None:
    shape, weight_shape, attributes = CONVOLUTIONS[case]
    seed = 7 + 1000 * case + 100 * (form == "qdq") + 10 * (activations == np.uint8) + per_channel
    rng = np.random.default_rng(seed)
    outputs = weight_shape[0]
    # The runtime takes unsigned weights only with unsigned activations, and a single zero point for them.
    unsigned_weights = activations == np.uint8 and case % 2
    weight_type = np.uint8 if unsigned_weights else np.int8
    weights = random_bytes(rng, weight_type, *weight_shape)
    count = outputs if per_channel else 1
    weight_scale = rng.uniform(0.001, 0.02, count).astype(np.float32)
    weight_zero = np.full(count, random_zero(rng, weight_type) if unsigned_weights else 0, weight_type)
    if not per_channel:
        weight_scale, weight_zero = weight_scale.reshape(()), weight_zero.reshape(())
    scale, zero = np.float32(rng.uniform(0.005, 0.05)), random_zero(rng, activations)
    spread = 75 * 80 * np.sqrt(np.prod(weight_shape[1:]))
    out_scale = np.float32(scale * weight_scale.mean() * spread / rng.uniform(50, 70))
    out_zero = random_zero(rng, activations)
    bias = rng.integers(-spread, spread, outputs).astype(np.int32) if case % 3 else None
    images = random_bytes(rng, activations, IMAGES, *shape)
    if form == "qoperator":
        model = bench.Model((1, *shape), element(activations), opset=10)
        model.node("QLinearConv", scale, zero, weights, weight_scale, weight_zero, out_scale, out_zero, bias, **attributes)
        proto = model.proto(element(activations))
    else:
        model = bench.Model((1, *shape), element(activations), opset=13)
        x = model.node("DequantizeLinear", scale, zero)
        w = model.node("DequantizeLinear", weight_scale, weight_zero, first=model.constant(weights), axis=0)
        b = None
        if bias is not None:
            b = model.node(
                "DequantizeLinear",
                np.float32(scale * weight_scale),
                np.zeros_like(weight_zero, np.int32),
                first=model.constant(bias),
                axis=0,
            )
        model.node("Conv", w, b, first=x, **attributes)
        if case % 2:
            model.node("Relu")
        model.node("QuantizeLinear", out_scale, out_zero)
        proto = model.proto(element(activations))
    network = bench.load(proto)
    expected = bench.runtime_bytes(proto, images, network, optimise=form == "qdq")
    assert len(np.unique(expected)) > (1 if case == 0 else 30)
    assert np.array_equal(bench.golden_bytes(network, images), expected), f"seed {seed}"


@pytest.mark.parametrize("activations", [np.int8, np.uint8])
@pytest.mark.parametrize("operator", ["QGemm", "QLinearMatMul", "Gemm", "MatMul", "MatMul+Add"])
def test_fully_connected_after_a_map(bench: Any, operator: str, activations: Any) -> None:
    """The flattened map has its channels first; the weights are reordered to match."""
    seed = len(operator) * 2 + (activations == np.uint8)
    rng = np.random.default_rng(seed)
    shape, outputs = (3, 4, 5), 7
    inputs = int(np.prod(shape))
    weights = random_bytes(rng, np.int8, inputs, outputs)
    scale, zero = np.float32(0.02), random_zero(rng, activations)
    per_channel = operator in ("QGemm", "Gemm")
    weight_scale = rng.uniform(0.001, 0.02, outputs if per_channel else ()).astype(np.float32)
    weight_zero = np.zeros_like(weight_scale, np.int8)
    out_scale, out_zero = np.float32(scale * weight_scale.mean() * 800), random_zero(rng, activations)
    bias = rng.integers(-40000, 40000, outputs).astype(np.int32)
    images = random_bytes(rng, activations, IMAGES, *shape)
    model = bench.Model(("batch", *shape), element(activations), opset=13)
    if operator.startswith("Q"):
        model.node("Flatten")
        if operator == "QGemm":
            parts = (weights.T.copy(), weight_scale, weight_zero, bias, out_scale, out_zero)
            model.node("QGemm", scale, zero, *parts, domain="com.microsoft", transB=1)
        else:
            model.node("QLinearMatMul", scale, zero, weights, weight_scale, weight_zero, out_scale, out_zero)
    else:
        model.node("DequantizeLinear", scale, zero)
        x = model.node("Reshape", np.array([0, -1]))
        w = model.node("DequantizeLinear", weight_scale, weight_zero, first=model.constant(weights), axis=1)
        if operator == "MatMul":
            model.node("MatMul", w, first=x)
        else:
            bias_scale = np.float32(scale * weight_scale)
            b = model.node("DequantizeLinear", bias_scale, np.zeros_like(bias_scale, np.int32), first=model.constant(bias), axis=0)
            if operator == "Gemm":
                model.node("Gemm", w, b, first=x)
            else:
                model.node("MatMul", w, first=x)
                model.node("Add", b)
        model.node("QuantizeLinear", out_scale, out_zero)
    proto = model.proto(element(activations), rank=2)
    network = bench.load(proto)
    expected = bench.runtime_bytes(proto, images, network, optimise=not operator.startswith("Q"))
    assert len(np.unique(expected)) > 10
    assert np.array_equal(bench.golden_bytes(network, images), expected), f"seed {seed}"


POOLS = [
    ("MaxPool", {"kernel_shape": [2, 2], "strides": [2, 2]}),
    ("MaxPool", {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1]}),
    ("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    ("MaxPool", {"kernel_shape": [2, 2], "dilations": [2, 3]}),
    ("AveragePool", {"kernel_shape": [2, 3], "strides": [2, 2]}),
    ("AveragePool", {"kernel_shape": [3, 3], "strides": [1, 2], "pads": [1, 1, 1, 1]}),
    ("AveragePool", {"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER", "count_include_pad": 1}),
    ("AveragePool", {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    ("GlobalAveragePool", {}),
    ("ReduceMean", {"axes": [2, 3], "keepdims": 0}),
]


@pytest.mark.parametrize("activations", [np.int8, np.uint8])
@pytest.mark.parametrize("case", range(len(POOLS)))
def test_pooling(bench: Any, case: int, activations: Any) -> None:
    operator, attributes = POOLS[case]
    seed = 2 * case + (activations == np.uint8)
    rng = np.random.default_rng(seed)
    shape = (3, 8, 10)
    scale, zero = np.float32(0.037), random_zero(rng, activations)
    # A maximum keeps its scale; an average has one of its own.
    out_scale, out_zero = (
        (scale, zero) if operator == "MaxPool" else (np.float32(rng.uniform(0.01, 0.02)), random_zero(rng, activations))
    )
    images = random_bytes(rng, activations, IMAGES, *shape)
    model = bench.Model((1, *shape), element(activations), opset=17)
    model.node("DequantizeLinear", scale, zero)
    model.node(operator, **attributes)
    model.node("QuantizeLinear", out_scale, out_zero)
    proto = model.proto(element(activations), rank=2 if operator == "ReduceMean" else 4)
    network = bench.load(proto)
    expected = bench.runtime_bytes(proto, images, network, optimise=True)
    assert len(np.unique(expected)) > 5
    assert np.array_equal(bench.golden_bytes(network, images), expected), f"seed {seed}"


@pytest.mark.parametrize("activations", [np.int8, np.uint8])
@pytest.mark.parametrize("form", ["qoperator", "qdq"])
def test_residual_add(bench: Any, form: str, activations: Any) -> None:
    seed = (form == "qdq") * 2 + (activations == np.uint8)
    rng = np.random.default_rng(seed)
    shape = (4, 16, 16)
    scales = rng.uniform(0.01, 0.05, 3).astype(np.float32)
    zeros = [random_zero(rng, activations) for _ in range(3)]
    images = random_bytes(rng, activations, IMAGES, *shape)
    model = bench.Model((1, *shape), element(activations), opset=17)
    # The second operand is a function of the input, so that a single input feeds both.
    x = model.node("DequantizeLinear", scales[0], zeros[0])
    model.node("MaxPool", kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    model.node("LeakyRelu", alpha=0.5)
    second = model.node("QuantizeLinear", scales[1], zeros[1])
    if form == "qoperator":
        model.node(
            "QLinearAdd",
            scales[0],
            zeros[0],
            second,
            scales[1],
            zeros[1],
            scales[2],
            zeros[2],
            first="image",
            domain="com.microsoft",
        )
    else:
        real = model.node("DequantizeLinear", scales[1], zeros[1])
        model.node("Add", real, first=x)
        model.node("QuantizeLinear", scales[2], zeros[2])
    proto = model.proto(element(activations))
    network = bench.load(proto)
    expected = bench.runtime_bytes(proto, images, network, optimise=True)
    assert np.array_equal(bench.golden_bytes(network, images), expected), f"seed {seed}"


@pytest.mark.parametrize("activations", [np.int8, np.uint8])
@pytest.mark.parametrize("form", ["qoperator", "qdq"])
def test_joined_channels(bench: Any, form: str, activations: Any) -> None:
    """Three maps on three scales: each is brought to the result's by a table."""
    seed = (form == "qdq") * 2 + (activations == np.uint8)
    rng = np.random.default_rng(seed)
    shape = (4, 16, 16)
    scales = rng.uniform(0.01, 0.05, 3).astype(np.float32)
    zeros = [random_zero(rng, activations) for _ in range(3)]
    images = random_bytes(rng, activations, IMAGES, *shape)
    model = bench.Model((1, *shape), element(activations), opset=17)
    x = model.node("DequantizeLinear", scales[0], zeros[0])
    model.node("MaxPool", kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    model.node("LeakyRelu", alpha=0.5)
    second = model.node("QuantizeLinear", scales[1], zeros[1])
    if form == "qoperator":
        maps = ["image", scales[0], zeros[0], second, scales[1], zeros[1], "image", scales[0], zeros[0]]
        first = model.constant(scales[2])
        model.node("QLinearConcat", zeros[2], *maps, first=first, domain="com.microsoft", axis=1)
    else:
        real = model.node("DequantizeLinear", scales[1], zeros[1])
        model.node("Concat", real, x, first=x, axis=1)
        model.node("Relu")
        model.node("QuantizeLinear", scales[2], zeros[2])
    proto = model.proto(element(activations))
    network = bench.load(proto)
    expected = bench.runtime_bytes(proto, images, network, optimise=True)
    assert network.tensor(network.output).shape == (16, 16, 12)
    assert np.array_equal(bench.golden_bytes(network, images), expected), f"seed {seed}"


FUNCTIONS: list[tuple[str, dict[str, Any]]] = [
    ("Abs", {}),
    ("Celu", {"alpha": 1.5}),
    ("Clip", {}),
    ("Elu", {"alpha": 0.7}),
    ("Erf", {}),
    ("Exp", {}),
    ("Gelu", {}),
    ("Gelu", {"approximate": "tanh"}),
    ("HardSigmoid", {"alpha": 0.3}),
    ("HardSwish", {}),
    ("LeakyRelu", {"alpha": 0.13}),
    ("Mish", {}),
    ("Neg", {}),
    ("Relu", {}),
    ("Selu", {}),
    ("Sigmoid", {}),
    ("Softplus", {}),
    ("Softsign", {}),
    ("Tanh", {}),
    ("ThresholdedRelu", {"alpha": 0.5}),
    ("QLinearSigmoid", {}),
    ("QLinearLeakyRelu", {"alpha": 0.21}),
    ("Mul", {}),
    ("Div", {}),
    ("Sub", {}),
    ("Add", {}),
]


@pytest.mark.parametrize("activations", [np.int8, np.uint8])
@pytest.mark.parametrize("case", range(len(FUNCTIONS)), ids=[name for name, _ in FUNCTIONS])
def test_function_of_every_byte(bench: Any, case: int, activations: Any) -> None:
    operator, attributes = FUNCTIONS[case]
    seed = 100 + case
    rng = np.random.default_rng(seed)
    images = np.arange(256).reshape(1, 1, 16, 16).astype(activations)
    for trial in range(8):
        scale, zero = np.float32(rng.uniform(0.005, 0.06)), random_zero(rng, activations)
        out_scale, out_zero = np.float32(rng.uniform(0.004, 0.03)), random_zero(rng, activations)
        model = bench.Model((1, 1, 16, 16), element(activations), opset=22)
        if operator.startswith("QLinear"):
            model.node(operator, scale, zero, out_scale, out_zero, domain="com.microsoft", **attributes)
        else:
            model.node("DequantizeLinear", scale, zero)
            extra = {"Clip": [np.float32(-0.4), np.float32(1.1)]}.get(operator, [])
            if operator in ("Mul", "Div", "Sub", "Add"):
                extra = [np.array([[[[0.731]]]], np.float32)]
            model.node(operator, *extra, **attributes)
            model.node("QuantizeLinear", out_scale, out_zero)
        proto = model.proto(element(activations))
        network = bench.load(proto)
        expected = bench.runtime_bytes(proto, images, network, optimise=True)
        assert np.array_equal(bench.golden_bytes(network, images), expected), f"seed {seed}, trial {trial}"


@pytest.mark.parametrize("weight_type", [np.int8, np.uint8])
@pytest.mark.parametrize("activations", [np.int8, np.uint8])
def test_weights_with_a_zero_point_for_each_channel(bench: Any, activations: Any, weight_type: Any) -> None:
    """The runtime takes a single zero point only; the standard's reference implementation takes them all."""
    seed = 20 + 2 * (activations == np.uint8) + (weight_type == np.uint8)
    rng = np.random.default_rng(seed)
    shape, outputs = (3, 7, 9), 5
    weights = random_bytes(rng, weight_type, outputs, 3, 3, 3)
    weight_scale = rng.uniform(0.001, 0.02, outputs).astype(np.float32)
    weight_zero = random_bytes(rng, weight_type, outputs)
    scale, zero, out_zero = np.float32(0.021), random_zero(rng, activations), random_zero(rng, activations)
    out_scale = np.float32(rng.uniform(0.2, 0.3))
    model = bench.Model((1, *shape), element(activations), opset=10)
    parts = (weights, weight_scale, weight_zero, out_scale, out_zero, rng.integers(-9999, 9999, outputs).astype(np.int32))
    model.node("QLinearConv", scale, zero, *parts, pads=[1, 2, 0, 1], strides=[1, 2])
    proto = model.proto(element(activations))
    images = random_bytes(rng, activations, IMAGES, *shape)
    reference = ReferenceEvaluator(proto)
    network = bench.load(proto)
    expected = bench.as_bytes(np.concatenate([reference.run(None, {"image": image[None]})[0] for image in images]), network)
    assert len(np.unique(expected)) > 100
    assert np.array_equal(bench.golden_bytes(network, images), expected), f"seed {seed}"


@pytest.mark.parametrize("name", ["mnist8_qoperator_int8", "mnist8_qoperator_uint8", "mnist8_qdq_int8", "mnist8_qdq_uint8"])
def test_trained_network_on_real_digits(bench: Any, name: str) -> None:
    path = SHARED / "models" / "onnx" / f"{name}.onnx"
    if not path.is_file():
        pytest.skip("the shared folder with quantised networks is not there")
    with np.load(SHARED / "images" / "mnist_public_1k.npz") as data:
        digits = data["x"]
    network = load_onnx(path)
    model = onnx.load(str(path))
    model.graph.input[0].name = "image"
    for node in model.graph.node:
        node.input[:] = ["image" if value == "Input3" else value for value in node.input]
    expected = bench.runtime_bytes(model, digits[:, None].astype(np.float32), network, optimise=True)
    assert np.array_equal(golden.run(network, as_images(digits, network)).reshape(len(digits), -1), expected)
