"""From a core's Verilog to area, frequency and bitstream, with tools that are all on PyPI."""

from accel.fpga.build import (
    Build,
    Design,
    DesignBuild,
    TooSlowError,
    area_of_core,
    build_core,
    build_design,
    candidates,
    choose,
    suited,
)
from accel.fpga.devices import BOARDS, KINDS, Board, Device, Pin, load_board, parse_device
from accel.fpga.errors import DoesNotFitError, FpgaError, NoRouteError
from accel.fpga.flow import (
    Netlist,
    Resource,
    Route,
    Timing,
    area,
    mending,
    pack,
    place_and_route,
    planning,
    synthesise,
    tools_of,
    with_harness,
)
from accel.fpga.harness import harness_verilog
from accel.fpga.vivado import vivado_script

__all__ = [
    "BOARDS",
    "KINDS",
    "Board",
    "Build",
    "Design",
    "DesignBuild",
    "Device",
    "DoesNotFitError",
    "FpgaError",
    "Netlist",
    "NoRouteError",
    "Pin",
    "Resource",
    "Route",
    "Timing",
    "TooSlowError",
    "area",
    "area_of_core",
    "build_core",
    "build_design",
    "candidates",
    "choose",
    "harness_verilog",
    "load_board",
    "mending",
    "pack",
    "parse_device",
    "place_and_route",
    "planning",
    "suited",
    "synthesise",
    "tools_of",
    "vivado_script",
    "with_harness",
]
