"""First pass: operators to stages, fusing what the output stage does for nothing."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from accel.compiler.concat import Computed, in_place, with_copies
from accel.compiler.errors import CompileError
from accel.compiler.stages import MAX_WINDOW, Region, Stage, Unit, plane_count
from accel.compiler.weights import factor_shifts, fold_bias, pack_parameters, pack_table, weight_parts
from accel.config import EngineConfig
from accel.graph import Add, AveragePool, Concat, Conv2D, Lookup, MaxPool, Network, Operator, Shape, Window
from accel.isa import WINDOW_TAPS, Operation
from accel.numerics import IDENTITY, INT8_MAX, INT8_MIN, Rounding

__all__ = ["fuse", "windowed"]

MAX_POOL = 255

_POINT = Window(kernel=(1, 1))


def fuse(network: Network, config: EngineConfig) -> list[Stage]:
    """Return the network's stages in order. Raises :class:`CompileError` for a layer that needs a feature the engine lacks."""
    stages: list[Stage] = []
    fused: set[str] = set()
    network = with_copies(_without_dead_ends(network))
    for op in network.operators:
        if op.name in fused or isinstance(op, Concat):
            continue
        _check_features(op, config)
        stage = _stage(op, network, config)
        finish = _finish_of(op)
        while (follower := _only_consumer(network, stage.output)) is not None:
            if isinstance(follower, MaxPool) and _pools_in_stage(stage, follower, config):
                finish = finish.clamped(follower.minimum, follower.maximum)
                stage = _pooled(stage, follower, network.tensor(follower.output).shape)
            elif isinstance(follower, Lookup) and config.tables and (stage.pool_words == 1 or _rises(follower)):
                finish = finish.looked_up(follower)
            else:
                break
            fused.add(follower.name)
            names = f"{stage.name}+{follower.name}", f"{stage.op}+{type(follower).__name__}"
            stage = replace(stage, name=names[0], op=names[1], output=follower.output)
        table = None if finish.table is None else pack_table(finish.table)
        stages.append(in_place(replace(stage, minimum=finish.minimum, maximum=finish.maximum, table=table), network, config))
    return stages


def _without_dead_ends(network: Network) -> Network:
    """Return the network without the layers that the output does not depend on."""
    wanted = {network.output}
    kept = []
    for op in reversed(network.operators):
        if op.output in wanted:
            wanted.update(op.inputs)
            kept.append(op)
    return replace(network, operators=tuple(reversed(kept)))


@dataclass(frozen=True, eq=False)
class _Finish:
    """What follows requantisation: a clamp, then perhaps a table."""

    minimum: int
    maximum: int
    table: npt.NDArray[np.int8] | None = None

    def clamped(self, minimum: int, maximum: int) -> _Finish:
        if self.table is not None:
            return replace(self, table=np.clip(self.table, minimum, maximum).astype(np.int8))
        return _Finish(max(minimum, min(self.minimum, maximum)), max(minimum, min(self.maximum, maximum)))

    def looked_up(self, op: Lookup) -> _Finish:
        return replace(self, table=op.table if self.table is None else op.table[self.table.astype(np.int64) + 128])


def _finish_of(op: Computed) -> _Finish:
    match op:
        case Conv2D():
            return _Finish(op.requantisation.minimum, op.requantisation.maximum, op.table)
        case MaxPool():
            return _Finish(op.minimum, op.maximum)
        case AveragePool() | Add():
            return _Finish(op.requantisation.minimum, op.requantisation.maximum)
        case Lookup():
            return _Finish(INT8_MIN, INT8_MAX, op.table)


def _rises(op: Lookup) -> bool:
    """Whether a table never falls, so that it commutes with a maximum that the output stage takes after it."""
    return bool(np.all(op.table[1:] >= op.table[:-1]))


def _only_consumer(network: Network, tensor: str) -> Operator | None:
    consumers = network.consumers(tensor)
    return consumers[0] if len(consumers) == 1 and tensor != network.output else None


