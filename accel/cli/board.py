"""``systolith bitstream`` and ``systolith infer``: a board that holds a network, from its making to its answers."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import click

from accel.board import BAUD, CLOCK
from accel.cli import options
from accel.cli.group import CommandError
from accel.cli.output import emit, emit_json, emit_rich, output_directory, write_directory
from accel.config import load_config

__all__ = ["bitstream", "infer"]


@click.command()
@options.network
@click.option("--board", default="ulx3s-25f", show_default=True, metavar="NAME", help="Board: one of the ULX3S.")
@options.board_config
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
@options.calibration
@click.option("-o", "--output", metavar="DIR", help="Where the bitstream is written.  [default: NETWORK-BOARD]")
@options.as_json
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
    come with `pip install -e '.[fpga]'` in the repository; some minutes. docs/board.md describes the design.

    \b
    Examples:
      systolith bitstream lenet5 -o build
      openFPGALoader -b ulx3s build/systolith_board.bit
      systolith infer --port /dev/ttyUSB0 digit.png
    """
    if clock is not None and not (math.isfinite(clock) and clock > 0):
        raise CommandError(f"--clock: must be a frequency in MHz, not {clock}")
    engine = load_config(config)
    directory = output_directory(output or f"{Path(network).stem}-{board}")

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
                build = flow.build_design(design, device, seeds=dict.fromkeys(seeds), stage=progress.stage, detail=progress.detail)
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
    write_directory(directory, files)
    if as_json:
        emit_json(outcome)
        return
    asked = {"network": network, "config": config, "calibration": calibration, "baud": settings.baud}
    usual = {"network": boards.NETWORK, "config": boards.DESIGN, "calibration": None, "baud": BAUD}
    differing = [(name, value) for name, value in asked.items() if value != usual[name]]
    emit(f"{loaded.name} on {board} ({device.part}), engine {engine.name} ({engine.rows} x {engine.columns})\n")
    emit_rich(lambda console: show_design(console, build))
    emit(
        f"{loaded.name}: {cycles:,} cycles, {1e3 * cycles / settings.clock:.3f} ms, {settings.clock / cycles:,.1f} images/s; "
        f"the serial line takes {1e3 * line:.1f} ms an image\n"
        f"written to {directory}: {', '.join(files)}\n"
        f"load it:  openFPGALoader -b ulx3s {directory / f'{TOP}.bit'}\n"
        f"use it:   systolith infer --port /dev/ttyUSB0{''.join(f' --{name} {value}' for name, value in differing)} IMAGE\n"
    )


@click.command()
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True)
@click.option("--port", required=True, metavar="PORT", help="Serial port of the board, such as /dev/ttyUSB0 or COM3.")
@click.option(
    "--baud", type=click.IntRange(min=1), metavar="N", help=f"Bits a second, as the design was made for.  [default: {BAUD}]"
)
@click.option("--network", default="lenet5", show_default=True, metavar="NETWORK", help="Network on the board.")
@options.board_config
@options.calibration
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=2.0,
    show_default=True,
    metavar="S",
    help="Seconds to wait for an answer.",
)
@options.as_json
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
                emit(f"{name}: {results[-1]['class']}  ({results[-1]['cycles']:,} cycles)\n")
    if as_json:
        emit_json({"network": loaded.name, "config": engine.name, "port": port, "results": results})
