"""What an ONNX value can be while a model is read: constants, quantised maps, and real expressions that a quantisation will finish.

An activation is a view of a map: ``index`` has the value's ONNX shape (batch first, always 1) and holds, for each element, its
position in the map's memory order (height, width, channels). Reshape, Transpose and the like only change the index.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from accel.errors import SystolithError
from accel.frontends.activations import Function
from accel.graph import Shape, Window

__all__ = [
    "Average",
    "Constant",
    "Dequantised",
    "FloatInput",
    "Grid",
    "Host",
    "Joined",
    "LayoutError",
    "Linear",
    "Map",
    "OnnxError",
    "Pool",
    "QuantisedConstant",
    "Real",
    "Sum",
    "Value",
    "View",
    "channels_first",
    "dequantised_constant",
]

Array = npt.NDArray[Any]
Index = npt.NDArray[np.int64]


class OnnxError(SystolithError):
    """An ONNX model that cannot be read or run, in one sentence naming file, node and what to do."""


class LayoutError(OnnxError):
    """A model whose maps do not come out in the axis order that a layer needs."""


@dataclass(eq=False)
class Grid:
    """Scale and zero point (moved to int8) of a map, and whether the model's bytes are unsigned.

    When a model's input is bytes already, they are not known before the first reader.
    """

    unsigned: bool
    scale: np.float32 = field(default_factory=lambda: np.float32(1))
    zero_point: int = 0
    is_known: bool = True


@dataclass(frozen=True, eq=False)
class Map:
    """An int8 map that some layer writes, or the input."""

    name: str
    shape: Shape
    grid: Grid


@dataclass(frozen=True, eq=False)
class View:
    """A quantised map as an ONNX tensor of bytes."""

    map: Map
    index: Index


@dataclass(frozen=True)
class Dequantised:
    """The real values of a map."""

    map: Map
    scale: np.float32
    zero_point: int

    @property
    def label(self) -> str:
        """What messages call it."""
        return f"layer {self.map.name!r}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Linear:
    """A convolution or fully connected layer before quantisation.

    ``weights`` are ``(out, kernel height, kernel width, in per group)``; ``bias`` is in units of the sums.
    """

    name: str
    label: str
    source: Dequantised
    window: Window
    weights: npt.NDArray[np.int8]
    weight_scale: npt.NDArray[np.float32]
    weight_zero_point: npt.NDArray[np.int32]
    bias: npt.NDArray[np.int64]
    groups: int
    shape: Shape

    @property
    def accumulator_scale(self) -> npt.NDArray[np.float32]:
        """Value of one unit of the sums, in float32 as runtimes compute it: one, or one for each output channel."""
        return np.asarray(self.source.scale * self.weight_scale, np.float32)


@dataclass(frozen=True, kw_only=True, eq=False)
class Average:
    """An average pooling before quantisation."""

    name: str
    label: str
    source: Dequantised
    window: Window
    count_padding: bool
    is_global: bool
    shape: Shape


@dataclass(frozen=True, kw_only=True, eq=False)
class Sum:
    """A residual add before quantisation."""

    name: str
    label: str
    sources: tuple[Dequantised, Dequantised]
    shape: Shape


@dataclass(frozen=True, kw_only=True, eq=False)
class Joined:
    """The channels of several maps, one map after the other, before quantisation."""

    name: str
    label: str
    sources: tuple[Dequantised, ...]
    shape: Shape


@dataclass(frozen=True, eq=False)
class Pool:
    """A maximum over windows."""

    name: str
    window: Window


@dataclass(frozen=True, eq=False)
class Real:
    """A real-valued activation: a core, then functions and maxima in order. ``shape`` is the map's after the last step."""

    core: Dequantised | Linear | Average | Sum | Joined
    shape: Shape
    index: Index
    steps: tuple[Function | Pool, ...] = ()


@dataclass(frozen=True, eq=False)
class FloatInput:
    """The model's real input before its quantisation; ``shape`` is that of the map it will be."""

    shape: Shape
    index: Index


@dataclass(frozen=True, eq=False)
class Host:
    """A value that the host computes from the network's output."""

    origin: View | Real


@dataclass(frozen=True, eq=False)
class Constant:
    """A constant tensor."""

    array: Array


@dataclass(frozen=True, eq=False)
class QuantisedConstant:
    """A constant given as integers: real value ``(values - zero_point) * scale``, the latter two scalars or vectors along ``axis``.

    ``values`` are int8 or int32: unsigned bytes are moved to int8, with their zero points. ``type_name`` is the type in the file.
    """

    type_name: str
    values: Array
    scale: npt.NDArray[np.float32]
    zero_point: npt.NDArray[np.int64]
    axis: int | None


Value = Constant | QuantisedConstant | View | Real | FloatInput | Host


def channels_first(shape: Shape, rank: int) -> Index:
    """Return the index of a map ``(height, width, channels)`` seen as an ONNX tensor.

    That is (1, C, H, W) for rank 4, (1, C, W) for rank 3 and a height of 1, (1, C) for rank 2 and a height and width of 1.
    """
    height, width, channels = shape
    order = np.arange(height * width * channels).reshape(shape).transpose(2, 0, 1)
    return order.reshape((1, channels, height, width)[:2] + (1, channels, height, width)[6 - rank :] if rank > 2 else (1, channels))


def dequantised_constant(constant: Constant | QuantisedConstant) -> npt.NDArray[np.float32]:
    """Return the real values of a constant."""
    if isinstance(constant, Constant):
        return np.asarray(constant.array, np.float32)
    around = [1] * constant.values.ndim
    if constant.axis is not None:
        around[constant.axis] = -1
    scale, zero = (v.reshape(around) if v.ndim else v for v in (constant.scale, constant.zero_point))
    return np.asarray((constant.values - zero).astype(np.float32) * scale, np.float32)
