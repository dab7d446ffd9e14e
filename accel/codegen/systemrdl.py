"""The registers in SystemRDL 2.0, for register tools: documentation, software headers, verification models."""

from __future__ import annotations

from accel.config import EngineConfig
from accel.isa import CSR, CSR_BYTES, ISA_VERSION, REGISTERS, Access, Error, RegisterField

__all__ = ["systemrdl"]

_INDENT = "    "


def systemrdl(config: EngineConfig) -> str:
    """Return the description of the registers of one configuration (its digest is what two registers read as)."""
    lines = [
        "// The engine's registers. Generated from accel/isa.py; do not edit.",
        "enum systolith_error {",
        *(f"{_INDENT}{error.name} = 8'd{error.value};" for error in Error),
        "};",
        "",
        "addrmap systolith {",
        f'{_INDENT}name = "Systolith {config.rows} x {config.columns}";',
        f"{_INDENT}default regwidth = 32;",
        f"{_INDENT}littleendian;",
        f"{_INDENT}addressing = regalign;",
    ]
    for register in CSR:
        lines += ["", *(f"{_INDENT}{line}" for line in _register(register, config))]
    return "\n".join([*lines, "};", f"// The window is of {CSR_BYTES} bytes; what is not above answers with an error.", ""])


def _register(register: CSR, config: EngineConfig) -> list[str]:
    entry = REGISTERS[register]
    lines = ["reg {", f'{_INDENT}desc = "{entry.text}";']
    for f in entry.fields:
        lines += [f"{_INDENT}field {{", f'{2 * _INDENT}desc = "{f.text}";']
        lines += [f"{2 * _INDENT}{item};" for item in _properties(register, f, config)]
        lines.append(f"{_INDENT}}} {f.name}[{f.offset + f.width - 1}:{f.offset}];")
    return [*lines, f"}} {register.name} @ 0x{register:02X};"]


def _properties(register: CSR, field: RegisterField, config: EngineConfig) -> list[str]:
    access = REGISTERS[register].access
    constant = {
        CSR.ISA_VERSION: ISA_VERSION,
        CSR.DIGEST_LOW: config.digest & 0xFFFF_FFFF,
        CSR.DIGEST_HIGH: config.digest >> 32,
    }.get(register)
    hardware = "na" if constant is not None else "w" if access is Access.READ else "r"
    items = [f"sw = {access}", f"hw = {hardware}", f"reset = {field.width}'h{constant or 0:x}"]
    if access is Access.WRITE:
        items.append("singlepulse")
    if register is CSR.STATUS and field.name == "code":
        items.append("encode = systolith_error")
    return items
