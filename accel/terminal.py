"""How a report looks in a terminal: pictures, tables, the verdict, and progress while one waits."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TextIO

import numpy as np
import numpy.typing as npt
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.style import Style
from rich.table import Table
from rich.text import Text

from accel.config import EngineConfig
from accel.program import MemoryTiming
from accel.report import EstimateReport, LayerReport, RunReport, Stalls

if TYPE_CHECKING:
    from rich.progress import TaskID

__all__ = [
    "PlainProgress",
    "Reporter",
    "TerminalProgress",
    "array_of",
    "make_console",
    "make_progress",
    "memory_of",
    "number",
    "picture",
    "pictures",
    "rate",
    "show_estimate",
    "show_run",
]

#: Width of everything shown; also assumed where nobody tells (output into a file).
COLUMNS = 100
#: Width below which no text in a table is folded.
_FOLDED = 12
#: Pixels a side of a picture, and pictures in a row: each takes two more columns than its pixels, within COLUMNS.
SIDE = 18
ACROSS = 5
#: Pictures shown at most; more would push the tables off the screen.
SHOWN = 20
#: Seconds between two lines of progress where no bar can be drawn.
PLAIN_INTERVAL = 10.0

Pixels = npt.NDArray[np.uint8]


class _Console(Console):
    """Cuts no figure: a table that is too wide even when its texts are folded goes on beyond the edge."""

    def print(self, *objects: Any, **options: Any) -> None:
        width = self.width
        self.width = max(width, *(_least_width(table) for table in objects if isinstance(table, Table)), 0)
        try:
            super().print(*objects, **options)
        finally:
            self.width = width


def _least_width(table: Table) -> int:
    """Return the columns that a table takes at most when only what may be wrapped is narrow."""
    width = 1
    for column in table.columns:
        texts = [cell.plain if isinstance(cell, Text) else str(cell) for cell in (column.header, *column.cells)]
        longest = max(map(cell_len, texts), default=0)
        width += (longest if column.no_wrap else min(longest, _FOLDED)) + 3  # a space at each side, and a line
    return width


def make_console(stream: TextIO) -> Console:
    """Return a console on ``stream``: as wide as the terminal, at most COLUMNS."""
    console = _Console(file=stream, highlight=False, markup=False, emoji=False)
    console.width = min(console.width, COLUMNS) if console.is_terminal else COLUMNS
    return console


# Pictures


def picture(pixels: Pixels, *, colour: bool, unicode: bool = True) -> Text:
    """Return an image as block art, two pixels above one another in each character.

    ``pixels`` are uint8 ``(height, width)``, ``(height, width, 1)`` or ``(height, width, 3)``. Without ``colour`` each pixel is
    on or off, by a threshold half way between the darkest and the brightest.
    """
    small = _shrink(pixels)
    if colour:
        rows = []
        for upper, lower in zip(small[::2], small[1::2], strict=True):
            row = Text()
            for top, bottom in zip(upper, lower, strict=True):
                row.append("▀", Style(color=_rgb(top), bgcolor=_rgb(bottom)))
            rows.append(row)
        return Text("\n").join(rows)
    grey = small.mean(axis=2)
    lit = grey > (float(grey.min()) + float(grey.max())) / 2
    glyphs = " ▄▀█" if unicode else ' _"#'
    return Text(
        "\n".join("".join(glyphs[2 * t + b] for t, b in zip(*pair, strict=True)) for pair in zip(lit[::2], lit[1::2], strict=True))
    )


def pictures(images: Sequence[Pixels], captions: Sequence[Text], *, colour: bool, unicode: bool = True) -> RenderableType:
    """Return images with a caption below each, side by side."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    for _ in range(min(ACROSS, len(images))):
        grid.add_column(width=SIDE)
    for start in range(0, len(images), ACROSS):
        if start:
            grid.add_row()
        row = slice(start, start + ACROSS)
        grid.add_row(*(picture(pixels, colour=colour, unicode=unicode) for pixels in images[row]))
        grid.add_row(*captions[row])
    return grid


