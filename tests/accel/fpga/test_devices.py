"""Parts by their numbers, boards as amaranth-boards has them."""

import pytest

from accel.fpga import BOARDS, FpgaError, load_board, parse_device


@pytest.mark.parametrize(
    ("part", "family", "options"),
    [
        ("LFE5U-85F-6BG381", "ecp5", "--85k --package CABGA381 --speed 6"),
        ("lfe5u-25f-8mg285c", "ecp5", "--25k --package CSFBGA285 --speed 8"),
        ("LFE5UM5G-45F-8BG554I", "ecp5", "--um5g-45k --package CABGA554 --speed 8"),
        ("iCE40UP5K-SG48", "ice40", "--up5k --package sg48"),
        ("ICE40HX4K-TQ144", "ice40", "--hx8k --package tq144:4k"),
        ("GW2A-LV18PG256C8/I7", "gowin", "--device GW2A-LV18PG256C8/I7 --vopt family=GW2A-18C"),
        ("GW1NR-LV9QN88PC6/I5", "gowin", "--device GW1NR-LV9QN88PC6/I5 --vopt family=GW1N-9C"),
        ("XC7Z020CLG400-1", "xilinx", ""),
    ],
)
def test_a_part_number_says_what_the_tools_want_to_know(part: str, family: str, options: str) -> None:
    device = parse_device(part)
    assert (device.family, " ".join(device.place)) == (family, options)
    assert parse_device(device.part) == device, "the name of a device is a part number itself"


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("z80", "not a part that is known"),
        ("LFE5U-85F", "whole part number"),
        ("LFE5U-85F-6BG999", "no package of ECP5 is called BG999"),
        ("LFE5UM-12F-6BG381", "there is no LFE5UM-12F"),
        ("LFE5UM5G-85F-6BG381", "speed grade 8 only"),
        ("iCE40UP9K-SG48", "no iCE40 is called UP9K"),
        ("GW1N-LV55PG256C8/I7", "no Gowin part of this kind"),
        ("xc7z999clg400-1", "of the 7 series there are"),
    ],
)
def test_an_unknown_part_is_refused(part: str, words: str) -> None:
    with pytest.raises(FpgaError, match=words):
        parse_device(part)


def test_an_unknown_board_lists_the_known() -> None:
    with pytest.raises(FpgaError, match=r"no board is called 'breadboard'.*ulx3s-85f"):
        load_board("breadboard")


#: As the boards' makers have them: part, and clock in MHz.
PUBLISHED = {
    "ulx3s-12f": ("LFE5U-12F-6BG381", 25),
    "ulx3s-25f": ("LFE5U-25F-6BG381", 25),
    "ulx3s-45f": ("LFE5U-45F-6BG381", 25),
    "ulx3s-85f": ("LFE5U-85F-6BG381", 25),
    "orangecrab-25f": ("LFE5U-25F-8MG285", 48),
    "orangecrab-85f": ("LFE5U-85F-8MG285", 48),
    "ecpix5-45f": ("LFE5UM5G-45F-8BG554", 100),
    "ecpix5-85f": ("LFE5UM5G-85F-8BG554", 100),
    "icesugar-pro": ("LFE5U-25F-6BG256", 25),
    "tang-nano-9k": ("GW1NR-LV9QN88PC6/I5", 27),
    "tang-primer-20k": ("GW2A-LV18PG256C8/I7", 27),
    "icebreaker": ("iCE40UP5K-SG48", 12),
}


@pytest.mark.parametrize("name", BOARDS)
def test_a_board_has_its_device_its_clock_and_its_pins(name: str) -> None:
    board = load_board(name)
    assert (board.device.part, board.clock) == PUBLISHED[name]
    assert board.device == parse_device(board.device.part), "--board and --device agree"
    clock = board.pins(board.platform.default_clk)
    assert list(clock) == [board.platform.default_clk]


def test_pins_have_sites_and_attributes() -> None:
    board = load_board("ulx3s-85f")
    uart = board.pins("uart")
    assert (uart["rx"].site, uart["tx"].site) == ("M1", "L4")
    assert uart["rx"].attributes == {"IO_TYPE": "LVCMOS33"}
    with pytest.raises(FpgaError, match="ulx3s-85f has no piano 0"):
        board.pins("piano")
