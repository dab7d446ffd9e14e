"""The dispatcher: what it refuses, what it tells the units to wait for, how far it runs ahead, and when all is done."""

from collections import deque
from dataclasses import replace

import numpy as np
import pytest

from accel import isa
from accel.config import PRESETS, QUEUE_DEPTH
from accel.isa import INSTRUCTION_BYTES, UNORDERED, WINDOW_TAPS, Error, Instruction, Opcode, Operation, Target
from rtl.dispatch import FETCH_BYTES, PREFETCH, UNFINISHED_BITS, Dispatcher
from rtl.execute import HANDED
from rtl.layouts import ORDER_BITS, QUEUES
from rtl.load import IN_FLIGHT
from rtl.read_port import OUTSTANDING
from rtl.store import RESULTS

CONFIG = replace(PRESETS["tiny"], bus_bytes=32)
BEGIN = Instruction(Opcode.BEGIN, {"magic": isa.MAGIC, "isa_version": isa.ISA_VERSION, "digest": CONFIG.digest})
END = Instruction(Opcode.END)
#: An engine with a path for windows, of a single line.
WINDOWS = replace(PRESETS["small"], bus_bytes=32, window_pixels=16)
ONCE = {
    Opcode.LOAD: {"n_x": 1, "n_y": 1, "n_z": 1},
    Opcode.EXECUTE: {f"n_{name}": 1 for name in ("block", "ky", "kx", "py", "px", "wy", "wx")} | {"tap_rows": 1},
    Opcode.STORE: {"n_x": 1, "n_y": 1, "pool": 1, "groups": 1},
}
QUEUE_OF = {Opcode.LOAD: "load", Opcode.EXECUTE: "execute", Opcode.STORE: "store"}


def once(opcode, **changes):
    """Return an instruction that does the least, or what ``changes`` say."""
    return Instruction(opcode, ONCE[opcode] | changes)


