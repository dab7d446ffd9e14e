"""The benchmarks run, and say what they promise."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from accel.config import PRESETS
from accel.frontends import NETWORKS, load_network
from accel.peers.scalesim import network_cycles

ROOT = Path(__file__).parents[2]


def start(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / script), *arguments]
    return subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)


def result_of(path: Path, script: str, *arguments: str) -> dict[str, Any]:
    done = start(script, *arguments, "-o", str(path))
    assert done.returncode == 0, done.stderr
    assert list(path.parent.iterdir()) == [path]
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    assert {"python", "numpy", "amaranth"} <= set(values["versions"])
    return values


def test_cycles(tmp_path: Path) -> None:
    values = result_of(tmp_path / "c.json", "cycles.py", "--network", "lenet5", "--config", "base", "--config", "large")
    base, large = values["cycles"]
    assert (base["config"], large["config"]) == ("base", "large")
    for record in (base, large):
        assert record["roofline_share"] == record["roofline_cycles"] / record["cycles"]
        assert 0 < record["utilisation"] < 1
        for dataflow in ("os", "ws"):
            theirs = network_cycles(PRESETS[record["config"]], load_network("lenet5"), dataflow)
            assert record[f"scale_sim_{dataflow}"] == theirs
    assert values["memory"] == {"latency": 20, "interval": 1}


#: What the fast tests compare: some seconds each at most. The others are left to ``make test-full``.
FAST = {"lenet5", "resnet8", "dscnn", "autoencoder", "mobilenetv1-0.25-96", "squeezenet"}
PINS: dict[str, Any] = json.loads((ROOT / "benchmarks" / "cycles.json").read_text(encoding="utf-8"))


def assert_pinned(path: Path, networks: Sequence[str], configs: Sequence[str]) -> None:
    options = (
        part for name, values in (("network", networks), ("config", configs)) for value in values for part in (f"--{name}", value)
    )
    values = result_of(path, "cycles.py", *options)
    assert values["memory"] == PINS["memory"]
    assert len(values["cycles"]) == len(networks) * len(configs)
    for record in values["cycles"]:
        pinned = PINS["counts"][record["network"]][record["config"]]
        where = f"{record['network']} on {record['config']}: if this was meant to change, run benchmarks/cycles.py --pin"
        assert {key: record[key] for key in pinned} == pinned, where


def test_pinned_counts_of_the_small_networks(tmp_path: Path) -> None:
    small = [name for name in FAST if "tiny" in PINS["counts"][name]]
    assert len(small) >= 5
    assert_pinned(tmp_path / "c.json", small, ["tiny", "small", "base", "large"])


def test_pinned_counts_of_squeezenet(tmp_path: Path) -> None:
    assert_pinned(tmp_path / "c.json", ["squeezenet"], ["base", "large"])


@pytest.mark.full
@pytest.mark.parametrize("network", sorted(set(PINS["counts"]) - FAST))
def test_pinned_counts_of_the_large_networks(tmp_path: Path, network: str) -> None:
    assert_pinned(tmp_path / "c.json", [network], list(PINS["counts"][network]))


def test_every_network_is_pinned_on_the_presets_that_the_speeds_are_for() -> None:
    assert set(PINS["counts"]) == set(NETWORKS)
    for name, configs in PINS["counts"].items():
        assert {"base", "large"} <= set(configs), name
        for counts in configs.values():
            assert set(counts) == {"cycles", "roofline_cycles", "bytes", "scale_sim_os", "scale_sim_ws"}


def test_pins_are_all_or_nothing() -> None:
    done = start("cycles.py", "--pin", "--network", "lenet5")
    assert done.returncode == 2
    assert "--pin: pins what there is to pin; leave the other options out" in done.stderr


@pytest.mark.parametrize("image", [False, True])
def test_compile(tmp_path: Path, image: bool) -> None:
    options = ("--network", "lenet5", "--network", "resnet8", *(["--image"] if image else []))
    values = result_of(tmp_path / "c.json", "compile.py", *options)
    assert [record["network"] for record in values["compile"]] == ["lenet5", "resnet8"]
    for record in values["compile"]:
        assert record["cycles"] == PINS["counts"][record["network"]]["large"]["cycles"]
        assert (record["image_bytes"] is not None) == image
        assert record["peak_bytes"] > record["instructions"] > record["layers"] > 0
        assert record["whole_seconds"] >= record["compile_seconds"]


def test_simspeed(tmp_path: Path) -> None:
    arguments = ("--backend", "emulator", "--backend", "golden", "--config", "small", "--repeats", "1")
    emulator, golden = result_of(tmp_path / "s.json", "simspeed.py", *arguments)["speeds"]
    for record in (emulator, golden):
        assert record["cycles"] is record["cycles_per_second"] is None
        assert record["macs"] == 416_520 * record["images"]
        assert record["macs_per_second"] == record["macs"] / record["wall_seconds"]


@pytest.mark.parametrize("script", ["cycles.py", "compile.py", "simspeed.py"])
def test_a_refusal_is_a_sentence(script: str) -> None:
    done = start(script, "--config", "huge")
    assert done.returncode == 1
    assert "Error: no configuration is called 'huge'" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_document_has_the_figures_that_were_measured() -> None:
    code = """
import sys, json
sys.path.insert(0, "benchmarks")
import fpga
text = fpga.DOCUMENT.read_text(encoding="utf-8")
rows = json.loads(fpga.RESULTS.read_text(encoding="utf-8"))["rows"]
assert rows, "nothing was measured"
assert fpga.with_table(text, rows) == text, "the table is not that of fpga.json: run benchmarks/fpga.py"
assert fpga.with_table(text, rows[:-1]) != text, "the table does not depend on the figures"
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
