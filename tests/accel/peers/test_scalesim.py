"""SCALE-Sim's closed forms against its own figures, the layers it is given, and how it is run."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from accel.config import PRESETS
from accel.frontends import load_network
from accel.graph import Conv2D
from accel.peers.scalesim import DATAFLOWS, Layer, PeerError, cycles, layers_of, make_environment, network_cycles, run


@pytest.mark.parametrize(
    ("config", "expected"),
    [("base", {"os": 15_961, "ws": 29_406, "is": 29_399}), ("large", {"os": 8_404, "ws": 15_053, "is": 14_957})],
)
def test_lenet5_takes_what_scalesim_itself_says(config: str, expected: dict[str, int]) -> None:
    network = load_network("lenet5")
    assert {dataflow: network_cycles(PRESETS[config], network, dataflow) for dataflow in DATAFLOWS} == expected


def test_one_layer_by_hand() -> None:
    """LeNet-5's second convolution at 8x8, which SCALE-Sim 3.0.0 gives 4,263, 4,635 and 9,385 cycles."""
    layer = Layer(name="c2", pixels=(10, 10), kernel=(5, 5), channels=6, filters=16, stride=1)
    assert layer.topology == (14, 14, 5, 5, 6, 16, 1)
    assert [cycles(PRESETS["base"], layer, dataflow) for dataflow in ("os", "ws", "is")] == [4263, 4635, 9385]


@pytest.mark.parametrize("network", ["lenet5", "resnet8", "dscnn", "alexnet"])
def test_layers_have_the_networks_multiply_accumulates(network: str) -> None:
    loaded = load_network(network)
    layers = layers_of(loaded)
    assert [layer.name for layer in layers] == [op.name for op in loaded.operators if isinstance(op, Conv2D)]
    macs = [math.prod((*layer.pixels, *layer.kernel, layer.channels, layer.filters, layer.times)) for layer in layers]
    assert sum(macs) == loaded.macs


@pytest.mark.parametrize("network", ["resnet8", "dscnn", "mobilenetv1-0.25-96"])
def test_scalesim_would_compute_the_outputs_that_there_are(network: str) -> None:
    """It takes ceil((input - kernel + stride) / stride) for the size of an output."""
    for layer in layers_of(load_network(network)):
        height, width, tall, wide, *_, stride = layer.topology
        assert math.ceil((height - tall + stride) / stride) == layer.pixels[0], layer
        assert math.ceil((width - wide + stride) / stride) == layer.pixels[1], layer


def test_groups_follow_each_other_and_depthwise_is_one_filter() -> None:
    grouped = next(layer for layer in layers_of(load_network("alexnet")) if layer.name == "conv2")
    assert (grouped.channels, grouped.filters, grouped.times) == (48, 128, 2)
    single = Layer(**{**vars(grouped), "times": 1})
    assert cycles(PRESETS["base"], grouped, "ws") == 2 * cycles(PRESETS["base"], single, "ws")
    network = load_network("dscnn")
    depthwise = next(op for op in network.operators if isinstance(op, Conv2D) and op.is_depthwise)
    layer = next(layer for layer in layers_of(network) if layer.name == depthwise.name)
    assert (layer.channels, layer.filters, layer.times) == (64, 1, 1)
    each = Layer(**{**vars(layer), "channels": 1, "times": 64})
    for dataflow in DATAFLOWS:
        assert cycles(PRESETS["base"], layer, dataflow) < cycles(PRESETS["base"], each, dataflow)


# Running it


def environment(directory: Path, script: str) -> Path:
    """Return an environment whose Python is a shell script."""
    python = directory / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    return directory


def layers(count: int) -> list[Layer]:
    return [Layer(name=f"l{n}", pixels=(n + 1, 1), kernel=(1, 1), channels=1, filters=1, stride=1) for n in range(count)]


def test_a_run_gives_each_layer_its_cycles_and_runs_each_shape_once(tmp_path: Path) -> None:
    first, second = layers(2)
    again = Layer(**{**vars(first), "name": "again", "times": 3})
    place = environment(tmp_path, f"cat > {tmp_path}/asked; echo 10; echo 20")
    said: list[int] = []
    found = run(place, PRESETS["base"], [first, second, again], "ws", said.append)
    assert found == {"l0": 10, "l1": 20, "again": 30}
    assert said == [2, 3]
    assert (tmp_path / "asked").read_text() == (
        '{"rows": 8, "columns": 8, "dataflow": "ws", "layers": [[1, 1, 1, 1, 1, 1, 1], [2, 1, 1, 1, 1, 1, 1]]}'
    )


def test_a_run_that_fails_is_said_in_one_sentence(tmp_path: Path) -> None:
    place = environment(tmp_path, "echo 10; echo 'Traceback' >&2; echo 'MemoryError: no room' >&2; exit 1")
    with pytest.raises(PeerError, match=r"^--run-peer: SCALE-Sim 3\.0\.0 failed \(MemoryError: no room\); leave --run-peer out"):
        run(place, PRESETS["base"], layers(2), "os", lambda done: None)


def test_an_environment_that_is_broken_is_said_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(PeerError, match=r"cannot be started \(No such file or directory\); remove .* to make it anew$"):
        run(tmp_path, PRESETS["base"], layers(1), "os", lambda done: None)


def test_an_interrupt_ends_the_run(tmp_path: Path) -> None:
    place = environment(tmp_path, f"echo 10; echo $$ > {tmp_path}/pid; exec sleep 1000")

    def interrupt(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(place, PRESETS["base"], layers(2), "os", interrupt)
    # reached only because the process, which would have slept on, was killed and waited for


def test_an_environment_that_cannot_be_made_is_said_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = environment(tmp_path / "outer", "echo 'No module named venv' >&2; exit 1") / "bin" / "python"
    monkeypatch.setattr("sys.executable", str(python))
    with pytest.raises(PeerError, match=r"^--run-peer: .*could not be made \(No module named venv\); it needs Python's venv"):
        make_environment(tmp_path / "inner")


@pytest.mark.full
def test_scalesim_itself_takes_what_the_closed_forms_say(tmp_path: Path) -> None:
    try:
        make_environment(tmp_path)
    except PeerError as error:
        pytest.skip(str(error))
    seed = 20240607
    rng = np.random.default_rng(seed)
    chosen = [
        Layer(
            name=f"l{n}",
            pixels=(int(rng.integers(1, 9)), int(rng.integers(1, 9))),
            kernel=(int(rng.integers(1, 4)), int(rng.integers(1, 4))),
            channels=int(rng.integers(1, 20)),
            filters=int(rng.integers(1, 40)),
            stride=int(rng.integers(1, 3)),
        )
        for n in range(12)
    ]
    chosen += layers_of(load_network("lenet5"))
    for name in ("small", "base"):
        for dataflow in DATAFLOWS:
            found = run(tmp_path, PRESETS[name], chosen, dataflow, lambda done: None)
            expected = {layer.name: cycles(PRESETS[name], layer, dataflow) for layer in chosen}
            assert found == expected, f"seed {seed}, {name}, {dataflow}"
