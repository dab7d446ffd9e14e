"""The board's clock: the PLL's dividers for every whole MHz, and the settings without which it may not lock."""

import re

from accel.board import Settings
from accel.compiler import compile_network
from accel.config import DESIGNS
from accel.fpga import load_board
from accel.frontends import load_network
from rtl.board.ulx3s import OSCILLATOR, pll_dividers
from sim.board import board_design


def test_the_pll_makes_exactly_the_clock_within_its_limits():
    """Lattice FPGA-DS-02012, sysCLOCK PLL Timing: phase detector from 3.125 MHz, oscillator from 400 to 800 MHz."""
    made = {}
    for clock in range(1_000_000, 401_000_000, 1_000_000):
        dividers = pll_dividers(clock)
        if dividers is not None:
            assert OSCILLATOR * dividers.feedback == clock * dividers.reference
            assert OSCILLATOR / dividers.reference >= 3.125e6
            assert 400e6 <= clock * dividers.output <= 800e6
            made[clock] = dividers
    assert set(range(10_000_000, 401_000_000, 5_000_000)) <= set(made), "multiples of 5 MHz"
    assert 51_000_000 not in made


def test_the_design_has_the_pll_with_its_clock_and_its_analogue_settings():
    program = compile_network(load_network("lenet5"), DESIGNS["board"])
    verilog = board_design(program, Settings(clock=55_000_000), platform=load_board("ulx3s-25f").platform, blocks=56).verilog
    dividers = pll_dividers(55_000_000)
    found = re.search(r"((?:\(\* [^*]* \*\)\s*)*)EHXPLLL #\((.*?)\) pll \(", verilog, re.DOTALL)
    assert found is not None
    attributes = dict(re.findall(r'(\w+) = "([^"]*)"', found[1]))
    settings = {"ICP_CURRENT": "12", "LPF_RESISTOR": "8", "MFG_ENABLE_FILTEROPAMP": "1", "MFG_GMCREF_SEL": "2"}
    assert settings.items() <= attributes.items()
    assert (attributes["FREQUENCY_PIN_CLKI"], attributes["FREQUENCY_PIN_CLKOP"]) == ("25", "55")
    parameters = {name: int(value) for name, value in re.findall(r"\.(\w+)\(32'd(\d+)\)", found[2])}
    assert (parameters["CLKI_DIV"], parameters["CLKFB_DIV"], parameters["CLKOP_DIV"]) == (
        dividers.reference,
        dividers.feedback,
        dividers.output,
    )
