"""Third pass: choose each stage's plan, by comparing the estimates of all that fit."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from accel.compiler.cost import StageCost, fits_weight_memory
from accel.compiler.errors import CompileError
from accel.compiler.plan import Plan
from accel.compiler.stages import Stage
from accel.config import EngineConfig
from accel.isa import WINDOW_TAPS, Opcode, Operation, fields_of

__all__ = ["choose_plans", "tile_sizes"]

#: Plans that are looked at more closely, if they are estimated to take at most so many times the best one's cycles.
_CONTENDERS = 4
_NEARLY = 1.1

MAX_COUNT = min(field.maximum for field in fields_of(Opcode.EXECUTE) if field.name in ("n_py", "n_px"))
"""Pixels that one loop of an EXECUTE counts."""


def choose_plans(
    stages: Sequence[Stage], config: EngineConfig, *, loaded: int, element_bytes: int, gap: int
) -> tuple[Stage, list[Plan]]:
    """Return which of several ways to run a stage takes the fewest estimated cycles, and the plans that are nearly as good as the
    best, best first.

    ``loaded``: inputs that come from memory, through ``gap`` words, in elements of ``element_bytes``. Raises
    :class:`CompileError` when not even the smallest tile fits.
    """
    found: list[tuple[float, int, Stage, Plan]] = []
    for stage in stages:
        cost = StageCost(stage, config, loaded=loaded, element_bytes=element_bytes, gap=gap)
        for plan in _resident_plans(stage, config) if not loaded else _loaded_plans(stage, config, cost, gap // loaded):
            if stage.operation is Operation.WINDOW and stage.line_pixels(_narrowest(stage, plan)) <= WINDOW_TAPS:
                continue
            found.append((cost.cycles(plan), len(found), stage, plan))
    if not found:
        raise CompileError(
            f"{stages[0].name}: the input of one output pixel does not fit the {gap} scratchpad words that are free; "
            f"{config.name} would need more than its {config.scratchpad_words} scratchpad_words"
        )
    found.sort()  # by cycles, and among equals by number, which differs
    cycles, _, chosen, _ = found[0]
    near = itertools.takewhile(lambda item: item[0] <= _NEARLY * cycles, found)
    plans = dict.fromkeys(plan for _, _, stage, plan in near if stage is chosen)
    # those with whole lines too, which are loaded in the simplest way
    whole = [plan for plan in plans if plan.band_columns == chosen.shape[1]]
    return chosen, list(dict.fromkeys([*list(plans)[:_CONTENDERS], *whole[:2]]))


def _narrowest(stage: Stage, plan: Plan) -> int:
    """Return the columns of the narrowest tile."""
    bands = -(-stage.shape[1] // plan.band_columns)
    columns = stage.shape[1] // bands
    return columns // -(-columns // plan.tile_columns)


def _resident_plans(stage: Stage, config: EngineConfig) -> Iterator[Plan]:
    whole = _whole(stage, config)
    for rows, columns in tile_sizes(stage, config, stage.lines, stage.shape[1]):
        yield whole._replace(tile_rows=rows, tile_columns=columns)


def _whole(stage: Stage, config: EngineConfig) -> Plan:
    """Return the plan of one band and one tile, to be cut down."""
    height, width, _ = stage.shape
    return Plan(
        band_images=stage.images,
        band_rows=height,
        band_columns=width,
        band_units=len(stage.units),
        tile_rows=stage.lines,
        tile_columns=width,
        tile_units=1,
        chunk_planes=max(unit.last_plane for unit in stage.units) - min(unit.first_plane for unit in stage.units),
        chunk_ky=stage.window.kernel[0],
        chunk_kx=stage.window.kernel[1],
        units_outer=bool(stage.weights) and not fits_weight_memory(stage, config),
    )


def tile_sizes(stage: Stage, config: EngineConfig, height: int, width: int) -> Iterator[tuple[int, int]]:
    """Return shapes of tiles that fit an accumulator half and cover a band, ``height`` lines of ``width`` pixels, in few, nearly
    equal pieces."""
    depth = config.accumulator_words // stage.pool_words
    widest, tallest = min(depth, MAX_COUNT), MAX_COUNT
    if stage.operation is Operation.WINDOW:
        widest = min(depth, (config.window_pixels - stage.window_taps) // stage.window.stride[1] + 1)
        tallest = (MAX_COUNT - config.window_lines) // stage.window.stride[0] + 1
    fewest = -(-width // widest)
    for pieces in range(fewest, min(width, fewest + 3) + 1):
        columns = -(-width // pieces)
        most = min(height, depth // columns, tallest)
        yield -(-height // -(-height // most)), columns


def _fractions(size: int) -> list[int]:
    """Return sizes of nearly equal parts, from the whole down to 1: all halvings and a few between."""
    counts = {1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, *(1 << n for n in range(6, 13)), size}
    return sorted({-(-size // count) for count in counts if count <= size}, reverse=True)


def _halves(size: int) -> list[int]:
    """Return a size, half of it, and so on down to 1."""
    return sorted({-(-size // (1 << n)) for n in range(size.bit_length())}, reverse=True)


def _loaded_plans(stage: Stage, config: EngineConfig, cost: StageCost, share: int) -> Iterator[Plan]:
    """Return plans in which each loaded input has a ``share`` of the scratchpad's words."""
    height, width, _ = stage.shape
    whole = _whole(stage, config)
    found = False
    tall = [(rows, cost.view_side(0, rows, whole.chunk_ky)) for rows in _fractions(height)]
    wide = [(columns, cost.view_side(1, columns, whole.chunk_kx)) for columns in _halves(width)]
    for band_units in _fractions(len(stage.units)):
        planes = cost.band_planes(band_units)
        for (band_rows, view_rows), (band_columns, view_columns) in itertools.product(tall, wide):
            words = view_rows * view_columns * planes
            for band_images in _band_images(stage, whole, whole_map=(band_rows, band_columns) == (height, width)):
                if band_images * words > share:
                    continue
                found = True
                lines = band_images if stage.is_stacked else band_rows
                for rows, columns in tile_sizes(stage, config, lines, band_columns):
                    # (no _replace, which takes three times as long: these are thousands)
                    yield Plan(
                        band_images=band_images,
                        band_rows=band_rows,
                        band_columns=band_columns,
                        band_units=band_units,
                        tile_rows=rows,
                        tile_columns=columns,
                        tile_units=whole.tile_units,
                        chunk_planes=whole.chunk_planes,
                        chunk_ky=whole.chunk_ky,
                        chunk_kx=whole.chunk_kx,
                        units_outer=whole.units_outer,
                    )
        if found and planes == cost.band_planes(1):
            break
    if stage.operation is not Operation.WINDOW and (not found or stage.operation is Operation.ARRAY):
        yield from _chunked_plans(stage, config, cost, share)


