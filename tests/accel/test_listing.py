"""The listing: one line an instruction, only what means something, and a sentence where there is no program."""

from typing import Any

import numpy as np
import pytest

from accel.config import PRESETS
from accel.isa import (
    ENTRIES,
    ISA_VERSION,
    MAGIC,
    PERIOD_THREE,
    UNORDERED,
    Instruction,
    IsaError,
    Opcode,
    Operation,
    Source,
    Target,
)
from accel.listing import disassemble
from accel.numerics import Rounding
from accel.program import LayerInfo, Program, TensorBinding

FREE = {"after_load": UNORDERED, "after_execute": UNORDERED, "after_store": UNORDERED}
BEGIN = Instruction(Opcode.BEGIN, {"magic": MAGIC, "isa_version": ISA_VERSION, "digest": PRESETS["base"].digest})
END = Instruction(Opcode.END)


def encode(*instructions: Instruction) -> bytes:
    return b"".join(i.encode() for i in instructions)


def line(opcode: Opcode, **values: int) -> str:
    """Return the listing's line of one instruction, without its number."""
    listing = disassemble(encode(BEGIN, Instruction(opcode, FREE | values), END))
    return listing.splitlines()[1].removeprefix("    1  ")


def test_a_program() -> None:
    lines = disassemble(encode(BEGIN, END)).splitlines()
    assert lines == [
        f"    0  BEGIN    magic 0x53594c, ISA version {ISA_VERSION}, configuration {PRESETS['base'].digest:016x}",
        "    1  END",
    ]


LOAD: dict[str, int] = {"memory_address": 0x1000, "local_address": 20, "n_x": 5, "n_y": 1, "n_z": 1}
EXECUTE: dict[str, int] = {f"n_{loop}": 1 for loop in ("block", "ky", "kx", "py", "px", "wy", "wx")} | {"tap_rows": 8}
STORE: dict[str, int] = {"pool": 1, "n_x": 3, "n_y": 2, "groups": 2, "minimum": -128, "maximum": 127, "zero_point": -4}


@pytest.mark.parametrize(
    ("opcode", "values", "expected"),
    [
        (
            Opcode.LOAD,
            LOAD | {"element_log2": 3, "period_log2": 2},
            "LOAD     ACTIVATIONS[20] <- memory[0x1000]; 5 elements of 8; period 4",
        ),
        (
            Opcode.LOAD,
            LOAD
            | {"n_y": 3, "n_z": 2, "memory_stride_y": 40, "memory_stride_z": 400, "local_stride_y": 65530, "local_stride_z": 9},
            "LOAD     ACTIVATIONS[20] <- memory[0x1000]; 2 x 3 x 5 elements of 1; memory strides z 400, y 40; "
            "local strides z 9, y -6; period 1",
        ),
        (
            Opcode.LOAD,
            LOAD | {"target": Target.WEIGHTS, "element_log2": 3, "fence": 1, "after_execute": 2},
            "LOAD     WEIGHTS[20] <- memory[0x1000]; 5 elements of 8; fence; after execute <= 2",
        ),
        (
            Opcode.LOAD,
            LOAD | {"target": Target.FILL, "fill_value": 0x80, "n_y": 4, "local_stride_y": 7, "share_log2": 3},
            "LOAD     FILL[20] <- byte 0x80; 4 x 5; local strides y 7; one cycle in 8 left to stores",
        ),
        (
            Opcode.LOAD,
            LOAD | {"element_log2": 2, "period_log2": PERIOD_THREE},
            "LOAD     ACTIVATIONS[20] <- memory[0x1000]; 5 elements of 4; period 3",
        ),
        (Opcode.LOAD, LOAD | {"target": 7}, "LOAD     ?7[20] <- memory[0x1000]; 5 elements of 1"),
        (
            Opcode.EXECUTE,
            EXECUTE
            | {"n_ky": 3, "n_kx": 5, "stride_ky": 28, "stride_kx": 1, "n_py": 4, "n_wx": 2, "stride_py": 56, "stride_wx": 1}
            | {"activations": 9, "weights": 16, "accumulators": 100, "after_load": 0, "after_store": 1},
            "EXECUTE  ARRAY accumulators[100..107] = scratchpad[9] x weights[16]; tap rows 8; pixels 4*56 2*1; taps 3*28 5*1; "
            "after load <= 0, store <= 1",
        ),
        (
            Opcode.EXECUTE,
            EXECUTE | {"operation": Operation.MAX, "accumulate": 1, "row_offset": 4, "n_kx": 2, "stride_kx": 65535},
            "EXECUTE  MAX accumulators[0..0] max= scratchpad[0]; row offset 4; pixels 1; taps 2*-1",
        ),
        (
            Opcode.EXECUTE,
            EXECUTE
            | {"operation": Operation.SUM, "reduce": 1, "accumulators": 20, "accumulate": 1}
            | {"n_py": 2, "n_px": 3, "n_wy": 4, "n_wx": 5, "stride_py": 60, "stride_px": 5, "stride_wy": 15, "stride_wx": 1},
            "EXECUTE  SUM accumulators[20..25] += scratchpad[0]; row offset 0; a word for each window; "
            "pixels 2*60 3*5 4*15 5*1; taps 1",
        ),
        (
            Opcode.EXECUTE,
            EXECUTE | {"tap_rows": 3, "n_kx": 5, "stride_kx": 1, "weights": 16, "reduce": 1, "n_wx": 2, "stride_wx": 7},
            "EXECUTE  ARRAY accumulators[0..0] = scratchpad[0] x weights[16]; tap rows 3; a word for each window; "
            "pixels 2*7; taps 5*1",
        ),
        (
            Opcode.EXECUTE,
            EXECUTE
            | {"operation": Operation.WINDOW, "n_py": 9, "n_px": 20, "stride_py": 22, "stride_px": 1, "n_ky": 2, "n_kx": 3}
            | {"stride_ky": 1, "stride_kx": 2, "activations": 9, "weights": 16, "accumulators": 100, "after_load": 0},
            "EXECUTE  WINDOW accumulators[100..] = scratchpad[9] x weights[16]; lines 9*22 20*1; "
            "windows 2 x 3 strides y 1, x 2; after load <= 0",
        ),
        (
            Opcode.EXECUTE,
            EXECUTE
            | {"operation": Operation.WINDOW, "accumulate": 1, "n_px": 8, "stride_px": 65535, "stride_ky": 2, "stride_kx": 1},
            "EXECUTE  WINDOW accumulators[0..] += scratchpad[0] x weights[0]; lines 8*-1; windows 1 x 1 strides y 2, x 1",
        ),
        (
            Opcode.STORE,
            STORE
            | {"to_memory": 1, "memory_address": 0x2000, "memory_stride_y": 64, "rounding": Rounding.HALF_EVEN, "parameters": 5},
            "STORE    accumulators[0..] (sum), groups 0 to 1; parameters[5]; HALF_EVEN; zero point -4; clamp -128 to 127; "
            "2 x 3 words; -> memory[0x2000] stride y 64; byte 0",
        ),
        (
            Opcode.STORE,
            STORE
            | {"to_scratchpad": 1, "scratchpad": 30, "scratchpad_stride_y": 65535, "period_log2": 1, "byte_offset": 4}
            | {"source": Source.PAIR, "use_table": 1, "pool": 4, "first_group": 1},
            "STORE    accumulators[0..] (pair), groups 1 to 2; parameters[0]; DOUBLE_AWAY; zero point -4; clamp -128 to 127; "
            "table; maximum of 4; 2 x 3 words; -> scratchpad[30] stride y -1, period 2; byte 4",
        ),
        (
            Opcode.STORE,
            STORE | {"rounding": 3},
            "STORE    accumulators[0..] (sum), groups 0 to 1; parameters[0]; ?3; "
            "zero point -4; clamp -128 to 127; 2 x 3 words; byte 0",
        ),
    ],
)
def test_lines(opcode: Opcode, values: dict[str, int], expected: str) -> None:
    assert line(opcode, **values) == expected


