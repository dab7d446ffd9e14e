"""The instruction set: every field survives the trip at its extremes, and what does not fit is refused in a sentence."""

import struct
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from accel.config import PRESETS, QUEUE_DEPTH, ConfigError
from accel.isa import (
    CSR,
    ENTRIES,
    INSTRUCTION_BYTES,
    MAGIC,
    PARAMETER,
    PARAMETER_BYTES,
    PERIOD_THREE,
    UNORDERED,
    Error,
    Field,
    Instruction,
    IsaError,
    Opcode,
    Operation,
    Source,
    Target,
    UnitState,
    decode,
    fields_of,
)
from accel.numerics import Rounding

EVERY_FIELD = [pytest.param(opcode, field, id=f"{opcode.name}.{field.name}") for opcode in Opcode for field in ENTRIES[opcode][1:]]


@pytest.mark.parametrize(("opcode", "field"), EVERY_FIELD)
def test_a_field_alone_survives_at_its_extremes(opcode: Opcode, field: Field) -> None:
    for value in {field.minimum, field.maximum, 0, min(1, field.maximum)}:
        decoded = decode(Instruction(opcode, {field.name: value}).encode())
        assert decoded.opcode is opcode
        assert dict(decoded.values) == {f.name: 0 for f in ENTRIES[opcode][1:]} | {field.name: value}


@pytest.mark.parametrize(("opcode", "field"), EVERY_FIELD)
def test_a_field_lies_where_the_table_says_and_nowhere_else(opcode: Opcode, field: Field) -> None:
    blank = int.from_bytes(Instruction(opcode).encode(), "little")
    value = -1 if field.signed else field.maximum
    word = int.from_bytes(Instruction(opcode, {field.name: value}).encode(), "little")
    assert word ^ blank == (1 << field.width) - 1 << field.offset


@pytest.mark.parametrize(("opcode", "field"), EVERY_FIELD)
def test_a_value_that_does_not_fit_is_refused(opcode: Opcode, field: Field) -> None:
    for value in (field.minimum - 1, field.maximum + 1):
        with pytest.raises(IsaError) as caught:
            Instruction(opcode, {field.name: value})
        assert str(caught.value) == f"{opcode.name}: {field.name} must be from {field.minimum} to {field.maximum}, not {value}"


@pytest.mark.parametrize("opcode", Opcode)
def test_random_instructions_survive(opcode: Opcode) -> None:
    seed = 7 + opcode
    rng = np.random.default_rng(seed)
    for _ in range(50):
        values = {f.name: int.from_bytes(rng.bytes(8)) % (1 << f.width) + f.minimum for f in ENTRIES[opcode][1:]}
        instruction = Instruction(opcode, values)
        assert decode(instruction.encode()) == instruction, f"seed {seed}"
        assert instruction.values == values, f"seed {seed}"


@pytest.mark.parametrize("opcode", Opcode)
def test_fields_do_not_overlap_and_fit_the_word(opcode: Opcode) -> None:
    end = 0
    for field in fields_of(opcode):
        assert field.offset == end
        end += field.width
    assert end <= 8 * INSTRUCTION_BYTES
    assert (fields_of(opcode)[0].name, fields_of(opcode)[0].width) == ("opcode", 4)


def test_begin_as_it_lies_in_memory() -> None:
    """The one instruction that must never move, since it tells versions apart."""
    data = Instruction(Opcode.BEGIN, {"magic": MAGIC, "isa_version": 1, "digest": 0x0123456789ABCDEF}).encode()
    assert data == struct.pack("<IIQ16x", MAGIC << 4 | 1, 1, 0x0123456789ABCDEF)


def test_a_parameter_as_it_lies_in_memory() -> None:
    assert [(f.name, f.offset, f.width, f.signed) for f in PARAMETER] == [
        ("bias", 0, 32, True),
        ("multiplier", 32, 31, False),
        ("reserved", 63, 1, False),
        ("first_shift", 64, 8, False),
        ("second_shift", 72, 8, False),
    ]
    assert PARAMETER_BYTES == 16


