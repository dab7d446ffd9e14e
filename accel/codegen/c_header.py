"""The C header of registers, error codes and instructions, from :mod:`accel.isa` alone."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence

from accel import isa
from accel.isa import CSR, ENTRIES, REGISTERS, Field

__all__ = ["HEADER", "register_header"]

#: Name of the file.
HEADER = "systolith_regs.h"

_ENUMS: tuple[tuple[str, type[enum.IntEnum]], ...] = (
    ("error", isa.Error),
    ("opcode", isa.Opcode),
    ("target", isa.Target),
    ("operation", isa.Operation),
    ("source", isa.Source),
)

_NUMBERS = ("ISA_VERSION", "MAGIC", "INSTRUCTION_BYTES", "PARAMETER_BYTES", "UNORDERED", "CSR_BYTES", "BASE_ALIGNMENT")

_PUT = """\
/* Sets the bits from offset on. The bytes must be zero there; the byte order of the processor does not matter. */
static inline void systolith_put(uint8_t *bytes, unsigned offset, unsigned width, uint64_t value)
{
    unsigned bit;
    for (bit = 0; bit < width; bit++) {
        if ((value >> bit & 1u) != 0u) {
            bytes[(offset + bit) / 8u] = (uint8_t)(bytes[(offset + bit) / 8u] | 1u << (offset + bit) % 8u);
        }
    }
}
"""


def register_header() -> str:
    """Return the header: C99, free of any configuration."""
    parts = [
        "/* The engine's registers, error codes and instructions. Generated from accel/isa.py; do not edit. */",
        "#ifndef SYSTOLITH_REGS_H\n#define SYSTOLITH_REGS_H\n\n#include <stdint.h>",
        "\n".join(f"#define SYSTOLITH_{name} 0x{getattr(isa, name):X}u" for name in _NUMBERS),
        "/* Registers: byte offset; of each field the mask, and the bit that it begins with. */",
        *(_register(register) for register in CSR),
        *(_enum(name, members) for name, members in _ENUMS),
        _PUT.rstrip("\n"),
        *(_pack(opcode.name.lower(), fields, isa.INSTRUCTION_BYTES, opcode) for opcode, fields in ENTRIES.items()),
        _pack("parameter", isa.PARAMETER, isa.PARAMETER_BYTES, None),
        "#endif",
    ]
    return "\n\n".join(parts) + "\n"


def _register(register: CSR) -> str:
    entry = REGISTERS[register]
    lines = [f"/* {entry.text} ({entry.access}) */", f"#define SYSTOLITH_REG_{register.name} 0x{register:02X}u"]
    for f in entry.fields:
        name = f"SYSTOLITH_{register.name}_{f.name.upper()}"
        lines += [f"#define {name} 0x{f.maximum << f.offset:08X}u /* {f.text} */", f"#define {name}_SHIFT {f.offset}u"]
    return "\n".join(lines)


def _enum(name: str, members: Iterable[enum.IntEnum]) -> str:
    values = ",\n".join(f"    SYSTOLITH_{name.upper()}_{member.name} = {member.value}" for member in members)
    return f"enum systolith_{name} {{\n{values}\n}};"


def _pack(name: str, fields: Sequence[Field], size: int, opcode: isa.Opcode | None) -> str:
    """Return a structure with the fields that its writer chooses, and the function that lays them out."""
    chosen = [f for f in fields if f.name not in ("opcode", "reserved")]
    lines = []
    if chosen:
        lines += [f"struct systolith_{name} {{", *(f"    {_type(f)} {f.name};" for f in chosen), "};", ""]
    argument = f", const struct systolith_{name} *fields" if chosen else ""
    lines += [
        f"static inline void systolith_pack_{name}(uint8_t bytes[{size}]{argument})",
        "{",
        "    unsigned i;",
        f"    for (i = 0; i < {size}u; i++) {{",
        "        bytes[i] = 0;",
        "    }",
    ]
    for f in fields:
        if f in chosen:
            lines.append(f"    systolith_put(bytes, {f.offset}u, {f.width}u, (uint64_t)fields->{f.name});")
        elif opcode is not None and f.name == "opcode":
            lines.append(f"    systolith_put(bytes, {f.offset}u, {f.width}u, (uint64_t)SYSTOLITH_OPCODE_{opcode.name});")
    return "\n".join([*lines, "}"])


def _type(field: Field) -> str:
    return f"{'' if field.signed else 'u'}int{64 if field.width > 32 else 32}_t"
