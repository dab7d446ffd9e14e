"""Where multipliers and block RAMs go, decided before nextpnr places the rest of a design.

They are few, and their sites lie in rows with a dozen rows of logic between them; a systolic array hangs on them as a net on its
poles. nextpnr places them along with the logic and settles each on the free site that is next. Here they are placed first, and all
at once:

1. Every net is a spring, as in the quadratic placement of logic (J. M. Kleinhans, G. Sigl, F. M. Johannes, K. J. Antreich,
   "GORDIAN", IEEE Transactions on CAD 10(3), 1991). Where blocks stand still, logic between them comes to rest, so it can be
   eliminated: what is left is the stiffness between the blocks alone, a matrix of their number squared (the Schur complement of
   the others).
2. Simulated annealing (S. Kirkpatrick, C. D. Gelatt, M. P. Vecchi, "Optimization by Simulated Annealing", Science 220, 1983) gives
   each block a site of its kind, so that the springs hold as little energy as possible. With that matrix a move costs a row of it.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["BLOCKS", "Site", "floorplan"]

#: Cells that are placed here.
BLOCKS = ("MULT18X18D", "DP16KD")

#: Pins of a net up to which each pulls at each other one; of larger nets the driver pulls at each load.
_CLIQUE = 6
#: Loads above which a net pulls at nothing: what so many cells wait for tells of none of them where it belongs.
_WIDE = 150
#: How strongly a chain of carries holds together, whose cells must lie side by side. (A net between two cells has a strength of 1.)
_CHAIN = 10.0
#: Strength by which the driver of a larger net pulls, over all its loads.
_STAR = 1.5
#: Holds logic that no block holds, which could be anywhere.
_SLACK = 1e-9

#: Annealing: runs, of which the best counts; moves each; where it starts, as a share of the mean energy of a block; how far it
#: cools; and what counts as warm where no spring holds anything.
_RUNS = 3
_MOVES = 1_000_000
_HOT = 0.5
_COLD = 1e-5
_WARM = 1e-6
#: Moves at the same temperature.
_STEP = 2_000


class Site(NamedTuple):
    """A place for a block: its column and row on the device, and nextpnr's name of it."""

    x: int
    y: int
    bel: str


def floorplan(module: Mapping[str, Any], sites: Mapping[str, Sequence[Site]], *, seed: int) -> dict[str, str]:
    """Return a site's name for each of the :data:`BLOCKS` in a module of ECP5's primitives (as in Yosys's JSON).

    ``sites`` are those of the device, by the type of what goes there; where they are too few, no block gets one. From one seed it
    is the same each time; another machine or SciPy may round otherwise, and come to another one that is as good.
    """
    cells = module["cells"]
    blocks = [name for name, cell in cells.items() if cell["type"] in BLOCKS]
    kinds = [cells[name]["type"] for name in blocks]
    if not blocks or any(kinds.count(kind) > len(sites[kind]) for kind in BLOCKS):
        return {}
    stiffness = _stiffness(cells, blocks)
    rng = random.Random(seed)
    found = min((_anneal(stiffness, kinds, sites, rng) for _ in range(_RUNS)), key=lambda one: one[0])[1]
    return {name: sites[kind][place].bel for name, kind, place in zip(blocks, kinds, found, strict=True)}


def _springs(cells: Mapping[str, Any]) -> tuple[list[int], list[int], list[float]]:
    """Return pairs of cells, by their places in ``cells``, that pull at each other, and how strongly."""
    drivers: dict[int, tuple[int, str]] = {}
    loads: dict[int, list[int]] = defaultdict(list)
    for index, cell in enumerate(cells.values()):
        for port, bits in cell["connections"].items():
            for bit in bits:
                if not isinstance(bit, int):
                    continue  # a constant
                if cell["port_directions"][port] == "output":
                    drivers[bit] = index, port
                else:
                    loads[bit].append(index)
    ends: tuple[list[int], list[int], list[float]] = ([], [], [])

    def pull(one: int, other: int, strength: float) -> None:
        for values, value in zip(ends, (one, other, strength), strict=True):
            values.append(value)  # type: ignore[attr-defined]

    for bit, (driver, port) in drivers.items():
        pins = sorted(set(loads[bit]) - {driver})
        if not pins or len(pins) > _WIDE:
            continue
        if port == "COUT":
            pull(driver, pins[0], _CHAIN)
        elif len(pins) < _CLIQUE:
            pins.append(driver)
            for n, one in enumerate(pins):
                for other in pins[:n]:
                    pull(one, other, 1 / (len(pins) - 1))
        else:
            for load in pins:
                pull(driver, load, _STAR / len(pins))
    return ends