class Fetcher:
    """Memory with a program: a beat a cycle (or fewer), once its burst's address is taken. Behind it everything is an error."""

    def __init__(self, block, program, *, stall=0.0, seed=0, bad=()):
        code = b"".join(instruction.encode() for instruction in program)
        self.block, self.code, self.bad = block, code, bad
        self.bus = block.config.bus_bytes
        self.rng, self.stall = np.random.default_rng(seed), stall
        self.addresses = []
        self.completed = []
        """For each instruction of the program, the cycle in which its last beat was taken."""
        self.cycle = 0

    async def serve(self, ctx):
        block, bus = self.block, self.bus
        beats = deque()
        valid = False
        while True:
            ctx.set(block.o_address.ready, self.rng.random() >= self.stall)
            valid = valid or (bool(beats) and self.rng.random() >= self.stall)
            if valid:
                data = self.code[beats[0] : beats[0] + bus].ljust(bus, b"\xff")
                error = beats[0] >= len(self.code) or beats[0] // INSTRUCTION_BYTES in self.bad
                ctx.set(block.i_beat.payload, {"data": int.from_bytes(data, "little"), "error": error, "last": 0})
            ctx.set(block.i_beat.valid, valid)
            _, _, shown, ready, address, length, taken = await ctx.tick().sample(
                block.o_address.valid,
                block.o_address.ready,
                block.o_address.payload.address,
                block.o_address.payload.length,
                block.i_beat.ready,
            )
            if valid and taken:
                at = beats.popleft() + bus
                if at % INSTRUCTION_BYTES == 0 or bus > INSTRUCTION_BYTES:
                    self.completed += [self.cycle] * max(1, bus // INSTRUCTION_BYTES)
                valid = False
            if shown and ready:
                self.addresses.append(address)
                assert length == FETCH_BYTES // bus - 1
                beats.extend(range(address, address + FETCH_BYTES, bus))
            self.cycle += 1


def ref_entries(program):
    """Return each queue's entries: word, index, and for each order the finished instructions it waits for (None: no order)."""
    entries = {queue: [] for queue in QUEUES}
    before = dict.fromkeys(QUEUES, 0)
    for index, instruction in enumerate(program):
        queue = QUEUE_OF.get(instruction.opcode)
        if queue is None:
            continue
        distances = {name: instruction[f"after_{name}"] for name in QUEUES}
        targets = {
            name: before[name] - distance if distance != UNORDERED and before[name] > distance else None
            for name, distance in distances.items()
        }
        entries[queue].append((int.from_bytes(instruction.encode(), "little"), index, targets))
        before[queue] += 1
    return entries


@pytest.mark.parametrize("bus_bytes", [2, 8, 32, 64])
@pytest.mark.parametrize("stall", [0.0, 0.4])
def test_random_programs(bench, bus_bytes, stall):
    """Every entry comes to its queue once, in order, with its orders; done comes when the last has retired and all is idle."""
    seed = 1
    config = replace(CONFIG, bus_bytes=bus_bytes)
    rng = np.random.default_rng([seed, bus_bytes])
    program = [Instruction(Opcode.BEGIN, dict(BEGIN.values) | {"digest": config.digest})]
    for _ in range(45):
        opcode = list(QUEUE_OF)[int(rng.choice(3, p=(0.3, 0.5, 0.2)))]
        orders = {f"after_{name}": int(rng.choice([0, 1, 2, 5, 9, 30, UNORDERED])) for name in QUEUES}
        program.append(once(opcode, **orders))
    program.append(END)
    block = Dispatcher(config=config)
    fetcher = Fetcher(block, program, stall=stall, seed=seed)
    got = {queue: [] for queue in QUEUES}
    retired = dict.fromkeys(QUEUES, 0)
    counted = dict(retired)  # in the cycle that is looked at
    entries = ref_entries(program)
    met = []
    last = {}

    def steady(payload):
        # an order may be met meanwhile
        return payload | {"orders": {name: order["missing"] for name, order in payload["orders"].items()}}

    def unit(queue):
        def take(payload):
            # an order that is met is as good as none
            orders = {
                name: None if order["met"] else (1 << ORDER_BITS) - order["missing"] for name, order in payload["orders"].items()
            }
            n = len(got[queue])
            expected = dict(entries[queue][n][2])
            for name, target in expected.items():
                if target is not None and counted[name] >= target:
                    expected[name] = None
                    met.append(name)
            assert orders == expected, f"seed {seed}: {queue} {n}"
            got[queue].append((payload["word"], payload["index"], entries[queue][n][2]))

        async def receive(ctx):
            own = np.random.default_rng([seed, len(queue)])
            await bench.receive(ctx, getattr(block, f"o_{queue}"), own, stall, take, steady)

        return receive

    async def retire(ctx):
        own = np.random.default_rng(seed + 1)
        ctx.set(block.i_idle, 1)
        while any(retired[queue] < len(entries[queue]) for queue in QUEUES):
            # the last ones retire when END has come, with the ports idle before, so that nothing else holds the end back
            ended = len(fetcher.completed) > len(program)
            limits = {queue: min(len(got[queue]), len(entries[queue]) - (not ended)) for queue in QUEUES}
            now = {queue: int(retired[queue] < limits[queue] and own.random() < (0.1 if ended else 0.5)) for queue in QUEUES}
            ctx.set(block.i_retire, now)
            _, _, done, completed = await ctx.tick().sample(block.o_done, block.o_completed)
            assert not done, f"seed {seed}: done before the last instruction retired"
            assert bench.plain(completed) == retired, f"seed {seed}"
            counted.update(retired)
            for queue in QUEUES:
                retired[queue] += now[queue]
        ctx.set(block.i_retire, dict.fromkeys(QUEUES, 0))
        ctx.set(block.i_idle, 0)
        while len(fetcher.completed) < len(program):
            await ctx.tick()
        await bench.repeat(ctx, 5)
        assert not ctx.get(block.o_done), f"seed {seed}: done while something is under way"
        ctx.set(block.i_idle, 1)
        last["idle"] = fetcher.cycle
        await bench.until(ctx, block.o_done)
        last["done"] = fetcher.cycle - 1
        await bench.repeat(ctx, 3)
        assert ctx.get(block.o_done)
        assert ctx.get(block.o_error) == Error.NONE

    bench.run(block, retire, background=[fetcher.serve, *(unit(queue) for queue in QUEUES)])
    assert got == entries, f"seed {seed}"
    assert met, f"seed {seed}: no order was met while its instruction waited"
    assert last["done"] == last["idle"] + 1
    assert fetcher.addresses == [n * FETCH_BYTES for n in range(len(fetcher.addresses))]


@pytest.mark.parametrize("bus_bytes", [16, 32, 64])
def test_latency(bench, bus_bytes):
    """An instruction is at its queue's head three cycles after its last beat, or a cycle after the one before."""
    config = replace(CONFIG, bus_bytes=bus_bytes)
    begin = Instruction(Opcode.BEGIN, dict(BEGIN.values) | {"digest": config.digest})
    program = [begin, *(once(opcode) for opcode in (Opcode.LOAD, Opcode.EXECUTE, Opcode.STORE, Opcode.LOAD, Opcode.STORE)), END]
    block = Dispatcher(config=config)
    fetcher = Fetcher(block, program)
    seen = []

    async def watch(ctx):
        for queue in QUEUES:
            ctx.set(getattr(block, f"o_{queue}").ready, 1)
        for cycle in range(60):
            _, _, *valid = await ctx.tick().sample(*(getattr(block, f"o_{queue}").valid for queue in QUEUES))
            seen.extend(cycle for one in valid if one)

    bench.run(block, watch, background=[fetcher.serve])
    expected = []
    free = 0
    for index, arrived in enumerate(fetcher.completed[: len(program) - 1]):
        # a wide beat is cut into instructions, one a cycle
        part = index % max(1, bus_bytes // INSTRUCTION_BYTES)
        dispatched = max(free, arrived - max(1, bus_bytes // INSTRUCTION_BYTES) + 1 + part + 3)
        free = dispatched + 1
        if index:
            expected.append(dispatched + 2)
    assert seen == expected


def run_bad(bench, program, *, bad=(), config=CONFIG):
    """Return error and index at which a program stops, no unit taking anything; nothing behind it may reach a queue."""
    block = Dispatcher(config=config)
    fetcher = Fetcher(block, program, bad=bad)
    found = {}

    async def watch(ctx):
        while ctx.get(block.o_error) == Error.NONE:
            await ctx.tick()
        await bench.repeat(ctx, 20)
        found["error"] = Error(ctx.get(block.o_error)), ctx.get(block.o_index)
        found["later"] = ctx.get(block.o_store.valid)
        ctx.set(block.i_idle, 1)
        await bench.repeat(ctx, 3)
        assert not ctx.get(block.o_done)

    bench.run(block, watch, background=[fetcher.serve], limit=300)
    assert not found["later"], "it went on behind the error"
    return found["error"]


STORE = once(Opcode.STORE)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"magic": 0}, Error.BAD_OPCODE),
        ({"magic": isa.MAGIC ^ 1 << 27}, Error.BAD_OPCODE),
        ({"isa_version": isa.ISA_VERSION - 1}, Error.BAD_VERSION),
        ({"isa_version": isa.ISA_VERSION | 1 << 31}, Error.BAD_VERSION),
        ({"digest": CONFIG.digest ^ 1}, Error.BAD_DIGEST),
        ({"digest": CONFIG.digest ^ 1 << 63}, Error.BAD_DIGEST),
        ({"magic": 0, "isa_version": 0, "digest": 0}, Error.BAD_OPCODE),
        ({"isa_version": 0, "digest": 0}, Error.BAD_VERSION),
    ],
)
def test_begin_must_fit(bench, changes, error):
    assert run_bad(bench, [Instruction(Opcode.BEGIN, dict(BEGIN.values) | changes), STORE, END]) == (error, 0)


