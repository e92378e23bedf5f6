# SPDX-License-Identifier: Apache-2.0
"""Which on-chip cells an instruction reads and writes.

What depends on the routing counts at its largest: a GEMM with a slot may touch what any token does. Accesses are
numbered in a fixed order, so that what is found first is always the same.
"""

from __future__ import annotations

from hdl.isa import LoadDest, Opcode, StoreFormat, VectorDest, VectorFn, VectorOp, VectorSum
from scheduler.stream.blocks import READ, WRITE, Blocks, put, put_run
from scheduler.stream.compiled import compiled
from scheduler.stream.gemm_footprint import gemm_footprint
from scheduler.stream.lists import TokenLists
from scheduler.stream.machine import ACTIVATION, COMBINE, LIST, PARAMETER, SCALAR, SLOTS, VCACHE, Machine
from scheduler.stream.table import COL, Rows

__all__ = ["footprint", "has_sum", "reads_scalar", "scalar_span", "two_operands", "writes_scalar"]


@compiled
def has_sum(rows: Rows, r: int) -> bool:
    """Return whether a VECTOR is a MAP that writes the sum of its results, or its reciprocal."""
    return bool(rows[r, COL.op] == VectorOp.MAP and rows[r, COL.sum] != VectorSum.NONE)


@compiled
def reads_scalar(rows: Rows, r: int) -> bool:
    """Return whether a VECTOR reads the scalars from ``s_base``."""
    op = rows[r, COL.op]
    if op == VectorOp.MAP:
        return bool(rows[r, COL.fn] == VectorFn.EXP2)
    if op == VectorOp.MAX or op == VectorOp.ARGMAX:
        return not rows[r, COL.first]
    return bool(op == VectorOp.SCALE or op == VectorOp.RESCALE or op == VectorOp.GATHER)


@compiled
def is_reduction(rows: Rows, r: int) -> bool:
    """Return whether a VECTOR makes a scalar and no rows."""
    op = rows[r, COL.op]
    return bool(op == VectorOp.MAX or op == VectorOp.SUMSQ or op == VectorOp.ARGMAX)


@compiled
def writes_scalar(rows: Rows, r: int) -> bool:
    """Return whether a VECTOR writes the scalars from ``d_scalar``."""
    return is_reduction(rows, r) or has_sum(rows, r)


@compiled
def scalar_span(rows: Rows, r: int) -> int:
    """Return how many scalars a VECTOR reads from ``s_base`` on (when it reads any)."""
    many = rows[r, COL.length] if rows[r, COL.op] == VectorOp.GATHER else 1
    return int(rows[r, COL.vectors] * many)


@compiled
def two_operands(rows: Rows, r: int) -> bool:
    """Return whether a VECTOR reads operand B."""
    op = rows[r, COL.op]
    return bool(op == VectorOp.MUL or op == VectorOp.ROTATE or op == VectorOp.ADD)


@compiled
def _load(rows: Rows, r: int, machine: Machine, blocks: Blocks, at: int) -> int:
    kind, base, many, access = rows[r, COL.dest_kind], rows[r, COL.dest_base], rows[r, COL.count], 0
    if kind == LoadDest.ROWS:
        return put_run(blocks, at, COMBINE, WRITE, -1, access, machine.combine + base, many)
    space, first, depth, parts = VCACHE, machine.vcache, machine.vcache_tiles, 1
    if kind == LoadDest.ACTIVATION:
        space, first, depth, parts = ACTIVATION, machine.activation, machine.activation_words, machine.parts
    elif kind == LoadDest.LIST:
        space, first, depth = LIST, machine.lists, machine.list_depth
    elif kind == LoadDest.PARAMETER:
        space, first, depth = PARAMETER, machine.parameter, machine.parameter_words
    for tier in range(machine.tiers):
        if rows[r, COL.dest_tiers] >> tier & 1:
            begin = first + (tier * depth + base) * parts
            at = put_run(blocks, at, space, WRITE, -1, access, begin, many * parts)
    access += 1
    if rows[r, COL.slot_en]:
        at = put_run(blocks, at, SLOTS, READ, -1, access, machine.slots + rows[r, COL.slot], 1)
    return at


