# SPDX-License-Identifier: Apache-2.0
"""Safetensors files: what the format's own library writes is read back, and a damaged header is named, not believed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from scheduler.models.checkpoint import CheckpointError
from scheduler.models.safetensors_file import read_header

RNG = np.random.default_rng(3)


def test_reads_what_the_library_writes(tmp_path: Path) -> None:
    arrays = {
        "matrix": RNG.standard_normal((3, 5)).astype(np.float32), "half": RNG.standard_normal(7).astype(np.float16),
        "scalar": np.array(2.5, np.float32), "empty": np.zeros((0, 4), np.float32),
    }  # fmt: skip
    save_file(arrays, tmp_path / "x", metadata={"format": "pt"})
    tensors = {t.name: t for t in read_header(tmp_path / "x")}
    assert set(tensors) == set(arrays)
    for name, array in arrays.items():
        read = tensors[name].read()
        assert read.dtype == np.float32 and read.shape == array.shape == tensors[name].shape
        np.testing.assert_array_equal(read, array)


def entry(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def file_of(path: Path, header: object, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def test_reads_bfloat16_as_the_upper_half_of_float32(tmp_path: Path) -> None:
    values = np.array([1.0, -2.5, 3.0e38, 1e-38], np.float32)
    upper = (values.view(np.uint32) >> 16).astype("<u2")
    file = file_of(tmp_path / "x", {"t": entry("BF16", [2, 2], 0, 8)}, upper.tobytes())
    expected = (values.view(np.uint32) & 0xFFFF0000).view(np.float32).reshape(2, 2)
    np.testing.assert_array_equal(read_header(file)[0].read(), expected)


GOOD = entry("F32", [2], 0, 8)


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        ([], b"", "its header: holds a list, expected a JSON object"),
        (b"{nonsense", b"", "its header: cannot be read as JSON"),
        (b"[" * 100_000, b"", "its header: cannot be read as JSON .nested too deeply."),
        (b'{"t": 1, "t": 2}', b"", "its header: 't' is there twice"),
        ({"t": GOOD}, bytes(7), "7[0-9] bytes, but its tensors end at"),
        ({"t": GOOD}, bytes(9), "7[0-9] bytes, but its tensors end at"),
        ({"t": entry("F32", [3], 0, 8)}, bytes(8), r"type F32 and shape \(3,\) does not take its bytes"),
        ({"t": entry("F32", [2], 8, 0)}, bytes(8), "does not take its bytes"),
        ({"t": entry("F32", [2], 4, 12)}, bytes(12), "tensor t does not begin where the one before it ends"),
        ({"t": GOOD, "u": entry("F32", [2], 4, 12)}, bytes(12), "tensor u does not begin where the one before"),
        ({"t": entry("F32", [-2], 0, 8)}, bytes(8), "is no type, shape and data_offsets"),
        ({"t": entry("F32", [2.0], 0, 8)}, bytes(8), "is no type, shape and data_offsets"),
        ({"t": entry("F32", [True, 2], 0, 8)}, bytes(8), "is no type, shape and data_offsets"),
        ({"t": entry("F32", [1 << 70], 0, 8)}, bytes(8), "is no type, shape and data_offsets"),
        ({"t": {"dtype": "F32", "shape": [2], "data_offsets": [0]}}, bytes(8), "is no type, shape and data_offsets"),
        ({"t": {"dtype": 32, "shape": [2], "data_offsets": [0, 8]}}, bytes(8), "is no type, shape and data_offsets"),
        ({"t": 5}, b"", "is no type, shape and data_offsets"),
        ({"a\nb": 5}, b"", r"tensor a.x0ab: 5 is no type"),
    ],
)
def test_damaged_headers_are_named(tmp_path: Path, header: object, data: bytes, message: str) -> None:
    with pytest.raises(CheckpointError, match=f"x: not a readable safetensors file.*{message}") as caught:
        read_header(file_of(tmp_path / "x", header, data))
    assert "\n" not in str(caught.value) and "; " in str(caught.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"not a readable safetensors file \(0 bytes, which begin with no header\)"),
        (b"\x01\0\0\0\0\0\0\0{", "begin with no header"),
        (b"\xff" * 8 + b"{}", "begin with no header"),
        ((1 << 20).to_bytes(8, "little") + b"{}", "begin with no header"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n", "is a Git LFS pointer.*git lfs pull"),
        (b"PK\x03\x04" + bytes(60), "begin with no header"),
    ],
)
def test_other_files_are_named(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(CheckpointError, match=message):
        read_header(tmp_path / "x")


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, message in (
        (tmp_path, "is a directory"),
        (tmp_path / "pipe", "is not a regular file"),
        (tmp_path / "absent", "not a readable safetensors file .No such file"),
    ):
        with pytest.raises(CheckpointError, match=message):
            read_header(path)


def test_a_file_that_shrinks_meanwhile_is_named(tmp_path: Path) -> None:
    file = file_of(tmp_path / "x", {"t": GOOD}, bytes(8))
    tensor = read_header(file)[0]
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="not a readable safetensors file .tensor t ends early."):
        tensor.read()
