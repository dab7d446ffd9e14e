"""The memory model in both languages: the same in every cycle, true to its docstring, and quick to catch who breaks a rule."""

import ctypes
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from accel.program import MemoryTiming
from sim.memory import Channel, Fault, MasterSignals, Memory, ProtocolError
from sim.verilator import find_compiler

BASE, SIZE = 0x1000_0000, 3 * 4096
WIDTHS = (2, 8, 64)
OUTPUTS = ("awready", "wready", "bresp", "bvalid", "arready", "rdata", "rresp", "rlast", "rvalid")
QUIET = MasterSignals(*[0] * len(MasterSignals._fields))

TIMINGS = (
    MemoryTiming(),
    MemoryTiming(latency=1),
    MemoryTiming(latency=7, interval=3),
    MemoryTiming(latency=2, stall_seed=1),
    MemoryTiming(latency=30, interval=2, stall_seed=2**64 - 3, stall_percent=90),
    MemoryTiming(latency=3, stall_seed=-4, stall_percent=1),
    MemoryTiming(stall_seed=9, stall_percent=0),
)


class _Timing(ctypes.Structure):
    _fields_ = [("seed", ctypes.c_uint64), *((name, ctypes.c_uint32) for name in ("latency", "interval", "stall_percent"))]


class _Violation(ctypes.Structure):
    _fields_ = [("channel", ctypes.c_uint32), ("fault", ctypes.c_uint32), ("cycle", ctypes.c_uint64)]


def _ports_of(width: int) -> type[ctypes.Structure]:
    bytes_ = (
        "awlen",
        "awsize",
        "awburst",
        "awvalid",
        "wlast",
        "wvalid",
        "bready",
        "arlen",
        "arsize",
        "arburst",
        "arvalid",
        "rready",
    )
    answers = ("awready", "wready", "bresp", "bvalid", "arready", "rresp", "rlast", "rvalid")

    class Ports(ctypes.Structure):
        _fields_ = [
            ("wstrb", ctypes.c_uint64),
            *((name, ctypes.c_uint32) for name in ("awaddr", "araddr")),
            *((name, ctypes.c_uint8) for name in (*bytes_, *answers)),
            *((name, ctypes.c_uint8 * width) for name in ("wdata", "rdata")),
        ]

    return Ports


class NativeMemory:
    """The model of ``memory.hpp`` with the interface of :class:`sim.memory.Memory`."""

    def __init__(self, library: ctypes.CDLL, data: np.ndarray, *, bus_bytes: int, timing: MemoryTiming) -> None:
        self._library = library
        self._data = data  # kept alive
        self._ports = _ports_of(bus_bytes)()
        seeded = timing.stall_seed is not None
        native = _Timing((timing.stall_seed or 0) % 2**64, timing.latency, timing.interval, timing.stall_percent if seeded else 0)
        library.memory_start(
            ctypes.c_void_p(data.ctypes.data), ctypes.c_uint64(data.nbytes), ctypes.c_uint64(BASE), ctypes.byref(native)
        )

    def drive(self) -> None:
        self._library.memory_drive(ctypes.byref(self._ports))

    def __getattr__(self, name: str) -> int:
        value = getattr(self._ports, name)
        return value if isinstance(value, int) else int.from_bytes(bytes(value), "little")

    def step(self, engine: MasterSignals) -> bool:
        for name, value in engine._asdict().items():
            if name == "wdata":
                self._ports.wdata[:] = value.to_bytes(len(self._ports.wdata), "little")
            else:
                setattr(self._ports, name, value)
        moved = self._library.memory_step(ctypes.byref(self._ports))
        self._raise()
        return bool(moved)

    def check_idle(self) -> None:
        self._library.memory_check_idle()
        self._raise()

    def _raise(self) -> None:
        violation = _Violation()
        self._library.memory_violation(ctypes.byref(violation))
        if violation.fault:
            raise ProtocolError(Channel(violation.channel), Fault(violation.fault), violation.cycle)


