"""``systolith networks``, ``configs`` and ``disassemble``: what there is, and what a program is made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from accel.cli import options
from accel.cli.output import emit, emit_json, emit_table
from accel.config import DESIGNS, PRESETS, load_config

__all__ = ["configs", "disassemble", "networks"]


@click.command()
@options.as_json
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
        emit_json({"networks": rows})
    else:
        emit_table(
            ("network", "input", "layers", "MACs an image", "description"),
            [(r["name"], _by(r["input"]), f"{r['layers']}", f"{r['macs']:,}", r["description"]) for r in rows],
        )


@click.command()
@options.as_json
def configs(as_json: bool) -> None:
    """List the engine configurations that have names; a TOML file with `base = "small"` changes single fields of a preset.

    The last ones are cut to devices.

    \b
    Example:
      systolith configs
    """
    if as_json:
        emit_json(
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
    emit_table(("config", "array", "bus bytes", "lanes", "scratchpad", "weights", "accumulators", "channels"), rows)


@click.command()
@options.network
@options.config
@options.calibration
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

    emit(listing.disassemble(compile_network(load_network(network, calibration=calibration), engine)).rstrip("\n") + "\n")


def _by(shape: Sequence[int]) -> str:
    return " x ".join(str(n) for n in shape)


def _kib(size: int) -> str:
    return f"{size / 1024:g} KiB"
