"""The networks with random weights: their layers are the published ones, their maps are full of different bytes."""

from __future__ import annotations

import csv
import functools
import re
from pathlib import Path

import numpy as np
import pytest

from accel import golden
from accel.compiler import compile_network
from accel.config import PRESETS
from accel.frontends import NETWORKS, load_network, sample_images
from accel.frontends.zoo import ZOO
from accel.graph import Conv2D, Network

TABLES = Path(__file__).parents[4] / "shared" / "data" / "layers"

#: Multiply-accumulates of an image, convolutions and fully connected layers, padding counted. Sources: torchvision's model pages
#: give 15.47, 1.81, 4.09, 0.30 and 0.35 G for VGG-16, ResNet-18, ResNet-50, MobileNetV2 and SqueezeNet 1.1; Howard 2017 gives 569 M
#: for MobileNetV1.
#: AlexNet is Krizhevsky's with the ONNX Model Zoo's 54 x 54 first map. The MLPerf Tiny networks are sums over the layers of its
#: model files.
MACS = {
    "alexnet": 654_560_384,
    "vgg16": 15_470_264_320,
    "resnet18": 1_814_073_344,
    "resnet50": 4_089_184_256,
    "mobilenetv1": 568_740_352,
    "mobilenetv2": 300_774_272,
    "squeezenet": 349_151_936,
    "resnet8": 12_501_632,
    "dscnn": 2_656_768,
    "mobilenetv1-0.25-96": 7_489_664,
    "autoencoder": 264_192,
}
#: Weights, biases left out. Sources: Howard 2017 (4.2 M for MobileNetV1), torchvision (138.4, 11.7, 25.6, 3.5 and 1.2 M with biases
#: and normalisation).
WEIGHTS = {
    "alexnet": 60_954_656,
    "vgg16": 138_344_128,
    "resnet18": 11_678_912,
    "resnet50": 25_502_912,
    "mobilenetv1": 4_209_088,
    "mobilenetv2": 3_469_760,
    "squeezenet": 1_231_552,
    "resnet8": 77_360,
    "dscnn": 22_016,
    "mobilenetv1-0.25-96": 208_112,
    "autoencoder": 264_192,
}
TABLE_OF = {
    "alexnet": "bvlc_alexnet_onnx",
    "vgg16": "vgg16",
    "resnet18": "resnet18",
    "resnet8": "pretrainedResnet_quant_tflite",
    "dscnn": "kws_ref_model_tflite",
    "autoencoder": "ad01_int8_tflite",
}
SMALL = ("resnet8", "dscnn", "mobilenetv1-0.25-96", "autoencoder")

network_named = functools.cache(load_network)


def convs(network: Network) -> list[Conv2D]:
    return [op for op in network.operators if isinstance(op, Conv2D)]


def geometry(network: Network, op: Conv2D) -> dict[str, int]:
    """A convolution as a line of a layer table; one whose kernel is the whole map is a fully connected layer there."""
    height, width, depth = network.input_shapes(op)[0]
    out_height, out_width, channels = network.tensor(op.output).shape
    (tall, wide), (down, across) = op.window.kernel, op.window.stride
    top, left, bottom, right = op.window.padding
    if (tall, wide) == (height, width) and not any(op.window.padding):
        height, width, tall, wide, depth = 1, 1, 1, 1, height * width * depth
    return {
        **{"ifmap_h": height, "ifmap_w": width, "kernel_h": tall, "kernel_w": wide, "in_ch": depth, "out_ch": channels},
        **{"groups": op.groups, "stride_h": down, "stride_w": across},
        **{"pad_t": top, "pad_l": left, "pad_b": bottom, "pad_r": right},
        **{"ofmap_h": out_height, "ofmap_w": out_width, "macs": op.macs(network.input_shapes(op))},
    }


def table(name: str) -> list[dict[str, int]]:
    path = TABLES / f"{name}.csv"
    if not path.is_file():
        pytest.skip("the shared folder with layer tables is not there")
    with path.open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["op"] in ("conv", "fc")]
    return [{key: int(value) for key, value in row.items() if key not in ("net", "layer", "op", "dilation")} for row in rows]


def test_every_network_is_built_in() -> None:
    assert list(ZOO) == list(MACS)
    assert set(NETWORKS) == {"lenet5", *ZOO}
    assert all(sample_images(name) is None for name in ZOO)