def _shrink(pixels: Pixels) -> Pixels:
    """Return the picture as uint8 ``(SIDE, SIDE, 3)``, its empty border cut away."""
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    used = np.argwhere((pixels != pixels[0, 0]).any(axis=2))
    if len(used):
        (top, left), (bottom, right) = used.min(axis=0), used.max(axis=0) + 1
        side = max(bottom - top, right - left)
        square = np.empty((side, side, pixels.shape[2]), np.uint8)
        square[:] = pixels[0, 0]
        y, x = (side - (bottom - top)) // 2, (side - (right - left)) // 2
        square[y : y + bottom - top, x : x + right - left] = pixels[top:bottom, left:right]
        pixels = square
    from PIL import Image  # takes a while, and most reports have no pictures

    rgb = np.broadcast_to(pixels, (*pixels.shape[:2], 3)) if pixels.shape[2] == 1 else pixels
    return np.asarray(Image.fromarray(np.ascontiguousarray(rgb)).resize((SIDE, SIDE), Image.Resampling.BOX))


def _rgb(pixel: Pixels) -> str:
    return f"#{pixel[0]:02x}{pixel[1]:02x}{pixel[2]:02x}"


# Reports


def show_run(console: Console, report: RunReport, images: Sequence[Pixels] | None) -> None:
    """Print a run: ``images`` (uint8 pixels, one for each image run; None when the input is no picture), tables, verdict."""
    if images is not None:
        console.print(_gallery(console, report, images), "", sep="\n")
    elif report.predictions is not None:
        console.print(
            "class of each image: " + " ".join(str(n) for n in report.predictions[:SHOWN]) + _more(report.images), "", sep="\n"
        )
    console.print(_layers(report), "", sep="\n")
    console.print(_stall_table(report.stalls), "", sep="\n")
    console.print(_totals(report))
    for note in report.notes:
        console.print(f"note: {note}")
    console.print("", _verdict(report), sep="\n")


def show_estimate(console: Console, report: EstimateReport) -> None:
    """Print what one image would take, layer by layer, beside what the roofline asks for."""
    table = Table(title=f"{report.network} on {report.config.name}, {one_image(report)}", title_justify="left", title_style="bold")
    table.add_column("layer", overflow="fold")  # figures are never cut
    for name in ("cycles", "roofline", "MACs", "used", "bytes", "waits"):
        table.add_column(name, justify="right", no_wrap=True)
    for layer, bound in zip(report.layers, report.rooflines, strict=True):
        cycles, *others = _figures(layer.cycles, layer.macs, layer.utilisation, layer.bytes)
        table.add_row(layer.name, cycles, f"{bound:,.0f}" if bound else "-", *others, _cause(layer))
    table.add_section()
    moved = sum(layer.bytes for layer in report.layers)
    cycles, *others = _figures(report.cycles_per_image, report.macs_per_image, report.utilisation, moved)
    table.add_row("all", cycles, number(report.roofline_cycles), *others, _cause(report), style="bold")
    rows = [
        ("memory", memory_of(report.config, report.timing)),
        ("cycles", f"{number(report.cycles_per_image)} an image, {report.utilisation:.1%} of {array_of(report.config)}"),
        ("roofline", f"{number(report.roofline_cycles)} cycles, {report.roofline_share:.1%} of what the engine takes"),
        ("speed", f"{rate(report.images_per_second)} images/s at {report.clock:g} MHz"),
    ]
    console.print(table, "", _stall_table(report.stalls), "", _grid(rows), sep="\n")
    for note in report.notes:
        console.print(f"note: {note}")


def _gallery(console: Console, report: RunReport, images: Sequence[Pixels]) -> RenderableType:
    captions = []
    for index in range(min(len(images), SHOWN)):
        caption = Text(f"#{index}", style="dim")
        if report.predictions is not None:
            predicted = report.predictions[index]
            caption = Text(f"{predicted}", style="bold")
            if report.labels is not None and report.labels[index] == predicted:
                caption.append("  as labelled", "green")
            elif report.labels is not None:
                caption.append(f"  labelled {report.labels[index]}", "red")
        captions.append(caption)
    unicode = console.encoding.startswith("utf")
    art = pictures(images[:SHOWN], captions, colour=console.color_system in ("256", "truecolor"), unicode=unicode)
    return Group(art, Text(_more(report.images).strip())) if report.images > SHOWN else art


