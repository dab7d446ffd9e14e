"""ONNX models: quantised ones as they are, float ones quantised first.

A quantised model may be in QDQ form (float operators between DequantizeLinear and QuantizeLinear) or in QOperator form (QLinearConv
and its kin), with int8 or uint8 activations; uint8 becomes int8 by moving the zero point by 128. Requantisation is exact integer
arithmetic, half to even, with the factor that ONNX Runtime computes in float32 (a Q31 multiplier holds it exactly). The runtime
itself rounds the product of sum and factor to float32 first, so that a value within half a float32 step of a tie may round the
other way there: measured on trained networks, about one byte in a million differs, by one.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from accel.frontends.assumed import NOTE
from accel.frontends.onnx_assumed import AssumingImporter
from accel.frontends.onnx_graph import Importer, Node, one_line
from accel.frontends.onnx_operators import HANDLERS
from accel.frontends.onnx_values import Constant, LayoutError, OnnxError
from accel.frontends.simplify import simplify
from accel.graph import Network, Shape
from accel.images import check_preprocessing, real_values
from accel.quantise import quantise_model

__all__ = ["PREPROCESSING_KEY", "OnnxError", "load_onnx"]

#: Entry of a model's metadata that holds its preprocessing as JSON (see :mod:`accel.images`).
PREPROCESSING_KEY = "systolith.preprocessing"

#: How the operators begin that only a quantised model has.
_QUANTISED = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantize", "QLinear", "QGemm", "ConvInteger", "MatMulInteger")

#: The first operator set with QuantizeLinear.
FIRST_OPSET = 10


def load_onnx(
    path: str | Path, *, calibration: npt.ArrayLike | None = None, name: str | None = None, assume: bool = False
) -> Network:
    """Return the network in an ONNX file.

    A float model is quantised with ``calibration``: typical inputs as pixels (uint8) or real values (float), of shape
    ``(N, height, width, channels)`` or any other that :mod:`accel.images` takes. Without it, ``assume`` gives a network of the same
    layers with random weights and made-up scales, as a note says; the model's own weights may then be missing. ``name`` is the
    network's name (the file's, without its ending, if not given).

    Raises :class:`OnnxError` or another :class:`~accel.errors.SystolithError`, in one sentence, for what cannot be read or run.
    """
    path = Path(path)
    name = path.stem if name is None else name
    model = _read(path, assume=assume and calibration is None)
    is_quantised = any(node.op_type.startswith(_QUANTISED) for node in model.graph.node)
    notes: tuple[str, ...] = ()
    assumed = assume and calibration is None and not is_quantised
    if assumed:
        notes = (NOTE,)
    elif not is_quantised:
        model = _calibrated(model, calibration, path)
        notes = ("quantised from a float model by ONNX Runtime with the calibration data",)
    elif calibration is not None:
        notes = ("the model is quantised already, so the calibration data is not used",)
    try:
        return _imported(model, path, name, notes, assumed=assumed, channels_last=False)
    except LayoutError as error:
        # Models that come from TensorFlow have an input with the channels last and transpose it.
        try:
            return _imported(model, path, name, notes, assumed=assumed, channels_last=True)
        except LayoutError:
            raise error from None


def _read(path: Path, *, assume: bool) -> onnx.ModelProto:
    """Return the model in a file, checked. With ``assume``, weights in other files need not be there."""
    if not path.is_file():
        raise OnnxError(f"{path}: there is no such file")
    damaged = f"{path}: is not an ONNX model, or is cut off"
    try:
        model = onnx.load(str(path), load_external_data=False)
    except OSError as error:
        raise OnnxError(f"{path}: cannot be read: {error.strerror}") from None
    except Exception:  # protobuf has several parsers, each with errors of its own
        raise OnnxError(f"{damaged}; export or copy it again") from None
    _name_nodes(model)
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
    except Exception as error:  # missing, cut off and forbidden files all differ
        if not assume or not _is_float_outside(model):
            raise OnnxError(f"{path}: its weights are in other files, which cannot be read: {one_line(error)}") from None
        _hollow_out(model)
    if not model.graph.node:
        raise OnnxError(f"{damaged}: it holds no layers; export or copy it again")
    # outputs need not have their shapes written down; what cannot be inferred is the checker's to say
    with contextlib.suppress(Exception):
        model = onnx.shape_inference.infer_shapes(model)
    try:
        onnx.checker.check_model(model)
    except Exception as error:  # the checker is a C++ binding with a type of its own for each finding
        _check_domains(model, path)  # what nobody can tell the output's shape of may be all that it complains about
        raise OnnxError(f"{damaged}: {one_line(error)}") from None
    constants = [(tensor.name, tensor) for tensor in model.graph.initializer]
    for node in model.graph.node:
        if any(isinstance(text, bytes) for text in (node.name, node.op_type, *node.input, *node.output)):
            raise OnnxError(f"{damaged}: a name is not valid UTF-8; export or copy it again")
        constants += [
            (node.name, attribute.t) for attribute in node.attribute if attribute.name == "value" and node.op_type == "Constant"
        ]
    for name, tensor in constants:
        try:
            array = numpy_helper.to_array(tensor)
        except Exception as error:  # NumPy's complaints about sizes, types and bytes that do not fit together
            raise OnnxError(f"{damaged}: the constant {name!r} cannot be read: {one_line(error)}") from None
        _check_finite(path, name, array)
    return model


def _name_nodes(model: onnx.ModelProto) -> None:
    """Give nodes without a name one by their place in the file, which they keep whatever is done to the graph."""
    for number, node in enumerate(model.graph.node):
        if not node.name:
            node.name = f"{node.op_type}_{number}"


def _check_domains(model: onnx.ModelProto, path: Path) -> None:
    """Refuse operators that ONNX does not know, and nor do we."""
    for number, proto in enumerate(model.graph.node):
        known = proto.domain in ("", "ai.onnx") or (proto.domain == "com.microsoft" and proto.op_type in HANDLERS)
        if isinstance(proto.op_type, str) and not known:
            raise _unsupported(Node(proto, number), path)


def _unsupported(node: Node, path: Path) -> OnnxError:
    """Return the refusal of an operator before there is an importer of the graph."""
    return Importer(name=str(path), opset=0, handlers=HANDLERS).unsupported(node)


def _is_float_outside(model: onnx.ModelProto) -> bool:
    """Whether all that lies in other files is floating-point numbers: weights, and no shapes."""
    types = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)
    return all(tensor.data_type in types for tensor in model.graph.initializer if tensor.data_location == tensor.EXTERNAL)


def _hollow_out(model: onnx.ModelProto) -> None:
    """Put a ConstantOfShape in the place of each weight that lies in another file."""
    outside = [tensor for tensor in model.graph.initializer if tensor.data_location == tensor.EXTERNAL]
    for tensor in outside:
        shape = numpy_helper.from_array(np.array(tensor.dims, np.int64), f"{tensor.name}_shape")
        model.graph.node.insert(0, onnx.helper.make_node("ConstantOfShape", [shape.name], [tensor.name]))
        model.graph.initializer.append(shape)
        model.graph.initializer.remove(tensor)


def _check_finite(path: Path, name: str, array: npt.NDArray[Any]) -> None:
    """Refuse weights with NaN or infinity; a lone infinity may be a limit of Clip."""
    if array.dtype.kind == "f" and (np.isnan(array).any() or (array.size > 1 and np.isinf(array).any())):
        raise OnnxError(f"{path}: the constant {name!r} holds NaN or infinity; every weight must be finite")


def _input(model: onnx.ModelProto, path: Path) -> tuple[str, tuple[int, ...], int]:
    """Return the single input's name, its shape with batch 1, and its element type."""
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    if len(inputs) != 1 or len(model.graph.output) != 1:
        names = [[value.name for value in values] for values in (inputs, model.graph.output)]
        raise OnnxError(f"{path}: must have one input and one output, not inputs {names[0]} and outputs {names[1]}")
    value = inputs[0]
    kind = value.type.tensor_type
    if kind.elem_type not in (onnx.TensorProto.FLOAT, onnx.TensorProto.INT8, onnx.TensorProto.UINT8):
        type_name = onnx.TensorProto.DataType.Name(kind.elem_type).lower()
        raise OnnxError(f"{path}: the input {value.name!r} must be float, int8 or uint8, not {type_name}")
    dims = [dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim]
    if len(dims) not in (2, 3, 4):
        raise OnnxError(f"{path}: the input {value.name!r} must have 2, 3 or 4 dimensions, batch first, not {len(dims)}")
    for position, (size, dim) in enumerate(zip(dims, kind.shape.dim, strict=True)):
        shown = f"dimension {position}{f' ({dim.dim_param})' if dim.dim_param else ''} of the input {value.name!r}"
        if position == 0 and size not in (None, 1):
            raise OnnxError(f"{path}: {shown} is the batch and must be 1 or dynamic, not {size}; export the model so")
        if position > 0 and size is None:
            raise OnnxError(f"{path}: {shown} is dynamic; fix it, for instance with onnxruntime.tools.make_dynamic_shape_fixed")
        if position > 0 and size is not None and size < 1:
            raise OnnxError(f"{path}: {shown} must be at least 1, not {size}")
    return value.name, (1, *(size for size in dims[1:] if size is not None)), kind.elem_type


