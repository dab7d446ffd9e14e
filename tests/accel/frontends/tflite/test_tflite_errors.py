"""TFLite files that cannot be run, each refused with one sentence, and what passes though it looks odd."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from accel.errors import SystolithError
from accel.frontends import FrontendError, load_network
from accel.frontends.tflite import TfliteError, load_tflite
from accel.graph import Conv2D, Lookup, MaxPool
from accel.numerics import Rounding

SIDES = np.array([[0, 0], [1, 1], [1, 1], [0, 0]], np.int32)


def small(bench: Any, **fields: Any) -> Any:
    """Return a model with one good convolution."""
    model = bench.Model((1, 4, 4, 2), **fields)
    model.conv(np.ones((3, 1, 1, 2), np.int8), np.zeros(3), shape=(1, 4, 4, 3), name="model/first/conv;model/first/bias")
    return model


def refusal(bench: Any, model: Any) -> str:
    with pytest.raises(TfliteError) as caught:
        bench.load(model)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(f"{bench.folder / 'model.tflite'}: ")
    return text


# Files


def test_the_model_that_the_cases_spoil_is_good(bench: Any) -> None:
    network = bench.load(small(bench))
    assert network.operators[0].name == "first_conv"
    assert network.preprocessing == {"scale": 0.5, "mean": 64.0}


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(TfliteError, match="no such file"):
        load_tflite(tmp_path / "none.tflite")


def test_every_truncation_is_refused(bench: Any) -> None:
    content = small(bench).file()
    for length in range(len(content)):
        with pytest.raises(SystolithError):
            bench.load(content[:length])


def test_damage_is_refused_or_harmless(bench: Any) -> None:
    """A byte that is changed gives a refusal or a network, and nothing else."""
    content = small(bench).file()
    seed = 11
    rng = np.random.default_rng(seed)
    refusals = []
    for position in range(8, len(content)):
        damaged = bytearray(content)
        damaged[position] ^= int(rng.integers(1, 256))
        try:
            bench.load(bytes(damaged))
        except SystolithError as error:
            refusals.append(str(error))
    assert len(refusals) > len(content) // 4, f"seed {seed}"
    assert not [text for text in refusals if "\n" in text], f"seed {seed}"


@pytest.mark.parametrize("data", [b"", b"TFL3", b"\x1c\x00\x00\x00TFL3", b"\x08\x07\x12\x0cpytorch and more", b"PK\x03\x04" * 50])
def test_other_files(bench: Any, data: bytes) -> None:
    assert "is not a TFLite model, or is cut off" in refusal(bench, data)


def test_calibration_data_is_not_for_tflite(bench: Any) -> None:
    path = bench.path(small(bench))
    assert load_network(str(path)).name == "model"
    with pytest.raises(FrontendError, match="quantised by its converter"):
        load_network(str(path), calibration="data.npy")


# Ends


@pytest.mark.parametrize(
    ("shape", "fields", "text"),
    [
        ((2, 4, 4, 2), {}, "has a batch of 2"),
        ((1, 4, 4, 2), {"signature": (-1, -1, 4, 2)}, "has a dynamic shape"),
        ((4,), {}, "must have 2, 3 or 4 dimensions"),
        ((1, 2, 2, 2, 2), {}, "must have 2, 3 or 4 dimensions"),
        ((1, 4, 0, 2), {}, "dimensions of at least 1"),
        ((1, 4, 4, 2), {"kind": "INT16"}, "is int16 where the engine has int8"),
        ((1, 4, 4, 2), {"scale": (0.5, 0.5), "zero": (0, 0)}, "must have one scale and zero point, not 2"),
        ((1, 4, 4, 2), {"scale": 0.0}, "scale must be finite and positive"),
        ((1, 4, 4, 2), {"scale": float("nan")}, "scale must be finite and positive"),
        ((1, 4, 4, 2), {"zero": 200}, "zero point 200 does not fit int8"),
    ],
)
def test_inputs(bench: Any, shape: tuple[int, ...], fields: dict[str, Any], text: str) -> None:
    model = bench.Model(shape, **{"scale": 0.5} | fields)
    model.op("RESHAPE", shape=shape)
    assert text in refusal(bench, model)


def test_dynamic_batch_is_one_image(bench: Any) -> None:
    assert bench.load(small(bench, signature=(-1, 4, 4, 2))).input.shape == (4, 4, 2)


def test_two_outputs(bench: Any) -> None:
    model = small(bench)
    model.outputs = [0, model.value]
    assert "must have one input and one output" in refusal(bench, model)


def test_nothing_to_run(bench: Any) -> None:
    model = bench.Model((1, 4))
    model.op("RESHAPE", shape=(1, 2, 2, 1))
    assert "no layer lies between" in refusal(bench, model)


def test_output_that_nothing_computes(bench: Any) -> None:
    model = small(bench)
    model.outputs = [model.tensor((1, 4), 0.5, 0, name="lost")]
    assert "no operator computes the output 'lost'" in refusal(bench, model)


# Float models


def test_float_model(bench: Any) -> None:
    model = bench.Model((1, 4, 4, 2), (), (), "FLOAT32")
    weights = model.constant(np.ones((3, 1, 1, 2), np.float32))
    window = {"Padding": "VALID", "StrideH": 1, "StrideW": 1, "DilationHFactor": 1, "DilationWFactor": 1}
    model.op("CONV_2D", weights, shape=(1, 4, 4, 3), scale=None, to="FLOAT32", **window)
    text = refusal(bench, model)
    assert "CONV_2D 'conv_2d0': its input is float32" in text
    assert "full integer quantisation" in text


def test_model_with_float_weights(bench: Any) -> None:
    model = bench.Model((1, 4))
    model.conv(np.ones((3, 4), np.float32), shape=(1, 3), kind="FULLY_CONNECTED")
    assert "its weights are float32, but must be int8 or uint8" in refusal(bench, model)


def test_weights_with_nan(bench: Any) -> None:
    model = bench.Model((1, 4))
    model.conv(np.full((3, 4), np.nan, np.float32), shape=(1, 3), kind="FULLY_CONNECTED")
    assert "holds NaN or infinity" in refusal(bench, model)


def test_real_ends_around_a_quantised_model(bench: Any) -> None:
    model = bench.Model((1, 4, 4, 2), (), (), "FLOAT32")
    model.op("QUANTIZE", shape=(1, 4, 4, 2), scale=0.25, zero=-3)
    model.conv(np.ones((3, 1, 1, 2), np.int8), shape=(1, 4, 4, 3))
    model.op("DEQUANTIZE", shape=(1, 4, 4, 3), scale=None, to="FLOAT32")
    network = bench.load(model)
    assert [type(op) for op in network.operators] == [Conv2D]
    assert (network.input.scale, network.input.zero_point) == (0.25, -3)
    assert not network.preprocessing


def test_unsigned_ends_around_an_int8_model(bench: Any) -> None:
    """Pixels in, as converters make them: moving the zero point changes no byte."""
    model = bench.Model((1, 4, 4, 2), 0.25, 3, "UINT8")
    model.op("QUANTIZE", shape=(1, 4, 4, 2), scale=0.25, zero=-125)
    model.conv(np.ones((3, 1, 1, 2), np.int8), shape=(1, 4, 4, 3), scale=0.5, zero=-28)
    model.op("QUANTIZE", shape=(1, 4, 4, 3), scale=0.5, zero=100, to="UINT8")
    network = bench.load(model)
    assert [type(op) for op in network.operators] == [Conv2D]
    assert network.input.zero_point == -125


# Operators


def add_layer(kind: str, *constants: Any, shape: tuple[int, ...] = (1, 4, 4, 3), **fields: Any) -> Callable[[Any], Any]:
    return lambda model: model.op(kind, *(model.constant(c, 0.5, 0) for c in constants), shape=shape, **fields)


def conv(weights: np.ndarray, bias: np.ndarray | None = None, **fields: Any) -> Callable[[Any], Any]:
    return lambda model: model.conv(weights, bias, **{"shape": (1, 4, 4, 3)} | fields)


def pool(kind: str = "MAX_POOL_2D", kernel: tuple[int, int] = (1, 1), **fields: Any) -> Callable[[Any], Any]:
    return lambda model: model.pool(kind, kernel, **{"shape": (1, 4, 4, 3)} | fields)


def two(first: Callable[[Any], Any], second: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda model: (first(model), second(model))


EYE = np.ones((3, 1, 1, 3), np.int8)

OPERATORS: list[tuple[Callable[[Any], Any], str]] = [
    (add_layer("TRANSPOSE", np.arange(4, dtype=np.int32)), "TRANSPOSE 'transpose1': the operator is not supported; maps must keep"),
    (add_layer("ELU"), "the operator is not supported; supported are ADD, "),
    (two(add_layer("SOFTMAX"), add_layer("RELU")), "follows SOFTMAX 'softmax1', which is left to the host"),
    (add_layer("RELU", scale=None, to="FLOAT32"), "its result: is float32 where the engine has int8"),
    (add_layer("RELU", to="INT16"), "its result: is int16 where the engine has int8"),
    (add_layer("RELU", to="UINT8"), "is supported for int8 only"),
    (add_layer("RELU6", scale=0.25), "but they must be the same"),
    (add_layer("LOGISTIC", scale=0.25), "must have scale 0.00390625 and zero point -128, not 0.25 and 0"),
    (add_layer("LEAKY_RELU", Alpha=-0.5), "its slope must be at least 0, not -0.5"),
    (add_layer("HARD_SWISH", scale=0.001), "input scale of at most 128 times"),
    (add_layer("ADD", np.ones(3, np.int8)), "adds a constant"),
    (lambda model: model.op("ADD", 0, shape=(1, 4, 4, 3)), "broadcasting is not supported"),
    (lambda model: model.op("CONCATENATION", model.value, shape=(1, 8, 4, 3), Axis=1), "joins the axis 1 of (1, 4, 4, 3)"),
    (lambda model: model.op("CONCATENATION", 0, shape=(1, 4, 4, 5), Axis=3, scale=0.1), "but they must be the same"),
    (add_layer("CONCATENATION", shape=(1, 4, 4, 3), Axis=3, FusedActivationFunction="RELU"), "its fused activation RELU"),
    (add_layer("MEAN", np.array([3], np.int32), shape=(1, 4, 4)), "only height and width together"),
    (add_layer("MEAN", np.array([1], np.int32), shape=(1, 4, 3)), "only height and width together"),
    (add_layer("MEAN", np.array([1.5], np.float32), shape=(1, 3)), "its axes must be integers"),
    (add_layer("PAD", SIDES + 1, shape=(1, 4, 4, 3)), "paddings must be of height and width alone"),
    (add_layer("PAD", SIDES, shape=(1, 4, 4, 3)), "its result is (1, 6, 6, 3), but the file says (1, 4, 4, 3)"),
    (two(add_layer("PADV2", SIDES, np.array([7], np.int8), shape=(1, 6, 6, 3)), conv(EYE, shape=(1, 6, 6, 3))), "is padded with 7"),
    (add_layer("RESHAPE", shape=(1, 47)), "which has another number of values"),
    (two(add_layer("RESHAPE", shape=(1, 2, 8, 3)), conv(EYE, shape=(1, 2, 8, 3))), "only flattening is supported"),
    (two(add_layer("RESHAPE", shape=(1, 48)), pool()), "its input must have 4 dimensions"),
    (pool(kernel=(0, 1)), "must be at least 1"),
    (pool(kernel=(5, 5), shape=(1, 1, 1, 3)), "does not fit a map of (4, 4)"),
    (pool(scale=0.25), "but they must be the same"),
    (pool(shape=(1, 4, 4, 2)), "its result is (4, 4, 3), but the file says (1, 4, 4, 2)"),
    (pool("AVERAGE_POOL_2D", (99, 99), Padding="SAME"), "an average must be of at most 2048 values, not 2049"),
    (pool(FusedActivationFunction="TANH"), "its fused activation TANH is not supported"),
    (pool(FusedActivationFunction=77), "its fused activation number 77 is not supported"),
    (pool(Padding=9), "its padding must be SAME or VALID, not number 9"),
    (conv(np.ones((3, 1, 1, 2), np.int8)), "weights (3, 1, 1, 2) do not fit 3 input channels"),
    (conv(np.ones((3, 1, 3), np.int8)), "its weights must have 4 dimensions"),
    (conv(np.ones((1, 1, 1, 4), np.int8), kind="DEPTHWISE_CONV_2D"), "weights (1, 1, 1, 4) do not fit 3 input channels"),
    (conv(np.ones((3, 2), np.int8), kind="FULLY_CONNECTED"), "weights (3, 2) do not fit a map of (4, 4, 3)"),
    (conv(np.ones((3, 48), np.int8), kind="FULLY_CONNECTED", shape=(1, 3), WeightsFormat=1), "shuffled for another processor"),
    (conv(EYE, weight_zero=5), "must have the zero point 0"),
    (conv(EYE, weight_scale=[0.1, 0.1]), "its weights have 2 scales along axis 0"),
    (conv(EYE, weight_scale=-0.1), "its weights' scales must be finite and positive"),
    (conv(EYE, weight_scale=1e30), "a scale factor must be below"),
    (conv(EYE.astype(np.uint8)), "its weights are uint8, but its result int8"),
    (conv(EYE, np.zeros(2)), "its bias must be 3 int32 numbers"),
]


@pytest.mark.parametrize(("add", "text"), OPERATORS, ids=[text[:40] for _, text in OPERATORS])
def test_operators(bench: Any, add: Callable[[Any], Any], text: str) -> None:
    model = small(bench)
    add(model)
    assert text in refusal(bench, model)


def test_weights_that_are_computed(bench: Any) -> None:
    model = small(bench)
    model.op("FULLY_CONNECTED", 0, shape=(1, 3))
    assert "its weights must be constant" in refusal(bench, model)


def test_operand_that_comes_later(bench: Any) -> None:
    model = small(bench)
    model.op("ADD", model.tensor((1, 4, 4, 3), 0.5, 0), shape=(1, 4, 4, 3))
    assert "input 1 must be an activation, but is computed by nothing before it" in refusal(bench, model)


# Structure


def test_functions_fold_into_the_layer_before(bench: Any) -> None:
    model = small(bench)
    model.op("RELU", shape=(1, 4, 4, 3))
    model.pool("MAX_POOL_2D", (2, 2), shape=(1, 3, 3, 3))
    model.op("LOGISTIC", shape=(1, 3, 3, 3), scale=1 / 256, zero=-128)
    network = bench.load(model)
    assert [type(op) for op in network.operators] == [Conv2D, MaxPool, Lookup]
    assert network.operators[0].requantisation.minimum == 0


def test_the_input_takes_the_shape_that_a_reshape_gives_it(bench: Any) -> None:
    model = bench.Model((1, 32), 0.5, 0)
    model.op("RESHAPE", shape=(1, 4, 4, 2))
    model.conv(np.ones((3, 1, 1, 2), np.int8), shape=(1, 4, 4, 3))
    assert bench.load(model).input.shape == (4, 4, 2)


def test_unsigned_layers(bench: Any) -> None:
    """Legacy models: the zero points of activations and weights move by 128, and averages round ties up."""
    model = bench.Model((1, 4, 4, 2), 0.5, 120, "UINT8")
    weights = np.array([[[[130, 5]]], [[[0, 255]]]], np.uint8)
    model.conv(weights, np.zeros(2), shape=(1, 4, 4, 2), weight_zero=140, to="UINT8", zero=128)
    model.pool("AVERAGE_POOL_2D", (1, 2), shape=(1, 4, 3, 2), to="UINT8", zero=128)
    model.conv(np.full((1, 24), 1, np.uint8), shape=(1, 1), kind="FULLY_CONNECTED", to="UINT8")
    network = bench.load(model)
    first, second, third = network.operators
    assert network.input.zero_point == -8
    np.testing.assert_array_equal(first.weights.reshape(-1), [2, -123, -128, 127])
    np.testing.assert_array_equal(first.weight_zero_point, [12])
    assert second.input_zero_point == second.requantisation.zero_point == -128
    roundings = [op.requantisation.rounding for op in network.operators]
    assert roundings == [Rounding.DOUBLE_AWAY, Rounding.SINGLE_UP, Rounding.SINGLE_UP]
    np.testing.assert_array_equal(third.weights.reshape(-1), [-127] * 24)
