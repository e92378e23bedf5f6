# SPDX-License-Identifier: Apache-2.0
"""Runs the tutorials: what stands behind ``$`` in a page's console blocks, in one shell, from an empty folder.

    python -m tests.support.tutorials docs/tutorials/gemm.md ...

runs pages and writes what the commands print into them, blocks that are marked slow included.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[2]
MARK = "\x01"
"""Comes, with a command's exit status, behind what the command prints."""


@dataclass(frozen=True)
class Command:
    """A command of a page.

    Attributes
    ----------
    text : str
        What stands behind ``$``.
    output : str
        What the page says that it prints.
    slow : bool
        Its block is marked so.
    """

    text: str
    output: str
    slow: bool


def _blocks(page: str) -> list[re.Match[str]]:
    return list(re.finditer(r"^```console( slow)?\n(.*?)^```$", page, re.MULTILINE | re.DOTALL))


def commands_of(page: str) -> list[Command]:
    """Return the commands of a page's console blocks, in order."""
    found = []
    for block in _blocks(page):
        first, *parts = re.split(r"^\$ ", block[2], flags=re.MULTILINE)
        assert not first, f"a console block begins with a command: {first!r}"
        for part in parts:
            text, _, output = part.partition("\n")
            found.append(Command(text, output, bool(block[1])))
    return found


def run_commands(commands: Sequence[Command], folder: Path) -> list[str]:
    """Run commands one after the other in a folder that has the repository's files; return what each prints.

    Raises
    ------
    AssertionError
        One of them fails.
    """
    tools = folder / "bin"
    tools.mkdir()
    for name, module in (("a3d", " -m sim.cli"), ("python", "")):
        (tools / name).write_text(f'#!/bin/sh\nexec "{sys.executable}"{module} "$@"\n')
        (tools / name).chmod(0o755)
    for name in ("docs", "models"):
        (folder / name).symlink_to(ROOT / name)
    script = "".join(f"{each.text}\nprintf '{MARK}%s\\n' $?\n" for each in commands)
    env = os.environ | {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=env, capture_output=True, text=True, check=True
    )  # fmt: skip
    *outputs, _ = re.split(rf"{MARK}\d+\n", done.stdout)
    statuses = re.findall(rf"{MARK}(\d+)\n", done.stdout)
    failed = [each.text for each, status in zip(commands, statuses, strict=True) if status != "0"]
    assert not failed, f"{failed}: {done.stderr[-2000:]}"
    return ["".join(line.rstrip() + "\n" for line in output.splitlines()) for output in outputs]


def without_numbers(text: str) -> str:
    """Return the words of an output.

    Figures, lines of tables and spaces may change when the machine does, and what a model writes behind the prompt
    ``Hello`` with the computer's floating point.
    """
    text = re.sub(r"^Hello.*$", "Hello", re.sub(r"─+", "─", text), flags=re.MULTILINE)
    return " ".join(re.sub(r"[\d.,#]*\d[\d.,]*", "#", text).split())


def rewrite(path: Path, folder: Path) -> None:
    """Run a page and write into it what its commands print."""
    page = path.read_text(encoding="utf-8")
    commands = commands_of(page)
    printed = iter(zip(commands, run_commands(commands, folder), strict=True))
    for block in _blocks(page):
        count = len(re.findall(r"^\$ ", block[2], re.MULTILINE))
        body = "".join(f"$ {each.text}\n{output}" for each, output in (next(printed) for _ in range(count)))
        page = page.replace(block[0], f"```console{block[1] or ''}\n{body}```")
    path.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        with TemporaryDirectory() as scratch:
            rewrite(Path(argument), Path(scratch))
        print(argument)
