"""Float models through ONNX Runtime's static quantiser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from accel import golden
from accel.frontends.onnx import load_onnx
from accel.graph import Add, AveragePool, Conv2D, MaxPool
from accel.images import as_images
from accel.quantise import QuantisationError, quantise_model

pytest.importorskip("onnxruntime")

SHARED = Path(__file__).parents[3] / "shared" / "data"


def float_model(opset: int = 13) -> onnx.ModelProto:
    """Return a small residual network with batch normalisation, as an old exporter writes it: initialisers among the inputs."""
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {
        "w1": rng.normal(0, 0.3, (6, 3, 3, 3)),
        "gamma": rng.uniform(0.5, 2, 6),
        "beta": rng.normal(0, 1, 6),
        "mean": rng.normal(0, 1, 6),
        "var": rng.uniform(0.5, 2, 6),
        "w2": rng.normal(0, 0.3, (6, 1, 3, 3)),
        "w3": rng.normal(0, 0.3, (6, 5)),
        "b3": rng.normal(0, 1, (1, 5)),
    }
    constants = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()]
    constants.append(numpy_helper.from_array(np.array([1, -1]), "flat"))
    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["a"], "conv1", pads=[1] * 4),
        helper.make_node("BatchNormalization", ["a", "gamma", "beta", "mean", "var"], ["b"], "bn"),
        helper.make_node("Relu", ["b"], ["c"], "relu"),
        helper.make_node("Conv", ["c", "w2"], ["d"], "conv2", pads=[1] * 4, group=6),
        helper.make_node("Add", ["c", "d"], ["e"], "join"),
        helper.make_node("MaxPool", ["e"], ["f"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["f"], ["g"], "mean"),
        helper.make_node("Reshape", ["g", "flat"], ["h"], "flatten"),
        helper.make_node("MatMul", ["h", "w3"], ["i"], "product"),
        helper.make_node("Add", ["i", "b3"], ["scores"], "bias"),
    ]
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 8, 8])]
    if opset < 9:
        inputs += [helper.make_tensor_value_info(c.name, c.data_type, list(c.dims)) for c in constants]
    outputs = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 5])]
    graph = helper.make_graph(nodes, "test", inputs, outputs, constants)
    return helper.make_model(graph, ir_version=3 if opset < 9 else 8, opset_imports=[helper.make_opsetid("", opset)])


def scores(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    runtime: Any = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {session.get_inputs()[0].name: image[None]})[0] for image in images])


@pytest.mark.parametrize("opset", [8, 13, 17])
def test_float_model_end_to_end(tmp_path: Path, opset: int) -> None:
    """Batch normalisation and the constant added behind the product fold; the int8 scores are close to the float ones."""
    model = float_model(opset)
    onnx.save(model, str(tmp_path / "model.onnx"))
    images = np.random.default_rng(1).normal(0, 1, (30, 3, 8, 8)).astype(np.float32)
    network = load_onnx(tmp_path / "model.onnx", calibration=images)
    assert [type(op) for op in network.operators] == [Conv2D, Conv2D, Add, MaxPool, AveragePool, Conv2D]
    assert network.notes == ("quantised from a float model by ONNX Runtime with the calibration data",)
    tensor = network.tensors[network.output]
    result = (golden.run(network, as_images(images, network)).reshape(30, 5) - float(tensor.zero_point)) * tensor.scale
    expected = scores(model, images)
    assert np.abs(result - expected).max() < 0.05 * np.abs(expected).max()


@pytest.mark.parametrize("opset", [8, 13])
def test_preprocessing_survives(tmp_path: Path, opset: int) -> None:
    """Pixels calibrate the model through its own preprocessing, which the quantised network still has."""
    model = float_model(opset)
    helper.set_model_props(model, {"systolith.preprocessing": '{"scale": 0.01, "mean": 1.28}'})
    onnx.save(model, str(tmp_path / "model.onnx"))
    pixels = np.random.default_rng(2).integers(0, 256, (10, 8, 8, 3)).astype(np.uint8)
    pixels[0, 0, 0, :2] = 0, 255
    network = load_onnx(tmp_path / "model.onnx", calibration=pixels)
    assert network.preprocessing == {"scale": 0.01, "mean": 1.28}
    assert network.input.scale == pytest.approx(2.55 / 255)


@pytest.mark.parametrize(
    ("calibration", "text"),
    [
        (np.zeros((0, 3, 8, 8), np.float32), "calibration data is empty"),
        (np.zeros((2, 3, 8, 9), np.float32), "calibration data must be numbers of shape (N, 3, 8, 8), not float32 (2, 3, 8, 9)"),
        (np.zeros((3, 8, 8), np.float32), "calibration data must be numbers of shape (N, 3, 8, 8), not float32 (3, 8, 8)"),
        (np.full((1, 3, 8, 8), np.nan, np.float32), "calibration data holds NaN or infinity"),
        (np.full((1, 3, 8, 8), "x"), "calibration data must be numbers"),
    ],
)
def test_bad_calibration_data(calibration: np.ndarray, text: str) -> None:
    with pytest.raises(QuantisationError) as caught:
        quantise_model(float_model(), calibration, name="model")
    assert str(caught.value).startswith(f"model: {text}")


def test_calibration_file_of_another_shape(tmp_path: Path) -> None:
    onnx.save(float_model(), str(tmp_path / "model.onnx"))
    with pytest.raises(Exception, match=r"model\.onnx: calibration data: the shape must be \(N, 8, 8, 3\)"):
        load_onnx(tmp_path / "model.onnx", calibration=np.zeros((4, 9, 9, 3), np.uint8))


def test_runtime_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime.quantization", None)
    with pytest.raises(
        QuantisationError, match="model: quantising a float model needs ONNX Runtime; run 'pip install onnxruntime'"
    ):
        quantise_model(float_model(), np.zeros((1, 3, 8, 8), np.float32), name="model")


def test_mnist_of_the_model_zoo() -> None:
    """The float network classifies 98.7 % of these digits."""
    model = SHARED / "models" / "onnx" / "mnist-8.onnx"
    if not model.is_file():
        pytest.skip("the shared folder with the model zoo's network is not there")
    with np.load(SHARED / "images" / "mnist_cazala_10k.npz") as data:
        calibration = data["x"][::50]
    with np.load(SHARED / "images" / "mnist_public_1k.npz") as data:
        images, labels = data["x"], data["y"]
    network = load_onnx(model, calibration=calibration)
    classes = golden.run(network, as_images(images, network)).reshape(len(labels), 10).argmax(1)
    assert (classes == labels).mean() >= 0.985
