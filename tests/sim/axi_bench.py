"""What runs inside cocotb (see test_cocotb.py): LeNet-5 on the core, with cocotbext-axi as memory and as processor."""

import os
import random
from collections.abc import Iterator
from typing import Any

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge, with_timeout
from cocotbext.axi import AxiBus, AxiLiteBus, AxiLiteMaster, AxiRam

from accel.isa import CSR, register_fields, register_value

PERIOD = 10
RAM_BYTES = 1 << 18


def pauses(rng: random.Random, share: float, longest: int) -> Iterator[bool]:
    """Hold a channel for runs of cycles: single ones most of the time, long ones as a slow memory would."""
    while True:
        if rng.random() < share:
            for _ in range(rng.choice([1, 1, 1, 2, longest])):
                yield True
        yield False


def channels(ram: Any, lite: Any) -> list[Any]:
    """Return every channel of both buses."""
    written = [getattr(port.write_if, f"{name}_channel") for port in (ram, lite) for name in ("aw", "w", "b")]
    return written + [getattr(port.read_if, f"{name}_channel") for port in (ram, lite) for name in ("ar", "r")]


@cocotb.test()
async def lenet5(dut: Any) -> None:
    """Run one image for each seed (0: no pauses), on one core; compare every output byte, and that the program is as it was."""
    job = np.load(os.environ["SYSTOLITH_JOB"])
    base = int(job["base"])
    cocotb.start_soon(Clock(dut.aclk, PERIOD, unit="ns").start())
    ram = AxiRam(AxiBus.from_prefix(dut, "m_axi"), dut.aclk, dut.aresetn, reset_active_level=False, size=RAM_BYTES)
    lite = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axil"), dut.aclk, dut.aresetn, reset_active_level=False)
    dut.aresetn.value = 0
    for _ in range(5):
        await RisingEdge(dut.aclk)
    dut.aresetn.value = 1
    cycles = []
    for seed in job["seeds"].tolist():
        rng = random.Random(seed)
        for channel in channels(ram, lite):
            channel.clear_pause_generator()
            if seed:
                channel.set_pause_generator(pauses(random.Random(rng.random()), rng.uniform(0.1, 0.7), rng.randrange(5, 80)))
        ram.write(base, job["memory"].tobytes())
        await lite.write_dword(CSR.BASE, base)
        await lite.write_dword(CSR.INTERRUPT_ENABLE, 1)
        await lite.write_dword(CSR.CONTROL, register_value(CSR.CONTROL, start=1))
        await with_timeout(RisingEdge(dut.interrupt), int(job["limit"]) * PERIOD, "ns")
        status = register_fields(CSR.STATUS, await lite.read_dword(CSR.STATUS))
        assert status == {"busy": 0, "done": 1, "error": 0, "code": 0}, f"seed {seed}: {status}"
        seen = np.frombuffer(ram.read(base + int(job["address"]), len(job["expected"])), np.uint8)
        meant = job["meant"]
        assert np.array_equal(seen[meant], job["expected"][meant]), f"seed {seed}: {seen} is not {job['expected']}"
        image = job["memory"][: int(job["image_bytes"])]
        assert ram.read(base, len(image)) == image.tobytes(), f"seed {seed}: the program was overwritten"
        cycles.append(await lite.read_dword(CSR.CYCLES))
    np.save(os.environ["SYSTOLITH_CYCLES"], np.array(cycles))
