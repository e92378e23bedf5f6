# SPDX-License-Identifier: Apache-2.0
"""Reads the JSON files of a model directory: whole, strictly, and without trusting them."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

from hdl.errors import A3dError, one_line, shown

__all__ = ["CheckpointError", "check_regular", "parse_object", "read_object"]

_MOST_BYTES = 1 << 26
"""The index of the largest public model has a few MiB."""


class CheckpointError(A3dError):
    """The model directory is not one that can be used; the message names what is wrong and how to fix it."""


def read_object(path: Path, what: str) -> dict[str, Any]:
    """Return the object that a JSON file holds.

    Parameters
    ----------
    path : Path
        The file; a byte order mark at its beginning is skipped.
    what : str
        What to do about a file that is missing or wrong, for the message.

    Raises
    ------
    CheckpointError
        It cannot be read, or holds something else.
    """
    try:
        size = check_regular(path)
        if size > _MOST_BYTES:
            raise CheckpointError(f"{one_line(path)}: has {size} bytes, expected at most {_MOST_BYTES}; {what}")
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise CheckpointError(f"{one_line(path)}: not found; {what}") from error
    except OSError as error:
        raise CheckpointError(f"{one_line(path)}: cannot be read ({error.strerror}); {what}") from error
    return parse_object(data, one_line(path), what)


def check_regular(path: Path) -> int:
    """Return a file's size.

    Raises
    ------
    CheckpointError
        It is a directory, a pipe or a device.
    OSError
        It cannot be looked at.
    """
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise CheckpointError(f"{one_line(path)}: is a directory, expected a file; download or save the model again")
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError(f"{one_line(path)}: is not a regular file; put a copy of the file there")
    return status.st_size


def parse_object(data: bytes, file: str, what: str) -> dict[str, Any]:
    """Return the object that JSON text holds; `file` and `what` are for the message.

    Raises
    ------
    CheckpointError
        Not UTF-8, not JSON, nested too deeply, a name twice in a table, or another value than an object.
    """

    def table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):  # readers differ in which of two values they take
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise CheckpointError(f"{file}: {shown(twice)} is there twice; remove one of them")
        return result

    try:
        value = json.loads(data.decode("utf-8-sig"), object_pairs_hook=table)
    except UnicodeDecodeError as error:
        where = f"byte {data[error.start]:#04x} at position {error.start} is not UTF-8"
        raise CheckpointError(f"{file}: cannot be read as JSON ({where}); {what}") from error
    except RecursionError as error:
        raise CheckpointError(f"{file}: cannot be read as JSON (nested too deeply); {what}") from error
    except ValueError as error:  # JSONDecodeError, or an integer of thousands of digits
        raise CheckpointError(f"{file}: cannot be read as JSON ({one_line(error)}); {what}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{file}: holds a {type(value).__name__}, expected a JSON object; {what}")
    return value
