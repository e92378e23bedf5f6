# SPDX-License-Identifier: Apache-2.0
"""Reads safetensors files: the header first, then only the tensors that are asked for, one by one.

A file begins with the header's length (8 bytes, little-endian) and the header, a JSON object that gives each tensor's
type, shape and place in the data that follow. (The package ``safetensors`` reads whole files, and has no bfloat16 for
NumPy.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hdl.errors import one_line, shown
from scheduler.models.checkpoint_json import CheckpointError, check_regular, parse_object

__all__ = ["Tensor", "read_header"]

_LENGTH_BYTES = 8
_MOST_HEADER = 100_000_000
"""The format's own limit."""

_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64,
}  # fmt: skip
_AGAIN = "download or save it again"


@dataclass(frozen=True)
class Tensor:
    """A tensor that lies in a file.

    Attributes
    ----------
    path : Path
        The file.
    name : str
        As the file calls it.
    dtype : str
        The format's name of its type, such as ``BF16``.
    shape : tuple of int
    start, end : int
        Its bytes in the file.
    """

    path: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    def check_dtype(self) -> None:
        """Refuse a type that is not read.

        Raises
        ------
        CheckpointError
            It is neither F32 nor F16 nor BF16.
        """
        if self.dtype not in ("F32", "F16", "BF16"):
            raise CheckpointError(
                f"{one_line(self.path)}: tensor {one_line(self.name)} has type {one_line(self.dtype)}, expected F32, "
                "F16 or BF16; "
                + ("save the model as float32" if self.dtype == "F64" else "dequantise the model and save it again")
            )

    def read(self) -> npt.NDArray[np.float32]:
        """Return the values, which nobody can write to.

        Raises
        ------
        CheckpointError
            The file cannot be read, the type is none of F32, F16 and BF16, or a value is infinite or no number.
        """
        self.check_dtype()
        kind = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}[self.dtype]
        count = math.prod(self.shape)
        try:
            raw = np.fromfile(self.path, dtype=kind, count=count, offset=self.start)
        except OSError as error:
            raise _unreadable(self.path, error.strerror) from error
        if raw.size != count:
            raise _unreadable(self.path, f"tensor {self.name} ends early")
        if self.dtype == "BF16":  # the upper half of a float32
            array = (raw.astype(np.uint32) << 16).view(np.float32)
        else:
            array = raw.astype(np.float32)
        if not np.isfinite(array).all():
            raise CheckpointError(
                f"{one_line(self.path)}: tensor {one_line(self.name)} holds infinities or NaNs, expected finite "
                "weights; save the model in a type with a wider range"
            )
        array = array.reshape(self.shape)
        array.flags.writeable = False
        return array


def read_header(path: Path) -> list[Tensor]:
    """Return the tensors of a file, without reading their data.

    Raises
    ------
    CheckpointError
        The file cannot be read, or its header does not describe it.
    """
    file = one_line(path)
    try:
        size = check_regular(path)
        with path.open("rb") as stream:
            start = stream.read(_LENGTH_BYTES)
            length = int.from_bytes(start, "little")
            if start == b"version ":
                raise CheckpointError(f"{file}: is a Git LFS pointer, not the weights; get them with: git lfs pull")
            if len(start) < _LENGTH_BYTES or not 2 <= length <= min(_MOST_HEADER, size - _LENGTH_BYTES):
                raise _unreadable(path, f"{size} bytes, which begin with no header")
            data = stream.read(length)
    except OSError as error:
        raise _unreadable(path, error.strerror) from error
    if len(data) != length:
        raise _unreadable(path, "it ends in its header")
    header = parse_object(data, f"{file}: not a readable safetensors file: its header", _AGAIN)
    first = _LENGTH_BYTES + length
    header.pop("__metadata__", None)
    tensors = [_tensor(path, name, entry, first) for name, entry in header.items()]
    place = first
    for tensor in sorted(tensors, key=lambda t: (t.start, t.end)):
        if tensor.start != place:
            raise _unreadable(path, f"tensor {tensor.name} does not begin where the one before it ends")
        place = tensor.end
    if place != size:
        raise _unreadable(path, f"{size} bytes, but its tensors end at {place}")
    return tensors


def _tensor(path: Path, name: str, entry: Any, first: int) -> Tensor:
    """Return what a header says of a tensor."""
    fields = entry if isinstance(entry, dict) else {}
    dtype, shape, offsets = fields.get("dtype"), _naturals(fields.get("shape")), _naturals(fields.get("data_offsets"))
    if not isinstance(dtype, str) or shape is None or offsets is None or len(offsets) != 2:
        raise _unreadable(path, f"tensor {name}: {shown(entry)} is no type, shape and data_offsets")
    tensor = Tensor(path, name, dtype, shape, first + offsets[0], first + offsets[1])
    bits = _BITS.get(dtype)
    if tensor.end < tensor.start or (bits and math.prod(shape) * bits != 8 * (tensor.end - tensor.start)):
        raise _unreadable(path, f"tensor {name} of type {dtype} and shape {shown(shape)} does not take its bytes")
    return tensor


def _naturals(value: Any) -> tuple[int, ...] | None:
    """Return a list of natural numbers as a tuple; None if it is not one."""
    if not isinstance(value, list) or not all(type(v) is int and 0 <= v < 1 << 60 for v in value):
        return None
    return tuple(value)


def _unreadable(path: Path, why: str | None) -> CheckpointError:
    return CheckpointError(
        f"{one_line(path)}: not a readable safetensors file ({one_line(why or 'cannot be read')}); {_AGAIN}"
    )
