"""What the importer makes of a model's structure: names, folded layers, views, ends."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from accel import golden
from accel.graph import Add, AveragePool, Conv2D, Lookup, MaxPool
from accel.images import as_images
from accel.numerics import Rounding

I8, U8 = np.int8(3), np.uint8(131)


def convolution(model: Any, channels: int, *, name: str = "", first: str | None = None, inputs: int = 1) -> str:
    """Add a 3x3 QDQ convolution that keeps the map's size, its result still real."""
    rng = np.random.default_rng(channels)
    real = first or model.value
    quantised = model.constant(rng.integers(-127, 128, (channels, inputs, 3, 3)).astype(np.int8))
    weights = model.node("DequantizeLinear", np.float32(0.01), np.int8(0), first=quantised)
    return model.node("Conv", weights, first=real, name=name, pads=[1, 1, 1, 1])


def kinds(network: Any) -> list[tuple[type, str]]:
    return [(type(op), op.name) for op in network.operators]


def test_relu_becomes_the_clamp_and_the_pool_moves_behind_the_quantisation(bench: Any) -> None:
    model = bench.Model(("batch", 1, 8, 8))
    model.quantise(0.1, I8)
    convolution(model, 4, name="/features/0/Conv")
    model.node("Relu")
    model.node("MaxPool", kernel_shape=[2, 2], strides=[2, 2], name="pool")
    model.quantise(0.05, I8)
    network = bench.load(model.proto())
    assert kinds(network) == [(Conv2D, "features_0_Conv"), (MaxPool, "pool")]
    to = network.operators[0].requantisation
    assert (to.zero_point, to.minimum, to.maximum, to.rounding) == (3, 3, 127, Rounding.HALF_EVEN)
    assert network.tensors["pool"].shape == (4, 4, 4)
    assert (network.input.name, network.input.zero_point, network.input.scale) == ("image", 3, pytest.approx(0.1))


def test_clip_is_a_clamp_in_the_output_scale(bench: Any) -> None:
    model = bench.Model((1, 1, 8, 8))
    model.quantise(0.1, U8)
    convolution(model, 4)
    model.node("Clip", np.float32(-1), np.float32(1.5))
    model.quantise(0.05, U8)
    to = bench.load(model.proto()).operators[0].requantisation
    assert (to.zero_point, to.minimum, to.maximum) == (3, 3 - 20, 3 + 30)


def test_activation_after_a_quantised_convolution_is_its_table(bench: Any) -> None:
    model = bench.Model((1, 1, 8, 8))
    model.quantise(0.1, I8)
    convolution(model, 4, name="conv")
    model.quantise(0.05, I8)
    model.node("Sigmoid", name="activation")
    model.quantise(1 / 256, np.int8(-128))
    network = bench.load(model.proto())
    assert kinds(network) == [(Conv2D, "conv")]
    real = (np.arange(-128, 128) - 3) * np.float32(0.05)
    assert np.array_equal(network.operators[0].table, np.clip(np.rint(256 / (1 + np.exp(-real))) - 128, -128, 127).astype(np.int8))
    assert network.output == "activation"


def test_map_with_two_readers_keeps_its_activation_apart(bench: Any) -> None:
    model = bench.Model((1, 1, 8, 8))
    model.quantise(0.1, I8)
    convolution(model, 4, name="conv")
    shortcut = model.quantise(0.05, I8)
    model.node("HardSwish", name="activation")
    branch = model.quantise(0.04, I8)
    model.node("Add", branch, first=shortcut, name="join")
    model.quantise(0.08, I8)
    assert kinds(bench.load(model.proto())) == [(Conv2D, "conv"), (Lookup, "activation"), (Add, "join")]


def test_relu_on_bytes_without_a_quantisation_of_its_own(bench: Any) -> None:
    """ReLU's results lie on its input's scale, so the next layer may read them at once."""
    model = bench.Model((1, 1, 8, 8))
    model.quantise(0.1, I8)
    convolution(model, 2, name="first")
    model.quantise(0.05, I8)
    model.node("Relu")
    convolution(model, 3, name="second", inputs=2)
    model.quantise(0.05, I8)
    network = bench.load(model.proto())
    assert kinds(network) == [(Conv2D, "first"), (Conv2D, "second")]
    assert network.operators[0].requantisation.minimum == 3


def test_names_are_unique_and_clean(bench: Any) -> None:
    model = bench.Model((1, 1, 8, 8))
    model.quantise(0.1, I8)
    for name in ("a b", "a/b", "a:b_quant"):
        convolution(model, 1, name=name)
        model.quantise(0.05, I8)
    assert [op.name for op in bench.load(model.proto()).operators] == ["a_b", "a_b_2", "a_b_3"]


