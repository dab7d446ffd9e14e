"""Cycles of each built-in network on each preset: ours, the roofline, and SCALE-Sim's for the same layers.

Ours are those of the cycle model (``accel.perf``), which the test suite holds to the engine's own count. SCALE-Sim's are its closed
forms: ``accel.peers.scalesim`` says what they leave out, and how they count depthwise layers.

``cycles.json`` beside this file has the counts of today, which the test suite compares with what the models say; ``--pin`` writes
it anew after a change that is meant to change them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from records import versions, write_json
from rich.console import Console
from rich.progress import track
from rich.table import Table

from accel.compiler import compile_network
from accel.config import PRESETS, EngineConfig, load_config
from accel.errors import SystolithError
from accel.frontends import NETWORKS, load_network
from accel.peers import scalesim
from accel.perf import estimate
from accel.program import MemoryTiming
from accel.report import report_estimate

#: The pinned counts: what each pair of network and preset takes, at the memory timing that is assumed unless another is given.
PINS = Path(__file__).with_name("cycles.json")
#: What is pinned of a line: nothing that depends on the machine.
COUNTS = ("cycles", "roofline_cycles", "bytes", "scale_sim_os", "scale_sim_ws")
#: Larger networks (in multiply-accumulates) are pinned on the presets of 8x8 and 16x16 only: on the smaller ones, programs have
#: millions of instructions.
_SMALL = 20_000_000


def pinned_pairs() -> list[tuple[str, EngineConfig]]:
    """Return the networks and presets whose counts are pinned."""
    pairs = []
    for name in NETWORKS:
        least = 8 if load_network(name, assume=True).macs > _SMALL else 1
        pairs += [(name, config) for config in PRESETS.values() if config.rows >= least]
    return pairs


def measure(name: str, config: EngineConfig, timing: MemoryTiming) -> dict[str, Any]:
    """Return one line of the table."""
    network = load_network(name, assume=True)
    begin = time.perf_counter()
    program = compile_network(network, config)
    compiled = time.perf_counter()
    estimated = estimate(program, timing)
    done = time.perf_counter()
    report = report_estimate(program, estimated, network, timing=timing, clock=1.0, seconds=done - compiled)
    return {
        "network": name,
        "config": config.name,
        "macs": network.macs,
        "cycles": report.total_cycles,
        "bytes": sum(layer.bytes for layer in report.layers),
        "utilisation": report.utilisation,
        "roofline_cycles": report.roofline_cycles,
        "roofline_share": report.roofline_share,
        "scale_sim_os": scalesim.network_cycles(config, network, "os"),
        "scale_sim_ws": scalesim.network_cycles(config, network, "ws"),
        "compile_seconds": round(compiled - begin, 3),
        "estimate_seconds": round(done - compiled, 3),
    }


def show(records: Sequence[dict[str, Any]]) -> Table:
    """Return the lines as a table."""
    table = Table(
        caption=f"SCALE-Sim {scalesim.VERSION}: ideal memory, convolutions and fully connected layers only", caption_justify="left"
    )
    table.add_column("network", no_wrap=True)
    table.add_column("config", no_wrap=True)
    for heading in ("MACs", "cycles", "utilisation", "roofline", "share", "SCALE-Sim OS", "SCALE-Sim WS"):
        table.add_column(heading, justify="right", no_wrap=True)
    for index, r in enumerate(records):
        if index and r["network"] != records[index - 1]["network"]:
            table.add_section()
        counts = f"{r['macs']:,}", f"{r['cycles']:,}", f"{r['utilisation']:.1%}"
        bounds = f"{r['roofline_cycles']:,}", f"{r['roofline_share']:.1%}"
        table.add_row(r["network"], r["config"], *counts, *bounds, f"{r['scale_sim_os']:,}", f"{r['scale_sim_ws']:,}")
    return table


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--network", "networks", multiple=True, type=click.Choice(list(NETWORKS)), help="Only this one (may be repeated).")
@click.option("--config", "configs", multiple=True, default=tuple(PRESETS), help="Only this one (may be repeated).")
@click.option("--memory-latency", type=int, default=MemoryTiming.latency, show_default=True)
@click.option("--memory-interval", type=int, default=MemoryTiming.interval, show_default=True)
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write JSON to this file.")
@click.option(
    "--pin", is_flag=True, help="Write the counts of networks and presets to cycles.json beside this script; no other option."
)
def main(
    networks: tuple[str, ...], configs: tuple[str, ...], memory_latency: int, memory_interval: int, output: Path | None, pin: bool
) -> None:
    """Compare cycles of networks and presets.

    \b
    Example:
      python benchmarks/cycles.py --network resnet8 --config base --config large -o result.json
    """
    try:
        timing = MemoryTiming(latency=memory_latency, interval=memory_interval)
        engines = [load_config(name) for name in configs]
        jobs = [(name, engine) for name in networks or NETWORKS for engine in engines]
        if pin:
            if networks or configs != tuple(PRESETS) or timing != MemoryTiming() or output is not None:
                raise click.UsageError("--pin: pins what there is to pin; leave the other options out")
            jobs = pinned_pairs()
        progress = track(jobs, description="estimating", console=Console(stderr=True), transient=True)
        records = [measure(name, engine, timing) for name, engine in progress]
    except SystolithError as error:
        raise click.ClickException(str(error)) from None
    Console(width=None if sys.stdout.isatty() else 160).print(show(records))
    head = {
        "versions": versions() | {"scale_sim_forms": scalesim.VERSION},
        "memory": {"latency": timing.latency, "interval": timing.interval},
    }
    if output is not None:
        write_json(output, {**head, "cycles": records})
    if pin:
        pins: dict[str, dict[str, dict[str, int]]] = {}
        for r in records:
            pins.setdefault(r["network"], {})[r["config"]] = {key: r[key] for key in COUNTS}
        write_json(PINS, {**head, "counts": pins})


if __name__ == "__main__":
    main()
