"""What is made up about a model that is not quantised when only its cycles are asked for: they depend on shapes alone."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from accel.errors import SystolithError

__all__ = ["GRID", "NOTE", "WEIGHT_SCALE", "AssumedError", "Weights"]

#: What a user should know of such a network.
NOTE = (
    "the model is not quantised, so its weights and scales are assumed (random, from a seed): cycles do not depend on them, "
    "but for a table here and there that brings a map to another scale before it is joined"
)

#: Scale and zero point of every map.
GRID = np.float32(1 / 16), 0

WEIGHT_SCALE = np.float32(1 / 16)


#: Ten times the largest layer of VGG-16, and well within an engine's 32-bit addresses.
_MOST_WEIGHTS = 1 << 30


class AssumedError(SystolithError):
    """Weights that cannot be made up."""


class Weights:
    """Random weights, the same in every run."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(0)

    def draw(self, shape: tuple[int, ...], layer: str) -> npt.NDArray[np.int8]:
        """Return int8 weights of a shape. Raises :class:`AssumedError` naming the ``layer`` for a shape that no model can have."""
        if min(shape, default=1) < 1 or math.prod(shape) > _MOST_WEIGHTS:
            raise AssumedError(f"{layer}: weights of shape {shape} must have 1 to {_MOST_WEIGHTS:,} values to be assumed")
        return self._rng.integers(-127, 128, shape, np.int8)
