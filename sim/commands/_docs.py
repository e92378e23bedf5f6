# SPDX-License-Identifier: Apache-2.0
"""Generated sections of the pages in ``docs/``."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from hdl.errors import A3dError
from hdl.scratch import whole_file

__all__ = ["markdown_tables", "rewrite_section"]


def markdown_tables(sections: Iterable[tuple[str, Sequence[str], list[list[object]]]]) -> str:
    """Return tables, each with a title, in Markdown; columns of numbers are set flush right."""
    lines: list[str] = []
    for title, columns, rows in sections:
        lines += [f"**{title}**", "", f"| {' | '.join(columns)} |"]
        right = [all(isinstance(row[i], int) or str(row[i])[0] in "+-" for row in rows) for i in range(len(columns))]
        lines.append("|" + "".join(" ---: |" if flush else " --- |" for flush in right))
        for row in rows:
            cells = (f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row)
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def rewrite_section(path: Path, command: str, text: str) -> None:
    """Replace what `command` wrote into a page before, or append it.

    Raises
    ------
    A3dError
        The page cannot be read or written.
    """
    begin, end = f"<!-- begin: {command} -->", "<!-- end -->"
    section = f"{begin}\n{text}{end}\n"
    try:
        page = path.read_text(encoding="utf-8")
        pattern = re.compile(re.escape(begin) + r"\n.*?" + re.escape(end) + r"\n", re.DOTALL)
        page, found = pattern.subn(lambda _: section, page)
        with whole_file(path) as scratch:
            scratch.write_text(page if found else f"{page.rstrip()}\n\n{section}", encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        raise A3dError(f"--docs {path}: cannot be rewritten: {why}; name a page of text") from error
