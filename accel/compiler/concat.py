"""Joined channels: each stage that computes a part of a joined map stores it there, so that joining takes no cycles of its own.

A map that others read as well, the network's input or output, or a map that is itself joined, is copied into its part.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import accumulate

from accel.compiler.errors import CompileError
from accel.compiler.stages import Stage
from accel.config import EngineConfig
from accel.graph import Add, AveragePool, Concat, Conv2D, Lookup, MaxPool, Network, Operator, Tensor, Window

__all__ = ["Computed", "in_place", "with_copies"]

#: Operators that are stages; a Concat only says where their results go.
Computed = Conv2D | MaxPool | AveragePool | Add | Lookup


class Copy(MaxPool):
    """The maximum of one byte."""


def with_copies(network: Network) -> Network:
    """Return the network with a copy before each joined map that no stage can store in its place."""
    tensors: dict[str, Tensor] = dict(network.tensors)
    operators = tuple(made for op in network.operators for made in _with_copies(op, network, tensors))
    return replace(network, operators=operators, tensors=tensors)


def _with_copies(op: Operator, network: Network, tensors: dict[str, Tensor]) -> Iterator[Operator]:
    if isinstance(op, Concat):
        inputs = list(op.inputs)
        for position, name in enumerate(inputs):
            if not _is_free(name, network):
                copied = f"{op.name}.{position}"
                tensors[copied] = replace(network.tensor(name), name=copied)
                inputs[position] = copied
                yield Copy(name=copied, inputs=(name,), output=copied, window=Window(kernel=(1, 1)))
        op = replace(op, inputs=tuple(inputs))
    yield op


def _is_free(tensor: str, network: Network) -> bool:
    """Whether a map need not exist outside the joined one: a stage computes it, for this one reader."""
    is_computed = any(op.output == tensor and not isinstance(op, Concat) for op in network.operators)
    uses = Counter(name for op in network.operators for name in op.inputs)
    return is_computed and tensor != network.output and uses[tensor] == 1


def in_place(stage: Stage, network: Network, config: EngineConfig) -> Stage:
    """Return a stage that stores into its part of a joined map, if that is what its map is for.

    ``network`` comes from :func:`with_copies`. Raises :class:`CompileError` where the part does not begin at a multiple of the
    lanes.
    """
    join = next((op for op in network.consumers(stage.output) if isinstance(op, Concat)), None)
    if join is None:
        return stage
    ends = list(accumulate((shape[2] for shape in network.input_shapes(join)), initial=0))
    first = ends[join.inputs.index(stage.output)]
    if first % config.lanes:
        raise CompileError(
            f"{join.name}: joins a map at channel {first}, but {config.name} stores {config.lanes} channels at a time; "
            f"choose channels that are multiples of {config.lanes}, or a configuration with fewer lanes"
        )
    return replace(stage, output=join.output, part=(first, ends[-1]))
