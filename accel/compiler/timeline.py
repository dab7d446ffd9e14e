"""When array and output stage will be through with what is emitted: tile by tile, good enough to choose between ways to cut stages.

The cycle model (:mod:`accel.perf`) is exact, but replays instructions; this looks at whole tiles. What it leaves out (fetching,
borders, the memory's latency) is much the same for all ways to cut a stage.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from accel.config import EngineConfig

__all__ = ["TileWork", "Timeline"]

#: Cycles that the output stage takes beyond its groups: its pipeline, and the orders at its ends.
_STORE_LATENCY = 32

#: Cycles that the array takes beyond its passes and its own size: the way to it and the orders at its ends.
_EXECUTE_LATENCY = 12

#: Maps whose finishing times are kept: those of some stages back are long finished when they are read again.
_REMEMBERED = 3

#: Jobs of one tile that are followed one by one; the others take as long as the slowest part of the engine needs for each.
_FOLLOWED = 4


class TileWork(NamedTuple):
    """A tile of ``jobs`` units: cycles of array and output stage for each, and words that it writes to the scratchpad."""

    jobs: int
    execute: float
    store: float
    words: int


class Timeline(NamedTuple):
    """``load``, ``execute``, ``store``: when each is through with what it has begun. ``halves``: when the accumulator halves were
    drained, the one to be filled next first. ``rows``: for a map, how many of its first rows are finished, ever more, and when."""

    config: EngineConfig
    load: float = 0.0
    execute: float = 0.0
    store: float = 0.0
    halves: tuple[float, float] = (0.0, 0.0)
    rows: Mapping[str, tuple[list[int], list[float]]] = MappingProxyType({})

    def finished(self, tensor: str, bottom: int) -> float:
        """Return when rows ``[0, bottom)`` of a map are in the scratchpad; 0 for one that this timeline has not seen."""
        if tensor not in self.rows:
            return 0.0
        bottoms, times = self.rows[tensor]
        found = bisect_left(bottoms, bottom)
        return times[found] if found < len(times) else 0.0

    def after(self, tensor: str, tiles: Iterable[tuple[int, TileWork, float]], *, share: int, loaded: float) -> Timeline:
        """Return the timeline after a stage's tiles ``(rows of the map finished with it, work, when its input is there)``.

        Until ``loaded`` its input is being loaded, and words are written to the scratchpad in one cycle of ``share``.
        """
        settle = self.config.rows + self.config.columns + _EXECUTE_LATENCY
        execute, store = self.execute, self.store
        half, other = self.halves
        earlier = self.rows.get(tensor, ((), ()))
        bottoms, times = [*earlier[0]], [*earlier[1]]
        most = bottoms[-1] if bottoms else 0
        for bottom, (jobs, each, finish, words), available in tiles:
            if available > execute:
                execute = available
            shared = words * share
            for _ in range(jobs if jobs < _FOLLOWED else _FOLLOWED):
                execute = (execute if execute > half else half) + each
                begin = execute + settle
                if begin < store:
                    begin = store
                port = shared if begin < loaded else words
                store = begin + (finish if finish > port else port)
                half, other = other, store + _STORE_LATENCY
            if jobs > _FOLLOWED:
                # two halves: a job begins when the one before the last is drained
                turn = (each + settle + finish + _STORE_LATENCY) / 2
                rest = (jobs - _FOLLOWED) * max(each, finish, turn)
                execute, store, half, other = execute + rest, store + rest, half + rest, other + rest
            if bottom > most:
                most = bottom
                bottoms.append(bottom)
                times.append(other)
        # of older maps nothing is asked any more
        recent = [name for name in self.rows if name != tensor][-_REMEMBERED:]
        rows = {name: self.rows[name] for name in recent} | {tensor: (bottoms, times)}
        return Timeline(self.config, max(self.load, loaded), execute, store, (half, other), rows)
