"""The Python driver before anything runs: what it refuses, and where it writes."""

import numpy as np
import pytest

from accel.compiler import compile_network
from accel.config import PRESETS
from accel.driver import Driver, DriverError
from accel.frontends import load_network
from accel.isa import CSR, ISA_VERSION, register_value
from accel.program import Program, ProgramError

BASE = 0x1000


class Fake:
    """Registers of an engine that is done at once, and memory from address 0 on."""

    def __init__(self, digest: int, version: int = ISA_VERSION) -> None:
        self.registers = {
            CSR.ISA_VERSION: version,
            CSR.DIGEST_LOW: digest & 0xFFFF_FFFF,
            CSR.DIGEST_HIGH: digest >> 32,
            CSR.STATUS: 0,
        }
        self.memory = bytearray(1 << 20)
        self.written: list[tuple[CSR, int]] = []

    def read32(self, offset: int) -> int:
        return self.registers[CSR(offset)]

    def write32(self, offset: int, value: int) -> None:
        self.written.append((CSR(offset), value))
        if (offset, value) == (CSR.CONTROL, register_value(CSR.CONTROL, start=1)):
            self.registers[CSR.STATUS] = register_value(CSR.STATUS, done=1)

    def read(self, address: int, size: int) -> bytes:
        return bytes(self.memory[address : address + size])

    def write(self, address: int, data: bytes) -> None:
        self.memory[address : address + len(data)] = data


@pytest.fixture(scope="module")
def program() -> Program:
    return compile_network(load_network("lenet5"), PRESETS["tiny"])


def test_it_writes_the_program_then_the_image_then_starts_and_reads_the_output(program: Program) -> None:
    seed = 3
    rng = np.random.default_rng(seed)
    fake = Fake(program.config.digest)
    driver = Driver(fake, program, base=BASE)
    assert fake.read(BASE, program.image.nbytes) == program.image.tobytes()
    output = program.output
    expected = rng.integers(-128, 128, output.shape, np.int8)
    fake.write(BASE + output.address, output.pack(expected).tobytes())
    image = rng.integers(-128, 128, program.input.shape, np.int8)
    np.testing.assert_array_equal(driver.run(image), expected, err_msg=f"seed {seed}")
    assert fake.read(BASE + program.input.address, program.input.nbytes) == program.input.pack(image).tobytes()
    assert fake.written == [(CSR.BASE, BASE), (CSR.CONTROL, register_value(CSR.CONTROL, start=1))]


def test_images_are_written_and_read_a_batch_at_a_time() -> None:
    seed = 4
    rng = np.random.default_rng(seed)
    program = compile_network(load_network("lenet5"), PRESETS["tiny"], batch=3)
    fake = Fake(program.config.digest)
    driver = Driver(fake, program, base=BASE)
    source, output = program.input, program.output
    expected = rng.integers(-128, 128, (3, *output.shape), np.int8)
    fake.write(BASE + output.address, b"".join(output.pack(image).tobytes() for image in expected))
    images = rng.integers(-128, 128, (5, *source.shape), np.int8)
    np.testing.assert_array_equal(driver.run_images(list(images)), expected[[0, 1, 2, 0, 1]], err_msg=f"seed {seed}")
    written = fake.read(BASE + source.address, 3 * source.nbytes)
    assert written == b"".join(source.pack(image).tobytes() for image in images[[3, 4, 4]]), f"seed {seed}"
    assert fake.written == 2 * [(CSR.BASE, BASE), (CSR.CONTROL, register_value(CSR.CONTROL, start=1))]


@pytest.mark.parametrize("base", [1, -4096, 0x1_0000_0000, 0xFFFF_F000])
def test_a_base_must_be_aligned_and_leave_room(program: Program, base: int) -> None:
    with pytest.raises(DriverError, match=r"^lenet5: its memory must begin at a multiple of 4096 and end below 4 GiB, which"):
        Driver(Fake(program.config.digest), program, base=base)


def test_an_engine_of_another_configuration_is_refused(program: Program) -> None:
    fake = Fake(program.config.digest ^ 1)
    with pytest.raises(
        DriverError, match=r"^lenet5: the engine has the configuration of digest [0-9a-f]{16}, the program needs tiny"
    ):
        Driver(fake, program, base=BASE)
    assert not any(fake.memory)


def test_an_engine_of_another_instruction_set_is_refused(program: Program) -> None:
    with pytest.raises(DriverError, match=rf"^lenet5: the engine has instruction set 99, the program needs {ISA_VERSION}; "):
        Driver(Fake(program.config.digest, version=99), program, base=BASE)


def test_an_image_of_another_shape_is_refused(program: Program) -> None:
    fake = Fake(program.config.digest)
    with pytest.raises(ProgramError, match="must be int8 of shape"):
        Driver(fake, program, base=BASE).run(np.zeros((2, 2, 1), np.int8))
    assert fake.written == []


def test_an_engine_that_was_reset_while_it_ran_is_told(program: Program) -> None:
    fake = Fake(program.config.digest)
    driver = Driver(fake, program, base=BASE)
    driver.start()
    fake.registers[CSR.STATUS] = 0
    with pytest.raises(DriverError, match=r"^lenet5: the engine has run no program; was it reset meanwhile[?] Start again$"):
        driver.wait(1)


def test_an_engine_that_does_not_stop_is_told(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake(program.config.digest)
    driver = Driver(fake, program, base=BASE)
    fake.registers[CSR.STATUS] = register_value(CSR.STATUS, busy=1)
    monkeypatch.setattr("accel.driver._STOP", 0.0)
    with pytest.raises(DriverError, match=r"^lenet5: the engine does not stop, so memory does not answer it; reset both$"):
        driver.clear()
