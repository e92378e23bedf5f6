# SPDX-License-Identifier: Apache-2.0
"""``a3d schedule`` and what runs its directories: options that contradict, streams of another machine, nothing lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sim.cli import main
from tests.support.checkpoints import config_json, small_model

STEPS = '{"sequences": [{"id": "a", "cached": 3, "new": 2}]}\n{"sequences": [{"id": "a", "cached": 5, "new": 1}]}\n'


@pytest.fixture(name="schedule")
def schedule_fixture(tmp_path: Path) -> list[str]:
    """A command that makes a schedule for `tiny`; OUT is missing."""
    model = small_model("mixtral", hidden=16, heads=2, kv_heads=1, experts=4, chosen=2, intermediate=8)
    (tmp_path / "model.json").write_text(json.dumps(config_json(model)))
    (tmp_path / "steps.jsonl").write_text(STEPS)
    return ["schedule", "--config", "tiny", "--model", str(tmp_path / "model.json"), "--steps",
            str(tmp_path / "steps.jsonl"), "-o"]  # fmt: skip


def error_of(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    """Return the one line with which a command ends with status 2."""
    capsys.readouterr()
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--random-weights", "1", "--no-weights"], "--no-weights: contradicts --random-weights"),
        (["--random-weights", "1", "--calibration", "t"], "--calibration t: random weights have no ranges"),
        (["--calibration", "t"], "--calibration t: a schedule without weights has no ranges"),
        (["--layers", "3"], "--layers 3: model has 2; use at most that many"),
        (["--routing", "random"], "--routing random: use uniform, machine or a .npy file"),
    ],
)
def test_options_that_contradict_are_refused(
    tmp_path: Path, schedule: list[str], capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert message in error_of(capsys, [*schedule, str(tmp_path / "out"), *options])
    assert not (tmp_path / "out").exists()


def test_the_place_is_checked_before_the_steps_are_read(
    tmp_path: Path, schedule: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "steps.jsonl").write_text("{")
    assert "exists and is no schedule" in error_of(capsys, [*schedule, str(tmp_path)])


def test_a_stream_is_timed_on_a_machine_that_takes_it_only(
    tmp_path: Path, schedule: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main([*schedule, str(out)]) == 0
    stream = out / "step0000.bin"
    files = [tmp_path / name for name in ("stream.json", "schedule.json")]
    for path, file in zip((stream, out), files, strict=True):
        assert main(["time", str(path), "--json", str(file)]) == 0
        assert "across bonds" in capsys.readouterr().out
    alone, whole = (json.loads(file.read_text()) for file in files)
    assert alone["links"] == whole["steps"][0]["links"] and alone["links"]["offchip"] >= 32 * alone["instructions"]
    line = error_of(capsys, ["time", str(stream), "--config", "nano"])
    assert f"{stream}: instruction " in line and "is not legal on nano: " in line and "--config" in line
    data = stream.read_bytes()
    stream.write_bytes(data[:-32])
    assert "step 0 is damaged" in error_of(capsys, ["time", str(out)])
    assert "has no END" in error_of(capsys, ["time", str(stream)])
    stream.write_bytes(data[-32:] + data)
    assert "END is instruction 0 of" in error_of(capsys, ["time", str(stream)])
    stream.write_bytes(b"no stream, but 32 bytes of text.")
    for command in ("time", "disasm"):
        assert f"{stream}: instruction 0: opcode" in error_of(capsys, [command, str(stream)])


def test_what_a_schedule_brings_is_no_option_of_its_run(
    tmp_path: Path, schedule: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    assert main([*schedule, out, "--random-weights", "1"]) == 0
    assert "no step writes 3 of its cached tokens" in capsys.readouterr().err
    run = ["run", "--engine", "isa", "-o", str(tmp_path / "run"), "--schedule", out]
    assert main(run) == 0
    assert "--tokens: a schedule brings" in error_of(capsys, [*run, "--tokens", "5"])
    assert "--ignore-eos: a schedule brings" in error_of(capsys, [*run, "--ignore-eos"])
    assert "--seed: is not for" in error_of(capsys, ["sim", "schedule", "--schedule", out, "--seed", "5"])
    assert "--sim: is not for" in error_of(capsys, ["sim", "schedule", "--schedule", out, "--sim", "icarus"])
