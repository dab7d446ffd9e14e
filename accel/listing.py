"""The listing: a program as text, one line an instruction, showing only the fields that have a meaning there."""

from __future__ import annotations

import numpy as np

from accel.isa import (
    INSTRUCTION_BYTES,
    PERIOD_THREE,
    UNORDERED,
    Instruction,
    IsaError,
    Opcode,
    Operation,
    Source,
    Target,
    decode,
)
from accel.numerics import Rounding
from accel.program import Bytes, Program

__all__ = ["describe", "disassemble"]


def disassemble(program: Program | bytes | Bytes) -> str:
    """Return the listing of a program, or of a memory image that begins with one, up to its END.

    Instructions are read from the image. A :class:`~accel.program.Program` also has a line ``; name (operator)`` before each layer.
    Raises :class:`~accel.isa.IsaError` naming the instruction that is none, or when there is no END.
    """
    headings: dict[int, list[str]] = {}
    if isinstance(program, Program):
        for layer in program.layers:
            headings.setdefault(layer.first_instruction, []).append(f"; {layer.name} ({layer.op})")
        image = program.image.tobytes()
    else:
        image = program.tobytes() if isinstance(program, np.ndarray) else program
    lines = []
    for index in range(len(image) // INSTRUCTION_BYTES):
        lines += headings.get(index, [])
        try:
            instruction = decode(image[index * INSTRUCTION_BYTES :][:INSTRUCTION_BYTES])
        except IsaError as error:
            raise IsaError(f"instruction {index}: {error}") from None
        lines.append(f"{index:5}  {instruction.opcode.name:<8} {describe(instruction)}".rstrip())
        if instruction.opcode is Opcode.END:
            return "\n".join(lines) + "\n"
    raise IsaError(f"the program of {len(image)} bytes has no END")


def describe(instruction: Instruction) -> str:
    """Return what an instruction does, with only the fields that have a meaning in it; nothing for END."""
    match instruction.opcode:
        case Opcode.BEGIN:
            version, digest = instruction["isa_version"], instruction["digest"]
            return f"magic {instruction['magic']:#x}, ISA version {version}, configuration {digest:016x}"
        case Opcode.LOAD:
            parts = _load(instruction)
        case Opcode.EXECUTE:
            parts = _execute(instruction)
        case Opcode.STORE:
            parts = _store(instruction)
        case Opcode.END:
            return ""
    waits = [
        f"{unit} <= {instruction[f'after_{unit}']}"
        for unit in ("load", "execute", "store")
        if instruction[f"after_{unit}"] != UNORDERED
    ]
    return "; ".join([*parts, f"after {', '.join(waits)}"] if waits else parts)


def _load(instruction: Instruction) -> list[str]:
    target = _name(Target, instruction["target"])
    memory = {"y": instruction["memory_stride_y"], "z": instruction["memory_stride_z"]}
    local = {axis: _signed(instruction[f"local_stride_{axis}"]) for axis in "yz"}
    loops = [axis for axis in "zy" if instruction[f"n_{axis}"] != 1]
    count = " x ".join(str(instruction[f"n_{axis}"]) for axis in (*loops, "x"))
    to = f"{target}[{instruction['local_address']}]"
    if target == Target.FILL.name:
        parts = [f"{to} <- byte {instruction['fill_value']:#04x}", count]
    else:
        parts = [f"{to} <- memory[{instruction['memory_address']:#x}]", f"{count} elements of {1 << instruction['element_log2']}"]
        if loops:
            parts.append(f"memory strides {', '.join(f'{axis} {memory[axis]}' for axis in loops)}")
    if loops:
        parts.append(f"local strides {', '.join(f'{axis} {local[axis]}' for axis in loops)}")
    if target == Target.ACTIVATIONS.name:
        parts.append(f"period {3 if instruction['period_log2'] == PERIOD_THREE else 1 << instruction['period_log2']}")
    if instruction["share_log2"]:
        parts.append(f"one cycle in {1 << instruction['share_log2']} left to stores")
    if instruction["fence"]:
        parts.append("fence")
    return parts


def _execute(instruction: Instruction) -> list[str]:
    operation = _name(Operation, instruction["operation"])
    first = instruction["accumulators"]
    if operation == Operation.WINDOW.name:
        height, width = (instruction[f"n_k{axis}"] for axis in "yx")
        return [
            f"WINDOW accumulators[{first}..] {'+=' if instruction['accumulate'] else '='} scratchpad[{instruction['activations']}]"
            f" x weights[{instruction['weights']}]",
            f"lines {_loops(instruction, 'py', 'px')}",
            f"windows {height} x {width} strides y {instruction['stride_ky']}, x {instruction['stride_kx']}",
        ]
    pixels = instruction["n_py"] * instruction["n_px"]
    if not instruction["reduce"]:
        pixels *= instruction["n_wy"] * instruction["n_wx"]
    gets = "=" if not instruction["accumulate"] else "max=" if operation == Operation.MAX.name else "+="
    parts = [f"{operation} accumulators[{first}..{first + pixels - 1}] {gets} scratchpad[{instruction['activations']}]"]
    if operation == Operation.ARRAY.name:
        parts[0] += f" x weights[{instruction['weights']}]"
        parts.append(f"tap rows {instruction['tap_rows']}")
    else:
        parts.append(f"row offset {instruction['row_offset']}")
    if instruction["reduce"]:
        parts.append("a word for each window")
    return [*parts, f"pixels {_loops(instruction, 'py', 'px', 'wy', 'wx')}", f"taps {_loops(instruction, 'block', 'ky', 'kx')}"]


def _store(instruction: Instruction) -> list[str]:
    source = "pair" if instruction["source"] == Source.PAIR else "sum"
    first, groups = instruction["first_group"], instruction["groups"]
    parts = [
        f"accumulators[{instruction['accumulators']}..] ({source}), groups {first} to {first + groups - 1}",
        f"parameters[{instruction['parameters']}]",
        _name(Rounding, instruction["rounding"]),
        f"zero point {instruction['zero_point']}",
        f"clamp {instruction['minimum']} to {instruction['maximum']}",
    ]
    if instruction["use_table"]:
        parts.append("table")
    if instruction["pool"] != 1:
        parts.append(f"maximum of {instruction['pool']}")
    parts.append(f"{instruction['n_y']} x {instruction['n_x']} words")
    if instruction["to_scratchpad"]:
        stride = _signed(instruction["scratchpad_stride_y"])
        parts.append(f"-> scratchpad[{instruction['scratchpad']}] stride y {stride}, period {1 << instruction['period_log2']}")
    if instruction["to_memory"]:
        parts.append(f"-> memory[{instruction['memory_address']:#x}] stride y {instruction['memory_stride_y']}")
    return [*parts, f"byte {instruction['byte_offset']}"]


def _loops(instruction: Instruction, *loops: str) -> str:
    """Return ``count*stride`` of the loops that count, outermost first; ``1`` when none does."""
    turning = [
        f"{instruction[f'n_{loop}']}*{_signed(instruction[f'stride_{loop}'])}" for loop in loops if instruction[f"n_{loop}"] != 1
    ]
    return " ".join(turning) or "1"


def _name(kind: type[Target] | type[Operation] | type[Rounding], value: int) -> str:
    """Return the value's name, or ``?value`` when it has none, so that a faulty program can still be listed."""
    return kind(value).name if value in {int(member) for member in kind} else f"?{value}"


def _signed(stride: int) -> int:
    """Return a 16-bit local stride as the signed number it stands for."""
    return stride - (1 << 16) if stride >> 15 else stride
