"""Fourth pass: each stage's loop nest, as instructions.

Program order is tile by tile: what a tile loads, then its EXECUTEs, then its STOREs. The engine's three queues run ahead on their
own, so this order is all the prefetching there is; which accumulator half, ring address or band buffer comes next is only ever
"the next one".
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from accel.compiler.cost import reduces, smallest_pass, weight_limit
from accel.compiler.emit import Emitter, Loop
from accel.compiler.frames import Frame, MemoryMap, Rectangle
from accel.compiler.plan import Plan
from accel.compiler.residency import Placement
from accel.compiler.rings import Ring
from accel.compiler.stages import MAX_WINDOW, Bytes, Int8Array, Region, Stage, Unit, spans, storage_period
from accel.compiler.weights import Box, pack_weights, unit_weights, window_weights
from accel.config import EngineConfig
from accel.isa import Opcode, Operation, Source, Target, fields_of

__all__ = ["lower"]

#: Output channels whose parameters one LOAD brings, at most: few enough that the first STORE of a stage does not wait long.
_PARAMETER_CHANNELS = 64

#: Array cycles that a first or last tile should at least take, so that its instructions are not what limits.
_SMALL_TILE_CYCLES = 64

_EXECUTE_LIMITS = {field.name: field.maximum for field in fields_of(Opcode.EXECUTE)}


def lower(
    stages: list[Stage], plans: list[Plan], placement: Placement, maps: Mapping[str, MemoryMap], emitter: Emitter
) -> list[tuple[int, int, int, int]]:
    """Emit all stages. Return for each ``(first instruction, instructions, bytes read, bytes written)``."""
    state = _State()
    ranges = []
    for index, (stage, plan) in enumerate(zip(stages, plans, strict=True)):
        before = (emitter.count, emitter.bytes_read, emitter.bytes_written)
        _StageLowering(index, stage, plan, stages, placement, maps, emitter, state).run()
        ranges.append((before[0], emitter.count - before[0], emitter.bytes_read - before[1], emitter.bytes_written - before[2]))
    return ranges


class _State:
    """What one stage leaves to the next: the value in each resident map's border, and the accumulator half that comes next."""

    def __init__(self) -> None:
        self.borders: dict[str, int] = {}
        self.half = 0


