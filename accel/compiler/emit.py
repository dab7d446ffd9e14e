"""Writing the program down: instructions with their waits, the data they load, and the bytes they move."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace

import numpy as np

from accel.compiler.errors import CompileError
from accel.compiler.frames import Frame, MemoryMap, Rectangle, border_fills
from accel.compiler.hazards import Access, HazardTracker, Space
from accel.compiler.rings import Ring
from accel.compiler.stages import Bytes
from accel.config import EngineConfig
from accel.isa import (
    INSTRUCTION_BYTES,
    ISA_VERSION,
    MAGIC,
    PARAMETER_BYTES,
    PERIOD_THREE,
    Instruction,
    Opcode,
    Operation,
    Target,
    fields_of,
)
from accel.perf import BURST_BEATS
from accel.program import TELL_EVERY

__all__ = ["Emitter", "Loop", "align", "map_alignment"]

#: Boundary on which the data of a LOAD begins, so that its bursts are long.
_DATA_ALIGNMENT = 64
_MASK = 0xFFFF

#: Of the scratchpad's write port, FILLs leave one cycle in so many to the output stage, as a power of two: they are short, but a
#: stage that is still storing should not wait for them.
_FILL_SHARE_LOG2 = 2

#: The fields of an EXECUTE's loops.
_EXECUTE_LOOPS = {name: (f"n_{name}", f"stride_{name}") for name in ("block", "ky", "kx", "py", "px", "wy", "wx")}

#: Loops of a LOAD.
_LOAD_LOOPS = 3
_LOAD_LIMITS = {field.name: field.maximum for field in fields_of(Opcode.LOAD)}


def align(value: int, alignment: int) -> int:
    """Return the first multiple of ``alignment`` that is not below ``value``."""
    return -(-value // alignment) * alignment


def map_alignment(config: EngineConfig) -> int:
    """Return the boundary on which maps begin: where a burst would end anyway."""
    return BURST_BEATS * config.bus_bytes


@dataclass(slots=True)  # (not frozen: a program has tens of thousands, and they would take three times as long)
class Loop:
    """One loop of an instruction: its count, and the local words (and, for a LOAD, memory bytes) from one step to the next."""

    count: int
    stride: int
    memory_stride: int = 0


def _merged(loops: list[Loop]) -> list[Loop]:
    """Return nested loops (outermost first, the last one kept) with those joined that walk on where the inner one ends."""
    result = [loops[-1]]
    for outer in reversed(loops[:-1]):
        inner = result[0]
        if outer.count == 1:
            continue
        if outer.stride == inner.count * inner.stride and outer.memory_stride == inner.count * inner.memory_stride:
            result[0] = Loop(outer.count * inner.count, inner.stride, inner.memory_stride)
        else:
            result.insert(0, outer)
    return result


class Emitter:
    """Collects a program in program order.

    Addresses of data and of maps are offsets into their sections until :meth:`finish` knows where the sections begin. Data are
    packed only when the image is asked for. ``advance`` is told now and then how many instructions there are.
    """

    def __init__(self, config: EngineConfig, *, map_bytes: int, advance: Callable[[int], None] | None = None) -> None:
        self.config = config
        self.map_bytes = map_bytes
        self._advance = advance
        self.bytes_read = 0
        self.bytes_written = 0
        self.words_stored = 0
        self._hazards = HazardTracker()
        self._instructions: list[tuple[Opcode, dict[str, int], str]] = [
            (Opcode.BEGIN, {"magic": MAGIC, "isa_version": ISA_VERSION, "digest": config.digest}, "")
        ]
        self._data: list[tuple[int, int, Callable[[], Bytes]]] = []
        self._data_bytes = 0
        self._data_at: dict[Hashable, int] = {}
        self._rings = {
            Target.WEIGHTS: Ring[int](0, config.weight_words),
            Target.PARAMETERS: Ring[int](0, config.parameter_groups),
        }
        self._tables: dict[Target, bytes] = {}

    @property
    def count(self) -> int:
        """Instructions so far."""
        return len(self._instructions)

    def load_weights(self, key: Hashable, words: int, pack: Callable[[], Bytes]) -> int:
        """Have the ``words`` that ``pack`` returns, uint8 ``(words, weight_word_bytes)``, on chip; return their address.

        ``key`` stands for the words: they are packed once, and loaded again only when the ring has gone over them.
        """
        return self._cached(Target.WEIGHTS, key, words, pack)

    def load_parameters(self, key: Hashable, entries: Bytes) -> int:
        """Have parameter entries (uint8 ``(channels, 16)``) in the parameter memory; return the address of their first group."""
        return self._cached(Target.PARAMETERS, key, len(entries), lambda: entries)

    def _cached(self, target: Target, key: Hashable, elements: int, pack: Callable[[], Bytes]) -> int:
        ring, per_address, space = self._rings[target], 1, Space.WEIGHTS
        element_bytes = self.config.weight_word_bytes
        if target is Target.PARAMETERS:
            per_address, space = self.config.lanes, Space.PARAMETERS
            element_bytes = PARAMETER_BYTES
        found = ring.find(key)
        if found is not None:
            return found
        offset = self._place_data(key, elements * element_bytes, pack)
        address = ring.allocate(key, elements // per_address)
        ring.put(key, address)
        self._load(
            target,
            memory_address=offset,
            section="data",
            element_bytes=element_bytes,
            local_address=address,
            loops=[Loop(elements, 1, element_bytes)],
            writes=[Access(space, address, address + elements // per_address)],
        )
        return address

    def _place_data(self, key: Hashable, size: int, pack: Callable[[], Bytes]) -> int:
        """Return the offset of the data behind a key: ``size`` bytes, which ``pack`` returns."""
        if key not in self._data_at:
            self._data_at[key] = self._data_bytes
            self._data.append((self._data_bytes, size, pack))
            self._data_bytes = align(self._data_bytes + size, _DATA_ALIGNMENT)
        return self._data_at[key]

    def load_table(self, target: Target, table: Bytes) -> None:
        """Have an activation or operand table on chip."""
        content = table.tobytes()
        if self._tables.get(target) == content:
            return
        self._tables[target] = content
        element_bytes, space = (1, Space.TABLE) if target is Target.TABLE else (4, Space.PAIR_TABLE)
        entries = len(content) // element_bytes
        offset = self._place_data((target, content), len(content), lambda: table)
        self._load(
            target,
            memory_address=offset,
            section="data",
            element_bytes=element_bytes,
            local_address=0,
            loops=[Loop(entries, 1, element_bytes)],
            writes=[Access(space, 0, entries)],
        )

    def load_map(self, source: MemoryMap, frame: Frame, area: Rectangle, period: int, share_log2: int) -> None:
        """Load ``area``, which lies inside the map and the frame. A word repeats its bytes after ``period`` banks.

        One cycle in ``2**share_log2`` of the scratchpad's write port is left to STOREs.
        """
        element_bytes = 1 << source.element_log2
        images = Loop(area.images, frame.image_words, source.image_bytes)
        start = area.first_image * source.image_bytes
        start += source.address + area.first_plane * source.plane_bytes + area.top * source.row_bytes + area.left * element_bytes
        rows = Loop(area.bottom - area.top, frame.row_words, source.row_bytes)
        planes = Loop(area.last_plane - area.first_plane, frame.pitch, source.plane_bytes)
        pixels = Loop(area.right - area.left, 1, element_bytes)
        loops = _merged([images, rows, planes, pixels])
        if len(loops) > _LOAD_LOOPS:
            for image in range(area.first_image, area.last_image):
                self.load_map(source, frame, replace(area, first_image=image, last_image=image + 1), period, share_log2)
            return
        last = (
            start
            + (images.count - 1) * images.memory_stride
            + (rows.count - 1) * rows.memory_stride
            + (planes.count - 1) * planes.memory_stride
        )
        local = frame.address(area.first_plane, area.top, area.left, area.first_image)
        end = frame.address(area.last_plane - 1, area.bottom - 1, area.right - 1, area.last_image - 1) + 1
        self._load(
            Target.ACTIVATIONS,
            memory_address=start,
            section="maps",
            element_bytes=element_bytes,
            local_address=local,
            loops=loops,
            reads=[Access(Space.MEMORY, start, last + pixels.count * element_bytes)],
            writes=[Access(Space.SCRATCHPAD, local, end)],
            share_log2=share_log2,
            period_log2=PERIOD_THREE if period == 3 else (min(period, element_bytes) - 1).bit_length(),
        )

    def fill_border(self, frame: Frame, value: int) -> None:
        """Fill the words of a frame that lie outside its map, in all its images."""
        images = Loop(frame.area.images, frame.image_words, frame.image_words)
        for address, words, lines, pitch in border_fills(frame):
            self._load(
                Target.FILL,
                memory_address=0,
                section="",
                element_bytes=1,
                local_address=address,
                loops=[images, Loop(lines, pitch, pitch), Loop(words, 1, 1)],
                writes=[
                    Access(Space.SCRATCHPAD, address, address + (images.count - 1) * images.stride + (lines - 1) * pitch + words)
                ],
                fill_value=value & 0xFF,
                share_log2=_FILL_SHARE_LOG2,
            )

    def _load(
        self,
        target: Target,
        *,
        memory_address: int,
        section: str,
        element_bytes: int,
        local_address: int,
        loops: list[Loop],
        writes: list[Access],
        reads: list[Access] | None = None,
        **fields: int,
    ) -> None:
        """Emit a LOAD over at most three loops, as several where a count or stride leaves its field."""
        loops = _merged(loops)
        # The y stride is the narrower field; the order of the outer loops does not matter.
        wide = len(loops) > 1 and loops[-2].memory_stride > _LOAD_LIMITS["memory_stride_y"]
        by_name = dict(zip(("n_x", "n_z", "n_y") if wide else ("n_x", "n_y", "n_z"), reversed(loops), strict=False))
        for name, loop in by_name.items():
            limit = _LOAD_LIMITS[name]
            if loop.count > limit:
                index = loops.index(loop)
                for start in range(0, loop.count, limit):
                    part = Loop(min(limit, loop.count - start), loop.stride, loop.memory_stride)
                    self._load(
                        target,
                        memory_address=memory_address + start * loop.memory_stride,
                        section=section,
                        element_bytes=element_bytes,
                        local_address=local_address + start * loop.stride,
                        loops=[*loops[:index], part, *loops[index + 1 :]],
                        writes=writes,
                        reads=reads,
                        **fields,
                    )
                return
        values = {
            "target": target,
            "element_log2": element_bytes.bit_length() - 1,
            "local_address": local_address,
            "memory_address": memory_address,
            **{name: by_name[name].count if name in by_name else 1 for name in ("n_x", "n_y", "n_z")},
            **fields,
        }
        for axis in ("y", "z"):
            if (name := f"n_{axis}") in by_name:
                values[f"local_stride_{axis}"] = by_name[name].stride & _MASK
                if target is not Target.FILL:
                    values[f"memory_stride_{axis}"] = by_name[name].memory_stride
        if target is Target.FILL:
            values["element_log2"] = 0
        else:
            self.bytes_read += element_bytes * math.prod(loop.count for loop in loops)
        self._emit(Opcode.LOAD, values, section, reads or [], writes)

    def execute(
        self,
        operation: Operation,
        *,
        activations: int,
        taps: dict[str, Loop],
        pixels: dict[str, Loop],
        accumulators: int,
        accumulate: bool,
        tap_rows: int,
        row_offset: int = 0,
        weights: tuple[int, int] = (0, 0),
        reduce: bool = False,
    ) -> None:
        """Emit an EXECUTE. ``taps`` has the loops block, ky, kx and ``pixels`` py, px, wy, wx; ``weights`` is address and words."""
        values = {
            "operation": operation,
            "accumulate": int(accumulate),
            "tap_rows": tap_rows,
            "row_offset": row_offset,
            "activations": activations,
            "weights": weights[0],
            "accumulators": accumulators,
            "reduce": int(reduce),
        }
        self._execute(values, taps | pixels, weights)

    def window(
        self,
        *,
        activations: int,
        lines: Loop,
        pixels: Loop,
        kernel: tuple[int, int],
        stride: tuple[int, int],
        accumulators: int,
        accumulate: bool,
        weights: tuple[int, int],
    ) -> None:
        """Emit a WINDOW over ``lines`` of ``pixels``; ``weights`` is address and words of its tile."""
        values = {
            "operation": Operation.WINDOW,
            "accumulate": int(accumulate),
            "tap_rows": self.config.rows,
            "activations": activations,
            "weights": weights[0],
            "accumulators": accumulators,
            "n_block": 1,
            "n_ky": kernel[0],
            "n_kx": kernel[1],
            "stride_ky": stride[0],
            "stride_kx": stride[1],
        }
        self._execute(values, {"py": lines, "px": pixels, "wy": Loop(1, 0), "wx": Loop(1, 0)}, weights)

    def _execute(self, values: dict[str, int], loops: dict[str, Loop], weights: tuple[int, int]) -> None:
        first = values["activations"]
        end = first + 1
        for name, loop in loops.items():
            count, stride = _EXECUTE_LOOPS[name]
            values[count] = loop.count
            values[stride] = loop.stride & _MASK
            end += (loop.count - 1) * loop.stride
        half = values["accumulators"] // self.config.accumulator_words
        reads = [Access(Space.SCRATCHPAD, first, end), Access(Space.WEIGHTS, weights[0], weights[0] + weights[1])]
        self._emit(Opcode.EXECUTE, values, "", reads, [Access(Space.ACCUMULATORS, half, half + 1)])

    def store(
        self,
        *,
        accumulators: int,
        rows: int,
        columns: int,
        pool: int,
        first_group: int,
        groups: int,
        parameters: int,
        byte_offset: int,
        finish: dict[str, int],
        local: tuple[int, int] | None,
        memory: tuple[int, int] | None,
    ) -> None:
        """Emit a STORE of ``rows`` by ``columns`` pixels to ``local`` and ``memory`` (address, and stride from row to row)."""
        self.words_stored += rows * columns
        half = accumulators // self.config.accumulator_words
        reads = [
            Access(Space.ACCUMULATORS, half, half + 1),
            Access(Space.PARAMETERS, parameters, parameters + groups),
        ]
        if finish.get("use_table"):
            reads.append(Access(Space.TABLE, 0, 256))
        if finish.get("source"):
            reads.append(Access(Space.PAIR_TABLE, 0, 512))
        writes = []
        values = {
            **finish,
            "accumulators": accumulators,
            "n_y": rows,
            "n_x": columns,
            "pool": pool,
            "first_group": first_group,
            "groups": groups,
            "parameters": parameters,
            "byte_offset": byte_offset,
        }
        if local is not None:
            values |= {"to_scratchpad": 1, "scratchpad": local[0], "scratchpad_stride_y": local[1] if rows > 1 else 0}
            writes.append(Access(Space.SCRATCHPAD, local[0], local[0] + (rows - 1) * local[1] + columns))
        if memory is not None:
            values |= {"to_memory": 1, "memory_address": memory[0], "memory_stride_y": memory[1] if rows > 1 else 0}
            writes.append(Access(Space.MEMORY, memory[0], memory[0] + (rows - 1) * memory[1] + columns * self.config.word_bytes))
            self.bytes_written += rows * columns * groups * self.config.lanes
        self._emit(Opcode.STORE, values, "maps" if memory is not None else "", reads, writes)

    def _emit(self, opcode: Opcode, values: dict[str, int], section: str, reads: list[Access], writes: list[Access]) -> None:
        self._instructions.append((opcode, values | self._hazards.order(opcode, reads, writes), section))
        if self._advance is not None and len(self._instructions) % TELL_EVERY == 0:
            self._advance(len(self._instructions))

    def finish(self, name: str) -> tuple[tuple[Instruction, ...], Callable[[], Bytes], int, int]:
        """End the program. Return its instructions, what packs its image, the address of the section of maps, and the bytes of
        memory needed.

        Raises :class:`CompileError` naming the network when it needs more memory than an address can hold.
        """
        self._instructions.append((Opcode.END, {}, ""))
        data_base = align(len(self._instructions) * INSTRUCTION_BYTES, _DATA_ALIGNMENT)
        map_base = align(data_base + self._data_bytes, map_alignment(self.config))
        total = map_base + self.map_bytes
        limit = self.config.memory_limit
        if total > limit:
            raise CompileError(
                f"{name}: the program and its maps take {total} bytes, but addresses of {self.config.name} reach {limit} bytes"
            )
        bases = {"data": data_base, "maps": map_base}
        instructions = []
        for opcode, values, section in self._instructions:
            if section:
                values["memory_address"] += bases[section]
            instructions.append(Instruction(opcode, values))
        program = tuple(instructions)
        return program, functools.partial(_image, program, self._data, data_base, data_base + self._data_bytes), map_base, total


def _image(
    instructions: tuple[Instruction, ...], data: list[tuple[int, int, Callable[[], Bytes]]], data_base: int, size: int
) -> Bytes:
    """Return the instructions, and from ``data_base`` on the data, as memory holds them: uint8 ``(size,)``."""
    image = np.zeros(size, np.uint8)
    code = b"".join(instruction.encode() for instruction in instructions)
    image[: len(code)] = np.frombuffer(code, np.uint8)
    for offset, length, pack in data:
        image[data_base + offset : data_base + offset + length] = pack().reshape(-1)
    return image
