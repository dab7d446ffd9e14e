"""A builder of small quantised ONNX models, and ONNX Runtime as the independent reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from accel import golden
from accel.frontends.onnx import load_onnx
from accel.graph import Network


class Model:
    """Builds a model node by node; ``value`` is the output of the last node, and each node's name is its output's."""

    def __init__(self, shape: tuple[int | str, ...], element_type: int = TensorProto.FLOAT, opset: int = 21) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self.inputs = [helper.make_tensor_value_info("image", element_type, shape)]
        self.opset = opset
        self.value = "image"

    def constant(self, array: Any) -> str:
        name = f"constant{len(self.constants)}"
        self.constants[name] = np.asarray(array)
        return name

    def node(self, op_type: str, *more: Any, name: str = "", first: str | None = None, domain: str = "", **attributes: Any) -> str:
        """Add a node on the last value (or ``first``); other inputs are names or arrays, or None where left out."""
        inputs = [self.value if first is None else first]
        inputs += ["" if item is None else item if isinstance(item, str) else self.constant(item) for item in more]
        name = name or f"{op_type.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [name], name, domain=domain, **attributes))
        self.value = name
        return name

    def quantise(self, scale: float, zero: Any, first: str | None = None) -> str:
        """Add QuantizeLinear and DequantizeLinear."""
        self.node("QuantizeLinear", np.float32(scale), zero, first=first)
        return self.node("DequantizeLinear", np.float32(scale), zero)

    def proto(self, output_type: int = TensorProto.FLOAT, *, rank: int = 4) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "test",
            self.inputs,
            [helper.make_tensor_value_info(self.value, output_type, [None] * rank)],
            [numpy_helper.from_array(array, name) for name, array in self.constants.items()],
        )
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, ir_version=8 if self.opset <= 18 else 10, opset_imports=opsets)


def runtime_bytes(model: onnx.ModelProto, images: np.ndarray, network: Network, *, optimise: bool) -> np.ndarray:
    """Return ONNX Runtime's output as our bytes ``(N, elements)``, in the model's order."""
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    levels = runtime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimise else levels.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    # Without it, QDQ models with int8 activations are computed in floating point on x86.
    options.add_session_config_entry("session.qdqisint8allowed", "1")
    session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    results = np.concatenate([session.run(None, {"image": image[None]})[0] for image in images])
    return as_bytes(results, network)


def as_bytes(results: np.ndarray, network: Network) -> np.ndarray:
    """Return a model's results, bytes or dequantised bytes, as our bytes ``(N, elements)``."""
    tensor = network.tensor(network.output)
    if results.dtype == np.float32:
        results = np.rint(results / np.float32(tensor.scale)) + tensor.zero_point
    elif results.dtype == np.uint8:
        results = results.astype(np.int64) - 128
    return results.reshape(len(results), -1).astype(np.int64)


def golden_bytes(network: Network, images: np.ndarray) -> np.ndarray:
    """Return the golden model's output ``(N, elements)``, channels first, for images as ONNX has them (bytes or real)."""
    tensor = network.input
    if images.dtype == np.float32:
        images = np.clip(np.rint(images / np.float32(tensor.scale)) + tensor.zero_point, -128, 127)
    elif images.dtype == np.uint8:
        images = images.astype(np.int64) - 128
    height, width, channels = tensor.shape
    maps = images.reshape(len(images), channels, height, width).transpose(0, 2, 3, 1).astype(np.int8)
    result = golden.run(network, np.ascontiguousarray(maps))
    return result.transpose(0, 3, 1, 2).reshape(len(images), -1).astype(np.int64)


class Bench:
    """What the tests of this folder share."""

    Model = Model
    runtime_bytes = staticmethod(runtime_bytes)
    golden_bytes = staticmethod(golden_bytes)
    as_bytes = staticmethod(as_bytes)

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def load(self, model: onnx.ModelProto, **options: Any) -> Network:
        path = self.folder / "model.onnx"
        onnx.save(model, str(path))
        return load_onnx(path, **options)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)
