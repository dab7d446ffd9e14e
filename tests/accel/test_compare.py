"""``systolith compare``: its numbers, its peers, its forms, its refusals."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from accel import perf, report
from accel.cli import estimate
from accel.compare import CONVOLUTION, FULLY_CONNECTED, Comparison, Entry, make_entry
from accel.compare_terminal import show_comparison
from accel.compiler import compile_network
from accel.config import PRESETS, EngineConfig
from accel.frontends import load_network
from accel.frontends.builtin import DATA
from accel.peers import scalesim
from accel.program import MemoryTiming
from accel.terminal import make_console
from accel.testing import call_cli


def compare(*arguments: str) -> dict[str, Any]:
    result = call_cli("compare", *arguments, "--json")
    assert result.exit_code == 0, result.output
    values: dict[str, Any] = json.loads(result.stdout)
    return values


def entry(name: str = "lenet5", config: str = "base", **more: Any) -> Entry:
    network, engine = load_network(name), PRESETS[config]
    program = compile_network(network, engine)
    estimation = report.report_estimate(program, perf.estimate(program), network, timing=MemoryTiming(), clock=100.0, seconds=0.0)
    return make_entry(network, program, estimation, **more)


def shown(*entries: Entry, peers: Sequence[str] = ()) -> str:
    comparison = Comparison(entries=entries, refusals=(), timing=MemoryTiming(), clock=100.0, peers=tuple(peers))
    with CliRunner().isolation() as (out, *_):
        import sys

        show_comparison(make_console(sys.stdout), comparison)
        return out.getvalue().decode()


# Ours


def test_every_network_on_every_configuration_as_estimated() -> None:
    timing = ("--memory-latency", "50", "--clock", "80")
    found = compare("lenet5", "dscnn", "--config", "small", "--config", "base", *timing)
    assert [(e["network"], e["config"]) for e in found["estimates"]] == [
        (network, config) for network in ("lenet5", "dscnn") for config in ("small", "base")
    ]
    assert (found["clock_mhz"], found["memory"], found["refusals"]) == (80.0, {"latency": 50, "interval": 1}, [])
    for values in found["estimates"]:
        alone = json.loads(call_cli("estimate", values["network"], "--config", values["config"], *timing, "--json").stdout)
        assert set(values) == {*alone, "bytes_per_image", "main_stalls"}
        timed = {"seconds", "simulated_cycles_per_second"}
        assert {key: values[key] for key in alone.keys() - timed} == {key: alone[key] for key in alone.keys() - timed}
        assert values["bytes_per_image"] == sum(layer["bytes"] for layer in values["layers"]) > 0


def test_table_and_progress() -> None:
    result = call_cli("compare", "lenet5", "dscnn", "--config", "base", "--config", "large")
    assert result.exit_code == 0, result.output
    for word in ("network", "config", "cycles", "utilisation", "roofline", "share", "images/s", "bytes moved", "at 100 MHz"):
        assert word in result.stdout, word
    assert f"{entry('dscnn', 'large').report.total_cycles:,}" in result.stdout
    assert "note: dscnn: the weights are random" in result.stdout
    assert "SCALE-Sim" not in result.stdout
    assert max(len(line) for line in result.stdout.splitlines()) <= 100
    assert result.stderr.splitlines()[:5] == [
        "reading lenet5",
        "reading dscnn",
        "compiling lenet5 for base",
        "estimating lenet5 on base",
        "compiling lenet5 for large",
    ]


def test_a_network_that_is_none_is_refused_before_anything_is_compiled() -> None:
    result = call_cli("compare", "lenet5", "nothing")
    assert result.exit_code == 2
    assert "compiling" not in result.stderr


def test_what_is_given_twice_is_compared_once() -> None:
    assert len(compare("lenet5", "lenet5", "--config", "small", "--config", "small")["estimates"]) == 1


def test_two_configurations_of_one_name_are_refused(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.toml", "b.toml")]
    for path in paths:
        path.write_text('base = "small"\nname = "mine"\n')
    result = call_cli("compare", "lenet5", *(part for path in paths for part in ("--config", str(path))))
    assert result.exit_code == 2
    assert result.stderr == "systolith: --config: two configurations are called 'mine'; give one of them another name\n"


def test_layers_know_what_they_begin_with() -> None:
    lenet = entry()
    assert lenet.kinds == (CONVOLUTION, CONVOLUTION, FULLY_CONNECTED, FULLY_CONNECTED, FULLY_CONNECTED)
    assert lenet.convolutions == ("conv1", "conv2", "fc1", "fc2", "fc3")
    share = lenet.share(CONVOLUTION)
    assert share.cycles == sum(layer.cycles or 0 for layer in lenet.report.layers[:2])
    assert share.macs_per_image == 117_600 + 240_000
    assert share.mac_cycles == 64 * share.cycles
    assert share.utilisation == share.macs_per_image / share.mac_cycles
    whole = lenet.share(CONVOLUTION, FULLY_CONNECTED)
    assert (whole.cycles, whole.macs_per_image) == (lenet.report.total_cycles, 416_520)


def test_stalls_are_shown_when_the_estimate_knows_them() -> None:
    lenet = entry()
    stalls = {"load": {"wait_execute": 70, "wait_memory": 30}, "execute": {}, "store": {"wait_execute": 5}}
    with_stalls = replace(lenet, report=replace(lenet.report, stalls=stalls))
    assert with_stalls.main_stalls == {"load": ("wait_execute", 70), "store": ("wait_execute", 5)}
    assert with_stalls.as_dict()["main_stalls"] == {
        "load": {"state": "wait_execute", "cycles": 70},
        "store": {"state": "wait_execute", "cycles": 5},
    }
    text = shown(with_stalls)
    assert "What each unit waited for longest" in text
    assert "70 execute" in text
    assert "What each unit waited for longest" not in shown(replace(lenet, report=replace(lenet.report, stalls={})))


# SCALE-Sim


def theirs(dataflow: str, config: str = "base") -> int:
    """Return what SCALE-Sim takes for LeNet-5, which the tests of its closed forms compare with SCALE-Sim itself."""
    return scalesim.network_cycles(PRESETS[config], load_network("lenet5"), dataflow)


def test_scalesims_closed_forms_for_network_and_layers() -> None:
    found = compare("lenet5", "--config", "base", "--config", "large", "--peer", "scalesim")
    assert found["scalesim"]["version"] == "3.0.0"
    assert set(found["scalesim"]["dataflows"]) == {"os", "ws", "is"}
    for word in ("pooling", "ideal memory"):
        assert word in found["scalesim"]["leaves_out"]
    assert "depthwise" in found["scalesim"]["mapping"]
    base, large = (values["scalesim"] for values in found["estimates"])
    for config, values in (("base", base), ("large", large)):
        expected = {name: {"closed_form": theirs(name, config), "run": None, "equal": None} for name in scalesim.DATAFLOWS}
        assert values["totals"] == expected
    assert base["our_cycles_for_the_same_layers"] == found["estimates"][0]["total_cycles"]
    for dataflow in ("os", "ws", "is"):
        layers = [layer for layer in base["layers"] if layer["dataflow"] == dataflow]
        assert [layer["layer"] for layer in layers] == ["conv1", "conv2", "fc1", "fc2", "fc3"]
        assert sum(layer["closed_form"] for layer in layers) == base["totals"][dataflow]["closed_form"]
        assert [layer["our_cycles"] for layer in layers] == [layer["cycles"] for layer in found["estimates"][0]["layers"]]


def test_scalesim_in_the_table() -> None:
    text = call_cli("compare", "lenet5", "--peer", "scalesim").stdout
    cycles = [f"{theirs(name):,}" for name in scalesim.DATAFLOWS]
    for word in ("output stationary", "ideal memory", "depthwise", "ours / its", *cycles):
        assert word in text, word
    assert "its run" not in text
    assert max(len(line) for line in text.splitlines()) <= 100


def test_running_scalesim_tells_whether_it_agrees(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """All but SCALE-Sim itself, of which the long campaign runs the real one."""

    def run(environment: Path, config: EngineConfig, layers: Sequence[scalesim.Layer], dataflow: str, done: Any) -> dict[str, int]:
        assert environment == tmp_path
        done(1)
        return {layer.name: scalesim.cycles(config, layer, dataflow) + (dataflow == "is") for layer in layers}

    monkeypatch.setattr(scalesim, "run", run)
    monkeypatch.setattr(estimate, "scalesim_environment", lambda progress: tmp_path)
    found = compare("lenet5", "--run-peer")["estimates"][0]["scalesim"]["totals"]
    os, ws, wrong = (theirs(name) for name in ("os", "ws", "is"))
    more = wrong + len(scalesim.layers_of(load_network("lenet5")))
    assert found["os"] == {"closed_form": os, "run": os, "equal": True}
    assert found["is"] == {"closed_form": wrong, "run": more, "equal": False}
    result = call_cli("compare", "lenet5", "--peer", "scalesim", "--run-peer")
    assert "running SCALE-Sim, weight stationary, for lenet5 on base" in result.stderr
    rows = [line.split() for line in result.stdout.splitlines() if line.strip().startswith("lenet5")]
    assert [row[2:6] for row in rows if row[2] in scalesim.DATAFLOWS] == [
        ["os", f"{os:,}", f"{os:,}", "yes"],
        ["ws", f"{ws:,}", f"{ws:,}", "yes"],
        ["is", f"{wrong:,}", f"{more:,}", "NO"],
    ]


# Published figures


def test_published_figures_beside_ours() -> None:
    found = compare("dscnn", "resnet8", "lenet5", "--config", "large", "--peer", "published")
    dscnn, resnet8, lenet5 = found["estimates"]
    assert lenet5["published"] == []
    (figure,) = resnet8["published"]
    assert (figure["peer"], round(figure["cycles_per_image"]), figure["macs"]) == ("fpgaConvNet", 58_813, 211)
    assert figure["mac_cycles"] == pytest.approx(211 * figure["cycles_per_image"])
    assert figure["utilisation"] == pytest.approx(resnet8["macs_per_image"] / figure["mac_cycles"])
    assert (figure["our_cycles"], figure["our_macs"]) == (resnet8["total_cycles"], 256)
    assert figure["our_utilisation"] == pytest.approx(resnet8["utilisation"])
    assert figure["mac_cycles_ratio"] == pytest.approx(figure["mac_cycles"] / (256 * resnet8["total_cycles"]))
    assert "tiny_results_v1.1" in figure["source"]
    assert round(dscnn["published"][0]["cycles_per_image"]) == 46_310
    others = found["published_for_other_networks"]
    assert {(f["peer"], f["network"], f["utilisation"]) for f in others} == {("TPU v1", "CNN0", 0.782), ("TPU v1", "CNN1", 0.225)}


def test_published_figures_in_the_table() -> None:
    text = call_cli("compare", "resnet8", "lenet5", "--peer", "published").stdout
    for word in ("fpgaConvNet, ZedBoard", "58,813", "MAC-cycles", "TPU v1", "[1] MLPerf Tiny v1.1", "measured"):
        assert word in text, word
    assert "no figures are known here for lenet5" in text
    alone = call_cli("compare", "lenet5", "--peer", "published").stdout
    assert "MAC-cycles" not in alone
    assert max(len(line) for line in text.splitlines()) <= 100


def test_a_figure_of_convolutions_is_compared_with_convolutions() -> None:
    alexnet = entry("alexnet", "large")
    (figure,) = alexnet.published()
    assert figure.layers == "convolutions"
    ours = alexnet.share_like(figure)
    assert ours == alexnet.share(CONVOLUTION)
    assert 0 < ours.cycles < (alexnet.report.total_cycles or 0)
    text = shown(alexnet, peers=["published"])
    assert "alexnet, convolutions only: published figures beside ours" in text
    assert f"{ours.cycles:,}" in text


# What cannot be


def test_what_one_configuration_refuses_is_said_and_the_rest_compared(tmp_path: Path) -> None:
    path = tmp_path / "plain.toml"
    path.write_text('base = "small"\nname = "plain"\nelementwise = false\n')
    result = call_cli("compare", "resnet8", "lenet5", "--config", str(path), "--config", "small", "--json")
    assert result.exit_code == 2
    found = json.loads(result.stdout)
    assert [(e["network"], e["config"]) for e in found["estimates"]] == [
        ("resnet8", "small"),
        ("lenet5", "plain"),
        ("lenet5", "small"),
    ]
    (refusal,) = found["refusals"]
    assert (refusal["network"], refusal["config"]) == ("resnet8", "plain")
    assert f"systolith: resnet8 on plain: {refusal['reason']}" in result.stderr
    assert "Traceback" not in result.output
    alone = call_cli("compare", "resnet8", "--config", str(path), "--plot", str(tmp_path / "roof.svg"))
    assert (alone.exit_code, alone.stdout) == (2, "")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "missing argument 'MODEL...'"),
        (("lenet5", "nothing"), "no network is called 'nothing'; use one of lenet5, alexnet, vgg16"),
        (("lenet5", "--config", "huge"), "no configuration is called 'huge'; use one of tiny, small"),
        (("lenet5", "--calibration", "{}/x.npz"), "lenet5: is quantised already; leave the calibration data out"),
        (("lenet5", str(DATA / "lenet5.onnx"), "--calibration", "{}/x.npz"), "x.npz"),
        (("lenet5", "--peer", "zigzag"), "'zigzag' is not one of 'scalesim', 'published'"),
        (("lenet5", "--clock", "0"), "invalid value for '--clock'"),
        (("lenet5", "--memory-interval", "0"), "--memory-interval: memory interval must be from 1 to 1000, not 0"),
        (("lenet5", "--plot", "{}/roof.pdf"), "roof.pdf: a plot is written as .png or .svg, not .pdf"),
        (("lenet5", "--plot", "{}/roof"), "roof: a plot is written as .png or .svg, not without an ending"),
        (("lenet5", "--plot", "{}/no/roof.png"), "no does not exist; make it first"),
        (("{}/none.onnx",), "none.onnx"),
    ],
)
def test_refusals(arguments: tuple[str, ...], sentence: str, tmp_path: Path) -> None:
    result = call_cli("compare", *(part.format(tmp_path) for part in arguments))
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert "Traceback" not in result.output
    assert not result.stdout
    assert not list(tmp_path.iterdir())


def test_micro_has_its_own_memory_and_one_row_at_a_time() -> None:
    shown = call_cli("compare", "lenet5", "--config", "micro", "--config", "base", "--memory-latency", "50").stdout
    assert "micro: 8 MACs a cycle, memory its own, 131,072 bytes" in shown
    assert "base: 8 x 8 MACs a cycle, memory latency 50 cycles, a beat of 8 bytes every cycle" in shown
