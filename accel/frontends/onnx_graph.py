"""From the nodes of a quantised ONNX graph to layers: values, names, and how a real expression becomes integer layers.

Between a DequantizeLinear and the next QuantizeLinear a value is a real *expression* (:mod:`accel.frontends.onnx_values`), and the
QuantizeLinear turns it into layers at once; a QLinear operator is the same with both ends in one node. A maximum never needs a
rounding of its own, since quantisation never decreases, so it moves behind the quantisation and works on bytes.
The operators themselves are read in :mod:`accel.frontends.onnx_operators`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx.reference import ReferenceEvaluator

from accel.errors import SystolithError
from accel.frontends.activations import Function, dequantise, quantise
from accel.frontends.names import Names
from accel.frontends.onnx_values import (
    Array,
    Average,
    Constant,
    Dequantised,
    FloatInput,
    Grid,
    Host,
    Index,
    Joined,
    LayoutError,
    Linear,
    Map,
    OnnxError,
    Pool,
    QuantisedConstant,
    Real,
    Sum,
    Value,
    View,
    channels_first,
    dequantised_constant,
)
from accel.graph import Add, AveragePool, Concat, Conv2D, Lookup, MaxPool, Operator, Requantisation, Shape, Tensor
from accel.numerics import MAX_SHIFT, MIN_SHIFT, Rounding, quantise_multiplier

__all__ = ["Handler", "Importer", "Node", "is_channels_first", "one_line"]


class Node:
    """One ONNX node with its attributes read. ``label`` names it in messages: ``Conv 'conv1'``."""

    def __init__(self, proto: onnx.NodeProto, number: int) -> None:
        self.proto = proto
        self.op_type: str = proto.op_type
        self.domain: str = "" if proto.domain == "ai.onnx" else proto.domain
        self.name: str = proto.name or f"{proto.op_type}_{number}"
        self.label = f"{self.op_type} {self.name!r}"
        self.inputs = list(proto.input)
        self.outputs = list(proto.output)
        self.attributes: dict[str, Any] = {a.name: onnx.helper.get_attribute_value(a) for a in proto.attribute}

    def get(self, name: str, default: Any) -> Any:
        """Return an attribute's value, strings as str, or ``default`` where it is left out."""
        value = self.attributes.get(name, default)
        return value.decode(errors="replace") if isinstance(value, bytes) else value