def windowed(stage: Stage, config: EngineConfig) -> Stage | None:
    """Return a depthwise stage that reads each byte once for a whole window, or None where the engine cannot."""
    (down, across), channels = stage.window.stride, stage.shape[2]
    if (
        not config.window_lines
        or stage.operation is not Operation.ARRAY
        or not stage.groups == channels == stage.input_shape[2]
        or stage.pool_words > 1
        or max(down, across) > 2
        or any(kernel > 1 and dilation > 1 for kernel, dilation in zip(stage.window.kernel, stage.window.dilation, strict=True))
        or stage.line_pixels(stage.shape[1]) <= WINDOW_TAPS
    ):
        return None
    return replace(stage, operation=Operation.WINDOW, units=_channel_units(channels, config))


def _pools_in_stage(stage: Stage, op: MaxPool, config: EngineConfig) -> bool:
    """Whether a stage can stream its pixels in the pool's windows: they must not overlap, and one of them must fit every memory."""
    window = op.window
    words = window.kernel[0] * window.kernel[1]
    (tall, wide), (down, across) = window.kernel, stage.window.stride
    return (
        stage.pool_words == 1
        and (bool(stage.weights) or stage.is_pair)
        and window.stride == window.kernel
        and not any(window.padding)
        and all(dilation == 1 or kernel == 1 for dilation, kernel in zip(window.dilation, window.kernel, strict=True))
        and max(window.kernel) <= MAX_WINDOW
        and words <= min(MAX_POOL, config.accumulator_words)
        and ((tall - 1) * down + 1) * ((wide - 1) * across + 1) <= config.scratchpad_words // 8
    )


def _pooled(stage: Stage, op: MaxPool, shape: Shape) -> Stage:
    regions = tuple(replace(region, rows=(0, shape[0]), columns=(0, shape[1])) for region in stage.regions)
    return replace(stage, pool=op.window.kernel, shape=shape, regions=regions)


def _check_features(op: Operator, config: EngineConfig) -> None:
    def cure(field: str) -> str:
        """Return what to do about a feature that is missing."""
        return "take a configuration that is no micro engine" if config.micro else f"set {field} = true"

    if (isinstance(op, Lookup) or (isinstance(op, Conv2D) and op.table is not None)) and not config.tables:
        raise CompileError(f"{op.name}: needs an activation table, but {config.name} is built without them; {cure('tables')}")
    if isinstance(op, Add) and not config.elementwise:
        raise CompileError(f"{op.name}: adds two maps, but {config.name} is built without operand tables; {cure('elementwise')}")
    factors: list[tuple[int, int]] = []
    rounding = Rounding.DOUBLE_AWAY
    if isinstance(op, Conv2D | Add | AveragePool):
        rounding = op.requantisation.rounding
        factors = list(zip(op.requantisation.multiplier.tolist(), op.requantisation.shift.tolist(), strict=True))
    if isinstance(op, AveragePool):
        factors = list(op.factors.values())
    if not config.multiplier and any(factor_shifts(*factor, rounding, config) is None for factor in factors):
        raise CompileError(
            f"{op.name}: its scale factors are not powers of two below 1, and {config.name} is built without multipliers; "
            "set multiplier = true"
        )


def _channel_units(channels: int, config: EngineConfig) -> tuple[Unit, ...]:
    """Return the units of operations that bypass the array: the columns' share of one input word each."""
    units = []
    for plane in range(plane_count(config, channels)):
        for offset in range(0, config.rows, config.columns):
            first = plane * config.rows + offset
            count = min(config.columns, config.rows - offset, channels - first)
            if count > 0:
                units.append(Unit(first_channel=first, channels=count, first_plane=plane, last_plane=plane + 1, row_offset=offset))
    return tuple(units)


