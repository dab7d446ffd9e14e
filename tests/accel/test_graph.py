"""The layer graph: shapes, counts, and the text of every refusal."""

import math
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest

from accel.graph import (
    Add,
    AveragePool,
    Concat,
    Conv2D,
    GraphError,
    Lookup,
    MaxPool,
    Network,
    Operator,
    Requantisation,
    Shape,
    Tensor,
    Window,
)
from accel.numerics import Rounding

TO_INT8 = Requantisation(
    multiplier=np.array([1 << 30], np.int32), shift=np.array([-3], np.int32), rounding=Rounding.HALF_EVEN, zero_point=0
)


def conv(name: str = "conv", source: str = "x", target: str = "y", **changes: Any) -> Conv2D:
    """Return a 3x2 convolution of 4 channels to 6, changed as asked."""
    values: dict[str, Any] = {
        "window": Window(kernel=(3, 2)),
        "weights": np.ones((6, 3, 2, 4), np.int8),
        "bias": np.zeros(6, np.int32),
        "requantisation": TO_INT8,
    }
    return Conv2D(name=name, inputs=(source,), output=target, **values | changes)


def network(operators: tuple[Operator, ...], *shapes: tuple[str, Shape], output: str = "y") -> Network:
    tensors = {name: Tensor(name=name, shape=shape) for name, shape in shapes}
    return Network(name="net", input=Tensor(name="x", shape=(8, 9, 4)), operators=operators, tensors=tensors, output=output)


# Window


