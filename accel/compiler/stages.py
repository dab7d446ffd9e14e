"""What the compiler works on: stages, each one pass of the engine over a map.

A stage is one or more fused operators. Whatever the operator, it is the same nest: for every output pixel and every unit (a group
of at most ``columns`` output channels), accumulate over window taps and input planes, then finish in the output stage. Only the
operation, the units and the parameters differ.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from accel.config import EngineConfig
from accel.graph import Shape, Window
from accel.isa import WINDOW_TAPS, Opcode, Operation, fields_of
from accel.numerics import Rounding

__all__ = ["MAX_WINDOW", "Piece", "Region", "Stage", "Unit", "plane_count", "spans", "storage_period"]

Int8Array = npt.NDArray[np.int8]
Int32Array = npt.NDArray[np.int32]
Bytes = npt.NDArray[np.uint8]


#: Pixels that an inner loop of an EXECUTE counts.
MAX_WINDOW = next(field.maximum for field in fields_of(Opcode.EXECUTE) if field.name == "n_wx")


def plane_count(config: EngineConfig, channels: int) -> int:
    """Return the planes of ``rows`` channels that a map of ``channels`` takes."""
    return -(-channels // config.rows)


def storage_period(config: EngineConfig, channels: int, *, image: bool = False) -> int:
    """Return after how many channels a word repeats: a power of two that divides ``rows``, or ``rows`` if the map is not narrow.

    An ``image``, which only LOADs bring, may also repeat three channels, if more taps fit the rows than with four.
    """
    if image and channels == 3 and config.rows // 3 > max(1, config.rows // 4):
        return 3
    period = 1 << (channels - 1).bit_length()
    return period if 2 * period <= config.rows and config.rows % period == 0 else config.rows


def spans(first: int, last: int, step: int) -> Iterator[tuple[int, int]]:
    """Cut ``[first, last)`` into the fewest pieces of at most ``step``, as equal as can be."""
    count = -(-(last - first) // step)
    for i in range(count):
        yield first + (last - first) * i // count, first + (last - first) * (i + 1) // count


@dataclass(frozen=True, kw_only=True)
class Piece:
    """The part of a unit's channels that lies in one output word: what one STORE finishes."""

    first_group: int
    groups: int
    plane: int
    byte_offset: int


