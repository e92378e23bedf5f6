# SPDX-License-Identifier: Apache-2.0
"""The drawn pictures of the pages can be drawn again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.pages import ROOT


@pytest.mark.slow
def test_drawn_pictures(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(ROOT / "tools" / "draw_pictures.py"), str(tmp_path)], check=True)
    drawn = sorted(path.name for path in tmp_path.iterdir())
    assert drawn == ["machine.png", "software.png", "words.png"]
    assert all((ROOT / "docs" / "images" / name).is_file() for name in drawn)
