"""Networks of which only the cycles are asked: float models without calibration data, and graphs without weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from accel import perf
from accel.compiler import compile_network
from accel.config import PRESETS
from accel.errors import SystolithError
from accel.frontends import load_network
from accel.frontends.assumed import NOTE
from accel.frontends.onnx import OnnxError, load_onnx
from accel.graph import Concat, Conv2D, Lookup, Network
from accel.program import MemoryTiming

#: The onnx package's graphs without weights: its "light" models.
LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"


def float_model(*, hollow: bool = False) -> onnx.ModelProto:
    """Return a small network of everything that quantisation folds, moves or splits."""
    rng = np.random.default_rng(0)
    shapes = {"w1": (6, 3, 3, 3), "w2": (6, 1, 3, 3), "w3": (6, 5), "b3": (1, 5)}
    shapes |= dict.fromkeys(("gamma", "beta", "mean", "var"), (6,))
    constants = [numpy_helper.from_array(rng.uniform(0.1, 0.5, shape).astype(np.float32), n) for n, shape in shapes.items()]
    constants.append(numpy_helper.from_array(np.array([1, -1]), "flat"))
    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["a"], "conv1", pads=[1] * 4),
        helper.make_node("BatchNormalization", ["a", "gamma", "beta", "mean", "var"], ["b"], "bn"),
        helper.make_node("Relu", ["b"], ["c"], "relu"),
        helper.make_node("Conv", ["c", "w2"], ["d"], "conv2", pads=[1] * 4, group=6),
        helper.make_node("Sigmoid", ["d"], ["s"], "sigmoid"),
        helper.make_node("Add", ["c", "s"], ["e"], "join"),
        helper.make_node("MaxPool", ["e"], ["f"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["f"], ["g"], "mean"),
        helper.make_node("Dropout", ["g"], ["dropped"], "dropout"),
        helper.make_node("Reshape", ["dropped", "flat"], ["h"], "flatten"),
        helper.make_node("MatMul", ["h", "w3"], ["i"], "product"),
        helper.make_node("Add", ["i", "b3"], ["j"], "bias"),
        helper.make_node("Softmax", ["j"], ["scores"], "softmax"),
    ]
    if hollow:
        sizes = [numpy_helper.from_array(np.array(shape), f"{name}_shape") for name, shape in shapes.items()]
        nodes = [helper.make_node("ConstantOfShape", [f"{name}_shape"], [name]) for name in shapes] + nodes
        constants = [*sizes, constants[-1]]
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 8, 8])]
    outputs = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 5])]
    graph = helper.make_graph(nodes, "test", inputs, outputs, constants)
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 13)])


def branched(first: str) -> onnx.ModelProto:
    """Return two convolutions that an addition joins, ``first`` before the other in the file; its first input is that of "long"."""
    rng = np.random.default_rng(1)
    shapes = {"w0": (12, 3, 3, 3), "w1": (12, 1, 3, 3), "w2": (20, 12, 1, 1), "w3": (20, 12, 1, 1)}
    constants = [numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name) for name, shape in shapes.items()]
    branches = {
        "long": [
            helper.make_node("Conv", ["b", "w1"], ["c"], "depthwise", pads=[1] * 4, group=12),
            helper.make_node("Relu", ["c"], ["d"], "relu1"),
            helper.make_node("Conv", ["d", "w2"], ["e"], "pointwise"),
        ],
        "short": [helper.make_node("Conv", ["b", "w3"], ["s"], "shortcut")],
    }
    nodes = [
        helper.make_node("Conv", ["image", "w0"], ["a"], "begin", pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["b"], "relu0"),
        *(node for name in sorted(branches, key=lambda name: name != first) for node in branches[name]),
        helper.make_node("Add", ["e", "s"], ["sum"], "join"),
        helper.make_node("GlobalAveragePool", ["sum"], ["scores"], "mean"),
    ]
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 13, 11])]
    outputs = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 20, 1, 1])]
    graph = helper.make_graph(nodes, "test", inputs, outputs, constants)
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 13)])


@pytest.mark.parametrize("first", ["long", "short"])
def test_layers_have_one_order_whatever_that_of_the_file_and_of_quantisation(tmp_path: Path, first: str) -> None:
    path = saved(tmp_path, branched(first))
    images = np.random.default_rng(2).normal(size=(16, 13, 11, 3)).astype(np.float32)
    networks = load_onnx(path, assume=True), load_onnx(path, calibration=images)
    for network in networks:
        assert [op.name for op in network.operators] == ["begin", "depthwise", "pointwise", "shortcut", "join", "mean"]
    for preset in PRESETS.values():
        assumed, quantised = (perf.estimate(compile_network(network, preset)).cycles for network in networks)
        assert assumed == quantised


def saved(folder: Path, model: onnx.ModelProto) -> Path:
    onnx.save(model, str(folder / "model.onnx"))
    return folder / "model.onnx"


def layers(network: Network) -> list[tuple[Any, ...]]:
    """Return what decides the cycles of a network's layers."""
    return [
        (type(op), getattr(op, "window", None), op.weights.shape if isinstance(op, Conv2D) else None) for op in network.operators
    ]


