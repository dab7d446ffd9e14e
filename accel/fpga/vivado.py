"""A script for Vivado, which no package brings: run it where Vivado is, for the frequency of a Xilinx part."""

from __future__ import annotations

from accel.fpga.devices import Device

__all__ = ["vivado_script"]


def vivado_script(device: Device, *, top: str, file: str, period: float) -> str:
    """Return Tcl that builds a core out of context (its ports are no pins) and reports area and timing.

    ``period`` of the clock in nanoseconds.
    """
    return f"""\
# vivado -mode batch -source vivado.tcl
read_verilog {file}
synth_design -top {top} -part {device.part} -mode out_of_context
create_clock -name clk -period {period:g} [get_ports clk]
opt_design
place_design
phys_opt_design
route_design
report_utilization -file utilisation.rpt
report_utilization -hierarchical -file hierarchy.rpt
report_timing_summary -file timing.rpt
report_timing -max_paths 10 -file paths.rpt
write_checkpoint -force {top}.dcp
"""
