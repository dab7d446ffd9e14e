"""Random networks for tests: every feature of the layer graph, small enough to simulate; and what tests call and compare."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from click.testing import CliRunner, Result

from accel.cli import cli
from accel.config import PRESETS, EngineConfig
from accel.graph import Add, AveragePool, Concat, Conv2D, Lookup, MaxPool, Network, Operator, Requantisation, Shape, Tensor, Window
from accel.numerics import INT8_MAX, INT8_MIN, Rounding, quantise_multiplier
from accel.perf import estimate
from accel.program import MemoryTiming, Program, RunResult

__all__ = ["MOST_LANES", "ODD_CONFIGS", "assert_time_is_known", "call_cli", "random_conv", "random_image", "random_network"]

Int8Array = npt.NDArray[np.int8]

_WEIGHT_ZERO_POINT_LIMIT = 128


def _config(
    name: str,
    rows: int,
    columns: int,
    lanes: int,
    *,
    bus: int = 8,
    scratchpad: int = 1024,
    weights: int = 256,
    accumulators: int = 64,
) -> EngineConfig:
    groups = 2 << (columns // lanes - 1).bit_length()
    return EngineConfig(
        name=name,
        rows=rows,
        columns=columns,
        bus_bytes=bus,
        lanes=lanes,
        scratchpad_words=scratchpad,
        weight_words=weights,
        accumulator_words=accumulators,
        parameter_channels=lanes * groups,
    )


#: Engines that are not square, not powers of two, or so small that every layer has to be cut up.
ODD_CONFIGS = (
    _config("12x8", 12, 8, 4),
    _config("4x8", 4, 8, 2),
    _config("8x4", 8, 4, 4),
    _config("3x5", 3, 5, 1),
    _config("32x32", 32, 32, 8, bus=16),
    _config("2x2 least", 2, 2, 1, bus=2, scratchpad=64, weights=4, accumulators=16),
    _config("5x3 least", 5, 3, 1, scratchpad=64, weights=16, accumulators=16),
    _config("8x12 least", 8, 12, 4, scratchpad=64, weights=16, accumulators=16),
    _config("8x8 little", 8, 8, 2, scratchpad=128, weights=64, accumulators=16),
)

#: What the lanes of the presets and of the configurations here divide.
MOST_LANES = math.lcm(*(config.lanes for config in (*PRESETS.values(), *ODD_CONFIGS)))


def random_image(rng: np.random.Generator, network: Network) -> Int8Array:
    """Return a random input map of a network, int8 ``(height, width, channels)``."""
    return rng.integers(INT8_MIN, INT8_MAX + 1, network.input.shape, np.int8)


def random_network(
    rng: np.random.Generator, max_macs: int, *, tables: bool = True, elementwise: bool = True, lanes: int = MOST_LANES
) -> Network:
    """Return a random valid network of at most about ``max_macs`` multiply-accumulates in each layer.

    One to five layers: convolutions (strided, padded, dilated, grouped, depthwise, with weight zero points and tables), pools,
    joined channels (each map begins at a multiple of ``lanes``), and, unless switched off, residual adds and lookups. Maps branch:
    any earlier map may be read again.
    """
    side = int(rng.integers(1, 13))
    shape = (side, int(rng.integers(1, 13)), _random_channels(rng))
    tensors = [Tensor(name="input", shape=shape, zero_point=_random_byte(rng))]
    operators: list[Operator] = []
    for index in range(int(rng.integers(1, 6))):
        # Mostly a chain, sometimes a branch.
        source = tensors[-1] if rng.random() < 0.8 else tensors[int(rng.integers(len(tensors)))]
        op = _random_operator(rng, f"layer{index}", source, tensors, max_macs, lanes, tables=tables, elementwise=elementwise)
        if op is None:
            continue
        zero_point = op.requantisation.zero_point if isinstance(op, Conv2D | AveragePool | Add) else source.zero_point
        shapes = tuple(next(t.shape for t in tensors if t.name == name) for name in op.inputs)
        tensors.append(Tensor(name=op.output, shape=op.output_shape(shapes), zero_point=zero_point))
        operators.append(op)
    if not operators:
        op = random_conv(rng, "layer", tensors[0], max_macs, tables=tables)
        tensors.append(Tensor(name=op.output, shape=op.output_shape((shape,)), zero_point=op.requantisation.zero_point))
        operators.append(op)
    output = tensors[-1] if rng.random() < 0.9 else tensors[int(rng.integers(1, len(tensors)))]
    return Network(
        name="random",
        input=tensors[0],
        operators=tuple(operators),
        tensors={tensor.name: tensor for tensor in tensors[1:]},
        output=output.name,
    )


def random_conv(rng: np.random.Generator, name: str, source: Tensor, max_macs: int, *, tables: bool = True) -> Conv2D:
    """Return a random convolution over a map, of at most about ``max_macs`` multiply-accumulates."""
    channels = source.shape[2]
    window = _random_window(rng, source.shape, pool=False)
    groups = 1
    if channels > 1 and rng.random() < 0.4:
        groups = int(rng.choice([n for n in range(2, channels + 1) if channels % n == 0]))
    pixels = math.prod(window.output_size(*source.shape[:2]))
    each = pixels * math.prod(window.kernel) * (channels // groups)
    filters = max(1, min(_random_channels(rng), max_macs // each) // groups)
    out = filters * groups
    weights = rng.integers(INT8_MIN, INT8_MAX + 1, (out, *window.kernel, channels // groups), np.int8)
    zero_points = np.zeros(1, np.int32)
    if rng.random() < 0.3:
        count = 1 if rng.random() < 0.5 else out
        zero_points = rng.integers(-_WEIGHT_ZERO_POINT_LIMIT, _WEIGHT_ZERO_POINT_LIMIT, count).astype(np.int32)
        if rng.random() < 0.3:
            zero_points[:] = INT8_MIN
    # Sums of n products of random bytes have a deviation of about 74**2 * sqrt(n): aim at a spread of the output bytes.
    spread = 74.0 * 74.0 * math.sqrt(math.prod(window.kernel) * channels / groups) / 50.0
    return Conv2D(
        name=name,
        inputs=(source.name,),
        output=f"{name}_out",
        window=window,
        weights=weights,
        bias=rng.integers(-int(40 * spread), int(40 * spread) + 1, out).astype(np.int32),
        requantisation=_random_requantisation(rng, out, 1 / spread),
        weight_zero_point=zero_points,
        groups=groups,
        table=_random_table(rng) if tables and rng.random() < 0.2 else None,
    )


def _random_operator(
    rng: np.random.Generator,
    name: str,
    source: Tensor,
    tensors: list[Tensor],
    max_macs: int,
    lanes: int,
    *,
    tables: bool,
    elementwise: bool,
) -> Operator | None:
    kind = rng.choice(["conv", "max", "average", "add", "lookup", "concat"], p=[0.45, 0.2, 0.1, 0.12, 0.08, 0.05])
    inputs, output = (source.name,), f"{name}_out"
    if kind == "conv":
        return random_conv(rng, name, source, max_macs, tables=tables)
    if kind == "max":
        low, high = _random_clamp(rng)
        window = _random_window(rng, source.shape, pool=True)
        return MaxPool(name=name, inputs=inputs, output=output, window=window, minimum=low, maximum=high)
    if kind == "average":
        window = _random_window(rng, source.shape, pool=True, dilated=False)
        count_padding = bool(rng.random() < 0.3)
        counts = range(1, math.prod(window.kernel) + 1)
        factors = {count: quantise_multiplier(float(rng.uniform(0.8, 1.2)) / count) for count in counts}
        return AveragePool(
            name=name,
            inputs=inputs,
            output=output,
            window=window,
            input_zero_point=source.zero_point if rng.random() < 0.5 else 0,
            factors=factors,
            requantisation=_random_requantisation(rng, 1, 1.0),
            count_padding=count_padding,
        )
    if kind == "add" and elementwise:
        partners = [tensor for tensor in tensors if tensor.shape == source.shape]
        other = partners[int(rng.integers(len(partners)))]
        scale = 1 << int(rng.integers(8, 20))
        first, second = (rng.integers(-128 * scale, 127 * scale, 256).astype(np.int32) for _ in range(2))
        channels = source.shape[2] if rng.random() < 0.3 else 1
        return Add(
            name=name,
            inputs=(source.name, other.name),
            output=output,
            tables=(first, second),
            requantisation=_random_requantisation(rng, channels, 0.5 / scale),
        )
    if kind == "concat":
        joined = [t for t in tensors if t.shape[:2] == source.shape[:2] and t.shape[2] % lanes == 0]
        chosen = [joined[int(i)] for i in rng.integers(len(joined), size=int(rng.integers(1, 3)))] if joined else []
        return Concat(name=name, inputs=(*(tensor.name for tensor in chosen), source.name), output=output)
    if kind == "lookup" and tables:
        table = _random_table(rng)
        return Lookup(name=name, inputs=inputs, output=output, table=np.sort(table) if rng.random() < 0.5 else table)
    return None


def _random_channels(rng: np.random.Generator) -> int:
    return int(rng.choice([1, 2, 3, 4, 5, 6, 8, 9, 12, 16, 17, 20, 24, 33, 40]))


def _random_byte(rng: np.random.Generator) -> int:
    return int(rng.choice([0, INT8_MIN, INT8_MAX, int(rng.integers(INT8_MIN, INT8_MAX + 1))]))


def _random_clamp(rng: np.random.Generator) -> tuple[int, int]:
    if rng.random() < 0.5:
        return INT8_MIN, INT8_MAX
    low, high = sorted(rng.integers(INT8_MIN, INT8_MAX + 1, 2).tolist())
    return int(low), int(high)


def _random_table(rng: np.random.Generator) -> Int8Array:
    return rng.integers(INT8_MIN, INT8_MAX + 1, 256, np.int8)


def _random_requantisation(rng: np.random.Generator, channels: int, factor: float) -> Requantisation:
    if rng.random() < 0.3:
        channels = 1
    pairs = [quantise_multiplier(factor * float(rng.uniform(0.3, 3.0))) for _ in range(channels)]
    low, high = _random_clamp(rng)
    return Requantisation(
        multiplier=np.array([multiplier for multiplier, _ in pairs], np.int32),
        shift=np.array([shift for _, shift in pairs], np.int32),
        rounding=Rounding(int(rng.integers(3))),
        zero_point=_random_byte(rng),
        minimum=low,
        maximum=high,
    )


def _random_window(rng: np.random.Generator, shape: Shape, *, pool: bool, dilated: bool = True) -> Window:
    """Return a window that fits a map at least once. A pool's padding is smaller than its window."""
    if pool and rng.random() < 0.5:
        # The kind that fuses with what comes before.
        kernel = (int(rng.integers(1, min(3, shape[0]) + 1)), int(rng.integers(1, min(3, shape[1]) + 1)))
        return Window(kernel=kernel, stride=kernel)
    axes = [_random_axis(rng, size, pool=pool, dilated=dilated) for size in shape[:2]]
    (tall, down, top, bottom, dilation_y), (wide, across, left, right, dilation_x) = axes
    return Window(kernel=(tall, wide), stride=(down, across), padding=(top, left, bottom, right), dilation=(dilation_y, dilation_x))