def test_enumerations_fit_their_fields() -> None:
    for opcode, name, kind in (
        (Opcode.LOAD, "target", Target),
        (Opcode.EXECUTE, "operation", Operation),
        (Opcode.STORE, "source", Source),
        (Opcode.STORE, "rounding", Rounding),
    ):
        field = next(f for f in fields_of(opcode) if f.name == name)
        assert max(kind) <= field.maximum
    assert max(Opcode) < 1 << 4
    assert max(Error) < 1 << 8
    assert max(UnitState) < 1 << 3
    order = next(f for f in fields_of(Opcode.LOAD) if f.name == "after_load")
    assert order.maximum == UNORDERED
    assert QUEUE_DEPTH + 1 < UNORDERED


def test_fields_hold_what_the_largest_engine_needs() -> None:
    execute = {f.name: f for f in fields_of(Opcode.EXECUTE)}
    largest = replace(
        PRESETS["large"], rows=32, columns=32, scratchpad_words=1 << 16, weight_words=1 << 16, accumulator_words=1 << 15,
        window_pixels=256,
    )  # fmt: skip
    for name, value in (("rows", 33), ("window_pixels", 512), ("accumulator_words", 1 << 16), ("weight_words", 1 << 17)):
        with pytest.raises(ConfigError):
            replace(largest, **{name: value})
    assert execute["tap_rows"].maximum >= largest.rows
    assert execute["row_offset"].maximum >= largest.rows - 2
    assert execute["n_px"].maximum >= largest.window_pixels
    assert execute["accumulators"].maximum >= 2 * largest.accumulator_words - 1
    assert execute["activations"].maximum >= largest.scratchpad_words - 1
    assert execute["weights"].maximum >= largest.weight_words - 1
    # a period of three is none of those that an element, of at most a word, can have
    period = next(f for f in fields_of(Opcode.LOAD) if f.name == "period_log2")
    assert period.maximum >= PERIOD_THREE
    assert largest.word_bytes < 1 << PERIOD_THREE


def test_registers_are_words_of_their_own() -> None:
    assert len(set(CSR)) == len(CSR.__members__)
    assert all(offset % 4 == 0 for offset in CSR)


def test_fields_not_given_are_zero() -> None:
    instruction = Instruction(Opcode.STORE, {"pool": 4})
    assert instruction["pool"] == 4
    assert instruction["zero_point"] == 0
    assert set(instruction.values) == {f.name for f in fields_of(Opcode.STORE)} - {"opcode"}


def test_numpy_integers_become_python_integers() -> None:
    values: dict[str, Any] = {"pool": np.int32(4)}
    assert type(Instruction(Opcode.STORE, values)["pool"]) is int


def test_an_unknown_field_lists_the_fields() -> None:
    with pytest.raises(IsaError) as caught:
        Instruction(Opcode.BEGIN, {"majic": 1})
    assert str(caught.value) == "BEGIN has no field 'majic'; its fields are magic, isa_version, digest"


def test_the_opcode_is_not_a_field_to_set() -> None:
    with pytest.raises(IsaError, match="END has no field 'opcode'"):
        Instruction(Opcode.END, {"opcode": 2})


@pytest.mark.parametrize("size", [0, 31, 33])
def test_decoding_another_length_is_refused(size: int) -> None:
    with pytest.raises(IsaError, match=f"an instruction is 32 bytes, not {size}"):
        decode(bytes(size))


@pytest.mark.parametrize("code", sorted(set(range(16)) - set(Opcode)))
def test_decoding_what_is_no_opcode_is_refused(code: int) -> None:
    with pytest.raises(IsaError, match=f"^{code} is no opcode$"):
        decode(bytes([0xF0 | code]) + bytes(31))