def _more(images: int) -> str:
    return f" and {images - SHOWN:,} more" if images > SHOWN else ""


def _layers(report: RunReport) -> Table:
    table = Table(title=f"{report.network} on {report.config.name}, {one_image(report)}", title_justify="left", title_style="bold")
    table.add_column("layer", overflow="fold")  # figures are never cut
    table.add_column("op", overflow="fold")
    for name in ("cycles", "MACs", "utilisation", "bytes"):
        table.add_column(name, justify="right", no_wrap=True)
    if report.stalls:
        table.add_column("waits", justify="right", no_wrap=True)
    for layer in report.layers:
        waits = [_cause(layer)] if report.stalls else []
        table.add_row(layer.name, layer.op, *_figures(layer.cycles, layer.macs, layer.utilisation, layer.bytes), *waits)
    table.add_section()
    moved = sum(layer.bytes for layer in report.layers)
    waits = [_cause(report)] if report.stalls else []
    figures = _figures(report.cycles_per_image, report.macs_per_image, report.utilisation, moved)
    table.add_row("all", "", *figures, *waits, style="bold")
    return table


def _cause(report: LayerReport | RunReport) -> str:
    """Return what the execute unit waited for most, as a share of all cycles (from half a percent on); the rest is in the JSON."""
    cycles = report.cycles if isinstance(report, LayerReport) else report.cycles_per_image
    for state, waited in report.stalls.get("execute", {}).items():
        if cycles and waited >= 0.005 * cycles:
            return f"{waited / cycles:.0%} {state.removeprefix('wait_')}"
    return "-"


def _figures(cycles: float | None, macs: int, utilisation: float | None, moved: float) -> tuple[str, str, str, str]:
    return number(cycles), f"{macs:,}", "-" if utilisation is None or not macs else f"{utilisation:.1%}", number(moved)


def number(value: float | None) -> str:
    """Return a count with its thousands apart, a mean with one decimal, a dash for what is not known."""
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


def rate(value: float) -> str:
    """Return images a second with one decimal, or three digits where that says too little."""
    return f"{value:,.1f}" if value >= 10 else f"{value:.3g}"


def _stall_table(stalls: Stalls) -> RenderableType:
    lines = [
        Text.assemble(
            (f"{unit} unit waits: ", "bold"),
            ", ".join(f"{number(cycles)} for {state.removeprefix('wait_')}" for state, cycles in states.items()),
        )
        for unit, states in stalls.items()
        if states
    ]
    return Group(*lines) if lines else Text("stall causes: none are known without a clock" if not stalls else "no unit waited")


def _totals(report: RunReport) -> RenderableType:
    count = "1 image" if report.images == 1 else f"{report.images:,} images"
    if report.batch > 1:
        count += f" in batches of {report.batch:,}"
    rows = [("backend", f"{report.backend} ({report.backend_reason})"), ("input", f"{count}, {report.source}")]
    if report.total_cycles is None:
        rows.append(("cycles", "not counted by this backend"))
    else:
        speed = report.simulated_cycles_per_second
        rows += [
            ("memory", memory_of(report.config, report.timing)),
            ("cycles", f"{report.total_cycles:,} in all, {number(report.cycles_per_image)} an image{_of_batches(report)}"),
            ("utilisation", f"{report.utilisation:.1%} of {array_of(report.config)}"),
            ("simulation", f"{speed:,.0f} cycles/s" if speed else "too short to time"),
        ]
    if report.correct is not None:
        rows.append(("labels", f"{report.correct:,} of {report.images:,} right"))
    return _grid(rows)


def describe_memory(timing: MemoryTiming, bus_bytes: int) -> str:
    """Return the memory's behaviour in words, on a bus of so many bytes."""
    pace = "every cycle" if timing.interval == 1 else f"every {timing.interval} cycles"
    memory = f"latency {timing.latency} cycles, a beat of {bus_bytes} bytes {pace}"
    return memory if timing.stall_seed is None else f"{memory}, random stalls from seed {timing.stall_seed}"


