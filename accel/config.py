"""What an engine is: its dimensions and features, checked once, hardware-free.

Everything that differs between two engines is a field of :class:`EngineConfig`; the hardware, the compiler, the emulator
and the cycle model are all built from the same object, and a program carries its digest.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from accel.errors import SystolithError
from accel.isa import WINDOW_LINES, WINDOW_TAPS

__all__ = ["DESIGNS", "PRESETS", "ConfigError", "EngineConfig", "Multiply", "load_config", "power_of_two_at_least"]

#: Instructions that each of the three unit queues holds: how far the dispatcher runs ahead of the slowest unit.
QUEUE_DEPTH = 8


class ConfigError(SystolithError):
    """A configuration that cannot be built."""


class Multiply(enum.StrEnum):
    """Of what the array's multipliers are made; all have the same products in the same cycles (``rtl/multiply.py``)."""

    #: Whatever synthesis takes for a product.
    PORTABLE = "portable"
    #: Adders, and no multiplier of the device.
    LOGIC = "logic"
    #: MULT18X18D of ECP5, with its own registers.
    ECP5 = "ecp5"
    #: One multiplier of 25 by 8 bits for two neighbours in a row, where no window path leads through it: DSP48E1.
    PAIRS = "pairs"


def power_of_two_at_least(value: int) -> int:
    """Return the smallest power of two that is not below ``value`` (which is at least 1)."""
    return 1 << (value - 1).bit_length()


def _plain(value: object) -> str:
    return str(value).lower()


