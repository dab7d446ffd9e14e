"""Random networks on every kind of engine: the program, emulated, computes what the golden model computes."""

import numpy as np
import pytest

from accel import golden
from accel.compiler import compile_network
from accel.config import PRESETS, EngineConfig
from accel.emulator import Emulator
from accel.isa import INSTRUCTION_BYTES, Opcode
from accel.testing import ODD_CONFIGS, random_image, random_network

CONFIGS = (*PRESETS.values(), *ODD_CONFIGS)
MAX_MACS = 200_000


def check(seed: int, config: EngineConfig) -> None:
    rng = np.random.default_rng(seed)
    network = random_network(rng, MAX_MACS, lanes=config.lanes)
    images = np.stack([random_image(rng, network) for _ in range(2)])
    program = compile_network(network, config)
    outputs = Emulator(seed=seed).run(program, list(images)).outputs
    assert np.array_equal(outputs, golden.run(network, images)), (
        f"seed {seed} on {config.name}: {[op.name for op in network.operators]}"
    )


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
def test_random_networks(config: EngineConfig) -> None:
    for seed in range(20):
        check(seed, config)


@pytest.mark.full
@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
def test_many_random_networks(config: EngineConfig) -> None:
    for seed in range(1000, 1500):
        check(seed, config)


def test_random_networks_are_of_every_kind() -> None:
    networks = [random_network(np.random.default_rng(seed), MAX_MACS) for seed in range(200)]
    operators = [op for network in networks for op in network.operators]
    assert {type(op).__name__ for op in operators} == {"Conv2D", "MaxPool", "AveragePool", "Add", "Lookup", "Concat"}
    convs = [op for op in operators if type(op).__name__ == "Conv2D"]
    for feature in (
        [op.is_depthwise for op in convs],
        [op.groups > 1 and not op.is_depthwise for op in convs],
        [op.table is not None for op in convs],
        [op.weight_zero_point.any() for op in convs],
        [max(op.window.dilation) > 1 for op in convs],
        [max(op.window.stride) > 1 for op in convs],
        [any(op.window.padding) for op in convs],
    ):
        assert any(feature)
        assert not all(feature)
    assert any(len(network.consumers(tensor)) > 1 for network in networks for tensor in network.tensors)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
def test_layers_share_out_the_program(config: EngineConfig) -> None:
    for seed in range(10):
        network = random_network(np.random.default_rng(seed), MAX_MACS, lanes=config.lanes)
        program = compile_network(network, config)
        assert program.layers[0].first_instruction == 0
        assert program.layers[-1].last_instruction == len(program.instructions) - 1
        for one, next_one in zip(program.layers[:-1], program.layers[1:], strict=True):
            assert next_one.first_instruction == one.last_instruction + 1
        loaded = sum(
            (i["n_x"] * i["n_y"] * i["n_z"]) << i["element_log2"]
            for i in program.instructions
            if i.opcode is Opcode.LOAD and i["target"] != 5
        )
        assert sum(layer.bytes_read for layer in program.layers) == loaded, f"seed {seed}"
        code = b"".join(instruction.encode() for instruction in program.instructions)
        assert program.image[: len(code)].tobytes() == code
        assert len(code) == len(program.instructions) * INSTRUCTION_BYTES
