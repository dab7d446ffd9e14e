"""From the operators of a TFLite graph to layers: values, quantisation, names and refusals.

Maps are channels last in TFLite too, so that RESHAPE and its like never move a byte. The operators themselves are read in
:mod:`accel.frontends.tflite_operators`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from accel.errors import SystolithError
from accel.frontends.names import Names
from accel.frontends.tflite_file import FileModel, FileOperator, FileTensor, TfliteError
from accel.frontends.tflite_kernels import Grid
from accel.graph import Conv2D, Operator, Requantisation, Shape, Tensor, Window
from accel.numerics import IDENTITY, INT8_MAX, INT8_MIN, NumericsError, Rounding

__all__ = ["CONVERT", "Handler", "Importer", "Padding", "Value", "requantisation"]

Array = npt.NDArray[Any]
Padding = tuple[int, int, int, int]

_NO_PADDING = (0, 0, 0, 0)

#: What to do with a model that is not quantised as this needs it.
CONVERT = "convert it with full integer quantisation (int8 operators, a representative dataset)"


@dataclass(frozen=True, kw_only=True, eq=False)
class Value:
    """A tensor of the file while it is read: the map that holds its bytes, and its shape in the file, batch first.

    ``padding`` (top, left, bottom, right) with the byte ``pad_value`` still lies around the map, for the reader to take in.
    ``host`` names the operator, if any, from which on the host computes.
    """

    map: Tensor
    dims: tuple[int, ...]
    padding: Padding = _NO_PADDING
    pad_value: int = 0
    host: str = ""

    @property
    def grid(self) -> Grid:
        """Scale and zero point of the bytes."""
        return np.float32(self.map.scale), self.map.zero_point


class Importer:
    """Reads the operators of one graph, in order, into layers.

    Parameters
    ----------
    model
        What the file holds.
    handlers
        For each kind of operator, what reads it.
    """

    def __init__(self, model: FileModel, handlers: Mapping[str, Handler]) -> None:
        self.model = model
        self.handlers = handlers
        self.operators: list[Operator] = []
        self.tensors: dict[str, Tensor] = {}
        self.values: dict[int, Value] = {}
        self.notes: list[str] = []
        self.input: Tensor | None = None
        self._names = Names()

    # The graph's ends

    def add_input(self) -> None:
        """Declare the graph's input. What the bytes of a real one mean is for its QUANTIZE to say."""
        model = self.model
        if len(model.inputs) != 1 or len(model.outputs) != 1:
            names = [[model.tensors[i].name for i in numbers] for numbers in (model.inputs, model.outputs)]
            raise TfliteError(f"{model.origin}: must have one input and one output, not inputs {names[0]} and outputs {names[1]}")
        tensor = model.tensors[model.inputs[0]]
        what = f"{model.origin}: the input {tensor.name!r}"
        if tensor.is_dynamic:
            raise TfliteError(f"{what} has a dynamic shape; convert the model with a fixed one")
        if len(tensor.shape) not in (2, 3, 4) or min(tensor.shape) < 1:
            raise TfliteError(f"{what} must have 2, 3 or 4 dimensions of at least 1, batch first, not shape {tensor.shape}")
        if tensor.shape[0] != 1:
            raise TfliteError(f"{what} has a batch of {tensor.shape[0]}; convert the model with a batch of 1")
        if tensor.kind != "FLOAT32":
            self.set_input(self.grid(f"the input {tensor.name!r}", tensor))

    def set_input(self, grid: Grid) -> Value:
        """Make the graph's input the network's, with bytes on a grid."""
        number = self.model.inputs[0]
        tensor = self.model.tensors[number]
        shape = _map_shape(tensor.shape)
        self.input = Tensor(name=self._names.unique(tensor.name), shape=shape, zero_point=grid[1], scale=float(grid[0]))
        self.values[number] = Value(map=self.input, dims=tensor.shape)
        return self.values[number]

    def finish(self) -> tuple[Tensor, str]:
        """Return the network's input and its output's name, once all operators are read."""
        result = self.values.get(self.model.outputs[0])
        if result is None or self.input is None:
            what = f"the output {self.model.tensors[self.model.outputs[0]].name!r}"
            raise TfliteError(f"{self.model.origin}: no operator computes {what} from the input; export the model again")
        output = self.settled(result).map.name
        if output == self.input.name:
            raise TfliteError(f"{self.model.origin}: no layer lies between the model's input and its output")
        return self.input, output

    # Reading

    def run(self, op: FileOperator) -> None:
        """Read one operator."""
        if op.kind not in self.handlers:
            advice = _ADVICE.get(op.kind, f"supported are {', '.join(sorted(self.handlers))}")
            raise self.error(op, f"the operator is not supported; {advice}")
        if not op.inputs or len(op.outputs) != 1:
            raise self.error(op, f"must have inputs and one output, not {len(op.inputs)} and {len(op.outputs)}")
        try:
            self.handlers[op.kind](self, op)
        except NumericsError as error:
            raise self.error(op, str(error)) from None

    def error(self, op: FileOperator, text: str) -> TfliteError:
        """Return an error about an operator."""
        return TfliteError(f"{self.model.origin}: {op.label}: {text}")

    def tensor(self, op: FileOperator, position: int) -> FileTensor | None:
        """Return the file's tensor behind an input, None where it is left out."""
        if position >= len(op.inputs) or op.inputs[position] < 0:
            return None
        return self.model.tensors[op.inputs[position]]

    def output(self, op: FileOperator) -> FileTensor:
        """Return the file's tensor behind the output."""
        return self.model.tensors[op.outputs[0]]

    def any_value(self, op: FileOperator, position: int = 0) -> Value:
        """Return an activation, one that the host computes included."""
        tensor = self.tensor(op, position)
        if tensor is None or op.inputs[position] not in self.values:
            if tensor is not None and tensor.kind == "FLOAT32" and not tensor.is_constant:
                raise self.error(op, f"its input is float32, as the model is not quantised; {CONVERT}")
            what = "left out" if tensor is None else "constant" if tensor.is_constant else "computed by nothing before it"
            raise self.error(op, f"input {position} must be an activation, but is {what}")
        return self.values[op.inputs[position]]

    def padded_value(self, op: FileOperator, position: int = 0) -> Value:
        """Return an activation for a layer that takes in the padding around it."""
        value = self.any_value(op, position)
        if value.host:
            raise self.error(op, f"follows {value.host}, which is left to the host and so must come last")
        return value

    def value(self, op: FileOperator, position: int = 0) -> Value:
        """Return an activation, any padding around it in its map."""
        return self.settled(self.padded_value(op, position))

    def settled(self, value: Value) -> Value:
        """Return a value without padding around it: what is left becomes a layer that copies the map into a larger one."""
        if value.padding == _NO_PADDING:
            return value
        if value.pad_value != value.map.zero_point:
            raise TfliteError(
                f"{self.model.origin}: the map {value.map.name!r} is padded with {value.pad_value}, which is not its zero point "
                f"{value.map.zero_point}; only a max pool can read that, and only for padding smaller than its window"
            )
        channels = value.map.shape[2]
        name = self._names.unique(f"{value.map.name}_pad")
        layer = Conv2D(
            name=name,
            inputs=(value.map.name,),
            output=name,
            window=Window(kernel=(1, 1), padding=value.padding),
            weights=np.ones((channels, 1, 1, 1), np.int8),
            bias=np.zeros(channels, np.int32),
            groups=channels,
            requantisation=requantisation([IDENTITY], value.map.zero_point),
        )
        return replace(value, map=self._append(layer, (value.map.shape,), value.grid), padding=_NO_PADDING)

    def constant(self, op: FileOperator, position: int, what: str) -> FileTensor:
        """Return a constant input."""
        tensor = self.tensor(op, position)
        if tensor is None or not tensor.is_constant:
            raise self.error(op, f"its {what} must be constant")
        if tensor.data is None:
            raise self.error(op, f"its {what} are {tensor.kind.lower()} in a form that is not read; {CONVERT}")
        return tensor

    def integers(self, op: FileOperator, position: int, what: str) -> Array:
        """Return a constant input of integers: axes or sizes."""
        data = self.constant(op, position, what).data
        if data is None or data.dtype.kind != "i":
            raise self.error(op, f"its {what} must be integers")
        return data

    # Quantisation

    def grid(self, what: str, tensor: FileTensor) -> Grid:
        """Return an activation's scale, and its zero point moved to int8. ``what`` names it in messages."""
        name = f"{self.model.origin}: {what}"
        if tensor.kind not in ("INT8", "UINT8"):
            raise TfliteError(f"{name}: is {tensor.kind.lower()} where the engine has int8; {CONVERT}")
        if len(tensor.scale) != 1 or len(tensor.zero_point) > 1:
            raise TfliteError(f"{name}: must have one scale and zero point, not {len(tensor.scale)}; {CONVERT}")
        scale = tensor.scale[0]
        if not (np.isfinite(scale) and scale > 0):
            raise TfliteError(f"{name}: its scale must be finite and positive, not {scale}; export the model again")
        stored = int(tensor.zero_point[0]) if len(tensor.zero_point) else 0
        zero_point = stored - (128 if tensor.kind == "UINT8" else 0)
        if not INT8_MIN <= zero_point <= INT8_MAX:
            raise TfliteError(f"{name}: the zero point {stored} does not fit {tensor.kind.lower()}; export the model again")
        return scale, zero_point

    def output_grid(self, op: FileOperator) -> Grid:
        """Return the grid of an operator's output."""
        return self.grid(f"{op.label}: its result", self.output(op))

    def same_grid(self, op: FileOperator, value: Value) -> Grid:
        """Return the output's grid, which must be the input's where the kernel does not rescale."""
        grid = self.output_grid(op)
        if grid != value.grid:
            raise self.error(
                op,
                f"its input has scale {value.grid[0]:.6g} and zero point {value.grid[1]}, its result {grid[0]:.6g} and {grid[1]}, "
                "but they must be the same; convert the model again with a current converter",
            )
        return grid

    # Layers

    def spatial(self, op: FileOperator, value: Value) -> Value:
        """Return a value whose four dimensions are those of its map; the network's input takes them on."""
        if len(value.dims) != 4 or value.dims[0] != 1:
            raise self.error(op, f"its input must have 4 dimensions and a batch of 1, not shape {value.dims}")
        top, left, bottom, right = value.padding
        shape = value.dims[1] - top - bottom, value.dims[2] - left - right, value.dims[3]
        if shape == value.map.shape:
            return value
        if value.map is self.input and not self.operators:
            self.input = replace(self.input, shape=shape)
            return replace(value, map=self.input)
        raise self.error(op, f"its input is the map {value.map.shape} reshaped to {shape}; only flattening is supported")

    def layer(self, op: FileOperator, kind: Callable[..., Operator], values: Iterable[Value], grid: Grid, **fields: Any) -> None:
        """Add the layer that computes an operator's output on a grid."""
        maps = [value.map for value in values]
        # The converter lists all the operators that a layer is made of; the last two parts of the first say most.
        name = self._names.unique("/".join(op.name.split(";")[0].split("/")[-2:]))
        dims = self.output(op).shape
        try:
            layer = kind(name=name, inputs=tuple(entry.name for entry in maps), output=name, **fields)
            result = self._append(layer, tuple(entry.shape for entry in maps), grid)
        except SystolithError as error:
            raise self.error(op, str(error).removeprefix(f"{name}: ")) from None
        if math.prod(dims) != math.prod(result.shape) or (len(dims) == 4 and dims[1:] != result.shape):
            raise self.error(op, f"its result is {result.shape}, but the file says {dims}; export the model again")
        self.values[op.outputs[0]] = Value(map=result, dims=dims)

    def _append(self, layer: Operator, shapes: tuple[Shape, ...], grid: Grid) -> Tensor:
        result = Tensor(name=layer.output, shape=layer.output_shape(shapes), zero_point=grid[1], scale=float(grid[0]))
        self.operators.append(layer)
        self.tensors[layer.output] = result
        return result


