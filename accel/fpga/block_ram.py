"""Registers behind block RAM, moved into it.

A DP16KD of ECP5 has registers at its outputs: without them a word comes 5.6 ns after the clock's edge. Yosys leaves the registers
that a design has there outside, so they are moved in between Yosys and nextpnr.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any, NamedTuple

__all__ = ["absorb_registers"]

_MEMORY = "DP16KD"
_REGISTER = "TRELLIS_FF"

#: Width in bits at which port B alone reads, at the outputs of both.
_WIDE = 36


class _Load(NamedTuple):
    cell: str
    port: str


def absorb_registers(module: dict[str, Any]) -> int:
    """Change a module of ECP5's primitives (as in Yosys's JSON): have memories register their outputs where all that a port reads
    goes to registers alone, one a bit, without enable or reset, and the port has neither. Return how many registers are gone."""
    cells: dict[str, dict[str, Any]] = module["cells"]
    loads: dict[int, list[_Load]] = defaultdict(list)
    for name, cell in cells.items():
        for port, bits in cell["connections"].items():
            if cell["port_directions"][port] == "input":
                for bit in bits:
                    loads[bit].append(_Load(name, port))
    for name, port in module["ports"].items():
        if port["direction"] != "input":
            for bit in port["bits"]:
                loads[bit].append(_Load("", name))
    gone = 0
    for cell in list(cells.values()):
        if cell["type"] != _MEMORY:
            continue
        wide = int(cell["parameters"]["DATA_WIDTH_B"], 2) == _WIDE
        for side, ports in (("B", "AB"),) if wide else (("A", "A"), ("B", "B")):
            own = {name: cell["connections"][f"{name}{side}"] for name in ("CLK", "CE", "OCE", "RST")}
            if own["CE"] != ["1"] or own["OCE"] != ["1"] or own["RST"] != ["0"]:
                continue
            outputs = [name for name in cell["connections"] if name.startswith(tuple(f"DO{port}" for port in ports))]
            bits = {bit for name in outputs for bit in cell["connections"][name] if isinstance(bit, int) and loads[bit]}
            found = {bit: _register(cells, loads[bit], own["CLK"]) for bit in bits}
            if not found or any(register is None for register in found.values()):
                continue
            for name in outputs:
                kept = cell["connections"][name]
                registers = [found.get(bit) for bit in kept]
                cell["connections"][name] = [
                    cells[register]["connections"]["Q"][0] if register else bit
                    for register, bit in zip(registers, kept, strict=True)
                ]
            for register in found.values():
                assert register is not None
                del cells[register]
            gone += len(found)
            for port in ports:
                cell["parameters"][f"REGMODE_{port}"] = "OUTREG"
                cell["connections"][f"OCE{port}"] = ["1"]  # of the two that are one port, Yosys sets B's alone
    return gone


def _register(cells: dict[str, dict[str, Any]], loads: list[_Load], clock: list[int]) -> str | None:
    """Return the register that is all that a bit goes to, if the memory's own can take its place."""
    if len(loads) != 1 or loads[0].port != "DI" or cells.get(loads[0].cell, {}).get("type") != _REGISTER:
        return None
    name = loads[0].cell
    connections, parameters = cells[name]["connections"], cells[name]["parameters"]
    plain = {"CEMUX": "1", "CLKMUX": "CLK", "GSR": "DISABLED", "REGSET": "RESET"}
    # (Yosys's JSON has a space behind a text that looks like a number)
    alike = all(parameters.get(parameter, value).rstrip() == value for parameter, value in plain.items())
    if not alike or connections["CLK"] != clock or connections.get("LSR", ["0"]) != ["0"]:
        return None
    return name
