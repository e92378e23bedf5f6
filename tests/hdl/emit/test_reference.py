# SPDX-License-Identifier: Apache-2.0
"""The committed reference page is what its sources say."""

from __future__ import annotations

from pathlib import Path

from hdl.emit.reference import render_reference

PAGE = Path(__file__).resolve().parents[3] / "docs" / "reference.md"


def test_reference_page_is_current() -> None:
    """`a3d report --reference` was run after the last change of configuration, instructions, errors or registers."""
    assert PAGE.read_text(encoding="utf-8") == render_reference(), "run: a3d report --reference"
