"""The command line: ``systolith run lenet5`` and its siblings.

Exit status: 0 when every byte agrees with the golden model, 1 when one does not, 2 for a refusal (one sentence on standard error),
130 when interrupted, 143 when terminated, 141 when nobody reads the output any more.

What a command needs beyond its options is imported when it runs: --help and refusals should not wait for ONNX Runtime or Amaranth.
"""

from __future__ import annotations

from accel.cli import board, catalogue, estimate, fpga, run, verilog
from accel.cli.group import CommandError, cli, main

__all__ = ["CommandError", "cli", "main"]

for _command in (
    run.run,
    estimate.estimate,
    estimate.compare,
    catalogue.networks,
    catalogue.configs,
    catalogue.disassemble,
    verilog.verilog,
    fpga.fpga,
    board.bitstream,
    board.infer,
):
    cli.add_command(_command)
