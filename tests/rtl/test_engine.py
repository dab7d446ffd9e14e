"""The whole engine, above all when something is wrong: it says what and where, lets go of the bus, and runs the next program."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from amaranth.hdl import Cat, Module, ResetInserter, Signal

from accel import isa
from accel.config import PRESETS
from accel.isa import CSR, INSTRUCTION_BYTES, Error, Instruction, Opcode, Operation, Target
from accel.program import MemoryTiming
from rtl.engine import Engine
from sim.harness import MEMORY_INPUTS, MEMORY_OUTPUTS
from sim.memory import MasterSignals, Memory

CONFIG = replace(PRESETS["tiny"], name="pathless", window_pixels=0)
BASE = 0x7654_3000
SIZE = 4096
MAPS, WEIGHTS, PARAMETERS, OUTPUT = 0x800, 0x900, 0xA00, 0xC00
PIXELS = 6
#: Output channels that have parameters.
CHANNELS = 6
START, CLEAR = 1, 2
BUSY, DONE, FAILED = 1, 2, 4

#: How memory answers: as fast as it can, slowly, and at random. The cases take turns.
TIMINGS = (
    MemoryTiming(latency=1),
    MemoryTiming(latency=30),
    MemoryTiming(latency=4, stall_seed=7, stall_percent=40),
)

BEGIN = Instruction(Opcode.BEGIN, {"magic": isa.MAGIC, "isa_version": isa.ISA_VERSION, "digest": CONFIG.digest})
FREE = {"after_load": isa.UNORDERED, "after_execute": isa.UNORDERED, "after_store": isa.UNORDERED}
LOAD = FREE | {"n_x": 1, "n_y": 1, "n_z": 1, "element_log2": 1, "period_log2": 1}
EXECUTE = FREE | {name: 1 for name in ("n_block", "n_ky", "n_kx", "n_py", "n_px", "n_wy", "n_wx")}
EXECUTE |= {"tap_rows": CONFIG.rows, "after_load": 0}
STORE = FREE | {"minimum": -128, "maximum": 127, "pool": 1, "groups": 2, "n_x": 1, "n_y": 1, "period_log2": 7, "after_execute": 0}


def good():
    """Return a program that loads, multiplies and stores."""
    return [
        BEGIN,
        Instruction(Opcode.LOAD, LOAD | {"memory_address": MAPS, "n_x": PIXELS}),
        Instruction(Opcode.LOAD, LOAD | {"memory_address": WEIGHTS, "n_x": CONFIG.rows, "target": Target.WEIGHTS}),
        Instruction(Opcode.LOAD, LOAD | {"memory_address": PARAMETERS, "n_x": 2, "target": Target.PARAMETERS, "element_log2": 4}),
        Instruction(Opcode.EXECUTE, EXECUTE | {"operation": Operation.ARRAY, "n_px": PIXELS, "stride_px": 1}),
        Instruction(Opcode.STORE, STORE | {"to_memory": 1, "memory_address": OUTPUT, "n_x": PIXELS}),
        Instruction(Opcode.END),
    ]


def image_of(program, rng):
    """Return memory with a program (instructions or raw bytes) and random data: uint8 ``(SIZE,)``."""
    image = rng.integers(0, 256, SIZE, np.uint8)
    code = b"".join(item if isinstance(item, bytes) else item.encode() for item in program)
    image[: len(code)] = np.frombuffer(code, np.uint8)
    identity = (1 << 30 << 32 | 30 << 64).to_bytes(isa.PARAMETER_BYTES, "little")
    image[PARAMETERS : PARAMETERS + CHANNELS * isa.PARAMETER_BYTES] = np.frombuffer(identity * CHANNELS, np.uint8)
    return image


def ref_good(image):
    """Return memory after the good program."""
    maps = image[MAPS : MAPS + 2 * PIXELS].view(np.int8).reshape(PIXELS, 2).astype(int)
    weights = image[WEIGHTS : WEIGHTS + 4].view(np.int8).reshape(2, 2)[::-1].astype(int)  # the last row's word comes first
    after = image.copy()
    after[OUTPUT : OUTPUT + 2 * PIXELS] = np.clip(maps @ weights, -128, 127).astype(np.int8).view(np.uint8).reshape(-1)
    return after


class Host:
    """An engine, its memory (which can be exchanged between runs), and a processor at its registers."""

    def __init__(self, bench, config=CONFIG):
        self.bench = bench
        self.engine = Engine(config)
        # one signal of all outputs: the simulator compiles what drives it, but interprets what is sampled
        outputs = Cat(getattr(self.engine, f"m_axi_{name}") for name in MEMORY_OUTPUTS)
        self.outputs = Signal(len(outputs))
        self.module = Module()
        self.reset = Signal()
        """Of engine and memory."""
        self.module.submodules.engine = ResetInserter(self.reset)(self.engine)
        self.module.d.comb += self.outputs.eq(outputs)
        self.memory = Memory(np.zeros(SIZE, np.uint8), base=BASE, bus_bytes=config.bus_bytes, timing=MemoryTiming())
        self.shown = 0
        """Cycles in which the engine wanted something of memory."""

    def attach(self, image, timing):
        self.memory = Memory(image, base=BASE, bus_bytes=self.engine.config.bus_bytes, timing=timing)

    async def serve(self, ctx):
        inputs = [(name, getattr(self.engine, f"m_axi_{name}")) for name in MEMORY_INPUTS]
        widths = [len(getattr(self.engine, f"m_axi_{name}")) for name in MEMORY_OUTPUTS]
        fields = [(sum(widths[:n]), (1 << width) - 1) for n, width in enumerate(widths)]
        was = {}
        while True:
            memory, reset = self.memory, ctx.get(self.reset)
            if not reset:
                memory.drive()
            for name, signal in inputs:
                value = 0 if reset else int(getattr(memory, name))
                if was.get(name) != value:
                    ctx.set(signal, value)
                    was[name] = value
            _, _, bits = await ctx.tick().sample(self.outputs)
            if reset:
                continue
            signals = MasterSignals(*(bits >> shift & mask for shift, mask in fields))
            self.shown += signals.awvalid | signals.wvalid | signals.arvalid
            memory.step(signals)

    def run(self, host):
        """Run an async function of the context to its end."""
        self.bench.run(self.module, host, background=[self.serve], limit=20000)

    async def write(self, ctx, register, value):
        engine = self.engine
        for name, now in (("awaddr", register), ("wdata", value), ("wstrb", 15), ("awvalid", 1), ("wvalid", 1), ("bready", 1)):
            ctx.set(getattr(engine, f"s_axil_{name}"), now)
        await self.bench.until(ctx, engine.s_axil_awready & engine.s_axil_wready)
        ctx.set(engine.s_axil_awvalid, 0)
        ctx.set(engine.s_axil_wvalid, 0)
        await self.bench.until(ctx, engine.s_axil_bvalid & (engine.s_axil_bresp == 0))

    async def read(self, ctx, register):
        engine = self.engine
        for name, now in (("araddr", register), ("arvalid", 1), ("rready", 1)):
            ctx.set(getattr(engine, f"s_axil_{name}"), now)
        await self.bench.until(ctx, engine.s_axil_arready)
        ctx.set(engine.s_axil_arvalid, 0)
        while True:
            _, _, valid, value, response = await ctx.tick().sample(engine.s_axil_rvalid, engine.s_axil_rdata, engine.s_axil_rresp)
            if valid:
                assert response == 0
                return value

    async def start(self, ctx):
        await self.write(ctx, CSR.BASE, BASE)
        await self.write(ctx, CSR.INTERRUPT_ENABLE, 1)
        await self.write(ctx, CSR.CONTROL, START)

    async def finish(self, ctx):
        """Wait for the interrupt; nothing may be under way on the bus then, and nothing may come after."""
        await self.bench.until(ctx, self.engine.interrupt)
        self.memory.check_idle()
        shown = self.shown
        await self.bench.repeat(ctx, 60)
        assert self.shown == shown, "the memory port is not quiet after the end"

    async def succeed(self, ctx, seed, timing):
        """Run the good program; return its cycles."""
        image = image_of(good(), np.random.default_rng(seed))
        expected = ref_good(image)
        self.attach(image, timing)
        await self.start(ctx)
        await self.finish(ctx)
        assert await self.read(ctx, CSR.STATUS) == DONE, f"seed {seed}, {timing}"
        assert np.array_equal(image, expected), f"seed {seed}, {timing}"
        return await self.read(ctx, CSR.CYCLES)

    async def fail(self, ctx, image, timing, error, index, note):
        """Run a bad program: ``error`` at instruction ``index``. Start alone does not go on; clear makes it go away."""
        self.attach(image, timing)
        await self.start(ctx)
        await self.finish(ctx)
        status = await self.read(ctx, CSR.STATUS)
        assert (status & 7, Error(status >> 8)) == (FAILED, error), note
        assert await self.read(ctx, CSR.ERROR_ADDRESS) == index * INSTRUCTION_BYTES, note
        shown = self.shown
        await self.write(ctx, CSR.CONTROL, START)
        await self.bench.repeat(ctx, 20)
        assert await self.read(ctx, CSR.STATUS) == status, note
        assert self.shown == shown, f"{note}: it started in spite of the error"
        await self.write(ctx, CSR.CONTROL, CLEAR)
        assert await self.read(ctx, CSR.STATUS) == 0, note
        assert not ctx.get(self.engine.interrupt), note


def begin(**changes):
    return Instruction(Opcode.BEGIN, dict(BEGIN.values) | changes)


def changed(index, **values):
    """Return the good program with other values in one instruction."""
    program = good()
    program[index] = Instruction(program[index].opcode, dict(program[index].values) | values)
    return program


def with_opcode(index, opcode):
    """Return the good program with another opcode in one instruction."""
    program = good()
    word = bytearray(program[index].encode())
    word[0] = word[0] & 0xF0 | opcode
    program[index] = bytes(word)
    return program


BEYOND = SIZE + 0x1000

#: (Every single refusal is a test of the dispatcher.)
CASES = {
    "another configuration": ([begin(digest=CONFIG.digest ^ 1 << 63), *good()[1:]], Error.BAD_DIGEST, 0),
    "another version": ([begin(isa_version=isa.ISA_VERSION + 1), *good()[1:]], Error.BAD_VERSION, 0),
    "no BEGIN": (good()[1:], Error.BAD_OPCODE, 0),
    "cleared memory": ([bytes(2048)], Error.BAD_OPCODE, 0),
    "no END": ([*good()[:-1], bytes(32)], Error.BAD_OPCODE, 6),
    "BEGIN again": ([*good()[:3], BEGIN, *good()[3:]], Error.BAD_OPCODE, 3),
    "illegal opcode": (with_opcode(5, 14), Error.BAD_OPCODE, 5),
    "LOAD of nothing": (changed(1, n_x=0), Error.BAD_OPCODE, 1),
    "LOAD to nowhere": (changed(2, target=6), Error.BAD_OPCODE, 2),
    "WINDOW without its path": (changed(4, operation=Operation.WINDOW, stride_ky=1, stride_kx=1), Error.BAD_OPCODE, 4),
    "STORE of nothing": (changed(5, pool=0), Error.BAD_OPCODE, 5),
    "LOAD from odd addresses": (changed(3, memory_address=PARAMETERS + 1), Error.BAD_OPCODE, 3),
    "LOAD from nowhere": (changed(2, memory_address=BEYOND), Error.READ_FAULT, 2),
    "LOAD over the end": (changed(1, memory_address=SIZE - 4), Error.READ_FAULT, 1),
    "STORE to odd addresses": (changed(5, memory_stride_y=1, n_y=3), Error.BAD_OPCODE, 5),
    "STORE to nowhere": (changed(5, memory_address=BEYOND), Error.WRITE_FAULT, 5),
    "STORE over the end": (changed(5, memory_address=SIZE - 4), Error.WRITE_FAULT, 5),
}


@pytest.mark.parametrize(("case", "timing"), list(zip(CASES, itertools.cycle(TIMINGS), strict=False)), ids=list(CASES))
def test_a_bad_program_is_refused_and_the_next_one_runs(bench, case, timing):
    program, error, index = CASES[case]
    host = Host(bench)

    async def run(ctx):
        note = f"{case}, {timing}"
        image = image_of(program, np.random.default_rng(1))
        before = image.copy()
        await host.fail(ctx, image, timing, error, index, note)
        if error is not Error.WRITE_FAULT:
            # nothing but the output may have been written
            other = np.flatnonzero(image != before)
            assert np.all((other >= OUTPUT) & (other < OUTPUT + 2 * PIXELS)), note
        await host.succeed(ctx, 1, TIMINGS[0])

    host.run(run)


@pytest.mark.parametrize("size", [0, 190])
def test_a_program_beyond_memory_is_a_read_fault(bench, size):
    """Instructions are read ahead: only one that is reached counts."""
    host = Host(bench)

    async def run(ctx):
        image = image_of(good(), np.random.default_rng(2))[:size].copy()
        # (LOADs before it may have failed too; so let them read the program itself)
        load = Instruction(Opcode.LOAD, LOAD | {"element_log2": 0, "target": Target.TABLE})
        program = [BEGIN, *[load] * 6]
        code = b"".join(item.encode() for item in program)
        image[:] = np.frombuffer(code[:size], np.uint8)
        await host.fail(ctx, image, TIMINGS[0], Error.READ_FAULT, size // INSTRUCTION_BYTES, f"{size} bytes")
        await host.succeed(ctx, 3, TIMINGS[0])

    host.run(run)


def test_what_is_read_ahead_behind_the_end_does_not_matter(bench):
    """END is the last thing in memory; what follows answers with errors."""
    host = Host(bench)

    async def run(ctx):
        image = np.frombuffer(BEGIN.encode() + Instruction(Opcode.END).encode(), np.uint8).copy()
        host.attach(image, TIMINGS[0])
        await host.start(ctx)
        await host.finish(ctx)
        assert await host.read(ctx, CSR.STATUS) == DONE

    host.run(run)


def test_runs_are_alike(bench):
    """The same program takes the same cycles again, after a good run and after a failure, wherever it lies in memory."""
    host = Host(bench)

    async def run(ctx):
        spent = [await host.succeed(ctx, 4, TIMINGS[1]) for _ in range(2)]
        program, error, index = CASES["LOAD over the end"]
        await host.fail(ctx, image_of(program, np.random.default_rng(5)), TIMINGS[1], error, index, "between two runs")
        spent.append(await host.succeed(ctx, 4, TIMINGS[1]))
        assert len(set(spent)) == 1, spent

    host.run(run)


def test_the_first_error_stays(bench):
    """A write fails while another unit's bad reads are still to come: the engine names what it saw first, and that alone."""
    host = Host(bench)

    async def run(ctx):
        program = [
            BEGIN,
            Instruction(Opcode.STORE, STORE | {"to_memory": 1, "memory_address": BEYOND, "n_x": 4}),
            Instruction(Opcode.LOAD, LOAD | {"memory_address": BEYOND, "n_x": 40, "after_store": 0, "fence": 1}),
            Instruction(Opcode.END),
        ]
        image = image_of(program, np.random.default_rng(6))
        await host.fail(ctx, image, TIMINGS[1], Error.WRITE_FAULT, 1, "a write and a read fail")

    host.run(run)


