"""``systolith verilog``: the core as files, for a design of the user's own."""

from __future__ import annotations

from collections.abc import Sequence

import click

from accel.cli import options
from accel.cli.group import CommandError
from accel.cli.output import emit, output_directory, output_path, replaced, write_directory
from accel.config import EngineConfig, load_config

__all__ = ["BUSES", "core_verilog", "verilog"]

BUSES = ("axi", "wishbone")


@click.command()
@options.config
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
@options.calibration
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
        path = None if output == "-" else output_path(output)
        text, _ = core_verilog(engine, bus)
        if path is None:
            emit(text)
            return
        with replaced(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
        return
    directory = output_directory(output)

    from accel.codegen import files

    written: dict[str, str] = {}
    if memory_image is not None:
        from accel.compiler import compile_network
        from accel.frontends import load_network

        network = load_network(memory_image, calibration=calibration)
        written |= files.image_files(compile_network(network, engine), network)
    text, ports = core_verilog(engine, bus)
    if engine.micro:
        core = files.micro_files(engine, verilog=text, ports=ports)
    else:
        core = files.core_files(engine, bus=bus, verilog=text, ports=ports)
    write_directory(directory, written | core)


def core_verilog(config: EngineConfig, bus: str) -> tuple[str, Sequence[tuple[str, str, int]]]:
    """Return the core's Verilog, and its ports: name, direction, width."""
    from sim.verilator import product_verilog

    return product_verilog(config, bus=bus)
