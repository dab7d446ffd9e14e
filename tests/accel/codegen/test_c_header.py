"""The C header: what a C compiler makes of it is what accel.isa says."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from accel import isa
from accel.codegen.c_header import HEADER, register_header
from accel.isa import CSR, ENTRIES, PARAMETER, REGISTERS, Field, Instruction, Opcode

COMPILER = shutil.which("gcc") or shutil.which("cc")
FLAGS = ("-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="there is no C compiler; install gcc")
CASES = 20


def run_c(folder: Path, body: str) -> list[str]:
    """Compile a main() around ``body`` and return the lines it prints."""
    assert COMPILER is not None
    (folder / HEADER).write_text(register_header(), encoding="utf-8")
    source = folder / "main.c"
    source.write_text(f'#include <stdio.h>\n#include "{HEADER}"\nint main(void)\n{{\n{body}    return 0;\n}}\n', encoding="utf-8")
    subprocess.run([COMPILER, *FLAGS, str(source), "-o", str(folder / "main")], check=True, capture_output=True, text=True)
    return subprocess.run([str(folder / "main")], check=True, capture_output=True, text=True).stdout.splitlines()


def drawn(rng: np.random.Generator, fields: tuple[Field, ...]) -> dict[str, int]:
    """Return random values of fields, the extremes often."""
    values = {}
    for f in fields:
        bits = int.from_bytes(rng.bytes(8), "little") & (1 << f.width) - 1
        values[f.name] = [f.minimum, f.maximum, f.minimum + bits][rng.integers(3)]
    return values


def literal(field: Field, value: int) -> str:
    if field.signed:
        return f"({value + 1} - 1)" if value < 0 else str(value)
    return f"UINT64_C({value})" if field.width > 32 else f"{value}u"


@needs_compiler
def test_packed_instructions_are_those_of_the_assembler(tmp_path: Path) -> None:
    seed = 11
    rng = np.random.default_rng(seed)
    body = "    uint8_t bytes[SYSTOLITH_INSTRUCTION_BYTES];\n    unsigned i;\n"
    expected = []
    for opcode in Opcode:
        for _ in range(CASES):
            values = drawn(rng, ENTRIES[opcode][1:])
            expected.append(Instruction(opcode, values).encode().hex())
            body += "    {\n" + structure(opcode.name.lower(), ENTRIES[opcode][1:], values)
            body += f"        systolith_pack_{opcode.name.lower()}(bytes{', &fields' if values else ''});\n    }}\n"
            body += '    for (i = 0; i < sizeof bytes; i++) printf("%02x", (unsigned)bytes[i]);\n    printf("\\n");\n'
    assert run_c(tmp_path, body) == expected, f"seed {seed}"


def structure(name: str, fields: tuple[Field, ...], values: dict[str, int]) -> str:
    members = ", ".join(f".{f.name} = {literal(f, values[f.name])}" for f in fields)
    return f"        const struct systolith_{name} fields = {{{members}}};\n" if fields else ""


@needs_compiler
def test_packed_parameters_lie_where_the_table_says(tmp_path: Path) -> None:
    seed = 12
    fields = tuple(f for f in PARAMETER if f.name != "reserved")
    values = drawn(np.random.default_rng(seed), fields)
    word = sum((values[f.name] & (1 << f.width) - 1) << f.offset for f in fields)
    body = "    uint8_t bytes[SYSTOLITH_PARAMETER_BYTES];\n    unsigned i;\n" + structure("parameter", fields, values)
    body += "    systolith_pack_parameter(bytes, &fields);\n"
    body += '    for (i = 0; i < sizeof bytes; i++) printf("%02x", (unsigned)bytes[i]);\n'
    assert run_c(tmp_path, body) == [word.to_bytes(isa.PARAMETER_BYTES, "little").hex()], f"seed {seed}"


@needs_compiler
def test_numbers_are_those_of_the_instruction_set(tmp_path: Path) -> None:
    wanted = {f"SYSTOLITH_REG_{register.name}": int(register) for register in CSR}
    wanted |= {f"SYSTOLITH_ERROR_{error.name}": int(error) for error in isa.Error}
    wanted |= {f"SYSTOLITH_OPERATION_{operation.name}": int(operation) for operation in isa.Operation}
    for register, entry in REGISTERS.items():
        for f in entry.fields:
            name = f"SYSTOLITH_{register.name}_{f.name.upper()}"
            wanted |= {name: isa.register_value(register, **{f.name: f.maximum}), f"{name}_SHIFT": f.offset}
    wanted |= {"SYSTOLITH_UNORDERED": isa.UNORDERED, "SYSTOLITH_BASE_ALIGNMENT": isa.BASE_ALIGNMENT}
    body = "".join(f'    printf("%lu\\n", (unsigned long){name});\n' for name in wanted)
    assert [int(line) for line in run_c(tmp_path, body)] == list(wanted.values())


def test_every_register_can_be_taken_apart_and_put_together() -> None:
    for register in CSR:
        fields = {f.name: f.maximum for f in REGISTERS[register].fields}
        value = isa.register_value(register, **fields)
        assert isa.register_fields(register, value) == fields
        assert isa.register_fields(register, value ^ 0xFFFF_FFFF) == dict.fromkeys(fields, 0)
    with pytest.raises(isa.IsaError, match=r"^STATUS has no field 'ready'; its fields are busy, done, error, code$"):
        isa.register_value(CSR.STATUS, ready=1)
    with pytest.raises(isa.IsaError, match=r"^STATUS: code must be from 0 to 255, not 256$"):
        isa.register_value(CSR.STATUS, code=256)
