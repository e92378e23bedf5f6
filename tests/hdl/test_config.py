# SPDX-License-Identifier: Apache-2.0
"""The configuration object: presets hold, files load, and every bad field gets a message that says what to do."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from hdl.config import PRESETS, ConfigError, MachineConfig, load_config

TINY = PRESETS["tiny"]


def test_presets_keep_one_balance() -> None:
    for name in ("tiny", "small", "large"):
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
        ('preset = "huge"', "config preset: 'huge' in .*; use one of nano, tiny, small, large"),
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


def test_unknown_names_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'medium' is no preset; use one of nano, tiny, small, large or a path"):
        load_config("medium")
    with pytest.raises(ConfigError, match="cannot read .*absent.toml: No such file"):
        load_config(tmp_path / "absent.toml")
