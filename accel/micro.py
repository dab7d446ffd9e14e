"""The cycles of the small engine (docs/micro.md): instructions follow each other, and each takes a closed form of its fields."""

from __future__ import annotations

import math

from accel.config import EngineConfig
from accel.isa import Instruction, Opcode, Operation, Target

__all__ = ["FETCH", "cycles_of"]

#: Cycles before an instruction begins: fetched, a word of memory a cycle, and looked at.
FETCH = 5 + 2
#: From the last sum that a STORE reads to the last byte that it writes.
_OUTPUT = 10
#: After the last pixel, until the sums are in place when the next instruction needs them: of the array, of bytes that pass it by.
_SETTLE, _PASSED = 3, 1


def cycles_of(instruction: Instruction, config: EngineConfig) -> int:
    """Return the cycles from an instruction's fetch to that of the next."""
    match instruction.opcode:
        case Opcode.LOAD:
            words = 2 if instruction["target"] == Target.PARAMETERS else 1
            return FETCH + words * _count(instruction, "n_x", "n_y", "n_z")
        case Opcode.EXECUTE:
            pixels = _count(instruction, "n_py", "n_px", "n_wy", "n_wx")
            passes = -(-_count(instruction, "n_block", "n_ky", "n_kx") // (config.rows // instruction["tap_rows"]))
            turn = passes * config.rows + 1
            if instruction["operation"] != Operation.ARRAY:
                return FETCH + pixels * turn + _PASSED
            # The sums of a pixel leave their columns while the next pixel's are added up.
            return FETCH + turn + (pixels - 1) * max(turn, config.columns) + _SETTLE
        case Opcode.STORE:
            return FETCH + _count(instruction, "n_x", "n_y", "pool", "groups") + _OUTPUT
        case _:
            return FETCH


def _count(instruction: Instruction, *names: str) -> int:
    return math.prod(instruction[name] for name in names)
