"""The roofline plot: multiply-accumulates a cycle over multiply-accumulates a byte, on logarithmic axes.

A roof is a configuration: its array is the flat part, its memory bus the slope. A point is a layer that multiplies, by the cycles
and the bytes that the engine really takes for it; a layer counts from when all layers before it are done, so one whose weights
were loaded meanwhile may lie above the roof. Pooling and element-wise layers have no point of their own; what they take is part of
the network's. matplotlib is asked for here and nowhere else.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accel.compare import Comparison, Entry
from accel.config import EngineConfig
from accel.errors import SystolithError
from accel.program import MemoryTiming
from accel.roofline import bus_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["FORMATS", "PlotError", "check_format", "draw_roofline", "require_matplotlib"]

#: File name endings that are drawn.
FORMATS = (".png", ".svg")

_MARKERS = "osD^vPXp<>h*"
_COLOURS = ("#1f5fa8", "#c8501e", "#2c8a4b", "#7b4aa6", "#9a7b16", "#b3306e", "#3b8f9c", "#555555")
#: Area in points^2 of a layer that takes no time, and what one that takes all of it has beyond that.
_SMALLEST, _SPREAD = 12.0, 320.0
_DPI = 150
#: Steps in which a roof is drawn; labels keep away from each.
_STEPS = 120
#: Places of a label around its total, in points.
_PLACES = [
    (round(2 * radius * math.cos(angle)), round(radius * math.sin(angle)))  # a label is wider than it is high
    for radius in (13, 20, 28, 38, 50, 64)
    for angle in (math.pi * eighth / 8 for eighth in range(16))
]


class PlotError(SystolithError):
    """A plot that cannot be drawn."""


@dataclass(frozen=True, kw_only=True)
class _Point:
    intensity: float
    rate: float
    weight: float


def check_format(path: Path) -> None:
    """Refuse a file name whose ending says nothing of a picture."""
    if path.suffix.lower() not in FORMATS:
        raise PlotError(f"{path}: a plot is written as {' or '.join(FORMATS)}, not {path.suffix or 'without an ending'}")


def require_matplotlib() -> None:
    """Refuse when matplotlib is not installed: nobody should wait for estimates that cannot be drawn."""
    try:
        importlib.import_module("matplotlib")
    except ImportError:
        raise PlotError(
            "--plot: needs matplotlib, which is not installed; `pip install -e '.[plot]'` in the repository brings it"
        ) from None


def draw_roofline(comparison: Comparison, path: Path, suffix: str) -> None:
    """Write the plot of a comparison that has entries to ``path``, in the format that ``suffix`` names."""
    import matplotlib
    from matplotlib.figure import Figure

    # text stays text, and the same comparison gives the same file
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "systolith", "font.size": 9}):
        figure = Figure(figsize=(10.5, 6.5), dpi=_DPI, layout="constrained")
        _draw(figure, comparison)
        metadata = {"Date": None} if suffix == ".svg" else {}
        figure.savefig(path, format=suffix.lstrip("."), metadata=metadata)


def _draw(figure: Figure, comparison: Comparison) -> None:
    axes = figure.add_subplot()
    entries = comparison.entries
    configs = {entry.report.config.name: entry.report.config for entry in entries}
    colours = {name: _COLOURS[index % len(_COLOURS)] for index, name in enumerate(configs)}
    names = list(dict.fromkeys(entry.report.network for entry in entries))
    markers = {name: _MARKERS[index % len(_MARKERS)] for index, name in enumerate(names)}
    shown: list[_Point] = []
    totals: list[tuple[_Point, str, str]] = []
    for entry in entries:
        report = entry.report
        colour, marker = colours[report.config.name], markers[report.network]
        points = _points(entry)
        shown += points
        _scatter(axes, points, marker=marker, facecolors=colour, edgecolors="white", linewidths=0.5, alpha=0.45)
        total = _point(report.macs_per_image, entry.bytes_per_image, report.cycles_per_image or 0, 1.0)
        if total is not None:
            totals.append((total, f"{report.network} {report.utilisation:.0%}", colour))
            _scatter(
                axes,
                [_Point(intensity=total.intensity, rate=total.rate, weight=0.25)],
                marker=marker,
                facecolors=colour,
                edgecolors="black",
                linewidths=1.3,
                zorder=4,
            )
    intensities = [point.intensity for point in (*shown, *(total for total, *_ in totals))]
    low, high = min(intensities, default=1.0) / 2, max(intensities, default=1.0) * 2
    roofs: list[_Point] = []
    for config in configs.values():
        roofs += _roof(axes, config, comparison.timing, (low, high), colours[config.name])
    axes.set(xscale="log", yscale="log", xlim=(low, high))
    axes.set_xlabel("operational intensity: multiply-accumulates a byte moved")
    axes.set_ylabel("multiply-accumulates a cycle")
    axes.set_title("Roofline: " + ", ".join(names), loc="left", fontsize=10, wrap=True)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
    axes.grid(which="major", linewidth=0.4, alpha=0.5)
    _legend(axes, configs, comparison.timing, colours, markers)
    figure.draw_without_rendering()  # the labels need to know where everything is
    _label(figure, axes, totals, [*shown, *roofs])


def _points(entry: Entry) -> list[_Point]:
    """Return the layers that multiply; ``weight`` is a layer's share of the cycles."""
    total = entry.report.cycles_per_image or 1
    points = (_point(layer.macs, layer.bytes, layer.cycles or 0, (layer.cycles or 0) / total) for layer in entry.report.layers)
    return [point for point in points if point is not None]


