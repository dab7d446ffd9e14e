"""The emulator against hand-assembled programs; expected values come from plain loops over the instruction set's own words."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from accel.config import PRESETS, EngineConfig
from accel.emulator import Emulator, EmulatorError, Machine
from accel.isa import (
    INSTRUCTION_BYTES,
    ISA_VERSION,
    MAGIC,
    PARAMETER,
    PERIOD_THREE,
    Instruction,
    Opcode,
    Operation,
    Source,
    Target,
)
from accel.numerics import Rounding, requantise, shift_stages
from accel.program import Backend, Program, ProgramError, TensorBinding

Array = npt.NDArray[Any]

ODD = replace(
    PRESETS["base"], name="odd", rows=6, columns=9, lanes=3, scratchpad_words=256, accumulator_words=64, parameter_channels=96
)
WIDE = replace(PRESETS["small"], name="wide", rows=8, columns=2, lanes=1, parameter_channels=64)
CONFIGS = {config.name: config for config in (*PRESETS.values(), ODD, WIDE)}
#: Two rows more than three lines of windows need.
ELEVEN = replace(PRESETS["base"], name="eleven", rows=11, columns=12, lanes=1, parameter_channels=128, window_pixels=8)
WINDOW_CONFIGS = {config.name: config for config in (*CONFIGS.values(), ELEVEN) if config.window_lines}
#: What passes over the pixels once for each tap.
IN_PASSES = [operation for operation in Operation if operation is not Operation.WINDOW]


# Assembling by hand


@dataclass
class Assembly:
    """A program under construction: instructions from address 0 on, data from ``data_at`` on."""

    config: EngineConfig
    size: int = 1 << 15
    data_at: int = 1 << 13
    instructions: list[Instruction] = field(default_factory=list)
    memory: Array = field(init=False)

    def __post_init__(self) -> None:
        self.memory = np.zeros(self.size, np.uint8)
        begin = {"magic": MAGIC, "isa_version": ISA_VERSION, "digest": self.config.digest}
        self.instructions.append(Instruction(Opcode.BEGIN, begin))

    def put(self, data: npt.ArrayLike) -> int:
        """Place bytes in memory, aligned to 64, and return their address."""
        raw = np.frombuffer(np.asarray(data).tobytes(), np.uint8)
        address = self.data_at
        self.memory[address : address + raw.size] = raw
        self.data_at = -(-(address + raw.size) // 64) * 64
        return address

    def load(self, target: Target, **values: int) -> None:
        self.instructions.append(Instruction(Opcode.LOAD, {"target": target, "n_x": 1, "n_y": 1, "n_z": 1} | values))

    def execute(self, operation: Operation, **values: int) -> None:
        ones = {f"n_{loop}": 1 for loop in ("block", "ky", "kx", "py", "px", "wy", "wx")}
        fixed: dict[str, int] = {"operation": operation, "tap_rows": self.config.rows}
        self.instructions.append(Instruction(Opcode.EXECUTE, ones | fixed | unsigned(values)))

    def store(self, **values: int) -> None:
        fixed = {"pool": 1, "n_x": 1, "n_y": 1, "groups": 1, "minimum": -128, "maximum": 127}
        self.instructions.append(Instruction(Opcode.STORE, fixed | unsigned(values)))

    def finish(self) -> Array:
        """Return the memory with the instructions, END included, in place."""
        code = b"".join(i.encode() for i in (*self.instructions, Instruction(Opcode.END)))
        self.memory[: len(code)] = np.frombuffer(code, np.uint8)
        return self.memory

    def run(self, machine: Machine | None = None) -> Machine:
        """Run on a fresh machine, or on the given one, and return it."""
        machine = machine or Machine(self.config)
        machine.run(self.finish())
        return machine


def unsigned(values: dict[str, int]) -> dict[str, int]:
    """Return fields with negative local strides brought to 16 bits."""
    return {name: value % 65536 if "stride" in name and "memory" not in name else value for name, value in values.items()}


def parameter_bytes(bias: Sequence[int], multiplier: Sequence[int], stages: Sequence[tuple[int, int]]) -> bytes:
    """Return channels' parameters as they lie in memory, packed by the field table."""
    data = b""
    for b, m, (first, second) in zip(bias, multiplier, stages, strict=True):
        values = {"bias": b, "multiplier": m, "reserved": 0, "first_shift": first, "second_shift": second}
        word = sum((values[f.name] & (1 << f.width) - 1) << f.offset for f in PARAMETER)
        data += word.to_bytes(16, "little")
    return data


def loops(values: dict[str, int], *names: str) -> Iterator[int]:
    """Yield the sums of index times stride over nested loops, the last fastest."""
    for indices in itertools.product(*(range(values[f"n_{name}"]) for name in names)):
        yield sum(i * values[f"stride_{name}"] for i, name in zip(indices, names, strict=True))


def wrap(value: int) -> int:
    return (value + 2**31) % 2**32 - 2**31


# References: the docstring of accel.isa in plain loops


def ref_load_activations(config: EngineConfig, memory: Array, scratchpad: Array, v: dict[str, int]) -> Array:
    result = scratchpad.copy()
    period = 3 if v["period_log2"] == PERIOD_THREE else 1 << v["period_log2"]
    for z, y, x in np.ndindex(v["n_z"], v["n_y"], v["n_x"]):
        at = v["memory_address"] + z * v["memory_stride_z"] + y * v["memory_stride_y"] + (x << v["element_log2"])
        local = (v["local_address"] + z * v["local_stride_z"] + y * v["local_stride_y"] + x) % 65536
        for r in range(config.rows):
            result[local, r] = memory[at + r % period].astype(np.int8)
    return result


