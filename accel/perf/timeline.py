"""What the units did in every cycle, and the answer of the cycle model that it is a part of."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from accel.isa import MAX_SHARE_LOG2, UnitState

__all__ = ["BUSY", "IDLE", "PLAIN", "SHARED", "WAIT_MEMORY", "WAIT_PIPELINE", "Cycles", "Estimate", "Line", "Timeline"]

Cycles = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """What a unit does in every cycle, in pieces that follow each other without a gap, the first from cycle 0 on.

    Each array is int64 ``(pieces,)``. Piece n lasts from ``begins[n]`` to ``ends[n]`` (exclusive). Of every ``periods[n]`` cycles,
    counted from ``origins[n]`` on, the first ``widths[n]`` are spent in the state ``states[n]``, the rest in ``others[n]``.
    """

    begins: Cycles
    ends: Cycles
    states: Cycles
    others: Cycles
    periods: Cycles
    widths: Cycles
    origins: Cycles

    def spent(self, until: Cycles) -> Cycles:
        """Return how many of the cycles before each of ``until`` (n) are in each state: int64 (n, 8)."""
        pieces = np.arange(len(self.begins))
        sums = np.zeros((len(pieces) + 1, len(UnitState)), np.int64)
        in_state = self._in_state(pieces, self.ends)
        np.add.at(sums, (pieces + 1, self.states), in_state)
        np.add.at(sums, (pieces + 1, self.others), self.ends - self.begins - in_state)
        np.cumsum(sums, axis=0, out=sums)
        place = np.searchsorted(self.begins, until, side="right") - 1
        spent = sums[place]
        in_state = self._in_state(place, until)
        rows = np.arange(len(until))
        np.add.at(spent, (rows, self.states[place]), in_state)
        np.add.at(spent, (rows, self.others[place]), until - self.begins[place] - in_state)
        return spent

    def _in_state(self, pieces: npt.NDArray[np.intp], until: Cycles) -> Cycles:
        """Return how many cycles of some pieces, before ``until``, are in the first of their states."""
        counts = []
        for cycle in (self.begins[pieces], until):
            periods, rest = np.divmod(cycle - self.origins[pieces], self.periods[pieces])
            counts.append(periods * self.widths[pieces] + np.minimum(rest, self.widths[pieces]))
        return counts[1] - counts[0]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What the engine will do in one run.

    ``cycles``: from start to done. ``retired``: the cycle in which each instruction finishes. ``started`` and ``ended``: the first
    and the last cycle in which its unit works on it (is BUSY); BEGIN and END have 0 and ``cycles`` everywhere. All three are int64
    ``(instructions,)``. ``timelines``: of load, execute and store.
    """

    cycles: int
    retired: Cycles
    started: Cycles
    ended: Cycles
    timelines: tuple[Timeline, Timeline, Timeline]

    @cached_property
    def states(self) -> Cycles:
        """Cycles of load, execute and store in each :class:`~accel.isa.UnitState`: int64 ``(3, 8)``."""
        return np.stack([line.spent(np.array([self.cycles]))[0] for line in self.timelines])

    @cached_property
    def spent(self) -> Cycles:
        """What ``states`` has reached when each instruction finishes, that cycle included: int64 ``(instructions, 3, 8)``."""
        until = np.minimum(self.retired + 1, self.cycles)
        until[0] = 0
        return np.stack([line.spent(until) for line in self.timelines], axis=1)


IDLE, BUSY = int(UnitState.IDLE), int(UnitState.BUSY)
WAIT_MEMORY, WAIT_PIPELINE = int(UnitState.WAIT_MEMORY), int(UnitState.WAIT_PIPELINE)

#: state, other, period, width, origin of a :class:`Timeline`
_Kind = tuple[int, int, int, int, int]

PLAIN: list[_Kind] = [(state, state, 1, 1, 0) for state in UnitState]
#: Elements made for the scratchpad, but for the output stage's share: by ``share_log2``.
SHARED: list[_Kind] = [PLAIN[BUSY]]
SHARED += [(BUSY, WAIT_PIPELINE, 1 << share, (1 << share) - 1, 0) for share in range(1, MAX_SHARE_LOG2 + 1)]


class Line:
    """A timeline while it grows."""

    def __init__(self) -> None:
        self.reached = 0
        self._begins: list[int] = []
        self._numbers: list[int] = []
        #: The kinds of the pieces by number; a state of its own has its value for one.
        self._kinds: dict[_Kind, int] = {kind: state for state, kind in enumerate(PLAIN)}
        self._last = -1

    def until(self, cycle: int, state: int) -> None:
        """Spend what is left before a cycle, if anything, in a state."""
        if cycle > self.reached:
            if state != self._last:
                self._begins.append(self.reached)
                self._numbers.append(state)
                self._last = state
            self.reached = cycle

    def weave(self, cycle: int, kind: _Kind) -> None:
        """Spend what is left before a cycle, if anything, in two states by turns."""
        self.until(cycle, self._kinds.setdefault(kind, len(self._kinds)))

    def timeline(self) -> Timeline:
        """Return what has become of it."""
        begins = np.array(self._begins, np.int64)
        states, others, periods, widths, origins = np.array(list(self._kinds), np.int64)[self._numbers].T
        return Timeline(
            begins=begins,
            ends=np.append(begins[1:], self.reached),
            states=states,
            others=others,
            periods=periods,
            widths=widths,
            origins=origins,
        )
