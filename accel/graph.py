"""The layer graph: what a quantised network computes, free of any engine.

Maps are int8, channels last, one image at a time: shape ``(height, width, channels)``. Frontends produce a :class:`Network`; the
golden model, the compiler and the estimates read it. Every quantity that decides an output byte is an integer held here; the real
scales beside them are for people (and for preparing inputs).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from accel.errors import SystolithError
from accel.numerics import INT8_MAX, INT8_MIN, MAX_SHIFT, MIN_SHIFT, Rounding

__all__ = [
    "Add",
    "AveragePool",
    "Concat",
    "Conv2D",
    "GraphError",
    "Lookup",
    "MaxPool",
    "Network",
    "Operator",
    "Requantisation",
    "Shape",
    "Tensor",
    "Window",
]

Shape = tuple[int, int, int]
Int8Array = npt.NDArray[np.int8]
Int32Array = npt.NDArray[np.int32]


class GraphError(SystolithError):
    """A layer or network that means nothing, in one sentence that begins with the layer's name."""


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """An int8 map ``(height, width, channels)``: real value = ``scale * (byte - zero_point)``."""

    name: str
    shape: Shape
    zero_point: int = 0
    scale: float = 1.0

    def __post_init__(self) -> None:
        if len(self.shape) != 3 or any(not isinstance(n, int) or n < 1 for n in self.shape):
            raise GraphError(f"{self.name}: shape must be (height, width, channels), each at least 1, not {self.shape}")
        if not INT8_MIN <= self.zero_point <= INT8_MAX:
            raise GraphError(f"{self.name}: zero point must be from -128 to 127, not {self.zero_point}")
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise GraphError(f"{self.name}: scale must be finite and positive, not {self.scale}")


