"""The instruction set and register map: their only definition. Hardware, assembler, listing, models and C header derive from it.

A program is a row of 256-bit instructions in memory. BEGIN is first (it carries the ISA version and the configuration's digest,
which the engine compares with its own), END is last. In between, the dispatcher hands each instruction to the queue of its unit:

    LOAD     memory -> scratchpad, weights, parameters, tables; or a constant -> scratchpad (FILL)
    EXECUTE  scratchpad (and weights) -> accumulators
    STORE    accumulators -> requantise, clamp, table, max pool -> scratchpad and/or memory

The three units run at once, each through its own queue in order. What orders them is the ``after_*`` fields: an instruction starts
when at most ``after_load`` of the LOADs *before it in the program* are still unfinished (likewise ``after_execute``,
``after_store``); 31 (``UNORDERED``) means no condition. Waits look only backwards in the program, so no program can deadlock.

Loops
-----
EXECUTE, for each tap (block, ky, kx), for each pixel (py, px, wy, wx), innermost last::

    accumulators[a++ for each pixel, restarting each pass] (+)= scratchpad[activations + pixel + tap] x weights

    pixel = py*stride_py + px*stride_px + wy*stride_wy + wx*stride_wx
    tap   = block*stride_block + ky*stride_ky + kx*stride_kx

One pass over the pixels covers ``g = rows // tap_rows`` consecutive taps (kx fastest), each on a group of ``tap_rows`` rows: tap
``t`` of the pass on rows ``R - (t+1)*tap_rows`` to ``R - t*tap_rows - 1``, so the first tap of a pass is on the *last* rows. Row
``r`` reads bank ``r`` at its own tap's address. When the taps run out inside a pass the remaining rows repeat the last tap's
address; rows below the last group read anywhere (the weights of both are zero). ``g > 1`` needs a map stored with ``period =
tap_rows``. A pass takes ``rows`` weight words from ``weights`` on, the word for the last row first: word ``i`` of a pass belongs to
row ``R-1-i``. All scratchpad address arithmetic is modulo 2**16, so strides may be negative.

With ``reduce`` all pixels of a window (wy, wx) go into one accumulator word: the address steps once a window.

EXECUTE, bypass operations (SUM, MAX, LOW, HIGH): no weights; accumulator column ``c`` takes the byte of row ``c + row_offset``,
where ``row_offset`` is a multiple of ``columns`` below ``rows`` and ``tap_rows`` is ``rows``. A column without such a row gets
anything.

EXECUTE, WINDOW (depthwise): column ``c`` multiplies the bytes of row ``c`` alone, each by several weights, so that a byte is read
once for all taps of a kernel. There is one pass, of one weight tile; the pixels are ``n_py`` lines of ``n_px`` (``n_wy = n_wx =
1``), the ``u``-th of them ``x[u]``. With ``b`` up to ``WINDOW_LINES`` (no more than fit the rows) and ``j`` below ``WINDOW_TAPS``,
row ``b*WINDOW_TAPS + j`` multiplies ``x[u - b*n_px - j]``; other rows' weights are zero. A result goes to the accumulators for each
``py = n_ky-1, n_ky-1 + stride_ky, ...`` and ``px = n_kx-1, n_kx-1 + stride_kx, ...`` (inside the line), strides 1 or 2; the
accumulator address steps only for these. ``n_px`` is from ``WINDOW_TAPS + 1`` to the configuration's ``window_pixels``;
``n_block``, ``row_offset`` and ``reduce`` are 1, 0 and 0, ``tap_rows`` is ``rows``.

LOAD, for each z, y, x (x fastest): the element at ``memory_address + z*memory_stride_z + y*memory_stride_y + (x << element_log2)``
goes to local address ``local_address + z*local_stride_z + y*local_stride_y + x``. ACTIVATIONS: bank ``r`` takes byte ``r % (1 <<
period_log2)`` of the element (``period_log2 = PERIOD_THREE``: byte ``r % 3``, for images). memory_address and strides are multiples
of the element. WEIGHTS: an element is ``weight_word_bytes``. PARAMETERS: an element is 16 bytes (see ``PARAMETER``), one channel
each; ``local_address`` counts groups of ``lanes`` channels, n_y and n_z are 1. TABLE: elements of one byte, entry i for input byte
i (as unsigned). PAIR_TABLE: elements of 4 bytes, entries 0-255 for the low, 256-511 for the high byte. FILL: nothing is read; every
bank takes ``fill_value``.

STORE, for each y, x, and for each of ``pool`` consecutive accumulator words, for each of ``groups`` groups of ``lanes`` columns
from ``first_group`` on: sum + bias (or, source PAIR: table[low byte] + table[256 + next byte] + bias) -> requantise -> + zero_point
-> clamp -> table if use_table -> maximum over the pool. ``parameters`` is the address in the parameter memory (in groups of
``lanes`` channels) of the first group. The finished bytes go to byte ``byte_offset`` on of the word at ``scratchpad +
y*scratchpad_stride_y + x`` (with ``period_log2`` = p, byte k is written to all banks r with r % 2**p == k; when 2**p is at least
``rows``, to bank k alone) and/or to byte ``byte_offset`` on of the memory word at ``memory_address + y*memory_stride_y +
x*word_bytes``. ``byte_offset`` is a multiple of ``lanes``, ``byte_offset + groups*lanes`` at most ``rows``; address and stride in
memory are multiples of ``word_bytes``.

A LOAD of ACTIVATIONS, or a FILL, leaves every ``2**share_log2``-th cycle of the scratchpad's write port to STOREs (none with
``share_log2`` 0).

A LOAD with ``fence`` also waits until memory has acknowledged every write of earlier STOREs. A STORE is finished when its bytes are
in the scratchpad or handed to the write port, an EXECUTE when its sums are in the accumulators, a LOAD when its data are on chip.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from accel.errors import SystolithError

__all__ = [
    "BASE_ALIGNMENT",
    "CSR",
    "CSR_BYTES",
    "ENTRIES",
    "INSTRUCTION_BYTES",
    "ISA_VERSION",
    "MAGIC",
    "MAX_SHARE_LOG2",
    "PARAMETER",
    "PARAMETER_BYTES",
    "PERIOD_THREE",
    "REGISTERS",
    "UNORDERED",
    "WINDOW_LINES",
    "WINDOW_TAPS",
    "Access",
    "Error",
    "Field",
    "Instruction",
    "IsaError",
    "Opcode",
    "Operation",
    "Register",
    "RegisterField",
    "Source",
    "Target",
    "UnitState",
    "decode",
    "fields_of",
    "register_fields",
    "register_value",
]

ISA_VERSION = 2
MAGIC = 0x53_59_4C  # "SYL"
INSTRUCTION_BYTES = 32
UNORDERED = 31
#: ``period_log2`` of a LOAD whose words repeat three bytes.
PERIOD_THREE = 6
#: Largest ``share_log2`` of a LOAD.
MAX_SHARE_LOG2 = 3
#: Kernel columns and lines that one pass of a WINDOW covers at most.
WINDOW_TAPS = 3
WINDOW_LINES = 3


class IsaError(SystolithError):
    """A field that does not fit, or bytes that are no instruction."""


class Opcode(enum.IntEnum):
    """What an instruction is. Zero is left out so that cleared memory is refused."""

    BEGIN = 1
    LOAD = 2
    EXECUTE = 3
    STORE = 4
    END = 15


class Target(enum.IntEnum):
    """Where a LOAD writes."""

    ACTIVATIONS = 0
    WEIGHTS = 1
    PARAMETERS = 2
    TABLE = 3
    PAIR_TABLE = 4
    FILL = 5


class Operation(enum.IntEnum):
    """What an EXECUTE does with the accumulators."""

    ARRAY = 0
    """Add the dot products of the systolic array."""
    SUM = 1
    """Add the signed bytes themselves."""
    MAX = 2
    """Keep the larger of sum and signed byte."""
    LOW = 3
    """Add the unsigned byte."""
    HIGH = 4
    """Add the unsigned byte times 256."""
    WINDOW = 5
    """Add a window of each channel's own bytes times its own weights."""


