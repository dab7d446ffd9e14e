"""The requantiser equals :func:`accel.numerics.requantise`, a sum every cycle in each lane, ``LATENCY`` cycles later."""

import numpy as np
import pytest
from amaranth.hdl import Module, Signal, signed

from accel.config import Multiply
from accel.numerics import MAX_SHIFT, MIN_SHIFT, Rounding, requantise, shift_stages
from rtl.requantise import Requantiser, saturate

INT_MIN, INT_MAX = -(1 << 31), (1 << 31) - 1


def ref_requantise(cases, multiplies):
    """Return the bytes of cases ``(sum, bias, multiplier, shift, rounding, zero point, minimum, maximum)``."""
    result = []
    for total, bias, multiplier, shift, rounding, zero_point, minimum, maximum in cases:
        biased = (total + bias - INT_MIN) % (1 << 32) + INT_MIN
        value = int(requantise(biased, multiplier if multiplies else 1, shift, rounding)) + zero_point
        result.append(min(max(value, minimum), maximum))
    return result


def rtl_requantise(bench, cases, multiplies, lanes):
    """Return the same from the hardware. The cases of one cycle must share the recipe: the last four."""
    inputs = []
    places = []
    for group in (cases[n : n + lanes] for n in range(0, len(cases), lanes)):
        parameters = []
        for _, bias, multiplier, shift, rounding, *_ in group:
            first, second = shift_stages(shift, rounding)
            parameters.append({"bias": bias, "multiplier": multiplier, "first_shift": first, "second_shift": second})
        rounding, zero_point, minimum, maximum = group[0][4:]
        assert all(case[4:] == group[0][4:] for case in group)
        recipe = {"rounding": rounding, "zero_point": zero_point, "minimum": minimum, "maximum": maximum}
        places.append(len(inputs))
        inputs.append({"i_sums": [case[0] for case in group], "i_parameters": parameters, "i_recipe": recipe})
        if len(places) % 3 == 0:
            # between them other sums, which mean nothing
            inputs.append({**inputs[-1], "i_sums": [~case[0] for case in group]})
    block = Requantiser(lanes=lanes, multiply=Multiply.PORTABLE if multiplies else None)
    seen = bench.trace(block, inputs, ["o_bytes"], more=Requantiser.LATENCY)
    return [byte for place in places for byte in seen[place + Requantiser.LATENCY]["o_bytes"]]


def check(bench, cases, *, multiplies=True, lanes=1, note=""):
    for case, got, expected in zip(
        cases, rtl_requantise(bench, cases, multiplies, lanes), ref_requantise(cases, multiplies), strict=True
    ):
        assert got == expected, f"{note}: {case}"


@pytest.mark.parametrize("rounding", Rounding)
@pytest.mark.parametrize("multiplies", [True, False])
def test_every_shift_at_the_ends_of_the_range(bench, rounding, multiplies):
    sums = [INT_MIN, INT_MIN + 1, -(1 << 30), -3, -1, 0, 1, 3, 1 << 30, INT_MAX]
    cases = [
        (total, 0, multiplier, shift, rounding, 0, -128, 127)
        for shift in range(MIN_SHIFT, MAX_SHIFT + 1)
        for multiplier in ([1, 1 << 30, (1 << 31) - 1] if multiplies else [0])
        for total in sums
    ]
    check(bench, cases, multiplies=multiplies, lanes=5)


