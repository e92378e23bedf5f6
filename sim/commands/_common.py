# SPDX-License-Identifier: Apache-2.0
"""What the subcommands share: options, tables, progress, JSON files."""

import argparse
import dataclasses
import json
import numbers
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias, TypeVar

import rich.box
import rich.console
import rich.markup
import rich.progress
import rich.table

from hdl.errors import A3dError
from sim.files import whole_file

__all__ = [
    "Subparsers",
    "add_config_option",
    "add_json_option",
    "new_parser",
    "print_table",
    "progress",
    "write_json",
]

T = TypeVar("T")


Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""What `add_parser` gets; argparse publishes the class under a private name only."""


def new_parser(subparsers: Subparsers, name: str, summary: str, details: str = "") -> argparse.ArgumentParser:
    """Add a subcommand's parser: `summary` is its line in ``a3d --help``, `details` its own help's further text."""
    return subparsers.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=details or None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_config_option(parser: argparse.ArgumentParser, default: str | None = "tiny") -> None:
    """Add ``--config``: give its value to `hdl.config.load_config`."""
    parser.add_argument(
        "--config",
        metavar="NAME_OR_TOML",
        default=default,
        help="machine configuration: a preset (nano, tiny, small, large) or a TOML file"
        + (f"; default {default}" if default else ""),
    )


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--json``: give its value, None or a path, and the results to `write_json`."""
    parser.add_argument("--json", metavar="FILE", help="also write the results as JSON; '-' is standard output")


def write_json(path: str | Path | None, value: object) -> None:
    """Write `value` as JSON, whole or not at all: readers never see half a file.

    Parameters
    ----------
    path
        Where to; ``"-"`` is standard output, None does nothing.
    value
        Plain data, in which dataclasses, paths, sets, NumPy numbers and arrays may occur.

    Raises
    ------
    A3dError
        If the file cannot be written.
    """
    if path is None:
        return
    text = json.dumps(value, indent=2, default=_plain) + "\n"
    if str(path) == "-":
        sys.stdout.write(text)
        return
    try:
        with whole_file(Path(path)) as scratch:
            scratch.write_text(text, encoding="utf-8")
    except OSError as error:
        raise A3dError(f"--json {path}: cannot write: {error.strerror}; name a writable file") from error


def print_table(
    rows: Iterable[Sequence[object]], columns: Sequence[str], *, title: str = "", left: Sequence[str] = ()
) -> None:
    """Print a table on standard output.

    Parameters
    ----------
    rows
        Cells; floats are shown with four significant digits, integers with thousands separators, None as ``-``.
    columns
        The header. Columns that hold numbers are set flush right.
    title
        A line above.
    left
        Columns to set flush left although they hold numbers.
    """
    cells = [list(row) for row in rows]
    table = rich.table.Table(title=title or None, title_justify="left", box=rich.box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        values = [row[index] for row in cells if row[index] is not None]
        numeric = bool(values) and column not in left and all(_is_number(value) for value in values)
        table.add_column(column, justify="right" if numeric else "left", no_wrap=numeric)
    for row in cells:
        table.add_row(*(rich.markup.escape(_cell(value)) for value in row))
    # In a pipe there is no terminal to be narrow: rows stay on one line, for grep.
    console = rich.console.Console(highlight=False, width=None if sys.stdout.isatty() else 240)
    console.print(table)


def progress(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yield the items, with a progress bar on standard error when that is a terminal."""
    console = rich.console.Console(stderr=True)
    yield from rich.progress.track(
        items, description=description, total=total, console=console, transient=True, disable=not console.is_terminal
    )


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, numbers.Integral):
        return f"{int(value):,}"
    if isinstance(value, numbers.Real):
        number = float(value)
        return f"{number:,.0f}" if abs(number) >= 10_000 else f"{number:.4g}"
    return str(value)


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # NumPy arrays and numbers, without importing NumPy for it
        return value.tolist()
    raise TypeError(f"no JSON for {type(value).__name__}")
