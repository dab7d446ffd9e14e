"""The cycle model: how long a :class:`~accel.program.Program` takes on the engine, to the cycle, without its data.

It replays the program's instructions through the same queues, sequencers and ports that ``rtl/`` describes, but moves from event to
event: the pixels of a pass, the beats of a burst and the words of a row follow each other at a known rate, so only their first and
last need a time. Everything that one part of the engine can know of another is at least a cycle old, except for the few cases
marked *same cycle*.

The parts, each a class here and one or two files there:

=================  =======================================  =============================================
``_ReadChannel``   ``rtl/read_port.py``, receiver of load   beats in order, elements written on chip
``_WritePort``     ``rtl/write_port.py``                    words packed into beats and bursts
``_fetch``         ``rtl/dispatch.py``                      prefetch buffer
``_dispatch``      ``rtl/dispatch.py``                      queues
``_load``          ``rtl/load.py``, requester               addresses sent
``_execute``       ``rtl/execute.py``                       passes
``_store``         ``rtl/store.py``                         groups issued
``_write``         ``rtl/store.py``                         results written
=================  =======================================  =============================================

Times are cycles from the first in which the engine is busy. "Seen from" a cycle means that a register holds the news in that cycle.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from accel.config import QUEUE_DEPTH, EngineConfig
from accel.isa import INSTRUCTION_BYTES, UNORDERED, Instruction, Opcode, Operation, Target
from accel.program import MemoryTiming, Program

__all__ = ["Estimate", "estimate"]

# Facts of the hardware, each beside the name it has there.
_BURST_BEATS = 64  # write_port.BURST_BEATS
_FETCH_BYTES = 128  # dispatch.FETCH_BYTES
_PREFETCH = 16  # dispatch.PREFETCH
_READS = 16  # read_port.OUTSTANDING
_IN_FLIGHT = 4  # load.IN_FLIGHT
_SHARE = 8  # load.SHARE
_HANDED = 2  # execute.HANDED
_REVISIT = 4  # accumulators.REVISIT
_RESULTS = 32  # store.RESULTS
_TRANSFERS = 4  # write_port.TRANSFERS
_BEATS = 16  # write_port.BEATS
_WRITES = 8  # write_port.OUTSTANDING

#: Turns of the processes in one cycle: fetch goes before load on the read port.
_FETCH, _DISPATCH, _LOAD, _EXECUTE, _STORE, _WRITE = range(6)

#: Groups of a STORE that are worth looking for a stretch without disturbance.
_WORTH_A_RUN = 4 * _RESULTS

_Process = Generator["int | None", None, None]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What the engine will do: ``cycles`` from start to done, and the cycle in which each instruction finishes (int64, program
    order)."""

    cycles: int
    retired: npt.NDArray[np.int64]


def estimate(program: Program, timing: MemoryTiming | None = None) -> Estimate:
    """Return the cycles of one image, equal to the engine's own counter for every program and memory timing without random
    stalls."""
    return _Replay(program, timing or MemoryTiming()).run()


