"""The emulator: executes a :class:`~accel.program.Program` in NumPy, instruction by instruction, as :mod:`accel.isa` defines them.

It shares nothing with the compiler, the golden model or the hardware, so where it agrees with one of them and not with another, the
fault is found. Where the engine would stop with an error code, and also where a program asks for what the instruction set leaves
undefined, it raises :class:`EmulatorError` naming the instruction. Memory that nothing has written holds seeded garbage, not zeros.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from accel.config import EngineConfig
from accel.errors import SystolithError
from accel.isa import (
    INSTRUCTION_BYTES,
    ISA_VERSION,
    MAGIC,
    PARAMETER_BYTES,
    PERIOD_THREE,
    WINDOW_TAPS,
    Instruction,
    IsaError,
    Opcode,
    Operation,
    Source,
    Target,
    decode,
)
from accel.numerics import Rounding
from accel.program import Bytes, Program, ProgramError, RunResult, TensorBinding

__all__ = ["Emulator", "EmulatorError", "Machine", "round_in_stages"]

Int64Array = npt.NDArray[np.int64]

#: Addresses on chip are 16 bits wide and wrap.
_ADDRESS_MASK = 0xFFFF
#: Largest shift of one stage of the rounder.
_MAX_STAGE = 31
#: Scratchpad bytes gathered at a time, so that a long instruction needs little memory.
_BLOCK_BYTES = 1 << 23
#: Products that single precision adds exactly: 2**24 / (128 * 128).
_EXACT_LENGTH = 1024


class EmulatorError(SystolithError):
    """A program that the engine would refuse, or that relies on something undefined."""


def round_in_stages(products: Int64Array, first: npt.ArrayLike, second: npt.ArrayLike, rounding: Rounding) -> Int64Array:
    """Return ``products`` shifted right by ``first`` and then ``second``, each 0 to 31, as the output stage's rounder does.

    ``DOUBLE_AWAY`` rounds half up at the first shift, half away from zero at the second. The other modes truncate at the first,
    remembering in a sticky bit whether anything was lost, and round once at the second.
    """
    first = np.asarray(first, np.int64)
    second = np.asarray(second, np.int64)
    value = products >> first
    lost = products - (value << first)
    if rounding is Rounding.DOUBLE_AWAY:
        value = value + _above_half(lost, first, at_half=True)
    sticky = (lost != 0) & (rounding is not Rounding.DOUBLE_AWAY)
    floor = value >> second
    rest = value - (floor << second)
    at_half: npt.ArrayLike = True
    if rounding is Rounding.DOUBLE_AWAY:
        at_half = value >= 0
    elif rounding is Rounding.HALF_EVEN:
        at_half = ((floor & 1) == 1) | sticky
    return np.asarray(floor + _above_half(rest, second, at_half=at_half), np.int64)


def _above_half(rest: Int64Array, shift: Int64Array, *, at_half: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Return whether ``rest / 2**shift`` is above one half, or is one half and ``at_half`` holds."""
    doubled, one = rest << 1, np.int64(1) << shift
    return np.asarray((doubled > one) | ((doubled == one) & at_half), np.bool_)


class Emulator:
    """Backend without time: runs programs in NumPy.

    ``seed`` decides the garbage in uninitialised memories.
    """

    name = "emulator"
    cycle_accurate = False

    def __init__(self, *, seed: int = 0) -> None:
        self.seed = seed

    def run(self, program: Program, images: Sequence[npt.ArrayLike], **options: Any) -> RunResult:
        """Run one batch after the other on one engine and return the outputs.

        Takes no options. Raises :class:`EmulatorError` naming the instruction that cannot be executed.
        """
        if options:
            raise ProgramError(f"the emulator has no option {', '.join(map(repr, options))}; it has no time and no memory timing")
        started = time.perf_counter()
        machine = Machine(program.config, seed=self.seed)
        rng = np.random.default_rng((self.seed, 1))
        outputs = np.empty((len(images), *program.output.shape), np.int8)
        done = 0
        for new, batch in program.batches(images):
            memory = rng.integers(0, 256, program.memory_bytes, np.uint8)
            memory[: program.image.nbytes] = program.image
            for number, image in enumerate(batch):
                _place_input(memory[program.input.place(number)], program.input, np.asarray(image))
            machine.run(memory)
            for number in range(new):
                outputs[done + number] = program.result(memory, number)
            done += new
        return RunResult(outputs=outputs, seconds=time.perf_counter() - started)


