"""Where maps lie: frames in the scratchpad, with the border that windows read, and maps in memory.

A frame is stored row by row, and within a row plane by plane, so that any band of rows is one run of addresses: hazards between a
band being written and a band being read are then exact, and all borders take three fills::

    word of (plane, y, x) = base + (y - top) * row_words + (plane - first_plane) * pitch + (x - left)

The right border of a line and the left border of the next are the same words.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from accel.compiler.stages import plane_count
from accel.config import EngineConfig
from accel.graph import Shape

__all__ = ["Frame", "MemoryMap", "Rectangle", "border_fills"]


@dataclass(frozen=True, kw_only=True)
class Rectangle:
    """Rows ``[top, bottom)``, columns ``[left, right)`` and planes of a map, the same ones of some images; rows and columns may lie
    outside it."""

    top: int
    bottom: int
    left: int
    right: int
    first_plane: int
    last_plane: int
    first_image: int = 0
    last_image: int = 1

    @property
    def images(self) -> int:
        """Images of which it is a part."""
        return self.last_image - self.first_image


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A rectangle of a map in the scratchpad, from word ``base`` on, image after image. ``height`` and ``width`` are the map's
    own."""

    area: Rectangle
    height: int
    width: int
    base: int = 0

    def at(self, base: int) -> Frame:
        """Return the frame moved to another address."""
        return replace(self, base=base)

    def of_images(self, first: int, last: int) -> Frame:
        """Return the part that holds images ``[first, last)``."""
        area = replace(self.area, first_image=first, last_image=last)
        return replace(self, area=area, base=self.base + (first - self.area.first_image) * self.image_words)

    @property
    def planes(self) -> int:
        """Planes held."""
        return self.area.last_plane - self.area.first_plane

    @property
    def line_words(self) -> int:
        """Words of one line, both borders included."""
        return self.area.right - self.area.left

    @cached_property
    def pitch(self) -> int:
        """Words from one line to the next."""
        return self.line_words - min(max(0, -self.area.left), max(0, self.area.right - self.width))

    @cached_property
    def row_words(self) -> int:
        """Words from one row to the next."""
        return self.planes * self.pitch

    @property
    def words(self) -> int:
        """Words taken."""
        return self.area.images * self.image_words

    @cached_property
    def image_words(self) -> int:
        """Words from one image to the next, and of one."""
        return (self.area.bottom - self.area.top) * self.row_words + self.line_words - self.pitch

    @cached_property
    def inner(self) -> Rectangle:
        """The part that lies inside the map (perhaps empty)."""
        area = self.area
        return replace(
            area,
            top=min(max(area.top, 0), self.height),
            bottom=max(min(area.bottom, self.height), 0),
            left=min(max(area.left, 0), self.width),
            right=max(min(area.right, self.width), 0),
        )

    def address(self, plane: int, y: int, x: int, image: int = 0) -> int:
        """Return the word of a pixel."""
        area = self.area
        start = self.base + (image - area.first_image) * self.image_words
        return start + (y - area.top) * self.row_words + (plane - area.first_plane) * self.pitch + x - area.left


@dataclass(frozen=True, kw_only=True)
class MemoryMap:
    """A whole map in memory, from byte ``address`` of the section of maps on, image after image: elements of ``1 << element_log2``
    bytes."""

    address: int
    row_bytes: int
    plane_bytes: int
    element_log2: int
    image_bytes: int

    @staticmethod
    def planar(address: int, shape: Shape, planes: int, element_bytes: int) -> MemoryMap:
        """Return a map stored plane by plane, as the host sees maps."""
        height, width, _ = shape
        line = width * element_bytes
        return MemoryMap(
            address=address,
            row_bytes=line,
            plane_bytes=height * line,
            element_log2=element_bytes.bit_length() - 1,
            image_bytes=planes * height * line,
        )

    @staticmethod
    def by_rows(address: int, shape: Shape, config: EngineConfig) -> MemoryMap:
        """Return a map stored like a frame without border, so that a band of rows is one run of bytes."""
        height, width, channels = shape
        line = width * config.word_bytes
        planes = plane_count(config, channels)
        return MemoryMap(
            address=address,
            row_bytes=planes * line,
            plane_bytes=line,
            element_log2=config.word_bytes.bit_length() - 1,
            image_bytes=planes * height * line,
        )


def border_fills(frame: Frame) -> list[tuple[int, int, int, int]]:
    """Return the first image's words outside the map as ``(address, words a line, lines, words from line to line)``."""
    inner = frame.inner
    if inner.top >= inner.bottom or inner.left >= inner.right:
        return [(frame.base, frame.image_words, 1, 0)]
    first = frame.address(inner.first_plane, inner.top, inner.left, inner.first_image)
    lines = (inner.bottom - inner.top) * frame.planes
    width = inner.right - inner.left
    end = first + (lines - 1) * frame.pitch + width
    fills = [
        (frame.base, first - frame.base, 1, 0),
        (first + width, frame.pitch - width, lines - 1, frame.pitch),
        (end, frame.base + frame.image_words - end, 1, 0),
    ]
    return [fill for fill in fills if fill[1] > 0 and fill[2] > 0]