def _is_power_of_two(value: int) -> bool:
    return value > 0 and value & (value - 1) == 0


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """Dimensions of one engine.

    Parameters
    ----------
    name
        Name shown in reports; not part of the digest.
    rows, columns
        Processing elements: ``rows`` input channels by ``columns`` output channels, 2 to 32 each.
    bus_bytes
        Bytes a beat on the AXI4 memory port: a power of two from 2 to 64.
    lanes
        Requantiser lanes: output channels finished a cycle. A common divisor of ``rows`` and ``columns``.
    scratchpad_words
        Activation words (of ``rows`` bytes each): a power of two up to 65,536.
    weight_words
        Weight words (of ``columns`` bytes each): a power of two up to 65,536.
    accumulator_words
        Pixels in each of the two accumulator halves (``columns`` sums of 32 bits each): a power of two up to 32,768.
    parameter_channels
        Output channels whose bias, multiplier and shifts are on chip at once: ``lanes`` times a power of two.
    window_pixels
        Longest line of pixels that the depthwise path takes at once: a power of two from 8 to 256, or 0 for an engine without that
        path, in which depthwise layers run one tap at a time. It has no effect with fewer than 3 rows or more rows than columns.
    tables
        Whether 256-entry activation tables are built in.
    elementwise
        Whether the operand tables of the residual add are built in.
    multiplier
        Whether requantisation multiplies. Without it only power-of-two scales (Qm.n) run.
    multiply
        How the elements multiply, one of :class:`Multiply`. Neither this nor ``logic_elements`` matters to a program, so they
        are not part of the digest.
    logic_elements
        Elements that multiply as ``logic`` does whatever ``multiply`` is, where a device has too few multipliers: the first
        ones, row by row, because the last ones may have pairs.
    micro
        Whether instructions run one after the other, from a memory on the chip (docs/micro.md). The same programs run on either
        engine, so it is not part of the digest.
    """

    name: str
    rows: int
    columns: int
    bus_bytes: int
    lanes: int
    scratchpad_words: int
    weight_words: int
    accumulator_words: int
    parameter_channels: int
    window_pixels: int = 0
    tables: bool = True
    elementwise: bool = True
    multiplier: bool = True
    multiply: str = "portable"
    logic_elements: int = 0
    micro: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            wanted = {"str": str, "int": int, "bool": bool}[str(field.type)]
            if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
                raise ConfigError(f"{field.name} must be {_ARTICLES[wanted]}, not {value!r}")
        for field_name in ("rows", "columns"):
            value = getattr(self, field_name)
            if not 2 <= value <= 32:
                raise ConfigError(f"{field_name} must be from 2 to 32, not {value}")
        if not (_is_power_of_two(self.bus_bytes) and 2 <= self.bus_bytes <= 64):
            raise ConfigError(f"bus_bytes must be a power of two from 2 to 64, not {self.bus_bytes}")
        common = math.gcd(self.rows, self.columns)
        if self.lanes < 1 or common % self.lanes:
            divisors = ", ".join(str(n) for n in range(1, common + 1) if common % n == 0)
            raise ConfigError(
                f"lanes must divide both rows ({self.rows}) and columns ({self.columns}), so be one of {divisors}, not {self.lanes}"
            )
        for field_name, low, high in (
            ("scratchpad_words", 64, 1 << 16),
            ("weight_words", 2 * power_of_two_at_least(self.rows), 1 << 16),
            ("accumulator_words", 16, 1 << 15),
        ):
            value = getattr(self, field_name)
            if not (_is_power_of_two(value) and low <= value <= high):
                raise ConfigError(f"{field_name} must be a power of two from {low} to {high}, not {value}")
        groups, rest = divmod(self.parameter_channels, self.lanes)
        low = 2 * power_of_two_at_least(self.columns // self.lanes)
        if rest or not (_is_power_of_two(groups) and low <= groups <= 4096):
            raise ConfigError(
                f"parameter_channels must be lanes ({self.lanes}) times a power of two from {low} to 4096, "
                f"not {self.parameter_channels}"
            )
        if self.window_pixels and not (_is_power_of_two(self.window_pixels) and 8 <= self.window_pixels <= 256):
            raise ConfigError(f"window_pixels must be 0 or a power of two from 8 to 256, not {self.window_pixels}")
        if self.multiply not in list(Multiply):
            raise ConfigError(f"multiply must be one of {', '.join(Multiply)}, not {self.multiply!r}")
        if not 0 <= self.logic_elements <= self.macs_per_cycle:
            raise ConfigError(f"logic_elements must be from 0 to {self.macs_per_cycle}, not {self.logic_elements}")
        if self.micro:
            self._require_micro()

    def _require_micro(self) -> None:
        """Refuse what the engine that runs one instruction after the other does not have."""
        wanted = {"columns": 8, "bus_bytes": 8, "lanes": 1, "window_pixels": 0, "tables": False, "elementwise": False}
        for name, value in (wanted | {"multiplier": True}).items():
            if getattr(self, name) != value:
                raise ConfigError(f"{name} of a micro engine must be {_plain(value)}, not {_plain(getattr(self, name))}")
        if self.rows not in (2, 4, 8):
            raise ConfigError(f"rows of a micro engine must be 2, 4 or 8, not {self.rows}")

    @property
    def window_lines(self) -> int:
        """Kernel lines that a pass of the depthwise path covers; 0 without that path."""
        if not self.window_pixels or self.rows > self.columns:
            return 0
        return min(WINDOW_LINES, self.rows // WINDOW_TAPS)

    @property
    def word_bytes(self) -> int:
        """Bytes an activation word takes in memory: ``rows`` rounded up to a power of two."""
        return power_of_two_at_least(self.rows)

    @property
    def weight_word_bytes(self) -> int:
        """Bytes a weight word takes in memory: ``columns`` rounded up to a power of two."""
        return power_of_two_at_least(self.columns)

    @property
    def column_groups(self) -> int:
        """Groups of ``lanes`` columns that the output stage takes one after the other."""
        return self.columns // self.lanes

    @property
    def parameter_groups(self) -> int:
        """Entries of the parameter memory, each for ``lanes`` channels."""
        return self.parameter_channels // self.lanes

    def __hash__(self) -> int:
        # worked out once, because a configuration is the key of much that the compiler remembers; the same in every process
        return self.digest

    @property
    def macs_per_cycle(self) -> int:
        """Multiply-accumulates that the array does in a cycle; a micro engine takes the rows one after the other."""
        return self.columns if self.micro else self.rows * self.columns

    @property
    def memory_limit(self) -> int:
        """Bytes that addresses of memory reach."""
        return 1 << 17 if self.micro else 1 << 32

    @cached_property
    def digest(self) -> int:
        """64-bit digest of everything that a program depends on."""
        body = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _OUTSIDE}
        return int.from_bytes(hashlib.sha256(json.dumps(body, sort_keys=True).encode()).digest()[:8], "little")

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as a plain dictionary."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_dict(values: Mapping[str, Any], *, origin: str) -> EngineConfig:
        """Build a configuration from a mapping; ``base = "small"`` takes missing fields from a preset or design.

        Raises :class:`ConfigError` naming ``origin`` for unknown, missing or bad fields.
        """
        values = dict(values)
        known = [f.name for f in fields(EngineConfig)]
        base = values.pop("base", None)
        for key in values:
            if key not in known:
                raise ConfigError(f"{origin}: unknown field {key!r}; the fields are {', '.join(known)} and base")
        named = PRESETS | DESIGNS
        if base is not None and base not in list(named):  # a list, because a TOML value may be unhashable
            raise ConfigError(f"{origin}: base must be one of {', '.join(named)}, not {base!r}")
        if base is None:
            required = [f.name for f in fields(EngineConfig) if f.default is dataclasses.MISSING and f.name != "name"]
            missing = [key for key in required if key not in values]
            if missing:
                raise ConfigError(f"{origin}: missing {', '.join(missing)} (or name a preset to start from with base)")
        values.setdefault("name", origin)
        try:
            return replace(named[base], **values) if base is not None else EngineConfig(**values)
        except ConfigError as error:
            raise ConfigError(f"{origin}: {error}") from None


#: Fields that no program depends on.
_OUTSIDE = ("name", "multiply", "logic_elements", "micro")

_ARTICLES = {str: "a string", int: "an integer", bool: "true or false"}

_BASE = EngineConfig(
    name="base",
    rows=8,
    columns=8,
    bus_bytes=8,
    lanes=4,
    scratchpad_words=8192,
    weight_words=2048,
    accumulator_words=512,
    parameter_channels=512,
    window_pixels=32,
)

#: Named configurations, smallest first.
PRESETS: dict[str, EngineConfig] = {
    "tiny": replace(
        _BASE,
        name="tiny",
        rows=2,
        columns=2,
        bus_bytes=2,
        lanes=1,
        scratchpad_words=1024,
        weight_words=256,
        accumulator_words=64,
        parameter_channels=64,
    ),
    "small": replace(
        _BASE,
        name="small",
        rows=4,
        columns=4,
        bus_bytes=4,
        lanes=2,
        scratchpad_words=4096,
        weight_words=1024,
        accumulator_words=256,
        parameter_channels=128,
    ),
    "base": _BASE,
    "large": replace(
        _BASE,
        name="large",
        rows=16,
        columns=16,
        bus_bytes=16,
        lanes=16,
        scratchpad_words=16384,
        weight_words=4096,
        accumulator_words=1024,
        parameter_channels=1024,
    ),
}

#: Named configurations that are cut to a device.
DESIGNS: dict[str, EngineConfig] = {
    # `large` as an LFE5U-85F can hold it. Twelve lanes fewer leave 48 multipliers to the array and take a third of the look-up
    # tables away; half the scratchpad leaves 24 of 208 block RAMs.
    "large-85f": replace(PRESETS["large"], name="large-85f", lanes=4, scratchpad_words=8192),
    # What an LFE5U-25F has: 56 block RAMs, of which LeNet-5 takes 42, so scratchpad and weights have 14, one for a bank, and
    # accumulators, parameters and queues are look-up tables; 28 multipliers, 4 of them for a lane. Six rows because the second
    # layer has six channels to read; with eight, look-up tables run out.
    "board": replace(
        _BASE,
        name="board",
        rows=6,
        lanes=1,
        scratchpad_words=2048,
        weight_words=2048,
        accumulator_words=32,
        parameter_channels=32,
        window_pixels=0,
        tables=False,
        elementwise=False,
    ),
    # What an iCE40UP5K has: 8 multipliers, of which 4 have two products of bytes each and 4 are for the scales, and 29 of its 30
    # block RAMs. Bytes come one after the other, so few rows only mean that little of them is padding.
    "micro": replace(
        _BASE,
        name="micro",
        rows=2,
        lanes=1,
        scratchpad_words=2048,
        weight_words=512,
        accumulator_words=64,
        parameter_channels=256,
        window_pixels=0,
        tables=False,
        elementwise=False,
        micro=True,
    ),
}


def load_config(name_or_path: str) -> EngineConfig:
    """Return the preset or design called ``name_or_path``, or the configuration in that TOML file.

    Raises :class:`ConfigError` in one sentence when it is neither or holds a bad value.
    """
    named = PRESETS | DESIGNS
    if name_or_path in named:
        return named[name_or_path]
    path = Path(name_or_path)
    if path.suffix != ".toml":
        raise ConfigError(f"no configuration is called {name_or_path!r}; use one of {', '.join(named)}, or a .toml file")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not valid TOML: {error}") from None
    return EngineConfig.from_dict(values, origin=str(path))