@pytest.mark.parametrize("first", [once(Opcode.LOAD), once(Opcode.EXECUTE), STORE, END])
def test_begin_must_be_first(bench, first):
    assert run_bad(bench, [first, BEGIN, STORE, END]) == (Error.BAD_OPCODE, 0)


ROWS = CONFIG.rows
REFUSED = [
    *((opcode, {name: 0}) for opcode, counts in ONCE.items() for name in counts),
    *((Opcode.LOAD, {"target": target}) for target in (max(Target) + 1, 7)),
    (Opcode.LOAD, {"element_log2": 2}),
    (Opcode.LOAD, {"element_log2": 7}),
    (Opcode.LOAD, {"target": Target.WEIGHTS}),
    (Opcode.LOAD, {"target": Target.PARAMETERS, "element_log2": 4, "memory_address": 40}),
    (Opcode.LOAD, {"target": Target.PARAMETERS, "element_log2": 4, "n_y": 2}),
    (Opcode.LOAD, {"target": Target.PAIR_TABLE, "element_log2": 1}),
    *((Opcode.LOAD, {"element_log2": 1, name: 1}) for name in ("memory_address", "memory_stride_y", "memory_stride_z")),
    *((Opcode.EXECUTE, {"operation": operation, "tap_rows": ROWS}) for operation in (max(Operation) + 1, 7)),
    *((Opcode.EXECUTE, {"tap_rows": rows}) for rows in (ROWS + 1, 63)),
    # well-formed, but this engine has no path for it
    (Opcode.EXECUTE, {"operation": Operation.WINDOW, "tap_rows": ROWS, "n_px": 4, "stride_ky": 1, "stride_kx": 1}),
    (Opcode.EXECUTE, {"operation": Operation.SUM}),
    (Opcode.EXECUTE, {"operation": Operation.SUM, "tap_rows": ROWS, "row_offset": 1}),
    *((Opcode.STORE, {"to_memory": 1, name: 1}) for name in ("memory_address", "memory_stride_y")),
    (Opcode.STORE, {"groups": 3}),
    (Opcode.STORE, {"groups": 2, "first_group": 1}),
    (Opcode.STORE, {"groups": 2, "byte_offset": 1}),
    (Opcode.STORE, {"byte_offset": ROWS}),
    (Opcode.STORE, {"rounding": 3}),
]


