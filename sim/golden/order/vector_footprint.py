# SPDX-License-Identifier: Apache-2.0
"""Which cells a VECTOR instruction reads and writes, and whether it disturbs itself."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hdl.config import MachineConfig
from hdl.isa import Instruction, VectorDest, VectorOp
from hdl.isa.legality import tiers_of_mask
from hdl.isa.vector_access import (
    TWO_OPERANDS,
    a_rows,
    b_rows,
    c_rows,
    dest_bytes,
    dest_rows,
    has_sum,
    reads_scalar,
    scalar_span,
    scalars_read,
    scalars_written,
)

__all__ = ["activation_cells", "rows_read", "scalar_cells", "vector_conflict"]

Int = npt.NDArray[np.int64]


def rows_read(instruction: Instruction) -> Int:
    """Return the combine rows that are read, each once (GATHER: all that an index may choose)."""
    operands = [a_rows(instruction), *_second_operands(instruction)]
    return np.unique(np.concatenate([rows.reshape(-1) for rows in operands]))


def _second_operands(instruction: Instruction) -> list[Int]:
    if instruction["op"] not in TWO_OPERANDS:
        return []
    tables = [c_rows(instruction)] if instruction["op"] == VectorOp.ROTATE else []
    return [b_rows(instruction), *tables]


def activation_cells(instruction: Instruction, config: MachineConfig) -> Int:
    """Return the cells (C/2 bytes each) of the activation buffers that are written, with repetitions."""
    half = config.columns // 2
    per_word = config.rows // half
    words, lanes = dest_bytes(instruction, config)
    cells = (words * per_word + lanes[:, ::half] // half).reshape(-1)
    tiers = [tier * config.activation_words * per_word for tier in tiers_of_mask(instruction["dest_tiers"])]
    return np.concatenate([base + cells for base in tiers])


def scalar_cells(instruction: Instruction) -> tuple[Int, Int]:
    """Return the scalars that are read and those that are written."""
    return np.unique(scalars_read(instruction)), scalars_written(instruction)


def vector_conflict(instruction: Instruction, config: MachineConfig) -> str | None:
    """Return why a legal VECTOR has no defined result, or None.

    Results may go over operand A in place, and a running maximum or choice over the one before; nothing else that an
    instruction writes may be something that it reads, and nothing may be written twice.
    """
    if instruction["dest_kind"] == VectorDest.ROWS:
        written, a = dest_rows(instruction), a_rows(instruction)
        if np.unique(written).size != written.size:
            return "two of its rows overwrite the same combine cell"
        overlaps = bool(np.intersect1d(written, a).size)
        if overlaps and not (np.unique(a).size == a.size and np.array_equal(written, a[:, : written.shape[1]])):
            return "it writes rows that it also reads, other than in place"
        if any(np.intersect1d(written, rows).size for rows in _second_operands(instruction)):
            return "it writes rows of its operand B"
    elif instruction["dest_kind"] == VectorDest.ACTIVATION:
        cells = activation_cells(instruction, config)
        if np.unique(cells).size != cells.size:
            return "two of its rows overwrite the same activation cell"
    return _scalar_conflict(instruction)


def _scalar_conflict(instruction: Instruction) -> str | None:
    written = scalars_written(instruction)
    if not written.size or not reads_scalar(instruction):
        return None
    read = instruction["s_base"] + np.arange(scalar_span(instruction))
    in_place = not has_sum(instruction) and instruction["s_base"] == instruction["d_scalar"]
    if np.intersect1d(written, read).size and not in_place:
        return "it writes scalars that it also reads, other than in place"
    return None
