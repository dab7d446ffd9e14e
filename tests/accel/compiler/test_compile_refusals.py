"""Features that an engine lacks are refused in one sentence; those it has are used exactly."""

import re
from dataclasses import replace

import numpy as np
import pytest

from accel import golden
from accel.compiler import CompileError, compile_network
from accel.config import DESIGNS, PRESETS
from accel.emulator import Emulator
from accel.graph import Add, AveragePool, Conv2D, Lookup, MaxPool, Network, Operator, Requantisation, Tensor, Window
from accel.numerics import Rounding

BASE = PRESETS["base"]
IDENTITY_TABLE = np.arange(-128, 128).astype(np.int8)


def requantisation(multiplier: int, shift: int, rounding: Rounding = Rounding.DOUBLE_AWAY) -> Requantisation:
    return Requantisation(
        multiplier=np.array([multiplier], np.int32), shift=np.array([shift], np.int32), rounding=rounding, zero_point=1
    )


def conv(scale: Requantisation, table: np.ndarray | None = None) -> Conv2D:
    weights = np.random.default_rng(1).integers(-128, 128, (5, 3, 3, 2), np.int8)
    bias = np.arange(5, dtype=np.int32)
    window = Window(kernel=(3, 3), padding=(1, 1, 1, 1))
    return Conv2D(
        name="conv1", inputs=("in",), output="out", window=window, weights=weights, bias=bias, requantisation=scale, table=table
    )


def network(*operators: Operator) -> Network:
    source = Tensor(name="in", shape=(6, 6, 2), zero_point=-3)
    tensors: dict[str, Tensor] = {}
    for op in operators:
        shapes = tuple((source if name == "in" else tensors[name]).shape for name in op.inputs)
        tensors[op.output] = Tensor(name=op.output, shape=op.output_shape(shapes))
    return Network(name="net", input=source, operators=operators, tensors=tensors, output=operators[-1].output)


def check(net: Network, **features: bool) -> None:
    images = np.random.default_rng(2).integers(-128, 128, (1, 6, 6, 2), np.int8)
    program = compile_network(net, replace(BASE, **features))
    assert np.array_equal(Emulator().run(program, list(images)).outputs, golden.run(net, images))


#: An operand table.
TABLE = np.arange(256, dtype=np.int32) * 1000


def test_tables() -> None:
    for op in (
        Lookup(name="sigmoid1", inputs=("in",), output="out", table=IDENTITY_TABLE),
        conv(requantisation(1 << 30, -8), IDENTITY_TABLE),
    ):
        check(network(op))
        with pytest.raises(
            CompileError, match=rf"^{op.name}: needs an activation table, but base is built without them; set tables = true$"
        ):
            compile_network(network(op), replace(BASE, tables=False))


def test_a_micro_engine_cannot_be_built_with_what_it_lacks() -> None:
    for op in (
        Lookup(name="one", inputs=("in",), output="out", table=IDENTITY_TABLE),
        Add(name="one", inputs=("in", "in"), output="out", tables=(TABLE, TABLE), requantisation=requantisation(1 << 30, -9)),
    ):
        with pytest.raises(
            CompileError, match=r"^one: .* micro is built without .*; take a configuration that is no micro engine$"
        ):
            compile_network(network(op), DESIGNS["micro"])


def test_elementwise() -> None:
    add = Add(name="add1", inputs=("in", "in"), output="out", tables=(TABLE, TABLE), requantisation=requantisation(1 << 30, -9))
    check(network(add))
    with pytest.raises(
        CompileError, match=r"^add1: adds two maps, but base is built without operand tables; set elementwise = true$"
    ):
        compile_network(network(add), replace(BASE, elementwise=False))


@pytest.mark.parametrize("rounding", Rounding)
def test_powers_of_two_need_no_multiplier(rounding: Rounding) -> None:
    for multiplier, shift in ((1 << 30, -8), (1 << 30, 1), (1 << 20, 2), (0, 0), (1, 3)):
        check(network(conv(requantisation(multiplier, shift, rounding))), multiplier=False)
    check(network(MaxPool(name="pool1", inputs=("in",), output="out", window=Window(kernel=(2, 2)))), multiplier=False)


def test_other_factors_do() -> None:
    average = AveragePool(
        name="pool1",
        inputs=("in",),
        output="out",
        window=Window(kernel=(3, 3)),
        input_zero_point=0,
        factors={9: (1908874354, -3)},
        requantisation=requantisation(0, 0),
    )
    for op in (average, conv(requantisation((1 << 30) + 1, -8)), conv(requantisation(1 << 30, 2))):
        check(network(op))
        with pytest.raises(CompileError, match=rf"^{op.name}: its scale factors are not powers of two .* set multiplier = true$"):
            compile_network(network(op), replace(BASE, multiplier=False))


def test_more_memory_than_addresses_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    small = network(conv(requantisation(1 << 30, -8)))
    monkeypatch.setattr("accel.config.EngineConfig.memory_limit", 1024)
    early = r"^net: its weights and maps take at least (\d+) bytes, but addresses of base reach 1024 bytes$"
    with pytest.raises(CompileError, match=early) as caught:
        compile_network(small, BASE)
    least = int(re.search(early, str(caught.value))[1])
    monkeypatch.setattr("accel.config.EngineConfig.memory_limit", least)
    with pytest.raises(
        CompileError, match=rf"^net: the program and its maps take \d+ bytes, but addresses of base reach {least} bytes$"
    ):
        compile_network(small, BASE)


def test_weights_far_from_their_zero_point() -> None:
    """127 - (-128) takes three int8 parts; -128 - 127 takes two."""
    for zero_point in (-128, 127, 1):
        op = conv(requantisation(1 << 30, -9))
        op = replace(op, weight_zero_point=np.array([zero_point], np.int32))
        op.weights[0, 0, 0] = 127, -128
        check(network(op))


def test_layers_without_use_are_left_out() -> None:
    scale = requantisation(1 << 30, -8)
    unused = Lookup(name="unused", inputs=("in",), output="nowhere", table=IDENTITY_TABLE)
    net = network(unused, conv(scale))
    assert [layer.name for layer in compile_network(net, BASE).layers] == ["conv1"]
    check(net)


def test_what_fuses() -> None:
    """A lookup or a pool joins what comes before, unless the pool would come between a table and its bytes."""
    pool = MaxPool(
        name="pool", inputs=("out",), output="small", window=Window(kernel=(2, 2), stride=(2, 2)), minimum=-20, maximum=30
    )
    falling = Lookup(name="falling", inputs=("small",), output="end", table=IDENTITY_TABLE[::-1].copy())
    rising = Lookup(name="rising", inputs=("small",), output="end", table=np.sort(IDENTITY_TABLE // 3).astype(np.int8))
    overlapping = replace(pool, window=Window(kernel=(2, 2), stride=(1, 1)))
    for operators, names in (
        ((pool, rising), ["conv1+pool+rising"]),
        ((pool, falling), ["conv1+pool", "falling"]),
        ((overlapping,), ["conv1", "pool"]),
    ):
        net = network(conv(requantisation(1 << 30, -8)), *operators)
        assert [layer.name for layer in compile_network(net, BASE).layers] == names
        check(net)
