"""Networks and configurations side by side, and beside what peers take for the same work."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from accel import roofline
from accel.config import EngineConfig
from accel.frontends import NETWORKS
from accel.graph import Conv2D, Network
from accel.peers import published, scalesim
from accel.peers.published import Figure
from accel.program import MemoryTiming, Program
from accel.report import EstimateReport

__all__ = ["CONVOLUTION", "FULLY_CONNECTED", "Comparison", "Entry", "OurShare", "Refusal", "ScaleSimRun", "make_entry"]

#: What a layer begins with, if it multiplies. A fully connected layer is a convolution whose output is one pixel.
CONVOLUTION = "convolution"
FULLY_CONNECTED = "fully connected"


@dataclass(frozen=True, kw_only=True)
class OurShare:
    """Cycles and multiply-accumulates of those of our layers that a peer's figure counts, on ``macs`` multipliers."""

    cycles: float
    macs_per_image: int
    macs: int

    @property
    def mac_cycles(self) -> float:
        """Cycles times multipliers spent on one image: what an engine of any size can be compared by."""
        return self.cycles * self.macs

    @property
    def utilisation(self) -> float:
        """Share of the multipliers' cycles that were put to use, from 0 to 1."""
        return self.macs_per_image / self.mac_cycles if self.cycles else 0.0


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One network on one configuration.

    ``kinds`` and ``convolutions`` tell for each layer of the report the kind and the name of the convolution it begins with; None
    for layers that multiply nothing. ``scalesim`` has every layer in every dataflow, and is empty unless asked for.
    """

    report: EstimateReport
    kinds: tuple[str | None, ...]
    convolutions: tuple[str | None, ...]
    scalesim: tuple[scalesim.LayerCycles, ...] = ()

    @property
    def bytes_per_image(self) -> float:
        """Bytes read and written in memory for one image, instructions left out."""
        return sum(layer.bytes for layer in self.report.layers)

    @property
    def main_stalls(self) -> dict[str, tuple[str, float]]:
        """What each unit waited for longest, and for how many cycles an image; empty when the estimate does not tell."""
        return {unit: max(states.items(), key=lambda item: item[1]) for unit, states in self.report.stalls.items() if states}

    def share(self, *kinds: str) -> OurShare:
        """Return what the layers of some kinds take; what is fused with a layer, such as pooling, is its own."""
        chosen = [layer for layer, kind in zip(self.report.layers, self.kinds, strict=True) if kind in kinds]
        return OurShare(
            cycles=sum(layer.cycles or 0 for layer in chosen),
            macs_per_image=sum(layer.macs for layer in chosen),
            macs=self.report.config.macs_per_cycle,
        )

    def share_like(self, figure: Figure) -> OurShare:
        """Return what the layers that a published figure counts take: all of them, or the convolutions."""
        if figure.layers == "convolutions":
            return self.share(CONVOLUTION)
        report = self.report
        return OurShare(
            cycles=report.cycles_per_image or 0, macs_per_image=report.macs_per_image, macs=report.config.macs_per_cycle
        )

    def published(self) -> tuple[Figure, ...]:
        """Return the published figures for this network."""
        return tuple(figure for figure in published.figures() if figure.network == self.report.network)

    def scalesim_cycles(self, dataflow: str) -> int:
        """Return SCALE-Sim's cycles for the network, by the closed form."""
        return sum(layer.closed_form for layer in self.scalesim if layer.dataflow == dataflow)

    def scalesim_run(self, dataflow: str) -> int | None:
        """Return the cycles of SCALE-Sim's own run; None when it was not run."""
        counts = [layer.run for layer in self.scalesim if layer.dataflow == dataflow and layer.run is not None]
        return sum(counts) if counts else None

    def as_dict(self) -> dict[str, Any]:
        """Return the keys of an estimate, and what a comparison adds."""
        values = {
            **self.report.as_dict(),
            "bytes_per_image": self.bytes_per_image,
            "main_stalls": {unit: {"state": state, "cycles": cycles} for unit, (state, cycles) in self.main_stalls.items()},
        }
        if self.scalesim:
            values["scalesim"] = self._scalesim_dict()
        return values

    def _scalesim_dict(self) -> dict[str, Any]:
        ours = {name: layer for name, layer in zip(self.convolutions, self.report.layers, strict=True) if name is not None}
        totals = {}
        for dataflow in scalesim.DATAFLOWS:
            closed, ran = self.scalesim_cycles(dataflow), self.scalesim_run(dataflow)
            totals[dataflow] = {"closed_form": closed, "run": ran, "equal": None if ran is None else ran == closed}
        return {
            "our_cycles_for_the_same_layers": self.share(CONVOLUTION, FULLY_CONNECTED).cycles,
            "totals": totals,
            "layers": [
                {**layer.as_dict(), "our_cycles": ours[layer.layer].cycles if layer.layer in ours else None}
                for layer in self.scalesim
            ],
        }

    def published_dict(self) -> list[dict[str, Any]]:
        """Return the published figures for this network beside ours, as plain values."""
        found = []
        for figure in self.published():
            ours = self.share_like(figure)
            theirs = _figure_dict(figure, ours.macs_per_image)
            found.append(
                {
                    **theirs,
                    "our_cycles": ours.cycles,
                    "our_macs": ours.macs,
                    "our_mac_cycles": ours.mac_cycles,
                    "our_utilisation": ours.utilisation,
                    "mac_cycles_ratio": theirs["mac_cycles"] / ours.mac_cycles,
                }
            )
        return found


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A network that a configuration cannot run, and why: one sentence."""

    network: str
    config: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Every network on every configuration. ``peers`` are those asked for: "scalesim", "published"; ``clock`` is in MHz."""

    entries: tuple[Entry, ...]
    refusals: tuple[Refusal, ...]
    timing: MemoryTiming
    clock: float
    peers: tuple[str, ...] = ()

    @property
    def other_figures(self) -> tuple[Figure, ...]:
        """Published figures for networks that nobody outside has: only the utilisation can be compared."""
        return tuple(figure for figure in published.figures() if figure.network not in NETWORKS)

    def as_dict(self) -> dict[str, Any]:
        """Return the comparison as plain values, fit for JSON."""
        estimates = []
        for entry in self.entries:
            values = entry.as_dict()
            if "published" in self.peers:
                values["published"] = entry.published_dict()
            estimates.append(values)
        result: dict[str, Any] = {
            "clock_mhz": self.clock,
            "memory": {"latency": self.timing.latency, "interval": self.timing.interval},
            "estimates": estimates,
            "refusals": [vars(refusal) for refusal in self.refusals],
        }
        if "scalesim" in self.peers:
            result["scalesim"] = {
                "version": scalesim.VERSION,
                "dataflows": dict(scalesim.DATAFLOWS),
                "leaves_out": scalesim.LEAVES_OUT,
                "mapping": scalesim.MAPPING,
            }
        if "published" in self.peers:
            result["published_for_other_networks"] = [_figure_dict(figure, None) for figure in self.other_figures]
        return result


