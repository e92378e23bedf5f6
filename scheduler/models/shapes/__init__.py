# SPDX-License-Identifier: Apache-2.0
"""Published shapes: what a ``config.json`` says of models whose weights nobody needs to plan and time them.

Each file beside this one holds ``config`` (the keys of the published ``config.json`` that matter), ``source`` (where it
was read) and ``published`` (the numbers of parameters, total and active for a token, that its makers state;
``active_without`` names what they leave out of the latter).
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from hdl.errors import one_line, shown
from scheduler.models.checkpoint_config import describe, read_config
from scheduler.models.checkpoint_json import CheckpointError, read_object
from scheduler.models.description import Model

__all__ = ["load_shape", "shape_file", "shape_names"]

_FOLDER = Path(__file__).parent


def shape_names() -> tuple[str, ...]:
    """Return the names of the shapes that come with the project."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.json")))


def shape_file(name: str) -> dict[str, Any]:
    """Return what the file of a shape that comes with the project holds."""
    return read_object(_FOLDER / f"{name}.json", "install the project again")


def load_shape(name: str | Path) -> Model:
    """Return the model that a published shape or a file describes.

    Parameters
    ----------
    name : str or path
        One of `shape_names`; or a JSON file, a ``config.json`` or like those that come with the project; or a
        directory with a ``config.json``.

    Raises
    ------
    CheckpointError
        No such shape, file or directory, or one that is not understood.
    """
    if str(name).lower() in shape_names():
        known = str(name).lower()
        return describe(shape_file(known)["config"], f"shape {known}", known)
    path = Path(name)
    try:
        folder, there = path.is_dir(), path.exists()
    except OSError:  # a name that is too long
        folder, there = False, False
    if folder:
        return read_config(path)
    if not there and path.suffix != ".json":
        near = difflib.get_close_matches(str(name).lower(), shape_names(), n=1)
        hint = f"did you mean {near[0]}" if near else "name one of them, a config.json or a model directory"
        raise CheckpointError(
            f"shape {one_line(shown(str(name)))}: not known, expected one of {', '.join(shape_names())}; {hint}"
        )
    raw = read_object(path, "name a config.json")
    config = raw.get("config", raw)
    if not isinstance(config, dict):
        raise CheckpointError(f"{one_line(path)}: config is {shown(config)}, expected an object; correct it")
    own = path.parent.resolve().name if path.name == "config.json" else path.stem
    return describe(config, one_line(path), own)