@pytest.fixture(scope="session")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], ctypes.CDLL]:
    """The native model compiled for a bus width."""
    compiler = find_compiler()
    if compiler is None:
        pytest.skip("no C++ compiler here, so there is no native model to compare")
    folder = tmp_path_factory.mktemp("memory")
    driver = Path(__file__).with_name("memory_driver.cpp")
    include = Path(__file__).parents[2] / "sim"
    built: dict[int, ctypes.CDLL] = {}

    def library(width: int) -> ctypes.CDLL:
        if width not in built:
            path = folder / f"memory{width}.so"
            flags = ["-std=c++17", "-O1", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror", f"-DBUS_BYTES={width}", f"-I{include}"]
            subprocess.run([*compiler, *flags, str(driver), "-o", str(path)], check=True)
            built[width] = ctypes.CDLL(str(path))
            built[width].memory_step.restype = ctypes.c_bool
        return built[width]

    return library


@pytest.fixture(params=["python", "native"])
def make_memory(request: pytest.FixtureRequest) -> Callable[..., Memory | NativeMemory]:
    """Either model."""
    if request.param == "python":
        return lambda data, *, bus_bytes, timing: Memory(data, base=BASE, bus_bytes=bus_bytes, timing=timing)
    libraries = request.getfixturevalue("libraries")
    return lambda data, *, bus_bytes, timing: NativeMemory(libraries(bus_bytes), data, bus_bytes=bus_bytes, timing=timing)


class _Burst(NamedTuple):
    address: int
    beats: int


class RandomMaster:
    """An engine that obeys the rules and otherwise does what it likes: bursts of any length and anywhere, data before addresses."""

    def __init__(self, seed: int, width: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.width = width
        self.ar: _Burst | None = None
        self.aw: _Burst | None = None
        self.w: tuple[int, int, int] | None = None
        self.coming: list[_Burst] = []  # write bursts whose address is still to be offered
        self.beats: list[tuple[int, int, int]] = []  # write beats still to be offered

    def _burst(self) -> _Burst:
        rng, width = self.rng, self.width
        address = int(rng.integers(BASE - 4096, BASE + SIZE + 4096)) if rng.random() < 0.2 else int(rng.integers(BASE, BASE + SIZE))
        if rng.random() < 0.7:
            address -= address % width
        room = min(256, (4096 - address % 4096 + width - 1) // width)
        return _Burst(address, int(rng.integers(1, min(room, int(rng.choice([1, 4, 256]))) + 1)))

    def drive(self) -> MasterSignals:
        rng, width = self.rng, self.width
        if self.ar is None and rng.random() < 0.1:
            self.ar = self._burst()
        if not self.coming and not self.beats and rng.random() < 0.2:
            burst = self._burst()
            self.coming.append(burst)
            for beat in range(burst.beats):
                strobe = int.from_bytes(rng.bytes(8), "little") if rng.random() < 0.5 else 2**64 - 1
                strobe &= 2**width - 1
                if beat == 0:
                    strobe &= -1 << burst.address % width
                self.beats.append((int.from_bytes(rng.bytes(width), "little"), strobe, int(beat == burst.beats - 1)))
        if self.aw is None and self.coming and rng.random() < 0.3:
            self.aw = self.coming.pop()
        if self.w is None and self.beats and rng.random() < 0.8:
            self.w = self.beats.pop(0)
        size = width.bit_length() - 1
        none = (0, 0, 0, 0, 0)
        aw = none if self.aw is None else (self.aw.address, self.aw.beats - 1, size, 1, 1)
        ar = none if self.ar is None else (self.ar.address, self.ar.beats - 1, size, 1, 1)
        w = (0, 0, 0, 0) if self.w is None else (*self.w, 1)
        return MasterSignals(*aw, *w, int(rng.random() < 0.7), *ar, int(rng.random() < 0.8))

    def step(self, awready: int, wready: int, arready: int) -> None:
        self.aw = None if awready else self.aw
        self.w = None if wready else self.w
        self.ar = None if arready else self.ar


def _cycles(model: Memory | NativeMemory, master: RandomMaster, count: int) -> Iterator[tuple[object, ...]]:
    for _ in range(count):
        model.drive()
        answers = tuple(int(getattr(model, name)) for name in OUTPUTS)
        engine = master.drive()
        moved = model.step(engine)
        master.step(answers[0], answers[1], answers[4])
        yield (*answers, moved)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("timing", TIMINGS, ids=repr)
@pytest.mark.parametrize("width", WIDTHS)
def test_both_models_agree_in_every_cycle(
    libraries: Callable[[int], ctypes.CDLL], width: int, timing: MemoryTiming, seed: int
) -> None:
    first = np.random.default_rng(seed).integers(0, 256, SIZE, np.uint8)
    second = first.copy()
    python = Memory(first, base=BASE, bus_bytes=width, timing=timing)
    native = NativeMemory(libraries(width), second, bus_bytes=width, timing=timing)
    pairs = zip(_cycles(python, RandomMaster(seed, width), 1500), _cycles(native, RandomMaster(seed, width), 1500), strict=True)
    for cycle, (ours, theirs) in enumerate(pairs):
        assert ours == theirs, f"cycle {cycle}"
    assert np.array_equal(first, second)


def _read(make_memory: Callable[..., Memory | NativeMemory], timing: MemoryTiming, beats: int) -> list[tuple[int, int, int, int]]:
    """Read a burst from the start of memory in cycle 0; return (cycle, data, response, last) of each beat."""
    memory = make_memory(np.arange(4096, dtype=np.uint16).view(np.uint8).copy(), bus_bytes=2, timing=timing)
    seen = []
    for cycle in range(timing.latency + beats * timing.interval + 5):
        memory.drive()
        if memory.rvalid:
            seen.append((cycle, memory.rdata, memory.rresp, memory.rlast))
        address = {"araddr": BASE, "arlen": beats - 1, "arsize": 1, "arburst": 1, "arvalid": 1} if cycle == 0 else {}
        memory.step(QUIET._replace(**address, rready=1))
    memory.check_idle()
    return seen


@pytest.mark.parametrize(("latency", "interval"), [(1, 1), (20, 1), (4, 3)])
def test_read_beats_come_after_latency_and_then_one_every_interval(
    make_memory: Callable[..., Memory | NativeMemory], latency: int, interval: int
) -> None:
    timing = MemoryTiming(latency=latency, interval=interval)
    assert _read(make_memory, timing, 5) == [(latency + interval * k, k, 0, int(k == 4)) for k in range(5)]


def test_write_takes_effect_with_its_response_and_not_before(make_memory: Callable[..., Memory | NativeMemory]) -> None:
    data = np.zeros(4096, np.uint8)
    memory = make_memory(data, bus_bytes=2, timing=MemoryTiming(latency=6, interval=2))
    # data first, its address two cycles later: the response counts from the later one
    beats = iter([(0x1111, 3, 0), (0x2222, 2, 1)])
    beat = next(beats)
    accepted = []
    for cycle in range(12):
        memory.drive()
        before = data[:4].tolist()
        if beat is not None and memory.wready:
            accepted.append(cycle)
        signals = QUIET._replace(bready=1)
        if beat is not None:
            signals = signals._replace(wdata=beat[0], wstrb=beat[1], wlast=beat[2], wvalid=1)
            beat = next(beats, None) if memory.wready else beat
        if cycle == 4:
            signals = signals._replace(awaddr=BASE, awlen=1, awsize=1, awburst=1, awvalid=1)
        assert memory.bvalid == (cycle == 10)
        assert before == ([0, 0, 0, 0] if cycle < 10 else [0x11, 0x11, 0, 0x22])
        memory.step(signals)
    assert accepted == [0, 2]


@pytest.mark.parametrize("address", [BASE - 2, BASE + 4096, 0, 0xFFFF_FFFE])
def test_outside_the_memory_is_answered_with_an_error(make_memory: Callable[..., Memory | NativeMemory], address: int) -> None:
    data = np.zeros(4096, np.uint8)
    memory = make_memory(data, bus_bytes=2, timing=MemoryTiming(latency=1))
    memory.drive()
    write = {"awaddr": address, "awsize": 1, "awburst": 1, "awvalid": 1, "wdata": 1, "wstrb": 3, "wlast": 1, "wvalid": 1}
    memory.step(QUIET._replace(araddr=address, arsize=1, arburst=1, arvalid=1, **write))
    memory.drive()
    assert (memory.rvalid, memory.rresp, memory.bvalid, memory.bresp) == (1, 2, 1, 2)
    assert not data.any()


def test_payloads_are_ones_while_nothing_is_valid(make_memory: Callable[..., Memory | NativeMemory]) -> None:
    memory = make_memory(np.zeros(4096, np.uint8), bus_bytes=2, timing=MemoryTiming())
    memory.drive()
    assert (memory.rvalid, memory.rdata, memory.rresp, memory.rlast, memory.bvalid, memory.bresp) == (0, 0xFFFF, 3, 1, 0, 3)


READ = {"araddr": BASE, "arlen": 3, "arsize": 1, "arburst": 1, "arvalid": 1}
WRITE = {"awaddr": BASE, "awlen": 1, "awsize": 1, "awburst": 1, "awvalid": 1}
DATA = {"wdata": 5, "wstrb": 3, "wvalid": 1}

#: What an engine drives in its first cycles (the memory takes no second write beat until cycle 9), and what it is caught for.
CRIMES: dict[str, tuple[list[dict[str, int]], Channel, Fault, int]] = {
    "read of a wrapping burst": ([READ | {"arburst": 2}], Channel.READ_ADDRESS, Fault.NOT_INCR, 0),
    "read of narrow beats": ([READ | {"arsize": 0}], Channel.READ_ADDRESS, Fault.WRONG_SIZE, 0),
    "read across 4096": ([{}, READ | {"araddr": BASE + 4090}], Channel.READ_ADDRESS, Fault.CROSSES_4096, 1),
    "write of a fixed burst": ([WRITE | DATA | {"awburst": 0}], Channel.WRITE_ADDRESS, Fault.NOT_INCR, 0),
    "write of wide beats": ([WRITE | DATA | {"awsize": 2}], Channel.WRITE_ADDRESS, Fault.WRONG_SIZE, 0),
    "write across 4096": ([WRITE | DATA | {"awaddr": BASE + 4094}], Channel.WRITE_ADDRESS, Fault.CROSSES_4096, 0),
    "last too early": ([WRITE | DATA | {"wlast": 1}], Channel.WRITE_DATA, Fault.WRONG_LAST, 0),
    "last missing": ([WRITE | DATA | {"awlen": 0}], Channel.WRITE_DATA, Fault.WRONG_LAST, 0),
    "last found wrong when the address comes": ([DATA | {"wlast": 1}, {}, WRITE], Channel.WRITE_DATA, Fault.WRONG_LAST, 2),
    "strobe below the address": ([WRITE | DATA | {"awaddr": BASE + 1}], Channel.WRITE_DATA, Fault.STRAY_STROBE, 0),
    "write data withdrawn": ([WRITE | DATA, DATA, {}], Channel.WRITE_DATA, Fault.VALID_DROPPED, 2),
    "write data changed": ([WRITE | DATA, DATA, DATA | {"wdata": 6}], Channel.WRITE_DATA, Fault.PAYLOAD_CHANGED, 2),
    "write strobe changed": ([WRITE | DATA, DATA, DATA | {"wstrb": 1}], Channel.WRITE_DATA, Fault.PAYLOAD_CHANGED, 2),
    "last changed": ([WRITE | DATA, DATA, DATA, DATA | {"wlast": 1}], Channel.WRITE_DATA, Fault.PAYLOAD_CHANGED, 3),
}


def _play(memory: Memory | NativeMemory, cycles: list[dict[str, int]]) -> None:
    for signals in cycles:
        memory.drive()
        memory.step(QUIET._replace(**signals))


@pytest.mark.parametrize("crime", CRIMES)
def test_a_broken_rule_is_named_with_channel_and_cycle(make_memory: Callable[..., Memory | NativeMemory], crime: str) -> None:
    cycles, channel, fault, cycle = CRIMES[crime]
    memory = make_memory(np.zeros(SIZE, np.uint8), bus_bytes=2, timing=MemoryTiming(latency=2, interval=9))
    with pytest.raises(ProtocolError) as caught:
        _play(memory, cycles)
    assert (caught.value.channel, caught.value.fault, caught.value.cycle) == (channel, fault, cycle)
    name = channel.name.lower().replace("_", " ")
    assert f"on its {name} channel in cycle {cycle}: " in str(caught.value)


@pytest.mark.parametrize("channel", ["ar", "aw"])
@pytest.mark.parametrize("change", ["valid", "addr", "len"])
def test_an_address_stays_until_it_is_taken(make_memory: Callable[..., Memory | NativeMemory], channel: str, change: str) -> None:
    """Addresses wait only in stalled cycles: with this seed there is one among the first."""
    memory = make_memory(np.zeros(SIZE, np.uint8), bus_bytes=2, timing=MemoryTiming(stall_seed=3, stall_percent=80))
    offer = QUIET._replace(**(READ if channel == "ar" else WRITE))
    for cycle in range(50):
        memory.drive()
        if getattr(memory, f"{channel}ready"):
            memory.step(QUIET)
            continue
        memory.step(offer)
        memory.drive()
        expected = Fault.VALID_DROPPED if change == "valid" else Fault.PAYLOAD_CHANGED
        with pytest.raises(ProtocolError) as caught:
            memory.step(offer._replace(**{f"{channel}{change}": 0 if change == "valid" else 2 if change == "len" else BASE + 64}))
        assert (caught.value.fault, caught.value.cycle) == (expected, cycle + 1)
        return
    pytest.fail("never stalled")


@pytest.mark.parametrize(
    ("signals", "channel"),
    [(READ, Channel.READ_DATA), (WRITE, Channel.WRITE_RESPONSE), (DATA, Channel.WRITE_DATA)],
    ids=["read", "write", "data"],
)
def test_done_with_something_outstanding_is_refused(
    make_memory: Callable[..., Memory | NativeMemory], signals: dict[str, int], channel: Channel
) -> None:
    memory = make_memory(np.zeros(SIZE, np.uint8), bus_bytes=2, timing=MemoryTiming())
    memory.drive()
    memory.check_idle()
    memory.step(QUIET._replace(**signals))
    with pytest.raises(ProtocolError, match="the engine was done while transfers were outstanding") as caught:
        memory.check_idle()
    assert caught.value.channel is channel


def test_stalls_are_as_many_as_asked_for() -> None:
    memory = Memory(np.zeros(64, np.uint8), base=BASE, bus_bytes=2, timing=MemoryTiming(stall_seed=5, stall_percent=30))
    stalls = np.zeros(3)
    for _ in range(10_000):
        memory.drive()
        stalls += [not memory.arready, not memory.awready, not memory.wready]
        memory.step(QUIET)
    assert np.all(np.abs(stalls / 10_000 - 0.3) < 0.03), stalls
