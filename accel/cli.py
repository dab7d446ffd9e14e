"""The command line: ``systolith run lenet5`` and its siblings.

Exit status: 0 when every byte agrees with the golden model, 1 when one does not, 2 for a refusal (one sentence on standard error),
130 when interrupted, 143 when terminated, 141 when nobody reads the output any more.
"""

from __future__ import annotations

import functools
import gc
import json
import math
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from accel.board import BAUD, CLOCK
from accel.config import DESIGNS, PRESETS, EngineConfig, load_config
from accel.errors import SystolithError
from accel.program import MemoryTiming

# What a command needs beyond this is imported when it runs: --help and refusals should not wait for ONNX Runtime or Amaranth.
if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from rich.console import Console

    from accel.compare import ScaleSimRun
    from accel.graph import Network
    from accel.peers.scalesim import Layer
    from accel.perf import Estimate
    from accel.program import Program
    from accel.report import EstimateReport
    from accel.terminal import Pixels, Reporter

__all__ = ["CommandError", "cli", "main"]

PEERS = ("scalesim", "published")
BACKENDS = ("auto", "verilator", "pysim", "emulator")
BUSES = ("axi", "wishbone")
#: Sample images run when no number is given: enough to see, and on Amaranth's simulator (some thousand times slower) just one.
MAX_IMAGES = 100_000
DEFAULT_IMAGES = 10
DEFAULT_IMAGES_PYSIM = 1
#: A network without samples runs on random bytes, of which one image shows as much as many.
DEFAULT_IMAGES_RANDOM = 1
RANDOM_SEED = 0
#: Nanoseconds at which Vivado aims: what a registered array of DSP48E1 reaches on the slowest speed grade.
_VIVADO_PERIOD = 6.0


class CommandError(SystolithError):
    """A command that cannot be carried out."""


class _Refusal(click.ClickException):
    exit_code = 2

    def show(self, file: Any = None) -> None:
        click.echo(f"systolith: {self.message}", file=file, err=file is None)


