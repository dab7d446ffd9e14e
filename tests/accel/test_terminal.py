"""Pictures, tables and progress as text."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from rich.table import Table

from accel import terminal
from accel.config import PRESETS
from accel.program import MemoryTiming
from accel.report import LayerReport, Mismatch, RunReport
from accel.terminal import COLUMNS, SIDE, PlainProgress, make_console, make_progress, picture, show_run

REPORT = RunReport(
    network="fake",
    config=PRESETS["tiny"],
    backend="pysim",
    backend_reason="asked for",
    timing=MemoryTiming(interval=2, stall_seed=7),
    source="a test",
    images=2,
    mismatches=0,
    first_mismatch=None,
    predictions=(7, 1),
    labels=(7, 2),
    total_cycles=2468,
    macs_per_image=1200,
    seconds=2.0,
    layers=(
        LayerReport(name="c1", op="conv", cycles=1000, macs=1200, utilisation=0.3, bytes=12345),
        LayerReport(name="p1", op="max pool", cycles=234, macs=0, utilisation=0.0, bytes=8),
    ),
    stalls={"load": {"wait_memory": 40, "wait_execute": 2.5}, "execute": {}, "store": {}},
    notes=("the last softmax is left to the host",),
)


def shown(report: RunReport, images: list[np.ndarray] | None = None) -> str:
    stream = io.StringIO()
    show_run(make_console(stream), report, images)
    return stream.getvalue()


def test_a_picture_is_nine_lines_of_half_blocks() -> None:
    pixels = np.zeros((28, 28), np.uint8)
    pixels[4:24, 4:14] = 255  # the left half of the frame that is left when the border is cut away and the sides made equal
    lines = picture(pixels, colour=False).plain.split("\n")
    assert len(lines) == SIDE // 2
    assert {len(line) for line in lines} == {SIDE}
    assert set("".join(lines)) <= set(" ▀▄█")
    columns = [all(line[x] == "█" for line in lines) for x in range(SIDE)]
    assert sum(columns) == pytest.approx(SIDE / 2, abs=1)


def test_upper_and_lower_pixel_are_told_apart() -> None:
    pixels = np.zeros((SIDE, SIDE), np.uint8)
    pixels[0, 0], pixels[-1, -1], pixels[2:4, 5] = 255, 255, 255
    lines = picture(pixels, colour=False).plain.split("\n")
    assert (lines[0][0], lines[-1][-1], lines[1][5], lines[1][6]) == ("▀", "▄", "█", " ")
    plain = picture(pixels, colour=False, unicode=False).plain
    assert plain.isascii()
    assert plain.count("#") == 1


def test_colours_are_those_of_the_pixels() -> None:
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    pixels[0, 0] = (255, 128, 0)
    text = picture(pixels, colour=True)
    style = text.get_style_at_offset(make_console(io.StringIO()), 0)
    assert style.color is not None
    assert style.bgcolor is not None
    assert (style.color.name, style.bgcolor.name) == ("#ff8000", "#000000")


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (28, 28, 1), (96, 64, 3)])
@pytest.mark.parametrize("value", [0, 255])
def test_pictures_of_any_size_even_empty_ones(shape: tuple[int, ...], value: int) -> None:
    assert len(picture(np.full(shape, value, np.uint8), colour=False).plain) == SIDE // 2 * (SIDE + 1) - 1


def test_a_run_has_every_figure() -> None:
    text = shown(REPORT, [np.eye(28, dtype=np.uint8)] * 2)
    for words in (
        *("7  as labelled", "1  labelled 2", "c1", "1,000", "1,234", "30.0%", "12,345", "12,353", "1,200"),
        *("load unit waits: 40 for memory, 2.5 for execute", "every 2 cycles", "seed 7", "1,234 cycles/s", "1 of 2 right"),
        *("pysim (asked for)", "note: the last softmax", "bit-exact: every output byte of 2 of 2 images"),
    ):
        assert words in text, words
    assert max(map(len, text.splitlines())) <= COLUMNS


def test_a_mismatch_is_never_shown_as_success() -> None:
    wrong = Mismatch(image=1, y=2, x=3, channel=4, got=-5, expected=6)
    text = " ".join(shown(replace(REPORT, mismatches=1, first_mismatch=wrong)).split())
    assert "NOT bit-exact: 1 of 2 images equal the golden model; image 1 differs" in text
    assert "(y, x, c) = (2, 3, 4): got -5, expected 6" in text
    assert "every output byte" not in text


def test_without_a_clock_nothing_is_counted() -> None:
    layers = tuple(replace(layer, cycles=None, utilisation=None) for layer in REPORT.layers)
    text = shown(replace(REPORT, total_cycles=None, layers=layers, stalls={}, labels=None))
    assert "not counted" in text
    assert "cycles/s" not in text
    assert "class of each image: 7 1" in text


def test_many_images_are_not_all_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "SHOWN", 5)
    text = shown(replace(REPORT, images=9, predictions=(1,) * 9, labels=None), [np.eye(28, dtype=np.uint8)] * 9)
    assert "and 4 more" in text
    assert text.count("█") == shown(
        replace(REPORT, images=5, predictions=(1,) * 5, labels=None), [np.eye(28, dtype=np.uint8)] * 5
    ).count("█")


def test_names_are_not_markup() -> None:
    layers = (replace(REPORT.layers[0], name="[bold]x[/bold]"),)
    text = shown(replace(REPORT, network="[red]", source="[link]f.npy", layers=layers, notes=("[/]",)))
    for words in ("[bold]x[/bold]", "[red] on tiny", "[link]f.npy", "note: [/]"):
        assert words in text


def test_progress_in_a_log_is_a_line_a_step_and_one_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now)
    stream = io.StringIO()
    with make_progress(stream) as progress:
        assert isinstance(progress, PlainProgress)
        progress.stage("compiling")
        progress.stage("simulating", unit="cycles")
        for cycles in range(0, 25_000, 1000):
            progress.advance(cycles)
            now += 1
        progress.stage("routing")
        for n in range(12):
            progress.detail(f"round {n}")
            now += 1
    assert stream.getvalue().splitlines() == [
        "compiling",
        "simulating",
        "simulating: 10,000 cycles",
        "simulating: 20,000 cycles",
        "routing",
        "routing: round 10",
    ]


def test_progress_on_a_terminal_is_a_live_line_that_goes_away() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    with make_progress(stream) as progress:
        progress.stage("compiling [x]")
        progress.stage("simulating", unit="cycles")
        progress.advance(1_000)
    assert "\n\n" not in stream.getvalue()


@pytest.mark.parametrize("columns", [20, 40, 80])
def test_no_figure_is_cut_however_narrow_the_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    table = Table()
    table.add_column("a name that is rather long", overflow="fold")
    for n in range(8):
        table.add_column(f"figure{n}", justify="right", no_wrap=True)
    figures = [f"{10**7 + n:,}" for n in range(8)]
    table.add_row("layer3.0.conv1+layer3.0.relu+pool", *figures)

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    console = make_console(stream)
    console.print(table)
    assert console.width == columns
    assert all(figure in stream.getvalue() for figure in figures)
    assert "…" not in stream.getvalue()