def _random_axis(rng: np.random.Generator, size: int, *, pool: bool, dilated: bool) -> tuple[int, int, int, int, int]:
    """Return kernel, stride, padding before and after, and dilation along one axis."""
    kernel = int(rng.choice([1, 2, 3, 4, 5, 7, size])) if rng.random() < 0.8 else 1
    dilation = int(rng.integers(1, 4)) if dilated and rng.random() < 0.3 else 1
    extent = (kernel - 1) * dilation + 1
    limit = extent - 1 if pool else extent + 1
    before, after = (int(rng.integers(0, limit + 1)) if rng.random() < 0.5 else 0 for _ in range(2))
    if size + before + after < extent:
        kernel, dilation, before, after = min(size, kernel), 1, 0, 0
    return kernel, int(rng.integers(1, 4)), before, after, dilation


def assert_time_is_known(program: Program, timing: MemoryTiming, result: RunResult, what: str) -> None:
    """Compare a cycle-accurate run without random stalls with the cycle model: the cycles in all, of every instruction, and by
    what every unit did in them. Raises :class:`AssertionError`, which says ``what`` was run."""
    predicted = estimate(program, timing)
    what = f"{what}, {timing}"
    assert result.cycles is not None
    assert result.retired is not None
    assert result.counters is not None
    assert result.spent is not None
    for cycles, retired, counters, spent in zip(result.cycles, result.retired, result.counters, result.spent, strict=True):
        assert cycles == predicted.cycles, what
        np.testing.assert_array_equal(retired, predicted.retired, err_msg=what)
        np.testing.assert_array_equal([unit.states for unit in counters.values()], predicted.states, err_msg=what)
        np.testing.assert_array_equal(spent, predicted.spent, err_msg=what)


def call_cli(*arguments: str) -> Result:
    """Run ``systolith`` with these arguments in this process; return its exit status, and what it wrote to which stream."""
    return CliRunner().invoke(cli, arguments, prog_name="systolith")
