"""A build as a reader of a terminal sees it."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from accel.fpga.build import Build
from accel.fpga.devices import KINDS

__all__ = ["show_build"]

#: Steps of a critical path that are shown: the longest ones say where the time goes; the JSON output has all.
_LONGEST = 8


def show_build(console: Console, build: Build) -> None:
    """Print what a core takes, how fast it is and why."""
    config = build.config
    console.print(f"{config.name} ({config.rows} x {config.columns}) on {build.device.part}")
    table = Table()
    table.add_column("resource")
    for heading in ("core", "available", "%"):
        table.add_column(heading, justify="right")
    for kind, found in build.resources.items():
        share = f"{100 * found.used / found.available:.0f}" if found.available else ""
        table.add_row(KINDS[kind], f"{found.used:,}", "" if found.available is None else f"{found.available:,}", share)
    console.print(table)
    best = build.best
    if best is not None:
        seeds = ", ".join(f"{route.fmax:.1f} (seed {route.seed})" for route in build.routes)
        console.print(
            f"frequency: {best.fmax:.1f} MHz, the best of: {seeds}" if len(build.routes) > 1 else f"frequency: {seeds} MHz"
        )
        console.print(f"{build.network}: {build.cycles:,} cycles, {build.images_per_second:,.1f} images/s")
        path = best.path
        console.print(
            f"critical path: {path.start} to {path.end}, {path.delay:.2f} ns, of which logic "
            f"{path.share('clk-to-q', 'logic', 'setup'):.2f} and routing {path.share('routing'):.2f}",
            soft_wrap=True,
        )
        threshold = sorted((hop.delay for hop in path.hops), reverse=True)[:_LONGEST][-1]
        for hop in path.hops:
            if hop.delay >= threshold:
                console.print(f"  {hop.delay:6.2f} {hop.kind:8} {hop.to}", soft_wrap=True)
    else:
        console.print(f"{build.network}: {build.cycles:,} cycles")
    for note in build.device.notes:
        console.print(note, soft_wrap=True)
    console.print(f"tools: {', '.join(build.tools)}", soft_wrap=True)