@pytest.mark.parametrize(("opcode", "changes"), REFUSED, ids=lambda value: str(value).replace("Opcode.", ""))
def test_instructions_that_have_no_end_or_effect(bench, opcode, changes):
    program = [BEGIN, once(Opcode.LOAD), once(opcode, **changes), STORE, END]
    assert run_bad(bench, program) == (Error.BAD_OPCODE, 2)


def window(**changes):
    """Return a WINDOW that is well-formed for WINDOWS, or what ``changes`` say."""
    values = {"operation": Operation.WINDOW, "tap_rows": WINDOWS.rows, "n_px": 8, "n_py": 5, "n_ky": 3, "n_kx": 3}
    return once(Opcode.EXECUTE, **values | {"stride_ky": 1, "stride_kx": 1} | changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"n_px": WINDOW_TAPS},
        {"n_px": WINDOWS.window_pixels + 1},
        {"n_px": 1 << 9},
        {"n_kx": 9},
        {"n_ky": 6},
        {"n_ky": 255},
        {"n_block": 2},
        {"n_wy": 2},
        {"n_wx": 2},
        {"stride_ky": 0},
        {"stride_ky": 3},
        {"stride_ky": 1 << 15 | 1},
        {"stride_kx": 0},
        {"stride_kx": 3},
        {"stride_kx": 1 << 15 | 2},
        {"row_offset": WINDOWS.columns},
        {"reduce": 1},
        {"tap_rows": WINDOWS.rows - 1},
        {"tap_rows": WINDOWS.rows + 1},
        *({name: 0} for name in ("tap_rows", "n_ky", "n_kx", "n_py", "n_px")),
    ],
    ids=str,
)
def test_malformed_windows(bench, changes):
    begin = Instruction(Opcode.BEGIN, dict(BEGIN.values) | {"digest": WINDOWS.digest})
    program = [begin, window(), window(**changes), STORE, END]
    assert run_bad(bench, program, config=WINDOWS) == (Error.BAD_OPCODE, 2)


