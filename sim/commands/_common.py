# SPDX-License-Identifier: Apache-2.0
"""What the subcommands share: the parser, options with their checks, tables, progress, JSON."""

import argparse
import dataclasses
import errno
import json
import math
import numbers
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeAlias, TypeVar

import rich.box
import rich.console
import rich.markup
import rich.progress
import rich.table

from hdl.config import MachineConfig
from hdl.errors import A3dError, one_line
from hdl.isa import Instruction
from hdl.isa.asm import AsmError, from_binary
from hdl.scratch import probe_folder, whole_file
from scheduler.plan.limits import LoweringError, RoomError
from scheduler.plan.policy import POLICIES, policy_of
from scheduler.system import SystemConfig, load_system

__all__ = [
    "JsonTarget", "Parser", "Subparsers", "add_config_option", "add_json_option", "add_policy_option",
    "check_demo_model", "check_distinct", "check_files", "check_folder", "check_page", "count", "fraction",
    "machine_of", "naming", "new_parser", "output_file", "output_folder", "picture_file", "print_table", "progress",
    "read_limited", "read_stream", "seconds", "system_of", "write_json",
]  # fmt: skip

T = TypeVar("T")

PICTURE_SUFFIXES = (".png", ".svg", ".pdf")
MOST_TEXT = 1 << 26
"""Bytes of a text or a stream that is read."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, like all others of ``a3d``; options are written in full."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **more})

    def error(self, message: str) -> NoReturn:
        """Refuse the arguments.

        Raises
        ------
        A3dError
            Always.
        """
        raise A3dError(f"{message.removeprefix('argument ')}; see {self.prog} --help")


Subparsers: TypeAlias = "argparse._SubParsersAction[Parser]"
"""What `add_parser` gets; argparse publishes the class under a private name only."""


class JsonTarget:
    """Where ``--json`` goes.

    Parameters
    ----------
    text : str
        A file's path, or ``-`` for what is standard output now.

    Attributes
    ----------
    path : Path or None
        The file; None for standard output.
    written : bool
        Whether something has been written.

    Raises
    ------
    argparse.ArgumentTypeError
        The file cannot be written.
    """

    def __init__(self, text: str) -> None:
        self._stream = sys.stdout
        self.path = None if text == "-" else output_file(text)
        self.written = False

    def __str__(self) -> str:
        """Return the path, or what stands for standard output."""
        return "standard output" if self.path is None else str(self.path)

    def write(self, text: str) -> None:
        """Write a text, whole or not at all."""
        self.written = True
        if self.path is None:
            self._stream.write(text)
        else:
            with whole_file(self.path) as scratch:
                scratch.write_text(text, encoding="utf-8")


class OutputPath(type(Path())):  # type: ignore[misc]
    """The path of a file that an option says to write."""


class OutputFolder(type(Path())):  # type: ignore[misc]
    """The path of a folder that an option says to write into; what lies in it is not read."""


def check_distinct(args: argparse.Namespace, more: Sequence[Path] = ()) -> None:
    """Refuse a file that is written twice, or read and written.

    Parameters
    ----------
    args : argparse.Namespace
        Options, parsed.
    more : sequence of Path
        Further files that will be written.

    Raises
    ------
    A3dError
        Names the file.
    """
    written = [*more]
    read: list[Path] = []
    for name, value in vars(args).items():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, JsonTarget):
                written += [item.path] if item.path is not None else []
            elif isinstance(item, OutputPath):
                written.append(item)
            elif isinstance(item, OutputFolder):
                continue
            elif isinstance(item, Path) or (isinstance(item, str) and name in ("config", "source", "file", "model")):
                read += _files_of(Path(item))
    places = [Path(os.path.realpath(path)) for path in written]
    for place, path in zip(places, written, strict=True):
        if places.count(place) > 1 and not (place.exists() and not place.is_file()):
            raise A3dError(f"{path}: two results would be written to this file; name different files")
        if place in [Path(os.path.realpath(path)) for path in read]:
            raise A3dError(f"{path}: is read, and would be written over; name another file")


def _files_of(path: Path) -> list[Path]:
    """Return the files that are read where a file or a folder is named; a preset's name is neither."""
    if path.is_dir():
        return [file for file in path.iterdir() if file.is_file()]
    return [path] if path.is_file() else []


def check_files(args: argparse.Namespace, files: Sequence[Path]) -> None:
    """Check files that a command writes besides those of its options.

    Raises
    ------
    A3dError
        One cannot be written, or is that of an option.
    """
    for path in files:
        try:
            output_file(str(path))
        except argparse.ArgumentTypeError as error:
            raise A3dError(str(error)) from error
    check_distinct(args, files)


