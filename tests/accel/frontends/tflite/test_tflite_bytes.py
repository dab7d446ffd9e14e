"""Imported layers against tflite-micro, byte by byte, on models written here."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from accel.graph import Lookup

EVERY_BYTE = np.arange(-128, 128, dtype=np.int8)
ACTIVATIONS = ["NONE", "RELU", "RELU6", "RELU_N1_TO_1"]


def random_bytes(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(-128, 128, shape, np.int8)


def same_or_valid(size: int, kernel: int, stride: int, padding: str, dilation: int = 1) -> int:
    extent = (kernel - 1) * dilation + 1
    return -(-size // stride) if padding == "SAME" else (size - extent) // stride + 1


@pytest.mark.parametrize("seed", range(16))
@pytest.mark.parametrize("kind", ["CONV_2D", "DEPTHWISE_CONV_2D"])
def test_convolution(bench: Any, kind: str, seed: int) -> None:
    rng = np.random.default_rng([seed, kind == "CONV_2D"])
    channels, height, width = (int(n) for n in rng.integers(1, 9, 3))
    kernel = int(rng.integers(1, min(4, height + 1))), int(rng.integers(1, min(4, width + 1)))
    padding = ["SAME", "VALID"][seed % 2]
    # tflite-micro knows a stride or a dilation, not both.
    stride, dilation = ((int(rng.integers(1, 4)), 1), (1, int(rng.integers(1, 3))))[seed // 2 % 2]
    if padding == "VALID" and dilation > 1:
        kernel = 1, 1
    out = channels * int(rng.integers(1, 3)) if kind == "DEPTHWISE_CONV_2D" else int(rng.integers(1, 9))
    shape = (1, *kernel, out) if kind == "DEPTHWISE_CONV_2D" else (out, *kernel, channels)
    scales = rng.uniform(0.002, 0.02, out) if rng.random() < 0.7 else 0.01
    size = [same_or_valid(n, k, stride, padding, dilation) for n, k in zip((height, width), kernel, strict=True)]
    model = bench.Model((1, height, width, channels), 0.5, int(rng.integers(-128, 128)))
    model.conv(
        rng.integers(-127, 128, shape).astype(np.int8),
        rng.integers(-5000, 5000, out) if rng.random() < 0.8 else None,
        shape=(1, *size, out),
        weight_scale=scales,
        kind=kind,
        Padding=padding,
        StrideH=stride,
        StrideW=stride,
        DilationHFactor=dilation,
        DilationWFactor=dilation,
        scale=float(rng.uniform(0.3, 3)),
        zero=int(rng.integers(-128, 128)),
        FusedActivationFunction=ACTIVATIONS[seed % 4],
    )
    bench.compare(model, random_bytes(rng, 4, height, width, channels), f"seed {seed}")


@pytest.mark.parametrize("per_channel", [False, True])
def test_fully_connected(bench: Any, per_channel: bool) -> None:
    rng = np.random.default_rng(3)
    model = bench.Model((1, 2, 3, 4), 0.7, -7)
    model.op("RESHAPE", model.constant(np.array([1, 24], np.int32)), shape=(1, 24), scale=0.7, zero=-7)
    scales = rng.uniform(0.005, 0.02, 9) if per_channel else 0.013
    bias = rng.integers(-500, 500, 9)
    weights = random_bytes(rng, 9, 24)
    model.conv(weights, bias, shape=(1, 9), weight_scale=scales, kind="FULLY_CONNECTED", zero=5, scale=3.0)
    network = bench.compare(model, random_bytes(rng, 50, 2, 3, 4))
    assert network.operators[0].window.kernel == (2, 3)


@pytest.mark.parametrize(("scale", "weight_scale", "result_scale"), [(0.0123, 0.0317, 0.0171), (0.1, 0.3, 0.7), (0.37, 0.011, 0.9)])
def test_scales_of_a_fully_connected_layer_are_multiplied_in_float32(
    bench: Any, scale: float, weight_scale: float, result_scale: float
) -> None:
    """One unit of the sum's multiplier decides a byte when the sum is as large as 32 bits allow and the clamp lets it through."""
    exact = float(np.float32(scale)) * float(np.float32(weight_scale)) / float(np.float32(result_scale))
    rounded = float(np.float32(scale) * np.float32(weight_scale)) / float(np.float32(result_scale))
    assert exact != rounded
    # Biases around the sums at which a byte changes.
    steps = np.round((np.arange(-100, 100) + 0.5) / rounded).astype(np.int64)
    biases = np.concatenate([steps + offset for offset in (-1, 0, 1)])
    model = bench.Model((1, 1), scale)
    model.conv(
        np.zeros((len(biases), 1), np.int8),
        biases,
        shape=(1, len(biases)),
        weight_scale=weight_scale,
        kind="FULLY_CONNECTED",
        scale=result_scale,
    )
    bench.compare(model, EVERY_BYTE[:1, None])


