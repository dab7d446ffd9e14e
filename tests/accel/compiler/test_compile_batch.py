"""Batches: the outputs of every image, whatever the order of instructions, and weights that are loaded once for all of them."""

import itertools

import numpy as np
import pytest

from accel import golden
from accel.compiler import CompileError, compile_network
from accel.config import PRESETS, EngineConfig
from accel.emulator import Emulator
from accel.frontends import load_network
from accel.isa import Opcode, Target
from accel.perf import estimate
from accel.program import Program
from accel.testing import ODD_CONFIGS, random_image, random_network

CONFIGS = (*PRESETS.values(), *ODD_CONFIGS)
MAX_MACS = 50_000
BATCH = 4


def check(seed: int, config: EngineConfig, batch: int) -> None:
    rng = np.random.default_rng(seed)
    network = random_network(rng, MAX_MACS, lanes=config.lanes)
    images = np.stack([random_image(rng, network) for _ in range(batch + 1)])  # the second batch is not full
    outputs = Emulator(seed=seed).run(compile_network(network, config, batch=batch), list(images)).outputs
    assert np.array_equal(outputs, golden.run(network, images)), (
        f"seed {seed} on {config.name}, batch {batch}: {[op.name for op in network.operators]}"
    )


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
def test_random_networks(config: EngineConfig) -> None:
    for seed in range(12):
        check(seed, config, 2 + seed % 4)


@pytest.mark.full
@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
def test_many_random_networks(config: EngineConfig) -> None:
    for seed in range(2000, 2200):
        check(seed, config, 2 + seed % 7)


def weight_bytes(program: Program) -> int:
    """Return the bytes of weights that a program loads."""
    loads = (i for i in program.instructions if i.opcode is Opcode.LOAD and i["target"] == Target.WEIGHTS)
    return sum(i["n_x"] * i["n_y"] * i["n_z"] << i["element_log2"] for i in loads)


@pytest.mark.parametrize("config", ["small", "base", "large"])
@pytest.mark.parametrize("name", ["lenet5", "dscnn", "autoencoder"])
def test_weights_are_loaded_once_for_all_images(name: str, config: str) -> None:
    alone, batch = (compile_network(load_network(name), PRESETS[config], batch=batch) for batch in (1, BATCH))
    assert weight_bytes(batch) == weight_bytes(alone) > 0
    assert [layer.macs for layer in batch.layers] == [layer.macs for layer in alone.layers]


@pytest.mark.parametrize("config", PRESETS)
def test_one_pass_of_a_fully_connected_layer_is_over_all_images(config: str) -> None:
    alone, batch = (compile_network(load_network("autoencoder"), PRESETS[config], batch=batch) for batch in (1, BATCH))
    for program, images in ((alone, 1), (batch, BATCH)):
        executes = [i for i in program.instructions if i.opcode is Opcode.EXECUTE]
        assert {i["n_py"] for i in executes} == {images}
    assert estimate(batch).cycles < 2 * estimate(alone).cycles


def test_maps_of_a_batch_follow_each_other_in_memory() -> None:
    network = load_network("lenet5")
    program = compile_network(network, PRESETS["small"], batch=BATCH)
    for binding in (program.input, program.output):
        places = [binding.place(number) for number in range(BATCH)]
        assert places[0].start == binding.address
        assert all(place.stop - place.start == binding.nbytes for place in places)
        assert all(one.stop == other.start for one, other in itertools.pairwise(places))
        assert places[-1].stop <= program.memory_bytes


def test_what_is_missing_from_the_last_batch_repeats_its_last_image() -> None:
    program = compile_network(load_network("lenet5"), PRESETS["small"], batch=BATCH)
    assert list(program.batches("abcdef")) == [(4, ["a", "b", "c", "d"]), (2, ["e", "f", "f", "f"])]
    assert list(program.batches("")) == []


@pytest.mark.parametrize("batch", [0, -1, 1025])
def test_batches_of_no_sense_are_refused(batch: int) -> None:
    with pytest.raises(CompileError, match=f"^lenet5: a batch must be from 1 to 1024 images, not {batch}$"):
        compile_network(load_network("lenet5"), PRESETS["base"], batch=batch)


def test_a_batch_that_addresses_do_not_reach_is_refused() -> None:
    with pytest.raises(
        CompileError, match=r"^vgg16: its weights and the maps of 1000 images take at least \d+ bytes, .*; take a smaller batch$"
    ):
        compile_network(load_network("vgg16", assume=True), PRESETS["large"], batch=1000)
