"""Float TFLite models, of which only the cycles are asked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from accel import perf
from accel.compiler import compile_network
from accel.config import PRESETS
from accel.errors import SystolithError
from accel.frontends.assumed import NOTE
from accel.frontends.tflite import TfliteError, load_tflite
from accel.graph import Conv2D, Network
from accel.program import MemoryTiming


def model_of(bench: Any, *, is_float: bool, half_weights: bool = False, with_data: bool = True) -> Any:
    """Return the same network in int8, in float, and in float with weights in half precision."""
    dtype = np.float32 if is_float else np.int8
    grid: dict[str, Any] = {"scale": None, "to": "FLOAT32"} if is_float else {}
    model = bench.Model((1, 6, 6, 2), *(((), (), "FLOAT32") if is_float else (0.5, 0, "INT8")))

    def weights(*shape: int, axis: int = 0) -> int:
        if half_weights:
            value = model.value
            data = model.constant(np.ones(shape, np.float16))
            number = model.op("DEQUANTIZE", first=data, shape=shape, **grid)
            model.value = value
            return int(number)
        number = model.constant(np.ones(shape, dtype), *(() if is_float else (0.1, 0)), axis=axis)
        if not with_data:
            model.tensors[number]["data"] = None
        return int(number)

    window = {"Padding": "SAME", "StrideH": 1, "StrideW": 1, "DilationHFactor": 1, "DilationWFactor": 1}
    model.op("CONV_2D", weights(4, 3, 3, 2), shape=(1, 6, 6, 4), FusedActivationFunction="RELU6", **window, **grid)
    model.op("LOGISTIC", shape=(1, 6, 6, 4), **({"scale": 1 / 256, "zero": -128} | grid))
    fixed = grid or {"scale": 1 / 256, "zero": -128}
    model.pool("MAX_POOL_2D", (2, 2), shape=(1, 3, 3, 4), StrideH=2, StrideW=2, **fixed)
    source = model.value
    model.op("DEPTHWISE_CONV_2D", weights(1, 3, 3, 4, axis=3), shape=(1, 3, 3, 4), DepthMultiplier=1, **window, **grid)
    model.op("ADD", source, shape=(1, 3, 3, 4), **grid)
    model.op("MEAN", model.constant(np.array([1, 2], np.int32)), shape=(1, 4), **grid)
    bias = model.constant(np.ones(3, np.float32 if is_float else np.int32), *(() if is_float else (0.05, 0)))
    model.op("FULLY_CONNECTED", weights(3, 4), bias, shape=(1, 3), **grid)
    model.op("SOFTMAX", shape=(1, 3), name="softmax", **grid)
    return model


def layers(network: Network) -> list[Any]:
    return [
        (type(op), getattr(op, "window", None), op.weights.shape if isinstance(op, Conv2D) else None) for op in network.operators
    ]


def cycles(network: Network) -> int:
    return perf.estimate(compile_network(network, PRESETS["small"]), MemoryTiming()).cycles


@pytest.mark.parametrize("options", [{}, {"half_weights": True}, {"with_data": False}])
def test_layers_and_cycles_are_those_of_the_quantised_model(bench: Any, options: dict[str, bool]) -> None:
    quantised = bench.load(model_of(bench, is_float=False))
    path = bench.path(model_of(bench, is_float=True, **options))
    assumed = load_tflite(path, assume=True)
    assert layers(assumed) == layers(quantised)
    assert cycles(assumed) == cycles(quantised)
    assert assumed.notes == (NOTE, "SOFTMAX 'softmax' at the end is left to the host")


def test_a_quantised_model_is_read_as_it_is(bench: Any) -> None:
    path = bench.path(model_of(bench, is_float=False))
    assert load_tflite(path, assume=True).notes == load_tflite(path).notes


def test_padding_of_a_max_pool(bench: Any) -> None:
    model = bench.Model((1, 4, 4, 2), (), (), "FLOAT32")
    grid = {"scale": None, "to": "FLOAT32"}
    sides = model.constant(np.array([[0, 0], [1, 1], [1, 1], [0, 0]], np.int32))
    model.op("PADV2", sides, model.constant(np.array([-3e38], np.float32)), shape=(1, 6, 6, 2), **grid)
    model.pool("MAX_POOL_2D", (3, 3), shape=(1, 4, 4, 2), **grid)
    window = {"Padding": "SAME", "StrideH": 1, "StrideW": 1, "DilationHFactor": 1, "DilationWFactor": 1}
    model.op("CONV_2D", model.constant(np.ones((4, 3, 3, 2), np.float32)), shape=(1, 4, 4, 4), **window, **grid)
    assert len(load_tflite(bench.path(model), assume=True).operators) == 2


def test_what_is_refused_stays_refused(bench: Any) -> None:
    model = model_of(bench, is_float=True)
    with pytest.raises(TfliteError, match="CONV_2D 'conv_2d0': its input is float32"):
        bench.load(model)
    model.op("TRANSPOSE", shape=(1, 3), scale=None, to="FLOAT32")
    with pytest.raises(TfliteError, match="TRANSPOSE 'transpose8': the operator is not supported"):
        load_tflite(bench.path(model), assume=True)


def test_damage_is_refused_or_harmless(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accel.frontends.assumed._MOST_WEIGHTS", 1 << 16)  # a damaged shape may ask for a gigabyte
    content = model_of(bench, is_float=True, with_data=False).file()
    seed = 12
    rng = np.random.default_rng(seed)
    refusals = []
    for position in range(8, len(content), 3):
        damaged = bytearray(content)
        damaged[position] ^= int(rng.integers(1, 256))
        try:
            load_tflite(bench.path(bytes(damaged)), assume=True)
        except SystolithError as error:
            refusals.append(str(error))
    assert len(refusals) > len(content) // 12, f"seed {seed}"
    assert not [text for text in refusals if "\n" in text], f"seed {seed}"