def test_channels_last_input_of_a_model_from_tensorflow(bench: Any) -> None:
    model = bench.Model((1, 6, 8, 3))
    model.quantise(0.1, I8)
    model.node("Transpose", perm=[0, 3, 1, 2])
    convolution(model, 4, inputs=3)
    model.quantise(0.05, I8)
    model.node("Transpose", perm=[0, 2, 3, 1])
    network = bench.load(model.proto())
    assert network.input.shape == (6, 8, 3)
    assert network.notes == ()
    images = np.random.default_rng(0).integers(-128, 128, (2, 6, 8, 3)).astype(np.int8)
    real = ((images.astype(np.int64) - 3) * 0.1).astype(np.float32)
    expected = bench.runtime_bytes(model.proto(), real, network, optimise=True)
    assert np.array_equal(golden.run(network, images).reshape(2, -1), expected)


def test_views_between_pooling_and_fully_connected(bench: Any) -> None:
    """A shape computed in the graph, then squeezed and unsqueezed: only the weights' order is left of it."""
    rng = np.random.default_rng(3)
    model = bench.Model((1, 3, 4, 4))
    model.quantise(0.1, I8)
    pooled = model.node("MaxPool", kernel_shape=[2, 2], strides=[2, 2])
    shape = model.node("Shape", first=pooled, end=1)
    shape = model.node("Concat", model.constant(np.array([-1])), first=shape, axis=0)
    model.node("Reshape", shape, first=pooled)
    model.node("Unsqueeze", np.array([0]))
    model.node("Squeeze", np.array([0]))
    model.node("Dropout")
    flat = model.node("Identity")
    weights = model.node(
        "DequantizeLinear", np.float32(0.01), np.int8(0), first=model.constant(rng.integers(-99, 99, (5, 12)).astype(np.int8))
    )
    transposed = model.node("Transpose", first=weights, perm=[1, 0])
    model.node("MatMul", transposed, first=flat)
    model.quantise(0.05, I8)
    network = bench.load(model.proto(rank=2))
    assert [op.weights.shape for op in network.operators if isinstance(op, Conv2D)] == [(5, 2, 2, 3)]
    images = (rng.integers(-128, 128, (2, 3, 4, 4)) * 0.1).astype(np.float32)
    expected = bench.runtime_bytes(model.proto(rank=2), images, network, optimise=True)
    assert np.array_equal(bench.golden_bytes(network, images), expected)


def test_product_along_the_channels_of_every_pixel_is_a_1x1_convolution(bench: Any) -> None:
    rng = np.random.default_rng(4)
    model = bench.Model((1, 5, 6, 4))
    model.quantise(0.1, I8)
    real = model.node("Transpose", perm=[0, 3, 1, 2])
    pooled = model.node("MaxPool", first=real, kernel_shape=[1, 1])
    last = model.node("Transpose", first=pooled, perm=[0, 2, 3, 1])
    weights = model.node(
        "DequantizeLinear", np.float32(0.01), np.int8(0), first=model.constant(rng.integers(-99, 99, (4, 3)).astype(np.int8))
    )
    model.node("MatMul", weights, first=last)
    model.quantise(0.05, I8)
    network = bench.load(model.proto())
    assert [op.weights.shape for op in network.operators if isinstance(op, Conv2D)] == [(3, 1, 1, 4)]
    images = rng.integers(-128, 128, (2, 5, 6, 4)).astype(np.int8)
    expected = bench.runtime_bytes(model.proto(), ((images.astype(int) - 3) * 0.1).astype(np.float32), network, optimise=True)
    assert np.array_equal(golden.run(network, images).reshape(2, -1), expected)


def test_one_dimensional_convolution_lies_along_the_width(bench: Any) -> None:
    rng = np.random.default_rng(5)
    model = bench.Model((1, 2, 20))
    real = model.quantise(0.1, I8)
    quantised = model.constant(rng.integers(-99, 99, (3, 2, 5)).astype(np.int8))
    weights = model.node("DequantizeLinear", np.float32(0.01), np.int8(0), first=quantised)
    model.node("Conv", weights, first=real, pads=[1, 2], strides=[2])
    model.quantise(0.05, I8)
    network = bench.load(model.proto(rank=3))
    assert network.input.shape == (1, 20, 2)
    assert network.operators[0].window.padding == (0, 1, 0, 2)
    images = (rng.integers(-128, 128, (2, 2, 20)) * 0.1).astype(np.float32)
    expected = bench.runtime_bytes(model.proto(rank=3), images, network, optimise=True)
    assert np.array_equal(bench.golden_bytes(network, images), expected)


