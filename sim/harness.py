"""What every simulation of the engine shares: the order of events of a run, and what is made of its outcome.

A run is a row of steps on the control port (:func:`steps_of_a_run`) while the memory model answers the engine. In each cycle the
bench drives the memory's and the control port's signals, lets the engine settle, looks at what it drives, and gives it a rising
edge. Cycles are counted from the first of the run. The engine is busy for the ``CYCLES`` cycles that end just before ``interrupt``
rises: so the first busy cycle, to which everything reported is relative, is known without looking inside.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from accel.errors import SystolithError
from accel.isa import CSR, INSTRUCTION_BYTES, Error, IsaError, Opcode, UnitState, register_fields
from accel.listing import disassemble
from accel.program import UNITS, Bytes, MemoryTiming, Program, RunResult, UnitCounters

__all__ = [
    "BASE_ADDRESS",
    "CONTROL_INPUTS",
    "CONTROL_OUTPUTS",
    "MEMORY_INPUTS",
    "MEMORY_OUTPUTS",
    "Outcome",
    "Progress",
    "Session",
    "SimulationError",
    "Step",
    "StepKind",
    "Stuck",
    "cycle_limit",
    "pack_images",
    "patience",
    "run_images",
    "steps_of_a_run",
    "waveform_file",
]

#: Where memory lies on the bus. Not zero, so that an engine which forgets its BASE register is found out.
BASE_ADDRESS = 0x8000_0000

#: Seed of the bytes in memory that nothing has written.
_GARBAGE_SEED = 0x5EED

#: Ports that the bench drives and reads, in the order of the memory model's and the control port's fields.
MEMORY_INPUTS = ("awready", "wready", "bresp", "bvalid", "arready", "rdata", "rresp", "rlast", "rvalid")
MEMORY_OUTPUTS = (
    *("awaddr", "awlen", "awsize", "awburst", "awvalid", "wdata", "wstrb", "wlast", "wvalid", "bready"),
    *("araddr", "arlen", "arsize", "arburst", "arvalid", "rready"),
)
CONTROL_INPUTS = ("awaddr", "awvalid", "wdata", "wstrb", "wvalid", "bready", "araddr", "arvalid", "rready")
CONTROL_OUTPUTS = ("awready", "wready", "bresp", "bvalid", "arready", "rdata", "rresp", "rvalid")

Progress = Callable[[int], object]


class SimulationError(SystolithError):
    """A simulation that did not come to a good end, or could not begin."""


class StepKind(enum.IntEnum):
    """What a step on the control port does. The values are those of ``bench.cpp``."""

    WRITE = 0
    READ = 1
    WAIT = 2
    """Until ``interrupt`` is high."""


class Step(NamedTuple):
    """One step: write ``data`` to a register, read a register, or wait."""

    kind: StepKind
    address: int = 0
    data: int = 0


#: Registers read when a run has ended, in this order.
_READ_BACK = (CSR.STATUS, CSR.CYCLES, CSR.ERROR_ADDRESS)


def steps_of_a_run() -> tuple[Step, ...]:
    """Return what a host does: set up, start, wait, and read back the registers of an :class:`Outcome`."""
    return (
        Step(StepKind.WRITE, CSR.BASE, BASE_ADDRESS),
        Step(StepKind.WRITE, CSR.INTERRUPT_ENABLE, 1),
        Step(StepKind.WRITE, CSR.CONTROL, 1),
        Step(StepKind.WAIT),
        *(Step(StepKind.READ, register) for register in _READ_BACK),
    )


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a bench saw of one run that came to an end.

    ``readings`` are the registers read back. ``finished`` is the cycle in which ``interrupt`` rose. ``states`` int64 ``(3, 8)``
    counts the cycles before it by unit and state; ``retired`` has each unit's retirements' cycles, in order, and ``spent`` int64
    ``(retirements, 3, 8)`` what ``states`` was by then, that cycle included.
    """

    readings: Sequence[int]
    finished: int
    states: npt.NDArray[np.int64]
    retired: Sequence[npt.NDArray[np.int64]]
    spent: Sequence[npt.NDArray[np.int64]]

    def register(self, register: CSR) -> int:
        """Return what a register read at the end."""
        return self.readings[_READ_BACK.index(register)]


@dataclass(eq=False, kw_only=True)
class Stuck(Exception):
    """Raised by a session whose run does not end: the units' last states and retirements, and whether nothing moved at all."""

    cycle: int
    idle: bool
    states: tuple[int, ...]
    retired: tuple[int, ...]


