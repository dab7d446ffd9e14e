"""Joined channels: stored in place where one stage computes a map for the join alone, copied elsewhere, and exact in any case."""

from __future__ import annotations

import numpy as np
import pytest

from accel import golden
from accel.compiler import CompileError, compile_network
from accel.config import PRESETS, EngineConfig
from accel.emulator import Emulator
from accel.graph import Concat, Conv2D, MaxPool, Network, Operator, Tensor, Window
from accel.testing import MOST_LANES, ODD_CONFIGS, random_conv, random_image

CONFIGS = [*PRESETS.values(), *ODD_CONFIGS]
MAX_MACS = 20_000


class Builder:
    """Puts layers on maps of 6 by 7 pixels."""

    def __init__(self, seed: int, channels: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.tensors = [Tensor(name="input", shape=(6, 7, channels), zero_point=5)]
        self.operators: list[Operator] = []

    def add(self, op: Operator, zero_point: int = 0) -> str:
        by_name = {tensor.name: tensor.shape for tensor in self.tensors}
        shape = op.output_shape(tuple(by_name[name] for name in op.inputs))
        self.tensors.append(Tensor(name=op.output, shape=shape, zero_point=zero_point))
        self.operators.append(op)
        return op.output

    def conv(self, name: str, source: str, channels: int, kernel: int = 1) -> str:
        tensor = next(tensor for tensor in self.tensors if tensor.name == source)
        window = Window(kernel=(kernel, kernel), padding=(kernel // 2,) * 4)
        made = random_conv(self.rng, name, tensor, MAX_MACS)
        weights = self.rng.integers(-128, 128, (channels, kernel, kernel, tensor.shape[2]), np.int8)
        requantisation = made.requantisation
        layer = Conv2D(
            name=name,
            inputs=(source,),
            output=name,
            window=window,
            weights=weights,
            bias=self.rng.integers(-999, 999, channels).astype(np.int32),
            requantisation=type(requantisation)(
                multiplier=requantisation.multiplier[:1],
                shift=requantisation.shift[:1],
                rounding=requantisation.rounding,
                zero_point=requantisation.zero_point,
            ),
        )
        return self.add(layer, requantisation.zero_point)

    def pool(self, name: str, source: str) -> str:
        return self.add(MaxPool(name=name, inputs=(source,), output=name, window=Window(kernel=(3, 3), padding=(1, 1, 1, 1))))

    def join(self, name: str, *sources: str) -> str:
        return self.add(Concat(name=name, inputs=sources, output=name))

    def network(self, output: str) -> Network:
        return Network(
            name="joined",
            input=self.tensors[0],
            operators=tuple(self.operators),
            tensors={tensor.name: tensor for tensor in self.tensors[1:]},
            output=output,
        )


def fire(seed: int) -> Network:
    """Both maps are computed for the join alone; what follows reads their border."""
    net = Builder(seed, 3)
    x = net.conv("squeeze", "input", 8)
    joined = net.join("join", net.conv("small", x, MOST_LANES), net.conv("large", x, 24, 3))
    return net.network(net.conv("last", joined, 5, 3))


def everything(seed: int) -> Network:
    """The input, a map that is read twice, a joined map, the same map twice, and a last one of any channels."""
    net = Builder(seed, MOST_LANES)
    x = net.conv("first", "input", MOST_LANES, 3)
    inner = net.join("inner", net.pool("pool", x), "input")
    outer = net.join("outer", x, inner, x, net.conv("odd", x, 3))
    return net.network(net.conv("last", outer, 9, 3))


def at_the_end(seed: int) -> Network:
    """The joined map is the output, and one of its parts is read by another part."""
    net = Builder(seed, 4)
    x = net.conv("first", "input", MOST_LANES)
    return net.network(net.join("join", x, net.conv("second", x, 7, 3)))


def narrow(seed: int) -> Network:
    """The joined map has so few channels that its words repeat: on engines whose lanes divide them."""
    net = Builder(seed, 2)
    joined = net.join("join", net.conv("first", "input", 2), net.conv("second", "input", 2, 3))
    return net.network(net.conv("last", joined, 6, 3))


def check(network: Network, config: EngineConfig, seed: int) -> None:
    rng = np.random.default_rng(seed)
    images = np.stack([random_image(rng, network) for _ in range(2)])
    outputs = Emulator(seed=seed).run(compile_network(network, config), list(images)).outputs
    assert np.array_equal(outputs, golden.run(network, images)), f"seed {seed} on {config.name}"


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
def test_joined_maps_are_exact(config: EngineConfig) -> None:
    for seed, build in enumerate((fire, everything, at_the_end)):
        check(build(seed), config, seed)


@pytest.mark.parametrize("config", [config for config in CONFIGS if config.lanes <= 2], ids=lambda config: config.name)
def test_narrow_joined_maps_are_exact(config: EngineConfig) -> None:
    check(narrow(7), config, 7)


def test_maps_for_the_join_alone_are_stored_in_place() -> None:
    program = compile_network(fire(0), PRESETS["base"])
    assert [(layer.name, layer.op) for layer in program.layers] == [
        (name, "Conv2D") for name in ("squeeze", "small", "large", "last")
    ]


def test_other_maps_are_copied() -> None:
    names = [(layer.name, layer.op) for layer in compile_network(everything(0), PRESETS["base"]).layers]
    copies = [name for name, op in names if op == "Copy"]
    assert copies == ["inner.1", "outer.0", "outer.1", "outer.2"]


@pytest.mark.parametrize(("channels", "preset", "fewer"), [(6, "base", "small"), (8, "large", "base")])
def test_a_part_that_begins_between_lanes_is_refused(channels: int, preset: str, fewer: str) -> None:
    net = Builder(0, 3)
    joined = net.join("join", net.conv("first", "input", channels), net.conv("second", "input", 8))
    config = PRESETS[preset]
    with pytest.raises(CompileError) as caught:
        compile_network(net.network(joined), config)
    assert str(caught.value) == (
        f"join: joins a map at channel {channels}, but {preset} stores {config.lanes} channels at a time; "
        f"choose channels that are multiples of {config.lanes}, or a configuration with fewer lanes"
    )
    check(net.network(joined), PRESETS[fewer], 0)
