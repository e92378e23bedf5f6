# SPDX-License-Identifier: Apache-2.0
"""The page of results: sections of reports that are there, others as they were, and none invented."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hdl.errors import A3dError
from sim.measure.results import SOURCES, render_results


def test_a_section_without_a_report_stays_as_it_was(tmp_path: Path) -> None:
    page = "# Results\n\nText.\n" + "".join(f"\n## {title}\n\nold {title}\n" for title in titles())
    assert render_results(tmp_path, page)[0].count("old ") == len(SOURCES)
    path = tmp_path / SOURCES["quality"][0]
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"float_bits_per_byte": 1.5, "bytes_evaluated": 4096}))
    again, missing = render_results(tmp_path, page)
    assert not missing
    assert again.count("old ") == len(SOURCES) - 1
    assert "| `float_bits_per_byte` | 1.5000 |" in again and "| `bytes_evaluated` | 4,096 |" in again
    assert render_results(tmp_path, again) == (again, [])


def test_a_report_that_was_never_made_is_named(tmp_path: Path) -> None:
    text, missing = render_results(tmp_path)
    assert missing == [command for _, command in SOURCES.values()] and "##" not in text


def test_a_report_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / SOURCES["demo"][0]
    path.mkdir(parents=True)
    with pytest.raises(A3dError, match="cannot be read .* run `a3d demo` again"):
        render_results(tmp_path)


def titles() -> list[str]:
    from sim.measure.results import _SECTIONS

    return [title for title, _ in _SECTIONS.values()]
