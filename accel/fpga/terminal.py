"""A build as a reader of a terminal sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from accel.fpga.build import Build, DesignBuild
from accel.fpga.devices import KINDS
from accel.fpga.flow import Resource, Timing

__all__ = ["show_build", "show_design"]

#: Steps of a critical path that are shown: the longest ones say where the time goes; the JSON output has all.
_LONGEST = 8


def show_build(console: Console, build: Build) -> None:
    """Print what a core takes, how fast it is and why."""
    config = build.config
    console.print(f"{config.name} ({config.rows} x {config.columns}) on {build.device.part}")
    _show_resources(console, "core", build.resources)
    best = build.best
    if best is not None:
        seeds = ", ".join(f"{route.fmax:.1f} (seed {route.seed})" for route in build.routes)
        console.print(
            f"frequency: {best.fmax:.1f} MHz, the best of: {seeds}" if len(build.routes) > 1 else f"frequency: {seeds} MHz"
        )
        _show_stuck(console, build.stuck)
        console.print(f"{build.network}: {build.cycles:,} cycles, {build.images_per_second:,.1f} images/s")
        _show_path(console, best.path)
    else:
        console.print(f"{build.network}: {build.cycles:,} cycles")
    _show_notes(console, build.device.notes, build.tools)


def show_design(console: Console, build: DesignBuild) -> None:
    """Print what a whole design takes, how fast it may be clocked and why not faster."""
    _show_resources(console, "design", build.resources)
    reached = ", ".join(f"{route.fmax:.1f} MHz (seed {route.seed})" for route in build.routes)
    console.print(f"clock: {build.design.clock:g} MHz; routed: {reached}", soft_wrap=True)
    _show_stuck(console, build.stuck)
    _show_path(console, build.routes[-1].path)
    _show_notes(console, build.device.notes, build.tools)


def _show_resources(console: Console, whose: str, resources: Mapping[str, Resource]) -> None:
    table = Table()
    table.add_column("resource")
    for heading in (whose, "available", "%"):
        table.add_column(heading, justify="right")
    for kind, found in resources.items():
        share = f"{100 * found.used / found.available:.0f}" if found.available else ""
        table.add_row(KINDS[kind], f"{found.used:,}", "" if found.available is None else f"{found.available:,}", share)
    console.print(table)


def _show_stuck(console: Console, stuck: Mapping[int, str]) -> None:
    for reason in stuck.values():
        console.print(f"no route: {reason}", soft_wrap=True)


def _show_path(console: Console, path: Timing) -> None:
    console.print(
        f"critical path: {path.start} to {path.end}, {path.delay:.2f} ns, of which logic "
        f"{path.share('clk-to-q', 'logic', 'setup'):.2f} and routing {path.share('routing'):.2f}",
        soft_wrap=True,
    )
    threshold = sorted((hop.delay for hop in path.hops), reverse=True)[:_LONGEST][-1]
    for hop in path.hops:
        if hop.delay >= threshold:
            console.print(f"  {hop.delay:6.2f} {hop.kind:8} {hop.to}", soft_wrap=True)


def _show_notes(console: Console, notes: Sequence[str], tools: Sequence[str]) -> None:
    for note in notes:
        console.print(note, soft_wrap=True)
    console.print(f"tools: {', '.join(tools)}", soft_wrap=True)
