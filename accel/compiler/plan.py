"""How a stage is cut up: the choice that tiling makes and lowering follows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["Choice", "Plan"]


class Plan(NamedTuple):
    """Sizes of the loop nest of one stage, in output pixels (after the fused pool), units and taps.

    A *band* is a rectangle of output, of ``band_images`` images, for which input is loaded at once, for ``band_units`` units; a
    resident input has one band, the whole map of all images. A *tile* fills one accumulator half: ``tile_units`` units side by side
    (more than one only where input is loaded in chunks); it is of one image, unless outputs are one row high: then ``tile_rows``
    counts images. A *chunk* is the part of planes and kernel for which input is loaded at once; it covers all of them unless even
    one tile's input does not fit. ``units_outer``: a unit's weights are used for all tiles of a band before the next unit's.
    """

    band_images: int
    band_rows: int
    band_columns: int
    band_units: int
    tile_rows: int
    tile_columns: int
    tile_units: int
    chunk_planes: int
    chunk_ky: int
    chunk_kx: int
    units_outer: bool


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What is settled about a stage; what is None is left to the timeline.

    ``taper``: growth of tiles from the front and from the back, and how many of the smallest make the outermost one. ``share``:
    ``share_log2`` of its LOADs.
    """

    plan: Plan | None = None
    taper: tuple[int, int, int] | None = None
    share: int | None = None