@pytest.mark.parametrize("operator", ["Softmax", "LogSoftmax", "ArgMax"])
def test_what_follows_the_scores_is_left_to_the_host_and_noted(bench: Any, operator: str) -> None:
    model = bench.Model((1, 1, 8, 8))
    model.quantise(0.1, I8)
    convolution(model, 4, name="conv")
    model.quantise(0.05, I8)
    model.node(operator, name="scores", axis=1)
    network = bench.load(model.proto(TensorProto.INT64 if operator == "ArgMax" else TensorProto.FLOAT))
    assert network.notes == (f"{operator} scores at the end is left to the host",)
    assert network.output == "conv"


def test_output_flattened_at_the_end_is_noted(bench: Any) -> None:
    model = bench.Model((1, 1, 8, 8))
    model.quantise(0.1, I8)
    convolution(model, 4)
    model.quantise(0.05, I8)
    model.node("Flatten")
    network = bench.load(model.proto(rank=2))
    assert network.notes == ("the output is the map before the model's last change of axes: height, width, channels",)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_bytes_as_the_models_input(bench: Any, dtype: Any) -> None:
    """The scale comes from the first reader, through views and pooling; a pixel is the byte itself."""
    model = bench.Model((1, 1, 8, 8), TensorProto.UINT8 if dtype == np.uint8 else TensorProto.INT8)
    model.node("MaxPool", kernel_shape=[2, 2])
    model.node("Identity")
    model.node("DequantizeLinear", np.float32(0.037), dtype(77))
    model.node("Sigmoid")
    model.quantise(1 / 256, np.int8(-128))
    network = bench.load(model.proto())
    assert (network.input.scale, network.input.zero_point) == (pytest.approx(0.037), 77 - (128 if dtype == np.uint8 else 0))
    pixels = np.arange(256).astype(np.uint8).reshape(4, 8, 8)
    assert np.array_equal(as_images(pixels, network)[..., 0], pixels.astype(int) - 128)


def test_layers_that_nobody_reads_go(bench: Any) -> None:
    model = bench.Model((1, 1, 8, 8))
    real = model.quantise(0.1, I8)
    convolution(model, 2, name="unread", first=real)
    model.quantise(0.05, I8)
    convolution(model, 2, name="read", first=real)
    model.quantise(0.05, I8)
    assert kinds(bench.load(model.proto())) == [(Conv2D, "read")]


def test_value_added_to_itself(bench: Any) -> None:
    model = bench.Model((1, 1, 8, 8))
    real = model.quantise(0.1, I8)
    model.node("Add", real, name="twice")
    model.quantise(0.2, I8)
    network = bench.load(model.proto())
    image = np.arange(-32, 32).astype(np.int8).reshape(1, 8, 8, 1)
    assert np.array_equal(golden.run(network, image), image)


def test_float_bias_is_rounded_to_the_sums_and_noted(bench: Any) -> None:
    model = bench.Model((1, 1, 4, 4))
    real = model.quantise(0.1, I8)
    weights = model.node("DequantizeLinear", np.float32(0.01), np.int8(0), first=model.constant(np.ones((2, 1, 1, 1), np.int8)))
    model.node("Conv", weights, np.array([0.5, -0.0123], np.float32), first=real, name="conv")
    model.quantise(0.05, I8)
    network = bench.load(model.proto())
    assert network.operators[0].bias.tolist() == [500, -12]
    assert network.notes == ("conv: the bias is rounded to the scale of the sums, input scale times weight scale",)


def test_average_of_everything_by_axes_of_a_channels_last_view(bench: Any) -> None:
    model = bench.Model((1, 3, 4, 5), opset=17)
    model.quantise(0.1, I8)
    model.node("Transpose", perm=[0, 2, 3, 1])
    model.node("ReduceMean", axes=[1, 2], keepdims=0, name="mean")
    model.quantise(0.033, I8)
    network = bench.load(model.proto(rank=2))
    assert kinds(network) == [(AveragePool, "mean")]
    assert network.operators[0].window.kernel == (4, 5)


def test_weights_quantised_in_the_graph(bench: Any) -> None:
    """Training tools keep float weights with QuantizeLinear and DequantizeLinear behind them."""
    weights = np.array([0.5, -1.0, 0.26, 2.0], np.float32).reshape(2, 2, 1, 1)
    model = bench.Model((1, 2, 4, 4))
    real = model.quantise(0.1, I8)
    scale, zero = np.array([0.01, 0.02], np.float32), np.zeros(2, np.int8)
    quantised = model.node("QuantizeLinear", scale, zero, first=model.constant(weights), axis=0)
    again = model.node("DequantizeLinear", scale, zero, first=quantised, axis=0)
    model.node("Conv", again, first=real)
    model.quantise(0.05, I8)
    assert bench.load(model.proto()).operators[0].weights.reshape(2, 2).tolist() == [[50, -100], [13, 100]]