class Source(enum.IntEnum):
    """What a STORE requantises."""

    SUM = 0
    PAIR = 1


class UnitState(enum.IntEnum):
    """What a unit did in a cycle (trace ports and performance counters)."""

    IDLE = 0
    """No instruction."""
    BUSY = 1
    WAIT_LOAD = 2
    """Ordered after a LOAD that is not finished."""
    WAIT_EXECUTE = 3
    WAIT_STORE = 4
    WAIT_MEMORY = 5
    """The memory port gave or took nothing."""
    WAIT_WEIGHTS = 6
    """The next weight tile is not in the shadow registers yet."""
    WAIT_PIPELINE = 7
    """Filling or draining the array, or a port of the scratchpad was taken."""


class Error(enum.IntEnum):
    """Error code in the STATUS register."""

    NONE = 0
    BAD_OPCODE = 1
    """Not an instruction, no BEGIN at the start, or a field with a value that this engine has no meaning for."""
    BAD_VERSION = 2
    BAD_DIGEST = 3
    """The program was built for another configuration."""
    READ_FAULT = 4
    """The memory answered a read with an error."""
    WRITE_FAULT = 5
    ABORTED = 6
    """CONTROL stopped a program that was running."""


@dataclass(frozen=True)
class Field:
    """A bit field of an instruction word or memory entry."""

    name: str
    offset: int
    width: int
    signed: bool = False

    @property
    def minimum(self) -> int:
        """Smallest value that fits."""
        return -(1 << (self.width - 1)) if self.signed else 0

    @property
    def maximum(self) -> int:
        """Largest value that fits."""
        return (1 << (self.width - self.signed)) - 1


