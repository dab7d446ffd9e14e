"""The hardware's views of instructions are those of :mod:`accel.isa`; loops step and orders hold as the units rely on."""

import itertools

import numpy as np
import pytest
from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from accel import isa
from accel.isa import INSTRUCTION_BYTES, Opcode
from rtl.layouts import ORDER_BITS, entry_layout, fields_layout, instruction_layout, is_ordered, loop_step, order_layout


@pytest.mark.parametrize("opcode", Opcode)
def test_fields_of_random_words(opcode):
    seed = 1
    rng = np.random.default_rng([seed, opcode])
    layout = instruction_layout(opcode)
    assert layout.size == 8 * INSTRUCTION_BYTES
    for _ in range(50):
        word = int.from_bytes(rng.bytes(INSTRUCTION_BYTES), "little") & ~0xF | opcode
        instruction = isa.decode(word.to_bytes(INSTRUCTION_BYTES, "little"))
        view = layout.from_bits(word)
        assert view.opcode == opcode
        assert {name: view[name] for name in instruction.values} == dict(instruction.values), f"seed {seed}: {word:#x}"


@pytest.mark.parametrize("name", ["after_load", "after_execute", "after_store"])
def test_orders_have_one_place(name):
    """The dispatcher reads the order fields of every unit's instruction through one layout."""
    places = [
        (field.offset, field.width)
        for opcode in (Opcode.LOAD, Opcode.EXECUTE, Opcode.STORE)
        for field in isa.fields_of(opcode)
        if field.name == name
    ]
    assert len(places) == 3
    assert len(set(places)) == 1
    assert entry_layout()["word"].width == 8 * INSTRUCTION_BYTES


def test_parameters():
    layout = fields_layout(isa.PARAMETER, 8 * isa.PARAMETER_BYTES)
    view = layout.from_bits((1 << 32) - 5 | 0x7FFF_FFFE << 32 | 31 << 64 | 17 << 72)
    assert (view.bias, view.multiplier, view.first_shift, view.second_shift) == (-5, 0x7FFF_FFFE, 31, 17)


class Ordered(wiring.Component):
    def __init__(self):
        super().__init__({"order": In(order_layout), "completed": In(ORDER_BITS), "o": Out(1)})

    def elaborate(self, platform):
        m = Module()
        m.d.sync += self.o.eq(is_ordered(self.order, self.completed))
        return m


def test_orders(bench):
    most = (1 << ORDER_BITS) - 1
    cases = [*itertools.product((0, 1), (0, 1, 7, most - 1, most), (0, 1, 6, 7, 8, most - 1, most))]
    inputs = [{"order": {"active": active, "target": target}, "completed": done} for active, target, done in cases]
    seen = bench.trace(Ordered(), inputs, ["o"], more=1)
    assert [values["o"] for values in seen[1:]] == [int(not active or done >= target) for active, target, done in cases]


class Loop(wiring.Component):
    """Nested loops of 4-bit counters."""

    def __init__(self, levels):
        self.levels = levels
        counters = data.ArrayLayout(4, levels)
        super().__init__(
            {"limits": In(counters), "advance": In(1), "o_counts": Out(counters), "o_steps": Out(levels), "o_end": Out(1)}
        )

    def elaborate(self, platform):
        m = Module()
        counts = [Signal(4, name=f"count_{n}") for n in range(self.levels)]
        limits = [self.limits[n] for n in range(self.levels)]
        steps, end = loop_step(m, counts=counts, limits=limits, advance=self.advance)
        m.d.comb += [self.o_counts[n].eq(count) for n, count in enumerate(counts)]
        m.d.comb += [self.o_steps.eq(Cat(steps)), self.o_end.eq(end)]
        return m


@pytest.mark.parametrize("limits", [(1,), (5,), (1, 1), (3, 1), (1, 3), (2, 3, 4), (3, 1, 2, 1), (15, 2)])
def test_loops_step_like_python(bench, limits):
    """Counters go round like nested ``for``; a level steps when all inside it are at their ends; a stall changes nothing."""
    seed = 2
    rng = np.random.default_rng([seed, *limits])
    every = list(itertools.product(*(range(limit) for limit in limits)))
    advances = [int(rng.random() < 0.6) for _ in range(4 * len(every) + 5)]
    inputs = [{"limits": list(limits), "advance": advance} for advance in advances]
    seen = bench.trace(Loop(len(limits)), inputs, ["o_counts", "o_steps", "o_end"])
    at = 0
    for cycle, (values, advance) in enumerate(zip(seen, advances, strict=True)):
        counts = every[at % len(every)]
        ends = [count == limit - 1 for count, limit in zip(counts, limits, strict=True)]
        steps = [all(ends[n + 1 :]) for n in range(len(limits))]
        note = f"seed {seed}, cycle {cycle}"
        assert tuple(values["o_counts"]) == counts, note
        assert values["o_steps"] == sum(step << n for n, step in enumerate(steps)), note
        assert values["o_end"] == all(ends), note
        at += advance