def test_product_at_every_pixel_is_a_1x1_convolution(bench: Any) -> None:
    rng = np.random.default_rng(4)
    model = bench.Model((1, 3, 5, 4), 0.5, 3)
    model.conv(random_bytes(rng, 6, 4), None, shape=(1, 3, 5, 6), kind="FULLY_CONNECTED", scale=1.5, KeepNumDims=True)
    network = bench.compare(model, random_bytes(rng, 5, 3, 5, 4))
    assert network.operators[0].window.kernel == (1, 1)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("kind", ["MAX_POOL_2D", "AVERAGE_POOL_2D"])
def test_pooling(bench: Any, kind: str, seed: int) -> None:
    rng = np.random.default_rng([seed, kind == "MAX_POOL_2D"])
    height, width, channels = (int(n) for n in rng.integers(3, 9, 3))
    kernel = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    stride, padding = int(rng.integers(1, 4)), ["SAME", "VALID"][seed % 2]
    size = [same_or_valid(n, k, stride, padding) for n, k in zip((height, width), kernel, strict=True)]
    grid = {"scale": 0.1, "zero": int(rng.integers(-128, 128))}
    model = bench.Model((1, height, width, channels), 0.1, grid["zero"])
    options = {"StrideH": stride, "StrideW": stride, "Padding": padding, "FusedActivationFunction": ACTIVATIONS[seed % 4]}
    model.pool(kind, kernel, shape=(1, *size, channels), **grid, **options)
    bench.compare(model, random_bytes(rng, 8, height, width, channels), f"seed {seed}")


def test_average_rounds_ties_away_from_zero(bench: Any) -> None:
    """Every sum of two bytes, and of 45 x 45 bytes near their ends and near zero."""
    left, right = np.meshgrid(EVERY_BYTE, EVERY_BYTE)
    model = bench.Model((1, 1, 2, 256))
    model.pool("AVERAGE_POOL_2D", (1, 2), shape=(1, 1, 1, 256))
    bench.compare(model, np.stack([left, right], axis=1)[:, None])
    count = 45 * 45
    fill = np.array([-128, 127, 0, -1, 1], np.int8)
    maps = np.broadcast_to(fill[:, None, None, None], (5, 45, 45, 16)).copy()
    for channel in range(16):
        change = count // 16 * channel
        maps[:, :, :, channel].reshape(5, -1)[:, :change] ^= 1
    large = bench.Model((1, 45, 45, 16))
    large.pool("AVERAGE_POOL_2D", (45, 45), shape=(1, 1, 1, 16))
    bench.compare(large, maps)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 5), (7, 7), (32, 32)])
def test_mean(bench: Any, height: int, width: int) -> None:
    rng = np.random.default_rng([height, width])
    model = bench.Model((1, height, width, 6), 0.11, 17)
    axes = model.constant(np.array([1, -2], np.int32))
    model.op("MEAN", axes, shape=(1, 6), scale=0.037, zero=-20)
    bench.compare(model, random_bytes(rng, 30, height, width, 6))