@pytest.mark.parametrize("seed", range(40))
def test_output_size_counts_the_places_where_the_window_fits(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width, *rest = (int(n) for n in rng.integers(1, 12, 8))
    window = Window(
        kernel=(rest[0] % 4 + 1, rest[1] % 5 + 1),
        stride=(rest[2] % 3 + 1, rest[3] % 4 + 1),
        padding=(rest[4] % 3, rest[5] % 3, rest[0] % 3, rest[1] % 3),
        dilation=(rest[2] % 2 + 1, rest[3] % 3 + 1),
    )
    counted = []
    for size, before, after, kernel, stride, dilation in zip(
        (height, width), window.padding[:2], window.padding[2:], window.kernel, window.stride, window.dilation, strict=True
    ):
        last_start = size + after - 1 - (kernel - 1) * dilation
        counted.append(len(range(-before, last_start + 1, stride)))
    actual = window.output_size(height, width)
    assert [max(n, 0) for n in actual] == counted


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"kernel": (0, 3)}, "kernel must be two numbers of at least 1, not (0, 3)"),
        ({"kernel": (3,)}, "kernel must be two numbers of at least 1, not (3,)"),
        ({"stride": (1, -1)}, "stride must be two numbers of at least 1, not (1, -1)"),
        ({"dilation": (0, 1)}, "dilation must be two numbers of at least 1, not (0, 1)"),
        ({"padding": (0, 0, -1, 0)}, "padding must be four numbers of at least 0 (top, left, bottom, right), not (0, 0, -1, 0)"),
        ({"padding": (1, 1)}, "padding must be four numbers of at least 0 (top, left, bottom, right), not (1, 1)"),
    ],
)
def test_windows_that_mean_nothing(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(GraphError) as caught:
        replace(Window(kernel=(3, 3)), **changes)
    assert str(caught.value) == sentence


# Tensor and Requantisation


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"shape": (2, 3)}, "t: shape must be (height, width, channels), each at least 1, not (2, 3)"),
        ({"shape": (2, 0, 3)}, "t: shape must be (height, width, channels), each at least 1, not (2, 0, 3)"),
        ({"zero_point": 128}, "t: zero point must be from -128 to 127, not 128"),
        ({"scale": 0.0}, "t: scale must be finite and positive, not 0.0"),
        ({"scale": math.nan}, "t: scale must be finite and positive, not nan"),
        ({"scale": math.inf}, "t: scale must be finite and positive, not inf"),
    ],
)
def test_tensors_that_mean_nothing(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(GraphError) as caught:
        replace(Tensor(name="t", shape=(2, 3, 4)), **changes)
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"multiplier": np.zeros(2, np.int32)},
            "multiplier and shift must be two vectors of one length, not of shapes (2,) and (1,)",
        ),
        ({"multiplier": np.array([-5], np.int32)}, "multipliers must not be negative, but one is -5"),
        ({"shift": np.array([31], np.int32)}, "shifts must be from -31 to 30, not 31 to 31"),
        ({"shift": np.array([-32], np.int32)}, "shifts must be from -31 to 30, not -32 to -32"),
        ({"zero_point": -129}, "zero point must be from -128 to 127, not -129"),
        ({"minimum": 3, "maximum": 2}, "clamp must lie within -128 to 127 with minimum <= maximum, not 3 to 2"),
        ({"maximum": 255}, "clamp must lie within -128 to 127 with minimum <= maximum, not -128 to 255"),
    ],
)
def test_requantisations_that_mean_nothing(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(GraphError) as caught:
        replace(TO_INT8, **changes)
    assert str(caught.value) == sentence


# Conv2D


def test_convolution_shape_and_macs() -> None:
    layer = conv(window=Window(kernel=(3, 2), stride=(2, 1), padding=(1, 0, 1, 1), dilation=(1, 3)))
    assert layer.output_shape(((8, 9, 4),)) == (4, 7, 6)
    assert layer.macs(((8, 9, 4),)) == 4 * 7 * 6 * 3 * 2 * 4
    assert not layer.is_depthwise


def test_depthwise_is_one_input_channel_a_group() -> None:
    layer = conv(weights=np.ones((8, 3, 2, 1), np.int8), bias=np.zeros(8, np.int32), groups=4)
    assert layer.is_depthwise
    assert layer.output_shape(((8, 9, 4),)) == (6, 8, 8)
    assert not conv(weights=np.ones((6, 3, 2, 1), np.int8)).is_depthwise, "one group of one channel is an ordinary convolution"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"weights": np.ones((6, 3, 2, 4), np.uint8)},
            "conv: weights must be int8 of shape (out, height, width, in), not uint8 (6, 3, 2, 4)",
        ),
        ({"weights": np.ones((6, 4), np.int8)}, "conv: weights must be int8 of shape (out, height, width, in), not int8 (6, 4)"),
        ({"weights": np.ones((6, 2, 3, 4), np.int8)}, "conv: weights (6, 2, 3, 4) do not match kernel (3, 2)"),
        ({"bias": np.zeros(5, np.int32)}, "conv: bias must be int32 of shape (6,), not int32 (5,)"),
        ({"bias": np.zeros(6, np.int64)}, "conv: bias must be int32 of shape (6,), not int64 (6,)"),
        ({"groups": 4}, "conv: 6 output channels do not divide into 4 groups"),
        ({"groups": 0}, "conv: 6 output channels do not divide into 0 groups"),
        (
            {"weight_zero_point": np.zeros(2, np.int32)},
            "conv: weight zero points must be from -128 to 127, one or 6 of them",
        ),
        (
            {"weight_zero_point": np.array([200], np.int32)},
            "conv: weight zero points must be from -128 to 127, one or 6 of them",
        ),
        (
            {"requantisation": replace(TO_INT8, multiplier=np.ones(5, np.int32), shift=np.zeros(5, np.int32))},
            "conv: 5 multipliers for 6 channels; give one each, or one for all",
        ),
        (
            {"table": np.zeros(255, np.int8)},
            "conv: an activation table must be int8 of 256 entries, not int8 (255,)",
        ),
        (
            {"table": np.zeros(256, np.uint8)},
            "conv: an activation table must be int8 of 256 entries, not uint8 (256,)",
        ),
    ],
)
def test_convolutions_that_mean_nothing(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(GraphError) as caught:
        conv(**changes)
    assert str(caught.value) == sentence


def test_convolution_of_other_channels() -> None:
    with pytest.raises(GraphError) as caught:
        conv().output_shape(((8, 9, 5),))
    assert str(caught.value) == "conv: the input has 5 channels, but the weights take 4 in each of 1 groups"


def test_convolution_of_a_map_that_is_too_small() -> None:
    with pytest.raises(GraphError) as caught:
        conv().output_shape(((2, 9, 4),))
    assert str(caught.value) == "conv: a window of (3, 2) with padding (0, 0, 0, 0) does not fit a map of (2, 9)"


# Pooling


@pytest.mark.parametrize("kind", [MaxPool, AveragePool])
def test_pooling_with_an_empty_window(kind: type[MaxPool] | type[AveragePool]) -> None:
    extra: dict[str, Any] = {}
    if kind is AveragePool:
        extra = {"input_zero_point": 0, "factors": {4: (1 << 30, -1)}, "requantisation": TO_INT8}
    layer = kind(name="pool", inputs=("x",), output="y", window=Window(kernel=(2, 2), padding=(0, 2, 0, 0)), **extra)
    with pytest.raises(GraphError) as caught:
        layer.output_shape(((8, 9, 4),))
    assert str(caught.value) == ("pool: padding (0, 2, 0, 0) is as large as the pooling window (2, 2), so a window would be empty")


def average(window: Window, *, counts: tuple[int, ...], count_padding: bool = False) -> AveragePool:
    return AveragePool(
        name="pool",
        inputs=("x",),
        output="y",
        window=window,
        input_zero_point=0,
        factors={n: (1 << 30, -1) for n in counts},
        requantisation=TO_INT8,
        count_padding=count_padding,
    )


def test_average_pool_counts_the_taps_that_are_not_padding() -> None:
    window = Window(kernel=(3, 2), stride=(2, 2), padding=(1, 1, 1, 0))
    layer = average(window, counts=(2, 3, 4, 6))
    inside = np.pad(np.ones((5, 7), int), ((1, 1), (1, 0)))
    expected = [[inside[y : y + 3, x : x + 2].sum() for x in range(0, 7, 2)] for y in range(0, 5, 2)]
    assert layer.counts(5, 7).tolist() == expected
    assert layer.output_shape(((5, 7, 4),)) == (3, 4, 4)
    assert average(window, counts=(6,), count_padding=True).counts(5, 7).tolist() == [[6] * 4] * 3


def test_average_pool_without_a_factor() -> None:
    with pytest.raises(GraphError) as caught:
        average(Window(kernel=(2, 2), padding=(1, 0, 0, 0)), counts=(4,)).output_shape(((8, 9, 4),))
    assert str(caught.value) == "pool: no factor for windows of 2 taps; factors has [4]"


def test_average_pool_has_no_dilation() -> None:
    with pytest.raises(GraphError) as caught:
        average(Window(kernel=(2, 2), dilation=(1, 2)), counts=(4,)).output_shape(((8, 9, 4),))
    assert str(caught.value) == "pool: average pooling has no dilation here, not (1, 2)"


# Add, Lookup and Concat


def test_add_of_different_shapes() -> None:
    table = np.zeros(256, np.int32)
    layer = Add(name="add", inputs=("a", "b"), output="y", tables=(table, table), requantisation=TO_INT8)
    assert layer.output_shape(((2, 3, 4), (2, 3, 4))) == (2, 3, 4)
    with pytest.raises(GraphError) as caught:
        layer.output_shape(((2, 3, 4), (1, 1, 4)))
    assert str(caught.value) == "add: adds maps of different shapes (2, 3, 4) and (1, 1, 4); broadcasting is not supported"


def test_add_with_a_bad_table() -> None:
    with pytest.raises(GraphError) as caught:
        Add(
            name="add",
            inputs=("a", "b"),
            output="y",
            tables=(np.zeros(256, np.int32), cast(Any, np.zeros(256, np.int16))),
            requantisation=TO_INT8,
        )
    assert str(caught.value) == "add: operand tables must be int32 of 256 entries, not int16 (256,)"


def test_lookup_keeps_the_shape() -> None:
    layer = Lookup(name="lookup", inputs=("x",), output="y", table=np.zeros(256, np.int8))
    assert layer.output_shape(((2, 3, 4),)) == (2, 3, 4)
    assert layer.macs(((2, 3, 4),)) == 0


def test_concat_adds_the_channels() -> None:
    layer = Concat(name="join", inputs=("a", "b", "a"), output="y")
    assert layer.output_shape(((2, 3, 4), (2, 3, 1), (2, 3, 4))) == (2, 3, 9)
    assert layer.macs(((2, 3, 4), (2, 3, 1), (2, 3, 4))) == 0
    with pytest.raises(GraphError) as caught:
        layer.output_shape(((2, 3, 4), (2, 2, 4)))
    assert str(caught.value) == "join: joins the channels of maps of one height and width, not of (2, 3, 4) and (2, 2, 4)"


# Network


def test_a_network_answers_for_its_tensors() -> None:
    first, second = (
        conv("first", "x", "m"),
        conv("second", "m", "y", weights=np.ones((5, 3, 2, 6), np.int8), bias=np.zeros(5, np.int32)),
    )
    net = network((first, second), ("m", (6, 8, 6)), ("y", (4, 7, 5)))
    assert net.tensor("x") is net.input
    assert net.tensor("m").shape == (6, 8, 6)
    assert net.input_shapes(second) == ((6, 8, 6),)
    assert net.consumers("m") == (second,)
    assert net.macs == 6 * 8 * 6 * 24 + 4 * 7 * 5 * 36


@pytest.mark.parametrize(
    ("operators", "shapes", "output", "sentence"),
    [
        ((), (), "y", "net: the network has no layers"),
        (
            (conv("a", "x", "y"), conv("a", "x", "z")),
            (("y", (6, 8, 6)), ("z", (6, 8, 6))),
            "y",
            "net: two layers are called 'a'",
        ),
        ((conv("a", "m", "y"),), (("y", (6, 8, 6)),), "y", "a: reads 'm' before any layer has written it"),
        ((conv("a", "x", "x"),), (), "x", "a: writes 'x', which is already written"),
        ((conv("a", "x", "y"),), (), "y", "a: output tensor 'y' is not described"),
        ((conv("a", "x", "y"),), (("y", (6, 8, 7)),), "y", "a: produces (6, 8, 6), but 'y' is described as (6, 8, 7)"),
        ((conv("a", "x", "y"),), (("y", (6, 8, 6)),), "z", "net: no layer writes the output 'z'"),
        ((conv("a", "x", "y"),), (("y", (6, 8, 6)),), "x", "net: no layer writes the output 'x'"),
    ],
)
def test_networks_that_mean_nothing(
    operators: tuple[Operator, ...], shapes: tuple[tuple[str, Shape], ...], output: str, sentence: str
) -> None:
    with pytest.raises(GraphError) as caught:
        network(operators, *shapes, output=output)
    assert str(caught.value) == sentence
