# SPDX-License-Identifier: Apache-2.0
"""Programs as directories: written whole, read back the same, refused when damaged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from scheduler.stream.lower_layer import lower_layer
from scheduler.stream.program import Program, ProgramError
from sim import cli
from tests.support.layers import NANO, TINY, batch, random_layer


def test_programs_save_and_load(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(12)
    layer = random_layer(rng, 3, 12, 20)
    program = lower_layer(TINY, layer, *batch(rng, layer, 5, 2))
    directory = tmp_path / "p"
    program.save(directory)
    program.save(directory)  # replaces what is there
    assert sorted(f.name for f in tmp_path.iterdir()) == ["p"]
    again = Program.load(directory)
    assert again.instructions == program.instructions and again.outputs == program.outputs
    assert again.config == program.config and again.symbols == dict(program.symbols)
    assert (again.window, again.stream_base, again.meta) == (program.window, program.stream_base, program.meta)
    assert all((a == b).all() for a, b in zip(again.images, program.images, strict=True))
    stream = program.images[0][program.stream_base :][: len(program.stream)]
    assert stream.tobytes() == program.stream == (directory / "stream.bin").read_bytes()
    assert cli.main(["disasm", str(directory), "--explain", "--verify"]) == 0
    out = capsys.readouterr().out
    assert "addr=@expert" in out and "; verified" in out


def test_damaged_programs_are_refused(tmp_path: Path) -> None:
    layer = random_layer(np.random.default_rng(13), 1, 4, 4)
    program = lower_layer(NANO, layer, *batch(np.random.default_rng(13), layer, 1, 1))
    directory = tmp_path / "p"
    with pytest.raises(ProgramError, match="cannot read"):
        Program.load(directory)
    program.save(directory)
    description = json.loads((directory / "program.json").read_text())
    for text, message in (
        ("{", "program.json is damaged"),
        ("[]", "not of format 1"),
        (json.dumps({**description, "format": 2}), "not of format 1"),
        (json.dumps({k: v for k, v in description.items() if k != "window"}), "damaged .'window'"),
    ):
        (directory / "program.json").write_text(text)
        with pytest.raises(ProgramError, match=message):
            Program.load(directory)
    other = tmp_path / "notes"
    other.mkdir()
    (other / "keep.txt").write_text("mine")
    with pytest.raises(ProgramError, match="exists and is no program; name another"):
        program.save(other)
    assert (other / "keep.txt").read_text() == "mine"