def picture_file(text: str) -> Path:
    """Return the path of a picture to write (a ``type`` of argparse), as `output_file` does.

    Raises
    ------
    argparse.ArgumentTypeError
        It cannot be written, or its name does not end as that of a picture.
    """
    path = output_file(text)
    if path.suffix.lower() not in PICTURE_SUFFIXES:
        raise argparse.ArgumentTypeError(f"{text}: no picture; use a name that ends in {', '.join(PICTURE_SUFFIXES)}")
    return path


def read_limited(path: Path, what: str, most: int = MOST_TEXT) -> bytes:
    """Return the contents of a file that must not be endless, such as a device.

    Raises
    ------
    A3dError
        It cannot be read, or is larger; `what` begins the message.
    """
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except (OSError, ValueError) as error:
        raise A3dError(f"{what}: {_reason(error)}; name a readable file") from error
    if len(data) > most:
        raise A3dError(f"{what}: more than {most:,} bytes; name a smaller file")
    return data


def read_stream(path: Path) -> list[Instruction]:
    """Return the instructions of a binary stream.

    Raises
    ------
    A3dError
        It cannot be read, or is no stream of instructions.
    """
    data = read_limited(path, f"{path}: cannot read")
    try:
        return from_binary(data)
    except AsmError as error:
        raise A3dError(f"{one_line(path)}: {error}; name a binary stream") from error


def output_file(text: str) -> Path:
    """Return the path of a file to write (a ``type`` of argparse), checked before any work is done.

    Raises
    ------
    argparse.ArgumentTypeError
        It cannot be written.
    """
    path: Path = OutputPath(text)
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "is a directory")
        if path.exists() and not path.is_file():  # a device or a pipe: opening it may block
            if not os.access(path, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        else:
            probe_folder(path.resolve().parent)
    except (OSError, ValueError, RuntimeError) as error:  # a zero byte, a loop of links
        raise argparse.ArgumentTypeError(f"{text}: cannot write: {_reason(error)}; name a writable file") from error
    return path


def output_folder(text: str) -> Path:
    """Return the path of a folder to write into (a ``type`` of argparse), checked before any work is done.

    Raises
    ------
    argparse.ArgumentTypeError
        It cannot be made or written.
    """
    path: Path = OutputFolder(text)
    try:
        probe_folder(path)
    except (OSError, ValueError, RuntimeError) as error:
        raise argparse.ArgumentTypeError(f"{text}: cannot write: {_reason(error)}; name a writable folder") from error
    return path


def check_folder(path: Path) -> Path:
    """Return a folder to write into that no option named, checked as `output_folder` does.

    Raises
    ------
    A3dError
        It cannot be made or written.
    """
    try:
        return output_folder(str(path))
    except argparse.ArgumentTypeError as error:
        raise A3dError(str(error)) from error


def check_page(page: Path | None) -> None:
    """Check the page that ``--docs`` rewrites.

    Raises
    ------
    A3dError
        There is none, or it cannot be written.
    """
    if page is None:
        return
    if not page.is_file():
        raise A3dError(f"--docs {page}: no such file; run from the folder that has docs/, or name the file")
    try:
        output_file(str(page))
    except argparse.ArgumentTypeError as error:
        raise A3dError(f"--docs {error}") from error


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def count(low: int, high: int | None = None) -> Callable[[str], int]:
    """Return a ``type`` of argparse: whole numbers from `low` to `high`."""
    allowed = f"a whole number from {low} to {high:,}" if high is not None else f"a whole number, {low} or more"

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if value < low or (high is not None and value > high):
            raise argparse.ArgumentTypeError(f"{text}: use {allowed}")
        return value

    return read


def fraction(low: float, high: float = math.inf, *, exclusive: bool = False) -> Callable[[str], float]:
    """Return a ``type`` of argparse: finite numbers from `low` (or above it: `exclusive`) to `high`."""
    allowed = f"a number {'above' if exclusive else 'from'} {low:g}" + (f" to {high:g}" if high < math.inf else "")

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or value > high or value < low or (exclusive and value == low):
            raise argparse.ArgumentTypeError(f"{text}: use {allowed}")
        return value

    return read


seconds = fraction(0.0, 1e9, exclusive=True)
"""A ``type`` of argparse: a duration."""


def new_parser(subparsers: Subparsers, name: str, summary: str, details: str = "") -> Parser:
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
        help="a preset (nano, tiny, small, medium, large) or a TOML file, of the machine alone or with sections"
        + (f"; default {default}" if default else ""),
    )


