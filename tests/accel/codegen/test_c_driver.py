"""The C driver by itself: what it reads and writes at a register window in plain memory, and how it lays out maps."""

import ctypes
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from accel.codegen.files import driver_files, image_files
from accel.compiler import compile_network
from accel.config import PRESETS
from accel.frontends import load_network
from accel.isa import BASE_ALIGNMENT, CSR, CSR_BYTES, ISA_VERSION, Error, register_value
from accel.program import TensorBinding

COMPILER = shutil.which("gcc") or shutil.which("cc")
pytestmark = pytest.mark.skipif(COMPILER is None, reason="there is no C compiler; install gcc")
FLAGS = ("-std=c99", "-O1", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Wcast-qual", "-Werror")

#: `enum systolith_result`.
OK, RUNNING, IDLE, TIMEOUT, WRONG_ISA, WRONG_DIGEST, BAD_BASE = 0, -1, -2, -3, -4, -5, -6


class CMap(ctypes.Structure):
    """`struct systolith_map`."""

    _fields_ = (
        *((name, ctypes.c_uint32) for name in ("address", "height", "width", "channels", "channels_per_word", "element_bytes")),
        ("zero_point", ctypes.c_int32),
        ("scale", ctypes.c_double),
    )


class CProgram(ctypes.Structure):
    """`struct systolith_program`."""

    _fields_ = (
        ("image", ctypes.c_char_p),
        *((name, ctypes.c_uint32) for name in ("image_bytes", "memory_bytes", "isa_version", "digest_low", "digest_high")),
        ("input", CMap),
        ("output", CMap),
    )


class CEngine(ctypes.Structure):
    """`struct systolith`."""

    _fields_ = (("registers", ctypes.c_void_p),)


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Any:
    place: Path = tmp_path_factory.mktemp("driver")
    for name, text in driver_files().items():
        (place / name).write_text(text, encoding="utf-8")
    assert COMPILER is not None
    command = [COMPILER, *FLAGS, "-fPIC", "-shared", "systolith.c", "-o", "driver.so"]
    subprocess.run(command, cwd=place, check=True, capture_output=True)
    return ctypes.CDLL(str(place / "driver.so"))


class Window:
    """Registers in plain memory: what is written stays, and what the engine would do is put there."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver
        self.registers = (ctypes.c_uint32 * (CSR_BYTES // 4))()
        self.engine = CEngine()
        driver.systolith_init(ctypes.byref(self.engine), self.registers)

    def __getitem__(self, register: CSR) -> int:
        return self.registers[register // 4]

    def __setitem__(self, register: CSR, value: int) -> None:
        self.registers[register // 4] = value

    def call(self, name: str, *arguments: Any) -> int:
        result: int = getattr(self.driver, f"systolith_{name}")(ctypes.byref(self.engine), *arguments)
        return result


@pytest.fixture
def window(driver: Any) -> Window:
    return Window(driver)


def test_the_state_is_what_the_status_register_says(window: Window) -> None:
    assert window.call("poll") == IDLE
    window[CSR.STATUS] = register_value(CSR.STATUS, busy=1)
    assert window.call("poll") == RUNNING
    window[CSR.STATUS] = register_value(CSR.STATUS, done=1)
    assert window.call("poll") == OK
    for error in Error:
        if error is not Error.NONE:
            window[CSR.STATUS] = register_value(CSR.STATUS, error=1, code=error)
            assert window.call("poll") == error
            assert window.call("wait", 5) == error
            assert window.call("start", 0) == error
    assert window[CSR.CONTROL] == 0  # nothing was started


def test_a_start_writes_base_and_control(window: Window) -> None:
    for bad in (1, BASE_ALIGNMENT - 1, 3 * BASE_ALIGNMENT + 8):
        assert window.call("start", bad) == BAD_BASE
    assert (window[CSR.BASE], window[CSR.CONTROL]) == (0, 0)
    assert window.call("start", 7 * BASE_ALIGNMENT) == OK
    assert (window[CSR.BASE], window[CSR.CONTROL]) == (7 * BASE_ALIGNMENT, register_value(CSR.CONTROL, start=1))
    window[CSR.STATUS] = register_value(CSR.STATUS, busy=1)
    assert window.call("start", 8 * BASE_ALIGNMENT) == RUNNING
    assert window[CSR.BASE] == 7 * BASE_ALIGNMENT


def test_a_wait_ends(window: Window) -> None:
    window[CSR.STATUS] = register_value(CSR.STATUS, busy=1)
    assert window.call("wait", 0) == TIMEOUT
    assert window.call("wait", 1000) == TIMEOUT
    assert window.call("clear", 1000) == TIMEOUT
    window[CSR.STATUS] = 0
    assert window.call("clear", 1) == OK
    assert window[CSR.CONTROL] == register_value(CSR.CONTROL, clear=1)


def test_the_other_registers(window: Window) -> None:
    window[CSR.CYCLES], window[CSR.ERROR_ADDRESS] = 1234, 5678
    assert (window.call("cycles"), window.call("error_address")) == (1234, 5678)
    window.call("enable_interrupt", 7)
    assert window[CSR.INTERRUPT_ENABLE] == register_value(CSR.INTERRUPT_ENABLE, enable=1)
    window.call("enable_interrupt", 0)
    assert window[CSR.INTERRUPT_ENABLE] == 0


def test_a_program_for_another_engine_is_told(window: Window) -> None:
    program = CProgram(isa_version=ISA_VERSION, digest_low=0x89AB_CDEF, digest_high=0x0123_4567)
    window[CSR.ISA_VERSION], window[CSR.DIGEST_LOW], window[CSR.DIGEST_HIGH] = ISA_VERSION, 0x89AB_CDEF, 0x0123_4567
    assert window.call("check", ctypes.byref(program)) == OK
    window[CSR.DIGEST_HIGH] ^= 1
    assert window.call("check", ctypes.byref(program)) == WRONG_DIGEST
    window[CSR.DIGEST_HIGH] ^= 1
    window[CSR.DIGEST_LOW] ^= 1
    assert window.call("check", ctypes.byref(program)) == WRONG_DIGEST
    window[CSR.ISA_VERSION] += 1
    assert window.call("check", ctypes.byref(program)) == WRONG_ISA


@pytest.mark.parametrize("seed", range(20))
def test_maps_lie_as_the_compiler_lays_them(driver: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(1, 6)), int(rng.integers(1, 6)), int(rng.integers(1, 20)))
    per_word = int(rng.integers(1, 9))
    element = per_word + int(rng.integers(0, 4))
    binding = TensorBinding(name="m", shape=shape, address=37, channels_per_word=per_word, element_bytes=element)
    described = CMap(binding.address, *shape, per_word, element)
    values = rng.integers(-128, 128, shape, np.int8)
    memory = np.full(binding.address + binding.nbytes + 5, 0x5A, np.uint8)
    driver.systolith_write_map(ctypes.c_void_p(memory.ctypes.data), ctypes.byref(described), ctypes.c_void_p(values.ctypes.data))
    expected = np.full_like(memory, 0x5A)
    meant = binding.pack(np.ones(shape, np.int8)) != 0
    expected[binding.address : binding.address + binding.nbytes][meant] = binding.pack(values)[meant]
    np.testing.assert_array_equal(memory, expected, err_msg=f"seed {seed}")
    back = np.zeros(shape, np.int8)
    driver.systolith_read_map(ctypes.c_void_p(memory.ctypes.data), ctypes.byref(described), ctypes.c_void_p(back.ctypes.data))
    np.testing.assert_array_equal(back, values, err_msg=f"seed {seed}")


def test_the_example_of_the_page_on_integration_compiles(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "integration.md").read_text(encoding="utf-8")
    network = load_network("lenet5")
    files = driver_files() | image_files(compile_network(network, PRESETS["tiny"]), network)
    files["example.c"] = page.split("```c\n")[1].split("```")[0]
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert COMPILER is not None
    sources = sorted(name for name in files if name.endswith(".c"))
    subprocess.run([COMPILER, *FLAGS, "-c", *sources], cwd=tmp_path, check=True, capture_output=True)
