"""One processing element: cycle-exact, against a model of what its docstring draws."""

import numpy as np
import pytest
from amaranth import Module, Signal

from accel.config import Multiply
from rtl.pe import PE, PairPE, sum_width

EXTREMES = (-128, 127)


@pytest.mark.parametrize(("rows", "width"), [(1, 16), (2, 17), (3, 18), (4, 18), (5, 19), (16, 20), (17, 21), (32, 21)])
def test_sum_width_holds_the_largest_sum(rows, width):
    assert sum_width(rows) == width
    assert rows * 128 * 128 < 1 << width - 1


def draw(rng, cycles, *, vertical):
    """Return random values for every input of a processing element in every cycle."""

    def byte():
        return int(rng.choice([*EXTREMES, int(rng.integers(-128, 128))]))

    inputs = []
    for _ in range(cycles):
        values = {
            "i_activation": byte(),
            "i_swap": int(rng.random() < 0.2),
            "i_weight": byte(),
            "i_shift": int(rng.random() < 0.4),
            "i_sum": int(rng.integers(-(1 << 16), 1 << 16)),
        }
        if vertical:
            values |= {"i_above": byte(), "i_vertical": int(rng.random() < 0.5)}
        inputs.append(values)
    return inputs


@pytest.mark.parametrize("form", [Multiply.PORTABLE, Multiply.LOGIC])
@pytest.mark.parametrize("vertical", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_every_output_in_every_cycle(bench, seed, vertical, form):
    cycles = 300
    inputs = draw(np.random.default_rng([seed, vertical]), cycles, vertical=vertical)
    outputs = ["o_activation", "o_weight", "o_sum", *(["o_below"] if vertical else [])]
    seen = bench.trace(PE(width=18, vertical=vertical, form=form), inputs, outputs)

    # The shadow is what i_weight was when it last shifted; the weight is the shadow that the swap of this activation, or of the
    # last activation that had one, found.
    shadow, weight, weights, activations = None, None, [], []
    for cycle, values in enumerate(inputs):
        if values["i_swap"]:
            weight = shadow
        weights.append(weight)
        if values["i_shift"]:
            shadow = values["i_weight"]
        activations.append(values["i_above"] if values.get("i_vertical") else values["i_activation"])
        if cycle + 1 < cycles:
            after = seen[cycle + 1]
            assert after["o_activation"] == activations[cycle], f"seed {seed}, cycle {cycle}"
            if shadow is not None:
                assert after["o_weight"] == shadow, f"seed {seed}, cycle {cycle}"
        if vertical and cycle + 2 < cycles:
            assert seen[cycle + 2]["o_below"] == activations[cycle], f"seed {seed}, cycle {cycle}"
    checked = 0
    for cycle in range(cycles - 3):
        if weights[cycle] is not None:
            expected = inputs[cycle + 2]["i_sum"] + activations[cycle] * weights[cycle]
            assert seen[cycle + 3]["o_sum"] == expected, f"seed {seed}, cycle {cycle}"
            checked += 1
    assert checked > cycles // 2


def test_extreme_products_do_not_overflow_one_row(bench):
    """-128 times -128 is the one product that needs all sixteen bits."""
    inputs = [
        {"i_weight": -128, "i_shift": 1},
        {"i_shift": 0, "i_swap": 1, "i_activation": -128},
        {"i_swap": 0, "i_activation": 127},
    ]
    seen = bench.trace(PE(width=sum_width(2)), inputs, ["o_sum"], more=3)
    assert [values["o_sum"] for values in seen[4:6]] == [16384, -16256]


class TwoPEs(PairPE):
    """Two elements side by side with the ports of a pair."""

    def elaborate(self, platform):
        m = Module()
        elements = [PE(width=self.width) for _ in range(2)]
        swap = Signal()
        m.d.sync += swap.eq(self.i_swap)
        for n, element in enumerate(elements):
            m.submodules += element
            m.d.comb += [
                element.i_activation.eq(elements[0].o_activation if n else self.i_activation),
                element.i_swap.eq(swap if n else self.i_swap),
                element.i_weight.eq(self.i_weights[n]),
                element.i_shift.eq(self.i_shifts[n]),
                element.i_sum.eq(self.i_sums[n]),
                self.o_weights[n].eq(element.o_weight),
                self.o_sums[n].eq(element.o_sum),
            ]
        m.d.comb += self.o_activation.eq(elements[1].o_activation)
        return m


@pytest.mark.parametrize("seed", range(4))
def test_a_pair_does_what_two_elements_do(bench, seed):
    """Every output in every cycle; the second shadow shifts up to the cycle of the first one's swap, and from its own on."""
    rng = np.random.default_rng(seed)
    width, inputs = 18, []
    for _ in range(60):
        # a tile: shadows shift, then the swap comes, and with it activations until the next
        shifted, length = int(rng.integers(1, 5)), int(rng.integers(1, 6))
        for cycle in range(shifted + length):
            late = cycle == shifted and bool(rng.random() < 0.5)
            inputs.append(
                {"i_shifts": (cycle < shifted) | (cycle in range(1, shifted) or late) << 1, "i_swap": int(cycle == shifted)}
            )
    for values in inputs:
        values |= {
            "i_activation": int(rng.choice([*EXTREMES, int(rng.integers(-128, 128))])),
            "i_weights": [int(rng.choice([*EXTREMES, int(rng.integers(-128, 128))])) for _ in range(2)],
            "i_sums": rng.integers(-(1 << 16), 1 << 16, 2).tolist(),
        }
    outputs = ["o_activation", "o_weights", "o_sums"]
    one, two = (bench.trace(kind(width=width), inputs, outputs) for kind in (PairPE, TwoPEs))
    # by then the first tile's weights are there in both; registers have no common value before
    begin = next(n for n, values in enumerate(inputs) if values["i_swap"]) + 4
    assert one[begin:] == two[begin:], f"seed {seed}"
