"""A harness around a core that has more ports than a device has pins, so that it can be placed and routed alone.

::

             +--------------------------------- harness ---------------------------------+
    scan_in -|-> i0 -> i1 -> i2 -> ...   shift register, a bit for each input of the core |
             |   |     |     |                                                            |
             | +-v-----v-----v------------+                                               |
             | |           core           |                                               |
             | +-|-----|-----|------------+                                               |
             |   o0    o1    o2          registers, a bit for each output of the core     |
             |   +--v--+--v--+                                                            |
             |      x0 -> x1 -> ...      registers: exclusive or of those before, pipelined |--> scan_out
             +----------------------------------------------------------------------------+

Every input comes from a register of its own and every output ends in one, so no logic of the core is removed, none of it is merged
with the harness, and paths through pins limit nothing. Paths from the core's ports count with one route each, as in a design whose
interconnect has registers.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["HARNESS", "Port", "harness_verilog"]

#: Name, direction and width of a port of the core, ``input`` or ``output``.
Port = tuple[str, str, int]

#: Name of the harness's module. Its ports are ``clk``, ``scan_in`` and ``scan_out``, the core in it has its own name.
HARNESS = "harness"

#: Outputs that each register of the chain behind them takes: with its predecessor they fill a four-input table.
_GROUP = 3


def harness_verilog(top: str, ports: Sequence[Port]) -> str:
    """Return the harness of a core, and the core itself as a black box.

    ``ports`` are all its ports, with ``clk`` its only clock.
    """
    inputs = [(name, width) for name, direction, width in ports if direction == "input" and name != "clk"]
    outputs = [(name, width) for name, direction, width in ports if direction == "output"]
    declared = ",\n".join(f"    {direction} {_range(width)}{name}" for name, direction, width in ports)
    connected = ["        .clk(clk)"]
    for vector, members in (("in", inputs), ("caught", outputs)):
        offset = 0
        for name, width in members:
            connected.append(f"        .{name}({vector}[{offset + width - 1}:{offset}])")
            offset += width
    entering, leaving = (sum(width for _, width in members) for members in (inputs, outputs))
    links = -(-leaving // _GROUP)
    chain = []
    for index in range(links):
        low, high = index * _GROUP, min((index + 1) * _GROUP, leaving) - 1
        before = f"chain[{index - 1}] ^ " if index else ""
        chain.append(f"        chain[{index}] <= {before}^out[{high}:{low}];")
    lines = "\n".join(chain)
    connections = ",\n".join(connected)
    return f"""\
(* blackbox *)
module {top} (
{declared}
);
endmodule

module {HARNESS} (input clk, input scan_in, output scan_out);
    reg [{entering - 1}:0] in;
    wire [{leaving - 1}:0] caught;
    reg [{leaving - 1}:0] out;
    reg [{links - 1}:0] chain;
    assign scan_out = chain[{links - 1}];
    always @(posedge clk) begin
        in <= {{in, scan_in}};
        out <= caught;
{lines}
    end
    {top} {top} (
{connections}
    );
endmodule
"""


def _range(width: int) -> str:
    return f"[{width - 1}:0] " if width > 1 else ""