@pytest.mark.parametrize("name", ZOO)
def test_size(name: str) -> None:
    network = load_network(name)
    assert network.name == name
    assert network.macs == MACS[name]
    assert sum(op.weights.size for op in convs(network)) == WEIGHTS[name]
    assert any("random" in note for note in network.notes)


def test_what_alexnet_lacks_is_said() -> None:
    assert any("normalisations are left out" in note for note in network_named("alexnet").notes)


@pytest.mark.parametrize("name", TABLE_OF)
def test_layers_are_those_of_the_table(name: str) -> None:
    network = load_network(name)
    assert [geometry(network, op) for op in convs(network)] == table(TABLE_OF[name])


def test_layers_of_the_narrow_mobilenet_are_those_of_the_table() -> None:
    """The table is of 128 pixels and 1001 classes, so only what does not depend on these is compared."""
    columns = ("kernel_h", "kernel_w", "in_ch", "groups", "stride_h", "stride_w")
    network = network_named("mobilenetv1-0.25-96")
    rows = table("mobilenet_v1_0.25_128_quant_tflite")
    assert [[geometry(network, op)[key] for key in columns] for op in convs(network)] == [[r[key] for key in columns] for r in rows]
    assert [op.weights.shape[0] for op in convs(network)[:-1]] == [row["out_ch"] for row in rows[:-1]]


@pytest.mark.parametrize("name", SMALL)
def test_the_same_name_gives_the_same_bytes(name: str) -> None:
    for first, second in zip(convs(network_named(name)), convs(load_network(name)), strict=True):
        assert np.array_equal(first.weights, second.weights)
        assert np.array_equal(first.bias, second.bias)
        assert np.array_equal(first.requantisation.multiplier, second.requantisation.multiplier)


@pytest.mark.parametrize("name", [*SMALL, "mobilenetv2", "resnet18", pytest.param("vgg16", marks=pytest.mark.full)])
def test_without_weights_the_instructions_are_the_same(name: str) -> None:
    light = load_network(name, assume=True)
    assert all(set(op.weights.strides) == {0} for op in convs(light))
    expected, program = (compile_network(network, PRESETS["base"]) for network in (network_named(name), light))
    assert program.instructions == expected.instructions
    assert program.layers == expected.layers
    assert program.image.nbytes == expected.image.nbytes


@pytest.mark.parametrize("name", [*SMALL, "mobilenetv2", "squeezenet", "resnet18"])
def test_maps_are_full_of_different_bytes(name: str) -> None:
    network = network_named(name)
    seed = 1
    maps = golden.run_all(network, np.random.default_rng(seed).integers(-128, 128, network.input.shape, np.int8))
    for op in network.operators:
        values = maps[op.output]
        if values.size >= 100:
            assert (values == values.min()).mean() <= 0.7, (op.name, seed)
            assert (values == values.max()).mean() <= 0.3, (op.name, seed)
            assert len(np.unique(values)) >= 24, (op.name, seed)
    assert len(np.unique(maps[network.output])) > 1


@pytest.mark.parametrize("name", SMALL)
def test_one_byte_of_the_input_reaches_the_output(name: str) -> None:
    network = network_named(name)
    image = np.random.default_rng(2).integers(-128, 128, network.input.shape, np.int8)
    other = image.copy()
    other[image.shape[0] // 2, image.shape[1] // 2, image.shape[2] // 2] ^= -128
    first, second = golden.run(network, np.stack([image, other]))
    assert not np.array_equal(first, second)


def test_tables_of_an_add_are_tensorflow_lites() -> None:
    network = network_named("resnet8")
    (op,) = (op for op in network.operators if op.name == "stack1.add")
    scales = [network.tensor(name).scale for name in op.inputs]
    out = network.tensor(op.output)
    rng = np.random.default_rng(3)
    maps = [rng.integers(-128, 128, network.tensor(name).shape, np.int8) for name in op.inputs]
    real = sum(
        scale * (values - np.float64(network.tensor(name).zero_point))
        for name, scale, values in zip(op.inputs, scales, maps, strict=True)
    )
    expected = np.clip(np.rint(real / out.scale) + out.zero_point, -128, 127)
    assert np.abs(golden.add(op, maps[0][None], maps[1][None])[0] - expected).max() <= 1


def test_names_tell_what_they_are() -> None:
    for name, builtin in NETWORKS.items():
        if name != "lenet5":
            assert re.search("random weights$", builtin.description), name
