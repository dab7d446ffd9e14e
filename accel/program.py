"""A compiled network: the memory image that the engine runs, and what the host must know to feed and read it.

Memory layout of a map: planes of ``channels_per_word`` channels, ``(planes, height, width, element_bytes)``; the last plane's
missing channels are there but mean nothing. A map of few channels is stored with a small element (a power of two), so that no bus
beat is wasted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from accel.config import EngineConfig
from accel.errors import SystolithError
from accel.graph import Shape
from accel.isa import INSTRUCTION_BYTES, Instruction, Opcode

__all__ = [
    "TELL_EVERY",
    "UNITS",
    "Backend",
    "LayerInfo",
    "MemoryTiming",
    "Program",
    "ProgramError",
    "RunResult",
    "TensorBinding",
    "UnitCounters",
]

#: The engine's units, in the order of every list of three.
UNITS = ("load", "execute", "store")

#: Instructions after which whoever writes or replays a program tells again how far it is.
TELL_EVERY = 1024

_Image = TypeVar("_Image")

Int8Array = npt.NDArray[np.int8]
Bytes = npt.NDArray[np.uint8]


class ProgramError(SystolithError):
    """Data that does not fit a program."""


@dataclass(frozen=True, kw_only=True)
class TensorBinding:
    """Where a map lies in memory: byte ``address`` (from the program's base), ``planes = ceil(channels / channels_per_word)``
    planes; those of further images follow it without a gap. ``shape`` is one image's."""

    name: str
    shape: Shape
    address: int
    channels_per_word: int
    element_bytes: int

    @property
    def planes(self) -> int:
        """Planes of the map."""
        return -(-self.shape[2] // self.channels_per_word)

    @property
    def nbytes(self) -> int:
        """Bytes the map of one image takes."""
        height, width, _ = self.shape
        return self.planes * height * width * self.element_bytes

    def place(self, image: int = 0) -> slice:
        """Return the bytes of an image's map, the images of a batch counted from 0."""
        first = self.address + image * self.nbytes
        return slice(first, first + self.nbytes)

    def pack(self, image: npt.ArrayLike) -> Bytes:
        """Return an int8 map ``(height, width, channels)`` as it lies in memory: uint8 ``(nbytes,)``."""
        image = np.asarray(image)
        if image.shape != self.shape or image.dtype != np.int8:
            raise ProgramError(f"{self.name}: must be int8 of shape {self.shape}, not {image.dtype} {image.shape}")
        height, width, channels = self.shape
        full = np.zeros((height, width, self.planes * self.channels_per_word), np.int8)
        full[:, :, :channels] = image
        packed = np.zeros((self.planes, height, width, self.element_bytes), np.int8)
        packed[..., : self.channels_per_word] = full.reshape(height, width, self.planes, -1).transpose(2, 0, 1, 3)
        return packed.reshape(-1).view(np.uint8)

    def unpack(self, data: Bytes) -> Int8Array:
        """Return the int8 map ``(height, width, channels)`` in ``nbytes`` bytes of memory."""
        height, width, channels = self.shape
        planes = np.ascontiguousarray(data).view(np.int8).reshape(self.planes, height, width, self.element_bytes)
        full = planes[..., : self.channels_per_word].transpose(1, 2, 0, 3).reshape(height, width, -1)
        return np.ascontiguousarray(full[:, :, :channels])


@dataclass(frozen=True, kw_only=True)
class LayerInfo:
    """One reported layer: instructions ``first_instruction`` to ``last_instruction`` (inclusive) of the program belong to it.

    ``macs`` are one image's, the bytes those of a whole batch.
    """

    name: str
    op: str
    macs: int
    first_instruction: int
    last_instruction: int
    bytes_read: int
    bytes_written: int


@dataclass(frozen=True, kw_only=True)
class Program:
    """A network compiled for one configuration.

    ``pack`` returns what memory holds at first, from byte 0: the instructions, then parameters; the rest of ``memory_bytes`` is
    undefined. It is called when ``image`` is first asked for: the cycle model needs no data.
    ``batch``: images that one run takes.
    """

    network: str
    config: EngineConfig
    instructions: tuple[Instruction, ...]
    pack: Callable[[], Bytes]
    memory_bytes: int
    input: TensorBinding
    output: TensorBinding
    layers: tuple[LayerInfo, ...]
    batch: int = 1

    def __post_init__(self) -> None:
        ops = [instruction.opcode for instruction in self.instructions]
        if len(ops) < 2 or ops[0] is not Opcode.BEGIN or ops[-1] is not Opcode.END:
            raise ProgramError(f"{self.network}: a program begins with BEGIN and ends with END")

    @cached_property
    def image(self) -> Bytes:
        """What memory holds at first: uint8, whole instructions and data."""
        image = self.pack()
        if image.nbytes < len(self.instructions) * INSTRUCTION_BYTES or image.nbytes > self.memory_bytes:
            raise ProgramError(f"{self.network}: an image of {image.nbytes} bytes does not fit {self.memory_bytes}")
        return image

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image."""
        return sum(layer.macs for layer in self.layers)

    def memory(self, *images: npt.ArrayLike) -> Bytes:
        """Return the whole memory with the input maps of a batch, or the first of it, in place: uint8 ``(memory_bytes,)``."""
        memory = np.zeros(self.memory_bytes, np.uint8)
        memory[: self.image.nbytes] = self.image
        for number, image in enumerate(images):
            memory[self.input.place(number)] = self.input.pack(image)
        return memory

    def result(self, memory: Bytes, image: int = 0) -> Int8Array:
        """Return the output map ``(height, width, channels)`` of an image of the batch from memory after a run."""
        return self.output.unpack(memory[self.output.place(image)])

    def layer_cycles(self, retired: npt.NDArray[np.int64], cycles: int) -> tuple[int, ...]:
        """Return each layer's cycles in a run of ``cycles``: from the latest retirement of all layers before it to its own latest.

        ``retired`` int64 ``(instructions,)``: the cycle in which each instruction was done. Layers overlap (the next one's weights
        load while this one computes); counted this way each cycle belongs to one layer, and the layers sum to ``cycles``: what
        comes before the first layer is the first one's, what follows the last layer is the last one's.
        """
        ends = [int(retired[layer.first_instruction : layer.last_instruction + 1].max()) for layer in self.layers]
        ends[-1] = cycles
        reached = np.maximum.accumulate(np.array([0, *ends], np.int64))
        return tuple(int(n) for n in np.diff(reached))

    def batches(self, images: Sequence[_Image]) -> Iterator[tuple[int, list[_Image]]]:
        """Return what each run takes, as many images as the batch has, and how many of them are new: what is missing from the last
        batch is filled up with its last image."""
        for first in range(0, len(images), self.batch):
            new = list(images[first : first + self.batch])
            yield len(new), new + new[-1:] * (self.batch - len(new))


@dataclass(frozen=True, kw_only=True)
class MemoryTiming:
    """Behaviour of the memory model.

    ``latency``: cycles from an accepted read address to its first beat, and from the last write beat to its response (at least 1).
    ``interval``: cycles a beat, read and write alike (1 is full bandwidth).
    ``stall_seed``: when given, every AXI channel is also stalled at random, in ``stall_percent`` of cycles, from this seed.
    """

    latency: int = 20
    interval: int = 1
    stall_seed: int | None = None
    stall_percent: int = 30

    def __post_init__(self) -> None:
        for name, low, high in (("latency", 1, 10_000), ("interval", 1, 1_000), ("stall_percent", 0, 90)):
            value = getattr(self, name)
            if not isinstance(value, int) or not low <= value <= high:
                raise ProgramError(f"memory {name} must be from {low} to {high}, not {value!r}")


@dataclass(frozen=True, kw_only=True)
class UnitCounters:
    """What one unit did, cycle by cycle: ``states[s]`` is the number of cycles in ``UnitState(s)``."""

    states: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """Outcome of running a program on one or more images, ``Program.batch`` at a time: of *runs*, as many as there are batches.

    ``outputs`` int8 ``(images, height, width, channels)``. ``cycles``: for each run, from start to done; None for backends
    without time. ``retired``: for each run, the cycle in which each instruction finished (int64, instruction order, BEGIN and END
    included as 0 and ``cycles``). ``counters``: for each run, one for each of ``UNITS``.
    ``spent``: for each run, the cycles from the start that each unit (in that order) had spent in each ``UnitState`` when each
    instruction finished, int64 ``(instructions, 3, states)``: nothing for BEGIN, what ``counters`` has for END.
    ``seconds``: wall-clock time spent simulating.
    """

    outputs: Int8Array
    seconds: float
    cycles: tuple[int, ...] | None = None
    retired: tuple[npt.NDArray[np.int64], ...] | None = None
    counters: tuple[dict[str, UnitCounters], ...] | None = None
    spent: tuple[npt.NDArray[np.int64], ...] | None = None


class Backend(Protocol):
    """Something that runs programs."""

    name: str
    cycle_accurate: bool

    def run(self, program: Program, images: Sequence[npt.ArrayLike], **options: Any) -> RunResult:
        """Run one batch after the other and return the outputs."""
        ...
