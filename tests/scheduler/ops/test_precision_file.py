# SPDX-License-Identifier: Apache-2.0
"""Precision files: written and read again, and refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hdl.errors import A3dError
from hdl.numerics.precision import Thresholds
from scheduler.ops.precision_file import PrecisionFile, read_precision_file, write_precision_file


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "p.json"
    contents = PrecisionFile((Thresholds(26616, 12, True), None, Thresholds()), batch=8, reach=3)
    write_precision_file(path, contents)
    assert read_precision_file(path, 3) == contents
    path.write_text('{"layers": [{"full": 5}]}')
    assert read_precision_file(path, 1) == PrecisionFile((Thresholds(5),))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"layers": [None]}, "layers: 1 entries, the model has 2 layers; use a file of this model"),
        ({}, "layers: None; use a list"),
        ({"layers": [None, 3]}, r"layers\[1\]: 3; use an object with full, skip and first_full, or null"),
        ({"layers": [None, {"full": 1048576}]}, r"layers\[1\]: full: 1048576; use an integer of 0 to 1048575"),
        ({"layers": [None, {"full": 5, "skip": 6}]}, r"layers\[1\]: skip: 6; use an integer of 0 to full"),
        ({"layers": [None, {"full": True}]}, "full: True; use an integer"),
        ({"layers": [{"skip": 3}, None]}, r"layers\[0\]: full is missing"),
        ({"layers": [{"full": 3, "first_full": 1}, None]}, "first_full: 1; use true or false"),
        ({"layers": [{"full": 3, "ful": 1}, None]}, "'ful': no such field; use first_full, full, skip"),
        ({"layers": [None, None], "batch": 0}, "batch: 0; use an integer, 1 or more, or null"),
        ({"layers": [None, None], "reach": 17}, "reach: 17; use an integer of 0 to 16, or null"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, value: object, message: str) -> None:
    path = tmp_path / "p.json"
    path.write_text(json.dumps(value))
    with pytest.raises(A3dError, match=message) as caught:
        read_precision_file(path, 2)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(A3dError, match="not found; use a precision file"):
        read_precision_file(tmp_path / "absent", 1)
    (tmp_path / "x").write_text("[1]")
    with pytest.raises(A3dError, match="use a precision file"):
        read_precision_file(tmp_path / "x", 1)
    with pytest.raises(A3dError, match="name a file that can be written"):
        write_precision_file(tmp_path / "x" / "y", PrecisionFile((None,)))
