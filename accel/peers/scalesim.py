"""SCALE-Sim 3.0.0's cycles for a network's convolutions and fully connected layers: by closed forms, or by running it.

The closed forms, for P output pixels and M filters of K = height * width * channels values on R x C elements::

    os   output stationary   ceil(P/R) * ceil(M/C) * (K + R + C - 2) - 1
    ws   weight stationary   ceil(K/R) * ceil(M/C) * (P + 2R + C - 2) - 1
    is   input stationary    ceil(K/R) * ceil(P/C) * (M + 2R + C - 2) - 1

They equal the "Total Cycles" (its compute cycles) of https://github.com/scalesim-project/scale-sim-v3, and :func:`run` shows it for
any layer. :data:`LEAVES_OUT` is what they do not count, :data:`MAPPING` how layers that it does not have are given to it.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from accel.config import EngineConfig
from accel.errors import SystolithError
from accel.graph import Conv2D, Network

__all__ = [
    "DATAFLOWS",
    "LEAVES_OUT",
    "MAPPING",
    "REQUIREMENTS",
    "VERSION",
    "Layer",
    "LayerCycles",
    "PeerError",
    "cycles",
    "layers_of",
    "make_environment",
    "network_cycles",
    "run",
]

VERSION = "3.0.0"
#: What its environment holds. It multiplies arrays of one element into scalars, which NumPy 2.4 refuses.
REQUIREMENTS = (f"scalesim=={VERSION}", "numpy<2.4")

DATAFLOWS: Mapping[str, str] = MappingProxyType({"os": "output stationary", "ws": "weight stationary", "is": "input stationary"})

LEAVES_OUT = (
    "it counts the array alone, on ideal memory: every operand is there when it is wanted; pooling, residual adds, activations, "
    "requantisation and the time between two layers cost nothing"
)
MAPPING = (
    "padding is counted (each layer gets an input as large as its output needs); a depthwise layer, which it does not have, is one "
    "dense filter over all its channels: as many multiply-accumulates, and fewer cycles than a layer for each channel; a layer in "
    "groups is its groups one after the other"
)


class PeerError(SystolithError):
    """A peer that cannot be run."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A layer as SCALE-Sim has them: a dense convolution without padding, ``times`` one after the other.

    ``pixels`` is (height, width) of the output, ``kernel`` (height, width) of a filter over ``channels``.
    """

    name: str
    pixels: tuple[int, int]
    kernel: tuple[int, int]
    channels: int
    filters: int
    stride: int
    times: int = 1

    @property
    def topology(self) -> tuple[int, ...]:
        """Row of a topology file: input height and width, filter height and width, channels, filters, stride."""
        size = [(count - 1) * self.stride + kernel for count, kernel in zip(self.pixels, self.kernel, strict=True)]
        return (*size, *self.kernel, self.channels, self.filters, self.stride)


@dataclass(frozen=True, kw_only=True)
class LayerCycles:
    """Cycles of one layer in one dataflow, all its groups: by the closed form, and by running SCALE-Sim (None if it was not)."""

    layer: str
    dataflow: str
    closed_form: int
    run: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the figures as plain values, fit for JSON."""
        return {**vars(self), "equal": None if self.run is None else self.run == self.closed_form}


def layers_of(network: Network) -> tuple[Layer, ...]:
    """Return a network's convolutions and fully connected layers as SCALE-Sim takes them (see :data:`MAPPING`).

    Its layers have one stride and no dilation; neither changes the cycles, which depend on P, K and M alone.
    """
    layers = []
    for op in network.operators:
        if not isinstance(op, Conv2D):
            continue
        height, width, filters = network.tensor(op.output).shape
        channels, groups = op.weights.shape[3], op.groups
        if op.is_depthwise:
            channels, filters, groups = network.input_shapes(op)[0][2], 1, 1
        layers.append(
            Layer(
                name=op.name,
                pixels=(height, width),
                kernel=op.window.kernel,
                channels=channels,
                filters=filters // groups,
                stride=op.window.stride[0],
                times=groups,
            )
        )
    return tuple(layers)


def cycles(config: EngineConfig, layer: Layer, dataflow: str) -> int:
    """Return SCALE-Sim's compute cycles for a layer, all its groups, on an array of this configuration's size."""
    rows, columns = config.rows, config.columns
    pixels, values, filters = math.prod(layer.pixels), math.prod(layer.kernel) * layer.channels, layer.filters
    down, across, streamed = {
        "os": (pixels, filters, values + rows + columns - 2),
        "ws": (values, filters, pixels + 2 * rows + columns - 2),
        "is": (values, pixels, filters + 2 * rows + columns - 2),
    }[dataflow]
    return layer.times * (math.ceil(down / rows) * math.ceil(across / columns) * streamed - 1)


def network_cycles(config: EngineConfig, network: Network, dataflow: str) -> int:
    """Return SCALE-Sim's compute cycles for all of a network's convolutions and fully connected layers."""
    return sum(cycles(config, layer, dataflow) for layer in layers_of(network))


def make_environment(directory: Path) -> None:
    """Make SCALE-Sim's virtual environment in an empty directory, from PyPI. Raises :class:`PeerError`."""
    steps = (
        (sys.executable, "-m", "venv", str(directory)),
        (str(_python(directory)), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", *REQUIREMENTS),
    )
    for step in steps:
        done = subprocess.run(step, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode:
            raise PeerError(
                f"--run-peer: SCALE-Sim {VERSION}'s own environment could not be made ({_last_line(done.stderr or done.stdout)}); "
                "it needs Python's venv and pip, and PyPI, or leave --run-peer out"
            )


def run(
    environment: Path, config: EngineConfig, layers: Sequence[Layer], dataflow: str, done: Callable[[int], None]
) -> dict[str, int]:
    """Run SCALE-Sim on layers; return each one's compute cycles, all its groups, by name.

    Layers of one shape are run once. ``done`` is called with how many layers have been run. Raises
    :class:`PeerError` when SCALE-Sim fails.
    """
    shapes = list(dict.fromkeys(layer.topology for layer in layers))
    job = {"rows": config.rows, "columns": config.columns, "dataflow": dataflow, "layers": shapes}
    found: dict[tuple[int, ...], int] = {}
    for count, shape in zip(_answers(environment, job), shapes, strict=True):
        found[shape] = count
        done(sum(layer.topology in found for layer in layers))
    return {layer.name: layer.times * found[layer.topology] for layer in layers}


def _answers(environment: Path, job: dict[str, Any]) -> Iterator[int]:
    """Yield the cycles that the driver prints for each layer."""
    command = [str(_python(environment)), "-I", str(Path(__file__).with_name("scalesim_driver.py"))]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as asked, tempfile.TemporaryFile("w+", encoding="utf-8") as said:
        json.dump(job, asked)
        asked.seek(0)
        try:
            process = subprocess.Popen(command, stdin=asked, stdout=subprocess.PIPE, stderr=said, text=True)
        except OSError as error:
            raise PeerError(
                f"--run-peer: {command[0]} cannot be started ({error.strerror}); remove {environment} to make it anew"
            ) from None
        with process:
            try:
                assert process.stdout is not None
                for line in process.stdout:
                    yield int(line)
            except BaseException:
                process.kill()  # a simulation may go on for hours
                raise
        if process.returncode:
            said.seek(0)
            raise PeerError(
                f"--run-peer: SCALE-Sim {VERSION} failed ({_last_line(said.read())}); leave --run-peer out for its closed forms"
            )


def _python(environment: Path) -> Path:
    return environment / "bin" / "python"


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
