"""What the tests of FPGAs share: a cache of their own, and a core that is small, yet grows with the array."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from accel.config import EngineConfig

Core = Callable[[EngineConfig], tuple[str, Sequence[tuple[str, str, int]]]]


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of these tests' own, so that they make what they look at, once."""
    place = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SYSTOLITH_CACHE", str(place))
        yield place


def _toy(config: EngineConfig) -> tuple[str, Sequence[tuple[str, str, int]]]:
    count = config.macs_per_cycle
    names = [(f"weight{n}", f"product{n}", f"total{n}") for n in range(count)]
    lines = ["module systolith (input clk, input rst, input [7:0] x, output reg [15:0] y);"]
    lines += [f"reg [7:0] {weight}; reg [15:0] {product}, {total};" for weight, product, total in names]
    lines.append("always @(posedge clk) begin")
    before, so_far = "x", "{x, x}"
    for weight, product, total in names:
        lines.append(f"{weight} <= {before}; {product} <= {weight} * x; {total} <= {so_far} ^ {product};")
        before, so_far = weight, total
    lines += [f"y <= rst ? 16'd0 : {so_far};", "end", "endmodule"]
    text = "\n".join(lines)
    return text, [("clk", "input", 1), ("rst", "input", 1), ("x", "input", 8), ("y", "output", 16)]


@pytest.fixture(scope="session")
def toy() -> Core:
    """A core that multiplies by a chain of weights, one for each element of the array, and nothing else that counts."""
    return _toy
