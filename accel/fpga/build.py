"""One core on one device: what it takes there, how fast it is, and which configuration to take when it does not fit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from accel.config import DESIGNS, PRESETS, EngineConfig, Multiply
from accel.fpga.devices import KINDS, Device
from accel.fpga.errors import DoesNotFitError, FpgaError, NoRouteError
from accel.fpga.flow import Netlist, Resource, Route, area, is_crowded, pack, place_and_route, synthesise, tools_of, with_harness
from accel.fpga.harness import Port
from accel.isa import WINDOW_TAPS

__all__ = [
    "Build",
    "Design",
    "DesignBuild",
    "Product",
    "Stage",
    "TooSlowError",
    "area_of_core",
    "build_core",
    "build_design",
    "candidates",
    "choose",
    "excess",
    "suited",
]

#: Returns a configuration's core: Verilog, and ports.
Product = Callable[[EngineConfig], tuple[str, Sequence[Port]]]

#: Is told what begins, or how far that is.
Stage = Callable[[str], None]

#: Configurations with names whose cores may be looked at for any device.
_NAMED = (DESIGNS["large-85f"], *PRESETS.values())

#: Top module of the core.
_TOP = "systolith"


@dataclass(frozen=True, kw_only=True)
class Design:
    """A whole design: Verilog with its top module, constraints of its pins, and what :func:`synthesise` is to be told.

    ``clock`` in MHz is what it runs at.
    """

    verilog: str
    top: str
    constraints: str
    before: tuple[str, ...]
    options: str
    clock: float


@dataclass(frozen=True)
class DesignBuild:
    """A design on a device: what it takes, the ``routes`` that were made of it, the last of which keeps its clock, why there is no
    route from other seeds, and the bitstream of the last one by the suffixes of its files."""

    design: Design
    device: Device
    resources: Mapping[str, Resource]
    routes: tuple[Route, ...]
    stuck: Mapping[int, str]
    bitstream: Mapping[str, bytes]
    tools: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return everything but the bitstream as plain values; frequencies in MHz, delays in nanoseconds."""
        return {
            "device": self.device.part,
            "resources": _resources_as_dict(self.resources),
            "clock_mhz": self.design.clock,
            **_routes_as_dict(self.routes, self.routes[-1], self.stuck),
            "notes": list(self.device.notes),
            "tools": list(self.tools),
        }


@dataclass(frozen=True)
class Build:
    """A core on a device.

    ``resources`` are the core's own; ``routes`` are of the core in its harness, which adds ``harness`` to them, and there are none
    on a device whose frequency no tool here tells. ``stuck`` says why there is none from a seed. ``cycles`` are those of an
    image of ``network``.
    """

    config: EngineConfig
    device: Device
    resources: Mapping[str, Resource]
    harness: Mapping[str, int]
    routes: tuple[Route, ...]
    stuck: Mapping[int, str]
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
        return {
            "device": self.device.part,
            "config": self.config.as_dict(),
            "resources": _resources_as_dict(self.resources),
            "harness": dict(self.harness),
            **_routes_as_dict(self.routes, self.best, self.stuck),
            "network": self.network,
            "cycles": self.cycles,
            "images_per_second": self.images_per_second,
            "notes": list(self.device.notes),
            "tools": list(self.tools),
        }


def _resources_as_dict(resources: Mapping[str, Resource]) -> dict[str, Any]:
    return {kind: {"used": found.used, "available": found.available} for kind, found in resources.items()}


def _routes_as_dict(routes: Sequence[Route], best: Route | None, stuck: Mapping[int, str]) -> dict[str, Any]:
    tried: list[dict[str, Any]] = [{"seed": route.seed, "fmax_mhz": route.fmax} for route in routes]
    tried += [{"seed": seed, "fmax_mhz": None, "reason": reason} for seed, reason in stuck.items()]
    return {
        "seeds": sorted(tried, key=lambda one: int(one["seed"])),
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
    }


