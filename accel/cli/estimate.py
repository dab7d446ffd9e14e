"""``systolith estimate`` and ``systolith compare``: what the cycle model says, alone and beside others."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from accel.cli import options
from accel.cli.group import CommandError
from accel.cli.output import emit, emit_json, emit_rich, output_path, replaced, write_timeline
from accel.config import EngineConfig, load_config
from accel.program import MemoryTiming

if TYPE_CHECKING:
    from accel.compare import ScaleSimRun
    from accel.graph import Network
    from accel.peers.scalesim import Layer
    from accel.perf import Estimate
    from accel.program import Program
    from accel.report import EstimateReport
    from accel.terminal import Reporter

__all__ = ["PEERS", "compare", "estimate", "scalesim_environment"]

PEERS = ("scalesim", "published")


@click.command()
@options.network
@options.configs
@options.calibration
@options.batch
@options.budget
@options.memory_latency
@options.memory_interval
@options.clock
@click.option(
    "--trace", metavar="FILE.json", help="Write the timeline of one batch, for https://ui.perfetto.dev (one configuration)."
)
@options.as_json
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

    Beside them the roofline: the fewest cycles that array and memory bus leave, each convolution and fully connected layer reading
    and writing memory once, the others (-) for nothing. Maps that stay on the chip can beat it, and a layer whose weights are
    loaded while the one before still runs.
    Weights decide no cycle, so a float model needs no calibration data, nor weights at all. Of several configurations, one that
    cannot run NETWORK is said on standard error, and the exit status is 2; the others are estimated all the same.

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
    timeline = output_path(trace, network, calibration, *configs) if trace is not None else None

    from accel import terminal
    from accel.compiler import CompileError
    from accel.frontends import load_network

    outcomes, refusals = [], []
    with terminal.make_progress(sys.stderr) as progress:
        progress.stage(f"reading {network}")
        loaded = load_network(network, calibration=calibration, assume=True)
        for engine in engines:
            try:
                program, estimated, outcome = _estimated(
                    progress, loaded, engine, timing=timing, batch=batch, budget=budget, clock=clock
                )
            except CompileError as error:
                if len(engines) == 1:
                    raise
                refusals.append(f"{loaded.name} on {engine.name}: {error}")
                continue
            outcomes.append(outcome)
            if timeline is not None:
                progress.stage(f"writing {timeline}")
                write_timeline(timeline, program, estimated.retired, estimated.cycles)
    if as_json:
        values = [outcome.as_dict() for outcome in outcomes]
        emit_json(values[0] if len(engines) == 1 else {"estimates": values})
    else:
        for index, outcome in enumerate(outcomes):
            if index:
                emit("\n")
            emit_rich(functools.partial(terminal.show_estimate, report=outcome))
    _tell(refusals)


@click.command()
@click.argument("models", metavar="MODEL...", nargs=-1, required=True)
@options.configs
@click.option("--calibration", metavar="FILE", help="Images (.npy or .npz) with which float models among the files are quantised.")
@options.batch
@options.budget
@options.memory_latency
@options.memory_interval
@options.clock
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
@options.as_json
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
    picture = output_path(plot) if plot is not None else None

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
        environment = scalesim_environment(progress) if run_peer else None
        networks = []
        for model in dict.fromkeys(models):
            progress.stage(f"reading {model}")
            networks.append(load_network(model, calibration=calibration if model in taking else None, assume=True))
        for network in networks:
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
            with replaced(picture) as temporary:
                plotting.draw_roofline(outcome, temporary, picture.suffix.lower())
    if as_json:
        emit_json(outcome.as_dict())
    else:
        emit_rich(lambda console: compare_terminal.show_comparison(console, outcome))
    _tell([f"{refusal.network} on {refusal.config}: {refusal.reason}" for refusal in refusals])


def _tell(refusals: Sequence[str]) -> None:
    """Say what could not be done, after what could; the exit status is that of a refusal then."""
    for refusal in refusals:
        click.echo(f"systolith: {refusal}", err=True)
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


def scalesim_environment(progress: Reporter) -> Path:
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
