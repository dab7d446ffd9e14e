"""Quantisation after training: a float ONNX model and calibration data in, an int8 ONNX model (QDQ form) out.

The work is ONNX Runtime's static quantiser: per-channel symmetric int8 weights, int8 activations with a zero point, ranges from the
smallest and largest value that the calibration data reaches. ONNX Runtime is imported only when a model is quantised.
"""

from __future__ import annotations

import importlib
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import version_converter

from accel.errors import SystolithError

__all__ = ["QuantisationError", "quantise_model"]

FloatArray = npt.NDArray[np.float32]

#: The first operator set with per-channel QuantizeLinear.
OPSET = 13


class QuantisationError(SystolithError):
    """A float model that cannot be quantised, or calibration data that does not fit it."""


def quantise_model(model: onnx.ModelProto, calibration: npt.ArrayLike, *, name: str) -> onnx.ModelProto:
    """Return the int8 form of a float ``model`` with one input, batch first; batch normalisation is folded on the way.

    ``calibration`` holds real inputs, float ``(N, ...)`` in the model's own layout; ``name`` is what error messages call the model.
    Raises :class:`QuantisationError` for a calibration set that is empty, not finite or of another shape, and for a model that ONNX
    Runtime refuses.
    """
    data = np.asarray(calibration)
    metadata = list(model.metadata_props)
    model = _prepare(model, name)
    value = model.graph.input[0]
    dims = value.type.tensor_type.shape.dim
    wanted = tuple(d.dim_value if d.HasField("dim_value") else None for d in dims)[1:]
    if (
        data.dtype.kind not in "fiu"
        or data.ndim != len(wanted) + 1
        or any(want not in (None, have) for want, have in zip(wanted, data.shape[1:], strict=True))
    ):
        shape = ", ".join(["N", *("any" if n is None else str(n) for n in wanted)])
        raise QuantisationError(f"{name}: calibration data must be numbers of shape ({shape}), not {data.dtype} {data.shape}")
    if len(data) == 0:
        raise QuantisationError(f"{name}: calibration data is empty; give at least one input, better a hundred")
    data = data.astype(np.float32)
    if not np.isfinite(data).all():
        raise QuantisationError(f"{name}: calibration data holds NaN or infinity; remove those inputs")
    runtime = _runtime(name)
    shape_inference = importlib.import_module("onnxruntime.quantization.shape_inference")
    with tempfile.TemporaryDirectory(prefix="systolith-") as folder, _quiet():
        plain, prepared, quantised = (str(Path(folder) / f"{stage}.onnx") for stage in ("plain", "prepared", "quantised"))
        try:
            # A path, not the model itself, with which the optimiser (it folds batch normalisation) gives up in silence.
            onnx.save(model, plain)
            shape_inference.quant_pre_process(plain, prepared, skip_symbolic_shape=True)
            _flatten_biases(prepared)
            runtime.quantize_static(
                prepared,
                quantised,
                _reader(runtime, value.name, data),
                quant_format=runtime.QuantFormat.QDQ,
                per_channel=True,
                activation_type=runtime.QuantType.QInt8,
                weight_type=runtime.QuantType.QInt8,
                extra_options={"ActivationSymmetric": False, "WeightSymmetric": True},
            )
            result = onnx.load(quantised)
        except Exception as error:  # ONNX Runtime raises many types, some of its own binding
            raise QuantisationError(f"{name}: ONNX Runtime cannot quantise this model: {_one_line(error)}") from error
    # The quantiser lists operator sets that no node uses, which newer checkers then want to know.
    used = {node.domain for node in result.graph.node} | {""}
    kept = [entry for entry in result.opset_import if entry.domain in used]
    del result.opset_import[:]
    result.opset_import.extend(kept)
    # Converter and quantiser write entries of their own; the model's are what counts.
    del result.metadata_props[:]
    result.metadata_props.extend(metadata)
    return result


def _prepare(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """Return a copy with initialisers out of the inputs (else they are not constant) and an operator set that can be quantised."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    constants = {tensor.name for tensor in copy.graph.initializer}
    inputs = [value for value in copy.graph.input if value.name not in constants]
    if len(inputs) != 1:
        raise QuantisationError(f"{name}: a model must have one input to be quantised, not {len(inputs)}")
    version = next((entry.version for entry in copy.opset_import if entry.domain in ("", "ai.onnx")), OPSET)
    if version < OPSET:
        # The converter wants initialisers among the inputs for old models, so it goes first.
        try:
            copy = version_converter.convert_version(copy, OPSET)
        except Exception as error:  # the converter is a C++ binding that raises RuntimeError and its own types
            raise QuantisationError(
                f"{name}: cannot be brought from operator set {version} to {OPSET}: {_one_line(error)}"
            ) from error
    copy.ir_version = max(copy.ir_version, 7)
    kept = [value for value in copy.graph.input if value.name not in constants]
    del copy.graph.input[:]
    copy.graph.input.extend(kept)
    return copy


def _flatten_biases(path: str) -> None:
    """Make every Gemm's constant bias a vector: the quantiser fails on the shape (1, N) that its own fusion leaves."""
    model = onnx.load(path)
    biases = {node.input[2] for node in model.graph.node if node.op_type == "Gemm" and len(node.input) > 2}
    for tensor in model.graph.initializer:
        if tensor.name in biases and len(tensor.dims) == 2 and tensor.dims[0] == 1:
            del tensor.dims[0]
    onnx.save(model, path)


def _runtime(name: str) -> Any:
    try:
        return importlib.import_module("onnxruntime.quantization")
    except ImportError:
        raise QuantisationError(f"{name}: quantising a float model needs ONNX Runtime; run 'pip install onnxruntime'") from None


def _reader(runtime: Any, input_name: str, data: FloatArray) -> Any:
    """Return a calibration reader that hands out one input at a time."""
    rows: Iterator[FloatArray] = iter(data[:, None])

    def get_next(_self: Any) -> dict[str, FloatArray] | None:
        row = next(rows, None)
        return None if row is None else {input_name: row}

    return type("Reader", (runtime.CalibrationDataReader,), {"get_next": get_next})()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the quantiser's advice about its own options off the terminal."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(previous)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
