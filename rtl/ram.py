"""Memories that synthesis can take as they are."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import ShapeLike
from amaranth.lib import memory

__all__ = ["ram"]


def ram(*, shape: ShapeLike, depth: int, init: Sequence[int] = ()) -> memory.Memory:
    """Return a memory, with ``init`` in it at first, of which nobody wants a word in the cycle in which it is written.

    Block RAM promises nothing about such a read. Unless told that it does not matter, Yosys compares the addresses and puts a
    multiplexer behind the memory, the slowest of places.
    """
    return memory.Memory(shape=shape, depth=depth, init=init, attrs={"no_rw_check": 1})
