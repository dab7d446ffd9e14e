"""The serial link to a board: what host and board say to each other. Hardware and host program derive from this file.

The host asks, the board answers, one at a time. Numbers of more than one byte have their lowest byte first, but a CRC its highest::

    request   REQUEST  command  length (2)  address (4)  CRC     and, for writes, `length` bytes of data  CRC
    answer    ANSWER   status   length (2)  CRC                  and, unless length is 0, `length` bytes of data  CRC

A CRC is over the bytes since the one before it, the mark at the front left out. Nothing is done before the CRC of the request is
right. A write's data are in memory before their CRC is seen: after ``BAD_DATA`` the host writes them again. After a request that
cannot be understood the board waits for silence before it answers, so that every request has one answer.
"""

from __future__ import annotations

import binascii
import enum
from collections.abc import Callable

from accel.errors import SystolithError

__all__ = [
    "ANSWER",
    "CRC_BYTES",
    "IDENTITY_BYTES",
    "LINK_VERSION",
    "MAX_DATA",
    "MIN_DIVISOR",
    "REGISTER_BYTES",
    "REQUEST",
    "Command",
    "LinkError",
    "Silence",
    "Status",
    "answer",
    "check",
    "crc",
    "parse_answer",
    "request",
]

LINK_VERSION = 1
#: Clock cycles a bit on the line at least: enough to sample a bit away from its edges, and to carry out a byte before the next.
MIN_DIVISOR = 4
#: First byte of a request and of an answer.
REQUEST, ANSWER = 0xA5, 0x5A
CRC_BYTES = 2
#: Bytes of the length and of the address in a request.
LENGTH_BYTES, ADDRESS_BYTES = 2, 4
REGISTER_BYTES = 4
#: Bytes of the digest that tells which program a board holds.
IDENTITY_BYTES = 8
#: Bytes of data in a request or an answer, at most.
MAX_DATA = (1 << 8 * LENGTH_BYTES) - 1


class Command(enum.IntEnum):
    """What the host asks for."""

    #: Read the link's version, a byte, and the identity of the program on the board.
    IDENTIFY = 1
    #: Read memory.
    READ = 2
    #: Write memory, but for the program.
    WRITE = 3
    #: Read a register of the engine, whose offset is the address.
    READ_REGISTER = 4
    #: Write one.
    WRITE_REGISTER = 5


class Status(enum.IntEnum):
    """How the board answers."""

    OK = 0
    #: The CRC of the request was wrong.
    BAD_REQUEST = 1
    #: The CRC of its data was wrong.
    BAD_DATA = 2
    #: There is no such command, or it does not take that many bytes.
    BAD_COMMAND = 3
    #: Not in memory, or a write to the program.
    BAD_ADDRESS = 4
    #: The engine runs, and memory is its own.
    BUSY = 5
    #: The engine refuses access to this register.
    REFUSED = 6
    #: The request was not complete when silence came.
    INCOMPLETE = 7


class LinkError(SystolithError):
    """A board that is not there, does not answer, or answers something else."""


def crc(data: bytes) -> bytes:
    """Return the CRC of some bytes (CRC-16/IBM-3740: polynomial 0x1021, all ones at first)."""
    return binascii.crc_hqx(data, 0xFFFF).to_bytes(CRC_BYTES, "big")


def check(data: bytes) -> bytes | None:
    """Return the bytes before the CRC that they end with; None when it is wrong."""
    body, found = data[:-CRC_BYTES], data[-CRC_BYTES:]
    return body if crc(body) == found else None


def request(command: int, *, address: int = 0, length: int = 0, data: bytes = b"") -> bytes:
    """Return a request; ``length`` is that of ``data`` when there are any."""
    body = bytes((command,)) + (len(data) or length).to_bytes(LENGTH_BYTES, "little") + address.to_bytes(ADDRESS_BYTES, "little")
    return bytes((REQUEST,)) + body + crc(body) + (data + crc(data) if data else b"")


def answer(status: int, data: bytes = b"") -> bytes:
    """Return an answer, as the board sends it."""
    body = bytes((status,)) + len(data).to_bytes(LENGTH_BYTES, "little")
    return bytes((ANSWER,)) + body + crc(body) + (data + crc(data) if data else b"")


class Silence(Exception):
    """No answer has come in time."""


def parse_answer(receive: Callable[[int], bytes]) -> tuple[int, bytes] | None:
    """Return status and data of the answer that ``receive(count)`` brings (fewer bytes when no more come in time).

    Returns None when it is damaged. Raises :class:`Silence` when nothing comes.
    """
    mark = receive(1)
    if not mark:
        raise Silence
    body = check(receive(1 + LENGTH_BYTES + CRC_BYTES))
    if mark[0] != ANSWER or body is None or len(body) != 1 + LENGTH_BYTES:
        return None
    length = int.from_bytes(body[1:], "little")
    data = b"" if not length else check(receive(length + CRC_BYTES))
    return None if data is None or len(data) != length else (body[0], data)
