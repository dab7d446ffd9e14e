"""Last pass, as far as its budget goes: what the timeline chose is tried another way, and the exact cycle model decides."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from accel.compiler.plan import Choice, Plan
from accel.isa import MAX_SHARE_LOG2
from accel.perf import Estimate, estimate
from accel.program import Program

__all__ = ["improve"]

#: Tapers that are tried: none, at the back, at both ends.
_TAPERS = ((0, 0, 1), (0, 4, 1), (0, 2, 1), (0, 1 << 16, 1), (0, 1 << 16, 2), (2, 4, 1))

#: A program is not worth looking at if the budget does not suffice for so many trials.
_LEAST_TRIALS = 8


def improve(
    build: Callable[[Mapping[int, Choice]], Program], contenders: Sequence[Sequence[Plan]], loads: Sequence[bool], budget: int
) -> Program:
    """Return the program of fewest cycles found by changing one choice of one stage at a time.

    ``build`` compiles with choices by stage, ``contenders`` are each stage's plans, ``loads`` says whether a stage loads its input
    while it stores into the scratchpad.
    ``budget`` is the number of instructions that may be replayed, each trial counted as the first program: the same budget gives
    the same program anywhere.
    """
    choices: dict[int, Choice] = {}
    best = build(choices)
    size = len(best.instructions)
    if budget < _LEAST_TRIALS * size:
        return best
    first = estimate(best)
    cycles = first.cycles
    for index in _by_loss(best, first):
        for trial in _alternatives(contenders[index], loads=loads[index]):
            budget -= size
            if budget < 0:
                return best
            # a trial changes what it names and keeps what was found before
            kept = choices.get(index, Choice())
            changed = {**choices, index: replace(kept, **{k: v for k, v in vars(trial).items() if v is not None})}
            program = build(changed)
            if program.instructions != best.instructions and (found := estimate(program).cycles) < cycles:
                best, cycles, choices = program, found, changed
    return best


def _by_loss(program: Program, estimated: Estimate) -> list[int]:
    """Return the stages, those first whose cycles exceed their arithmetic most."""
    cycles = program.layer_cycles(estimated.retired, estimated.cycles)
    losses = [
        each - program.batch * layer.macs / program.config.macs_per_cycle
        for layer, each in zip(program.layers, cycles, strict=True)
    ]
    return sorted(range(len(losses)), key=lambda index: (-losses[index], index))


def _alternatives(plans: Sequence[Plan], *, loads: bool) -> Iterator[Choice]:
    shares = (None, *range(1, MAX_SHARE_LOG2 + 1)) if loads else (None,)
    for plan, share in itertools.product(plans, shares):
        yield Choice(plan=plan, share=share)
    for taper in _TAPERS:
        yield Choice(taper=taper)