class Session(Protocol):
    """An engine under simulation."""

    def run(self, memory: Bytes, *, timing: MemoryTiming, limit: int, patience: int, progress: Progress | None) -> Outcome:
        """Run the program in ``memory`` to its end.

        Raises :class:`Stuck` after ``limit`` cycles, or after ``patience`` cycles in which nothing happened.
        """
        ...


def cycle_limit(program: Program, timing: MemoryTiming) -> int:
    """Return a number of cycles that no working engine needs: every innermost step as slow as a memory access of its own."""
    steps = 0
    for instruction in program.instructions:
        counts = {
            Opcode.LOAD: ("n_x", "n_y", "n_z"),
            Opcode.EXECUTE: ("n_block", "n_ky", "n_kx", "n_py", "n_px", "n_wy", "n_wx"),
            Opcode.STORE: ("n_y", "n_x", "pool", "groups"),
        }.get(instruction.opcode, ())
        steps += 100 + math.prod(max(1, instruction[name]) for name in counts)
    return (1000 + steps) * 16 * (timing.latency + 32 * timing.interval)


def patience(timing: MemoryTiming) -> int:
    """Return the cycles after which an engine in which no unit is busy and nothing is transferred is held to be stuck."""
    return 2000 + 100 * (timing.latency + timing.interval)


def pack_images(program: Program, images: Sequence[npt.ArrayLike]) -> list[Bytes]:
    """Return the images as they lie in memory. To be called before anything costly, for it refuses those that do not fit."""
    return [program.input.pack(image) for image in images]


