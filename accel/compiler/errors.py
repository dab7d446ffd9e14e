"""The refusal of the compiler."""

from accel.errors import SystolithError

__all__ = ["CompileError"]


class CompileError(SystolithError):
    """A network that a configuration cannot run, in one sentence that begins with the layer's name."""
