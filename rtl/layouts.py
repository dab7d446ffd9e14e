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
    "execute_entry_layout",
    "fields_layout",
    "instruction_layout",
    "loop_ahead",
    "order_layout",
    "reached",
    "retire_layout",
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


#: Either there is nothing to wait for (any more): ``met``. Or the counter of finished instructions must reach ``-missing`` (modulo
#: its range): in this form a sum's carry is the answer.
order_layout = data.StructLayout({"met": 1, "missing": ORDER_BITS})


def completed_layout() -> data.StructLayout:
    """Return the counters of finished instructions, one a queue."""
    return data.StructLayout({queue: ORDER_BITS for queue in QUEUES})


def retire_layout() -> data.StructLayout:
    """Return which queues' instructions finish in a cycle."""
    return data.StructLayout({queue: 1 for queue in QUEUES})


def entry_layout() -> data.StructLayout:
    """Return what a queue holds: the instruction, its index in the program, and what it must wait for.

    It waits for queue q until ``orders[q]`` is met: see :class:`rtl.dispatch.EntryQueue`.
    """
    return data.StructLayout(
        {
            "word": 8 * isa.INSTRUCTION_BYTES,
            "index": ORDER_BITS,
            "orders": data.StructLayout({queue: order_layout for queue in QUEUES}),
        }
    )


def execute_entry_layout() -> data.StructLayout:
    """Return what the queue of EXECUTEs holds: besides, which of the counts that the weight loader steps through are 1."""
    only = data.StructLayout({name: 1 for name in ("block", "ky", "kx", "tap_rows")})
    return data.StructLayout({**entry_layout().members, "only": only})


def reached(order: data.View, completed: Value, retire: Value) -> Value:
    """Return whether a queue's counter of finished instructions will have reached what an order waits for in the next cycle."""
    # with the step as the carry in
    total = Cat(Const(1, 1), completed) + Cat(retire, order.missing)
    return total[-1]


def loop_ahead(
    m: Module, *, begun: Value, limits: list[Value], only: list[Value], single: Value, keep: Value, advance: Value
) -> tuple[list[Value], Value, Value]:
    """Count nested loops, innermost last, without a comparison before the result: whether a level is at its end is found in the
    cycle before.

    While ``advance`` is high a step is made each cycle. Returns, for each level, whether this step carries out of all levels
    *inside* it (so that level steps), whether every level is at its end, and the same without a look at ``begun`` (without
    which that has no meaning).

    Until ``begun`` every level is at its beginning, ``only`` says which of ``limits`` are 1 (``single``: all are), and nothing is
    remembered; ``begun`` rises after a cycle with ``keep``, without which ``advance`` has no effect.
    """
    steps: list[Value] = []
    lasts: list[Value] = []
    carry: Value = Const(1)
    for level in reversed(range(len(limits))):
        limit, alone = limits[level], only[level]
        left = Signal.like(limit, name=f"left_{level}", reset_less=True)
        last = Signal(name=f"last_{level}", reset_less=True)
        here_left = Mux(begun, left, limit)
        here_last = Mux(begun, last, alone)
        steps.append(carry)
        with m.If(keep):
            with m.If(~(advance & carry)):
                m.d.sync += [left.eq(here_left), last.eq(here_last)]
            with m.Elif(here_last):
                m.d.sync += [left.eq(limit), last.eq(alone)]
            with m.Else():
                m.d.sync += [left.eq(here_left - 1), last.eq(here_left == 2)]
        carry = carry & here_last
        lasts.append(last)
    ends = Cat(lasts).all()
    return steps[::-1], Mux(begun, ends, single), ends