@pytest.mark.parametrize("rounding", Rounding)
def test_ties(bench, rounding):
    """Sums whose products lie half way, or one bit beside it, between two integers."""
    cases = []
    for bits in range(1, 31):
        half = 1 << bits - 1
        # the multiplier is 2**30, so the factor is 2**-bits
        for whole in (-3, -2, -1, 0, 1, 2):
            cases += [((whole << bits) + half + beside, 0, 1 << 30, 1 - bits, rounding, 0, -128, 127) for beside in (-1, 0, 1)]
            # the same with the tie far below the point: only the sticky bit tells
            cases += [((whole << bits) + half, 0, (1 << 30) + beside, 1 - bits, rounding, 0, -128, 127) for beside in (-1, 0, 1)]
    cases = [case for case in cases if INT_MIN <= case[0] <= INT_MAX]
    check(bench, cases[: len(cases) // 6 * 6], lanes=6)


@pytest.mark.parametrize("rounding", Rounding)
def test_bits_that_the_first_shift_drops_break_ties(bench, rounding):
    """Products just above a half, by so little that the first shift loses the difference."""
    rng = np.random.default_rng(5)
    cases = []
    for dropped in range(23, 32):
        total = 31 + dropped
        multipliers = rng.integers(1 << 30, 1 << 31, 1 << 14)
        wholes = rng.integers(-(1 << 62 - total), 1 << 62 - total, len(multipliers))
        ties = (wholes << total) + (1 << total - 1)
        sums = -(-ties // multipliers)
        rest = sums * multipliers - ties
        found = np.flatnonzero((rest > 0) & (rest < 1 << dropped) & (abs(sums) < 1 << 31))[:12]
        assert len(found) == 12
        cases += [(int(sums[n]), 0, int(multipliers[n]), -dropped, rounding, 0, -128, 127) for n in found]
    check(bench, cases, lanes=4)


@pytest.mark.parametrize(("lanes", "multiplies"), [(1, True), (2, False), (3, True)])
@pytest.mark.parametrize("seed", range(2))
def test_random_recipes(bench, lanes, multiplies, seed):
    rng = np.random.default_rng([seed, lanes])
    cases = []
    for _ in range(600):
        rounding = Rounding(int(rng.integers(3)))
        minimum, maximum = sorted(rng.choice([-128, 127, *rng.integers(-128, 128, 3)], 2).tolist())
        zero_point = int(rng.choice([-128, 0, 127, int(rng.integers(-128, 128))]))
        for _ in range(lanes):
            total = int(rng.integers(INT_MIN, INT_MAX + 1)) >> int(rng.integers(0, 31))
            # mostly such that the result is not just the clamp
            shift = int(rng.integers(MIN_SHIFT, MAX_SHIFT + 1))
            if rng.random() < 0.7:
                size = 7 - max(1, abs(total).bit_length())
                shift = min(max(size + int(rng.integers(-2, 3)), MIN_SHIFT), MAX_SHIFT)
                shift = min(shift + (0 if multiplies else 31), MAX_SHIFT)
            bias = int(rng.integers(INT_MIN, INT_MAX + 1)) >> int(rng.integers(0, 32))
            multiplier = int(rng.integers(0, 1 << 31)) | (1 << 30 if rng.random() < 0.8 else 0)
            cases.append((total, bias, multiplier, shift, rounding, zero_point, minimum, maximum))
    check(bench, cases, multiplies=multiplies, lanes=lanes, note=f"seed {seed}")


def test_the_zero_point_and_the_clamp_saturate(bench):
    cases = [
        (total, 0, 1 << 30, 1, Rounding.SINGLE_UP, zero_point, minimum, maximum)
        for total in (-100000, -513, -512, -257, -256, -255, -129, -128, 0, 127, 128, 254, 255, 256, 511, 512, 100000)
        for zero_point in (-128, -1, 0, 127)
        for minimum, maximum in ((-128, 127), (0, 127), (-128, -128), (127, 127), (-5, 6))
    ]
    check(bench, cases)


def test_the_bias_wraps(bench):
    cases = [
        (INT_MAX, 1, 1 << 30, -23, Rounding.HALF_EVEN, 0, -128, 127),
        (INT_MIN, -1, 1 << 30, -23, Rounding.HALF_EVEN, 0, -128, 127),
        (INT_MIN, INT_MIN, 1 << 30, 1, Rounding.HALF_EVEN, 9, -128, 127),
    ]
    assert ref_requantise(cases, True) == [-128, 127, 9]
    check(bench, cases)


def test_saturate(bench):
    m = Module()
    value, result = Signal(signed(6)), Signal(signed(6))
    m.d.comb += result.eq(saturate(value, -3, 5))

    async def testbench(ctx):
        for number in range(-32, 32):
            ctx.set(value, number)
            await ctx.tick()
            assert ctx.get(result) == min(max(number, -3), 5)

    m.d.sync += Signal().eq(1)
    bench.run(m, testbench)
