"""``systolith fpga``: what the core takes of a device, and how fast it is there."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

import click

from accel.cli import options
from accel.cli.group import CommandError
from accel.cli.output import emit_json, emit_rich, output_directory, write_directory
from accel.cli.verilog import BUSES, core_verilog
from accel.config import EngineConfig, load_config
from accel.program import MemoryTiming

__all__ = ["fpga"]

#: Nanoseconds at which Vivado aims: what a registered array of DSP48E1 reaches on the slowest speed grade.
_VIVADO_PERIOD = 6.0


@click.command()
@click.option("--board", metavar="NAME", help="Board whose device to take; a name that is not known lists them.")
@click.option("--device", "part", metavar="PART", help="Device by its part number, as LFE5U-85F-6BG381.")
@click.option("--config", metavar="NAME|FILE.toml", help="Preset, or TOML file with the engine's dimensions.  [default: base]")
@click.option("--fit", "fit", metavar="NETWORK", help="Take the configuration that fits and is fastest for this network instead.")
@click.option("--network", metavar="NETWORK", help="Network whose images a second are told.  [default: that of --fit, or lenet5]")
@click.option(
    "--seed", "seeds", type=int, multiple=True, default=(1,), show_default="1", help="Where placing starts; may be repeated."
)
@click.option("-o", "--output", metavar="DIR", help="Write core, harness, constraints of Vivado and the whole report there.")
@options.as_json
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
    `pip install -e '.[fpga]'` in the repository. What was made once is kept.

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
    directory = output_directory(output) if output is not None else None
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
        return core_verilog(engine, BUSES[0])

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
            chosen,
            device,
            product=product,
            seeds=dict.fromkeys(seeds),
            network=loaded.name,
            cycles=cycles,
            stage=progress.stage,
            detail=progress.detail,
        )
    outcome = {"board": board, **build.as_dict()}
    if directory is not None:
        text, ports = product(chosen)
        written = {f"{files.TOP}.v": text, "report.json": json.dumps(outcome, indent=2) + "\n"}
        if device.family == "xilinx":
            written["vivado.tcl"] = flow.vivado_script(device, top=files.TOP, file=f"{files.TOP}.v", period=_VIVADO_PERIOD)
        else:
            written["harness.v"] = flow.harness_verilog(files.TOP, ports)
        write_directory(directory, written)
    if as_json:
        emit_json(outcome)
    else:
        emit_rich(lambda console: show_build(console, build))
