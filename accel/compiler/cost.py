"""Estimated cycles: the one place that knows what is fast. Choices elsewhere only compare what these functions return."""

from __future__ import annotations

import math

from accel.compiler.plan import Plan
from accel.compiler.stages import Stage
from accel.config import EngineConfig
from accel.isa import INSTRUCTION_BYTES, Operation

__all__ = ["fits_weight_memory", "smallest_pass", "stage_cycles", "view_words", "weight_limit"]

#: Cycles that a LOAD takes beyond its data: being fetched, and what the memory's latency is not hidden behind the one before.
_LOAD_OVERHEAD = 16


def smallest_pass(config: EngineConfig, operation: Operation) -> int:
    """Return the cycles that a pass takes at least: the array must have shifted in the next weights."""
    return max(config.rows, 4) if operation is Operation.ARRAY else 4


def weight_limit(config: EngineConfig) -> int:
    """Return the weight words that one EXECUTE may use: a quarter of the memory, so that the next ones are loaded meanwhile."""
    return max(config.rows, config.weight_words // 4 // config.rows * config.rows)


def fits_weight_memory(stage: Stage, config: EngineConfig) -> bool:
    """Whether all weights of a stage stay on chip, whatever the ring loses where it wraps."""
    passes = [stage.passes(config, unit) for unit in stage.units]
    return sum(passes) * config.rows + min(max(passes) * config.rows, weight_limit(config)) <= config.weight_words


def view_words(stage: Stage, plan: Plan, planes: int) -> int:
    """Return the words of the input loaded at once, at most: one view, of one input."""
    sides = []
    chunked = (plan.chunk_ky, plan.chunk_kx)
    for axis, outputs in ((0, plan.band_rows), (1, plan.band_columns)):
        low, high = stage.reach(axis, 0, outputs, (0, chunked[axis]))
        sides.append(high - low)
    return sides[0] * sides[1] * min(planes, plan.chunk_planes)


def stage_cycles(stage: Stage, config: EngineConfig, plan: Plan, *, loaded: int, planes: int, element_bytes: int, gap: int) -> float:
    """Return the estimated cycles of a stage.

    ``loaded``: inputs that come from memory, ``planes`` of each for a band, in elements of ``element_bytes``, through ``gap`` words.
    """
    height, width, _ = stage.shape
    pixels = height * width * stage.pool_words
    bands = math.ceil(height / plan.band_rows) * math.ceil(width / plan.band_columns)
    tiles = bands * math.ceil(plan.band_rows / plan.tile_rows) * math.ceil(plan.band_columns / plan.tile_columns)
    passes = [stage.passes(config, unit) for unit in stage.units]
    execute = tiles * sum(passes) * max(pixels / tiles, smallest_pass(config, stage.operation))
    store = pixels * sum(stage.store_groups(config, unit) for unit in stage.units)

    load = 2.0 * tiles * len(stage.units) * INSTRUCTION_BYTES / config.bus_bytes
    if stage.weights:
        once = sum(passes) * config.rows * max(1, config.weight_word_bytes / config.bus_bytes)
        if fits_weight_memory(stage, config):
            times = 1
        elif plan.units_outer and max(passes) * config.rows <= config.weight_words // 2:
            times = bands
        else:
            times = tiles
        load += once * times
    if not loaded:
        return max(execute, store, load)

    words = view_words(stage, plan, planes)
    kernel = stage.window.kernel
    chunks = math.ceil(planes / plan.chunk_planes) * math.ceil(kernel[0] / plan.chunk_ky) * math.ceil(kernel[1] / plan.chunk_kx)
    if chunks > 1:
        views = tiles * math.ceil(len(stage.units) / plan.tile_units) * chunks
    else:
        views = bands * math.ceil(len(stage.units) / plan.band_units)
    each = loaded * words * max(1, element_bytes / config.bus_bytes) + _LOAD_OVERHEAD
    if views > 1 and 2 * loaded * words > gap:
        return max(execute, store, load) + views * each
    # Rows are loaded as tiles need them, so only those of the first output row are waited for.
    low, high = stage.reach(0, 0, 1)
    first, last = stage.reach(0, 0, plan.band_rows)
    return max(execute, store, load + views * each) + each * min(1.0, (high - low) / (last - first))
