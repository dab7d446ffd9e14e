"""What a run comes to: the verdict of the bit-exact check, and where the cycles went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from accel import roofline
from accel.config import EngineConfig
from accel.graph import Network
from accel.isa import UnitState
from accel.perf import Estimate
from accel.program import UNITS, MemoryTiming, Program, RunResult

__all__ = [
    "EstimateReport",
    "LayerReport",
    "Mismatch",
    "RunReport",
    "Stalls",
    "first_mismatch",
    "predictions",
    "report_estimate",
    "report_run",
]

#: For each unit, how many cycles it spent in each state that is not work.
Stalls = Mapping[str, Mapping[str, float]]

Int8Array = npt.NDArray[np.int8]

#: Of one run, of a batch: cycles, and ``retired`` and ``spent`` of :class:`~accel.program.RunResult`.
_Account = tuple[int, npt.NDArray[np.int64], npt.NDArray[np.int64]]


@dataclass(frozen=True, kw_only=True)
class Mismatch:
    """The first output byte that differs from the golden model's: image number, place in the map, both values."""

    image: int
    y: int
    x: int
    channel: int
    got: int
    expected: int

    def __str__(self) -> str:
        return (
            f"image {self.image} differs from the golden model, first at (y, x, c) = ({self.y}, {self.x}, {self.channel}): "
            f"got {self.got}, expected {self.expected}"
        )