@compiled
def _store(rows: Rows, r: int, machine: Machine, blocks: Blocks, at: int) -> int:
    begin, gap, many = machine.combine + rows[r, COL.row_base], 1 + rows[r, COL.row_gap], rows[r, COL.rows]
    access = 0
    if rows[r, COL.format] != StoreFormat.DISCARD:
        at = put(blocks, at, COMBINE, READ, -1, access, begin, 1, gap, many)
    access += 1
    if rows[r, COL.clear]:
        at = put(blocks, at, COMBINE, WRITE, -1, access, begin, 1, gap, many)
    return at


@compiled
def _vector(rows: Rows, r: int, machine: Machine, blocks: Blocks, at: int) -> int:
    vectors, height, kind = rows[r, COL.vectors], rows[r, COL.rows], rows[r, COL.dest_kind]
    stride, access = rows[r, COL.dest_stride], 0
    begin = machine.combine + rows[r, COL.a_base]
    at = put(blocks, at, COMBINE, READ, -1, access, begin, height, rows[r, COL.a_stride], vectors)
    if two_operands(rows, r):
        period, begin = rows[r, COL.b_rows], machine.combine + rows[r, COL.b_base]
        tables = 2 if rows[r, COL.op] == VectorOp.ROTATE else 1
        at = put(blocks, at, COMBINE, READ, -1, access, begin, tables * period, rows[r, COL.b_stride], vectors)
    access += 1
    if kind == VectorDest.ROWS:
        made = 1 if rows[r, COL.op] == VectorOp.GATHER else height
        begin = machine.combine + rows[r, COL.dest_base]
        at = put(blocks, at, COMBINE, WRITE, -1, access, begin, made, stride, vectors)
    elif kind == VectorDest.ACTIVATION:
        parts = machine.parts
        for tier in range(machine.tiers):
            if rows[r, COL.dest_tiers] >> tier & 1:
                begin = machine.activation + (tier * machine.activation_words + rows[r, COL.dest_base]) * parts
                at = put(blocks, at, ACTIVATION, WRITE, -1, access, begin, 2 * height, stride * parts, vectors)
    access += 1
    read, written = machine.scalar + rows[r, COL.s_base], machine.scalar + rows[r, COL.d_scalar]
    if reads_scalar(rows, r):
        at = put_run(blocks, at, SCALAR, READ, -1, access, read, scalar_span(rows, r))
    if has_sum(rows, r) and not rows[r, COL.first]:
        at = put_run(blocks, at, SCALAR, READ, -1, access, written, vectors)
    access += 1
    if writes_scalar(rows, r):
        at = put_run(blocks, at, SCALAR, WRITE, -1, access, written, vectors)
    return at


@compiled
def _route(rows: Rows, r: int, machine: Machine, blocks: Blocks, at: int) -> int:
    tokens, access = rows[r, COL.tokens], 0
    entries, gates = tokens * rows[r, COL.choices], machine.combine + rows[r, COL.a_base]
    at = put_run(blocks, at, SCALAR, READ, -1, access, machine.scalar + rows[r, COL.s_base], entries)
    access += 1
    at = put(blocks, at, COMBINE, READ, -1, access, gates, 1, rows[r, COL.a_stride], tokens)
    access += 1
    for tier in range(machine.tiers):
        begin = machine.lists + tier * machine.list_depth + rows[r, COL.list_base]
        at = put_run(blocks, at, LIST, WRITE, -1, access, begin, entries)
    access += 1
    return put_run(blocks, at, SLOTS, WRITE, -1, access, machine.slots + rows[r, COL.slot_base], rows[r, COL.experts])


@compiled
def footprint(rows: Rows, r: int, machine: Machine, lists: TokenLists, blocks: Blocks, at: int) -> int:
    """Write down behind the first `at` blocks what the legal instruction in row `r` touches.

    The token lists must be as they are when it runs.

    Returns
    -------
    int
        How many blocks there are then. Negative: a list-driven access leaves its memory; ``-1 - result`` is its kind
        plus three times the number of its space.
    """
    opcode = rows[r, COL.opcode]
    if opcode == Opcode.LOAD:
        return _load(rows, r, machine, blocks, at)
    if opcode == Opcode.STORE:
        return _store(rows, r, machine, blocks, at)
    if opcode == Opcode.GEMM:
        return gemm_footprint(rows, r, machine, lists, blocks, at)
    if opcode == Opcode.VECTOR:
        return _vector(rows, r, machine, blocks, at)
    if opcode == Opcode.ROUTE:
        return _route(rows, r, machine, blocks, at)
    return at
