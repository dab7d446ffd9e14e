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

What a unit does in each cycle (its ``o_state``) follows from the same times: see :class:`Timeline`.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from accel import micro
from accel.config import QUEUE_DEPTH, EngineConfig
from accel.isa import INSTRUCTION_BYTES, MAX_SHARE_LOG2, UNORDERED, Opcode, Operation, Target, UnitState
from accel.program import TELL_EVERY, MemoryTiming, Program

__all__ = ["BURST_BEATS", "REVISIT", "Estimate", "Timeline", "estimate"]

# Facts of the hardware, each beside the name it has there.
BURST_BEATS = 64  # write_port.BURST_BEATS
_FETCH_BYTES = 128  # dispatch.FETCH_BYTES
_PREFETCH = 16  # dispatch.PREFETCH
_READS = 16  # read_port.OUTSTANDING
_IN_FLIGHT = 4  # load.IN_FLIGHT
_HANDED = 2  # execute.HANDED
REVISIT = 4  # accumulators.REVISIT
_RESULTS = 32  # store.RESULTS
_TRANSFERS = 4  # write_port.TRANSFERS
_BEATS = 16  # write_port.BEATS
_WRITES = 8  # write_port.OUTSTANDING

#: Turns of the processes in one cycle: fetch goes before load on the read port.
_FETCH, _DISPATCH, _LOAD, _EXECUTE, _STORE, _WRITE = range(6)

#: Groups of a STORE that are worth looking for a stretch without disturbance. They take more credits than there are, so all results
#: before it are written before its last issue.
_WORTH_A_RUN = 2 * _RESULTS

_NEVER = 1 << 62

Fields = Mapping[str, int]
_Process = Generator["int | None", None, None]
"""Yields the cycle in which it goes on, or None to wait for news."""


