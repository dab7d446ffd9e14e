"""The compiler's pieces, each against a slower and plainer version of itself."""

import numpy as np
import pytest

from accel.compiler.frames import Frame, Rectangle, border_fills
from accel.compiler.hazards import Access, HazardTracker, Space
from accel.compiler.rings import Ring
from accel.compiler.stages import Unit, spans, storage_period
from accel.compiler.weights import factor_shifts
from accel.config import PRESETS
from accel.isa import UNORDERED, Opcode
from accel.testing import ODD_CONFIGS

UNITS = (Opcode.LOAD, Opcode.EXECUTE, Opcode.STORE)
WAITS = ("after_load", "after_execute", "after_store")


class History:
    """What instructions touched, and how many of each unit's have surely ended when each one starts: the slow way."""

    def __init__(self) -> None:
        self.units: list[list[tuple[list[Access], list[Access], list[int]]]] = [[], [], []]
        self.acknowledged = 0

    def conflicts(self, unit: int, reads: list[Access], writes: list[Access]) -> list[int]:
        """Return the latest instruction of each unit that conflicts, counted from 1."""

        def meet(one: list[Access], other: list[Access]) -> bool:
            return any(a.space is b.space and max(a.first, b.first) < min(a.last, b.last) for a in one for b in other)

        latest = [0, 0, 0]
        for other in range(3):
            for number, (past_reads, past_writes, _) in enumerate(self.units[other], 1):
                if meet(reads, past_writes) or meet(writes, past_reads + past_writes):
                    latest[other] = number
        latest[unit] = 0
        return latest

    def ended(self, unit: int, values: dict[str, int]) -> list[int]:
        """Return how many instructions of each unit have ended when the next one starts."""
        known = [0, 0, 0]
        for other in range(3):
            wait = 0 if other == unit else values[WAITS[other]]
            # without an order nothing is known, however long ago it was
            known[other] = 0 if wait == UNORDERED else max(0, len(self.units[other]) - wait)
        for other in range(3):
            if known[other]:
                known = [max(a, b) for a, b in zip(known, self.units[other][known[other] - 1][2], strict=True)]
        return known


