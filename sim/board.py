"""The board design as files: Verilog with the board's pins, clock and memory contents, and where the pins are."""

from __future__ import annotations

from typing import NamedTuple

from amaranth._toolchain.yosys import find_yosys  # as in sim.export
from amaranth_boards.ulx3s import ULX3S_25F_Platform

from accel.board import BoardError, Settings, identity
from accel.config import EngineConfig
from accel.program import Program
from sim.export import with_plain_names, without_zeros

__all__ = ["TOP", "BoardDesign", "board_design"]

#: Name of the top module.
TOP = "systolith_board"

#: Multipliers of an LFE5U-25F, and how many of them a requantiser's lane takes: 32 by 31 bits of 18 by 18.
_MULTIPLIERS, _LANE_MULTIPLIERS = 28, 4


class BoardDesign(NamedTuple):
    """A design: ``verilog``, whose top module :data:`TOP` instantiates Lattice's pads and PLL; ``constraints``, its LPF file; and
    ``synthesis``, the Yosys commands that make a netlist of it which fits."""

    verilog: str
    constraints: str
    synthesis: tuple[str, ...]


def board_design(program: Program, settings: Settings) -> BoardDesign:
    """Return a program on an engine with its own memory, as a design for a ULX3S with LFE5U-25F.

    Raises :class:`~accel.board.BoardError` for a clock that its PLL cannot make.
    """
    from rtl.board.system import System
    from rtl.board.ulx3s import OSCILLATOR, Ulx3s, pll_dividers

    if pll_dividers(settings.clock) is None:
        raise BoardError(
            f"the PLL cannot make {settings.clock} Hz of the board's {OSCILLATOR} Hz; take a multiple of 5 MHz from 10 to 400 MHz"
        )
    system = System(
        program.config,
        image=program.image.tobytes(),
        memory_bytes=program.memory_bytes,
        identity=identity(program),
        divisor=settings.divisor,
        silence=settings.silence,
    )
    plan = ULX3S_25F_Platform().prepare(Ulx3s(system, frequency=settings.clock), TOP)
    script = [
        f"read_rtlil <<rtlil\n{plan.files[f'{TOP}.il']}\nrtlil",
        "proc -norom",
        "memory_collect",
        "clean_zerowidth",
        "opt_clean -purge",
        "attrmap -remove generator -remove top -remove src",
        "attrmap -modattr -remove generator -remove top -remove src",
        "write_verilog -norename",
    ]
    yosys = find_yosys(lambda version: version >= (0, 40))
    text = yosys.run(["-q", "-"], "\n".join(script), ignore_warnings=True)
    constraints = str(plan.files[f"{TOP}.lpf"])
    return BoardDesign(with_plain_names(without_zeros(text)), constraints, _synthesis(program.config))


def _synthesis(config: EngineConfig) -> tuple[str, ...]:
    """Return the commands of Yosys after the design was read.

    Accumulators become look-up tables, because block RAM is full; and the products for which there is no multiplier become Booth
    multipliers, as many as must.
    """
    elements = [(row, column) for row in range(config.rows) for column in range(config.columns)]
    without = elements[max(0, _MULTIPLIERS - _LANE_MULTIPLIERS * config.lanes) :]
    booth = [f"booth {' '.join(f'*_array_pe_{row}_{column}' for row, column in without)}"] if without else []
    return (
        f"hierarchy -top {TOP}",
        'setattr -set ram_style "distributed" *_core_accumulators/m:*',
        "proc",
        "opt_clean",
        "wreduce *_array_pe_*",
        *booth,
        f"synth_ecp5 -nowidelut -top {TOP}",
    )