def _place_input(memory: Bytes, binding: TensorBinding, image: npt.NDArray[np.generic]) -> None:
    """Write a map into its bytes of memory, leaving alone those of its elements that mean nothing."""
    meant = binding.pack(np.ones(binding.shape, np.int8)) != 0
    memory[meant] = binding.pack(image)[meant]


class Machine:
    """The state of one engine: its on-chip memories, all garbage at first and kept from run to run.

    Attributes
    ----------
    scratchpad
        int8 ``(scratchpad_words, rows)``.
    weights
        int8 ``(weight_words, columns)``.
    accumulators
        int32 ``(2 * accumulator_words, columns)``.
    bias, multiplier, first_shift, second_shift
        int64 ``(parameter_channels,)``.
    table, pair_table
        int8 ``(256,)`` and int32 ``(512,)``.
    """

    def __init__(self, config: EngineConfig, *, seed: int = 0) -> None:
        self.config = config
        rng = np.random.default_rng(seed)
        self._rng = rng
        self.scratchpad = rng.integers(-128, 128, (config.scratchpad_words, config.rows), np.int8)
        self.weights = rng.integers(-128, 128, (config.weight_words, config.columns), np.int8)
        self.accumulators = self._garbage_sums((2 * config.accumulator_words, config.columns))
        self.bias = rng.integers(-(2**31), 2**31, config.parameter_channels, np.int64)
        self.multiplier = rng.integers(0, 2**31, config.parameter_channels, np.int64)
        self.first_shift = rng.integers(0, 32, config.parameter_channels, np.int64)
        self.second_shift = rng.integers(0, 32, config.parameter_channels, np.int64)
        self.table = rng.integers(-128, 128, 256, np.int8)
        self.pair_table = self._garbage_sums((512,))
        self._decoded: dict[bytes, Instruction] = {}
        self._index = 0
        self._opcode = ""

    def run(self, memory: Bytes) -> None:
        """Execute the program at the start of ``memory`` (uint8, one dimension), changing memory in place.

        Raises :class:`EmulatorError` naming the instruction that the engine would refuse or whose outcome is undefined.
        """
        for self._index in range(memory.size // INSTRUCTION_BYTES):
            raw = memory[self._index * INSTRUCTION_BYTES :][:INSTRUCTION_BYTES].tobytes()
            instruction = self._decode(raw)
            self._opcode = instruction.opcode.name
            if (self._index == 0) != (instruction.opcode is Opcode.BEGIN):
                self._refuse("a program has BEGIN as its first instruction and nowhere else")
            match instruction.opcode:
                case Opcode.BEGIN:
                    self._begin(instruction)
                case Opcode.LOAD:
                    self._load(instruction, memory)
                case Opcode.EXECUTE:
                    self._execute(instruction)
                case Opcode.STORE:
                    self._store(instruction, memory)
                case Opcode.END:
                    return
        self._refuse("the program goes on beyond the memory, so it has no END")

    def _decode(self, raw: bytes) -> Instruction:
        if raw not in self._decoded:
            try:
                self._decoded[raw] = decode(raw)
            except IsaError as error:
                raise EmulatorError(f"instruction {self._index}: {error}") from None
        return self._decoded[raw]

    def _refuse(self, why: str) -> NoReturn:
        raise EmulatorError(f"instruction {self._index} ({self._opcode}): {why}")

    def _require_counts(self, instruction: Instruction, *names: str) -> None:
        for name in names:
            if instruction[name] == 0:
                self._refuse(f"{name} must be at least 1, not 0")

    def _require_within(self, what: str, addresses: Int64Array, size: int) -> None:
        if addresses.min() < 0 or addresses.max() >= size:
            self._refuse(f"{what} address {addresses.max()} lies beyond the last, {size - 1}")

    def _garbage_sums(self, shape: tuple[int, ...]) -> npt.NDArray[np.int32]:
        return self._rng.integers(-(2**31), 2**31, shape, np.int64).astype(np.int32)

    def _begin(self, instruction: Instruction) -> None:
        if instruction["magic"] != MAGIC:
            self._refuse(f"the magic number must be {MAGIC:#x}, not {instruction['magic']:#x}")
        if instruction["isa_version"] != ISA_VERSION:
            self._refuse(f"the program is of ISA version {instruction['isa_version']}, but the engine of {ISA_VERSION}")
        if instruction["digest"] != self.config.digest:
            self._refuse(
                f"the program was built for configuration {instruction['digest']:016x}, but the engine is {self.config.digest:016x}"
            )

    # LOAD

    def _load(self, instruction: Instruction, memory: Bytes) -> None:
        self._require_counts(instruction, "n_x", "n_y", "n_z")
        try:
            target = Target(instruction["target"])
        except ValueError:
            self._refuse(f"{instruction['target']} is no target")
        x, y, z = (np.arange(instruction[n], dtype=np.int64) for n in ("n_x", "n_y", "n_z"))
        rows_of = z[:, None, None] * instruction["local_stride_z"] + y[:, None] * instruction["local_stride_y"]
        local = (instruction["local_address"] + rows_of + x).reshape(-1) & _ADDRESS_MASK
        if target is Target.FILL:
            self._require_within("scratchpad", local, self.config.scratchpad_words)
            self.scratchpad[local] = np.uint8(instruction["fill_value"]).astype(np.int8)
            return
        element = 1 << instruction["element_log2"]
        for name in ("memory_address", "memory_stride_y", "memory_stride_z"):
            if instruction[name] % element:
                self._refuse(f"{name} must be a multiple of the element of {element} bytes, not {instruction[name]}")
        rows_at = z[:, None, None] * instruction["memory_stride_z"] + y[:, None] * instruction["memory_stride_y"]
        source = (instruction["memory_address"] + rows_at + x * element).reshape(-1)
        self._require_within("memory", source + element - 1, memory.size)
        if target is Target.ACTIVATIONS:
            self._load_activations(instruction, memory, source, local)
            return
        size = {
            Target.WEIGHTS: self.config.weight_word_bytes,
            Target.PARAMETERS: PARAMETER_BYTES,
            Target.TABLE: 1,
            Target.PAIR_TABLE: 4,
        }[target]
        if element != size:
            self._refuse(f"elements of {target.name} must be {size} bytes (element_log2), not {element}")
        data = memory[source[:, None] + np.arange(element)]
        if target is Target.WEIGHTS:
            self._require_within("weight", local, self.config.weight_words)
            self.weights[local] = data[:, : self.config.columns].view(np.int8)
            return
        if instruction["n_y"] != 1 or instruction["n_z"] != 1:
            self._refuse(f"n_y and n_z of {target.name} must be 1, not {instruction['n_y']} and {instruction['n_z']}")
        if target is Target.PARAMETERS:
            self._load_parameters(instruction, data)
        elif target is Target.TABLE:
            if not self.config.tables:
                self._refuse(f"configuration {self.config.name!r} has no activation table")
            self._require_within("table", local, 256)
            self.table[local] = data[:, 0].view(np.int8)
        else:
            if not self.config.elementwise:
                self._refuse(f"configuration {self.config.name!r} has no operand tables")
            self._require_within("operand table", local, 512)
            self.pair_table[local] = data.view("<i4")[:, 0]

    def _load_activations(self, instruction: Instruction, memory: Bytes, source: Int64Array, local: Int64Array) -> None:
        self._require_within("scratchpad", local, self.config.scratchpad_words)
        element = 1 << instruction["element_log2"]
        if element > self.config.word_bytes:
            self._refuse(f"elements of ACTIVATIONS must be at most a word of {self.config.word_bytes} bytes, not {element}")
        period = 3 if instruction["period_log2"] == PERIOD_THREE else 1 << instruction["period_log2"]
        byte = np.arange(self.config.rows) % period
        words = memory[source[:, None] + np.minimum(byte, element - 1)].view(np.int8)
        # A bank whose byte lies beyond the element gets something, but nobody says what.
        undefined = byte >= element
        words[:, undefined] = self._rng.integers(-128, 128, (source.size, int(undefined.sum())), np.int8)
        self.scratchpad[local] = words

    def _load_parameters(self, instruction: Instruction, data: Bytes) -> None:
        channels = instruction["local_address"] * self.config.lanes + np.arange(instruction["n_x"])
        self._require_within("parameter", channels // self.config.lanes, self.config.parameter_groups)
        if data[:, 8:10].max() > _MAX_STAGE:
            self._refuse(f"a channel's shifts must be from 0 to {_MAX_STAGE}, not {data[:, 8:10].max()}")
        # isa.PARAMETER: bias 32, multiplier 31, reserved 1, two shifts of 8 bits; a test compares these offsets with it.
        self.bias[channels] = data[:, 0:4].copy().view("<i4")[:, 0]
        self.multiplier[channels] = data[:, 4:8].copy().view("<u4")[:, 0] & 0x7FFF_FFFF
        self.first_shift[channels] = data[:, 8]
        self.second_shift[channels] = data[:, 9]

    # EXECUTE

    def _execute(self, instruction: Instruction) -> None:
        loops = ("n_py", "n_px", "n_wy", "n_wx")
        self._require_counts(instruction, "n_block", "n_ky", "n_kx", *loops, "tap_rows")
        try:
            operation = Operation(instruction["operation"])
        except ValueError:
            self._refuse(f"{instruction['operation']} is no operation")
        if operation is Operation.WINDOW:
            self._window(instruction)
            return
        pixels = _offsets(instruction, "py", "px", "wy", "wx")
        taps = self._tap_addresses(instruction)
        window = instruction["n_wy"] * instruction["n_wx"] if instruction["reduce"] else 1
        words = instruction["accumulators"] + np.arange(pixels.size // window)
        self._require_within("accumulator", words, len(self.accumulators))
        weights = np.zeros(0, np.int8)
        if operation is Operation.ARRAY:
            at = (instruction["weights"] + np.arange(taps.size)) & _ADDRESS_MASK
            self._require_within("weight", at, self.config.weight_words)
            # Word i of a pass belongs to row R-1-i.
            weights = self.weights[at].reshape(*taps.shape, -1)[:, ::-1].astype(np.float32)
            left_over = self.config.rows % instruction["tap_rows"]
            if weights[:, :left_over].any():
                self._refuse(f"rows 0 to {left_over - 1} belong to no tap: their weights must be zero")
        block = max(1, min(_EXACT_LENGTH, _BLOCK_BYTES // pixels.size) // self.config.rows)
        keep = bool(instruction["accumulate"])
        for start in range(0, len(taps), block):
            passes = slice(start, start + block)
            address = (instruction["activations"] + pixels[:, None, None] + taps[passes]) & _ADDRESS_MASK
            self._require_within("scratchpad", address, self.config.scratchpad_words)
            data = self.scratchpad[address, np.arange(self.config.rows)]  # (pixels, passes, rows)
            if operation is Operation.ARRAY:
                # Single precision is exact here: no sum of at most 1,024 products of two bytes exceeds 2**24.
                flat = data.reshape(pixels.size, -1).astype(np.float32)
                sums = (flat @ weights[passes].reshape(flat.shape[1], -1)).astype(np.int64)
            else:
                sums = self._bypass(instruction, operation, data)
            if window > 1:
                sums = sums.reshape(words.size, window, -1)
                sums = sums.max(axis=1) if operation is Operation.MAX else sums.sum(axis=1)
            if keep:
                old = self.accumulators[words].astype(np.int64)
                sums = np.maximum(old, sums) if operation is Operation.MAX else old + sums
            self.accumulators[words] = sums.astype(np.int32)  # wraps
            keep = True

    def _window(self, instruction: Instruction) -> None:
        lines, rows = self.config.window_lines, self.config.rows
        if not lines:
            self._refuse(f"configuration {self.config.name!r} has no path for windows")
        height, width = instruction["n_py"], instruction["n_px"]
        kernel, stride = (
            (instruction["n_ky"], instruction["n_kx"]),
            (instruction["stride_ky"], instruction["stride_kx"]),
        )
        if not WINDOW_TAPS < width <= self.config.window_pixels:
            self._refuse(f"n_px of WINDOW must be from {WINDOW_TAPS + 1} to {self.config.window_pixels}, not {width}")
        if not set(stride) <= {1, 2}:
            self._refuse(f"stride_ky and stride_kx of WINDOW must be 1 or 2, not {stride[0]} and {stride[1]}")
        if kernel[0] > height or kernel[1] > width:
            self._refuse(f"a window of {kernel[0]} by {kernel[1]} does not fit {height} lines of {width} pixels")
        for name, value in (("n_block", 1), ("n_wy", 1), ("n_wx", 1), ("row_offset", 0), ("reduce", 0), ("tap_rows", rows)):
            if instruction[name] != value:
                self._refuse(f"{name} of WINDOW must be {value}, not {instruction[name]}")
        weight_at = (instruction["weights"] + np.arange(rows)) & _ADDRESS_MASK
        self._require_within("weight", weight_at, self.config.weight_words)
        weights = self.weights[weight_at][::-1].astype(np.int64)
        used = lines * WINDOW_TAPS
        if weights[used:].any():
            self._refuse(f"the weights of rows {used} to {rows - 1} must be zero")
        pixels = (instruction["activations"] + _offsets(instruction, "py", "px")) & _ADDRESS_MASK
        self._require_within("scratchpad", pixels, self.config.scratchpad_words)
        channels = min(rows, self.config.columns)
        stream = self.scratchpad[pixels, :channels].astype(np.int64)
        result = (
            np.arange(kernel[0] - 1, height, stride[0])[:, None] * width + np.arange(kernel[1] - 1, width, stride[1])
        ).reshape(-1)
        sums = self._garbage_sums((result.size, self.config.columns)).astype(np.int64)
        sums[:, :channels] = 0
        for row in range(used):
            line, tap = divmod(row, WINDOW_TAPS)
            at = result - line * width - tap
            before = at < 0
            if before.any() and weights[row].any():
                self._refuse(f"row {row} multiplies a pixel before the first: its weights must be zero")
            sums[:, :channels] += stream[np.where(before, 0, at)] * weights[row, :channels]
        words = instruction["accumulators"] + np.arange(result.size)
        self._require_within("accumulator", words, len(self.accumulators))
        if instruction["accumulate"]:
            sums += self.accumulators[words]
        self.accumulators[words] = sums.astype(np.int32)  # wraps

    def _tap_addresses(self, instruction: Instruction) -> Int64Array:
        """Return the tap offset that each row reads in each pass: ``(passes, rows)``."""
        rows, tap_rows = self.config.rows, instruction["tap_rows"]
        if tap_rows > rows:
            self._refuse(f"tap_rows must be at most {rows}, not {tap_rows}")
        taps = _offsets(instruction, "block", "ky", "kx")
        at_once = rows // tap_rows
        passes = -(-taps.size // at_once)
        padded = np.concatenate([taps, np.full(passes * at_once - taps.size, taps[-1])]).reshape(passes, at_once)
        # The first tap of a pass is on the last rows; what is left over below reads what it likes, here the last group's tap.
        return np.pad(np.repeat(padded[:, ::-1], tap_rows, axis=1), ((0, 0), (rows % tap_rows, 0)), "edge")

    def _bypass(self, instruction: Instruction, operation: Operation, data: npt.NDArray[np.int8]) -> Int64Array:
        """Return ``(pixels, columns)``: the passes in ``data`` (pixels, passes, rows) reduced by the operation."""
        rows, columns, offset = self.config.rows, self.config.columns, instruction["row_offset"]
        if instruction["tap_rows"] != rows:
            self._refuse(f"tap_rows of {operation.name} must be {rows}, not {instruction['tap_rows']}")
        present = min(columns, rows - offset)
        if present < 1:
            self._refuse(f"row_offset must be below {rows} rows, not {offset}")
        if offset % columns:
            self._refuse(f"row_offset must be a multiple of {columns} columns, not {offset}")
        data = data[:, :, offset : offset + present]
        # Columns without a row get something, but nobody says what.
        result = self._garbage_sums((len(data), columns)).astype(np.int64)
        if operation is Operation.MAX:
            result[:, :present] = data.max(axis=1)
        elif operation is Operation.SUM:
            result[:, :present] = data.sum(axis=1, dtype=np.int64)
        else:
            result[:, :present] = data.view(np.uint8).sum(axis=1, dtype=np.int64) << (8 if operation is Operation.HIGH else 0)
        return result

    # STORE

    def _store(self, instruction: Instruction, memory: Bytes) -> None:
        self._require_counts(instruction, "n_x", "n_y", "pool", "groups")
        lanes, channels = self.config.lanes, instruction["groups"] * self.config.lanes
        first = instruction["first_group"] * lanes
        if first + channels > self.config.columns:
            self._refuse(f"columns {first} to {first + channels - 1} go beyond the last, {self.config.columns - 1}")
        if instruction["byte_offset"] % self.config.lanes:
            self._refuse(f"byte_offset must be a multiple of {self.config.lanes} lanes, not {instruction['byte_offset']}")
        if instruction["byte_offset"] + channels > self.config.rows:
            self._refuse(f"{channels} channels from byte {instruction['byte_offset']} on do not fit a word of {self.config.rows}")
        shape = (instruction["n_y"], instruction["n_x"])
        words = instruction["accumulators"] + np.arange(shape[0] * shape[1] * instruction["pool"])
        self._require_within("accumulator", words, len(self.accumulators))
        groups = np.arange(instruction["parameters"], instruction["parameters"] + instruction["groups"])
        self._require_within("parameter", groups, self.config.parameter_groups)
        sums = self.accumulators[words, first : first + channels]
        finished = self._finish(instruction, sums, slice(groups[0] * lanes, groups[0] * lanes + channels))
        finished = finished.reshape(shape[0] * shape[1], instruction["pool"], channels).max(axis=1)
        y, x = np.arange(shape[0])[:, None], np.arange(shape[1])
        if instruction["to_scratchpad"]:
            local = (instruction["scratchpad"] + y * instruction["scratchpad_stride_y"] + x).reshape(-1) & _ADDRESS_MASK
            self._require_within("scratchpad", local, self.config.scratchpad_words)
            byte = np.arange(self.config.rows) % (1 << instruction["period_log2"]) - instruction["byte_offset"]
            banks = np.flatnonzero((byte >= 0) & (byte < channels))
            self.scratchpad[local[:, None], banks] = finished[:, byte[banks]]
        if instruction["to_memory"]:
            word = self.config.word_bytes
            for name in ("memory_address", "memory_stride_y"):
                if instruction[name] % word:
                    self._refuse(f"{name} must be a multiple of the word of {word} bytes, not {instruction[name]}")
            at = (instruction["memory_address"] + y * instruction["memory_stride_y"] + x * word).reshape(-1)
            self._require_within("memory", at + word - 1, memory.size)
            memory[at[:, None] + instruction["byte_offset"] + np.arange(channels)] = finished.view(np.uint8)

    def _finish(self, instruction: Instruction, sums: npt.NDArray[np.int32], channels: slice) -> npt.NDArray[np.int8]:
        """Return the output bytes, before pooling, of sums ``(words, channels)``."""
        try:
            rounding = Rounding(instruction["rounding"])
        except ValueError:
            self._refuse(f"{instruction['rounding']} is no rounding mode")
        if instruction["source"] == Source.PAIR:
            if not self.config.elementwise:
                self._refuse(f"configuration {self.config.name!r} has no operand tables")
            sums = self.pair_table[sums & 0xFF] + self.pair_table[256 + (sums >> 8 & 0xFF)]
        sums = sums + self.bias[channels].astype(np.int32)  # int32, so that it wraps
        products = sums.astype(np.int64)
        if self.config.multiplier:
            products = products * self.multiplier[channels]
        values = round_in_stages(products, self.first_shift[channels], self.second_shift[channels], rounding)
        finished = np.clip(values + instruction["zero_point"], instruction["minimum"], instruction["maximum"]).astype(np.int8)
        if instruction["use_table"]:
            if not self.config.tables:
                self._refuse(f"configuration {self.config.name!r} has no activation table")
            finished = self.table[finished.view(np.uint8)]
        return finished


def _offsets(instruction: Instruction, *loops: str) -> Int64Array:
    """Return the sums ``i*stride_i + j*stride_j + ...`` over nested loops ``n_i``, ``n_j``, the last fastest."""
    offsets = np.zeros(1, np.int64)
    for loop in loops:
        offsets = (offsets[:, None] + np.arange(instruction[f"n_{loop}"]) * instruction[f"stride_{loop}"]).reshape(-1)
    return offsets
