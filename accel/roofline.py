"""The roofline: the fewest cycles that array and memory bus leave a network, one layer after the other.

A layer's bound is the larger of multiply-accumulates over the array's and bytes over the bus's in a cycle. Layers are the
convolutions and fully connected layers; each reads its int8 weights and its input map from memory once and writes its output map
there once. A batch of images reads a layer's weights once for all of them: its bound is the larger of all their
multiply-accumulates and of the weights' bytes and those of all their maps. Pooling, adds and activations cost nothing, and biases
and scales move for nothing, so the bound flatters no engine; but one that keeps maps on chip moves less than this and may take
fewer cycles. After S. Williams, A. Waterman and D. Patterson, "Roofline", Communications of the ACM 52(4), 2009.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

from accel.config import EngineConfig
from accel.graph import Conv2D, Network
from accel.program import MemoryTiming, Program

__all__ = ["bus_bytes", "layer_bounds", "layer_bytes", "layer_convs", "total_cycles"]


def layer_bytes(network: Network, conv: Conv2D, batch: int = 1) -> int:
    """Return the bytes that a layer moves at least for a batch: int8 weights once, each image's input map and output map."""
    (source,) = network.input_shapes(conv)
    return int(conv.weights.size) + batch * (math.prod(source) + math.prod(network.tensor(conv.output).shape))


def layer_bounds(network: Network, program: Program, timing: MemoryTiming | None = None) -> tuple[Fraction, ...]:
    """Return the bound in cycles, for a whole batch, of each layer of ``program``, which was compiled from ``network``.

    Of ``timing`` only the cycles a beat count: a latency can be hidden.
    """
    config, batch = program.config, program.batch
    bandwidth = bus_bytes(config, timing or MemoryTiming())
    bounds = []
    for layer, conv in zip(program.layers, layer_convs(network, program), strict=True):
        bound = Fraction(0)
        if conv is not None:
            compute = Fraction(batch * layer.macs, config.macs_per_cycle)
            bound = max(compute, layer_bytes(network, conv, batch) / bandwidth)
        bounds.append(bound)
    return tuple(bounds)


def bus_bytes(config: EngineConfig, timing: MemoryTiming) -> Fraction:
    """Return the bytes that memory gives or takes in a cycle. That of a micro engine is its own, and takes no longer."""
    return Fraction(config.bus_bytes, 1 if config.micro else timing.interval)


def layer_convs(network: Network, program: Program) -> tuple[Conv2D | None, ...]:
    """Return for each layer of ``program``, which was compiled from ``network``, the convolution that it begins with, if any."""
    convs = {op.name: op for op in network.operators if isinstance(op, Conv2D)}
    return tuple(_conv_of(layer.name, convs) for layer in program.layers)


def total_cycles(bounds: Sequence[Fraction]) -> int:
    """Return the sum of the bounds in whole cycles."""
    return math.ceil(sum(bounds))


def _conv_of(layer: str, convs: dict[str, Conv2D]) -> Conv2D | None:
    """Return the convolution that a layer begins with: what is fused with it follows in its name, after a plus sign."""
    parts = layer.split("+")
    for count in range(len(parts), 0, -1):
        if (conv := convs.get("+".join(parts[:count]))) is not None:
            return conv
    return None