@pytest.mark.parametrize("when", [0, 1, 2, 3, 250])
def test_abort(bench, when):
    """CONTROL = 2 stops a running program, wherever it is, and if it has not begun; what is under way on the bus ends first."""
    host = Host(bench)

    async def run(ctx):
        host.attach(image_of(good(), np.random.default_rng(7)), TIMINGS[2])
        await host.start(ctx)
        if when:
            await bench.repeat(ctx, when)
            assert await host.read(ctx, CSR.STATUS) == BUSY
        await host.write(ctx, CSR.CONTROL, CLEAR)
        await host.finish(ctx)
        status = await host.read(ctx, CSR.STATUS)
        assert (status & 7, Error(status >> 8)) == (FAILED, Error.ABORTED), f"after {when} cycles"
        await host.write(ctx, CSR.CONTROL, CLEAR)
        await host.succeed(ctx, 8, TIMINGS[0])

    host.run(run)


def test_abort_at_the_end(bench):
    """In whichever cycle CONTROL = 2 meets the end of a program: it was stopped, or it had ended and is forgotten; never both."""
    host = Host(bench)
    met = []

    async def run(ctx):
        cycles = await host.succeed(ctx, 9, TIMINGS[0])
        for when in range(cycles - 12, cycles + 2):
            host.attach(image_of(good(), np.random.default_rng(9)), TIMINGS[0])
            await host.start(ctx)
            await bench.repeat(ctx, when)
            await host.write(ctx, CSR.CONTROL, CLEAR)
            await bench.repeat(ctx, 60)
            status = await host.read(ctx, CSR.STATUS)
            met.append((status & 7, Error(status >> 8)))
            await host.write(ctx, CSR.CONTROL, CLEAR)
        await host.succeed(ctx, 9, TIMINGS[0])

    host.run(run)
    stopped, ended = (FAILED, Error.ABORTED), (0, Error.NONE)
    assert set(met) == {stopped, ended}
    assert met == sorted(met, key=(stopped, ended).index), "a later cycle was taken for an earlier one"