class TooSlowError(FpgaError):
    """A design that was routed and does not keep its clock. ``reached`` in MHz is what its fastest route does."""

    def __init__(self, sentence: str, reached: float) -> None:
        super().__init__(sentence)
        self.reached = reached


def build_design(design: Design, device: Device, *, seeds: Iterable[int], stage: Stage, detail: Stage | None = None) -> DesignBuild:
    """Synthesise a design, place and route it from one seed after the other until its clock is kept, and make its bitstream.

    Raises :class:`DoesNotFitError`; :class:`TooSlowError` when no seed leads to the clock, for there is no bitstream of a design
    that does not keep its timing; and :class:`FpgaError` when a tool is missing or fails.
    """
    stage(f"synthesising {design.top} for {device.part} (kept afterwards)")
    netlist = synthesise(design.verilog, design.top, device, pads=True, before=design.before, options=design.options)
    stage(f"packing {design.top} for {device.part}")
    resources = area(netlist, device)
    if short := excess(resources):
        raise DoesNotFitError(f"the design does not fit {device.part}: it takes {' and '.join(short)}; take a larger board")
    crowded = is_crowded(resources)

    def route_from(seed: int) -> Route:
        stage(f"placing and routing {design.top} for {design.clock:g} MHz on {device.part} from seed {seed} (kept afterwards)")
        return place_and_route(netlist, device, seed=seed, crowded=crowded, constraints=design.constraints, detail=detail)

    routes, stuck = _try_seeds(seeds, route_from, enough=design.clock)
    if routes[-1].fmax < design.clock:
        best = max(routes, key=lambda route: route.fmax)
        tried = ", ".join(str(route.seed) for route in routes)
        raise TooSlowError(
            f"no bitstream was made: the design's clock is {design.clock:g} MHz, and what was routed on {device.part} reaches "
            f"{best.fmax:.1f} MHz ({'the best of seeds' if len(routes) > 1 else 'seed'} {tried}), "
            f"limited from {best.path.start} to {best.path.end}",
            best.fmax,
        )
    stage("making the bitstream")
    return DesignBuild(design, device, resources, tuple(routes), stuck, pack(routes[-1], device), tools_of(device))


def _try_seeds(seeds: Iterable[int], route_from: Callable[[int], Route], *, enough: float) -> tuple[list[Route], dict[int, str]]:
    """Return the routes from seeds, up to the first that reaches ``enough`` MHz, and why there is none from the others.

    Raises :class:`NoRouteError` when there is none at all.
    """
    routes: list[Route] = []
    stuck: dict[int, str] = {}
    for seed in seeds:
        try:
            routes.append(route_from(seed))
        except NoRouteError as error:
            stuck[seed] = str(error)
            continue
        if routes[-1].fmax >= enough:
            break
    if not routes:
        raise NoRouteError(stuck[max(stuck)])
    return routes, stuck


#: Multipliers of a device, of 18 by 18 or 25 by 18 bits, that a requantiser's lane takes for its 32 by 31 bits.
_LANE_MULTIPLIERS = 4


