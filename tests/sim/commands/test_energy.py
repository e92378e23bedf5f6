# SPDX-License-Identifier: Apache-2.0
"""``--energy`` on the command line: tables of users, the clock, pictures, and what is refused."""

from __future__ import annotations

import json
import re
from importlib import resources
from pathlib import Path

import pytest

from hdl.isa import Instruction, Opcode
from scheduler.stream.table import Table
from sim.cli import main

TEXT = resources.files("scheduler.cost.energy").joinpath("default.toml").read_text()


@pytest.fixture(name="stream")
def stream_fixture(tmp_path: Path) -> Path:
    gemm = Instruction(Opcode.GEMM, {"tier_count": 1, "tokens": 4, "k_slices": 2, "n_tiles": 3, "dest_kind": 1})
    path = tmp_path / "s.bin"
    path.write_bytes(Table.of([gemm, Instruction(Opcode.END, {})]).to_binary())
    return path


def test_the_energy_of_a_stream(stream: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said, picture = tmp_path / "e.json", tmp_path / "e.png"
    time = ["time", str(stream), "--config", "tiny"]
    assert main([*time, "--json", str(said)]) == 0
    assert "energy" not in json.loads(said.read_text())
    assert main([*time, "--energy", "--picture", str(picture), "--json", str(said)]) == 0
    shown = capsys.readouterr().out
    assert (
        "the system has no clock" in shown and "800 MHz" in shown and "HBM refresh" in shown and picture.stat().st_size
    )
    result = json.loads(said.read_text())
    assert result["activity"]["macs"] == 24 * 64 and result["energy"]["table"] == "default"
    own = tmp_path / "own.toml"
    own.write_text(TEXT.replace("value = 0.3\nlow = 0.1\nhigh = 0.45", "value = 0.6\nlow = 0.2\nhigh = 0.9"))
    assert main([*time, "--energy", str(own), "--json", str(said)]) == 0
    other = json.loads(said.read_text())["energy"]
    assert other["table"] == "own.toml"
    for end in ("value", "low"):
        doubled = other["components_pj"].pop("PEs")[end] if end == "low" else other["components_pj"]["PEs"][end]
        assert doubled == pytest.approx(2 * result["energy"]["components_pj"]["PEs"][end])
    del result["energy"]["components_pj"]["PEs"]
    assert other["components_pj"] == result["energy"]["components_pj"]


def test_a_clock_of_the_system_is_used(stream: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, said = tmp_path / "c.toml", tmp_path / "e.json"
    config.write_text('[machine]\npreset = "tiny"\n[clock]\nmhz = 400\n')
    assert main(["time", str(stream), "--config", str(config), "--energy", "--json", str(said)]) == 0
    assert "no clock" not in capsys.readouterr().out
    assert json.loads(said.read_text())["energy"]["mhz"] == 400


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["time", "STREAM", "--energy", "OWN"], "own.toml: entry mac is missing; write [mac], and value, low, high"),
        (["run", "-o", "OUT", "--energy", "OWN"], "own.toml: entry mac is missing"),
        (["bench", "energy", "--energy", "OWN"], "own.toml: entry mac is missing"),
        (["time", "STREAM", "--energy", "absent.toml"], "absent.toml: does not exist; name a TOML file"),
        (["time", "STREAM", "--picture", "p.png"], "--picture p.png: shows energies; add --energy, or leave it out"),
        (["run", "-o", "OUT", "--engine", "isa", "--energy"], "--energy: the engine isa has no time; leave it out, or"),
    ],
)
def test_what_is_refused(
    options: list[str], message: str, stream: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "own.toml"
    own.write_text(re.sub(r"\[mac\]\n(.+\n)+", "", TEXT))
    names = {"STREAM": str(stream), "OWN": str(own), "OUT": str(tmp_path / "out")}
    assert main([names.get(option, option) for option in options]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1
    assert not (tmp_path / "out").exists()
