"""The hardware's views of instructions are those of :mod:`accel.isa`; loops step and orders hold as the units rely on."""

import itertools

import numpy as np
import pytest
from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from accel import isa
from accel.isa import INSTRUCTION_BYTES, Opcode
from rtl.layouts import (
    ORDER_BITS,
    entry_layout,
    fields_layout,
    instruction_layout,
    loop_ahead,
    order_layout,
    reached,
)


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
        super().__init__({"order": In(order_layout), "completed": In(ORDER_BITS), "retire": In(1), "o": Out(1)})

    def elaborate(self, platform):
        m = Module()
        m.d.sync += self.o.eq(reached(self.order, self.completed, self.retire))
        return m


def test_orders(bench):
    most = (1 << ORDER_BITS) - 1
    cases = list(itertools.product((1, 2, 7, 8, most), (0, 1, 6, 7, 8, most - 1), (0, 1)))
    inputs = [
        {"order": {"met": 0, "missing": (1 << ORDER_BITS) - target}, "completed": done, "retire": retire}
        for target, done, retire in cases
    ]
    seen = bench.trace(Ordered(), inputs, ["o"], more=1)
    assert [values["o"] for values in seen[1:]] == [int(done + retire >= target) for target, done, retire in cases]


class Ahead(wiring.Component):
    """Nested loops that look ahead, of 4-bit counters; at the end they are at their beginning again."""

    def __init__(self, levels):
        self.levels = levels
        super().__init__(
            {
                "limits": In(data.ArrayLayout(4, levels)),
                "advance": In(1),
                "keep": In(1),
                "restart": In(1),
                "o_steps": Out(levels),
                "o_end": Out(1),
                "o_end_begun": Out(1),
                "o_begun": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        limits = [self.limits[n] for n in range(self.levels)]
        begun = Signal()
        only = [limit == 1 for limit in limits]
        keep = self.keep | self.advance
        steps, end, end_begun = loop_ahead(
            m,
            begun=begun,
            limits=limits,
            only=only,
            single=Cat(only).all(),
            keep=keep,
            advance=self.advance,
        )
        with m.If(keep):
            m.d.sync += begun.eq(~(self.advance & end & self.restart))
        m.d.comb += [self.o_steps.eq(Cat(steps)), self.o_end.eq(end), self.o_end_begun.eq(end_begun), self.o_begun.eq(begun)]
        return m


@pytest.mark.parametrize("limits", [(1,), (5,), (1, 1), (3, 1), (1, 3), (2, 3, 4), (3, 1, 2, 1), (15, 2)])
@pytest.mark.parametrize("restart", [0, 1])
def test_loops_step_like_python(bench, limits, restart):
    """Loops go round like nested ``for``; a level steps when all inside it are at their ends; a stall changes nothing."""
    seed = 3
    rng = np.random.default_rng([seed, *limits])
    every = list(itertools.product(*(range(limit) for limit in limits)))
    inputs = [
        {"limits": list(limits), "advance": int(rng.random() < 0.6), "keep": int(rng.random() < 0.5), "restart": restart}
        for _ in range(4 * len(every) + 5)
    ]
    seen = bench.trace(Ahead(len(limits)), inputs, ["o_steps", "o_end", "o_end_begun", "o_begun"])
    at = 0
    assert restart or any(values["o_begun"] for values in seen)
    for cycle, (values, given) in enumerate(zip(seen, inputs, strict=True)):
        ends = [count == limit - 1 for count, limit in zip(every[at % len(every)], limits, strict=True)]
        steps = [all(ends[n + 1 :]) for n in range(len(limits))]
        note = f"seed {seed}, cycle {cycle}"
        assert values["o_steps"] == sum(step << n for n, step in enumerate(steps)), note
        assert values["o_end"] == all(ends), note
        if values["o_begun"]:
            assert values["o_end_begun"] == all(ends), note
        at += given["advance"]