def _point(macs: int, moved: float, cycles: float, weight: float) -> _Point | None:
    """Return a point; None when it has no place on logarithmic axes."""
    return _Point(intensity=macs / moved, rate=macs / cycles, weight=weight) if macs and moved and cycles else None


def _scatter(axes: Axes, points: Sequence[_Point], **style: Any) -> None:
    sizes = [_SMALLEST + _SPREAD * point.weight for point in points]
    axes.scatter([point.intensity for point in points], [point.rate for point in points], s=sizes, **{"zorder": 3, **style})


def _roof(axes: Axes, config: EngineConfig, timing: MemoryTiming, ends: tuple[float, float], colour: str) -> list[_Point]:
    """Draw a configuration's roof between two intensities; return points along it."""
    slope = float(bus_bytes(config, timing))
    low, high = ends
    steps = [low * (high / low) ** (step / _STEPS) for step in range(_STEPS + 1)]
    intensities = sorted({*steps, min(max(config.macs_per_cycle / slope, low), high)})
    rates = [min(config.macs_per_cycle, slope * intensity) for intensity in intensities]
    axes.plot(intensities, rates, color=colour, linewidth=1.4, zorder=2)
    return [_Point(intensity=x, rate=y, weight=0.0) for x, y in zip(intensities, rates, strict=True)]


def _legend(
    axes: Axes, configs: dict[str, EngineConfig], timing: MemoryTiming, colours: dict[str, str], markers: dict[str, str]
) -> None:
    from matplotlib.lines import Line2D

    lines = [
        Line2D(
            [], [], color=colours[name], label=f"{name}: {c.rows} x {c.columns} MACs, {float(bus_bytes(c, timing)):g} bytes a cycle"
        )
        for name, c in configs.items()
    ]
    shapes = [Line2D([], [], linestyle="", marker=marker, color="#777777", label=name) for name, marker in markers.items()]
    sizes = [
        Line2D(
            [],
            [],
            linestyle="",
            marker="o",
            color="#bbbbbb",
            markersize=math.sqrt(_SMALLEST + _SPREAD * share),
            label=f"a layer of {share:.0%} of the cycles",
        )
        for share in (0.01, 0.1, 0.5)
    ]
    total = Line2D([], [], linestyle="", marker="o", color="#bbbbbb", markeredgecolor="black", label="the whole network")
    handles = [*lines, *shapes, *sizes, total]
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=8, frameon=False, labelspacing=0.9)


def _label(figure: Figure, axes: Axes, totals: Sequence[tuple[_Point, str, str]], points: Sequence[_Point]) -> None:
    """Write each total's text beside it, where it hides least: no other label, no total, few of ``points``."""
    from matplotlib.transforms import Bbox

    def spot(point: _Point, radius: float) -> Bbox:
        x, y = axes.transData.transform((point.intensity, point.rate))
        return Bbox.from_extents(x - radius, y - radius, x + radius, y + radius)

    scale = figure.dpi / 72  # pixels a point
    inside = axes.get_window_extent()
    totals_at = [spot(point, 7 * scale) for point, *_ in totals]
    obstacles = [spot(point, 3 * scale) for point in points]
    labels: list[Bbox] = []
    for (point, text, colour), at in zip(totals, totals_at, strict=True):
        note = axes.annotate(
            text,
            (point.intensity, point.rate),
            xytext=(0, 0),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=7.5,
            color=colour,
            zorder=5,
            bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.7},
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 5},
        )
        note.set_in_layout(False)  # the axes shall stay where they were measured
        size = note.get_window_extent()
        centre = at.x0 + at.width / 2, at.y0 + at.height / 2

        def box(place: tuple[int, int], size: Bbox = size, centre: tuple[float, float] = centre) -> Bbox:
            x, y = (c + scale * p for c, p in zip(centre, place, strict=True))
            return Bbox.from_extents(x - size.width / 2, y - size.height / 2, x + size.width / 2, y + size.height / 2)

        def cost(place: tuple[int, int], box: Callable[[tuple[int, int]], Bbox] = box) -> float:
            where = box(place)
            outside = not (inside.contains(*where.min) and inside.contains(*where.max))
            hidden = where.count_overlaps(labels) + where.count_overlaps(totals_at)
            return 1000 * outside + 100 * hidden + where.count_overlaps(obstacles) + math.hypot(*place) / 25

        place = min(_PLACES, key=cost)
        note.set_position(place)
        labels.append(box(place))
