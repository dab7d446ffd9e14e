"""A board with a network on it, seen from the host: its design's facts, and the link that leads to its engine."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from accel import link
from accel.errors import SystolithError
from accel.link import Command, LinkError, Status
from accel.program import Program

__all__ = [
    "BAUD",
    "BITS_A_BYTE",
    "BOARD",
    "CLOCK",
    "DESIGN",
    "MIN_BAUD",
    "NETWORK",
    "Board",
    "BoardError",
    "Line",
    "Settings",
    "identity",
    "open_port",
]

#: What the board design runs unless it is told otherwise, and on which of :data:`accel.config.DESIGNS`.
NETWORK = "lenet5"
DESIGN = "board"
#: The design's clock in Hz, as it was routed for an LFE5U-25F of speed grade 6, and bits a second on its line.
CLOCK = 75_000_000
BAUD = 1_000_000
MIN_BAUD = 1200
#: On the line: a start bit, 8 bits, a stop bit.
BITS_A_BYTE = 10
#: What the names of the boards begin with that the design is for (:data:`accel.fpga.BOARDS`).
BOARD = "ulx3s-"

#: Times that a request is sent before the line is called broken.
_ATTEMPTS = 3


class BoardError(SystolithError):
    """A board design that cannot be made."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What decides a board design besides its program: clock in Hz and bits a second on the line."""

    clock: int = CLOCK
    baud: int = BAUD

    def __post_init__(self) -> None:
        if not MIN_BAUD <= self.baud <= self.clock // link.MIN_DIVISOR:
            raise BoardError(
                f"a line of {self.baud} bits a second cannot be made from a clock of {self.clock} Hz; "
                f"take {MIN_BAUD} to {self.clock // link.MIN_DIVISOR}"
            )

    @property
    def divisor(self) -> int:
        """Clock cycles a bit."""
        return round(self.clock / self.baud)

    @property
    def silence(self) -> int:
        """Clock cycles without a byte after which the board gives up a request: a twentieth of a second."""
        return self.clock // 20


def identity(program: Program) -> bytes:
    """Return what tells a program from all others: a digest of its image and of the places of its input and output."""
    digest = hashlib.sha256(program.image.tobytes())
    for binding in (program.input, program.output):
        digest.update(repr((binding.address, binding.shape, binding.channels_per_word, binding.element_bytes)).encode())
    return digest.digest()[: link.IDENTITY_BYTES]


class Line(Protocol):
    """A serial port: what :class:`Board` needs of ``serial.Serial``."""

    def read(self, size: int = 1) -> bytes:
        """Return ``size`` bytes, or fewer after the port's timeout."""
        ...

    def write(self, data: bytes, /) -> int | None:
        """Send bytes."""
        ...

    def reset_input_buffer(self) -> None:
        """Forget what has come."""
        ...


class Board:
    """The engine on a board, a transport of :class:`accel.driver.Driver`.

    Parameters
    ----------
    line
        The serial port.
    name
        What errors call it.

    Methods raise :class:`~accel.link.LinkError` when the board does not answer, answers damaged, or refuses.
    """

    def __init__(self, line: Line, *, name: str) -> None:
        self._line = line
        self._name = name

    def identify(self) -> bytes:
        """Return the identity of the program on the board. Refuses a board with another version of the link."""
        length = 1 + link.IDENTITY_BYTES
        data = self._ask(link.request(Command.IDENTIFY, length=length), length)
        if data[0] != link.LINK_VERSION:
            raise LinkError(
                f"{self._name}: the board speaks version {data[0]} of the link, this program {link.LINK_VERSION}; "
                "make its bitstream with this version"
            )
        return data[1:]

    def require(self, program: Program) -> None:
        """Refuse a board that holds another program."""
        found, wanted = self.identify(), identity(program)
        if found != wanted:
            raise LinkError(
                f"{self._name}: the board holds the program of digest {found.hex()}, not {wanted.hex()} "
                f"({program.network} for {program.config.name}); load the bitstream made with this version"
            )

    def read32(self, offset: int) -> int:
        """Read the register at a byte offset."""
        length = link.REGISTER_BYTES
        return int.from_bytes(self._ask(link.request(Command.READ_REGISTER, address=offset, length=length), length), "little")

    def write32(self, offset: int, value: int) -> None:
        """Write the register at a byte offset."""
        self._ask(link.request(Command.WRITE_REGISTER, address=offset, data=value.to_bytes(link.REGISTER_BYTES, "little")), 0)

    def read(self, address: int, size: int) -> bytes:
        """Read memory, whose first byte has address 0."""
        parts = ((n, min(link.MAX_DATA, size - n)) for n in range(0, size, link.MAX_DATA))
        return b"".join(self._ask(link.request(Command.READ, address=address + n, length=length), length) for n, length in parts)

    def write(self, address: int, data: bytes) -> None:
        """Write memory."""
        for n in range(0, len(data), link.MAX_DATA):
            self._ask(link.request(Command.WRITE, address=address + n, data=data[n : n + link.MAX_DATA]), 0)

    def _ask(self, request: bytes, expected: int) -> bytes:
        """Send a request until it is understood, and return the data of its answer."""
        problem = "the board does not answer; is it the right port and --baud, and is the design on it?"
        for _ in range(_ATTEMPTS):
            try:
                self._line.reset_input_buffer()
                self._line.write(request)
                found = link.parse_answer(self._line.read)
            except link.Silence:
                continue
            except OSError as error:
                raise LinkError(f"{self._name}: the port has failed: {_reason(error)}; is the board still connected?") from None
            if found is None:
                while self._line.read(link.MAX_DATA):
                    pass  # the board hears nothing before it has said all
                problem = "the board answers what cannot be understood; is it the right --baud, and is the cable sound?"
                continue
            status, data = found
            if status == Status.OK and len(data) == expected:
                return data
            if status not in (Status.BAD_REQUEST, Status.BAD_DATA, Status.INCOMPLETE):
                known = {entry.value: entry.name for entry in Status}
                raise LinkError(
                    f"{self._name}: the board refuses a request with {known.get(status, status)}; reset it, and try again"
                )
            problem = "the board does not get requests undamaged; is it the right --baud, and is the cable sound?"
        raise LinkError(f"{self._name}: {problem}")


@contextmanager
def open_port(name: str, *, baud: int, timeout: float) -> Iterator[Line]:
    """Open the serial port called ``name``; its reads end after ``timeout`` seconds. Raises :class:`~accel.link.LinkError`."""
    import serial
    from serial.tools import list_ports

    try:
        port = serial.Serial(name, baud, timeout=timeout, exclusive=True)
    except (OSError, ValueError) as error:
        there = ", ".join(sorted(found.device for found in list_ports.comports())) or "none"
        raise LinkError(f"{name}: cannot be opened as a serial port: {_reason(error)}; the ports here: {there}") from None
    with port:
        yield port


def _reason(error: Exception) -> str:
    """Return why a port cannot be opened or used; pyserial wraps what the system says in longer texts."""
    number = getattr(error, "errno", None)
    return os.strerror(number) if number else str(error)
