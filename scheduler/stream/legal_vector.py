# SPDX-License-Identifier: Apache-2.0
"""Whether a VECTOR is legal: the checks of :mod:`hdl.vector_legality`, compiled."""

from __future__ import annotations

from hdl.isa import VectorBits, VectorDest, VectorOp
from hdl.isa.vector_legality import INDEX_LIMIT
from scheduler.stream.compiled import compiled
from scheduler.stream.footprints import has_sum, is_reduction, reads_scalar, scalar_span, two_operands, writes_scalar
from scheduler.stream.machine import Machine
from scheduler.stream.table import COL, Rows

__all__ = ["legal_vector"]


@compiled
def _fields(rows: Rows, r: int, machine: Machine) -> bool:
    op, height, period = rows[r, COL.op], rows[r, COL.rows], rows[r, COL.b_rows]
    if not rows[r, COL.vectors] or not height:
        return False
    if op != VectorOp.MAP and (rows[r, COL.fn] or rows[r, COL.sum]):
        return False
    if two_operands(rows, r) and (period < 1 or period & (period - 1) or height % period):
        return False
    if (op == VectorOp.ARGMAX or op == VectorOp.GATHER) and height * machine.columns > INDEX_LIMIT:
        return False
    if op == VectorOp.GATHER and (not 1 <= rows[r, COL.length] <= machine.columns or rows[r, COL.masked]):
        return False
    kind, mask = rows[r, COL.dest_kind], rows[r, COL.dest_tiers]
    if kind != VectorDest.NONE and is_reduction(rows, r):
        return False
    if kind == VectorDest.NONE and not (is_reduction(rows, r) or has_sum(rows, r)):
        return False
    if kind != VectorDest.ACTIVATION:
        return not mask
    return bool(op != VectorOp.GATHER and rows[r, COL.bits] == VectorBits.BITS8 and mask and not mask >> machine.tiers)


@compiled
def legal_vector(rows: Rows, r: int, machine: Machine) -> bool:
    """Return whether the VECTOR in row `r`, whose fields can be encoded, has legal fields and stays in its memories."""
    if not _fields(rows, r, machine):
        return False
    op, last, height = rows[r, COL.op], rows[r, COL.vectors] - 1, rows[r, COL.rows]
    if rows[r, COL.a_base] + last * rows[r, COL.a_stride] + height > machine.combine_rows:
        return False
    if two_operands(rows, r):
        tables = 2 if op == VectorOp.ROTATE else 1
        end = rows[r, COL.b_base] + last * rows[r, COL.b_stride] + tables * rows[r, COL.b_rows]
        if end > machine.combine_rows:
            return False
    if reads_scalar(rows, r) and rows[r, COL.s_base] + scalar_span(rows, r) > machine.scalar_depth:
        return False
    if writes_scalar(rows, r) and rows[r, COL.d_scalar] + last + 1 > machine.scalar_depth:
        return False
    kind = rows[r, COL.dest_kind]
    if kind == VectorDest.NONE:
        return True
    made, depth = 1 if op == VectorOp.GATHER else height, machine.combine_rows
    if kind == VectorDest.ACTIVATION:
        made, depth = -(-made * machine.columns // machine.rows), machine.activation_words
    return bool(rows[r, COL.dest_base] + last * rows[r, COL.dest_stride] + made <= depth)
