"""Arguments and options that several commands take."""

from __future__ import annotations

import math

import click

from accel.cli.group import CommandError
from accel.program import MemoryTiming, ProgramError

__all__ = [
    "as_json",
    "batch",
    "board_config",
    "budget",
    "calibration",
    "clock",
    "config",
    "configs",
    "memory_interval",
    "memory_latency",
    "network",
]


def _finite(context: click.Context, parameter: click.Parameter, value: float) -> float:
    if not math.isfinite(value):
        raise CommandError(f"{parameter.opts[0]}: must be a finite number, not {value}")
    return value


def _check_memory(_context: click.Context, parameter: click.Parameter, value: int) -> int:
    try:
        MemoryTiming(**{str(parameter.name).removeprefix("memory_"): value})
    except ProgramError as error:
        raise CommandError(f"{parameter.opts[0]}: {error}") from None
    return value


network = click.argument("network")
config = click.option(
    "--config",
    default="base",
    show_default=True,
    metavar="NAME|FILE.toml",
    help="Preset, or TOML file with the engine's dimensions.",
)
board_config = click.option(
    "--config", default="board", show_default=True, metavar="NAME|FILE.toml", help="Configuration of the board's engine."
)
calibration = click.option("--calibration", metavar="FILE", help="Images (.npy or .npz) with which a float model is quantised.")
memory_latency = click.option(
    "--memory-latency",
    type=int,
    default=MemoryTiming.latency,
    show_default=True,
    metavar="L",
    callback=_check_memory,
    help="Cycles from a memory request to its first beat.",
)
memory_interval = click.option(
    "--memory-interval",
    type=int,
    default=MemoryTiming.interval,
    show_default=True,
    metavar="K",
    callback=_check_memory,
    help="Cycles a beat of the memory bus.",
)


def _check_batch(_context: click.Context, _parameter: click.Parameter, batch: int) -> int:
    if batch < 1:
        raise CommandError(f"--batch: must be at least 1 image, not {batch}")
    return batch


batch = click.option(
    "--batch",
    type=int,
    callback=_check_batch,
    default=1,
    show_default=True,
    metavar="N",
    help="Images that the engine takes at a time, layer by layer: they share what it loads of the weights.",
)
budget = click.option(
    "--budget",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="Instructions that the compiler may replay on the cycle model to find a faster program (100000 takes a while).",
)
clock = click.option(
    "--clock",
    type=click.FloatRange(min=0, min_open=True),
    callback=_finite,
    default=100.0,
    show_default=True,
    metavar="MHZ",
    help="Clock of the engine, for images a second.",
)
configs = click.option(
    "--config",
    "configs",
    multiple=True,
    default=("base",),
    show_default="base",
    metavar="NAME|FILE.toml",
    help="Preset, or TOML file with the engine's dimensions; give several to see them all.",
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output, and nothing else.")
