# SPDX-License-Identifier: Apache-2.0
"""The bench of all ideas together: what it measures, what it refuses, what the page says of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scheduler.memory.placement import Placement
from scheduler.plan.policy import FUSED, SEQUENTIAL
from sim import cli
from sim.measure.together import IDEAS, Ideas, draw, ideas_to_measure
from sim.measure.together_page import together_lines


def test_what_is_measured() -> None:
    found = ideas_to_measure()
    assert [own.name for own in found] == ["nothing", "all", *(f"all but {name}" for name in IDEAS)]
    assert found[0].policy == SEQUENTIAL and found[0].placement == Placement.INTERLEAVED and not found[0].scores
    assert found[1].policy == FUSED and found[1].placement == Placement.EVEN_ODD and found[1].scores
    assert Ideas(fused=False).policy.residency and not Ideas(residency=False).policy.residency


@pytest.mark.parametrize(
    ("points", "words"),
    [
        ([], "thresholds: none for batch 8 and 45 percent"),
        ([{"policy": "score", "batch": 8, "budget_percent": 35.0}], "thresholds: none for batch 8 and 45 percent"),
        ([{"policy": "random", "batch": 8, "budget_percent": 45.0}], "thresholds: none for batch 8 and 45 percent"),
    ],
)
def test_reports_without_thresholds(
    points: list[object], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "frontier.json"
    sizes = {"bytes_evaluated": 512, "window": 256, "calibration_bytes": 512}
    path.write_text(json.dumps({"points": points, "key_block": 128, "clip": True, "reach": 0} | sizes))
    assert cli.main(["bench", "together", "--frontier", str(path), "--batches", "8"]) == 2
    error = capsys.readouterr().err
    assert words in error and "a3d bench quality --frontier" in error and error.count("\n") == 1


def test_the_page_and_the_picture(tmp_path: Path) -> None:
    points = [
        {
            "batch": 8, "ideas": ideas.name, "steps": 3, "cycles_per_step": 30000.0, "cycles_over_all": 1.5,
            "bytes_per_step": 500000.0, "bytes_over_all": 1.25, "pj_per_token": 17e6, "pj_over_all": 1.75,
            "loss_percent": 0.3,
        }
        for ideas in ideas_to_measure()
    ]  # fmt: skip
    data = {
        "config": {"name": "small"}, "model": "demo", "mismatched_bytes": 0, "compared_bytes": 1 << 20,
        "budget_percent": 45.0, "system": {"memory": {"hbm": {"name": "hbm3"}, "mhz": 800.0}}, "points": points,
    }  # fmt: skip
    lines = together_lines(data)
    assert "hbm3 at 800 MHz" in lines[0] and "0 of 1,048,576 bytes differ" in lines[0] and "45 %" in lines[0]
    assert lines[4] == "| 8 | nothing | 30,000 | 1.50 | 500,000 | 1.25 | 17,000 | 1.75 | +0.30 % |"
    draw(data, tmp_path / "together.png")
    assert (tmp_path / "together.png").stat().st_size > 10000