def _map_shape(dims: tuple[int, ...], *, channels_last: bool) -> Shape:
    rest = dims[1:]
    height, width, channels = (1,) * (3 - len(rest)) + (rest if channels_last else (*rest[1:], rest[0]))
    return height, width, channels


def _calibrated(model: onnx.ModelProto, calibration: npt.ArrayLike | None, path: Path) -> onnx.ModelProto:
    """Return a float model quantised."""
    for number, proto in enumerate(model.graph.node):
        node = Node(proto, number)
        if node.op_type not in HANDLERS and node.op_type not in _BEFORE_QUANTISATION:
            raise _unsupported(node, path)
    if calibration is None:
        raise OnnxError(
            f"{path}: is a float model, which must be quantised first; give calibration data, "
            "a .npy or .npz file of typical inputs (uint8 pixels or float values), better a hundred than ten"
        )
    input_name, dims, element_type = _input(model, path)
    if element_type != onnx.TensorProto.FLOAT:
        raise OnnxError(f"{path}: the input {input_name!r} of a float model must be float")
    # With a Transpose to channels first behind it, the input has them last.
    readers = [node for node in model.graph.node if input_name in node.input]
    channels_last = any(node.op_type == "Transpose" and Node(node, 0).get("perm", []) == [0, 3, 1, 2] for node in readers)
    shape = _map_shape(dims, channels_last=channels_last)
    preprocessing = _preprocessing(model, shape, path)
    values = real_values(calibration, shape, preprocessing, origin=f"{path}: calibration data")
    ordered = values if channels_last else values.transpose(0, 3, 1, 2)
    return quantise_model(model, ordered.reshape(-1, *dims[1:]), name=str(path))


