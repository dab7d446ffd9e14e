"""The golden model against results that nobody here computed: Arm's CMSIS-NN test vectors.

The files lie beside the repository, in ``../shared/data``; where they are absent these tests are skipped.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from accel import golden
from accel.frontends.tflite_kernels import average_factor
from accel.graph import Add, AveragePool, Conv2D, MaxPool, Requantisation, Window
from accel.numerics import Rounding

Array = npt.NDArray[Any]

DATA = Path(__file__).parents[3] / "shared" / "data"
VECTORS = DATA / "vectors" / "cmsis_nn_s8.json"


def fixed(multiplier: Any, shift: Any, zero_point: int, minimum: int, maximum: int) -> Requantisation:
    return Requantisation(
        multiplier=np.atleast_1d(np.asarray(multiplier, np.int32)),
        shift=np.atleast_1d(np.asarray(shift, np.int32)),
        rounding=Rounding.DOUBLE_AWAY,
        zero_point=zero_point,
        minimum=minimum,
        maximum=maximum,
    )


def add_table(zero_point: int, multiplier: int, shift: int, left_shift: int) -> npt.NDArray[np.int32]:
    """Return an operand of TensorFlow Lite's add as a table: the shifted code, multiplied and doubly rounded, in plain integers."""
    entries = []
    for code in range(-128, 128):
        value = (code - zero_point) << left_shift
        assert shift <= 0
        product = value * multiplier
        nudge = 1 << 30 if product >= 0 else 1 - (1 << 30)
        high = int(math.copysign(abs(product + nudge) >> 31, product + nudge))
        magnitude = (abs(high) + (1 << -shift >> 1)) >> -shift
        entries.append(int(math.copysign(magnitude, high)))
    return np.array(entries, np.int32)


# CMSIS-NN


class Case:
    """One of Arm's cases: ``config`` names as in their headers, arrays by name."""

    def __init__(self, name: str) -> None:
        self.config: dict[str, Any] = json.loads(VECTORS.read_text())[name]["config"]
        with np.load(VECTORS.with_suffix(".npz")) as arrays:
            self.arrays = {key.removeprefix(f"{name}/"): arrays[key] for key in arrays.files if key.startswith(f"{name}/")}

    def __getitem__(self, key: str) -> int:
        return int(self.config[key])

    def window(self, names: str = "XY") -> Window:
        """Return the window; the padding at the end is what the output's size asks for."""
        across, down = tuple(names)
        kernel = self[f"FILTER_{down}"], self[f"FILTER_{across}"]
        stride = self[f"STRIDE_{down}"], self[f"STRIDE_{across}"]
        dilation = (self["DILATION_Y"], self["DILATION_X"]) if names == "XY" else (1, 1)
        prefix = "PAD" if names == "XY" else "PADDING"
        before = self[f"{prefix}_{down}"], self[f"{prefix}_{across}"]
        after = []
        for axis, size in enumerate(("H", "W")):
            needed = (self[f"OUTPUT_{size}"] - 1) * stride[axis] + (kernel[axis] - 1) * dilation[axis] + 1
            after.append(max(0, needed - self[f"INPUT_{size}"] - before[axis]))
        return Window(kernel=kernel, stride=stride, padding=(*before, after[0], after[1]), dilation=dilation)

    def requantisation(self, multiplier: Any, shift: Any) -> Requantisation:
        return fixed(multiplier, shift, self["OUTPUT_OFFSET"], self["OUT_ACTIVATION_MIN"], self["OUT_ACTIVATION_MAX"])


def run_convolution(case: Case) -> tuple[Array, Array]:
    depthwise = "CH_MULT" in case.config
    out, channels = case["OUT_CH"], case["IN_CH"]
    per_group = 1 if depthwise else int(case.config.get("FILTER_CH", channels))
    window = case.window()
    weights = case.arrays["weights"]
    # Arm keeps depthwise weights with the channels last, (1, height, width, out).
    if depthwise:
        shaped = weights.reshape(*window.kernel, out).transpose(2, 0, 1)[..., np.newaxis]
    else:
        shaped = weights.reshape(out, *window.kernel, per_group)
    layer = Conv2D(
        name="conv",
        inputs=("x",),
        output="y",
        window=window,
        weights=np.ascontiguousarray(shaped),
        bias=case.arrays["biases"],
        groups=channels // per_group,
        requantisation=case.requantisation(case.arrays["output_mult"], case.arrays["output_shift"]),
    )
    x = case.arrays["input"].reshape(-1, case["INPUT_H"], case["INPUT_W"], channels)
    return golden.conv2d(layer, x, -case["INPUT_OFFSET"]), case.arrays["output_ref"]