def cycles(network: Network) -> int:
    return perf.estimate(compile_network(network, PRESETS["small"]), MemoryTiming()).cycles


def test_layers_and_cycles_are_those_of_the_calibrated_model(tmp_path: Path) -> None:
    path = saved(tmp_path, float_model())
    images = np.random.default_rng(1).normal(0, 1, (4, 3, 8, 8)).astype(np.float32)
    calibrated, assumed = load_onnx(path, calibration=images), load_onnx(path, assume=True)
    assert layers(assumed) == layers(calibrated)
    assert cycles(assumed) == cycles(calibrated)
    assert assumed.notes[0] == NOTE
    assert assumed.notes[1:] == ("Softmax softmax at the end is left to the host",)


def test_joined_maps_take_a_table_more_at_most(tmp_path: Path) -> None:
    """The calibrated maps are on scales of their own; the assumed ones on one."""
    model = float_model()
    join = helper.make_node("Concat", ["e", "c"], ["t"], "concat", axis=1)
    pool = next(node for node in model.graph.node if node.name == "pool")
    pool.input[0] = "t"
    model.graph.node.insert(list(model.graph.node).index(pool), join)
    weights = next(tensor for tensor in model.graph.initializer if tensor.name == "w3")
    weights.CopyFrom(numpy_helper.from_array(np.ones((12, 5), np.float32), "w3"))
    path = saved(tmp_path, model)
    images = np.random.default_rng(1).normal(0, 1, (4, 3, 8, 8)).astype(np.float32)
    calibrated, assumed = layers(load_onnx(path, calibration=images)), layers(load_onnx(path, assume=True))
    assert any(kind is Concat for kind, *_ in assumed)
    assert not any(kind is Lookup for kind, *_ in assumed)
    assert assumed == [layer for layer in calibrated if layer[0] is not Lookup]


def test_a_value_with_several_readers_is_computed_once(tmp_path: Path) -> None:
    """One reads the sums, another their clamp, and a third the maximum of both."""
    weights = numpy_helper.from_array(np.ones((4, 4, 1, 1), np.float32), "w")
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["a"], "conv"),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("Add", ["a", "b"], ["c"], "add"),
        helper.make_node("MaxPool", ["b"], ["d"], "pool", kernel_shape=[1, 1]),
        helper.make_node("Add", ["c", "d"], ["e"], "last"),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4, 6, 6]) for name in ("image", "e")]
    graph = helper.make_graph(nodes, "test", ends[:1], ends[1:], [weights])
    network = load_onnx(saved(tmp_path, helper.make_model(graph, ir_version=8)), assume=True)
    assert [type(op).__name__ for op in network.operators] == ["Conv2D", "Lookup", "Add", "MaxPool", "Add"]


def test_graph_without_weights(tmp_path: Path) -> None:
    whole = load_onnx(saved(tmp_path, float_model()), assume=True)
    hollow = load_onnx(saved(tmp_path, float_model(hollow=True)), assume=True)
    assert layers(hollow) == layers(whole)


def test_weights_in_a_file_that_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    whole = load_onnx(saved(tmp_path, float_model()), assume=True)
    onnx.save(float_model(), str(path), save_as_external_data=True, location="weights.bin", size_threshold=64)
    (tmp_path / "weights.bin").unlink()
    assert layers(load_onnx(path, assume=True)) == layers(whole)
    with pytest.raises(OnnxError, match="its weights are in other files"):
        load_onnx(path)


def test_what_calibration_data_is_for_is_not_assumed(tmp_path: Path) -> None:
    path = saved(tmp_path, float_model())
    with pytest.raises(OnnxError, match="is a float model, which must be quantised first"):
        load_onnx(path)
    with pytest.raises(SystolithError, match="calibration data: holds no image"):
        load_onnx(path, calibration=np.zeros((0, 3, 8, 8), np.float32), assume=True)


def test_a_quantised_model_is_read_as_it_is(bench: Any) -> None:
    model = bench.Model((1, 1, 4, 4))
    model.quantise(0.1, np.int8(3))
    model.node("Relu")
    model.quantise(0.1, np.int8(-128))
    assert bench.load(model.proto(), assume=True).notes == ()


def chain(*nodes: tuple[str, list[np.ndarray], dict[str, Any]]) -> onnx.ModelProto:
    """Return a float model of nodes in a row, each with constants behind its activation."""
    constants, made, value = [], [], "image"
    for number, (kind, arrays, attributes) in enumerate(nodes):
        names = [f"constant{number}_{i}" for i in range(len(arrays))]
        constants += [numpy_helper.from_array(array.astype(np.float32), name) for name, array in zip(names, arrays, strict=True)]
        made.append(helper.make_node(kind, [value, *names], [f"v{number}"], f"{kind.lower()}{number}", **attributes))
        value = f"v{number}"
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 4, 6, 6])]
    graph = helper.make_graph(made, "test", inputs, [helper.make_tensor_value_info(value, TensorProto.FLOAT, None)], constants)
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 13)])