def run_images(
    session: Session, program: Program, images: Sequence[Bytes], *, timing: MemoryTiming, progress: Progress | None = None
) -> RunResult:
    """Run a program on one batch of images after the other, the engine started anew for each, memory fresh.

    ``images`` come from :func:`pack_images`. ``progress`` is called with the cycles simulated so far.
    Raises :class:`SimulationError` when the engine stops or does not end.
    """
    garbage = np.random.default_rng(_GARBAGE_SEED).integers(0, 256, program.memory_bytes, np.uint8)
    garbage[: program.image.nbytes] = program.image
    binding = program.input
    meant = binding.pack(np.ones(binding.shape, np.int8)) != 0
    limit = cycle_limit(program, timing)
    outputs = np.empty((len(images), *program.output.shape), np.int8)
    cycles: list[int] = []
    retired: list[npt.NDArray[np.int64]] = []
    spent_states: list[npt.NDArray[np.int64]] = []
    counters: list[dict[str, UnitCounters]] = []
    before = done = 0
    started = time.perf_counter()
    for new, batch in program.batches(images):
        # The memory model wants whole beats.
        memory = np.zeros(-(-program.memory_bytes // program.config.bus_bytes) * program.config.bus_bytes, np.uint8)
        memory[: program.memory_bytes] = garbage
        for number, image in enumerate(batch):
            memory[binding.place(number)][meant] = image[meant]
        report = None if progress is None else functools.partial(_report_from, progress, before)
        try:
            outcome = session.run(
                memory,
                timing=timing,
                limit=limit,
                patience=patience(timing),
                progress=report,
            )
        except Stuck as stuck:
            raise SimulationError(_describe_stuck(program, stuck)) from None
        _check_status(program, outcome)
        spent = outcome.register(CSR.CYCLES)
        before += outcome.finished
        cycles.append(spent)
        retired.append(_retirements(program, outcome, spent))
        counters.append(_counters(program, outcome, spent))
        spent_states.append(_spent(program, outcome, spent))
        for number in range(new):
            outputs[done + number] = program.result(memory, number)
        done += new
    return RunResult(
        outputs=outputs,
        seconds=time.perf_counter() - started,
        cycles=tuple(cycles),
        retired=tuple(retired),
        spent=tuple(spent_states),
        counters=tuple(counters),
    )


def _report_from(progress: Progress, before: int, now: int) -> None:
    """Report the cycles of all images so far."""
    progress(before + now)


def _describe(program: Program, index: int) -> str:
    """Return an instruction as a sentence names it: its number and its line of the listing."""
    try:
        lines = [line for line in disassemble(program).splitlines() if not line.startswith(";")]
    except IsaError:  # what stopped the engine may be no instruction
        lines = []
    return f"instruction {' '.join(lines[index].split())}" if index < len(lines) else f"instruction {index}"


def _check_status(program: Program, outcome: Outcome) -> None:
    status = outcome.register(CSR.STATUS)
    busy, done, failed, code = register_fields(CSR.STATUS, status).values()
    if failed:
        known = {error.value: error.name for error in Error}
        where = _describe(program, outcome.register(CSR.ERROR_ADDRESS) // INSTRUCTION_BYTES)
        raise SimulationError(f"{program.network}: the engine stopped with error {known.get(code, code)} at {where}")
    if busy or not done or code:
        raise SimulationError(
            f"{program.network}: the engine raised its interrupt with status {status:#x}, which is neither done nor an error; "
            "this is a fault of the hardware description"
        )


def _describe_stuck(program: Program, stuck: Stuck) -> str:
    units = []
    for name, state, count in zip(UNITS, stuck.states, stuck.retired, strict=True):
        mine = _instructions_of(program, name)
        where = f"at {_describe(program, int(mine[count]))}" if count < len(mine) else f"after all its {len(mine)} instructions"
        units.append(f"{name} is {UnitState(state).name} {where}")
    what = "nothing has moved in the engine for too long" if stuck.idle else "the engine has not ended where any program would have"
    return f"{program.network}: {what}, so the run was stopped in cycle {stuck.cycle}: {'; '.join(units)}"


def _instructions_of(program: Program, unit: str) -> npt.NDArray[np.int64]:
    """Return the indices of a unit's instructions."""
    opcode = Opcode[unit.upper()]
    return np.array([i for i, instruction in enumerate(program.instructions) if instruction.opcode is opcode], np.int64)


def _retirements(program: Program, outcome: Outcome, spent: int) -> npt.NDArray[np.int64]:
    result = np.zeros(len(program.instructions), np.int64)
    result[-1] = spent
    first = outcome.finished - spent
    for unit, seen in zip(UNITS, outcome.retired, strict=True):
        mine = _instructions_of(program, unit)
        if len(mine) != len(seen):
            raise SimulationError(
                f"{program.network}: the {unit} unit finished {len(seen)} instructions where the program has {len(mine)}; "
                "this is a fault of the hardware description"
            )
        result[mine] = seen - first
    return result


def _spent(program: Program, outcome: Outcome, cycles: int) -> npt.NDArray[np.int64]:
    """Return, for each instruction, what the units had spent since the start when it retired (BEGIN: nothing, END: in all)."""
    result = np.zeros((len(program.instructions), len(UNITS), len(UnitState)), np.int64)
    for unit, seen in zip(UNITS, outcome.spent, strict=True):
        result[_instructions_of(program, unit)] = seen
    result[-1] = outcome.states
    result[1:, :, UnitState.IDLE] -= outcome.finished - cycles
    return result


def _counters(program: Program, outcome: Outcome, spent: int) -> dict[str, UnitCounters]:
    result = {}
    for unit, seen in zip(UNITS, outcome.states, strict=True):
        states = seen.copy()
        # Before the start everything is idle, and not the program's business.
        states[UnitState.IDLE] -= outcome.finished - spent
        if states[UnitState.IDLE] < 0 or outcome.finished < spent:
            raise SimulationError(
                f"{program.network}: the engine counts {spent} cycles, but its {unit} unit was not idle before the first of them; "
                "this is a fault of the hardware description"
            )
        result[unit] = UnitCounters(states=tuple(int(n) for n in states))
    return result


@contextlib.contextmanager
def waveform_file(path: str | os.PathLike[str] | None) -> Iterator[Path | None]:
    """Give a temporary file beside ``path``, and put it in its place when the simulation came to an end, be it a bad one.

    A run that is interrupted leaves nothing. Raises :class:`SimulationError` when the file cannot be written there.
    """
    if path is None:
        yield None
        return
    path = Path(path)
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    except OSError as error:
        raise SimulationError(f"{path}: the waveforms cannot be written there: {error.strerror}") from None
    os.close(handle)
    temporary = Path(name)
    # mkstemp makes files for their owner alone; these are for whoever may read what else is written
    mask = os.umask(0)
    os.umask(mask)
    temporary.chmod(0o666 & ~mask)
    try:
        try:
            yield temporary
        except SystolithError:
            temporary.replace(path)  # waveforms are wanted most when something went wrong
            raise
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
