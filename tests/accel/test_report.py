"""The report's arithmetic: cycles of layers, utilisation, stalls, the first difference."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from accel.config import PRESETS
from accel.isa import INSTRUCTION_BYTES, ISA_VERSION, MAGIC, Instruction, Opcode, UnitState
from accel.program import LayerInfo, MemoryTiming, Program, RunResult, TensorBinding
from accel.report import RunReport, first_mismatch, predictions, report_run

TINY = PRESETS["tiny"]


def make_program(layers: list[tuple[int, int, int]], classes: int = 4) -> Program:
    """Return a program of LOADs whose layers are ``(first, last, macs)``."""
    last = layers[-1][1]
    begin = Instruction(Opcode.BEGIN, {"magic": MAGIC, "isa_version": ISA_VERSION, "digest": TINY.digest})
    instructions = (
        begin,
        *(Instruction(Opcode.LOAD, {"n_x": 1, "n_y": 1, "n_z": 1}) for _ in range(last)),
        Instruction(Opcode.END),
    )
    image = np.frombuffer(b"".join(i.encode() for i in instructions), np.uint8)
    binding = TensorBinding(
        name="map", shape=(1, 1, classes), address=len(instructions) * INSTRUCTION_BYTES, channels_per_word=2, element_bytes=2
    )
    return Program(
        network="fake",
        config=TINY,
        instructions=instructions,
        pack=lambda: image,
        memory_bytes=4096,
        input=binding,
        output=binding,
        layers=tuple(
            LayerInfo(name=f"l{i}", op="conv", macs=macs, first_instruction=a, last_instruction=b, bytes_read=10, bytes_written=5)
            for i, (a, b, macs) in enumerate(layers)
        ),
    )


def make_result(outputs: np.ndarray, cycles: list[int], retired: list[list[int]]) -> RunResult:
    states = [0] * len(UnitState)
    states[UnitState.IDLE], states[UnitState.BUSY], states[UnitState.WAIT_MEMORY], states[UnitState.WAIT_LOAD] = 7, 9, 3, 4
    spent = np.zeros((len(retired[0]), 3, len(UnitState)), np.int64)
    spent[-1] = states
    return RunResult(
        outputs=outputs,
        seconds=0.5,
        cycles=tuple(cycles),
        retired=tuple(np.array(r, np.int64) for r in retired),
        spent=(spent,) * len(cycles),
    )


def make_report(result: RunResult, expected: np.ndarray, program: Program, **more: object) -> RunReport:
    fields: dict[str, object] = {"backend": "pysim", "backend_reason": "asked for", "timing": MemoryTiming(), "source": "test"}
    return report_run(program, result, expected, **{**fields, **more})  # type: ignore[arg-type]  # the fields are heterogeneous


def test_layers_sum_to_the_total() -> None:
    program = make_program([(1, 2, 100), (3, 4, 0), (5, 6, 60)])
    assert program.layer_cycles(np.array([0, 5, 40, 30, 55, 50, 90, 95]), 95) == (40, 15, 40)


def test_a_layer_that_retires_before_an_earlier_one_takes_no_cycle() -> None:
    program = make_program([(1, 2, 1), (3, 3, 1), (4, 4, 1)])
    assert program.layer_cycles(np.array([0, 5, 40, 20, 60, 64]), 64) == (40, 0, 24)


def test_cycles_before_the_first_layer_and_after_the_last_belong_to_them() -> None:
    program = make_program([(2, 2, 1), (3, 3, 1)])  # instruction 1 belongs to no layer
    assert program.layer_cycles(np.array([0, 10, 12, 30, 50]), 50) == (12, 38)


@pytest.mark.parametrize("seed", range(20))
def test_random_layers_sum_to_the_total(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ends = np.cumsum(rng.integers(1, 5, rng.integers(1, 8)))
    program = make_program([(int(a) + 1, int(b), 1) for a, b in zip([0, *ends[:-1]], ends, strict=True)])
    retired = rng.integers(0, 1000, len(program.instructions))
    cycles = int(retired.max()) + int(rng.integers(0, 9))
    spans = program.layer_cycles(retired, cycles)
    assert sum(spans) == cycles, f"seed {seed}"
    assert min(spans) >= 0, f"seed {seed}"


def test_figures_of_a_run() -> None:
    program = make_program([(1, 1, 120), (2, 2, 40)])
    outputs = np.array([[1, 2, 9, 4], [7, 2, 3, 4]], np.int8).reshape(2, 1, 1, 4)
    report = make_report(make_result(outputs, [100, 100], [[0, 60, 98, 100]] * 2), outputs, program, labels=[2, 3])
    assert report.mismatches == 0
    assert report.first_mismatch is None
    assert report.predictions == (2, 0)
    assert report.correct == 1
    assert (report.total_cycles, report.cycles_per_image) == (200, 100)
    assert report.utilisation == 160 / (4 * 100)
    assert report.simulated_cycles_per_second == 400
    assert [(layer.cycles, layer.utilisation, layer.bytes) for layer in report.layers] == [(60, 0.5, 15), (40, 0.25, 15)]
    assert report.stalls["load"] == {"wait_load": 4, "wait_memory": 3}


def test_images_of_different_lengths_are_averaged() -> None:
    program = make_program([(1, 1, 10), (2, 2, 10)])
    outputs = np.zeros((2, 1, 1, 4), np.int8)
    report = make_report(make_result(outputs, [100, 103], [[0, 60, 98, 100], [0, 62, 98, 103]]), outputs, program)
    assert report.cycles_per_image == 101.5
    assert [layer.cycles for layer in report.layers] == [61, 40.5]


def test_a_backend_without_a_clock_leaves_cycles_out() -> None:
    program = make_program([(1, 1, 10)])
    outputs = np.zeros((1, 1, 1, 4), np.int8)
    report = make_report(RunResult(outputs=outputs, seconds=0.1), outputs, program)
    values = json.loads(json.dumps(report.as_dict()))
    for key in ("total_cycles", "cycles_per_image", "utilisation", "simulated_cycles_per_second"):
        assert values[key] is None, key
    assert values["layers"][0]["cycles"] is None
    assert values["layers"][0]["utilisation"] is None
    assert values["layers"][0]["macs"] == 10


def test_json_has_the_promised_keys() -> None:
    program = make_program([(1, 1, 10)])
    outputs = np.zeros((1, 1, 1, 4), np.int8)
    values = make_report(make_result(outputs, [50], [[0, 40, 50]]), outputs, program).as_dict()
    promised = (
        "network config backend images mismatches predictions total_cycles cycles_per_image macs_per_image utilisation "
        "simulated_cycles_per_second layers"
    )
    assert set(promised.split()) <= set(values)
    assert set(values["layers"][0]) == {"name", "op", "cycles", "macs", "utilisation", "bytes", "stalls"}


def test_figures_are_an_images_share_of_its_batch() -> None:
    program = replace(make_program([(1, 1, 10), (2, 2, 30)]), batch=4)
    outputs = np.zeros((6, 1, 1, 4), np.int8)
    report = make_report(make_result(outputs, [100, 100], [[0, 40, 90, 100]] * 2), outputs, program)
    assert (report.batch, report.images, report.total_cycles, report.cycles_per_image) == (4, 6, 200, 25)
    assert report.utilisation == 40 / (TINY.macs_per_cycle * 25)
    assert [(layer.cycles, layer.macs, layer.bytes) for layer in report.layers] == [(10, 10, 3.75), (15, 30, 3.75)]
    assert report.stalls["load"] == {"wait_load": 1, "wait_memory": 0.75}
    assert report.notes == ("the last batch of 4 has 2 images and repeats one of them; it takes as long as the others",)
    full = make_report(make_result(outputs[:4], [100], [[0, 40, 90, 100]]), outputs[:4], program)
    assert (full.cycles_per_image, full.notes) == (25, ())
    assert full.as_dict()["batch"] == 4


def test_the_first_difference_is_named() -> None:
    expected = np.zeros((3, 2, 3, 4), np.int8)
    outputs = expected.copy()
    outputs[1, 1, 2, 3] = -5
    outputs[2, 0, 0, 0] = 1
    found = first_mismatch(outputs, expected)
    assert found is not None
    assert vars(found) == {"image": 1, "y": 1, "x": 2, "channel": 3, "got": -5, "expected": 0}
    assert str(found) == "image 1 differs from the golden model, first at (y, x, c) = (1, 2, 3): got -5, expected 0"
    assert first_mismatch(expected, expected) is None


def test_mismatches_are_counted_by_image() -> None:
    program = make_program([(1, 1, 10)])
    outputs = np.zeros((3, 1, 1, 4), np.int8)
    expected = outputs.copy()
    expected[1] = 3
    result = make_result(outputs, [9] * 3, [[0, 5, 9]] * 3)
    assert make_report(result, expected, program).mismatches == 1
    assert make_report(result, outputs, program).mismatches == 0


def test_outputs_of_another_shape_are_a_bug_not_a_result() -> None:
    with pytest.raises(ValueError, match="one shape"):
        first_mismatch(np.zeros((1, 1, 1, 4), np.int8), np.zeros((1, 1, 1, 1), np.int8))


def test_only_a_row_of_scores_has_a_class() -> None:
    assert predictions(np.zeros((1, 2, 1, 4), np.int8)) is None
    assert predictions(np.zeros((1, 1, 1, 1), np.int8)) is None
    assert predictions(np.array([-128, -3, -3], np.int8).reshape(1, 1, 1, 3)) == (1,)


def test_a_pass_with_one_image_less_is_refused() -> None:
    program = make_program([(1, 1, 10)])
    outputs = np.zeros((2, 1, 1, 4), np.int8)
    result = replace(make_result(outputs, [9, 9], [[0, 5, 9]] * 2), cycles=(9,))
    with pytest.raises(ValueError, match="zip"):
        make_report(result, outputs, program)


def test_stalls_of_layers_are_those_of_their_spans() -> None:
    program = make_program([(1, 2, 1), (3, 3, 1), (4, 5, 1)])
    # the second layer's only instruction is done before the first layer's last: its span is empty
    retired = np.array([0, 5, 40, 20, 60, 64])
    spent = np.zeros((6, 3, 8), np.int64)
    for index, cycle in enumerate(retired):
        spent[index, 0, UnitState.WAIT_MEMORY] = cycle // 4
        spent[index, 1, UnitState.WAIT_WEIGHTS] = cycle // 2
        spent[index, 2, UnitState.IDLE] = cycle
    outputs = np.zeros((1, 1, 1, 4), np.int8)
    result = RunResult(outputs=outputs, seconds=0.5, cycles=(64,), retired=(retired,), spent=(spent,))
    stalls = [layer.stalls for layer in make_report(result, outputs, program).layers]
    assert stalls[0] == {"load": {"wait_memory": 10}, "execute": {"wait_weights": 20}, "store": {}}
    assert stalls[1] == {"load": {}, "execute": {}, "store": {}}
    assert stalls[2] == {"load": {"wait_memory": 6}, "execute": {"wait_weights": 12}, "store": {}}
