"""Random instructions, straight from the instruction set: the engine does to every byte of memory what the emulator does.

No compiler takes part, so fields are exercised that it never combines.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from accel import isa
from accel.config import DESIGNS, PRESETS, EngineConfig
from accel.isa import PERIOD_THREE, WINDOW_TAPS, Instruction, Opcode, Operation, Source, Target
from accel.numerics import Rounding, shift_stages
from accel.program import LayerInfo, MemoryTiming, Program, TensorBinding
from accel.testing import assert_time_is_known
from sim.backends import get_backend

CONFIGS = {
    "base": PRESETS["base"],
    "thin": replace(PRESETS["small"], name="thin", bus_bytes=2),
    "fat": replace(PRESETS["tiny"], name="fat", bus_bytes=64),
    "tiny": PRESETS["tiny"],
    "small": PRESETS["small"],
    "tall": replace(PRESETS["small"], name="tall", rows=8, columns=2, lanes=1),
    "wide": replace(PRESETS["small"], name="wide", rows=3, columns=6, lanes=3, bus_bytes=16, parameter_channels=96),
    "micro": DESIGNS["micro"],
    # three lines of windows, and rows that are no power of two
    "nine": replace(PRESETS["small"], name="nine", rows=9, columns=12, lanes=3, bus_bytes=8, parameter_channels=96),
    # elements that multiply in the other ways, pairs of them below two lines of windows
    "ecp5": replace(PRESETS["small"], name="ecp5", multiply="ecp5", logic_elements=5),
    "pairs": replace(PRESETS["small"], name="pairs", rows=8, columns=9, lanes=1, window_pixels=16, multiply="pairs"),
}

#: The largest array there is, where rows, taps, groups and byte offsets come to the last bit of their fields; the lines of windows
#: come to the end of their buffers.
LARGEST = replace(PRESETS["large"], name="largest", rows=32, columns=32, bus_bytes=32, window_pixels=16)

#: Weight tiles at the end of the weight memory: for taps of three rows, and for windows.
THREES, WINDOWS = 4, 4

#: Orders that make an instruction wait for everything before it in the other queues. Its own queue is in order without being told.
LOAD_ORDER = {"after_load": isa.UNORDERED, "after_execute": 0, "after_store": 0, "fence": 1}
EXECUTE_ORDER = {"after_load": 0, "after_execute": isa.UNORDERED, "after_store": 0}
STORE_ORDER = {"after_load": 0, "after_execute": 0, "after_store": isa.UNORDERED}


class Assembler:
    """Draws a program of random but meaningful instructions for a configuration."""

    def __init__(self, config: EngineConfig, seed: int) -> None:
        self.config = config
        self.rng = np.random.default_rng(seed)
        self.instructions: list[Instruction] = [
            Instruction(Opcode.BEGIN, {"magic": isa.MAGIC, "isa_version": isa.ISA_VERSION, "digest": config.digest})
        ]
        self.data: list[tuple[int, bytes]] = []
        self.free = 1 << 14
        # what each accumulator half holds: pixels, and columns (a byte that bypasses the array exists only for as many as there are
        # rows)
        self.valid_sums = [0, 0]
        self.valid_groups = [0, 0]
        #: For each tile of windows, its lines and taps that are not zero.
        self.windows: list[tuple[int, int]] = []

    def number(self, low: int, high: int) -> int:
        """Draw from ``low`` to ``high``, both included."""
        return int(self.rng.integers(low, high + 1))

    def place(self, content: bytes, align: int = 64) -> int:
        """Put bytes into memory and return their address."""
        address = -(-self.free // align) * align
        self.data.append((address, content))
        self.free = address + len(content)
        return address

    def load(self, target: Target, **values: int) -> None:
        """Append a LOAD."""
        full = {"n_x": 1, "n_y": 1, "n_z": 1, "share_log2": self.number(0, 3)} | values
        self.instructions.append(Instruction(Opcode.LOAD, LOAD_ORDER | {"target": target} | full))

    def fill_everything(self) -> None:
        """Give every on-chip memory known contents."""
        config, rng = self.config, self.rng
        words = config.scratchpad_words
        content = rng.integers(0, 256, words * config.word_bytes, dtype=np.uint8).tobytes()
        log2 = config.word_bytes.bit_length() - 1
        self.load(Target.ACTIVATIONS, memory_address=self.place(content), element_log2=log2, period_log2=log2, n_x=words)
        words = rng.integers(0, 256, (config.weight_words, config.weight_word_bytes), dtype=np.uint8)
        # At the end lie tiles in which some rows have zero weights, as they must: for taps of three rows, and for windows.
        # Word i of a tile belongs to row R-1-i.
        tiles = words[-(THREES + WINDOWS) * config.rows :].reshape(-1, config.rows, config.weight_word_bytes)[:, ::-1]
        tiles[:THREES, : config.rows % 3] = 0
        for tile in tiles[THREES:]:
            lines, taps = self.number(1, max(1, config.window_lines)), self.number(1, WINDOW_TAPS)
            for row in range(config.rows):
                if row // WINDOW_TAPS >= lines or row % WINDOW_TAPS >= taps:
                    tile[row] = 0
            self.windows.append((lines, taps))
        content = words.tobytes()
        self.load(
            Target.WEIGHTS,
            memory_address=self.place(content),
            element_log2=config.weight_word_bytes.bit_length() - 1,
            n_x=config.weight_words,
        )
        self.rounding = Rounding(self.number(0, 2))
        parameters = b"".join(self.parameter() for _ in range(config.parameter_channels))
        self.load(Target.PARAMETERS, memory_address=self.place(parameters), element_log2=4, n_x=config.parameter_channels)
        if config.tables:
            self.load(Target.TABLE, memory_address=self.place(rng.bytes(256)), n_x=256)
        if config.elementwise:
            self.load(Target.PAIR_TABLE, memory_address=self.place(rng.bytes(2048)), element_log2=2, n_x=512)

    def parameter(self) -> bytes:
        """Draw one channel's parameters, mostly such that the result is not just the clamp."""
        shift = self.number(-14, -4) if self.number(0, 9) else self.number(-31, 30)
        first, second = shift_stages(shift, self.rounding)
        word = 0
        values = {
            "bias": self.number(-5000, 5000),
            "multiplier": self.number(1 << 30, (1 << 31) - 1),
            "first_shift": first,
            "second_shift": second,
        }
        for f in isa.PARAMETER:
            word |= (values.get(f.name, 0) & ((1 << f.width) - 1)) << f.offset
        return word.to_bytes(isa.PARAMETER_BYTES, "little")

    def random_load(self) -> None:
        """Append a LOAD of a small block, narrow or full, strided in memory and on chip."""
        config = self.config
        if not self.number(0, 3):
            self.load(
                Target.FILL,
                fill_value=self.number(0, 255),
                local_address=self.number(0, 99),
                n_x=self.number(1, 5),
                n_y=self.number(1, 3),
                n_z=self.number(1, 3),
                local_stride_y=self.number(0, 20),
                local_stride_z=self.number(0, 90),
            )
            return
        top = config.word_bytes.bit_length() - 1
        log2 = self.number(0, top)
        period = self.number(0, log2) if log2 < 2 or self.number(0, 3) else PERIOD_THREE
        element = 1 << log2
        n_x, n_y, n_z = self.number(1, 40), self.number(1, 4), self.number(1, 3)
        stride_y = (n_x + self.number(0, 5)) * element
        stride_z = (stride_y * n_y // element + self.number(0, 5)) * element
        address = self.place(self.rng.bytes(stride_z * n_z + 64), align=element)
        self.load(
            Target.ACTIVATIONS,
            memory_address=address,
            element_log2=log2,
            period_log2=period,
            n_x=n_x,
            n_y=n_y,
            n_z=n_z,
            memory_stride_y=stride_y,
            memory_stride_z=stride_z,
            local_address=self.number(0, 60),
            local_stride_y=self.number(1, 60),
            local_stride_z=self.number(1, 120),
        )

    def random_execute(self) -> None:
        """Append an EXECUTE onto a random half."""
        config = self.config
        if config.window_lines and not self.number(0, 2):
            self.random_window()
            return
        half = self.number(0, 1)
        while True:
            counts = {f"n_{name}": self.number(1, top) for name, top in (("py", 4), ("px", 6), ("wy", 2), ("wx", 3))}
            pixels = int(np.prod(list(counts.values())))
            if pixels <= config.accumulator_words:
                break
        reduce = int(not self.number(0, 2))
        if reduce:
            pixels //= counts["n_wy"] * counts["n_wx"]
        operation = Operation.ARRAY if self.number(0, 2) else Operation(self.number(1, 4))
        taps = {"n_block": self.number(1, 3), "n_ky": self.number(1, 3), "n_kx": self.number(1, 3)}
        tap_rows = config.rows
        row_offset = 0
        if operation is Operation.ARRAY:
            tap_rows = int(self.rng.choice([n for n in range(1, config.rows + 1) if config.rows % n == 0 or n == 3]))
        else:
            row_offset = config.columns * self.number(0, -(-config.rows // config.columns) - 1)
        if config.rows % tap_rows:
            taps = {"n_block": 1, "n_ky": self.number(1, 2), "n_kx": self.number(1, 2)}
        passes = -(-int(np.prod(list(taps.values()))) // (config.rows // tap_rows))
        weights = self.number(0, config.weight_words - (passes + THREES + WINDOWS) * config.rows)
        if config.rows % tap_rows:
            weights = config.weight_words - (THREES + WINDOWS) * config.rows
        # the furthest pixel and tap must lie in the scratchpad
        strides = {f"stride_{name}": self.number(0, 12) for name in ("py", "px", "wy", "wx", "block", "ky", "kx")}
        start = int(config.accumulator_words) * half
        accumulate = int(self.valid_sums[half] >= pixels and self.number(0, 1))
        self.instructions.append(
            Instruction(
                Opcode.EXECUTE,
                EXECUTE_ORDER
                | counts
                | taps
                | strides
                | {
                    "operation": operation,
                    "accumulate": accumulate,
                    "tap_rows": tap_rows,
                    "row_offset": row_offset,
                    "activations": self.number(0, 200),
                    "weights": weights,
                    "accumulators": start,
                    "reduce": reduce,
                },
            )
        )
        columns = config.columns if operation is Operation.ARRAY else min(config.columns, config.rows - row_offset)
        self.keep(half, pixels, columns, accumulate)

    def random_window(self) -> None:
        """Append a WINDOW onto a random half: lines of any length, a window that may be wider than its weights."""
        config = self.config
        half = self.number(0, 1)
        tile = self.number(0, WINDOWS - 1)
        lines, taps = self.windows[tile]
        while True:
            n_px, n_py = self.number(WINDOW_TAPS + 1, min(20, config.window_pixels)), self.number(lines, 8)
            n_kx, n_ky = self.number(taps, min(n_px, 4)), self.number(lines, min(n_py, 4))
            strides = self.number(1, 2), self.number(1, 2)
            pixels = -(-(n_py - n_ky + 1) // strides[0]) * -(-(n_px - n_kx + 1) // strides[1])
            if pixels <= config.accumulator_words:
                break
        accumulate = int(self.valid_sums[half] >= pixels and self.number(0, 1))
        values = {
            "operation": Operation.WINDOW,
            "accumulate": accumulate,
            "tap_rows": config.rows,
            "activations": self.number(0, 300),
            "weights": config.weight_words + (tile - WINDOWS) * config.rows,
            "accumulators": config.accumulator_words * half,
            **{"n_block": 1, "n_ky": n_ky, "n_kx": n_kx, "stride_ky": strides[0], "stride_kx": strides[1]},
            **{"n_py": n_py, "n_px": n_px, "n_wy": 1, "n_wx": 1, "stride_py": self.number(0, 25), "stride_px": self.number(1, 3)},
        }
        self.instructions.append(Instruction(Opcode.EXECUTE, EXECUTE_ORDER | values))
        self.keep(half, pixels, min(config.rows, config.columns), accumulate)

    def keep(self, half: int, pixels: int, columns: int, accumulate: int) -> None:
        """Remember what an EXECUTE has put into a half."""
        groups = columns // self.config.lanes
        self.valid_groups[half] = min(groups, self.valid_groups[half]) if accumulate else groups
        # an accumulation touches the first pixels only
        self.valid_sums[half] = max(pixels, self.valid_sums[half] if accumulate else 0)

    def random_store(self) -> None:
        """Append a STORE of what a half holds."""
        config = self.config
        half = self.number(0, 1)
        if not self.valid_sums[half]:
            return
        pool = self.number(1, min(4, self.valid_sums[half]))
        n_x = self.number(1, min(8, self.valid_sums[half] // pool))
        n_y = self.number(1, min(3, self.valid_sums[half] // pool // n_x))
        word_groups = config.rows // config.lanes
        groups = self.number(1, min(word_groups, self.valid_groups[half]))
        minimum = self.number(-128, 0)
        values = {
            "source": Source.PAIR if config.elementwise and not self.number(0, 3) else Source.SUM,
            "rounding": self.rounding,
            "use_table": int(config.tables and not self.number(0, 3)),
            "period_log2": 7,
            "byte_offset": self.number(0, word_groups - groups) * config.lanes,
            "minimum": minimum,
            "maximum": self.number(minimum, 127),
            "zero_point": self.number(-128, 127),
            "pool": pool,
            "accumulators": config.accumulator_words * half,
            "parameters": self.number(0, config.parameter_groups - groups),
            "first_group": self.number(0, self.valid_groups[half] - groups),
            "groups": groups,
            "n_x": n_x,
            "n_y": n_y,
            "to_scratchpad": self.number(0, 1),
            "scratchpad": self.number(0, 300),
            "scratchpad_stride_y": self.number(0, 50),
        }
        periods = [p for p in range(config.rows.bit_length() - 1) if groups * config.lanes <= 1 << p]
        if periods and self.number(0, 1):
            values |= {"period_log2": int(self.rng.choice(periods)), "byte_offset": 0, "to_scratchpad": 1}
        if not values["to_scratchpad"] or self.number(0, 1):
            values |= {"to_memory": 1, "memory_stride_y": (n_x + self.number(0, 3)) * config.word_bytes}
            size = values["memory_stride_y"] * n_y
            values["memory_address"] = self.place(self.rng.bytes(size), align=config.word_bytes)
        self.instructions.append(Instruction(Opcode.STORE, STORE_ORDER | values))

    def program(self, length: int) -> Program:
        """Return a program of ``length`` random instructions whose output is all of memory behind the instructions."""
        self.fill_everything()
        while len(self.instructions) < length:
            (self.random_load, self.random_execute, self.random_store)[self.number(0, 2)]()
        # what the scratchpad holds at the end shows through the array-less path
        shown = min(512, self.config.scratchpad_words)
        for start in range(0, shown, self.config.accumulator_words):
            self.dump(start, min(self.config.accumulator_words, shown - start))
        self.instructions.append(Instruction(Opcode.END))
        config = self.config
        size = -(-self.free // 4096) * 4096 + 4096
        image = np.zeros(size, np.uint8)
        code = b"".join(instruction.encode() for instruction in self.instructions)
        assert len(code) <= 1 << 14
        image[: len(code)] = np.frombuffer(code, np.uint8)
        for address, content in self.data:
            image[address : address + len(content)] = np.frombuffer(content, np.uint8)
        words = (size - (1 << 14)) // config.word_bytes
        shape = (words, 1, config.word_bytes)
        binding = {"channels_per_word": config.word_bytes, "element_bytes": config.word_bytes}
        return Program(
            network="random instructions",
            config=config,
            instructions=tuple(self.instructions),
            pack=lambda: image,
            memory_bytes=size,
            input=TensorBinding(name="none", shape=(1, 1, 1), address=size - 1, channels_per_word=1, element_bytes=1),
            output=TensorBinding(name="memory", shape=shape, address=1 << 14, **binding),
            layers=(
                LayerInfo(
                    name="all",
                    op="all",
                    macs=0,
                    first_instruction=0,
                    last_instruction=len(self.instructions) - 1,
                    bytes_read=0,
                    bytes_written=0,
                ),
            ),
        )

    def dump(self, start: int, count: int) -> None:
        """Write a stretch of the scratchpad to memory, as many banks as there are columns."""
        config = self.config
        lanes = min(config.rows, config.columns)
        zero = self.place(b"\0" * (config.parameter_channels * isa.PARAMETER_BYTES))
        identity = (1 << 30 << 32 | 30 << 64).to_bytes(16, "little") * config.parameter_channels
        self.data[-1] = (zero, identity)
        self.load(Target.PARAMETERS, memory_address=zero, element_log2=4, n_x=config.parameter_channels)
        self.instructions.append(
            Instruction(
                Opcode.EXECUTE,
                EXECUTE_ORDER
                | {f"n_{name}": 1 for name in ("block", "ky", "kx", "py", "wy", "wx")}
                | {"operation": Operation.SUM, "tap_rows": config.rows, "activations": start, "n_px": count, "stride_px": 1},
            )
        )
        self.instructions.append(
            Instruction(
                Opcode.STORE,
                STORE_ORDER
                | {"rounding": Rounding.DOUBLE_AWAY, "minimum": -128, "maximum": 127, "pool": 1, "period_log2": 7}
                | {"groups": lanes // config.lanes, "n_x": count, "n_y": 1, "to_memory": 1}
                | {"memory_address": self.place(self.rng.bytes(count * config.word_bytes), align=config.word_bytes)},
            )
        )


def run_both(backend: str, config: EngineConfig, seed: int, length: int, timing: MemoryTiming) -> None:
    """Run one random program on the emulator and on a backend; memory is equal, and what every unit does in every cycle is
    what the cycle model says."""
    program = Assembler(config, seed).program(length)
    image = np.zeros((1, 1, 1), np.int8)
    expected = get_backend("emulator").run(program, [image])
    got = get_backend(backend).run(program, [image], timing=timing)
    wrong = np.argwhere(expected.outputs != got.outputs)
    assert not len(wrong), f"seed {seed} on {config.name}: {len(wrong)} bytes differ, first {wrong[0]}"
    if timing.stall_seed is None:
        assert_time_is_known(program, timing, got, f"seed {seed} on {config.name}")


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("seed", range(16))
def test_random_instructions_verilator(name: str, seed: int) -> None:
    timing = MemoryTiming(latency=(20, 1, 3, 100)[seed % 4], interval=(1, 1, 2, 5)[seed // 4 % 4])
    run_both("verilator", CONFIGS[name], seed, 80, timing)
    run_both("verilator", CONFIGS[name], seed + 1000, 40, replace(timing, stall_seed=seed))


def test_random_instructions_pysim() -> None:
    run_both("pysim", CONFIGS["tiny"], 1, 30, MemoryTiming())


@pytest.mark.full
@pytest.mark.parametrize("seed", range(16))
def test_random_instructions_on_the_largest_array(seed: int) -> None:
    timing = MemoryTiming(latency=(20, 1, 3, 100)[seed % 4], interval=(1, 1, 2, 5)[seed // 4 % 4])
    run_both("verilator", LARGEST, seed, 80, timing)
    run_both("verilator", LARGEST, seed + 1000, 40, replace(timing, stall_seed=seed))