def _band_images(stage: Stage, whole: Plan, *, whole_map: bool) -> list[int]:
    """Return how many images a loaded band may hold: several where weights serve all of them before they are given up."""
    return _fractions(stage.images) if stage.is_stacked or (whole.units_outer and whole_map) else [1]


def _chunked_plans(stage: Stage, config: EngineConfig, cost: StageCost, share: int) -> Iterator[Plan]:
    """Return plans in which a tile's input is loaded in parts, the accumulators holding the sums meanwhile."""
    width = stage.shape[1]
    whole = _whole(stage, config)
    depth = config.accumulator_words // stage.pool_words
    for rows in _fractions(min(stage.lines, depth, MAX_COUNT)):
        for columns in _fractions(min(width, depth // rows, MAX_COUNT)):
            for tile_units in _fractions(min(len(stage.units), depth // (rows * columns))):
                plan = whole._replace(
                    band_images=rows if stage.is_stacked else 1,
                    band_rows=1 if stage.is_stacked else rows,
                    band_columns=columns,
                    tile_rows=rows,
                    tile_columns=columns,
                    tile_units=tile_units,
                    band_units=tile_units,
                )
                if (chunk := _chunk(stage, plan, cost, share)) is not None:
                    yield chunk


def _chunk(stage: Stage, plan: Plan, cost: StageCost, share: int) -> Plan | None:
    """Cut planes, then kernel rows, then kernel columns, until two views fit the share (or at least one)."""
    plane = cost.view_words(plan, 1)
    for budget in (share // 2, share):
        if plane <= budget:
            return plan._replace(chunk_planes=min(cost.band_planes(plan.band_units), budget // plane))
        kernel = stage.window.kernel
        smaller = [plan._replace(chunk_planes=1, chunk_ky=count) for count in range(kernel[0] - 1, 0, -1)]
        smaller += [plan._replace(chunk_planes=1, chunk_ky=1, chunk_kx=count) for count in range(kernel[1] - 1, 0, -1)]
        for cut in smaller:
            if cost.view_words(cut, 1) <= budget:
                return cut
    return None