class _Commands(click.Group):
    """Turns what goes wrong in any command into a sentence and an exit status."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SystolithError as error:
            raise _Refusal(str(error)) from None
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(130)


def main() -> None:
    """Run the command line."""
    # A program is many small objects, none of them garbage; by default Python would look through them all the time.
    gc.set_threshold(100_000, 50, 100)
    # whoever ends this program ends the tools that it runs, and finds no half of a file
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    cli(prog_name="systolith")


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="systolith")
def cli() -> None:
    """Run convolutional networks on a systolic engine, cycle by cycle, every output byte checked.

    \b
    Example:
      systolith run lenet5
    """


def _finite(context: click.Context, parameter: click.Parameter, value: float) -> float:
    if not math.isfinite(value):
        raise CommandError(f"{parameter.opts[0]}: must be a finite number, not {value}")
    return value


_network = click.argument("network")
_config = click.option(
    "--config",
    default="base",
    show_default=True,
    metavar="NAME|FILE.toml",
    help="Preset, or TOML file with the engine's dimensions.",
)
_board_config = click.option(
    "--config", default="board", show_default=True, metavar="NAME|FILE.toml", help="Configuration of the board's engine."
)
_calibration = click.option("--calibration", metavar="FILE", help="Images (.npy or .npz) with which a float model is quantised.")
_memory_latency = click.option(
    "--memory-latency",
    type=int,
    default=MemoryTiming.latency,
    show_default=True,
    metavar="L",
    help="Cycles from a memory request to its first beat.",
)
_memory_interval = click.option(
    "--memory-interval",
    type=int,
    default=MemoryTiming.interval,
    show_default=True,
    metavar="K",
    help="Cycles a beat of the memory bus.",
)


def _check_batch(_context: click.Context, _parameter: click.Parameter, batch: int) -> int:
    if batch < 1:
        raise CommandError(f"--batch: must be at least 1 image, not {batch}")
    return batch


_batch = click.option(
    "--batch",
    type=int,
    callback=_check_batch,
    default=1,
    show_default=True,
    metavar="N",
    help="Images that the engine takes at a time, layer by layer: they share what it loads of the weights.",
)
_budget = click.option(
    "--budget",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="Instructions that the compiler may replay on the cycle model to find a faster program (100000 takes a while).",
)
_clock = click.option(
    "--clock",
    type=click.FloatRange(min=0, min_open=True),
    callback=_finite,
    default=100.0,
    show_default=True,
    metavar="MHZ",
    help="Clock of the engine, for images a second.",
)
_configs = click.option(
    "--config",
    "configs",
    multiple=True,
    default=("base",),
    show_default="base",
    metavar="NAME|FILE.toml",
    help="Preset, or TOML file with the engine's dimensions; give several to see them all.",
)
_as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output, and nothing else.")


@cli.command()
@_network
@_config
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
@_calibration
@_batch
@_budget
@_memory_latency
@_memory_interval
@click.option("--stall-seed", type=int, metavar="S", help="Stall the memory bus at random as well, from this seed.")
@click.option("--output", metavar="FILE.npy", help="Write the output bytes: int8 (images, height, width, channels).")
@click.option("--vcd", metavar="FILE", help="Write the waveforms to a file (slow and large: use few images).")
@click.option("--trace", metavar="FILE.json", help="Write the timeline of the first batch, for https://ui.perfetto.dev.")
@_as_json
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
    waves = _output_path(vcd, *sources) if vcd is not None else None
    outputs = _output_path(output, *sources) if output is not None else None
    if outputs is not None and outputs.suffix.lower() != ".npy":
        raise CommandError(f"{output}: output bytes are written as .npy; give the name of such a file")
    timeline = _output_path(trace, *sources) if trace is not None else None

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
        chosen = _images_of_file(loaded, input_file, images) if input_file else _samples(loaded, network, images, default, batch)
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
        with _replaced(outputs) as temporary, temporary.open("wb") as file:
            np.save(file, result.outputs)
    if timeline is not None:
        assert result.retired is not None
        assert result.cycles is not None
        spent = result.spent[0] if result.spent is not None else None
        _write_timeline(timeline, program, result.retired[0], result.cycles[0], spent=spent)
    if as_json:
        _emit_json(outcome.as_dict())
    else:
        _emit_rich(lambda console: terminal.show_run(console, outcome, chosen.pixels))
    if outcome.first_mismatch is not None:
        click.echo(f"systolith: {outcome.network}: {outcome.first_mismatch}", err=True)
        click.get_current_context().exit(1)


@cli.command()
@_network
@_configs
@_calibration
@_batch
@_budget
@_memory_latency
@_memory_interval
@_clock
@click.option(
    "--trace", metavar="FILE.json", help="Write the timeline of one batch, for https://ui.perfetto.dev (one configuration)."
)
@_as_json
def estimate(
    network: str,
    configs: tuple[str, ...],
    calibration: str | None,
    batch: int,
    budget: int,
    memory_latency: int,
    memory_interval: int,
    clock: float,
    trace: str | None,
    as_json: bool,
) -> None:
    """Compile NETWORK and tell how many cycles it takes, layer by layer, without simulating it: exactly what the engine counts.

    Beside them the roofline: the fewest cycles that array and memory bus leave, each layer reading and writing memory once.
    Weights decide no cycle, so a float model needs no calibration data, nor weights at all.

    \b
    Examples:
      systolith estimate resnet18 --config large
      systolith estimate mobilenetv1 --config base --config large --memory-latency 100 --clock 150
      systolith estimate alexnet --config large --batch 16
      systolith estimate lenet5 --trace lenet5.json
    """
    engines = [load_config(name) for name in configs]
    timing = MemoryTiming(latency=memory_latency, interval=memory_interval)
    if trace is not None and len(engines) > 1:
        raise CommandError(f"--trace: a timeline is of one configuration, not {len(engines)}; give --config once")
    timeline = _output_path(trace, network, calibration, *configs) if trace is not None else None

    from accel import terminal
    from accel.frontends import load_network

    outcomes = []
    with terminal.make_progress(sys.stderr) as progress:
        progress.stage(f"reading {network}")
        loaded = load_network(network, calibration=calibration, assume=True)
        for engine in engines:
            program, estimated, outcome = _estimated(
                progress, loaded, engine, timing=timing, batch=batch, budget=budget, clock=clock
            )
            outcomes.append(outcome)
            if timeline is not None:
                progress.stage(f"writing {timeline}")
                _write_timeline(timeline, program, estimated.retired, estimated.cycles)
    if as_json:
        values = [outcome.as_dict() for outcome in outcomes]
        _emit_json(values[0] if len(values) == 1 else {"estimates": values})
        return
    for index, outcome in enumerate(outcomes):
        if index:
            _emit("\n")
        _emit_rich(functools.partial(terminal.show_estimate, report=outcome))


@cli.command()
@click.argument("models", metavar="MODEL...", nargs=-1, required=True)
@_configs
@click.option("--calibration", metavar="FILE", help="Images (.npy or .npz) with which float models among the files are quantised.")
@_batch
@_budget
@_memory_latency
@_memory_interval
@_clock
@click.option(
    "--peer",
    "peers",
    multiple=True,
    type=click.Choice(PEERS),
    help="Show beside it what SCALE-Sim takes for the same layers, or figures others have published; may be repeated.",
)
@click.option(
    "--run-peer",
    is_flag=True,
    help="Run SCALE-Sim itself too, in an environment of its own, made on first use; slow for large networks.",
)
@click.option("--plot", metavar="FILE.png|svg", help="Draw the roofline, a point for each layer.")
@_as_json
def compare(
    models: tuple[str, ...],
    configs: tuple[str, ...],
    calibration: str | None,
    batch: int,
    budget: int,
    memory_latency: int,
    memory_interval: int,
    clock: float,
    peers: tuple[str, ...],
    run_peer: bool,
    plot: str | None,
    as_json: bool,
) -> None:
    """Estimate every MODEL (built-in names, ONNX or TFLite files) on every configuration, and set them side by side.

    Cycles are exactly those that the engine counts. A MODEL that a configuration cannot run is said on standard error, and the exit
    status is 2; the others are compared all the same.

    \b
    Examples:
      systolith compare resnet8 dscnn --config base --config large
      systolith compare lenet5 --config base --peer scalesim --run-peer
      systolith compare resnet18 mobilenetv1 --config large --peer published --plot roofline.svg
    """
    engines = [load_config(name) for name in dict.fromkeys(configs)]
    names = [engine.name for engine in engines]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise CommandError(f"--config: two configurations are called {twice!r}; give one of them another name")
    timing = MemoryTiming(latency=memory_latency, interval=memory_interval)
    picture = _output_path(plot) if plot is not None else None

    from accel import compare as comparing
    from accel import compare_terminal, terminal
    from accel import plot as plotting
    from accel.compiler import CompileError
    from accel.frontends import load_network

    if picture is not None:
        plotting.check_format(picture)
        plotting.require_matplotlib()
    if run_peer and "scalesim" not in peers:
        peers = (*peers, "scalesim")
    # calibration data are for ONNX files; where there are none, the first model refuses them
    taking = {model for model in models if model.lower().endswith(".onnx")} or set(models)
    entries, refusals = [], []
    with terminal.make_progress(sys.stderr) as progress:
        environment = _scalesim_environment(progress) if run_peer else None
        for model in dict.fromkeys(models):
            progress.stage(f"reading {model}")
            network = load_network(model, calibration=calibration if model in taking else None, assume=True)
            for engine in engines:
                try:
                    program, _, estimation = _estimated(
                        progress, network, engine, timing=timing, batch=batch, budget=budget, clock=clock
                    )
                except CompileError as error:
                    refusals.append(comparing.Refusal(network=network.name, config=engine.name, reason=str(error)))
                    continue
                run = None if environment is None else _scalesim_run(environment, engine, network.name, progress)
                entries.append(
                    comparing.make_entry(network, program, estimation, with_scalesim="scalesim" in peers, run_scalesim=run)
                )
        outcome = comparing.Comparison(
            entries=tuple(entries), refusals=tuple(refusals), timing=timing, clock=clock, peers=tuple(dict.fromkeys(peers))
        )
        if picture is not None and entries:
            progress.stage(f"drawing {picture}")
            with _replaced(picture) as temporary:
                plotting.draw_roofline(outcome, temporary, picture.suffix.lower())
    if as_json:
        _emit_json(outcome.as_dict())
    else:
        _emit_rich(lambda console: compare_terminal.show_comparison(console, outcome))
    for refusal in refusals:
        click.echo(f"systolith: {refusal.network} on {refusal.config}: {refusal.reason}", err=True)
    if refusals:
        click.get_current_context().exit(2)


def _estimated(
    progress: Reporter, network: Network, engine: EngineConfig, *, timing: MemoryTiming, batch: int, budget: int, clock: float
) -> tuple[Program, Estimate, EstimateReport]:
    """Compile a network and estimate it; return the program, what the cycle model says, and what is told of it."""
    from accel import perf, report
    from accel.compiler import compile_network

    progress.stage(f"compiling {network.name} for {engine.name}", "instructions")
    program = compile_network(network, engine, batch=batch, budget=budget, advance=progress.advance)
    progress.stage(f"estimating {network.name} on {engine.name}", "instructions")
    begin = time.perf_counter()
    estimated = perf.estimate(program, timing, advance=progress.advance)
    seconds = time.perf_counter() - begin
    return program, estimated, report.report_estimate(program, estimated, network, timing=timing, clock=clock, seconds=seconds)


def _scalesim_environment(progress: Reporter) -> Path:
    """Return SCALE-Sim's own virtual environment, made first if it is not there."""
    from accel.peers import scalesim
    from sim.cache import cached, digest_of

    progress.stage(f"preparing SCALE-Sim {scalesim.VERSION} (its own environment is made once, from PyPI)")
    return cached("scalesim", digest_of((*scalesim.REQUIREMENTS, sys.executable, sys.version)), scalesim.make_environment)


