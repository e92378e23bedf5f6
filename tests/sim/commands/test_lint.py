# SPDX-License-Identifier: Apache-2.0
"""Whole machines through the linters: what a width or a limit of one preset makes constant shows only there."""

from __future__ import annotations

from pathlib import Path

import pytest

from hdl.config import PRESETS
from hdl.emit.files import FILE_LIST
from hdl.emit.lint import lint_verilator
from hdl.generate import TOP, generate
from sim import cli
from sim.simulator import tools


def test_every_tool_accepts_a_machine(tmp_path: Path) -> None:
    assert cli.main(["lint", "--config", "nano", "--out", str(tmp_path)]) == 0


def test_verilator_accepts_the_usual_machine(tmp_path: Path) -> None:
    generate(PRESETS["small"], tmp_path)
    verilator = tools.find_verilator()
    report = lint_verilator(tmp_path / FILE_LIST, TOP, verilator=verilator.executable, env=verilator.env())
    assert report.messages == ()


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", ["tiny", "small", "large"])
def test_every_tool_accepts_every_machine(name: str, tmp_path: Path) -> None:
    assert cli.main(["lint", "--config", name, "--out", str(tmp_path)]) == 0
