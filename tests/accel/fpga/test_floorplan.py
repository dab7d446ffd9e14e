"""Places of multipliers and block RAMs: springs between them by hand, the best by trying all, and that nextpnr obeys."""

import itertools
import json
import random
import re
from collections import Counter
from typing import Any

import numpy as np
import pytest

from accel.config import PRESETS
from accel.fpga import floorplan, flow, parse_device, place_and_route, synthesise, with_harness
from accel.fpga.floorplan import BLOCKS, Site

DEVICE = parse_device("LFE5U-25F-6BG381")
MULTIPLIER, MEMORY = BLOCKS


class Netlist:
    """A module of cells with inputs and one output each; nets are named after what drives them."""

    def __init__(self) -> None:
        self.module: dict[str, Any] = {"cells": {}}
        self._bits: dict[str, int] = {}

    def add(self, name: str, kind: str, *drivers: str, output: str = "Z") -> str:
        inputs = {f"I{n}": [self._bit(driver)] for n, driver in enumerate(drivers)}
        directions = {port: "input" for port in inputs} | {output: "output", "K": "input"}
        connections = {**inputs, output: [self._bit(name)], "K": ["0"]}
        self.module["cells"][name] = {"type": kind, "port_directions": directions, "connections": connections, "attributes": {}}
        return name

    def _bit(self, name: str) -> int:
        return self._bits.setdefault(name, len(self._bits) + 2)

    def stiffness(self) -> np.ndarray:
        cells = self.module["cells"]
        return floorplan._stiffness(cells, [name for name, cell in cells.items() if cell["type"] in BLOCKS])


def spring(strength: float) -> list[list[float]]:
    return [[strength, -strength], [-strength, strength]]


@pytest.mark.parametrize("between", [0, 1, 2, 5])
def test_logic_between_two_blocks_makes_a_softer_spring(between: int) -> None:
    """As springs in a row: n of them, each 1 strong, are 1/n strong."""
    net = Netlist()
    last = net.add("a", MULTIPLIER)
    for n in range(between):
        last = net.add(f"l{n}", "LUT4", last)
    net.add("b", MEMORY, last)
    assert net.stiffness() == pytest.approx(np.array(spring(1 / (between + 1))), abs=1e-6)


def test_two_ways_between_blocks_add_up() -> None:
    net = Netlist()
    net.add("a", MULTIPLIER)
    net.add("b", MEMORY, net.add("l", "LUT4", "a"), net.add("m", "TRELLIS_FF", net.add("n", "LUT4", "a")))
    # the net of a has three pins, which pull half as strongly: a-l, a-n, l-n 1/2; l-b, n-m, m-b 1. Solved by hand for b held at 0
    # and a at 1: n to b by way of m is 1/2, so l: 2 l = 1/2 + n/2 and n: 3/2 n = 1/2 + l/2; l = 4/11, n = 5/11; force 4/11 + 5/22.
    assert net.stiffness() == pytest.approx(np.array(spring(4 / 11 + 5 / 22)), abs=1e-6)


def test_a_chain_of_carries_holds_together() -> None:
    net = Netlist()
    net.add("a", MULTIPLIER)
    net.add("c", "CCU2C", "a", output="COUT")
    net.add("b", MEMORY, "c")
    assert net.stiffness() == pytest.approx(np.array(spring(1 / (1 + 1 / floorplan._CHAIN))), abs=1e-6)


@pytest.mark.parametrize(
    ("loads", "strength"), [(floorplan._WIDE, floorplan._STAR / floorplan._WIDE / 2), (floorplan._WIDE + 1, 0)]
)
def test_wide_nets_hold_nothing(loads: int, strength: float) -> None:
    net = Netlist()
    net.add("wide", "TRELLIS_FF")
    for n in range(loads - 2):
        net.add(f"l{n}", "LUT4", "wide")
    net.add("a", MULTIPLIER, "wide")
    net.add("b", MEMORY, "wide")
    # one spring from the driver to each block: two in a row
    assert net.stiffness() == pytest.approx(np.array(spring(strength)), abs=1e-6)


def test_logic_that_no_block_holds_does_not_matter() -> None:
    net = Netlist()
    net.add("a", MULTIPLIER)
    net.add("b", MEMORY, "a")
    net.add("l", "LUT4", net.add("m", "LUT4", net.add("n", "TRELLIS_FF")))
    net.add("lonely", "LUT4")
    assert net.stiffness() == pytest.approx(np.array(spring(1)), abs=1e-6)


def test_a_driver_of_many_pulls_at_each_alone() -> None:
    net = Netlist()
    net.add("a", MULTIPLIER)
    loads = 8
    for n in range(loads):
        net.add(f"b{n}", MEMORY, "a")
    found = net.stiffness()
    assert found[0, 1:] == pytest.approx([-floorplan._STAR / loads] * loads)
    assert found[1:, 1:] == pytest.approx(np.eye(loads) * floorplan._STAR / loads)