def _scalesim_run(environment: Path, config: EngineConfig, network: str, progress: Reporter) -> ScaleSimRun:
    """Return what runs SCALE-Sim and tells how far it is."""
    from accel.peers import scalesim

    def run(layers: Sequence[Layer], dataflow: str) -> Mapping[str, int]:
        progress.stage(f"running SCALE-Sim, {scalesim.DATAFLOWS[dataflow]}, for {network} on {config.name}", unit="layers")
        return scalesim.run(environment, config, layers, dataflow, progress.advance)

    return run


@cli.command()
@_as_json
def networks(as_json: bool) -> None:
    """List the built-in networks.

    \b
    Example:
      systolith networks
    """
    from accel.frontends import NETWORKS, load_network

    rows: list[dict[str, Any]] = []
    for name, builtin in NETWORKS.items():
        network = load_network(name, assume=True)
        rows.append(
            {
                "name": name,
                "description": builtin.description,
                "input": list(network.input.shape),
                "output": list(network.tensor(network.output).shape),
                "layers": len(network.operators),
                "macs": network.macs,
            }
        )
    if as_json:
        _emit_json({"networks": rows})
    else:
        _emit_table(
            ("network", "input", "layers", "MACs an image", "description"),
            [(r["name"], _by(r["input"]), f"{r['layers']}", f"{r['macs']:,}", r["description"]) for r in rows],
        )


