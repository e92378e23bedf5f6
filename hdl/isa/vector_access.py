# SPDX-License-Identifier: Apache-2.0
"""Which rows, activation words and scalars a VECTOR instruction reads and writes (``docs/vector.md``, section 2).

The legality checks, the executor, the verifier and the stream generators all take addresses from here.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hdl.config import MachineConfig
from hdl.isa import Instruction, Opcode, VectorFn, VectorOp, VectorSum

__all__ = [
    "REDUCTIONS", "TWO_OPERANDS", "a_rows", "b_rows", "c_rows", "dest_bytes", "dest_rows", "has_sum", "lengths",
    "reads_scalar", "row_count", "scalar_span", "scalars_read", "writes_scalar",
]  # fmt: skip

Int = npt.NDArray[np.int64]

REDUCTIONS = frozenset({VectorOp.MAX, VectorOp.SUMSQ, VectorOp.ARGMAX})
"""Operations that make a scalar and no rows."""

TWO_OPERANDS = frozenset({VectorOp.MUL, VectorOp.ROTATE, VectorOp.ADD})
"""Operations that read operand B."""


def has_sum(instruction: Instruction) -> bool:
    """Return whether the instruction is a MAP that writes the sum of its results, or its reciprocal."""
    return instruction["op"] == VectorOp.MAP and instruction["sum"] != VectorSum.NONE


def reads_scalar(instruction: Instruction) -> bool:
    """Return whether the scalars from ``s_base`` are read."""
    op = instruction["op"]
    if op == VectorOp.MAP:
        return instruction["fn"] == VectorFn.EXP2
    if op in (VectorOp.MAX, VectorOp.ARGMAX):
        return not instruction["first"]
    return op in (VectorOp.SCALE, VectorOp.RESCALE, VectorOp.GATHER)


def writes_scalar(instruction: Instruction) -> bool:
    """Return whether the scalars from ``d_scalar`` are written."""
    return instruction["op"] in REDUCTIONS or has_sum(instruction)


def row_count(instruction: Instruction) -> int:
    """Return the rows of operand A that the unit takes in: one cycle each (GATHER: one for each lane it fills).

    Of a ROUTE: the rows of gates.
    """
    if instruction.opcode == Opcode.ROUTE:
        return instruction["tokens"]
    per_vector = instruction["length"] if instruction["op"] == VectorOp.GATHER else instruction["rows"]
    return instruction["vectors"] * per_vector


def lengths(instruction: Instruction, config: MachineConfig) -> Int:
    """Return the valid elements of each vector, 0 to ``rows * columns``: shape [vectors]."""
    whole, vectors = instruction["rows"] * config.columns, np.arange(instruction["vectors"])
    if not instruction["masked"]:
        return np.full(vectors.shape, whole, dtype=np.int64)
    signed = instruction["length"] - (instruction["length"] >> 15 << 16)
    valid: Int = np.clip(signed + vectors * instruction["length_step"], 0, whole)
    return valid


def a_rows(instruction: Instruction) -> Int:
    """Return the combine rows of operand A: shape [vectors, rows]."""
    rows: Int = (
        instruction["a_base"]
        + np.arange(instruction["vectors"])[:, None] * instruction["a_stride"]
        + np.arange(instruction["rows"])
    )
    return rows


def b_rows(instruction: Instruction) -> Int:
    """Return the combine rows of operand B (ROTATE: of the first table): shape [vectors, rows]."""
    rows: Int = (
        instruction["b_base"]
        + np.arange(instruction["vectors"])[:, None] * instruction["b_stride"]
        + np.arange(instruction["rows"]) % instruction["b_rows"]
    )
    return rows


def c_rows(instruction: Instruction) -> Int:
    """Return the combine rows of ROTATE's second table: shape [vectors, rows]."""
    return b_rows(instruction) + instruction["b_rows"]


def dest_rows(instruction: Instruction) -> Int:
    """Return the combine rows that are written, with dest_kind ROWS: shape [vectors, rows] (GATHER: [vectors, 1])."""
    per_vector = 1 if instruction["op"] == VectorOp.GATHER else instruction["rows"]
    rows: Int = (
        instruction["dest_base"]
        + np.arange(instruction["vectors"])[:, None] * instruction["dest_stride"]
        + np.arange(per_vector)
    )
    return rows


def dest_bytes(instruction: Instruction, config: MachineConfig) -> tuple[Int, Int]:
    """Return where result rows go with dest_kind ACTIVATION; the two arrays index an activation buffer together.

    Returns
    -------
    words : int64 array [vectors, rows, 1]
        Activation words.
    lanes : int64 array [rows, columns]
        Bytes of the word: all of it, or with R = 2C the lower half for even rows and the upper for odd ones.
    """
    halves = config.rows // config.columns
    row = np.arange(instruction["rows"])
    words: Int = (
        instruction["dest_base"]
        + np.arange(instruction["vectors"])[:, None] * instruction["dest_stride"]
        + row // halves
    )
    lanes: Int = (row % halves * config.columns)[:, None] + np.arange(config.columns)
    return words[:, :, None], lanes


def scalar_span(instruction: Instruction) -> int:
    """Return how many scalars are read from ``s_base`` on (when any are)."""
    many = instruction["length"] if instruction["op"] == VectorOp.GATHER else 1
    return instruction["vectors"] * many


def scalars_read(instruction: Instruction) -> Int:
    """Return the scalars that are read; MAP with a sum that goes on reads what it writes as well."""
    read = [np.zeros(0, dtype=np.int64)]
    if reads_scalar(instruction):
        read.append(instruction["s_base"] + np.arange(scalar_span(instruction)))
    if has_sum(instruction) and not instruction["first"]:
        read.append(instruction["d_scalar"] + np.arange(instruction["vectors"]))
    return np.concatenate(read)


def scalars_written(instruction: Instruction) -> Int:
    """Return the scalars that are written."""
    count = instruction["vectors"] if writes_scalar(instruction) else 0
    written: Int = instruction["d_scalar"] + np.arange(count)
    return written
