"""``systolith estimate``: its numbers, its forms, its refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from accel import perf, roofline
from accel.compiler import compile_network
from accel.config import PRESETS
from accel.frontends import load_network
from accel.frontends.builtin import DATA
from accel.program import MemoryTiming
from accel.testing import call_cli


def estimate(*arguments: str) -> dict[str, Any]:
    result = call_cli("estimate", *arguments, "--json")
    assert result.exit_code == 0, result.output
    values: dict[str, Any] = json.loads(result.stdout)
    return values


def test_json_has_the_keys_of_a_run_and_the_roofline() -> None:
    run = json.loads(call_cli("run", "lenet5", "--backend", "emulator", "--images", "1", "--json").stdout)
    values = estimate("lenet5")
    assert set(values) == {*run, "roofline_cycles", "roofline_share", "clock_mhz", "images_per_second"}
    assert set(values["layers"][0]) == {*run["layers"][0], "roofline_cycles"}
    for key in ("network", "config", "memory", "macs_per_image"):
        assert values[key] == run[key], key
    assert values["backend"] == "cycle model"
    assert values["mismatches"] is values["predictions"] is None
    assert [layer["name"] for layer in values["layers"]] == [layer["name"] for layer in run["layers"]]


def test_stalls_are_those_of_a_run() -> None:
    run = call_cli("run", "lenet5", "--config", "small", "--backend", "verilator", "--images", "1", "--json")
    if run.exit_code == 2:
        pytest.skip(run.stderr.strip())
    simulated, values = json.loads(run.stdout), estimate("lenet5", "--config", "small")
    for key in ("total_cycles", "utilisation", "stalls"):
        assert values[key] == simulated[key], key
    for layer, expected in zip(values["layers"], simulated["layers"], strict=True):
        del layer["roofline_cycles"]
        assert layer == expected
    assert values["stalls"]["execute"]
    for unit, states in values["stalls"].items():
        for state, cycles in states.items():
            assert sum(layer["stalls"][unit].get(state, 0) for layer in values["layers"]) == cycles, (unit, state)


@pytest.mark.parametrize(("latency", "interval"), [(20, 1), (100, 3)])
def test_cycles_are_the_models(latency: int, interval: int) -> None:
    values = estimate("dscnn", "--config", "small", "--memory-latency", f"{latency}", "--memory-interval", f"{interval}")
    network, timing = load_network("dscnn"), MemoryTiming(latency=latency, interval=interval)
    program = compile_network(network, PRESETS["small"])
    expected = perf.estimate(program, timing).cycles
    assert values["memory"] == {"latency": latency, "interval": interval, "stall_seed": None}
    assert values["total_cycles"] == values["cycles_per_image"] == expected
    assert sum(layer["cycles"] for layer in values["layers"]) == expected
    assert values["utilisation"] == program.macs / (16 * expected)
    assert values["roofline_cycles"] == roofline.total_cycles(roofline.layer_bounds(network, program, timing))
    assert values["roofline_share"] == values["roofline_cycles"] / expected


def test_a_batch_is_shared_among_its_images() -> None:
    timing = MemoryTiming()
    values = estimate("lenet5", "--config", "large", "--batch", "4")
    cycles = perf.estimate(compile_network(load_network("lenet5"), PRESETS["large"], batch=4), timing).cycles
    assert (values["batch"], values["images"], values["total_cycles"], values["cycles_per_image"]) == (4, 4, cycles, cycles / 4)
    assert sum(layer["cycles"] for layer in values["layers"]) == pytest.approx(cycles / 4)
    assert sum(layer["roofline_cycles"] for layer in values["layers"]) == pytest.approx(values["roofline_cycles"], abs=0.25)
    assert values["roofline_share"] == 4 * values["roofline_cycles"] / cycles
    assert values["images_per_second"] == pytest.approx(4 * 100e6 / cycles)
    alone = estimate("lenet5", "--config", "large")
    assert alone["batch"] == 1
    assert values["roofline_cycles"] < alone["roofline_cycles"]
    text = call_cli("estimate", "lenet5", "--config", "large", "--batch", "4").stdout
    assert "lenet5 on large, one image of a batch of 4" in text
    compared = call_cli("compare", "lenet5", "--config", "large", "--batch", "4", "--peer", "scalesim").stdout
    assert "One image of a batch of 4 at 100 MHz" in compared
    assert f"{cycles // 4:,}" in compared


def test_the_clock_gives_images_a_second() -> None:
    slow, fast = estimate("lenet5"), estimate("lenet5", "--clock", "250")
    assert slow["images_per_second"] == pytest.approx(100e6 / slow["total_cycles"])
    assert fast["images_per_second"] == pytest.approx(2.5 * slow["images_per_second"])


def test_table() -> None:
    result = call_cli("estimate", "resnet8", "--config", "large")
    assert result.exit_code == 0, result.output
    values = estimate("resnet8", "--config", "large")
    for word in (
        *("cycles", "roofline", "MACs", "used", "bytes", "waits", "execute unit waits: "),
        *("stack3.conv2", "images/s at 100 MHz", "random"),
    ):
        assert word in result.stdout, word
    assert f"{values['total_cycles']:,}" in result.stdout
    assert f"{values['roofline_share']:.1%}" in result.stdout
    assert max(len(line) for line in result.stdout.splitlines()) <= 100
    assert result.stderr.splitlines() == ["reading resnet8", "compiling resnet8 for large", "estimating resnet8 on large"]


def test_several_configurations() -> None:
    names = ("base", "large")
    listed = estimate("lenet5", *(part for name in names for part in ("--config", name)))["estimates"]
    assert [values["config"] for values in listed] == list(names)
    for name, values in zip(names, listed, strict=True):
        assert values["total_cycles"] == estimate("lenet5", "--config", name)["total_cycles"]
    text = call_cli("estimate", "lenet5", "--config", "base", "--config", "large").stdout
    assert text.index("lenet5 on base") < text.index("lenet5 on large")


def test_a_model_file() -> None:
    values, builtin = estimate(str(DATA / "lenet5.onnx")), estimate("lenet5")
    assert values["network"] == "lenet5.onnx"
    assert (values["total_cycles"], values["layers"]) == (builtin["total_cycles"], builtin["layers"])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("nothing",), "no network is called 'nothing'; use one of lenet5, alexnet, vgg16"),
        (
            ("lenet5", "--config", "base", "--config", "huge"),
            "no configuration is called 'huge'; use one of tiny, small",
        ),
        (("lenet5", "--clock", "0"), "invalid value for '--clock'"),
        (("lenet5", "--batch", "0"), "--batch: must be at least 1 image, not 0"),
        (("lenet5", "--batch", "5000"), "lenet5: a batch must be from 1 to 1024 images, not 5000"),
        (("lenet5", "--memory-latency", "0"), "--memory-latency: memory latency must be from 1 to 10000, not 0"),
        (("lenet5", "--calibration", "x.npz"), "lenet5: is quantised already; leave the calibration data out"),
    ],
)
def test_refusals(arguments: tuple[str, ...], sentence: str) -> None:
    result = call_cli("estimate", *arguments)
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert "Traceback" not in result.output
    assert not result.stdout


def test_one_configuration_that_refuses_does_not_take_the_others_with_it() -> None:
    result = call_cli("estimate", "resnet8", "--config", "micro", "--config", "base", "--json")
    assert result.exit_code == 2
    assert [found["config"] for found in json.loads(result.stdout)["estimates"]] == ["base"]
    assert "systolith: resnet8 on micro: stack1.add: adds two maps, but micro" in result.stderr


def test_random_input_is_one_image_unless_more_are_asked_for() -> None:
    for options, images in (((), 1), (("--images", "2"), 2)):
        values = json.loads(call_cli("run", "autoencoder", "--backend", "emulator", *options, "--json").stdout)
        assert (values["images"], values["mismatches"]) == (images, 0)
        assert any("random bytes" in note for note in values["notes"])


def test_float_models_need_no_numbers(tmp_path: Path) -> None:
    """A note says that they are made up; running such a model is refused."""
    weights = numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "w")
    node = helper.make_node("Conv", ["image", "w"], ["y"], "conv")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("image", [1, 3, 8, 8]), ("y", None))]
    path = tmp_path / "float.onnx"
    onnx.save(helper.make_model(helper.make_graph([node], "g", ends[:1], ends[1:], [weights]), ir_version=8), str(path))
    values = estimate(str(path))
    assert values["macs_per_image"] == 6 * 6 * 4 * 27
    compared = json.loads(call_cli("compare", str(path), "--json").stdout)["estimates"]
    assert [entry["total_cycles"] for entry in compared] == [values["total_cycles"]]
    assert "its weights and scales are assumed" in values["notes"][0]
    refused = call_cli("run", str(path))
    assert refused.exit_code == 2
    assert "is a float model, which must be quantised first" in refused.stderr
