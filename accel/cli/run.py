"""``systolith run``: a network simulated, and compared with the golden model."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from accel.cli import options
from accel.cli.group import CommandError
from accel.cli.images import DEFAULT_IMAGES, DEFAULT_IMAGES_PYSIM, images_of_file, images_of_network
from accel.cli.output import emit_json, emit_rich, output_path, replaced, write_timeline
from accel.config import load_config
from accel.program import MemoryTiming

if TYPE_CHECKING:
    from accel.terminal import Reporter

__all__ = ["BACKENDS", "run"]

BACKENDS = ("auto", "verilator", "pysim", "emulator")


@click.command()
@options.network
@options.config
@click.option(
    "--backend",
    type=click.Choice(BACKENDS),
    default="auto",
    show_default=True,
    help="auto takes the fastest this machine has tools for.",
)
@click.option(
    "--images",
    type=click.IntRange(min=1),
    metavar="N",
    help=f"Run the first N sample images.  [default: {DEFAULT_IMAGES}; {DEFAULT_IMAGES_PYSIM} on pysim, or without samples; "
    "in whole batches]",
)
@click.option(
    "--input", "input_file", metavar="FILE", help="Run the images in a .npy, .npz or .png file instead (all, or the first N)."
)
@options.calibration
@options.batch
@options.budget
@options.memory_latency
@options.memory_interval
@click.option("--stall-seed", type=int, metavar="S", help="Stall the memory bus at random as well, from this seed.")
@click.option("--output", metavar="FILE.npy", help="Write the output bytes: int8 (images, height, width, channels).")
@click.option("--vcd", metavar="FILE", help="Write the waveforms to a file (slow and large: use few images).")
@click.option("--trace", metavar="FILE.json", help="Write the timeline of the first batch, for https://ui.perfetto.dev.")
@options.as_json
def run(
    network: str,
    config: str,
    backend: str,
    images: int | None,
    input_file: str | None,
    calibration: str | None,
    batch: int,
    budget: int,
    memory_latency: int,
    memory_interval: int,
    stall_seed: int | None,
    output: str | None,
    vcd: str | None,
    trace: str | None,
    as_json: bool,
) -> None:
    """Compile NETWORK (built-in name, ONNX or TFLite file), simulate it, and check every output byte against the golden model.

    \b
    Examples:
      systolith run lenet5 --images 10
      systolith run lenet5 --config large --memory-latency 100
      systolith run lenet5 --images 16 --batch 4
      systolith run model.onnx --calibration train.npz --input photo.png --output result.npy
    """
    engine = load_config(config)
    timing = MemoryTiming(latency=memory_latency, interval=memory_interval, stall_seed=stall_seed)
    sources = network, config, input_file, calibration
    waves = output_path(vcd, *sources) if vcd is not None else None
    outputs = output_path(output, *sources) if output is not None else None
    if outputs is not None and outputs.suffix.lower() != ".npy":
        raise CommandError(f"{output}: output bytes are written as .npy; give the name of such a file")
    timeline = output_path(trace, *sources) if trace is not None else None

    import numpy as np

    from accel import golden, report, terminal
    from accel.compiler import compile_network
    from accel.frontends import load_network
    from sim.backends import get_backend

    with terminal.make_progress(sys.stderr) as progress:
        progress.stage(f"reading {network}")
        loaded = load_network(network, calibration=calibration)
        runner = get_backend(backend)
        if waves is not None and not runner.cycle_accurate:
            raise CommandError(f"--vcd: the {runner.name} has no signals to write; take --backend verilator or pysim")
        if timeline is not None and not runner.cycle_accurate:
            raise CommandError(f"--trace: the {runner.name} has no clock; take --backend verilator or pysim")
        default = DEFAULT_IMAGES_PYSIM if runner.name == "pysim" else DEFAULT_IMAGES
        if input_file:
            chosen = images_of_file(loaded, input_file, images)
        else:
            chosen = images_of_network(loaded, network, images, default, batch)
        progress.stage(f"compiling {loaded.name} for {engine.name}", "instructions")
        program = compile_network(loaded, engine, batch=batch, budget=budget, advance=progress.advance)
        progress.stage("running the golden model")
        expected = golden.run(loaded, chosen.inputs)
        built = ": each configuration's model is built once, in half a minute to some minutes" if runner.name == "verilator" else ""
        progress.stage(f"preparing {runner.name} ({runner.reason}){built}")
        result = runner.run(program, list(chosen.inputs), timing=timing, vcd=waves, progress=_announce(progress, runner.name))
    outcome = report.report_run(
        program,
        result,
        expected,
        backend=runner.name,
        backend_reason=runner.reason,
        timing=timing,
        source=chosen.source,
        labels=chosen.labels,
        notes=(*loaded.notes, *chosen.notes),
    )
    if outputs is not None:
        with replaced(outputs) as temporary, temporary.open("wb") as file:
            np.save(file, result.outputs)
    if timeline is not None:
        assert result.retired is not None
        assert result.cycles is not None
        spent = result.spent[0] if result.spent is not None else None
        write_timeline(timeline, program, result.retired[0], result.cycles[0], spent=spent)
    if as_json:
        emit_json(outcome.as_dict())
    else:
        emit_rich(lambda console: terminal.show_run(console, outcome, chosen.pixels))
    if outcome.first_mismatch is not None:
        click.echo(f"systolith: {outcome.network}: {outcome.first_mismatch}", err=True)
        click.get_current_context().exit(1)


def _announce(progress: Reporter, name: str) -> Callable[[int], None]:
    """Return what a backend shall call with its cycles; the first call ends its preparations, which may include a build."""
    begun = False

    def advance(cycles: int) -> None:
        nonlocal begun
        if not begun:
            progress.stage(f"simulating on {name}", unit="cycles")
            begun = True
        progress.advance(cycles)

    return advance
