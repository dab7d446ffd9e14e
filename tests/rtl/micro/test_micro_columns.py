"""The columns add products up and hand them out in turn; the memory of sums replaces, adds and compares."""

from typing import Any

import numpy as np
import pytest

from accel.numerics import wrap_int32
from rtl.micro.columns import Columns, Sums

COLUMNS = 8


@pytest.mark.parametrize("seed", range(3))
def test_columns_add_up_and_leave_in_turn(bench: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    inputs: list[dict[str, Any]] = []
    expected: dict[int, int] = {}
    last = -COLUMNS
    for _ in range(12):
        count = int(rng.integers(1, 20))
        data = rng.integers(-128, 128, count)
        weights = rng.integers(-128, 128, (count, COLUMNS))
        for byte, row in zip(data.tolist(), weights.tolist(), strict=True):
            inputs.append({"i_byte": byte, "i_weights": row, "i_valid": 1, "i_take": 0})
            while rng.random() < 0.2:
                inputs.append({"i_byte": 99, "i_valid": 0})
        while len(inputs) < last + COLUMNS:
            inputs.append({"i_valid": 0})
        last = len(inputs)
        inputs.append({"i_valid": 0, "i_take": 1})
        for column, value in enumerate((data @ weights).tolist()):
            expected[last + 2 + column] = value
    inputs.append({"i_take": 0})
    trace = bench.trace(Columns(columns=COLUMNS), inputs, ["o_sum"], more=COLUMNS + 2)
    assert {cycle: trace[cycle]["o_sum"] for cycle in expected} == expected, f"seed {seed}"


@pytest.mark.parametrize("seed", range(3))
def test_sums_are_replaced_added_to_and_compared(bench: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    depth = 8
    held = [0] * depth
    inputs: list[dict[str, Any]] = []
    expected: dict[int, int] = {}
    value: dict[str, int] = {}
    before = -1
    for cycle in range(400):
        address = int(rng.choice([n for n in range(depth) if n != before]))
        update = int(rng.random() < 0.7)
        inputs.append({"i_address": address, "i_update": update, **value})
        expected[cycle + 1] = held[address]
        value, before = {}, -1
        if update:
            spread = int(rng.choice([100, 2**31]))
            number, keep, maximum = int(rng.integers(-spread, spread)), int(rng.integers(2)), int(rng.integers(2))
            value, before = {"i_value": number, "i_keep": keep, "i_maximum": maximum}, address
            if not keep:
                held[address] = number
            else:
                held[address] = max(held[address], number) if maximum else int(wrap_int32(held[address] + number))
    trace = bench.trace(Sums(depth=depth), inputs, ["o_sum"])
    assert {cycle: trace[cycle]["o_sum"] for cycle in expected if cycle < len(trace)} == {
        cycle: number for cycle, number in expected.items() if cycle < len(trace)
    }, f"seed {seed}"
