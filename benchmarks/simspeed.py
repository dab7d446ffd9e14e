"""How fast each backend simulates: engine cycles and multiply-accumulates a second, LeNet-5 on its sample images.

Builds are not timed. Wall time is what one waits for; processor time is what the run costs, whoever else uses the machine. The
emulator and the golden model have no clock, so for them only multiply-accumulates count. Times depend on the machine: compare them
within one run only.
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
from records import versions, write_json
from rich.console import Console
from rich.table import Table

from accel import golden
from accel.compiler import compile_network
from accel.config import load_config
from accel.errors import SystolithError
from accel.frontends import load_network, sample_images
from accel.images import as_images
from sim.backends import BACKENDS, get_backend

GOLDEN = "golden"
_NAMES = (*BACKENDS, GOLDEN)
#: Images that take some seconds; Amaranth's simulator needs minutes for one.
IMAGES = {"verilator": 50, "pysim": 1, "emulator": 20, GOLDEN: 200}


def measure(backend: str, config: str, repeats: int) -> dict[str, Any]:
    """Return one line of the table: medians of ``repeats`` runs. Raises :class:`SystolithError` for a backend that is not here."""
    network = load_network("lenet5")
    samples = sample_images("lenet5")
    assert samples is not None, "lenet5 has samples"
    images = as_images(samples[0][: IMAGES[backend]], network)
    program = compile_network(network, load_config(config))
    cycles: int | None = None

    def run(batch: npt.NDArray[np.int8]) -> None:
        nonlocal cycles
        if backend == GOLDEN:
            golden.run(network, batch)
            return
        result = get_backend(backend).run(program, list(batch))
        cycles = None if result.cycles is None else sum(result.cycles)

    if backend != "pysim":
        run(images[:1])  # builds what must be built
    wall, processor = [], []
    for _ in range(repeats):
        begin = time.perf_counter(), _processor_seconds()
        run(images)
        wall.append(time.perf_counter() - begin[0])
        processor.append(_processor_seconds() - begin[1])
    seconds, processor_seconds = statistics.median(wall), statistics.median(processor)
    macs = network.macs * len(images)
    return {
        "backend": backend,
        "config": config,
        "images": len(images),
        "repeats": repeats,
        "cycles": cycles,
        "macs": macs,
        "wall_seconds": seconds,
        "processor_seconds": processor_seconds,
        "cycles_per_second": None if cycles is None else cycles / seconds,
        "cycles_per_processor_second": None if cycles is None else cycles / processor_seconds,
        "macs_per_second": macs / seconds,
        "macs_per_processor_second": macs / processor_seconds,
    }


def _processor_seconds() -> float:
    """Processor time of this process and of the children it has waited for: a simulator may be one."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def show(records: Sequence[dict[str, Any]]) -> Table:
    """Return the lines as a table."""
    table = Table()
    table.add_column("backend", no_wrap=True)
    table.add_column("config", no_wrap=True)
    for heading in ("images", "seconds", "processor", "cycles/s", "cycles/processor s", "MACs/s", "MACs/processor s"):
        table.add_column(heading, justify="right", no_wrap=True)
    for r in records:
        speeds = (r["cycles_per_second"], r["cycles_per_processor_second"], r["macs_per_second"], r["macs_per_processor_second"])
        times = f"{r['wall_seconds']:.2f}", f"{r['processor_seconds']:.2f}"
        table.add_row(r["backend"], r["config"], f"{r['images']}", *times, *("-" if s is None else f"{s:,.0f}" for s in speeds))
    return table


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--backend", "backends", multiple=True, type=click.Choice(_NAMES), help="Only this one (may be repeated).")
@click.option("--config", "configs", multiple=True, default=("base", "large"), help="Only this one (may be repeated).")
@click.option("--repeats", type=click.IntRange(min=1), default=3, show_default=True, help="Runs of which the median counts.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write JSON to this file.")
def main(backends: tuple[str, ...], configs: tuple[str, ...], repeats: int, output: Path | None) -> None:
    """Measure the speed of the simulation backends; one that is not here is left out, and said.

    \b
    Example:
      python benchmarks/simspeed.py --backend verilator --backend emulator -o simspeed.json
    """
    try:
        for config in configs:
            load_config(config)
    except SystolithError as error:
        raise click.ClickException(str(error)) from None
    records, missing = [], []
    with Console(stderr=True).status("") as status:
        for config in configs:
            for backend in backends or _NAMES:
                status.update(f"running {backend} at {config}")
                try:
                    # One run of Amaranth's simulator takes minutes and varies little.
                    records.append(measure(backend, config, 1 if backend == "pysim" else repeats))
                except SystolithError as error:
                    missing.append(f"{backend} at {config}: {error}")
    Console(width=None if sys.stdout.isatty() else 160).print(show(records))
    for sentence in missing:
        click.echo(f"left out: {sentence}", err=True)
    if output is not None:
        machine = {"processor": platform.processor() or platform.machine(), "count": os.cpu_count()}
        write_json(output, {"versions": versions(), "machine": machine, "speeds": records, "left_out": missing})


if __name__ == "__main__":
    main()
