# SPDX-License-Identifier: Apache-2.0
"""What the pages of documents say: links, headings, commands and the names of files."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

_FENCE = re.compile(r"^\s*(```|~~~)")
_COMMAND = re.compile(r"^(?:\$ )?((?:\.venv/bin/)?a3d|make)(?: |$)")
_SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_LINK = re.compile(r"\]\(([^)\s]+)(?: \"[^\"]*\")?\)")


@dataclass(frozen=True)
class Found:
    """Something that a page says.

    Attributes
    ----------
    page : str
        The page's path below the root of the tree.
    line : int
        The line, from 1.
    text : str
        What was found.
    """

    page: str
    line: int
    text: str

    def __str__(self) -> str:
        """Return the place and the text, as in a compiler's messages."""
        return f"{self.page}:{self.line}: {self.text}"


@cache
def pages() -> tuple[str, ...]:
    """Return the README and every page below ``docs``."""
    return ("README.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")))


def exists(path: str) -> bool:
    """Return whether a file or a folder of the tree exists (NAME stands for any name)."""
    return any(ROOT.glob(path.replace("NAME", "*")))


@cache
def lines_of(page: str) -> tuple[tuple[int, str, bool], ...]:
    """Return a page's lines: number, text, and whether it lies in a code fence (the fence's own lines are left out)."""
    lines, inside = [], False
    for number, line in enumerate((ROOT / page).read_text(encoding="utf-8").splitlines(), 1):
        if _FENCE.match(line):
            inside = not inside
        else:
            lines.append((number, line, inside))
    return tuple(lines)


def links(page: str) -> list[Found]:
    """Return the targets of a page's links and pictures, without those on the web."""
    return [
        Found(page, number, target)
        for number, line, fenced in lines_of(page)
        if not fenced
        for target in _LINK.findall(_SPAN.sub("", line))
        if not re.match(r"[a-z]+:", target)
    ]


def spans(page: str) -> list[Found]:
    """Return a page's inline code."""
    return [
        Found(page, number, span)
        for number, line, fenced in lines_of(page)
        if not fenced
        for span in _SPAN.findall(line)
    ]


@cache
def anchors(page: str) -> frozenset[str]:
    """Return the anchors of a page's headings, spelled as the usual sites of repositories spell them."""
    seen: dict[str, int] = {}
    for _, line, fenced in lines_of(page):
        if fenced or not (heading := re.match(r"#+ +(.*?) *#*$", line)):
            continue
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading[1])
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        seen[slug] = seen.get(slug, -1) + 1
        if seen[slug]:
            seen[f"{slug}-{seen[slug]}"] = 0
    return frozenset(seen)


def shown_commands(page: str) -> list[Found]:
    """Return the command lines in a page's code fences, without comments; ``a && b`` are two."""
    found, before = [], ""
    for number, line, fenced in lines_of(page):
        text = before + line.strip() if fenced else ""
        before = text[:-1] if text.endswith("\\") else ""
        if not before and _COMMAND.match(text):
            found += [Found(page, number, command) for command in _split(text)]
    return found


def mentioned_commands(page: str) -> list[Found]:
    """Return the commands in a page's inline code, which may lack arguments."""
    return [
        Found(span.page, span.line, command)
        for span in spans(page)
        if _COMMAND.match(span.text)
        for command in _split(span.text)
    ]


def _split(line: str) -> list[str]:
    """Return a line's commands as they are listed: without prompt, folder of ``a3d``, comment, pipe and redirection."""
    parts: list[list[str]] = [[]]
    cut = False
    for word in shlex.split(line.removeprefix("$ "), comments=True):
        if word == "&&":
            parts.append([])
            cut = False
        elif cut := cut or re.fullmatch(r"[12]?>.*|[|<&;].?", word) is not None:
            continue
        else:
            parts[-1].append(word)
    commands = [shlex.join(part) for part in parts]
    return [command.removeprefix(".venv/bin/") for command in commands if _COMMAND.match(command)]
