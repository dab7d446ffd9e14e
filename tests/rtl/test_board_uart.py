"""The serial line: bytes in, levels out, at every divisor, and the other way round."""

import numpy as np
import pytest

from accel.link import MIN_DIVISOR
from rtl.board.uart import UartReceiver, UartTransmitter

BITS = 10
SEED = 8


def levels(data: list[int], divisor: int) -> list[int]:
    """The line, cycle by cycle, while it carries some bytes without a pause."""
    bits = [bit for byte in data for bit in (0, *(byte >> n & 1 for n in range(8)), 1)]
    return [bit for bit in bits for _ in range(divisor)]


@pytest.mark.parametrize("divisor", [MIN_DIVISOR, 5, 13])
def test_bytes_go_out_one_after_the_other(bench, divisor):
    data = [0x00, 0xFF, 0xA5, *np.random.default_rng(SEED).integers(0, 256, 5).tolist()]
    block = UartTransmitter(divisor=divisor)
    seen = []

    async def line(ctx):
        while True:
            _, _, level = await ctx.tick().sample(block.o_tx)
            seen.append(level)

    async def give(ctx):
        await bench.send(ctx, block.i, data, np.random.default_rng(SEED), 0)
        await bench.repeat(ctx, (BITS + 1) * divisor)

    bench.run(block, give, background=[line])
    first = seen.index(0)
    assert seen[first : first + BITS * divisor * len(data)] == levels(data, divisor), f"seed {SEED}"
    assert all(seen[:first])
    assert all(seen[first + BITS * divisor * len(data) :])


@pytest.mark.parametrize("divisor", [MIN_DIVISOR, 5, 13])
@pytest.mark.parametrize("drift", [-1, 0, 1])
def test_bytes_come_in_though_the_clocks_differ(bench, divisor, drift):
    data = [0x00, 0xFF, 0x5A, *np.random.default_rng(SEED).integers(0, 256, 5).tolist()]
    # a sender whose clock is 2 % off gives or takes a cycle in every fifty
    line = [level for n, level in enumerate(levels(data, divisor)) for _ in range(1 + (drift if n % 50 == 49 else 0))]
    block = UartReceiver(divisor=divisor)
    inputs = [{"i_rx": level} for level in [1, 1, 1, *line]]
    seen = bench.trace(block, inputs, ["o_byte", "o_valid"], more=2 * divisor)
    assert [cycle["o_byte"] for cycle in seen if cycle["o_valid"]] == data, f"seed {SEED}"


def test_a_spike_and_a_byte_without_stop_bit_are_no_bytes(bench):
    divisor = 8
    broken = [0] * (12 * divisor)
    spike = [0] * (divisor // 2 - 2)
    line = [1] * 9 + spike + [1] * 20 * divisor + broken + [1] * divisor + levels([0x42], divisor)
    block = UartReceiver(divisor=divisor)
    seen = bench.trace(block, [{"i_rx": level} for level in line], ["o_byte", "o_valid", "o_idle"], more=2 * divisor)
    assert [cycle["o_byte"] for cycle in seen if cycle["o_valid"]] == [0x42]
    assert seen[0]["o_idle"]
    assert not seen[9 + len(spike) + 25 * divisor]["o_idle"]
