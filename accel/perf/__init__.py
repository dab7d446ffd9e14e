"""The cycle model: how long a :class:`~accel.program.Program` takes on the engine, to the cycle, without its data.

It replays the program's instructions through the same queues, sequencers and ports that ``rtl/`` describes, but moves from event to
event: the pixels of a pass, the beats of a burst and the words of a row follow each other at a known rate, so only their first and
last need a time. Everything that one part of the engine can know of another is at least a cycle old, except for the few cases
marked *same cycle*.

The parts, each a class or a method here and one or two files there:

=====================  =======================================  =============================================
``ports.ReadChannel``  ``rtl/read_port.py``, receiver of load   beats in order, elements written on chip
``ports.WritePort``    ``rtl/write_port.py``                    words packed into beats and bursts
``Replay._fetch``      ``rtl/dispatch.py``                      prefetch buffer
``Replay._dispatch``   ``rtl/dispatch.py``                      queues
``Replay._load``       ``rtl/load.py``, requester               addresses sent
``Replay._execute``    ``rtl/execute.py``                       passes
``Replay._store``      ``rtl/store.py``                         groups issued
``Replay._write``      ``rtl/store.py``                         results written
=====================  =======================================  =============================================

Times are cycles from the first in which the engine is busy. "Seen from" a cycle means that a register holds the news in that cycle.

What a unit does in each cycle (its ``o_state``) follows from the same times: see :class:`Timeline`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from accel import micro
from accel.isa import Opcode
from accel.perf.ports import BURST_BEATS
from accel.perf.replay import REVISIT, Replay
from accel.perf.timeline import BUSY, IDLE, Estimate, Timeline
from accel.program import MemoryTiming, Program

__all__ = ["BURST_BEATS", "REVISIT", "Estimate", "Timeline", "estimate"]


def estimate(program: Program, timing: MemoryTiming | None = None, *, advance: Callable[[int], None] | None = None) -> Estimate:
    """Return the cycles of one run, equal to the engine's own counter for every program and memory timing without random stalls.

    ``advance`` is told now and then how many instructions have been replayed.
    """
    if program.config.micro:
        return _in_order(program)
    return Replay(program, timing or MemoryTiming(), advance).run()


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
        states = np.array([IDLE, *([BUSY, IDLE] * len(mine))], np.int64)
        once = np.ones(len(states), np.int64)
        timelines.append(
            Timeline(begins=bounds[:-1], ends=bounds[1:], states=states, others=states, periods=once, widths=once, origins=0 * once)
        )
    load, execute, store = timelines
    return Estimate(cycles=cycles, retired=ended, started=started, ended=ended, timelines=(load, execute, store))
