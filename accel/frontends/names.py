"""Names of layers: unique in a network, and without characters that files and tables trip over."""

from __future__ import annotations

import re

__all__ = ["Names", "clean"]


def clean(name: str) -> str:
    """Return a name without characters that files and tables trip over, and without quantisers' endings."""
    bare = re.sub(r"(_quant|_QuantizeLinear|_DequantizeLinear)$", "", name)
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", bare).strip("_") or "layer"


class Names:
    """The names given so far."""

    def __init__(self) -> None:
        self._given: set[str] = set()

    def unique(self, name: str) -> str:
        """Return a clean name that was not given before, with a number at its end where it must be."""
        base = candidate = clean(name)
        number = 2
        while candidate in self._given:
            candidate = f"{base}_{number}"
            number += 1
        self._given.add(candidate)
        return candidate
