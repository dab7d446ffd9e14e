"""The files beside a core, and those of a memory image."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from accel import isa
from accel.codegen import files
from accel.codegen.memory_image import c_name
from accel.compiler import compile_network
from accel.config import PRESETS, EngineConfig
from accel.frontends import load_network
from accel.isa import CSR, REGISTERS, Opcode

PORTS = [("clk", "input", 1), ("m_axi_araddr", "output", 32), ("m_axi_rdata", "input", 64), ("interrupt", "output", 1)]


def test_the_description_tells_ports_registers_and_instructions() -> None:
    config = PRESETS["base"]
    written = files.core_files(config, bus="axi", verilog="module systolith ();\nendmodule\n", ports=PORTS)
    described = json.loads(written["systolith.json"])
    assert described["files"] == sorted(written)
    assert EngineConfig(**described["configuration"]) == config
    assert int(described["digest"], 16) == config.digest
    assert [(p["name"], p["direction"], p["width"]) for p in described["ports"]] == PORTS
    assert [(r["name"], r["offset"]) for r in described["registers"]] == [(r.name, int(r)) for r in CSR]
    for register in described["registers"]:
        assert [(f["name"], f["offset"], f["width"]) for f in register["fields"]] == [
            (f.name, f.offset, f.width) for f in REGISTERS[CSR[register["name"]]].fields
        ]
    for opcode, fields in described["instructions"].items():
        assert [isa.Field(**f) for f in fields] == list(isa.ENTRIES[Opcode[opcode]])
    assert described["interfaces"]["memory"]["data_bits"] == 8 * config.bus_bytes


def test_the_same_core_gives_the_same_files() -> None:
    first, again = (files.core_files(PRESETS["small"], bus="axi", verilog="", ports=PORTS) for _ in range(2))
    assert first == again


def test_the_driver_stands_on_the_generated_header_alone() -> None:
    driver = files.driver_files()
    assert set(driver) == {"systolith.h", "systolith.c", "systolith_regs.h"}
    included = set(re.findall(r'#include [<"]([^>"]+)', "".join(driver.values())))
    assert included == {"systolith.h", "systolith_regs.h", "stdint.h"}
    assert not re.search(r"\b(malloc|free|printf|memcpy)\b", driver["systolith.c"])


@pytest.mark.parametrize("config", ["tiny", "base", "large"])
def test_the_image_is_the_program(config: str, tmp_path: Path) -> None:
    network = load_network("lenet5")
    program = compile_network(network, PRESETS[config])
    written = files.image_files(program, network)
    assert set(written) == {"lenet5.hex", "lenet5.h", "lenet5.c"}
    words = written["lenet5.hex"].split()
    assert {len(word) for word in words} == {2 * program.config.bus_bytes}
    data = b"".join(bytes.fromhex(word)[::-1] for word in words)
    assert data[: program.image.nbytes] == program.image.tobytes()
    assert len(data) - program.image.nbytes < program.config.bus_bytes
    body = written["lenet5.c"].split("_image[LENET5_IMAGE_BYTES] = {")[1].split("}")[0]
    assert np.array_equal(np.array([int(n) for n in re.findall(r"\d+", body)], np.uint8), program.image)
    numbers = {name: int(value) for name, value in re.findall(r"#define LENET5_(\w+) (\d+)u", written["lenet5.h"])}
    assert (numbers["INPUT_ADDRESS"], numbers["OUTPUT_ADDRESS"]) == (program.input.address, program.output.address)
    assert (numbers["INPUT_BYTES"], numbers["MEMORY_BYTES"]) == (program.input.nbytes, program.memory_bytes)


def test_names_of_networks_become_identifiers() -> None:
    assert [c_name(name) for name in ("lenet5", "mobilenetv1-0.25-96", "2nd", "größe")] == [
        *("lenet5", "mobilenetv1_0_25_96", "n2nd", "gr__e"),
    ]


def test_the_page_on_integration_has_the_registers() -> None:
    page = (Path(__file__).parents[3] / "docs" / "integration.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (0x[^|]+) \| ([A-Z_, ]+) \|", page, re.MULTILINE)
    listed = [
        (name, int(offset, 16)) for row in rows for offset, name in zip(row[0].split(", "), row[1].strip().split(", "), strict=True)
    ]
    assert listed == [(register.name, int(register)) for register in CSR]
    for f in REGISTERS[CSR.STATUS].fields[:3]:
        assert re.search(rf"\b{f.offset} {f.name}\b", page)
