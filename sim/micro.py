"""The small engine (docs/micro.md) as native code, made by Verilator, with its clock and its host native beside it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from accel.isa import CSR, INSTRUCTION_BYTES, Error, Opcode, UnitState, register_value
from accel.program import UNITS, Bytes, MemoryTiming
from sim.cache import cached, digest_of
from sim.harness import Outcome, Progress, SimulationError, Stuck
from sim.verilator import find_compiler, missing_tool, verilator_root

__all__ = ["MicroEngineSession", "compile_micro"]

_HERE = Path(__file__).parent
_VERILATOR_FLAGS = (
    *("--cc", "-O3", "--prefix", "Vmicro", "--x-assign", "unique", "--x-initial", "unique", "--no-timing"),
    *("-Wno-fatal", "-Wno-lint", "-Wno-style"),  # the Verilog is Yosys's, whose style is not ours to judge
)
_COMPILER_FLAGS = ("-std=c++17", "-O2", "-fPIC", "-fvisibility=hidden", "-w", "-DVL_TIME_CONTEXT")
#: Cycles simulated natively before Python looks after Ctrl-C and progress.
_CHUNK = 65536
_WORD_BYTES = 8
_UNITS = [Opcode[name.upper()] for name in UNITS]


class _Report(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_uint32) for name in ("running", "done", "error", "index")),
        ("cycles", ctypes.c_uint64),
        ("busy", ctypes.c_uint64 * len(UNITS)),
    )


def compile_micro(verilog: str, *, top: str) -> Path:
    """Return the shared library of a small engine and its bench, from the cache or built now. ``top`` has the trace ports.

    Raises :class:`SimulationError` for a missing tool and for Verilog that does not build.
    """
    missing = missing_tool()
    compiler = find_compiler()
    if missing is not None or compiler is None:
        raise SimulationError(f"the Verilator backend cannot run: {missing}")
    root = verilator_root()
    include = root / "include"

    def run(command: Sequence[str], place: Path) -> None:
        environment = {**os.environ, "VERILATOR_ROOT": str(root)}
        result = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
        if result.returncode:
            output = [*(result.stdout + result.stderr).splitlines(), f"exit status {result.returncode}"]
            line = next((line for line in output if "error" in line.lower()), output[-1])
            raise SimulationError(f"the model of the engine could not be built: {Path(command[0]).name}: {line.strip()}")

    def make(place: Path) -> None:
        (place / "engine.v").write_text(verilog, encoding="utf-8")
        verilate = [str(root / "bin" / "verilator_bin"), *_VERILATOR_FLAGS, "--top-module", top, "-Mdir", "model", "engine.v"]
        run(verilate, place)
        sources = [*sorted((place / "model").glob("*.cpp")), _HERE / "micro.cpp"]
        sources += [include / name for name in ("verilated.cpp", "verilated_threads.cpp")]
        paths = [f"-I{include}", f"-I{include / 'vltstd'}", "-Imodel"]
        run([*compiler, *_COMPILER_FLAGS, *paths, "-shared", "-o", "engine.so", *map(str, sources), "-pthread"], place)

    parts: list[str | bytes] = [verilog, top, str(root), (_HERE / "micro.cpp").read_bytes()]
    parts += [*compiler, *_VERILATOR_FLAGS, *_COMPILER_FLAGS]
    return cached("micro", digest_of(parts), make) / "engine.so"


class MicroEngineSession:
    """A small engine with its memory. Its :meth:`run` is that of :class:`sim.harness.Session`.

    Parameters
    ----------
    library
        What :func:`compile_micro` returned.
    """

    def __init__(self, library: Path) -> None:
        self._native = _load(library)
        self._bench = self._native.micro_new()

    def __enter__(self) -> MicroEngineSession:
        return self

    def __exit__(self, *_: object) -> None:
        self._native.micro_delete(self._bench)

    def run(self, memory: Bytes, *, timing: MemoryTiming, limit: int, patience: int, progress: Progress | None) -> Outcome:
        """Run the program in ``memory``, changing it in place; there is no other memory whose ``timing`` could matter.

        Raises :class:`~sim.harness.Stuck` after ``limit`` cycles.
        """
        whole = np.zeros(-(-memory.size // _WORD_BYTES) * _WORD_BYTES, np.uint8)
        whole[: memory.size] = memory
        opcodes = _opcodes(whole)
        ends = np.zeros((len(opcodes), 1 + len(UNITS)), np.uint64)
        self._native.micro_write(self._bench, whole.ctypes.data, whole.size)
        self._native.micro_start(self._bench)
        running = True
        while running:
            report = self._native.micro_run(self._bench, _CHUNK, ends.ctypes.data, len(ends)).contents
            running = bool(report.running)
            if progress is not None:
                progress(report.cycles)
            if running and report.cycles >= limit:
                done = tuple(opcodes[: report.index].count(unit) for unit in _UNITS)
                raise Stuck(cycle=report.cycles, idle=False, states=(int(UnitState.IDLE),) * len(UNITS), retired=done)
        self._native.micro_read(self._bench, whole.ctypes.data, whole.size)
        memory[:] = whole[: memory.size]
        seen = {unit: [n for n, opcode in enumerate(opcodes[: report.index]) if opcode is unit] for unit in _UNITS}
        failed = report.error != Error.NONE
        status = register_value(CSR.STATUS, busy=0, done=report.done, error=int(failed), code=report.error)
        return Outcome(
            readings=(status, report.cycles, report.index * INSTRUCTION_BYTES),
            finished=report.cycles,
            states=_states(np.array([[report.cycles, *report.busy]]))[0],
            retired=[ends[seen[unit], 0].astype(np.int64) - 1 for unit in _UNITS],
            spent=[_states(ends[seen[unit]]) for unit in _UNITS],
        )


def _opcodes(memory: Bytes) -> list[Opcode]:
    """Return what the instructions of a program are, up to its END or the first that is none."""
    found: list[Opcode] = []
    with contextlib.suppress(ValueError):
        for first in memory[::INSTRUCTION_BYTES].tolist():
            found.append(Opcode(first & 0xF))
            if found[-1] is Opcode.END:
                break
    return found


def _states(counts: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the cycles of each unit in each state, ``(n, 3, states)``, from rows of all cycles and the busy ones of each unit."""
    counts = counts.astype(np.int64)
    states = np.zeros((len(counts), len(UNITS), len(UnitState)), np.int64)
    states[:, :, UnitState.BUSY] = counts[:, 1:]
    states[:, :, UnitState.IDLE] = counts[:, :1] - counts[:, 1:]
    return states


def _load(library: Path) -> Any:
    native = ctypes.CDLL(str(library))
    pointer, number = ctypes.c_void_p, ctypes.c_uint64
    native.micro_new.argtypes, native.micro_new.restype = [], pointer
    for function in (native.micro_delete, native.micro_start):
        function.argtypes, function.restype = [pointer], None
    for function in (native.micro_write, native.micro_read):
        function.argtypes, function.restype = [pointer, pointer, number], None
    native.micro_run.argtypes, native.micro_run.restype = [pointer, number, pointer, number], ctypes.POINTER(_Report)
    return native
