# SPDX-License-Identifier: Apache-2.0
"""The bench of experts' bytes: what it measures, what it refuses, what the page says of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scheduler.memory.placement import Placement
from sim import cli
from sim.measure.bytes import variants_of
from sim.measure.bytes_page import bytes_lines


def test_variants() -> None:
    """Slots in one placement; each has its own run with both planes."""
    found = variants_of((25.0, 50.0))
    assert {v.placement for v in found if v.routing == "slots"} == {Placement.EVEN_ODD}
    assert {v.placement for v in found if v.routing == "host"} == set(Placement)
    assert sum(v.budget is None for v in found) == 5 and len({v.name for v in found}) == len(found) == 15


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "No such file or directory; make it with a3d bench quality --frontier --json FILE"),
        ("{", "no JSON"),
        ("[]", "points: missing"),
        (json.dumps({"points": [], "bytes_evaluated": 1}), "window: missing"),
    ],
)
def test_other_reports(text: str | None, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "frontier.json"
    if text is not None:
        path.write_text(text)
    assert cli.main(["bench", "bytes", "--frontier", str(path)]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_the_page() -> None:
    point = {
        "placement": "even_odd", "routing": "slots", "batch": 8, "budget_percent": 35.0, "expert_bytes": 123456,
        "expert_bytes_saved_percent": 34.9, "bytes_saved_percent": 20.0, "cycles_saved_percent": 19.0,
        "energy_saved_percent": 18.0, "cycles": 40000, "imbalance": 1.01, "loss_percent": 0.4,
        "loss_percent_error": 0.1,
    }  # fmt: skip
    data = {
        "config": {"name": "small"}, "model": "demo", "mismatched_bytes": 0, "compared_bytes": 1 << 20,
        "system": {"policy": "fused", "memory": {"hbm": {"name": "hbm3"}, "mhz": 800.0}}, "points": [point],
    }  # fmt: skip
    lines = bytes_lines(data)
    assert "hbm3 at 800 MHz" in lines[0] and "0 of 1,048,576 bytes differ" in lines[0]
    assert lines[-1] == (
        "| 8 | even_odd | slots | 35 % | 123,456 | 34.9 % | 20.0 % | 19.0 % | 18.0 % | 40,000 | 1.010 | "
        "+0.40 % (error 0.10) |"
    )