#: Operators of float models that quantisation folds away.
_BEFORE_QUANTISATION = frozenset({"BatchNormalization", "Constant", "ConstantOfShape", "Gather", "Slice", "Range", "Expand"})


def _preprocessing(model: onnx.ModelProto, shape: Shape, path: Path) -> Mapping[str, Any]:
    for entry in model.metadata_props:
        if entry.key == PREPROCESSING_KEY:
            try:
                values = json.loads(entry.value)
            except ValueError:
                raise OnnxError(f"{path}: the metadata {PREPROCESSING_KEY} must be JSON, not {entry.value[:80]!r}") from None
            return check_preprocessing(values, shape, origin=str(path))
    return {}


def _imported(
    model: onnx.ModelProto, path: Path, name: str, notes: tuple[str, ...], *, assumed: bool, channels_last: bool
) -> Network:
    """Return the network of a model that is quantised, or need not be."""
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset < FIRST_OPSET and not assumed:
        raise OnnxError(
            f"{path}: operator set {opset} has no quantisation; export the model with operator set {FIRST_OPSET} or later"
        )
    input_name, dims, element_type = _input(model, path)
    importer: Importer
    if assumed:
        readers = Counter(name for node in model.graph.node for name in node.input)
        importer = AssumingImporter(name=str(path), opset=opset, readers=readers, channels_last=channels_last)
    else:
        importer = Importer(name=str(path), opset=opset, handlers=HANDLERS, channels_last=channels_last)
    for tensor in model.graph.initializer:
        importer.values[tensor.name] = Constant(numpy_helper.to_array(tensor))
    importer.add_input(input_name, dims, element_type=element_type)
    for number, node in enumerate(model.graph.node):
        importer.run(Node(node, number))
    source, operators, tensors, output = importer.finish(model.graph.output[0].name)
    operators = simplify(operators, output)
    preprocessing = _preprocessing(model, source.shape, path)
    if element_type != onnx.TensorProto.FLOAT and not preprocessing:
        # Bytes in, so that a pixel is the byte itself (and int8 bytes are pixels moved by 128).
        preprocessing = {"scale": source.scale, "mean": source.scale * (source.zero_point + 128)}
    return Network(
        name=name,
        input=source,
        operators=operators,
        tensors={operator.output: tensors[operator.output] for operator in operators},
        output=output,
        notes=(*notes, *importer.notes),
        preprocessing=preprocessing,
    )