def ref_execute(config: EngineConfig, machine: Machine, operation: Operation, v: dict[str, int]) -> Array:
    rows, columns = config.rows, config.columns
    result = machine.accumulators.copy()
    taps, pixels = list(loops(v, "block", "ky", "kx")), list(loops(v, "py", "px", "wy", "wx"))
    at_once = rows // v["tap_rows"]
    window = v["n_wy"] * v["n_wx"] if v["reduce"] else 1
    for index in range(-(-len(taps) // at_once)):
        for i, pixel in enumerate(pixels):
            word = {}
            for r in range(rows - at_once * v["tap_rows"], rows):
                tap = taps[min(index * at_once + (rows - 1 - r) // v["tap_rows"], len(taps) - 1)]
                word[r] = int(machine.scratchpad[(v["activations"] + pixel + tap) % 65536, r])
            at = v["accumulators"] + i // window
            for c in range(columns):
                old = int(result[at, c])
                fresh = not (v["accumulate"] or index or i % window)
                if operation is Operation.ARRAY:
                    total = sum(word[r] * int(machine.weights[v["weights"] + index * rows + rows - 1 - r, c]) for r in word)
                elif c + v["row_offset"] >= rows:
                    continue  # undefined
                else:
                    byte = word[c + v["row_offset"]]
                    total = {
                        Operation.SUM: byte,
                        Operation.MAX: byte if fresh else max(old, byte),
                        Operation.LOW: byte % 256,
                        Operation.HIGH: byte % 256 * 256,
                    }[operation]
                keeps = fresh or operation is Operation.MAX
                result[at, c] = wrap(total if keeps else old + total)
    return result


def ref_window(config: EngineConfig, machine: Machine, v: dict[str, int]) -> Array:
    rows = config.rows
    result = machine.accumulators.copy()
    pixels = list(loops(v, "py", "px"))
    at = v["accumulators"]
    for py in range(v["n_ky"] - 1, v["n_py"], v["stride_ky"]):
        for px in range(v["n_kx"] - 1, v["n_px"], v["stride_kx"]):
            u = py * v["n_px"] + px
            for c in range(min(rows, config.columns)):
                total = int(result[at, c]) if v["accumulate"] else 0
                for b, j in np.ndindex(config.window_lines, 3):
                    weight = int(machine.weights[v["weights"] + rows - 1 - (3 * b + j), c])
                    if weight:
                        before = u - b * v["n_px"] - j
                        assert before >= 0
                        total += int(machine.scratchpad[(v["activations"] + pixels[before]) % 65536, c]) * weight
                result[at, c] = wrap(total)
            at += 1
    return result


@dataclass
class Parameters:
    """Channels' parameters as integers."""

    bias: list[int]
    multiplier: list[int]
    shift: list[int]

    @staticmethod
    def random(rng: np.random.Generator, count: int) -> "Parameters":
        return Parameters(
            bias=[int(n) for n in rng.integers(-(2**16), 2**16, count)],
            multiplier=[int(n) for n in rng.integers(2**30, 2**31, count)],
            shift=[int(n) for n in rng.integers(-14, -6, count)],
        )

    def encode(self, rounding: Rounding) -> bytes:
        return parameter_bytes(self.bias, self.multiplier, [shift_stages(s, rounding) for s in self.shift])


def ref_store(
    config: EngineConfig, machine: Machine, memory: Array, parameters: Parameters, v: dict[str, int]
) -> tuple[Array, Array]:
    """Return scratchpad and memory after a STORE whose parameters are those of the first channels of the parameter memory."""
    scratchpad, memory = machine.scratchpad.copy(), memory.copy()
    a = v["accumulators"]
    for y, x in np.ndindex(v["n_y"], v["n_x"]):
        best = [-129] * (v["groups"] * config.lanes)
        for _ in range(v["pool"]):
            for k in range(len(best)):
                total = int(machine.accumulators[a, v["first_group"] * config.lanes + k])
                if v["source"] == Source.PAIR:
                    total = int(machine.pair_table[total % 256]) + int(machine.pair_table[256 + total // 256 % 256])
                channel = v["parameters"] * config.lanes + k
                total = wrap(total + parameters.bias[channel])
                rounding = Rounding(v["rounding"])
                byte = int(requantise(total, parameters.multiplier[channel], parameters.shift[channel], rounding)) + v["zero_point"]
                byte = max(v["minimum"], min(v["maximum"], byte))
                best[k] = max(best[k], int(machine.table[byte % 256]) if v["use_table"] else byte)
            a += 1
        if v["to_scratchpad"]:
            word = (v["scratchpad"] + y * v["scratchpad_stride_y"] + x) % 65536
            for k, r in np.ndindex(len(best), config.rows):
                if r % (1 << v["period_log2"]) == v["byte_offset"] + k:
                    scratchpad[word, r] = best[k]
        if v["to_memory"]:
            at = v["memory_address"] + y * v["memory_stride_y"] + x * config.word_bytes + v["byte_offset"]
            memory[at : at + len(best)] = np.array(best, np.int8).view(np.uint8)
    return scratchpad, memory


# LOAD


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("name", CONFIGS)
def test_load_activations(name: str, seed: int) -> None:
    config = CONFIGS[name]
    rng = np.random.default_rng(seed)
    assembly = Assembly(config)
    element_log2 = int(rng.integers(0, config.word_bytes.bit_length()))
    periods = [*range(element_log2 + 1), *([PERIOD_THREE] * 2 if 1 << element_log2 >= min(3, config.rows) else [])]
    n_z, n_y, n_x = (int(n) for n in rng.integers(1, 4, 3))
    values = {
        "element_log2": element_log2,
        "period_log2": int(rng.choice(periods)),
        "memory_address": assembly.put(rng.integers(0, 256, 4096, np.uint8)),
        "memory_stride_y": int(rng.integers(0, 8)) << element_log2,
        "memory_stride_z": int(rng.integers(0, 20)) << element_log2,
        "local_address": 40,
        "local_stride_y": int(rng.choice([3, 5, -7])) % 65536,
        "local_stride_z": int(rng.choice([9, 16, -12])) % 65536,
        "n_x": n_x,
        "n_y": n_y,
        "n_z": n_z,
    }
    assembly.load(Target.ACTIVATIONS, **values)
    machine = Machine(config)
    expected = ref_load_activations(config, assembly.finish(), machine.scratchpad, values)
    np.testing.assert_array_equal(assembly.run(machine).scratchpad, expected, err_msg=f"seed {seed}")


def test_bytes_beyond_the_element_are_undefined() -> None:
    """An element of one byte with a period of the whole word: bank 0 is defined, the others change from load to load."""
    assembly = Assembly(PRESETS["base"])
    values = {"memory_address": assembly.put(np.arange(64, dtype=np.int8)), "period_log2": 3, "n_x": 64}
    assembly.load(Target.ACTIVATIONS, **values)
    assembly.load(Target.ACTIVATIONS, **values, local_address=64)
    machine = assembly.run()
    first, second = machine.scratchpad[:64], machine.scratchpad[64:128]
    assert first[:, 0].tolist() == second[:, 0].tolist() == list(range(64))
    assert (first[:, 1:] != second[:, 1:]).mean() > 0.9


def test_three_bytes_of_four_go_round_the_banks() -> None:
    """An image's pixels of three channels on eight rows: the fourth byte of an element is not used."""
    assembly = Assembly(PRESETS["base"])
    address = assembly.put(np.arange(12, dtype=np.int8))
    assembly.load(Target.ACTIVATIONS, memory_address=address, element_log2=2, period_log2=PERIOD_THREE, n_x=3)
    scratchpad = assembly.run().scratchpad
    assert scratchpad[:3].tolist() == [[0, 1, 2] * 2 + [0, 1], [4, 5, 6] * 2 + [4, 5], [8, 9, 10] * 2 + [8, 9]]


def test_the_third_of_two_bytes_is_undefined() -> None:
    assembly = Assembly(PRESETS["base"])
    values = {
        "memory_address": assembly.put(np.arange(128, dtype=np.int8)),
        "element_log2": 1,
        "period_log2": PERIOD_THREE,
        "n_x": 64,
    }
    assembly.load(Target.ACTIVATIONS, **values)
    assembly.load(Target.ACTIVATIONS, **values, local_address=64)
    machine = assembly.run()
    first, second = machine.scratchpad[:64], machine.scratchpad[64:128]
    undefined = [2, 5]
    np.testing.assert_array_equal(np.delete(first, undefined, axis=1), np.delete(second, undefined, axis=1))
    assert (first[:, undefined] != second[:, undefined]).mean() > 0.9


def test_fill_writes_every_bank_of_a_frame() -> None:
    assembly = Assembly(ODD)
    assembly.load(Target.FILL, fill_value=0x85, local_address=10, n_x=3, n_y=2, n_z=2, local_stride_y=5, local_stride_z=100)
    machine = Machine(ODD)
    expected = machine.scratchpad.copy()
    for start in (10, 15, 110, 115):
        expected[start : start + 3] = 0x85 - 256
    np.testing.assert_array_equal(assembly.run(machine).scratchpad, expected)


@pytest.mark.parametrize("name", CONFIGS)
def test_load_weights(name: str) -> None:
    config = CONFIGS[name]
    words = np.random.default_rng(1).integers(-128, 128, (12, config.weight_word_bytes), np.int8)
    assembly = Assembly(config)
    size_log2 = config.weight_word_bytes.bit_length() - 1
    address = assembly.put(words)
    assembly.load(
        Target.WEIGHTS, element_log2=size_log2, memory_address=address, n_x=3, n_y=2, memory_stride_y=8 << size_log2,
        local_address=2, local_stride_y=7,
    )  # fmt: skip
    machine = Machine(config)
    expected = machine.weights.copy()
    expected[2:5], expected[9:12] = words[0:3, : config.columns], words[8:11, : config.columns]
    np.testing.assert_array_equal(assembly.run(machine).weights, expected)


@pytest.mark.parametrize("name", CONFIGS)
def test_load_parameters(name: str) -> None:
    config = CONFIGS[name]
    bias, multiplier = [-(2**31), 2**31 - 1, -1, 0, 77], [0, 2**31 - 1, 1, 2**30, 12345]
    stages = [(0, 31), (31, 0), (1, 30), (17, 3), (31, 31)]
    assembly = Assembly(config)
    assembly.load(Target.PARAMETERS, element_log2=4, memory_address=assembly.put(parameter_bytes(bias, multiplier, stages)),
                  local_address=3, n_x=5)  # fmt: skip
    machine = assembly.run()
    at = slice(3 * config.lanes, 3 * config.lanes + 5)
    assert machine.bias[at].tolist() == bias
    assert machine.multiplier[at].tolist() == multiplier
    assert list(zip(machine.first_shift[at].tolist(), machine.second_shift[at].tolist(), strict=True)) == stages


def test_load_tables() -> None:
    rng = np.random.default_rng(2)
    table, pair = rng.integers(-128, 128, 256, np.int8), rng.integers(-(2**31), 2**31, 512).astype(np.int32)
    assembly = Assembly(PRESETS["base"])
    assembly.load(Target.TABLE, memory_address=assembly.put(table), n_x=256)
    address = assembly.put(pair)
    assembly.load(Target.PAIR_TABLE, element_log2=2, memory_address=address, n_x=256)
    assembly.load(Target.PAIR_TABLE, element_log2=2, memory_address=address + 1024, n_x=256, local_address=256)
    machine = assembly.run()
    np.testing.assert_array_equal(machine.table, table)
    np.testing.assert_array_equal(machine.pair_table, pair)


# EXECUTE


def random_execute(config: EngineConfig, rng: np.random.Generator) -> dict[str, int]:
    """Return loops whose addresses lie within the scratchpad whatever the signs of their strides."""
    values = {f"n_{loop}": int(rng.integers(1, 4)) for loop in ("block", "ky", "kx", "py", "px", "wy", "wx")}
    reach = 0
    for loop in ("block", "ky", "kx", "py", "px", "wy", "wx"):
        values[f"stride_{loop}"] = int(rng.integers(-2, 6)) * (1 if loop in ("kx", "wx") else 2)
        reach += (values[f"n_{loop}"] - 1) * abs(values[f"stride_{loop}"])
    pixels = values["n_py"] * values["n_px"] * values["n_wy"] * values["n_wx"]
    return values | {
        "tap_rows": int(rng.integers(1, config.rows + 1)),
        "reduce": int(rng.integers(0, 2)),
        "activations": reach + int(rng.integers(0, config.scratchpad_words - 2 * reach)),
        "accumulators": int(rng.integers(0, max(1, 2 * config.accumulator_words - pixels))),
        "accumulate": int(rng.integers(0, 2)),
        "weights": 0,
        "row_offset": 0,
    }


def limited(config: EngineConfig, v: dict[str, int]) -> bool:
    """Whether a random EXECUTE fits the memories."""
    passes = -(-v["n_block"] * v["n_ky"] * v["n_kx"] // (config.rows // v["tap_rows"]))
    pixels = v["n_py"] * v["n_px"] * v["n_wy"] * v["n_wx"]
    return passes * config.rows <= config.weight_words and pixels <= 2 * config.accumulator_words


@pytest.mark.parametrize("operation", IN_PASSES)
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", CONFIGS)
def test_execute(name: str, seed: int, operation: Operation) -> None:
    config = CONFIGS[name]
    rng = np.random.default_rng((seed, operation))
    values = random_execute(config, rng)
    while not limited(config, values):
        values = random_execute(config, rng)
    if operation is not Operation.ARRAY:
        values["row_offset"] = config.columns * int(rng.integers(0, -(-config.rows // config.columns)))
        values["tap_rows"] = config.rows
    assembly = Assembly(config)
    assembly.execute(operation, **values)
    machine = Machine(config, seed=seed)
    # rows that belong to no tap must have no weights: in each pass they have the last words
    unused = np.arange(config.weight_words) % config.rows >= config.rows - config.rows % values["tap_rows"]
    machine.weights[unused] = 0
    expected = ref_execute(config, machine, operation, values)
    defined = slice(0, config.columns if operation is Operation.ARRAY else max(0, config.rows - values["row_offset"]))
    actual = assembly.run(machine).accumulators
    np.testing.assert_array_equal(actual[:, defined], expected[:, defined], err_msg=f"seed {seed}: {values}")


def random_window(config: EngineConfig, rng: np.random.Generator) -> tuple[dict[str, int], tuple[int, int]]:
    """Return a WINDOW, and how many lines and taps may have weights: its first result has that many pixels behind it."""
    while True:
        lines, taps = int(rng.integers(1, config.window_lines + 1)), int(rng.integers(1, 4))
        n_py, n_px = int(rng.integers(1, 7)), int(rng.choice([4, int(rng.integers(5, 8)), config.window_pixels]))
        values = {
            "n_py": n_py,
            "n_px": n_px,
            "n_ky": int(rng.integers(1, n_py + 1)),
            "n_kx": int(rng.integers(1, min(n_px, 5) + 1)),
            "stride_ky": int(rng.integers(1, 3)),
            "stride_kx": int(rng.integers(1, 3)),
            "stride_py": int(rng.integers(-20, 20)),
            "stride_px": int(rng.choice([1, 2, -1])),
            "activations": config.scratchpad_words // 2,
            "accumulators": int(rng.integers(0, 20)),
            "accumulate": int(rng.integers(0, 2)),
            "weights": int(rng.integers(0, 9)),
        }
        behind = (values["n_ky"] - 1) * n_px + values["n_kx"] - 1 >= (lines - 1) * n_px + taps - 1
        results = -(-(n_py - values["n_ky"] + 1) // values["stride_ky"]) * -(-(n_px - values["n_kx"] + 1) // values["stride_kx"])
        reach = [values["activations"] + at for at in loops(values, "py", "px")]
        if (
            behind
            and values["accumulators"] + results <= 2 * config.accumulator_words
            and min(reach) >= 0
            and max(reach) < config.scratchpad_words
        ):
            return values, (lines, taps)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("name", WINDOW_CONFIGS)
def test_window(name: str, seed: int) -> None:
    config = WINDOW_CONFIGS[name]
    rng = np.random.default_rng((seed, config.rows))
    values, (lines, taps) = random_window(config, rng)
    assembly = Assembly(config)
    assembly.execute(Operation.WINDOW, **values)
    machine = Machine(config, seed=seed)
    for row in range(config.rows):
        if row // 3 >= lines or row % 3 >= taps:
            machine.weights[values["weights"] + config.rows - 1 - row] = 0
    expected = ref_window(config, machine, values)
    actual = assembly.run(machine).accumulators
    channels = min(config.rows, config.columns)
    np.testing.assert_array_equal(actual[:, :channels], expected[:, :channels], err_msg=f"seed {seed}: {values}")


def test_a_depthwise_convolution_is_a_window() -> None:
    """A 2x3 kernel for each of eight channels over a map of 4 by 6, which lies in the scratchpad line by line."""
    config = PRESETS["base"]
    rng = np.random.default_rng(3)
    kernel = rng.integers(-128, 128, (2, 3, 8), np.int8)
    # row b*3 + j has the weights of the pixel b lines and j pixels ago; the last row's word comes first
    rows = np.concatenate([kernel[::-1, ::-1].reshape(6, 8), np.zeros((2, 8), np.int8)])
    assembly = Assembly(config)
    address = assembly.put(rows[::-1])
    assembly.load(Target.WEIGHTS, element_log2=3, memory_address=address, n_x=8)
    assembly.execute(Operation.WINDOW, n_py=4, n_px=6, n_ky=2, n_kx=3, stride_py=6, stride_px=1, stride_ky=1, stride_kx=1)
    machine = Machine(config)
    x = machine.scratchpad[:24].reshape(4, 6, 8).astype(int)
    sums = assembly.run(machine).accumulators[:12].reshape(3, 4, 8)
    for y, xx in np.ndindex(3, 4):
        assert sums[y, xx].tolist() == (x[y : y + 2, xx : xx + 3] * kernel).sum(axis=(0, 1)).tolist()


def test_an_average_pool_is_a_reduced_sum() -> None:
    """Two windows of 2x2 in a line of four by two pixels, each into one word; with stride 2 nothing overlaps."""
    assembly = Assembly(PRESETS["base"])
    values = {"n_px": 2, "stride_px": 2, "n_wy": 2, "stride_wy": 4, "n_wx": 2, "stride_wx": 1, "reduce": 1}
    assembly.execute(Operation.SUM, **values)
    assembly.execute(Operation.MAX, **values, accumulators=2)
    machine = Machine(PRESETS["base"])
    before = machine.accumulators.copy()
    windows = machine.scratchpad[:8].astype(int).reshape(2, 2, 2, 8).transpose(1, 0, 2, 3).reshape(2, 4, 8)
    expected = np.concatenate([windows.sum(axis=1), windows.max(axis=1), before[4:]])
    np.testing.assert_array_equal(assembly.run(machine).accumulators, expected)


def test_taps_of_three_rows_are_a_convolution_of_three_channels() -> None:
    """Eight rows take two taps of three channels at once, so a kernel of three taps takes two passes."""
    config = PRESETS["base"]
    rng = np.random.default_rng(8)
    x, kernel = rng.integers(-128, 128, (6, 4), np.int8), rng.integers(-128, 128, (3, 3, 8), np.int8)  # taps, channels, outputs
    assembly = Assembly(config)
    address = assembly.put(x)
    assembly.load(Target.ACTIVATIONS, memory_address=address, element_log2=2, period_log2=PERIOD_THREE, n_x=6)
    matrix = np.zeros((2, 8, 8), np.int8)
    # the first tap is on the last rows; row r has channel r % 3
    for tap in range(3):
        for r in range(5 - 3 * (tap % 2), 8 - 3 * (tap % 2)):
            matrix[tap // 2, r] = kernel[tap, r % 3]
    address = assembly.put(matrix[:, ::-1])
    assembly.load(Target.WEIGHTS, element_log2=3, memory_address=address, n_x=16)
    assembly.execute(Operation.ARRAY, tap_rows=3, n_kx=3, stride_kx=1, n_px=4, stride_px=1)
    sums = assembly.run().accumulators[:4]
    for p in range(4):
        assert sums[p].tolist() == np.einsum("tc,tco->o", x[p : p + 3, :3].astype(int), kernel.astype(int)).tolist()


def test_execute_in_blocks_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long instruction is gathered in several blocks of passes; the smallest block must give the same sums."""
    assembly = Assembly(PRESETS["base"])
    assembly.execute(
        Operation.ARRAY, tap_rows=4, n_block=3, stride_block=20, n_ky=3, stride_ky=7, n_kx=5, stride_kx=1, n_px=6, stride_px=2
    )
    assembly.execute(Operation.MAX, n_block=3, stride_block=20, n_kx=5, stride_kx=1, n_px=6, stride_px=2, accumulators=6)
    for operation in (Operation.ARRAY, Operation.MAX):
        assembly.execute(
            operation, n_block=3, stride_block=20, n_kx=5, stride_kx=1, n_px=6, stride_px=2, n_wx=3, stride_wx=1, reduce=1,
            accumulators=12 + 6 * operation,
        )  # fmt: skip
    whole = assembly.run().accumulators
    monkeypatch.setattr("accel.emulator._BLOCK_BYTES", 1)
    np.testing.assert_array_equal(assembly.run().accumulators, whole)


def test_sums_wrap_at_32_bits() -> None:
    assembly = Assembly(PRESETS["tiny"])
    assembly.execute(Operation.HIGH, accumulate=1)
    machine = Machine(PRESETS["tiny"])
    machine.accumulators[0] = 2**31 - 1
    machine.scratchpad[0] = -1
    assert assembly.run(machine).accumulators[0].tolist() == [wrap(2**31 - 1 + 255 * 256)] * 2


def test_columns_without_a_row_are_undefined() -> None:
    """WIDE the other way round: 9 columns on 6 rows. Two equal operations differ only where nothing is promised."""
    assembly = Assembly(ODD)
    assembly.execute(Operation.SUM, n_px=20, stride_px=1)
    assembly.execute(Operation.SUM, n_px=20, stride_px=1, accumulators=20)
    sums = assembly.run().accumulators
    np.testing.assert_array_equal(sums[:20, :6], sums[20:40, :6])
    assert (sums[:20, 6:] != sums[20:40, 6:]).all()


# STORE


@pytest.mark.parametrize("rounding", Rounding)
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", CONFIGS)
def test_store(name: str, seed: int, rounding: Rounding) -> None:
    config = CONFIGS[name]
    rng = np.random.default_rng((seed, rounding))
    groups = int(rng.integers(1, min(config.rows, config.columns) // config.lanes + 1))
    low, high = sorted(int(n) for n in rng.integers(-128, 128, 2))
    n_y, n_x, pool = (int(n) for n in rng.integers(1, 4, 3))
    assembly = Assembly(config)
    parameters = Parameters.random(rng, 4 * config.columns)
    values = {
        "source": int(rng.integers(0, 2)),
        "rounding": rounding,
        "use_table": int(rng.integers(0, 2)),
        "to_scratchpad": int(seed != 0),
        "to_memory": int(seed != 1),
        "period_log2": int(rng.integers(0, 6)),
        "byte_offset": config.lanes * int(rng.integers(0, config.rows // config.lanes - groups + 1)),
        "minimum": low,
        "maximum": high,
        "zero_point": int(rng.integers(-128, 128)),
        "pool": pool,
        "accumulators": int(rng.integers(0, 5)),
        "parameters": int(rng.integers(0, 3)),
        "first_group": int(rng.integers(0, config.column_groups - groups + 1)),
        "groups": groups,
        "n_x": n_x,
        "n_y": n_y,
        "scratchpad": 30,
        "scratchpad_stride_y": int(rng.choice([4, -9])),
        "memory_address": 1 << 14,
        "memory_stride_y": config.word_bytes * int(rng.integers(3, 6)),
    }
    address = assembly.put(np.frombuffer(parameters.encode(rounding), np.uint8))
    assembly.load(Target.PARAMETERS, element_log2=4, memory_address=address, n_x=4 * config.columns)
    assembly.store(**values)
    machine = Machine(config, seed=seed)
    machine.accumulators >>= rng.integers(0, 16, machine.accumulators.shape)
    scratchpad, memory = ref_store(config, machine, assembly.finish(), parameters, values)
    np.testing.assert_array_equal(assembly.run(machine).scratchpad, scratchpad, err_msg=f"seed {seed}: {values}")
    np.testing.assert_array_equal(assembly.memory, memory, err_msg=f"seed {seed}: {values}")


def test_an_engine_without_multipliers_only_shifts() -> None:
    config = replace(PRESETS["base"], multiplier=False)
    assembly = Assembly(config)
    address = assembly.put(np.frombuffer(parameter_bytes([0, 1, 2, 3], [5, 6, 7, 0], [(0, 3), (0, 0), (1, 1), (2, 0)]), np.uint8))
    assembly.load(Target.PARAMETERS, element_log2=4, memory_address=address, n_x=4)
    assembly.store(to_scratchpad=1, period_log2=3, rounding=Rounding.SINGLE_UP)
    machine = Machine(config)
    machine.accumulators[0, :4] = [20, 20, 20, 20]
    # 20/8 up, 21, then 22/4 up (the bit lost at the first stage is below the half), 23/4 truncated
    assert assembly.run(machine).scratchpad[0, :4].tolist() == [3, 21, 6, 5]


# Whole programs


def conv_program(config: EngineConfig, x: Array, weights: Array, bias: Array) -> Program:
    """Return a hand-made program: a 3x3 convolution with one pixel of padding, then a 2x2 maximum, of at most ``rows`` channels.

    The map ``x`` is loaded into a frame two words wider and taller, filled with the input's zero point (0).
    """
    height, width, channels = x.shape
    word_log2, weight_log2 = config.word_bytes.bit_length() - 1, config.weight_word_bytes.bit_length() - 1
    assembly = Assembly(config)
    matrix = np.zeros((9, config.rows, config.weight_word_bytes), np.int8)
    matrix[:, :channels, : len(weights)] = weights.reshape(len(weights), 9, channels).transpose(1, 2, 0)
    weights_at = assembly.put(matrix[:, ::-1])
    groups = -(-len(weights) // config.lanes)
    padded_bias = [int(b) for b in bias] + [0] * (groups * config.lanes - len(bias))
    stages = [shift_stages(-7, Rounding.DOUBLE_AWAY)] * len(padded_bias)
    parameters_at = assembly.put(np.frombuffer(parameter_bytes(padded_bias, [3 << 29] * len(padded_bias), stages), np.uint8))
    image_end = assembly.data_at
    source = TensorBinding(name="x", shape=x.shape, address=1 << 13, channels_per_word=config.rows, element_bytes=config.word_bytes)
    source = replace(source, address=image_end)
    shape = (height // 2, width // 2, len(weights))
    target = TensorBinding(name="y", shape=shape, address=1 << 14, channels_per_word=config.rows, element_bytes=config.word_bytes)
    frame = width + 2
    assembly.load(Target.FILL, n_x=frame * (height + 2))
    assembly.load(Target.ACTIVATIONS, element_log2=word_log2, period_log2=word_log2, memory_address=source.address, n_x=width,
                  n_y=height, memory_stride_y=width * config.word_bytes, local_address=frame + 1, local_stride_y=frame)  # fmt: skip
    assembly.load(Target.WEIGHTS, element_log2=weight_log2, memory_address=weights_at, n_x=9 * config.rows)
    assembly.load(Target.PARAMETERS, element_log2=4, memory_address=parameters_at, n_x=len(padded_bias))
    assembly.execute(
        Operation.ARRAY, n_ky=3, n_kx=3, stride_ky=frame, stride_kx=1, n_py=height // 2, n_px=width // 2, n_wy=2, n_wx=2,
        stride_py=2 * frame, stride_px=2, stride_wy=frame, stride_wx=1,
    )  # fmt: skip
    assembly.store(to_memory=1, pool=4, groups=groups, n_x=width // 2, n_y=height // 2, memory_address=target.address,
                   memory_stride_y=width // 2 * config.word_bytes, zero_point=-5, minimum=-5)  # fmt: skip
    return Program(
        network="hand-made",
        config=config,
        instructions=(*assembly.instructions, Instruction(Opcode.END)),
        pack=lambda: assembly.finish()[:image_end].copy(),
        memory_bytes=assembly.size,
        input=source,
        output=target,
        layers=(),
    )


def ref_conv_pool(x: Array, weights: Array, bias: Array) -> Array:
    height, width, _ = x.shape
    padded = np.pad(x.astype(int), ((1, 1), (1, 1), (0, 0)))
    full = np.zeros((height, width, len(weights)), int)
    for y, xx, o in np.ndindex(full.shape):
        total = int((padded[y : y + 3, xx : xx + 3] * weights[o]).sum()) + int(bias[o])
        full[y, xx, o] = max(-5, min(127, int(requantise(total, 3 << 29, -7, Rounding.DOUBLE_AWAY)) - 5))
    return np.asarray(full.reshape(height // 2, 2, width // 2, 2, -1).max(axis=(1, 3)), np.int8)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_convolution_with_padding_and_pooling(name: str) -> None:
    config = CONFIGS[name]
    rng = np.random.default_rng(9)
    channels, out = max(1, config.rows - 1), max(1, min(config.rows, config.columns) - 1)
    weights = rng.integers(-128, 128, (out, 3, 3, channels), np.int8)
    bias = rng.integers(-3000, 3000, out).astype(np.int32)
    images = [rng.integers(-128, 128, (4, 6, channels), np.int8) for _ in range(3)]
    backend: Backend = Emulator()
    result = backend.run(conv_program(config, images[0], weights, bias), images)
    np.testing.assert_array_equal(result.outputs, [ref_conv_pool(image, weights, bias) for image in images])
    assert len(np.unique(result.outputs)) > 5
    assert (result.cycles, result.retired, result.counters) == (None, None, None)
    assert (backend.name, backend.cycle_accurate) == ("emulator", False)


def small_program() -> Program:
    weights = np.ones((2, 3, 3, 2), np.int8)
    return conv_program(PRESETS["tiny"], np.zeros((2, 2, 2), np.int8), weights, np.zeros(2, np.int32))


def test_packed_taps_are_a_convolution_of_a_narrow_map() -> None:
    """One input channel replicated over 8 rows: the 9 taps of a 3x3 kernel take two passes."""
    config = PRESETS["base"]
    rng = np.random.default_rng(4)
    x, weights = rng.integers(-128, 128, (5, 6), np.int8), rng.integers(-128, 128, (8, 9), np.int8)
    assembly = Assembly(config)
    address = assembly.put(x)
    assembly.load(Target.ACTIVATIONS, memory_address=address, n_x=30)
    passes = np.zeros((16, 8), np.int8)
    passes[:9] = weights.T  # word i of a pass is the weights of its tap i
    address = assembly.put(passes)
    assembly.load(Target.WEIGHTS, element_log2=3, memory_address=address, n_x=16)
    assembly.execute(
        Operation.ARRAY, tap_rows=1, n_ky=3, n_kx=3, stride_ky=6, stride_kx=1, n_py=3, n_px=4, stride_py=6, stride_px=1
    )
    sums = assembly.run().accumulators[:12].reshape(3, 4, 8)
    for y, xx in np.ndindex(3, 4):
        window = x[y : y + 3, xx : xx + 3].astype(int).reshape(9)
        assert sums[y, xx].tolist() == (weights.astype(int) @ window).tolist()


def test_a_residual_add_is_low_then_high() -> None:
    """Two maps in the scratchpad, HIGH and LOW into the same accumulators, then the operand tables."""
    config = PRESETS["base"]
    rng = np.random.default_rng(6)
    tables = rng.integers(-(2**20), 2**20, 512).astype(np.int32)
    assembly = Assembly(config)
    address = assembly.put(tables)
    assembly.load(Target.PAIR_TABLE, element_log2=2, memory_address=address, n_x=512)
    address = assembly.put(np.frombuffer(parameter_bytes([0] * 8, [1 << 30] * 8, [(31, 13)] * 8), np.uint8))
    assembly.load(Target.PARAMETERS, element_log2=4, memory_address=address, n_x=8)
    assembly.execute(Operation.HIGH, activations=100, n_px=50, stride_px=1)
    assembly.execute(Operation.LOW, activations=0, n_px=50, stride_px=1, accumulate=1)
    assembly.store(source=Source.PAIR, to_scratchpad=1, period_log2=3, scratchpad=200, groups=2, n_x=50)
    machine = Machine(config)
    a, b = machine.scratchpad[:50].view(np.uint8), machine.scratchpad[100:150].view(np.uint8)
    total = tables[a].astype(np.int64) + tables[256 + b.astype(int)]
    expected = np.clip(requantise(total, 1 << 30, -13, Rounding.DOUBLE_AWAY), -128, 127)
    np.testing.assert_array_equal(assembly.run(machine).scratchpad[200:250], expected)


def test_instructions_come_from_the_image() -> None:
    program = small_program()
    bare = replace(program, instructions=(program.instructions[0], program.instructions[-1]))
    image = np.ones((2, 2, 2), np.int8)
    np.testing.assert_array_equal(Emulator().run(bare, [image]).outputs, Emulator().run(program, [image]).outputs)


def test_garbage_is_seeded_and_everywhere() -> None:
    config = PRESETS["small"]
    first, same, other = Machine(config, seed=1), Machine(config, seed=1), Machine(config, seed=2)
    names = ["scratchpad", "weights", "accumulators", "bias", "multiplier", "first_shift", "second_shift", "table", "pair_table"]
    for name in names:
        values = getattr(first, name)
        np.testing.assert_array_equal(values, getattr(same, name))
        assert (values != getattr(other, name)).mean() > 0.8
        assert (values == 0).mean() < 0.1


def test_what_nothing_has_written_depends_on_the_seed() -> None:
    """Without its FILL the convolution reads the padding from memory that nothing has written."""
    program = small_program()
    image = program.image.copy()
    image[INSTRUCTION_BYTES : 2 * INSTRUCTION_BYTES] = image[2 * INSTRUCTION_BYTES : 3 * INSTRUCTION_BYTES]  # the next LOAD instead
    broken = replace(program, pack=lambda: image)
    outputs = [Emulator(seed=seed).run(broken, [np.ones((2, 2, 2), np.int8)]).outputs.tobytes() for seed in range(8)]
    assert len(set(outputs)) > 1


def test_memory_is_kept_from_image_to_image() -> None:
    """As on the engine, where a program that relied on it would also find the last image's bytes."""
    machine = Machine(PRESETS["tiny"])
    first, second = Assembly(PRESETS["tiny"]), Assembly(PRESETS["tiny"])
    first.load(Target.FILL, fill_value=7, n_x=4)
    second.execute(Operation.SUM, n_px=4, stride_px=1)
    first.run(machine)
    assert second.run(machine).accumulators[:4].tolist() == [[7, 7]] * 4


# Refusals


BASE = PRESETS["base"]


def refusal(assembly: Assembly) -> str:
    with pytest.raises(EmulatorError) as caught:
        assembly.run()
    return str(caught.value)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"n_y": 0}, "n_y must be at least 1, not 0"),
        ({"target": 6}, "6 is no target"),
        ({"local_address": 8192}, "scratchpad address 8192 lies beyond the last, 8191"),
        ({"local_address": 8190, "n_x": 3}, "scratchpad address 8192 lies beyond the last, 8191"),
        ({"target": Target.FILL, "local_address": 65535, "n_x": 1}, "scratchpad address 65535 lies beyond the last, 8191"),
        ({"element_log2": 3, "memory_address": 12}, "memory_address must be a multiple of the element of 8 bytes, not 12"),
        ({"element_log2": 3, "memory_stride_y": 4}, "memory_stride_y must be a multiple of the element of 8 bytes, not 4"),
        ({"element_log2": 3, "memory_stride_z": 9}, "memory_stride_z must be a multiple of the element of 8 bytes, not 9"),
        ({"memory_address": 32767, "n_x": 2}, "memory address 32768 lies beyond the last, 32767"),
        ({"element_log2": 4}, "elements of ACTIVATIONS must be at most a word of 8 bytes, not 16"),
        ({"target": Target.WEIGHTS}, "elements of WEIGHTS must be 8 bytes (element_log2), not 1"),
        ({"target": Target.WEIGHTS, "element_log2": 3, "local_address": 2048}, "weight address 2048 lies beyond the last, 2047"),
        ({"target": Target.PARAMETERS, "element_log2": 3}, "elements of PARAMETERS must be 16 bytes (element_log2), not 8"),
        ({"target": Target.PARAMETERS, "element_log2": 4, "n_y": 2}, "n_y and n_z of PARAMETERS must be 1, not 2 and 1"),
        ({"target": Target.PARAMETERS, "element_log2": 4, "local_address": 128}, "parameter address 128 lies beyond the last, 127"),
        ({"target": Target.TABLE, "n_x": 257}, "table address 256 lies beyond the last, 255"),
        ({"target": Target.TABLE, "n_z": 3}, "n_y and n_z of TABLE must be 1, not 1 and 3"),
        ({"target": Target.PAIR_TABLE, "element_log2": 2, "n_x": 513}, "operand table address 512 lies beyond the last, 511"),
    ],
)
def test_bad_loads(values: dict[str, int], sentence: str) -> None:
    assembly = Assembly(BASE)
    assembly.instructions.append(Instruction(Opcode.LOAD, {"n_x": 1, "n_y": 1, "n_z": 1} | values))
    assert refusal(assembly) == f"instruction 1 (LOAD): {sentence}"


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"n_wx": 0}, "n_wx must be at least 1, not 0"),
        ({"tap_rows": 0}, "tap_rows must be at least 1, not 0"),
        ({"tap_rows": 3}, "rows 0 to 1 belong to no tap: their weights must be zero"),
        ({"tap_rows": 9}, "tap_rows must be at most 8, not 9"),
        ({"operation": 6}, "6 is no operation"),
        ({"activations": 8191, "n_px": 2, "stride_px": 1}, "scratchpad address 8192 lies beyond the last, 8191"),
        ({"activations": 0, "n_kx": 2, "stride_kx": -1}, "scratchpad address 65535 lies beyond the last, 8191"),
        ({"weights": 2041}, "weight address 2048 lies beyond the last, 2047"),
        ({"accumulators": 1023, "n_py": 2}, "accumulator address 1024 lies beyond the last, 1023"),
        ({"accumulators": 1023, "n_py": 2, "n_wx": 9, "reduce": 1}, "accumulator address 1024 lies beyond the last, 1023"),
        ({"operation": Operation.SUM, "tap_rows": 4}, "tap_rows of SUM must be 8, not 4"),
        ({"operation": Operation.SUM, "row_offset": 8}, "row_offset must be below 8 rows, not 8"),
        ({"operation": Operation.SUM, "row_offset": 4}, "row_offset must be a multiple of 8 columns, not 4"),
    ],
)
def test_bad_executes(values: dict[str, int], sentence: str) -> None:
    assembly = Assembly(BASE)
    assembly.execute(Operation.ARRAY)
    good = dict(assembly.instructions.pop().values)
    assembly.instructions.append(Instruction(Opcode.EXECUTE, good | unsigned(values)))
    assert refusal(assembly) == f"instruction 1 (EXECUTE): {sentence}"


#: Five lines of eight pixels and a window of 2 by 3, which fits the two lines that eight rows take.
WINDOW = {"n_py": 5, "n_px": 8, "n_ky": 2, "n_kx": 3, "stride_ky": 1, "stride_kx": 1, "stride_py": 8, "stride_px": 1}


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"n_ky": 0}, "n_ky must be at least 1, not 0"),
        ({"n_px": 3}, "n_px of WINDOW must be from 4 to 32, not 3"),
        ({"n_px": 33}, "n_px of WINDOW must be from 4 to 32, not 33"),
        ({"stride_ky": 3}, "stride_ky and stride_kx of WINDOW must be 1 or 2, not 3 and 1"),
        ({"stride_kx": 0}, "stride_ky and stride_kx of WINDOW must be 1 or 2, not 1 and 0"),
        ({"n_ky": 6}, "a window of 6 by 3 does not fit 5 lines of 8 pixels"),
        ({"n_kx": 9}, "a window of 2 by 9 does not fit 5 lines of 8 pixels"),
        ({"n_block": 2}, "n_block of WINDOW must be 1, not 2"),
        ({"n_wy": 3}, "n_wy of WINDOW must be 1, not 3"),
        ({"n_wx": 2}, "n_wx of WINDOW must be 1, not 2"),
        ({"row_offset": 8}, "row_offset of WINDOW must be 0, not 8"),
        ({"reduce": 1}, "reduce of WINDOW must be 0, not 1"),
        ({"tap_rows": 4}, "tap_rows of WINDOW must be 8, not 4"),
        ({"weights": 2041}, "weight address 2048 lies beyond the last, 2047"),
        ({"weights": 8}, "the weights of rows 6 to 7 must be zero"),
        ({"n_ky": 1}, "row 3 multiplies a pixel before the first: its weights must be zero"),
        ({"n_ky": 1, "n_kx": 2}, "row 2 multiplies a pixel before the first: its weights must be zero"),
        ({"n_kx": 2}, "row 5 multiplies a pixel before the first: its weights must be zero"),
        ({"activations": 8160}, "scratchpad address 8199 lies beyond the last, 8191"),
        ({"accumulators": 1001}, "accumulator address 1024 lies beyond the last, 1023"),
    ],
)
def test_bad_windows(values: dict[str, int], sentence: str) -> None:
    assembly = Assembly(BASE)
    assembly.execute(Operation.WINDOW, **WINDOW)
    good = dict(assembly.instructions.pop().values)
    # rows 0 to 5 have weights, whose words come last; rows 6 and 7 have none
    address = assembly.put(np.array([0] * 16 + [1] * 48, np.int8))
    assembly.load(Target.WEIGHTS, element_log2=3, memory_address=address, n_x=8)
    assembly.load(Target.WEIGHTS, element_log2=3, memory_address=address + 16, n_x=6, local_address=8)
    assembly.instructions.append(Instruction(Opcode.EXECUTE, good | values))
    assert refusal(assembly) == f"instruction 3 (EXECUTE): {sentence}"


