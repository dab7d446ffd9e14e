"""What synthesis is told of a memory."""

import re

from amaranth.back import verilog
from amaranth.hdl import Module

from rtl.ram import ram


def test_verilog_says_that_reads_and_writes_do_not_meet():
    m = Module()
    m.submodules.bank = bank = ram(shape=8, depth=16)
    read, write = bank.read_port(), bank.write_port()
    text = verilog.convert(m, ports=[read.en, read.addr, read.data, write.en, write.addr, write.data])
    # attributes, then the memory itself
    assert re.search(r"\(\* no_rw_check = .*\*\)\n( *\(\*.*\*\)\n)* *reg \[7:0\] \S+ \[15:0\];", text)
