"""The files of a core and of a memory image, by name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import resources

from accel.codegen.c_header import HEADER, register_header
from accel.codegen.core import Port, describe, describe_micro, example, lint_waivers
from accel.codegen.memory_image import c_array, c_declaration, c_name, hex_words
from accel.codegen.systemrdl import systemrdl
from accel.config import EngineConfig
from accel.graph import Network
from accel.program import Program

__all__ = ["TOP", "core_files", "driver_files", "image_files", "micro_files"]

#: Name of the core's top module.
TOP = "systolith"

_DRIVER = ("systolith.h", "systolith.c")


def driver_files() -> dict[str, str]:
    """Return the C driver: its two files, and the generated header that it stands on."""
    folder = resources.files("accel.codegen") / "driver"
    return {HEADER: register_header()} | {name: (folder / name).read_text(encoding="utf-8") for name in _DRIVER}


def core_files(config: EngineConfig, *, bus: str, verilog: str, ports: Sequence[Port]) -> dict[str, str]:
    """Return everything that belongs to a core whose top module is :data:`TOP`."""
    files = {
        f"{TOP}.v": verilog,
        f"{TOP}.vlt": lint_waivers(TOP),
        f"{TOP}_example.v": example(top=TOP, bus=bus, ports=ports),
        f"{TOP}.rdl": systemrdl(config),
        **driver_files(),
    }
    description = f"{TOP}.json"
    described = describe(config, top=TOP, bus=bus, ports=ports, files=[*files, description])
    return files | {description: json.dumps(described, indent=2) + "\n"}


def micro_files(config: EngineConfig, *, verilog: str, ports: Sequence[Port]) -> dict[str, str]:
    """Return everything that belongs to a micro engine whose top module is :data:`TOP`."""
    described = describe_micro(config, top=TOP, ports=ports, files=[f"{TOP}.v", f"{TOP}.json"])
    return {f"{TOP}.v": verilog, f"{TOP}.json": json.dumps(described, indent=2) + "\n"}


def image_files(program: Program, network: Network) -> dict[str, str]:
    """Return a compiled network as files: words for ``$readmemh``, and C."""
    name = c_name(program.network)
    return {f"{name}.hex": hex_words(program), f"{name}.h": c_declaration(program), f"{name}.c": c_array(program, network)}