def test_abort_between_bursts(bench):
    """LOADs that wait for each other: in whichever cycle they are stopped, no burst begins once the engine has told its end."""
    host = Host(bench)
    loads = [Instruction(Opcode.LOAD, LOAD | {"memory_address": MAPS, "n_x": 2, "after_load": 0}) for _ in range(10)]

    async def run(ctx):
        image = image_of([BEGIN, *loads, Instruction(Opcode.END)], np.random.default_rng(15))
        host.attach(image, TIMINGS[0])
        await host.start(ctx)
        await host.finish(ctx)
        cycles = await host.read(ctx, CSR.CYCLES)
        for when in range(cycles - 45, cycles - 30):
            host.attach(image, TIMINGS[0])
            await host.start(ctx)
            await bench.repeat(ctx, when)
            await host.write(ctx, CSR.CONTROL, CLEAR)
            await host.finish(ctx)
            status = await host.read(ctx, CSR.STATUS)
            assert (status & 7, Error(status >> 8)) == (FAILED, Error.ABORTED), when
            await host.write(ctx, CSR.CONTROL, CLEAR)

    host.run(run)


def test_start_at_the_end(bench):
    """In whichever cycle CONTROL = 1 meets the end of a program: that was too soon, or it runs once more, from its beginning."""
    host = Host(bench)
    runs = []

    async def run(ctx):
        cycles = await host.succeed(ctx, 10, TIMINGS[0])
        once = host.shown
        for when in range(cycles - 8, cycles + 6):
            image = image_of(good(), np.random.default_rng(10))
            expected = ref_good(image)
            host.attach(image, TIMINGS[0])
            before = host.shown
            await host.start(ctx)
            await bench.repeat(ctx, when)
            await host.write(ctx, CSR.CONTROL, START)
            await bench.repeat(ctx, 2 * cycles)
            assert await host.read(ctx, CSR.STATUS) == DONE, when
            assert await host.read(ctx, CSR.CYCLES) == cycles, when
            assert np.array_equal(image, expected), when
            runs.append((host.shown - before) / once)

    host.run(run)
    assert runs == sorted(runs), "a later start was lost"
    assert set(runs) == {1, 2}


