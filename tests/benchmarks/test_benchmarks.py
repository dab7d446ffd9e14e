"""The benchmarks run, and say what they promise."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

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
    # SCALE-Sim 3.0.0 itself gives these for LeNet-5's convolutions and fully connected layers.
    assert (base["scale_sim_os"], base["scale_sim_ws"]) == (15_961, 29_406)
    assert (large["scale_sim_os"], large["scale_sim_ws"]) == (8_404, 15_053)
    for record in (base, large):
        assert record["roofline_share"] == record["roofline_cycles"] / record["cycles"]
        assert 0 < record["utilisation"] < 1
    assert values["memory"] == {"latency": 20, "interval": 1}


def test_simspeed(tmp_path: Path) -> None:
    arguments = ("--backend", "emulator", "--backend", "golden", "--config", "small", "--repeats", "1")
    emulator, golden = result_of(tmp_path / "s.json", "simspeed.py", *arguments)["speeds"]
    for record in (emulator, golden):
        assert record["cycles"] is record["cycles_per_second"] is None
        assert record["macs"] == 416_520 * record["images"]
        assert record["macs_per_second"] == pytest.approx(record["macs"] / record["wall_seconds"])


def test_a_refusal_is_a_sentence() -> None:
    done = start("cycles.py", "--config", "huge")
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
