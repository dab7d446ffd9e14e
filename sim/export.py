"""Write the engine's Verilog: ``python -m sim.export CONFIGURATION KIND FILE``, the configuration as JSON.

A process of its own, so that what is written follows from the sources as they are, not as they were when a process that has long
been running imported them.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from amaranth._toolchain.yosys import find_yosys  # what amaranth.back.verilog calls; that one leaves no choice of passes
from amaranth.back import rtlil, verilog
from amaranth.hdl import Value

from accel.config import EngineConfig, Multiply
from accel.errors import SystolithError

__all__ = [
    "KINDS",
    "MULTIPLIER",
    "PRODUCT",
    "Port",
    "ports_of",
    "product_of",
    "verilog_of",
    "with_plain_names",
    "with_registers_folded",
    "without_zeros",
]

#: Name of the product's top module; its other modules' names begin with it.
PRODUCT = "systolith"

#: Model of the multiplier that an engine for ECP5 instantiates.
MULTIPLIER = Path(__file__).with_name("mult18x18d.v")

#: Internal attributes of Amaranth and Yosys: of no use to whoever reads or builds the product.
_INTERNAL = ("generator", "top", "src", "amaranth.hierarchy", "amaranth.decoding")

#: The product holds no processes, so none of the dummy variables with which Yosys makes simulators evaluate `always @*` at time 0,
#: and no second names of signals.
_PRODUCT_PASSES = ("proc -norom", "memory_collect", "clean_zerowidth", "opt_clean -purge")


class Port(NamedTuple):
    """A port of the top module; ``direction`` is ``input`` or ``output``, ``width`` in bits."""

    name: str
    direction: str
    width: int


def verilog_of(config: EngineConfig) -> str:
    """Return the engine's Verilog as it is simulated: top module ``engine``, with trace ports, and the cells in it."""
    if config.micro:
        from rtl.micro.engine import MicroEngine

        component: Any = MicroEngine(config, trace=True)
    else:
        from rtl.engine import Engine

        component = Engine(config, trace=True)
    text = without_zeros(verilog.convert(component, name="engine", emit_src=False, strip_internal_attrs=True))
    text = with_registers_folded(text)
    return text + (MULTIPLIER.read_text(encoding="utf-8") if config.multiply == Multiply.ECP5 else "")


def product_of(component: Any, *, platform: str | None = None) -> str:
    """Return the Verilog of a component as a stand-alone product: top module :data:`PRODUCT`, plain names throughout.

    ``platform`` reaches the component's ``elaborate``."""
    attributes = " ".join(f"-remove {name}" for name in _INTERNAL)
    script = [
        f"read_rtlil <<rtlil\n{rtlil.convert(component, name=PRODUCT, emit_src=False, platform=platform)}\nrtlil",
        *_PRODUCT_PASSES,
        f"attrmap {attributes}",
        f"attrmap -modattr {attributes}",
        "write_verilog -norename",
    ]
    yosys = find_yosys(lambda version: version >= (0, 40))  # as amaranth.back.verilog asks
    text: str = yosys.run(["-q", "-"], "\n".join(script), ignore_warnings=True)
    text = re.sub(r'\(\* (?:init|unused_bits|full_case|enum_\w+) = (?:"[^"]*"|[^"*]*) \*\)\s*', "", text)
    names = ",\n".join(f"  {port.name}" for port in ports_of(component))
    return re.sub(rf"module {PRODUCT}\([^)]*\);", f"module {PRODUCT} (\n{names}\n);", with_plain_names(without_zeros(text)))


def ports_of(component: Any) -> list[Port]:
    """Return the ports of a component's Verilog, clock and reset first."""
    ports = [Port("clk", "input", 1), Port("rst", "input", 1)]
    for path, member, value in component.signature.flatten(component):
        ports.append(Port("__".join(map(str, path)), "input" if member.flow.name == "In" else "output", len(Value.cast(value))))
    return ports


def without_zeros(text: str) -> str:
    """Return Verilog without the ``initial`` blocks that fill a whole memory with zeros.

    Memories begin with zeros wherever they can be built; saying so word by word is most of the text and half of Verilator's work.
    """
    return re.sub(r"(?m)^ *initial begin\n(?: +\S+ *\[\d+\] = \d+'[hd]0+;\n)+ *end\n", "", text)