@pytest.mark.parametrize("seed", range(4))
def test_add(bench: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scales = rng.uniform(0.01, 0.3, 2)
    zeros = rng.integers(-128, 128, 2).tolist()
    model = bench.Model((1, 16, 16, 4), float(scales[0]), zeros[0])
    source = model.value
    model.op("QUANTIZE", shape=(1, 16, 16, 4), scale=float(scales[1]), zero=zeros[1])
    model.op("ADD", source, shape=(1, 16, 16, 4), scale=0.2, zero=3, FusedActivationFunction=ACTIVATIONS[seed])
    bench.compare(model, random_bytes(rng, 4, 16, 16, 4), f"seed {seed}")


@pytest.mark.parametrize("axis", [3, -1])
def test_joined_channels(bench: Any, axis: int) -> None:
    rng = np.random.default_rng(8)
    model = bench.Model((1, 5, 6, 3), 0.1, 7)
    source = model.value
    model.pool("MAX_POOL_2D", (3, 3), shape=(1, 5, 6, 3), scale=0.1, zero=7, Padding="SAME")
    model.op("CONCATENATION", source, model.value, shape=(1, 5, 6, 9), scale=0.1, zero=7, Axis=axis)
    bench.compare(model, random_bytes(rng, 4, 5, 6, 3))


FUNCTIONS: list[tuple[str, float, int, float, int, dict[str, Any]]] = [
    *[("LOGISTIC", scale, zero, 1 / 256, -128, {}) for scale in (0.02, 0.0625, 0.1, 0.9, 7.0) for zero in (-128, 3)],
    *[("TANH", scale, zero, 1 / 128, 0, {}) for scale in (0.02, 0.0625, 0.1, 0.9, 7.0) for zero in (-128, 3)],
    *[("HARD_SWISH", scale, zero, to, -9, {}) for scale, to in ((0.02, 0.02), (0.1, 0.05), (0.05, 0.3)) for zero in (-128, 0, 90)],
    *[("LEAKY_RELU", 0.1, zero, to, 4, {"Alpha": alpha}) for zero in (-50, 0) for to in (0.1, 0.04) for alpha in (0.01, 0.3)],
    ("RELU", 0.1, -30, 0.1, -30, {}),
    ("RELU", 0.1, -30, 0.07, -128, {}),
    ("RELU6", 0.1, -30, 0.1, -30, {}),
    ("RELU6", 0.01, 5, 0.01, 5, {}),
    ("QUANTIZE", 0.1, -30, 0.07, 11, {}),
    ("QUANTIZE", 0.1, -30, 0.3, 0, {}),
]


@pytest.mark.parametrize(("kind", "scale", "zero", "to_scale", "to_zero", "options"), FUNCTIONS)
def test_function_of_every_byte(
    bench: Any, kind: str, scale: float, zero: int, to_scale: float, to_zero: int, options: dict[str, Any]
) -> None:
    model = bench.Model((1, 1, 256, 1), scale, zero)
    model.op(kind, shape=(1, 1, 256, 1), scale=to_scale, zero=to_zero, **options)
    network = bench.compare(model, EVERY_BYTE.reshape(1, 1, 256, 1))
    assert [type(op) for op in network.operators] == [Lookup]


@pytest.mark.parametrize("kind", ["CONV_2D", "DEPTHWISE_CONV_2D", "MAX_POOL_2D", "AVERAGE_POOL_2D"])
@pytest.mark.parametrize("zero", [-128, 9])
def test_padding_before_a_layer(bench: Any, kind: str, zero: int) -> None:
    rng = np.random.default_rng(5)
    model = bench.Model((1, 6, 5, 3), 0.5, zero)
    model.op("PAD", model.constant(np.array([[0, 0], [1, 2], [0, 1], [0, 0]], np.int32)), shape=(1, 9, 6, 3), scale=0.5, zero=zero)
    if kind.endswith("POOL_2D"):
        model.pool(kind, (3, 2), shape=(1, 4, 5, 3), StrideH=2, zero=zero)
    else:
        weights = random_bytes(rng, 1, 3, 2, 3) if kind.startswith("DEPTH") else random_bytes(rng, 3, 3, 2, 3)
        model.conv(weights, None, shape=(1, 5, 3, 3), kind=kind, Padding="SAME", StrideH=2, StrideW=2, scale=0.9)
    network = bench.compare(model, random_bytes(rng, 8, 6, 5, 3))
    takes_it_in = kind.endswith("CONV_2D") or (kind == "MAX_POOL_2D" and zero == -128)
    assert len(network.operators) == (1 if takes_it_in else 2)


def test_padding_with_the_smallest_byte_is_the_max_pools_own(bench: Any) -> None:
    rng = np.random.default_rng(6)
    model = bench.Model((1, 4, 4, 3), 0.5, 9)
    sides = model.constant(np.array([[0, 0], [1, 1], [1, 1], [0, 0]], np.int32))
    value = model.constant(np.array([-128], np.int8), 0.5, 9)
    model.op("PADV2", sides, value, shape=(1, 6, 6, 3), scale=0.5, zero=9)
    model.pool("MAX_POOL_2D", (3, 3), shape=(1, 2, 2, 3), StrideH=2, StrideW=2, zero=9)
    assert len(bench.compare(model, random_bytes(rng, 8, 4, 4, 3)).operators) == 1


def test_pads_add_up_and_one_at_the_end_is_a_layer(bench: Any) -> None:
    rng = np.random.default_rng(7)
    model = bench.Model((1, 2, 2, 3), 0.5, 9)
    sides = np.array([[0, 0], [1, 0], [0, 2], [0, 0]], np.int32)
    model.op("PAD", model.constant(sides), shape=(1, 3, 4, 3), zero=9)
    model.op("PAD", model.constant(sides[:, ::-1]), shape=(1, 4, 6, 3), zero=9)
    assert len(bench.compare(model, random_bytes(rng, 8, 2, 2, 3)).operators) == 1
