# SPDX-License-Identifier: Apache-2.0
"""The rotary embedding that a ``config.json`` describes, in all the spellings that there have been.

``rope_theta`` stood beside the other fields, with a table ``rope_scaling`` for what changes the frequencies; later one
table ``rope_parameters`` holds both, for all layers or one for each type of layer. The type is called ``rope_type`` or
``type``. Only the plain embedding is implemented: a table may say that it is plain, and nothing else, unless the model
is planned and timed only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from hdl.errors import shown
from scheduler.models.checkpoint_json import CheckpointError

__all__ = ["ROPE_KEYS", "rope_theta"]

ROPE_KEYS = ("rope_theta", "rope_scaling", "rope_parameters", "partial_rotary_factor", "rotary_pct")
"""Fields of ``config.json`` that `rope_theta` reads."""

_TABLES = ("rope_scaling", "rope_parameters")
_PARTS = ("partial_rotary_factor", "rotary_pct")
_SCALED = ("yarn", "linear", "dynamic", "longrope", "llama3")
_LAYER_TYPES = ("full_attention", "sliding_attention")


def rope_theta(raw: dict[str, Any], file: str, *, absent: float, scaled: bool = False) -> float:
    """Return the base of the rotary frequencies.

    Parameters
    ----------
    raw : dict
        ``config.json``.
    file : str
        Its name, for messages.
    absent : float
        The base where the file gives none.
    scaled : bool
        Scaled embeddings are let through.

    Raises
    ------
    CheckpointError
        An embedding that is not plain, an entry that is not understood, or two places that do not agree.
    """
    found = {"rope_theta": _theta(raw["rope_theta"], "rope_theta", file)} if raw.get("rope_theta") is not None else {}
    _check_parts(raw, "", file)
    for name, table in _tables(raw, file):
        for key, value in table.items():
            if key in ("rope_type", "type"):
                if value not in (None, "default") and not scaled:
                    raise CheckpointError(
                        f"{file}: {name} is {shown(table)}, expected {key} 'default'; scaled rotary embeddings are not "
                        "implemented"
                    )
                if value not in (None, "default", *_SCALED):
                    raise CheckpointError(
                        f"{file}: {name} is {shown(table)}, expected {key} 'default' or one of {', '.join(_SCALED)}; "
                        "correct it"
                    )
            elif key == "rope_theta" and value is not None:
                found[f"{name}.{key}"] = _theta(value, f"{name}.{key}", file)
        for key, value in table.items():
            # original_max_position_embeddings is what a scaled embedding would scale from
            known = ("rope_type", "type", "rope_theta", "original_max_position_embeddings", *_PARTS)
            if key not in known and value is not None and not (key == "factor" and value == 1) and not scaled:
                raise CheckpointError(
                    f"{file}: {name} has {shown(key)}: {shown(value)}, expected rope_type and rope_theta alone; scaled "
                    "rotary embeddings are not implemented"
                )
        _check_parts(table, f"{name}.", file)
    if len(set(found.values())) > 1:
        said = " and ".join(f"{name} {value:g}" for name, value in found.items())
        raise CheckpointError(f"{file}: {said} do not agree; keep the one that the model was trained with")
    return next(iter(found.values()), absent)


def _tables(raw: dict[str, Any], file: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (name, table) of every table of rotary parameters, those of the layers' types one by one."""
    for name in _TABLES:
        table = raw.get(name)
        if table is None:
            continue
        if not isinstance(table, dict):
            raise CheckpointError(
                f"{file}: {name} is {shown(table)}, expected null or a table with rope_type 'default'; correct it"
            )
        nested = {key: value for key, value in table.items() if isinstance(value, dict)}
        yield name, {key: value for key, value in table.items() if key not in nested}
        for key, value in nested.items():
            if key not in _LAYER_TYPES:
                raise CheckpointError(
                    f"{file}: {name} has a table {shown(key)}, expected one for {' or '.join(_LAYER_TYPES)}; layers of "
                    "other types are not implemented"
                )
            yield f"{name}.{key}", value


def _theta(value: Any, name: str, file: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e30 or math.isnan(value):
        raise CheckpointError(f"{file}: {name} is {shown(value)}, expected a positive number; correct config.json")
    return float(value)


def _check_parts(table: dict[str, Any], where: str, file: str) -> None:
    for key in _PARTS:
        value = table.get(key)
        if value is not None and (isinstance(value, bool) or value != 1):
            raise CheckpointError(
                f"{file}: {where}{key} is {shown(value)}, expected 1; the rotation of a part of each head is not "
                "implemented"
            )