#: Runs SCALE-Sim on layers in a dataflow; returns each one's cycles by name.
ScaleSimRun = Callable[[Sequence[scalesim.Layer], str], Mapping[str, int]]


def make_entry(
    network: Network,
    program: Program,
    report: EstimateReport,
    *,
    with_scalesim: bool = False,
    run_scalesim: ScaleSimRun | None = None,
) -> Entry:
    """Return the entry of ``program``, compiled from ``network``; with SCALE-Sim's cycles, if wanted, and those of a run."""
    convs = roofline.layer_convs(network, program)
    return Entry(
        report=report,
        kinds=tuple(None if conv is None else _kind(network, conv) for conv in convs),
        convolutions=tuple(None if conv is None else conv.name for conv in convs),
        scalesim=_scalesim(network, program.config, run_scalesim) if with_scalesim else (),
    )


def _kind(network: Network, conv: Conv2D) -> str:
    return FULLY_CONNECTED if network.tensor(conv.output).shape[:2] == (1, 1) else CONVOLUTION


def _scalesim(network: Network, config: EngineConfig, run: ScaleSimRun | None) -> tuple[scalesim.LayerCycles, ...]:
    layers = scalesim.layers_of(network)
    found = []
    for dataflow in scalesim.DATAFLOWS:
        ran = run(layers, dataflow) if run is not None else {}
        for layer in layers:
            closed = scalesim.cycles(config, layer, dataflow)
            found.append(scalesim.LayerCycles(layer=layer.name, dataflow=dataflow, closed_form=closed, run=ran.get(layer.name)))
    return tuple(found)


def _figure_dict(figure: Figure, macs_per_image: int | None) -> dict[str, Any]:
    """Return a figure as plain values; what follows from ``macs_per_image`` is None when that is not known."""
    given = {key: value for key, value in vars(figure).items() if value is not None}
    return {
        **given,
        "cycles_per_image": figure.cycles_per_image,
        "mac_cycles": None if macs_per_image is None else figure.mac_cycles(macs_per_image),
        "utilisation": figure.utilisation if macs_per_image is None else figure.share(macs_per_image),
    }
