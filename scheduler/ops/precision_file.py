# SPDX-License-Identifier: Apache-2.0
"""Precision files: when each layer's experts are worth both planes, one, or none.

::

    {"batch": 8, "reach": 3, "layers": [{"full": 26616, "skip": 0, "first_full": false}, null]}

``layers`` has an entry for every decoder layer: thresholds on the sum of the gates (Q15) of the tokens that chose an
expert (``hdl.numerics.precision``), or null where all are loaded with both planes, and in layers without experts.
``full`` is 0 to 1048575, ``skip`` at most that (default 0), ``first_full`` true or false (default). ``batch``, the
tokens of a step that they were found for, and ``reach``, how the weights were chosen (``scheduler.models.planes``;
null: rounded to the nearest), are optional.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hdl.errors import A3dError, one_line, shown
from hdl.numerics.precision import MAX_IMPORTANCE, Thresholds
from hdl.scratch import whole_file
from scheduler.models.checkpoint_json import read_object

__all__ = ["PrecisionFile", "PrecisionFileError", "read_precision_file", "write_precision_file"]

_MOST_REACH = 16


class PrecisionFileError(A3dError):
    """A precision file that cannot be used; the message names file and field."""


@dataclass(frozen=True)
class PrecisionFile:
    """What a precision file says.

    Attributes
    ----------
    layers : tuple of Thresholds or None
        One for each decoder layer.
    batch : int or None
        Tokens of a step that the thresholds were found for.
    reach : int or None
        ``reach`` of `quantise_checkpoint` for the weights that they were found with.
    """

    layers: tuple[Thresholds | None, ...]
    batch: int | None = None
    reach: int | None = None


def write_precision_file(path: Path, contents: PrecisionFile) -> None:
    """Write a precision file, whole or not at all.

    Raises
    ------
    PrecisionFileError
        It cannot be written.
    """
    layers = [
        None if own is None else {"full": own.full, "skip": own.skip, "first_full": own.first_full}
        for own in contents.layers
    ]
    text = json.dumps({"batch": contents.batch, "reach": contents.reach, "layers": layers}, indent=1) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            file.write_text(text)
    except OSError as error:
        raise PrecisionFileError(f"{one_line(path)}: {error.strerror}; name a file that can be written") from error


def read_precision_file(path: Path, layers: int) -> PrecisionFile:
    """Read a precision file for a model.

    Parameters
    ----------
    path : Path
    layers : int
        Decoder layers of the model.

    Raises
    ------
    CheckpointError
        The file cannot be read or is not a JSON object.
    PrecisionFileError
        A field is missing, unknown or out of range, or the file is for another number of layers.
    """
    name = one_line(path)
    found = read_object(path, "use a precision file that `a3d bench quality --frontier --save-precision` wrote")
    _check_fields(name, found, {"batch", "reach", "layers"})
    entries = found.get("layers")
    if not isinstance(entries, list):
        raise PrecisionFileError(f"{name}: layers: {shown(entries)}; use a list with an entry for each layer")
    if len(entries) != layers:
        raise PrecisionFileError(
            f"{name}: layers: {len(entries)} entries, the model has {layers} layers; use a file of this model"
        )
    return PrecisionFile(
        layers=tuple(_thresholds(f"{name}: layers[{n}]", entry) for n, entry in enumerate(entries)),
        batch=_whole(name, "batch", found.get("batch"), 1, None),
        reach=_whole(name, "reach", found.get("reach"), 0, _MOST_REACH),
    )


def _check_fields(where: str, found: dict[str, Any], known: set[str]) -> None:
    unknown = sorted(set(found) - known)
    if unknown:
        raise PrecisionFileError(f"{where}: {shown(unknown[0])}: no such field; use {', '.join(sorted(known))}")


def _whole(where: str, field: str, value: object, least: int, most: int | None) -> int | None:
    if value is None:
        return None
    inside = isinstance(value, int) and not isinstance(value, bool) and least <= value <= (most or value)
    if not inside:
        use = f"an integer of {least} to {most}" if most else f"an integer, {least} or more"
        raise PrecisionFileError(f"{where}: {field}: {shown(value)}; use {use}, or null")
    assert isinstance(value, int)
    return value


def _thresholds(where: str, entry: object) -> Thresholds | None:
    if entry is None:
        return None
    if not isinstance(entry, dict):
        raise PrecisionFileError(f"{where}: {shown(entry)}; use an object with full, skip and first_full, or null")
    _check_fields(where, entry, {"full", "skip", "first_full"})
    if "full" not in entry:
        raise PrecisionFileError(f"{where}: full is missing; use an integer of 0 to {MAX_IMPORTANCE}")
    first_full = entry.get("first_full", False)
    if not isinstance(first_full, bool):
        raise PrecisionFileError(f"{where}: first_full: {shown(first_full)}; use true or false")
    try:
        return Thresholds(entry["full"], entry.get("skip", 0), first_full)
    except ValueError as error:
        raise PrecisionFileError(f"{where}: {one_line(error)}") from error
