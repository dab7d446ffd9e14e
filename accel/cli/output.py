"""What commands write: standard output, and files that appear whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from accel.cli.group import CommandError

if TYPE_CHECKING:
    from rich.console import Console

    from accel.program import Program

__all__ = [
    "emit",
    "emit_json",
    "emit_rich",
    "emit_table",
    "output_directory",
    "output_path",
    "replaced",
    "write_directory",
    "write_timeline",
]


def emit(text: str) -> None:
    """Write to standard output. A reader that has left ends the command quietly; a full disk is an error."""
    try:
        encoding = sys.stdout.encoding or "utf-8"
        sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
        sys.stdout.flush()
    except BrokenPipeError:
        # What is still buffered must not fail again when Python flushes it on its way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        click.get_current_context().exit(141)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise CommandError(f"standard output cannot be written: {error.strerror}") from None


def emit_json(value: object) -> None:
    """Write one JSON object to standard output."""
    emit(json.dumps(value, indent=2) + "\n")


def emit_table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Write a table to standard output: numbers to the right, and only descriptions on more lines than one."""
    from rich.table import Table

    table = Table()
    for index, name in enumerate(header):
        text = index == 0 or name == "description"
        table.add_column(name, justify="left" if text else "right", no_wrap=name != "description")
    for row in rows:
        table.add_row(*row)
    emit_rich(lambda console: console.print(table))


def emit_rich(show: Callable[[Console], None]) -> None:
    """Write what ``show`` prints on a console like standard output, without the blanks that pad its lines."""
    from accel.terminal import make_console

    console = make_console(sys.stdout)
    try:
        with console.capture() as capture:
            show(console)
    except OSError as error:  # the console flushes what it captures for
        raise CommandError(f"standard output cannot be written: {error.strerror}") from None
    emit("".join(f"{line.rstrip()}\n" for line in capture.get().splitlines()))


def write_timeline(path: Path, program: Program, *arguments: Any, **more: Any) -> None:
    """Write a trace (see :func:`accel.trace.timeline`, which takes the rest) as JSON."""
    from accel.trace import timeline

    with replaced(path) as temporary:
        temporary.write_text(json.dumps(timeline(program, *arguments, **more), separators=(",", ":")) + "\n", encoding="utf-8")


def output_path(name: str, *inputs: str | None) -> Path:
    """Return the path of a file to be written (of a link, that which it leads to, so that the link stays); refuse early what cannot
    be, and what the command reads."""
    path = Path(name)
    if path.is_symlink():
        path = path.resolve()
    for read in inputs:
        if read is not None and path.exists() and Path(read).exists() and path.samefile(read):
            raise CommandError(f"{name}: is read by this command too; give the name of another file to write")
    if path.is_dir():
        raise CommandError(f"{name}: is a directory; give the name of a file to write")
    if path.exists() and not path.is_file():
        raise CommandError(f"{name}: is not a regular file; give the name of a file to write")
    if not path.parent.is_dir():
        raise CommandError(f"{name}: the directory {path.parent} does not exist; make it first")
    if not os.access(path.parent, os.W_OK):
        raise CommandError(f"{name}: the directory {path.parent} may not be written to; choose another")
    return path


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``, renamed to it at the end; gone when anything goes wrong, an interrupt included."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise CommandError(f"{path}: cannot be written: {error.strerror}") from None
    finally:
        temporary.unlink(missing_ok=True)


def output_directory(name: str) -> Path:
    """Return the path of a directory to be written, which may be there; refuse early what cannot be."""
    path = Path(name)
    if path.exists() and not path.is_dir():
        raise CommandError(f"{name}: is not a directory; give a directory, or a file whose name ends in .v")
    if not path.is_dir() and not path.absolute().parent.is_dir():
        raise CommandError(f"{name}: the directory {path.parent} does not exist; make it first")
    if not os.access(path if path.is_dir() else path.absolute().parent, os.W_OK):
        raise CommandError(f"{name}: may not be written to; choose another directory")
    return path


def write_directory(path: Path, files: Mapping[str, str | bytes]) -> None:
    """Write files into a directory: they appear when all are written. A new directory appears with them, or not at all."""
    path = path.absolute()
    # what is there already may lie on a file system of its own, beside which nothing can be written
    temporary = (path if path.is_dir() else path.parent) / f".{path.name}.{os.getpid()}.part"
    try:
        temporary.mkdir()
        for name, content in files.items():
            (temporary / name).write_bytes(content.encode() if isinstance(content, str) else content)
        if not path.exists():
            temporary.rename(path)
            return
        for name in files:
            (temporary / name).replace(path / name)
    except OSError as error:
        raise CommandError(f"{path}: cannot be written: {error.strerror}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
