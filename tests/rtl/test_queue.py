"""The queue: what comes out, when it is seen, and what it says of its next head."""

import itertools

import numpy as np
import pytest
from amaranth.lib import fifo

from rtl.queue import Queue

OUTPUTS = ("w_rdy", "r_rdy", "r_data", "o_moves", "o_behind", "o_second")


@pytest.mark.parametrize("depth", [2, 3, 4, 5, 8, 16])
@pytest.mark.parametrize("rates", [(0.5, 0.5), (0.9, 0.3), (0.3, 0.9), (1, 1)])
@pytest.mark.parametrize("through", [True, False])
def test_it_is_the_standard_queue_with_its_head_in_a_register(bench, depth, rates, through):
    """Pushes and pops are tried at random, whether there is room or an entry or not."""
    seed = 1
    rng = np.random.default_rng([seed, depth])
    inputs = [
        {"w_data": int(rng.integers(0, 256)), "w_en": int(rng.random() < rates[0]), "r_en": int(rng.random() < rates[1])}
        for _ in range(300)
    ]
    got = bench.trace(Queue(shape=8, depth=depth, through=through), inputs, OUTPUTS)
    standard = fifo.SyncFIFO if through else fifo.SyncFIFOBuffered
    wanted = bench.trace(standard(width=8, depth=depth), inputs, OUTPUTS[:3])
    assert [one["w_rdy"] for one in wanted].count(0) or rates[0] <= rates[1], "it never was full"
    for cycle, (one, other) in enumerate(zip(got, wanted, strict=True)):
        assert (one["w_rdy"], one["r_rdy"]) == (other["w_rdy"], other["r_rdy"]), f"seed {seed}: cycle {cycle}"
        if one["r_rdy"]:
            assert one["r_data"] == other["r_data"], f"seed {seed}: cycle {cycle}"
    for cycle, (one, following) in enumerate(itertools.pairwise(got)):
        if following["r_rdy"]:
            pushed = inputs[cycle]["w_data"]
            moved = one["o_second"] if one["o_behind"] else pushed
            assert following["r_data"] == (moved if one["o_moves"] else one["r_data"]), f"seed {seed}: cycle {cycle}"