def run_fully_connected(case: Case) -> tuple[Array, Array]:
    out, depth = case["OUT_CH"], case["ACCUMULATION_DEPTH"]
    multiplier = case.arrays.get("output_multiplier", case.config.get("OUTPUT_MULTIPLIER"))
    shift = case.arrays.get("output_shift", case.config.get("OUTPUT_SHIFT"))
    bias = case.arrays.get("biases", case.arrays.get("bias", np.zeros(out, np.int32)))
    layer = Conv2D(
        name="fc",
        inputs=("x",),
        output="y",
        window=Window(kernel=(1, 1)),
        weights=case.arrays["weights"].reshape(out, 1, 1, depth),
        bias=bias,
        weight_zero_point=np.array([-int(case.config.get("FILTER_OFFSET", 0))], np.int32),
        requantisation=case.requantisation(multiplier, shift),
    )
    expected = case.arrays["output_ref"] if "output_ref" in case.arrays else case.arrays["output"]
    return golden.conv2d(layer, case.arrays["input"].reshape(-1, 1, 1, depth), -case["INPUT_OFFSET"]), expected


def run_pool(case: Case, *, average: bool) -> tuple[Array, Array]:
    x = case.arrays["input_tensor"].reshape(-1, case["INPUT_H"], case["INPUT_W"], case["INPUT_C"])
    window, low, high = case.window("WH"), case["ACTIVATION_MIN"], case["ACTIVATION_MAX"]
    if not average:
        layer = MaxPool(name="pool", inputs=("x",), output="y", window=window, minimum=low, maximum=high)
        return golden.max_pool(layer, x), case.arrays["output"]
    return golden.average_pool(average_layer(("x",), "y", window, low, high), x), case.arrays["output"]


def average_layer(inputs: tuple[str, ...], output: str, window: Window, low: int, high: int) -> AveragePool:
    """Return TensorFlow Lite's average pool: of raw codes, padding not counted, half away from zero."""
    return AveragePool(
        name=output,
        inputs=inputs,
        output=output,
        window=window,
        input_zero_point=0,
        factors={count: average_factor(count) for count in range(1, math.prod(window.kernel) + 1)},
        requantisation=fixed(0, 0, 0, low, high),
    )


def run_add(case: Case) -> tuple[Array, Array]:
    tables = [
        add_table(-case[f"INPUT{i}_OFFSET"], case[f"INPUT{i}_MULT"], case[f"INPUT{i}_SHIFT"], case["LEFT_SHIFT"]) for i in (1, 2)
    ]
    layer = Add(
        name="add",
        inputs=("a", "b"),
        output="y",
        tables=(tables[0], tables[1]),
        requantisation=case.requantisation(case["OUTPUT_MULT"], case["OUTPUT_SHIFT"]),
    )
    a, b = (case.arrays[name].reshape(1, 1, -1, 1) for name in ("input1", "input2"))
    return golden.add(layer, a, b), case.arrays["output_ref"]


def runner(name: str) -> Callable[[Case], tuple[Array, Array]] | None:
    """Return what runs a case, or None for an operator that the layer graph does not have."""
    if name.startswith(("transpose_conv", "reverse_transpose_conv", "maximum", "minimum", "mul", "pad")):
        return None
    if name == "add":
        return run_add
    if name.startswith("fully_connected") or name == "fc_per_ch":
        return run_fully_connected
    if name.startswith("avgpooling"):
        return lambda case: run_pool(case, average=True)
    if name.startswith("maxpooling"):
        return lambda case: run_pool(case, average=False)
    return run_convolution


NAMES = [name for name in json.loads(VECTORS.read_text()) if runner(name)] if VECTORS.exists() else ["absent"]


@pytest.mark.skipif(not VECTORS.exists(), reason="the CMSIS-NN vectors are not beside the repository")
@pytest.mark.parametrize("name", NAMES)
def test_cmsis_nn(name: str) -> None:
    run = runner(name)
    assert run is not None
    actual, expected = run(Case(name))
    np.testing.assert_array_equal(actual.reshape(-1), expected)
