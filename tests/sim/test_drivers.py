"""The C and the Python driver on the stand-alone core in native code: LeNet-5 to the byte and to the cycle, and what goes wrong."""

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from accel import golden, perf
from accel.codegen.files import driver_files, image_files
from accel.compiler import compile_network
from accel.config import PRESETS
from accel.driver import Driver, DriverError
from accel.frontends import load_network, sample_images
from accel.images import as_images
from accel.isa import BASE_ALIGNMENT, CSR, INSTRUCTION_BYTES, Error
from accel.program import MemoryTiming
from sim.cache import cached, digest_of
from sim.verilator import find_compiler, missing_tool, product_verilog, verilator_root

pytestmark = [
    pytest.mark.skipif(missing_tool() is not None, reason=missing_tool() or ""),
    pytest.mark.skipif(shutil.which("gcc") is None, reason="there is no gcc, with which the C driver is compiled"),
]

HERE = Path(__file__).parent
SIM = HERE.parents[1] / "sim"
CONFIG = PRESETS["small"]
BASE = 0x4000_0000
POLLS = 10_000_000
TIMING = MemoryTiming()
DIGITS = 3
SEED = 1
_C_FLAGS = ("-std=c99", "-O1", "-fPIC", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror")
_CXX_FLAGS = ("-std=c++17", "-O1", "-fPIC", "-w", "-DVL_TIME_CONTEXT")

#: `enum systolith_result`.
OK, RUNNING, IDLE, TIMEOUT, BAD_BASE = 0, -1, -2, -3, -6


def call(place: Path, *command: str, **environment: str) -> None:
    result = subprocess.run(command, cwd=place, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def build(place: Path, verilog: str, sources: dict[str, str]) -> None:
    """Make one library of core, memory, C driver and the compiled network."""
    root = verilator_root()
    (place / "systolith.v").write_text(verilog, encoding="utf-8")
    for name, text in sources.items():
        (place / name).write_text(text, encoding="utf-8")
    flags = ("--cc", "-O3", "--x-assign", "unique", "--x-initial", "unique", "-Wno-fatal", "-Wno-lint", "-Wno-style", "--no-timing")
    names = ("--top-module", "systolith", "--prefix", "Vsystolith", "-Mdir", "model", "systolith.v")
    call(place, str(root / "bin" / "verilator_bin"), *flags, *names, VERILATOR_ROOT=str(root))
    device_io = f'-DSYSTOLITH_IO="{HERE / "device_io.h"}"'
    call(place, "gcc", *_C_FLAGS, "-I.", device_io, "-c", "systolith.c", "lenet5.c", str(HERE / "application.c"))
    include = [
        f"-I{root / 'include'}",
        f"-I{root / 'include' / 'vltstd'}",
        f"-I{SIM}",
        "-Imodel",
        f"-DBUS_BYTES={CONFIG.bus_bytes}",
    ]
    parts = [*sorted((place / "model").glob("*.cpp")), HERE / "device.cpp"]
    parts += [root / "include" / name for name in ("verilated.cpp", "verilated_threads.cpp")]
    objects = ["systolith.o", "lenet5.o", "application.o"]
    compiler = find_compiler()
    assert compiler is not None
    for part in parts:
        call(place, *compiler, *_CXX_FLAGS, *include, "-c", str(part), "-o", f"{part.stem}.o")
        objects.append(f"{part.stem}.o")
    call(place, *compiler, "-shared", "-o", "device.so", *objects, "-pthread")


class _Systolith(ctypes.Structure):
    """The driver's `struct systolith`."""

    _fields_ = (("registers", ctypes.c_void_p),)


@pytest.fixture(scope="module")
def library() -> Any:
    network = load_network("lenet5")
    verilog, _ = product_verilog(CONFIG, bus="axi")
    sources = driver_files() | image_files(compile_network(network, CONFIG), network)
    own = [path.read_bytes() for path in (*sorted(HERE.glob("*.[ch]*")), SIM / "memory.hpp", Path(__file__))]
    tools = (version("verilator"), *(find_compiler() or ()))
    digest = digest_of((verilog, *sources, *sources.values(), *own, *tools))
    place = cached("devices", digest, lambda place: build(place, verilog, sources))
    native = ctypes.CDLL(str(place / "device.so"))
    native.device_new.restype = ctypes.c_void_p
    native.device_new.argtypes = (ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_int)
    native.device_delete.argtypes = (ctypes.c_void_p,)
    native.device_interrupt.argtypes = (ctypes.c_void_p,)
    native.device_read32.argtypes, native.device_read32.restype = (ctypes.c_void_p, ctypes.c_uint32), ctypes.c_uint32
    native.device_write32.argtypes, native.device_write32.restype = (ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint32), None
    for name, *arguments in (
        ("poll",),
        ("start", ctypes.c_uint32),
        ("wait", ctypes.c_uint32),
        ("run", ctypes.c_uint32, ctypes.c_uint32),
        ("clear", ctypes.c_uint32),
        ("enable_interrupt", ctypes.c_int),
        ("cycles",),
        ("error_address",),
    ):
        getattr(native, f"systolith_{name}").argtypes = (ctypes.POINTER(_Systolith), *arguments)
    native.systolith_cycles.restype = native.systolith_error_address.restype = ctypes.c_uint32
    return native


class Device:
    """A core, its memory (whatever was in it before), and what leads to both: a transport of the Python driver."""

    def __init__(self, native: Any) -> None:
        self.native = native
        self.program = compile_network(load_network("lenet5"), CONFIG)
        self.memory = np.random.default_rng(SEED).integers(0, 256, self.program.memory_bytes, np.uint8)
        self.handle = native.device_new(self.memory.ctypes.data, self.memory.nbytes, BASE, TIMING.latency, SEED)
        self.engine = _Systolith(self.handle)

    def call(self, name: str, *arguments: int) -> int:
        """Call a function of the C driver."""
        result: int = getattr(self.native, f"systolith_{name}")(ctypes.byref(self.engine), *arguments)
        return result

    def read32(self, offset: int) -> int:
        value: int = self.native.device_read32(self.handle, offset)
        return value

    def write32(self, offset: int, value: int) -> None:
        self.native.device_write32(self.handle, offset, value)

    def read(self, address: int, size: int) -> bytes:
        return self.memory[address - BASE : address - BASE + size].tobytes()

    def write(self, address: int, data: bytes) -> None:
        self.memory[address - BASE : address - BASE + len(data)] = np.frombuffer(data, np.uint8)


@pytest.fixture
def device(library: Any) -> Iterator[Device]:
    made = Device(library)
    yield made
    library.device_delete(made.handle)


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """Some digits, and what the golden model makes of them."""
    network = load_network("lenet5")
    samples = sample_images("lenet5")
    assert samples is not None
    images = as_images(samples[0][:DIGITS], network)
    return images, golden.run(network, images)


def test_the_c_driver_runs_lenet5_to_the_byte_and_to_the_cycle(device: Device, digits: tuple[np.ndarray, np.ndarray]) -> None:
    cycles = ctypes.c_uint32()
    for image, expected in zip(*digits, strict=True):
        image = np.ascontiguousarray(image)
        scores = np.zeros(expected.shape, np.int8)
        place = device.memory.ctypes.data
        pointers = (ctypes.c_void_p(image.ctypes.data), ctypes.c_void_p(scores.ctypes.data), ctypes.byref(cycles))
        registers, memory = ctypes.c_void_p(device.handle), ctypes.c_void_p(place)
        assert device.native.classify(registers, memory, BASE, POLLS, *pointers) == OK
        np.testing.assert_array_equal(scores, expected, err_msg=f"seed {SEED}")
        assert cycles.value == perf.estimate(device.program, TIMING).cycles


def test_the_python_driver_runs_lenet5_to_the_byte_and_to_the_cycle(device: Device, digits: tuple[np.ndarray, np.ndarray]) -> None:
    driver = Driver(device, device.program, base=BASE)
    for image, expected in zip(*digits, strict=True):
        np.testing.assert_array_equal(driver.run(image, timeout=60), expected, err_msg=f"seed {SEED}")
        assert driver.cycles == perf.estimate(device.program, TIMING).cycles


def test_the_c_driver_tells_errors_and_recovers(device: Device) -> None:
    device.write(BASE, device.program.image.tobytes())
    assert device.call("poll") == IDLE
    assert device.call("start", BASE + BASE_ALIGNMENT // 2) == BAD_BASE
    # too few polls: it runs on, until it is stopped
    assert device.call("run", BASE, 3) == TIMEOUT
    assert device.call("start", BASE) == RUNNING
    assert device.call("clear", POLLS) == OK
    assert device.call("poll") == IDLE
    # a program for another engine: refused, and nothing starts before the error is cleared
    device.memory[8] ^= 1
    assert device.call("run", BASE, POLLS) == Error.BAD_DIGEST
    assert device.call("error_address") == 0
    assert device.call("start", BASE) == Error.BAD_DIGEST
    assert device.call("clear", POLLS) == OK
    device.memory[8] ^= 1
    device.memory[2 * INSTRUCTION_BYTES] = 0
    assert device.call("run", BASE, POLLS) == Error.BAD_OPCODE
    assert device.call("error_address") == 2 * INSTRUCTION_BYTES
    assert device.call("clear", POLLS) == OK
    # no memory there
    assert device.call("run", BASE ^ 1 << 31, POLLS) == Error.READ_FAULT
    assert device.call("clear", POLLS) == OK
    device.write(BASE, device.program.image.tobytes())
    assert device.call("run", BASE, POLLS) == OK
    assert device.call("poll") == OK
    assert device.call("cycles") == perf.estimate(device.program, TIMING).cycles


def test_the_interrupt_is_raised_when_it_is_enabled_and_a_program_has_ended(device: Device) -> None:
    device.write(BASE, device.program.image.tobytes())
    assert device.call("run", BASE, POLLS) == OK
    assert not device.native.device_interrupt(device.handle)
    device.call("enable_interrupt", 1)
    assert device.native.device_interrupt(device.handle)
    assert device.call("start", BASE) == OK
    assert not device.native.device_interrupt(device.handle)
    assert device.call("wait", POLLS) == OK
    assert device.native.device_interrupt(device.handle)
    device.call("enable_interrupt", 0)
    assert not device.native.device_interrupt(device.handle)


def test_the_python_driver_tells_errors_and_recovers(device: Device, digits: tuple[np.ndarray, np.ndarray]) -> None:
    image, expected = digits[0][0], digits[1][0]
    driver = Driver(device, device.program, base=BASE)
    with pytest.raises(DriverError, match=r"^lenet5: the engine still runs after 0 s; wait longer, or clear it$"):
        driver.run(image, timeout=0)
    with pytest.raises(DriverError, match=r"^lenet5: cannot start while the engine runs a program; wait for it, or clear it$"):
        driver.start()
    driver.clear()
    device.memory[INSTRUCTION_BYTES] = 0
    refused = r"^lenet5: the engine stopped with error BAD_OPCODE at instruction 1 \([A-Z]+\); clear it before the next start$"
    for _ in range(2):
        with pytest.raises(DriverError, match=refused):
            driver.run(image, timeout=60)
    driver.clear()
    assert device.read32(CSR.STATUS) == 0
    again = Driver(device, device.program, base=BASE)  # which writes the program
    np.testing.assert_array_equal(again.run(image, timeout=60), expected)