@dataclass(frozen=True, kw_only=True)
class Window:
    """A sliding window: kernel, stride, dilation as (vertical, horizontal); padding as (top, left, bottom, right)."""

    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)

    def __post_init__(self) -> None:
        for what in ("kernel", "stride", "dilation"):
            pair = getattr(self, what)
            if len(pair) != 2 or min(pair) < 1:
                raise GraphError(f"{what} must be two numbers of at least 1, not {pair}")
        if len(self.padding) != 4 or min(self.padding) < 0:
            raise GraphError(f"padding must be four numbers of at least 0 (top, left, bottom, right), not {self.padding}")

    @property
    def extent(self) -> tuple[int, int]:
        """Input rows and columns that one output pixel spans."""
        return (self.kernel[0] - 1) * self.dilation[0] + 1, (self.kernel[1] - 1) * self.dilation[1] + 1

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the output height and width for an input map; either is below 1 when the window does not fit."""
        top, left, bottom, right = self.padding
        tall, wide = self.extent
        return (height + top + bottom - tall) // self.stride[0] + 1, (width + left + right - wide) // self.stride[1] + 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Requantisation:
    """From int32 sums to int8: per-channel factor ``multiplier * 2**(shift-31)``, output zero point, then clamp to [minimum,
    maximum].

    ``multiplier`` and ``shift`` are int32 arrays of one length: the output channels, or 1 for all channels alike.
    """

    multiplier: Int32Array
    shift: Int32Array
    rounding: Rounding
    zero_point: int
    minimum: int = INT8_MIN
    maximum: int = INT8_MAX

    def __post_init__(self) -> None:
        if self.multiplier.ndim != 1 or self.multiplier.shape != self.shift.shape:
            raise GraphError(
                "multiplier and shift must be two vectors of one length, "
                f"not of shapes {self.multiplier.shape} and {self.shift.shape}"
            )
        if int(self.multiplier.min()) < 0:
            raise GraphError(f"multipliers must not be negative, but one is {int(self.multiplier.min())}")
        if int(self.shift.min()) < MIN_SHIFT or int(self.shift.max()) > MAX_SHIFT:
            raise GraphError(
                f"shifts must be from {MIN_SHIFT} to {MAX_SHIFT}, not {int(self.shift.min())} to {int(self.shift.max())}"
            )
        if not INT8_MIN <= self.zero_point <= INT8_MAX:
            raise GraphError(f"zero point must be from -128 to 127, not {self.zero_point}")
        if not INT8_MIN <= self.minimum <= self.maximum <= INT8_MAX:
            raise GraphError(f"clamp must lie within -128 to 127 with minimum <= maximum, not {self.minimum} to {self.maximum}")

    def check_channels(self, layer: str, channels: int) -> None:
        """Refuse a vector whose length is neither 1 nor ``channels``."""
        if len(self.multiplier) not in (1, channels):
            raise GraphError(f"{layer}: {len(self.multiplier)} multipliers for {channels} channels; give one each, or one for all")


@dataclass(frozen=True, kw_only=True, eq=False)
class _Base:
    name: str
    inputs: tuple[str, ...]
    output: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Conv2D(_Base):
    """Convolution, depthwise convolution (``groups`` = channels) or fully connected layer (kernel as large as the map).

    ``acc = bias + sum over taps and channels of (x - input zero point) * (w - weight zero point)``; taps in the padding add
    nothing. ``weights`` int8 ``(out channels, kernel height, kernel width, in channels / groups)``, ``bias`` int32 ``(out
    channels,)``, ``weight_zero_point`` int32 of length 1 or out channels (-128 to 127). ``table``, if given, maps each clamped byte
    (as index + 128).
    """

    window: Window
    weights: Int8Array
    bias: Int32Array
    requantisation: Requantisation
    weight_zero_point: Int32Array = field(default_factory=lambda: np.zeros(1, np.int32))
    groups: int = 1
    table: Int8Array | None = None

    def __post_init__(self) -> None:
        if self.weights.ndim != 4 or self.weights.dtype != np.int8:
            raise GraphError(
                f"{self.name}: weights must be int8 of shape (out, height, width, in), "
                f"not {self.weights.dtype} {self.weights.shape}"
            )
        out = self.weights.shape[0]
        if self.weights.shape[1:3] != self.window.kernel:
            raise GraphError(f"{self.name}: weights {self.weights.shape} do not match kernel {self.window.kernel}")
        if self.bias.shape != (out,) or self.bias.dtype != np.int32:
            raise GraphError(f"{self.name}: bias must be int32 of shape ({out},), not {self.bias.dtype} {self.bias.shape}")
        if self.groups < 1 or out % self.groups:
            raise GraphError(f"{self.name}: {out} output channels do not divide into {self.groups} groups")
        zero = self.weight_zero_point
        if zero.shape not in ((1,), (out,)) or int(zero.min()) < INT8_MIN or int(zero.max()) > INT8_MAX:
            raise GraphError(f"{self.name}: weight zero points must be from -128 to 127, one or {out} of them")
        self.requantisation.check_channels(self.name, out)
        _check_table(self.name, self.table)

    @property
    def is_depthwise(self) -> bool:
        """Whether each output channel sees one input channel."""
        return self.groups > 1 and self.weights.shape[3] == 1

    def output_shape(self, inputs: tuple[Shape, ...]) -> Shape:
        """Return the output's shape; refuse inputs that do not fit."""
        (height, width, channels) = inputs[0]
        if channels != self.weights.shape[3] * self.groups:
            raise GraphError(
                f"{self.name}: the input has {channels} channels, "
                f"but the weights take {self.weights.shape[3]} in each of {self.groups} groups"
            )
        return (*_window_output(self.name, self.window, height, width), self.weights.shape[0])

    def macs(self, inputs: tuple[Shape, ...]) -> int:
        """Return the multiply-accumulates, padding included."""
        height, width, _ = self.output_shape(inputs)
        return height * width * int(np.prod(self.weights.shape))


