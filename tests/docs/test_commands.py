# SPDX-License-Identifier: Apache-2.0
"""Commands in the pages are ones that the command line and the Makefile know; the shown ones are listed."""

from __future__ import annotations

import argparse
import fnmatch
import re
import shlex
import tomllib
from pathlib import Path

import pytest

from hdl.errors import A3dError
from sim.cli import make_parser
from tests.support.pages import ROOT, Found, exists, mentioned_commands, pages, shown_commands

LISTED = tomllib.loads((ROOT / "tests" / "docs" / "commands.toml").read_text(encoding="utf-8"))
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = frozenset(re.findall(r"^([\w-]+%?):.*?##", MAKEFILE, re.MULTILINE))
VARIABLES = frozenset(re.findall(r"\$\((?:quote,\$\()?([A-Z]+)\)", MAKEFILE)) | {"CONFIG", "SEED", "ARGS"}
WORDS = {"R": "1", "N": "1", "X": "tiny", "S": "1", "W": "1"}
"""What single capitals in place of a value stand for here; longer ones are names, which any text is."""


@pytest.fixture(scope="module")
def parsers() -> tuple[argparse.ArgumentParser, argparse.ArgumentParser]:
    """Return the parser of ``a3d``, and one that lets arguments be missing, but knows no others."""
    whole, loose = make_parser(), make_parser()
    left = [loose]
    while left:
        for action in left.pop()._actions:
            action.required = False
            if isinstance(action, argparse._SubParsersAction):
                left += action.choices.values()
    return whole, loose


def wrong(command: str, parser: argparse.ArgumentParser) -> str:
    """Return what is wrong with a command line; nothing if it can be parsed."""
    words = shlex.split(command)
    if words[0] == "make":
        return wrong_make(words[1:])
    words = [WORDS.get(word, word.removesuffix("...")) for word in words[1:]]
    if words == ["--help"] or words[1:] == ["NAME"] or words[-1:] == ["--help"]:  # any name
        words = [word for word in words if word not in ("NAME", "COMMAND", "--help")]
    try:
        parser.parse_args(words)
    except A3dError as error:
        return str(error)
    return ""


def wrong_make(words: list[str]) -> str:
    """Return what is wrong with the arguments of ``make``."""
    for word in words:
        name, given, _ = word.partition("=")
        if given and name not in VARIABLES:
            return f"the Makefile has no variable {name}"
        if not given and name not in TARGETS and not (name.startswith("bench-") and "bench-%" in TARGETS):
            return f"the Makefile has no target {name}"
    return ""


def complaints(commands: list[Found], parser: argparse.ArgumentParser) -> list[str]:
    """Return a line for each command that is wrong."""
    return [f"{command}: {why}" for command in commands if (why := wrong(command.text, parser))]


@pytest.mark.parametrize("page", pages())
def test_commands_are_known(
    page: str,
    parsers: tuple[argparse.ArgumentParser, argparse.ArgumentParser],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those in code fences are whole; those in the text may lack arguments."""
    monkeypatch.chdir(tmp_path)
    found = complaints(shown_commands(page), parsers[0]) + complaints(mentioned_commands(page), parsers[1])
    assert not found, "\n".join(found)


def test_wrong_commands_are_noticed(parsers: tuple[argparse.ArgumentParser, argparse.ArgumentParser]) -> None:
    """Unknown commands, options, values, targets and variables are."""
    for command in ("a3d run --absent", "a3d absent", "a3d synth --target z80", "make absent", "make sim TSET=system"):
        assert all(wrong(command, parser) for parser in parsers), command
    assert wrong("a3d time", parsers[0]) and not wrong("a3d time", parsers[1])


def test_shown_commands_are_listed() -> None:
    """Each one says which test runs it, or why none does; nothing else is listed."""
    own = [page for page in pages() if not any(fnmatch.fnmatch(page, pattern) for pattern in LISTED["pages"])]
    shown = {command.text: command for page in own for command in shown_commands(page)}
    listed = LISTED["run"].keys() | LISTED["not_run"].keys()
    assert not LISTED["run"].keys() & LISTED["not_run"].keys()
    missing, left = [str(shown[text]) for text in shown.keys() - listed], sorted(listed - shown.keys())
    assert not missing, "not in tests/docs/commands.toml:\n" + "\n".join(sorted(missing))
    assert not left, "shown by no page:\n" + "\n".join(left)


@pytest.mark.parametrize("test", sorted({*LISTED["run"].values(), *LISTED["pages"].values()}))
def test_named_tests_exist(test: str) -> None:
    """The tests that are said to run a command do exist."""
    path, _, name = test.partition("::")
    assert exists(path)
    assert not name or f"def {name}(" in (ROOT / path).read_text(encoding="utf-8")
