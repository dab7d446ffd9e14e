"""On-chip memories used as rings: what was loaded stays until the ring comes round, and is not loaded again while it is there."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar

__all__ = ["Ring"]

_Value = TypeVar("_Value")


class Ring(Generic[_Value]):
    """Addresses ``[first, last)``, handed out in turn. Each allocation is contiguous, so the end is skipped when it is too short.

    Allocations are forgotten, oldest first, as their addresses are handed out again; whoever orders the accesses (the hazard
    tracker) sees to it that their readers are done by then.
    """

    def __init__(self, first: int, last: int) -> None:
        self._first = first
        self._last = last
        self._head = first
        self._order: deque[tuple[int, int, Hashable]] = deque()
        self._values: dict[Hashable, _Value] = {}

    def find(self, key: Hashable) -> _Value | None:
        """Return what was allocated under a key, or None when it is gone."""
        return self._values.get(key)

    def allocate(self, key: Hashable, size: int) -> int:
        """Return the first of ``size`` addresses for a new key; :meth:`put` then says what is there."""
        assert 0 < size <= self._last - self._first
        if self._head + size > self._last:
            self._forget(self._head, self._last)
            self._head = self._first
        address = self._head
        self._head += size
        self._forget(address, self._head)
        self._order.append((address, self._head, key))
        return address

    def put(self, key: Hashable, value: _Value) -> None:
        """Say what lies at the addresses just allocated for a key."""
        self._values[key] = value

    def _forget(self, first: int, last: int) -> None:
        while self._order and self._order[0][0] < last and self._order[0][1] > first:
            self._values.pop(self._order.popleft()[2], None)