def suited(config: EngineConfig, device: Device) -> EngineConfig:
    """Return the configuration with multipliers as the device has them, and those that it has not in logic.

    One that says how its elements multiply is left as it is, and so are all for a device of which nothing is known here.
    """
    if config.multiply != Multiply.PORTABLE or config.logic_elements or device.capacity is None:
        return config
    there = device.capacity["dsps"] - (_LANE_MULTIPLIERS * config.lanes if config.multiplier else 0)
    if device.family == "ecp5":
        return replace(config, multiply=Multiply.ECP5.value, logic_elements=max(0, config.macs_per_cycle - max(0, there)))
    if config.macs_per_cycle <= there:
        return config  # synthesis takes the portable form whole
    pairs = (config.rows - config.window_lines * WINDOW_TAPS) * (config.columns // 2)
    alone = max(0, config.macs_per_cycle - pairs - there)
    return replace(config, multiply=Multiply.PAIRS.value, logic_elements=min(config.macs_per_cycle, alone))


def area_of_core(config: EngineConfig, device: Device, product: Product, stage: Stage) -> tuple[Netlist, dict[str, Resource]]:
    """Return a configuration's netlist, and what it takes of a device, whether it fits or not."""
    verilog, _ = product(config)
    stage(f"synthesising {config.name} for {device.part} (kept afterwards)")
    core = synthesise(verilog, _TOP, device)
    stage(f"packing {config.name} for {device.part}")
    return core, area(core, device)


def build_core(
    config: EngineConfig,
    device: Device,
    *,
    product: Product,
    seeds: Iterable[int],
    network: str,
    cycles: int,
    stage: Stage,
    detail: Stage | None = None,
) -> Build:
    """Synthesise a core, and place and route it from every seed, where the device's frequencies mean something.

    Raises :class:`DoesNotFitError`, which names the largest named configuration that fits, and :class:`FpgaError` when a tool is
    missing or fails, or no seed leads to a route.
    """
    config = suited(config, device)
    core, resources = area_of_core(config, device, product, stage)
    if short := excess(resources):
        raise DoesNotFitError(_too_large(config, device, short, resources["dsps"].available or 0, product, stage))
    routes: list[Route] = []
    stuck: dict[int, str] = {}
    harness: dict[str, int] = {}
    if device.routable:
        design = with_harness(core, product(config)[1], device)

        def route_from(seed: int) -> Route:
            stage(f"placing and routing {config.name} on {device.part} from seed {seed} (kept afterwards)")
            return place_and_route(design, device, seed=seed, crowded=is_crowded(resources), detail=detail)

        routes, stuck = _try_seeds(seeds, route_from, enough=math.inf)
        harness = {kind: r.used - resources[kind].used for kind, r in routes[0].resources.items()}
    return Build(config, device, resources, harness, tuple(routes), stuck, tools_of(device), network, cycles)


def excess(resources: Mapping[str, Resource]) -> list[str]:
    """Return the kinds of which a device has too few, each as a phrase."""
    return [
        f"{found.used:,} {KINDS[kind]} of {found.available:,}"
        for kind, found in resources.items()
        if found.available is not None and found.used > found.available
    ]


#: Products that share a multiplier at most: a configuration with more elements than that is not worth a synthesis.
_SHARED = 2


def _too_large(config: EngineConfig, device: Device, short: Sequence[str], multipliers: int, product: Product, stage: Stage) -> str:
    needs = f"{config.name} does not fit {device.part}: it takes {' and '.join(short)}"
    for smaller in sorted(_NAMED, key=lambda preset: -preset.macs_per_cycle):
        if smaller.name == config.name or smaller.macs_per_cycle > min(config.macs_per_cycle, _SHARED * multipliers):
            continue
        if not excess(area_of_core(suited(smaller, device), device, product, stage)[1]):
            return f"{needs}; the largest that fits of those with names is {smaller.name}, and --fit finds what lies between"
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
        *_NAMED,
        replace(small, name="small-4x8", columns=8),
        replace(small, name="small-8x4", rows=8),
        replace(base, name="base-8x16", columns=16),
        replace(base, name="base-16x8", rows=16),
        replace(base, name="base-12x12", rows=12, columns=12),
    ]
    for shape in shapes:
        yield shape
        yield replace(shape, name=f"{shape.name}-lean", window_pixels=0, elementwise=False)


def choose(options: Sequence[tuple[EngineConfig, int]], device: Device, *, product: Product, stage: Stage) -> EngineConfig:
    """Return the fastest configuration that fits, suited to the device; ``options`` are configurations with the cycles they take.

    Of equally fast ones it is that with the smaller array. Raises :class:`DoesNotFitError` when none fits.
    """
    if not options:
        raise FpgaError(f"no configuration that is tried for {device.part} runs this network; give one with --config")
    options = [(suited(config, device), cycles) for config, cycles in options]
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
