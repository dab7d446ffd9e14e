"""The board design as files: Verilog with the board's pins, clock and memory contents, and where the pins are."""

from __future__ import annotations

from typing import Any, NamedTuple

from amaranth._toolchain.yosys import find_yosys  # as in sim.export

from accel.board import BoardError, Settings, identity
from accel.config import EngineConfig
from accel.program import MemoryTiming, Program
from sim.export import with_plain_names, without_zeros

__all__ = ["TOP", "BoardDesign", "board_design", "clock_below"]

#: Name of the top module.
TOP = "systolith_board"

#: Bytes that an ECP5's block RAM of 18 Kb holds.
_BLOCK_BYTES = 2048

#: Words of the accumulators up to which look-up tables hold them: block RAM would be a thirty-second full.
_SHALLOW = 64

#: How much faster than its clock placer and router are told to make a design, so that they do not rest when they are just there.
_AIM = 1.5


class BoardDesign(NamedTuple):
    """A design: ``verilog``, whose top module :data:`TOP` instantiates Lattice's pads and PLL; ``constraints``, its LPF file;
    ``before``, the commands of Yosys that go before ``synth_ecp5``, and ``options`` of that one, which make a netlist of it that
    fits; ``memory``, the time that its memory keeps."""

    verilog: str
    constraints: str
    before: tuple[str, ...]
    options: str
    memory: MemoryTiming


def clock_below(frequency: float) -> int | None:
    """Return the fastest clock that the PLL can make and that is not above ``frequency``, in whole MHz but given in Hz."""
    from rtl.board.ulx3s import pll_dividers

    clocks = (mhz * 1_000_000 for mhz in range(int(frequency / 1e6), 0, -1))
    return next((clock for clock in clocks if pll_dividers(clock) is not None), None)


def board_design(program: Program, settings: Settings, *, platform: Any, blocks: int) -> BoardDesign:
    """Return a program on an engine with its own memory, as a design for a ULX3S.

    ``platform`` is that of ``amaranth_boards.ulx3s`` with the board's device, which has so many ``blocks`` of RAM.

    Raises :class:`~accel.board.BoardError` for a clock that its PLL cannot make, and for a program that block RAM cannot hold.
    """
    from rtl.board.memory import LATENCY
    from rtl.board.system import System
    from rtl.board.ulx3s import OSCILLATOR, Ulx3s, pll_dividers

    if pll_dividers(settings.clock) is None:
        raise BoardError(
            f"the PLL cannot make {settings.clock} Hz of the board's {OSCILLATOR} Hz; take a multiple of 5 MHz from 5 to 400 MHz"
        )
    wanted = -(-program.memory_bytes // _BLOCK_BYTES)
    if wanted > blocks:
        raise BoardError(
            f"{program.network} takes {program.memory_bytes:,} bytes of memory, which are {wanted:,} block RAMs, and "
            f"{platform.device} has {blocks}; take a smaller network, or a larger board"
        )
    system = System(
        program.config,
        image=program.image.tobytes(),
        memory_bytes=program.memory_bytes,
        identity=identity(program),
        divisor=settings.divisor,
        silence=settings.silence,
    )
    plan = platform.prepare(Ulx3s(system, frequency=settings.clock), TOP)
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
    return BoardDesign(
        verilog=with_plain_names(without_zeros(text)),
        constraints=f'{plan.files[f"{TOP}.lpf"]}\nFREQUENCY NET "clk" {_AIM * settings.clock / 1e6:g} MHZ;\n',
        before=_before(program.config),
        options="-nowidelut",
        memory=MemoryTiming(latency=LATENCY),
    )


def _before(config: EngineConfig) -> tuple[str, ...]:
    """Return the commands of Yosys after the design was read and before it is synthesised: small accumulators are no block RAM."""
    shallow = config.accumulator_words <= _SHALLOW
    distributed = ['setattr -set ram_style "distributed" *_core_accumulators/m:*'] if shallow else []
    return (f"hierarchy -top {TOP}", *distributed)
