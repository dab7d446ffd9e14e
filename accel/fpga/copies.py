"""Copies of what drives wide control nets, so that each of them lies near its part of what it controls.

A clock enable or reset of hundreds of registers that lie all over a design takes most of a cycle on its way, and so does the read
address of a queue of wide entries, or one of many block RAMs. Yosys makes one driver of those that are alike, and nextpnr copies
none, so it is done between them.
"""

from __future__ import annotations

import copy
import re
from collections import defaultdict
from typing import Any

__all__ = ["copy_drivers"]

#: Loads from which on a control net counts as wide, and those that each copy gets of them at most. (Registers that are copied
#: themselves add their own controls to others' loads.)
WIDE = 96
LOADS = 64

_REGISTER = "TRELLIS_FF"
#: The controls, by cell, and the loads that each counts as. A memory of 16 words of 4 bits has its read address at four look-up
#: tables. Block RAMs lie far apart: a copy for eight of their ports.
CONTROLS = {
    _REGISTER: {"CE": 1, "LSR": 1},
    "TRELLIS_DPR16X4": {"RAD": 4},
    "DP16KD": {f"{pin}{port}{bit}": LOADS // 8 for port in "AB" for pin, bits in (("AD", range(14)), ("WE", [""])) for bit in bits},
}

#: What can be copied, and the inputs whose drivers must be copied with it, because they share its slice.
_COPIED = {_REGISTER: (), "LUT4": (), "PFUMX": ("ALUT", "BLUT"), "L6MUX21": ("D0", "D1")}


def copy_drivers(module: dict[str, Any]) -> list[str]:
    """Change a module of ECP5's primitives (as in Yosys's JSON): give each wide control net's driver copies, which share its loads.

    A driver that has logic to drive besides keeps that alone: the router reaches one load of a net by way of others, and what logic
    waits for would come late. The cells of one signal, whose names are alike, stay together. Return the type of each copy.
    """
    cells: dict[str, dict[str, Any]] = module["cells"]
    drivers: dict[int, str] = {}
    controlled: dict[int, list[tuple[str, str, int]]] = defaultdict(list)
    # what is used by logic (not only inside its slice), or outside
    used = {bit for port in module["ports"].values() if port["direction"] == "output" for bit in port["bits"]}
    last = 1
    for name, cell in cells.items():
        controls = CONTROLS.get(cell["type"], {})
        for port, bits in cell["connections"].items():
            for place, bit in enumerate(bits):
                if not isinstance(bit, int):
                    continue  # a constant
                last = max(last, bit)
                if cell["port_directions"][port] == "output":
                    drivers[bit] = name
                elif port in controls:
                    controlled[bit] += [(name, port, place)] * controls[port]
                elif port not in _COPIED.get(cell["type"], ()):
                    used.add(bit)
    for found in (*module["netnames"].values(), *module["ports"].values()):
        last = max([last, *(bit for bit in found["bits"] if isinstance(bit, int))])
    made: list[str] = []

    def copied(name: str, number: int) -> int:
        """Add a copy of a cell with one output; return the bit that it drives."""
        nonlocal last
        own = last = last + 1
        twin = copy.deepcopy(cells[name])
        for port, bits in twin["connections"].items():
            if twin["port_directions"][port] == "output":
                twin["connections"][port] = [own]
            elif port in _COPIED[twin["type"]] and bits[0] in drivers:
                bits[0] = copied(drivers[bits[0]], number)
        while f"{name}$copy{number}" in cells:
            number += 1  # one that shares its slice with the driver of another wide net
        cells[f"{name}$copy{number}"] = twin
        module["netnames"][f"{name}$copy{number}$net"] = {"hide_name": 1, "bits": [own], "attributes": {}}
        made.append(twin["type"])
        return own

    for bit, loads in controlled.items():
        driver = drivers.get(bit)
        if len(loads) < WIDE or driver is None or cells[driver]["type"] not in _COPIED:
            continue
        loads.sort(key=lambda load: _natural(load[0]))
        parts = -(-len(loads) // LOADS)
        bounds = [part * len(loads) // parts for part in range(parts + 1)]
        # The driver itself keeps the first part, unless it has logic to drive: that does not wait behind the controls then.
        kept = bit not in used
        for number in range(kept, parts):
            own = copied(driver, number + (not kept))
            for name, port, place in loads[bounds[number] : bounds[number + 1]]:
                cells[name]["connections"][port][place] = own
    return made


def _natural(name: str) -> list[str | int]:
    """Return a key by which names that differ in a number come in its order."""
    return [int(part) if n % 2 else part for n, part in enumerate(re.split(r"(\d+)", name))]
