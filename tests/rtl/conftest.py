"""A bench around one block: cycle-exact traces, and streams with random stalls on both sides."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from amaranth.hdl import Value
from amaranth.sim import Simulator

Testbench = Callable[[Any], Any]


def plain(value: Any) -> Any:
    """Return a sampled value as integers, lists and dictionaries."""
    if not hasattr(value, "shape"):
        return int(value)
    layout = value.shape()
    if hasattr(layout, "elem_shape"):
        return [plain(value[n]) for n in range(layout.length)]
    return {name: plain(value[name]) for name, _ in layout}


class Bench:
    """What the tests of blocks share. Cycle n ends with the n-th rising edge; inputs are set, and outputs seen, before it."""

    plain = staticmethod(plain)

    @staticmethod
    def run(block: Any, *testbenches: Testbench, background: Sequence[Testbench] = (), limit: int = 5000) -> None:
        """Run until all ``testbenches`` have ended; fail after ``limit`` cycles."""
        simulator = Simulator(block)
        simulator.add_clock(1e-6)
        for testbench in testbenches:
            simulator.add_testbench(testbench)
        for testbench in background:
            simulator.add_testbench(testbench, background=True)

        for _ in range(2 * limit):  # two edges a cycle
            if not simulator.advance():
                return
        raise AssertionError(f"not over after {limit} cycles")

    @classmethod
    def trace(cls, block: Any, inputs: Sequence[dict[str, Any]], outputs: Sequence[str], *, more: int = 0) -> list[dict[str, Any]]:
        """Return the outputs in every cycle; ``inputs[n]`` are set in cycle n, and what is not given stays."""
        seen: list[dict[str, Any]] = []

        async def testbench(ctx: Any) -> None:
            for values in [*inputs, *({} for _ in range(more))]:
                for name, value in values.items():
                    ctx.set(getattr(block, name), value)
                _, _, *sampled = await ctx.tick().sample(*(getattr(block, name) for name in outputs))
                seen.append({name: plain(value) for name, value in zip(outputs, sampled, strict=True)})

        cls.run(block, testbench, limit=len(inputs) + more + 2)
        return seen

    # (Amaranth's own `until` and `repeat` cannot be abandoned half way without a warning, and a test that fails does that.)

    @staticmethod
    async def until(ctx: Any, condition: Any) -> None:
        """Let cycles pass until one in which ``condition`` was true at its end."""
        while True:
            _, _, met = await ctx.tick().sample(condition)
            if met:
                return

    @staticmethod
    async def repeat(ctx: Any, cycles: int) -> None:
        """Let ``cycles`` cycles pass."""
        for _ in range(cycles):
            await ctx.tick()

    @classmethod
    async def send(cls, ctx: Any, stream: Any, payloads: Sequence[Any], rng: np.random.Generator, stall: float) -> None:
        """Give ``payloads`` to a stream; in a share ``stall`` of the cycles something else is shown, with valid low."""
        width = len(Value.cast(stream.payload))
        for payload in payloads:
            while rng.random() < stall:
                ctx.set(Value.cast(stream.payload), int.from_bytes(rng.bytes(-(-width // 8)), "little") & ((1 << width) - 1))
                await ctx.tick()
            ctx.set(stream.payload, payload)
            ctx.set(stream.valid, 1)
            await cls.until(ctx, stream.ready)
            ctx.set(stream.valid, 0)

    @staticmethod
    async def receive(
        ctx: Any,
        stream: Any,
        rng: np.random.Generator,
        stall: float,
        take: Callable[[Any], Any],
        steady: Callable[[Any], Any] = lambda payload: payload,
    ) -> None:
        """Take payloads for ever, not ready in a share ``stall`` of the cycles; check that valid and payload (or its ``steady``
        part) stay until taken.

        ``take`` and ``steady`` are called with each payload as integers and dictionaries.
        """
        shown = None
        while True:
            ctx.set(stream.ready, rng.random() >= stall)
            _, _, valid, ready, payload = await ctx.tick().sample(stream.valid, stream.ready, stream.payload)
            bits = steady(plain(payload))
            if shown is not None:
                assert valid, "valid fell before ready"
                assert bits == shown, "the payload changed before it was taken"
            shown = bits if valid and not ready else None
            if valid and ready:
                take(plain(payload))


@pytest.fixture
def bench() -> type[Bench]:
    return Bench
