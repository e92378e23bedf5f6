# SPDX-License-Identifier: Apache-2.0
"""The commands of docs/start.md that take a file of steps to the machine, with the executor in the RTL's place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sim import cli
from tests.support.pages import ROOT


@pytest.mark.slow
def test_from_steps_to_a_run(tmp_path: Path) -> None:
    out, steps = tmp_path / "demo", ROOT / "docs" / "examples" / "demo_steps.jsonl"
    model = str(ROOT / "models" / "demo")
    assert cli.main(["schedule", "--model", model, "--config", "small", "--steps", str(steps), "-o", str(out)]) == 0
    assert cli.main(["time", str(out), "--json", str(tmp_path / "time.json")]) == 0
    assert len(json.loads((tmp_path / "time.json").read_text())["steps"]) == len(steps.read_text().splitlines())
    assert cli.main(["run", "--schedule", str(out), "--engine", "isa", "-o", str(tmp_path / "run")]) == 0


def test_the_page_shows_the_file() -> None:
    text = (ROOT / "docs" / "examples" / "demo_steps.jsonl").read_text(encoding="utf-8")
    assert text in (ROOT / "docs" / "start.md").read_text(encoding="utf-8")
