"""Area and frequency of cores on FPGAs, and of whole designs for boards: measures rows, keeps them in ``fpga.json``, writes the
table of ``docs/fpga.md`` from them.

A row names the tools and, by a digest, the core's Verilog and what is done to its netlist and placement: one whose digest is no
longer that of the core is of an older core.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from records import write_json

from accel.compiler import compile_network
from accel.config import load_config
from accel.errors import SystolithError
from accel.fpga import Device, build_core, mending, parse_device, planning
from accel.frontends import load_network
from accel.perf import estimate
from accel.program import MemoryTiming
from accel.terminal import make_progress
from sim.cache import digest_of
from sim.verilator import product_verilog

RESULTS = Path(__file__).with_name("fpga.json")
DOCUMENT = Path(__file__).parents[1] / "docs" / "fpga.md"

_BEGIN = "<!-- written by benchmarks/fpga.py from benchmarks/fpga.json -->\n"
_END = "<!-- end -->\n"
_HEADINGS = (
    "device, or board",
    "configuration",
    "LUTs",
    "flip-flops",
    "multipliers",
    "block RAMs",
    "MHz",
    "seeds",
    "images/s",
    "critical path",
)


def measure(part: str, name: str, seeds: Sequence[int], network: str) -> dict[str, Any]:
    """Return one row; progress goes to standard error."""
    config, device = load_config(name), parse_device(part)
    cycles = estimate(compile_network(load_network(network, assume=True), config), MemoryTiming()).cycles
    with make_progress(sys.stderr) as progress:
        build = build_core(
            config,
            device,
            product=lambda engine: product_verilog(engine, bus="axi"),
            seeds=seeds,
            network=network,
            cycles=cycles,
            stage=progress.stage,
            detail=progress.detail,
        )
    row = build.as_dict()
    if row["critical_path"]:
        del row["critical_path"]["hops"]
    return {"core": _digest(product_verilog(config, bus="axi")[0], device), **row, "config": config.name}


def measure_board(board: str, seeds: Sequence[int], network: str, clock: float | None) -> dict[str, Any]:
    """Return the row of a network on a board: what `systolith bitstream` tells of it."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "accel", "bitstream", network, "--board", board, "--json", "-o", f"{folder}/built"]
        command += [word for seed in seeds for word in ("--seed", str(seed))]
        command += [] if clock is None else ["--clock", str(clock)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            raise SystolithError(f"there is no row of {board}: see above")
        row: dict[str, Any] = json.loads(done.stdout)
        verilog = Path(folder, "built", "systolith_board.v").read_text(encoding="utf-8")
    del row["critical_path"]["hops"]
    return {"core": _digest(verilog, parse_device(row["device"])), **row, "config": row["config"]["name"]}


def _digest(verilog: str, device: Device) -> str:
    return digest_of([verilog, mending(device), planning(device)])


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as a table in Markdown."""
    lines = [f"| {' | '.join(_HEADINGS)} |", f"|{' --- |' * 2}{' ---: |' * 5} --- | ---: | --- |"]
    for row in sorted(rows, key=lambda row: (row["device"], "board" in row, row["resources"]["luts"]["used"])):
        counts = [_count(row["resources"][kind]) for kind in ("luts", "ffs", "dsps", "brams")]
        path = row["critical_path"]
        timing = ["", "", "", ""]
        if path:
            seeds = ", ".join(f"{seed['seed']}" for seed in row["seeds"])
            limit = f"`{path['from']}` to `{path['to']}`, {path['logic_ns']:.1f} + {path['routing_ns']:.1f} ns"
            clock = f", clock {row['clock_mhz']:g}" if "clock_mhz" in row else ""
            timing = [f"{row['fmax_mhz']:.1f}{clock}", seeds, f"{row['images_per_second']:,.0f} ({row['network']})", limit]
        place = f"{row['board']}, {row['device']}" if "board" in row else row["device"]
        lines.append(f"| {' | '.join([place, row['config'], *counts, *timing])} |")
    tools = sorted({tool for row in rows for tool in row["tools"]})
    return "\n".join([*lines, "", f"Tools: {', '.join(tools)}.", ""])


def _count(resource: Mapping[str, int | None]) -> str:
    return f"{resource['used']:,}" + (f" of {resource['available']:,}" if resource["available"] is not None else "")


def with_table(document: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the document with its table replaced."""
    return re.sub(rf"(?s)({re.escape(_BEGIN)}).*?({re.escape(_END)})", lambda m: f"{m[1]}\n{table(rows)}\n{m[2]}", document)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--device", "parts", multiple=True, metavar="PART", help="Measure on this part (may be repeated).")
@click.option("--board", "boards", multiple=True, metavar="NAME", help="Measure the network's design on this board, too.")
@click.option("--clock", type=float, metavar="MHZ", help="Clock of designs on boards.  [default: that of `systolith bitstream`]")
@click.option("--config", "configs", multiple=True, default=("base",), show_default=True, help="Configurations to measure.")
@click.option("--seed", "seeds", type=int, multiple=True, default=(1, 2, 3, 4, 5), show_default=True)
@click.option("--network", default="lenet5", show_default=True)
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write rows here, and leave the document alone."
)
def main(
    parts: tuple[str, ...],
    boards: tuple[str, ...],
    clock: float | None,
    configs: tuple[str, ...],
    seeds: tuple[int, ...],
    network: str,
    output: Path | None,
) -> None:
    """Measure rows of the table, minutes each, and write it anew; without --device and --board write it from what was measured
    before.

    \b
    Examples:
      python benchmarks/fpga.py --device LFE5U-85F-6BG381 --config base
      python benchmarks/fpga.py --board ulx3s-25f --seed 1
    """
    try:
        new = [measure(part, name, seeds, network) for part in parts for name in configs]
        new += [measure_board(board, seeds, network, clock) for board in boards]
    except SystolithError as error:
        raise click.ClickException(str(error)) from None
    old = [] if output is not None else json.loads(RESULTS.read_text(encoding="utf-8"))["rows"]
    rows = list({(row["device"], row["config"]): row for row in [*old, *new]}.values())
    write_json(output or RESULTS, {"rows": rows})
    if output is None:
        DOCUMENT.write_text(with_table(DOCUMENT.read_text(encoding="utf-8"), rows), encoding="utf-8")
    sys.stdout.write(table(rows))


if __name__ == "__main__":
    main()