def energy(stiffness: np.ndarray, places: list[Site]) -> float:
    at = np.array([[site.x, site.y] for site in places], float)
    return float((at * (stiffness @ at)).sum())


@pytest.mark.parametrize("seed", range(4))
def test_few_blocks_get_the_best_of_all_places(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floorplan, "_MOVES", 20_000)
    monkeypatch.setattr(floorplan, "_RUNS", 10)
    rng = random.Random(seed)
    net = Netlist()
    names = [net.add(f"m{n}", MULTIPLIER, f"r{n - 1}") for n in range(4)] + [net.add(f"r{n}", MEMORY, f"m{n}") for n in range(3)]
    net.add("m4", MULTIPLIER, "r1", net.add("l", "LUT4", "m0"), "r2")
    names.append("m4")
    sites = {kind: [Site(rng.randrange(50), rng.randrange(50), f"{kind}{n}") for n in range(6)] for kind in BLOCKS}
    found = floorplan.floorplan(net.module, sites, seed=seed)
    assert found == floorplan.floorplan(net.module, sites, seed=seed), "always the same from one seed"
    assert len(set(found.values())) == len(found), "one a site"
    cells = net.module["cells"]
    order = [name for name, cell in cells.items() if cell["type"] in BLOCKS]
    assert sorted(order) == sorted(names) == sorted(found)
    by_bel = {site.bel: site for places in sites.values() for site in places}
    assert all(by_bel[bel] in sites[cells[name]["type"]] for name, bel in found.items()), "of its kind"

    stiffness = net.stiffness()
    mine = {kind: [n for n, name in enumerate(order) if cells[name]["type"] == kind] for kind in BLOCKS}
    best = min(
        energy(
            stiffness, [site for _, site in sorted([*zip(mine[MULTIPLIER], a, strict=True), *zip(mine[MEMORY], b, strict=True)])]
        )
        for a in itertools.permutations(sites[MULTIPLIER], len(mine[MULTIPLIER]))
        for b in itertools.permutations(sites[MEMORY], len(mine[MEMORY]))
    )
    assert energy(stiffness, [by_bel[found[name]] for name in order]) == pytest.approx(best), seed


def test_a_design_without_blocks_has_no_floorplan() -> None:
    net = Netlist()
    net.add("l", "LUT4", net.add("m", "LUT4"))
    assert floorplan.floorplan(net.module, {kind: [] for kind in BLOCKS}, seed=1) == {}


def test_blocks_that_nothing_connects_get_any_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floorplan, "_MOVES", 1_000)
    net = Netlist()
    for n in range(3):
        net.add(f"m{n}", MULTIPLIER)
    sites = {MULTIPLIER: [Site(3 * n, 7, f"site{n}") for n in range(3)], MEMORY: []}
    assert sorted(floorplan.floorplan(net.module, sites, seed=1).values()) == ["site0", "site1", "site2"]
    assert floorplan.floorplan(net.module, {**sites, MULTIPLIER: sites[MULTIPLIER][:2]}, seed=1) == {}, "one too many"


@pytest.mark.slow
@pytest.mark.parametrize("part", ["LFE5U-12F-6BG381", "LFE5U-25F-6BG381", "LFE5U-45F-6BG381", "LFE5UM5G-85F-8BG554"])
def test_nextpnr_knows_a_site_for_each_block_of_a_device(part: str) -> None:
    device = parse_device(part)
    sites = flow.block_sites(device)
    assert device.capacity is not None
    assert {kind: len(set(found)) for kind, found in sites.items()} == {
        MULTIPLIER: device.capacity["dsps"],
        MEMORY: device.capacity["brams"],
    }
    rows = Counter(site.y for site in sites[MEMORY])
    assert len(rows) < 5, "block RAMs lie in few rows"


@pytest.mark.slow
def test_nextpnr_leaves_blocks_where_they_were_put(toy: Any) -> None:
    verilog, ports = toy(PRESETS["tiny"])
    design = with_harness(synthesise(verilog, "systolith", DEVICE), ports, DEVICE)
    module = json.loads(design.file.read_text(encoding="utf-8"))["modules"][design.top]
    wanted = floorplan.floorplan(module, flow.block_sites(DEVICE), seed=3)
    assert len(wanted) == PRESETS["tiny"].macs_per_cycle
    route = place_and_route(design, DEVICE, seed=3)
    # its result has the settings of two neighbours in the tile of the first, by row and column: .tile_group MIB_R10C13:MIB_DSP0 ...
    used = set()
    for tile in route.layout.read_text(encoding="utf-8").split(".tile_group ")[1:]:
        if place := re.match(r"MIB_R(\d+)C(\d+):MIB_DSP", tile):
            row, column = map(int, place.groups())
            used |= {(row, column + int(n) % 2, n) for n in re.findall(r"MULT18_(\d)\.MODE MULT18X18D", tile)}
    places = (re.fullmatch(r"X(\d+)/Y(\d+)/MULT18_(\d)", bel) for bel in wanted.values())
    assert used == {(int(found[2]), int(found[1]), found[3]) for found in places if found}