@cli.command()
@_as_json
def configs(as_json: bool) -> None:
    """List the engine configurations that have names; a TOML file with `base = "small"` changes single fields of a preset.

    The last ones are those of whole designs, whose memory is on the chip.

    \b
    Example:
      systolith configs
    """
    if as_json:
        _emit_json(
            {
                "configs": [
                    {**preset.as_dict(), "digest": f"{preset.digest:016x}"} for preset in (*PRESETS.values(), *DESIGNS.values())
                ]
            }
        )
        return
    rows = [
        (
            c.name,
            f"{c.rows} x {c.columns}",
            f"{c.bus_bytes}",
            f"{c.lanes}",
            _kib(c.scratchpad_words * c.rows),
            _kib(c.weight_words * c.columns),
            _kib(2 * c.accumulator_words * c.columns * 4),
            f"{c.parameter_channels:,}",
        )
        for c in (*PRESETS.values(), *DESIGNS.values())
    ]
    _emit_table(("config", "array", "bus bytes", "lanes", "scratchpad", "weights", "accumulators", "channels"), rows)


@cli.command()
@_network
@_config
@_calibration
def disassemble(network: str, config: str, calibration: str | None) -> None:
    """Compile NETWORK and print its program, an instruction a line.

    \b
    Example:
      systolith disassemble lenet5 --config tiny
    """
    engine = load_config(config)

    from accel import listing
    from accel.compiler import compile_network
    from accel.frontends import load_network

    _emit(listing.disassemble(compile_network(load_network(network, calibration=calibration), engine)).rstrip("\n") + "\n")