def memory_of(config: EngineConfig, timing: MemoryTiming) -> str:
    """Return the memory that an engine has, in words: micro's is its own, whatever the timing of others."""
    return f"its own, {config.memory_limit:,} bytes" if config.micro else describe_memory(timing, config.bus_bytes)


def one_image(report: RunReport) -> str:
    """Return what figures are for, in words."""
    return "one image" if report.batch == 1 else f"one image of a batch of {report.batch:,}"


def _of_batches(report: RunReport) -> str:
    """Return for what the cycles of an image are counted where the last batch is not full."""
    return " of a full batch" if report.images % report.batch else ""


def array_of(config: EngineConfig) -> str:
    """Return what the array does in a cycle, in words."""
    return f"{config.columns} MACs a cycle" if config.micro else f"{config.rows} x {config.columns} MACs a cycle"


def _grid(rows: Sequence[tuple[str, str]]) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="bold")
    grid.add_column()
    for row in rows:
        grid.add_row(*row)
    return grid


def _verdict(report: RunReport) -> Text:
    if report.first_mismatch is None:
        return Text(
            f"bit-exact: every output byte of {report.images} of {report.images} images equals the golden model", style="bold green"
        )
    equal = report.images - report.mismatches
    return Text(
        f"NOT bit-exact: {equal} of {report.images} images equal the golden model; {report.first_mismatch}", style="bold red"
    )


# Progress


class Reporter(Protocol):
    """Something to be told how far the work is."""

    def stage(self, text: str, unit: str = "") -> None:
        """Begin a step; ``unit`` is what :meth:`advance` counts."""

    def advance(self, done: int) -> None:
        """Tell how much of the step is done."""

    def detail(self, text: str) -> None:
        """Tell what the step is at, where that cannot be counted."""

    def __enter__(self) -> Reporter: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...


class TerminalProgress:
    """A live line, gone at the end."""

    def __init__(self, stream: TextIO) -> None:
        # (loaded where a line is live, and not where progress goes into a log)
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
        self._line = Progress(*columns, console=Console(file=stream), transient=True)
        self._task: TaskID | None = None
        self._text = self._unit = ""

    def __enter__(self) -> TerminalProgress:
        self._line.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._line.stop()

    def stage(self, text: str, unit: str = "") -> None:
        """Begin a step; ``unit`` is what :meth:`advance` counts."""
        self._text, self._unit = text, unit
        if self._task is not None:
            self._line.remove_task(self._task)
        self._task = self._line.add_task(text, total=None)

    def advance(self, done: int) -> None:
        """Tell how much of the step is done."""
        self.detail(f"{done:,} {self._unit}")

    def detail(self, text: str) -> None:
        """Tell what the step is at, where that cannot be counted."""
        if self._task is not None:
            self._line.update(self._task, description=f"{self._text}: {text}")


class PlainProgress:
    """A line for each step, and one now and then while it goes on: for a log."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._text = self._unit = ""
        self._said = time.monotonic()

    def __enter__(self) -> PlainProgress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        return None

    def stage(self, text: str, unit: str = "") -> None:
        """Begin a step; ``unit`` is what :meth:`advance` counts."""
        self._text, self._unit = text, unit
        self._say(text)

    def advance(self, done: int) -> None:
        """Tell how much of the step is done."""
        self.detail(f"{done:,} {self._unit}")

    def detail(self, text: str) -> None:
        """Tell what the step is at, where that cannot be counted."""
        if time.monotonic() - self._said >= PLAIN_INTERVAL:
            self._say(f"{self._text}: {text}")

    def _say(self, line: str) -> None:
        print(line, file=self._stream, flush=True)
        self._said = time.monotonic()


def make_progress(stream: TextIO) -> Reporter:
    """Return a live line on a terminal, occasional lines elsewhere."""
    return TerminalProgress(stream) if stream.isatty() else PlainProgress(stream)
