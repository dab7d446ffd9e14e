"""How stages are cut and where maps live: timeline, search on the cycle model, residency, shares, what comes a stage ahead."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest

from accel import golden
from accel.compiler import compile_network, cost, pipeline, residency, search, timeline
from accel.compiler.fuse import fuse
from accel.compiler.plan import Choice, Plan
from accel.compiler.residency import Placement, place
from accel.compiler.stages import Stage
from accel.compiler.tiling import choose_plans
from accel.compiler.timeline import TileWork, Timeline
from accel.compiler.weights import packed_words
from accel.config import PRESETS, EngineConfig
from accel.emulator import Emulator
from accel.frontends import load_network
from accel.graph import Conv2D, MaxPool, Network, Operator, Requantisation, Tensor, Window
from accel.isa import MAX_SHARE_LOG2, UNORDERED, Instruction, Opcode, Operation, Target
from accel.numerics import Rounding, quantise_multiplier
from accel.perf import estimate
from accel.program import Program
from accel.testing import ODD_CONFIGS, random_image, random_network

BASE = PRESETS["base"]


def conv(name: str, source: Tensor, filters: int, kernel: tuple[int, int], *, groups: int = 1, pad: int = 0) -> Conv2D:
    rng = np.random.default_rng(len(name))
    depth = source.shape[2] // groups
    multiplier, shift = quantise_multiplier(1 / (130.0 * float(np.sqrt(kernel[0] * kernel[1] * depth))))
    return Conv2D(
        name=name,
        inputs=(source.name,),
        output=name,
        window=Window(kernel=kernel, padding=(pad,) * 4),
        weights=rng.integers(-128, 128, (filters, *kernel, depth), np.int8),
        bias=rng.integers(-1000, 1000, filters).astype(np.int32),
        requantisation=Requantisation(
            multiplier=np.array([multiplier], np.int32),
            shift=np.array([shift], np.int32),
            rounding=Rounding.HALF_EVEN,
            zero_point=3,
        ),
        groups=groups,
    )


def chain(shape: tuple[int, int, int], *layers: tuple[int, tuple[int, int], int]) -> Network:
    """Return convolutions ``(filters, kernel, padding)`` one after the other."""
    source = last = Tensor(name="image", shape=shape, zero_point=-7)
    operators: list[Operator] = []
    tensors = {}
    for index, (filters, kernel, pad) in enumerate(layers):
        op = conv(f"conv{index}", last, filters, kernel, pad=pad)
        last = tensors[op.output] = Tensor(name=op.output, shape=op.output_shape((last.shape,)), zero_point=3)
        operators.append(op)
    return Network(name="chain", input=source, operators=tuple(operators), tensors=tensors, output=last.name)


def is_exact(network: Network, program: Program, seed: int = 0) -> bool:
    image = random_image(np.random.default_rng(seed), network)
    return np.array_equal(Emulator(seed=seed).run(program, [image]).outputs, golden.run(network, image[np.newaxis]))


# Timeline


def ref_timeline(config: EngineConfig, jobs: Sequence[tuple[float, float, float]]) -> tuple[list[float], list[float]]:
    """Return when array and output stage are through with each job ``(available, execute, store)``, one after the other.

    The array may be two jobs ahead: as many as there are accumulator halves.
    """
    executed: list[float] = []
    drained: list[float] = []
    stored = 0.0
    settle = config.rows + config.columns + timeline._EXECUTE_LATENCY
    for available, execute, store in jobs:
        begin = max(available, executed[-1] if executed else 0.0, drained[-2] if len(drained) > 1 else 0.0)
        executed.append(begin + execute)
        stored = max(stored, executed[-1] + settle) + store
        drained.append(stored + timeline._STORE_LATENCY)
    return executed, drained


@pytest.mark.parametrize("seed", range(20))
def test_tiles_take_array_and_output_stage_in_turn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tiles = []
    jobs = []
    for bottom in range(1, 8):
        work = TileWork(
            jobs=int(rng.integers(1, 4)), execute=float(rng.integers(8, 300)), store=float(rng.integers(1, 300)), words=0
        )
        available = float(rng.integers(0, 1000))
        tiles.append((bottom, work, available))
        jobs += [(available, work.execute, work.store)] * work.jobs
    executed, drained = ref_timeline(BASE, jobs)
    found = Timeline(BASE).after("map", tiles, share=1, loaded=0.0)
    assert (found.execute, found.halves[1]) == (executed[-1], drained[-1]), f"seed {seed}"
    ends = list(itertools.accumulate(work.jobs for _, work, _ in tiles))
    for bottom, end in enumerate(ends, 1):
        assert found.finished("map", bottom) == drained[end - 1], f"seed {seed}"


@pytest.mark.parametrize(("execute", "store"), [(300.0, 20.0), (20.0, 300.0), (100.0, 90.0), (8.0, 4.0)])
def test_many_jobs_go_on_as_the_first_few_do(execute: float, store: float) -> None:
    """They are not followed one by one; over a hundred of them that makes less than the time of a few."""
    executed, drained = ref_timeline(BASE, [(0.0, execute, store)] * 100)
    found = Timeline(BASE).after("map", [(1, TileWork(jobs=100, execute=execute, store=store, words=0), 0.0)], share=1, loaded=0.0)
    assert found.execute == pytest.approx(executed[-1], rel=0.02)
    assert found.halves[1] == pytest.approx(drained[-1], rel=0.02)


def test_words_wait_for_loads() -> None:
    tile = (4, TileWork(jobs=1, execute=50.0, store=10.0, words=30), 0.0)
    alone = Timeline(BASE).after("map", [tile], share=1, loaded=0.0)
    shared = Timeline(BASE).after("map", [tile], share=4, loaded=1000.0)
    assert shared.finished("map", 4) - alone.finished("map", 4) == 30 * 4 - 30


def test_what_is_not_known_is_long_finished() -> None:
    work = TileWork(jobs=1, execute=50.0, store=10.0, words=0)
    known = Timeline(BASE)
    assert known.finished("first", 1) == 0
    for name in ("first", "second", "third", "fourth", "fifth"):
        known = known.after(name, [(2, work, 0.0), (4, work, 0.0)], share=1, loaded=0.0)
    assert known.finished("first", 4) == 0
    assert 0 < known.finished("fourth", 2) == known.finished("fourth", 1) < known.finished("fourth", 4)
    assert known.finished("fourth", 4) < known.finished("fifth", 1)


# Search


class Parts(NamedTuple):
    """What the search is given."""

    build: Callable[[Mapping[int, Choice]], Program]
    contenders: Sequence[Sequence[Plan]]
    loads: Sequence[bool]


def parts_of(network: Network, config: EngineConfig, monkeypatch: pytest.MonkeyPatch) -> Parts:
    found: list[Parts] = []

    def improve(build: Any, contenders: Any, loads: Any, budget: int) -> Program:
        found.append(Parts(build, contenders, loads))
        first: Program = build({})
        return first

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "improve", improve)
        compile_network(network, config)
    return found[0]


def test_a_larger_budget_never_makes_it_worse(monkeypatch: pytest.MonkeyPatch) -> None:
    network, config = load_network("dscnn"), PRESETS["large"]
    parts = parts_of(network, config, monkeypatch)
    first = parts.build({})
    cycles = [estimate(first).cycles]
    replayed = 0

    def counting(program: Program) -> Any:
        nonlocal replayed
        replayed += 1
        return estimate(program)

    monkeypatch.setattr(search, "estimate", counting)
    size = len(first.instructions)
    for trials in (0, 7, 40):
        replayed = 0
        program = search.improve(*parts, trials * size)
        # too small a budget is not begun; of any other the first program is looked at too, and what is like the best is not
        assert replayed == 0 if trials < 8 else trials // 2 < replayed <= trials + 1, trials
        cycles.append(estimate(program).cycles)
        if trials < 8:
            assert program.instructions == first.instructions
    assert cycles == sorted(cycles, reverse=True)
    assert cycles[-1] < cycles[0], "nothing was found in forty trials"
    assert program.instructions == compile_network(network, config, budget=40 * size).instructions, "it is not the same twice"
    assert is_exact(network, program)


@pytest.mark.parametrize("config", [BASE, *(c for c in ODD_CONFIGS if c.name == "8x8 little")], ids=lambda config: config.name)
def test_every_choice_is_another_way_to_the_same_result(config: EngineConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    network = chain((9, 8, 3), (9, (3, 3), 1), (12, (3, 3), 0), (5, (1, 1), 0))
    parts = parts_of(network, config, monkeypatch)
    first = parts.build({})
    programs = {code(first)}
    for index, plans in enumerate(parts.contenders):
        for choice in search._alternatives(plans, loads=parts.loads[index]):
            program = parts.build({index: choice})
            assert is_exact(network, program), (index, choice)
            programs.add(code(program))
            if choice.share is not None:
                layer = program.layers[index]
                loads = [i for i in program.instructions[layer.first_instruction : layer.last_instruction] if is_map_load(i)]
                # those at the very start are not held up by anything
                assert {load["share_log2"] for load in loads} <= {0, choice.share}
    assert len(programs) > 5


def code(program: Program) -> bytes:
    return b"".join(instruction.encode() for instruction in program.instructions)


def is_map_load(instruction: Instruction) -> bool:
    return instruction.opcode is Opcode.LOAD and instruction["target"] == Target.ACTIVATIONS


# Residency


def live_at(placement: Placement, stages: Sequence[Stage], index: int) -> dict[str, tuple[int, int]]:
    """Return the words of the maps that must be on chip while a stage runs."""
    made = {stage.output: number for number, stage in enumerate(stages)}
    return {
        name: (frame.base, frame.base + frame.words)
        for name, frame in placement.frames.items()
        if name in placement.last_use and made[name] <= index <= placement.last_use[name]
    }


def check_placement(placement: Placement, stages: Sequence[Stage], config: EngineConfig, note: str) -> None:
    for index, stage in enumerate(stages):
        live = live_at(placement, stages, index)
        taken = sorted([*live.values(), *([placement.gaps[index]] if placement.gaps[index] != (0, 0) else [])])
        assert all(one[1] <= other[0] for one, other in itertools.pairwise(taken)), note
        assert all(0 <= low < high <= config.scratchpad_words for low, high in taken), note
        for name in stage.inputs:
            resident = placement.resident(name, index)
            assert (resident is None) == (name not in live), note
            assert resident is not None or name in placement.in_memory, note


@pytest.mark.parametrize("config", [*PRESETS.values(), *ODD_CONFIGS], ids=lambda config: config.name)
def test_live_maps_lie_apart(config: EngineConfig) -> None:
    for seed in range(25):
        network = random_network(np.random.default_rng(seed), 50_000, lanes=config.lanes)
        stages = fuse(network, config)
        for around in (True, False):
            check_placement(residency._place(network, stages, config, around=around), stages, config, f"seed {seed}, {around}")


def test_small_maps_go_round_the_scratchpad() -> None:
    """Each begins where the one before ends, until the end is reached: no place is taken again soon."""
    network = chain((12, 12, 8), *[(8, (3, 3), 1)] * 30)
    config = PRESETS["small"]
    stages = fuse(network, config)
    frames = list(place(network, stages, config).frames.values())
    follows = [one.base + one.words == other.base for one, other in itertools.pairwise(frames)]
    wraps = [other.base < one.base for one, other in itertools.pairwise(frames)]
    assert all(a or b for a, b in zip(follows, wraps, strict=True))
    assert sum(follows) >= 2
    assert any(wraps)


def test_where_more_fit_at_the_ends_they_are_put_there() -> None:
    fell_back = 0
    for config in (PRESETS["tiny"], *(config for config in ODD_CONFIGS if config.scratchpad_words <= 128)):
        for seed in range(40):
            network = random_network(np.random.default_rng(seed), 50_000, lanes=config.lanes)
            stages = fuse(network, config)
            around, ends = (residency._place(network, stages, config, around=around) for around in (True, False))
            found = place(network, stages, config)
            assert len(found.in_memory) == min(len(around.in_memory), len(ends.in_memory)), f"seed {seed} on {config.name}"
            fell_back += len(ends.in_memory) < len(around.in_memory)
    assert fell_back, "no network tells the two apart"


# Shares


@pytest.mark.parametrize(
    ("shape", "filters", "expected"),
    [
        # sixteen planes in, one out: the loads need the port
        pytest.param((16, 16, 128), 8, MAX_SHARE_LOG2, id="loads"),
        # one plane in, eight out
        pytest.param((16, 16, 3), 64, 1, id="stores"),
    ],
)
def test_the_port_is_shared_as_it_is_needed(shape: tuple[int, int, int], filters: int, expected: int) -> None:
    network = chain(shape, (filters, (1, 1), 0), (4, (1, 1), 0))
    stage = fuse(network, BASE)[0]
    _, (plan, *_) = choose_plans([stage], BASE, loaded=1, element_bytes=8, gap=BASE.scratchpad_words // 4)
    assert cost.store_share(stage, plan, BASE) == expected
    program = compile_network(network, BASE)
    shares = {i["share_log2"] for i in layer_of(program, 0) if is_map_load(i)}
    # nothing is left to STOREs while there are none
    assert shares == {0, expected}


# What comes ahead


def layer_of(program: Program, index: int) -> list[Instruction]:
    layer = program.layers[index]
    return list(program.instructions[layer.first_instruction : layer.last_instruction + 1])


def test_weights_parameters_and_borders_come_a_stage_ahead() -> None:
    network = chain((20, 20, 8), (8, (3, 3), 0), (8, (3, 3), 1), (8, (3, 3), 1), (8, (1, 1), 0))
    program = compile_network(network, BASE)
    loaded = []
    for index in range(4):
        instructions = layer_of(program, index)
        last = max(n for n, i in enumerate(instructions) if i.opcode is Opcode.EXECUTE)
        loaded.append({i["target"] for i in instructions[last:] if i.opcode is Opcode.LOAD})
    # the first stage also fills the border of its own output, before that is stored
    assert loaded == [
        {Target.WEIGHTS, Target.PARAMETERS, Target.FILL},
        {Target.WEIGHTS, Target.PARAMETERS},
        {Target.WEIGHTS, Target.PARAMETERS},
        set(),
    ]
    assert not [i for i in layer_of(program, 3) if i.opcode is Opcode.LOAD], "the last stage has nothing left to load"
    assert is_exact(network, program)


def test_weights_that_do_not_fit_beside_each_other_come_later() -> None:
    config = PRESETS["tiny"]
    network = chain((6, 6, 16), (32, (3, 3), 0), (32, (3, 3), 0))
    assert not cost.fits_weight_memory(fuse(network, config)[0], config)
    program = compile_network(network, config)
    assert Target.WEIGHTS in [i["target"] for i in layer_of(program, 1) if i.opcode is Opcode.LOAD]
    assert is_exact(network, program)


@pytest.mark.parametrize(("kernel", "filters"), [((7, 9), 8), ((1, 1), 24)], ids=["rows", "planes"])
def test_a_single_pixel_begins_before_the_last_of_its_input_is_there(kernel: tuple[int, int], filters: int) -> None:
    """Two EXECUTEs for the first unit, of which only the second waits for the last STORE; one for each of the others."""
    network = chain((kernel[0] + 4, kernel[1] + 4, 8), (filters, (5, 5), 0), (20, kernel, 0))
    program = compile_network(network, BASE)
    executes = [i for i in layer_of(program, 1) if i.opcode is Opcode.EXECUTE]
    starts = [n for n, i in enumerate(executes) if not i["accumulate"]]
    units = [executes[a:b] for a, b in itertools.pairwise([*starts, len(executes)])]
    assert [len(unit) for unit in units] == [2, 1, 1]
    taps = [i["n_block"] * i["n_ky"] * i["n_kx"] for i in executes]
    assert taps[0] + taps[1] == taps[2] == taps[3]
    # the first needs all but the last row, or all but the last plane
    assert taps[1] == (kernel[1] if kernel[0] > 1 else 1)
    assert executes[1]["after_store"] == 0
    assert executes[0]["after_store"] == UNORDERED or executes[0]["after_store"] > 0
    assert is_exact(network, program)


def test_a_pool_of_a_single_pixel_is_computed_at_once() -> None:
    source = Tensor(name="image", shape=(4, 4, 8))
    pool = MaxPool(name="pool", inputs=("image",), output="pooled", window=Window(kernel=(4, 4)))
    tensors = {"pooled": Tensor(name="pooled", shape=(1, 1, 8))}
    network = Network(name="pool", input=source, operators=(pool,), tensors=tensors, output="pooled")
    program = compile_network(network, BASE)
    assert sum(i.opcode is Opcode.EXECUTE for i in program.instructions) == 1
    assert is_exact(network, program)


# Windows


@pytest.mark.parametrize("width", range(1, 11))
def test_windows_read_nothing_beside_their_frame(width: int) -> None:
    """Kernels of all widths, most of them cut into unequal passes, on a map at the very start of the scratchpad."""
    source = Tensor(name="image", shape=(12, 14, 16), zero_point=-7)
    op = conv("depthwise", source, 16, (3, width), groups=16)
    tensors = {op.output: Tensor(name=op.output, shape=op.output_shape((source.shape,)), zero_point=3)}
    network = Network(name="windows", input=source, operators=(op,), tensors=tensors, output=op.output)
    program = compile_network(network, BASE)
    windows = [i for i in program.instructions if i.opcode is Opcode.EXECUTE and i["operation"] == Operation.WINDOW]
    assert windows, "the compiler takes another way"
    loads = [i for i in program.instructions if is_map_load(i)]
    low = min(load["local_address"] for load in loads)
    assert min(window["activations"] for window in windows) == low
    assert is_exact(network, program)


def test_a_correction_that_is_all_zero_is_left_out() -> None:
    """Zero points make second parts of weights, but of the second eight channels alone."""
    source = Tensor(name="image", shape=(12, 14, 16), zero_point=-7)
    op = conv("depthwise", source, 16, (3, 3), groups=16)
    tensors = {op.output: Tensor(name=op.output, shape=op.output_shape((source.shape,)), zero_point=3)}
    counts = []
    for zero_point in (0, 90):
        changed = replace(op, weight_zero_point=np.repeat(np.array([0, zero_point], np.int32), 8))
        network = Network(name="corrections", input=source, operators=(changed,), tensors=tensors, output=op.output)
        program = compile_network(network, BASE)
        executes = [i for i in program.instructions if i.opcode is Opcode.EXECUTE]
        assert all(i["operation"] == Operation.WINDOW for i in executes)
        counts.append(len(executes))
        assert is_exact(network, program)
    assert 2 * counts[1] == 3 * counts[0]


@pytest.mark.parametrize("words", [64, 128, 512])
def test_no_weights_are_loaded_that_nothing_reads(words: int) -> None:
    """Not even ahead, where a stage's input is loaded a few planes at a time."""
    network = chain((9, 9, 8), (40, (3, 3), 1), (24, (3, 3), 1), (8, (3, 3), 0))
    config = replace(PRESETS["tiny"], name="few", scratchpad_words=words)
    program = compile_network(network, config)
    unread: dict[int, int] = {}
    for number, i in enumerate(program.instructions):
        if i.opcode is Opcode.LOAD and i["target"] == Target.WEIGHTS:
            for word in range(i["local_address"], i["local_address"] + i["n_x"]):
                assert word not in unread, f"instruction {unread[word]} loads what instruction {number} overwrites unread"
                unread[word] = number
        if i.opcode is Opcode.EXECUTE and i["operation"] == Operation.ARRAY:
            taps = i["n_block"] * i["n_ky"] * i["n_kx"]
            for word in range(i["weights"], i["weights"] + packed_words(taps, i["tap_rows"], config)):
                unread.pop(word, None)
    assert not unread
    assert is_exact(network, program)
