"""Layers that other layers can absorb: a lookup becomes its producer's clamp or table, and what nobody reads goes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from accel.graph import Add, AveragePool, Concat, Conv2D, Lookup, MaxPool, Operator

__all__ = ["simplify"]


def simplify(operators: tuple[Operator, ...], output: str) -> tuple[Operator, ...]:
    """Return equivalent layers: each lookup folded into the one layer before it where that is exact, and unread layers left out.

    A folded pair keeps the first layer's name and writes the second's output.
    """
    live = _live(operators, output)
    result: list[Operator] = []
    for operator in live:
        if isinstance(operator, Lookup):
            source = operator.inputs[0]
            readers = sum(source in other.inputs for other in live)
            position = next((i for i, other in enumerate(result) if other.output == source), None)
            if position is not None and readers == 1 and source != output:
                folded = _folded(result[position], operator)
                if folded is not None:
                    result[position] = folded
                    continue
        result.append(operator)
    return tuple(result)


def _live(operators: tuple[Operator, ...], output: str) -> list[Operator]:
    """Return what the output depends on, each layer right before the first that needs it, the first input's layers first.

    Whatever order a file or quantisation leaves them in, a network then has one order, and takes one number of cycles.
    """
    writer = {operator.output: operator for operator in operators}
    kept: dict[str, Operator] = {}
    waiting = [output]
    while waiting:
        operator = writer.get(waiting[-1])
        missing = [] if operator is None else [name for name in operator.inputs if name in writer and name not in kept]
        if operator is None or waiting[-1] in kept or not missing:
            name = waiting.pop()
            if operator is not None:
                kept.setdefault(name, operator)
        else:
            waiting.append(missing[0])
    return list(kept.values())


def _folded(producer: Operator, lookup: Lookup) -> Operator | None:
    """Return the producer with the lookup inside, or None where it cannot hold it."""
    if isinstance(producer, Concat):
        return None
    if isinstance(producer, Lookup):
        return replace(producer, output=lookup.output, table=lookup.table[producer.table.astype(np.intp) + 128])
    limits = producer if isinstance(producer, MaxPool) else producer.requantisation
    reached = np.arange(limits.minimum, limits.maximum + 1)
    values = lookup.table[reached + 128]
    low, high = int(values[0]), int(values[-1])
    if (isinstance(producer, Conv2D) and producer.table is not None) or not (np.clip(reached, low, high) == values).all():
        return _with_table(producer, lookup)
    if isinstance(producer, MaxPool):
        return replace(producer, output=lookup.output, minimum=low, maximum=high)
    requantisation = replace(producer.requantisation, minimum=low, maximum=high)
    match producer:
        case Conv2D() | AveragePool() | Add():
            return replace(producer, output=lookup.output, requantisation=requantisation)


def _with_table(producer: Operator, lookup: Lookup) -> Operator | None:
    if not isinstance(producer, Conv2D):
        return None
    first = lookup.table if producer.table is None else lookup.table[producer.table.astype(np.intp) + 128]
    return replace(producer, output=lookup.output, table=first)
