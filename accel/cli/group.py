"""The program ``systolith``, to which the commands are added: how it begins, and how it refuses."""

from __future__ import annotations

import gc
import signal
import sys
from typing import Any

import click

from accel.errors import SystolithError

__all__ = ["CommandError", "cli", "main"]


class CommandError(SystolithError):
    """A command that cannot be carried out."""


class _Refusal(click.ClickException):
    exit_code = 2

    def show(self, file: Any = None) -> None:
        click.echo(f"systolith: {self.message}", file=file, err=file is None)


class _Commands(click.Group):
    """Turns what goes wrong in any command into a sentence and an exit status."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SystolithError as error:
            raise _Refusal(str(error)) from None
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(130)


def main() -> None:
    """Run the command line."""
    # A program is many small objects, none of them garbage; by default Python would look through them all the time.
    gc.set_threshold(100_000, 50, 100)
    # whoever ends this program ends the tools that it runs, and finds no half of a file
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    cli(prog_name="systolith")


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="systolith")
def cli() -> None:
    """Run convolutional networks on a systolic engine, cycle by cycle, every output byte checked.

    \b
    Example:
      systolith run lenet5
    """