class Importer:
    """Reads the nodes of one graph, in order, into layers.

    Parameters
    ----------
    name
        The model's name, first in every message.
    opset
        Version of the standard operator set.
    handlers
        For each operator type, what reads it.
    channels_last
        Whether the input's last axis, not its second, is the channels.
    """

    def __init__(self, *, name: str, opset: int, handlers: Mapping[str, Handler], channels_last: bool = False) -> None:
        self.name = name
        self.opset = opset
        self.handlers = handlers
        self.channels_last = channels_last
        self.values: dict[str, Value] = {}
        self.operators: list[Operator] = []
        self.maps: dict[str, Map] = {}
        self.input: Map | None = None
        self.notes: list[str] = []
        self._input_name = ""
        self._names = Names()
        self._made: dict[tuple[object, ...], Map] = {}

    # The graph's ends

    def add_input(self, name: str, dims: Sequence[int], *, element_type: int) -> None:
        """Declare the graph's input: ONNX shape with batch 1, and ONNX element type (float, int8 or uint8)."""
        rest = tuple(dims[1:])
        height, width, channels = (1,) * (3 - len(rest)) + (rest if self.channels_last else (*rest[1:], rest[0]))
        shape = (height, width, channels)
        index = np.arange(math.prod(shape)).reshape(dims) if self.channels_last else channels_first(shape, len(dims))
        self._input_name = self._names.unique(name)
        if element_type == onnx.TensorProto.FLOAT:
            self.values[name] = FloatInput(shape, index)
        else:
            self.input = Map(self._input_name, shape, Grid(element_type == onnx.TensorProto.UINT8, is_known=False))
            self.values[name] = View(self.input, index)

    def finish(self, output: str) -> tuple[Tensor, tuple[Operator, ...], dict[str, Tensor], str]:
        """Return the network's input, layers, tensors and output's name, once all nodes are read."""
        value = self.values.get(output)
        origin = value.origin if isinstance(value, Host) else value
        if isinstance(origin, View):
            result = origin.map
        elif isinstance(origin, Real) and isinstance(origin.core, Dequantised):
            result = origin.core.map
            for step in origin.steps:
                if isinstance(step, Pool):
                    result = self._pooled(result, [step])
                else:
                    self.notes.append(f"{step.kind} {step.name} at the end is left to the host")
                    if any(isinstance(later, Pool) for later in origin.steps[origin.steps.index(step) :]):
                        raise OnnxError(f"{self.name}: the output {output!r} is not quantised; end the model with QuantizeLinear")
        else:
            what = f"the result of {origin.core.label}" if isinstance(origin, Real) else f"the output {output!r}"
            raise OnnxError(
                f"{self.name}: {what} is not quantised at the end of the model; put a QuantizeLinear and a DequantizeLinear there"
            )
        if self.input is None or not self.operators:
            raise OnnxError(f"{self.name}: no layer lies between the model's input and its output {output!r}")
        positions = origin.index.reshape(-1)
        if not np.array_equal(positions, np.arange(len(positions))) and not is_channels_first(origin.index, result.shape):
            self.notes.append("the output is the map before the model's last change of axes: height, width, channels")
        tensors = {name: _tensor(entry) for name, entry in self.maps.items()}
        return _tensor(self.input), tuple(self.operators), tensors, result.name

    # Reading

    def run(self, node: Node) -> None:
        """Read one node."""
        for name in node.inputs:
            if name and name not in self.values:
                raise self.error(node, f"reads {name!r}, which nothing before it writes")
        inputs = [self.values[name] for name in node.inputs if name]
        is_constant = all(isinstance(value, Constant) for value in inputs)
        if is_constant and node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            self._fold(node)
        elif node.op_type in self.handlers and node.domain in ("", "com.microsoft"):
            self.handlers[node.op_type](self, node)
        else:
            raise self.unsupported(node)

    def _fold(self, node: Node) -> None:
        """Compute a node whose inputs are all constants."""
        feeds = {name: value.array for name in node.inputs if name and isinstance(value := self.values[name], Constant)}
        try:
            # Of a node alone the evaluator takes the newest definition, whatever operator set it is told.
            inputs, outputs = (
                [onnx.helper.make_empty_tensor_value_info(name) for name in names if name] for names in (feeds, node.outputs)
            )
            graph = onnx.helper.make_graph([node.proto], "constants", inputs, outputs)
            domains = {"": self.opset, node.domain: self.opset}
            opsets = [onnx.helper.make_opsetid(domain, version) for domain, version in domains.items()]
            results = ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=opsets)).run(None, feeds)
        except Exception as error:  # the evaluator raises whatever NumPy does
            raise self.error(node, f"its constants cannot be computed: {one_line(error)}") from None
        for name, array in zip(node.outputs, results, strict=False):
            self.values[name] = Constant(np.asarray(array))

    def store(self, node: Node, value: Value) -> None:
        """Set a node's first output. The others must not be used; none of the supported operators needs them."""
        self.values[node.outputs[0]] = value

    # Messages

    def error(self, node: Node, text: str) -> OnnxError:
        """Return an error about a node."""
        return OnnxError(f"{self.name}: {node.label}: {text}")

    def unsupported(self, node: Node) -> OnnxError:
        """Return the refusal of an operator, with the nearest supported form or the list of what is."""
        advice = _ADVICE.get(node.op_type, f"supported are {', '.join(sorted(self.handlers))}")
        return self.error(node, f"the operator is not supported; {advice}")

    def not_quantised(self, node: Node, value: Value | None) -> OnnxError:
        """Return the refusal of a node whose activation input is not what it needs."""
        if isinstance(value, FloatInput):
            has_weights = any(isinstance(self.values.get(name), QuantisedConstant) for name in node.inputs)
            why = "only its weights are quantised" if has_weights else "its input is not quantised"
            return self.error(node, f"{why}; quantise the activations too, for instance with onnxruntime's quantize_static")
        if isinstance(value, View):
            return self.error(
                node, "works on bytes without a scale; put a DequantizeLinear before it and a QuantizeLinear after it"
            )
        if isinstance(value, Host):
            return self.error(node, "follows a Softmax or the like, which is left to the host and so must come last")
        return self.error(node, "one input must be an activation where there is " + ("none" if value is None else "a constant"))

    # Inputs of nodes

    def value(self, node: Node, position: int) -> Value | None:
        """Return a node's input, or None where it is left out."""
        if position >= len(node.inputs) or not node.inputs[position]:
            return None
        return self.values[node.inputs[position]]

    def constant(self, node: Node, position: int, what: str) -> Array | None:
        """Return a constant input's array, or None where it is left out."""
        value = self.value(node, position)
        if value is None:
            return None
        if isinstance(value, QuantisedConstant):
            return dequantised_constant(value)
        if not isinstance(value, Constant):
            raise self.error(node, f"its {what} must be constant, not computed")
        return value.array

    def real(self, node: Node, position: int = 0) -> Real:
        """Return a node's activation input as a real expression."""
        value = self.value(node, position)
        if not isinstance(value, Real):
            raise self.not_quantised(node, value)
        return value

    def scale_and_zero(
        self, node: Node, position: int, *, unsigned: bool, what: str
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[Any]]:
        """Return the scale and zero point at ``position`` and the next one, scalars or vectors; a zero point left out is 0."""
        scale = self.constant(node, position, f"{what} scale")
        if scale is None:
            raise self.error(node, f"its {what} scale is missing")
        if scale.dtype != np.float32:
            raise self.error(node, f"its {what} scale must be float32, not {scale.dtype}")
        zero = self.constant(node, position + 1, f"{what} zero point")
        if zero is None:
            zero = np.zeros((), np.uint8 if unsigned else np.int8)
        if scale.ndim > 1 or zero.size not in (1, scale.size):
            raise self.error(
                node,
                f"its {what} scale and zero point must be scalars or vectors of one length, not {scale.shape} and {zero.shape}",
            )
        bad = scale[~(np.isfinite(scale) & (scale > 0))]
        if bad.size:
            raise self.error(node, f"its {what} scale must be finite and positive, not {float(bad.reshape(-1)[0])}")
        return scale.reshape(()) if scale.size == 1 else scale, zero.reshape(()) if zero.size == 1 else zero

    def grid(self, node: Node, position: int, *, unsigned: bool, what: str) -> tuple[np.float32, int, bool]:
        """Return an activation's scale, its zero point moved to int8, and whether its bytes are unsigned."""
        scale, zero = self.scale_and_zero(node, position, unsigned=unsigned, what=what)
        if scale.ndim or zero.ndim:
            raise self.error(node, f"its {what} has a scale for each channel; an activation must have a single one")
        if zero.dtype not in (np.int8, np.uint8):
            raise self.error(node, f"its {what} must be int8 or uint8, not {zero.dtype}")
        is_unsigned = zero.dtype == np.uint8
        return np.float32(scale), int(zero) - (128 if is_unsigned else 0), is_unsigned

    def dequantised(self, node: Node, view: View, position: int, *, what: str = "input") -> Real:
        """Return bytes as real values, with the scale and zero point in the node's inputs from ``position`` on."""
        grid = view.map.grid
        scale, zero, unsigned = self.grid(node, position, unsigned=grid.unsigned, what=what)
        if unsigned != grid.unsigned:
            raise self.error(node, f"its {what} is {_type(grid.unsigned)}, but the zero point {_type(unsigned)}")
        if not grid.is_known:
            grid.scale, grid.zero_point, grid.is_known = scale, zero, True
        if grid.zero_point != zero:
            moved = 128 if unsigned else 0
            raise self.error(
                node, f"reads its {what} with zero point {zero + moved}, but it is written with {grid.zero_point + moved}"
            )
        return Real(Dequantised(view.map, scale, zero), view.map.shape, view.index)

    def quantised_constant(
        self, node: Node, values: Array, scale: npt.NDArray[np.float32], zero: npt.NDArray[Any], axis: int
    ) -> QuantisedConstant:
        """Return integers as a quantised constant, uint8 moved to int8."""
        if values.dtype not in (np.int8, np.uint8, np.int32):
            raise self.error(node, f"its integers must be int8, uint8 or (for a bias) int32, not {values.dtype}")
        moved = 128 if values.dtype == np.uint8 else 0
        vector = scale.ndim or zero.ndim
        if vector and (values.ndim <= axis or max(scale.size, zero.size) != values.shape[axis]):
            raise self.error(node, f"{max(scale.size, zero.size)} scales do not fit axis {axis} of {values.shape}")
        signed = (values ^ np.uint8(128)).view(np.int8) if moved else values
        return QuantisedConstant(str(values.dtype), signed, scale, zero.astype(np.int64) - moved, axis if vector else None)

    def real_weights(self, node: Node, value: Constant) -> QuantisedConstant:
        """Return weights given as numbers that are not quantised, or refuse them."""
        raise self.error(node, f"its weights are {value.array.dtype}, not quantised; put int8 weights and a DequantizeLinear there")

    def note_rounding(self, text: str) -> None:
        """Note where results may differ from a runtime's."""
        self.notes.append(text)

    def settled(self, node: Node, real: Real) -> tuple[Dequantised, Index]:
        """Return a real expression as the values of an existing map, which a layer can read.

        Maxima become layers. A function passes only if its results lie on the same scale exactly, as ReLU's do.
        """
        core = real.core
        if isinstance(core, Dequantised):
            functions = [step for step in real.steps if isinstance(step, Function)]
            values = dequantise(_BYTES, core.scale, core.zero_point)
            for function in functions:
                values = function.evaluate(values)
            there_and_back = dequantise(quantise(values, core.scale, core.zero_point), core.scale, core.zero_point)
            if not functions or np.array_equal(there_and_back, values):
                view = self.quantised(node, real, core.scale, core.zero_point, unsigned=core.map.grid.unsigned)
                return replace(core, map=view.map), view.index
            origin = f"{functions[-1].kind} {functions[-1].name!r}"
        else:
            origin = core.label
        raise self.error(
            node, f"reads the result of {origin}, which is not quantised; put QuantizeLinear and DequantizeLinear between them"
        )

    def check_spatial(self, node: Node, shape: Shape, index: Index) -> None:
        """Refuse an activation that is not a map with channels first: what convolutions and pooling read."""
        if index.ndim not in (3, 4):
            raise self.error(node, f"its input must have 4 axes (or 3), batch and channels first, not shape {index.shape}")
        if not is_channels_first(index, shape):
            raise LayoutError(
                f"{self.name}: {node.label}: its input {index.shape} is the map {shape} (height, width, channels) with axes mixed; "
                "a Reshape or Transpose before it must not move data between axes"
            )

    # Layers

    def quantised(self, node: Node, real: Real, scale: np.float32, zero_point: int, *, unsigned: bool) -> View:
        """Return a real expression quantised, by adding the layers that compute it. ``zero_point`` is the one moved to int8."""
        key = (real.core, real.steps, float(scale), zero_point)
        if key not in self._made:
            self._made[key] = self._finished(node, real, Grid(unsigned, scale, zero_point))
        return View(self._made[key], real.index)

    def input_quantised(self, node: Node, value: FloatInput, scale: np.float32, zero_point: int, *, unsigned: bool) -> View:
        """Return the model's real input quantised: the network's input."""
        if self.input is None:
            self.input = Map(self._input_name, value.shape, Grid(unsigned, scale, zero_point))
        if (self.input.grid.scale, self.input.grid.zero_point) != (scale, zero_point):
            raise self.error(node, "the model's input is quantised a second time with another scale; quantise it once")
        return View(self.input, value.index)

    def _finished(self, node: Node, real: Real, grid: Grid) -> Map:
        core, steps = real.core, list(real.steps)
        if isinstance(core, Dequantised):
            # Maxima before any function work on the bytes that are there.
            while steps and isinstance(pool := steps[0], Pool):
                core = replace(core, map=self._pooled(core.map, [pool]))
                steps.pop(0)
        functions = [step for step in steps if isinstance(step, Function)]
        pools = [step for step in steps if isinstance(step, Pool)]
        for function in functions:
            follows_pool = any(isinstance(earlier, Pool) for earlier in steps[: steps.index(function)])
            if (follows_pool and not function.monotone) or (function.bounds is None and not isinstance(core, Dequantised | Joined)):
                before = f"MaxPool {pools[0].name!r}" if isinstance(core, Dequantised) else core.label
                raise self.error(
                    node,
                    f"{function.kind} {function.name!r} reads the result of {before}, which is not quantised; "
                    "put QuantizeLinear and DequantizeLinear between them",
                )
        if isinstance(core, Dequantised):
            return self._pooled(self._looked_up(node, core, functions, grid), pools)
        if isinstance(core, Joined):
            # Each map is brought to the common grid by a table of its own, in which functions vanish.
            maps = tuple(self._looked_up(node, source, functions, grid) for source in core.sources)
            return self._pooled(self._layer(Concat, core.name, maps, grid), pools)
        limits = np.array([-np.inf, np.inf], np.float32)
        for function in functions:
            limits = function.evaluate(limits)
        low, high = (int(byte) for byte in quantise(limits, grid.scale, grid.zero_point))
        return self._pooled(self._computed(node, core, grid, low, high), pools)

    def _looked_up(self, node: Node, core: Dequantised, functions: list[Function], grid: Grid) -> Map:
        """Return functions of a byte as a table, or the map itself where nothing changes."""
        if not functions and (grid.scale, grid.zero_point, grid.unsigned) == (core.scale, core.zero_point, core.map.grid.unsigned):
            return core.map
        values = dequantise(_BYTES, core.scale, core.zero_point)
        for function in functions:
            values = function.evaluate(values)
        if np.isnan(values).any():
            raise self.error(
                node, f"{functions[-1].kind} {functions[-1].name!r} is not defined for every value that its input can have"
            )
        table = quantise(values, grid.scale, grid.zero_point)
        return self._layer(Lookup, functions[-1].name if functions else node.name, (core.map,), grid, table=table)

    def _pooled(self, entry: Map, pools: Iterable[Pool]) -> Map:
        for pool in pools:
            key = (entry, pool)
            if key not in self._made:
                self._made[key] = self._layer(MaxPool, pool.name, (entry,), entry.grid, window=pool.window)
            entry = self._made[key]
        return entry

    def pool_bytes(self, entry: Map, pool: Pool) -> Map:
        """Return the maxima of a map of bytes."""
        return self._pooled(entry, [pool])

    def _computed(self, node: Node, core: Linear | Average | Sum, grid: Grid, low: int, high: int) -> Map:
        """Return a core quantised to a grid and clamped to bytes: one layer."""
        if isinstance(core, Linear):
            factors = np.asarray(core.accumulator_scale / grid.scale, np.float32).reshape(-1)
            requantisation = _requantisation([self._factor(node, float(f)) for f in factors], grid.zero_point, low, high)
            return self._layer(
                Conv2D,
                core.name,
                (core.source.map,),
                grid,
                window=core.window,
                weights=core.weights,
                bias=core.bias.astype(np.int32),
                weight_zero_point=core.weight_zero_point,
                groups=core.groups,
                requantisation=requantisation,
            )
        if isinstance(core, Average):
            counts = range(1, math.prod(core.window.kernel) + 1)
            # The operator for whole maps computes its factor in float32; the windowed one divides twice, which this stands for.
            whole = float(core.source.scale / (grid.scale * np.float32(counts[-1])))
            ratio = float(core.source.scale) / float(grid.scale)
            taps = (counts[-1],) if core.is_global else counts
            factors_by_count = {n: self._factor(node, whole if core.is_global else ratio / n) for n in taps}
            return self._layer(
                AveragePool,
                core.name,
                (core.source.map,),
                grid,
                window=core.window,
                input_zero_point=core.source.zero_point,
                factors=factors_by_count,
                count_padding=core.count_padding,
                requantisation=_requantisation([(0, 0)], grid.zero_point, low, high),
            )
        # Each operand is scaled in float32 as runtimes do, then held with as many fractional bits as the 32-bit sum allows.
        parts = [float(source.scale / grid.scale) * (_BYTES.astype(np.float64) - source.zero_point) for source in core.sources]
        peak = sum(float(np.abs(part).max()) for part in parts)
        bits = min(31, math.floor(math.log2((2**31 - 2) / peak)))
        if not MIN_SHIFT <= 1 - bits <= MAX_SHIFT:
            raise self.error(node, f"its operands are {peak:.3g} steps of its result; quantise it on a coarser scale")
        first, second = (np.rint(part * 2.0**bits).astype(np.int32) for part in parts)
        requantisation = _requantisation([(1 << 30, 1 - bits)], grid.zero_point, low, high)
        maps = (core.sources[0].map, core.sources[1].map)
        return self._layer(Add, core.name, maps, grid, tables=(first, second), requantisation=requantisation)

    def _factor(self, node: Node, real: float) -> tuple[int, int]:
        try:
            return quantise_multiplier(real)
        except SystolithError as error:
            raise self.error(node, str(error)) from None

    def _layer(self, kind: Callable[..., Operator], name: str, inputs: tuple[Map, ...], grid: Grid, **fields: Any) -> Map:
        """Add a layer under a unique name; return the map it writes, which is called like the layer."""
        unique = self._names.unique(name)
        try:
            operator = kind(name=unique, inputs=tuple(entry.name for entry in inputs), output=unique, **fields)
            shape = operator.output_shape(tuple(entry.shape for entry in inputs))
        except SystolithError as error:
            raise OnnxError(f"{self.name}: {error}") from None
        self.operators.append(operator)
        self.maps[unique] = Map(unique, shape, grid)
        return self.maps[unique]


