"""Copies of the drivers of wide control nets: of what, for whom, and that each does what the driver does."""

import json
from collections import defaultdict

import pytest

from accel.fpga import copies, parse_device, synthesise

pytestmark = pytest.mark.slow

DEVICE = parse_device("LFE5U-25F-6BG381")
REGISTERS = 300

#: An enable from a table, one from a register, one from two tables, one from four, and a reset; all of them wide.
VERILOG = f"""
module wide (input clk, input [9:0] a, input d, output reg [4:0] q);
    reg [9:0] in;
    reg direct;
    localparam LAST = {REGISTERS - 1};
    reg [LAST:0] by_table, by_register, by_choice, by_deep, with_reset;
    wire table_ = in[0] & in[1] & in[2];
    wire choice = in[8] ? (in[3] ^ in[4] ^ in[5] ^ in[6]) : (in[4] & in[5] & in[6] & in[3]);
    wire deep = in[9] ? choice : in[8] ? (in[3] & (in[4] | in[5] & in[6])) : (in[4] ^ in[5] & in[6] & in[3]);
    always @(posedge clk) begin
        in <= a;
        direct <= in[9];
        if (table_) by_table <= {{by_table, d}};
        if (direct) by_register <= {{by_register, d}};
        if (choice) by_choice <= {{by_choice, d}};
        if (deep) by_deep <= {{by_deep, d}};
        if (in[2] | in[7]) with_reset <= 0; else with_reset <= {{with_reset, d}};
        q <= {{by_table[LAST], by_register[LAST], by_choice[LAST], by_deep[LAST], with_reset[LAST]}};
    end
endmodule
"""


#: A queue's memory of 16 wide entries.
MEMORY = """
module wide (input clk, input [3:0] at, input [3:0] from, input we, input d, output reg q);
    reg [255:0] words [15:0];
    reg [255:0] in, out;
    reg [3:0] write, read;
    reg enable;
    always @(posedge clk) begin
        {write, read, enable} <= {at, from, we};
        in <= {in, d};
        if (enable) words[write] <= in;
        out <= words[read] ^ out;
        q <= ^out;
    end
endmodule
"""


def loads_and_drivers(module):
    """Return the control loads of each bit, and each bit's driver."""
    loads, drivers = defaultdict(list), {}
    for name, cell in module["cells"].items():
        for port, bits in cell["connections"].items():
            for bit in bits:
                if cell["port_directions"][port] == "output":
                    assert bit not in drivers, f"{bit} is driven twice"
                    drivers[bit] = name
                elif isinstance(bit, int) and port in (controls := copies.CONTROLS.get(cell["type"], {})):
                    loads[bit] += [name] * controls[port]
    return loads, drivers


def function(module, drivers, bit):
    """Return what a bit is of the bits that are no copies: its driver without its name, and those before it."""
    name = drivers.get(bit)
    cell = module["cells"].get(name)
    if cell is None or "$copy" not in name:
        return bit
    inputs = {p: [function(module, drivers, b) for b in bits] for p, bits in cell["connections"].items() if is_input(cell, p)}
    return cell["type"], sorted(cell["parameters"].items()), sorted(inputs.items())


def original(module, drivers, bit):
    """Return the same of a bit that is no copy, as if it were one."""
    cell = module["cells"][drivers[bit]]
    inputs = {}
    for port, bits in cell["connections"].items():
        if is_input(cell, port):
            shared = cell["type"] in ("PFUMX", "L6MUX21") and port in ("ALUT", "BLUT", "D0", "D1")
            inputs[port] = [original(module, drivers, b) if shared else b for b in bits]
    return cell["type"], sorted(cell["parameters"].items()), sorted(inputs.items())


def is_input(cell, port):
    return cell["port_directions"][port] == "input"