@pytest.mark.parametrize("opcode", [Opcode.LOAD, Opcode.EXECUTE, Opcode.STORE])
def test_any_bits_can_be_listed(opcode: Opcode) -> None:
    rng = np.random.default_rng(opcode)
    for _ in range(100):
        values = {f.name: int(rng.integers(f.minimum, f.maximum, endpoint=True)) for f in ENTRIES[opcode][1:]}
        assert opcode.name in line(opcode, **values), f"seed {int(opcode)}"


def program(**changes: Any) -> Program:
    instructions = (BEGIN, Instruction(Opcode.LOAD, FREE | LOAD), END)
    binding = TensorBinding(name="t", shape=(1, 1, 1), address=0, channels_per_word=8, element_bytes=8)
    layers = (LayerInfo(name="first", op="Conv2D", macs=0, first_instruction=1, last_instruction=1, bytes_read=0, bytes_written=0),)
    fields: dict[str, Any] = {
        "network": "net", "config": PRESETS["base"], "instructions": instructions, "memory_bytes": 4096,
        "pack": lambda: np.frombuffer(encode(*instructions), np.uint8),
        "input": binding, "output": binding, "layers": layers,
    }  # fmt: skip
    return Program(**fields | changes)


def test_a_program_names_its_layers() -> None:
    lines = disassemble(program()).splitlines()
    assert [text[:20] for text in lines[1:3]] == ["; first (Conv2D)", "    1  LOAD     ACTI"]
    assert len(lines) == 4


def test_arrays_are_images_too() -> None:
    assert disassemble(program().image) == disassemble(program(layers=()))


def test_what_is_no_program() -> None:
    with pytest.raises(IsaError) as caught:
        disassemble(encode(BEGIN) + bytes([7] * 32))
    assert str(caught.value) == "instruction 1: 7 is no opcode"


@pytest.mark.parametrize("image", [b"", encode(BEGIN), encode(BEGIN) + encode(END)[:20]])
def test_a_program_without_an_end(image: bytes) -> None:
    with pytest.raises(IsaError) as caught:
        disassemble(image)
    assert str(caught.value) == f"the program of {len(image)} bytes has no END"
