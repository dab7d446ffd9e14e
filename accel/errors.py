"""The one base of every error that a user can cause: its text is a whole sentence, fit to be shown as it is."""

__all__ = ["SystolithError"]


class SystolithError(Exception):
    """A refusal. ``str(error)`` names the layer or file, the limit, and what to do."""
