# SPDX-License-Identifier: Apache-2.0
"""The built wheel, away from the repository: what a user of the package alone can do, and what that user is told."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sim import cli
from sim.stimulus import moe_demo

ROOT = Path(__file__).resolve().parents[2]
MESSAGE = "the demo model lies in the folder models/demo of the project's repository"


@pytest.mark.parametrize("command", [["demo"], ["run", "--engine", "isa"], ["bench", "model"]])
def test_no_demo_model(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An installed package has no demo model; every command that takes it says where it is."""
    absent = tmp_path / "absent"
    monkeypatch.setattr(moe_demo, "DEMO_MODEL", absent)
    assert cli.main([*command, "--model", str(absent)]) == 2
    assert MESSAGE in capsys.readouterr().err


@pytest.mark.slow
def test_the_wheel_alone(tmp_path: Path) -> None:
    """Generate, lint, schedule and time, from a wheel built and unpacked elsewhere (pip fetches setuptools)."""
    source, wheels, package, work = (tmp_path / name for name in ("source", "wheels", "package", "work"))
    for folder in (source, work):
        folder.mkdir()
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in listed.stdout.split("\0"):
        if name.startswith(("hdl/", "scheduler/", "sim/", "pyproject.toml", "README.md", "LICENSE")):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", str(wheels), str(source)], check=True)
    wheel = next(wheels.glob("a3d_moe-*.whl"))
    subprocess.run([*pip, "install", "--no-deps", "--target", str(package), str(wheel)], check=True)
    environment = os.environ | {"PYTHONPATH": str(package)}

    def a3d(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "sim.cli", *words]
        return subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=False)

    where = [sys.executable, "-c", "import hdl, scheduler, sim; print(hdl.__file__, scheduler.__file__, sim.__file__)"]
    found = subprocess.run(where, cwd=work, env=environment, capture_output=True, text=True, check=True)
    assert all(path.startswith(str(package)) for path in found.stdout.split())
    steps = work / "steps.jsonl"
    steps.write_bytes((ROOT / "docs/examples/steps.jsonl").read_bytes())
    for words in (
        ("generate", "--config", "nano", "-o", "out"),
        ("lint", "--config", "nano"),
        ("schedule", "--model", "qwen3-30b-a3b", "--layers", "1", "--steps", "steps.jsonl", "-o", "q"),
        ("time", "q"),
    ):
        done = a3d(*words)
        assert done.returncode == 0, done.stderr
    assert (work / "out" / "a3d.f").is_file()
    refused = a3d("run", "--engine", "isa")
    assert refused.returncode == 2 and MESSAGE in refused.stderr
