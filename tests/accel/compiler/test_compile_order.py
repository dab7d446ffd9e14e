"""The ``after_*`` fields: in whatever order the three units get to run, the result is the same."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from accel import golden
from accel.compiler import compile_network
from accel.config import PRESETS, QUEUE_DEPTH, EngineConfig
from accel.emulator import Machine
from accel.isa import UNORDERED, Instruction, Opcode
from accel.program import Program
from accel.testing import ODD_CONFIGS, random_image, random_network

UNITS = (Opcode.LOAD, Opcode.EXECUTE, Opcode.STORE)
WAITS = ("after_load", "after_execute", "after_store")
CONFIGS = (*PRESETS.values(), *ODD_CONFIGS)


def run_in_some_order(
    program: Program, images: npt.NDArray[np.int8], seed: int, favourites: Sequence[int] | None
) -> npt.NDArray[np.int8]:
    """Run a batch one instruction at a time, each time one whose waits are over: of the first unit in ``favourites``, or of any.

    Writes to memory stay unseen by LOADs until one with ``fence`` comes.
    """
    rng = np.random.default_rng(seed)
    machine = Machine(program.config, seed=seed)
    seen = program.memory(*images)
    written = seen.copy()
    before = []
    counts = [0, 0, 0]
    for instruction in program.instructions:
        before.append(tuple(counts))
        if instruction.opcode in UNITS:
            counts[UNITS.index(instruction.opcode)] += 1
    queues: list[list[int]] = [[], [], []]
    done = [0, 0, 0]
    position, end = 1, len(program.instructions) - 1

    def may_start(index: int) -> bool:
        return all(
            program.instructions[index][field] == UNORDERED
            or before[index][unit] - done[unit] <= program.instructions[index][field]
            for unit, field in enumerate(WAITS)
        )

    while True:
        while position < end and len(queue := queues[UNITS.index(program.instructions[position].opcode)]) <= QUEUE_DEPTH:
            queue.append(position)
            position += 1
        ready = [unit for unit in range(3) if queues[unit] and may_start(queues[unit][0])]
        if not ready:
            assert position == end, "the program hangs"
            assert not any(queues), "the program hangs"
            return np.stack([program.result(written, number) for number in range(program.batch)])
        unit = min(ready, key=favourites.index) if favourites else int(rng.choice(ready))
        instruction = program.instructions[queues[unit].pop(0)]
        match instruction.opcode:
            case Opcode.LOAD:
                if instruction["fence"]:
                    seen[:] = written
                machine._load(instruction, seen)
            case Opcode.EXECUTE:
                machine._execute(instruction)
            case Opcode.STORE:
                machine._store(instruction, written)
        done[unit] += 1


ORDERS = (None, (0, 1, 2), (1, 0, 2), (0, 2, 1), (2, 1, 0))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
@pytest.mark.parametrize("batch", [1, 3])
def test_any_order_gives_the_same(config: EngineConfig, batch: int) -> None:
    for seed in range(12 // batch):
        rng = np.random.default_rng(seed)
        network = random_network(rng, 100_000, lanes=config.lanes)
        images = np.stack([random_image(rng, network) for _ in range(batch)])
        expected = golden.run(network, images)
        program = compile_network(network, config, batch=batch)
        for order in ORDERS:
            assert np.array_equal(run_in_some_order(program, images, seed, order), expected), (
                f"seed {seed} on {config.name}, {order}"
            )


@pytest.mark.parametrize("field", [*WAITS, "fence"])
def test_every_wait_is_needed_somewhere(field: str) -> None:
    """The test above can fail: without one kind of wait, some program goes wrong."""
    config = next(config for config in ODD_CONFIGS if config.name == "5x3 least")  # where maps go to memory and back

    def without(instruction: Instruction) -> Instruction:
        if instruction.opcode not in UNITS or field not in instruction.values:
            return instruction
        return Instruction(instruction.opcode, {**instruction.values, field: 0 if field == "fence" else UNORDERED})

    for seed in range(30):
        rng = np.random.default_rng(seed)
        network = random_network(rng, 100_000, lanes=config.lanes)
        images = random_image(rng, network)[np.newaxis]
        program = compile_network(network, config)
        broken = replace(program, instructions=tuple(without(instruction) for instruction in program.instructions))
        expected = golden.run(network, images)
        if any(not np.array_equal(run_in_some_order(broken, images, seed, order), expected) for order in ORDERS):
            return
    pytest.fail(f"no program of 30 needs {field}")


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
def test_units_never_share_an_accumulator_half(config: EngineConfig) -> None:
    """While a STORE may run, no EXECUTE that may run touches its half, and the other way round."""
    for seed in range(12):
        program = compile_network(random_network(np.random.default_rng(seed), 100_000, lanes=config.lanes), config)
        halves: dict[Opcode, list[int]] = {Opcode.EXECUTE: [], Opcode.STORE: []}
        # A unit keeps its order, so what one instruction waited for has also ended for those behind it.
        ended = {Opcode.EXECUTE: 0, Opcode.STORE: 0}
        for instruction in program.instructions:
            unit = instruction.opcode
            if unit not in halves:
                continue
            other, field = (Opcode.STORE, "after_store") if unit is Opcode.EXECUTE else (Opcode.EXECUTE, "after_execute")
            half = instruction["accumulators"] // config.accumulator_words
            if instruction[field] != UNORDERED:
                ended[unit] = max(ended[unit], len(halves[other]) - instruction[field])
            assert half not in halves[other][ended[unit] :], f"seed {seed}"
            halves[unit].append(half)
