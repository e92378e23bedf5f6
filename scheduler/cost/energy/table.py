# SPDX-License-Identifier: Apache-2.0
"""The energy table: what each activity takes, with a low and a high value, where from; and the reader of its file."""

from __future__ import annotations

import dataclasses
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final

from hdl.errors import A3dError, one_line, shown

__all__ = ["ENTRIES", "EnergyTable", "EnergyTableError", "Entry", "load_table"]

_MOST_BYTES = 1 << 20
_NUMBERS = ("value", "low", "high")
_TEXTS = ("unit", "technology", "source")
DEFAULT_NAME: Final = "default"
"""What a result says of the table that comes with the package."""


class EnergyTableError(A3dError):
    """An energy table that cannot be read, or lacks something."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What one activity takes.

    Attributes
    ----------
    value, low, high : float
        In `unit`; 0 <= low <= value <= high.
    unit, technology, source : str
        For what the numbers hold, and where they were read or why they are assumed.
    """

    value: float
    low: float
    high: float
    unit: str
    technology: str
    source: str


@dataclass(frozen=True, kw_only=True)
class EnergyTable:
    """All entries; the units are those of the table that comes with the package, ``default.toml``.

    Attributes
    ----------
    name : str
        The file's, or ``default``.
    mac, idle_pe, register_bit : Entry
        A PE's multiply and add; a PE in a cycle without a wave; a bit of the array's registers.
    vcache_read_byte, vcache_write_byte, accumulator_byte, buffer_byte : Entry
        The memories on the dies.
    lane_operation : Entry
        An element in a lane of drain, combine buffer or vector unit.
    vertical_bit, lateral_bit, offchip_bit : Entry
        A bit over a bond, along a die, to or from HBM.
    hbm_activate, hbm_read_byte, hbm_write_byte, hbm_refresh : Entry
        HBM itself.
    static_pe, static_channel : Entry
        Power in mW that flows in any case: of a PE with its share of the die, of a pseudo-channel.
    """

    name: str
    mac: Entry
    idle_pe: Entry
    register_bit: Entry
    vcache_read_byte: Entry
    vcache_write_byte: Entry
    accumulator_byte: Entry
    buffer_byte: Entry
    lane_operation: Entry
    vertical_bit: Entry
    lateral_bit: Entry
    offchip_bit: Entry
    hbm_activate: Entry
    hbm_read_byte: Entry
    hbm_write_byte: Entry
    hbm_refresh: Entry
    static_pe: Entry
    static_channel: Entry

    def __getitem__(self, name: str) -> Entry:
        """Return an entry by its name."""
        entry: Entry = getattr(self, name)
        return entry

    def to_dict(self) -> dict[str, Any]:
        """Return name and entries as plain data."""
        return dataclasses.asdict(self)


ENTRIES: Final = tuple(field.name for field in dataclasses.fields(EnergyTable) if field.name != "name")
"""Names of the entries, each a section of the file."""


def load_table(path: Path | None = None) -> EnergyTable:
    """Read an energy table.

    Parameters
    ----------
    path : Path, optional
        A TOML file with a section for each of `ENTRIES`; default: the table that comes with the package.

    Raises
    ------
    EnergyTableError
        The file cannot be read or is not TOML; an entry is missing, unknown, or has a value that is not allowed.
    """
    if path is None:
        text = resources.files("scheduler.cost.energy").joinpath("default.toml").read_text(encoding="utf-8")
        return _table(_parsed(text, "default.toml"), "default.toml", DEFAULT_NAME)
    file = one_line(path)
    return _table(_parsed(_text(path, file), file), file, path.name)


def _text(path: Path, file: str) -> str:
    try:
        if not path.is_file():  # reading a pipe or a device could take forever
            what = "is not a file" if path.exists() else "does not exist"
            raise EnergyTableError(f"energy table {file}: {what}; name a TOML file")
        size = path.stat().st_size
        if size > _MOST_BYTES:
            raise EnergyTableError(f"energy table {file}: has {size:,} bytes, more than any table; name another file")
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise EnergyTableError(f"energy table {file}: cannot be read: {error.strerror}; check the path") from error
    except ValueError as error:  # a path with a NUL, bytes that are no UTF-8
        raise EnergyTableError(f"energy table {file}: cannot be read: {one_line(error)}; save it as UTF-8") from error


def _parsed(text: str, file: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise EnergyTableError(f"energy table {file}: is not TOML: {one_line(error)}; correct it") from error


def _table(sections: Mapping[str, Any], file: str, name: str) -> EnergyTable:
    for key in sections:
        if key not in ENTRIES:
            raise EnergyTableError(
                f"energy table {file}: {one_line(key)} is no entry; leave it out, or use one of {', '.join(ENTRIES)}"
            )
    for key in ENTRIES:
        if key not in sections:
            raise EnergyTableError(
                f"energy table {file}: entry {key} is missing; write [{key}], and {', '.join(_NUMBERS + _TEXTS)} below"
            )
    return EnergyTable(name=name, **{key: _entry(sections[key], key, file) for key in ENTRIES})


def _entry(fields: Any, key: str, file: str) -> Entry:
    place = f"energy table {file}: entry {key}"
    if not isinstance(fields, Mapping):
        raise EnergyTableError(f"{place}: {shown(fields)}; write [{key}], and {', '.join(_NUMBERS + _TEXTS)} below")
    for name in fields:
        if name not in _NUMBERS + _TEXTS:
            raise EnergyTableError(f"{place}: {one_line(name)} is no field; use {', '.join(_NUMBERS + _TEXTS)}")
    for name in _NUMBERS + _TEXTS:
        if name not in fields:
            raise EnergyTableError(f"{place}: {name} is missing; write {name} = ...")
    for name in _NUMBERS:
        number = fields[name]
        if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number < math.inf:
            raise EnergyTableError(f"{place}: {name} is {shown(number)}; use a number, 0 or more")
    for name in _TEXTS:
        if not isinstance(fields[name], str) or not fields[name].strip():
            raise EnergyTableError(f"{place}: {name} is {shown(fields[name])}; use a text in quotes that says it")
    value, low, high = (fields[name] for name in _NUMBERS)
    if low > value:
        raise EnergyTableError(f"{place}: low is {shown(low)}, above the value {shown(value)}; use at most that")
    if high < value:
        raise EnergyTableError(f"{place}: high is {shown(high)}, below the value {shown(value)}; use at least that")
    unit, technology, source = (str(fields[name]) for name in _TEXTS)
    return Entry(value=float(value), low=float(low), high=float(high), unit=unit, technology=technology, source=source)
