"""What an instruction asks of the loops, addresses and paths that all instructions share."""

from __future__ import annotations

from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from accel.config import EngineConfig
from accel.isa import INSTRUCTION_BYTES, PARAMETER_BYTES, Opcode, Operation, Target
from accel.numerics import Rounding
from rtl.layouts import instruction_layout

__all__ = ["LOCAL_BITS", "LOOPS", "MEMORY_BITS", "TAPS", "Decoder"]

#: Bits of the counts of the four loops over pixels, words or elements, and of the three over taps.
LOOPS = (12, 12, 4, 16)
TAPS = (12, 8, 8)
#: Bits of an address on chip as instructions have it, and of a byte's in the large memory.
LOCAL_BITS, MEMORY_BITS = 16, 17


def _log2(size: int) -> int:
    return size.bit_length() - 1


class Decoder(wiring.Component):
    """The fields of an instruction, brought to what its kinds have in common.

    The loops are, the outermost first, (py, px, wy, wx) of an EXECUTE, (z, y, -, x) of a LOAD and (-, y, -, x) of a STORE; the
    second addresses follow an EXECUTE's taps, or are the memory's, whose loops are (z, y, x).

    Parameters
    ----------
    config
        The engine's configuration.

    Members
    -------
    i_word
        The instruction.
    o_malformed
        It is no LOAD, EXECUTE or STORE that this engine could carry out.
    o_counts, o_taps
        Iterations of the loops, and of those over taps.
    o_base, o_strides
        First address on chip, and its strides.
    o_second_base, o_second_strides
        The same of taps, or of the memory.
    """

    def __init__(self, *, config: EngineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "i_word": In(8 * INSTRUCTION_BYTES),
                "o_malformed": Out(1),
                "o_counts": Out(data.StructLayout({f"_{n}": width for n, width in enumerate(LOOPS)})),
                "o_taps": Out(data.StructLayout({f"_{n}": width for n, width in enumerate(TAPS)})),
                "o_base": Out(LOCAL_BITS),
                "o_strides": Out(data.ArrayLayout(LOCAL_BITS, len(LOOPS))),
                "o_second_base": Out(MEMORY_BITS),
                "o_second_strides": Out(data.ArrayLayout(MEMORY_BITS, len(TAPS))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        load, execute, store = (
            data.View(instruction_layout(opcode), self.i_word) for opcode in (Opcode.LOAD, Opcode.EXECUTE, Opcode.STORE)
        )
        m.d.comb += [
            *(field.eq(execute[f"n_{name}"]) for field, name in zip(self._fields(self.o_taps), ("block", "ky", "kx"), strict=True))
        ]

        def set_loops(
            counts: tuple[Value | int, ...],
            base: Value,
            strides: tuple[Value | int, ...],
            second_base: Value | int,
            second_strides: tuple[Value | int, ...],
        ) -> None:
            m.d.comb += [
                *(field.eq(count) for field, count in zip(self._fields(self.o_counts), counts, strict=True)),
                self.o_base.eq(base),
                *(field.eq(stride) for field, stride in zip(self.o_strides, strides, strict=True)),
                self.o_second_base.eq(second_base),
                *(field.eq(stride) for field, stride in zip(self.o_second_strides, second_strides, strict=True)),
            ]

        with m.Switch(load.opcode):
            with m.Case(Opcode.LOAD):
                m.d.comb += self.o_malformed.eq(self._bad_load(load))
                element = (1 << load.element_log2)[: _log2(PARAMETER_BYTES) + 1]
                set_loops(
                    (load.n_z, load.n_y, 1, load.n_x),
                    load.local_address,
                    (load.local_stride_z, load.local_stride_y, 0, 1),
                    load.memory_address[:MEMORY_BITS],
                    (load.memory_stride_z[:MEMORY_BITS], load.memory_stride_y[:MEMORY_BITS], element),
                )
            with m.Case(Opcode.EXECUTE):
                m.d.comb += self.o_malformed.eq(self._bad_execute(execute))
                set_loops(
                    (execute.n_py, execute.n_px, execute.n_wy, execute.n_wx),
                    execute.activations,
                    (execute.stride_py, execute.stride_px, execute.stride_wy, execute.stride_wx),
                    0,
                    (execute.stride_block, execute.stride_ky, execute.stride_kx),
                )
            with m.Case(Opcode.STORE):
                m.d.comb += self.o_malformed.eq(self._bad_store(store))
                set_loops(
                    (1, store.n_y, 1, store.n_x),
                    store.scratchpad,
                    (0, store.scratchpad_stride_y, 0, 1),
                    store.memory_address[:MEMORY_BITS],
                    (0, store.memory_stride_y[:MEMORY_BITS], self.config.word_bytes),
                )
            with m.Default():
                m.d.comb += self.o_malformed.eq(1)
        return m

    @staticmethod
    def _fields(view: data.View) -> list[Value]:
        return [view[name] for name, _ in view.shape()]

    # The same is refused as by the dispatcher of the large engine, where what this one lacks is always absent.

    def _bad_load(self, load: data.View) -> Value:
        config = self.config
        sizes = {Target.WEIGHTS: config.weight_word_bytes, Target.PARAMETERS: PARAMETER_BYTES}
        low = (load.memory_address | load.memory_stride_y | load.memory_stride_z)[: _log2(PARAMETER_BYTES)]
        below = ((1 << load.element_log2) - 1)[: len(low)]
        unaligned = (low & below).any()
        with_memory: Value = Const(0)
        for target, size in sizes.items():
            with_memory = with_memory | ((load.target == target) & (load.element_log2 == _log2(size)))
        is_activations = load.target == Target.ACTIVATIONS
        with_memory = with_memory | (is_activations & (load.element_log2 <= _log2(config.word_bytes)))
        nested = (load.target == Target.PARAMETERS) & ((load.n_y != 1) | (load.n_z != 1))
        known = (with_memory & ~unaligned & ~nested) | (load.target == Target.FILL)
        return _any_zero(load, "n_x", "n_y", "n_z") | ~known

    def _bad_execute(self, execute: data.View) -> Value:
        rows = self.config.rows
        is_array = execute.operation == Operation.ARRAY
        return (
            _any_zero(execute, "n_block", "n_ky", "n_kx", "n_py", "n_px", "n_wy", "n_wx", "tap_rows")
            | (execute.operation >= Operation.WINDOW)
            | Mux(is_array, execute.tap_rows > rows, (execute.tap_rows != rows) | (execute.row_offset != 0))
        )

    def _bad_store(self, store: data.View) -> Value:
        config = self.config
        unaligned = (store.memory_address | store.memory_stride_y)[: _log2(config.word_bytes)].any()
        return (
            _any_zero(store, "n_x", "n_y", "pool", "groups")
            | (store.first_group + store.groups > config.columns)
            | (store.byte_offset + store.groups > config.rows)
            | (store.rounding > max(Rounding))
            | store.use_table
            | store.source
            | (store.to_memory & unaligned)
        )


def _any_zero(view: data.View, *names: str) -> Value:
    found: Value = Const(0)
    for name in names:
        found = found | (view[name] == 0)
    return found