def test_start_and_abort_at_the_end(bench):
    """The same with CONTROL = 2 right after it: a program that has not begun, because the core is on its way to its reset, is
    stopped."""
    host = Host(bench)

    async def run(ctx):
        cycles = await host.succeed(ctx, 11, TIMINGS[0])
        for when in range(cycles + 1, cycles + 8):
            host.attach(image_of(good(), np.random.default_rng(11)), TIMINGS[0])
            await host.start(ctx)
            await bench.repeat(ctx, when)
            await host.write(ctx, CSR.CONTROL, START)
            await host.write(ctx, CSR.CONTROL, CLEAR)
            await bench.repeat(ctx, 300)  # its first reads end before it does
            status = await host.read(ctx, CSR.STATUS)
            assert (status & 7, Error(status >> 8)) == (FAILED, Error.ABORTED), when
            await host.write(ctx, CSR.CONTROL, CLEAR)

    host.run(run)


@pytest.mark.parametrize("first", range(4))
def test_a_reset_of_two_cycles_is_enough(bench, first):
    """Wherever a program is: the next one runs, and nothing of the old one reaches a memory that was reset with the engine."""
    host = Host(bench)

    async def run(ctx):
        cycles = await host.succeed(ctx, 12, TIMINGS[2])
        for when in range(first, cycles, 89):
            host.attach(image_of(good(), np.random.default_rng(12)), TIMINGS[2])
            await host.start(ctx)
            await bench.repeat(ctx, when)
            ctx.set(host.reset, 1)
            await bench.repeat(ctx, 2)
            ctx.set(host.reset, 0)
            await host.succeed(ctx, 13, TIMINGS[0])

    host.run(run)


