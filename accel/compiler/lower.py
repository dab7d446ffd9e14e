"""Fourth pass: each stage's loop nest, as instructions.

Program order is tile by tile: what a tile loads, then its EXECUTEs, then its STOREs. The engine's three queues run ahead on their
own, so this order is all the prefetching there is; which accumulator half, ring address or band buffer comes next is only ever
"the next one".
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from accel.compiler.cost import fits_weight_memory, reduces, smallest_pass, store_share, tile_work, weight_limit, weight_words
from accel.compiler.emit import Emitter, Loop
from accel.compiler.frames import Frame, MemoryMap, Rectangle
from accel.compiler.plan import Choice, Plan
from accel.compiler.residency import Placement
from accel.compiler.rings import Ring
from accel.compiler.stages import MAX_WINDOW, Bytes, Int8Array, Region, Stage, Unit, spans, storage_period
from accel.compiler.timeline import TileWork, Timeline
from accel.compiler.weights import Box, pack_weights, packed_words, unit_weights, window_weights
from accel.config import EngineConfig
from accel.isa import Opcode, Operation, Source, Target, fields_of

__all__ = ["lower"]

#: Output channels whose parameters one LOAD brings, at most: few enough that the first STORE of a stage does not wait long.
_PARAMETER_CHANNELS = 64

#: Words to be stored before LOADs leave a share of the scratchpad's port for that.
_FREE_WORDS = 64

_EXECUTE_LIMITS = {field.name: field.maximum for field in fields_of(Opcode.EXECUTE)}


def lower(
    stages: list[Stage],
    plans: Sequence[Sequence[Plan]],
    choices: Mapping[int, Choice],
    placement: Placement,
    maps: Mapping[str, MemoryMap],
    emitter: Emitter,
) -> list[tuple[int, int, int, int]]:
    """Emit all stages, each by the most promising of its plans or as chosen.

    Return for each ``(first instruction, instructions, bytes read, bytes written)``.
    """
    state = _State(emitter.config)
    lowerings = [
        _StageLowering(index, stage, contenders, choices.get(index, Choice()), stages, placement, maps, emitter, state)
        for index, (stage, contenders) in enumerate(zip(stages, plans, strict=True))
    ]
    for lowering, following in itertools.pairwise(lowerings):
        lowering.following = following
    lowerings[0].settle()
    ranges = []
    for lowering in lowerings:
        before = (emitter.count, emitter.bytes_read, emitter.bytes_written)
        lowering.run()
        # what is loaded ahead belongs to the stage that needs it
        ahead = 0 if lowering.following is None else lowering.following.bytes_ahead
        read = emitter.bytes_read - before[1] + lowering.bytes_ahead - ahead
        ranges.append((before[0], emitter.count - before[0], read, emitter.bytes_written - before[2]))
    return ranges


class _State:
    """What one stage leaves to the next: the value in each resident map's border, by image, the accumulator half that comes next,
    and when the units will be through with what is emitted."""

    def __init__(self, config: EngineConfig) -> None:
        self.borders: dict[tuple[str, int], int] = {}
        self.half = 0
        self.timeline = Timeline(config)


class _Tile(NamedTuple):
    """A rectangle of output pixels: rows ``[top, bottom)``, columns ``[left, right)``, of images ``[first_image, last_image)``.

    Its ``lines`` are those rows of each image; where they are numbered, those of all images before it count.
    """

    top: int
    bottom: int
    left: int
    right: int
    first_image: int
    last_image: int

    @property
    def lines(self) -> int:
        return (self.last_image - self.first_image) * (self.bottom - self.top)

    @property
    def columns(self) -> int:
        return self.right - self.left


@dataclass
class _View:
    """A band of a loaded map in the scratchpad; of each of its images, rows below ``next_rows`` are there."""

    frame: Frame
    next_rows: list[int]


class _StageLowering:
    def __init__(
        self,
        index: int,
        stage: Stage,
        plans: Sequence[Plan],
        choice: Choice,
        stages: list[Stage],
        placement: Placement,
        maps: Mapping[str, MemoryMap],
        emitter: Emitter,
        state: _State,
    ) -> None:
        self.index = index
        self.stage = stage
        self.plans = plans if choice.plan is None else [choice.plan]
        self.choice = choice
        self.maps = maps
        self.emitter = emitter
        self.state = state
        self.config: EngineConfig = emitter.config
        self.frames = [placement.resident(name, index) for name in stage.inputs]
        self.loaded = sum(frame is None for frame in self.frames)
        self.output_frame = placement.frames.get(stage.output)
        self.output_map = maps.get(stage.output)
        self._take(self.plans[0])
        self.views: Ring[list[_View]] = Ring(*placement.gaps[index])
        self.tap_rows = stage.tap_rows(self.config)
        self.parameter_chunks = _parameter_chunks(stage, self.config)
        self.packed: dict[int, Int8Array] = {}
        self.needed: dict[Hashable, bool] = {}
        self.heights: dict[Hashable, tuple[int, ...]] = {}
        self.cuts: dict[Box, list[Box]] = {}
        self.works: dict[tuple[int, int, int, int], TileWork] = {}
        #: Whether the first unit is computed before the last of its input is there.
        self.steps = stage.shape[:2] == (1, 1) and not self.loaded and stage.operation is Operation.ARRAY
        self.following: _StageLowering | None = None
        self.bytes_ahead = 0
        self.border_due: int | None = None
        if self.output_frame is not None:
            self.border_due = next(
                (
                    reader.fill
                    for reader in stages[index + 1 : placement.last_use[stage.output] + 1]
                    if stage.output in reader.inputs and any(reader.borders)
                ),
                None,
            )

    def settle(self) -> None:
        """Choose the plan; everything before this stage has been emitted."""
        if len(self.plans) > 1:
            self._take(min(self.plans, key=self._trial))

    def run(self) -> None:
        """Emit the stage, and the LOADs of weights of the one that follows it."""
        # the first weights are few, and have to move into the array before it can begin
        for request in itertools.islice(self._weight_requests(self.stage.units[0], self._chunks(self.stage.units)[0]), 1):
            request()
        for region, band, units, first, last in self._bands():
            self._band(region, band, units, first=first, last=last)
        self._look_ahead()

    def _take(self, plan: Plan) -> None:
        """Go by a plan, and by the ``share_log2`` of LOADs that goes with it."""
        self.plan = plan
        self.chunks: dict[tuple[int, int], list[Box]] = {}
        if self.output_frame is None:
            self.share = 0
        else:
            self.share = store_share(self.stage, plan, self.config) if self.choice.share is None else self.choice.share

    def _bands(self) -> Iterator[tuple[Region, _Tile, tuple[Unit, ...], bool, bool]]:
        """Return the bands in order, and of each whether it is the first and whether it is the last."""
        stage, plan = self.stage, self.plan
        bands = [
            (region, _Tile(*rows, *columns, *images), stage.units[units[0] : units[1]])
            for images in spans(0, stage.images, plan.band_images)
            for region in stage.regions
            for rows in spans(*region.rows, plan.band_rows)
            for columns in spans(*region.columns, plan.band_columns)
            for units in spans(0, len(stage.units), plan.band_units)
        ]
        for number, (region, band, units) in enumerate(bands):
            yield region, band, units, number == 0, number == len(bands) - 1

    def _trial(self, plan: Plan) -> float:
        """Return when the array would be through with the stage and, cut in the simplest way, the next one under a plan."""
        before = self.state.timeline
        self._take(plan)
        outlook = 0.0
        for _, band, units, first, last in self._bands():
            for part, begins, ends in self._parts(band):
                heights, after = self._heights(part, units, loads=True, first=first and begins, last=last and ends)
                outlook = self._outlook(after, part, heights, last=last and ends)
                self.state.timeline = after
        self.state.timeline = before
        return outlook

    def prefetch(self, words: int) -> None:
        """Have parameters on chip, and weights in the order in which they will be needed, until so many words are used up."""
        boxes = self._chunks(self.stage.units)
        if len(boxes) > 1:
            return
        self._parameters(self.stage.regions[0], self.stage.units[0])
        for unit in self.stage.units:
            for request in self._weight_requests(unit, boxes[0]):
                if words <= 0:
                    return
                if (found := request()) is not None:
                    words -= found[1]

    def _fill_input_borders(self, tile: _Tile) -> None:
        """Have in the borders of resident inputs what the stage reads there, for a tile's images."""
        for name, frame in zip(self.stage.inputs, self.frames, strict=True):
            if frame is not None and any(self.stage.borders):
                self._fill_border(name, frame, self.stage.fill, tile.first_image, tile.last_image)

    def fill_output_border(self, first_image: int, last_image: int) -> None:
        """Fill the border of the output of some images, once."""
        if self.output_frame is not None and self.border_due is not None:
            missing = [image for image in range(first_image, last_image) if (self.stage.output, image) not in self.state.borders]
            if missing:
                self._fill_border(self.stage.output, self.output_frame, self.border_due, missing[0], missing[-1] + 1)

    def _fill_border(self, name: str, frame: Frame, value: int, first_image: int, last_image: int) -> None:
        """Have a value in the borders of consecutive images."""
        images = range(first_image, last_image)
        if any(self.state.borders.get((name, image)) != value for image in images):
            self.emitter.fill_border(frame.of_images(first_image, last_image), value)
            self.state.borders.update(dict.fromkeys(((name, image) for image in images), value))

    def _weight_requests(self, unit: Unit, box: Box) -> Iterator[Callable[[], tuple[int, int] | None]]:
        """Return what loads each piece of a unit's weights, and says its address and words."""
        for part in range(len(self.stage.weights)):
            if self.stage.operation is Operation.WINDOW:
                yield functools.partial(self._window_weights, unit, part)
                continue
            planes = max(box[0][0], unit.first_plane), min(box[0][1], unit.last_plane)
            if planes[0] < planes[1]:
                for piece in self._pieces((planes, box[1], box[2]), unit):
                    yield functools.partial(self._weights, unit, part, piece)

    def _look_ahead(self) -> None:
        """Prepare the stage that follows: the border of its output, and weights as far as this one leaves room for them."""
        if self.following is None:
            return
        self.following.settle()
        before = self.emitter.bytes_read
        self.following.fill_output_border(0, self.following.stage.images if self.following.stage.is_stacked else 1)
        if fits_weight_memory(self.stage, self.config):
            self.following.prefetch(self.config.weight_words - weight_words(self.stage, self.config) - weight_limit(self.config))
        self.following.bytes_ahead = self.emitter.bytes_read - before

    def _band(self, region: Region, band: _Tile, units: tuple[Unit, ...], *, first: bool, last: bool) -> None:
        groups = [units[a:b] for a, b in spans(0, len(units), self.plan.tile_units)]
        if len(self._chunks(units)) > 1:
            # More tiles would load every chunk more often.
            first = last = False
        if self.plan.units_outer:
            order = [
                (group, tile)
                for i, group in enumerate(groups)
                for tile in self._tiles(band, group, loads=i == 0, first=first and i == 0, last=last and i == len(groups) - 1)
            ]
        else:
            order = [(group, tile) for tile in self._tiles(band, units, loads=True, first=first, last=last) for group in groups]
        for group, tile in order:
            self._tile(region, band, units, group, tile)

    def _parts(self, band: _Tile) -> Iterator[tuple[_Tile, bool, bool]]:
        """Return what tiles are cut from, and of each whether it is the first and whether the last of the band: the images one by
        one, or the band itself where images are its lines."""
        if self.stage.is_stacked:
            yield band, True, True
            return
        for image in range(band.first_image, band.last_image):
            part = band._replace(first_image=image, last_image=image + 1)
            yield part, image == band.first_image, image == band.last_image - 1

    def _tiles(self, band: _Tile, units: tuple[Unit, ...], *, loads: bool, first: bool, last: bool) -> list[_Tile]:
        """Cut a band into tiles for some units, which are the first to read its input if they ``loads``."""
        tiles = []
        for part, begins, ends in self._parts(band):
            heights, self.state.timeline = self._heights(part, units, loads=loads, first=first and begins, last=last and ends)
            line = 0
            for lines in heights:
                tiles += [
                    self._cut_lines(part, line, line + lines)._replace(left=left, right=right)
                    for left, right in spans(band.left, band.right, self.plan.tile_columns)
                ]
                line += lines
        return tiles

    def _cut_lines(self, part: _Tile, first: int, last: int) -> _Tile:
        """Return lines ``[first, last)`` of a part."""
        if self.stage.is_stacked:
            return part._replace(first_image=part.first_image + first, last_image=part.first_image + last)
        return part._replace(top=part.top + first, bottom=part.top + last)

    def _first_line(self, part: _Tile) -> int:
        """Return the number of a part's first line."""
        return part.first_image * self.stage.shape[0] + part.top

    def _reads(self, part: _Tile) -> tuple[int, int]:
        """Return how many lines of the input, border included, the lines before a part read and each line of it adds to them."""
        stage, height = self.stage, self.stage.input_shape[0]
        if stage.is_stacked:
            return (part.first_image - 1) * height + stage.reach(0, part.top, part.bottom)[1], height
        return (part.last_image - 1) * height + stage.reach(0, 0, part.top)[1], stage.step[0]

    def _heights(
        self, band: _Tile, units: tuple[Unit, ...], *, loads: bool, first: bool, last: bool
    ) -> tuple[tuple[int, ...], Timeline]:
        """Return the lines of each tile of a part, and the timeline after them.

        The first tiles of a stage are small where their input is still being loaded or computed; the last ones are small where the
        next stage waits for them. What is best, the timeline says.
        """
        stage, most = self.stage, self.plan.tile_rows
        # what is best for one band in the middle of an image is good for all of them
        key = (self.plan, len(units), band.lines, band.columns, band.first_image, loads, first, last)

        def after(heights: tuple[int, ...]) -> Timeline:
            return self._after(self.state.timeline, band, units, heights, loads=loads)

        if (known := self.heights.get(key)) is not None:
            return known, after(known)
        width = min(band.columns, self.plan.tile_columns) * stage.pool_words
        least = min(most, -(-max(smallest_pass(self.config), 16) // width))
        waits = loads and self.loaded > 0
        fronts = [0, 2] if waits else [0]
        backs = [0, 4, 1 << 16] if last else [0]
        if self.choice.taper is not None:
            front, back, scale = self.choice.taper
            heights = tuple(_tapered(band.lines, most, min(most, scale * least), front if waits else 0, back if last else 0))
            return heights, after(heights)
        ends = waits or last
        tallest = {-(-most // parts) for parts in ((1, 2, 4) if waits else (1, 2) if last else (1,))}
        candidates = {
            tuple(_tapered(band.lines, most, min(most, scale * least), front, back))
            for most, front, back, scale in itertools.product(tallest, fronts, backs, (1, 4) if ends else (1,))
        }
        if first and not self.loaded:
            ready = max((self._ready_lines(bottom) for bottom in self._finished_lines()), default=0) - self._first_line(band)
            candidates |= {(ready, heights[0] - ready, *heights[1:]) for heights in candidates if 0 < ready < heights[0]}
        afters = {heights: after(heights) for heights in sorted(candidates)}
        if len(candidates) > 1:
            best = min(afters, key=lambda heights: self._outlook(afters[heights], band, heights, last=last))
        else:
            best = candidates.pop()
        self.heights[key] = best
        return best, afters[best]

    def _finished_lines(self) -> list[int]:
        """Return the lines ``[0, bottom)`` of the input that are finished before its last tile is."""
        rows = self.state.timeline.rows
        return [bottom for name in self.stage.inputs if name in rows for bottom in rows[name][0][:-1]]

    def _ready_lines(self, finished: int) -> int:
        """Return the lines of output that need no more than the first ``finished`` lines of input."""
        height, rows = self.stage.shape[0], self.stage.input_shape[0]
        image = min(finished // rows, self.stage.images - 1)
        if image > 0 and finished == self.stage.images * rows:
            return self.stage.images * height
        ready = (finished - image * rows - self.stage.reach(0, 0, 0)[1]) // self.stage.step[0]
        return image * height + max(0, min(ready, height))

    def _outlook(self, timeline: Timeline, band: _Tile, heights: Sequence[int], *, last: bool) -> float:
        """Return when the array is through with a band, after which there is this timeline, and, if it is the last, with the next
        stage, cut in the simplest way."""
        following = self.following
        if not last or following is None or self.stage.output not in following.stage.inputs:
            return timeline.halves[1] if last and following is None else timeline.execute
        if following.stage.images > 1 and not following.stage.is_stacked:
            # it begins with images that are long finished
            return timeline.execute
        rows = following.stage.lines
        ready = following._ready_lines(self._first_line(band) + sum(heights[:-1]))
        most = following.plan.tile_rows
        cuts = [0, *(b for _, b in spans(0, ready, most))] if ready else [0]
        cuts += [b for _, b in spans(ready, rows, most)] if ready < rows else []
        whole = _Tile(0, following.stage.shape[0], 0, following.stage.shape[1], 0, following.stage.images)
        lines = [b - a for a, b in itertools.pairwise(cuts)]
        return following._after(timeline, whole, following.stage.units, lines, loads=True).execute

    def _after(self, timeline: Timeline, band: _Tile, units: tuple[Unit, ...], heights: Sequence[int], *, loads: bool) -> Timeline:
        """Return a timeline after tiles of so many lines of a part, for some units."""
        stage, inputs = self.stage, self.stage.inputs
        per_row = self._load_cycles_per_row(band, units) if loads and self.loaded else 0.0
        finished = band.last_image * stage.input_shape[0]
        before, each = self._reads(band)
        begin, loaded, low = timeline.load, timeline.load, 0
        if per_row:
            low = band.first_image * stage.input_shape[0] + stage.reach(0, band.top, band.bottom)[0]
            end = before + band.lines * each
            begin = max(begin, *(timeline.finished(name, min(end, finished)) for name in inputs))
            loaded = begin + (end - low) * per_row
        # a map is finished line by line, so neither with the left part of its lines nor with some of its channels
        finishes = band.right == stage.shape[1] and units[-1] is stage.units[-1]
        start = self._first_line(band)
        tiles = []
        line = 0
        for lines in heights:
            line += lines
            high = min(before + line * each, finished)
            if per_row:
                available = begin + (high - low) * per_row
            else:
                available = max([timeline.finished(name, high - self.steps) for name in inputs])
            tiles.append((start + line if finishes else 0, self._work(lines, band.columns, len(units)), available))
        return timeline.after(stage.output, tiles, share=1 << self.share, loaded=loaded)

    def _work(self, lines: int, columns: int, units: int) -> TileWork:
        """Return the work of a tile for some units."""
        key = (lines, columns, units, self.plan.tile_columns)
        if key not in self.works:
            across = -(-columns // self.plan.tile_columns)
            jobs = len(self.stage.units) * across
            work = tile_work(self.stage, self.config, lines, columns, jobs, to_scratchpad=self.output_frame is not None)
            self.works[key] = work._replace(jobs=units * across)
        return self.works[key]

    def _load_cycles_per_row(self, band: _Tile, units: tuple[Unit, ...]) -> float:
        """Return the cycles that the input of one row of the map, for some units, takes to be loaded."""
        stage = self.stage
        left, right = stage.reach(1, band.left, band.right)
        planes = units[-1].last_plane - units[0].first_plane
        element = max(1 << self.maps[name].element_log2 for name in stage.inputs if name in self.maps)
        words = self.loaded * (right - left) * planes * max(1.0, element / self.config.bus_bytes)
        return words / (1 - 2.0**-self.share) if self.share else words

    def _tile(self, region: Region, band: _Tile, units: tuple[Unit, ...], group: tuple[Unit, ...], tile: _Tile) -> None:
        """Emit one filling of an accumulator half."""
        words = tile.lines * tile.columns * self.stage.pool_words
        base = self.state.half * self.config.accumulator_words
        self.state.half ^= 1
        self._fill_input_borders(tile)
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

    def _chunks(self, units: tuple[Unit, ...]) -> list[Box]:
        """Cut the taps of some units into chunks."""
        planes = units[0].first_plane, units[-1].last_plane
        if planes not in self.chunks:
            height, width = self.stage.window.kernel
            ky, kx = spans(0, height, self.plan.chunk_ky), spans(0, width, self.plan.chunk_kx)
            self.chunks[planes] = list(itertools.product(spans(*planes, self.plan.chunk_planes), ky, kx))
        return self.chunks[planes]

    # Input

    def _sources(self, band: _Tile, chunk: Box, tile: _Tile) -> list[Frame]:
        """Return the frame of each input, having loaded what the tile reads of those that come from memory."""
        if not self.loaded:
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
            self._load_rows(name, view, tile, high)
            sources.append(view.frame)
        return sources

    def _new_views(self, key: tuple[_Tile, Box], band: _Tile, chunk: Box) -> list[_View]:
        top, bottom = self.stage.reach(0, band.top, band.bottom, chunk[1])
        left, right = self.stage.reach(1, band.left, band.right, chunk[2])
        area = Rectangle(
            top=top,
            bottom=bottom,
            left=left,
            right=right,
            first_plane=chunk[0][0],
            last_plane=chunk[0][1],
            first_image=band.first_image,
            last_image=band.last_image,
        )
        height, width, _ = self.stage.input_shape
        frame = Frame(area=area, height=height, width=width)
        base = self.views.allocate(key, self.loaded * frame.words)
        views = [_View(frame.at(base + i * frame.words), [frame.inner.top] * area.images) for i in range(self.loaded)]
        for view in views:
            self.emitter.fill_border(view.frame, self.stage.fill)
        self.views.put(key, views)
        return views

    def _load_rows(self, name: str, view: _View, tile: _Tile, high: int) -> None:
        """Load the rows below ``high`` that are not there yet, of a tile's images."""
        inner = view.frame.inner
        bottom = min(inner.bottom, high)
        # images of which as much is there are loaded together
        for top, alike in itertools.groupby(
            range(tile.first_image, tile.last_image), lambda image: view.next_rows[image - inner.first_image]
        ):
            images = list(alike)
            if top < bottom and inner.left < inner.right:
                area = replace(inner, top=top, bottom=bottom, first_image=images[0], last_image=images[-1] + 1)
                # the first tiles are waited for, while there is next to nothing to be stored
                share = self.share if self.emitter.words_stored >= _FREE_WORDS else 0
                self.emitter.load_map(self.maps[name], view.frame, area, self.stage.period(self.config), share)
            for image in images:
                view.next_rows[image - inner.first_image] = max(top, bottom)

    # Sums

    def _accumulate(self, box: Box, unit: Unit, tile: _Tile, sources: list[Frame], accumulators: int, *, fresh: bool) -> None:
        """Emit the EXECUTEs of one unit over the taps in a box."""
        if self.stage.operation is Operation.ARRAY:
            for part in range(len(self.stage.weights)):
                for piece in self._pieces(box, unit):
                    if (weights := self._weights(unit, part, piece)) is None:
                        continue
                    self._execute(
                        Operation.ARRAY, piece, unit, tile, sources[0], accumulators, accumulate=not fresh, weights=weights
                    )
                    fresh = False
            return
        if self.stage.operation is Operation.WINDOW:
            for part in range(len(self.stage.weights)):
                if (found := self._window_weights(unit, part)) is None:
                    continue
                for number, (ky, kx) in enumerate(self.stage.windows(self.config)):
                    at = found[0] + number * self.config.rows
                    self._window(ky, kx, unit, tile, sources[0], accumulators, accumulate=not fresh, weights=at)
                    fresh = False
            return
        operations = (Operation.LOW, Operation.HIGH) if self.stage.is_pair else (self.stage.operation,)
        for operation, source in zip(operations, sources, strict=True):
            reduce = reduces(self.stage, self.config, tile.lines, tile.columns)
            for piece in self._windows(box) if reduce else self._pieces(box, unit):
                self._execute(operation, piece, unit, tile, source, accumulators, accumulate=not fresh, reduce=reduce)
                fresh = False

    def _windows(self, box: Box) -> Iterator[Box]:
        """Cut a box of taps into windows as one instruction counts them."""
        planes, ky, kx = box
        return itertools.product([planes], spans(*ky, MAX_WINDOW), spans(*kx, MAX_WINDOW))

    def _pieces(self, box: Box, unit: Unit) -> Iterator[Box]:
        """Cut a box of taps so that each piece's weights take their share of the weight memory and each count fits its field.

        The first unit of a single pixel is computed in two steps, so that it can begin before the last of its input is there.
        """
        planes, ky, kx = box
        if unit is not self.stage.units[0] or not self.steps:
            yield from self._cut(box)
        elif ky[1] - ky[0] > 1:
            yield from self._cut((planes, (ky[0], ky[1] - 1), kx))
            yield from self._cut((planes, (ky[1] - 1, ky[1]), kx))
        elif planes[1] - planes[0] > 1:
            yield from self._cut(((planes[0], planes[1] - 1), ky, kx))
            yield from self._cut(((planes[1] - 1, planes[1]), ky, kx))
        else:
            yield from self._cut(box)

    def _cut(self, box: Box) -> list[Box]:
        if box in self.cuts:
            return self.cuts[box]
        taps = weight_limit(self.config) // self.config.rows * (self.config.rows // self.tap_rows)
        if self.stage.operation is not Operation.ARRAY:
            taps = 1 << 16
        (planes, ky, kx) = box
        width = min(kx[1] - kx[0], taps, _EXECUTE_LIMITS["n_kx"])
        height = min(ky[1] - ky[0], max(1, taps // width) if width == kx[1] - kx[0] else 1, _EXECUTE_LIMITS["n_ky"])
        whole = width == kx[1] - kx[0] and height == ky[1] - ky[0]
        depth = min(planes[1] - planes[0], max(1, taps // (width * height)) if whole else 1, _EXECUTE_LIMITS["n_block"])
        self.cuts[box] = list(itertools.product(spans(*planes, depth), spans(*ky, height), spans(*kx, width)))
        return self.cuts[box]

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
        words = packed_words(math.prod(last - first for first, last in box), self.tap_rows, self.config)
        return self.emitter.load_weights(key, words, lambda: pack_weights(chosen(), self.tap_rows, self.config)), words

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
        line = source.image_words if self.stage.is_stacked else pool[0] * down
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
            activations=source.address(planes[0], y, x, tile.first_image),
            taps={"block": Loop(planes[1] - planes[0], source.pitch), **kernel},
            pixels={"py": Loop(tile.lines, line), "px": Loop(tile.columns, pool[1] * across), **inner},
            accumulators=accumulators,
            accumulate=accumulate,
            tap_rows=self.tap_rows,
            row_offset=unit.row_offset,
            weights=weights,
            reduce=reduce,
        )

    def _window_weights(self, unit: Unit, part: int) -> tuple[int, int] | None:
        """Have the tiles of a unit's windows on chip; return address and words, or None for a correction that is all zero."""
        key = (self.index, unit.first_channel, part)
        if part > 0:
            if key not in self.needed:
                chosen = self.stage.weights[part][unit.first_channel : unit.first_channel + unit.channels]
                self.needed[key] = bool(chosen.any())
            if not self.needed[key]:
                return None
        words = len(self.stage.windows(self.config)) * self.config.rows
        return self.emitter.load_weights(key, words, lambda: window_weights(self.stage, unit, part, self.config)), words

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
        x, _ = stage.reach(1, tile.left, tile.right, stage.pass_columns(kx))
        down, across = stage.window.stride
        lines = Loop(bottom - y, source.row_words)
        if ky[1] - ky[0] == 1:
            lines, down = Loop(tile.lines, down * source.row_words), 1
        self.emitter.window(
            activations=source.address(unit.first_plane, y, x, tile.first_image),
            lines=lines,
            pixels=Loop(stage.line_pixels(tile.columns), 1),
            kernel=(ky[1] - ky[0], taps),
            stride=(down, across),
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
            self.fill_output_border(tile.first_image, tile.last_image)
        for piece in unit.pieces(config, 0 if stage.part is None else stage.part[0]):
            local = memory = None
            if (frame := self.output_frame) is not None:
                step = frame.image_words if stage.is_stacked else frame.row_words
                local = frame.address(piece.plane, tile.top, tile.left, tile.first_image), step
            if (found := self.output_map) is not None:
                step = found.image_bytes if stage.is_stacked else found.row_bytes
                start = found.address + tile.first_image * found.image_bytes + piece.plane * found.plane_bytes
                memory = start + tile.top * found.row_bytes + tile.left * config.word_bytes, step
            self.emitter.store(
                accumulators=accumulators,
                rows=tile.lines,
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
