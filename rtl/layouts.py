"""Hardware views of the facts in :mod:`accel.isa`: nothing here adds a fact."""

from __future__ import annotations

from amaranth import *
from amaranth.lib import data

from accel import isa

__all__ = [
    "ORDER_BITS",
    "QUEUES",
    "completed_layout",
    "entry_layout",
    "fields_layout",
    "instruction_layout",
    "is_ordered",
    "loop_step",
    "order_layout",
]

#: The units' queues, in the order of the ``after_*`` fields.
QUEUES = ("load", "execute", "store")

#: Width of the counters of dispatched and finished instructions. A program has fewer instructions than that, so they never wrap.
ORDER_BITS = 24


def fields_layout(fields: tuple[isa.Field, ...], size: int) -> data.FlexibleLayout:
    """Return a layout of ``size`` bits over bit fields."""
    return data.FlexibleLayout(
        size, {f.name: data.Field(signed(f.width) if f.signed else unsigned(f.width), f.offset) for f in fields}
    )


def instruction_layout(opcode: isa.Opcode) -> data.FlexibleLayout:
    """Return the 256-bit layout of an instruction."""
    return fields_layout(isa.fields_of(opcode), 8 * isa.INSTRUCTION_BYTES)


order_layout = data.StructLayout({"active": 1, "target": ORDER_BITS})


def completed_layout() -> data.StructLayout:
    """Return the counters of finished instructions, one a queue."""
    return data.StructLayout({queue: ORDER_BITS for queue in QUEUES})


def entry_layout() -> data.StructLayout:
    """Return what a queue holds: the instruction, its index in the program, and what it must wait for.

    It waits for queue q until ``completed[q]`` has reached ``orders[q].target`` (if active).
    """
    return data.StructLayout(
        {
            "word": 8 * isa.INSTRUCTION_BYTES,
            "index": ORDER_BITS,
            "orders": data.StructLayout({queue: order_layout for queue in QUEUES}),
        }
    )


def is_ordered(order: data.View, completed: Value) -> Value:
    """Return whether an order is satisfied by a queue's counter of finished instructions."""
    return ~order.active | (completed >= order.target)


def loop_step(m: Module, *, counts: list[Value], limits: list[Value], advance: Value) -> tuple[list[Value], Value]:
    """Count nested loops, innermost last; ``counts`` are registers from 0 to ``limits - 1``.

    While ``advance`` is high a step is made each cycle. Returns, for each level, whether this step carries out of all levels
    *inside* it (so that level's counter steps), and whether every level is at its end.
    """
    steps: list[Value] = []
    carry: Value = Const(1)
    for count, limit in reversed(list(zip(counts, limits, strict=True))):
        steps.append(carry)
        at_end = count == limit - 1
        with m.If(advance & carry):
            m.d.sync += count.eq(Mux(at_end, 0, count + 1))
        carry = carry & at_end
    return steps[::-1], carry