def _pack(*members: tuple[str, int] | tuple[str, int, bool]) -> tuple[Field, ...]:
    packed: list[Field] = []
    offset = 0
    for name, width, *signed in members:
        packed.append(Field(name, offset, width, bool(signed and signed[0])))
        offset += width
    return tuple(packed)


_ORDER = (("opcode", 4), ("after_load", 5), ("after_execute", 5), ("after_store", 5))

#: Bit layout of every instruction, least significant field first.
ENTRIES: Mapping[Opcode, tuple[Field, ...]] = MappingProxyType(
    {
        Opcode.BEGIN: _pack(("opcode", 4), ("magic", 28), ("isa_version", 32), ("digest", 64)),
        Opcode.LOAD: _pack(
            *_ORDER,
            ("target", 3),
            ("fence", 1),
            ("element_log2", 3),
            ("period_log2", 3),
            ("fill_value", 8),
            ("memory_address", 32),
            ("memory_stride_y", 24),
            ("memory_stride_z", 32),
            ("local_address", 16),
            ("local_stride_y", 16),
            ("local_stride_z", 16),
            ("n_x", 16),
            ("n_y", 12),
            ("n_z", 12),
            ("share_log2", 2),
        ),
        Opcode.EXECUTE: _pack(
            *_ORDER,
            ("operation", 3),
            ("accumulate", 1),
            ("tap_rows", 6),
            ("row_offset", 6),
            ("activations", 16),
            ("weights", 16),
            ("accumulators", 16),
            ("n_block", 12),
            ("n_ky", 8),
            ("n_kx", 8),
            ("stride_block", 16),
            ("stride_ky", 16),
            ("stride_kx", 16),
            ("n_py", 10),
            ("n_px", 10),
            ("n_wy", 4),
            ("n_wx", 4),
            ("stride_py", 16),
            ("stride_px", 16),
            ("stride_wy", 16),
            ("stride_wx", 16),
            ("reduce", 1),
        ),
        Opcode.STORE: _pack(
            *_ORDER,
            ("source", 1),
            ("rounding", 2),
            ("use_table", 1),
            ("to_scratchpad", 1),
            ("to_memory", 1),
            ("period_log2", 3),
            ("byte_offset", 5),
            ("minimum", 8, True),
            ("maximum", 8, True),
            ("zero_point", 8, True),
            ("pool", 8),
            ("accumulators", 16),
            ("parameters", 12),
            ("first_group", 6),
            ("groups", 6),
            ("n_x", 12),
            ("n_y", 12),
            ("scratchpad", 16),
            ("scratchpad_stride_y", 16),
            ("memory_address", 32),
            ("memory_stride_y", 24),
        ),
        Opcode.END: _pack(("opcode", 4)),
    }
)

