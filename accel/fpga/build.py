"""One core on one device: what it takes there, how fast it is, and which configuration to take when it does not fit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from accel.config import DESIGNS, PRESETS, EngineConfig
from accel.fpga.devices import KINDS, Device
from accel.fpga.errors import DoesNotFitError, FpgaError
from accel.fpga.flow import Netlist, Resource, Route, area, place_and_route, synthesise, tools_of, with_harness
from accel.fpga.harness import Port

__all__ = ["Build", "Product", "Stage", "area_of_core", "build_core", "candidates", "choose", "excess"]

#: Returns a configuration's core: Verilog, and ports.
Product = Callable[[EngineConfig], tuple[str, Sequence[Port]]]

#: Is told what begins.
Stage = Callable[[str], None]

#: Top module of the core.
_TOP = "systolith"


@dataclass(frozen=True)
class Build:
    """A core on a device.

    ``resources`` are the core's own; ``routes`` are of the core in its harness, which adds ``harness`` to them, and there are none
    on a device whose frequency no tool here tells. ``cycles`` are those of an image of ``network``.
    """

    config: EngineConfig
    device: Device
    resources: Mapping[str, Resource]
    harness: Mapping[str, int]
    routes: tuple[Route, ...]
    tools: tuple[str, ...]
    network: str
    cycles: int

    @property
    def best(self) -> Route | None:
        """The fastest route."""
        return max(self.routes, key=lambda route: route.fmax, default=None)

    @property
    def images_per_second(self) -> float | None:
        """Images of the network in a second at the frequency of the fastest route."""
        return None if self.best is None else self.best.fmax * 1e6 / self.cycles

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values; frequencies in MHz, delays in nanoseconds."""
        best = self.best
        return {
            "device": self.device.part,
            "config": self.config.as_dict(),
            "resources": {kind: {"used": r.used, "available": r.available} for kind, r in self.resources.items()},
            "harness": dict(self.harness),
            "seeds": [{"seed": route.seed, "fmax_mhz": route.fmax} for route in self.routes],
            "fmax_mhz": None if best is None else best.fmax,
            "best_seed": None if best is None else best.seed,
            "critical_path": None
            if best is None
            else {
                "from": best.path.start,
                "to": best.path.end,
                "delay_ns": best.path.delay,
                "logic_ns": best.path.share("clk-to-q", "logic", "setup"),
                "routing_ns": best.path.share("routing"),
                "hops": [{"kind": h.kind, "delay_ns": h.delay, "to": h.to, "cell": h.cell} for h in best.path.hops],
            },
            "network": self.network,
            "cycles": self.cycles,
            "images_per_second": self.images_per_second,
            "notes": list(self.device.notes),
            "tools": list(self.tools),
        }


def area_of_core(config: EngineConfig, device: Device, product: Product, stage: Stage) -> tuple[Netlist, dict[str, Resource]]:
    """Return a configuration's netlist, and what it takes of a device, whether it fits or not."""
    verilog, _ = product(config)
    stage(f"synthesising {config.name} for {device.part} (kept afterwards)")
    core = synthesise(verilog, _TOP, device)
    stage(f"packing {config.name} for {device.part}")
    return core, area(core, device)


def build_core(
    config: EngineConfig, device: Device, *, product: Product, seeds: Iterable[int], network: str, cycles: int, stage: Stage
) -> Build:
    """Synthesise a core, and place and route it from every seed, where the device's frequencies mean something.

    Raises :class:`DoesNotFitError`, which names the largest preset that fits, and :class:`FpgaError` when a tool is missing or a
    route fails.
    """
    core, resources = area_of_core(config, device, product, stage)
    if short := excess(resources):
        raise DoesNotFitError(_too_large(config, device, short, product, stage))
    routes: list[Route] = []
    harness: dict[str, int] = {}
    if device.routable:
        design = with_harness(core, product(config)[1], device)
        for seed in seeds:
            stage(f"placing and routing {config.name} on {device.part} from seed {seed} (kept afterwards)")
            routes.append(place_and_route(design, device, seed=seed))
        harness = {kind: r.used - resources[kind].used for kind, r in routes[0].resources.items()}
    return Build(config, device, resources, harness, tuple(routes), tools_of(device), network, cycles)


def excess(resources: Mapping[str, Resource]) -> list[str]:
    """Return the kinds of which a device has too few, each as a phrase."""
    return [
        f"{found.used:,} {KINDS[kind]} of {found.available:,}"
        for kind, found in resources.items()
        if found.available is not None and found.used > found.available
    ]


def _too_large(config: EngineConfig, device: Device, short: Sequence[str], product: Product, stage: Stage) -> str:
    needs = f"{config.name} does not fit {device.part}: it takes {' and '.join(short)}"
    for smaller in sorted(PRESETS.values(), key=lambda preset: -preset.macs_per_cycle):
        if smaller.macs_per_cycle < config.macs_per_cycle and not excess(area_of_core(smaller, device, product, stage)[1]):
            return f"{needs}; the largest preset that fits is {smaller.name}, and --fit finds what lies between"
    if device.has_spram and not config.micro:
        return f"{needs}; no smaller preset fits it either, but micro is made for it"
    return f"{needs}; no smaller preset fits it either, so take a larger part"


def candidates(device: Device) -> Iterator[EngineConfig]:
    """Yield configurations to choose from: the presets, arrays between them, and each without what not every network needs.

    A device that the micro engine is made for holds no other.
    """
    if device.has_spram:
        yield DESIGNS["micro"]
        return
    base, small = PRESETS["base"], PRESETS["small"]
    shapes = [
        *PRESETS.values(),
        replace(small, name="small-4x8", columns=8),
        replace(small, name="small-8x4", rows=8),
        replace(base, name="base-8x16", columns=16),
        replace(base, name="base-16x8", rows=16),
        replace(base, name="base-12x12", rows=12, columns=12),
    ]
    for shape in shapes:
        yield shape
        yield replace(shape, name=f"{shape.name}-lean", window_pixels=0, elementwise=False)


#: Products that share a multiplier at most: a configuration with more elements than that is not worth a synthesis.
_SHARED = 2


def choose(options: Sequence[tuple[EngineConfig, int]], device: Device, *, product: Product, stage: Stage) -> EngineConfig:
    """Return the fastest configuration that fits; ``options`` are configurations, each with the cycles that it takes.

    Of equally fast ones it is that with the smaller array. Raises :class:`DoesNotFitError` when none fits.
    """
    if not options:
        raise FpgaError(f"no configuration that is tried for {device.part} runs this network; give one with --config")
    smallest = min((config for config, _ in options), key=lambda config: config.macs_per_cycle)
    resources = area_of_core(smallest, device, product, stage)[1]
    if short := excess(resources):
        raise DoesNotFitError(
            f"none of the {len(options)} configurations that run this network fits {device.part}: "
            f"the smallest, {smallest.name}, takes {' and '.join(short)}; take a larger part"
        )
    limit = _SHARED * (resources["dsps"].available or 0)
    for config, _ in sorted(options, key=lambda option: (option[1], option[0].macs_per_cycle)):
        if config.macs_per_cycle <= limit and not excess(area_of_core(config, device, product, stage)[1]):
            return config
    return smallest