@dataclass(frozen=True, kw_only=True)
class LayerReport:
    """One layer, for one image (its share of a batch; the mean when runs differ). ``cycles`` and ``utilisation`` are None without a
    clock.

    ``bytes`` are read and written in memory. ``stalls`` is empty when the backend does not tell layers apart.
    """

    name: str
    op: str
    cycles: float | None
    macs: int
    utilisation: float | None
    bytes: float
    stalls: Stalls = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """A whole run. Cycles are None for a backend without a clock; ``mismatches`` counts images, ``stalls`` is for one image.

    ``batch``: images that the engine takes at a time. ``total_cycles`` are those of all batches, the last one as long as the others
    even if it was not full; what is counted for one image is its share of a full batch.
    """

    network: str
    config: EngineConfig
    backend: str
    backend_reason: str
    timing: MemoryTiming
    source: str
    images: int
    mismatches: int
    first_mismatch: Mismatch | None
    predictions: tuple[int, ...] | None
    labels: tuple[int, ...] | None
    total_cycles: int | None
    macs_per_image: int
    seconds: float
    layers: tuple[LayerReport, ...]
    stalls: Stalls
    notes: tuple[str, ...] = ()
    batch: int = 1

    @property
    def cycles_per_image(self) -> float | None:
        """Cycles from start to done, divided by the images of a batch; whole where that leaves no rest."""
        return None if self.total_cycles is None else _mean(self.total_cycles, -(-self.images // self.batch) * self.batch)

    @property
    def utilisation(self) -> float | None:
        """Share of the array's multiply-accumulates that were put to use, from 0 to 1."""
        return _utilisation(self.config, self.macs_per_image, self.cycles_per_image)

    @property
    def simulated_cycles_per_second(self) -> float | None:
        """Speed of the simulation, memory model included."""
        return None if self.total_cycles is None or self.seconds <= 0 else self.total_cycles / self.seconds

    @property
    def correct(self) -> int | None:
        """How many predictions equal their labels; None when either is unknown."""
        if self.predictions is None or self.labels is None:
            return None
        return sum(p == t for p, t in zip(self.predictions, self.labels, strict=True))

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain values, fit for JSON."""
        return {
            "network": self.network,
            "config": self.config.name,
            "backend": self.backend,
            "backend_reason": self.backend_reason,
            "memory": {"latency": self.timing.latency, "interval": self.timing.interval, "stall_seed": self.timing.stall_seed},
            "input": self.source,
            "images": self.images,
            "batch": self.batch,
            "mismatches": self.mismatches,
            "first_mismatch": vars(self.first_mismatch) if self.first_mismatch else None,
            "predictions": None if self.predictions is None else list(self.predictions),
            "labels": None if self.labels is None else list(self.labels),
            "total_cycles": self.total_cycles,
            "cycles_per_image": self.cycles_per_image,
            "macs_per_image": self.macs_per_image,
            "utilisation": self.utilisation,
            "simulated_cycles_per_second": self.simulated_cycles_per_second,
            "seconds": self.seconds,
            "stalls": {unit: dict(states) for unit, states in self.stalls.items()},
            "layers": [
                {**vars(layer), "stalls": {unit: dict(states) for unit, states in layer.stalls.items()}} for layer in self.layers
            ],
            "notes": list(self.notes),
        }


@dataclass(frozen=True, kw_only=True)
class EstimateReport(RunReport):
    """What one batch would take, by the cycle model: nothing was computed, so there are no outputs and no mismatches.

    ``rooflines`` are the layers' bounds in cycles (see :mod:`accel.roofline`) and ``roofline_cycles`` the network's, both for an
    image as its share of the batch's. ``clock`` is in MHz, ``seconds`` is the time it took to estimate.
    """

    rooflines: tuple[float, ...]
    roofline_cycles: float
    clock: float

    @property
    def roofline_share(self) -> float:
        """Share of the cycles that the roofline asks for; above 1 where maps stay on chip that the roofline moves."""
        return self.roofline_cycles / self.cycles_per_image if self.cycles_per_image else 0.0

    @property
    def images_per_second(self) -> float:
        """Images a second at the clock, one batch after the other."""
        return self.clock * 1e6 / self.cycles_per_image if self.cycles_per_image else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain values: the keys of a run's, and what only an estimate knows."""
        values = super().as_dict()
        for layer, bound in zip(values["layers"], self.rooflines, strict=True):
            layer["roofline_cycles"] = bound
        return {
            **values,
            "mismatches": None,
            "roofline_cycles": self.roofline_cycles,
            "roofline_share": self.roofline_share,
            "clock_mhz": self.clock,
            "images_per_second": self.images_per_second,
        }


def first_mismatch(outputs: Int8Array, expected: Int8Array) -> Mismatch | None:
    """Return the first byte at which two batches ``(images, height, width, channels)`` differ; None when they are equal."""
    if outputs.shape != expected.shape:
        raise ValueError(f"outputs {outputs.shape} and expected {expected.shape} must have one shape")
    places = np.argwhere(outputs != expected)
    if not len(places):
        return None
    image, y, x, channel = (int(n) for n in places[0])
    got, wanted = (int(batch[image, y, x, channel]) for batch in (outputs, expected))
    return Mismatch(image=image, y=y, x=x, channel=channel, got=got, expected=wanted)


def predictions(outputs: Int8Array) -> tuple[int, ...] | None:
    """Return the index of the largest output of each image; None for a map or a single number, which tell no classes."""
    _, height, width, channels = outputs.shape
    if (height, width) != (1, 1) or channels < 2:
        return None
    return tuple(int(n) for n in outputs[:, 0, 0, :].argmax(axis=1))


def report_run(
    program: Program,
    result: RunResult,
    expected: Int8Array,
    *,
    backend: str,
    backend_reason: str,
    timing: MemoryTiming,
    source: str,
    labels: Sequence[int] | None = None,
    notes: Sequence[str] = (),
) -> RunReport:
    """Compare a run with the golden model's outputs ``expected`` (same shape as ``result.outputs``) and account for its cycles."""
    images = len(result.outputs)
    accounts = None
    if result.cycles is not None and result.retired is not None and result.spent is not None:
        accounts = list(zip(result.cycles, result.retired, result.spent, strict=True))
    if rest := images % program.batch:
        notes = (
            *notes,
            f"the last batch of {program.batch} has {rest} images and repeats one of them; it takes as long as the others",
        )
    differs = (result.outputs != expected).reshape(images, -1).any(axis=1)
    return RunReport(
        network=program.network,
        config=program.config,
        backend=backend,
        backend_reason=backend_reason,
        timing=timing,
        source=source,
        images=images,
        mismatches=int(differs.sum()),
        first_mismatch=first_mismatch(result.outputs, expected),
        predictions=predictions(result.outputs),
        labels=None if labels is None else tuple(int(n) for n in labels),
        total_cycles=None if result.cycles is None else sum(result.cycles),
        macs_per_image=program.macs,
        seconds=result.seconds,
        layers=_layers(program, accounts),
        stalls=_stalls(accounts, program.batch),
        notes=tuple(notes),
        batch=program.batch,
    )


def report_estimate(
    program: Program, estimated: Estimate, network: Network, *, timing: MemoryTiming, clock: float, seconds: float
) -> EstimateReport:
    """Account for the cycles that the model gives ``program``, compiled from ``network``; ``clock`` in MHz."""
    bounds = roofline.layer_bounds(network, program, timing)
    accounts = [(estimated.cycles, estimated.retired, estimated.spent)]
    return EstimateReport(
        network=program.network,
        config=program.config,
        backend="cycle model",
        backend_reason="it computes no outputs",
        timing=timing,
        source="none",
        images=program.batch,
        mismatches=0,
        first_mismatch=None,
        predictions=None,
        labels=None,
        total_cycles=estimated.cycles,
        macs_per_image=program.macs,
        seconds=seconds,
        layers=_layers(program, accounts),
        stalls=_stalls(accounts, program.batch),
        notes=network.notes,
        batch=program.batch,
        rooflines=tuple(float(bound / program.batch) for bound in bounds),
        roofline_cycles=_mean(roofline.total_cycles(bounds), program.batch),
        clock=clock,
    )


def _layers(program: Program, accounts: Sequence[_Account] | None) -> tuple[LayerReport, ...]:
    """Return the layers, with their cycles in one image and what the units waited for when that is known."""
    spans: Sequence[float | None] = [None] * len(program.layers)
    stalls: Sequence[Stalls] = [{}] * len(program.layers)
    if accounts is not None:
        each = [program.layer_cycles(retired, cycles) for cycles, retired, _ in accounts]
        spans = [_mean(sum(column), len(accounts) * program.batch) for column in zip(*each, strict=True)]
        stalls = _layer_stalls(program, accounts)
    return tuple(
        LayerReport(
            name=layer.name,
            op=layer.op,
            cycles=cycles,
            macs=layer.macs,
            utilisation=_utilisation(program.config, layer.macs, cycles),
            bytes=_mean(layer.bytes_read + layer.bytes_written, program.batch),
            stalls=waits,
        )
        for layer, cycles, waits in zip(program.layers, spans, stalls, strict=True)
    )


def _stalls(accounts: Sequence[_Account] | None, batch: int) -> Stalls:
    """Return what kept each unit waiting, in cycles an image, longest first; idle and busy cycles are no stalls."""
    if accounts is None:
        return {}
    return _waits(np.sum([spent[-1] for _, _, spent in accounts], axis=0), len(accounts) * batch)


def _waits(sums: npt.NDArray[np.int64], images: int) -> Stalls:
    """Return each unit's waiting states that were ever entered, longest first: the mean of ``sums`` (units, states) over the
    images."""
    waits = {}
    for unit, cycles in zip(UNITS, sums, strict=True):
        states = {
            state.name.lower(): _mean(int(cycles[state]), images)
            for state in UnitState
            if state not in (UnitState.IDLE, UnitState.BUSY) and cycles[state]
        }
        waits[unit] = dict(sorted(states.items(), key=lambda item: -item[1]))
    return waits


def _layer_stalls(program: Program, accounts: Sequence[_Account]) -> list[Stalls]:
    """Return what kept each unit waiting in each layer's span of :meth:`~accel.program.Program.layer_cycles`."""
    sums = np.zeros((len(program.layers), len(UNITS), len(UnitState)), np.int64)
    for _, retired, spent in accounts:
        reached = np.zeros_like(sums[0])
        until = -1
        for number, layer in enumerate(program.layers):
            end = layer.first_instruction + int(retired[layer.first_instruction : layer.last_instruction + 1].argmax())
            if number == len(program.layers) - 1:
                end = -1
            if retired[end] > until:
                until = int(retired[end])
                sums[number] += spent[end] - reached
                reached = spent[end]
    return [_waits(each, len(accounts) * program.batch) for each in sums]


def _mean(total: int, count: int) -> float:
    whole, rest = divmod(total, count)
    return total / count if rest else whole


def _utilisation(config: EngineConfig, macs: int, cycles: float | None) -> float | None:
    return None if cycles is None else macs / (config.macs_per_cycle * cycles) if cycles else 0.0
