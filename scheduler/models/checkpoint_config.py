# SPDX-License-Identifier: Apache-2.0
"""Reads ``config.json``: which family the model is of, and what the family makes of the keys.

Every key is used, known to change nothing, or named in the refusal (:mod:`scheduler.models.config_keys`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hdl.errors import one_line
from scheduler.models.checkpoint_json import CheckpointError, read_object
from scheduler.models.config_keys import check_keys
from scheduler.models.config_reader import ConfigReader
from scheduler.models.description import Model
from scheduler.models.families.table import family_of

__all__ = ["describe", "read_config"]


def read_config(folder: Path | str) -> Model:
    """Read and check ``config.json`` of a model.

    Parameters
    ----------
    folder : path
        Model directory.

    Raises
    ------
    CheckpointError
        When the file is missing or malformed, describes a model of no known family, or has a key that is not
        understood.
    """
    folder = Path(folder)
    _check_folder(folder)
    path = folder / "config.json"
    raw = read_object(path, "point at a Hugging Face model directory (config.json and model.safetensors)")
    return describe(raw, one_line(path), folder.resolve().name)


def describe(raw: dict[str, Any], file: str, name: str) -> Model:
    """Return what the keys of a ``config.json`` describe.

    Parameters
    ----------
    raw : dict
        The keys.
    file : str
        Where they stand, for messages.
    name : str
        Of the model.

    Raises
    ------
    CheckpointError
        As `read_config`.
    """
    family = family_of(raw, file)
    check_keys(raw, family, file)
    return family.describe(ConfigReader(raw, family, file, name))


def _check_folder(folder: Path) -> None:
    """Refuse what is no folder with what it is taken for."""
    name = one_line(folder)
    try:
        if folder.is_dir():
            return
        if folder.exists():
            raise CheckpointError(f"{name}: is a file, expected the model's directory; name the directory it lies in")
    except (OSError, ValueError) as error:  # a name that is too long, or has a NUL
        raise CheckpointError(f"{name}: cannot be looked at ({one_line(error)}); name a model directory") from error
    if not folder.is_absolute() and len(folder.parts) == 2 and not folder.parent.exists():
        raise CheckpointError(
            f"{name}: not found; models are read from disk: if this is a name on the Hugging Face hub, "
            "download the model first and name the directory that it is in"
        )
    raise CheckpointError(f"{name}: not found; name a model directory (config.json and model.safetensors)")
