# SPDX-License-Identifier: Apache-2.0
"""Files of one JSON object a line, which users write: what every reader of them checks alike."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hdl.errors import A3dError, one_line, shown

__all__ = ["MISSING", "JsonLine", "read_lines"]

MOST_BYTES = 1 << 28
"""Longest file."""

MISSING = object()
"""Stands for the value of a field that is not there."""


def read_lines(path: Path, name: str, each: str, error: type[A3dError]) -> list[str]:
    """Return the lines of a file.

    Parameters
    ----------
    path : Path
    name : str
        Begins the messages.
    each : str
        What an object of the file is for, such as ``step``.
    error : type
        Of the errors.

    Raises
    ------
    A3dError
        Of the type `error`: the file cannot be read, is too long, or is not UTF-8.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as reason:
        why = reason.strerror if isinstance(reason, OSError) else str(reason)
        raise error(f"{name}: {why}; name a file with a JSON object for each {each}") from reason
    if len(data) > MOST_BYTES:
        raise error(f"{name}: more than {MOST_BYTES} bytes; cut it")
    try:
        return data.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as reason:
        raise error(f"{name}: byte {reason.start} is not UTF-8; save it as UTF-8 text") from reason


class JsonLine:
    """One line while it is read.

    Parameters
    ----------
    where : str
        File and line, for messages.
    error : type
        Of the errors.
    """

    def __init__(self, where: str, error: type[A3dError]) -> None:
        self._where = where
        self._type = error

    def error(self, field: str, value: object, use: str) -> A3dError:
        """Return the error of a field's value, with what to use instead."""
        state = "is missing" if value is MISSING else shown(value)
        return self._type(f"{self._where}: {field}: {state}; use {use}")

    def parse(self, line: str, fields: str) -> dict[str, Any]:
        """Return the object of a line; `fields` says in words what it must have.

        Raises
        ------
        A3dError
            It is none, or has a field twice: readers differ in which of two values they take.
        """
        try:
            value = json.loads(line, parse_constant=lambda word: word, object_pairs_hook=self._table)
        except (ValueError, RecursionError) as error:
            why = error.msg if isinstance(error, json.JSONDecodeError) else "too deep or too large"
            raise self._type(f"{self._where}: no JSON object ({why}); write one object a line") from error
        if not isinstance(value, dict):
            raise self._type(f"{self._where}: {shown(value)}; write an object with {fields}")
        return value

    def _table(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, value in pairs:
            if key in result:
                raise self._type(f"{self._where}: {one_line(key)}: is there twice in an object; remove one of them")
            result[key] = value
        return result

    def check_known(self, value: dict[str, Any], known: Sequence[str], inside: str = "") -> None:
        """Refuse fields that do not exist; `inside` names the object that they are in."""
        for key in value:
            if key not in known:
                raise self._type(f"{self._where}: {inside}{shown(key)}: no such field; use {', '.join(known)}")

    def integer(self, value: Any, field: str, low: int, high: int, why: str = "") -> int:
        """Return an integer from `low` to `high`, or refuse the value; `why` explains the range."""
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.error(field, value, f"an integer from {low} to {high}{why}")
        return value
