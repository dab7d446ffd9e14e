"""Estimated cycles: the one place that knows what is fast. Choices elsewhere only compare what these functions return."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

from accel.compiler.plan import Plan
from accel.compiler.stages import Stage, plane_count, spans
from accel.compiler.timeline import TileWork
from accel.config import EngineConfig
from accel.isa import INSTRUCTION_BYTES, MAX_SHARE_LOG2, Operation
from accel.perf import REVISIT

__all__ = [
    "StageCost",
    "fits_weight_memory",
    "reduces",
    "smallest_pass",
    "store_share",
    "weight_limit",
    "weight_words",
]

#: Cycles that an instruction takes beyond its work: dispatch, and filling and draining the unit.
_INSTRUCTION_OVERHEAD = 8

#: Cycles that a line of a LOAD takes beyond its data, for the beats that it shares with nobody.
_LINE_OVERHEAD = 1

#: Share of a unit's cycles that the slowest unit loses to it.
_CONTENTION = 1 / 8


_Value = TypeVar("_Value")
_Arguments = ParamSpec("_Arguments")


def _per_stage(
    function: Callable[Concatenate[Stage, _Arguments], _Value],
) -> Callable[Concatenate[Stage, _Arguments], _Value]:
    """Remember what a function returns for a stage as long as there is that stage, which may hold many megabytes of weights."""
    known: WeakKeyDictionary[Stage, dict[object, _Value]] = WeakKeyDictionary()

    def remembering(stage: Stage, /, *arguments: _Arguments.args, **named: _Arguments.kwargs) -> _Value:
        results = known.setdefault(stage, {})
        key = (arguments, tuple(named.items()))
        if key not in results:
            results[key] = function(stage, *arguments, **named)
        return results[key]

    return functools.update_wrapper(remembering, function)


def smallest_pass(config: EngineConfig) -> int:
    """Return the cycles that a pass takes at least: the next taps (and weights) must have been shifted in, the sums written."""
    return max(config.rows, REVISIT)


@_per_stage
def store_share(stage: Stage, plan: Plan, config: EngineConfig) -> int:
    """Return the ``share_log2`` of a stage's loads with which array, loads and stores to the scratchpad are done soonest."""
    height, width, channels = stage.shape
    passes, _, _ = _work(stage, config)
    execute = passes * height * width * stage.pool_words
    rows, columns, depth = stage.input_shape
    load = rows * columns * plane_count(config, depth) * -(-len(stage.units) // plan.band_units)
    store = height * width * plane_count(config, channels)

    def cycles(share: int) -> list[float]:
        # among equals, the one that is nearest to equal shares
        return sorted([execute, load / (1 - 2.0**-share), store * 2.0**share], reverse=True)

    return min(range(MAX_SHARE_LOG2, 0, -1), key=cycles)


def reduces(stage: Stage, config: EngineConfig, rows: int, columns: int) -> bool:
    """Whether a tile of a pool is better read window by window than tap by tap: when its pixels would not fill a pass."""
    bypasses = not stage.weights and not stage.is_pair
    return bypasses and stage.pool_words == 1 and rows * columns < smallest_pass(config) and max(stage.window.kernel) > 1


def _tile_cycles(stage: Stage, config: EngineConfig, rows: int, columns: int, passes: int) -> int:
    """Return the cycles of a tile's passes, those of all units."""
    least = smallest_pass(config)
    if stage.operation is Operation.WINDOW:
        return len(stage.units) * sum(max(pixels, least) for pixels in stage.window_pixels(config, rows, columns))
    pixels = rows * columns * stage.pool_words
    if reduces(stage, config, rows, columns):
        return len(stage.units) * (pixels * math.prod(stage.window.kernel) + least)
    return passes * max(pixels, least)


def tile_work(stage: Stage, config: EngineConfig, rows: int, columns: int, jobs: int, *, to_scratchpad: bool) -> TileWork:
    """Return the work of a tile that is cut into ``jobs``."""
    passes, _, groups = _work(stage, config)
    words = rows * columns
    return TileWork(
        jobs=jobs,
        execute=_tile_cycles(stage, config, rows, columns, passes) / jobs,
        store=words * stage.pool_words * groups / jobs,
        words=words * len(stage.units) // jobs if to_scratchpad else 0,
    )


def weight_limit(config: EngineConfig) -> int:
    """Return the weight words that one EXECUTE may use: a third of the memory, so that others are loaded and wait meanwhile."""
    return max(config.rows, config.weight_words // 3 // config.rows * config.rows)


@_per_stage
def _work(stage: Stage, config: EngineConfig) -> tuple[int, int, int]:
    """Return the passes of all units, the most of one unit, and the groups of lanes of all units for each accumulator word."""
    passes = [stage.passes(config, unit) for unit in stage.units]
    return sum(passes), max(passes), sum(stage.store_groups(config, unit) for unit in stage.units)


def fits_weight_memory(stage: Stage, config: EngineConfig) -> bool:
    """Whether all weights of a stage stay on chip, whatever the ring loses where it wraps."""
    passes, most, _ = _work(stage, config)
    return passes * config.rows + min(most * config.rows, weight_limit(config)) <= config.weight_words


def weight_words(stage: Stage, config: EngineConfig) -> int:
    """Return the words of all weights of a stage."""
    return _work(stage, config)[0] * config.rows if stage.weights else 0


def _parts(size: int, step: int) -> list[tuple[int, int]]:
    """Return ``(length, how many)`` of the pieces into which :func:`~accel.compiler.stages.spans` cuts a size."""
    count = -(-size // step)
    length, longer = divmod(size, count)
    return [(length + 1, longer), (length, count - longer)] if longer else [(length, count)]


def _tiles(size: int, band: int, tile: int) -> list[tuple[int, int]]:
    """Return ``(length, how many)`` of the tiles along one axis."""
    return [(length, many * count) for part, many in _parts(size, band) for length, count in _parts(part, tile)]


class StageCost:
    """Estimated cycles of a stage, for all its images, under any of its plans.

    ``loaded``: inputs that come from memory, in elements of ``element_bytes``, through ``gap`` words.
    """

    def __init__(self, stage: Stage, config: EngineConfig, *, loaded: int, element_bytes: int, gap: int) -> None:
        self._stage = stage
        self._config = config
        self._loaded = loaded
        self._gap = gap
        self._units = len(stage.units)
        self._passes, self._most, groups = _work(stage, config)
        self._store = stage.images * stage.shape[0] * stage.shape[1] * stage.pool_words * groups
        self._fetch = 2.0 * self._units * INSTRUCTION_BYTES / config.bus_bytes  # for each tile
        self._weights = self._passes * config.rows * max(1, config.weight_word_bytes / config.bus_bytes) if stage.weights else 0
        self._fits = fits_weight_memory(stage, config)
        self._element_beats = max(1, element_bytes / config.bus_bytes)
        low, high = stage.reach(0, 0, 1)
        self._first_rows = high - low
        self._tilings: dict[tuple[int, int, int, int], tuple[int, int]] = {}
        self._sides: dict[tuple[int, int, int], int] = {}
        self._planes: dict[int, int] = {}

    def cycles(self, plan: Plan) -> float:
        """Return the estimated cycles under a plan."""
        stage, units = self._stage, self._units
        (height, width, _), kernel = stage.shape, stage.window.kernel
        tiling = (plan.band_images if stage.is_stacked else plan.band_rows, plan.tile_rows, plan.band_columns, plan.tile_columns)
        if tiling not in self._tilings:
            self._tilings[tiling] = self._tiled(*tiling)
        execute, tiles = self._tilings[tiling]
        instructions = tiles * units * _INSTRUCTION_OVERHEAD
        bands = -(-stage.images // plan.band_images) * -(-height // plan.band_rows) * -(-width // plan.band_columns)
        load = tiles * self._fetch
        if self._weights:
            if self._fits:
                times = 1
            elif plan.units_outer and self._most * self._config.rows <= self._config.weight_words // 2:
                times = bands
            else:
                times = tiles
            load += self._weights * times
        execute, store = execute + instructions, self._store + instructions
        if not self._loaded:
            return _overlapped(execute, store, load)

        tall, wide = self.view_side(0, plan.band_rows, plan.chunk_ky), self.view_side(1, plan.band_columns, plan.chunk_kx)
        planes = self.band_planes(plan.band_units)
        chunks = -(-planes // plan.chunk_planes) * -(-kernel[0] // plan.chunk_ky) * -(-kernel[1] // plan.chunk_kx)
        views = tiles * -(-units // plan.tile_units) * chunks if chunks > 1 else bands * -(-units // plan.band_units)
        lines = plan.band_images * tall * min(planes, plan.chunk_planes)
        each = self._loaded * (lines * (wide * self._element_beats + _LINE_OVERHEAD) + _INSTRUCTION_OVERHEAD)
        if views > 1 and 2 * self._loaded * lines * wide > self._gap:
            return _overlapped(execute, store, load) + views * each
        # Rows are loaded as tiles need them, so only those of the first output row are waited for.
        waited = each if stage.is_stacked else each / plan.band_images
        return _overlapped(execute, store, load + views * each) + waited * min(1.0, self._first_rows / tall)

    def band_planes(self, band_units: int) -> int:
        """Return the input planes that a band of so many units needs, at most."""
        if band_units not in self._planes:
            units = self._stage.units
            self._planes[band_units] = max(
                units[last - 1].last_plane - units[first].first_plane for first, last in spans(0, len(units), band_units)
            )
        return self._planes[band_units]

    def view_words(self, plan: Plan, planes: int) -> int:
        """Return the words of the input loaded at once, at most: one view, of one input."""
        rows = self.view_side(0, plan.band_rows, plan.chunk_ky)
        columns = self.view_side(1, plan.band_columns, plan.chunk_kx)
        return plan.band_images * rows * columns * min(planes, plan.chunk_planes)

    def view_side(self, axis: int, size: int, taps: int) -> int:
        """Return the rows (axis 0) or columns (1) of the input that so many of output read at so many taps."""
        key = (axis, size, taps)
        if key not in self._sides:
            low, high = self._stage.reach(axis, 0, size, (0, taps))
            self._sides[key] = high - low
        return self._sides[key]

    def _tiled(self, band_lines: int, tile_rows: int, band_columns: int, tile_columns: int) -> tuple[int, int]:
        """Return the cycles of the passes of all units of all tiles, for all images, and the tiles."""
        stage = self._stage
        images = 1 if stage.is_stacked else stage.images
        shapes = [
            (_tile_cycles(stage, self._config, rows, columns, self._passes), many * count * images)
            for (rows, many), (columns, count) in itertools.product(
                _tiles(stage.lines, band_lines, tile_rows), _tiles(stage.shape[1], band_columns, tile_columns)
            )
        ]
        return sum(cycles * count for cycles, count in shapes), sum(count for _, count in shapes)


def _overlapped(*units: float) -> float:
    """Return the cycles of units that work side by side: the slowest one's, and some of the others', which take its ports."""
    slowest = max(units)
    return slowest + (sum(units) - slowest) * _CONTENTION
