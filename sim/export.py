"""Write the engine's Verilog: ``python -m sim.export CONFIGURATION FILE``, the configuration as JSON.

A process of its own, so that what is written follows from the sources as they are, not as they were when a process that has long
been running imported them.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from amaranth.back import verilog

from accel.config import EngineConfig
from accel.errors import SystolithError

__all__ = ["verilog_of", "without_zeros"]


def verilog_of(config: EngineConfig) -> str:
    """Return the engine's Verilog, top module ``engine``."""
    from rtl.engine import Engine

    return without_zeros(verilog.convert(Engine(config), name="engine", emit_src=False, strip_internal_attrs=True))


def without_zeros(text: str) -> str:
    """Return Verilog without the ``initial`` blocks that fill a whole memory with zeros.

    Memories begin with zeros wherever they can be built; saying so word by word is most of the text and half of Verilator's work.
    """
    return re.sub(r"(?m)^ *initial begin\n(?: +\S+ *\[\d+\] = \d+'[hd]0+;\n)+ *end\n", "", text)


if __name__ == "__main__":
    try:
        Path(sys.argv[2]).write_text(verilog_of(EngineConfig(**json.loads(sys.argv[1]))), encoding="utf-8")
    except SystolithError as error:
        sys.exit(str(error))