#: One output channel's parameters as they lie in memory (16 bytes, the rest zero): see :func:`accel.numerics.shift_stages`.
PARAMETER = _pack(("bias", 32, True), ("multiplier", 31), ("reserved", 1), ("first_shift", 8), ("second_shift", 8))
PARAMETER_BYTES = 16

for _fields in ENTRIES.values():
    assert _fields[-1].offset + _fields[-1].width <= 8 * INSTRUCTION_BYTES


def fields_of(opcode: Opcode) -> tuple[Field, ...]:
    """Return the fields of an instruction, least significant first."""
    return ENTRIES[opcode]


#: The least and the greatest value of every field but the opcode; looked up, because programs have many instructions.
_RANGES = {opcode: {f.name: (f.minimum, f.maximum) for f in fields if f.name != "opcode"} for opcode, fields in ENTRIES.items()}
_ZEROS = {opcode: dict.fromkeys(ranges, 0) for opcode, ranges in _RANGES.items()}
_NOTHING: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True, init=False)
class Instruction:
    """One instruction: its opcode and the value of every other field; fields not given are zero.

    Raises :class:`IsaError` for a field that does not exist or a value that does not fit its width.
    """

    opcode: Opcode
    values: Mapping[str, int]

    def __init__(self, opcode: Opcode, values: Mapping[str, int] = _NOTHING) -> None:
        known = _RANGES[opcode]
        every = {**_ZEROS[opcode], **values}
        if len(every) > len(known):
            unknown = next(name for name in values if name not in known)
            raise IsaError(f"{opcode.name} has no field {unknown!r}; its fields are {', '.join(known)}")
        for name, value in values.items():
            minimum, maximum = known[name]
            if not minimum <= value <= maximum:
                raise IsaError(f"{opcode.name}: {name} must be from {minimum} to {maximum}, not {value}")
            if type(value) is not int:  # nearly all are, and a program has a hundred thousand
                every[name] = int(value)
        # (not by the generated method, which would take as long again: the fields of a frozen class)
        object.__setattr__(self, "opcode", opcode)
        object.__setattr__(self, "values", MappingProxyType(every))

    def __getitem__(self, name: str) -> int:
        return self.values[name]

    def encode(self) -> bytes:
        """Return the instruction's 32 bytes, little-endian."""
        word = 0
        for f in ENTRIES[self.opcode]:
            value = int(self.opcode) if f.name == "opcode" else self.values[f.name]
            word |= (value & ((1 << f.width) - 1)) << f.offset
        return word.to_bytes(INSTRUCTION_BYTES, "little")


def decode(data: bytes) -> Instruction:
    """Return the instruction in 32 bytes. Raises :class:`IsaError` when they are none."""
    if len(data) != INSTRUCTION_BYTES:
        raise IsaError(f"an instruction is {INSTRUCTION_BYTES} bytes, not {len(data)}")
    word = int.from_bytes(data, "little")
    try:
        opcode = Opcode(word & 0xF)
    except ValueError:
        raise IsaError(f"{word & 0xF} is no opcode") from None
    values: dict[str, int] = {}
    for f in ENTRIES[opcode][1:]:
        value = word >> f.offset & ((1 << f.width) - 1)
        values[f.name] = value - (1 << f.width) if f.signed and value >> (f.width - 1) else value
    return Instruction(opcode, values)


class CSR(enum.IntEnum):
    """Byte offsets of the 32-bit control and status registers on the AXI4-Lite port; :data:`REGISTERS` says what is in them."""

    CONTROL = 0x00
    STATUS = 0x04
    BASE = 0x08
    ERROR_ADDRESS = 0x0C
    CYCLES = 0x10
    ISA_VERSION = 0x14
    DIGEST_LOW = 0x18
    DIGEST_HIGH = 0x1C
    INTERRUPT_ENABLE = 0x20