Cycles = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """What a unit does in every cycle, in pieces that follow each other without a gap, the first from cycle 0 on.

    Each array is int64 ``(pieces,)``. Piece n lasts from ``begins[n]`` to ``ends[n]`` (exclusive). Of every ``periods[n]`` cycles,
    counted from ``origins[n]`` on, the first ``widths[n]`` are spent in the state ``states[n]``, the rest in ``others[n]``.
    """

    begins: Cycles
    ends: Cycles
    states: Cycles
    others: Cycles
    periods: Cycles
    widths: Cycles
    origins: Cycles

    def spent(self, until: Cycles) -> Cycles:
        """Return how many of the cycles before each of ``until`` (n) are in each state: int64 (n, 8)."""
        pieces = np.arange(len(self.begins))
        sums = np.zeros((len(pieces) + 1, len(UnitState)), np.int64)
        in_state = self._in_state(pieces, self.ends)
        np.add.at(sums, (pieces + 1, self.states), in_state)
        np.add.at(sums, (pieces + 1, self.others), self.ends - self.begins - in_state)
        np.cumsum(sums, axis=0, out=sums)
        place = np.searchsorted(self.begins, until, side="right") - 1
        spent = sums[place]
        in_state = self._in_state(place, until)
        rows = np.arange(len(until))
        np.add.at(spent, (rows, self.states[place]), in_state)
        np.add.at(spent, (rows, self.others[place]), until - self.begins[place] - in_state)
        return spent

    def _in_state(self, pieces: npt.NDArray[np.intp], until: Cycles) -> Cycles:
        """Return how many cycles of some pieces, before ``until``, are in the first of their states."""
        counts = []
        for cycle in (self.begins[pieces], until):
            periods, rest = np.divmod(cycle - self.origins[pieces], self.periods[pieces])
            counts.append(periods * self.widths[pieces] + np.minimum(rest, self.widths[pieces]))
        return counts[1] - counts[0]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What the engine will do in one run.

    ``cycles``: from start to done. ``retired``: the cycle in which each instruction finishes. ``started`` and ``ended``: the first
    and the last cycle in which its unit works on it (is BUSY); BEGIN and END have 0 and ``cycles`` everywhere. All three are int64
    ``(instructions,)``. ``timelines``: of load, execute and store.
    """

    cycles: int
    retired: Cycles
    started: Cycles
    ended: Cycles
    timelines: tuple[Timeline, Timeline, Timeline]

    @cached_property
    def states(self) -> Cycles:
        """Cycles of load, execute and store in each :class:`~accel.isa.UnitState`: int64 ``(3, 8)``."""
        return np.stack([line.spent(np.array([self.cycles]))[0] for line in self.timelines])

    @cached_property
    def spent(self) -> Cycles:
        """What ``states`` has reached when each instruction finishes, that cycle included: int64 ``(instructions, 3, 8)``."""
        until = np.minimum(self.retired + 1, self.cycles)
        until[0] = 0
        return np.stack([line.spent(until) for line in self.timelines], axis=1)


def estimate(program: Program, timing: MemoryTiming | None = None, *, advance: Callable[[int], None] | None = None) -> Estimate:
    """Return the cycles of one run, equal to the engine's own counter for every program and memory timing without random stalls.

    ``advance`` is told now and then how many instructions have been replayed.
    """
    if program.config.micro:
        return _in_order(program)
    return _Replay(program, timing or MemoryTiming(), advance).run()


def _in_order(program: Program) -> Estimate:
    """Return the cycles of the engine that runs one instruction after the other: nothing depends on anything but its fields."""
    taken = [micro.cycles_of(instruction, program.config) for instruction in program.instructions]
    ends = np.cumsum(taken, dtype=np.int64)
    cycles = int(ends[-1])
    started, ended = ends - taken + micro.FETCH, ends - 1
    started[0] = ended[0] = 0
    started[-1] = ended[-1] = cycles
    timelines = []
    for unit in (Opcode.LOAD, Opcode.EXECUTE, Opcode.STORE):
        mine = [n for n, instruction in enumerate(program.instructions) if instruction.opcode is unit]
        # idle before each of its instructions, and at the end
        bounds = np.concatenate([[0], np.stack([started[mine], ended[mine] + 1], axis=1).reshape(-1), [cycles]])
        states = np.array([_IDLE, *([_BUSY, _IDLE] * len(mine))], np.int64)
        once = np.ones(len(states), np.int64)
        timelines.append(
            Timeline(begins=bounds[:-1], ends=bounds[1:], states=states, others=states, periods=once, widths=once, origins=0 * once)
        )
    load, execute, store = timelines
    return Estimate(cycles=cycles, retired=ended, started=started, ended=ended, timelines=(load, execute, store))


_IDLE, _BUSY = int(UnitState.IDLE), int(UnitState.BUSY)
_WAIT_LOAD, _WAIT_EXECUTE, _WAIT_STORE = int(UnitState.WAIT_LOAD), int(UnitState.WAIT_EXECUTE), int(UnitState.WAIT_STORE)
_WAIT_MEMORY, _WAIT_WEIGHTS = int(UnitState.WAIT_MEMORY), int(UnitState.WAIT_WEIGHTS)
_WAIT_PIPELINE = int(UnitState.WAIT_PIPELINE)

#: state, other, period, width, origin of a :class:`Timeline`
_Kind = tuple[int, int, int, int, int]

_PLAIN: list[_Kind] = [(state, state, 1, 1, 0) for state in UnitState]
#: Elements made for the scratchpad, but for the output stage's share: by ``share_log2``.
_SHARED: list[_Kind] = [_PLAIN[_BUSY]]
_SHARED += [(_BUSY, _WAIT_PIPELINE, 1 << share, (1 << share) - 1, 0) for share in range(1, MAX_SHARE_LOG2 + 1)]


class _Line:
    """A timeline while it grows."""

    def __init__(self) -> None:
        self.reached = 0
        self._begins: list[int] = []
        self._numbers: list[int] = []
        #: The kinds of the pieces by number; a state of its own has its value for one.
        self._kinds: dict[_Kind, int] = {kind: state for state, kind in enumerate(_PLAIN)}
        self._last = -1

    def until(self, cycle: int, state: int) -> None:
        """Spend what is left before a cycle, if anything, in a state."""
        if cycle > self.reached:
            if state != self._last:
                self._begins.append(self.reached)
                self._numbers.append(state)
                self._last = state
            self.reached = cycle

    def weave(self, cycle: int, kind: _Kind) -> None:
        """Spend what is left before a cycle, if anything, in two states by turns."""
        self.until(cycle, self._kinds.setdefault(kind, len(self._kinds)))

    def timeline(self) -> Timeline:
        """Return what has become of it."""
        begins = np.array(self._begins, np.int64)
        kinds = np.array(list(self._kinds), np.int64)[self._numbers]
        states, others, periods, widths, origins = kinds.reshape(-1, 5).T
        return Timeline(
            begins=begins,
            ends=np.append(begins[1:], self.reached),
            states=states,
            others=others,
            periods=periods,
            widths=widths,
            origins=origins,
        )


class _Unit:
    """A queue and what has become of its instructions."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.entries: list[tuple[int, Fields, tuple[int, int, int]]] = []
        """For each instruction, its place in the program, its fields, and how many of each queue must be finished before it."""
        self.seen: list[int] = []
        """For each entry, the cycle from which the unit sees it."""
        self.popped: list[int] = []
        """For each entry, the cycle in which it left the queue."""
        self.finished: list[int] = []
        """For each entry, the cycle from which everybody sees it finished."""