@pytest.mark.parametrize(
    "config",
    [PRESETS["tiny"], WIDE, replace(BASE, name="pathless", window_pixels=0)],
    ids=lambda config: config.name,
)
def test_an_engine_without_a_path_for_windows(config: EngineConfig) -> None:
    assembly = Assembly(config)
    assembly.execute(Operation.WINDOW, **WINDOW)
    assert refusal(assembly) == f"instruction 1 (EXECUTE): configuration {config.name!r} has no path for windows"


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"pool": 0}, "pool must be at least 1, not 0"),
        ({"groups": 0}, "groups must be at least 1, not 0"),
        ({"first_group": 1, "groups": 2}, "columns 4 to 11 go beyond the last, 7"),
        ({"byte_offset": 8}, "4 channels from byte 8 on do not fit a word of 8"),
        ({"byte_offset": 3}, "byte_offset must be a multiple of 4 lanes, not 3"),
        ({"accumulators": 1020, "pool": 5}, "accumulator address 1024 lies beyond the last, 1023"),
        ({"parameters": 127, "groups": 2}, "parameter address 128 lies beyond the last, 127"),
        ({"rounding": 3}, "3 is no rounding mode"),
        ({"to_scratchpad": 1, "scratchpad": 8192}, "scratchpad address 8192 lies beyond the last, 8191"),
        ({"to_scratchpad": 1, "n_y": 2, "scratchpad_stride_y": -1}, "scratchpad address 65535 lies beyond the last, 8191"),
        ({"to_memory": 1, "memory_address": 4}, "memory_address must be a multiple of the word of 8 bytes, not 4"),
        ({"to_memory": 1, "memory_stride_y": 4}, "memory_stride_y must be a multiple of the word of 8 bytes, not 4"),
        ({"to_memory": 1, "memory_address": 1 << 15}, "memory address 32775 lies beyond the last, 32767"),
    ],
)
def test_bad_stores(values: dict[str, int], sentence: str) -> None:
    assembly = Assembly(BASE)
    assembly.store(**values)
    assert refusal(assembly) == f"instruction 1 (STORE): {sentence}"


