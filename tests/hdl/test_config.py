# SPDX-License-Identifier: Apache-2.0
"""The configuration object: presets hold, files load, and every bad field gets a message that says what to do."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hdl.config import PRESETS, ConfigError, MachineConfig, load_config

TINY = PRESETS["tiny"]


def test_presets_keep_one_balance() -> None:
    for name in ("tiny", "small", "medium", "large"):
        config = PRESETS[name]
        assert config.pes == 16 * config.peak_bytes, name


@pytest.mark.parametrize("config", PRESETS.values(), ids=lambda c: c.name)
def test_derived_sizes_fit_together(config: MachineConfig) -> None:
    assert config.fill_words * config.fill_rows == config.rows
    assert config.fill_bytes == config.fill_rows * config.columns
    assert config.plane_bytes * 2 == config.tile_bytes == config.rows * config.columns
    assert config.parameter_parts * config.rows == 2 * config.columns
    assert config.skew_k == config.rows + config.k_link_stages
    assert config.row_fifo_depth >= config.tiers * config.skew_k + 16


def test_digest_ignores_the_name_only() -> None:
    assert TINY.replace(name="other").digest() == TINY.digest()
    assert TINY.replace(queue_depth=8).digest() != TINY.digest()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "a b"}, "config name: 'a b' is not an identifier"),
        ({"name": ""}, "config name: '' is not an identifier"),
        ({"name": "größe"}, "config name: 'größe' is not an identifier; use 1 to 128 letters"),
        ({"name": "two\nlines"}, "config name: 'two\\nlines' is not an identifier"),
        ({"name": "n" * 129}, "config name: 'nnnnn"),
        ({"name": 3}, "config name: 3; use a text in quotes"),
        ({"vertical_links": "false"}, "config vertical_links: 'false'; use true or false"),
        ({"vertical_links": "0"}, "config vertical_links: '0'; use true or false"),
        ({"vertical_links": 1}, "config vertical_links: 1; use true or false"),
        ({"vertical_links": None}, "config vertical_links: None; use true or false"),
        ({"stationary_feed": True}, "config stationary_feed: True; use 'vertical' or 'edge'"),
        ({"stationary_feed": ["edge"]}, "config stationary_feed: ['edge']; use 'vertical' or 'edge'"),
        ({"rows": float("nan")}, "config rows: nan; use an integer from 4 to 256"),
        ({"rows": 10**5000}, "config rows: a very long int; use an integer from 4 to 256"),
        ({"rows": 10**100}, "config rows: 1000000000"),
        ({"tiers": 0}, "config tiers: 0; use an integer from 1 to 8"),
        ({"tiers": 9}, "config tiers: 9; use an integer from 1 to 8"),
        ({"tiers": 2.0}, "config tiers: 2.0; use an integer"),
        ({"tiers": True}, "config tiers: True; use an integer"),
        ({"rows": 12}, "config rows: 12; use a power of two from 4 to 256, such as 8"),
        ({"rows": 32}, "config rows: 32 with columns 8; rows must be columns or 2 x columns: set rows to 8 or 16"),
        ({"columns": 2}, "config columns: 2; use an integer from 4 to 256"),
        ({"stationary_feed": "side"}, "config stationary_feed: 'side'; use 'vertical' or 'edge'"),
        ({"k_link_stages": 0}, "config k_link_stages: 0; use an integer from 1 to 16"),
        ({"vcache_tiles": 100}, "config vcache_tiles: 100; use a power of two"),
        ({"activation_words": 8}, "config activation_words: 8; use an integer from 16"),
        ({"accumulator_depth": 2048}, "config accumulator_depth: 2048; use an integer from 4 to 1024"),
        ({"list_depth": 3}, "config list_depth: 3; use an integer from 4 to 4096"),
        ({"parameter_words": 0}, "config parameter_words: 0;"),
        ({"combine_rows": 5}, "config combine_rows: 5;"),
        ({"result_lanes": 3}, "config result_lanes: 3; use an integer from 1 to 2"),
        ({"row_fifo_depth": 20}, "config row_fifo_depth: 20; use an integer from 34 to 4096"),
        ({"channel_bytes": 2}, "config channel_bytes: 2; use an integer from 4 to 128"),
        ({"channel_bytes": 64}, "config channel_bytes: 2 x 64 bytes a cycle must be"),
        ({"channels_per_group": 8}, "config channel_bytes: a tile of 64 bytes must take at least two fill words of 64"),
        ({"address_bits": 40}, "config address_bits: 40; use an integer from 12 to 37"),
        ({"address_bits": 11}, "config address_bits: 11; use an integer from 12 to 37"),
        (
            {"rows": 64, "columns": 64, "channel_bytes": 32, "row_fifo_depth": 256, "address_bits": 15},
            "config address_bits: 15; a group's memory must hold at least 16 tiles of 4096 bytes: use at least 16",
        ),
        ({"burst_beats": 6}, "config burst_beats: 6; use a power of two"),
        ({"burst_beats": 256}, "config skew_fifo_beats: 128 is less than a burst of 256 beats; use at least 256"),
        ({"outstanding_bursts": 0}, "config outstanding_bursts: 0;"),
        ({"queue_depth": 1}, "config queue_depth: 1;"),
        ({"semaphores": 65}, "config semaphores: 65;"),
        ({"semaphores": 4}, "config semaphores: 4; use an integer from 8 to 64"),
        (
            {"tiers": 5, "row_fifo_depth": 128, "semaphores": 8},
            "config semaphores: 8 with tiers 5; each of the 9 instruction queues needs one to wait for",
        ),
        ({"semaphore_bits": 3}, "config semaphore_bits: 3;"),
    ],
)
def test_bad_fields_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        TINY.replace(**changes)
    assert str(caught.value).startswith(message), str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("field", dataclasses.fields(MachineConfig), ids=lambda f: f.name)
@pytest.mark.parametrize("value", [None, [], {}, 2.5, "text", 1 << 70, np.array([1, 2])], ids=repr)
def test_no_field_takes_a_value_of_another_type(field: dataclasses.Field[Any], value: object) -> None:
    if field.type == "str" and isinstance(value, str):
        return
    with pytest.raises(ConfigError, match=f"^config {field.name}: .*; use ") as caught:
        TINY.replace(**{field.name: value})
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 250


def test_equal_values_make_equal_configurations() -> None:
    spelled = TINY.replace(rows=np.int64(8), name=np.str_("tiny"), stationary_feed=np.str_("vertical"))
    assert spelled == TINY and spelled.digest() == TINY.digest()
    assert {type(v) for v in spelled.to_dict().values()} == {int, str, bool}


def test_a_burst_must_fit_axi() -> None:
    with pytest.raises(ConfigError, match="128 beats of 64 bytes exceed AXI's 4 KiB; use at most 64"):
        PRESETS["small"].replace(channel_bytes=64, burst_beats=128)


def test_the_smallest_memory_and_the_fewest_semaphores_are_enough() -> None:
    TINY.replace(rows=64, columns=64, channel_bytes=32, row_fifo_depth=256, address_bits=16)
    assert TINY.replace(tiers=4, semaphores=8, address_bits=12).semaphores == 8
    assert TINY.replace(tiers=8, row_fifo_depth=128, semaphores=16).semaphores == 16


def test_configurations_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        TINY.tiers = 3  # type: ignore[misc]


def test_a_file_overrides_a_preset(tmp_path: Path) -> None:
    path = tmp_path / "my-machine.toml"
    path.write_text('preset = "tiny"\nqueue_depth = 8\n')
    config = load_config(path)
    assert (config.name, config.queue_depth, config.tiers) == ("my_machine", 8, 2)
    path.write_text("tiers = 1\nrows = 8\ncolumns = 8\nrow_fifo_depth = 64\nresult_lanes = 1\nchannel_bytes = 8\n")
    assert load_config(path).rows == 8


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('preset = "huge"', "config preset: 'huge' in .*; use one of nano, tiny, small, medium, large"),
        ('preset = "tiny"\ntires = 3', r"config tires: no such field \(in .*\); use one of name, tiers"),
        ("tiers = 1\nrows = 8", 'config columns: missing in .*; set it, or name a base with preset = "small"'),
        ("tiers = ", "is not TOML: .*; fix that line"),
        ('preset = "tiny"\ntiers = "two"', "config tiers: 'two'; use an integer from 1 to 8"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "m.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(path)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("31digit.toml", "c31digit"),
        ("a b-c.d.toml", "a_b_c_d"),
        ("LOUD.TOML", "LOUD"),
        (".toml", "config"),
        ("größe.toml", "gr__e"),
        ("input.toml", "input"),
        ("class.Toml", "class"),
        ("x" * 200 + ".toml", "x" * 64),
    ],
)
def test_any_file_name_gives_a_name(tmp_path: Path, file: str, name: str) -> None:
    path = tmp_path / file
    path.write_text('preset = "nano"\n')
    assert load_config(path) == PRESETS["nano"].replace(name=name)
    path.write_text('preset = "nano"\nname = "own"\n')
    assert load_config(str(path)).name == "own"


def test_a_file_may_be_spelled_in_several_ways(tmp_path: Path) -> None:
    path = tmp_path / "tiny.toml"
    for text in (
        b'\xef\xbb\xbfpreset = "tiny"',
        b'preset = "tiny"\r\nrows = 0x8\r\n',
        b"preset = 'tiny'\n# rows\nrows = 0b1000\nvertical_links = true",
    ):
        path.write_bytes(text)
        assert load_config(path) == TINY and load_config(path).digest() == TINY.digest()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'preset = "t\xfcny"', r"m.toml is not UTF-8 text \(byte 0xfc at position 11\); save it as UTF-8"),
        ('preset = "tiny"'.encode("utf-16"), "m.toml is not UTF-8 text .*; save it as UTF-8"),
        (b"rows = 8\0", "m.toml is not TOML: "),
        (b"rows = " + b"[" * 100_000, "m.toml is nested too deeply"),
        (b"rows = " + b"9" * 5000, "m.toml has a value that cannot be read: .*; correct it"),
        (b'preset = "tiny"\nrows = 2024-01-01', "config rows: datetime.date.2024, 1, 1.; use an integer"),
        (b'preset = "tiny"\nrows = 8.0', "config rows: 8.0; use an integer"),
        (b'preset = "tiny"\nrows = nan', "config rows: nan; use an integer"),
        (b'preset = "tiny"\n[rows]\nx = 1', "config rows: {'x': 1}; use an integer"),
        (
            b'preset = "tiny"\n[machine]\nrows = 8',
            r"config preset: stands outside of the sections of .*; put it into one of \[machine\], \[memory\]",
        ),
        (b'machine = "tiny"', r"config machine: 'tiny' in .*; write \[machine\], and its fields below"),
        (b"[memory]\nlatency = 3", r"config machine: missing in .*; write \[machine\]"),
        (b'preset = "tiny"\n"a\\nb" = 8', r"config 'a\\nb': no such field \(in "),
        (b'preset = ["tiny"]', r"config preset: \['tiny'\] in .*; use one of nano, tiny"),
        (b"preset = 3", "config preset: 3 in .*; use one of nano, tiny"),
        (b'preset = "tiny"\nname = "' + b"n" * 65 + b'"', "config name: 'n+' in .*; use at most 64 characters"),
        (b'preset = ""', "config preset: '' in .*; use one of nano, tiny"),
        (b"#" * (1 << 20) + b"#", "m.toml has 1048577 bytes, more than any configuration"),
    ],
    ids=lambda v: v[:20] if isinstance(v, bytes) else "",
)
def test_files_that_cannot_be_read_are_named(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "m.toml"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(path)
    assert "\n" not in str(caught.value)


def test_the_machine_of_a_system_is_its_section(tmp_path: Path) -> None:
    path = tmp_path / "board.toml"
    path.write_text('[machine]\npreset = "nano"\nqueue_depth = 8\n[memory]\nlatency = 90\n')
    assert load_config(path) == PRESETS["nano"].replace(name="board", queue_depth=8)


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "d.toml").mkdir()
    os.mkfifo(tmp_path / "f.toml")
    (tmp_path / "z.toml").symlink_to("/dev/zero")
    for path, message in (
        (tmp_path / "d.toml", "d.toml is a directory; name a TOML file"),
        (tmp_path / "f.toml", "f.toml is not a regular file; name a TOML file"),
        (tmp_path / "z.toml", "z.toml is not a regular file; name a TOML file"),
        (
            tmp_path / "d.json",
            "d.json' is no preset; use one of nano, tiny, small, medium, large or a path to a .toml file",
        ),
        (tmp_path / ("x" * 300 + ".toml"), "cannot read .*: File name too long; check the path"),
        (Path("a\0.toml"), r"cannot read a\\x00.toml: embedded null byte; check the path"),
        (Path("a\nb.toml"), r"cannot read a\\x0ab.toml: No such file"),
    ):
        with pytest.raises(ConfigError, match=message) as caught:
            load_config(path)
        assert "\n" not in str(caught.value)


def test_unknown_names_are_named(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="'middle' is no preset; use one of nano, tiny, small, medium, large or a path"
    ):
        load_config("middle")
    with pytest.raises(ConfigError, match="cannot read .*absent.toml: No such file"):
        load_config(tmp_path / "absent.toml")
