"""What the compiler makes of LeNet-5: the passes and the traffic that the cycle targets rest on."""

import numpy as np
import pytest

from accel import golden
from accel.compiler import compile_network
from accel.config import PRESETS, EngineConfig
from accel.emulator import Emulator
from accel.graph import Conv2D, MaxPool, Network, Operator, Requantisation, Tensor, Window
from accel.isa import Instruction, Opcode, Target
from accel.numerics import Rounding, quantise_multiplier
from accel.program import Program


def lenet() -> Network:
    rng = np.random.default_rng(5)
    source = Tensor(name="image", shape=(32, 32, 1), zero_point=-128)
    tensors = {"image": source}
    operators: list[Operator] = []
    name = "image"
    for index, (filters, kernel) in enumerate(((6, 5), (0, 2), (16, 5), (0, 2), (120, 5), (84, 1), (10, 1))):
        shape = tensors[name].shape
        output = f"map{index}"
        op: Operator
        if filters:
            weights = rng.integers(-128, 128, (filters, kernel, kernel, shape[2]), np.int8)
            multiplier, shift = quantise_multiplier(1 / (110.0 * float(np.sqrt(weights[0].size))))
            op = Conv2D(
                name=f"conv{index}",
                inputs=(name,),
                output=output,
                window=Window(kernel=(kernel, kernel)),
                weights=weights,
                bias=np.zeros(filters, np.int32),
                requantisation=Requantisation(
                    multiplier=np.full(1, multiplier, np.int32),
                    shift=np.full(1, shift, np.int32),
                    rounding=Rounding.DOUBLE_AWAY,
                    zero_point=-128,
                ),
            )
        else:
            op = MaxPool(name=f"pool{index}", inputs=(name,), output=output, window=Window(kernel=(2, 2), stride=(2, 2)))
        tensors[output] = Tensor(name=output, shape=op.output_shape((shape,)), zero_point=-128)
        operators.append(op)
        name = output
    del tensors["image"]
    return Network(name="lenet", input=source, operators=tuple(operators), tensors=tensors, output=name)


def passes_and_pixels(instruction: Instruction, config: EngineConfig) -> tuple[int, int]:
    group = config.rows // instruction["tap_rows"]
    taps = instruction["n_block"] * instruction["n_ky"] * instruction["n_kx"]
    return -(-taps // group), instruction["n_py"] * instruction["n_px"] * instruction["n_wy"] * instruction["n_wx"]


def execute_cycles(program: Program, layer: int) -> int:
    info = program.layers[layer]
    total = 0
    for instruction in program.instructions[info.first_instruction : info.last_instruction + 1]:
        if instruction.opcode is Opcode.EXECUTE:
            passes, pixels = passes_and_pixels(instruction, program.config)
            total += passes * max(pixels, program.config.rows)
    return total


@pytest.mark.parametrize(
    ("preset", "cycles"), [("base", (4 * 784, 2 * 25 * 100, 6000, 1320, 176)), ("large", (2 * 784, 13 * 100, 3200, 768, 96))]
)
def test_no_pass_is_wasted(preset: str, cycles: tuple[int, ...]) -> None:
    program = compile_network(lenet(), PRESETS[preset])
    assert [layer.name for layer in program.layers] == ["conv0+pool1", "conv2+pool3", "conv4", "conv5", "conv6"]
    assert tuple(execute_cycles(program, layer) for layer in range(5)) == cycles


@pytest.mark.parametrize("preset", ["base", "large"])
def test_only_input_and_weights_are_read_and_only_the_output_written(preset: str) -> None:
    program = compile_network(lenet(), PRESETS[preset])
    assert program.layers[0].bytes_written == 0
    assert sum(layer.bytes_written for layer in program.layers) <= 16
    weights = [i for i in program.instructions if i.opcode is Opcode.LOAD and i["target"] == Target.WEIGHTS]
    used: dict[int, int] = {}
    for load in weights:
        assert load["memory_address"] not in used, "weights are loaded once"
        used[load["memory_address"]] = load["n_x"]
    assert program.input.element_bytes == 1


@pytest.mark.parametrize("preset", ["base", "large"])
def test_first_tile_waits_for_few_rows(preset: str) -> None:
    program = compile_network(lenet(), PRESETS[preset])
    first = next(k for k, i in enumerate(program.instructions) if i.opcode is Opcode.EXECUTE)
    words = sum(
        i["n_x"] * i["n_y"] * i["n_z"]
        for i in program.instructions[:first]
        if i.opcode is Opcode.LOAD and i["target"] == Target.ACTIVATIONS
    )
    assert words <= 32 * 32 // 4


@pytest.mark.parametrize("config", PRESETS.values(), ids=lambda config: config.name)
def test_lenet_is_exact(config: EngineConfig) -> None:
    network = lenet()
    images = np.random.default_rng(1).integers(-128, 128, (2, 32, 32, 1), np.int8)
    assert np.array_equal(Emulator().run(compile_network(network, config), list(images)).outputs, golden.run(network, images))