_NAME = r"(?:\\\S+ |[A-Za-z_]\w*)"
_REGISTER = re.compile(rf"(?m)^ *always @\(posedge clk\)\n *({_NAME}) *<= ({_NAME}) *;\n")
_NEXT = re.compile(r"(?ms)^( *)always @\* begin\n(?: *if \(\\\$auto\S+ \) begin end\n)?([^\n]*\n)(.*?)^\1end\n")


def with_registers_folded(text: str) -> str:
    """Return Verilog as Yosys writes processes, with a register's next value no signal of its own where nothing else reads it.

    ``next = register; if (enable) next = value;`` and ``register <= next`` become ``if (enable) register <= value``: a simulator
    then does nothing for a register that keeps its value, which makes a simulated engine an eighth faster.
    """
    return re.sub(r"(?ms)^module .*?^endmodule", lambda match: _folded(match[0]), text)


def _folded(module: str) -> str:
    registers = {match[2].strip(): (match[0], match[1].strip()) for match in _REGISTER.finditer(module)}
    uses = Counter(name.strip() for name in re.findall(rf"(?<![\\$\w'])({_NAME})", module))

    def fold(match: re.Match[str]) -> str:
        indent, first, body = match[1], match[2], match[3]
        keeps = re.fullmatch(rf" *({_NAME}) *= ({_NAME}) *;\n", first)
        following, register = (keeps[1].strip(), keeps[2]) if keeps else ("", "")  # an escaped name needs the space behind it
        if following not in registers or registers[following][1] != register.strip():
            return match[0]
        assigned = re.compile(rf"(?m)^( *){re.escape(following)}( \[[^\]]*\])? +=(?= )")
        body, count = assigned.subn(lambda target: f"{target[1]}{register}{(target[2] or '').strip()} <=", body)
        # besides those: its declaration, the first assignment, and the register
        if uses[following] != count + 3 or re.search(r"(?m)^ *[^ ;]+ += ", body):
            return match[0]
        removed.append(registers[following][0])
        return f"{indent}always @(posedge clk) begin\n{body}{indent}end\n"

    removed: list[str] = []
    module = _NEXT.sub(fold, module)
    for text in removed:
        module = module.replace(text, "")
    return module


def with_plain_names(text: str) -> str:
    r"""Return Verilog in which every escaped name (``\core.load ``) has become a plain one that occurs nowhere else."""
    taken = set(re.findall(r"(?<![\\$\w'])[A-Za-z_]\w*", re.sub(r"\\\S+", " ", text)))
    plain: dict[str, str] = {}

    def rename(match: re.Match[str]) -> str:
        name = match[1]
        if name not in plain:
            stem = re.sub(r"\W+", "_", name).strip("_")
            if not stem[:1].isalpha():
                stem = f"n{stem}"  # what has no name has a number
            elif re.fullmatch(r"[a-z]+[01]?", stem):
                stem = f"{stem}_"  # it could be a word of the language
            candidate, count = stem, 1
            while candidate in taken:
                count += 1
                candidate = f"{stem}_{count}"
            taken.add(candidate)
            plain[name] = candidate
        return plain[name]

    return re.sub(r"\\(\S+) ", rename, text)


def _axi(config: EngineConfig) -> Any:
    from rtl.engine import Engine

    return Engine(config)


def _wishbone(config: EngineConfig) -> Any:
    from rtl.wishbone import WishboneEngine

    return WishboneEngine(config)


def _micro(config: EngineConfig) -> Any:
    from rtl.micro.engine import MicroEngine

    return MicroEngine(config)


#: Products by their kind of bus; the micro engine has its memory in it, and is made of the blocks of an iCE40UP5K.
_PRODUCTS: Mapping[str, Callable[[EngineConfig], Any]] = {"axi": _axi, "wishbone": _wishbone, "micro": _micro}
_PLATFORMS = {"micro": "ice40"}

#: What can be written: the engine as it is simulated, or a product for a kind of bus, with its ports beside it in ``ports.json``.
KINDS = ("simulation", *_PRODUCTS)


def _main(configuration: str, kind: str, file: Path) -> None:
    config = EngineConfig(**json.loads(configuration))
    if kind == "simulation":
        file.write_text(verilog_of(config), encoding="utf-8")
        return
    component = _PRODUCTS[kind](config)
    file.with_name("ports.json").write_text(json.dumps(ports_of(component)), encoding="utf-8")
    file.write_text(product_of(component, platform=_PLATFORMS.get(kind)), encoding="utf-8")


if __name__ == "__main__":
    try:
        _main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
    except SystolithError as error:
        sys.exit(str(error))