@dataclass(frozen=True, kw_only=True, eq=False)
class MaxPool(_Base):
    """Largest byte in each window; padding never wins. Bytes are then clamped to [minimum, maximum]."""

    window: Window
    minimum: int = INT8_MIN
    maximum: int = INT8_MAX

    def output_shape(self, inputs: tuple[Shape, ...]) -> Shape:
        """Return the output's shape."""
        _check_padding(self.name, self.window)
        height, width, channels = inputs[0]
        return (*_window_output(self.name, self.window, height, width), channels)

    def macs(self, inputs: tuple[Shape, ...]) -> int:
        """Return 0: nothing is multiplied."""
        return 0


@dataclass(frozen=True, kw_only=True, eq=False)
class AveragePool(_Base):
    """Average in each window: ``acc = sum of (x - input_zero_point)`` over the taps that are not padding, then requantised.

    ``input_zero_point`` is the layer's own (0 where the average is of raw bytes, as in TensorFlow Lite's AVERAGE_POOL_2D).
    ``factors`` maps each possible number of counted taps to ``(multiplier, shift)``; with ``count_padding`` that number is always
    the whole kernel. ``requantisation`` supplies rounding, zero point and clamp; its multiplier is ignored.
    """

    window: Window
    input_zero_point: int
    factors: Mapping[int, tuple[int, int]]
    requantisation: Requantisation
    count_padding: bool = False

    def output_shape(self, inputs: tuple[Shape, ...]) -> Shape:
        """Return the output's shape; refuse a window whose count has no factor."""
        _check_padding(self.name, self.window)
        if self.window.dilation != (1, 1):
            raise GraphError(f"{self.name}: average pooling has no dilation here, not {self.window.dilation}")
        height, width, channels = inputs[0]
        shape = (*_window_output(self.name, self.window, height, width), channels)
        for count in sorted(set(self.counts(height, width).reshape(-1).tolist())):
            if count not in self.factors:
                raise GraphError(f"{self.name}: no factor for windows of {count} taps; factors has {sorted(self.factors)}")
        return shape

    def counts(self, height: int, width: int) -> npt.NDArray[np.int64]:
        """Return, for each output pixel, the taps that count: int64 ``(out height, out width)``."""
        out_h, out_w = self.window.output_size(height, width)
        if self.count_padding:
            return np.full((out_h, out_w), math.prod(self.window.kernel), np.int64)
        axes = []
        for size, count, kernel, stride, before in zip(
            (height, width), (out_h, out_w), self.window.kernel, self.window.stride, self.window.padding[:2], strict=True
        ):
            start = np.arange(count) * stride - before
            axes.append(np.minimum(start + kernel, size) - np.maximum(start, 0))
        return np.outer(*axes)

    def macs(self, inputs: tuple[Shape, ...]) -> int:
        """Return 0: nothing is multiplied in the array."""
        return 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Add(_Base):
    """Residual add: ``acc = tables[0][a + 128] + tables[1][b + 128]`` (int32, wrapping), requantised. Both inputs have one shape.

    The tables hold each input's own rescaling, so every runtime's way of adding is exact.
    """

    tables: tuple[Int32Array, Int32Array]
    requantisation: Requantisation

    def __post_init__(self) -> None:
        for table in self.tables:
            if table.shape != (256,) or table.dtype != np.int32:
                raise GraphError(f"{self.name}: operand tables must be int32 of 256 entries, not {table.dtype} {table.shape}")

    def output_shape(self, inputs: tuple[Shape, ...]) -> Shape:
        """Return the common shape of the inputs."""
        if inputs[0] != inputs[1]:
            raise GraphError(
                f"{self.name}: adds maps of different shapes {inputs[0]} and {inputs[1]}; broadcasting is not supported"
            )
        self.requantisation.check_channels(self.name, inputs[0][2])
        return inputs[0]

    def macs(self, inputs: tuple[Shape, ...]) -> int:
        """Return 0: nothing is multiplied in the array."""
        return 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Lookup(_Base):
    """Any unary function of a byte: ``table[x + 128]`` (int8, 256 entries)."""

    table: Int8Array

    def __post_init__(self) -> None:
        _check_table(self.name, self.table)

    def output_shape(self, inputs: tuple[Shape, ...]) -> Shape:
        """Return the input's shape."""
        return inputs[0]

    def macs(self, inputs: tuple[Shape, ...]) -> int:
        """Return 0: nothing is multiplied."""
        return 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Concat(_Base):
    """The channels of all inputs, one input after the other. Bytes stay as they are, so all maps have one scale and zero point.

    Inputs on other scales are brought to the output's by a :class:`Lookup` each.
    """

    def output_shape(self, inputs: tuple[Shape, ...]) -> Shape:
        """Return the inputs' common height and width, and the sum of their channels."""
        if len({shape[:2] for shape in inputs}) != 1:
            shapes = " and ".join(str(shape) for shape in inputs) or "none"
            raise GraphError(f"{self.name}: joins the channels of maps of one height and width, not of {shapes}")
        return (*inputs[0][:2], sum(shape[2] for shape in inputs))

    def macs(self, inputs: tuple[Shape, ...]) -> int:
        """Return 0: nothing is multiplied."""
        return 0