@cli.command()
@_config
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="DIR|FILE.v",
    help="Directory for the core and all that belongs to it, or file for the core alone; - for standard output.",
)
@click.option("--bus", type=click.Choice(BUSES), default=BUSES[0], show_default=True, help="Buses of memory and registers.")
@click.option(
    "--memory-image", "memory_image", metavar="NETWORK", help="Also write this network's program, for $readmemh and as C array."
)
@_calibration
def verilog(config: str, output: str, bus: str, memory_image: str | None, calibration: str | None) -> None:
    """Write the engine as a stand-alone core in Verilog-2001, with its description, register files, C driver and an example.

    \b
    Examples:
      systolith verilog --config base -o core/
      systolith verilog --config base --bus wishbone --memory-image lenet5 -o core/
      systolith verilog --config base -o core.v
    """
    engine = load_config(config)
    if engine.micro and bus != BUSES[0]:
        raise CommandError(f"--bus: {engine.name} has its memory in it and no bus; leave --bus out")
    if output == "-" or output.endswith(".v"):
        if memory_image is not None:
            raise CommandError(f"--memory-image: writes several files, so -o must be a directory, not {output}")
        path = None if output == "-" else _output_path(output)
        text, _ = _verilog(engine, bus)
        if path is None:
            _emit(text)
            return
        with _replaced(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
        return
    directory = _output_directory(output)

    from accel.codegen import files

    written: dict[str, str] = {}
    if memory_image is not None:
        from accel.compiler import compile_network
        from accel.frontends import load_network

        network = load_network(memory_image, calibration=calibration)
        written |= files.image_files(compile_network(network, engine), network)
    text, ports = _verilog(engine, bus)
    if engine.micro:
        core = files.micro_files(engine, verilog=text, ports=ports)
    else:
        core = files.core_files(engine, bus=bus, verilog=text, ports=ports)
    _write_directory(directory, written | core)


@cli.command()
@click.option("--board", metavar="NAME", help="Board whose device to take; a name that is not known lists them.")
@click.option("--device", "part", metavar="PART", help="Device by its part number, as LFE5U-85F-6BG381.")
@click.option("--config", metavar="NAME|FILE.toml", help="Preset, or TOML file with the engine's dimensions.  [default: base]")
@click.option("--fit", "fit", metavar="NETWORK", help="Take the configuration that fits and is fastest for this network instead.")
@click.option("--network", metavar="NETWORK", help="Network whose images a second are told.  [default: that of --fit, or lenet5]")
@click.option(
    "--seed", "seeds", type=int, multiple=True, default=(1,), show_default="1", help="Where placing starts; may be repeated."
)
@click.option("-o", "--output", metavar="DIR", help="Write core, harness, constraints of Vivado and the whole report there.")
@_as_json
def fpga(
    board: str | None,
    part: str | None,
    config: str | None,
    fit: str | None,
    network: str | None,
    seeds: tuple[int, ...],
    output: str | None,
    as_json: bool,
) -> None:
    """Synthesise, place and route the core for an FPGA: what it takes, how fast it is, what limits it, and images a second.

    Every input and output of the core sits behind a register of a harness, which is not counted. All tools come with
    `pip install 'systolith[fpga]'`. What was made once is kept.

    \b
    Examples:
      systolith fpga --board ulx3s-85f --config base --seed 1 --seed 2 --seed 3
      systolith fpga --device LFE5U-25F-6BG381 --fit lenet5
      systolith fpga --device xc7z020clg400-1 --config base -o vivado/
    """
    if (board is None) == (part is None):
        raise CommandError("give either a board (--board ulx3s-85f) or a part (--device LFE5U-85F-6BG381)")
    if config is not None and fit is not None:
        raise CommandError("--fit: chooses the configuration, so --config cannot be given too")
    directory = _output_directory(output) if output is not None else None
    chosen = None if fit is not None else load_config(config or "base")

    from accel import fpga as flow
    from accel import perf, terminal
    from accel.codegen import files
    from accel.compiler import CompileError, compile_network
    from accel.fpga.terminal import show_build
    from accel.frontends import load_network

    device = flow.load_board(board).device if board is not None else flow.parse_device(part or "")
    if chosen is not None and chosen.micro and not device.has_spram:
        raise CommandError(f"{chosen.name} is made of the blocks of an iCE40UP5K; take --device iCE40UP5K-SG48, not {device.part}")
    flow.tools_of(device)  # nothing is begun that a missing tool would end

    def product(engine: EngineConfig) -> tuple[str, Sequence[tuple[str, str, int]]]:
        return _verilog(engine, BUSES[0])

    with terminal.make_progress(sys.stderr) as progress:
        progress.stage(f"reading {network or fit or 'lenet5'}")
        loaded = load_network(network or fit or "lenet5", assume=True)
        if fit is not None:
            goal = loaded if network is None else load_network(fit, assume=True)
            options = []
            for engine in flow.candidates(device):
                progress.stage(f"estimating {goal.name} on {engine.name}")
                try:
                    options.append((engine, perf.estimate(compile_network(goal, engine), MemoryTiming()).cycles))
                except CompileError:
                    continue  # a configuration that cannot run the network is none to choose
            chosen = flow.choose(options, device, product=product, stage=progress.stage)
        assert chosen is not None
        cycles = perf.estimate(compile_network(loaded, chosen), MemoryTiming()).cycles
        chosen = flow.suited(chosen, device)
        build = flow.build_core(
            chosen, device, product=product, seeds=dict.fromkeys(seeds), network=loaded.name, cycles=cycles, stage=progress.stage
        )
    outcome = {"board": board, **build.as_dict()}
    if directory is not None:
        text, ports = product(chosen)
        written = {f"{files.TOP}.v": text, "report.json": json.dumps(outcome, indent=2) + "\n"}
        if device.family == "xilinx":
            written["vivado.tcl"] = flow.vivado_script(device, top=files.TOP, file=f"{files.TOP}.v", period=_VIVADO_PERIOD)
        else:
            written["harness.v"] = flow.harness_verilog(files.TOP, ports)
        _write_directory(directory, written)
    if as_json:
        _emit_json(outcome)
    else:
        _emit_rich(lambda console: show_build(console, build))


@cli.command()
@_network
@click.option("--board", default="ulx3s-25f", show_default=True, metavar="NAME", help="Board: one of the ULX3S.")
@_board_config
@click.option("--clock", type=float, metavar="MHZ", help=f"Clock of the design.  [default: {CLOCK / 1e6:g}, or what is reached]")
@click.option("--baud", type=int, metavar="N", help=f"Bits a second on the serial line.  [default: {BAUD}]")
@click.option(
    "--seed",
    "seeds",
    type=int,
    multiple=True,
    default=(1,),
    show_default="1",
    help="Where placing starts; may be repeated: the first that keeps the clock is taken.",
)
@_calibration
@click.option("-o", "--output", metavar="DIR", help="Where the bitstream is written.  [default: NETWORK-BOARD]")
@_as_json
def bitstream(
    network: str,
    board: str,
    config: str,
    clock: float | None,
    baud: int | None,
    seeds: tuple[int, ...],
    calibration: str | None,
    output: str | None,
    as_json: bool,
) -> None:
    """Build NETWORK for a board that needs nothing else: engine, weights in block RAM, serial line, on the board's pins.

    Writes the bitstream, the Verilog and the constraints it was made of, and a report with area, timing and images a second. A
    design that does not keep its clock is built again with one that was reached; with --clock nothing is written then. All tools
    come with `pip install 'systolith[fpga]'`; some minutes. docs/board.md describes the design.

    \b
    Examples:
      systolith bitstream lenet5 -o build
      openFPGALoader -b ulx3s build/systolith_board.bit
      systolith infer --port /dev/ttyUSB0 digit.png
    """
    engine = load_config(config)
    directory = _output_directory(output or f"{Path(network).stem}-{board}")

    from accel import board as boards
    from accel import fpga as flow
    from accel import perf, terminal
    from accel.compiler import compile_network
    from accel.fpga.terminal import show_design
    from accel.frontends import load_network
    from sim.board import TOP, board_design, clock_below

    device = flow.load_board(board).device
    if not board.startswith(boards.BOARD):
        known = ", ".join(name for name in flow.BOARDS if name.startswith(boards.BOARD))
        raise CommandError(f"--board: the design is for {known}, not for {board}; `systolith fpga` tells what a core is there")
    flow.tools_of(device)  # nothing is begun that a missing tool would end
    engine = flow.suited(engine, device)
    settings = boards.Settings(clock=CLOCK if clock is None else round(clock * 1e6), baud=BAUD if baud is None else baud)
    with terminal.make_progress(sys.stderr) as progress:
        progress.stage(f"reading {network}")
        loaded = load_network(network, calibration=calibration)
        program = compile_network(loaded, engine)
        while True:
            progress.stage(f"writing the design for {board} at {settings.clock / 1e6:g} MHz")
            # a platform makes one design only
            platform = flow.load_board(board).platform
            made = board_design(program, settings, platform=platform, blocks=(device.capacity or {})["brams"])
            design = flow.Design(
                verilog=made.verilog,
                top=TOP,
                constraints=made.constraints,
                before=made.before,
                options=made.options,
                clock=settings.clock / 1e6,
            )
            try:
                build = flow.build_design(design, device, seeds=dict.fromkeys(seeds), stage=progress.stage)
                break
            except flow.TooSlowError as error:
                slower = clock_below(error.reached * 1e6)
                if slower is None:
                    raise
                if clock is not None:
                    raise CommandError(f"{error}; give more seeds with --seed, or --clock {slower / 1e6:g}") from None
                settings = replace(settings, clock=slower)
    cycles = perf.estimate(program, made.memory).cycles
    transferred = sum(math.prod(tensor.shape) for tensor in (loaded.input, loaded.tensors[loaded.output]))
    line = transferred * boards.BITS_A_BYTE / settings.baud
    files: dict[str, str | bytes] = {f"{TOP}.{form}": data for form, data in build.bitstream.items()}
    outcome = {
        "board": board,
        "network": loaded.name,
        "config": engine.as_dict(),
        **build.as_dict(),
        "cycles": cycles,
        "images_per_second": settings.clock / cycles,
        "baud": settings.baud,
        "line_seconds": line,
    }
    files |= {f"{TOP}.v": made.verilog, f"{TOP}.lpf": made.constraints, "report.json": json.dumps(outcome, indent=2) + "\n"}
    _write_directory(directory, files)
    if as_json:
        _emit_json(outcome)
        return
    asked = {"network": network, "config": config, "calibration": calibration, "baud": settings.baud}
    usual = {"network": boards.NETWORK, "config": boards.DESIGN, "calibration": None, "baud": BAUD}
    differing = [(name, value) for name, value in asked.items() if value != usual[name]]
    _emit(f"{loaded.name} on {board} ({device.part}), engine {engine.name} ({engine.rows} x {engine.columns})\n")
    _emit_rich(lambda console: show_design(console, build))
    _emit(
        f"{loaded.name}: {cycles:,} cycles, {1e3 * cycles / settings.clock:.3f} ms, {settings.clock / cycles:,.1f} images/s; "
        f"the serial line takes {1e3 * line:.1f} ms an image\n"
        f"written to {directory}: {', '.join(files)}\n"
        f"load it:  openFPGALoader -b ulx3s {directory / f'{TOP}.bit'}\n"
        f"use it:   systolith infer --port /dev/ttyUSB0{''.join(f' --{name} {value}' for name, value in differing)} IMAGE\n"
    )


@cli.command()
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True)
@click.option("--port", required=True, metavar="PORT", help="Serial port of the board, such as /dev/ttyUSB0 or COM3.")
@click.option(
    "--baud", type=click.IntRange(min=1), metavar="N", help=f"Bits a second, as the design was made for.  [default: {BAUD}]"
)
@click.option("--network", default="lenet5", show_default=True, metavar="NETWORK", help="Network on the board.")
@_board_config
@_calibration
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=2.0,
    show_default=True,
    metavar="S",
    help="Seconds to wait for an answer.",
)
@_as_json
def infer(
    images: tuple[str, ...],
    port: str,
    baud: int | None,
    network: str,
    config: str,
    calibration: str | None,
    timeout: float,
    as_json: bool,
) -> None:
    """Have a board classify IMAGEs (.png, .npy, .npz), and tell in how many clock cycles it did.

    The board holds the network; docs/board.md tells how it gets there.

    \b
    Example:
      systolith infer --port /dev/ttyUSB0 digit.png
    """
    engine = load_config(config)

    from accel import board
    from accel.compiler import compile_network
    from accel.driver import Driver
    from accel.frontends import load_network
    from accel.images import load_images

    loaded = load_network(network, calibration=calibration)
    program = compile_network(loaded, engine)
    chosen = [(name, image) for name in images for image in load_images(name, loaded)]
    results = []
    with board.open_port(port, baud=baud or BAUD, timeout=timeout) as line:
        there = board.Board(line, name=port)
        there.require(program)
        driver = Driver(there, program, base=0, loaded=True)
        for name, image in chosen:
            output = driver.run(image, timeout=timeout)
            results.append(
                {"image": name, "class": int(output.argmax()), "cycles": driver.cycles, "output": output.flatten().tolist()}
            )
            if not as_json:
                _emit(f"{name}: {results[-1]['class']}  ({results[-1]['cycles']:,} cycles)\n")
    if as_json:
        _emit_json({"network": loaded.name, "config": engine.name, "port": port, "results": results})


