"""The backend that is always there: Amaranth's own simulator. Slow, and the only one that simulates the description itself."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import numpy.typing as npt
from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.sim import Simulator

from accel.config import EngineConfig, Multiply
from accel.isa import UnitState
from accel.program import UNITS, Bytes, MemoryTiming, Program, RunResult
from sim.harness import (
    BASE_ADDRESS,
    CONTROL_INPUTS,
    CONTROL_OUTPUTS,
    MEMORY_INPUTS,
    MEMORY_OUTPUTS,
    Outcome,
    Progress,
    SimulationError,
    Step,
    StepKind,
    Stuck,
    pack_images,
    run_images,
    steps_of_a_run,
    waveform_file,
)
from sim.memory import Channel, Fault, MasterSignals, Memory, ProtocolError

__all__ = ["PysimBackend", "SimulatedEngine"]

#: Cycles between two calls of ``progress``.
_CHUNK = 256


def engine_component(config: EngineConfig) -> Any:
    """Return the engine's description. Refuses one with cells of a vendor, of which Amaranth's simulator has no models."""
    from rtl.engine import Engine

    if config.multiply == Multiply.ECP5:
        raise SimulationError(
            f"{config.name}: Amaranth's simulator knows no MULT18X18D; take the backend verilator, or multiply = 'portable', "
            "which runs the same programs"
        )
    return Engine(config, trace=True)


class _ControlPort:
    """The host's side of the control port, a step after the other."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self._steps = iter(steps)
        self.readings: list[int] = []
        self.step: Step | None = None
        self._address_open = self._data_open = False
        self._next()

    def _next(self) -> None:
        self.step = next(self._steps, None)
        self._address_open = self.step is not None and self.step.kind != StepKind.WAIT
        self._data_open = self.step is not None and self.step.kind == StepKind.WRITE

    def drive(self) -> tuple[int, ...]:
        """Return the values of :data:`CONTROL_INPUTS` in this cycle."""
        assert self.step is not None
        kind, address, data = self.step
        write = kind == StepKind.WRITE
        return address, write and self._address_open, data, 15, self._data_open, 1, address, not write and self._address_open, 1

    def advance(self, cycle: int, outputs: Sequence[int], interrupt: int) -> bool:
        """End a cycle with the values of :data:`CONTROL_OUTPUTS`; return whether anything was transferred."""
        assert self.step is not None
        awready, wready, bresp, bvalid, arready, rdata, rresp, rvalid = outputs
        moved = over = False
        response = 0
        match self.step.kind:
            case StepKind.WRITE:
                moved = bool((self._address_open and awready) or (self._data_open and wready))
                self._address_open = self._address_open and not awready
                self._data_open = self._data_open and not wready
                over, response = bool(bvalid), bresp
            case StepKind.READ:
                moved = bool(self._address_open and arready)
                self._address_open = self._address_open and not arready
                over, response = bool(rvalid), rresp
                if over:
                    self.readings.append(rdata)
            case StepKind.WAIT:
                over = bool(interrupt)
        if over and response:
            raise ProtocolError(Channel.CONTROL, Fault.REFUSED, cycle)
        if over:
            self._next()
        return moved or over


_UNIT_AXIS = np.arange(3)


class _Run:
    """One run in progress: the models around the engine, and what was seen so far."""

    def __init__(self, memory: Memory, patience: int) -> None:
        self.memory = memory
        self.control = _ControlPort(steps_of_a_run())
        self.patience = patience
        self.moved = 0
        self.finished: int | None = None
        self.states: tuple[int, ...] = (0, 0, 0)
        self.retired: tuple[list[int], ...] = ([], [], [])
        self.now_spent = np.zeros((3, 8), np.int64)
        self.spent: tuple[list[npt.NDArray[np.int64]], ...] = ([], [], [])
        self.over = False

    def drive(self) -> list[int]:
        """Begin a cycle; return the values of all inputs."""
        self.memory.drive()
        memory = self.memory
        return [
            *(memory.awready, memory.wready, memory.bresp, memory.bvalid),
            *(memory.arready, memory.rdata, memory.rresp, memory.rlast, memory.rvalid),
            *self.control.drive(),
        ]

    def step(self, values: Sequence[int]) -> None:
        """End a cycle with the values of all outputs."""
        now = self.memory.cycle
        engine = MasterSignals(*values[:16])
        outputs = values[16:24]
        interrupt = values[24]
        states = self.states = tuple(values[25:28])
        assert self.control.step is not None
        if self.control.step.kind == StepKind.WAIT and interrupt:
            self.finished = now
            self.memory.check_idle()
        if self.finished is None:
            self.now_spent[_UNIT_AXIS, states] += 1
        for unit, retire in enumerate(values[28:31]):
            if retire:
                self.retired[unit].append(now)
                self.spent[unit].append(self.now_spent.copy())
        moved = UnitState.BUSY in states
        moved |= self.control.advance(now, outputs, interrupt)
        moved |= self.memory.step(engine)
        if moved:
            self.moved = now
        self.over = self.control.step is None

    def outcome(self) -> Outcome:
        """Return what was seen, when the run is over."""
        assert self.finished is not None
        return Outcome(
            readings=self.control.readings,
            finished=self.finished,
            states=self.now_spent,
            retired=[np.array(cycles, np.int64) for cycles in self.retired],
            spent=[np.array(spent, np.int64).reshape(-1, 3, 8) for spent in self.spent],
        )


