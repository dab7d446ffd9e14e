"""Registers behind block RAM and multipliers, moved into them.

A DP16KD of ECP5 has registers at its outputs: without them a word comes 5.6 ns after the clock's edge, with them 1.0. A MULT18X18D
has one too: without it the product comes 3.9 ns after the operands, and may have a long way to the register. Yosys leaves the
registers that a design has there outside, so they are moved in between Yosys and nextpnr.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, NamedTuple

__all__ = ["absorb_registers"]

_MEMORY = "DP16KD"
_MULTIPLIER = "MULT18X18D"
_REGISTER = "TRELLIS_FF"

#: Width in bits at which port B alone reads, at the outputs of both.
_WIDE = 36

_Cell = dict[str, Any]


class _Load(NamedTuple):
    cell: str
    port: str


def absorb_registers(module: dict[str, Any]) -> int:
    """Change a module of ECP5's primitives (as in Yosys's JSON): have block RAMs and multipliers register their outputs where all
    that they put out goes to registers alone, one a bit, which those inside can stand for. Return how many registers are gone."""
    cells: dict[str, _Cell] = module["cells"]
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
        if cell["type"] == _MEMORY:
            gone += _into_memory(cells, loads, cell)
        elif cell["type"] == _MULTIPLIER:
            gone += _into_multiplier(cells, loads, cell)
    return gone


def _into_memory(cells: dict[str, _Cell], loads: Mapping[int, list[_Load]], cell: _Cell) -> int:
    """Move the registers behind a memory's ports into it: those without enable or reset, behind a port that has neither."""
    gone = 0
    wide = int(cell["parameters"]["DATA_WIDTH_B"], 2) == _WIDE
    for side, ports in (("B", "AB"),) if wide else (("A", "A"), ("B", "B")):
        own = {name: cell["connections"][f"{name}{side}"] for name in ("CLK", "CE", "OCE", "RST")}
        if own["CE"] != ["1"] or own["OCE"] != ["1"] or own["RST"] != ["0"]:
            continue
        outputs = [name for name in cell["connections"] if name.startswith(tuple(f"DO{port}" for port in ports))]
        found = _registers(cells, loads, cell, outputs)
        if found is None or any(
            _enable(cells[name]) != ["1"] or cells[name]["connections"]["CLK"] != own["CLK"] for name in found.values()
        ):
            continue
        gone += _remove(cells, cell, outputs, found)
        for port in ports:
            cell["parameters"][f"REGMODE_{port}"] = "OUTREG"
            cell["connections"][f"OCE{port}"] = ["1"]  # of the two that are one port, Yosys sets B's alone
    return gone


def _into_multiplier(cells: dict[str, _Cell], loads: Mapping[int, list[_Load]], cell: _Cell) -> int:
    """Move the registers behind a multiplier without registers into it: those that have one enable, or none."""
    if any(name.startswith("REG_") for name in cell["parameters"]):
        return 0
    outputs = [name for name in cell["connections"] if cell["port_directions"][name] == "output"]
    found = _registers(cells, loads, cell, outputs)
    if found is None:
        return 0
    first, *others = found.values()
    clock, enable = cells[first]["connections"]["CLK"], _enable(cells[first])
    if any(cells[name]["connections"]["CLK"] != clock or _enable(cells[name]) != enable for name in others):
        return 0
    gone = _remove(cells, cell, outputs, found)
    cell["parameters"] |= {"REG_OUTPUT_CLK": "CLK0", "REG_OUTPUT_CE": "CE0"}
    for port, bits in {"CLK0": clock, "CE0": enable, "RST0": ["0"]}.items():
        cell["port_directions"][port] = "input"
        cell["connections"][port] = bits
    return gone


def _registers(cells: dict[str, _Cell], loads: Mapping[int, list[_Load]], cell: _Cell, outputs: list[str]) -> dict[int, str] | None:
    """Return the register behind each bit of some outputs that goes anywhere, None unless each goes to one and nothing else."""
    bits = {bit for name in outputs for bit in cell["connections"][name] if isinstance(bit, int) and loads[bit]}
    found = {bit: register for bit in bits if (register := _register(cells, loads[bit])) is not None}
    return found if found and len(found) == len(bits) else None


def _remove(cells: dict[str, _Cell], cell: _Cell, outputs: list[str], found: Mapping[int, str]) -> int:
    """Have a cell's outputs drive what the registers behind them did, and remove those."""
    for name in outputs:
        cell["connections"][name] = [
            cells[found[bit]]["connections"]["Q"][0] if bit in found else bit for bit in cell["connections"][name]
        ]
    for register in found.values():
        del cells[register]
    return len(found)


def _register(cells: dict[str, _Cell], loads: list[_Load]) -> str | None:
    """Return the register that is all that a bit goes to, if it has no reset."""
    if len(loads) != 1 or loads[0].port != "DI" or cells[loads[0].cell]["type"] != _REGISTER:
        return None
    name = loads[0].cell
    connections, parameters = cells[name]["connections"], cells[name]["parameters"]
    plain = {"CLKMUX": "CLK", "GSR": "DISABLED", "REGSET": "RESET"}
    # (Yosys's JSON has a space behind a text that looks like a number)
    alike = all(parameters.get(parameter, value).rstrip() == value for parameter, value in plain.items())
    enabled = parameters.get("CEMUX", "1").rstrip() in ("1", "CE")
    return name if alike and enabled and connections.get("LSR", ["0"]) == ["0"] else None


def _enable(register: _Cell) -> list[Any]:
    """Return the enable of a register, ``["1"]`` where it has none."""
    return register["connections"]["CE"] if register["parameters"].get("CEMUX", "1").rstrip() == "CE" else ["1"]