def _verilog(config: EngineConfig, bus: str) -> tuple[str, Sequence[tuple[str, str, int]]]:
    """Return the core's Verilog, and its ports: name, direction, width."""
    from sim.verilator import product_verilog

    return product_verilog(config, bus=bus)


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


# Images


@dataclass(frozen=True, kw_only=True)
class _Images:
    """What a run is fed: int8 NHWC ``inputs``, and what is known of them. ``pixels`` are uint8 pictures, if they are any."""

    inputs: npt.NDArray[np.int8]
    pixels: list[Pixels] | None
    labels: list[int] | None
    source: str
    notes: tuple[str, ...] = ()


def _images_of_file(network: Network, path: str, count: int | None) -> _Images:
    from accel.images import load_images

    inputs = load_images(path, network)
    if count is not None and count > len(inputs):
        raise CommandError(f"--images: {path} holds {len(inputs)}, not {count}")
    inputs = inputs[:count]
    return _Images(inputs=inputs, pixels=_pixels(inputs), labels=None, source=path)


def _samples(network: Network, name: str, count: int | None, default: int, batch: int) -> _Images:
    """Return ``count`` sample images of the built-in network called ``name``; random ones, if it has none.

    When no count is given, they fill the batches that ``default`` images take.
    """
    import numpy as np

    from accel.frontends import NETWORKS, sample_images
    from accel.images import as_images

    samples = sample_images(name) if name in NETWORKS else None
    if samples is None:
        if count is not None and count > MAX_IMAGES:
            raise CommandError(f"--images: must be at most {MAX_IMAGES:,} random images, not {count:,}")
        shape = count or _whole_batches(DEFAULT_IMAGES_RANDOM, batch), *network.input.shape
        inputs = np.random.default_rng(RANDOM_SEED).integers(-128, 128, shape, dtype=np.int8)
        note = (
            f"{network.name} has no sample images, so it ran on random bytes and its classes mean nothing; give images with --input"
        )
        return _Images(inputs=inputs, pixels=None, labels=None, source=f"random bytes from seed {RANDOM_SEED}", notes=(note,))
    raw, labels = samples
    count = count or min(_whole_batches(default, batch), len(raw))
    if count > len(raw):
        raise CommandError(f"--images: {name} has {len(raw)} sample images, not {count}")
    return _Images(
        inputs=as_images(raw[:count], network),
        pixels=list(raw[:count]),
        labels=[int(n) for n in labels[:count]],
        source="held-out samples of the network",
    )