def test_windows_within_the_limits(bench):
    """The nearest neighbours of what is refused; and every number of rows for a tap, whether it divides the rows or not."""
    block = Dispatcher(config=WINDOWS)
    program = [
        Instruction(Opcode.BEGIN, dict(BEGIN.values) | {"digest": WINDOWS.digest}),
        window(n_px=WINDOW_TAPS + 1, n_py=3),
        window(n_px=WINDOWS.window_pixels, n_kx=WINDOWS.window_pixels, n_ky=5),
        window(n_py=1023, n_ky=255, stride_ky=2, stride_kx=2, accumulate=1),
        window(n_ky=1, n_kx=1, stride_ky=2, stride_py=0xFFFF, stride_px=0x8000, accumulators=0xFFFF),
        *(once(Opcode.EXECUTE, tap_rows=rows, reduce=1) for rows in range(1, WINDOWS.rows + 1)),
        END,
    ]
    fetcher = Fetcher(block, program)
    got = []

    async def watch(ctx):
        await bench.receive(ctx, block.o_execute, np.random.default_rng(1), 0.0, lambda payload: got.append(payload["word"]))

    async def end(ctx):
        await bench.repeat(ctx, 60)
        assert ctx.get(block.o_error) == Error.NONE, ctx.get(block.o_index)

    bench.run(block, end, background=[fetcher.serve, watch])
    assert got == [word for word, _, _ in ref_entries(program)["execute"]]


def test_the_limits_are_allowed(bench):
    """The nearest neighbours of what is refused pass, and so do counts of which only the highest bit is set."""
    block = Dispatcher(config=CONFIG)
    program = [BEGIN]
    for opcode, counts in ONCE.items():
        widths = {field.name: field.width for field in isa.fields_of(opcode)}
        program.append(once(opcode, **{name: 1 << (widths[name] - 1) for name in counts if name not in ("tap_rows", "groups")}))
    program += [
        once(Opcode.LOAD, target=Target.PARAMETERS, element_log2=4, memory_address=48),
        once(Opcode.LOAD, target=Target.FILL, memory_address=1, element_log2=7),
        once(Opcode.LOAD, target=Target.WEIGHTS, element_log2=1, memory_address=2, memory_stride_y=64, memory_stride_z=6),
        once(Opcode.LOAD, target=Target.PAIR_TABLE, element_log2=2, memory_address=4),
        once(Opcode.EXECUTE, tap_rows=ROWS, row_offset=1),
        once(Opcode.EXECUTE, operation=Operation.HIGH, tap_rows=ROWS),
        once(Opcode.STORE, groups=2, rounding=2, use_table=1, source=1),
        once(Opcode.STORE, first_group=1, byte_offset=1, memory_address=1),
        once(Opcode.STORE, to_memory=1, memory_address=2, memory_stride_y=6),
    ]
    fetcher = Fetcher(block, [*program, END])

    async def watch(ctx):
        await bench.repeat(ctx, 60)
        assert ctx.get(block.o_error) == Error.NONE, ctx.get(block.o_index)
        for queue in QUEUES:
            assert ctx.get(getattr(block, f"o_{queue}").valid)

    bench.run(block, watch, background=[fetcher.serve])


@pytest.mark.parametrize("code", [code for code in range(16) if code not in list(Opcode)] + [Opcode.BEGIN])
def test_illegal_opcodes(bench, code):
    class Raw:
        def encode(self):
            return bytes([0xF0 | code]) * INSTRUCTION_BYTES

    assert run_bad(bench, [BEGIN, once(Opcode.LOAD), once(Opcode.LOAD), Raw(), STORE, END]) == (Error.BAD_OPCODE, 3)


@pytest.mark.parametrize("index", [0, 1, 2, 5])
def test_a_read_error_counts_when_its_instruction_is_reached(bench, index):
    program = [BEGIN, *(once(Opcode.LOAD) for _ in range(5)), STORE, END]
    assert run_bad(bench, program, bad={index}) == (Error.READ_FAULT, index)