class _Replay:
    """One run of a program."""

    def __init__(self, program: Program, timing: MemoryTiming, advance: Callable[[int], None] | None) -> None:
        self.program = program
        self.advance = advance
        self.config: EngineConfig = program.config
        self.timing = timing
        self.units = [_Unit("load"), _Unit("execute"), _Unit("store")]
        self.retired = np.zeros(len(program.instructions), np.int64)
        self.started = np.zeros(len(program.instructions), np.int64)
        self.ended = np.zeros(len(program.instructions), np.int64)
        self.load_line = _Line()
        self.execute_line = _Line()
        self.channel = _ReadChannel(self.config, timing, self.load_line)
        self.port = _WritePort(self.config, timing)
        self.now = 0
        self._heap: list[tuple[int, int]] = []
        self._due: list[int | None] = []
        self._processes: list[_Process] = []
        self._running = -1
        self.fetched: list[int] = []
        """For each instruction of a fetched burst, the cycle from which the dispatcher sees it."""
        self.dispatched: list[int] = []
        """For each instruction, the cycle in which it left the prefetch buffer."""
        self.fetch_taken = -1
        self.results: deque[tuple[int, bool, int, int]] = deque()
        """Groups issued whose results are not written yet: the cycle in which each is at the head at best, whether it completes a
        word for the scratchpad, the column of the word for memory and the instruction that it completes (or else -1)."""
        self.releases: list[int] = []
        """Cycles in which credits come back, as far as known: a heap."""
        self.outstanding = 0
        self.last_fire = -1
        self.last_delayed = -1
        self.issues: list[_Issue] = []
        self.refused: list[tuple[int, int]] = []
        """From when to when (inclusive) a result at the head waited for the write port to take the word before it."""
        self.end_from: int | None = None

    # ---- events ----

    def wake(self, process: int, time: int) -> None:
        """Let a process go on in cycle ``time``, unless it does so earlier."""
        if time < self.now:
            time = self.now
        due = self._due[process]
        if due is None or time < due:
            self._due[process] = time
            heapq.heappush(self._heap, (time, process))

    def tell(self, *processes: int) -> None:
        """Let those of some processes that wait for news look again in this cycle."""
        due, now = self._due, self.now
        for process in processes:
            if due[process] is None and process != self._running:
                due[process] = now
                heapq.heappush(self._heap, (now, process))

    def quiet_until(self) -> int:
        """Return the cycle of the next event of any other process."""
        heap, due = self._heap, self._due
        while heap:
            time, process = heap[0]
            if due[process] == time:
                return time
            heapq.heappop(heap)
        return _NEVER

    def run(self) -> Estimate:
        """Replay the program."""
        processes = [self._fetch(), self._dispatch(), self._load(), self._execute(), self._store(), self._write()]
        self._due = [0] * len(processes)
        self._heap = [(0, n) for n in range(len(processes))]
        heap, due = self._heap, self._due
        while heap:
            time, process = heapq.heappop(heap)
            if due[process] != time:
                continue  # it was woken earlier
            self.now, self._running, due[process] = time, process, None
            if (resume := next(processes[process])) is not None:
                self.wake(process, resume)
        # the registers of dispatcher and engine add a cycle each
        cycles = self._done() + 2
        for times in (self.retired, self.started, self.ended):
            times[-1] = cycles
        lines = self.load_line, self.execute_line, self._store_line()
        for line in lines:
            line.until(cycles, _IDLE)
        load, execute, store = (line.timeline() for line in lines)
        return Estimate(
            cycles=cycles, retired=self.retired, started=self.started, ended=self.ended, timelines=(load, execute, store)
        )

    def _done(self) -> int:
        """Return the cycle in which all is done, once nothing is left to happen."""
        assert self.end_from is not None, "the cycle model has nothing to do before the program's end"
        assert all(len(unit.finished) == len(unit.entries) for unit in self.units)
        finished = [unit.finished[-1] for unit in self.units if unit.finished]
        return max(self.end_from, *finished, self.port.idle_from(), self.channel.idle_from())

    # ---- orders ----

    def satisfied_from(self, orders: tuple[int, int, int], *queues: int) -> int | None:
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

    def ordered_from(self, orders: tuple[int, int, int], queue: int) -> int:
        """Return the cycle from which an instruction's order on one queue holds, which is known."""
        return self.units[queue].finished[orders[queue] - 1] if orders[queue] > 0 else 0

    def finish(self, queue: int, position: int, pulse: int) -> None:
        """Note that a queue's next instruction (the program's ``position``-th) retires in cycle ``pulse``."""
        self.retired[position] = pulse
        self.units[queue].finished.append(pulse + 1)
        self.tell(_LOAD, _EXECUTE, _STORE)

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
                    yield None
                if self.dispatched[needed - 1] + 1 > self.now:
                    yield self.dispatched[needed - 1] + 1
            while (room := self.channel.room_from()) > self.now:
                yield room
            self.fetch_taken = self.now
            self.fetched += self.channel.fetch(self.now, _FETCH_BYTES // bus)
            bursts += 1
            self.tell(_DISPATCH)
            yield self.now + 1

    def _dispatch(self) -> _Process:
        counts = [0, 0, 0]
        order = {Opcode.LOAD: _LOAD, Opcode.EXECUTE: _EXECUTE, Opcode.STORE: _STORE}
        free = 0
        for position, instruction in enumerate(self.program.instructions):
            if self.advance is not None and position % TELL_EVERY == 0:
                self.advance(position)
            while len(self.fetched) <= position:
                yield None
            start = max(free, self.fetched[position])
            process = order.get(instruction.opcode)
            if process is not None:
                queue = process - _LOAD
                unit = self.units[queue]
                if len(unit.entries) >= QUEUE_DEPTH:
                    while len(unit.popped) <= len(unit.entries) - QUEUE_DEPTH:
                        yield None
                    start = max(start, unit.popped[len(unit.entries) - QUEUE_DEPTH] + 1)
                if start > self.now:
                    yield start
                values = instruction.values
                load, execute, store = values["after_load"], values["after_execute"], values["after_store"]
                orders = (
                    0 if load == UNORDERED else counts[0] - load,
                    0 if execute == UNORDERED else counts[1] - execute,
                    0 if store == UNORDERED else counts[2] - store,
                )
                unit.entries.append((position, values, orders))
                unit.seen.append(start + 2)
                counts[queue] += 1
                self.tell(process)
            elif start > self.now:
                yield start
            if instruction.opcode is Opcode.END:
                self.end_from = start + 1
            else:
                self.dispatched.append(start)
                self.tell(_FETCH)
            free = start + 1
        while True:
            yield None

    # ---- load ----

    def _load(self) -> _Process:
        unit = self.units[0]
        bus = self.config.bus_bytes
        free = 0
        for index in range(1 << 62):
            while len(unit.entries) <= index:
                yield None
            position, load, orders = unit.entries[index]
            while (since := self.satisfied_from(orders, 0, 1, 2)) is None:
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
            # unless the receiver still has something to do
            line = self.load_line
            line.until(unit.seen[index], _IDLE)
            line.until(self.ordered_from(orders, 1), _WAIT_EXECUTE)
            line.until(self.ordered_from(orders, 2), _WAIT_STORE)
            line.until(self.ordered_from(orders, 0), _WAIT_LOAD)
            line.until(begin, _WAIT_MEMORY)
            line.until(begin + 2, _WAIT_PIPELINE)
            if load["target"] == Target.FILL:
                unit.popped.append(begin)
                free = begin + 1
                last = self.channel.fill(begin, load["n_x"] * load["n_y"] * load["n_z"], load["share_log2"])
            else:
                self.channel.begin(begin, load)
                time = begin + 2
                for address in _rows(load):
                    beat = address // bus
                    left = (address % bus + (load["n_x"] << load["element_log2"]) - 1) // bus + 1
                    while left:
                        time = max(time, self.channel.room_from())
                        if time == self.fetch_taken:
                            time += 1
                        elif time > self.now and self.quiet_until() <= time:
                            yield time
                        else:
                            burst = min(left, BURST_BEATS - beat % BURST_BEATS)
                            if burst == BURST_BEATS and (sent := self.channel.load_full(time, left // burst, self.quiet_until())):
                                burst *= len(sent)
                                self.now = sent[-1]
                            else:
                                self.channel.load(time, burst)
                                self.now = time
                            beat += burst
                            left -= burst
                            time = self.now + 1
                    time += 1
                last = self.channel.end()
                unit.popped.append(self.now)
                free = self.now + 1
            self.tell(_DISPATCH)
            self.started[position] = self.channel.first
            self.ended[position] = last
            # two registers until the last write is in memory, one for the pulse
            self.finish(0, position, last + 3)

    # ---- execute ----

    def _execute(self) -> _Process:
        unit = self.units[1]
        rows, columns = self.config.rows, self.config.columns
        settle = rows + REVISIT
        loader_free = 0
        taken = 0  # cycle in which the last pass was swapped in
        pass_cycles = 0  # least distance from that to the next
        last_pixel = -(1 << 30)
        last_path: tuple[bool, int] | None = None
        last_sums = 0  # word of the last pixel
        ends: list[int] = []
        for index in range(1 << 62):
            while len(unit.entries) <= index:
                yield None
            position, execute, orders = unit.entries[index]
            while (since := self.satisfied_from(orders, 0)) is None:
                yield None
            begin = max(loader_free, unit.seen[index], since)
            if index >= _HANDED:
                begin = max(begin, ends[index - _HANDED] + 1)
            filling = max(begin, taken)

            window = execute["operation"] == Operation.WINDOW
            array = window or execute["operation"] == Operation.ARRAY
            path = (array, execute["row_offset"])
            pixels = execute["n_py"] * execute["n_px"] * execute["n_wy"] * execute["n_wx"]
            taps = execute["n_block"] * execute["n_ky"] * execute["n_kx"]
            passes = 1 if window else -(-taps // (rows // execute["tap_rows"]))

            if passes == 1:
                # the loader is done with it, whatever the streamer still waits for
                unit.popped.append(filling + rows - 1)
                self.tell(_DISPATCH)
            while (since := self.satisfied_from(orders, 1, 2)) is None:
                yield None
            first = max(filling + rows, taken + pass_cycles, since)
            if index:
                first = max(first, ends[index - 1] + 1)
                if path != last_path:
                    first = max(first, last_pixel + settle + 1)
                if execute["accumulate"] and 0 <= last_sums - execute["accumulators"] < REVISIT - 1:
                    first = max(first, last_pixel + REVISIT)
            period = max(pixels + (REVISIT - 1 if execute["reduce"] else 0), rows, REVISIT)
            last_pass = first + (passes - 1) * period
            # each pass is loaded while the one before streams
            last_filling = filling if passes == 1 else last_pass - period
            loader_free = last_filling + rows
            if passes > 1:
                unit.popped.append(last_filling + rows - 1)
                self.tell(_DISPATCH)
            taken = last_pass
            pass_cycles = max(pixels, REVISIT)
            last_pixel = last_pass + pixels - 1
            last_path = path
            last_sums = execute["accumulators"] + _last_word(execute)
            ends.append(last_pixel)
            self.started[position] = first
            self.ended[position] = last_pixel
            line = self.execute_line
            line.until(unit.seen[index], _IDLE)
            line.until(self.ordered_from(orders, 0), _WAIT_LOAD)
            line.until(begin + 2, _WAIT_WEIGHTS)
            line.until(self.ordered_from(orders, 2), _WAIT_STORE)
            line.until(self.ordered_from(orders, 1), _WAIT_EXECUTE)
            line.until(filling + rows, _WAIT_WEIGHTS)
            line.until(first, _WAIT_PIPELINE)
            if passes == 1 or pixels == period:
                line.until(last_pixel + 1, _BUSY)
            elif rows == period:
                line.weave(last_pixel + 1, (_BUSY, _WAIT_WEIGHTS, period, pixels, first % period))
            elif rows <= pixels:
                line.weave(last_pixel + 1, (_BUSY, _WAIT_PIPELINE, period, pixels, first % period))
            else:
                for start in range(first, last_pass + 1, period):
                    line.until(start + pixels, _BUSY)
                    if start < last_pass:
                        line.until(start + rows, _WAIT_WEIGHTS)
                        line.until(start + period, _WAIT_PIPELINE)
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
        # table, results
        latency = 1 + 2 + (2 if config.elementwise else 0) + 8 + (2 if config.tables else 0) + 1
        free = 0
        for index in range(1 << 62):
            while len(unit.entries) <= index:
                yield None
            position, store, orders = unit.entries[index]
            while (since := self.satisfied_from(orders, 0, 1, 2)) is None:
                yield None
            begin = max(free, unit.seen[index], since)
            if begin > self.now:
                yield begin
            issue = begin + 1
            to_scratchpad, to_memory = bool(store["to_scratchpad"]), bool(store["to_memory"])
            if to_memory:
                while (announced := self.port.announce(begin + 1, store)) is None:
                    yield None
                issue = announced + 1
            self.started[position] = issue
            held: list[tuple[int, int]] = []
            pool, groups, n_x = store["pool"], store["groups"], store["n_x"]
            words = n_x * store["n_y"]
            if words * pool * groups >= _WORTH_A_RUN:
                while self.results:
                    if (time := self._write_known()) is not None:
                        yield time
            elif self.results and not any(for_scratchpad for _, for_scratchpad, _, _ in self.results):
                self._write_known()  # when they go to memory is known at once
            done = 0
            first = issue + (pool - 1) * groups + latency
            if not self.results and self.last_delayed < issue and self.port.word_free <= first:
                done = yield from self._undisturbed(store, issue, latency)
                issue += done * pool * groups
                if done == words:
                    self.finish(2, position, self.last_fire + 1)
            if done < words and not to_scratchpad and not self.results:
                issue = self._to_memory(position, store, issue, latency, done, held)
                done = words
            results, releases = self.results, self.releases
            for word in range(done, words):
                for part in range(1 - pool * groups, 1):
                    if self.outstanding < _RESULTS:
                        self.outstanding += 1
                    else:
                        while not self._knows_credit():
                            # No more than what the last issue must wait for anyhow: what comes of that one (the queue has room) may
                            # reach the load unit, and so delay later results.
                            most = (words - word - 1) * groups + 1 - part - len(releases) if pool == 1 else 1
                            if (time := self._write_known(max(1, most))) is not None:
                                yield time
                        credited = heapq.heappop(releases) + 1
                        if credited > issue:
                            held.append((issue, credited))
                            issue = credited
                    if part <= -groups:
                        # swallowed by the pool: the credit comes back when it leaves the pipeline
                        heapq.heappush(releases, issue + latency - 1)
                    elif part:
                        results.append((issue + latency, False, -1, -1))
                    else:
                        last = position if word == words - 1 else -1
                        results.append((issue + latency, to_scratchpad, word % n_x if to_memory else -1, last))
                    issue += 1
            unit.popped.append(issue - 1)
            self.ended[position] = issue - 1
            self.issues.append(_Issue(position, unit.seen[index], orders, begin, held))
            free = issue
            self.tell(_DISPATCH, _WRITE)

    def _store_line(self) -> _Line:
        """Return the timeline of the output stage, once all is over."""
        line = _Line()
        refused = iter(self.refused)
        since, until = next(refused, (_NEVER, _NEVER))

        def hold(cycle: int) -> None:
            """Spend what is left before a cycle waiting for credits, for the cause of the cycle before."""
            nonlocal since, until
            while line.reached < cycle:
                while until + 1 < line.reached:
                    since, until = next(refused, (_NEVER, _NEVER))
                line.until(min(since + 1, cycle), _WAIT_PIPELINE)
                line.until(min(until + 2, cycle), _WAIT_MEMORY)

        written = 0  # the cycle from which all results of earlier instructions are written
        for issue in self.issues:
            hold(min(written, issue.seen))
            line.until(issue.seen, _IDLE)
            line.until(self.ordered_from(issue.orders, 1), _WAIT_EXECUTE)
            line.until(self.ordered_from(issue.orders, 0), _WAIT_LOAD)
            line.until(self.ordered_from(issue.orders, 2), _WAIT_STORE)
            hold(issue.begin + 1)
            line.until(int(self.started[issue.position]), _WAIT_MEMORY)
            for start, end in issue.held:
                line.until(start, _BUSY)
                hold(end)
            line.until(int(self.ended[issue.position]) + 1, _BUSY)
            written = int(self.retired[issue.position])
        hold(written)
        return line

    def _undisturbed(self, store: Fields, start: int, latency: int) -> Generator[int | None, None, int]:
        """Issue and write groups from cycle ``start`` on for as long as nothing delays a result; return the words done.

        The last words for the scratchpad are left to the exact path, so that the cycle of the last issue is known before it comes:
        when the others are written is known at once.
        """
        pool, groups, n_x = store["pool"], store["groups"], store["n_x"]
        period = pool * groups
        to_scratchpad, to_memory = store["to_scratchpad"], store["to_memory"]
        swallowed = period - groups
        limit = n_x * store["n_y"] - (-(-_RESULTS // period) if to_scratchpad else 0)
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
            while to_memory and done < reach:
                if self.port.word_free > start + done * period + swallowed + latency:
                    break
                fire = start + (done + 1) * period - 1 + latency
                self.port.word(fire, done % n_x)
                done += 1 + self.port.more_words(fire, period, reach - done - 1)
            if to_memory and done < reach:
                break
            done = reach
        count = done * period
        given = (start + group + latency - (group % period < swallowed) for group in range(max(0, count - _RESULTS), count))
        # no results wait, so when all credits come back is known; a sorted list is a heap
        self.releases[:] = sorted([*self.releases, *given])[-_RESULTS:]
        self.outstanding = len(self.releases)
        if count:
            self.last_fire = start + count - 1 + latency
        return done

    def _to_memory(self, position: int, store: Fields, issue: int, latency: int, done: int, held: list[tuple[int, int]]) -> int:
        """Issue and write the groups of a STORE to memory alone, after ``done`` words: nothing but the port delays a result, so the
        cycle of each is known when it is issued. Return the cycle after the last issue."""
        pool, groups, n_x = store["pool"], store["groups"], store["n_x"]
        words = n_x * store["n_y"]
        releases, refused, port = self.releases, self.refused, self.port
        fire = self.last_fire
        for word in range(done, words):
            word_free = port.word_free
            for part in range(pool * groups):
                if self.outstanding < _RESULTS:
                    self.outstanding += 1
                elif (credited := heapq.heappop(releases) + 1) > issue:
                    held.append((issue, credited))
                    issue = credited
                if part < (pool - 1) * groups:
                    # swallowed by the pool: the credit comes back when it leaves the pipeline
                    heapq.heappush(releases, issue + latency - 1)
                else:
                    earliest = issue + latency
                    fire = earliest if earliest > fire else fire + 1
                    if word_free > fire:
                        refused.append((fire, word_free - 1))
                        fire = word_free
                    heapq.heappush(releases, fire)
                    if fire > earliest:
                        self.last_delayed = fire
                issue += 1
            port.word(fire, word % n_x)
        self.last_fire = fire
        self.finish(2, position, fire + 1)
        return issue

    def _knows_credit(self) -> bool:
        """Return whether the first credit to come back is known: of a swallowed group, or of one that is still to be written."""
        if not self.releases:
            return False
        first = self.releases[0]
        # a result is written in a cycle after the one before, whatever else it waits for
        if first <= self.last_fire + 1 or not self.results:
            return True
        earliest, to_scratchpad, _, _ = self.results[0]
        if first <= earliest:
            return True
        fire = max(earliest, self.last_fire + 1, self.port.word_free)
        if to_scratchpad:
            fire = self.channel.free_from(fire - 1) + 1
        return first <= fire

    def _write_known(self, most: int = _NEVER) -> int | None:
        """Write results when the ports are free, at most so many; return the cycle in which to go on when the cycle of the next
        one is not known yet: what the load unit makes by the cycle before it must be.
        """
        if self._running != _WRITE:
            self._due[_WRITE] = None
        results, releases, port, channel = self.results, self.releases, self.port, self.channel
        quiet = self.quiet_until()
        last_fire = self.last_fire
        while results and most:
            most -= 1
            earliest, to_scratchpad, column, position = results[0]
            ready = earliest if earliest > last_fire else last_fire + 1
            word_free = port.word_free
            fire = ready
            if word_free > ready:
                fire = word_free
            if to_scratchpad:
                # the load unit's writes go first
                if channel.busy_until >= fire - 1:
                    fire = channel.free_from(fire - 1) + 1
                if quiet < fire - 1:
                    return fire - 1
            if word_free > ready:
                self.refused.append((ready, word_free - 1))
            results.popleft()
            heapq.heappush(releases, fire)
            self.last_fire = last_fire = fire
            if fire > earliest:
                self.last_delayed = fire
            if column >= 0:
                port.word(fire, column)
            if position >= 0:
                self.finish(2, position, fire + 1)
                quiet = self.quiet_until()
        return None

    def _write(self) -> _Process:
        """Write what the output stage has issued while it waits for something else."""
        while True:
            yield self._write_known()


def _last_word(execute: Fields) -> int:
    """Return how many words an EXECUTE's address has moved on by its last pixel."""
    pixels = execute["n_py"] * execute["n_px"]
    if execute["operation"] == Operation.WINDOW:
        rows, columns = ((execute[f"n_p{axis}"] - execute[f"n_k{axis}"], execute[f"stride_k{axis}"]) for axis in "yx")
        results = (rows[0] // rows[1] + 1) * (columns[0] // columns[1] + 1)
        # the last pixel itself has a result, or not
        return results - (rows[0] % rows[1] == 0 and columns[0] % columns[1] == 0)
    if not execute["reduce"]:
        pixels *= execute["n_wy"] * execute["n_wx"]
    return pixels - 1


class _Issue(NamedTuple):
    """What the timeline of the output stage needs of an instruction: among others, from when to when (exclusive) it had no
    credit."""

    position: int
    seen: int
    orders: tuple[int, int, int]
    begin: int
    held: list[tuple[int, int]]


class _ReadChannel:
    """The read port, memory's side of it, and the receiver of the load unit: beats come in the order of their bursts."""

    def __init__(self, config: EngineConfig, timing: MemoryTiming, line: _Line) -> None:
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
        self.first = self._active + _left_alone(self._active, share)
        self._ends.append(self._emit(self._active, count))
        self._line.weave(self._ends[-1] + 1, _SHARED[share])
        return self._ends[-1]

    def begin(self, begin: int, load: Fields) -> None:
        """Announce a LOAD; its bursts follow."""
        self._announce(begin)
        self._load = load
        self._share = load["share_log2"]
        self._row_addresses = _rows(load)
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
            self._line.until(held, _WAIT_MEMORY)
            if self.first < 0:
                self.first = held + (to_scratchpad and count > 0 and _left_alone(held, self._share))
            if to_scratchpad and count:
                self._released = self._emit(held, count)
                self._line.weave(self._released + 1, _SHARED[self._share])
            else:
                self._released = held + max(count - 1, 0)
                self._line.until(self._released + 1, _BUSY)
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
            self._line.until(done + interval + 1, _WAIT_MEMORY)
            self._ready = self._delivered = done + count * span
            self._released = self._delivered + 1
            kind = _PLAIN[_BUSY] if interval == 1 else (_BUSY, _WAIT_MEMORY, interval, 1, (done + 1) % interval)
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
            line.until(max(ready, self._delivered + 1) + 1, _WAIT_MEMORY)
            if self.interval == 1:
                line.until(line.reached + beats, _BUSY)
            else:
                late = min(beats, max(0, -(-(self._delivered + 1 - ready) // (self.interval - 1))))
                line.until(line.reached + late, _BUSY)
                if late < beats:
                    line.until(ready + late * self.interval + 1, _WAIT_MEMORY)
                    line.weave(last_ready + 2, (_BUSY, _WAIT_MEMORY, self.interval, 1, line.reached % self.interval))
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
            line.until(max(first, self._released) + 1, _WAIT_MEMORY)
            self._delivered = max(last, _slot_cycle(last_made - 1, share))
            self._released = self._emit(_slot_cycle(made, share), beats)
            line.weave(self._released + 1, _SHARED[share])
        else:
            return 0
        self._part = (self._part + beats) % parts
        return beats

    def _emit(self, start: int, count: int) -> int:
        """Make ``count`` elements for the scratchpad from cycle ``start`` on; return the cycle of the last."""
        share = self._share
        if share:
            start += _left_alone(start, share)
        last = start + count - 1 if not share else _slot_cycle(_slot(start, share) + count - 1, share)
        if self._busy_until and self._busy_share[-1] == share and self._busy_until[-1] + 1 >= start - _left_alone(start - 1, share):
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
            if _left_alone(cycle, share):
                break
            cycle = self._busy_until[place] + 1 if not share else min(self._busy_until[place] + 1, cycle | (1 << share) - 1)
            place += cycle > self._busy_until[place]
        return cycle

    def writes_between(self, first: int, last: int) -> bool:
        """Return whether an element for the scratchpad may be made from cycle ``first`` to ``last``."""
        place = bisect_left(self._busy_from, last + 1) - 1
        return place >= 0 and first <= self._busy_until[place]


def _left_alone(cycle: int, share: int) -> bool:
    """Return whether a cycle is the output stage's: one in ``2**share``, none if ``share`` is 0."""
    return share > 0 and (cycle + 1) % (1 << share) == 0


def _rows(load: Fields) -> Iterator[int]:
    """Return the addresses of a LOAD's rows."""
    for z in range(load["n_z"]):
        for y in range(load["n_y"]):
            yield load["memory_address"] + z * load["memory_stride_z"] + y * load["memory_stride_y"]


def _slot(cycle: int, share: int) -> int:
    """Return the number of the first cycle from ``cycle`` on in which an element may be made for the scratchpad."""
    if not share:
        return cycle
    rounds, rest = divmod(cycle, 1 << share)
    last = (1 << share) - 1
    return rounds * last + min(rest, last)


def _slot_cycle(number: int, share: int) -> int:
    """Return the cycle of a number."""
    if not share:
        return number
    rounds, rest = divmod(number, (1 << share) - 1)
    return (rounds << share) + rest


class _WritePort:
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
        if len(self._beats) == _BEATS:
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
