"""Devices by their part numbers, and the boards they sit on."""

from __future__ import annotations

import importlib
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from accel.fpga.errors import FpgaError
from accel.fpga.tools import ALL_TOOLS

__all__ = ["BOARDS", "KINDS", "Board", "Device", "Pin", "load_board", "parse_device"]

#: What devices are made of, in the order in which it is reported.
KINDS: Mapping[str, str] = {
    "luts": "LUTs",
    "ffs": "flip-flops",
    "dsps": "multipliers",
    "brams": "block RAMs",
    "sprams": "large RAMs",
}


@dataclass(frozen=True)
class Device:
    """A part, and how the tools are to be told of it.

    Parameters
    ----------
    part
        Its whole name, as ``LFE5U-85F-6BG381``.
    family
        ``ecp5``, ``ice40``, ``gowin`` or ``xilinx``.
    synthesis
        Yosys's command, with options.
    place
        Options of nextpnr; none for ``xilinx``.
    notes
        What a reader of results has to know, in sentences.
    capacity
        What it holds, by :data:`KINDS`, where it is asked for before a tool tells, or none does.
    """

    part: str
    family: str
    synthesis: str
    place: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    capacity: Mapping[str, int] | None = None

    @property
    def has_spram(self) -> bool:
        """Whether it has the large memories of iCE40 UltraPlus, of which the micro engine is made."""
        return self.part.startswith("iCE40UP")

    @property
    def routable(self) -> bool:
        """Whether designs are placed and routed here, with a frequency to be trusted."""
        return self.family in ("ecp5", "ice40")


@dataclass(frozen=True)
class Pin:
    """A pin of a package, with attributes as the constraint files of its family have them."""

    site: str
    attributes: Mapping[str, str]


@dataclass(frozen=True)
class Board:
    """A board of amaranth-boards: its name here, its platform object, its device, and the clock on it in MHz."""

    name: str
    platform: Any
    device: Device
    clock: float

    def pins(self, resource: str, number: int = 0) -> dict[str, Pin]:
        """Return the pins of a resource: of its subsignals by their names, of one without them by its own.

        Raises :class:`FpgaError` when the board does not have it.
        """
        if (resource, number) not in self.platform.resources:
            raise FpgaError(f"{self.name} has no {resource} {number}")
        pins: dict[str, Pin] = {}
        _collect(pins, self.platform, self.platform.lookup(resource, number), resource, {})
        return pins


def _collect(pins: dict[str, Pin], platform: Any, found: Any, name: str, inherited: Mapping[str, object]) -> None:
    attributes = {**inherited, **found.attrs}
    for member in found.ios:
        if hasattr(member, "ios"):
            _collect(pins, platform, member, member.name, attributes)
            continue
        single = getattr(member, "p", member)  # the second pin of a pair follows from the first
        names = single.map_names(platform._conn_pins, found)
        plain = {key: str(value) for key, value in attributes.items()}
        for index, site in enumerate(names):
            pins[name if len(names) == 1 else f"{name}[{index}]"] = Pin(site, plain)


#: Boards by the names they have here: module of amaranth-boards, and class of the platform.
BOARDS: Mapping[str, tuple[str, str]] = {
    "ulx3s-12f": ("ulx3s", "ULX3S_12F_Platform"),
    "ulx3s-25f": ("ulx3s", "ULX3S_25F_Platform"),
    "ulx3s-45f": ("ulx3s", "ULX3S_45F_Platform"),
    "ulx3s-85f": ("ulx3s", "ULX3S_85F_Platform"),
    "orangecrab-25f": ("orangecrab_r0_2", "OrangeCrabR0_2_25FPlatform"),
    "orangecrab-85f": ("orangecrab_r0_2", "OrangeCrabR0_2_85FPlatform"),
    "ecpix5-45f": ("ecpix5", "ECPIX545Platform"),
    "ecpix5-85f": ("ecpix5", "ECPIX585Platform"),
    "icesugar-pro": ("icesugar_pro", "ICESugarProPlatform"),
    "tang-nano-9k": ("tang_nano_9k", "TangNano9kPlatform"),
    "tang-primer-20k": ("tang_primer_20k", "TangPrimer20kPlatform"),
    "icebreaker": ("icebreaker", "ICEBreakerPlatform"),
}


