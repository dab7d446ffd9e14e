"""What others have published about their engines, read from ``published.toml``.

Fields of a figure there, beside ``peer``, ``hardware`` and ``source``: ``macs`` are the multiply-accumulates that the hardware can
do in a cycle; ``network`` is a built-in network's name where it is one; ``layers`` is "all" or "convolutions". The time is given in
one of three ways: ``cycles`` or ``milliseconds``, for ``images`` images, or ``images_per_second``. ``utilisation`` (0 to 1) and
``macs_per_image`` are given where the source gives them. ``kind`` is "measured" or "estimated", ``counts`` says what is in the
figure and what is not.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

__all__ = ["Figure", "figures"]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One published figure; see the module for the fields."""

    peer: str
    hardware: str
    macs: int
    network: str
    kind: str
    counts: str
    source: str
    layers: str = "all"
    clock_mhz: float | None = None
    cycles: int | None = None
    milliseconds: float | None = None
    images_per_second: float | None = None
    images: int = 1
    macs_per_image: int | None = None
    utilisation: float | None = None

    @property
    def cycles_per_image(self) -> float | None:
        """Cycles of one image; None where only the utilisation is known."""
        if self.cycles is not None:
            return self.cycles / self.images
        if self.clock_mhz is not None and self.milliseconds is not None:
            return self.clock_mhz * 1e3 * self.milliseconds / self.images
        if self.clock_mhz is not None and self.images_per_second is not None:
            return self.clock_mhz * 1e6 / self.images_per_second
        return None

    def mac_cycles(self, macs_per_image: int) -> float:
        """Return cycles times multipliers spent on one image: what an engine of any size can be compared by.

        ``macs_per_image`` counts where the source says nothing of it.
        """
        if self.cycles_per_image is not None:
            return self.cycles_per_image * self.macs
        assert self.utilisation is not None, "a figure without a time has a utilisation"
        return (self.macs_per_image or macs_per_image) / self.utilisation

    def share(self, macs_per_image: int) -> float:
        """Return the utilisation, 0 to 1: as published, else by the network's multiply-accumulates (see :meth:`mac_cycles`)."""
        if self.utilisation is not None:
            return self.utilisation
        return (self.macs_per_image or macs_per_image) / self.mac_cycles(macs_per_image)


@cache
def figures() -> tuple[Figure, ...]:
    """Return every figure, in the order of the file."""
    text = Path(__file__).with_name("published.toml").read_text(encoding="utf-8")
    return tuple(Figure(**values) for values in tomllib.loads(text)["figures"])
