"""The output stage of the small engine: bias, the largest of a window, requantisation and clamp, a sum a cycle."""

from typing import Any

import numpy as np
import pytest

from accel.emulator import round_in_stages
from accel.numerics import Rounding, shift_stages, wrap_int32
from rtl.micro.output import Output
from rtl.micro.primitives import WideProduct

EDGES = [-(2**31), -(2**31) + 1, -(2**16), -(2**15) - 1, -1, 0, 1, 2**15 - 1, 2**16 - 1, 2**31 - 1]


def ref_output(sums: list[int], parameter: dict[str, int], recipe: dict[str, int]) -> int:
    """Every sum to a byte, the largest of them, as the instruction set has it."""
    biased = wrap_int32(np.array(sums) + parameter["bias"])
    first, second = parameter["first_shift"], parameter["second_shift"]
    values = round_in_stages(biased * parameter["multiplier"], first, second, Rounding(recipe["rounding"]))
    return int(np.clip(values + recipe["zero_point"], recipe["minimum"], recipe["maximum"]).max())


@pytest.mark.parametrize("rounding", Rounding)
@pytest.mark.parametrize("seed", range(4))
def test_bytes_and_their_time(bench: Any, rounding: Rounding, seed: int) -> None:
    rng = np.random.default_rng(seed)
    minimum = int(rng.integers(-128, 1))
    recipe = {
        "rounding": int(rounding),
        "zero_point": int(rng.integers(-128, 128)),
        "minimum": minimum,
        "maximum": int(rng.integers(minimum, 128)),
    }
    inputs: list[dict[str, Any]] = [{"i_recipe": recipe}]
    expected: dict[int, int] = {}
    for _ in range(150):
        first, second = shift_stages(int(rng.integers(-31, 31)), rounding)
        parameter = {
            "bias": int(rng.choice([rng.integers(-5000, 5000), rng.choice(EDGES)])),
            "multiplier": int(rng.choice([0, 1, 2**31 - 1, *rng.integers(1 << 30, 1 << 31, 5)])),
            "first_shift": first,
            "second_shift": second,
        }
        spread = int(rng.choice([100, 10_000, 2**31]))
        sums = [int(rng.choice([rng.integers(-spread, spread), rng.choice(EDGES)])) for _ in range(int(rng.integers(1, 5)))]
        for n, value in enumerate(sums):
            inputs.append({"i_sum": value, "i_parameter": parameter, "i_first": int(n == 0), "i_last": int(n == len(sums) - 1)})
        expected[len(inputs) - 1 + Output.LATENCY] = ref_output(sums, parameter, recipe)
        for _ in range(int(rng.integers(0, 2))):
            inputs.append({"i_sum": int(rng.integers(-100, 100)), "i_first": 0, "i_last": 0})
    inputs.append({"i_last": 0})
    trace = bench.trace(Output(), inputs, ["o_byte", "o_valid"], more=Output.LATENCY + 2)
    seen = {cycle: entry["o_byte"] for cycle, entry in enumerate(trace) if entry["o_valid"]}
    assert seen == expected, f"seed {seed}"


def test_what_is_under_way_is_forgotten(bench: Any) -> None:
    inputs = [{"i_last": 1, "i_first": 1}] * 5 + [{"i_last": 0, "i_clear": 1}]
    trace = bench.trace(Output(), inputs, ["o_valid"], more=2 * Output.LATENCY)
    assert not any(entry["o_valid"] for entry in trace)


def test_the_wide_product_is_exact(bench: Any) -> None:
    rng = np.random.default_rng(7)
    factors = [0, 1, 2**16 - 1, 2**16, 2**30, 2**31 - 1, *rng.integers(0, 2**31, 10).tolist()]
    pairs = [(a, b) for a in [*EDGES, *rng.integers(-(2**31), 2**31, 10).tolist()] for b in factors]
    # the signed factor comes a cycle after the other
    inputs = [{"i_unsigned": pairs[0][1]}]
    for (a, _), (_, b) in zip(pairs, [*pairs[1:], (0, 0)], strict=True):
        inputs.append({"i_signed": a, "i_unsigned": b})
    trace = bench.trace(WideProduct(), inputs, ["o_product"], more=2)
    assert [entry["o_product"] for entry in trace[3:]] == [a * b for a, b in pairs]
