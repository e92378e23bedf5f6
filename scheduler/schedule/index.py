# SPDX-License-Identifier: Apache-2.0
"""What ``schedule.json`` must hold, so that a damaged one is refused by the name of the field."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from hdl.errors import shown

__all__ = ["FILES", "check_index"]

FILES = re.compile(r"schedule\.json|group[01]\.bin|step\d{4,}\.(bin|asm|patch\.bin|labels\.json)")
"""Names of the files of a schedule's directory; it has no others."""

_REGION = {"group": int, "address": int, "size": int}
_STEP = {
    "name": str, "line": int, "sequences": [{"id": str, "cached": int, "new": int}], "tokens": int, "parts": [int],
    "instructions": int, "stream_base": int, "kept_tiles": int, "patch": _REGION, "window": [[int]],
    "logits": {**_REGION, "blocks": [[int]], "columns": int, "vocabulary": int},
    "roofline": {"cycles": float, "bound": str},
}  # fmt: skip
_INDEX = {
    "config": {}, "system": {"memory": {}, "policy": str}, "model": {"name": str}, "weights": bool,
    "memory": {"bytes": [int]}, "steps": [_STEP],
}  # fmt: skip
"""Tables by their keys, lists by what their elements are, and types; numbers are not negative."""

_SAID = {int: "a natural number", float: "a positive number", str: "a text", bool: "true or false"}


def check_index(about: Mapping[str, Any]) -> None:
    """Check what is read of ``schedule.json``.

    Raises
    ------
    ValueError
        Names the first field that is missing or wrong.
    """
    _check(about, _INDEX, "")
    if not about["steps"]:
        raise ValueError("steps is [], expected at least one")
    for number, step in enumerate(about["steps"]):
        where = f"steps[{number}]"
        if not FILES.fullmatch(f"{step['name']}.bin"):
            raise ValueError(f"{where}.name is {shown(step['name'])}, expected step and its number")
        if [len(ends) for ends in step["window"]] != [2, 2]:
            raise ValueError(f"{where}.window is {shown(step['window'])}, expected begin and end of both groups")
        if step["kept_tiles"] and not number:
            raise ValueError(f"{where}.kept_tiles is {step['kept_tiles']}, expected 0: no step has left any before")
        logits = step["logits"]
        if not logits["columns"] or any(len(block) != 4 for block in logits["blocks"]):
            raise ValueError(f"{where}.logits is {shown(logits)}, expected columns and blocks of four numbers")
        for name in ("patch", "logits"):
            group, sizes = step[name]["group"], about["memory"]["bytes"]
            if group >= len(sizes) or step[name]["address"] + step[name]["size"] > sizes[group]:
                raise ValueError(f"{where}.{name} is {shown(step[name])}, which lies outside memories of {sizes} bytes")


def _check(value: Any, kind: Any, where: str) -> None:
    """Compare a value with what is expected there."""
    if isinstance(kind, dict):
        if not isinstance(value, dict):
            raise ValueError(f"{where} is {shown(value)}, expected a table")
        for key, own in kind.items():
            name = f"{where}.{key}" if where else key
            if key not in value:
                raise ValueError(f"{name} is missing")
            _check(value[key], own, name)
    elif isinstance(kind, list):
        if not isinstance(value, list):
            raise ValueError(f"{where} is {shown(value)}, expected a list")
        for number, item in enumerate(value):
            _check(item, kind[0], f"{where}[{number}]")
    elif not _is(value, kind):
        raise ValueError(f"{where} is {shown(value)}, expected {_SAID[kind]}")


def _is(value: Any, kind: type) -> bool:
    if kind in (str, bool):
        return isinstance(value, kind)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and value > 0
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
