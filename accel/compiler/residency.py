"""Second pass: which maps stay in the scratchpad, where, and for how long; the others go to memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from accel.compiler.frames import Frame, Rectangle
from accel.compiler.stages import Stage, plane_count
from accel.config import EngineConfig
from accel.graph import Network

__all__ = ["Placement", "place"]


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where maps live.

    ``frames``: resident maps. ``last_use``: the last stage that reads a resident map from the scratchpad; later ones load it from
    memory. ``in_memory``: maps that stages load, and the output. ``gaps``: for each stage, the words ``[first, last)`` free for
    loaded bands.
    """

    frames: Mapping[str, Frame]
    last_use: Mapping[str, int]
    in_memory: frozenset[str]
    gaps: tuple[tuple[int, int], ...]

    def resident(self, tensor: str, stage: int) -> Frame | None:
        """Return the frame from which a stage reads a map, or None when it must load it."""
        return self.frames[tensor] if self.last_use.get(tensor, -1) >= stage else None


def place(network: Network, stages: list[Stage], config: EngineConfig) -> Placement:
    """Keep as many maps on chip as fit; when space runs out, give up the one whose next use is farthest away.

    Small maps follow each other round the scratchpad, so that the place of a new one was left as long ago as can be and nothing
    waits for it. Large ones take both ends in turn, which keeps the middle in one piece along a chain of layers; and all do where
    more of them fit that way.
    """
    around, ends = (_place(network, stages, config, around=around) for around in (True, False))
    return around if len(around.in_memory) <= len(ends.in_memory) else ends


def _place(network: Network, stages: list[Stage], config: EngineConfig, *, around: bool) -> Placement:
    readers = {stage.output: [index for index, reader in enumerate(stages) if stage.output in reader.inputs] for stage in stages}
    last_use = {tensor: uses[-1] for tensor, uses in readers.items() if uses}
    while True:
        attempt = _attempt(network, stages, config, readers, last_use, around=around)
        if isinstance(attempt, Placement):
            return attempt
        tensor, next_use = attempt
        earlier = [use for use in readers[tensor] if use < next_use]
        if earlier:
            last_use[tensor] = earlier[-1]
        else:
            del last_use[tensor]


def _attempt(
    network: Network,
    stages: list[Stage],
    config: EngineConfig,
    readers: Mapping[str, list[int]],
    last_use: Mapping[str, int],
    *,
    around: bool,
) -> Placement | tuple[str, int]:
    """Place all maps, or name a map to give up and the use from which on it shall come from memory."""
    frames: dict[str, Frame] = {}
    gaps = []
    following = 0
    for index, stage in enumerate(stages):
        live = {name: frame for name, frame in frames.items() if last_use[name] >= index}
        if stage.output in last_use and stage.output not in frames:
            frame = _frame(stage, [stages[use] for use in readers[stage.output] if use <= last_use[stage.output]], config)
            if frame.words > config.scratchpad_words:
                return stage.output, readers[stage.output][0]
            fitting = [gap for gap in _gaps(live, config) if gap[1] - gap[0] >= frame.words]
            if not fitting:
                return _victim({**live, stage.output: frame}, index, stage, readers)
            if around and 2 * sum(frame.words for frame in [*live.values(), frame]) <= config.scratchpad_words:
                places = [max(low, following) for low, high in fitting if high - max(low, following) >= frame.words]
                frame = frame.at(min(places, default=fitting[0][0]))
                following = frame.base + frame.words
            else:
                frame = frame.at(fitting[0][0] if index % 2 == 0 else fitting[-1][1] - frame.words)
            frames[stage.output] = live[stage.output] = frame
        gap = max(_gaps(live, config), key=lambda gap: gap[1] - gap[0], default=(0, 0))
        loaded = sum(last_use.get(name, -1) < index for name in stage.inputs)
        if gap[1] - gap[0] < loaded * _wanted(stage, config) and live:
            return _victim(live, index, stage, readers)
        gaps.append(gap)
    in_memory = {network.output}
    for index, stage in enumerate(stages):
        in_memory.update(name for name in stage.inputs if last_use.get(name, -1) < index)
    return Placement(frames=frames, last_use=dict(last_use), in_memory=frozenset(in_memory), gaps=tuple(gaps))


def _frame(stage: Stage, readers: list[Stage], config: EngineConfig) -> Frame:
    """Return the frame of a stage's output, with the border that all its readers need."""
    height, width, channels = stage.map_shape
    top, left, bottom, right = (max(reader.borders[side] for reader in readers) for side in range(4))
    area = Rectangle(
        top=-top,
        bottom=height + bottom,
        left=-left,
        right=width + right,
        first_plane=0,
        last_plane=plane_count(config, channels),
        last_image=stage.images,
    )
    return Frame(area=area, height=height, width=width)


def _gaps(live: Mapping[str, Frame], config: EngineConfig) -> list[tuple[int, int]]:
    """Return the free ranges between live frames, lowest first."""
    gaps = []
    start = 0
    for frame in sorted(live.values(), key=lambda frame: frame.base):
        if frame.base > start:
            gaps.append((start, frame.base))
        start = max(start, frame.base + frame.words)
    if start < config.scratchpad_words:
        gaps.append((start, config.scratchpad_words))
    return gaps


def _victim(live: Mapping[str, Frame], index: int, stage: Stage, readers: Mapping[str, list[int]]) -> tuple[str, int]:
    def next_use(name: str) -> int:
        return next(use for use in readers[name] if use >= index)

    name = max(live, key=lambda name: (next_use(name), live[name].words))
    return name, next_use(name)


def _wanted(stage: Stage, config: EngineConfig) -> int:
    """Return the words that a loaded input needs to be worked on well: two bands of one output row, the one row of all images, or
    half the scratchpad."""
    low, high = stage.reach(1, 0, stage.shape[1])
    planes = max(unit.last_plane - unit.first_plane for unit in stage.units)

    def words(rows: int) -> int:
        first, last = stage.reach(0, 0, rows)
        return (last - first) * (high - low) * planes * (stage.images if stage.is_stacked else 1)

    return min(words(stage.shape[0]), 2 * words(1), config.scratchpad_words // (2 * len(stage.inputs)))
