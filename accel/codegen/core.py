"""What lies beside the core's Verilog: its description, the waivers of its lint, and an example of how it is wired."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import Any

from accel import isa
from accel.config import EngineConfig
from accel.isa import CSR, ENTRIES, REGISTERS, Field

__all__ = ["WAIVERS", "Port", "describe", "describe_micro", "example", "lint_waivers"]

#: Name, direction and width of a port of the top module, ``input`` or ``output``.
Port = tuple[str, str, int]

#: What `verilator --lint-only -Wall` says of the core and why it does no harm: rule and reason.
WAIVERS: Mapping[str, str] = {
    "CASEOVERLAP": "Yosys writes a selection by one-hot signals as casez with a question mark for every other bit.",
    "DECLFILENAME": "One file holds the whole hierarchy; it is named after the top module.",
    "PROCASSINIT": "Yosys writes the value after power-up at the declaration of a register.",
    "SYMRSVDWORD": "The port `interrupt` has the name of a word in C++, which only a simulator made of C++ has to avoid.",
    "UNUSEDSIGNAL": "Yosys declares results in full width where only some bits are used, and buses carry bits that no one needs.",
    "WIDTHEXPAND": "Yosys leaves the extension of operands to the rules of Verilog; the widths themselves are exact.",
    "WIDTHTRUNC": "Yosys writes `!` of a vector for `equals zero`.",
}

_CONTROL = {"axi": "s_axil_", "wishbone": "s_wb_"}
_MEMORY = {"axi": "m_axi_", "wishbone": "m_wb_"}
_BUSES = {
    "axi": ("AXI4 master, INCR bursts of full beats, without IDs: responses come in order", "AXI4-Lite slave, 32 bits"),
    "wishbone": ("Wishbone B4 pipelined master", "Wishbone B4 slave, 32 bits, pipelined or classic"),
}
_ENUMS: tuple[type[enum.IntEnum], ...] = (isa.Opcode, isa.Target, isa.Operation, isa.Source, isa.Error)


def lint_waivers(top: str) -> str:
    """Return Verilator's configuration file for ``<top>.v``."""
    lines = [
        "`verilator_config",
        "// All that `verilator --lint-only -Wall` says of the core, each rule with the reason why it is waived.",
    ]
    for rule, reason in WAIVERS.items():
        lines += ["", f"// {reason}", f'lint_off -rule {rule} -file "*{top}.v"']
    return "\n".join(lines) + "\n"


def describe(config: EngineConfig, *, top: str, bus: str, ports: Sequence[Port], files: Sequence[str]) -> dict[str, Any]:
    """Return all that a tool may want to know of a core, fit for JSON."""
    memory, control = _BUSES[bus]
    return {
        "top": top,
        "files": sorted(files),
        "configuration": config.as_dict(),
        "digest": f"{config.digest:016x}",
        "isa_version": isa.ISA_VERSION,
        "clock": {"port": "clk", "edge": "rising"},
        "reset": {"port": "rst", "active": "high", "synchronous": True, "cycles": 2},
        "interrupt": {"port": "interrupt", "active": "high", "sensitivity": "level"},
        "interfaces": {
            "memory": {"prefix": _MEMORY[bus], "kind": memory, "address_bits": 32, "data_bits": 8 * config.bus_bytes},
            "control": {"prefix": _CONTROL[bus], "kind": control, "window_bytes": isa.CSR_BYTES, "data_bits": 32},
        },
        "ports": [{"name": name, "direction": direction, "width": width} for name, direction, width in ports],
        "registers": [
            {
                "name": register.name,
                "offset": int(register),
                "access": str(REGISTERS[register].access),
                "text": REGISTERS[register].text,
                "fields": [{**_bits(f), "text": f.text} for f in REGISTERS[register].fields],
            }
            for register in CSR
        ],
        "base_alignment": isa.BASE_ALIGNMENT,
        "instruction_bytes": isa.INSTRUCTION_BYTES,
        "instructions": {opcode.name: [_bits(f) for f in fields] for opcode, fields in ENTRIES.items()},
        "parameter_bytes": isa.PARAMETER_BYTES,
        "parameter": [_bits(f) for f in isa.PARAMETER],
        "enumerations": {members.__name__: {member.name: member.value for member in members} for members in _ENUMS},
    }


def describe_micro(config: EngineConfig, *, top: str, ports: Sequence[Port], files: Sequence[str]) -> dict[str, Any]:
    """Return all that a tool may want to know of a micro engine, which has no bus, register and interrupt."""
    absent = ("interrupt", "interfaces", "registers", "base_alignment")
    described = describe(config, top=top, bus="axi", ports=ports, files=files)
    memory = {"bytes": config.memory_limit, "data_bits": 8 * config.bus_bytes}
    return {name: value for name, value in described.items() if name not in absent} | {"memory": memory}


