"""The accumulators: what is added where, when it is in memory, and reads by the output stage meanwhile."""

from dataclasses import dataclass

import numpy as np
import pytest

from accel.isa import Operation
from rtl.accumulators import READ_LATENCY, REVISIT, Accumulators

#: What comes to the accumulators; the sums of a WINDOW come as those of ARRAY.
OPERATIONS = [operation for operation in Operation if operation is not Operation.WINDOW]

INT_MIN, INT_MAX = -(1 << 31), (1 << 31) - 1


def wrap(value):
    return (value - INT_MIN) % (1 << 32) + INT_MIN


@dataclass(frozen=True, kw_only=True)
class Pixel:
    """What is on the control port in a cycle."""

    cycle: int
    operation: Operation
    shift: int
    address: int
    overwrite: bool
    drop: bool
    forward: bool
    last: bool


class Schedule:
    """Random instructions on the control port, the operands they find, and what must then be in the banks and come out."""

    def __init__(self, seed, *, rows, columns, depth, lanes, width, instructions):
        self.rng = rng = np.random.default_rng([seed, rows, columns])
        self.rows, self.columns, self.depth, self.lanes, self.width = rows, columns, depth, lanes, width
        shifts = -(-rows // columns)
        self.pixels = []
        self.done = []
        self.busy = []  # (half, first cycle, cycle of o_done)
        cycle = 1
        path = None
        known = set()
        accumulated = {}
        for _ in range(instructions):
            operation = Operation(int(rng.choice(OPERATIONS)))
            shift = 0 if operation is Operation.ARRAY else int(rng.integers(0, shifts))
            if path != (operation is Operation.ARRAY, shift):
                cycle += rows + columns + REVISIT
            path = (operation is Operation.ARRAY, shift)
            half = int(rng.integers(0, 2))
            addresses = (half * depth + rng.choice(depth, int(rng.integers(1, depth + 1)), replace=False)).tolist()
            # a window of this many pixels goes into each word
            window = int(rng.choice([1, 1, 2, 5]))
            drops = {address for address in addresses if rng.random() < 0.2}
            first = cycle
            passes = int(rng.integers(1, 4))
            for n in range(passes):
                for address in addresses:
                    overwrite = n == 0 and (address not in known or rng.random() < 0.5)
                    # the next pass, or instruction, comes as early as is promised
                    cycle = max(cycle, accumulated.get(address, -REVISIT) + REVISIT)
                    for k in range(window):
                        self.pixels.append(
                            Pixel(
                                cycle=cycle,
                                operation=operation,
                                shift=shift,
                                address=address,
                                overwrite=overwrite and not k,
                                drop=address in drops,
                                forward=k > 0,
                                last=(n, address, k) == (passes - 1, addresses[-1], window - 1),
                            )
                        )
                        cycle += 1
                    if address not in drops:
                        accumulated[address] = cycle - 1
            known |= set(addresses) - drops
            last = self.pixels[-1].cycle
            done = last + columns + (rows + 7 if operation is Operation.ARRAY else 6 + shift * columns)
            self.done.append(done)
            self.busy.append((half, first, done))
            cycle += int(rng.choice([0, 0, 1, rows + columns + 10]))
        self.cycles = max(self.done) + 3 * depth + READ_LATENCY + 2

    def inputs(self):
        rng, rows, columns = self.rng, self.rows, self.columns
        low, high = -(1 << self.width - 1), 1 << self.width - 1
        shape = (self.cycles + rows + columns + 8, columns)
        # many at the ends of their range, where a comparison with a byte would overflow
        ends = rng.choice([low, low + 1, low + 126, high - 127, high - 1], shape)
        self.sums = np.where(rng.random(shape) < 0.4, ends, rng.integers(low, high, shape))
        self.bytes = rng.choice([-128, 127, -1, 0, 5, -77], (self.cycles + rows + columns + 8, rows))
        self.drains = []
        controls = {pixel.cycle: pixel for pixel in self.pixels}
        result = []
        for cycle in range(self.cycles):
            control = {
                "valid": 0,
                **{name: int(rng.integers(0, 2)) for name in ("last", "drop", "overwrite", "forward")},
                "operation": Operation(int(rng.choice(OPERATIONS))),
                "address": int(rng.integers(0, 2 * self.depth)),
            }
            if cycle in controls:
                pixel = controls[cycle]
                control = {
                    "valid": 1,
                    **{name: int(getattr(pixel, name)) for name in ("last", "drop", "overwrite", "forward")},
                    "operation": pixel.operation,
                    "address": pixel.address,
                }
                if rows > columns:
                    control["shift"] = pixel.shift
            free = [half for half in (0, 1) if not any(h == half and a <= cycle < d for h, a, d in self.busy)]
            half = int(rng.choice(free)) if free else 0
            drain = {"address": half * self.depth + int(rng.integers(0, self.depth))}
            group = int(rng.integers(0, columns // self.lanes))
            if columns > self.lanes:
                drain["group"] = group
            if free:
                self.drains.append((cycle, drain["address"], group))
            result.append(
                {
                    "i_control": control,
                    "i_drain": drain,
                    "i_sums": self.sums[cycle].tolist(),
                    "i_bytes": self.bytes[cycle].tolist(),
                }
            )
        return result

    def banks(self):
        """Yield what the banks hold in each cycle that an instruction is done, as ``(cycle, {address: [sum of each column]})``."""
        held = {}
        finished = iter(self.done)
        before = [None] * self.columns
        for pixel in self.pixels:
            word = before if pixel.forward else held.get(pixel.address, [None] * self.columns)
            before = [self.result(pixel, c, word[c]) for c in range(self.columns)]
            if not pixel.drop:
                held[pixel.address] = before
            if pixel.last:
                yield next(finished), {at: list(values) for at, values in held.items()}

    def result(self, pixel, column, old):
        """Return a column's sum with a pixel, or None where that means nothing."""
        row = column + pixel.shift * self.columns
        if pixel.operation is Operation.ARRAY:
            value = int(self.sums[pixel.cycle + self.rows + 6 + column, column])
        elif row >= self.rows:
            return None
        else:
            value = int(self.bytes[pixel.cycle + 4 + row, row])
        if pixel.operation in (Operation.LOW, Operation.HIGH):
            value = value % 256 << (8 if pixel.operation is Operation.HIGH else 0)
        if pixel.overwrite or old is None:
            return value if pixel.overwrite else None
        return max(old, value) if pixel.operation is Operation.MAX else wrap(old + value)


@pytest.mark.parametrize(
    ("rows", "columns", "depth", "lanes", "width"),
    [(1, 1, 4, 1, 16), (2, 2, 8, 1, 32), (3, 5, 4, 5, 18), (5, 3, 8, 1, 19), (8, 2, 16, 2, 32), (4, 4, 16, 2, 18)],
)
@pytest.mark.parametrize("seed", range(2))
def test_random_instructions(bench, rows, columns, depth, lanes, width, seed):
    schedule = Schedule(seed, rows=rows, columns=columns, depth=depth, lanes=lanes, width=width, instructions=14)
    block = Accumulators(rows=rows, columns=columns, depth=depth, lanes=lanes, width=width)
    seen = bench.trace(block, schedule.inputs(), ["o_lanes", "o_done"])
    assert [cycle for cycle, values in enumerate(seen) if values["o_done"]] == sorted(schedule.done), f"seed {seed}"
    banks = [(0, {}), *schedule.banks()]
    compared = 0
    for cycle, address, group in schedule.drains:
        if cycle + READ_LATENCY >= len(seen):
            continue
        # instructions are in order, so the last one done by now shows all that this free half holds
        held = [words for done, words in banks if done <= cycle][-1].get(address, [None] * columns)
        for lane in range(lanes):
            expected = held[group * lanes + lane]
            if expected is not None:
                assert seen[cycle + READ_LATENCY]["o_lanes"][lane] == expected, f"seed {seed}: word {address} in cycle {cycle}"
                compared += 1
    assert compared > 40


def test_a_word_accumulates_every_fourth_cycle_and_wraps(bench):
    """REVISIT promises four cycles; every cycle in between belongs to another word."""
    rows = columns = 1
    block = Accumulators(rows=rows, columns=columns, depth=8, lanes=1, width=32)
    start = [INT_MAX, INT_MIN, 1 << 30, -1]
    inputs = []
    for n in range(40):
        pixel = n < 16
        control = {
            "valid": int(pixel),
            "overwrite": int(n < 4),
            "last": int(n == 15),
            "operation": Operation.ARRAY,
            "address": n % 4,
        }
        k = n - rows - 6
        value = start[k % 4] if 0 <= k < 4 else [1, -1, 1 << 30, INT_MIN][k % 4]
        inputs.append({"i_control": control, "i_sums": [value], "i_drain": {"address": n % 4}})
    seen = bench.trace(block, inputs, ["o_lanes", "o_done"])
    assert [n for n, values in enumerate(seen) if values["o_done"]] == [15 + rows + columns + 7]
    got = [seen[24 + n + READ_LATENCY]["o_lanes"][0] for n in range(4)]
    expected = [start[n] for n in range(4)]
    for _ in range(3):
        expected = [wrap(old + new) for old, new in zip(expected, [1, -1, 1 << 30, INT_MIN], strict=True)]
    assert got == expected


def test_a_maximum_of_sums_at_the_ends_of_their_range(bench):
    """Where a subtraction of 32 bits would overflow: of the memory's sum, and of the one that is forwarded."""
    rows = columns = 1
    block = Accumulators(rows=rows, columns=columns, depth=8, lanes=1, width=32)
    sums, byte = [INT_MIN, INT_MIN + 126, INT_MAX - 126, INT_MAX], [127, 127, -128, -128]
    begin = len(sums) + rows + columns + REVISIT
    end = begin + 2 * len(sums)
    inputs = []
    for n in range(end + 20):
        control = {"valid": 0}
        if n < len(sums):
            control = {"valid": 1, "overwrite": 1, "operation": Operation.ARRAY, "address": n}
        elif begin <= n < end:
            control = {"valid": 1, "operation": Operation.MAX, "address": (n - begin) // 2, "forward": (n - begin) % 2}
        k, b = n - rows - 6, (n - 4 - begin) // 2
        values = {"i_sums": [sums[k] if 0 <= k < 4 else 0], "i_bytes": [byte[b] if 0 <= b < 4 else 0]}
        inputs.append({"i_control": control, **values, "i_drain": {"address": n % 4}})
    seen = bench.trace(block, inputs, ["o_lanes"])
    first = -(-(end + 8) // 4) * 4
    got = [seen[first + n + READ_LATENCY]["o_lanes"][0] for n in range(4)]
    assert got == [max(pair) for pair in zip(sums, byte, strict=True)]
