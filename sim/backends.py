"""The backends by name: everything that can run a :class:`~accel.program.Program`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Protocol

import numpy.typing as npt

from accel.emulator import Emulator
from accel.program import MemoryTiming, Program, RunResult
from sim.harness import Progress, SimulationError

__all__ = ["BACKENDS", "EmulatorBackend", "NamedBackend", "get_backend"]

#: What :func:`get_backend` takes, besides ``auto``.
BACKENDS = ("verilator", "pysim", "emulator")


class NamedBackend(Protocol):
    """A backend that can say why it was taken."""

    name: str
    cycle_accurate: bool
    reason: str

    def run(
        self,
        program: Program,
        images: Sequence[npt.ArrayLike],
        *,
        timing: MemoryTiming | None = None,
        vcd: str | os.PathLike[str] | None = None,
        progress: Progress | None = None,
    ) -> RunResult:
        """Run one image after the other and return the outputs."""
        ...


class EmulatorBackend:
    """The emulator behind the arguments of the others: it has neither time nor signals, so ``timing`` changes nothing."""

    name = "emulator"
    cycle_accurate = False

    def __init__(self, *, reason: str = "asked for") -> None:
        self.reason = reason
        self._emulator = Emulator()

    def run(
        self,
        program: Program,
        images: Sequence[npt.ArrayLike],
        *,
        timing: MemoryTiming | None = None,
        vcd: str | os.PathLike[str] | None = None,
        progress: Progress | None = None,
    ) -> RunResult:
        """Run one image after the other. Raises :class:`SimulationError` when waveforms are asked for."""
        if vcd is not None:
            raise SimulationError("the emulator has no signals, so no waveforms; take the backend verilator or pysim")
        return self._emulator.run(program, images)


def get_backend(name: str) -> NamedBackend:
    """Return the backend called ``name``; ``auto`` is the fastest that simulates the hardware and has its tools here.

    Its ``reason`` says why it was taken. Raises :class:`SimulationError` for an unknown name.
    """
    # What a backend needs is imported when it is asked for: the emulator must run where neither Amaranth nor Verilator does.
    if name == "emulator":
        return EmulatorBackend()
    if name == "pysim":
        return _pysim("asked for")
    if name not in ("verilator", "auto"):
        raise SimulationError(f"a backend must be one of auto, {', '.join(BACKENDS)}, not {name!r}")
    try:
        from sim.verilator import VerilatorBackend, missing_tool
    except ImportError:
        missing: str | None = "Verilator is not made for this system"
    else:
        missing = missing_tool()
        if missing is None:
            return VerilatorBackend(reason="asked for" if name == "verilator" else "the fastest here")
    if name == "verilator":
        raise SimulationError(f"the Verilator backend cannot run: {missing}")
    return _pysim(f"the slow one: {missing}")


def _pysim(reason: str) -> NamedBackend:
    from sim.pysim import PysimBackend

    return PysimBackend(reason=reason)