@dataclass(frozen=True)
class _Tile:
    """A rectangle of output pixels: rows ``[top, bottom)``, columns ``[left, right)``."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def rows(self) -> int:
        return self.bottom - self.top

    @property
    def columns(self) -> int:
        return self.right - self.left


@dataclass
class _View:
    """A band of a loaded map in the scratchpad; rows below ``next_row`` are there."""

    frame: Frame
    next_row: int


class _StageLowering:
    def __init__(
        self,
        index: int,
        stage: Stage,
        plan: Plan,
        stages: list[Stage],
        placement: Placement,
        maps: Mapping[str, MemoryMap],
        emitter: Emitter,
        state: _State,
    ) -> None:
        self.index = index
        self.stage = stage
        self.plan = plan
        self.maps = maps
        self.emitter = emitter
        self.state = state
        self.config: EngineConfig = emitter.config
        self.frames = [placement.resident(name, index) for name in stage.inputs]
        self.output_frame = placement.frames.get(stage.output)
        self.output_map = maps.get(stage.output)
        self.views: Ring[list[_View]] = Ring(*placement.gaps[index])
        self.tap_rows = stage.tap_rows(self.config)
        self.parameter_chunks = _parameter_chunks(stage, self.config)
        self.packed: dict[int, Int8Array] = {}
        self.needed: dict[tuple[int, int, int, Box], bool] = {}
        self.border_due: int | None = None
        if self.output_frame is not None and stage.output not in state.borders:
            self.border_due = next(
                (
                    reader.fill
                    for reader in stages[index + 1 : placement.last_use[stage.output] + 1]
                    if stage.output in reader.inputs and any(reader.borders)
                ),
                None,
            )

    def run(self) -> None:
        """Emit the stage."""
        stage, plan = self.stage, self.plan
        for name, frame in zip(stage.inputs, self.frames, strict=True):
            if frame is not None and any(stage.borders) and self.state.borders.get(name) != stage.fill:
                self.emitter.fill_border(frame, stage.fill)
                self.state.borders[name] = stage.fill
        bands = [
            (region, _Tile(*rows, *columns), stage.units[units[0] : units[1]])
            for region in stage.regions
            for rows in spans(*region.rows, plan.band_rows)
            for columns in spans(*region.columns, plan.band_columns)
            for units in spans(0, len(stage.units), plan.band_units)
        ]
        for number, (region, band, units) in enumerate(bands):
            self._band(region, band, units, first=number == 0, last=number == len(bands) - 1)

    def _band(self, region: Region, band: _Tile, units: tuple[Unit, ...], *, first: bool, last: bool) -> None:
        groups = [units[a:b] for a, b in spans(0, len(units), self.plan.tile_units)]
        if len(list(self._chunks(units))) > 1:
            # More tiles would load every chunk more often.
            first = last = False
        if self.plan.units_outer:
            order = [
                (group, tile)
                for i, group in enumerate(groups)
                for tile in self._tiles(band, first=first and i == 0, last=last and i == len(groups) - 1)
            ]
        else:
            order = [(group, tile) for tile in self._tiles(band, first=first, last=last) for group in groups]
        for group, tile in order:
            self._tile(region, band, units, group, tile)

    def _tiles(self, band: _Tile, *, first: bool, last: bool) -> Iterator[_Tile]:
        """Cut a band into tiles; the first and last of a stage are small, so that it starts early and drains fast."""
        stage, most = self.stage, self.plan.tile_rows
        width = min(band.columns, self.plan.tile_columns) * stage.pool_words
        unit = stage.units[-1]
        passes = stage.passes(self.config, unit)
        least = -(-max(smallest_pass(self.config), -(-_SMALL_TILE_CYCLES // passes)) // width)
        # The output stage must be through with a tile when the array is through with the next.
        growth = max(2, passes // stage.store_groups(self.config, unit))
        row = band.top
        for rows in _tapered(band.rows, most, min(least, most), 2 if first else 0, growth if last else 0):
            for left, right in spans(band.left, band.right, self.plan.tile_columns):
                yield _Tile(row, row + rows, left, right)
            row += rows

    def _tile(self, region: Region, band: _Tile, units: tuple[Unit, ...], group: tuple[Unit, ...], tile: _Tile) -> None:
        """Emit one filling of an accumulator half."""
        words = tile.rows * tile.columns * self.stage.pool_words
        base = self.state.half * self.config.accumulator_words
        self.state.half ^= 1
        started: set[int] = set()
        # A band serves all its units with one load; in chunks there is room for the group's own planes only.
        for chunk in self._chunks(units):
            sources = self._sources(band, chunk, tile)
            for position, unit in enumerate(group):
                planes = max(chunk[0][0], unit.first_plane), min(chunk[0][1], unit.last_plane)
                if planes[0] < planes[1]:
                    self._accumulate(
                        (planes, chunk[1], chunk[2]), unit, tile, sources, base + position * words, fresh=position not in started
                    )
                    started.add(position)
        for position, unit in enumerate(group):
            self._store(region, unit, tile, base + position * words)

    def _chunks(self, units: tuple[Unit, ...]) -> Iterator[Box]:
        planes = units[0].first_plane, units[-1].last_plane
        kernel = self.stage.window.kernel
        return itertools.product(
            list(spans(*planes, self.plan.chunk_planes)),
            list(spans(0, kernel[0], self.plan.chunk_ky)),
            list(spans(0, kernel[1], self.plan.chunk_kx)),
        )

    # Input

    def _sources(self, band: _Tile, chunk: Box, tile: _Tile) -> list[Frame]:
        """Return the frame of each input, having loaded what the tile reads of those that come from memory."""
        if all(frame is not None for frame in self.frames):
            return [frame for frame in self.frames if frame is not None]
        key = (band, chunk)
        views = self.views.find(key)
        if views is None:
            views = self._new_views(key, band, chunk)
        _, high = self.stage.reach(0, tile.top, tile.bottom, chunk[1])
        remaining = iter(views)
        sources = []
        for name, resident in zip(self.stage.inputs, self.frames, strict=True):
            if resident is not None:
                sources.append(resident)
                continue
            view = next(remaining)
            self._load_rows(name, view, high)
            sources.append(view.frame)
        return sources

    def _new_views(self, key: tuple[_Tile, Box], band: _Tile, chunk: Box) -> list[_View]:
        top, bottom = self.stage.reach(0, band.top, band.bottom, chunk[1])
        left, right = self.stage.reach(1, band.left, band.right, chunk[2])
        area = Rectangle(top=top, bottom=bottom, left=left, right=right, first_plane=chunk[0][0], last_plane=chunk[0][1])
        height, width, _ = self.stage.input_shape
        frame = Frame(area=area, height=height, width=width)
        count = sum(resident is None for resident in self.frames)
        base = self.views.allocate(key, count * frame.words)
        views = [_View(frame.at(base + i * frame.words), frame.inner.top) for i in range(count)]
        for view in views:
            self.emitter.fill_border(view.frame, self.stage.fill)
        self.views.put(key, views)
        return views

    def _load_rows(self, name: str, view: _View, high: int) -> None:
        inner = view.frame.inner
        bottom = min(inner.bottom, high)
        if view.next_row < bottom and inner.left < inner.right:
            area = replace(inner, top=view.next_row, bottom=bottom)
            self.emitter.load_map(self.maps[name], view.frame, area, self.stage.period(self.config))
        view.next_row = max(view.next_row, bottom)

    # Sums

    def _accumulate(self, box: Box, unit: Unit, tile: _Tile, sources: list[Frame], accumulators: int, *, fresh: bool) -> None:
        """Emit the EXECUTEs of one unit over the taps in a box."""
        if self.stage.operation is Operation.ARRAY:
            for part in range(len(self.stage.weights)):
                for piece in self._pieces(box):
                    if (weights := self._weights(unit, part, piece)) is None:
                        continue
                    self._execute(
                        Operation.ARRAY, piece, unit, tile, sources[0], accumulators, accumulate=not fresh, weights=weights
                    )
                    fresh = False
            return
        if self.stage.operation is Operation.WINDOW:
            for part in range(len(self.stage.weights)):
                first = self._window_weights(unit, part)
                for number, (ky, kx) in enumerate(self.stage.windows(self.config)):
                    at = first + number * self.config.rows
                    self._window(ky, kx, unit, tile, sources[0], accumulators, accumulate=not fresh, weights=at)
                    fresh = False
            return
        operations = (Operation.LOW, Operation.HIGH) if self.stage.is_pair else (self.stage.operation,)
        for operation, source in zip(operations, sources, strict=True):
            reduce = reduces(self.stage, self.config, tile.rows, tile.columns)
            for piece in self._windows(box) if reduce else self._pieces(box):
                self._execute(operation, piece, unit, tile, source, accumulators, accumulate=not fresh, reduce=reduce)
                fresh = False

    def _windows(self, box: Box) -> Iterator[Box]:
        """Cut a box of taps into windows as one instruction counts them."""
        planes, ky, kx = box
        return itertools.product([planes], list(spans(*ky, MAX_WINDOW)), list(spans(*kx, MAX_WINDOW)))

    def _pieces(self, box: Box) -> Iterator[Box]:
        """Cut a box of taps so that each piece's weights take their share of the weight memory and each count fits its field."""
        taps = weight_limit(self.config) // self.config.rows * (self.config.rows // self.tap_rows)
        if self.stage.operation is not Operation.ARRAY:
            taps = 1 << 16
        (planes, ky, kx) = box
        width = min(kx[1] - kx[0], taps, _EXECUTE_LIMITS["n_kx"])
        height = min(ky[1] - ky[0], max(1, taps // width) if width == kx[1] - kx[0] else 1, _EXECUTE_LIMITS["n_ky"])
        whole = width == kx[1] - kx[0] and height == ky[1] - ky[0]
        depth = min(planes[1] - planes[0], max(1, taps // (width * height)) if whole else 1, _EXECUTE_LIMITS["n_block"])
        return itertools.product(list(spans(*planes, depth)), list(spans(*ky, height)), list(spans(*kx, width)))

    def _weights(self, unit: Unit, part: int, box: Box) -> tuple[int, int] | None:
        """Have a piece's weights on chip; return address and words, or None for a correction that is all zero."""

        def chosen() -> Int8Array:
            if unit.first_channel not in self.packed:
                self.packed = {unit.first_channel: unit_weights(self.stage, unit, self.config)}
            planes = slice(box[0][0] - unit.first_plane, box[0][1] - unit.first_plane)
            return self.packed[unit.first_channel][part, planes, slice(*box[1]), slice(*box[2])]

        key = (self.index, unit.first_channel, part, box)
        if part > 0:
            if key not in self.needed:
                self.needed[key] = bool(chosen().any())
            if not self.needed[key]:
                return None
        return self.emitter.load_weights(key, lambda: pack_weights(chosen(), self.tap_rows, self.config))

    def _execute(
        self,
        operation: Operation,
        box: Box,
        unit: Unit,
        tile: _Tile,
        source: Frame,
        accumulators: int,
        *,
        accumulate: bool,
        weights: tuple[int, int] = (0, 0),
        reduce: bool = False,
    ) -> None:
        window, pool = self.stage.window, self.stage.pool
        (planes, ky, kx) = box
        y, _ = self.stage.reach(0, tile.top, tile.bottom, ky)
        x, _ = self.stage.reach(1, tile.left, tile.right, kx)
        down, across = window.stride[0] * source.row_words, window.stride[1]
        kernel = {
            "ky": Loop(ky[1] - ky[0], window.dilation[0] * source.row_words),
            "kx": Loop(kx[1] - kx[0], window.dilation[1]),
        }
        inner = {"wy": Loop(pool[0], down), "wx": Loop(pool[1], across)}
        if reduce:
            # the taps are pixels of one window, in place of passes
            kernel, inner = {"ky": Loop(1, 0), "kx": Loop(1, 0)}, {"wy": kernel["ky"], "wx": kernel["kx"]}
        self.emitter.execute(
            operation,
            activations=source.address(planes[0], y, x),
            taps={"block": Loop(planes[1] - planes[0], source.pitch), **kernel},
            pixels={"py": Loop(tile.rows, pool[0] * down), "px": Loop(tile.columns, pool[1] * across), **inner},
            accumulators=accumulators,
            accumulate=accumulate,
            tap_rows=self.tap_rows,
            row_offset=unit.row_offset,
            weights=weights,
            reduce=reduce,
        )

    def _window_weights(self, unit: Unit, part: int) -> int:
        """Have the tiles of a unit's windows on chip; return the address of the first."""
        key = (self.index, unit.first_channel, part)
        return self.emitter.load_weights(key, lambda: window_weights(self.stage, unit, part, self.config))[0]

    def _window(
        self,
        ky: tuple[int, int],
        kx: tuple[int, int],
        unit: Unit,
        tile: _Tile,
        source: Frame,
        accumulators: int,
        *,
        accumulate: bool,
        weights: int,
    ) -> None:
        """Emit the WINDOW of some kernel rows and columns. All read lines of one length, whatever their kernel columns."""
        stage = self.stage
        taps = stage.window_taps
        y, bottom = stage.reach(0, tile.top, tile.bottom, ky)
        x, _ = stage.reach(1, tile.left, tile.right, (kx[1] - taps, kx[1]))
        self.emitter.window(
            activations=source.address(unit.first_plane, y, x),
            lines=Loop(bottom - y, source.row_words),
            pixels=Loop(stage.line_pixels(tile.columns), 1),
            kernel=(ky[1] - ky[0], taps),
            stride=stage.window.stride,
            accumulators=accumulators,
            accumulate=accumulate,
            weights=(weights, self.config.rows),
        )

    # Output

    def _store(self, region: Region, unit: Unit, tile: _Tile, accumulators: int) -> None:
        """Emit the STOREs of one unit."""
        stage, config = self.stage, self.config
        parameters = self._parameters(region, unit)
        finish = {
            "source": Source.PAIR if stage.is_pair else Source.SUM,
            "rounding": stage.rounding,
            "minimum": stage.minimum,
            "maximum": stage.maximum,
            "zero_point": stage.zero_point,
        }
        if stage.table is not None:
            self.emitter.load_table(Target.TABLE, stage.table)
            finish["use_table"] = 1
        if stage.pair_table is not None:
            self.emitter.load_table(Target.PAIR_TABLE, stage.pair_table)
        if self.output_frame is not None:
            finish["period_log2"] = (storage_period(config, stage.map_shape[2]) - 1).bit_length()
            if self.border_due is not None:
                # Not before the stage's first loads: the fill may have to wait until an older map in its place has been read.
                self.emitter.fill_border(self.output_frame, self.border_due)
                self.state.borders[stage.output] = self.border_due
                self.border_due = None
        for piece in unit.pieces(config, 0 if stage.part is None else stage.part[0]):
            local = memory = None
            if self.output_frame is not None:
                local = self.output_frame.address(piece.plane, tile.top, tile.left), self.output_frame.row_words
            if self.output_map is not None:
                start = self.output_map.address + piece.plane * self.output_map.plane_bytes
                start += tile.top * self.output_map.row_bytes + tile.left * config.word_bytes
                memory = start, self.output_map.row_bytes
            self.emitter.store(
                accumulators=accumulators,
                rows=tile.rows,
                columns=tile.columns,
                pool=stage.pool_words,
                first_group=piece.first_group,
                groups=piece.groups,
                parameters=parameters + piece.first_group,
                byte_offset=piece.byte_offset,
                finish=finish,
                local=local,
                memory=memory,
            )

    def _parameters(self, region: Region, unit: Unit) -> int:
        """Have a unit's parameters on chip; return the address of its first group."""
        if region.uniform:
            return self.emitter.load_parameters(region.parameters.tobytes(), region.parameters)
        first, last = self.parameter_chunks[unit.first_channel]
        entries: Bytes = region.parameters[first:last]
        start = self.emitter.load_parameters((self.index, region.rows, region.columns, first), entries)
        return start + (unit.first_channel - first) // self.config.lanes


def _parameter_chunks(stage: Stage, config: EngineConfig) -> dict[int, tuple[int, int]]:
    """Return, by each unit's first channel, the channels ``[first, last)`` whose parameters are loaded together."""
    most = max(config.columns, min(_PARAMETER_CHANNELS, config.parameter_channels // 4))
    chunks: dict[int, tuple[int, int]] = {}
    start = 0
    members: list[int] = []
    for unit in stage.units:
        last = unit.first_channel + -(-unit.channels // config.lanes) * config.lanes
        if last - start > most:
            start, members = unit.first_channel, []
        members.append(unit.first_channel)
        chunks.update(dict.fromkeys(members, (start, last)))
    return chunks


def _tapered(total: int, most: int, least: int, front: int, back: int) -> list[int]:
    """Cut ``total`` rows into tiles of at most ``most``, growing ``front``-fold from the first and ``back``-fold from the last.

    The ends are of ``least`` rows; a growth of 0 means full size at once.
    """
    head: list[int] = []
    tail: list[int] = []
    ends = [(tail, back, least if back else most), (head, front, least if front else most)]
    rest = total
    while rest > 0 and any(size < most for _, _, size in ends):
        for i, (tiles, growth, size) in enumerate(ends):
            if size < most and rest > 0:
                tiles.append(min(size, rest))
                rest -= tiles[-1]
                ends[i] = tiles, growth, min(most, size * growth)
    middle = [last - first for first, last in spans(0, rest, most)] if rest else []
    return head + middle + tail[::-1]
