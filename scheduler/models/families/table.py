# SPDX-License-Identifier: Apache-2.0
"""The table of families: a new one is a file beside this one and a line here."""

from __future__ import annotations

from typing import Any

from hdl.errors import shown
from scheduler.models.checkpoint_json import CheckpointError
from scheduler.models.families import deepseek_v2, deepseek_v3, gpt_oss, mixtral, olmoe, qwen3_moe
from scheduler.models.family import Family

__all__ = ["FAMILIES", "family_named", "family_of"]

FAMILIES: tuple[Family, ...] = (
    mixtral.FAMILY,
    qwen3_moe.FAMILY,
    olmoe.FAMILY,
    gpt_oss.FAMILY,
    deepseek_v2.FAMILY,
    deepseek_v3.FAMILY,
)


def family_named(model_type: str) -> Family:
    """Return the family with a `model_type`, which is in the table."""
    return next(family for family in FAMILIES if family.model_type == model_type)


def family_of(raw: dict[str, Any], file: str) -> Family:
    """Return the family that a ``config.json`` names.

    Parameters
    ----------
    raw : dict
        What the file holds.
    file : str
        Its name, for messages.

    Raises
    ------
    CheckpointError
        `architectures` or `model_type` is unknown, or they are of two families.
    """
    architectures, model_type = raw.get("architectures"), raw.get("model_type")
    found = next((family for family in FAMILIES if architectures == [family.architecture]), None)
    if found is not None and model_type in (None, found.model_type):
        return found
    if found is not None:
        raise CheckpointError(
            f"{file}: model_type is {shown(model_type)}, expected {found.model_type!r} with architectures "
            f"['{found.architecture}']; correct the one that is wrong"
        )
    half = next((family for family in FAMILIES if family.model_type == model_type), None)
    if half is not None:
        raise CheckpointError(
            f"{file}: architectures is {shown(architectures)}, expected ['{half.architecture}'] with model_type "
            f"{model_type!r}; other heads on a {half.title} are not known: save the language model"
        )
    known = ", ".join(f"{family.architecture} ({family.model_type})" for family in FAMILIES)
    raise CheckpointError(
        f"{file}: architectures is {shown(architectures)} and model_type {shown(model_type)}, expected one of {known}; "
        "convert the model, or add its family to scheduler/models/families"
    )
