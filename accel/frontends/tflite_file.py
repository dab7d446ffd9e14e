"""What a .tflite file holds, as plain values: a flatbuffer read once and checked, so that nothing after this can meet a bad offset.

The schema is that of the package ``tflite``, TensorFlow Lite's own, generated.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tflite

from accel.errors import SystolithError

__all__ = ["FileModel", "FileOperator", "FileTensor", "TfliteError", "read_tflite"]

Array = npt.NDArray[Any]


class TfliteError(SystolithError):
    """A TFLite model that cannot be read or run, in one sentence naming file, layer and what to do."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FileTensor:
    """A tensor as the file describes it.

    ``kind`` is its type's name (``INT8``). ``scale`` and ``zero_point`` have no entry, one, or one along ``axis`` each. ``data``
    is a constant's content in its shape, None for what is computed; ``is_constant`` also holds where the content cannot be
    used (a type that is not read, a sparse form).
    """

    name: str
    shape: tuple[int, ...]
    is_dynamic: bool
    kind: str
    scale: npt.NDArray[np.float32]
    zero_point: npt.NDArray[np.int64]
    axis: int
    data: Array | None
    is_constant: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class FileOperator:
    """An operator: the name of its ``kind``, the numbers of its tensors (-1 where one is left out), its ``options`` by name."""

    kind: str
    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Mapping[str, Any]

    @property
    def label(self) -> str:
        """What messages call it."""
        return f"{self.kind} {self.name!r}"