def add_json_option(parser: argparse.ArgumentParser, default: str = "") -> None:
    """Add ``--json``: give its value, None or a `JsonTarget`, and the results to `write_json`.

    Parameters
    ----------
    parser : argparse.ArgumentParser
    default : str
        Where the results go without the option, in words; nowhere if empty.
    """
    text = f"write the results to FILE; default {default}" if default else "also write the results as JSON"
    parser.add_argument("--json", type=JsonTarget, metavar="FILE", help=f"{text}; '-' is standard output")


def write_json(target: JsonTarget | Path | None, value: object) -> None:
    """Write `value` as JSON, whole or not at all: readers never see half a file.

    Parameters
    ----------
    target
        Where to; None does nothing.
    value
        Plain data, in which dataclasses, paths, sets, NumPy numbers and arrays may occur. JSON has no infinities and no
        NaN: null stands for them.

    Raises
    ------
    A3dError
        If the file cannot be written.
    """
    if target is None:
        return
    text = json.dumps(_plain(value), indent=2, allow_nan=False) + "\n"
    try:
        (JsonTarget(str(target)) if isinstance(target, Path) else target).write(text)
    except argparse.ArgumentTypeError as error:
        raise A3dError(f"--json {error}") from error
    except BrokenPipeError:
        raise
    except OSError as error:
        raise A3dError(f"--json {target}: cannot write: {error.strerror}; name a writable file") from error


class _Console(rich.console.Console):
    def on_broken_pipe(self) -> None:
        """Let ``a3d`` deal with it, as with all output, where rich would exit with 1."""
        raise BrokenPipeError


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
    console = _Console(highlight=False, width=None if sys.stdout.isatty() else 240)
    console.print(table)


def add_policy_option(parser: argparse.ArgumentParser) -> None:
    """Add the option that says what the planner may do; `system_of` reads it."""
    parser.add_argument(
        "--policy", type=_policy_name, metavar="NAME",
        help=f"what the planner may do to a step, if that makes it shorter: {', '.join(POLICIES)}, or parts with + "
        "between, as list+residency; default: what the configuration's file says, or fused",
    )  # fmt: skip


def _policy_name(text: str) -> str:
    """Return a policy's name, if it is one."""
    try:
        policy_of(text)
    except LoweringError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("policy: ")) from error
    return text


def check_demo_model(args: argparse.Namespace) -> None:
    """Check that the demo model is there if it is the one that a command takes.

    Raises
    ------
    A3dError
        It is not: an installed package comes without it.
    """
    model = getattr(args, "model", None)
    if not isinstance(model, Path) or model.exists():
        return
    from sim.stimulus.moe_demo import DEMO_MODEL

    if model == DEMO_MODEL:
        raise A3dError(
            f"--model: {model}: not found; the demo model lies in the folder models/demo of the project's repository "
            "and is not installed with the package: name a copy of that folder, or another model, with --model"
        )


@contextmanager
def naming(args: argparse.Namespace, *options: str) -> Iterator[None]:
    """Name the options that decide how much memory a step needs, with their values, if that is more than there is."""
    try:
        yield
    except RoomError as error:
        given = ", ".join(f"--{name} {_typed(getattr(args, name))}" for name in options)
        raise LoweringError(f"{given}: {error}") from error


def _typed(value: object) -> str:
    """Return an option's value as it is typed."""
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def system_of(args: argparse.Namespace) -> SystemConfig:
    """Return what ``--config`` names, with what ``--policy`` and ``--clock-mhz`` say instead.

    Raises
    ------
    ConfigError
        See `load_system`.
    """
    system = load_system(args.config)
    if getattr(args, "policy", None) is not None:
        system = dataclasses.replace(system, policy=policy_of(args.policy))
    if getattr(args, "clock_mhz", None) is not None:
        system = system.at(args.clock_mhz)
    return system


def machine_of(args: argparse.Namespace, command: str) -> MachineConfig:
    """Return the machine that ``--config`` names, for a measurement whose memories, clock and plans are its own.

    Raises
    ------
    A3dError
        The file says something that would have no effect.
    """
    system = load_system(args.config)
    default = SystemConfig(machine=system.machine)
    memory = "memory" if system.memory.hbm is None else "hbm"
    for section, name in ((memory, "memory"), ("clock", "clock_mhz"), ("policy", "policy")):
        if getattr(system, name) != getattr(default, name):
            raise A3dError(f"--config {args.config}: [{section}] has no effect on a3d {command}; leave it out")
    return system.machine


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
    """Return what JSON can hold."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(_plain(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return [_plain(item) for item in sorted(value)]
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # NumPy arrays and numbers, without importing NumPy for it
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    raise TypeError(f"no JSON for {type(value).__name__}")
