"""What goes wrong between Verilog and a bitstream."""

from accel.errors import SystolithError

__all__ = ["DoesNotFitError", "FpgaError"]


class FpgaError(SystolithError):
    """A tool that is missing or fails, a device or board that is not known, a design that cannot be routed."""


class DoesNotFitError(FpgaError):
    """A design that needs more of something than the device has."""