@dataclass(frozen=True, kw_only=True, eq=False)
class FileModel:
    """The main graph of a file: ``origin`` (the path) for messages, tensors by number, operators in order, both ends."""

    origin: str
    tensors: tuple[FileTensor, ...]
    operators: tuple[FileOperator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


#: For each operator with options that matter, the table that holds them, and their names.
_POOL = ("Pool2DOptions", ("FilterHeight", "FilterWidth", "StrideH", "StrideW", "Padding", "FusedActivationFunction"))
_SLIDING = ("StrideH", "StrideW", "DilationHFactor", "DilationWFactor", "Padding", "FusedActivationFunction")
_OPTIONS = {
    "ADD": ("AddOptions", ("FusedActivationFunction",)),
    "AVERAGE_POOL_2D": _POOL,
    "CONCATENATION": ("ConcatenationOptions", ("Axis", "FusedActivationFunction")),
    "CONV_2D": ("Conv2DOptions", _SLIDING),
    "DEPTHWISE_CONV_2D": ("DepthwiseConv2DOptions", _SLIDING),
    "FULLY_CONNECTED": ("FullyConnectedOptions", ("FusedActivationFunction", "WeightsFormat")),
    "LEAKY_RELU": ("LeakyReluOptions", ("Alpha",)),
    "MAX_POOL_2D": _POOL,
}

_DTYPES: dict[str, np.dtype[Any]] = {
    "FLOAT16": np.dtype("<f2"),
    "FLOAT32": np.dtype("<f4"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "UINT8": np.dtype("u1"),
}


def _names(enumeration: type) -> dict[int, str]:
    return {number: name for name, number in vars(enumeration).items() if isinstance(number, int)}


_KINDS = _names(tflite.BuiltinOperator)
_TYPES = _names(tflite.TensorType)
_ENUMERATIONS = {"Padding": _names(tflite.Padding), "FusedActivationFunction": _names(tflite.ActivationFunctionType)}


def read_tflite(path: str | Path) -> FileModel:
    """Return what a .tflite file holds. Raises :class:`TfliteError` in one sentence for a file that cannot be read as one."""
    path = Path(path)
    if not path.is_file():
        raise TfliteError(f"{path}: there is no such file")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TfliteError(f"{path}: cannot be read: {error.strerror}") from None
    damaged = f"{path}: is not a TFLite model, or is cut off; export or copy it again"
    if len(content) < 8 or not tflite.Model.ModelBufferHasIdentifier(content, 0):
        raise TfliteError(damaged)
    try:
        return _model(path, content)
    except TfliteError:
        raise
    # bad offsets surface as whatever struct, NumPy, flatbuffers and the decoders of text raise
    except (struct.error, AttributeError, IndexError, OverflowError, TypeError, ValueError):
        raise TfliteError(damaged) from None


def _model(path: Path, content: bytes) -> FileModel:
    model = tflite.Model.GetRootAsModel(content, 0)
    if model.SubgraphsLength() < 1:
        raise TfliteError(f"{path}: holds no graph; export it again")
    graph = model.Subgraphs(0)
    buffers = [model.Buffers(i) for i in range(model.BuffersLength())]
    tensors = tuple(_tensor(path, graph.Tensors(i), buffers) for i in range(graph.TensorsLength()))
    operators = []
    for i in range(graph.OperatorsLength()):
        operator = graph.Operators(i)
        inputs, outputs = _numbers(operator.InputsAsNumpy()), _numbers(operator.OutputsAsNumpy())
        if any(not -1 <= n < len(tensors) for n in inputs) or any(not 0 <= n < len(tensors) for n in outputs):
            raise ValueError("a tensor's number is out of range")
        code = model.OperatorCodes(operator.OpcodeIndex())
        kind = _KINDS.get(code.BuiltinCode(), f"operator {code.BuiltinCode()}")
        if kind == "CUSTOM":
            kind = f"custom operator {_text(code.CustomCode())}"
        name = tensors[outputs[0]].name if outputs else f"number {i}"
        operators.append(FileOperator(kind=kind, name=name, inputs=inputs, outputs=outputs, options=_options(kind, operator)))
    ends = _numbers(graph.InputsAsNumpy()), _numbers(graph.OutputsAsNumpy())
    if any(not 0 <= n < len(tensors) for numbers in ends for n in numbers):
        raise ValueError("a tensor's number is out of range")
    return FileModel(origin=str(path), tensors=tensors, operators=tuple(operators), inputs=ends[0], outputs=ends[1])


def _tensor(path: Path, tensor: Any, buffers: list[Any]) -> FileTensor:
    shape = _numbers(tensor.ShapeAsNumpy())
    quantisation = tensor.Quantization()
    has_scale = quantisation is not None and quantisation.ScaleLength() > 0
    has_zero_point = quantisation is not None and quantisation.ZeroPointLength() > 0
    kind = _TYPES.get(tensor.Type(), f"type {tensor.Type()}")
    name = _text(tensor.Name())
    buffer = buffers[tensor.Buffer()]
    is_constant = buffer.DataLength() > 0
    data: Array | None = None
    if is_constant and kind in _DTYPES and tensor.Sparsity() is None:
        data = np.frombuffer(buffer.DataAsNumpy().tobytes(), _DTYPES[kind]).reshape(shape)
        if data.dtype.kind == "f" and not np.isfinite(data).all():
            raise TfliteError(f"{path}: the constant {name!r} holds NaN or infinity; every weight must be finite")
    return FileTensor(
        name=name,
        shape=shape,
        # A file of today says -1 in the signature, where the shape itself has a 1.
        is_dynamic=any(n < 0 for n in (*shape[1:], *_numbers(tensor.ShapeSignatureAsNumpy())[1:])),
        kind=kind,
        scale=np.array(quantisation.ScaleAsNumpy() if has_scale else (), np.float32),
        zero_point=np.array(quantisation.ZeroPointAsNumpy() if has_zero_point else (), np.int64),
        axis=0 if quantisation is None else quantisation.QuantizedDimension(),
        data=data,
        is_constant=is_constant,
    )


def _options(kind: str, operator: Any) -> dict[str, Any]:
    if kind not in _OPTIONS:
        return {}
    table, names = _OPTIONS[kind]
    source = operator.BuiltinOptions()
    if source is None or operator.BuiltinOptionsType() != getattr(tflite.BuiltinOptions, table):
        raise ValueError("an operator has no options, or another operator's")
    options = getattr(tflite, table)()
    options.Init(source.Bytes, source.Pos)
    values: dict[str, Any] = {name: getattr(options, name)() for name in names}
    for name in _ENUMERATIONS.keys() & values.keys():
        values[name] = _ENUMERATIONS[name].get(values[name], f"number {values[name]}")
    return values


def _numbers(vector: Any) -> tuple[int, ...]:
    """Return a vector of integers; flatbuffers gives the number 0 for one that is absent."""
    return tuple(np.atleast_1d(vector).tolist()) if isinstance(vector, np.ndarray) else ()


def _text(name: bytes | None) -> str:
    return (name or b"").decode("utf-8")
