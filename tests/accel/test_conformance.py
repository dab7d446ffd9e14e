"""The golden model against results that nobody here computed: Arm's CMSIS-NN test vectors, and tflite-micro on real models.

The files lie beside the repository, in ``../shared/data``; where they are absent these tests are skipped. What the models hold is
read with the schema in the tflite-micro package and turned into layers here by the published definitions of its kernels, so
nothing but the golden model is under test.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from accel import golden
from accel.graph import Add, AveragePool, Conv2D, MaxPool, Network, Operator, Requantisation, Tensor, Window
from accel.numerics import Rounding, quantise_multiplier

Array = npt.NDArray[Any]

DATA = Path(__file__).parents[3] / "shared" / "data"
VECTORS = DATA / "vectors" / "cmsis_nn_s8.json"


def half_away_factor(count: int) -> tuple[int, int]:
    """Return the factor for 1/count whose single rounding half up is half away from zero for every sum of ``count`` bytes.

    Slightly above 1/count, it moves every tie away from zero and, by less than 2**-16 at most, nothing else across one.
    """
    return min((1 << 31) // count + 1, (1 << 31) - 1), 0


def test_half_away_factor() -> None:
    for count in range(1, 65):
        multiplier, shift = half_away_factor(count)
        for total in range(-128 * count, 127 * count + 1):
            exact = Fraction(total, count)
            away = math.floor(abs(exact) + Fraction(1, 2)) * (1 if total >= 0 else -1)
            assert (total * multiplier + (1 << 30)) >> (31 - shift) == away, (count, total)


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
        factors={count: half_away_factor(count) for count in range(1, math.prod(window.kernel) + 1)},
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


# tflite-micro

SCHEMA = "tflite_micro.tensorflow.lite.micro.python.schema_py_generated"


class TfliteModel:
    """A TFLite file as a network, by the definitions of tflite-micro's kernels."""

    def __init__(self, path: Path) -> None:
        schema = pytest.importorskip(SCHEMA, reason="tflite-micro is not installed")
        self.schema = schema
        self.model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
        self.graph = self.model.subgraphs[0]
        self.kinds = {code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
        self.alias: dict[int, int] = {}
        self.operators: list[Operator] = []
        self.shapes: dict[int, tuple[int, int, int]] = {}

    def kind(self, op: Any) -> str:
        code = self.model.operatorCodes[op.opcodeIndex]
        return str(self.kinds[max(code.builtinCode, code.deprecatedBuiltinCode)])

    def quantisation(self, index: int) -> tuple[Array, int]:
        parameters = self.graph.tensors[index].quantization
        return np.asarray(parameters.scale, np.float64), int(np.asarray(parameters.zeroPoint).flat[0])

    def constant(self, index: int) -> Array:
        tensor = self.graph.tensors[index]
        dtype = {self.schema.TensorType.INT8: np.int8, self.schema.TensorType.INT32: np.int32}[tensor.type]
        return np.frombuffer(bytes(self.model.buffers[tensor.buffer].data), dtype).reshape(tensor.shape)

    def clamp(self, index: int, activation: int) -> tuple[int, int]:
        scale, zero = self.quantisation(index)
        kinds = self.schema.ActivationFunctionType
        low, high = {kinds.NONE: (None, None), kinds.RELU: (0.0, None), kinds.RELU6: (0.0, 6.0)}[activation]
        minimum = -128 if low is None else max(-128, zero + round(low / scale[0]))
        return minimum, 127 if high is None else min(127, zero + round(high / scale[0]))

    def requantisation(self, factors: Array, output: int, activation: int) -> Requantisation:
        pairs = np.array([quantise_multiplier(float(factor)) for factor in np.atleast_1d(factors)])
        return fixed(pairs[:, 0], pairs[:, 1], self.quantisation(output)[1], *self.clamp(output, activation))

    def window(self, options: Any, kernel: tuple[int, int], source: int, *, dilated: bool = True) -> Window:
        stride = options.strideH, options.strideW
        dilation = (options.dilationHFactor, options.dilationWFactor) if dilated else (1, 1)
        padding = [0, 0, 0, 0]
        if options.padding == self.schema.Padding.SAME:
            for axis in range(2):
                size = self.shapes[source][axis]
                total = max(0, (-(-size // stride[axis]) - 1) * stride[axis] + (kernel[axis] - 1) * dilation[axis] + 1 - size)
                padding[axis], padding[axis + 2] = total // 2, total - total // 2
        return Window(kernel=kernel, stride=stride, padding=(padding[0], padding[1], padding[2], padding[3]), dilation=dilation)

    def convolution(self, op: Any, source: int, kind: str) -> Conv2D:
        weights, output, options = self.constant(op.inputs[1]), op.outputs[0], op.builtinOptions
        scale = self.quantisation(source)[0] * self.quantisation(op.inputs[1])[0] / self.quantisation(output)[0]
        if kind == "DEPTHWISE_CONV_2D":
            weights = weights.transpose(3, 1, 2, 0)
        elif kind == "FULLY_CONNECTED":
            weights = weights.reshape(len(weights), *self.shapes[source])
        kernel = weights.shape[1], weights.shape[2]
        has_bias = len(op.inputs) > 2 and op.inputs[2] >= 0
        return Conv2D(
            name=str(output),
            inputs=(str(source),),
            output=str(output),
            window=Window(kernel=kernel) if kind == "FULLY_CONNECTED" else self.window(options, kernel, source),
            weights=np.ascontiguousarray(weights),
            bias=self.constant(op.inputs[2]) if has_bias else np.zeros(len(weights), np.int32),
            groups=self.shapes[source][2] // weights.shape[3],
            requantisation=self.requantisation(scale, output, options.fusedActivationFunction),
        )

    def add(self, op: Any, sources: list[int]) -> Add:
        """Return the add: each input shifted left by 20 and scaled to twice the larger scale, then to the output's."""
        scales = [float(self.quantisation(source)[0][0]) for source in sources]
        output, twice = op.outputs[0], 2 * max(scales)
        tables = []
        for source, scale in zip(sources, scales, strict=True):
            tables.append(add_table(self.quantisation(source)[1], *quantise_multiplier(scale / twice), 20))
        factor = twice / ((1 << 20) * self.quantisation(output)[0])
        return Add(
            name=str(output),
            inputs=(str(sources[0]), str(sources[1])),
            output=str(output),
            tables=(tables[0], tables[1]),
            requantisation=self.requantisation(factor, output, op.builtinOptions.fusedActivationFunction),
        )

    def mean(self, op: Any, source: int) -> AveragePool:
        """Return the mean over height and width, whose count is folded into the multiplier."""
        height, width, _ = self.shapes[source]
        scale, zero = self.quantisation(source)
        multiplier, shift = quantise_multiplier(float(scale[0] / self.quantisation(op.outputs[0])[0][0]))
        count = height * width
        k = min(count.bit_length() - 1, 32, 31 + shift)
        return AveragePool(
            name=str(op.outputs[0]),
            inputs=(str(source),),
            output=str(op.outputs[0]),
            window=Window(kernel=(height, width)),
            input_zero_point=zero,
            factors={count: ((multiplier << k) // count, shift - k)},
            requantisation=fixed(0, 0, self.quantisation(op.outputs[0])[1], -128, 127),
        )

    def network(self) -> Network:
        """Return the network up to a final softmax, which is left out."""
        start = self.graph.inputs[0]
        self.shapes[start] = self.shape_of(start)
        output = start
        for op in self.graph.operators:
            kind = self.kind(op)
            source = self.alias.get(op.inputs[0], op.inputs[0])
            if kind in ("RESHAPE", "SOFTMAX"):
                self.alias[op.outputs[0]] = source
                continue
            options, output = op.builtinOptions, op.outputs[0]
            layer: Operator
            if kind in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
                layer = self.convolution(op, source, kind)
            elif kind == "ADD":
                layer = self.add(op, [self.alias.get(i, i) for i in op.inputs])
            elif kind == "MEAN":
                layer = self.mean(op, source)
            else:
                assert kind == "AVERAGE_POOL_2D", kind
                window = self.window(options, (options.filterHeight, options.filterWidth), source, dilated=False)
                layer = average_layer((str(source),), str(output), window, *self.clamp(output, options.fusedActivationFunction))
            self.shapes[output] = layer.output_shape(tuple(self.shapes[int(name)] for name in layer.inputs))
            self.operators.append(layer)
        tensors = {str(i): Tensor(name=str(i), shape=shape, zero_point=self.quantisation(i)[1]) for i, shape in self.shapes.items()}
        return Network(
            name="tflite", input=tensors[str(start)], operators=tuple(self.operators), tensors=tensors, output=str(output)
        )

    def shape_of(self, index: int) -> tuple[int, int, int]:
        shape = [int(n) for n in self.graph.tensors[index].shape[1:]]
        return (1, 1, shape[0]) if len(shape) == 1 else (shape[0], shape[1], shape[2])

    def without_softmax(self) -> bytes:
        """Return the file again, ended before a final softmax."""
        flatbuffers = pytest.importorskip("flatbuffers")
        last = self.graph.operators[-1]
        if self.kind(last) == "SOFTMAX":
            self.graph.operators = self.graph.operators[:-1]
            self.graph.outputs = [last.inputs[0]]
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def ref_tflite_micro(model: bytes, maps: Array) -> Array:
    """Return what tflite-micro's interpreter makes of int8 maps, one after the other."""
    runtime = pytest.importorskip("tflite_micro.python.tflite_micro.runtime", reason="tflite-micro is not installed")
    interpreter = runtime.Interpreter.from_bytes(model)
    shape = interpreter.get_input_details(0)["shape"]
    outputs = []
    for image in maps:
        interpreter.set_input(image.reshape(shape), 0)
        interpreter.invoke()
        outputs.append(interpreter.get_output(0).reshape(-1).copy())
    return np.array(outputs)


def images_for(model: str) -> Array | None:
    """Return real int8 inputs for a model, or None where there are none."""
    if model.startswith("mnist"):
        with np.load(DATA / "images" / "mnist_public_1k.npz") as file:
            return np.asarray(file["x"][:200].astype(np.int16) - 128, np.int8)[..., np.newaxis]
    if model == "cifar10_q":
        with np.load(DATA / "images" / "cifar10_test20_lossless.npz") as file:
            return np.asarray(file["x"].astype(np.int16) - 128, np.int8)
    if model == "pretrainedResnet_quant":
        with np.load(DATA / "golden" / "pretrainedResnet_quant_cifar20.npz") as file:
            return np.asarray(file["x"])
    return None


MODELS = ["ad01_int8", "cifar10_q", "kws_ref_model", "mnist_dw_q", "mnist_resnet_q", "mnist_valid_q", "pretrainedResnet_quant"]


@pytest.mark.parametrize("name", MODELS)
def test_tflite_micro(name: str) -> None:
    """Every output byte before the softmax, on real inputs and on noise."""
    path = DATA / "models" / "tflite" / f"{name}.tflite"
    if not path.exists():
        pytest.skip("the TFLite models are not beside the repository")
    model = TfliteModel(path)
    network = model.network()
    noise = np.random.default_rng(1).integers(-128, 128, (20, *network.input.shape), np.int8)
    real = images_for(name)
    maps = noise if real is None else np.concatenate([real, noise])
    expected = ref_tflite_micro(model.without_softmax(), maps)
    np.testing.assert_array_equal(golden.run(network, maps).reshape(len(maps), -1), expected, err_msg="noise is from seed 1")


def test_tflite_micro_outputs_on_record() -> None:
    """The one model without a softmax, against outputs computed elsewhere."""
    path, results = DATA / "models" / "tflite" / "ad01_int8.tflite", DATA / "golden" / "ad01_int8_16.npz"
    if not path.exists() or not results.exists():
        pytest.skip("the TFLite models and their outputs are not beside the repository")
    network = TfliteModel(path).network()
    with np.load(results) as file:
        outputs = golden.run(network, file["x"].reshape(-1, *network.input.shape))
        np.testing.assert_array_equal(outputs.reshape(-1, 640), file["y_tflm"])