PER_CHANNEL = np.ones((4, 1, 1))
CONV = ("Conv", [np.ones((4, 4, 1, 1))], {})


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ([CONV, ("Mul", [PER_CHANNEL], {}), ("Add", [PER_CHANNEL], {}), ("Relu", [], {})], [(Conv2D, 1)]),
        ([("Mul", [PER_CHANNEL], {}), ("Add", [PER_CHANNEL], {}), ("Relu", [], {}), CONV], [(Conv2D, 4), (Conv2D, 1)]),
        ([CONV, ("Relu", [], {}), ("Sub", [PER_CHANNEL], {})], [(Conv2D, 1), (Conv2D, 4)]),
        ([CONV, ("Tanh", [], {})], [(Conv2D, 1)]),
        ([("MaxPool", [], {"kernel_shape": [2, 2]}), ("Tanh", [], {})], None),
        ([("Mul", [np.array(2.0)], {}), CONV], [(Lookup, 1), (Conv2D, 1)]),
    ],
)
def test_what_becomes_of_products_sums_and_functions(
    tmp_path: Path, nodes: list[Any], expected: list[tuple[type, int]] | None
) -> None:
    """A scale for each channel is folded into a convolution or is a depthwise one; a table needs bytes before it."""
    network = load_onnx(saved(tmp_path, chain(*nodes)), assume=True)
    found = [(type(op), getattr(op, "groups", 1)) for op in network.operators]
    assert expected is None or found == expected
    assert cycles(network) > 0


def test_weights_are_the_same_every_time(tmp_path: Path) -> None:
    path = saved(tmp_path, float_model())
    first, second = load_onnx(path, assume=True), load_onnx(path, assume=True)
    for one, other in zip(first.operators, second.operators, strict=True):
        if isinstance(one, Conv2D) and isinstance(other, Conv2D):
            np.testing.assert_array_equal(one.weights, other.weights)
            assert len(np.unique(one.weights)) > 1


def test_weights_of_no_size_are_refused(tmp_path: Path) -> None:
    model = float_model(hollow=True)
    sizes = next(tensor for tensor in model.graph.initializer if tensor.name == "w3_shape")
    sizes.CopyFrom(numpy_helper.from_array(np.array([6, 1 << 40]), "w3_shape"))
    with pytest.raises(SystolithError, match=r"MatMul 'product': weights of shape .* must have 1 to"):
        load_onnx(saved(tmp_path, model), assume=True)


# The onnx package's own


def test_light_resnet50_is_the_built_in_one() -> None:
    """Its convolutions, products included, are those of the zoo's network."""
    light, ours = load_network(str(LIGHT / "light_resnet50.onnx"), assume=True), load_network("resnet50")
    assert light.macs == ours.macs
    shapes = [sorted(op.weights.shape for op in network.operators if isinstance(op, Conv2D)) for network in (light, ours)]
    assert shapes[0] == shapes[1]


def test_light_squeezenet_is_the_built_in_one() -> None:
    light, ours = load_network(str(LIGHT / "light_squeezenet.onnx"), assume=True), load_network("squeezenet")
    assert layers(light)[:-1] == layers(ours)[:-1]


@pytest.mark.parametrize(("name", "convolutions", "scalings"), [("inception_v2", 69 + 1, 0), ("densenet121", 121, 62)])
def test_light_models_with_joined_channels(name: str, convolutions: int, scalings: int) -> None:
    """Normalisations after a convolution vanish in it; most of DenseNet's come before one, and are layers."""
    path = LIGHT / f"light_{name}.onnx"
    network = load_network(str(path), assume=True)
    joins = sum(node.op_type == "Concat" for node in onnx.load(str(path)).graph.node)
    assert sum(isinstance(op, Concat) for op in network.operators) == joins
    convs = [op for op in network.operators if isinstance(op, Conv2D)]
    assert sum(not op.is_depthwise for op in convs) == convolutions
    assert sum(op.is_depthwise for op in convs) == scalings


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("bvlc_alexnet", "LRN 'n2': the operator is not supported; it is no 8-bit layer"),
        ("inception_v1", "LRN 'n3': the operator is not supported"),
        ("zfnet512", "LRN 'n2': the operator is not supported"),
        ("shufflenet", "Conv 'n10': its input (1, 112, 56, 56) is the map (56, 56, 112) (height, width, channels) with axes mixed"),
    ],
)
def test_light_models_that_are_refused(name: str, text: str) -> None:
    with pytest.raises(OnnxError) as caught:
        load_network(str(LIGHT / f"light_{name}.onnx"), assume=True)
    assert text in str(caught.value)
