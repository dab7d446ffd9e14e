"""Every refusal of the ONNX import: one sentence that names the file, the node and what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from accel.errors import SystolithError
from accel.frontends import load_network
from accel.frontends.onnx import PREPROCESSING_KEY, load_onnx

I8 = np.int8(3)


def conv_model(bench: Any, shape: tuple[Any, ...] = (1, 1, 8, 8), **options: Any) -> Any:
    """Return a QDQ model of one convolution; options change what is wrong with it."""
    model = bench.Model(shape, options.get("element_type", TensorProto.FLOAT))
    model.quantise(options.get("scale", 0.1), options.get("zero", I8))
    weights = options.get("weights", np.ones((2, 1, 3, 3), np.int8))
    if options.get("float_weights"):
        w = model.constant(weights.astype(np.float32))
    else:
        w = model.node(
            "DequantizeLinear",
            *options.get("weight_grid", (np.float32(0.01), np.int8(0))),
            first=model.constant(weights),
            axis=options.get("axis", 0),
        )
    model.node("Conv", w, first="dequantizelinear_1", name="conv", **options.get("attributes", {}))
    model.quantise(0.05, I8)
    return model


def refusal(bench: Any, model: Any, **options: Any) -> str:
    """Return the text of the refusal, checked to be one sentence that names the file."""
    with pytest.raises(SystolithError) as caught:
        bench.load(model if isinstance(model, onnx.ModelProto) else model.proto(), **options)
    text = str(caught.value)
    assert text.startswith(f"{bench.folder / 'model.onnx'}: ")
    assert "\n" not in text
    return text.removeprefix(f"{bench.folder / 'model.onnx'}: ")


def test_the_model_that_the_cases_spoil_is_good(bench: Any) -> None:
    assert bench.load(conv_model(bench).proto()).macs == 6 * 6 * 2 * 9


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(SystolithError, match=r"absent\.onnx: there is no such file"):
        load_network(str(tmp_path / "absent.onnx"))


@pytest.mark.parametrize(("operator", "domain"), [("LSTM", ""), ("Sharpen", "com.example"), ("Conv", "com.example")])
def test_an_operator_that_hides_the_shape_of_the_output(bench: Any, operator: str, domain: str) -> None:
    sizes = {"hidden_size": 4} if operator == "LSTM" else {}
    weights = [numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in (("w", (1, 16, 8)), ("r", (1, 16, 4)))]
    node = helper.make_node(operator, ["x", "w", "r"], ["y"], name="odd", domain=domain, **sizes)
    graph = helper.make_graph(
        [node],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 1, 8))],
        [onnx.ValueInfoProto(name="y")],
        weights,
    )
    opsets = [helper.make_opsetid("", 13), *([helper.make_opsetid(domain, 1)] if domain else [])]
    text = refusal(bench, helper.make_model(graph, opset_imports=opsets, ir_version=8))
    assert text.startswith(f"{operator} 'odd': the operator is not supported; ")


@pytest.mark.parametrize("field", [b"env", b"Conv"])
def test_a_name_that_is_no_text(bench: Any, field: bytes) -> None:
    """Of a node: its name, and its operator."""
    data = conv_model(bench).proto().SerializeToString()
    node = data.index(b"conv" if field == b"env" else b"Conv")
    path = bench.folder / "model.onnx"
    path.write_bytes(data[:node] + b"\xff" + data[node + 1 :])
    with pytest.raises(SystolithError, match=r"model\.onnx: is not an ONNX model, or is cut off") as caught:
        load_onnx(path)
    assert "not supported" not in str(caught.value)


def test_what_the_checker_finds_is_not_put_down_to_a_constant(bench: Any) -> None:
    """A constant may be computed by operators that nothing else may use."""
    model = conv_model(bench)
    model.nodes.insert(0, helper.make_node("Sqrt", [model.constant(np.float32(4))], ["two"], "fold"))
    assert bench.load(model.proto()).macs
    model.nodes[-3].attribute.append(helper.make_attribute("strdies", [1, 1]))
    assert "strdies" in refusal(bench, model)


def test_nodes_without_names_are_called_the_same_by_estimate_and_run(bench: Any) -> None:
    model = bench.Model((1, 1, 8, 8))
    model.node("Conv", np.ones((2, 1, 3, 3), np.float32))
    model.node("MaxPool", kernel_shape=[2, 2], strides=[2, 2])
    for node in model.nodes:
        node.name = ""
    path = bench.folder / "unnamed.onnx"
    onnx.save(model.proto(), path)
    rng = np.random.default_rng(5)
    ran = load_onnx(path, calibration=rng.normal(size=(8, 8, 8, 1)).astype(np.float32))
    estimated = load_onnx(path, assume=True)
    assert [op.name for op in ran.operators] == [op.name for op in estimated.operators]
    assert [op.name for op in ran.operators] == ["Conv_0", "MaxPool_1"]


def test_every_truncation_is_refused(bench: Any) -> None:
    data = conv_model(bench).proto().SerializeToString()
    path = bench.folder / "cut.onnx"
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        with pytest.raises(SystolithError, match=r"cut\.onnx: ") as caught:
            load_onnx(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "data", [b"\x89PNG\r\n\x1a\n" + bytes(100), b"not a model at all", bytes(64), b"{}", "ä".encode("latin-1") * 50]
)
def test_other_files(bench: Any, data: bytes) -> None:
    path = bench.folder / "model.onnx"
    path.write_bytes(data)
    with pytest.raises(SystolithError, match="is not an ONNX model, or is cut off"):
        load_onnx(path)


def test_missing_external_weights(bench: Any) -> None:
    proto = conv_model(bench).proto()
    path = bench.folder / "model.onnx"
    onnx.save(proto, str(path), save_as_external_data=True, location="weights.bin", size_threshold=0)
    (bench.folder / "weights.bin").unlink()
    with pytest.raises(SystolithError, match="its weights are in other files, which cannot be read"):
        load_onnx(path)


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        (("N", 1, "height", 8), "dimension 2 (height) of the input 'image' is dynamic; fix it"),
        ((1, 1, None, 8), "dimension 2 of the input 'image' is dynamic"),
        ((4, 1, 8, 8), "dimension 0 of the input 'image' is the batch and must be 1 or dynamic, not 4"),
        ((1, 1, 8, 8, 8), "must have 2, 3 or 4 dimensions, batch first, not 5"),
        ((1, 1, 0, 8), "dimension 2 of the input 'image' must be at least 1, not 0"),
    ],
)
def test_input_shapes(bench: Any, shape: tuple[Any, ...], text: str) -> None:
    assert text in refusal(bench, conv_model(bench, shape))


def test_dynamic_batch_is_one_image(bench: Any) -> None:
    assert bench.load(conv_model(bench, ("batch", 1, 8, 8)).proto()).input.shape == (8, 8, 1)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"element_type": TensorProto.DOUBLE}, "the input 'image' must be float, int8 or uint8, not double"),
        ({"zero": np.int16(3)}, "QuantizeLinear 'quantizelinear_0': its output must be int8 or uint8, not int16"),
        ({"scale": 0.0}, "QuantizeLinear 'quantizelinear_0': its output scale must be finite and positive, not 0.0"),
        ({"scale": -1.0}, "its output scale must be finite and positive, not -1.0"),
        (
            {"weights": np.ones((2, 1, 3, 3), np.int16), "weight_grid": (np.float32(0.01), np.int16(0))},
            "must be int8, uint8 or (for a bias) int32, not int16",
        ),
        (
            {"weights": np.ones((2, 1, 3, 3), np.int32), "weight_grid": (np.float32(0.01), np.int32(0))},
            "Conv 'conv': its weights must be int8 or uint8, not int32",
        ),
        ({"weights": np.ones((2, 3, 3, 3), np.int8)}, "Conv 'conv': weights (2, 3, 3, 3) in 1 groups do not fit 1 input channels"),
        (
            {"weights": np.ones((2, 1, 9, 3), np.int8)},
            "Conv 'conv': a window of (9, 3) with padding (0, 0, 0, 0) does not fit a map of (8, 8)",
        ),
        ({"attributes": {"pads": [-1, 0, 0, 0]}}, "Conv 'conv': padding must be four numbers of at least 0"),
        ({"attributes": {"strides": [1]}}, "Conv 'conv': kernel [3, 3], strides [1]"),
        ({"attributes": {"auto_pad": "SAME"}}, "auto_pad must be NOTSET, VALID, SAME_UPPER or SAME_LOWER, not SAME"),
        ({"float_weights": True}, "Conv 'conv': its weights are float32, not quantised"),
        (
            {"weight_grid": (np.full(3, 0.01, np.float32), np.zeros(3, np.int8)), "axis": 3},
            "its weights have scales along axis 3; they must lie along the output channels, axis 0",
        ),
        ({"weight_grid": (np.full(5, 0.01, np.float32), np.zeros(5, np.int8))}, "5 scales do not fit axis 0 of (2, 1, 3, 3)"),
        ({"weight_grid": (np.float32(np.inf), np.int8(0))}, "its input scale must be finite and positive, not inf"),
    ],
)
def test_quantisation_and_weights(bench: Any, options: dict[str, Any], text: str) -> None:
    assert text in refusal(bench, conv_model(bench, **options))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite(bench: Any, value: float) -> None:
    weights = np.ones((2, 1, 3, 3), np.float32)
    weights[1, 0, 2, 2] = value
    model = bench.Model((1, 1, 8, 8))
    model.node("Conv", weights, name="conv")
    assert (
        refusal(bench, model, calibration=np.zeros((1, 8, 8), np.uint8))
        == "the constant 'constant0' holds NaN or infinity; every weight must be finite"
    )


def after(bench: Any, add: Callable[[Any], Any], **options: Any) -> str:
    """Return the refusal of what ``add`` puts after a quantised convolution."""
    model = conv_model(bench)
    add(model)
    return refusal(bench, model.proto(**options))


@pytest.mark.parametrize(
    ("add", "text"),
    [
        (
            lambda m: m.node("LSTM", np.zeros((1, 4, 2)), np.zeros((1, 4, 1)), name="rnn"),
            "LSTM 'rnn': the operator is not supported; supported are Abs, Add,",
        ),
        (
            lambda m: m.node("Concat", m.value, name="join", axis=2),
            "along axis 2; only channels can be joined",
        ),
        (
            lambda m: m.node("Concat", m.value, name="join", axis=4),
            "Concat 'join': joins activations of shapes",
        ),
        (lambda m: m.node("ConvTranspose", np.zeros((2, 1, 3, 3), np.float32), name="up"), "the nearest supported form is Conv"),
        (
            lambda m: m.node("Mul", m.value, name="gate"),
            "Mul 'gate': Mul of two activations is not supported; they can only be joined by Add and Concat",
        ),
        (
            lambda m: m.node("Add", np.arange(2, dtype=np.float32).reshape(2, 1, 1), name="shift"),
            "Add 'shift': its constant is not the same everywhere",
        ),
        (lambda m: m.node("Div", m.value, name="over", first=m.constant(np.float32(1))), "divides by an activation or by 0"),
        (lambda m: (m.node("Softmax", name="soft"), m.node("Relu", name="act")), "Relu 'act': follows a Softmax or the like"),
        (
            lambda m: (m.node("Sigmoid", name="act"), m.node("MatMul", np.zeros((6, 6), np.float32), name="fc")),
            "MatMul 'fc': its weights are float32, not quantised",
        ),
        (
            lambda m: (m.node("Exp", name="act"), m.node("GlobalAveragePool", name="mean")),
            "GlobalAveragePool 'mean': reads the result of Exp 'act', which is not quantised",
        ),
        (
            lambda m: m.node("ReduceMean", np.array([1]), name="mean"),
            "ReduceMean 'mean': averages the axes (1,) of (1, 2, 6, 6); only height and width",
        ),
        (
            lambda m: (m.node("Reshape", np.array([1, 6, 2, 6])), m.node("MaxPool", name="pool", kernel_shape=[2, 2])),
            "MaxPool 'pool': its input (1, 6, 2, 6) is the map (6, 6, 2)",
        ),
        (lambda m: m.node("Reshape", np.array([1, 7]), name="view"), "Reshape 'view': does not fit its input"),
        (
            lambda m: m.node("MaxPool", name="pool", kernel_shape=[2, 2], pads=[2, 0, 0, 0]),
            "pool: padding (2, 0, 0, 0) is as large as the pooling window",
        ),
        (lambda m: m.node("Cast", name="cast", to=TensorProto.INT64), "Cast 'cast': converts an activation to another type"),
        (
            lambda m: (m.node("QuantizeLinear", np.float32(1), I8), m.node("Relu", name="act")),
            "Relu 'act': works on bytes without a scale",
        ),
        (
            lambda m: m.node("BatchNormalization", *[np.ones(2, np.float32)] * 4, name="bn"),
            "fold it into the convolution before it",
        ),
        (lambda m: m.node("Log", name="log"), "Log 'log': the operator is not supported"),
    ],
)
def test_operators(bench: Any, add: Callable[[Any], Any], text: str) -> None:
    assert text in after(bench, add)


def test_activation_between_layers_that_is_not_quantised(bench: Any) -> None:
    model = bench.Model((1, 1, 8, 8))
    real = model.quantise(0.1, I8)
    weights = model.node("DequantizeLinear", np.float32(0.01), np.int8(0), first=model.constant(np.ones((2, 1, 3, 3), np.int8)))
    model.node("Conv", weights, first=real, name="conv")
    model.node("Sigmoid", name="act")
    model.quantise(0.05, I8)
    text = refusal(bench, model)
    assert (
        "Sigmoid 'act' reads the result of Conv 'conv', which is not quantised; put QuantizeLinear and DequantizeLinear between"
        in text
    )


def test_last_layer_that_is_not_quantised(bench: Any) -> None:
    model = conv_model(bench)
    del model.nodes[-2:]
    model.value = "conv"
    assert refusal(bench, model).startswith("the result of Conv 'conv' is not quantised at the end of the model")


def test_only_the_weights_are_quantised(bench: Any) -> None:
    model = bench.Model((1, 1, 8, 8))
    weights = model.node("DequantizeLinear", np.float32(0.01), np.int8(0), first=model.constant(np.ones((2, 1, 3, 3), np.int8)))
    model.node("Conv", weights, first="image", name="conv")
    assert refusal(bench, model).startswith("Conv 'conv': only its weights are quantised; quantise the activations too")


def test_bytes_read_with_another_zero_point(bench: Any) -> None:
    model = bench.Model((1, 1, 8, 8))
    model.node("QuantizeLinear", np.float32(0.1), np.uint8(10))
    model.node("DequantizeLinear", np.float32(0.1), np.uint8(12), name="back")
    model.node("Sigmoid")
    model.quantise(0.05, I8)
    assert refusal(bench, model) == "DequantizeLinear 'back': reads its input with zero point 12, but it is written with 10"


def test_bias_that_overflows(bench: Any) -> None:
    model = bench.Model((1, 1, 4, 4))
    real = model.quantise(1e-4, I8)
    weights = model.node("DequantizeLinear", np.float32(1e-6), np.int8(0), first=model.constant(np.ones((1, 1, 1, 1), np.int8)))
    model.node("Conv", weights, np.array([1.0], np.float32), first=real, name="conv")
    model.quantise(0.05, I8)
    assert "Conv 'conv': its bias does not fit 32 bits" in refusal(bench, model)


def test_nothing_to_run(bench: Any) -> None:
    model = bench.Model((1, 1, 4, 4))
    model.quantise(0.1, I8)
    assert refusal(bench, model).startswith("no layer lies between the model's input and its output")


def test_two_inputs(bench: Any) -> None:
    model = conv_model(bench)
    model.inputs.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, [1]))
    assert (
        refusal(bench, model)
        == "must have one input and one output, not inputs ['image', 'mask'] and outputs ['dequantizelinear_5']"
    )


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ("{", "the metadata systolith.preprocessing must be JSON"),
        ('{"gamma": 2}', "preprocessing must be an object with the keys pad, scale, mean, std"),
        ('{"scale": "x"}', "preprocessing scale must be finite numbers"),
        ('{"pad": [4, 0, 4, 0]}', "preprocessing pad must be 4 integers"),
        ('{"mean": [1, 2]}', "preprocessing mean must be one number or 1"),
        ('{"std": 0}', "a divisor not 0"),
    ],
)
def test_preprocessing_in_the_metadata(bench: Any, entry: str, text: str) -> None:
    proto = conv_model(bench).proto()
    helper.set_model_props(proto, {PREPROCESSING_KEY: entry})
    assert text in refusal(bench, proto)


def test_good_preprocessing_in_the_metadata(bench: Any) -> None:
    proto = conv_model(bench).proto()
    helper.set_model_props(proto, {PREPROCESSING_KEY: json.dumps({"pad": [1, 1, 1, 1], "scale": 0.5, "mean": [3]})})
    assert bench.load(proto).preprocessing == {"pad": (1, 1, 1, 1), "scale": 0.5, "mean": (3,)}


def test_float_model_without_calibration(bench: Any) -> None:
    model = bench.Model((1, 1, 8, 8))
    model.node("Conv", np.ones((2, 1, 3, 3), np.float32), name="conv")
    assert refusal(bench, model).startswith(
        "is a float model, which must be quantised first; give calibration data, a .npy or .npz file"
    )


def test_float_model_with_an_unknown_operator_is_refused_before_it_is_quantised(bench: Any) -> None:
    model = bench.Model((1, 1, 8, 8))
    model.node("Conv", np.ones((2, 1, 3, 3), np.float32), name="conv")
    model.node("DepthToSpace", name="shuffle", blocksize=1)
    assert refusal(bench, model).startswith("DepthToSpace 'shuffle': the operator is not supported")


def test_unknown_names_list_the_networks() -> None:
    with pytest.raises(
        SystolithError, match=r"no network is called 'lenet'; use one of lenet5, .*autoencoder, or a \.onnx or \.tflite file"
    ):
        load_network("lenet")


def test_calibration_for_what_is_quantised_already(bench: Any) -> None:
    network = bench.load(conv_model(bench).proto(), calibration=np.zeros((1, 8, 8), np.uint8))
    assert network.notes == ("the model is quantised already, so the calibration data is not used",)
    with pytest.raises(SystolithError, match="lenet5: is quantised already; leave the calibration data out"):
        load_network("lenet5", calibration="digits.npy")


def test_a_file_called_like_a_built_in_network_does_not_take_its_name(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx.save(conv_model(bench).proto(), str(bench.folder / "lenet5.onnx"))
    assert load_network(str(bench.folder / "lenet5.onnx")).name == "lenet5.onnx"


def test_constant_with_nan_in_a_node(bench: Any) -> None:
    model = bench.Model((1, 1, 8, 8))
    model.nodes.append(
        helper.make_node("Constant", [], ["w"], "w", value=numpy_helper.from_array(np.full((2, 1, 3, 3), np.nan, np.float32)))
    )
    model.node("Conv", "w", name="conv")
    assert refusal(bench, model).startswith("the constant 'w' holds NaN or infinity")
