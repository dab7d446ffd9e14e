"""Which instruction must wait for which: the ``after_*`` fields, from what every instruction reads and writes.

Program order defines the result. The three units keep their own order, so only conflicts between units need a wait, and only the
latest conflicting instruction of each unit counts.
"""

from __future__ import annotations

import enum
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from typing import NamedTuple

from accel.isa import UNORDERED, Opcode

__all__ = ["Access", "HazardTracker", "Space"]

_UNITS = (Opcode.LOAD, Opcode.EXECUTE, Opcode.STORE)
_FIELDS = ("after_load", "after_execute", "after_store")


class Space(enum.Enum):
    """An address space in which instructions can conflict."""

    SCRATCHPAD = enum.auto()
    """Words."""
    WEIGHTS = enum.auto()
    """Words."""
    PARAMETERS = enum.auto()
    """Groups of lanes."""
    ACCUMULATORS = enum.auto()
    """Halves: the hardware does not let an EXECUTE and a STORE share one."""
    TABLE = enum.auto()
    PAIR_TABLE = enum.auto()
    MEMORY = enum.auto()
    """Bytes of the section of maps."""


class Access(NamedTuple):
    """Addresses ``[first, last)`` of a space."""

    space: Space
    first: int
    last: int


#: The latest instruction of each unit that wrote, then that read, counted from 1 in each unit; 0 is none.
_Marks = tuple[int, int, int, int, int, int]
_NONE: _Marks = (0, 0, 0, 0, 0, 0)
_NOTHING = (0, 0, 0)


class _Intervals:
    """Marks by address: piecewise constant, kept as sorted starts. A write makes its whole range one piece, so pieces stay few."""

    def __init__(self) -> None:
        self._starts = [0]
        self._marks = [_NONE]

    def _split(self, address: int) -> int:
        index = bisect_left(self._starts, address)
        if index == len(self._starts) or self._starts[index] != address:
            self._starts.insert(index, address)
            self._marks.insert(index, self._marks[index - 1])
        return index

    def latest(self, first: int, last: int, *, write: bool) -> tuple[int, int, int]:
        """Return the latest instruction of each unit that an access conflicts with."""
        low = bisect_right(self._starts, first) - 1
        high = bisect_left(self._starts, last)
        found = self._marks[low:high]
        if len(found) == 1:
            only = found[0]
            return (max(only[0], only[3]), max(only[1], only[4]), max(only[2], only[5])) if write else only[:3]
        if write:
            return (
                max(max(m[0], m[3]) for m in found),
                max(max(m[1], m[4]) for m in found),
                max(max(m[2], m[5]) for m in found),
            )
        return max(m[0] for m in found), max(m[1] for m in found), max(m[2] for m in found)

    def mark(self, first: int, last: int, unit: int, number: int, *, write: bool) -> None:
        """Record an access. Whatever a write conflicted with has ended before it, so it alone is remembered."""
        low = self._split(first)
        high = self._split(last)
        if write:
            fresh = list(_NONE)
            fresh[unit] = number
            self._starts[low:high] = [first]
            self._marks[low:high] = [(fresh[0], fresh[1], fresh[2], 0, 0, 0)]
            return
        for index in range(low, high):
            a, b, c, d, e, f = self._marks[index]
            self._marks[index] = (a, b, c, *((number, e, f), (d, number, f), (d, e, number))[unit])


class HazardTracker:
    """Computes the waits of instructions, given in program order."""

    def __init__(self) -> None:
        self._spaces = {space: _Intervals() for space in Space}
        self._memory = self._spaces[Space.MEMORY]
        self._counts = [0, 0, 0]
        self._acknowledged = 0

    def order(self, opcode: Opcode, reads: Iterable[Access], writes: Iterable[Access]) -> dict[str, int]:
        """Return the ordering fields of the next instruction and remember what it touches.

        A LOAD of memory that a STORE wrote also gets ``fence``, unless an earlier fence already waited for that STORE.
        """
        unit = _UNITS.index(opcode)
        latest = _NOTHING
        fence = False
        touched = [(self._spaces[space], first, last, False) for space, first, last in reads if first < last]
        touched += [(self._spaces[space], first, last, True) for space, first, last in writes if first < last]
        for intervals, first, last, write in touched:
            found = intervals.latest(first, last, write=write)
            if intervals is self._memory and not write:
                if found[2] <= self._acknowledged:
                    continue
                fence = True
            if found != _NOTHING:
                latest = max(latest[0], found[0]), max(latest[1], found[1]), max(latest[2], found[2])
        values = {}
        for index, (field, count, number) in enumerate(zip(_FIELDS, self._counts, latest, strict=True)):
            # what lies further back than the field can say is waited for as far as it can: stricter, never looser
            values[field] = UNORDERED if index == unit or number == 0 else min(count - number, UNORDERED - 1)
        if fence:
            values["fence"] = 1
            self._acknowledged = max(self._acknowledged, latest[2])
        self._counts[unit] += 1
        for intervals, first, last, write in touched:
            intervals.mark(first, last, unit, self._counts[unit], write=write)
        return values
