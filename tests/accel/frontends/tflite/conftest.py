"""A writer of small TFLite models, and tflite-micro as the independent reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
import tflite

from accel import golden
from accel.frontends.tflite import load_tflite
from accel.graph import Network

KINDS = {np.dtype(kind.lower()): kind for kind in ("INT8", "UINT8", "INT32", "FLOAT16", "FLOAT32")}

#: The table of options of each operator that has one here.
OPTIONS = {
    "ADD": "AddOptions",
    "AVERAGE_POOL_2D": "Pool2DOptions",
    "CONCATENATION": "ConcatenationOptions",
    "CONV_2D": "Conv2DOptions",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
    "FULLY_CONNECTED": "FullyConnectedOptions",
    "LEAKY_RELU": "LeakyReluOptions",
    "MAX_POOL_2D": "Pool2DOptions",
    "MEAN": "ReducerOptions",
    "SOFTMAX": "SoftmaxOptions",
}


class Model:
    """Builds a file operator by operator; ``value`` is the tensor that the last one writes."""

    def __init__(self, shape: tuple[int, ...], scale: float = 0.5, zero: int = 0, kind: str = "INT8", **fields: Any) -> None:
        self.tensors: list[dict[str, Any]] = []
        self.operators: list[tuple[str, list[int], int, dict[str, Any]]] = []
        self.value = self.tensor(shape, scale, zero, kind=kind, name="image", **fields)
        self.outputs: list[int] | None = None

    def tensor(
        self,
        shape: tuple[int, ...],
        scale: Any = (),
        zero: Any = (),
        *,
        kind: str = "INT8",
        name: str = "",
        data: np.ndarray | None = None,
        axis: int = 0,
        signature: tuple[int, ...] | None = None,
    ) -> int:
        number = len(self.tensors)
        fields = {"shape": shape, "scale": np.atleast_1d(scale), "zero": np.atleast_1d(zero), "kind": kind, "data": data}
        self.tensors.append(fields | {"name": name or f"tensor{number}", "axis": axis, "signature": signature})
        return number

    def constant(self, data: Any, scale: Any = (), zero: Any = (), *, axis: int = 0) -> int:
        array = np.asarray(data)
        return self.tensor(array.shape, scale, zero, kind=KINDS[array.dtype], data=array, axis=axis)

    def op(
        self,
        kind: str,
        *more: int,
        shape: tuple[int, ...],
        scale: float | None = 0.5,
        zero: int = 0,
        to: str = "INT8",
        first: int | None = None,
        name: str = "",
        **options: Any,
    ) -> int:
        """Add an operator on the last value (or ``first``) and on ``more`` tensors, -1 where one is left out."""
        inputs = [self.value if first is None else first, *more]
        quantised = {} if scale is None else {"scale": scale, "zero": zero}
        self.value = self.tensor(shape, **quantised, kind=to, name=name or f"{kind.lower()}{len(self.operators)}")
        self.operators.append((kind, inputs, self.value, options))
        return self.value

    def conv(
        self,
        weights: np.ndarray,
        bias: np.ndarray | None = None,
        *,
        shape: tuple[int, ...],
        weight_scale: Any = 0.01,
        weight_zero: Any = 0,
        kind: str = "CONV_2D",
        **options: Any,
    ) -> int:
        """Add a convolution or a fully connected layer."""
        axis = 3 if kind == "DEPTHWISE_CONV_2D" else 0
        zeros = np.broadcast_to(weight_zero, np.shape(weight_scale))
        inputs = [self.constant(weights, weight_scale, zeros, axis=axis)]
        if bias is not None:
            scale = self.tensors[self.value]["scale"] * np.asarray(weight_scale)
            inputs.append(self.constant(bias.astype(np.int32), scale, np.zeros(len(scale), np.int64)))
        if kind != "FULLY_CONNECTED":
            options = {"Padding": "VALID", "StrideH": 1, "StrideW": 1, "DilationHFactor": 1, "DilationWFactor": 1} | options
        if kind == "DEPTHWISE_CONV_2D":
            options = {"DepthMultiplier": weights.shape[3] // self.tensors[self.value]["shape"][3]} | options
        return self.op(kind, *inputs, shape=shape, **options)

    def pool(self, kind: str, kernel: tuple[int, int], *, shape: tuple[int, ...], **options: Any) -> int:
        sizes = {"FilterHeight": kernel[0], "FilterWidth": kernel[1], "StrideH": 1, "StrideW": 1, "Padding": "VALID"}
        return self.op(kind, shape=shape, **sizes | options)

    def file(self) -> bytes:
        """Return the file."""
        b = flatbuffers.Builder(1024)
        codes = sorted({kind for kind, *_ in self.operators})
        buffers = [_table(b, "Buffer")]
        tensors = []
        for tensor in self.tensors:
            number = 0
            if tensor["data"] is not None:
                number = len(buffers)
                content = np.frombuffer(np.ascontiguousarray(tensor["data"]).tobytes(), np.uint8)
                buffers.append(_table(b, "Buffer", Data=b.CreateNumpyVector(content)))
            scale, zero = (b.CreateNumpyVector(tensor[k].astype(t)) for k, t in (("scale", np.float32), ("zero", np.int64)))
            grid = _table(b, "QuantizationParameters", Scale=scale, ZeroPoint=zero, QuantizedDimension=tensor["axis"])
            fields = {"Name": b.CreateString(tensor["name"]), "Shape": _vector(b, tensor["shape"]), "Quantization": grid}
            if tensor["signature"] is not None:
                fields["ShapeSignature"] = _vector(b, tensor["signature"])
            tensors.append(_table(b, "Tensor", Type=getattr(tflite.TensorType, tensor["kind"]), Buffer=number, **fields))
        operators = []
        for kind, inputs, output, options in self.operators:
            fields = {"Inputs": _vector(b, inputs), "Outputs": _vector(b, [output]), "OpcodeIndex": codes.index(kind)}
            if kind in OPTIONS:
                values = {name: _number(name, value) for name, value in options.items()}
                fields["BuiltinOptions"] = _table(b, OPTIONS[kind], **values)
                fields["BuiltinOptionsType"] = getattr(tflite.BuiltinOptions, OPTIONS[kind])
            operators.append(_table(b, "Operator", **fields))
        graph = _table(
            b,
            "SubGraph",
            Tensors=_offsets(b, tensors),
            Operators=_offsets(b, operators),
            Inputs=_vector(b, [0]),
            Outputs=_vector(b, [self.value] if self.outputs is None else self.outputs),
        )
        numbers = [getattr(tflite.BuiltinOperator, kind) for kind in codes]
        made = [_table(b, "OperatorCode", BuiltinCode=n, DeprecatedBuiltinCode=min(n, 127), Version=1) for n in numbers]
        root = _table(
            b,
            "Model",
            Version=3,
            OperatorCodes=_offsets(b, made),
            Subgraphs=_offsets(b, [graph]),
            Buffers=_offsets(b, buffers),
        )
        b.Finish(root, b"TFL3")
        return bytes(b.Output())


def _number(name: str, value: Any) -> Any:
    kinds = {"Padding": tflite.Padding, "FusedActivationFunction": tflite.ActivationFunctionType}
    return getattr(kinds[name], value) if isinstance(value, str) else value


def _vector(b: Any, numbers: Any) -> int:
    return int(b.CreateNumpyVector(np.array(numbers, np.int32)))


def _offsets(b: Any, offsets: list[int]) -> int:
    b.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        b.PrependUOffsetTRelative(offset)
    return int(b.EndVector())


def _table(b: Any, name: str, **fields: Any) -> int:
    getattr(tflite, f"{name}Start")(b)
    for field, value in fields.items():
        getattr(tflite, f"{name}Add{field}")(b, value)
    return int(getattr(tflite, f"{name}End")(b))


class Bench:
    """What the tests of this folder share."""

    Model = Model

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, model: Model | bytes) -> Path:
        path = self.folder / "model.tflite"
        path.write_bytes(model if isinstance(model, bytes) else model.file())
        return path

    def load(self, model: Model | bytes) -> Network:
        return load_tflite(self.path(model))

    @staticmethod
    def micro(model: bytes, maps: np.ndarray) -> np.ndarray:
        """Return what tflite-micro makes of int8 maps, one after the other: int64 ``(N, elements)``."""
        runtime = pytest.importorskip("tflite_micro.python.tflite_micro.runtime", reason="tflite-micro is not installed")
        interpreter = runtime.Interpreter.from_bytes(model, arena_size=1 << 22)
        shape = interpreter.get_input_details(0)["shape"]
        outputs = []
        for image in maps:
            interpreter.set_input(image.reshape(shape), 0)
            interpreter.invoke()
            outputs.append(interpreter.get_output(0).reshape(-1).astype(np.int64))
        return np.array(outputs)

    def compare(self, model: Model, maps: np.ndarray, message: str = "") -> Network:
        """Hold the golden model's bytes against tflite-micro's; return the network."""
        network = self.load(model)
        actual = golden.run(network, maps.reshape(-1, *network.input.shape)).reshape(len(maps), -1)
        np.testing.assert_array_equal(actual, self.micro(model.file(), maps), err_msg=message)
        return network


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)
