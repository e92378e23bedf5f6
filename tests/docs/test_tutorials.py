# SPDX-License-Identifier: Apache-2.0
"""The tutorials' commands run and print what the pages say, whatever the figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.tutorials import ROOT, Command, commands_of, run_commands, without_numbers

PAGE_FOLDER = ROOT / "docs" / "tutorials"
PAGES = sorted(path.name for path in PAGE_FOLDER.glob("*.md") if path.name != "index.md")


def check_page(name: str, folder: Path, *, slow: bool) -> None:
    page = (PAGE_FOLDER / name).read_text(encoding="utf-8")
    commands = [each for each in commands_of(page) if slow or not each.slow]
    for each, printed in zip(commands, run_commands(commands, folder), strict=True):
        how = f"python -m tests.support.tutorials docs/tutorials/{name}"
        assert without_numbers(printed) == without_numbers(each.output), f"{each.text}: {how}"


def has_commands(name: str, *, slow: bool) -> bool:
    return any(each.slow == slow for each in commands_of((PAGE_FOLDER / name).read_text(encoding="utf-8")))


@pytest.mark.parametrize("name", [name for name in PAGES if has_commands(name, slow=False)])
def test_tutorials(name: str, tmp_path: Path) -> None:
    check_page(name, tmp_path, slow=False)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", [name for name in PAGES if has_commands(name, slow=True)])
def test_whole_tutorials(name: str, tmp_path: Path) -> None:
    """With the commands that take minutes."""
    check_page(name, tmp_path, slow=True)


def test_index_has_every_tutorial() -> None:
    index = (PAGE_FOLDER / "index.md").read_text(encoding="utf-8")
    assert PAGES and all(f"({name})" in index for name in PAGES)


def test_a_wrong_command_is_found(tmp_path: Path) -> None:
    commands = commands_of("```console\n$ echo 12 apples\n14 apples\n$ false\n```\n")
    assert commands == [Command("echo 12 apples", "14 apples\n", False), Command("false", "", False)]
    assert without_numbers(run_commands(commands[:1], tmp_path)[0]) == without_numbers("14 apples\n") != "14 pears"
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(AssertionError, match="'false'"):
        run_commands(commands, other)