class SimulatedEngine:
    """An engine in Amaranth's simulator. Its :meth:`run` is that of :class:`sim.harness.Session`.

    Parameters
    ----------
    engine
        A component with the engine's ports.
    bus_bytes
        Width of its memory port.
    """

    def __init__(self, engine: Any, *, bus_bytes: int) -> None:
        self._bus_bytes = bus_bytes
        self._inputs = [getattr(engine, f"m_axi_{name}") for name in MEMORY_INPUTS]
        self._inputs += [getattr(engine, f"s_axil_{name}") for name in CONTROL_INPUTS]
        outputs = [getattr(engine, f"m_axi_{name}") for name in MEMORY_OUTPUTS]
        outputs += [getattr(engine, f"s_axil_{name}") for name in CONTROL_OUTPUTS]
        outputs += [engine.interrupt]
        outputs += [getattr(engine, f"trace_{unit}_{what}") for what in ("state", "retire") for unit in UNITS]
        # One signal of all outputs: the simulator compiles what drives it, but interprets what is sampled.
        widths = [len(Value.cast(output)) for output in outputs]
        self._shifts = [sum(widths[:index]) for index in range(len(widths))]
        self._masks = [(1 << width) - 1 for width in widths]
        self._outputs = Signal(sum(widths))
        bench = Module()
        bench.submodules.engine = engine
        bench.d.comb += self._outputs.eq(Cat(outputs))
        self._run: _Run | None = None
        self.simulator: Any = Simulator(bench)
        self.simulator.add_clock(1e-6)
        self.simulator.add_process(self._process)

    async def _process(self, context: Any) -> None:
        driven: list[int] = [0] * len(self._inputs)
        running: _Run | None = None  # whose signals the engine sees in the cycle that ends
        fields = list(zip(self._shifts, self._masks, strict=True))
        async for _, _, outputs in context.tick().sample(self._outputs):
            if running is not None:
                running.step([outputs >> shift & mask for shift, mask in fields])
            running = None if self._run is None or self._run.over else self._run
            wanted = [0] * len(driven) if running is None else running.drive()
            for signal, old, new in zip(self._inputs, driven, wanted, strict=True):
                if old != new:
                    context.set(signal, new)
            driven = wanted

    def run(self, memory: Bytes, *, timing: MemoryTiming, limit: int, patience: int, progress: Progress | None) -> Outcome:
        """Run the program in ``memory`` to its end. See :class:`sim.harness.Session`; raises :class:`ProtocolError` too."""
        model = Memory(memory, base=BASE_ADDRESS, bus_bytes=self._bus_bytes, timing=timing)
        run = self._run = _Run(model, patience)
        advance = self.simulator.advance
        reported = 0
        while not run.over:
            advance()
            now = model.cycle
            idle = now - 1 - run.moved > patience
            if not run.over and (idle or now >= limit):
                raise Stuck(cycle=now, idle=idle, states=run.states, retired=tuple(map(len, run.retired)))
            if progress is not None and now - reported >= _CHUNK:
                progress(now)
                reported = now
        if progress is not None:
            progress(model.cycle)
        return run.outcome()


class PysimBackend:
    """Backend on Amaranth's simulator.

    ``component`` turns a configuration into something with the engine's ports.
    """

    name = "pysim"
    cycle_accurate = True

    def __init__(self, *, reason: str = "asked for", component: Callable[[EngineConfig], Any] = engine_component) -> None:
        self.reason = reason
        self._component = component

    def run(
        self,
        program: Program,
        images: Sequence[npt.ArrayLike],
        *,
        timing: MemoryTiming | None = None,
        vcd: str | os.PathLike[str] | None = None,
        progress: Progress | None = None,
    ) -> RunResult:
        """Run one image after the other.

        ``vcd`` writes waveforms. ``progress`` is called with the cycles so far.
        Raises :class:`SimulationError` when the engine stops or does not end, :class:`ProtocolError` when it misbehaves on the bus.
        """
        if program.config.micro:
            raise SimulationError("Amaranth's simulator takes hours for a micro engine; take the backend verilator or emulator")
        packed = pack_images(program, images)
        with ExitStack() as stack:
            waveforms = stack.enter_context(waveform_file(vcd))
            engine = SimulatedEngine(self._component(program.config), bus_bytes=program.config.bus_bytes)
            if waveforms is not None:
                stack.enter_context(engine.simulator.write_vcd(str(waveforms)))
            return run_images(engine, program, packed, timing=timing or MemoryTiming(), progress=progress)
