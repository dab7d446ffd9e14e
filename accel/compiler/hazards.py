"""Which instruction must wait for which: the ``after_*`` fields, from what every instruction reads and writes.

Program order defines the result. The three units keep their own order, so only conflicts between units need a wait, and only the
latest conflicting instruction of each unit counts.
"""

from __future__ import annotations

import enum
from bisect import bisect_left
from collections.abc import Iterable
from typing import NamedTuple

from accel.isa import UNORDERED, Opcode

__all__ = ["Access", "HazardTracker", "Space"]

_UNITS = {Opcode.LOAD: 0, Opcode.EXECUTE: 1, Opcode.STORE: 2}
_FIELDS = ("after_load", "after_execute", "after_store")


class Space(enum.IntEnum):
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

    def read(self, first: int, last: int, unit: int, number: int) -> tuple[int, int, int]:
        """Record that instruction ``number`` of a unit reads; return the latest instruction of each unit that wrote there."""
        low, high = self._split(first), self._split(last)
        x = y = z = 0
        marks = self._marks
        for index in range(low, high):
            a, b, c, d, e, f = marks[index]
            x, y, z = a if a > x else x, b if b > y else y, c if c > z else z
            if unit == 0:
                d = number
            elif unit == 1:
                e = number
            else:
                f = number
            marks[index] = (a, b, c, d, e, f)
        return x, y, z

    def write(self, first: int, last: int, unit: int, number: int) -> tuple[int, int, int]:
        """Record that instruction ``number`` of a unit writes; return the latest instruction of each unit that was there.

        Whatever the write conflicts with has ended before it, so it alone is remembered.
        """
        low, high = self._split(first), self._split(last)
        x = y = z = 0
        for a, b, c, d, e, f in self._marks[low:high]:
            x, y, z = a if a > x else x, b if b > y else y, c if c > z else z
            x, y, z = d if d > x else x, e if e > y else y, f if f > z else z
        self._starts[low:high] = [first]
        self._marks[low:high] = [(number if unit == 0 else 0, number if unit == 1 else 0, number if unit == 2 else 0, 0, 0, 0)]
        return x, y, z


class HazardTracker:
    """Computes the waits of instructions, given in program order."""

    def __init__(self) -> None:
        self._spaces = {space: _Intervals() for space in Space}
        self._counts = [0, 0, 0]
        self._acknowledged = 0

    def order(self, opcode: Opcode, reads: Iterable[Access], writes: Iterable[Access]) -> dict[str, int]:
        """Return the ordering fields of the next instruction and remember what it touches.

        A LOAD of memory that a STORE wrote also gets ``fence``, unless an earlier fence already waited for that STORE.
        """
        unit = _UNITS[opcode]
        own = self._counts[unit] + 1
        # (comparisons and no calls of max, here and above: there are ten for each instruction)
        loads = executes = stores = 0
        fence = False
        for space, first, last in reads:
            if first < last:
                found = self._spaces[space].read(first, last, unit, own)
                if space is Space.MEMORY:
                    if found[2] <= self._acknowledged:
                        continue
                    fence = True
                x, y, z = found
                loads, executes, stores = x if x > loads else loads, y if y > executes else executes, z if z > stores else stores
        for space, first, last in writes:
            if first < last:
                x, y, z = self._spaces[space].write(first, last, unit, own)
                loads, executes, stores = x if x > loads else loads, y if y > executes else executes, z if z > stores else stores
        counts = self._counts
        values = dict(zip(_FIELDS, map(_distance, counts, (loads, executes, stores)), strict=True))
        values[_FIELDS[unit]] = UNORDERED
        if fence:
            values["fence"] = 1
            self._acknowledged = max(self._acknowledged, stores)
        counts[unit] = own
        return values


def _distance(count: int, latest: int) -> int:
    """Return what an ordering field says when the ``latest`` of ``count`` instructions is to be waited for (0: none).

    What lies further back than the field can say is waited for as far as it can: stricter, never looser.
    """
    if latest == 0:
        return UNORDERED
    distance = count - latest
    return distance if distance < UNORDERED else UNORDERED - 1
