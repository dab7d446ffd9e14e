"""From a layer graph to a program."""

from accel.compiler.errors import CompileError
from accel.compiler.pipeline import compile_network

__all__ = ["CompileError", "compile_network"]
