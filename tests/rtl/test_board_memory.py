"""Memory on the chip against the memory model: what it drives, in every cycle, for a master with random pauses."""

import numpy as np
import pytest
from amaranth.sim import Simulator

from accel.program import MemoryTiming
from rtl.board.memory import LATENCY, PIECE_WORDS, READ_BURSTS, SMALLEST_WORDS, WRITE_BURSTS, OnChipMemory, pieces
from sim.memory import MasterSignals, Memory

SLAVE_SIDE = ("awready", "wready", "bresp", "bvalid", "arready", "rdata", "rresp", "rlast", "rvalid")


def test_pieces_are_powers_of_two_that_add_up() -> None:
    for words in (1, 2, 3, 100, 1024, PIECE_WORDS, PIECE_WORDS + 1, 5 * PIECE_WORDS - 1, 9346):
        found = pieces(words)
        assert words <= sum(size for _, size in found) < words + SMALLEST_WORDS
        assert [first for first, _ in found] == [sum(size for _, size in found[:n]) for n in range(len(found))]
        assert all(size & (size - 1) == 0 and SMALLEST_WORDS <= size <= PIECE_WORDS and first % size == 0 for first, size in found)


class Master:
    """An AXI master that keeps the rules of :class:`OnChipMemory`, with random bursts and pauses."""

    def __init__(self, rng: np.random.Generator, *, bus: int, words: int, bursts: int, pause: float, beyond: bool) -> None:
        self.rng, self.bus, self.pause = rng, bus, pause
        # Reads in one half and writes in the other, because the model reads a beat when its address is there and a memory later.
        # In the end everything is read.
        page = 4096 // bus
        half = words // 2

        def burst(start: int, end: int) -> tuple[int, int]:
            length = int(rng.integers(1, 65)) if rng.random() < 0.5 else int(rng.integers(1, 4))
            first = int(rng.integers(start, end))
            return first * bus, min(length, end - first, page - first % page)

        self.reads = [burst(0, half) for _ in range(bursts)]
        self.writes = [burst(half, words + 8 * beyond) for _ in range(bursts)]
        self.last = [(n * bus, min(32, words - n)) for n in range(0, words, 32)]
        if beyond:
            self.last += [((words - 2) * bus, 4), (words * bus, 3), (0, 2)]  # across the end, behind it, and inside again
        self.beats: list[tuple[int, int, int]] = []
        self.reads_owed = self.writes_owed = 0
        self.arvalid = self.awvalid = self.wvalid = False

    @property
    def over(self) -> bool:
        if not (self.writes or self.beats or self.writes_owed or self.reads):
            self.reads, self.last = self.last, []
        return not (self.reads or self.writes or self.beats or self.reads_owed or self.writes_owed)

    def drive(self) -> MasterSignals:
        rng = self.rng

        def go() -> bool:
            return bool(rng.random() >= self.pause)

        self.arvalid = self.arvalid or (bool(self.reads) and self.reads_owed < READ_BURSTS and go())
        if not self.awvalid and self.writes and not self.beats and self.writes_owed < WRITE_BURSTS and go():
            self.awvalid = True
            length = self.writes[0][1]
            ones = (1 << self.bus) - 1
            self.beats = [
                (
                    int.from_bytes(rng.bytes(self.bus), "little"),
                    ones if rng.random() < 0.5 else int(rng.integers(ones + 1)),
                    n == length - 1,
                )
                for n in range(length)
            ]
            self.wvalid = go()  # the first beat comes with its address, or later
        elif self.beats and not self.wvalid:
            self.wvalid = go()
        beat = self.beats[0] if self.wvalid else (0, 0, 0)
        read = self.reads[0] if self.arvalid else (0, 1)
        write = self.writes[0] if self.awvalid else (0, 1)
        size = self.bus.bit_length() - 1
        return MasterSignals(
            awaddr=write[0], awlen=write[1] - 1, awsize=size, awburst=1, awvalid=self.awvalid,
            wdata=beat[0], wstrb=beat[1], wlast=beat[2], wvalid=self.wvalid, bready=go(),
            araddr=read[0], arlen=read[1] - 1, arsize=size, arburst=1, arvalid=self.arvalid, rready=go(),
        )  # fmt: skip

    def step(self, signals: MasterSignals, slave: dict[str, int]) -> None:
        if signals.arvalid and slave["arready"]:
            self.reads.pop(0)
            self.arvalid = False
            self.reads_owed += 1
        if signals.awvalid and slave["awready"]:
            self.writes.pop(0)
            self.awvalid = False
            self.writes_owed += 1
        if signals.wvalid and slave["wready"]:
            self.beats.pop(0)
            self.wvalid = False
        self.reads_owed -= slave["rvalid"] and signals.rready and slave["rlast"]
        self.writes_owed -= slave["bvalid"] and signals.bready


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("bus", "words", "pause", "beyond"), [(2, 37, 0.0, False), (8, 2500, 0.0, False), (8, 600, 0.4, True), (4, 64, 0.2, True)]
)
def test_every_cycle_is_the_memory_models(bus: int, words: int, pause: float, beyond: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, words * bus, np.uint8)
    block = OnChipMemory(bus_bytes=bus, words=words, image=image.tobytes())
    master = Master(rng, bus=bus, words=words, bursts=30, pause=pause, beyond=beyond)
    model = Memory(image, base=0, bus_bytes=bus, timing=MemoryTiming(latency=LATENCY))
    cycles = 0

    async def testbench(ctx) -> None:
        nonlocal cycles
        axi = block.axi
        while not master.over:
            signals = master.drive()
            for name, value in signals._asdict().items():
                ctx.set(getattr(axi, name), int(value))
            model.drive()
            _, _, *sampled = await ctx.tick().sample(*(getattr(axi, name) for name in SLAVE_SIDE))
            mine = dict(zip(SLAVE_SIDE, map(int, sampled), strict=True))
            model_side = {name: int(getattr(model, name)) for name in SLAVE_SIDE}
            for valid, payload in (("rvalid", ("rdata", "rresp", "rlast")), ("bvalid", ("bresp",))):
                if not mine[valid]:
                    for name in payload:
                        mine[name] = model_side[name]
            assert mine == model_side, f"seed {seed}, cycle {cycles}"
            model.step(signals)
            master.step(signals, mine)
            cycles += 1
            assert cycles < 20000

    simulator = Simulator(block)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()
    print(f"{cycles} cycles")
