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
    registers = "\n".join(f"    reg [7:0] weight{n};\n    reg [15:0] product{n};" for n in range(count))
    steps = "\n".join(
        f"        weight{n} <= {f'weight{n - 1}' if n else 'x'};\n        product{n} <= weight{n} * x;" for n in range(count)
    )
    text = f"""\
module systolith (input clk, input rst, input [7:0] x, output reg [15:0] y);
{registers}
    reg [15:0] total;
    always @(posedge clk) begin
{steps}
        total <= rst ? 16'd0 : {" ^ ".join(f"product{n}" for n in range(count))};
        y <= total;
    end
endmodule
"""
    return text, [("clk", "input", 1), ("rst", "input", 1), ("x", "input", 8), ("y", "output", 16)]


@pytest.fixture(scope="session")
def toy() -> Core:
    """A core that multiplies by a chain of weights, one for each element of the array, and nothing else that counts."""
    return _toy
