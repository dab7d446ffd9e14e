"""The small engine without its hardware: which configurations it has, and its cycles.

Instructions follow each other, so a program takes the sum of what its instructions take, each a closed form of its fields.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from accel.config import ConfigError, EngineConfig
from accel.isa import Instruction, Opcode, Operation, Target
from accel.program import Program

__all__ = ["MEMORY_BYTES", "cycles_of", "require_micro", "retired"]

#: The engine's memory: program, parameters and maps.
MEMORY_BYTES = 1 << 17

#: Fetching an instruction, one word of memory a cycle, and finding out what it is.
_FETCH = 5 + 1
#: From the last sum that a STORE reads to the last byte that it writes.
_OUTPUT = 8
#: After the last pixel, until the sums are in place when the next instruction needs them: of the array, of bytes that pass it by.
_SETTLE, _PASSED = 4, 1


def require_micro(config: EngineConfig) -> None:
    """Refuse, with :class:`~accel.config.ConfigError`, a configuration that the small engine does not have."""
    wanted: dict[str, object] = {
        "micro": True,
        "columns": 8,
        "bus_bytes": 8,
        "lanes": 1,
        "window_pixels": 0,
        "tables": False,
        "elementwise": False,
        "multiplier": True,
    }
    for name, value in wanted.items():
        if getattr(config, name) != value:
            raise ConfigError(f"{name} of a micro engine must be {value}, not {getattr(config, name)}")
    if config.rows not in (2, 4, 8):
        raise ConfigError(f"rows of a micro engine must be 2, 4 or 8, not {config.rows}")


def cycles_of(instruction: Instruction, config: EngineConfig) -> int:
    """Return the cycles from an instruction's fetch to that of the next."""
    match instruction.opcode:
        case Opcode.LOAD:
            words = 2 if instruction["target"] == Target.PARAMETERS else 1
            return _FETCH + words * _count(instruction, "n_x", "n_y", "n_z")
        case Opcode.EXECUTE:
            pixels = _count(instruction, "n_py", "n_px", "n_wy", "n_wx")
            passes = -(-_count(instruction, "n_block", "n_ky", "n_kx") // (config.rows // instruction["tap_rows"]))
            turn = passes * config.rows + 1
            if instruction["operation"] != Operation.ARRAY:
                return _FETCH + pixels * turn + _PASSED
            # The sums of a pixel leave their columns while the next pixel's are added up.
            return _FETCH + turn + (pixels - 1) * max(turn, config.columns) + _SETTLE
        case Opcode.STORE:
            return _FETCH + _count(instruction, "n_x", "n_y", "pool", "groups") + _OUTPUT
        case _:
            return _FETCH


def retired(program: Program) -> npt.NDArray[np.int64]:
    """Return the cycle in which each instruction of a program is finished, counted from its start: int64, END's is the program's."""
    return np.cumsum([cycles_of(instruction, program.config) for instruction in program.instructions], dtype=np.int64)


def _count(instruction: Instruction, *names: str) -> int:
    return math.prod(instruction[name] for name in names)