def test_each_part_of_a_wide_net_has_a_driver_that_does_the_same():
    netlist = synthesise(VERILOG, "wide", DEVICE)
    module = json.loads(netlist.file.read_text(encoding="utf-8"))["modules"]["wide"]
    loads, drivers = loads_and_drivers(module)
    assert max(map(len, loads.values())) <= copies.LOADS
    assert sum(map(len, loads.values())) == 5 * REGISTERS
    kinds = set()
    parts = -(-REGISTERS // copies.LOADS)
    for bit, found in loads.items():
        driver = drivers[bit]
        assert len(found) >= REGISTERS // parts
        if "$copy" not in driver:
            kinds.add(module["cells"][driver]["type"])
            twins = [b for b in loads if drivers[b].startswith(f"{driver}$copy")]
            assert len(twins) == parts - 1
            for twin in twins:
                assert function(module, drivers, twin) == original(module, drivers, bit)
    assert {"LUT4", "TRELLIS_FF", "PFUMX", "L6MUX21"} <= kinds
    cells = defaultdict(int)
    for cell in module["cells"].values():
        cells[cell["type"]] += 1
    assert netlist.cells == dict(cells)


def test_a_wide_memory_has_copies_of_its_read_address():
    netlist = synthesise(MEMORY, "wide", DEVICE)
    module = json.loads(netlist.file.read_text(encoding="utf-8"))["modules"]["wide"]
    cells = module["cells"]
    loads, drivers = loads_and_drivers(module)
    addresses = {bit for cell in cells.values() if cell["type"] == "TRELLIS_DPR16X4" for bit in cell["connections"]["RAD"]}
    assert len(addresses) == 4 * 4  # 64 memories of 4 bits, 4 loads each
    assert max(len(loads[bit]) for bit in addresses) <= copies.LOADS
    for bit in addresses:
        name, _, copy = drivers[bit].partition("$copy")
        original_bit = cells[name]["connections"]["Q"][0]
        assert original_bit in addresses
        if copy:
            assert function(module, drivers, bit) == original(module, drivers, original_bit)
    # each memory has one copy of the whole address
    for cell in cells.values():
        if cell["type"] == "TRELLIS_DPR16X4":
            assert len({drivers[bit].partition("$copy")[2] for bit in cell["connections"]["RAD"]}) == 1


def test_neighbours_by_name_share_a_copy():
    netlist = synthesise(VERILOG, "wide", DEVICE)
    module = json.loads(netlist.file.read_text(encoding="utf-8"))["modules"]["wide"]
    loads, _ = loads_and_drivers(module)
    for found in loads.values():
        assert len({name.split("_TRELLIS_FF")[0] for name in found}) == 1


def test_a_table_of_two_wide_nets_is_copied_for_each():
    """A look-up table that drives a wide net, and is half of a multiplexer that drives another."""

    def cell(kind, **connections):
        outputs = {"Z", "Q"}
        directions = {port: "output" if port in outputs else "input" for port in connections}
        connections = {port: [bit] for port, bit in connections.items()}
        return {"type": kind, "parameters": {}, "port_directions": directions, "connections": connections}

    cells = {"table": cell("LUT4", A=2, Z=3), "other": cell("LUT4", A=2, Z=4), "mux": cell("PFUMX", ALUT=3, BLUT=4, C0=2, Z=5)}
    for n in range(copies.WIDE):
        cells[f"x[{n}]"] = cell("TRELLIS_FF", CE=3, DI=2, Q=1000 + n)
        cells[f"y[{n}]"] = cell("TRELLIS_FF", CE=5, DI=2, Q=2000 + n)
    module = {"cells": cells, "netnames": {}, "ports": {"a": {"direction": "input", "bits": [2]}}}
    made = copies.copy_drivers(module)
    assert sorted(made) == ["LUT4", "LUT4", "LUT4", "PFUMX"]
    loads, drivers = loads_and_drivers(module)
    assert len(loads) == 4
    assert all(bit in drivers for bit in loads)
    assert max(map(len, loads.values())) <= copies.LOADS


def test_block_rams_share_an_address_by_eights():
    directions = {"ADA3": "input", "WEA": "input", "DI": "input", "Q": "output"}
    cells = {
        name: {"type": "TRELLIS_FF", "parameters": {}, "port_directions": directions, "connections": {"DI": [2], "Q": [bit]}}
        for name, bit in (("address", 3), ("enable", 4))
    }
    for n in range(20):
        connections = {"ADA3": [3], "WEA": [4] if n < 11 else [2]}
        cells[f"bank_{n}"] = {"type": "DP16KD", "parameters": {}, "port_directions": directions, "connections": connections}
    made = copies.copy_drivers({"cells": cells, "netnames": {}, "ports": {"a": {"direction": "input", "bits": [2]}}})
    assert made == ["TRELLIS_FF"] * 2
    addresses = [cells[f"bank_{n}"]["connections"]["ADA3"][0] for n in range(20)]
    assert len(set(addresses)) == 3
    assert addresses == sorted(addresses)
    assert max(addresses.count(bit) for bit in addresses) <= 8
    assert all(cells[f"bank_{n}"]["connections"]["WEA"] == [4] for n in range(11))  # too few


def test_a_driver_that_has_logic_to_drive_is_left_that_alone():
    directions = {"CE": "input", "DI": "input", "A": "input", "Q": "output", "Z": "output"}

    def cell(kind, **connections):
        connections = {port: [bit] for port, bit in connections.items()}
        return {"type": kind, "parameters": {}, "port_directions": directions, "connections": connections}

    cells = {"enable": cell("TRELLIS_FF", DI=2, Q=3), "logic": cell("LUT4", A=3, Z=4), "outside": cell("TRELLIS_FF", DI=2, Q=5)}
    for n in range(copies.WIDE):
        cells[f"x[{n}]"] = cell("TRELLIS_FF", CE=3, DI=2, Q=1000 + n)
        cells[f"y[{n}]"] = cell("TRELLIS_FF", CE=5, DI=2, Q=2000 + n)
    ports = {"a": {"direction": "input", "bits": [2]}, "b": {"direction": "output", "bits": [5]}}
    made = copies.copy_drivers({"cells": cells, "netnames": {}, "ports": ports})
    assert made == ["TRELLIS_FF"] * 4
    enables = {cells[f"{name}[{n}]"]["connections"]["CE"][0] for name in "xy" for n in range(copies.WIDE)}
    assert len(enables) == 4
    assert not enables & {3, 5}
    assert cells["logic"]["connections"]["A"] == [3]


def test_a_net_that_is_not_wide_is_left_alone():
    narrow = VERILOG.replace(f"LAST = {REGISTERS - 1}", f"LAST = {copies.WIDE - 2}")
    netlist = synthesise(narrow, "wide", DEVICE)
    assert "$copy" not in netlist.file.read_text(encoding="utf-8")
