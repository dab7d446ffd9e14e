"""Compile time and peak memory as networks grow, from LeNet-5 to VGG-16.

Each network is compiled in a process of its own, so that the peak is its own as well; "whole" is that process from its start to
its end, imports included. Networks come without their random weights, as for an estimate; with ``--image`` they have them, and the
memory image is packed too. Times depend on the machine: compare them within one run only.
"""

from __future__ import annotations

import json
import os
import subprocess
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
from accel.config import load_config
from accel.errors import SystolithError
from accel.frontends import NETWORKS, load_network
from accel.perf import estimate

#: From the smallest to the largest.
GROWING = ("lenet5", "resnet8", "mobilenetv1-0.25-96", "mobilenetv1", "alexnet", "resnet18", "resnet50", "vgg16")
_MIB = 1 << 20


def measure_here(name: str, config: str, *, image: bool) -> dict[str, Any]:
    """Compile a network in this process, which should have done nothing else; return its record but for the whole process's."""
    network = load_network(name, assume=not image)
    begin = time.process_time()
    program = compile_network(network, load_config(config))
    compiled = time.process_time()
    size = program.image.nbytes if image else None
    packed = time.process_time()
    cycles = estimate(program).cycles
    return {
        "network": name,
        "config": config,
        "layers": len(program.layers),
        "instructions": len(program.instructions),
        "image_bytes": size,
        "cycles": cycles,
        "compile_seconds": round(compiled - begin, 3),
        "image_seconds": round(packed - compiled, 3) if image else None,
        "estimate_seconds": round(time.process_time() - packed, 3),
    }


def measure(name: str, config: str, *, image: bool) -> dict[str, Any]:
    """Return one line of the table: processor seconds, and the most memory that the process had."""
    command = [sys.executable, __file__, "--network", name, "--config", config, "--here", *(["--image"] if image else [])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        text = process.stdout.read()
        # the usage of this child alone, whatever ran before it
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystolithError(f"{name}: could not be measured on {config}; the process that tried said why")
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    record: dict[str, Any] = json.loads(text)
    return {**record, "whole_seconds": round(usage.ru_utime + usage.ru_stime, 3), "peak_bytes": peak}


def show(records: Sequence[dict[str, Any]]) -> Table:
    """Return the lines as a table."""
    table = Table(caption="processor seconds; peak memory of the whole process", caption_justify="left")
    table.add_column("network", no_wrap=True)
    table.add_column("config", no_wrap=True)
    for heading in ("layers", "instructions", "compile", "image", "estimate", "whole", "peak MiB"):
        table.add_column(heading, justify="right", no_wrap=True)
    for r in records:
        seconds = ("-" if (s := r[f"{key}_seconds"]) is None else f"{s:.2f}" for key in ("compile", "image", "estimate", "whole"))
        counts = f"{r['layers']:,}", f"{r['instructions']:,}"
        table.add_row(r["network"], r["config"], *counts, *seconds, f"{r['peak_bytes'] / _MIB:,.0f}")
    return table


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--network", "networks", multiple=True, type=click.Choice(list(NETWORKS)), help="Only this one (may be repeated).")
@click.option("--config", "configs", multiple=True, default=("large",), show_default=True, help="Preset (may be repeated).")
@click.option("--image", is_flag=True, help="With weights, and pack the memory image too.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write JSON to this file.")
@click.option("--here", is_flag=True, hidden=True)
def main(networks: tuple[str, ...], configs: tuple[str, ...], image: bool, output: Path | None, here: bool) -> None:
    """Measure the compiler.

    \b
    Example:
      python benchmarks/compile.py --network resnet18 --network vgg16 -o compile.json
    """
    jobs = [(name, config) for name in networks or GROWING for config in configs]
    try:
        if here:
            ((name, config),) = jobs
            click.echo(json.dumps(measure_here(name, config, image=image)))
            return
        for config in configs:
            load_config(config)
        progress = track(jobs, description="compiling", console=Console(stderr=True), transient=True)
        records = [measure(name, config, image=image) for name, config in progress]
    except SystolithError as error:
        raise click.ClickException(str(error)) from None
    Console(width=None if sys.stdout.isatty() else 160).print(show(records))
    if output is not None:
        write_json(output, {"versions": versions(), "compile": records})


if __name__ == "__main__":
    main()
