# SPDX-License-Identifier: Apache-2.0
"""Reads a TOML file of configuration fields or of sections of them, and makes a configuration's name of the file's."""

from __future__ import annotations

import re
import stat
import tomllib
from pathlib import Path
from typing import Any

from hdl.errors import A3dError, one_line, shown

__all__ = ["ENDING", "LONGEST_NAME", "SECTIONS", "ConfigError", "is_name", "name_of", "read_sections"]

ENDING = ".toml"
"""How the name of a configuration file ends, in small or capital letters."""

LONGEST_NAME = 128
"""Characters of the longest name: it becomes part of file names."""

SECTIONS = ("machine", "memory", "hbm", "clock", "policy")
"""Sections of a file that describes a whole system; what generates and synthesizes reads the first one only."""

_LONGEST_GIVEN = 64
"""Characters of the longest name that a file gives: variants of its machine have longer ones."""

_MOST_BYTES = 1 << 20
"""No file of some thirty fields is larger: what is larger is another file."""


class ConfigError(A3dError):
    """A configuration field has a value that the machine cannot be built with."""


def is_name(text: str) -> bool:
    """Return whether a text can be a configuration's name: ASCII letters, digits and ``_``, not a digit first."""
    return len(text) <= LONGEST_NAME and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", text) is not None


def name_of(path: Path) -> str:
    """Return a configuration's name made of its file's: other characters become ``_``, a digit gets a letter before it.

    Parameters
    ----------
    path : Path
        A file whose name ends in ``.toml``.
    """
    stem = re.sub(r"[^A-Za-z0-9_]", "_", path.name[: -len(ENDING)]) or "config"
    return ("c" + stem if stem[0].isdigit() else stem)[:_LONGEST_GIVEN]


def read_sections(path: Path) -> dict[str, dict[str, Any]]:
    """Return the sections of a TOML file, of which ``machine`` is always there and has a name.

    A file without sections has the fields of ``machine`` alone.

    Parameters
    ----------
    path : Path
        The file; a byte order mark at its beginning is skipped.

    Raises
    ------
    ConfigError
        It cannot be read, is not text or is not TOML; something stands outside of its sections.
    """
    file = one_line(path)
    text = _text(_bytes(path, file), file)
    try:
        fields = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"config: {file} is not TOML: {one_line(error)}; fix that line") from error
    except RecursionError as error:
        raise ConfigError(f"config: {file} is nested too deeply; a configuration has fields and sections") from error
    except ValueError as error:  # an integer of thousands of digits, a date such as 2024-02-31
        raise ConfigError(f"config: {file} has a value that cannot be read: {one_line(error)}; correct it") from error
    sections = _sections(fields, file)
    given = sections["machine"].setdefault("name", name_of(path))
    if isinstance(given, str) and len(given) > _LONGEST_GIVEN:
        raise ConfigError(f"config name: {shown(given)} in {file}; use at most {_LONGEST_GIVEN} characters")
    return sections


def _sections(fields: dict[str, Any], file: str) -> dict[str, dict[str, Any]]:
    if not any(key in SECTIONS for key in fields):
        return {"machine": fields}
    for key, value in fields.items():
        if key not in SECTIONS:
            name = key if is_name(key) else shown(key)
            raise ConfigError(
                f"config {name}: stands outside of the sections of {file}; put it into one of {_list_of_sections()}"
            )
        if not isinstance(value, dict):
            raise ConfigError(f"config {key}: {shown(value)} in {file}; write [{key}], and its fields below")
    if "machine" not in fields:
        raise ConfigError(
            f'config machine: missing in {file}; write [machine], and below it preset = "small" or fields'
        )
    return fields


def _list_of_sections() -> str:
    return ", ".join(f"[{name}]" for name in SECTIONS)


def _bytes(path: Path, file: str) -> bytes:
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise ConfigError(f"config: {file} is a directory; name a TOML file")
        if not stat.S_ISREG(status.st_mode):  # reading a pipe or a device could take forever
            raise ConfigError(f"config: {file} is not a regular file; name a TOML file")
        if status.st_size > _MOST_BYTES:
            raise ConfigError(f"config: {file} has {status.st_size} bytes, more than any configuration; name another")
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"config: cannot read {file}: {error.strerror}; check the path") from error
    except ValueError as error:  # a path with a NUL
        raise ConfigError(f"config: cannot read {file}: {error}; check the path") from error


def _text(data: bytes, file: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        where = f"byte {data[error.start]:#04x} at position {error.start}"
        raise ConfigError(f"config: {file} is not UTF-8 text ({where}); save it as UTF-8") from error