def test_an_error_in_any_beat_of_an_instruction(bench):
    """With narrow beats the error of the first one is remembered, and of the following instruction forgotten."""
    config = replace(CONFIG, bus_bytes=8)
    begin = Instruction(Opcode.BEGIN, dict(BEGIN.values) | {"digest": config.digest})
    for part in range(4):
        block = Dispatcher(config=config)
        code = begin.encode() + once(Opcode.LOAD).encode() + once(Opcode.LOAD).encode()

        async def feed(ctx, block=block, code=code, part=part):
            for n in range(12):
                data = int.from_bytes(code[8 * n : 8 * n + 8], "little")
                ctx.set(block.i_beat.payload, {"data": data, "error": n == 4 + part, "last": 0})
                ctx.set(block.i_beat.valid, 1)
                await ctx.tick()
            ctx.set(block.i_beat.valid, 0)
            await bench.repeat(ctx, 5)
            assert (ctx.get(block.o_error), ctx.get(block.o_index)) == (Error.READ_FAULT, 1), f"beat {part}"

        bench.run(block, feed)


def test_a_full_queue_holds_back_what_follows(bench):
    """QUEUE_DEPTH entries wait for their unit; then the prefetch buffer fills, and no more is fetched."""
    program = [BEGIN, *(once(Opcode.LOAD) for _ in range(QUEUE_DEPTH + 1)), *(STORE for _ in range(40)), END]
    block = Dispatcher(config=CONFIG)
    fetcher = Fetcher(block, program)

    async def watch(ctx):
        await bench.repeat(ctx, 100)
        # what has left the buffer makes room for whole bursts only
        chunk = FETCH_BYTES // INSTRUCTION_BYTES
        assert len(fetcher.addresses) == (1 + QUEUE_DEPTH + PREFETCH) // chunk
        assert not ctx.get(block.o_store.valid)
        ctx.set(block.o_load.ready, 1)
        await ctx.tick()
        ctx.set(block.o_load.ready, 0)
        # the ninth LOAD takes the free place in the next cycle, the STORE follows it and is shown two cycles later
        for expected in (0, 0, 0, 1):
            assert ctx.get(block.o_store.valid) == expected
            await ctx.tick()

    bench.run(block, watch, background=[fetcher.serve])


@pytest.mark.parametrize("when", [0, 1, 5, 12])
def test_halt(bench, when):
    """Nothing is dispatched any more, so the buffer fills and no more is fetched."""
    program = [BEGIN, *(STORE for _ in range(40)), END]
    block = Dispatcher(config=CONFIG)
    fetcher = Fetcher(block, program)

    async def watch(ctx):
        await bench.repeat(ctx, when)
        ctx.set(block.i_halt, 1)
        await bench.repeat(ctx, 2)
        shown, index = ctx.get(block.o_store.valid), ctx.get(block.o_index)
        await bench.repeat(ctx, 50)
        assert ctx.get(block.o_store.valid) == shown
        assert len(fetcher.addresses) <= (PREFETCH + when) * INSTRUCTION_BYTES // FETCH_BYTES
        assert ctx.get(block.o_index) == index
        assert not ctx.get(block.o_done)
        assert ctx.get(block.o_error) == Error.NONE

    bench.run(block, watch, background=[fetcher.serve])


def test_an_address_stays_until_it_is_taken(bench):
    block = Dispatcher(config=CONFIG)
    seen = []

    async def watch(ctx):
        for cycle in range(5):
            ctx.set(block.i_halt, cycle >= 2)
            _, _, valid, address = await ctx.tick().sample(block.o_address.valid, block.o_address.payload.address)
            seen.append((valid, address))
        ctx.set(block.o_address.ready, 1)
        # there is room for so many bursts
        await bench.repeat(ctx, PREFETCH * INSTRUCTION_BYTES // FETCH_BYTES)
        assert not ctx.get(block.o_address.valid)

    bench.run(block, watch)
    assert seen == [(1, 0)] * 5


def test_what_is_under_way_can_be_told_from_what_is_long_finished() -> None:
    """A difference of counters is signed: a unit's queue, and all that it may have begun, lie within half of its range."""
    begun = max(RESULTS, OUTSTANDING + IN_FLIGHT, HANDED + max(config.rows + config.columns for config in PRESETS.values()))
    assert QUEUE_DEPTH + begun + PREFETCH < 1 << (UNFINISHED_BITS - 1)