def _whole_batches(count: int, batch: int) -> int:
    """Return ``count`` rounded up to whole batches."""
    return -(-count // batch) * batch


def _pixels(inputs: npt.NDArray[np.int8]) -> list[Pixels] | None:
    """Return int8 maps as pictures, if they have the form of some."""
    _, height, width, channels = inputs.shape
    if min(height, width) < 8 or channels not in (1, 3):
        return None
    return list(inputs.view("uint8") ^ 0x80)


# Output


def _emit(text: str) -> None:
    """Write to standard output. A reader that has left ends the command quietly; a full disk is an error."""
    try:
        encoding = sys.stdout.encoding or "utf-8"
        sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
        sys.stdout.flush()
    except BrokenPipeError:
        # What is still buffered must not fail again when Python flushes it on its way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        click.get_current_context().exit(141)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise CommandError(f"standard output cannot be written: {error.strerror}") from None


def _emit_json(value: object) -> None:
    _emit(json.dumps(value, indent=2) + "\n")


def _emit_table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    from rich.table import Table

    table = Table()
    for index, name in enumerate(header):
        text = index == 0 or name == "description"
        table.add_column(name, justify="left" if text else "right", no_wrap=name != "description")
    for row in rows:
        table.add_row(*row)
    _emit_rich(lambda console: console.print(table))


def _emit_rich(show: Callable[[Console], None]) -> None:
    """Write what ``show`` prints on a console like standard output, without the blanks that pad its lines."""
    from accel.terminal import make_console

    console = make_console(sys.stdout)
    try:
        with console.capture() as capture:
            show(console)
    except OSError as error:  # the console flushes what it captures for
        raise CommandError(f"standard output cannot be written: {error.strerror}") from None
    _emit("".join(f"{line.rstrip()}\n" for line in capture.get().splitlines()))


def _by(shape: Sequence[int]) -> str:
    return " x ".join(str(n) for n in shape)


def _write_timeline(path: Path, program: Program, *arguments: Any, **more: Any) -> None:
    """Write a trace (see :func:`accel.trace.timeline`, which takes the rest) as JSON."""
    from accel.trace import timeline

    with _replaced(path) as temporary:
        temporary.write_text(json.dumps(timeline(program, *arguments, **more), separators=(",", ":")) + "\n", encoding="utf-8")


def _kib(size: int) -> str:
    return f"{size / 1024:g} KiB"


def _output_path(name: str, *inputs: str | None) -> Path:
    """Return the path of a file to be written; refuse early what cannot be, and what the command reads."""
    path = Path(name)
    for read in inputs:
        if read is not None and path.exists() and Path(read).exists() and path.samefile(read):
            raise CommandError(f"{name}: is read by this command too; give the name of another file to write")
    if path.is_dir():
        raise CommandError(f"{name}: is a directory; give the name of a file to write")
    if path.exists() and not path.is_file():
        raise CommandError(f"{name}: is not a regular file; give the name of a file to write")
    if not path.parent.is_dir():
        raise CommandError(f"{name}: the directory {path.parent} does not exist; make it first")
    if not os.access(path.parent, os.W_OK):
        raise CommandError(f"{name}: the directory {path.parent} may not be written to; choose another")
    return path


@contextmanager
def _replaced(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``, renamed to it at the end; gone when anything goes wrong, an interrupt included."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise CommandError(f"{path}: cannot be written: {error.strerror}") from None
    finally:
        temporary.unlink(missing_ok=True)


def _output_directory(name: str) -> Path:
    """Return the path of a directory to be written, which may be there; refuse early what cannot be."""
    path = Path(name)
    if path.exists() and not path.is_dir():
        raise CommandError(f"{name}: is not a directory; give a directory, or a file whose name ends in .v")
    if not path.is_dir() and not path.absolute().parent.is_dir():
        raise CommandError(f"{name}: the directory {path.parent} does not exist; make it first")
    if not os.access(path if path.is_dir() else path.absolute().parent, os.W_OK):
        raise CommandError(f"{name}: may not be written to; choose another directory")
    return path


def _write_directory(path: Path, files: Mapping[str, str | bytes]) -> None:
    """Write files into a directory: they appear when all are written. A new directory appears with them, or not at all."""
    path = path.absolute()
    # what is there already may lie on a file system of its own, beside which nothing can be written
    temporary = (path if path.is_dir() else path.parent) / f".{path.name}.{os.getpid()}.part"
    try:
        temporary.mkdir()
        for name, content in files.items():
            (temporary / name).write_bytes(content.encode() if isinstance(content, str) else content)
        if not path.exists():
            temporary.rename(path)
            return
        for name in files:
            (temporary / name).replace(path / name)
    except OSError as error:
        raise CommandError(f"{path}: cannot be written: {error.strerror}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
