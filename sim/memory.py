"""The one memory model: what it promises, and the half of it that serves Amaranth's simulator.

``memory.hpp`` is the same model in C++ beside Verilator; both agree in every cycle. The rules:

Time
    A run begins with cycle 0. What the memory drives in a cycle depends on earlier cycles only, never on what the engine drives in
    the same one. A transfer happens in a cycle in which valid and ready are both high.
Reads
    ``arready`` is high. Beats are numbered over the whole run; beat ``k`` is ready in cycle
    ``max(cycle its address was accepted in + latency, ready of beat k-1 + interval)``. ``rvalid`` rises in the first cycle in which
    the next beat is ready and stays until it is taken; at most one a cycle, in order, without a limit to the beats waiting.
    A beat's bytes are those that memory held in the cycle in which *its address was accepted*.
Writes
    ``awready`` is high; ``wready`` is high unless a beat was accepted within the last ``interval - 1`` cycles. Data may come before
    its address. The response is ready ``latency`` cycles after the last of address and beats was accepted; ``bvalid`` rises then
    and stays until taken. The bytes change, by strobe, in the cycle in which *bvalid rises*: who reads before reads the old bytes.
Stalls
    With a seed, each cycle takes one number from SplitMix64. Channel ``k`` of AR, R, AW, W, B is stalled when its bits ``12k`` to
    ``12k+11``, times 100, are below ``4096 * stall_percent``: ready is low, or valid does not rise (one that is high stays high).
Outside
    A beat not wholly inside the memory reads as ones, or writes nothing, and is answered with SLVERR; the rest of a burst goes on.
Payloads
    While ``rvalid`` or ``bvalid`` is low their payloads are all ones, so whoever looks at them is found out.
Rules of the engine's side
    INCR bursts of full-width beats that do not cross a multiple of 4096; an unaligned address counts from the beat it lies in, and
    may not write below itself; valid stays, with the same payload, until ready; ``wlast`` is on the last beat and no other; when
    the engine says that it is done nothing is outstanding. This is always checked; :class:`ProtocolError` ends the run.
"""

from __future__ import annotations

import enum
from collections import deque
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from accel.errors import SystolithError
from accel.program import MemoryTiming

__all__ = ["Channel", "Fault", "MasterSignals", "Memory", "ProtocolError"]

_OKAY, _SLVERR, _POISON = 0, 2, 3
_MASK64 = (1 << 64) - 1


class Channel(enum.IntEnum):
    """Channel of the engine's ports. The values are those of ``memory.hpp``."""

    READ_ADDRESS = 0
    READ_DATA = 1
    WRITE_ADDRESS = 2
    WRITE_DATA = 3
    WRITE_RESPONSE = 4
    CONTROL = 5


class Fault(enum.IntEnum):
    """Rule that the engine broke. The values are those of ``memory.hpp``."""

    VALID_DROPPED = 1
    PAYLOAD_CHANGED = 2
    NOT_INCR = 3
    WRONG_SIZE = 4
    CROSSES_4096 = 5
    WRONG_LAST = 6
    STRAY_STROBE = 7
    UNFINISHED = 8
    REFUSED = 9


_SENTENCES = {
    Fault.VALID_DROPPED: "valid fell before ready",
    Fault.PAYLOAD_CHANGED: "the payload changed while it waited for ready",
    Fault.NOT_INCR: "the burst is not of type INCR",
    Fault.WRONG_SIZE: "the burst's beats are not as wide as the bus",
    Fault.CROSSES_4096: "the burst crosses a multiple of 4096 bytes",
    Fault.WRONG_LAST: "wlast is not exactly on the last beat of its burst",
    Fault.STRAY_STROBE: "a strobe is set below the burst's address",
    Fault.UNFINISHED: "the engine was done while transfers were outstanding",
    Fault.REFUSED: "a register access was answered with an error",
}


class ProtocolError(SystolithError):
    """The engine broke a rule of its bus: a fault of the hardware, never of a program.

    Parameters
    ----------
    channel, fault
        What was broken where.
    cycle
        Cycle of the run, counted from its first.
    """

    def __init__(self, channel: Channel, fault: Fault, cycle: int) -> None:
        name = channel.name.lower().replace("_", " ")
        super().__init__(
            f"the engine broke the bus protocol on its {name} channel in cycle {cycle}: {_SENTENCES[fault]}; "
            "this is a fault of the hardware description, not of the program"
        )
        self.channel = channel
        self.fault = fault
        self.cycle = cycle