Operator = Conv2D | MaxPool | AveragePool | Add | Lookup | Concat


def _check_table(layer: str, table: Int8Array | None) -> None:
    if table is not None and (table.shape != (256,) or table.dtype != np.int8):
        raise GraphError(f"{layer}: an activation table must be int8 of 256 entries, not {table.dtype} {table.shape}")


def _window_output(layer: str, window: Window, height: int, width: int) -> tuple[int, int]:
    out = window.output_size(height, width)
    if min(out) < 1:
        raise GraphError(
            f"{layer}: a window of {window.extent} with padding {window.padding} does not fit a map of {(height, width)}"
        )
    return out


def _check_padding(layer: str, window: Window) -> None:
    tall, wide = window.extent
    top, left, bottom, right = window.padding
    if max(top, bottom) >= tall or max(left, right) >= wide:
        raise GraphError(
            f"{layer}: padding {window.padding} is as large as the pooling window {window.extent}, so a window would be empty"
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Network:
    """A quantised network: operators in an order where every input is ready, from one input map to one output map.

    ``operators`` may also read the network's input. ``notes`` are facts about the import that a user should see
    (for instance a final softmax left to the host). ``preprocessing`` tells how images become the input (see ``accel.images``).
    """

    name: str
    input: Tensor
    operators: tuple[Operator, ...]
    tensors: Mapping[str, Tensor]
    output: str
    notes: tuple[str, ...] = ()
    preprocessing: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ready = {self.input.name}
        names: set[str] = set()
        if not self.operators:
            raise GraphError(f"{self.name}: the network has no layers")
        for op in self.operators:
            if op.name in names:
                raise GraphError(f"{self.name}: two layers are called {op.name!r}")
            names.add(op.name)
            for tensor in op.inputs:
                if tensor not in ready:
                    raise GraphError(f"{op.name}: reads {tensor!r} before any layer has written it")
            if op.output in ready:
                raise GraphError(f"{op.name}: writes {op.output!r}, which is already written")
            if op.output not in self.tensors:
                raise GraphError(f"{op.name}: output tensor {op.output!r} is not described")
            ready.add(op.output)
            shape = op.output_shape(self.input_shapes(op))
            if shape != self.tensors[op.output].shape:
                raise GraphError(f"{op.name}: produces {shape}, but {op.output!r} is described as {self.tensors[op.output].shape}")
        if self.output not in ready - {self.input.name}:
            raise GraphError(f"{self.name}: no layer writes the output {self.output!r}")

    def tensor(self, name: str) -> Tensor:
        """Return the tensor called ``name``, the input included."""
        return self.input if name == self.input.name else self.tensors[name]

    def input_shapes(self, op: Operator) -> tuple[Shape, ...]:
        """Return the shapes of an operator's inputs."""
        return tuple(self.tensor(name).shape for name in op.inputs)

    def consumers(self, tensor: str) -> tuple[Operator, ...]:
        """Return the operators that read a tensor, in order."""
        return tuple(op for op in self.operators if tensor in op.inputs)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image."""
        return sum(op.macs(self.input_shapes(op)) for op in self.operators)
