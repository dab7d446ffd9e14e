"""A compiled program as files: for $readmemh, and as C array with the addresses and layout of its input and output."""

from __future__ import annotations

import re
from collections.abc import Iterable

from accel.graph import Network, Tensor
from accel.isa import ISA_VERSION
from accel.program import Program, TensorBinding

__all__ = ["c_array", "c_declaration", "c_name", "hex_words"]

#: Bytes in a line of a C array.
_LINE = 20


def c_name(network: str) -> str:
    """Return a network's name as an identifier, which is also what its files are called."""
    name = re.sub(r"\W", "_", network, flags=re.ASCII)
    return name if name[:1].isalpha() else f"n{name}"


def hex_words(program: Program) -> str:
    """Return the image as words of the memory bus, one a line, byte 0 rightmost: what ``$readmemh`` reads."""
    width = program.config.bus_bytes
    data = program.image.tobytes()
    data += bytes(-len(data) % width)
    return "".join(f"{data[i : i + width][::-1].hex()}\n" for i in range(0, len(data), width))


def c_declaration(program: Program) -> str:
    """Return the header: the size of the memory, where input and output lie in it, and the program that the driver takes."""
    name = c_name(program.network)
    upper = name.upper()
    numbers = {
        "IMAGE_BYTES": program.image.nbytes,
        "MEMORY_BYTES": program.memory_bytes,
        **_numbers("INPUT", program.input),
        **_numbers("OUTPUT", program.output),
    }
    lines = [
        f"/* {program.network}, compiled for {program.config.name}. Generated; do not edit.",
        " * Addresses are relative to the program's base. A map lies in memory as planes of CHANNELS_PER_WORD channels;",
        " * a plane as rows of pixels, each of ELEMENT_BYTES bytes, which begin with the channels. */",
        f"#ifndef SYSTOLITH_{upper}_H",
        f"#define SYSTOLITH_{upper}_H",
        "",
        '#include "systolith.h"',
        "",
        *(f"#define {upper}_{key} {value}u" for key, value in numbers.items()),
        "",
        f"extern const uint8_t {name}_image[{upper}_IMAGE_BYTES];",
        f"extern const struct systolith_program {name};",
        "",
        "#endif",
        "",
    ]
    return "\n".join(lines)


def c_array(program: Program, network: Network) -> str:
    """Return the C source with the image and the program."""
    name = c_name(program.network)
    lines = [
        f"/* {program.network}, compiled for {program.config.name}. Generated; do not edit. */",
        f'#include "{name}.h"',
        "",
        f"const uint8_t {name}_image[{name.upper()}_IMAGE_BYTES] = {{",
        *_bytes(program.image.tobytes()),
        "};",
        "",
        f"const struct systolith_program {name} = {{",
        f"    .image = {name}_image,",
        f"    .image_bytes = {name.upper()}_IMAGE_BYTES,",
        f"    .memory_bytes = {name.upper()}_MEMORY_BYTES,",
        f"    .isa_version = {ISA_VERSION}u,",
        f"    .digest_low = 0x{program.config.digest & 0xFFFF_FFFF:08X}u,",
        f"    .digest_high = 0x{program.config.digest >> 32:08X}u,",
        *_map("input", f"{name.upper()}_INPUT", network.input),
        *_map("output", f"{name.upper()}_OUTPUT", network.tensor(network.output)),
        "};",
        "",
    ]
    return "\n".join(lines)


def _numbers(prefix: str, binding: TensorBinding) -> dict[str, int]:
    height, width, channels = binding.shape
    values = {
        "ADDRESS": binding.address,
        "BYTES": binding.nbytes,
        "HEIGHT": height,
        "WIDTH": width,
        "CHANNELS": channels,
        "CHANNELS_PER_WORD": binding.channels_per_word,
        "ELEMENT_BYTES": binding.element_bytes,
    }
    return {f"{prefix}_{key}": value for key, value in values.items()}


def _map(member: str, prefix: str, tensor: Tensor) -> Iterable[str]:
    yield f"    .{member} = {{"
    for key in ("address", "height", "width", "channels", "channels_per_word", "element_bytes"):
        yield f"        .{key} = {prefix}_{key.upper()},"
    yield f"        .zero_point = {tensor.zero_point},"
    yield f"        .scale = {tensor.scale!r},"
    yield "    },"


def _bytes(data: bytes) -> Iterable[str]:
    for i in range(0, len(data), _LINE):
        yield f"    {', '.join(map(str, data[i : i + _LINE]))},"
