"""How a comparison looks in a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from accel.compare import Comparison, Entry
from accel.peers import scalesim
from accel.peers.published import Figure
from accel.terminal import array_of, memory_of, number, one_image, rate

__all__ = ["show_comparison"]


def show_comparison(console: Console, comparison: Comparison) -> None:
    """Print every network on every configuration, then what the peers take."""
    for part in _parts(comparison):
        console.print(part)
    for note in dict.fromkeys(note for entry in comparison.entries for note in entry.report.notes):
        names = ", ".join(dict.fromkeys(e.report.network for e in comparison.entries if note in e.report.notes))
        console.print(f"note: {names}: {note}")


def _parts(comparison: Comparison) -> Iterator[RenderableType]:
    if not comparison.entries:
        return
    yield from _overview(comparison)
    if any(entry.main_stalls for entry in comparison.entries):
        yield from _stalls(comparison.entries)
    if "scalesim" in comparison.peers:
        yield from _scalesim(comparison.entries)
    if "published" in comparison.peers:
        yield from _published(comparison)


def _overview(comparison: Comparison) -> Iterator[RenderableType]:
    yield _title(f"{one_image(comparison.entries[0].report).capitalize()} at {comparison.clock:g} MHz")
    table = _table("network", "config", right=("cycles", "utilisation", "roofline", "share", "images/s", "bytes moved"))
    last = comparison.entries[0].report.network
    for entry in comparison.entries:
        report = entry.report
        if report.network != last:
            table.add_section()
        last = report.network
        table.add_row(
            report.network,
            report.config.name,
            number(report.cycles_per_image),
            f"{report.utilisation:.1%}",
            number(report.roofline_cycles),
            f"{report.roofline_share:.1%}",
            rate(report.images_per_second),
            number(entry.bytes_per_image),
        )
    yield table
    for config in {entry.report.config.name: entry.report.config for entry in comparison.entries}.values():
        yield f"{config.name}: {array_of(config)}, memory {memory_of(config, comparison.timing)}"
    yield ""


def _stalls(entries: Sequence[Entry]) -> Iterator[RenderableType]:
    yield _title("What each unit waited for longest, in cycles an image")
    units = list(dict.fromkeys(unit for entry in entries for unit in entry.main_stalls))
    table = _table("network", "config", right=units)
    for entry in entries:
        waits = []
        for unit in units:
            state, cycles = entry.main_stalls.get(unit, ("", 0))
            waits.append(f"{number(cycles)} {state.removeprefix('wait_')}" if state else "-")
        table.add_row(entry.report.network, entry.report.config.name, *waits)
    yield table


def _scalesim(entries: Sequence[Entry]) -> Iterator[RenderableType]:
    yield _title(f"SCALE-Sim {scalesim.VERSION} for the same convolutions and fully connected layers")
    ran = any(entry.scalesim_run(dataflow) is not None for entry in entries for dataflow in scalesim.DATAFLOWS)
    run_columns = ("its run", "equal") if ran else ()
    table = _table("network", "config", "dataflow", right=("closed form", *run_columns, "ours", "ours / its"))
    for entry in entries:
        ours = entry.report.cycles_per_image or 0
        for dataflow in scalesim.DATAFLOWS:
            closed, run = entry.scalesim_cycles(dataflow), entry.scalesim_run(dataflow)
            counts = [f"{closed:,}"]
            if ran:
                counts += [number(run), "yes" if run == closed else "NO"]
            share = f"{ours / closed:.2f}" if closed else "-"
            table.add_row(entry.report.network, entry.report.config.name, dataflow, *counts, number(ours), share)
        table.add_section()
    yield table
    yield f"{', '.join(f'{short}: {name}' for short, name in scalesim.DATAFLOWS.items())}"
    yield "ours: the whole network from memory to memory, pooling and element-wise layers included"
    yield f"SCALE-Sim: {scalesim.LEAVES_OUT}"
    if entries[0].report.batch > 1:
        yield "SCALE-Sim's cycles are those of an image alone"
    yield f"as it was asked: {scalesim.MAPPING}\n"


def _published(comparison: Comparison) -> Iterator[RenderableType]:
    sources: dict[str, int] = {}

    def place_of(figure: Figure) -> str:
        return f"[{sources.setdefault(f'{figure.source}: {figure.kind}; {figure.counts}', len(sources) + 1)}]"

    unknown: dict[str, None] = {}
    for network, group in groupby(comparison.entries, key=lambda entry: entry.report.network):
        entries = list(group)
        figures = entries[0].published()
        if not figures:
            unknown[network] = None
        for layers, alike in groupby(figures, key=lambda figure: figure.layers):
            yield _title(f"{network}{', convolutions only' if layers == 'convolutions' else ''}: published figures beside ours")
            yield _beside(entries, list(alike), place_of)
    yield _title("Networks that only their owners have")
    table = _table("engine", "network", right=("MACs", "utilisation", "source"))
    for figure in comparison.other_figures:
        share = "-" if figure.utilisation is None else f"{figure.utilisation:.1%}"
        table.add_row(f"{figure.peer}, {figure.hardware}", figure.network, f"{figure.macs:,}", share, place_of(figure))
    yield table
    if len(unknown) < len({entry.report.network for entry in comparison.entries}):
        yield "MAC-cycles: cycles times MACs, an image: what engines of different size can be compared by"
    if unknown:
        yield f"no figures are known here for {', '.join(unknown)}"
    for source, place in sources.items():
        yield f"[{place}] {source}"
    yield ""


def _beside(entries: Sequence[Entry], figures: Sequence[Figure], place_of: Callable[[Figure], str]) -> Table:
    """Return a table of published figures for one network, ours first."""
    table = _table("engine", right=("MACs", "cycles", "MAC-cycles", "utilisation", "source"))
    ours = [(entry.report.config.name, entry.share_like(figures[0])) for entry in entries]
    for name, share in ours:
        figure_of_ours = f"{share.macs:,}", number(share.cycles), _millions(share.mac_cycles), f"{share.utilisation:.1%}"
        table.add_row(f"Systolith, {name}", *figure_of_ours, "")
    table.add_section()
    macs = ours[0][1].macs_per_image
    for figure in figures:
        cycles = figure.cycles_per_image
        table.add_row(
            f"{figure.peer}, {figure.hardware}",
            f"{figure.macs:,}",
            "-" if cycles is None else f"{cycles:,.0f}",
            _millions(figure.mac_cycles(macs)),
            f"{figure.share(macs):.1%}",
            place_of(figure),
        )
    return table


def _title(text: str) -> Text:
    return Text(text, style="bold")


def _table(*left: str, right: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in left:
        table.add_column(name, no_wrap=True)
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _millions(value: float) -> str:
    return f"{value / 1e6:,.1f} M"
