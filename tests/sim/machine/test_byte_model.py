# SPDX-License-Identifier: Apache-2.0
"""Byte-level models: what is checked before a weight is read, and the text that the ranges are taken from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hdl.config import PRESETS, MachineConfig
from hdl.errors import A3dError
from scheduler.models.calibration import calibrate
from scheduler.models.random_checkpoint import random_checkpoint
from sim.machine.byte_model import read_byte_model
from tests.support.checkpoints import small_model
from tests.support.small_model import write_checkpoint

TINY = PRESETS["tiny"]
SHAPE = small_model(
    "mixtral", vocabulary=128, hidden=32, intermediate=16, layers=1, heads=2, kv_heads=2, head_dim=8, experts=2,
    chosen=1,
)  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_checkpoint(tmp_path / "model", random_checkpoint(SHAPE, 1))
    return tmp_path / "model"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (TINY.replace(stationary_feed="edge"), "config stationary_feed: 'edge' .*; set it to 'vertical'"),
        (TINY.replace(vcache_tiles=16), "matrix qkv: .*; V-Cache has room for 1 tiles: raise vcache_tiles"),
        (TINY.replace(parameter_words=16), "requantisation words take [0-9]+ of tiny's 16: raise parameter_words"),
        (TINY.replace(combine_rows=8), "needs combine_rows of [0-9]+, the machine has 8; .* or raise combine_rows"),
        (TINY.replace(vcache_tiles=32), None),  # weights stream
        (TINY.replace(columns=4, row_fifo_depth=64, channel_bytes=4, rows=4, vcache_tiles=512), None),
        (PRESETS["small"].replace(rows=32, row_fifo_depth=160), None),  # heads are padded
    ],
)
def test_the_machine_is_checked_before_a_weight_is_read(
    folder: Path, config: MachineConfig, message: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if message is None:
        assert read_byte_model(folder, config).model.description.hidden == 32
        return
    monkeypatch.setattr(np, "fromfile", lambda *_, **__: pytest.fail("a tensor was read"))
    with pytest.raises(A3dError, match=message) as caught:
        read_byte_model(folder, config)
    assert "\n" not in str(caught.value)


def test_the_weights_are_compared_before_the_machine_is_blamed(folder: Path) -> None:
    fields = json.loads((folder / "config.json").read_text())
    for name, message in (
        ("hidden_size", r"embed_tokens.weight has shape \(128, 32\), expected \(128, 800000000\)"),
        ("num_hidden_layers", r"num_hidden_layers is 800000000, expected a positive integer up to 4096"),
        ("vocab_size", r"embed_tokens.weight has shape \(128, 32\), expected \(800000000, 32\)"),
    ):
        (folder / "config.json").write_text(json.dumps(fields | {name: 800_000_000}))
        with pytest.raises(A3dError, match=message):
            read_byte_model(folder, TINY)
    (folder / "model.safetensors").unlink()
    with pytest.raises(A3dError, match="vocab_size is 800000000; .* use a byte-level model"):
        read_byte_model(folder, TINY)
    (folder / "config.json").write_text(json.dumps(fields))
    with pytest.raises(A3dError, match="has neither model.safetensors nor model.safetensors.index.json"):
        read_byte_model(folder, TINY)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "heldout.txt: No such file or directory; put a text .* or name one with --calibration FILE"),
        (b"", "heldout.txt: 0 bytes, expected at least 129; name a longer text .* with --calibration FILE"),
        (b"x" * 128, "heldout.txt: 128 bytes, expected at least 129"),
        (b"x" * 200 + b"\x80", "heldout.txt: byte 0x80 at position 200; the model's vocabulary is 0 to 127: name ano"),
    ],
)
def test_wrong_calibration_texts_are_named(folder: Path, text: bytes | None, message: str) -> None:
    path = folder / "heldout.txt"
    path.unlink()
    if text is not None:
        path.write_bytes(text)
    with pytest.raises(A3dError, match=message) as caught:
        read_byte_model(folder, TINY)
    assert "\n" not in str(caught.value)
    with pytest.raises(A3dError, match="calibration text .*: Is a directory; .* --calibration FILE"):
        read_byte_model(folder, TINY, calibration=folder)
    other = folder / "other.txt"
    other.write_bytes(b"It was the best of times. " * 5)
    assert read_byte_model(folder, TINY, calibration=other).text.shape == (1, 64)


def test_weights_beyond_float32_are_refused() -> None:
    model = random_checkpoint(SHAPE, 1)
    layer = model.layers[0]
    layer.o_proj[...] *= np.float32(1e30)
    with pytest.raises(A3dError, match="calibration: the model's numbers exceed float32 on this text .overflow"):
        calibrate(model, np.arange(32))