def load_board(name: str) -> Board:
    """Return the board called ``name``, as amaranth-boards defines it.

    Raises :class:`FpgaError` when there is none, or amaranth-boards is not installed.
    """
    if name not in BOARDS:
        raise FpgaError(f"no board is called {name!r}; use one of {', '.join(BOARDS)}, or give a part with --device")
    module, attribute = BOARDS[name]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of definitions older than the Amaranth that reads them
            platform = getattr(importlib.import_module(f"amaranth_boards.{module}"), attribute)()
    except ModuleNotFoundError:
        raise FpgaError(f"amaranth-boards is not installed; `pip install amaranth-boards` brings it, and {ALL_TOOLS}") from None
    if hasattr(platform, "part"):  # Gowin: `family` names the die, which the part's number does not
        device = _gowin_die(platform.part, platform._chipdb_device)
    elif platform.device.startswith("LFE5"):
        device = parse_device(f"{platform.device}-{platform.speed}{platform.package}")
    else:
        device = parse_device(f"{platform.device}-{platform.package}")
    return Board(name, platform, device, platform.default_clk_frequency / 1e6)


#: Names of nextpnr for the packages of ECP5, by those in part numbers.
_ECP5_PACKAGES = {"BG256": "CABGA256", "MG285": "CSFBGA285", "BG381": "CABGA381", "BG554": "CABGA554", "BG756": "CABGA756"}
#: LUTs (which are as many as flip-flops), multipliers of 18 by 18 bits and block RAMs of 18 Kb: ECP5 Family Data Sheet
#: FPGA-DS-02012, table 1.1, whose thousands of LUTs are exact here. Of the 12F it is the 25F's, as the tools have it.
_ECP5 = {"12": (24288, 28, 56), "25": (24288, 28, 56), "45": (43848, 72, 108), "85": (83640, 156, 208)}
_ECP5_SERIES = {"U": "", "UM": "um-", "UM5G": "um5g-"}

#: nextpnr's options and Yosys's device for the parts of iCE40, and what nextpnr appends to the package.
_ICE40 = {
    "LP384": ("lp384", "lp", ""),
    "LP1K": ("lp1k", "lp", ""),
    "LP4K": ("lp8k", "lp", ":4k"),
    "LP8K": ("lp8k", "lp", ""),
    "HX1K": ("hx1k", "hx", ""),
    "HX4K": ("hx8k", "hx", ":4k"),
    "HX8K": ("hx8k", "hx", ""),
    "UP3K": ("up3k", "u", ""),
    "UP5K": ("up5k", "u", ""),
}

#: LUTs, flip-flops, DSP48E1 and block RAMs of 36 Kb: 7 Series FPGAs Data Sheet DS180 and Zynq-7000 SoC Data Sheet DS190.
_XILINX = {
    "xc7s25": (14600, 29200, 80, 45),
    "xc7s50": (32600, 65200, 120, 75),
    "xc7a35t": (20800, 41600, 90, 50),
    "xc7a50t": (32600, 65200, 120, 75),
    "xc7a100t": (63400, 126800, 240, 135),
    "xc7a200t": (134600, 269200, 740, 365),
    "xc7k325t": (203800, 407600, 840, 445),
    "xc7z010": (17600, 35200, 80, 60),
    "xc7z020": (53200, 106400, 220, 140),
}

_FORMS = "LFE5U-85F-6BG381 (ECP5), iCE40UP5K-SG48 (iCE40), GW2A-LV18PG256C8/I7 (Gowin) or xc7z020clg400-1 (Xilinx 7 series)"


def parse_device(part: str) -> Device:
    """Return the device with a part number, its case aside.

    Raises :class:`FpgaError` for a part that no tool here knows.
    """
    for parse in (_ecp5, _ice40, _gowin, _xilinx):
        device = parse(part)
        if device is not None:
            return device
    raise FpgaError(f"{part}: is not a part that is known here; give a whole part number, as {_FORMS}")