@pytest.mark.parametrize("seed", range(5))
def test_whatever_conflicts_is_waited_for(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tracker, history = HazardTracker(), History()

    def access(space: Space) -> Access:
        start = int(rng.integers(0, 40))
        return Access(space, start, start + int(rng.integers(0, 12)))

    for _ in range(500):
        unit = int(rng.integers(3))
        reads = [access(Space.SCRATCHPAD), access(Space.WEIGHTS)]
        writes = [access(Space.SCRATCHPAD if rng.random() < 0.5 else Space.ACCUMULATORS)]
        from_memory = [access(Space.MEMORY)] if unit == 0 else []
        to_memory = [access(Space.MEMORY)] if unit == 2 else []
        values = tracker.order(UNITS[unit], reads + from_memory, writes + to_memory)
        ended = history.ended(unit, values)
        latest = history.conflicts(unit, reads + from_memory, writes + to_memory)
        assert all(a >= b for a, b in zip(ended, latest, strict=True)), f"seed {seed}: {values}"
        written = history.conflicts(unit, from_memory, [])[2]
        if values.get("fence"):
            assert written > 0, f"seed {seed}: a fence for nothing"
            history.acknowledged = ended[2]
        assert written <= history.acknowledged, f"seed {seed}: a fence is missing"
        for other in range(3):
            distance = len(history.units[other]) - latest[other]
            # the furthest that a wait can reach is one short of no wait at all
            least = min(distance, UNORDERED - 1)
            assert values[WAITS[other]] == UNORDERED or values[WAITS[other]] >= least, f"seed {seed}: a wait for nothing"
        history.units[unit].append((reads + from_memory, writes + to_memory, ended))


def test_hazards_count_what_lies_between() -> None:
    tracker = HazardTracker()
    word = [Access(Space.SCRATCHPAD, 7, 8)]
    other = [Access(Space.SCRATCHPAD, 8, 9)]
    assert tracker.order(Opcode.LOAD, [], word)["after_execute"] == UNORDERED
    tracker.order(Opcode.LOAD, [], other)
    assert tracker.order(Opcode.EXECUTE, word, [])["after_load"] == 1
    for _ in range(29):
        tracker.order(Opcode.LOAD, [], other)
    assert tracker.order(Opcode.EXECUTE, word, [])["after_load"] == 30
    for _ in range(100):
        tracker.order(Opcode.LOAD, [], other)
        # further back than the field can say: as strict as it can be, never no wait at all
        assert tracker.order(Opcode.EXECUTE, word, [])["after_load"] == UNORDERED - 1


@pytest.mark.parametrize("seed", range(5))
def test_fills_cover_what_lies_outside_the_map(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(100):
        height, width = (int(n) for n in rng.integers(1, 7, 2))
        top, left = (int(n) for n in rng.integers(-4, 5, 2))
        bottom, right = top + int(rng.integers(1, 9)), left + int(rng.integers(1, 9))
        area = Rectangle(top=top, bottom=bottom, left=left, right=right, first_plane=2, last_plane=2 + int(rng.integers(1, 4)))
        frame = Frame(area=area, height=height, width=width, base=int(rng.integers(0, 50)))
        outside, inside = set(), set()
        for plane in range(area.first_plane, area.last_plane):
            for y in range(top, bottom):
                for x in range(left, right):
                    kind = inside if 0 <= y < height and 0 <= x < width else outside
                    kind.add(frame.address(plane, y, x))
        filled = {
            address + line * pitch + word
            for address, words, lines, pitch in border_fills(frame)
            for line in range(lines)
            for word in range(words)
        }
        assert filled == outside, f"seed {seed}: {frame}"
        assert not inside & outside, f"seed {seed}: {frame}"
        assert inside | outside == set(range(frame.base, frame.base + frame.words)), f"seed {seed}: {frame}"


def test_rings_forget_what_they_overwrite() -> None:
    rng = np.random.default_rng(0)
    ring: Ring[int] = Ring(10, 110)
    owner: dict[int, int] = {}
    for key in range(500):
        size = int(rng.integers(1, 40))
        address = ring.allocate(key, size)
        ring.put(key, address)
        assert address >= 10
        assert address + size <= 110
        owner.update(dict.fromkeys(range(address, address + size), key))
        for old in range(key + 1):
            if (found := ring.find(old)) is not None:
                assert owner[found] == old


@pytest.mark.parametrize("config", [*PRESETS.values(), *ODD_CONFIGS], ids=lambda config: config.name)
def test_pieces_of_a_unit_lie_in_one_word_each(config: object) -> None:
    assert hasattr(config, "rows")
    for first in range(0, 5 * config.columns, config.columns):
        for channels in range(1, config.columns + 1):
            covered = []
            for piece in Unit(first_channel=first, channels=channels, first_plane=0, last_plane=1).pieces(config):
                assert piece.byte_offset + piece.groups * config.lanes <= config.rows
                start = piece.plane * config.rows + piece.byte_offset
                assert start == first + piece.first_group * config.lanes
                covered += range(start, start + piece.groups * config.lanes)
            assert covered[:channels] == list(range(first, first + channels))


def test_narrow_maps_repeat_by_a_power_of_two() -> None:
    periods = {name: [storage_period(PRESETS[name], channels) for channels in (1, 2, 3, 4, 6, 8, 9)] for name in ("base", "large")}
    assert periods == {"base": [1, 2, 4, 4, 8, 8, 8], "large": [1, 2, 4, 4, 8, 8, 16]}
    odd = next(config for config in ODD_CONFIGS if config.name == "12x8")
    assert [storage_period(odd, channels) for channels in (1, 2, 3, 5, 12)] == [1, 2, 4, 12, 12]


def test_spans_are_few_and_even() -> None:
    assert list(spans(3, 10, 3)) == [(3, 5), (5, 7), (7, 10)]
    assert list(spans(0, 4, 9)) == [(0, 4)]


def test_shifts_without_a_multiplier_are_those_less_its_bits() -> None:
    import dataclasses

    from accel.emulator import round_in_stages
    from accel.numerics import Rounding, requantise

    config = dataclasses.replace(PRESETS["base"], multiplier=False)
    sums = np.array([0, 1, -1, 2, -3, 127, -128, 5000, -5001, 2**31 - 1, -(2**31)])
    for rounding in Rounding:
        for multiplier in (0, 1, 1 << 7, 1 << 30):
            for shift in range(-31, 2):
                found = factor_shifts(multiplier, shift, rounding, config)
                assert found is not None
                assert np.array_equal(round_in_stages(sums, *found, rounding), requantise(sums, multiplier, shift, rounding))
