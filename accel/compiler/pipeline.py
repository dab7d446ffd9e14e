"""The compiler: a straight list of passes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from accel.compiler.emit import Emitter, align, map_alignment
from accel.compiler.errors import CompileError
from accel.compiler.frames import MemoryMap
from accel.compiler.fuse import fuse, windowed
from accel.compiler.lower import lower
from accel.compiler.plan import Choice
from accel.compiler.residency import Placement, place
from accel.compiler.search import improve
from accel.compiler.stages import Stage, plane_count
from accel.compiler.tiling import choose_plans
from accel.config import EngineConfig, power_of_two_at_least
from accel.graph import Network, Tensor
from accel.isa import Opcode, fields_of
from accel.program import LayerInfo, Program, TensorBinding

__all__ = ["compile_network"]

MAX_BATCH = 1024
"""Images of a batch: far more than it takes for the array to wait for no weights."""

_ROW_LIMIT = next(field.maximum for field in fields_of(Opcode.STORE) if field.name == "memory_stride_y")


def compile_network(
    network: Network, config: EngineConfig, *, batch: int = 1, budget: int = 0, advance: Callable[[int], None] | None = None
) -> Program:
    """Compile a network for an engine.

    ``batch``: images that one run of the program takes, layer by layer, so that they share what is loaded of a layer's weights.
    ``budget``: instructions that may be replayed by the cycle model to choose between programs; 0 takes the first.
    ``advance`` is told now and then how many instructions the program has so far. Raises
    :class:`~accel.compiler.CompileError`, naming the layer, for what the engine cannot run, and for a batch that its addresses do
    not reach.
    """
    if not 1 <= batch <= MAX_BATCH:
        raise CompileError(f"{network.name}: a batch must be from 1 to {MAX_BATCH} images, not {batch}")
    stages = [replace(stage, images=batch) for stage in fuse(network, config)]
    placement = place(network, stages, config)
    maps, map_bytes = _allocate_maps(network, stages, placement, config, batch)
    _check_memory(network, stages, map_bytes, config, batch)
    chosen = [
        choose_plans(
            [found for found in (stage, windowed(stage, config)) if found is not None],
            config,
            loaded=sum(placement.resident(name, index) is None for name in stage.inputs),
            element_bytes=max((1 << maps[name].element_log2 for name in stage.inputs if name in maps), default=1),
            gap=placement.gaps[index][1] - placement.gaps[index][0],
        )
        for index, stage in enumerate(stages)
    ]
    stages = [stage for stage, _ in chosen]
    contenders = [plans for _, plans in chosen]

    def build(choices: Mapping[int, Choice]) -> Program:
        emitter = Emitter(config, map_bytes=map_bytes, advance=advance)
        ranges = lower(stages, contenders, choices, placement, maps, emitter)
        return _program(network, stages, maps, ranges, emitter, batch)

    loads = [
        stage.output in placement.frames and any(placement.resident(name, index) is None for name in stage.inputs)
        for index, stage in enumerate(stages)
    ]
    return improve(build, contenders, loads, budget)


def _input_layout(tensor: Tensor, config: EngineConfig) -> tuple[int, int]:
    """Return the channels of a word and the bytes of an element of the network's input: no wider than its channels need."""
    channels = min(tensor.shape[2], config.rows)
    return channels, power_of_two_at_least(channels)


def _allocate_maps(
    network: Network, stages: list[Stage], placement: Placement, config: EngineConfig, batch: int
) -> tuple[dict[str, MemoryMap], int]:
    """Give a place in memory to the input, the output, and every map that does not stay on chip; return them and their bytes."""
    total = 0
    maps: dict[str, MemoryMap] = {}
    shapes = {network.input.name: network.input.shape} | {stage.output: stage.map_shape for stage in stages}
    for name, shape in shapes.items():
        planes = plane_count(config, shape[2])
        if name == network.input.name:
            found = MemoryMap.planar(0, shape, planes, _input_layout(network.input, config)[1])
        elif name == network.output:
            found = MemoryMap.planar(total, shape, planes, config.word_bytes)
        elif name in placement.in_memory:
            found = MemoryMap.by_rows(total, shape, config)
            if found.row_bytes > _ROW_LIMIT:
                found = MemoryMap.planar(total, shape, planes, config.word_bytes)
        else:
            continue
        total = align(total + batch * found.image_bytes, map_alignment(config))
        maps[name] = found
    return maps, total


def _check_memory(network: Network, stages: list[Stage], map_bytes: int, config: EngineConfig, batch: int) -> None:
    """Raise :class:`CompileError` when maps and bare weights alone take more than addresses reach.

    Otherwise it might take minutes to compile what is then found to be too large.
    """
    least = map_bytes + sum(stage.weights[0].size for stage in stages if stage.weights)
    if least > config.memory_limit:
        maps, advice = ("maps", "") if batch == 1 else (f"the maps of {batch} images", "; take a smaller batch")
        raise CompileError(
            f"{network.name}: its weights and {maps} take at least {least} bytes, but addresses of {config.name} reach "
            f"{config.memory_limit} bytes{advice}"
        )


def _program(
    network: Network,
    stages: list[Stage],
    maps: dict[str, MemoryMap],
    ranges: list[tuple[int, int, int, int]],
    emitter: Emitter,
    batch: int,
) -> Program:
    config = emitter.config
    instructions, pack, map_base, memory_bytes = emitter.finish(network.name)
    channels, element_bytes = _input_layout(network.input, config)
    output = network.tensor(network.output)
    layers = []
    for index, (stage, (first, count, read, written)) in enumerate(zip(stages, ranges, strict=True)):
        layers.append(
            LayerInfo(
                name=stage.name,
                op=stage.op,
                macs=stage.macs,
                first_instruction=first if index else 0,
                last_instruction=first + count - 1 if index < len(stages) - 1 else len(instructions) - 1,
                bytes_read=read,
                bytes_written=written,
            )
        )
    return Program(
        network=network.name,
        config=config,
        instructions=instructions,
        pack=pack,
        memory_bytes=memory_bytes,
        input=TensorBinding(
            name=network.input.name,
            shape=network.input.shape,
            address=map_base + maps[network.input.name].address,
            channels_per_word=channels,
            element_bytes=element_bytes,
        ),
        output=TensorBinding(
            name=output.name,
            shape=output.shape,
            address=map_base + maps[network.output].address,
            channels_per_word=config.rows,
            element_bytes=config.word_bytes,
        ),
        layers=tuple(layers),
        batch=batch,
    )