class MasterSignals(NamedTuple):
    """What the engine drives on ``m_axi_*`` in one cycle, in the order of the names here."""

    awaddr: int
    awlen: int
    awsize: int
    awburst: int
    awvalid: int
    wdata: int
    wstrb: int
    wlast: int
    wvalid: int
    bready: int
    araddr: int
    arlen: int
    arsize: int
    arburst: int
    arvalid: int
    rready: int


class _ReadBeat(NamedTuple):
    ready: int
    data: int
    response: int
    last: int


class _Response(NamedTuple):
    ready: int
    code: int
    writes: list[tuple[int, int, int]]  # offset, strobe, data of each beat


class Memory:
    """Memory of ``data``'s size behind an AXI4 port of ``bus_bytes``, one run long.

    In each cycle call :meth:`drive`, look at the attributes named like the port's signals, then :meth:`step` with what the engine
    drives.

    Parameters
    ----------
    data
        uint8 array that is read and written in place; its length is a multiple of ``bus_bytes``.
    base
        Bus address of its first byte.
    bus_bytes
        Bytes a beat.
    timing
        Latency, bandwidth and stalls.
    """

    def __init__(self, data: npt.NDArray[np.uint8], *, base: int, bus_bytes: int, timing: MemoryTiming) -> None:
        self._bytes = data.data
        self._base = base
        self._bus_bytes = bus_bytes
        self._size = bus_bytes.bit_length() - 1
        self._ones = (1 << 8 * bus_bytes) - 1
        self._latency = timing.latency
        self._interval = timing.interval
        self._stall_below = 0 if timing.stall_seed is None else 4096 * timing.stall_percent
        self._random = (timing.stall_seed or 0) & _MASK64
        self._next_read = self._next_write = 0
        self._reads: deque[_ReadBeat] = deque()
        self._addresses: deque[tuple[int, int, int, int]] = deque()
        self._data: deque[tuple[int, int, int]] = deque()
        self._beats: list[tuple[int, int, int]] = []
        self._beat = 0
        self._code = _OKAY
        self._responses: deque[_Response] = deque()
        self._held: dict[Channel, tuple[int, ...]] = {}
        self.cycle = 0
        self.awready = self.wready = self.bvalid = self.arready = self.rvalid = self.rlast = 0
        self.bresp = self.rresp = self.rdata = 0

    def drive(self) -> None:
        """Begin a cycle: set what the memory drives in it."""
        stalled = self._draw()
        cycle = self.cycle
        self.arready = not stalled & 1
        self.awready = not stalled & 4
        self.wready = not (stalled & 8 or cycle < self._next_write)
        if not self.rvalid:
            if self._reads and self._reads[0].ready <= cycle and not stalled & 2:
                self.rvalid = 1
                _, self.rdata, self.rresp, self.rlast = self._reads[0]
            else:
                self.rdata, self.rresp, self.rlast = self._ones, _POISON, 1
        if not self.bvalid:
            if self._responses and self._responses[0].ready <= cycle and not stalled & 16:
                self.bvalid = 1
                self.bresp = self._responses[0].code
                self._commit(self._responses[0].writes)
            else:
                self.bresp = _POISON

    def step(self, engine: MasterSignals) -> bool:
        """End a cycle with what the engine drove in it. Returns whether anything was transferred.

        Raises :class:`ProtocolError` when the engine broke a rule.
        """
        moved = False
        if self.rvalid and engine.rready:
            self._reads.popleft()
            self.rvalid = 0
            moved = True
        if self.bvalid and engine.bready:
            self._responses.popleft()
            self.bvalid = 0
            moved = True
        address: tuple[int, int, int, int]
        if engine.arvalid or Channel.READ_ADDRESS in self._held:
            address = (engine.araddr, engine.arlen, engine.arsize, engine.arburst)
            if self._offer(Channel.READ_ADDRESS, engine.arvalid, self.arready, address):
                self._read(address)
                moved = True
        if engine.awvalid or Channel.WRITE_ADDRESS in self._held:
            address = (engine.awaddr, engine.awlen, engine.awsize, engine.awburst)
            if self._offer(Channel.WRITE_ADDRESS, engine.awvalid, self.awready, address):
                self._addresses.append(address)
                moved = True
        if engine.wvalid or Channel.WRITE_DATA in self._held:
            beat = (engine.wdata, engine.wstrb, engine.wlast)
            if self._offer(Channel.WRITE_DATA, engine.wvalid, self.wready, beat):
                self._data.append(beat)
                self._next_write = self.cycle + self._interval
                moved = True
        while self._addresses and self._data:
            self._write()
        self.cycle += 1
        return moved

    def check_idle(self) -> None:
        """Refuse an engine that says it is done while it still owes or is owed something."""
        for channel, outstanding in (
            (Channel.READ_DATA, self._reads),
            (Channel.READ_ADDRESS, Channel.READ_ADDRESS in self._held),
            (Channel.WRITE_RESPONSE, self._addresses or self._responses or Channel.WRITE_ADDRESS in self._held),
            (Channel.WRITE_DATA, self._data or Channel.WRITE_DATA in self._held),
        ):
            if outstanding:
                raise ProtocolError(channel, Fault.UNFINISHED, self.cycle)

    def _draw(self) -> int:
        """Return the channels stalled in this cycle: bit k for channel k."""
        if not self._stall_below:
            return 0
        self._random = (self._random + 0x9E3779B97F4A7C15) & _MASK64
        z = self._random
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & _MASK64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & _MASK64
        z ^= z >> 31
        below = self._stall_below
        return sum(((z >> 12 * k & 4095) * 100 < below) << k for k in range(5))

    def _offer(self, channel: Channel, valid: int, ready: int, payload: tuple[int, ...]) -> bool:
        held = self._held.get(channel)
        if held is not None:
            if not valid:
                raise ProtocolError(channel, Fault.VALID_DROPPED, self.cycle)
            if held != payload:
                raise ProtocolError(channel, Fault.PAYLOAD_CHANGED, self.cycle)
        if ready:
            self._held.pop(channel, None)
            return True
        self._held[channel] = payload
        return False

    def _check(self, channel: Channel, burst: tuple[int, int, int, int]) -> None:
        address, length, size, kind = burst
        if kind != 1:
            raise ProtocolError(channel, Fault.NOT_INCR, self.cycle)
        if size != self._size:
            raise ProtocolError(channel, Fault.WRONG_SIZE, self.cycle)
        if (address & 4095 & -self._bus_bytes) + (length + 1) * self._bus_bytes > 4096:
            raise ProtocolError(channel, Fault.CROSSES_4096, self.cycle)

    def _locate(self, address: int, beat: int) -> int | None:
        """Return a beat's offset in the memory, or None when it lies outside."""
        offset = (address & -self._bus_bytes) + beat * self._bus_bytes - self._base
        return offset if 0 <= offset <= len(self._bytes) - self._bus_bytes else None

    def _read(self, burst: tuple[int, int, int, int]) -> None:
        self._check(Channel.READ_ADDRESS, burst)
        address, length, _, _ = burst
        for beat in range(length + 1):
            ready = max(self.cycle + self._latency, self._next_read)
            self._next_read = ready + self._interval
            offset = self._locate(address, beat)
            last = int(beat == length)
            if offset is None:
                self._reads.append(_ReadBeat(ready, self._ones, _SLVERR, last))
            else:
                data = int.from_bytes(self._bytes[offset : offset + self._bus_bytes], "little")
                self._reads.append(_ReadBeat(ready, data, _OKAY, last))

    def _write(self) -> None:
        """Join the oldest data beat to the oldest burst."""
        burst = self._addresses[0]
        address, length, _, _ = burst
        data, strobe, last = self._data.popleft()
        if self._beat == 0:
            self._check(Channel.WRITE_ADDRESS, burst)
            if strobe & ((1 << address % self._bus_bytes) - 1):
                raise ProtocolError(Channel.WRITE_DATA, Fault.STRAY_STROBE, self.cycle)
        if last != (self._beat == length):
            raise ProtocolError(Channel.WRITE_DATA, Fault.WRONG_LAST, self.cycle)
        offset = self._locate(address, self._beat)
        if offset is None:
            self._code = _SLVERR
        else:
            self._beats.append((offset, strobe, data))
        self._beat += 1
        if last:
            self._responses.append(_Response(self.cycle + self._latency, self._code, self._beats))
            self._addresses.popleft()
            self._beats, self._beat, self._code = [], 0, _OKAY

    def _commit(self, writes: list[tuple[int, int, int]]) -> None:
        width = self._bus_bytes
        for offset, strobe, data in writes:
            new = data.to_bytes(width, "little")
            if strobe == (1 << width) - 1:
                self._bytes[offset : offset + width] = new
            else:
                for i in range(width):
                    if strobe >> i & 1:
                        self._bytes[offset + i] = new[i]