def test_shifts_that_the_rounder_cannot_do() -> None:
    assembly = Assembly(BASE)
    address = assembly.put(np.frombuffer(parameter_bytes([0], [1], [(3, 32)]), np.uint8))
    assembly.load(Target.PARAMETERS, element_log2=4, memory_address=address)
    assert refusal(assembly) == "instruction 1 (LOAD): a channel's shifts must be from 0 to 31, not 32"


def test_features_that_are_not_built_in() -> None:
    bare = replace(BASE, name="bare", tables=False, elementwise=False)
    assembly = Assembly(bare)
    assembly.load(Target.TABLE)
    assert refusal(assembly) == "instruction 1 (LOAD): configuration 'bare' has no activation table"
    assembly = Assembly(bare)
    assembly.store(use_table=1)
    assert refusal(assembly) == "instruction 1 (STORE): configuration 'bare' has no activation table"
    assembly = Assembly(bare)
    assembly.load(Target.PAIR_TABLE, element_log2=2)
    assert refusal(assembly) == "instruction 1 (LOAD): configuration 'bare' has no operand tables"
    assembly = Assembly(bare)
    assembly.store(source=Source.PAIR)
    assert refusal(assembly) == "instruction 1 (STORE): configuration 'bare' has no operand tables"


@pytest.mark.parametrize(
    ("begin", "sentence"),
    [
        ({"magic": 1}, "the magic number must be 0x53594c, not 0x1"),
        ({"isa_version": 9}, f"the program is of ISA version 9, but the engine of {ISA_VERSION}"),
        ({"digest": 5}, f"the program was built for configuration 0000000000000005, but the engine is {BASE.digest:016x}"),
    ],
)
def test_programs_of_another_engine(begin: dict[str, int], sentence: str) -> None:
    assembly = Assembly(BASE)
    assembly.instructions[0] = Instruction(Opcode.BEGIN, dict(assembly.instructions[0].values) | begin)
    assert refusal(assembly) == f"instruction 0 (BEGIN): {sentence}"


