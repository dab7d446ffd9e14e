"""A driver for an engine that is there: the registers of :mod:`accel.isa`, over whatever leads to them and to its memory."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from accel.errors import SystolithError
from accel.isa import (
    BASE_ALIGNMENT,
    CSR,
    INSTRUCTION_BYTES,
    ISA_VERSION,
    Error,
    register_fields,
    register_value,
)
from accel.program import Int8Array, Program

__all__ = ["Driver", "DriverError", "Transport"]

#: Seconds that an engine may take to let go of the memory after it was told to stop.
_STOP = 1.0


class DriverError(SystolithError):
    """An engine that does not run a program."""


class Transport(Protocol):
    """What leads to an engine: a bus, a debug probe, a serial line, a simulation."""

    def read32(self, offset: int) -> int:
        """Read the register at a byte offset."""
        ...

    def write32(self, offset: int, value: int) -> None:
        """Write the register at a byte offset."""
        ...

    def read(self, address: int, size: int) -> bytes:
        """Read memory, at the address that the engine sees."""
        ...

    def write(self, address: int, data: bytes) -> None:
        """Write memory, at the address that the engine sees."""
        ...


class Driver:
    """An engine with one program loaded.

    Parameters
    ----------
    transport
        What leads to it.
    program
        What it shall run. Written to memory here, once for all runs, unless ``loaded`` says that it is there.
    base
        Byte address, as the engine sees it, of ``program.memory_bytes`` bytes of memory: a multiple of ``BASE_ALIGNMENT``.

    Raises :class:`DriverError` when the base is no such multiple, or the engine was built for other programs.
    """

    def __init__(self, transport: Transport, program: Program, *, base: int, loaded: bool = False) -> None:
        self._transport = transport
        self._program = program
        self._base = base
        if base % BASE_ALIGNMENT or not 0 <= base <= (1 << 32) - program.memory_bytes:
            raise DriverError(
                f"{program.network}: its memory must begin at a multiple of {BASE_ALIGNMENT} and end below 4 GiB, "
                f"which {base:#x} with {program.memory_bytes} bytes does not"
            )
        version = self._read(CSR.ISA_VERSION)
        if version != ISA_VERSION:
            raise DriverError(
                f"{program.network}: the engine has instruction set {version}, the program needs {ISA_VERSION}; "
                "build both with one version of this package"
            )
        digest = self._read(CSR.DIGEST_LOW) | self._read(CSR.DIGEST_HIGH) << 32
        if digest != program.config.digest:
            raise DriverError(
                f"{program.network}: the engine has the configuration of digest {digest:016x}, the program needs "
                f"{program.config.name} ({program.config.digest:016x}); compile it for the engine's"
            )
        if not loaded:
            transport.write(base, program.image.tobytes())

    @property
    def cycles(self) -> int:
        """Clock cycles of the latest run, or so far."""
        return self._read(CSR.CYCLES)

    def run(self, image: npt.ArrayLike, *, timeout: float = 10.0) -> Int8Array:
        """Run one image, int8 ``(height, width, channels)``, and return the output map, int8 likewise.

        Raises what :meth:`run_images` does.
        """
        (output,) = self.run_images([image], timeout=timeout)
        return np.asarray(output, np.int8)

    def run_images(self, images: Sequence[npt.ArrayLike], *, timeout: float = 10.0) -> Int8Array:
        """Run images, int8 ``(height, width, channels)`` each, a batch of the program after the other, and return the output maps,
        int8 ``(images, height, width, channels)``. A batch that is not full repeats its last image. ``timeout``: seconds a batch.

        Raises what :meth:`start` and :meth:`wait` do, and :class:`~accel.program.ProgramError` for an image that does not fit.
        """
        source, output = self._program.input, self._program.output
        results = np.empty((len(images), *output.shape), np.int8)
        done = 0
        for new, batch in self._program.batches(images):
            data = b"".join(source.pack(image).tobytes() for image in batch)
            self._transport.write(self._base + source.address, data)
            self.start()
            self.wait(timeout)
            for number in range(new):
                found = self._transport.read(self._base + output.place(number).start, output.nbytes)
                results[done + number] = output.unpack(np.frombuffer(found, np.uint8))
            done += new
        return results

    def start(self) -> None:
        """Start the program. Raises :class:`DriverError` while one runs, and after an error until :meth:`clear`."""
        if self._status()["busy"]:
            raise DriverError(f"{self._program.network}: cannot start while the engine runs a program; wait for it, or clear it")
        self._refuse_error()
        self._write(CSR.BASE, self._base)
        self._write(CSR.CONTROL, register_value(CSR.CONTROL, start=1))

    def wait(self, timeout: float) -> None:
        """Wait until the program has ended.

        Raises :class:`DriverError` when the engine stopped with an error, and after ``timeout`` seconds, when it still runs.
        """
        if not self._ends_within(timeout):
            raise DriverError(f"{self._program.network}: the engine still runs after {timeout:g} s; wait longer, or clear it")
        self._refuse_error()
        if not self._status()["done"]:
            raise DriverError(f"{self._program.network}: the engine has run no program; was it reset meanwhile? Start again")

    def clear(self) -> None:
        """Stop whatever runs, and forget how it ended. Raises :class:`DriverError` when memory does not answer the engine."""
        clear = register_value(CSR.CONTROL, clear=1)
        self._write(CSR.CONTROL, clear)  # what runs ends with an error
        if not self._ends_within(_STOP):
            raise DriverError(f"{self._program.network}: the engine does not stop, so memory does not answer it; reset both")
        self._write(CSR.CONTROL, clear)

    def _ends_within(self, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while self._status()["busy"]:
            if time.monotonic() >= end:
                return False
        return True

    def _refuse_error(self) -> None:
        status = self._status()
        if not status["error"]:
            return
        known = {error.value: error.name for error in Error}
        index, rest = divmod(self._read(CSR.ERROR_ADDRESS), INSTRUCTION_BYTES)
        instructions = self._program.instructions
        name = f" ({instructions[index].opcode.name})" if not rest and index < len(instructions) else ""
        raise DriverError(
            f"{self._program.network}: the engine stopped with error {known.get(status['code'], status['code'])} "
            f"at instruction {index}{name}; clear it before the next start"
        )

    def _status(self) -> dict[str, int]:
        return register_fields(CSR.STATUS, self._read(CSR.STATUS))

    def _read(self, register: CSR) -> int:
        return self._transport.read32(register)

    def _write(self, register: CSR, value: int) -> None:
        self._transport.write32(register, value)