@dataclass(frozen=True, kw_only=True)
class Unit:
    """Output channels ``first_channel`` on, computed side by side in the columns from input planes ``first_plane`` to
    ``last_plane - 1``.

    ``row_offset`` is the row of the first channel in the operations that bypass the array.
    """

    first_channel: int
    channels: int
    first_plane: int
    last_plane: int
    row_offset: int = 0

    def pieces(self, config: EngineConfig, offset: int = 0) -> tuple[Piece, ...]:
        """Cut the unit's channels, ``offset`` channels further on in the output, at the ends of output words: between groups, as
        ``lanes`` divides rows, columns and offset."""
        pieces = []
        column = 0
        while column < self.channels:
            plane, byte = divmod(offset + self.first_channel + column, config.rows)
            count = min(config.rows - byte, self.channels - column)
            pieces.append(
                Piece(first_group=column // config.lanes, groups=-(-count // config.lanes), plane=plane, byte_offset=byte)
            )
            column += count
        return tuple(pieces)


@dataclass(frozen=True, kw_only=True, eq=False)
class Region:
    """Output rows and columns that share parameters: uint8 ``(channels, 16)``, or ``(columns, 16)`` when ``uniform``."""

    rows: tuple[int, int]
    columns: tuple[int, int]
    parameters: Bytes
    uniform: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Stage:
    """Fused operators, ready to be placed and tiled.

    ``window`` slides over the input, giving ``pool[0] * pool[1]`` sums for each pixel of ``shape``, the output after the fused
    maximum.
    ``image``: it reads the network's input.
    ``weights``: int8 parts ``(out channels, height, width, in channels / groups)`` whose sum is the weights less their zero
    points; empty for operations that bypass the array. ``fill`` is what the input reads as outside the map.
    ``part``: where other stages store into the same map, the channel at which this one's begin there, and the map's channels.
    ``images``: how many it is run on. Everything else is of one image.
    """

    name: str
    op: str
    operation: Operation
    inputs: tuple[str, ...]
    input_shape: Shape
    output: str
    shape: Shape
    window: Window
    pool: tuple[int, int]
    fill: int
    units: tuple[Unit, ...]
    regions: tuple[Region, ...]
    rounding: Rounding
    zero_point: int
    minimum: int
    maximum: int
    weights: tuple[Int8Array, ...] = ()
    groups: int = 1
    image: bool = False
    table: Bytes | None = None
    pair_table: Bytes | None = None
    part: tuple[int, int] | None = None
    images: int = 1

    @cached_property
    def is_stacked(self) -> bool:
        """Whether images, whose outputs are one row high, take the place of rows: one pass is then over several of them."""
        return self.images > 1 and self.shape[0] == 1 and self.operation is not Operation.WINDOW

    @cached_property
    def lines(self) -> int:
        """Rows of output that a tile can be cut from: one image's, or one of each image."""
        return self.images if self.is_stacked else self.shape[0]

    @property
    def is_pair(self) -> bool:
        """Whether two maps are added."""
        return self.pair_table is not None

    @property
    def map_shape(self) -> Shape:
        """Shape of the whole map that the stage stores into."""
        return self.shape if self.part is None else (*self.shape[:2], self.part[1])

    @property
    def macs(self) -> int:
        """Multiply-accumulates that the outputs need: what a fused pool drops is never computed, so it does not count."""
        if not self.weights:
            return 0
        return math.prod(self.shape) * self.pool_words * math.prod(self.weights[0].shape[1:])

    @cached_property
    def pool_words(self) -> int:
        """Accumulator words for each output pixel."""
        return math.prod(self.pool)

    @property
    def step(self) -> tuple[int, int]:
        """Input rows and columns from one output pixel to the next."""
        return self.pool[0] * self.window.stride[0], self.pool[1] * self.window.stride[1]

    def reach(self, axis: int, first: int, last: int, taps: tuple[int, int] | None = None) -> tuple[int, int]:
        """Return the input rows (axis 0) or columns (1) ``[low, high)`` that outputs ``[first, last)`` read at ``taps``."""
        low_tap, high_tap = taps or (0, self.window.kernel[axis])
        stride, dilation, before = self.window.stride[axis], self.window.dilation[axis], self.window.padding[axis]
        low = first * self.pool[axis] * stride + low_tap * dilation - before
        high = (last * self.pool[axis] - 1) * stride + (high_tap - 1) * dilation - before + 1
        return low, high

    @cached_property
    def borders(self) -> tuple[int, int, int, int]:
        """Words around the input map (top, left, bottom, right) that are really read."""
        sides = []
        for axis in (0, 1):
            low, high = self.reach(axis, 0, self.shape[axis])
            sides.append((max(0, -low), max(0, high - self.input_shape[axis])))
        return sides[0][0], sides[1][0], sides[0][1], sides[1][1]

    def tap_rows(self, config: EngineConfig) -> int:
        """Return the array rows that one tap takes."""
        return self.period(config) if self.operation is Operation.ARRAY else config.rows

    def period(self, config: EngineConfig) -> int:
        """Return after how many channels a word of the input repeats."""
        return storage_period(config, self.input_shape[2], image=self.image)

    def windows(self, config: EngineConfig) -> list[tuple[tuple[int, int], tuple[int, int]]]:
        """Return the rows and columns ``[first, last)`` of the kernel that each pass of a WINDOW covers."""
        height, width = self.window.kernel
        return list(itertools.product(spans(0, height, config.window_lines), spans(0, width, WINDOW_TAPS)))

    @property
    def window_taps(self) -> int:
        """Kernel columns that the passes of a WINDOW read, all alike."""
        return min(self.window.kernel[1], WINDOW_TAPS)

    def pass_columns(self, kx: tuple[int, int]) -> tuple[int, int]:
        """Return the kernel columns ``[first, last)`` that a pass of a WINDOW over ``kx`` reads: as many in all passes, and none
        outside the kernel, since what lies beside a frame is not the stage's to read. Those outside ``kx`` have no weights."""
        first = max(0, kx[1] - self.window_taps)
        return first, first + self.window_taps

    def line_pixels(self, columns: int) -> int:
        """Return the pixels in a line of a WINDOW with so many output columns."""
        return (columns - 1) * self.window.stride[1] + self.window_taps

    def passes(self, config: EngineConfig, unit: Unit) -> int:
        """Return the passes over the pixels that a unit takes."""
        taps = math.prod(self.window.kernel)
        if self.operation is Operation.ARRAY:
            group = config.rows // self.tap_rows(config)
            return len(self.weights) * -(-taps * (unit.last_plane - unit.first_plane) // group)
        if self.operation is Operation.WINDOW:
            return len(self.weights) * len(self.windows(config))
        return taps * len(self.inputs)

    def window_pixels(self, config: EngineConfig, rows: int, columns: int) -> list[int]:
        """Return the pixels that each pass of a unit's WINDOWs streams for so many rows and columns of output."""
        down = self.window.stride[0]
        # a single kernel row skips the lines between
        lines = [(rows - 1) * down + last - first if last - first > 1 else rows for (first, last), _ in self.windows(config)]
        return [count * self.line_pixels(columns) for count in lines] * len(self.weights)

    def store_groups(self, config: EngineConfig, unit: Unit) -> int:
        """Return the groups of lanes that the output stage takes for each accumulator word of a unit."""
        return -(-unit.channels // config.lanes)