def _stiffness(cells: Mapping[str, Any], blocks: Sequence[str]) -> npt.NDArray[np.float64]:
    """Return how blocks pull at each other when all other cells have come to rest between them."""
    from scipy import sparse
    from scipy.sparse.linalg import splu

    one, other, strength = _springs(cells)
    place = {name: n for n, name in enumerate(cells)}
    pulls = sparse.coo_matrix((strength, (one, other)), shape=(len(cells), len(cells))).tocsr()
    pulls = pulls + pulls.T
    fixed = np.array([place[name] for name in blocks])
    free = np.setdiff1d(np.arange(len(cells)), fixed)
    whole = (sparse.diags(np.asarray(pulls.sum(axis=1)).ravel()) - pulls).tocsc()
    between: npt.NDArray[np.float64] = whole[fixed][:, fixed].toarray()
    if free.size:
        logic = (whole[free][:, free] + _SLACK * sparse.eye(free.size)).tocsc()
        # (of a symmetric matrix, in an order that keeps it sparse; any other takes ten times as long)
        solve = splu(logic, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}).solve
        across = whole[free][:, fixed]
        between = between - across.T @ solve(across.toarray())
    return (between + between.T) / 2


def _anneal(
    stiffness: npt.NDArray[np.float64], kinds: Sequence[str], sites: Mapping[str, Sequence[Site]], rng: random.Random
) -> tuple[float, list[int]]:
    """Return the energy of springs between blocks, and each block's site, by its place among those of its kind."""
    number = len(kinds)
    where = [0] * number
    who: dict[str, list[int | None]] = {kind: [None] * len(places) for kind, places in sites.items()}
    for kind in dict.fromkeys(kinds):
        mine = [n for n, own in enumerate(kinds) if own == kind]
        for n, place in zip(mine, rng.sample(range(len(sites[kind])), len(mine)), strict=True):
            where[n], who[kind][place] = place, n
    xs, ys = (np.array([sites[kind][place][axis] for kind, place in zip(kinds, where, strict=True)], float) for axis in (0, 1))
    # the force on each block is half of what its energy changes by with its place
    force_x, force_y = stiffness @ xs, stiffness @ ys
    energy = float(xs @ force_x + ys @ force_y)
    own = stiffness.diagonal().tolist()
    hot = temperature = max(_HOT * energy / number, _WARM)
    cooling = math.log(_COLD) / _MOVES
    uniform, exp = rng.random, math.exp
    for move in range(_MOVES):
        if move % _STEP == 0:
            temperature = hot * exp(cooling * move)
        one = int(uniform() * number)
        kind = kinds[one]
        places, there = sites[kind], who[kind]
        to, at = int(uniform() * len(places)), where[one]
        if to == at:
            continue
        dx, dy = places[to].x - places[at].x, places[to].y - places[at].y
        other = there[to]
        if other is None:
            change = 2 * (dx * force_x[one] + dy * force_y[one]) + own[one] * (dx * dx + dy * dy)
        else:
            pulled_x, pulled_y = force_x[one] - force_x[other], force_y[one] - force_y[other]
            stiff = own[one] + own[other] - 2 * stiffness[one, other]
            change = 2 * (dx * pulled_x + dy * pulled_y) + stiff * (dx * dx + dy * dy)
        if change > 0 and uniform() >= exp(-change / temperature):
            continue
        energy += change
        where[one], there[to], there[at] = to, one, other
        row = stiffness[one]
        if other is not None:
            where[other] = at
            row = row - stiffness[other]
        force_x += row * dx
        force_y += row * dy
    return float(energy), where