#: Six rows take two lines of windows, so that a kernel of three is two passes.
SIX = replace(PRESETS["small"], name="six", rows=6, columns=6, lanes=2, bus_bytes=8, window_pixels=8)
HEIGHT, WIDTH = 4, 5


def depthwise():
    """Return a program that convolves each of six channels with its own 3x3 kernel: two lines of it, then the third on top."""
    word = SIX.word_bytes.bit_length() - 1
    maps = LOAD | {"memory_address": MAPS, "element_log2": word, "period_log2": word, "n_x": HEIGHT * WIDTH}
    weights = LOAD | {"memory_address": WEIGHTS, "element_log2": word, "n_x": 2 * SIX.rows, "target": Target.WEIGHTS}
    parameters = LOAD | {"memory_address": PARAMETERS, "n_x": CHANNELS, "target": Target.PARAMETERS, "element_log2": 4}
    window = EXECUTE | {"operation": Operation.WINDOW, "tap_rows": SIX.rows, "n_px": WIDTH, "n_kx": 3}
    window |= {"stride_py": WIDTH, "stride_px": 1, "stride_ky": 1, "stride_kx": 1}
    output = {"to_memory": 1, "memory_address": OUTPUT, "memory_stride_y": (WIDTH - 2) * SIX.word_bytes}
    return [
        Instruction(Opcode.BEGIN, dict(BEGIN.values) | {"digest": SIX.digest}),
        *(Instruction(Opcode.LOAD, load) for load in (maps, weights, parameters)),
        Instruction(Opcode.EXECUTE, window | {"n_py": HEIGHT - 1, "n_ky": 2}),
        Instruction(
            Opcode.EXECUTE,
            window | {"n_py": HEIGHT - 2, "n_ky": 1, "activations": 2 * WIDTH, "weights": SIX.rows, "accumulate": 1},
        ),
        Instruction(Opcode.STORE, STORE | output | {"groups": 3, "n_x": WIDTH - 2, "n_y": HEIGHT - 2}),
        Instruction(Opcode.END),
    ]