def _ecp5(part: str) -> Device | None:
    match = re.fullmatch(r"LFE5(U|UM|UM5G)-(12|25|45|85)F-([678])([BM]G\d{3})[CI]?", part.upper())
    if not match:
        return None
    series, size, speed, package = match.groups()
    if package not in _ECP5_PACKAGES:
        raise FpgaError(f"{part}: no package of ECP5 is called {package}; there are {', '.join(_ECP5_PACKAGES)}")
    if size == "12" and series != "U":
        raise FpgaError(f"{part}: there is no LFE5{series}-12F; the smallest is LFE5{series}-25F")
    if series == "UM5G" and speed != "8":
        raise FpgaError(f"{part}: LFE5UM5G parts are of speed grade 8 only")
    luts, multipliers, memories = _ECP5[size]
    notes: tuple[str, ...] = ()
    if size == "12":
        notes = ("LFE5U-12F is the die of the 25F with half of it sold; nextpnr uses, and reports, the whole.",)
    return Device(
        part=part.upper(),
        family="ecp5",
        synthesis="synth_ecp5",
        place=(f"--{_ECP5_SERIES[series]}{size}k", "--package", _ECP5_PACKAGES[package], "--speed", speed),
        notes=notes,
        capacity={"luts": luts, "ffs": luts, "dsps": multipliers, "brams": memories},
    )


def _ice40(part: str) -> Device | None:
    match = re.fullmatch(r"ICE40-?(LP|HX|UP)(\d+K?)-([A-Z0-9]+)", part.upper())
    if not match:
        return None
    series, size, package = match.groups()
    if series + size not in _ICE40:
        raise FpgaError(f"{part}: no iCE40 is called {series}{size}; there are {', '.join(_ICE40)}")
    option, kind, suffix = _ICE40[series + size]
    own = " -dsp -spram" if kind == "u" else ""
    return Device(
        part=f"iCE40{series}{size}-{package}",
        family="ice40",
        synthesis=f"synth_ice40 -device {kind}{own}",
        place=(f"--{option}", "--package", package.lower() + suffix),
        notes=("LUTs of iCE40 are logic cells, which hold a table, a flip-flop or both.",),
    )


#: Dies that nextpnr knows, by the series and size in part numbers.
_GOWIN = {
    ("GW1N", "1"): "GW1N-1",
    ("GW1NZ", "1"): "GW1NZ-1",
    ("GW1N", "4"): "GW1N-4",
    ("GW1NR", "4"): "GW1N-4",
    ("GW1NS", "4"): "GW1NS-4",
    ("GW1NSR", "4"): "GW1NS-4",
    ("GW1N", "9"): "GW1N-9C",
    ("GW1NR", "9"): "GW1N-9C",
    ("GW2A", "18"): "GW2A-18C",
    ("GW2AR", "18"): "GW2A-18C",
}


def _gowin(part: str) -> Device | None:
    match = re.fullmatch(r"(GW[12]A?N?[A-Z]{0,2})-[A-Z]V(\d+)[A-Z].*", part.upper())
    if not match:
        return None
    if (match[1], match[2]) not in _GOWIN:
        names = ", ".join(f"{series}-{size}" for series, size in _GOWIN)
        raise FpgaError(f"{part}: no Gowin part of this kind is known here; there are {names}")
    return _gowin_die(part.upper(), _GOWIN[match[1], match[2]])


def _gowin_die(part: str, die: str) -> Device:
    return Device(
        part=part,
        family="gowin",
        synthesis=f"synth_gowin -family {die[:4].lower()}",
        place=("--device", part, "--vopt", f"family={die}"),
        notes=(
            "Area only: nextpnr has no delays for the multipliers of Gowin, so it would report frequencies at which nothing runs.",
        ),
    )


def _xilinx(part: str) -> Device | None:
    match = re.fullmatch(r"(xc7[askz]\d+t?)([a-z]{3,4}\d+)(-\w+)?", part.lower())
    if not match:
        return None
    if match[1] not in _XILINX:
        raise FpgaError(f"{part}: is not a part that is known here; of the 7 series there are {', '.join(_XILINX)}")
    return Device(
        part=part.lower(),
        family="xilinx",
        synthesis="synth_xilinx -family xc7 -flatten",
        notes=("Area by Yosys alone: no tool from PyPI routes this part; vivado.tcl does, where Vivado is.",),
        capacity=dict(zip(("luts", "ffs", "dsps", "brams"), _XILINX[match[1]], strict=True)),
    )
