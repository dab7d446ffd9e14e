"""The command line: exit status, what goes to which stream, refusals, and leaving nothing behind."""

from __future__ import annotations

import importlib.metadata
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from accel import __main__ as program
from accel import cli as cli_module
from accel import golden
from accel.cli import cli, verilog
from accel.cli.run import BACKENDS
from accel.cli.verilog import BUSES
from accel.config import DESIGNS, PRESETS
from accel.frontends import NETWORKS
from accel.frontends.builtin import DATA
from accel.testing import call_cli
from sim import backends, export

COMMANDS = ("run", "estimate", "infer", "compare", "networks", "configs", "disassemble", "verilog", "fpga", "bitstream")
PROMISED = {
    *("network", "config", "backend", "images", "mismatches", "predictions", "total_cycles", "cycles_per_image", "macs_per_image"),
    *("utilisation", "simulated_cycles_per_second", "layers"),
}
EMULATED = ("run", "lenet5", "--backend", "emulator", "--images", "2")


def start(*arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    """Start the command line in a process of its own, which can be interrupted.

    (What a shell runs in the background has interrupts ignored, and so have its children.)
    """
    restore = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    command = [sys.executable, "-c", f"{restore}; from accel.cli import main; main()", *arguments]
    root = Path(program.__file__).parent.parent
    environment = {**os.environ, "PYTHONPATH": str(root), **options.pop("env", {})}
    return subprocess.Popen(command, stderr=subprocess.PIPE, env=environment, **options)


# What is printed


def test_version_is_told_where_it_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: {"systolith": "1.2.3"}[name])
    result = call_cli("--version")
    assert (result.exit_code, result.stdout) == (0, "systolith, version 1.2.3\n")

    def unknown(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", unknown)
    result = call_cli("--version")
    assert result.exit_code == 2
    assert result.stderr == "systolith: its version is known once it is installed; `pip install -e .` in the repository does that\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_has_an_example(command: str) -> None:
    result = call_cli(command, "--help")
    assert result.exit_code == 0
    assert "Example" in result.stdout
    assert f"  systolith {command}" in result.stdout


def test_help_names_every_command_and_an_example() -> None:
    result = call_cli("--help")
    assert result.exit_code == 0
    assert "systolith run lenet5" in result.stdout
    assert set(COMMANDS) == set(cli.commands)
    assert all(command in result.stdout for command in COMMANDS)


def test_json_is_one_object_and_nothing_else() -> None:
    result = call_cli(*EMULATED, "--config", "small", "--json")
    assert result.exit_code == 0, result.output
    values = json.loads(result.stdout)
    assert set(values) >= PROMISED
    assert (values["network"], values["config"], values["backend"]) == ("lenet5", "small", "emulator")
    assert (values["images"], values["mismatches"], len(values["predictions"])) == (2, 0, 2)
    assert values["total_cycles"] is values["cycles_per_image"] is values["simulated_cycles_per_second"] is None
    for layer in values["layers"]:
        assert set(layer) == {"name", "op", "cycles", "macs", "utilisation", "bytes", "stalls"}
        assert layer["cycles"] is None
    assert sum(layer["macs"] for layer in values["layers"]) == values["macs_per_image"] > 0


def test_a_run_shows_digits_layers_and_verdict() -> None:
    result = call_cli(*EMULATED)
    assert result.exit_code == 0, result.output
    assert "█" in result.stdout
    assert result.stdout.count("labelled") == 2
    for word in ("cycles", "MACs", "utilisation", "bytes", "emulator"):
        assert word in result.stdout, word
    assert "bit-exact: every output byte of 2 of 2 images equals the golden model" in result.stdout
    assert "NOT" not in result.stdout
    assert max(len(line) for line in result.stdout.splitlines()) <= 100


def test_images_are_run_in_batches() -> None:
    result = call_cli("run", "lenet5", "--backend", "emulator", "--images", "6", "--batch", "4", "--json")
    assert result.exit_code == 0, result.output
    values = json.loads(result.stdout)
    assert (values["batch"], values["images"], values["mismatches"]) == (4, 6, 0)
    assert values["predictions"] == values["labels"]
    assert values["notes"][-1].startswith("the last batch of 4 has 2 images")
    for network, images in (("lenet5", 12), ("autoencoder", 4)):  # whole batches when nothing is said
        values = json.loads(call_cli("run", network, "--backend", "emulator", "--batch", "4", "--json").stdout)
        assert (values["images"], values["mismatches"]) == (images, 0)


def test_a_terminal_without_unicode_gets_plain_characters() -> None:
    with start(*EMULATED, stdout=subprocess.PIPE, env={"PYTHONIOENCODING": "ascii"}) as process:
        output, errors = process.communicate()
    assert process.returncode == 0, errors
    assert output.isascii()
    assert b"#" in output


def test_a_clock_gives_each_layer_its_cycles() -> None:
    result = call_cli("run", "lenet5", "--images", "1", "--backend", "verilator", "--config", "tiny", "--json")
    if result.exit_code == 2 and "g++" in result.stderr:
        pytest.skip("Verilator cannot build here")
    assert result.exit_code == 0, result.output
    values = json.loads(result.stdout)
    assert sum(layer["cycles"] for layer in values["layers"]) == values["cycles_per_image"] == values["total_cycles"]
    size = PRESETS["tiny"].macs_per_cycle
    assert values["utilisation"] == values["macs_per_image"] / (size * values["cycles_per_image"])
    assert values["simulated_cycles_per_second"] > 0


def test_configs_lists_what_has_a_name() -> None:
    listed = json.loads(call_cli("configs", "--json").stdout)["configs"]
    assert [c["name"] for c in listed] == [*PRESETS, *DESIGNS]
    assert [c["rows"] for c in listed] == [p.rows for p in (*PRESETS.values(), *DESIGNS.values())]
    table = call_cli("configs").stdout
    assert all(name in table for name in (*PRESETS, *DESIGNS))


def test_networks_lists_the_built_in_ones() -> None:
    listed = json.loads(call_cli("networks", "--json").stdout)["networks"]
    assert [n["name"] for n in listed] == list(NETWORKS)
    lenet5 = next(n for n in listed if n["name"] == "lenet5")
    assert (lenet5["input"], lenet5["macs"]) == ([32, 32, 1], 416520)
    assert "416,520" in call_cli("networks").stdout


def test_disassemble_prints_the_program() -> None:
    result = call_cli("disassemble", "lenet5", "--config", "tiny")
    assert result.exit_code == 0, result.output
    lines = [line for line in result.stdout.splitlines() if not line.startswith(";")]
    assert "BEGIN" in lines[0]
    assert lines[-1].endswith("END")
    assert f"{PRESETS['tiny'].digest:016x}" in lines[0]


# Mismatches


@pytest.fixture
def wrong_golden(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the golden model differ from every engine in one byte of image 1."""
    right = golden.run

    def wrong(network: Any, images: Any) -> Any:
        outputs = right(network, images)
        outputs[1, 0, 0, 3] ^= 1
        return outputs

    monkeypatch.setattr(golden, "run", wrong)


@pytest.mark.usefixtures("wrong_golden")
def test_a_mismatch_is_an_error_that_names_the_byte() -> None:
    result = call_cli(*EMULATED)
    assert result.exit_code == 1
    assert "image 1 differs from the golden model, first at (y, x, c) = (0, 0, 3): got" in result.stderr
    assert "NOT bit-exact: 1 of 2 images equal the golden model" in result.stdout
    assert "bit-exact: every" not in result.stdout


@pytest.mark.usefixtures("wrong_golden")
def test_a_mismatch_is_in_the_json_too() -> None:
    result = call_cli(*EMULATED, "--json")
    assert result.exit_code == 1
    values = json.loads(result.stdout)
    assert values["mismatches"] == 1
    first = values["first_mismatch"]
    assert (first["image"], first["y"], first["x"], first["channel"]) == (1, 0, 0, 3)
    assert abs(first["got"] - first["expected"]) == 1


# Refusals


def write_truncated(folder: Path) -> list[str]:
    (folder / "half.onnx").write_bytes((DATA / "lenet5.onnx").read_bytes()[:5000])
    return ["run", str(folder / "half.onnx")]


def write_empty(folder: Path) -> list[str]:
    (folder / "empty.onnx").write_bytes(b"")
    return ["run", str(folder / "empty.onnx")]


def write_wrong_shape(folder: Path) -> list[str]:
    np.save(folder / "wide.npy", np.zeros((1, 32, 40, 1), np.int8))
    return ["run", "lenet5", "--input", str(folder / "wide.npy")]


def write_wrong_type(folder: Path) -> list[str]:
    np.save(folder / "words.npy", np.zeros((1, 32, 32, 1), np.int32))
    return ["run", "lenet5", "--input", str(folder / "words.npy")]


def write_truncated_png(folder: Path) -> list[str]:
    (folder / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n\x00\x00")
    return ["run", "lenet5", "--input", str(folder / "cut.png")]


def write_bad_toml(folder: Path) -> list[str]:
    (folder / "bad.toml").write_text("rows = ")
    return ["run", "lenet5", "--config", str(folder / "bad.toml")]


def write_odd_toml(folder: Path) -> list[str]:
    (folder / "odd.toml").write_text('base = "small"\nrows = 99\n')
    return ["verilog", "--config", str(folder / "odd.toml"), "-o", str(folder / "out.v")]


def write_misspelt_toml(folder: Path) -> list[str]:
    (folder / "misspelt.toml").write_text('base = "small"\nrow = 4\n')
    return ["disassemble", "lenet5", "--config", str(folder / "misspelt.toml")]


def write_directory_v(folder: Path) -> list[str]:
    (folder / "core.v").mkdir()
    return ["verilog", "-o", str(folder / "core.v")]


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (lambda _: ["run", "lenet9"], "lenet5"),
        (lambda folder: ["run", str(folder / "none.onnx")], "none.onnx"),
        (write_truncated, "half.onnx"),
        (write_empty, "empty.onnx"),
        (write_wrong_shape, "wide.npy"),
        (write_wrong_type, "words.npy"),
        (write_truncated_png, "cut.png"),
        (write_bad_toml, "bad.toml"),
        (write_odd_toml, "rows must be from 2 to 32"),
        (write_misspelt_toml, "unknown field 'row'"),
        (lambda _: ["run", "lenet5", "--config", "huge"], "tiny, small, base, large"),
        (lambda folder: ["run", "lenet5", "--config", str(folder / "none.toml")], "none.toml"),
        (lambda folder: ["run", "lenet5", "--input", str(folder / "none.npy")], "none.npy"),
        (lambda _: ["run", "lenet5", "--memory-latency", "0"], "latency must be from 1"),
        (lambda _: ["run", "lenet5", "--memory-interval", "0"], "interval must be from 1"),
        (lambda _: ["run", "lenet5", "--images", "1001"], "sample images, not 1001"),
        (lambda _: ["run", "resnet8", "--images", "3000000000000"], "must be at most 100,000 random images"),
        (lambda folder: ["run", "lenet5", "--backend", "emulator", "--vcd", str(folder / "x.vcd")], "--backend verilator or pysim"),
        (lambda folder: ["run", "lenet5", "--vcd", str(folder / "none" / "x.vcd")], "does not exist"),
        (lambda folder: ["verilog", "-o", str(folder / "none" / "x.v")], "does not exist"),
        (lambda folder: ["run", "lenet5", "--output", str(folder / "out.txt")], "output bytes are written as .npy"),
        (lambda folder: ["estimate", str(folder)], "is no network; give a .onnx or .tflite file"),
        (lambda _: ["estimate", "lenet5", "--clock", "nan"], "--clock: must be a finite number, not nan"),
        (lambda _: ["estimate", "lenet5", "--clock", "inf"], "--clock: must be a finite number, not inf"),
        (write_directory_v, "is a directory"),
        (lambda _: ["verilog", "-o", "/dev/null"], "is not a directory; give a directory, or a file whose name ends in .v"),
        (lambda folder: ["verilog", "-o", str(folder / "none" / "core")], "does not exist"),
        (lambda folder: ["verilog", "-o", str(folder / "core"), "--memory-image", "lenet9"], "lenet5"),
        (lambda folder: ["verilog", "-o", str(folder / "x.v"), "--memory-image", "lenet5"], "-o must be a directory"),
        (lambda folder: ["disassemble", str(folder)], ""),
    ],
    ids=lambda value: "" if callable(value) else value.replace(" ", "-") or "directory",
)
def test_refusals_are_one_sentence_and_leave_nothing(prepare: Callable[[Path], list[str]], words: str, tmp_path: Path) -> None:
    arguments = prepare(tmp_path)
    before = sorted(tmp_path.iterdir())
    result = call_cli(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    last = result.stderr.splitlines()[-1]
    assert last.startswith("systolith: ")
    assert result.stderr.count("systolith: ") == 1
    assert words in last
    assert "Traceback" not in result.stderr
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("command", "arguments", "words"),
    [
        ("", ["walk"], ["no such command", "'walk'"]),
        ("", ["--frobnicate"], ["no such option", "--frobnicate"]),
        ("", ["--"], ["missing command"]),
        ("run", [], ["missing argument 'NETWORK'"]),
        ("compare", [], ["missing argument 'MODEL...'"]),
        ("verilog", [], ["missing option '-o' / '--output'"]),
        ("infer", ["digit.png"], ["missing option '--port'"]),
        ("bitstream", ["lenet5", "--frobnicate"], ["no such option", "--frobnicate"]),
        ("run", ["lenet5", "--imags", "3"], ["no such option", "--imags", "(is it --images?)"]),
        ("run", ["lenet5", "--images"], ["option '--images' requires an argument"]),
        ("configs", ["--json=3"], ["option '--json' does not take a value"]),
        ("networks", ["all"], ["got unexpected extra argument (all)"]),
        ("disassemble", ["a", "b", "c"], ["got unexpected extra arguments (b c)"]),
        ("run", ["lenet5", "--backend", "icarus"], ["invalid value for '--backend'", "'icarus'", *BACKENDS]),
        ("fpga", ["--seed", "one"], ["invalid value for '--seed'", "'one' is not a valid integer"]),
        ("run", ["lenet5", "--images", "0"], ["invalid value for '--images'", "0 is not in the range x>=1"]),
        ("estimate", ["lenet5", "--clock", "0"], ["invalid value for '--clock'", "0.0 is not in the range x>0"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_words_that_are_no_command_are_refused_in_one_sentence(command: str, arguments: list[str], words: list[str]) -> None:
    result = call_cli(*filter(None, [command]), *arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith(f"systolith: {command}: {words[0]}" if command else f"systolith: {words[0]}")
    assert result.stderr.endswith(f"; `{f'systolith {command}'.strip()} --help` shows how\n")
    assert result.stderr.count("\n") == 1
    for word in words:
        assert word in result.stderr


def test_without_a_command_the_help_is_shown() -> None:
    result = call_cli()
    assert result.exit_code == 2
    assert result.stderr == call_cli("--help").stdout


# Images


def test_images_from_a_file(tmp_path: Path) -> None:
    pixels = np.zeros((3, 28, 28), np.uint8)
    pixels[:, 4:24, 13:16] = 255
    np.savez(tmp_path / "digits.npz", x=pixels)
    arguments = ("run", "lenet5", "--backend", "emulator", "--input", str(tmp_path / "digits.npz"), "--json")
    values = json.loads(call_cli(*arguments).stdout)
    assert (values["images"], values["mismatches"], values["labels"]) == (3, 0, None)
    assert values["predictions"] == [1, 1, 1]
    some = call_cli(*arguments, "--images", "2")
    assert json.loads(some.stdout)["images"] == 2


def test_a_network_without_samples_says_that_it_ran_on_random_bytes(tmp_path: Path) -> None:
    (tmp_path / "own.onnx").write_bytes((DATA / "lenet5.onnx").read_bytes())
    result = call_cli("run", str(tmp_path / "own.onnx"), "--backend", "emulator", "--images", "1")
    assert result.exit_code == 0, result.output
    assert "random bytes" in result.stdout
    assert "labelled" not in result.stdout


# Files


def test_verilog_writes_the_core_alone(tmp_path: Path) -> None:
    target = tmp_path / "core.v"
    result = call_cli("verilog", "--config", "tiny", "-o", str(target))
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    text = target.read_text()
    assert "module systolith (" in text
    assert "$display" not in text
    assert "assert" not in text
    assert list(tmp_path.iterdir()) == [target]
    assert call_cli("verilog", "--config", "tiny", "-o", "-").stdout == text


def test_verilog_writes_the_core_and_all_that_belongs_to_it(tmp_path: Path) -> None:
    target = tmp_path / "core"
    arguments = ("verilog", "--config", "tiny", "--bus", "wishbone", "-o", str(target))
    result = call_cli(*arguments)
    assert result.exit_code == 0, result.output
    described = json.loads((target / "systolith.json").read_text())
    assert [path.name for path in sorted(target.iterdir())] == described["files"]
    assert "m_wb_adr_o" in (target / "systolith.v").read_text()
    (target / "systolith.v").write_text("old")
    (target / "mine.txt").write_text("mine")
    assert call_cli(*arguments, "--memory-image", "lenet5").exit_code == 0
    images = {"lenet5.hex", "lenet5.h", "lenet5.c"}
    assert {path.name for path in target.iterdir()} == {*described["files"], *images, "mine.txt"}
    assert "module systolith (" in (target / "systolith.v").read_text()
    assert list(tmp_path.iterdir()) == [target]


def test_a_directory_is_written_where_its_parent_may_not_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be the root of a file system of its own."""
    target = tmp_path / "core"
    target.mkdir()
    make = Path.mkdir

    def refused(path: Path, *arguments: Any, **options: Any) -> None:
        if path.parent == tmp_path:
            raise PermissionError(13, "Permission denied")
        make(path, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", refused)
    result = call_cli("verilog", "--config", "tiny", "-o", str(target))
    assert result.exit_code == 0, result.output
    assert "systolith.v" in {path.name for path in target.iterdir()}
    assert not [path for path in target.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("option", ["--output", "--trace"])
@pytest.mark.parametrize("read", ["image", "link", "config"])
def test_what_is_read_is_not_written(option: str, read: str, tmp_path: Path) -> None:
    image, link, config = tmp_path / "image.npy", tmp_path / "link.npy", tmp_path / "config.toml"
    np.save(image, np.zeros((28, 28), np.uint8))
    link.symlink_to(image)
    config.write_text('base = "tiny"\n')
    before = image.read_bytes(), config.read_bytes()
    target = {"image": image, "link": link, "config": config}[read]
    result = call_cli("run", "lenet5", "--input", str(image), "--config", str(config), option, str(target))
    assert result.exit_code == 2
    assert result.stderr == f"systolith: {target}: is read by this command too; give the name of another file to write\n"
    assert (image.read_bytes(), config.read_bytes()) == before


def test_an_interrupt_before_anything_is_known_is_answered(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli_module, "main", interrupt)
    with pytest.raises(SystemExit) as ended:
        program.main()
    assert ended.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_choices_are_what_simulation_and_export_offer() -> None:
    assert ("auto", *backends.BACKENDS) == BACKENDS
    # an engine with a memory of its own has no bus to choose
    assert export.KINDS[1:] == (*BUSES, "micro")


@pytest.mark.parametrize("output", ["core.v", "core"])
def test_an_interrupt_leaves_no_file(output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(path: Path, *_: object, **__: object) -> None:
        path.touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(verilog, "core_verilog", lambda *_: ("module", []))
    for write in ("write_text", "write_bytes"):
        monkeypatch.setattr(Path, write, interrupt)
    result = call_cli("verilog", "-o", str(tmp_path / output))
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-1] == "interrupted"
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "engine.v"
    target.write_text("old")

    def full(path: Path, *_: object, **__: object) -> None:
        path.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(verilog, "core_verilog", lambda *_: ("module", []))
    monkeypatch.setattr(Path, "write_text", full)
    result = call_cli("verilog", "-o", str(target))
    assert result.exit_code == 2
    assert result.stderr == f"systolith: {target}: cannot be written: No space left on device\n"
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_link_is_followed_and_stays(tmp_path: Path) -> None:
    target, link = tmp_path / "target.json", tmp_path / "link.json"
    target.write_text("old")
    link.symlink_to(target)
    assert call_cli("estimate", "lenet5", "--trace", str(link)).exit_code == 0
    assert link.is_symlink()
    assert json.loads(target.read_text())
    assert sorted(tmp_path.iterdir()) == [link, target]


# Processes


def test_help_and_refusals_wait_for_nothing_that_only_a_run_needs() -> None:
    """Every command and option is known before importers, compiler or simulation are."""
    command = [sys.executable, "-c", "import sys, accel.cli; print(*sys.modules)"]
    environment = {**os.environ, "PYTHONPATH": str(Path(program.__file__).parent.parent)}
    found = set(subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60).stdout.split())
    assert {"accel.cli.run", "click", "accel.config"} <= found
    ours = ("accel.compiler", "accel.frontends", "accel.fpga", "accel.perf", "accel.terminal", "rtl", "sim")
    assert not found & {*ours, "amaranth", "matplotlib", "onnx", "onnxruntime", "rich", "serial", "tflite"}


def test_interrupted_simulation_stops_cleanly(tmp_path: Path) -> None:
    arguments = ("run", "lenet5", "--backend", "pysim", "--config", "small", "--vcd", str(tmp_path / "waves.vcd"))
    with start(*arguments, stdout=subprocess.PIPE) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if b"simulating" in line:
                process.send_signal(signal.SIGINT)
                break
        output, errors = process.communicate(timeout=600)  # no measure: a busy machine takes a while
    assert process.returncode == 130, errors
    assert output == b""
    assert errors.splitlines()[-1] == b"interrupted"
    assert b"Traceback" not in errors
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_leaves_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    with start("configs", stdout=write) as process:
        os.close(write)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 141
    assert errors == b""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_one_sentence() -> None:
    with Path("/dev/full").open("wb") as full, start("configs", "--json", stdout=full) as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert errors == b"systolith: standard output cannot be written: No space left on device\n"