#: Bytes of the register window.
CSR_BYTES = 256

_PAGE_BITS = 12

#: The base address is a multiple of this.
BASE_ALIGNMENT = 1 << _PAGE_BITS


class Access(enum.StrEnum):
    """What software can do with a register. What cannot be read reads as zero; a write to what cannot be written is an error."""

    READ = "r"
    WRITE = "w"
    READ_WRITE = "rw"


@dataclass(frozen=True)
class RegisterField(Field):
    """A bit field of a register, and what it means."""

    text: str = ""


@dataclass(frozen=True)
class Register:
    """One register: what software can do with it, what it is for, and its fields, least significant first."""

    access: Access
    text: str
    fields: tuple[RegisterField, ...]


def _word(name: str, text: str) -> tuple[RegisterField, ...]:
    return (RegisterField(name, 0, 32, text=text),)


#: The registers. All are zero after reset but ISA_VERSION and the digest, which never change.
REGISTERS: Mapping[CSR, Register] = MappingProxyType(
    {
        CSR.CONTROL: Register(
            Access.WRITE,
            "Commands: a field to which 1 is written acts once.",
            (
                RegisterField("start", 0, 1, text="Start the program at BASE, unless one is running or an error is set."),
                RegisterField("clear", 1, 1, text="Clear done and error; while a program runs, stop it, with the error ABORTED."),
            ),
        ),
        CSR.STATUS: Register(
            Access.READ,
            "What the engine is doing.",
            (
                RegisterField("busy", 0, 1, text="A program is running."),
                RegisterField("done", 1, 1, text="A program has run to its end; its writes are in memory."),
                RegisterField("error", 2, 1, text="A program was stopped."),
                RegisterField("code", 8, 8, text="Why it was stopped."),
            ),
        ),
        CSR.BASE: Register(
            Access.READ_WRITE,
            "Where the program lies. Cannot be changed while one is running.",
            (
                RegisterField(
                    "page",
                    _PAGE_BITS,
                    32 - _PAGE_BITS,
                    text=f"Byte address / {BASE_ALIGNMENT}; every memory address in the program is relative to that byte.",
                ),
            ),
        ),
        CSR.ERROR_ADDRESS: Register(
            Access.READ, "Where a program was stopped.", _word("offset", "Byte offset, from BASE, of the offending instruction.")
        ),
        CSR.CYCLES: Register(
            Access.READ, "How long the program takes.", _word("cycles", "Clock cycles from start to done, or so far.")
        ),
        CSR.ISA_VERSION: Register(
            Access.READ, "Which instruction set the engine has.", _word("version", "Version, which a program must name.")
        ),
        CSR.DIGEST_LOW: Register(
            Access.READ, "Which configuration the engine has.", _word("low", "Bits 31:0 of its digest, which a program must name.")
        ),
        CSR.DIGEST_HIGH: Register(Access.READ, "Which configuration the engine has.", _word("high", "Bits 63:32 of its digest.")),
        CSR.INTERRUPT_ENABLE: Register(
            Access.READ_WRITE,
            "When the interrupt is raised.",
            (RegisterField("enable", 0, 1, text="Raise it while done or error is set."),),
        ),
    }
)


def register_fields(register: CSR, value: int) -> dict[str, int]:
    """Return the fields of a register that reads as ``value``."""
    return {f.name: value >> f.offset & f.maximum for f in REGISTERS[register].fields}


def register_value(register: CSR, **fields: int) -> int:
    """Return a register's value with some fields set, the others zero. Raises :class:`IsaError` when one does not fit."""
    known = {f.name: f for f in REGISTERS[register].fields}
    value = 0
    for name, field_value in fields.items():
        if name not in known:
            raise IsaError(f"{register.name} has no field {name!r}; its fields are {', '.join(known)}")
        if not 0 <= field_value <= known[name].maximum:
            raise IsaError(f"{register.name}: {name} must be from 0 to {known[name].maximum}, not {field_value}")
        value |= field_value << known[name].offset
    return value
