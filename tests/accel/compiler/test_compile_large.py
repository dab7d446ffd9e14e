"""Layers larger than every memory of the engine are cut up, never refused and never wrong."""

import numpy as np
import pytest

from accel import golden
from accel.compiler import compile_network
from accel.config import PRESETS, EngineConfig
from accel.emulator import Emulator
from accel.graph import Add, Conv2D, MaxPool, Network, Operator, Requantisation, Tensor, Window
from accel.numerics import Rounding, quantise_multiplier
from accel.testing import ODD_CONFIGS

ENGINES = (PRESETS["tiny"], PRESETS["base"], *(config for config in ODD_CONFIGS if config.name in ("12x8", "8x8 little", "3x5")))


def requantisation(spread: float) -> Requantisation:
    multiplier, shift = quantise_multiplier(1 / spread)
    return Requantisation(
        multiplier=np.array([multiplier], np.int32), shift=np.array([shift], np.int32), rounding=Rounding.HALF_EVEN, zero_point=3
    )


def conv(
    name: str, source: Tensor, filters: int, kernel: tuple[int, int], *, groups: int = 1, stride: int = 1, pad: int = 0
) -> Conv2D:
    rng = np.random.default_rng(len(name))
    depth = source.shape[2] // groups
    return Conv2D(
        name=name,
        inputs=(source.name,),
        output=f"{name}_out",
        window=Window(kernel=kernel, stride=(stride, stride), padding=(pad,) * 4),
        weights=rng.integers(-128, 128, (filters, *kernel, depth), np.int8),
        bias=rng.integers(-1000, 1000, filters).astype(np.int32),
        requantisation=requantisation(130.0 * float(np.sqrt(kernel[0] * kernel[1] * depth))),
        groups=groups,
    )


def network(source: Tensor, *operators: Operator) -> Network:
    tensors: dict[str, Tensor] = {}
    for op in operators:
        shapes = tuple((source if name == source.name else tensors[name]).shape for name in op.inputs)
        tensors[op.output] = Tensor(name=op.output, shape=op.output_shape(shapes), zero_point=3)
    return Network(name="large", input=source, operators=operators, tensors=tensors, output=operators[-1].output)


def image_of(height: int, width: int, channels: int) -> Tensor:
    return Tensor(name="image", shape=(height, width, channels), zero_point=-7)


def many_channels() -> Network:
    source = image_of(7, 7, 256)
    return network(source, conv("conv", source, 20, (7, 7)))


def large_kernel() -> Network:
    source = image_of(48, 48, 2)
    return network(source, conv("conv", source, 3, (33, 33), pad=2))


def kernel_longer_than_its_field() -> Network:
    source = image_of(4, 320, 2)
    return network(source, conv("conv", source, 3, (1, 300)))


def very_wide() -> Network:
    source = image_of(3, 1500, 2)
    return network(source, conv("conv", source, 2, (1, 3)))


def very_tall() -> Network:
    source = image_of(5000, 3, 2)
    return network(source, conv("conv", source, 2, (3, 1)))


def fully_connected() -> Network:
    source = image_of(1, 1, 2000)
    first = conv("one", source, 9, (1, 1))
    second = conv("two", Tensor(name=first.output, shape=(1, 1, 9)), 600, (1, 1))
    return network(source, first, second)


def depthwise() -> Network:
    source = image_of(40, 40, 30)
    return network(source, conv("conv", source, 30, (5, 5), groups=30, stride=2, pad=2))


def wide_pool() -> Network:
    source = image_of(40, 40, 60)
    return network(
        source, MaxPool(name="pool", inputs=("image",), output="out", window=Window(kernel=(37, 37), padding=(1, 1, 1, 1)))
    )


def residual() -> Network:
    source = image_of(20, 20, 40)
    first = conv("one", source, 40, (1, 1))
    middle = Tensor(name=first.output, shape=(20, 20, 40), zero_point=3)
    second = conv("two", middle, 40, (3, 3), pad=1)
    table = np.arange(-128, 128, dtype=np.int32) * 1000
    add = Add(
        name="add", inputs=(first.output, second.output), output="sum", tables=(table, table), requantisation=requantisation(2000.0)
    )
    pool = MaxPool(name="pool", inputs=("sum",), output="pooled", window=Window(kernel=(3, 3), stride=(2, 2), padding=(1, 1, 1, 1)))
    return network(source, first, second, add, pool)


LARGE = (
    many_channels,
    large_kernel,
    kernel_longer_than_its_field,
    very_wide,
    very_tall,
    fully_connected,
    depthwise,
    wide_pool,
    residual,
)


@pytest.mark.parametrize("config", ENGINES, ids=lambda config: config.name)
@pytest.mark.parametrize("build", LARGE, ids=lambda build: build.__name__)
def test_larger_than_the_memories(build: object, config: EngineConfig) -> None:
    assert callable(build)
    net = build()
    images = np.random.default_rng(0).integers(-128, 128, (1, *net.input.shape), np.int8)
    program = compile_network(net, config)
    assert np.array_equal(Emulator().run(program, list(images)).outputs, golden.run(net, images))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "filters", "kernel", "groups", "stride", "pad"),
    [
        pytest.param((227, 227, 3), 96, 11, 1, 4, 0, id="AlexNet conv1"),
        pytest.param((27, 27, 96), 256, 5, 2, 1, 2, id="AlexNet conv2"),
        pytest.param((6, 6, 256), 4096, 6, 1, 1, 0, id="AlexNet fc6"),
        pytest.param((224, 224, 3), 64, 3, 1, 1, 1, id="VGG-16 conv1_1"),
        pytest.param((56, 56, 128), 256, 3, 1, 1, 1, id="VGG-16 conv3_1"),
    ],
)
def test_known_layers(shape: tuple[int, int, int], filters: int, kernel: int, groups: int, stride: int, pad: int) -> None:
    source = image_of(*shape)
    net = network(source, conv("conv", source, filters, (kernel, kernel), groups=groups, stride=stride, pad=pad))
    images = np.random.default_rng(0).integers(-128, 128, (1, *shape), np.int8)
    program = compile_network(net, PRESETS["base"])
    assert np.array_equal(Emulator().run(program, list(images)).outputs, golden.run(net, images))
