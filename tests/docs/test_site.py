# SPDX-License-Identifier: Apache-2.0
"""The site of the documents: it builds, and what is broken stops it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.pages import ROOT

pytest.importorskip("mkdocs", reason="pip install -e '.[docs]'")
pytestmark = pytest.mark.slow


def build(root: Path, site: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(site)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)


def test_the_site(tmp_path: Path) -> None:
    """Every page is there, with the home page, commands and API; nothing is taken from the web."""
    result = build(ROOT, tmp_path / "site")
    assert result.returncode == 0, result.stderr
    for page in ("index", "architecture", "decisions/index", "api/commands", "api/hdl.isa"):
        text = (tmp_path / "site" / f"{page}.html").read_text(encoding="utf-8")
        assert 'src="http' not in text and 'rel="stylesheet" href="http' not in text
    assert "MachineConfig" in (tmp_path / "site" / "api" / "hdl.html").read_text(encoding="utf-8")
    assert "--step-tokens" in (tmp_path / "site" / "api" / "commands.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("link", ["architecture.md#absent", "absent.md"])
def test_broken_links_stop_it(link: str, tmp_path: Path) -> None:
    for name in ("docs", "hdl", "scheduler", "sim", "tools"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "docs").unlink()
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    for name in ("mkdocs.yml", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    with (tmp_path / "docs" / "glossary.md").open("a", encoding="utf-8") as page:
        page.write(f"\n[wrong]({link})\n")
    result = build(tmp_path, tmp_path / "site")
    assert result.returncode and link.partition("#")[0] in result.stderr
