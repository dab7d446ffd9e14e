"""What goes wrong between Verilog and a bitstream."""

from accel.errors import SystolithError

__all__ = ["DoesNotFitError", "FpgaError", "NoRouteError"]


class FpgaError(SystolithError):
    """A tool that is missing or fails, a device or board that is not known, a design that cannot be routed."""


class DoesNotFitError(FpgaError):
    """A design that needs more of something than the device has."""


class NoRouteError(FpgaError):
    """A placement that the router does not come to an end with. Another seed may do better."""
