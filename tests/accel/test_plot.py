"""The roofline plot: what is drawn, that no label hides another, and that files appear whole."""

from __future__ import annotations

import struct
import sys
import xml.etree.ElementTree
from functools import cache
from pathlib import Path

import pytest

from accel import perf, plot, report
from accel.compare import Comparison, make_entry
from accel.compiler import compile_network
from accel.config import PRESETS
from accel.frontends import load_network
from accel.plot import draw_roofline
from accel.program import MemoryTiming
from accel.testing import call_cli


@cache
def comparison(networks: tuple[str, ...] = ("lenet5", "dscnn"), configs: tuple[str, ...] = ("base", "large")) -> Comparison:
    entries = []
    for name in networks:
        network = load_network(name)
        for config in configs:
            program = compile_network(network, PRESETS[config])
            estimated = perf.estimate(program)
            figures = report.report_estimate(program, estimated, network, timing=MemoryTiming(), clock=1.0, seconds=0.0)
            entries.append(make_entry(network, program, figures))
    return Comparison(entries=tuple(entries), refusals=(), timing=MemoryTiming(), clock=1.0)


def test_png(tmp_path: Path) -> None:
    path = tmp_path / "roof"
    draw_roofline(comparison(), path, ".png")
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", data[16:24])
    assert width > height > 500


def test_svg_says_what_it_shows_and_is_the_same_each_time(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    for path in (first, second):
        draw_roofline(comparison(), path, ".svg")
    assert first.read_bytes() == second.read_bytes()
    texts = {"".join(element.itertext()).strip() for element in xml.etree.ElementTree.parse(first).iter() if "text" in element.tag}
    utilisation = {
        entry.report.network: entry.report.utilisation for entry in comparison().entries if entry.report.config.name == "base"
    }
    for wanted in (
        "multiply-accumulates a cycle",
        "operational intensity: multiply-accumulates a byte moved",
        "base: 8 x 8 MACs, 8 bytes a cycle",
        "large: 16 x 16 MACs, 16 bytes a cycle",
        f"lenet5 {utilisation['lenet5']:.0%}",
        f"dscnn {utilisation['dscnn']:.0%}",
    ):
        assert wanted in texts, wanted


def test_no_label_covers_another_or_a_total(monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation, Text

    figure = Figure(figsize=(10.5, 6.5), dpi=150, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    plot._draw(figure, comparison(("lenet5", "dscnn", "resnet8"), ("tiny", "small", "base", "large")))
    canvas.draw()
    (axes,) = figure.axes
    notes = [child for child in axes.get_children() if isinstance(child, Annotation)]
    assert len(notes) == 12
    boxes = [Text.get_window_extent(note) for note in notes]
    spots = [axes.transData.transform(note.xy) for note in notes]
    for index, box in enumerate(boxes):
        assert not box.count_overlaps(boxes[index + 1 :]), notes[index].get_text()
        assert not any(box.contains(*spot) for spot in spots), notes[index].get_text()
        inside = axes.get_window_extent()
        assert inside.contains(*box.min), notes[index].get_text()
        assert inside.contains(*box.max), notes[index].get_text()


@pytest.mark.parametrize("name", ["roof.svg", "roof.SVG"])
def test_the_command_writes_a_plot(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    result = call_cli("compare", "lenet5", "--config", "small", "--plot", str(path))
    assert result.exit_code == 0, result.output
    assert list(tmp_path.iterdir()) == [path]
    assert "small: 4 x 4 MACs, 4 bytes a cycle" in path.read_text()
    assert f"drawing {path}" in result.stderr


def test_without_matplotlib_one_sentence_says_what_brings_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = call_cli("compare", "lenet5", "--plot", str(tmp_path / "roof.png"))
    assert result.exit_code == 2
    assert (
        result.stderr
        == "systolith: --plot: needs matplotlib, which is not installed; `pip install -e '.[plot]'` in the repository brings it\n"
    )
    assert not list(tmp_path.iterdir())
