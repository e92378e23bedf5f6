# SPDX-License-Identifier: Apache-2.0
"""``a3d synth``: tables, JSON, the documentation page, exit status."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hdl.flow.area import Amount, Comparison, Part
from hdl.flow.store import CACHE_VARIABLE, module_texts
from sim import cli
from sim.commands import synth
from tests.support.flow import designs


class FakeComparison:
    """Stands for :class:`AreaComparison`, which takes a minute."""

    adaptive = 1080
    modules = 2

    def __init__(self, config: Any) -> None:
        self.config = config

    def run(self) -> Iterator[str]:
        yield from ("a", "b")

    def result(self) -> Comparison:
        adaptive, plain = Amount(10, 5, self.adaptive, 1200), Amount(9, 6, 1000, 1250)
        parts = (Part("M link", adaptive - plain, True),)
        return Comparison(adaptive, plain, plain, parts, {"row": (adaptive, plain, plain)})


@pytest.fixture(autouse=True)
def small_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let every configuration be the chain of XOR gates."""
    design = SimpleNamespace(modules=module_texts(designs.CHAIN), top="chain")
    monkeypatch.setattr(synth, "generate", lambda config, out: (design, {}))
    monkeypatch.setattr(synth, "AreaComparison", FakeComparison)
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))


def test_totals_and_blocks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "out.json"
    assert cli.main(["synth", "--config", "nano", "--json", str(target)]) == 0
    found = json.loads(target.read_text())
    assert found["config"] == "nano"
    assert found["totals"]["cells"] == 12
    assert found["totals"]["registers"] == 7
    assert found["totals"]["longest_path_levels"] == 5
    assert {"memory_bits", "multipliers", "transistors"} < found["totals"].keys()
    assert [(block["name"], block["instances"]) for block in found["blocks"]] == [("last", 1), ("pair", 2)]
    assert found["comparison"] is None
    assert "whole machine" in capsys.readouterr().out


def test_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "out.json"
    assert cli.main(["synth", "--config", "nano", "--compare", "--json", str(target)]) == 0
    comparison = json.loads(target.read_text())["comparison"]
    assert comparison["overhead"] == pytest.approx(0.08)
    assert comparison["adaptive"]["transistors"] == 1080
    assert comparison["plain"]["registers"] == 6
    assert comparison["parts"] == [
        {"name": "M link", "added": True, "cells": 1, "registers": -1, "transistors": 80, "transistors_enable_mux": -50}
    ]
    out = capsys.readouterr().out
    assert "+8.00%" in out and "M link" in out


def test_too_much_overhead_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(FakeComparison, "adaptive", 1101)
    assert cli.main(["synth", "--config", "nano", "--compare"]) == 1
    assert "error: area overhead of the array logic is 10.1%, at most 10% is allowed" in capsys.readouterr().err


def test_docs_section_is_appended_and_then_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "area.md"
    page.write_text("# Area\n\nText.\n\n## Results\n")
    for name in ("nano", "tiny"):
        assert cli.main(["synth", "--config", name, "--docs", str(page)]) == 0
    first = page.read_text()
    assert first.startswith("# Area\n\nText.\n\n## Results\n")
    assert first.count("<!-- begin: a3d synth --config nano --docs -->") == 1
    assert first.count("+8.00%") >= 2
    monkeypatch.setattr(FakeComparison, "adaptive", 1070)
    assert cli.main(["synth", "--config", "nano", "--docs", str(page)]) == 0
    second = page.read_text()
    assert second.split("<!-- end -->")[1] == first.split("<!-- end -->")[1], "the other section stays"
    assert "+7.00%" in second.split("<!-- end -->")[0] and "+8.00%" not in second.split("<!-- end -->")[0]
    assert cli.main(["synth", "--config", "nano", "--docs", str(page)]) == 0
    assert page.read_text() == second


def test_docs_page_must_exist(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["synth", "--config", "nano", "--docs", str(tmp_path / "no.md")]) == 2
    assert "no.md: no such file" in capsys.readouterr().err
