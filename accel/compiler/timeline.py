"""When array and output stage will be through with what is emitted: tile by tile, good enough to choose between ways to cut stages.

The cycle model (:mod:`accel.perf`) is exact, but replays instructions; this looks at whole tiles. What it leaves out (fetching,
borders, the memory's latency) is much the same for all ways to cut a stage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from accel.config import EngineConfig

__all__ = ["TileWork", "Timeline"]

#: Cycles that the output stage takes beyond its groups: its pipeline, and the orders at its ends.
_STORE_LATENCY = 28

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


@dataclass(frozen=True)
class Timeline:
    """``load``, ``execute``, ``store``: when each is through with what it has begun. ``halves``: when the accumulator halves were
    drained, the one to be filled next first. ``rows``: for a map, its rows ``[0, bottom)`` and when they were finished."""

    config: EngineConfig
    load: float = 0.0
    execute: float = 0.0
    store: float = 0.0
    halves: tuple[float, float] = (0.0, 0.0)
    rows: dict[str, list[tuple[int, float]]] = field(default_factory=dict)

    def finished(self, tensor: str, bottom: int) -> float:
        """Return when rows ``[0, bottom)`` of a map are in the scratchpad; 0 for one that this timeline has not seen."""
        times = [time for last, time in self.rows.get(tensor, ()) if last >= bottom]
        return min(times, default=0.0)

    def after(
        self,
        tensor: str,
        tiles: Iterable[tuple[int, TileWork, float]],
        write_cycles: Callable[[float], float],
    ) -> Timeline:
        """Return the timeline after a stage's tiles ``(rows of the map finished with it, work, when its input is there)``.

        ``write_cycles``: cycles that a word takes to be written to the scratchpad at a time, where loads take the port meanwhile.
        """
        settle = self.config.rows + self.config.columns + _EXECUTE_LATENCY
        execute, store, halves = self.execute, self.store, self.halves
        rows = list(self.rows.get(tensor, ()))
        for bottom, work, available in tiles:
            execute = max(execute, available)
            for _ in range(min(work.jobs, _FOLLOWED)):
                execute = max(execute, halves[0]) + work.execute
                begin = max(store, execute + settle)
                store = begin + max(work.store, work.words * write_cycles(begin))
                halves = halves[1], store + _STORE_LATENCY
            # two halves: a job begins when the one before the last is drained
            turn = (work.execute + settle + work.store + _STORE_LATENCY) / 2
            rest = max(0, work.jobs - _FOLLOWED) * max(work.execute, work.store, turn)
            execute, store, halves = execute + rest, store + rest, (halves[0] + rest, halves[1] + rest)
            rows.append((bottom, halves[1]))
        # of older maps nothing is asked any more
        recent = [name for name in self.rows if name != tensor][-_REMEMBERED:]
        rows_by_map = {name: self.rows[name] for name in recent} | {tensor: rows}
        return replace(self, execute=execute, store=store, halves=halves, rows=rows_by_map)