def test_a_begin_elsewhere_and_none_at_the_start() -> None:
    sentence = "a program has BEGIN as its first instruction and nowhere else"
    assembly = Assembly(BASE)
    assembly.instructions.append(assembly.instructions[0])
    assert refusal(assembly) == f"instruction 1 (BEGIN): {sentence}"
    assembly = Assembly(BASE)
    assembly.instructions.clear()
    assert refusal(assembly) == f"instruction 0 (END): {sentence}"


def test_what_is_no_instruction() -> None:
    machine = Machine(BASE)
    memory = Assembly(BASE).finish()
    memory[INSTRUCTION_BYTES] = 9
    with pytest.raises(EmulatorError) as caught:
        machine.run(memory)
    assert str(caught.value) == "instruction 1: 9 is no opcode"


def test_a_program_without_an_end() -> None:
    assembly = Assembly(BASE)
    with pytest.raises(EmulatorError) as caught:
        Machine(BASE).run(assembly.finish()[:INSTRUCTION_BYTES])
    assert str(caught.value) == "instruction 0 (BEGIN): the program goes on beyond the memory, so it has no END"


def test_options_and_images_are_checked() -> None:
    program = small_program()
    with pytest.raises(ProgramError) as caught:
        Emulator().run(program, [], timing=3)
    assert str(caught.value) == "the emulator has no option 'timing'; it has no time and no memory timing"
    with pytest.raises(ProgramError) as caught:
        Emulator().run(program, [np.zeros((2, 2, 3), np.int8)])
    assert str(caught.value) == "x: must be int8 of shape (2, 2, 2), not int8 (2, 2, 3)"