def _bits(field: Field) -> dict[str, Any]:
    return {"name": field.name, "offset": field.offset, "width": field.width, "signed": field.signed}


def example(*, top: str, bus: str, ports: Sequence[Port]) -> str:
    """Return a small design around the core, module ``<top>_example``."""
    return _axi_example(top, ports) if bus == "axi" else _wishbone_example(top, ports)


def _declaration(port: Port, name: str | None = None) -> str:
    inner, direction, width = port
    return f"    {direction} wire {f'[{width - 1}:0] ' if width > 1 else ''}{name or inner}"


def _connections(ports: Sequence[Port], names: Mapping[str, str]) -> str:
    return ",\n".join(f"        .{name}({names.get(name, name)})" for name, _, _ in ports)


#: Signals that AXI4 interconnects have and the core does not need: one ID, not locked, normal and bufferable memory, no privileges.
_SIDE_BAND = (("id", 1, "1'b0"), ("lock", 1, "1'b0"), ("cache", 4, "4'b0011"), ("prot", 3, "3'b000"), ("qos", 4, "4'b0000"))


def _axi_example(top: str, ports: Sequence[Port]) -> str:
    own = {"clk": "aclk", "rst": "~aresetn"}
    shown = [_declaration(port) for port in ports if port[0] not in own]
    side = [(f"m_axi_{channel}{name}", width, value) for channel in ("aw", "ar") for name, width, value in _SIDE_BAND]
    shown += [_declaration((name, "output", width)) for name, width, _ in side]
    assigns = "\n".join(f"    assign {name} = {value};" for name, _, value in side)
    shown += [_declaration((f"m_axi_{channel}id", "input", 1)) for channel in "br"]
    declarations = ",\n".join(["    input wire aclk", "    input wire aresetn", *shown])
    return f"""\
// An example: the core as an AXI interconnect wants it, with the reset active low and the signals of the address channels in full.
// The core takes responses in order; an interconnect gives them so, for all bursts have one ID. aresetn is released in step with
// aclk, as AXI has it, for the core and for all that it talks to in the same cycle.
module {top}_example (
{declarations}
);
{assigns}
    wire unused = &{{1'b0, m_axi_bid, m_axi_rid}};

    {top} core (
{_connections(ports, own)}
    );
endmodule
"""


def _wishbone_example(top: str, ports: Sequence[Port]) -> str:
    width = next(width for name, _, width in ports if name == "m_wb_dat_i")
    low = (width // 8).bit_length() - 1
    shown = ",\n".join(_declaration(port) for port in ports if not port[0].startswith("m_wb_"))
    wires = "\n".join(
        f"    wire {f'[{bits - 1}:0] ' if bits > 1 else ''}{name};" for name, _, bits in ports if name.startswith("m_wb_")
    )
    return f"""\
// An example: the core with a memory of its own, which holds a program from power-up on (IMAGE, as `--memory-image` writes it).
// The host puts the input in it and takes the output out of it through the port below, while the engine does not run.
module {top}_example #(
    parameter ADDRESS_BITS = 16,
    parameter IMAGE = ""
) (
{shown},
    input wire host_write,
    input wire [ADDRESS_BITS-1:0] host_address,
    input wire [{width - 1}:0] host_dat_i,
    output reg [{width - 1}:0] host_dat_o
);
{wires}

    reg [{width - 1}:0] memory [0:(1 << ADDRESS_BITS) - 1];
    initial if (IMAGE != "") $readmemh(IMAGE, memory);

    // The memory begins at address 0; beyond its end is an error.
    wire request = m_wb_cyc_o & m_wb_stb_o;
    wire known = m_wb_adr_o[31:ADDRESS_BITS+{low}] == 0 && m_wb_adr_o[{low - 1}:0] == 0;
    wire [ADDRESS_BITS-1:0] address = m_wb_adr_o[ADDRESS_BITS+{low - 1}:{low}];
    reg [{width - 1}:0] data;
    reg acknowledge, refuse;
    integer i;
    always @(posedge clk) begin
        acknowledge <= request & known & ~rst;
        refuse <= request & ~known & ~rst;
        if (request) data <= memory[address];
        for (i = 0; i < {width // 8}; i = i + 1)
            if (request & known & m_wb_we_o & m_wb_sel_o[i]) memory[address][8*i+:8] <= m_wb_dat_o[8*i+:8];
    end
    always @(posedge clk) begin
        host_dat_o <= memory[host_address];
        if (host_write) memory[host_address] <= host_dat_i;
    end
    assign m_wb_dat_i = data;
    assign m_wb_ack_i = acknowledge;
    assign m_wb_err_i = refuse;
    assign m_wb_stall_i = 1'b0;

    {top} core (
{_connections(ports, {})}
    );
endmodule
"""
