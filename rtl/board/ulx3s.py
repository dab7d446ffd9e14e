"""The board design on a ULX3S: its pins, clock and reset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from amaranth import *
from amaranth.lib import cdc, io

from rtl.board.system import System

__all__ = ["OSCILLATOR", "Ulx3s", "pll_dividers"]

#: Hz of the board's oscillator.
OSCILLATOR = 25_000_000

# Limits of the ECP5's PLL in Hz (Lattice FPGA-DS-02012, "sysCLOCK PLL Timing"): phase detector and oscillator.
_DETECTOR = (3_125_000, 400_000_000)
_VCO = (400_000_000, 800_000_000)


@dataclass(frozen=True)
class PllDividers:
    """What divides the reference, the feedback and the oscillator of a PLL."""

    reference: int
    feedback: int
    output: int


def pll_dividers(frequency: int) -> PllDividers | None:
    """Return dividers that make exactly ``frequency`` Hz of the oscillator's, with the fastest phase detector; None without any."""
    for reference in range(1, OSCILLATOR // _DETECTOR[0] + 1):
        feedback, rest = divmod(frequency * reference, OSCILLATOR)
        if rest or not feedback:
            continue
        # the middle of the oscillator's range
        output = round(sum(_VCO) / 2 / frequency)
        if output and _VCO[0] <= frequency * output <= _VCO[1]:
            return PllDividers(reference, feedback, output)
    return None


class Ulx3s(Elaboratable):
    """A system on the pins of a ULX3S: the serial line of its USB socket, its first button as reset, two lamps.

    Lamp 0 is lit while there is a clock, lamp 1 when the last request was refused. Needs an Amaranth platform with the resources of
    ``amaranth_boards.ulx3s``, and generates its clock with the PLL: the simulation of this design brings a model of that one.

    Parameters
    ----------
    system
        What is put on the pins.
    frequency
        Its clock in Hz, which :func:`pll_dividers` can make.
    """

    def __init__(self, system: System, *, frequency: int) -> None:
        self.system = system
        self.frequency = frequency

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        dividers = pll_dividers(self.frequency)
        assert dividers is not None

        m.submodules.clock_pin = clock = io.Buffer("i", platform.request("clk25", dir="-"))
        m.submodules.reset_pin = button = io.Buffer("i", platform.request("button_fire", 0, dir="-"))
        line = platform.request("uart", 0, dir="-")
        m.submodules.rx_pin = rx = io.Buffer("i", line.rx)
        m.submodules.tx_pin = tx = io.Buffer("o", line.tx)
        lamps = []
        for n in range(2):
            m.submodules[f"lamp_pin_{n}"] = lamp = io.Buffer("o", platform.request("led", n, dir="-"))
            lamps.append(lamp)

        m.domains.sync = domain = ClockDomain()
        locked = Signal()
        m.submodules.pll = Instance(
            "EHXPLLL",
            a_FREQUENCY_PIN_CLKI=f"{OSCILLATOR / 1e6:g}",
            a_FREQUENCY_PIN_CLKOP=f"{self.frequency / 1e6:g}",
            # the analogue settings that Project Trellis found in Lattice's bitstreams: without them nothing says that it locks
            a_ICP_CURRENT="12",
            a_LPF_RESISTOR="8",
            a_MFG_ENABLE_FILTEROPAMP="1",
            a_MFG_GMCREF_SEL="2",
            p_CLKI_DIV=dividers.reference,
            p_CLKFB_DIV=dividers.feedback,
            p_CLKOP_DIV=dividers.output,
            p_CLKOP_ENABLE="ENABLED",
            p_CLKOP_CPHASE=dividers.output - 1,
            p_FEEDBK_PATH="CLKOP",
            i_CLKI=clock.i,
            i_CLKFB=domain.clk,
            i_RST=C(0),
            i_STDBY=C(0),
            i_PHASESEL0=C(0),
            i_PHASESEL1=C(0),
            i_PHASEDIR=C(0),
            i_PHASESTEP=C(0),
            i_PHASELOADREG=C(0),
            i_PLLWAKESYNC=C(0),
            i_ENCLKOP=C(0),
            o_CLKOP=domain.clk,
            o_LOCK=locked,
        )
        m.submodules.reset = cdc.ResetSynchronizer(~locked | button.i, domain="sync")

        m.submodules.system = system = self.system
        m.d.comb += [
            system.i_rx.eq(rx.i),
            tx.o.eq(system.o_tx),
            lamps[0].o.eq(1),
            lamps[1].o.eq(system.o_refused),
        ]
        return m