def _conv_units(conv: Conv2D, config: EngineConfig) -> tuple[Unit, ...]:
    """Return the column blocks of a convolution, each with the input planes that its groups read."""
    out, depth = conv.weights.shape[0], conv.weights.shape[3]
    filters = out // conv.groups
    units = []
    for first in range(0, out, config.columns):
        count = min(config.columns, out - first)
        low = first // filters * depth
        high = ((first + count - 1) // filters + 1) * depth
        units.append(
            Unit(
                first_channel=first,
                channels=count,
                first_plane=low // config.rows,
                last_plane=plane_count(config, high),
            )
        )
    return tuple(units)


def _stage(op: Operator, network: Network, config: EngineConfig) -> Stage:
    """Return the stage of one operator alone; its clamp and table are filled in after fusing."""
    shape = network.tensor(op.output).shape
    inputs = network.input_shapes(op)
    channels = shape[2]
    whole = ((0, shape[0]), (0, shape[1]))
    rounding, zero_point = Rounding.DOUBLE_AWAY, 0
    window, fill = _POINT, 0
    operation = Operation.SUM
    units = _channel_units(channels, config)
    same = pack_parameters(0, *IDENTITY, rounding, config.columns, config)
    regions: tuple[Region, ...] = (Region(rows=whole[0], columns=whole[1], parameters=same, uniform=True),)
    weights: tuple[npt.NDArray[np.int8], ...] = ()
    groups = 1
    pair_table = None
    match op:
        case Conv2D():
            operation, window, groups = Operation.ARRAY, op.window, op.groups
            fill = network.tensor(op.inputs[0]).zero_point
            units, weights = _conv_units(op, config), weight_parts(op)
            requantisation = op.requantisation
            rounding, zero_point = requantisation.rounding, requantisation.zero_point
            bias = fold_bias(op, fill)
            parameters = pack_parameters(bias, requantisation.multiplier, requantisation.shift, rounding, channels, config)
            regions = (Region(rows=whole[0], columns=whole[1], parameters=parameters, uniform=False),)
        case MaxPool():
            operation, window, fill = Operation.MAX, op.window, INT8_MIN
        case AveragePool():
            window, fill = op.window, op.input_zero_point
            rounding, zero_point = op.requantisation.rounding, op.requantisation.zero_point
            regions = _average_regions(op, inputs[0], rounding, config)
        case Add():
            operation = Operation.LOW
            rounding, zero_point = op.requantisation.rounding, op.requantisation.zero_point
            multiplier, shift = op.requantisation.multiplier, op.requantisation.shift
            uniform = len(multiplier) == 1
            count = config.columns if uniform else channels
            regions = (
                Region(
                    rows=whole[0],
                    columns=whole[1],
                    parameters=pack_parameters(0, multiplier, shift, rounding, count, config),
                    uniform=uniform,
                ),
            )
            pair_table = np.concatenate([pack_table(table.astype("<i4")) for table in op.tables])
        case Lookup():
            pass
    return Stage(
        name=op.name,
        op=type(op).__name__,
        operation=operation,
        inputs=op.inputs,
        input_shape=inputs[0],
        output=op.output,
        shape=shape,
        window=window,
        pool=(1, 1),
        fill=fill,
        units=units,
        regions=regions,
        rounding=rounding,
        zero_point=zero_point,
        minimum=INT8_MIN,
        maximum=INT8_MAX,
        weights=weights,
        groups=groups,
        image=op.inputs == (network.input.name,),
        pair_table=pair_table,
    )


def _runs(counts: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return the runs ``[first, last)`` of equal numbers in a vector."""
    edges = [0, *(np.flatnonzero(np.diff(counts)) + 1).tolist(), len(counts)]
    return list(itertools.pairwise(edges))


def _average_regions(op: AveragePool, shape: Shape, rounding: Rounding, config: EngineConfig) -> tuple[Region, ...]:
    """Return the rectangles of windows with one number of counted taps; padding holds the zero point, so one bias serves all."""
    counts = op.counts(shape[0], shape[1])
    bias = -op.window.kernel[0] * op.window.kernel[1] * op.input_zero_point
    return tuple(
        Region(
            rows=rows,
            columns=columns,
            parameters=pack_parameters(bias, *op.factors[int(counts[rows[0], columns[0]])], rounding, config.columns, config),
            uniform=True,
        )
        for rows in _runs(counts[:, 0])
        for columns in _runs(counts[0])
    )