class _Unit:
    """A queue and what has become of its instructions."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.entries: list[tuple[int, Instruction, tuple[int, int, int]]] = []
        self.seen: list[int] = []
        """For each entry, the cycle from which the unit sees it."""
        self.popped: list[int] = []
        """For each entry, the cycle in which it left the queue."""
        self.finished: list[int] = []
        """For each entry, the cycle from which everybody sees it finished."""


class _Replay:
    """One run of a program."""

    def __init__(self, program: Program, timing: MemoryTiming) -> None:
        self.program = program
        self.config: EngineConfig = program.config
        self.timing = timing
        self.units = [_Unit("load"), _Unit("execute"), _Unit("store")]
        self.retired = np.zeros(len(program.instructions), np.int64)
        self.channel = _ReadChannel(self.config, timing)
        self.port = _WritePort(self.config, timing)
        self.now = 0
        self._heap: list[tuple[int, int, int]] = []
        self._due: list[int | None] = []
        self._processes: list[_Process] = []
        self._running = -1
        self.fetched: list[int] = []
        """For each instruction of a fetched burst, the cycle from which the dispatcher sees it."""
        self.dispatched: list[int] = []
        """For each instruction, the cycle in which it left the prefetch buffer."""
        self.fetch_taken = -1
        self.results: deque[_Result] = deque()
        self.releases: list[int] = []
        """Cycles in which credits come back, as far as known: a heap."""
        self.outstanding = 0
        self.last_fire = -1
        self.last_delayed = -1
        self.ended: int | None = None

    # ---- events ----

    def wake(self, process: int, time: int) -> None:
        """Let a process go on in cycle ``time``, unless it does so earlier."""
        time = max(time, self.now)
        due = self._due[process]
        if due is None or time < due:
            self._due[process] = time
            heapq.heappush(self._heap, (time, process, time))

    def wake_all(self) -> None:
        """Let every process that waits for news look again in this cycle (or the next, where its turn is over)."""
        for process, due in enumerate(self._due):
            if due is None and process != self._running:
                self.wake(process, self.now)

    def quiet_until(self) -> int:
        """Return the cycle of the next event of any process."""
        while self._heap:
            time, process, _ = self._heap[0]
            if self._due[process] == time:
                return time
            heapq.heappop(self._heap)
        return 1 << 62

    def run(self) -> Estimate:
        """Replay the program."""
        self._processes = [self._fetch(), self._dispatch(), self._load(), self._execute(), self._store(), self._write()]
        self._due = [0] * len(self._processes)
        self._heap = [(0, n, 0) for n in range(len(self._processes))]
        alive = set(range(len(self._processes)))
        done: int | None = None
        while done is None:
            time = self.quiet_until()
            if time == 1 << 62:
                done = self._done()
                assert done is not None, "the cycle model has nothing to do before the program's end"
                break
            _, process, _ = heapq.heappop(self._heap)
            self._due[process] = None
            self._running = process
            self.now = time
            if process in alive:
                try:
                    resume = next(self._processes[process])
                except StopIteration:
                    alive.discard(process)
                    self._due[process] = 1 << 62
                    continue
                if resume is not None:
                    self.wake(process, resume)
            done = self._done() if self.ended is not None and time >= self._earliest_end() else None
        # the registers of dispatcher and engine add a cycle each
        cycles = done + 2
        self.retired[-1] = cycles
        return Estimate(cycles=cycles, retired=self.retired)

    def _earliest_end(self) -> int:
        return max(unit.finished[-1] if unit.finished else 0 for unit in self.units)

    def _done(self) -> int | None:
        """Return the cycle in which all is done, if that is known."""
        if self.ended is None or any(len(unit.finished) < len(unit.entries) for unit in self.units):
            return None
        return max(self.ended, self._earliest_end(), self.port.idle_from(), self.channel.idle_from())

    # ---- orders ----

    def satisfied_from(self, orders: tuple[int, int, int], queues: tuple[int, ...]) -> int | None:
        """Return the cycle from which an instruction's orders on the given queues hold, or None when that is not known yet."""
        since = 0
        for queue in queues:
            target = orders[queue]
            if target > 0:
                finished = self.units[queue].finished
                if len(finished) < target:
                    return None
                since = max(since, finished[target - 1])
        return since

    def finish(self, queue: int, position: int, pulse: int) -> None:
        """Note that a queue's next instruction (the program's ``position``-th) retires in cycle ``pulse``."""
        self.retired[position] = pulse
        self.units[queue].finished.append(pulse + 1)
        self.wake_all()

    # ---- fetch and dispatch ----

    def _fetch(self) -> _Process:
        bus = self.config.bus_bytes
        chunk = _FETCH_BYTES // INSTRUCTION_BYTES
        bursts = 0
        while True:
            # the bursts sent hold 4n instructions; the buffer and its way hold 16
            needed = chunk * (bursts + 1) - _PREFETCH
            if needed > 0:
                while len(self.dispatched) < needed:
                    if self.ended is not None:
                        return
                    yield None
                if self.dispatched[needed - 1] + 1 > self.now:
                    yield self.dispatched[needed - 1] + 1
            while (room := self.channel.room_from()) > self.now:
                yield room
            self.fetch_taken = self.now
            self.fetched += self.channel.fetch(self.now, _FETCH_BYTES // bus)
            bursts += 1
            self.wake_all()
            yield self.now + 1

    def _dispatch(self) -> _Process:
        counts = [0, 0, 0]
        order = {Opcode.LOAD: 0, Opcode.EXECUTE: 1, Opcode.STORE: 2}
        free = 0
        for position, instruction in enumerate(self.program.instructions):
            while len(self.fetched) <= position:
                yield None
            start = max(free, self.fetched[position])
            queue = order.get(instruction.opcode)
            if queue is not None:
                unit = self.units[queue]
                if len(unit.entries) >= QUEUE_DEPTH:
                    while len(unit.popped) <= len(unit.entries) - QUEUE_DEPTH:
                        yield None
                    start = max(start, unit.popped[len(unit.entries) - QUEUE_DEPTH] + 1)
            if start > self.now:
                yield start
            if instruction.opcode is Opcode.END:
                self.ended = start + 1
                self.wake_all()
                return
            if queue is not None:
                distances = (instruction["after_load"], instruction["after_execute"], instruction["after_store"])
                targets = [
                    0 if distance == UNORDERED else count - distance for distance, count in zip(distances, counts, strict=True)
                ]
                unit.entries.append((position, instruction, (targets[0], targets[1], targets[2])))
                unit.seen.append(start + 1)
                counts[queue] += 1
            self.dispatched.append(start)
            self.wake_all()
            free = start + 1

    # ---- load ----

    def _load(self) -> _Process:
        unit = self.units[0]
        bus = self.config.bus_bytes
        free = 0
        for index in range(1 << 62):
            while len(unit.entries) <= index:
                yield None
            position, load, orders = unit.entries[index]
            while (since := self.satisfied_from(orders, (0, 1, 2))) is None:
                yield None
            begin = max(free, unit.seen[index], since, self.channel.receiver_room_from(_IN_FLIGHT))
            while load["fence"]:
                if begin > self.now:
                    yield begin
                idle = self.port.idle_at(self.now)
                if idle is None:
                    yield None
                    begin = max(begin, self.now)
                elif idle > self.now:
                    begin = idle
                else:
                    break
            if begin > self.now:
                yield begin
            if load["target"] == Target.FILL:
                unit.popped.append(begin)
                free = begin + 1
                last = self.channel.fill(begin, load["n_x"] * load["n_y"] * load["n_z"])
            else:
                self.channel.begin(begin, load)
                time = begin + 2
                element = load["element_log2"]
                for z in range(load["n_z"]):
                    for y in range(load["n_y"]):
                        address = load["memory_address"] + z * load["memory_stride_z"] + y * load["memory_stride_y"]
                        low = address % bus
                        beat = address // bus
                        left = (low + (load["n_x"] << element) - 1) // bus + 1
                        while left:
                            burst = min(left, _BURST_BEATS - beat % _BURST_BEATS)
                            if time > self.now:
                                yield time
                            # fetch has taken the port in this cycle already, or it is full
                            while self.fetch_taken == self.now or self.channel.room_from() > self.now:
                                yield max(self.now + 1, self.channel.room_from())
                            self.channel.load(self.now, burst)
                            beat += burst
                            left -= burst
                            time = self.now + 1
                        time += 1
                last = self.channel.end()
                unit.popped.append(self.now)
                free = self.now + 1
            # two registers until the last write is in memory, one for the pulse
            self.finish(0, position, last + 3)

    # ---- execute ----

    def _execute(self) -> _Process:
        unit = self.units[1]
        rows, columns = self.config.rows, self.config.columns
        settle = rows + _REVISIT
        loader_free = 0
        taken = 0  # cycle in which the last pass was swapped in
        pass_cycles = 0  # least distance from that to the next
        last_pixel = -(1 << 30)
        last_path: tuple[bool, int] | None = None
        ends: list[int] = []
        for index in range(1 << 62):
            while len(unit.entries) <= index:
                yield None
            position, execute, orders = unit.entries[index]
            while (since := self.satisfied_from(orders, (0,))) is None:
                yield None
            begin = max(loader_free, unit.seen[index], since)
            if index >= _HANDED:
                begin = max(begin, ends[index - _HANDED] + 1)
            filling = max(begin + 1, taken)

            window = execute["operation"] == Operation.WINDOW
            array = window or execute["operation"] == Operation.ARRAY
            path = (array, execute["row_offset"])
            pixels = execute["n_py"] * execute["n_px"] * execute["n_wy"] * execute["n_wx"]
            taps = execute["n_block"] * execute["n_ky"] * execute["n_kx"]
            passes = 1 if window else -(-taps // (rows // execute["tap_rows"]))

            if passes == 1:
                # the loader is done with it, whatever the streamer still waits for
                unit.popped.append(filling + rows - 1)
                self.wake_all()
            while (since := self.satisfied_from(orders, (1, 2))) is None:
                yield None
            first = max(filling + rows, taken + pass_cycles, begin + 1, since)
            if index:
                first = max(first, ends[index - 1] + 1)
                if path != last_path:
                    first = max(first, last_pixel + settle + 1)
                if execute["accumulate"]:
                    first = max(first, last_pixel + _REVISIT)
            period = max(pixels + (_REVISIT - 1 if execute["reduce"] else 0), rows, _REVISIT)
            last_pass = first + (passes - 1) * period
            # each pass is loaded while the one before streams
            last_filling = filling if passes == 1 else last_pass - period
            loader_free = last_filling + rows
            if passes > 1:
                unit.popped.append(last_filling + rows - 1)
            taken = last_pass
            pass_cycles = max(pixels, _REVISIT)
            last_pixel = last_pass + pixels - 1
            last_path = path
            ends.append(last_pixel)
            if array:
                pulse = last_pixel + rows + columns + 8
            else:
                pulse = last_pixel + execute["row_offset"] // columns * columns + columns + 7
            self.finish(1, position, pulse)

    # ---- store ----

    def _store(self) -> _Process:
        """Issue groups: one a cycle while there are credits."""
        unit = self.units[2]
        config = self.config
        # from a group's issue to its result at the head of the results: issue register, accumulators, operand tables, requantiser,
        # table, pool, results
        latency = 1 + 3 + (4 if config.elementwise else 0) + 8 + (2 if config.tables else 0) + 2
        free = 0
        for index in range(1 << 62):
            while len(unit.entries) <= index:
                yield None
            position, store, orders = unit.entries[index]
            while (since := self.satisfied_from(orders, (0, 1, 2))) is None:
                yield None
            begin = max(free, unit.seen[index], since)
            if begin > self.now:
                yield begin
            issue = begin + 1
            if store["to_memory"]:
                while (announced := self.port.announce(begin + 1, store)) is None:
                    yield None
                issue = announced + 1
            pool, groups, n_x = store["pool"], store["groups"], store["n_x"]
            words = n_x * store["n_y"]
            done = 0
            if words * pool * groups >= _WORTH_A_RUN:
                while self.results:
                    yield None
                if self.last_delayed < issue:
                    done = yield from self._undisturbed(store, issue, latency)
                    issue += done * pool * groups
            for word in range(done, words):
                for part in range(1 - pool * groups, 1):
                    if self.outstanding == _RESULTS:
                        # the first credit to come back: of a swallowed group, or of one that is still to be written
                        while not self.releases or (self.results and self._write_from() < self.releases[0]):
                            if self._due[_WRITE] is None:
                                self.wake(_WRITE, self.now)
                            yield None
                        issue = max(issue, heapq.heappop(self.releases) + 1)
                        self.outstanding -= 1
                    self.outstanding += 1
                    if part <= -groups:
                        # swallowed by the pool: the credit comes back when it leaves the pipeline
                        heapq.heappush(self.releases, issue + latency - 1)
                    else:
                        last = word == words - 1 and not part
                        self.results.append(
                            _Result(issue + latency, store, word % n_x if not part else None, position if last else None)
                        )
                    issue += 1
            unit.popped.append(issue - 1)
            free = issue
            self.wake_all()

    def _undisturbed(self, store: Instruction, start: int, latency: int) -> Generator[int | None, None, int]:
        """Issue and write groups from cycle ``start`` on for as long as nothing delays a result; return the words done.

        The last words are left to the exact path, so that the cycle of the last issue is known before it comes.
        """
        pool, groups, n_x = store["pool"], store["groups"], store["n_x"]
        period = pool * groups
        to_scratchpad, to_memory = store["to_scratchpad"], store["to_memory"]
        swallowed = period - groups
        limit = n_x * store["n_y"] - -(-_RESULTS // period)
        done = 0
        while done < limit:
            reach = limit
            if to_scratchpad:
                # what the load unit makes is known up to the cycle of the next event
                reach = min(limit, (self.quiet_until() + 2 - latency - start) // period)
                if reach <= done:
                    yield start + (done + 1) * period + latency - 2
                    continue
                first = start + done * period + swallowed + latency
                if self.channel.writes_between(first - 1, start + reach * period + latency - 2):
                    break
            if to_memory:
                while done < reach and self.port.word_free() <= start + done * period + swallowed + latency:
                    self.port.word(start + (done + 1) * period - 1 + latency, done % n_x, store)
                    done += 1
                if done < reach:
                    break
            done = reach
        count = done * period
        for group in range(max(0, count - _RESULTS), count):
            heapq.heappush(self.releases, start + group + latency - (group % period < swallowed))
        self.outstanding += min(count, _RESULTS)
        while self.outstanding > _RESULTS:
            heapq.heappop(self.releases)
            self.outstanding -= 1
        if count:
            self.last_fire = start + count - 1 + latency
        return done

    def _write_from(self) -> int:
        """Return the first cycle in which the next result may be written, the load unit apart."""
        result = self.results[0]
        fire = max(result.earliest, self.last_fire + 1)
        return max(fire, self.port.word_free()) if result.store["to_memory"] else fire

    def _write(self) -> _Process:
        """Write results: one a cycle, when the ports are free."""
        while True:
            while not self.results:
                yield None
            result = self.results[0]
            fire = self._write_from()
            if result.store["to_scratchpad"]:
                # the load unit's writes go first; all that it makes by the cycle before must be known
                while True:
                    if self.quiet_until() < fire - 1:
                        yield fire - 1
                    if not self.channel.writes_in(fire - 1):
                        break
                    fire += 1
            self.results.popleft()
            heapq.heappush(self.releases, fire)
            self.last_fire = fire
            if fire > result.earliest:
                self.last_delayed = fire
            if result.store["to_memory"] and result.x is not None:
                self.port.word(fire, result.x, result.store)
            if result.position is not None:
                self.finish(2, result.position, fire + 1)
            elif self._due[_STORE] is None:
                self.wake(_STORE, self.now)


class _Result(NamedTuple):
    """A group on its way to the ports: at the head of the results in cycle ``earliest`` at best.

    ``x`` is given when it completes a word of that column, ``position`` when it completes the instruction.
    """

    earliest: int
    store: Instruction
    x: int | None
    position: int | None


class _ReadChannel:
    """The read port, memory's side of it, and the receiver of the load unit: beats come in the order of their bursts."""

    def __init__(self, config: EngineConfig, timing: MemoryTiming) -> None:
        self.bus = config.bus_bytes
        self.latency = timing.latency
        self.interval = timing.interval
        self._ready = -(1 << 30)  # the last beat was ready
        self._delivered = -(1 << 30)  # the last beat was taken
        self._released = -(1 << 30)  # the receiver's register can take a beat again
        self._finished: deque[int] = deque(maxlen=_READS)  # last beats of the latest bursts
        self._active = 0  # from when the LOAD being received is at the head
        self._ends: list[int] = []  # for each LOAD, the cycle of its last element
        self._load: Instruction | None = None
        self._row_left = 0
        self._at = 0
        self._row = 0
        self._part = 0
        self._last = 0
        # stretches of cycles in which elements for the scratchpad are made (but for the output stage's share)
        self._busy_from: list[int] = []
        self._busy_until: list[int] = []

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
        seen = []
        ready = self._accept(taken)
        for beat in range(beats):
            if beat:
                ready += self.interval
            shown = max(ready, self._delivered + 1)
            if self.bus > INSTRUCTION_BYTES:
                parts = self.bus // INSTRUCTION_BYTES
                seen += [shown + 1 + n for n in range(parts)]
                self._delivered = shown + parts - 1
            else:
                self._delivered = shown
                if (beat + 1) * self.bus % INSTRUCTION_BYTES == 0:
                    seen.append(shown + 1)
        self._ready = ready
        self._finished.append(self._delivered)
        return seen

    # ---- receiver ----

    def receiver_room_from(self, depth: int) -> int:
        """Return the cycle from which another LOAD may be announced."""
        return self._ends[-depth] + 1 if len(self._ends) >= depth else 0

    def _announce(self, begin: int) -> None:
        self._active = max(begin + 1, self._ends[-1] + 1 if self._ends else 0)

    def fill(self, begin: int, count: int) -> int:
        """Receive a FILL; return the cycle of its last element."""
        self._announce(begin)
        self._ends.append(self._emit(self._active, count))
        return self._ends[-1]

    def begin(self, begin: int, load: Instruction) -> None:
        """Announce a LOAD; its bursts follow."""
        self._announce(begin)
        self._load = load
        self._row = 0
        self._row_left = 0
        self._part = 0

    def end(self) -> int:
        """Return the cycle of the last element of the LOAD announced."""
        self._ends.append(self._last)
        return self._last

    def load(self, taken: int, beats: int) -> None:
        """Receive a burst of the LOAD announced."""
        load = self._load
        assert load is not None
        element = 1 << load["element_log2"]
        to_scratchpad = load["target"] == Target.ACTIVATIONS
        ready = self._accept(taken)
        for beat in range(beats):
            if beat:
                ready += self.interval
            if (
                beat == 2
                and element >= self.bus
                and (done := self._steady(ready, beats - beat, element // self.bus, to_scratchpad))
            ):
                ready += (done - 1) * self.interval
                break
            if not self._row_left:
                self._row_left = load["n_x"]
                z, y = divmod(self._row, load["n_y"])
                address = load["memory_address"] + z * load["memory_stride_z"] + y * load["memory_stride_y"]
                self._at = address % self.bus
                self._row += 1
            self._delivered = max(ready, self._delivered + 1, self._released)
            held = max(self._delivered + 1, self._active)
            if element >= self.bus:
                self._part += 1
                count = 0
                if self._part * self.bus >= element:
                    self._part = 0
                    count = 1
            else:
                count = min(self._row_left, (self.bus - self._at) // element)
                self._at = 0
            if to_scratchpad and count:
                self._released = self._emit(held, count)
            else:
                self._released = held + max(count - 1, 0)
            self._row_left -= count
            self._last = self._released
        self._ready = ready
        self._finished.append(self._delivered)

    def _steady(self, ready: int, beats: int, parts: int, to_scratchpad: bool) -> int:
        """Receive the rest of a burst whose elements take ``parts`` whole beats; return its beats, or 0 if they must be looked at
        singly.

        The first of them is ready in cycle ``ready``. The LOAD is known to be at the head: two of the burst's beats have been
        received.
        """
        last_ready = ready + (beats - 1) * self.interval
        if not to_scratchpad:
            # a beat a cycle, or as memory has them
            self._delivered = max(last_ready, self._delivered + beats)
            self._released = self._delivered + 1
        elif parts == 1 and self.interval == 1:
            # Elements are numbered by the cycles in which they may be made. Each is made when its beat is there and the one before
            # is made.
            made = max(_slot(ready + 1), _slot(self._released) + 1)
            last_made = made + beats - 1
            if _slot(last_ready + 1) > last_made or _slot(ready + 1) > _slot(self._released) + 1:
                return 0
            self._delivered = max(last_ready, _slot_cycle(last_made - 1))
            self._released = self._emit(_slot_cycle(made), beats)
        else:
            return 0
        self._part += beats
        elements, self._part = divmod(self._part, parts)
        self._row_left -= elements
        self._last = self._released
        return beats

    def _emit(self, start: int, count: int) -> int:
        """Make ``count`` elements for the scratchpad from cycle ``start`` on; return the cycle of the last."""
        start += start % _SHARE == _SHARE - 1
        last = _slot_cycle(_slot(start) + count - 1)
        if self._busy_until and self._busy_until[-1] + 1 >= start - (start % _SHARE == 0):
            self._busy_until[-1] = last
        else:
            self._busy_from.append(start)
            self._busy_until.append(last)
        return last

    def writes_in(self, cycle: int) -> bool:
        """Return whether an element for the scratchpad is made in a cycle (it is written in the next)."""
        if cycle % _SHARE == _SHARE - 1:
            return False
        place = bisect_left(self._busy_from, cycle + 1) - 1
        return place >= 0 and cycle <= self._busy_until[place]

    def writes_between(self, first: int, last: int) -> bool:
        """Return whether an element for the scratchpad may be made from cycle ``first`` to ``last``."""
        place = bisect_left(self._busy_from, last + 1) - 1
        return place >= 0 and first <= self._busy_until[place]


def _slot(cycle: int) -> int:
    """Return the number of the first cycle from ``cycle`` on in which an element may be made for the scratchpad."""
    return cycle // _SHARE * (_SHARE - 1) + min(cycle % _SHARE, _SHARE - 1)


def _slot_cycle(number: int) -> int:
    """Return the cycle of a number."""
    return number // (_SHARE - 1) * _SHARE + number % (_SHARE - 1)


class _WritePort:
    """The write port and memory's side of it."""

    def __init__(self, config: EngineConfig, timing: MemoryTiming) -> None:
        self.word_bytes = config.word_bytes
        self.bus = config.bus_bytes
        self.latency = timing.latency
        self.interval = timing.interval
        self._popped: list[int] = []  # for each transfer that has ended, when it left its queue
        self._quiet: list[int] = []  # and from when on it and all before it are acknowledged
        self._announced: list[int] = []
        self._left_words: deque[int] = deque()
        self._word_left = -1  # when the last word left the output stage
        self._beats: deque[int] = deque(maxlen=_BEATS)  # when the latest beats left the fifo
        self._responses: deque[int] = deque(maxlen=_WRITES)
        self._wready = 0  # memory takes a beat from then on
        self._state = 0  # the sequencer is in its next state (idle, row, address, data) from then on
        self._bursts: deque[int] = deque()  # beats of the bursts of the row under way, next first
        self._burst_left = 0
        self._row = 0

    def announce(self, offered: int, store: Instruction) -> int | None:
        """Take a transfer offered from cycle ``offered`` on; return the cycle in which it is taken, None when words are missing to
        tell."""
        taken = offered
        if len(self._announced) >= _TRANSFERS:
            place = len(self._announced) - _TRANSFERS
            if place >= len(self._popped):
                return None
            taken = max(taken, self._popped[place] + 1)
        self._announced.append(taken)
        self._left_words.append(store["n_x"] * store["n_y"])
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

    def word_free(self) -> int:
        """Return the cycle from which a result may be added to the next word: when the last one leaves."""
        return self._word_left

    def word(self, fire: int, x: int, store: Instruction) -> None:
        """Take a word whose last group was written in cycle ``fire``."""
        shown = max(fire + 1, self._word_left + 1)
        row_last = x == store["n_x"] - 1
        if self.word_bytes > self.bus:
            for part in range(self.word_bytes // self.bus):
                shown = self._push(shown + (part > 0), store)
            self._word_left = shown
        else:
            row = self._row
            address = store["memory_address"] + row * store["memory_stride_y"] + x * self.word_bytes
            if row_last or (address + self.word_bytes) % self.bus == 0:
                shown = self._push(shown, store)
            self._word_left = shown
        if row_last:
            self._row += 1
        self._left_words[0] -= 1
        if not self._left_words[0]:
            self._left_words.popleft()
            self._row = 0

    def _push(self, shown: int, store: Instruction) -> int:
        """Put a beat into the fifo in cycle ``shown`` or later; return when."""
        if len(self._beats) == _BEATS:
            shown = max(shown, self._beats[0] + 1)
        if not self._burst_left:
            self._open(store)
        # the beat leaves when it is seen, the burst has begun, and memory takes it
        sent = max(shown + 1, self._state, self._wready)
        self._beats.append(sent)
        self._wready = sent + self.interval
        self._state = sent + 1
        self._burst_left -= 1
        if not self._burst_left:
            self._responses.append(sent + self.latency)
            if not self._bursts and self._left_words[0] == 1:
                self._popped.append(sent)
                self._quiet.append(sent + self.latency + 1)
        return shown

    def _open(self, store: Instruction) -> None:
        """Go on to the next burst: its address and its data are offered from ``_state`` on."""
        address_state = self._state
        if not self._bursts:
            if not self._row:
                # idle until the transfer is seen
                address_state = max(address_state, self._announced[len(self._popped)] + 1) + 1
            address_state += 1
            address = store["memory_address"] + self._row * store["memory_stride_y"]
            beat = address // self.bus
            left = (address % self.bus + store["n_x"] * self.word_bytes - 1) // self.bus + 1
            while left:
                burst = min(left, _BURST_BEATS - beat % _BURST_BEATS)
                self._bursts.append(burst)
                beat += burst
                left -= burst
        # Room: waits for one of the outstanding bursts; the burst begins in the next cycle
        if len(self._responses) == _WRITES:
            address_state = max(address_state, self._responses[0] + 1)
        self._burst_left = self._bursts.popleft()
        self._state = address_state + 1