@pytest.mark.parametrize("timing", TIMINGS)
def test_a_depthwise_convolution(bench, timing):
    seed = 11
    rng = np.random.default_rng(seed)
    host = Host(bench, SIX)
    kernel = rng.integers(-3, 4, (3, 3, CHANNELS))
    image = image_of(depthwise(), rng)
    maps = image[MAPS : MAPS + HEIGHT * WIDTH * SIX.word_bytes].view(np.int8).reshape(HEIGHT, WIDTH, -1)
    maps[:] = rng.integers(-30, 31, maps.shape)
    # row b*3 + j multiplies the byte of b lines and j pixels ago, and the last row's word comes first
    rows = np.concatenate([kernel[1, ::-1], kernel[0, ::-1], kernel[2, ::-1], np.zeros((3, CHANNELS), np.int64)])
    tiles = image[WEIGHTS : WEIGHTS + len(rows) * SIX.word_bytes].view(np.int8).reshape(2, SIX.rows, -1)
    tiles[:, :, :CHANNELS] = rows.reshape(2, SIX.rows, CHANNELS)[:, ::-1]
    expected = image.copy()
    output = (
        expected[OUTPUT : OUTPUT + (HEIGHT - 2) * (WIDTH - 2) * SIX.word_bytes].view(np.int8).reshape(HEIGHT - 2, WIDTH - 2, -1)
    )
    for y, x in np.ndindex(output.shape[:2]):
        sums = (maps[y : y + 3, x : x + 3, :CHANNELS] * kernel).sum(axis=(0, 1))
        output[y, x, :CHANNELS] = np.clip(sums, -128, 127)

    async def run(ctx):
        host.attach(image, timing)
        await host.start(ctx)
        await host.finish(ctx)
        assert await host.read(ctx, CSR.STATUS) == DONE, f"seed {seed}, {timing}"

    host.run(run)
    assert np.array_equal(image, expected), f"seed {seed}, {timing}"
    assert len(np.unique(output[..., :CHANNELS])) > 10


