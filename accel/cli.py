"""The command line: ``systolith run lenet5`` and its siblings.

Exit status: 0 when every byte agrees with the golden model, 1 when one does not, 2 for a refusal (one sentence on standard error),
130 when interrupted, 141 when nobody reads the output any more.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from accel.config import PRESETS, EngineConfig, load_config
from accel.errors import SystolithError
from accel.program import MemoryTiming

# What a command needs beyond this is imported when it runs: --help and refusals should not wait for ONNX Runtime or Amaranth.
if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from rich.console import Console

    from accel.graph import Network
    from accel.terminal import Pixels, Reporter

__all__ = ["CommandError", "cli", "main"]

BACKENDS = ("auto", "verilator", "pysim", "emulator")
#: Sample images run when no number is given: enough to see, and on Amaranth's simulator (some thousand times slower) just one.
MAX_IMAGES = 100_000
DEFAULT_IMAGES = 10
DEFAULT_IMAGES_PYSIM = 1
#: A network without samples runs on random bytes, of which one image shows as much as many.
DEFAULT_IMAGES_RANDOM = 1
RANDOM_SEED = 0


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
    cli(prog_name="systolith")


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="systolith")
def cli() -> None:
    """Run convolutional networks on a systolic engine, cycle by cycle, every output byte checked.

    \b
    Example:
      systolith run lenet5
    """


_network = click.argument("network")
_config = click.option(
    "--config",
    default="base",
    show_default=True,
    metavar="NAME|FILE.toml",
    help="Preset, or TOML file with the engine's dimensions.",
)
_calibration = click.option("--calibration", metavar="FILE", help="Images (.npy or .npz) with which a float model is quantised.")
_memory_latency = click.option(
    "--memory-latency",
    type=int,
    default=MemoryTiming.latency,
    show_default=True,
    metavar="L",
    help="Cycles from a memory request to its first beat.",
)
_memory_interval = click.option(
    "--memory-interval",
    type=int,
    default=MemoryTiming.interval,
    show_default=True,
    metavar="K",
    help="Cycles a beat of the memory bus.",
)
_as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output, and nothing else.")


@cli.command()
@_network
@_config
@click.option(
    "--backend",
    type=click.Choice(BACKENDS),
    default="auto",
    show_default=True,
    help="auto takes the fastest this machine has tools for.",
)
@click.option(
    "--images",
    type=click.IntRange(min=1),
    metavar="N",
    help=f"Run the first N sample images.  [default: {DEFAULT_IMAGES}; {DEFAULT_IMAGES_PYSIM} on pysim, or without samples]",
)
@click.option(
    "--input", "input_file", metavar="FILE", help="Run the images in a .npy, .npz or .png file instead (all, or the first N)."
)
@_calibration
@_memory_latency
@_memory_interval
@click.option("--stall-seed", type=int, metavar="S", help="Stall the memory bus at random as well, from this seed.")
@click.option("--output", metavar="FILE.npy", help="Write the output bytes: int8 (images, height, width, channels).")
@click.option("--vcd", metavar="FILE", help="Write the waveforms to a file (slow and large: use few images).")
@_as_json
def run(
    network: str,
    config: str,
    backend: str,
    images: int | None,
    input_file: str | None,
    calibration: str | None,
    memory_latency: int,
    memory_interval: int,
    stall_seed: int | None,
    output: str | None,
    vcd: str | None,
    as_json: bool,
) -> None:
    """Compile NETWORK (built-in name, ONNX or TFLite file), simulate it, and check every output byte against the golden model.

    \b
    Examples:
      systolith run lenet5 --images 10
      systolith run lenet5 --config large --memory-latency 100
      systolith run model.onnx --calibration train.npz --input photo.png --output result.npy
    """
    engine = load_config(config)
    timing = MemoryTiming(latency=memory_latency, interval=memory_interval, stall_seed=stall_seed)
    waves = _output_path(vcd) if vcd is not None else None
    outputs = _output_path(output) if output is not None else None

    import numpy as np

    from accel import golden, report, terminal
    from accel.compiler import compile_network
    from accel.frontends import load_network
    from sim.backends import get_backend

    with terminal.make_progress(sys.stderr) as progress:
        progress.stage(f"reading {network}")
        loaded = load_network(network, calibration=calibration)
        runner = get_backend(backend)
        if waves is not None and not runner.cycle_accurate:
            raise CommandError(f"--vcd: the {runner.name} has no signals to write; take --backend verilator or pysim")
        default = DEFAULT_IMAGES_PYSIM if runner.name == "pysim" else DEFAULT_IMAGES
        chosen = _images_of_file(loaded, input_file, images) if input_file else _samples(loaded, network, images, default)
        progress.stage(f"compiling {loaded.name} for {engine.name}")
        program = compile_network(loaded, engine)
        progress.stage("running the golden model")
        expected = golden.run(loaded, chosen.inputs)
        built = ": each configuration's model is built once, in half a minute to some minutes" if runner.name == "verilator" else ""
        progress.stage(f"preparing {runner.name} ({runner.reason}){built}")
        result = runner.run(program, list(chosen.inputs), timing=timing, vcd=waves, progress=_announce(progress, runner.name))
    outcome = report.report_run(
        program,
        result,
        expected,
        backend=runner.name,
        backend_reason=runner.reason,
        timing=timing,
        source=chosen.source,
        labels=chosen.labels,
        notes=(*loaded.notes, *chosen.notes),
    )
    if outputs is not None:
        with _replaced(outputs) as temporary, temporary.open("wb") as file:
            np.save(file, result.outputs)
    if as_json:
        _emit_json(outcome.as_dict())
    else:
        _emit_rich(lambda console: terminal.show_run(console, outcome, chosen.pixels))
    if outcome.first_mismatch is not None:
        click.echo(f"systolith: {outcome.network}: {outcome.first_mismatch}", err=True)
        click.get_current_context().exit(1)


@cli.command()
@_network
@click.option(
    "--config",
    "configs",
    multiple=True,
    default=("base",),
    show_default="base",
    metavar="NAME|FILE.toml",
    help="Preset, or TOML file with the engine's dimensions; give several to see them all.",
)
@_calibration
@_memory_latency
@_memory_interval
@click.option(
    "--clock",
    type=click.FloatRange(min=0, min_open=True),
    default=100.0,
    show_default=True,
    metavar="MHZ",
    help="Clock of the engine, for images a second.",
)
@_as_json
def estimate(
    network: str,
    configs: tuple[str, ...],
    calibration: str | None,
    memory_latency: int,
    memory_interval: int,
    clock: float,
    as_json: bool,
) -> None:
    """Compile NETWORK and tell how many cycles it takes, layer by layer, without simulating it: exactly what the engine counts.

    Beside them the roofline: the fewest cycles that array and memory bus leave, each layer reading and writing memory once.
    Weights decide no cycle, so a float model needs no calibration data, nor weights at all.

    \b
    Examples:
      systolith estimate resnet18 --config large
      systolith estimate mobilenetv1 --config base --config large --memory-latency 100 --clock 150
    """
    engines = [load_config(name) for name in configs]
    timing = MemoryTiming(latency=memory_latency, interval=memory_interval)

    from accel import perf, report, terminal
    from accel.compiler import compile_network
    from accel.frontends import load_network

    outcomes = []
    with terminal.make_progress(sys.stderr) as progress:
        progress.stage(f"reading {network}")
        loaded = load_network(network, calibration=calibration, assume=True)
        for engine in engines:
            progress.stage(f"compiling {loaded.name} for {engine.name}")
            program = compile_network(loaded, engine)
            progress.stage(f"estimating {loaded.name} on {engine.name}")
            begin = time.perf_counter()
            estimated = perf.estimate(program, timing)
            seconds = time.perf_counter() - begin
            outcomes.append(report.report_estimate(program, estimated, loaded, timing=timing, clock=clock, seconds=seconds))
    if as_json:
        values = [outcome.as_dict() for outcome in outcomes]
        _emit_json(values[0] if len(values) == 1 else {"estimates": values})
        return
    for index, outcome in enumerate(outcomes):
        if index:
            _emit("\n")
        _emit_rich(functools.partial(terminal.show_estimate, report=outcome))


@cli.command()
@_as_json
def networks(as_json: bool) -> None:
    """List the built-in networks.

    \b
    Example:
      systolith networks
    """
    from accel.frontends import NETWORKS, load_network

    rows: list[dict[str, Any]] = []
    for name, builtin in NETWORKS.items():
        network = load_network(name)  # one at a time: weights are large
        rows.append(
            {
                "name": name,
                "description": builtin.description,
                "input": list(network.input.shape),
                "output": list(network.tensor(network.output).shape),
                "layers": len(network.operators),
                "macs": network.macs,
            }
        )
    if as_json:
        _emit_json({"networks": rows})
    else:
        _emit_table(
            ("network", "input", "layers", "MACs an image", "description"),
            [(r["name"], _by(r["input"]), f"{r['layers']}", f"{r['macs']:,}", r["description"]) for r in rows],
        )


@cli.command()
@_as_json
def configs(as_json: bool) -> None:
    """List the preset engine configurations; a TOML file with `base = "small"` changes single fields of one.

    \b
    Example:
      systolith configs
    """
    if as_json:
        _emit_json({"configs": [{**preset.as_dict(), "digest": f"{preset.digest:016x}"} for preset in PRESETS.values()]})
        return
    rows = [
        (
            c.name,
            f"{c.rows} x {c.columns}",
            f"{c.bus_bytes}",
            f"{c.lanes}",
            _kib(c.scratchpad_words * c.rows),
            _kib(c.weight_words * c.columns),
            _kib(2 * c.accumulator_words * c.columns * 4),
            f"{c.parameter_channels:,}",
        )
        for c in PRESETS.values()
    ]
    _emit_table(("config", "array", "bus bytes", "lanes", "scratchpad", "weights", "accumulators", "channels"), rows)


@cli.command()
@_network
@_config
@_calibration
def disassemble(network: str, config: str, calibration: str | None) -> None:
    """Compile NETWORK and print its program, an instruction a line.

    \b
    Example:
      systolith disassemble lenet5 --config tiny
    """
    engine = load_config(config)

    from accel import listing
    from accel.compiler import compile_network
    from accel.frontends import load_network

    _emit(listing.disassemble(compile_network(load_network(network, calibration=calibration), engine)).rstrip("\n") + "\n")


@cli.command()
@_config
@click.option("-o", "--output", required=True, metavar="FILE", help="File to write; - for standard output.")
def verilog(config: str, output: str) -> None:
    """Write the engine as one Verilog file.

    \b
    Example:
      systolith verilog --config base -o engine.v
    """
    engine = load_config(config)
    path = None if output == "-" else _output_path(output)
    text = _verilog(engine)
    if path is None:
        _emit(text)
        return
    with _replaced(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _verilog(config: EngineConfig) -> str:
    """Return the very text that the Verilator backend simulates; its top module is ``engine``."""
    from sim.verilator import engine_verilog

    return engine_verilog(config)


def _announce(progress: Reporter, name: str) -> Callable[[int], None]:
    """Return what a backend shall call with its cycles; the first call ends its preparations, which may include a build."""
    begun = False

    def advance(cycles: int) -> None:
        nonlocal begun
        if not begun:
            progress.stage(f"simulating on {name}", unit="cycles")
            begun = True
        progress.advance(cycles)

    return advance


# Images


@dataclass(frozen=True, kw_only=True)
class _Images:
    """What a run is fed: int8 NHWC ``inputs``, and what is known of them. ``pixels`` are uint8 pictures, if they are any."""

    inputs: npt.NDArray[np.int8]
    pixels: list[Pixels] | None
    labels: list[int] | None
    source: str
    notes: tuple[str, ...] = ()


def _images_of_file(network: Network, path: str, count: int | None) -> _Images:
    from accel.images import load_images

    inputs = load_images(path, network)
    if count is not None and count > len(inputs):
        raise CommandError(f"--images: {path} holds {len(inputs)}, not {count}")
    inputs = inputs[:count]
    return _Images(inputs=inputs, pixels=_pixels(inputs), labels=None, source=path)


def _samples(network: Network, name: str, count: int | None, default: int) -> _Images:
    """Return ``count`` (or ``default``) sample images of the built-in network called ``name``; random ones, if it has none."""
    import numpy as np

    from accel.frontends import NETWORKS, sample_images
    from accel.images import as_images

    samples = sample_images(name) if name in NETWORKS else None
    if samples is None:
        if count is not None and count > MAX_IMAGES:
            raise CommandError(f"--images: must be at most {MAX_IMAGES:,} random images, not {count:,}")
        shape = count or DEFAULT_IMAGES_RANDOM, *network.input.shape
        inputs = np.random.default_rng(RANDOM_SEED).integers(-128, 128, shape, dtype=np.int8)
        note = (
            f"{network.name} has no sample images, so it ran on random bytes and its classes mean nothing; give images with --input"
        )
        return _Images(inputs=inputs, pixels=None, labels=None, source=f"random bytes from seed {RANDOM_SEED}", notes=(note,))
    raw, labels = samples
    count = count or default
    if count > len(raw):
        raise CommandError(f"--images: {name} has {len(raw)} sample images, not {count}")
    return _Images(
        inputs=as_images(raw[:count], network),
        pixels=list(raw[:count]),
        labels=[int(n) for n in labels[:count]],
        source="held-out samples of the network",
    )


def _pixels(inputs: npt.NDArray[np.int8]) -> list[Pixels] | None:
    """Return int8 maps as pictures, if they have the form of some."""
    _, height, width, channels = inputs.shape
    if min(height, width) < 8 or channels not in (1, 3):
        return None
    return list(inputs.view("uint8") ^ 0x80)


# Output


def _emit(text: str) -> None:
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


def _emit_json(value: object) -> None:
    _emit(json.dumps(value, indent=2) + "\n")


def _emit_table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    from rich.table import Table

    table = Table()
    for index, name in enumerate(header):
        text = index == 0 or name == "description"
        table.add_column(name, justify="left" if text else "right", no_wrap=name != "description")
    for row in rows:
        table.add_row(*row)
    _emit_rich(lambda console: console.print(table))


def _emit_rich(show: Callable[[Console], None]) -> None:
    """Write what ``show`` prints on a console like standard output, without the blanks that pad its lines."""
    from accel.terminal import make_console

    console = make_console(sys.stdout)
    try:
        with console.capture() as capture:
            show(console)
    except OSError as error:  # the console flushes what it captures for
        raise CommandError(f"standard output cannot be written: {error.strerror}") from None
    _emit("".join(f"{line.rstrip()}\n" for line in capture.get().splitlines()))


def _by(shape: Sequence[int]) -> str:
    return " x ".join(str(n) for n in shape)


def _kib(size: int) -> str:
    return f"{size / 1024:g} KiB"


def _output_path(name: str) -> Path:
    """Return the path of a file to be written; refuse early what cannot be."""
    path = Path(name)
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
def _replaced(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``, renamed to it at the end; gone when anything goes wrong, an interrupt included."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise CommandError(f"{path}: cannot be written: {error.strerror}") from None
    finally:
        temporary.unlink(missing_ok=True)
