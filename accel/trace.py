"""The timeline of one run, as a trace that https://ui.perfetto.dev and chrome://tracing show: one cycle is one microsecond there.

A track for each unit has a slice for each instruction; one more track has the layers, as reports count them. The format is the
"Trace Event Format" of Chrome: complete events (``ph`` is "X") and metadata ("M").
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from accel.isa import Instruction, Opcode, Operation, Target, UnitState
from accel.listing import describe
from accel.program import Program

__all__ = ["timeline"]

Int64Array = npt.NDArray[np.int64]

#: The units' tracks, in the order of ``RunResult.spent``; the layers' track comes first.
_UNITS = (Opcode.LOAD, Opcode.EXECUTE, Opcode.STORE)
_LAYERS = 0


def timeline(
    program: Program, retired: Int64Array, cycles: int, *, started: Int64Array | None = None, spent: Int64Array | None = None
) -> dict[str, Any]:
    """Return the trace of one run (of a batch of images, if the program takes several), to be written as JSON.

    ``retired`` is the cycle in which each instruction finished, ``started``, where it is known, in which each began (int64, program
    order). Without it a slice begins where the one before it in the same unit ends, so what the instruction waited for is part of
    it; ``spent`` (see :class:`~accel.program.RunResult`), where it is known, tells what the unit did meanwhile.
    """
    names = {opcode: opcode.name.lower() for opcode in _UNITS}
    tracks = ["layers", *(f"{names[opcode]} unit" for opcode in _UNITS)]
    events = [_metadata("process_name", 0, f"{program.network} on {program.config.name}")]
    events += [_metadata("thread_name", track, name) for track, name in enumerate(tracks)]
    reached = 0
    for layer, length in zip(program.layers, program.layer_cycles(retired, cycles), strict=True):
        arguments = {"operator": layer.op, "macs": program.batch * layer.macs, "bytes": layer.bytes_read + layer.bytes_written}
        events.append(_slice(_LAYERS, layer.name, "layer", reached, reached + length, arguments))
        reached += length
    owners = _owners(program)
    for unit, opcode in enumerate(_UNITS):
        previous, before = 0, None
        for index, instruction in enumerate(program.instructions):
            if instruction.opcode is not opcode:
                continue
            end = int(retired[index])
            arguments = {"instruction": index, "fields": describe(instruction)}
            if spent is not None:
                arguments["cycles"] = _states(spent, unit, before, index, end - previous)
            name = " ".join(part for part in (owners[index], opcode.name, _what(instruction)) if part)
            begin = previous if started is None else int(started[index])
            events.append(_slice(1 + unit, name, names[opcode], begin, end, arguments))
            previous, before = end, index
    return {
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {
            "unit of time": "1 us stands for 1 cycle",
            "cycles": cycles,
            "slices begin": "where the slice before in the same unit ends" if started is None else "where the unit begins them",
            "layers": "each from when all layers before it are done to when it is done",
        },
    }


def _owners(program: Program) -> list[str]:
    """Return the name of each instruction's layer; no name where it belongs to none."""
    owners = [""] * len(program.instructions)
    for layer in program.layers:
        owners[layer.first_instruction : layer.last_instruction + 1] = [layer.name] * (
            layer.last_instruction - layer.first_instruction + 1
        )
    return owners


def _what(instruction: Instruction) -> str:
    """Return in a word what a LOAD brings or an EXECUTE does."""
    match instruction.opcode:
        case Opcode.LOAD:
            return Target(instruction["target"]).name.lower()
        case Opcode.EXECUTE:
            return Operation(instruction["operation"]).name.lower()
        case _:
            return ""


def _states(spent: Int64Array, unit: int, before: int | None, index: int, length: int) -> dict[str, int]:
    """Return what a unit did in the ``length`` cycles between the ends of two of its instructions, by state."""
    states = spent[index, unit] - (0 if before is None else spent[before, unit])
    states[UnitState.IDLE] -= states.sum() - length  # before the start it is idle, too
    return {state.name.lower(): int(states[state]) for state in UnitState if states[state]}


def _metadata(name: str, track: int, value: str) -> dict[str, Any]:
    return {"ph": "M", "name": name, "pid": 1, "tid": track, "args": {"name": value}}


def _slice(track: int, name: str, category: str, begin: int, end: int, arguments: dict[str, Any]) -> dict[str, Any]:
    return {
        "ph": "X",
        "name": name,
        "cat": category,
        "pid": 1,
        "tid": track,
        "ts": begin,
        "dur": end - begin,
        "args": arguments,
    }