def test_what_a_stopped_program_left_in_the_array_does_not_matter(bench):
    """Stopped in the middle of its passes, and followed at once by a program that finds all in memory and begins with them."""
    host = Host(bench, SIX)
    again = [instruction for instruction in depthwise() if instruction.opcode != Opcode.LOAD]

    async def run_once(ctx, program):
        image = image_of(program, np.random.default_rng(14))
        host.attach(image, TIMINGS[0])
        await host.write(ctx, CSR.CONTROL, START)
        await bench.until(ctx, host.engine.interrupt)
        assert await host.read(ctx, CSR.STATUS) == DONE
        return image[OUTPUT : OUTPUT + (HEIGHT - 2) * (WIDTH - 2) * SIX.word_bytes].copy(), await host.read(ctx, CSR.CYCLES)

    async def run(ctx):
        await host.write(ctx, CSR.BASE, BASE)
        await host.write(ctx, CSR.INTERRUPT_ENABLE, 1)
        expected, whole = await run_once(ctx, depthwise())
        output, cycles = await run_once(ctx, again)
        assert np.array_equal(output, expected)
        assert len(np.unique(expected)) > 10
        for when in range(whole - cycles + 8, whole - 10, 7):
            host.attach(image_of(depthwise(), np.random.default_rng(14)), TIMINGS[0])
            await host.write(ctx, CSR.CONTROL, START)
            await bench.repeat(ctx, when)
            await host.write(ctx, CSR.CONTROL, CLEAR)
            await bench.until(ctx, host.engine.interrupt)
            await host.write(ctx, CSR.CONTROL, CLEAR)
            output, spent = await run_once(ctx, again)
            assert (output.tolist(), spent) == (expected.tolist(), cycles), when

    host.run(run)
