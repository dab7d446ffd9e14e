"""The program ``systolith``, to which the commands are added: how it begins, and how it refuses."""

from __future__ import annotations

import gc
import signal
import sys
from typing import Any

import click
from click.exceptions import NoArgsIsHelpError

from accel.errors import SystolithError

__all__ = ["CommandError", "cli", "main"]


class CommandError(SystolithError):
    """A command that cannot be carried out."""


class _Refusal(click.ClickException):
    exit_code = 2

    def show(self, file: Any = None) -> None:
        click.echo(f"systolith: {self.message}", file=file, err=file is None)


def _misuse(error: click.UsageError, group: click.Context) -> _Refusal:
    """Return as one sentence what click says in three lines: what is wrong with a command, and what shows how it is right."""
    near = getattr(error, "possibilities", None)
    text = error.message if near else error.format_message()
    text = " ".join(text.split()).rstrip(".")
    text = text[:1].lower() + text[1:] + (f" (is it {' or '.join(near)}?)" if near else "")
    command = group.invoked_subcommand
    if command is None:
        return _Refusal(f"{text}; `{group.command_path} --help` shows how")
    return _Refusal(f"{command}: {text}; `{group.command_path} {command} --help` shows how")


class _Commands(click.Group):
    """Turns what goes wrong in any command into a sentence and an exit status."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except NoArgsIsHelpError:
            raise  # it prints the help
        except click.UsageError as error:
            raise _misuse(error, ctx) from None

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            raise _misuse(error, ctx) from None
        except SystolithError as error:
            raise _Refusal(str(error)) from None
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(130)


def _show_version(context: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked and not context.resilient_parsing:
        from importlib.metadata import PackageNotFoundError, version

        try:
            click.echo(f"systolith, version {version('systolith')}")
        except PackageNotFoundError:
            raise _Refusal("its version is known once it is installed; `pip install -e .` in the repository does that") from None
        context.exit()


def main() -> None:
    """Run the command line."""
    # A program is many small objects, none of them garbage; by default Python would look through them all the time.
    gc.set_threshold(100_000, 50, 100)
    # whoever ends this program ends the tools that it runs, and finds no half of a file
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        cli(prog_name="systolith")
    finally:
        gc.freeze()  # what is left goes with the process, without another look: what must be closed, a `with` has closed


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show the version and exit."
)
def cli() -> None:
    """Run convolutional networks on a systolic engine, cycle by cycle, every output byte checked.

    \b
    Example:
      systolith run lenet5
    """
