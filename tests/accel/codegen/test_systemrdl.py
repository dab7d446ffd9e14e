"""The register description, as a SystemRDL compiler that is not ours understands it."""

from pathlib import Path

import pytest
from systemrdl import RDLCompiler
from systemrdl.node import AddrmapNode

from accel.codegen.systemrdl import systemrdl
from accel.config import PRESETS
from accel.isa import CSR, ISA_VERSION, REGISTERS, Access, Error

CONFIG = PRESETS["base"]


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> AddrmapNode:
    file = tmp_path_factory.mktemp("rdl") / "systolith.rdl"
    Path(file).write_text(systemrdl(CONFIG), encoding="utf-8")
    compiler = RDLCompiler()
    compiler.compile_file(str(file))
    return compiler.elaborate().top


def test_every_register_and_field_is_where_it_is(described: AddrmapNode) -> None:
    seen = {
        register.inst_name: (
            register.absolute_address,
            [(f.inst_name, f.low, f.width, f.is_sw_readable, f.is_sw_writable) for f in register.fields()],
        )
        for register in described.registers()
    }
    assert seen == {
        register.name: (
            int(register),
            [(f.name, f.offset, f.width, entry.access is not Access.WRITE, entry.access is not Access.READ) for f in entry.fields],
        )
        for register, entry in REGISTERS.items()
    }


def test_constants_and_error_codes(described: AddrmapNode) -> None:
    values = {register.inst_name: [f.get_property("reset") for f in register.fields()] for register in described.registers()}
    constants = {CSR.ISA_VERSION: ISA_VERSION, CSR.DIGEST_LOW: CONFIG.digest & 0xFFFF_FFFF, CSR.DIGEST_HIGH: CONFIG.digest >> 32}
    for register in CSR:
        assert values[register.name] == [constants.get(register, 0)] * len(REGISTERS[register].fields)
    encoding = described.find_by_path("STATUS.code").get_property("encode")
    assert {member.name: member.value for member in encoding} == {error.name: error.value for error in Error}
