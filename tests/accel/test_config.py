"""Configurations: the presets, the limits, the files, and the text of every refusal."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from accel.config import DESIGNS, PRESETS, ConfigError, EngineConfig, load_config, power_of_two_at_least

BASE = PRESETS["base"]


def refusal(**changes: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        replace(BASE, **changes)
    return str(caught.value)


def test_presets_are_named_after_their_key_and_grow() -> None:
    assert [c.name for c in PRESETS.values()] == list(PRESETS) == ["tiny", "small", "base", "large"]
    assert [(c.rows, c.columns) for c in PRESETS.values()] == [(2, 2), (4, 4), (8, 8), (16, 16)]


@pytest.mark.parametrize(("value", "expected"), [(1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (31, 32), (32, 32), (33, 64)])
def test_power_of_two_at_least(value: int, expected: int) -> None:
    assert power_of_two_at_least(value) == expected


def test_derived_sizes_of_an_engine_that_is_neither_square_nor_a_power_of_two() -> None:
    config = replace(BASE, rows=6, columns=9, lanes=3, parameter_channels=3 * 64)
    assert (config.word_bytes, config.weight_word_bytes) == (8, 16)
    assert (config.column_groups, config.parameter_groups, config.macs_per_cycle) == (3, 64, 54)


@pytest.mark.parametrize(
    ("rows", "columns", "window_pixels", "lines"),
    [
        # three rows a line, three lines at most
        *((2, 12, 32, 0), (3, 12, 32, 1), (5, 12, 32, 1), (6, 12, 32, 2), (8, 8, 32, 2), (9, 12, 8, 3), (12, 12, 256, 3)),
        # a column has the bytes of its own row only
        *((12, 6, 32, 0), (9, 9, 32, 3)),
        (9, 12, 0, 0),
    ],
)
def test_lines_of_windows(rows: int, columns: int, window_pixels: int, lines: int) -> None:
    config = replace(BASE, rows=rows, columns=columns, lanes=1, parameter_channels=128, window_pixels=window_pixels)
    assert config.window_lines == lines


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"rows": 1}, "rows must be from 2 to 32, not 1"),
        ({"columns": 33}, "columns must be from 2 to 32, not 33"),
        ({"rows": "8"}, "rows must be an integer, not '8'"),
        ({"rows": True}, "rows must be an integer, not True"),
        ({"rows": 8.0}, "rows must be an integer, not 8.0"),
        ({"tables": 1}, "tables must be true or false, not 1"),
        ({"name": 3}, "name must be a string, not 3"),
        ({"bus_bytes": 1}, "bus_bytes must be a power of two from 2 to 64, not 1"),
        ({"bus_bytes": 12}, "bus_bytes must be a power of two from 2 to 64, not 12"),
        ({"bus_bytes": 128}, "bus_bytes must be a power of two from 2 to 64, not 128"),
        ({"lanes": 0}, "lanes must divide both rows (8) and columns (8), so be one of 1, 2, 4, 8, not 0"),
        ({"lanes": 3}, "lanes must divide both rows (8) and columns (8), so be one of 1, 2, 4, 8, not 3"),
        ({"rows": 12, "lanes": 8}, "lanes must divide both rows (12) and columns (8), so be one of 1, 2, 4, not 8"),
        ({"scratchpad_words": 32}, "scratchpad_words must be a power of two from 64 to 65536, not 32"),
        ({"scratchpad_words": 1 << 17}, "scratchpad_words must be a power of two from 64 to 65536, not 131072"),
        ({"weight_words": 8}, "weight_words must be a power of two from 16 to 65536, not 8"),
        ({"rows": 12, "weight_words": 16}, "weight_words must be a power of two from 32 to 65536, not 16"),
        ({"accumulator_words": 100}, "accumulator_words must be a power of two from 16 to 32768, not 100"),
        ({"accumulator_words": 1 << 16}, "accumulator_words must be a power of two from 16 to 32768, not 65536"),
        ({"parameter_channels": 6}, "parameter_channels must be lanes (4) times a power of two from 4 to 4096, not 6"),
        ({"parameter_channels": 8}, "parameter_channels must be lanes (4) times a power of two from 4 to 4096, not 8"),
        ({"parameter_channels": 0}, "parameter_channels must be lanes (4) times a power of two from 4 to 4096, not 0"),
        ({"window_pixels": 4}, "window_pixels must be 0 or a power of two from 8 to 256, not 4"),
        ({"window_pixels": 24}, "window_pixels must be 0 or a power of two from 8 to 256, not 24"),
        ({"window_pixels": 512}, "window_pixels must be 0 or a power of two from 8 to 256, not 512"),
        ({"window_pixels": -8}, "window_pixels must be 0 or a power of two from 8 to 256, not -8"),
        ({"window_pixels": False}, "window_pixels must be an integer, not False"),
        ({"multiply": "slowly"}, "multiply must be one of portable, logic, ecp5, pairs, not 'slowly'"),
        ({"logic_elements": 65}, "logic_elements must be from 0 to 64, not 65"),
        ({"logic_elements": -1}, "logic_elements must be from 0 to 64, not -1"),
    ],
)
def test_refusals_are_sentences(changes: dict[str, Any], sentence: str) -> None:
    assert refusal(**changes) == sentence


def test_the_digest_covers_every_field_that_a_program_depends_on() -> None:
    other: dict[str, Any] = {
        "rows": 16,
        "columns": 16,
        "bus_bytes": 16,
        "lanes": 2,
        "scratchpad_words": 4096,
        "weight_words": 1024,
        "accumulator_words": 256,
        "parameter_channels": 256,
        "window_pixels": 0,
        "tables": False,
        "elementwise": False,
        "multiplier": False,
    }
    assert set(other) == {f.name for f in fields(EngineConfig)} - {"name", "multiply", "logic_elements", "micro"}
    digests = {replace(BASE, **{key: value}).digest for key, value in other.items()}
    assert len(digests | {BASE.digest}) == len(other) + 1
    assert replace(BASE, name="another", multiply="logic", logic_elements=3).digest == BASE.digest
    assert replace(DESIGNS["micro"], micro=False).digest == DESIGNS["micro"].digest
    assert 0 <= BASE.digest < 1 << 64


def test_the_digest_does_not_change_from_one_release_to_the_next_by_accident() -> None:
    """Programs carry it. Whoever changes a preset or the digest changes these numbers knowingly."""
    assert {name: f"{config.digest:016x}" for name, config in PRESETS.items()} == {
        "tiny": "e3080ca7493982ea",
        "small": "e77174f17abd24fb",
        "base": "bab1d1804f6daa88",
        "large": "585cd4b5f0bb470e",
    }


def test_as_dict_and_back() -> None:
    for config in PRESETS.values():
        assert EngineConfig.from_dict(config.as_dict(), origin="somewhere") == config


def test_a_file_may_start_from_a_preset(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('base = "small"\nrows = 8\nweight_words = 512\n')
    assert load_config(str(path)) == replace(PRESETS["small"], name=str(path), rows=8, weight_words=512)


def test_a_file_may_give_everything(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    lines = [f"{key} = {str(value).lower() if isinstance(value, bool) else repr(value)}" for key, value in BASE.as_dict().items()]
    path.write_text("\n".join(lines))
    assert load_config(str(path)) == BASE


@pytest.mark.parametrize("name", PRESETS)
def test_presets_load_by_name(name: str) -> None:
    assert load_config(name) is PRESETS[name]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('base = "huge"', "base must be one of tiny, small, base, large, large-85f, board, micro, not 'huge'"),
        ("base = ['tiny']", "base must be one of tiny, small, base, large, large-85f, board, micro, not ['tiny']"),
        ("base = 3", "base must be one of tiny, small, base, large, large-85f, board, micro, not 3"),
        (
            'base = "tiny"\nrow = 3',
            "unknown field 'row'; the fields are name, rows, columns, bus_bytes, lanes, scratchpad_words, weight_words, "
            "accumulator_words, parameter_channels, window_pixels, tables, elementwise, multiplier, multiply, "
            "logic_elements, micro and base",
        ),
        (
            "rows = 4\ncolumns = 4",
            "missing bus_bytes, lanes, scratchpad_words, weight_words, accumulator_words, parameter_channels "
            "(or name a preset to start from with base)",
        ),
        ('base = "tiny"\nrows = 99', "rows must be from 2 to 32, not 99"),
    ],
)
def test_files_with_bad_values_are_refused_by_name(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(str(path))
    assert str(caught.value) == f"{path}: {sentence}"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "absent.toml"
    with pytest.raises(ConfigError) as caught:
        load_config(str(path))
    assert str(caught.value) == f"{path}: cannot be read: No such file or directory"


@pytest.mark.parametrize("content", [b"rows = ", b"\xff\xfe\x00"])
def test_files_that_are_no_toml(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"broken\.toml: is not valid TOML: "):
        load_config(str(path))


def test_an_unknown_name_lists_the_presets() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("medium")
    known = "tiny, small, base, large, large-85f, board, micro"
    assert str(caught.value) == f"no configuration is called 'medium'; use one of {known}, or a .toml file"