#: What reads one operator: it takes the inputs from the importer and adds layers, or stores a value, there.
Handler = Callable[[Importer, FileOperator], None]

#: What to do instead, for operators that people are likely to meet.
_ADVICE = {
    "BATCH_MATMUL": "a product of two activations is no layer of this engine",
    "MIRROR_PAD": "the nearest supported form is PAD",
    "MUL": "the nearest supported form is a 1x1 CONV_2D or DEPTHWISE_CONV_2D, for a constant",
    "RESIZE_BILINEAR": "the nearest supported form is a CONV_2D",
    "SPLIT": "the nearest supported form is a CONV_2D for each part",
    "SUB": "the nearest supported form is ADD",
    "TRANSPOSE": "maps must keep their channels last",
    "TRANSPOSE_CONV": "the nearest supported form is CONV_2D",
}


def requantisation(
    factors: Iterable[tuple[int, int]],
    zero_point: int,
    clamp: tuple[int, int] = (INT8_MIN, INT8_MAX),
    rounding: Rounding = Rounding.DOUBLE_AWAY,
) -> Requantisation:
    """Return the integers of a requantisation, from factors (one, or one for each channel) to a zero point, clamped."""
    multiplier, shift = np.array(list(factors), np.int32).T
    return Requantisation(
        multiplier=np.ascontiguousarray(multiplier),
        shift=np.ascontiguousarray(shift),
        rounding=rounding,
        zero_point=zero_point,
        minimum=clamp[0],
        maximum=clamp[1],
    )


def _map_shape(dims: tuple[int, ...]) -> Shape:
    """Return height, width and channels of a tensor, batch first, of at most 4 dimensions."""
    height, width, channels = (1,) * (4 - len(dims)) + dims[1:]
    return height, width, channels
