"""The replay: the units and their queues, moved from event to event."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Generator, Iterable
from typing import NamedTuple

import numpy as np

from accel.config import QUEUE_DEPTH, EngineConfig
from accel.isa import INSTRUCTION_BYTES, UNORDERED, Opcode, Operation, Target, UnitState
from accel.perf.ports import BURST_BEATS, Fields, ReadChannel, WritePort, rows_of
from accel.perf.timeline import BUSY, IDLE, WAIT_MEMORY, WAIT_PIPELINE, Estimate, Line
from accel.program import TELL_EVERY, MemoryTiming, Program

__all__ = ["REVISIT", "Replay"]

# Facts of the hardware, each beside the name it has there.
_FETCH_BYTES = 128  # dispatch.FETCH_BYTES
_PREFETCH = 16  # dispatch.PREFETCH
_IN_FLIGHT = 4  # load.IN_FLIGHT
_HANDED = 2  # execute.HANDED
REVISIT = 4  # accumulators.REVISIT
_RESULTS = 32  # store.RESULTS

#: Turns of the processes in one cycle: fetch goes before load on the read port.
_FETCH, _DISPATCH, _LOAD, _EXECUTE, _STORE, _WRITE = range(6)

#: Groups of a STORE that are worth looking for a stretch without disturbance. They take more credits than there are, so all results
#: before it are written before its last issue.
_WORTH_A_RUN = 2 * _RESULTS

_NEVER = 1 << 62

_Process = Generator["int | None", None, None]
"""Yields the cycle in which it goes on, or None to wait for news."""

_WAIT_LOAD, _WAIT_EXECUTE, _WAIT_STORE = int(UnitState.WAIT_LOAD), int(UnitState.WAIT_EXECUTE), int(UnitState.WAIT_STORE)
_WAIT_WEIGHTS = int(UnitState.WAIT_WEIGHTS)


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


class Replay:
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
        self.load_line = Line()
        self.execute_line = Line()
        self.channel = ReadChannel(self.config, timing, self.load_line)
        self.port = WritePort(self.config, timing)
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
            line.until(cycles, IDLE)
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
            line.until(unit.seen[index], IDLE)
            line.until(self.ordered_from(orders, 1), _WAIT_EXECUTE)
            line.until(self.ordered_from(orders, 2), _WAIT_STORE)
            line.until(self.ordered_from(orders, 0), _WAIT_LOAD)
            line.until(begin, WAIT_MEMORY)
            line.until(begin + 2, WAIT_PIPELINE)
            if load["target"] == Target.FILL:
                unit.popped.append(begin)
                free = begin + 1
                last = self.channel.fill(begin, load["n_x"] * load["n_y"] * load["n_z"], load["share_log2"])
            else:
                self.channel.begin(begin, load)
                time = begin + 2
                for address in rows_of(load):
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
            line.until(unit.seen[index], IDLE)
            line.until(self.ordered_from(orders, 0), _WAIT_LOAD)
            line.until(begin + 2, _WAIT_WEIGHTS)
            line.until(self.ordered_from(orders, 2), _WAIT_STORE)
            line.until(self.ordered_from(orders, 1), _WAIT_EXECUTE)
            line.until(filling + rows, _WAIT_WEIGHTS)
            line.until(first, WAIT_PIPELINE)
            if passes == 1 or pixels == period:
                line.until(last_pixel + 1, BUSY)
            elif rows == period:
                line.weave(last_pixel + 1, (BUSY, _WAIT_WEIGHTS, period, pixels, first % period))
            elif rows <= pixels:
                line.weave(last_pixel + 1, (BUSY, WAIT_PIPELINE, period, pixels, first % period))
            else:
                for start in range(first, last_pass + 1, period):
                    line.until(start + pixels, BUSY)
                    if start < last_pass:
                        line.until(start + rows, _WAIT_WEIGHTS)
                        line.until(start + period, WAIT_PIPELINE)
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
        latency = 1 + 3 + (3 if config.elementwise else 0) + 9 + (3 if config.tables else 0) + 1
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
            results, releases, outstanding = self.results, self.releases, self.outstanding
            for word in range(done, words):
                for part in range(1 - pool * groups, 1):
                    if outstanding < _RESULTS:
                        outstanding += 1
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
            self.outstanding = outstanding
            unit.popped.append(issue - 1)
            self.ended[position] = issue - 1
            self.issues.append(_Issue(position, unit.seen[index], orders, begin, held))
            free = issue
            self.tell(_DISPATCH, _WRITE)

    def _store_line(self) -> Line:
        """Return the timeline of the output stage, once all is over."""
        line = Line()
        refused = iter(self.refused)
        since, until = next(refused, (_NEVER, _NEVER))

        def hold(cycle: int) -> None:
            """Spend what is left before a cycle waiting for credits, for the cause of the cycle before."""
            nonlocal since, until
            while line.reached < cycle:
                while until + 1 < line.reached:
                    since, until = next(refused, (_NEVER, _NEVER))
                line.until(min(since + 1, cycle), WAIT_PIPELINE)
                line.until(min(until + 2, cycle), WAIT_MEMORY)

        written = 0  # the cycle from which all results of earlier instructions are written
        for issue in self.issues:
            hold(min(written, issue.seen))
            line.until(issue.seen, IDLE)
            line.until(self.ordered_from(issue.orders, 1), _WAIT_EXECUTE)
            line.until(self.ordered_from(issue.orders, 0), _WAIT_LOAD)
            line.until(self.ordered_from(issue.orders, 2), _WAIT_STORE)
            hold(issue.begin + 1)
            line.until(int(self.started[issue.position]), WAIT_MEMORY)
            for start, end in issue.held:
                line.until(start, BUSY)
                hold(end)
            line.until(int(self.ended[issue.position]) + 1, BUSY)
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
        given: Iterable[int] = range(start + max(0, count - _RESULTS) + latency, start + count + latency)
        if swallowed:
            given = (cycle - ((cycle - latency - start) % period < swallowed) for cycle in given)
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
        releases, refused, port, outstanding = self.releases, self.refused, self.port, self.outstanding
        fire = self.last_fire
        for word in range(done, words):
            word_free = port.word_free
            for part in range(pool * groups):
                if outstanding < _RESULTS:
                    outstanding += 1
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
        self.last_fire, self.outstanding = fire, outstanding
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