#: What reads one operator: it takes the node's inputs from the importer and stores its output there.
Handler = Callable[[Importer, Node], None]

_BYTES = np.arange(-128, 128)

#: What to do instead, for operators that people are likely to meet.
_ADVICE = {
    "BatchNormalization": "fold it into the convolution before it (onnxruntime's quant_pre_process does)",
    "ConvInteger": "the nearest supported forms are QLinearConv, and Conv between DequantizeLinear and QuantizeLinear",
    "ConvTranspose": "the nearest supported form is Conv",
    "DynamicQuantizeLinear": "quantise the model statically, with calibration data",
    "MatMulInteger": "the nearest supported forms are QLinearMatMul, and MatMul between DequantizeLinear and QuantizeLinear",
    "LRN": "it is no 8-bit layer; leave it out of the model, as networks since 2014 do",
    "Pad": "give the padding to the Conv or pooling after it, in its attribute pads",
}


def one_line(error: Exception) -> str:
    """Return an error's text on one line, not too long."""
    return (" ".join(str(error).split()) or type(error).__name__)[:200]


def is_channels_first(index: Index, shape: Shape) -> bool:
    """Whether an index is that of a map seen as an ONNX tensor with the channels first."""
    return 2 <= index.ndim <= 4 and index.size == math.prod(shape) and np.array_equal(index, _channels_first_like(index, shape))


def _channels_first_like(index: Index, shape: Shape) -> Index:
    try:
        return channels_first(shape, index.ndim)
    except ValueError:  # the map is taller or wider than the rank can show
        return np.zeros(0, np.int64)


def _requantisation(factors: list[tuple[int, int]], zero_point: int, low: int, high: int) -> Requantisation:
    multiplier, shift = np.array(factors, np.int32).T
    return Requantisation(
        multiplier=np.ascontiguousarray(multiplier),
        shift=np.ascontiguousarray(shift),
        rounding=Rounding.HALF_EVEN,
        zero_point=zero_point,
        minimum=low,
        maximum=high,
    )


def _tensor(entry: Map) -> Tensor:
    return Tensor(name=entry.name, shape=entry.shape, zero_point=entry.grid.zero_point, scale=float(entry.grid.scale))


def _type(unsigned: bool) -> str:
    return "uint8" if unsigned else "int8"
