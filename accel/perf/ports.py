"""The memory ports: what goes through them when, on chip and in memory.

``ReadChannel`` is the read port with the receiver of the load unit behind it, ``WritePort`` the write port behind the output stage.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Mapping

from accel.config import EngineConfig
from accel.isa import INSTRUCTION_BYTES, Target
from accel.perf.timeline import BUSY, PLAIN, SHARED, WAIT_MEMORY, Line
from accel.program import MemoryTiming

__all__ = ["BURST_BEATS", "Fields", "ReadChannel", "WritePort", "left_alone", "rows_of"]

# Facts of the hardware, each beside the name it has there.
BURST_BEATS = 64  # write_port.BURST_BEATS
_READS = 16  # read_port.OUTSTANDING
_TRANSFERS = 4  # write_port.TRANSFERS
_BEATS = 16  # write_port.BEATS
_WRITES = 8  # write_port.OUTSTANDING

Fields = Mapping[str, int]


class ReadChannel:
    """The read port, memory's side of it, and the receiver of the load unit: beats come in the order of their bursts."""

    def __init__(self, config: EngineConfig, timing: MemoryTiming, line: Line) -> None:
        self.bus = config.bus_bytes
        self.latency = timing.latency
        self.interval = timing.interval
        self.first = 0
        """First cycle in which the receiver worked on the latest LOAD."""
        self._line = line
        self._ready = -(1 << 30)  # the last beat was ready
        self._delivered = -(1 << 30)  # the last beat was taken
        self._released = -(1 << 30)  # the receiver's register can take a beat again
        self._finished: deque[int] = deque(maxlen=_READS)  # last beats of the latest bursts
        self._active = 0  # from when the LOAD being received is at the head
        self._ends: list[int] = []  # for each LOAD, the cycle of its last element
        self._load: Fields = {}
        self._share = 0  # of the cycles, one in 2**share is left to the output stage
        self._beats = 0  # of the LOAD announced
        self._part = 0  # beats of an element of several
        self._row_addresses: Iterator[int] = iter(())
        self._row_left = 0  # elements smaller than a beat
        self._at = 0  # where in the beat they begin
        # stretches of cycles in which elements for the scratchpad are made (but for the output stage's share)
        self._busy_from: list[int] = []
        self._busy_until: list[int] = []
        self.busy_until = -1
        """The last cycle in which an element for the scratchpad is known to be made."""
        self._busy_share: list[int] = []

    def room_from(self) -> int:
        """Return the cycle from which another burst may be sent."""
        return self._finished[0] + 1 if len(self._finished) == _READS else 0

    def idle_from(self) -> int:
        """Return the cycle from which no burst is under way."""
        return self._finished[-1] + 1 if self._finished else 0

    def _accept(self, taken: int) -> int:
        """Return when the first beat of a burst taken by the port is ready."""
        # the address is in a register for a cycle
        return max(taken + 1 + self.latency, self._ready + self.interval)

    def fetch(self, taken: int, beats: int) -> list[int]:
        """Receive a burst of instructions; return for each the cycle from which the dispatcher sees it."""
        # a register before the buffer
        seen = []
        ready = self._accept(taken)
        for beat in range(beats):
            if beat:
                ready += self.interval
            shown = max(ready, self._delivered + 1)
            if self.bus > INSTRUCTION_BYTES:
                parts = self.bus // INSTRUCTION_BYTES
                seen += [shown + 3 + n for n in range(parts)]
                self._delivered = shown + parts - 1
            else:
                self._delivered = shown
                if (beat + 1) * self.bus % INSTRUCTION_BYTES == 0:
                    seen.append(shown + 3)
        self._ready = ready
        self._finished.append(self._delivered)
        return seen

    # ---- receiver ----

    def receiver_room_from(self, depth: int) -> int:
        """Return the cycle from which another LOAD may be announced."""
        return self._ends[-depth] + 1 if len(self._ends) >= depth else 0

    def _announce(self, begin: int) -> None:
        self._active = max(begin + 2, self._ends[-1] + 1 if self._ends else 0)

    def fill(self, begin: int, count: int, share: int) -> int:
        """Receive a FILL; return the cycle of its last element."""
        self._announce(begin)
        self._share = share
        self.first = self._active + left_alone(self._active, share)
        self._ends.append(self._emit(self._active, count))
        self._line.weave(self._ends[-1] + 1, SHARED[share])
        return self._ends[-1]

    def begin(self, begin: int, load: Fields) -> None:
        """Announce a LOAD; its bursts follow."""
        self._announce(begin)
        self._load = load
        self._share = load["share_log2"]
        self._row_addresses = rows_of(load)
        self.first = -1
        self._beats = 0

    def end(self) -> int:
        """Return the cycle of the last element of the LOAD announced."""
        self._ends.append(self._released)
        return self._released

    def load(self, taken: int, beats: int) -> None:
        """Receive a burst of the LOAD announced."""
        load = self._load
        element = 1 << load["element_log2"]
        whole = element >= self.bus
        to_scratchpad = load["target"] == Target.ACTIVATIONS
        ready = self._accept(taken)
        for beat in range(beats):
            if beat:
                ready += self.interval
            if whole and self._beats >= 2 and (done := self._steady(ready, beats - beat, element // self.bus, to_scratchpad)):
                ready += (done - 1) * self.interval
                break
            self._beats += 1
            self._delivered = max(ready, self._delivered + 1, self._released)
            held = max(self._delivered + 1, self._active)
            if whole:
                self._part += 1
                count = 0
                if self._part * self.bus >= element:
                    self._part = 0
                    count = 1
            else:
                if not self._row_left:
                    self._row_left = load["n_x"]
                    self._at = next(self._row_addresses) % self.bus
                count = min(self._row_left, (self.bus - self._at) // element)
                self._at = 0
                self._row_left -= count
            self._line.until(held, WAIT_MEMORY)
            if self.first < 0:
                self.first = held + (to_scratchpad and count > 0 and left_alone(held, self._share))
            if to_scratchpad and count:
                self._released = self._emit(held, count)
                self._line.weave(self._released + 1, SHARED[self._share])
            else:
                self._released = held + max(count - 1, 0)
                self._line.until(self._released + 1, BUSY)
        self._ready = ready
        self._finished.append(self._delivered)

    def load_full(self, taken: int, bursts: int, limit: int) -> list[int]:
        """Receive full bursts of the LOAD announced, at most so many, while memory alone sets the pace; return when each was taken.

        The first may be sent in cycle ``taken``, the others before ``limit``.
        """
        load, finished, interval = self._load, self._finished, self.interval
        done = self._delivered
        parts = (1 << load["element_log2"]) // self.bus
        if load["target"] == Target.ACTIVATIONS or not parts or self._beats < 2 or done != self._ready or len(finished) < _READS:
            return []
        span = BURST_BEATS * interval
        sent: list[int] = []
        for burst in range(bursts):
            if burst:
                # room for it
                before = finished[burst] if burst < _READS else done + (burst - _READS + 1) * span
                taken = max(taken, before) + 1
            if (burst and taken >= limit) or taken + 1 + self.latency > done + burst * span + interval:
                break
            sent.append(taken)
        if count := len(sent):
            finished.extend(done + (burst + 1) * span for burst in range(max(0, count - _READS), count))
            self._line.until(done + interval + 1, WAIT_MEMORY)
            self._ready = self._delivered = done + count * span
            self._released = self._delivered + 1
            kind = PLAIN[BUSY] if interval == 1 else (BUSY, WAIT_MEMORY, interval, 1, (done + 1) % interval)
            self._line.weave(self._released + 1, kind)
            self._part = (self._part + count * BURST_BEATS) % parts
        return sent

    def _steady(self, ready: int, beats: int, parts: int, to_scratchpad: bool) -> int:
        """Receive the rest of a burst whose elements take ``parts`` whole beats; return its beats, or 0 if they must be looked at
        singly.

        The first of them is ready in cycle ``ready``. Two beats of the LOAD have been received, so it is at the head.
        """
        last_ready = ready + (beats - 1) * self.interval
        line = self._line
        if not to_scratchpad:
            # a beat a cycle, or as memory has them
            line.until(max(ready, self._delivered + 1) + 1, WAIT_MEMORY)
            if self.interval == 1:
                line.until(line.reached + beats, BUSY)
            else:
                late = min(beats, max(0, -(-(self._delivered + 1 - ready) // (self.interval - 1))))
                line.until(line.reached + late, BUSY)
                if late < beats:
                    line.until(ready + late * self.interval + 1, WAIT_MEMORY)
                    line.weave(last_ready + 2, (BUSY, WAIT_MEMORY, self.interval, 1, line.reached % self.interval))
            self._delivered = max(last_ready, self._delivered + beats)
            self._released = self._delivered + 1
        elif parts == 1 and self.interval == 1:
            # Elements are numbered by the cycles in which they may be made. Each is made when its beat is there and the one before
            # is made.
            first = max(ready, self._delivered + 1)
            last = first + beats - 1
            share = self._share
            made = _slot(self._released, share) + 1
            last_made = made + beats - 1
            if _slot(first + 1, share) > made or _slot(last + 1, share) > last_made:
                return 0
            line.until(max(first, self._released) + 1, WAIT_MEMORY)
            self._delivered = max(last, _slot_cycle(last_made - 1, share))
            self._released = self._emit(_slot_cycle(made, share), beats)
            line.weave(self._released + 1, SHARED[share])
        else:
            return 0
        self._part = (self._part + beats) % parts
        return beats

    def _emit(self, start: int, count: int) -> int:
        """Make ``count`` elements for the scratchpad from cycle ``start`` on; return the cycle of the last."""
        share = self._share
        if share:
            start += left_alone(start, share)
        last = start + count - 1 if not share else _slot_cycle(_slot(start, share) + count - 1, share)
        if self._busy_until and self._busy_share[-1] == share and self._busy_until[-1] + 1 >= start - left_alone(start - 1, share):
            self._busy_until[-1] = last
        else:
            self._busy_from.append(start)
            self._busy_until.append(last)
            self._busy_share.append(share)
        self.busy_until = last
        return last

    def free_from(self, cycle: int) -> int:
        """Return the first cycle from ``cycle`` on in which no element for the scratchpad is known to be made (it is written in the
        next)."""
        if self.busy_until < cycle:
            return cycle
        place = bisect_left(self._busy_until, cycle)
        while place < len(self._busy_from) and self._busy_from[place] <= cycle:
            share = self._busy_share[place]
            if left_alone(cycle, share):
                break
            cycle = self._busy_until[place] + 1 if not share else min(self._busy_until[place] + 1, cycle | (1 << share) - 1)
            place += cycle > self._busy_until[place]
        return cycle

    def writes_between(self, first: int, last: int) -> bool:
        """Return whether an element for the scratchpad may be made from cycle ``first`` to ``last``."""
        place = bisect_left(self._busy_from, last + 1) - 1
        return place >= 0 and first <= self._busy_until[place]


def left_alone(cycle: int, share: int) -> bool:
    """Return whether a cycle is the output stage's: one in ``2**share``, none if ``share`` is 0."""
    return share > 0 and (cycle + 1) % (1 << share) == 0


def rows_of(load: Fields) -> Iterator[int]:
    """Return the addresses of a LOAD's rows."""
    for z in range(load["n_z"]):
        for y in range(load["n_y"]):
            yield load["memory_address"] + z * load["memory_stride_z"] + y * load["memory_stride_y"]


def _slot(cycle: int, share: int) -> int:
    """Return the number of the first cycle from ``cycle`` on in which an element may be made for the scratchpad."""
    # (each round of 2**share cycles has one less, and its last cycle is the number of the next round's first)
    return cycle - (cycle >> share) if share else cycle


def _slot_cycle(number: int, share: int) -> int:
    """Return the cycle of a number."""
    if not share:
        return number
    rounds, rest = divmod(number, (1 << share) - 1)
    return (rounds << share) + rest


class WritePort:
    """The write port and memory's side of it."""

    def __init__(self, config: EngineConfig, timing: MemoryTiming) -> None:
        self.word_bytes = config.word_bytes
        self.bus = config.bus_bytes
        self.latency = timing.latency
        self.interval = timing.interval
        self._popped: list[int] = []  # for each transfer that was begun, when it left its queue
        self._quiet: list[int] = []  # for each that has ended, from when on it and all before it are acknowledged
        self._announced: list[int] = []
        self._transfers: deque[Fields] = deque()
        self._left_words: deque[int] = deque()
        self.word_free = -1
        """The cycle from which a result may be added to the next word: when the last one leaves the output stage."""
        self._beats: deque[int] = deque(maxlen=_BEATS)  # when the latest beats left the fifo
        self._responses: deque[int] = deque(maxlen=_WRITES)
        self._wready = 0  # memory takes a beat from then on
        self._state = 0  # the sequencer is in its next state (idle, row, address, data) from then on
        self._bursts: deque[int] = deque()  # beats of the bursts of the row under way, next first
        self._burst_left = 0
        self._row = 0

    def announce(self, offered: int, store: Fields) -> int | None:
        """Take a transfer offered from cycle ``offered`` on; return the cycle in which it is taken, None when words are missing to
        tell."""
        taken = offered
        if len(self._announced) >= _TRANSFERS:
            place = len(self._announced) - _TRANSFERS
            if place >= len(self._popped):
                return None
            taken = max(taken, self._popped[place] + 1)
        self._announced.append(taken)
        self._transfers.append(store)
        self._left_words.append(store["n_x"] * store["n_y"])
        if len(self._transfers) == 1:
            self._take()
        return taken

    def idle_at(self, cycle: int) -> int | None:
        """Return from when on (``cycle`` or later) the port is idle, None when words are missing to tell."""
        announced = bisect_left(self._announced, cycle)
        if announced > len(self._quiet):
            return None
        return max(cycle, self._quiet[announced - 1]) if announced else cycle

    def idle_from(self) -> int:
        """Return the cycle from which everything announced is acknowledged."""
        return self._quiet[-1] if self._quiet else 0

    def word(self, fire: int, x: int) -> None:
        """Take the next word, of column ``x``, whose last group was written in cycle ``fire``."""
        store = self._transfers[0]
        left = self.word_free
        shown = (fire if fire > left else left) + 1
        row_last = x == store["n_x"] - 1
        if self.word_bytes > self.bus:
            for part in range(self.word_bytes // self.bus):
                shown = self._push(shown + (part > 0))
        elif (
            row_last
            or self.word_bytes == self.bus
            or (store["memory_address"] + self._row * store["memory_stride_y"] + (x + 1) * self.word_bytes) % self.bus == 0
        ):
            shown = self._push(shown)
        self.word_free = shown
        if row_last:
            self._row += 1
        self._left_words[0] -= 1
        if not self._left_words[0]:
            self._left_words.popleft()
            self._transfers.popleft()
            self._row = 0

    def more_words(self, fire: int, period: int, most: int) -> int:
        """Take words that follow the one written in cycle ``fire``, one each ``period`` cycles, while none is refused.

        Return their number: at most ``most``, none of them the last of its burst.
        """
        count = min(most, self._burst_left - 1)
        shown = self.word_free
        if count <= 0 or shown != fire + 1 or self.word_bytes != self.bus or period < self.interval:
            return 0
        # room for the beats: those that come later than a whole fifo find it because these do
        if len(self._beats) == _BEATS and self._beats[-1] >= shown + period:  # else all of them have left before the first comes
            for place in range(min(count, _BEATS)):
                if self._beats[place] >= shown + (place + 1) * period:
                    count = place
                    break
        if count:
            # each is sent when it is seen and the one before is; the words come no faster than the beats can go
            last, interval = self._beats[-1], self.interval
            first = max(1, count + 1 - _BEATS)
            # how many come before memory takes them: it catches up if it can
            behind = last - shown - 1
            if behind > 0:
                behind = -(-behind // (period - interval)) if period > interval else count + 1
            late = min(max(first, behind), count + 1)
            self._beats.extend(range(last + first * interval, last + late * interval, interval))
            self._beats.extend(range(shown + late * period + 1, shown + (count + 1) * period + 1, period))
            self._wready = self._beats[-1] + interval
            self._state = self._beats[-1] + 1
            self.word_free += count * period
            self._burst_left -= count
            self._left_words[0] -= count
        return count

    def _push(self, shown: int) -> int:
        """Put a beat into the fifo in cycle ``shown`` or later; return when."""
        # (comparisons and no calls of max, which made a whole replay an eighth slower)
        beats = self._beats
        if len(beats) == _BEATS and beats[0] >= shown:
            shown = beats[0] + 1
        if not self._burst_left:
            self._open()
        # the beat leaves when it is seen, the burst has begun, and memory takes it
        sent = shown + 1
        if self._state > sent:
            sent = self._state
        if self._wready > sent:
            sent = self._wready
        beats.append(sent)
        self._wready = sent + self.interval
        self._state = sent + 1
        self._burst_left -= 1
        if not self._burst_left:
            self._responses.append(sent + self.latency)
            if not self._bursts and self._left_words[0] == 1:
                self._quiet.append(sent + self.latency + 1)
                if len(self._transfers) > 1:
                    self._take()
        return shown

    def _take(self) -> None:
        """Take the next transfer from the queue: the sequencer is idle until it sees it."""
        taken = max(self._state, self._announced[len(self._popped)] + 1)
        self._popped.append(taken)
        self._state = taken + 1

    def _open(self) -> None:
        """Go on to the next burst: its address and its data are offered from ``_state`` on."""
        store = self._transfers[0]
        address_state = self._state
        if not self._bursts:
            address_state += 1
            address = store["memory_address"] + self._row * store["memory_stride_y"]
            beat = address // self.bus
            left = (address % self.bus + store["n_x"] * self.word_bytes - 1) // self.bus + 1
            while left:
                burst = min(left, BURST_BEATS - beat % BURST_BEATS)
                self._bursts.append(burst)
                beat += burst
                left -= burst
        # Room: waits for one of the outstanding bursts; the burst begins in the next cycle
        if len(self._responses) == _WRITES:
            address_state = max(address_state, self._responses[0] + 1)
        self._burst_left = self._bursts.popleft()
        self._state = address_state + 1
