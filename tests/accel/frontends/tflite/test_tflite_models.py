"""Trained models against tflite-micro, byte by byte, on real inputs and on noise.

The files lie beside the repository, in ``../shared/data``; where they are absent these tests are skipped.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from accel import golden
from accel.frontends.tflite import load_tflite

DATA = Path(__file__).parents[5] / "shared" / "data"
SCHEMA = "tflite_micro.tensorflow.lite.micro.python.schema_py_generated"
MODELS = ["ad01_int8", "cifar10_q", "kws_ref_model", "mnist_dw_q", "mnist_resnet_q", "mnist_valid_q", "pretrainedResnet_quant"]


def model_file(name: str) -> Path:
    path = DATA / "models" / "tflite" / f"{name}.tflite"
    if not path.exists():
        pytest.skip("the TFLite models are not beside the repository")
    return path


def without_softmax(path: Path) -> bytes:
    """Return the file again, ended before a final softmax, which the host computes here."""
    pytest.importorskip("tflite_micro", reason="tflite-micro is not installed")
    schema = importlib.import_module(SCHEMA)
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    graph = model.subgraphs[0]
    last = graph.operators[-1]
    code = model.operatorCodes[last.opcodeIndex]
    if max(code.builtinCode, code.deprecatedBuiltinCode) == schema.BuiltinOperator.SOFTMAX:
        graph.operators = graph.operators[:-1]
        graph.outputs = [last.inputs[0]]
    builder = importlib.import_module("flatbuffers").Builder(1 << 20)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def images_for(model: str) -> np.ndarray | None:
    """Return real int8 inputs for a model, or None where there are none."""
    if model.startswith("mnist"):
        with np.load(DATA / "images" / "mnist_public_1k.npz") as file:
            return np.asarray(file["x"][:200].astype(np.int16) - 128, np.int8)[..., np.newaxis]
    if model == "cifar10_q":
        with np.load(DATA / "images" / "cifar10_test20_lossless.npz") as file:
            return np.asarray(file["x"].astype(np.int16) - 128, np.int8)
    if model == "pretrainedResnet_quant":
        with np.load(DATA / "golden" / "pretrainedResnet_quant_cifar20.npz") as file:
            return np.asarray(file["x"])
    return None


@pytest.mark.parametrize("name", MODELS)
def test_every_output_byte_before_the_softmax(bench: Any, name: str) -> None:
    path = model_file(name)
    network = load_tflite(path)
    noise = np.random.default_rng(1).integers(-128, 128, (20, *network.input.shape), np.int8)
    real = images_for(name)
    maps = noise if real is None else np.concatenate([real, noise])
    expected = bench.micro(without_softmax(path), maps)
    np.testing.assert_array_equal(golden.run(network, maps).reshape(len(maps), -1), expected, err_msg="noise is from seed 1")
    assert len(network.notes) == (0 if name == "ad01_int8" else 1)


def test_outputs_on_record() -> None:
    """The one model without a softmax, against outputs that tflite-micro gave elsewhere."""
    network = load_tflite(model_file("ad01_int8"))
    with np.load(DATA / "golden" / "ad01_int8_16.npz") as file:
        outputs = golden.run(network, file["x"].reshape(-1, *network.input.shape))
        np.testing.assert_array_equal(outputs.reshape(-1, 640), file["y_tflm"])


def test_digits_are_recognised() -> None:
    network = load_tflite(model_file("mnist_resnet_q"))
    with np.load(DATA / "images" / "mnist_public_1k.npz") as file:
        maps = np.asarray(file["x"].astype(np.int16) - 128, np.int8)[..., np.newaxis]
        right = (golden.run(network, maps).reshape(1000, 10).argmax(axis=1) == file["y"]).mean()
    assert right > 0.97
