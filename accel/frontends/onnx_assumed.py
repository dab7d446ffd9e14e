"""Float ONNX models as layers without their numbers: for estimates, as cycles depend on shapes and not on weights or scales.

Weights are random bytes from a seed, whatever the model holds; every map is quantised to one grid as soon as a layer or a table
must read bytes, which is where ONNX Runtime's quantiser would do so. A batch normalisation, or any product or sum with one number
for each channel, vanishes in the convolution before it; elsewhere it is a depthwise convolution of 1x1.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from accel.frontends.assumed import GRID, WEIGHT_SCALE, Weights
from accel.frontends.onnx_graph import Handler, Importer, Node
from accel.frontends.onnx_operators import HANDLERS
from accel.frontends.onnx_values import (
    Constant,
    Dequantised,
    FloatInput,
    Host,
    Index,
    Linear,
    QuantisedConstant,
    Real,
    Value,
)
from accel.graph import Operator, Tensor, Window

__all__ = ["AssumingImporter"]

#: What the clamp of a layer does: such a function needs no bytes before it.
_CLAMPS = frozenset({"Clip", "Relu"})


class AssumingImporter(Importer):
    """An importer of float models, which quantises what must be bytes and makes up every number.

    ``readers`` tells how many nodes read each value: one that several read must be a map, not a step on the way to one.
    """

    def __init__(self, *, name: str, opset: int, readers: Mapping[str, int], channels_last: bool = False) -> None:
        super().__init__(name=name, opset=opset, handlers=_HANDLERS, channels_last=channels_last)
        self._readers = readers
        self._weights = Weights()
        self._last: Node | None = None

    def run(self, node: Node) -> None:
        """Read one node."""
        self._last = node
        super().run(node)

    def _fold(self, node: Node) -> None:
        if node.op_type == "ConstantOfShape" and isinstance(shape := self.value(node, 0), Constant):
            # Graphs without weights make them this way; they need no memory here.
            self.store(node, Constant(np.broadcast_to(np.float32(0), tuple(shape.array.reshape(-1).tolist()))))
        else:
            super()._fold(node)

    def value(self, node: Node, position: int) -> Value | None:
        """Return a node's input; the model's own is quantised at once."""
        value = super().value(node, position)
        if isinstance(value, FloatInput):
            view = self.input_quantised(node, value, *GRID, unsigned=False)
            return Real(Dequantised(view.map, *GRID), view.map.shape, view.index)
        return value

    def real(self, node: Node, position: int = 0) -> Real:
        """Return a node's activation input, quantised unless what follows is a clamp."""
        real = super().real(node, position)
        return real if node.op_type in _CLAMPS else self.assumed(node, real)

    def assumed(self, node: Node, real: Real) -> Real:
        """Return a real expression as the values of a map."""
        if isinstance(real.core, Dequantised) and not real.steps:
            return real
        view = self.quantised(node, real, *GRID, unsigned=False)
        return Real(Dequantised(view.map, *GRID), view.map.shape, view.index)

    def store(self, node: Node, value: Value) -> None:
        """Set a node's output."""
        is_shared = self._readers.get(node.outputs[0], 0) > 1
        super().store(node, self.assumed(node, value) if is_shared and isinstance(value, Real) else value)

    def settled(self, node: Node, real: Real) -> tuple[Dequantised, Index]:
        """Return a real expression as the values of a map, which a layer can read."""
        return super().settled(node, self.assumed(node, real))

    def real_weights(self, node: Node, value: Constant) -> QuantisedConstant:
        """Return random weights of that shape."""
        weights = self._weights.draw(value.array.shape, f"{self.name}: {node.label}")
        return QuantisedConstant("int8", weights, np.asarray(WEIGHT_SCALE), np.zeros((), np.int64), None)

    def note_rounding(self, text: str) -> None:
        """Say nothing: results mean nothing."""

    def finish(self, output: str) -> tuple[Tensor, tuple[Operator, ...], dict[str, Tensor], str]:
        """Return the network's input, layers, tensors and output's name, the last map quantised as well."""
        value = self.values.get(output)
        origin = value.origin if isinstance(value, Host) else value
        if isinstance(origin, Real) and self._last is not None:
            self.values[output] = self.assumed(self._last, origin)
        return super().finish(output)

    def scaled(self, node: Node, real: Real) -> Real:
        """Return an activation multiplied by, or added to, one number for each channel."""
        if isinstance(real.core, Linear) and not real.steps:
            return real
        source, index = self.settled(node, real)
        channels = source.map.shape[2]
        core = Linear(
            name=node.name,
            label=node.label,
            source=source,
            window=Window(kernel=(1, 1)),
            weights=self._weights.draw((channels, 1, 1, 1), f"{self.name}: {node.label}"),
            weight_scale=np.atleast_1d(WEIGHT_SCALE),
            weight_zero_point=np.zeros(1, np.int32),
            bias=np.zeros(channels, np.int64),
            groups=channels,
            shape=source.map.shape,
        )
        return Real(core, source.map.shape, index)


def _batch_normalization(g: Importer, node: Node) -> None:
    assert isinstance(g, AssumingImporter)
    value = g.value(node, 0)
    if not isinstance(value, Real):
        raise g.not_quantised(node, value)
    g.store(node, g.scaled(node, value))


def _with_constant(general: Handler) -> Handler:
    """Return the handler of a binary operator: with a constant that has several numbers it scales channels."""

    def handle(g: Importer, node: Node) -> None:
        assert isinstance(g, AssumingImporter)
        values = g.value(node, 0), g.value(node, 1)
        for real, constant in (values, values[::-1]):
            if isinstance(real, Real) and isinstance(constant, Constant) and _is_per_channel(real, constant.array):
                g.store(node, g.scaled(node, real))
                return
        general(g, node)

    return handle


def _is_per_channel(real: Real, array: npt.NDArray[Any]) -> bool:
    return array.size == real.shape[2] and array.ndim < real.index.ndim + 1


_HANDLERS: Mapping[str, Handler] = MappingProxyType(
    {
        **HANDLERS,
        "BatchNormalization": _batch_normalization,
        **{kind: _with_constant(HANDLERS[kind]) for kind in ("Add", "Div", "Mul", "Sub")},
    }
)
