"""Timelines: every instruction is on its unit's track, in order, and the layers fill theirs."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from accel import perf
from accel.compiler import compile_network
from accel.config import PRESETS
from accel.frontends import load_network
from accel.isa import Opcode, UnitState
from accel.program import Program
from accel.testing import call_cli
from accel.trace import timeline


@cache
def lenet() -> tuple[Program, perf.Estimate]:
    program = compile_network(load_network("lenet5"), PRESETS["base"])
    return program, perf.estimate(program)


def slices(trace: dict[str, Any], track: str) -> list[dict[str, Any]]:
    numbers = {event["args"]["name"]: event["tid"] for event in trace["traceEvents"] if event["name"] == "thread_name"}
    return [event for event in trace["traceEvents"] if event["ph"] == "X" and event["tid"] == numbers[track]]


@pytest.mark.parametrize("opcode", [Opcode.LOAD, Opcode.EXECUTE, Opcode.STORE])
def test_a_unit_has_each_of_its_instructions_until_it_retires(opcode: Opcode) -> None:
    program, estimated = lenet()
    found = slices(timeline(program, estimated.retired, estimated.cycles), f"{opcode.name.lower()} unit")
    mine = [index for index, instruction in enumerate(program.instructions) if instruction.opcode is opcode]
    assert [event["args"]["instruction"] for event in found] == mine
    assert [event["ts"] + event["dur"] for event in found] == [int(estimated.retired[index]) for index in mine]
    assert [event["ts"] for event in found] == [0, *(int(estimated.retired[index]) for index in mine[:-1])]
    assert min(event["dur"] for event in found) >= 0, "a unit finishes its instructions in order"


def test_names_tell_layer_and_instruction() -> None:
    program, estimated = lenet()
    trace = timeline(program, estimated.retired, estimated.cycles)
    last = max(n for n, instruction in enumerate(program.instructions) if instruction.opcode is Opcode.LOAD)
    (layer,) = (layer.name for layer in program.layers if layer.first_instruction <= last <= layer.last_instruction)
    assert slices(trace, "load unit")[-1]["name"] == f"{layer} LOAD weights"
    assert slices(trace, "execute unit")[0]["name"] == "conv1+conv1_pool EXECUTE array"
    assert slices(trace, "store unit")[-1]["name"] == "fc3 STORE"
    assert slices(trace, "execute unit")[0]["args"]["fields"].startswith("ARRAY accumulators[0..")


def test_layers_follow_each_other_from_start_to_done() -> None:
    program, estimated = lenet()
    found = slices(timeline(program, estimated.retired, estimated.cycles), "layers")
    assert [event["name"] for event in found] == [layer.name for layer in program.layers]
    ends = [event["ts"] + event["dur"] for event in found]
    assert [event["ts"] for event in found] == [0, *ends[:-1]]
    assert ends[-1] == estimated.cycles


def test_known_starts_are_taken() -> None:
    program, estimated = lenet()
    started = np.maximum(estimated.retired - 5, 0)
    trace = timeline(program, estimated.retired, estimated.cycles, started=started)
    assert all(event["dur"] == 5 for event in slices(trace, "store unit"))
    assert trace["otherData"]["slices begin"] == "where the unit begins them"


def test_known_states_fill_their_slices() -> None:
    program, estimated = lenet()
    spent = np.zeros((len(program.instructions), 3, len(UnitState)), np.int64)
    spent[:, :, UnitState.BUSY] = estimated.retired[:, None] // 2
    spent[:, :, UnitState.WAIT_MEMORY] = estimated.retired[:, None] - estimated.retired[:, None] // 2
    spent[:, :, UnitState.IDLE] = 6  # before the start
    for track in ("load unit", "execute unit", "store unit"):
        for event in slices(timeline(program, estimated.retired, estimated.cycles, spent=spent), track):
            assert sum(event["args"]["cycles"].values()) == event["dur"]
            assert "idle" not in event["args"]["cycles"]


def test_estimate_writes_a_timeline(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    result = call_cli("estimate", "lenet5", "--trace", str(path))
    assert result.exit_code == 0, result.output
    assert list(tmp_path.iterdir()) == [path]
    program, estimated = lenet()
    assert json.loads(path.read_text()) == json.loads(json.dumps(timeline(program, estimated.retired, estimated.cycles)))
    assert "roofline" in result.stdout


def test_run_writes_a_timeline_of_the_engine_itself(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    result = call_cli(
        "run", "lenet5", "--images", "1", "--backend", "verilator", "--config", "tiny", "--trace", str(path), "--json"
    )
    if result.exit_code == 2 and "g++" in result.stderr:
        pytest.skip("Verilator cannot build here")
    assert result.exit_code == 0, result.output
    trace = json.loads(path.read_text())
    assert trace["otherData"]["cycles"] == json.loads(result.stdout)["total_cycles"]
    for track in ("load unit", "execute unit", "store unit"):
        for event in slices(trace, track):
            assert sum(event["args"]["cycles"].values()) == event["dur"], event
            assert min(event["args"]["cycles"].values(), default=0) >= 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ("estimate", "lenet5", "--config", "base", "--config", "large", "--trace", "{}/t.json"),
            "--trace: a timeline is of one configuration, not 2; give --config once",
        ),
        (("run", "lenet5", "--backend", "emulator", "--trace", "{}/t.json"), "--trace: the emulator has no clock; take --backend"),
        (("estimate", "lenet5", "--trace", "{}/no/t.json"), "no does not exist; make it first"),
        (("estimate", "lenet5", "--trace", "{}"), "is a directory; give the name of a file to write"),
    ],
)
def test_refusals(arguments: tuple[str, ...], sentence: str, tmp_path: Path) -> None:
    result = call_cli(*(part.format(tmp_path) for part in arguments))
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert "Traceback" not in result.output
    assert not list(tmp_path.iterdir())
