# SPDX-License-Identifier: Apache-2.0
"""The rows of the vector unit's running job: what is asked for, what goes on its way, what has to be waited for."""

from __future__ import annotations

from typing import Final

from hdl.isa import VectorDest, VectorOp
from scheduler.cost.events import slice_of
from scheduler.cost.state import AT, JOB, NEVER, OUTPUTS, VECTORS, B, C, Int, J, S
from scheduler.cost.waves import PORT_TIERS, PORT_WRITE
from scheduler.cost.work import makes_scalars, reads_scalars
from scheduler.stream.compiled import compiled, inlined
from scheduler.stream.table import COL, Rows

__all__ = ["FIRST", "SECOND", "THIRD", "accept_row", "await_scalar", "may_ask", "may_start", "request_row"]

FIRST: Final = 0
SECOND: Final = 1
THIRD: Final = 2
"""What a row that is asked for is: operand A, operand B (ROTATE: the first table), ROTATE's second table."""


@inlined
def may_ask(s: Int) -> None:
    """Note when the running job can ask for its next row."""
    s[C.ask_at] = s[C.request] if s[C.credits] > 0 and not s[C.blocked] else NEVER


@inlined
def may_start(s: Int) -> None:
    """Note when the VECTOR that is set up can start: the job before has its rows, the one before that is complete."""
    waits = s[C.pending] < 0 or s[C.issuing] or s[AT.job + JOB * (s[C.which] ^ 1) + J.live]
    s[C.start_at] = NEVER if waits else max(s[C.pending_at], s[C.finished] - 1)
    s[C.next] = min(s[C.next], s[C.start_at])


@inlined
def request_row(s: Int) -> int:
    """Return the row that the running job asks for."""
    phase = s[C.phase]
    if phase == FIRST:
        # The rows of GATHER depend on data: any will do.
        return int(s[C.a] + (5 * s[C.element] + 3 * s[C.vector] if s[C.op] == VectorOp.GATHER else s[C.row]))
    small = s[C.op] == VectorOp.ROTATE and s[C.b_rows] <= 2
    return int(s[C.b] + (s[C.table] if small else s[C.row] % s[C.b_rows]) + (s[C.b_rows] if phase == THIRD else 0))


@compiled
def await_scalar(rows: Rows, s: Int, n: int) -> None:
    """Let the next row wait for the scalar that the job before is still to write."""
    other = 1 - s[C.which]
    old = AT.job + JOB * other
    low, count, at = s[old + J.scalar], s[old + J.vectors], AT.scalar + VECTORS * other
    op = rows[n, COL.op]
    if reads_scalars(op, rows[n, COL.fn], rows[n, COL.first]):
        place, more = rows[n, COL.s_base] + s[C.vector] - low, 1
        if op == VectorOp.GATHER:
            place += s[C.element] * rows[n, COL.vectors]
            more += s[B.lookup]
        if 0 <= place < count:
            s[C.request] = max(s[C.request], s[at + place] + s[B.scalar_write] + more)
    if op == VectorOp.MAP and makes_scalars(op, rows[n, COL.sum]) and not rows[n, COL.first]:
        place = rows[n, COL.d_scalar] + s[C.vector] - low
        if 0 <= place < count:
            s[C.request] = max(s[C.request], s[at + place] + s[B.scalar_write] + 1)


@inlined
def put_result(s: Int, now: int, row: int) -> None:
    """A result is on its way; it will be written to a combine row, or to activation buffers."""
    at = AT.output + 3 * ((s[C.output_head] + s[C.outputs]) % OUTPUTS)
    s[at] = now + s[B.row_write]
    if s[C.dest_kind] == VectorDest.ROWS:
        s[at + 1] = 1 << (PORT_WRITE + (row & s[B.result_lanes] - 1))
    else:
        s[at + 1] = s[C.dest_tiers] << PORT_TIERS
    s[at + 2] = s[C.which]
    if s[C.outputs] == 0:
        s[C.output_at] = s[at]
    s[C.outputs] += 1
    s[C.credits] -= 1


@compiled
def end_vector(rows: Rows, s: Int, now: int) -> None:
    """All rows of a vector are read: go on to the next one, or end."""
    job = AT.job + JOB * s[C.which]
    n = s[job + J.number]
    s[C.row] = 0
    s[C.element] = 0
    s[C.vector] += 1
    s[C.a] += s[C.a_stride]
    s[C.b] += s[C.b_stride]
    s[C.dest] += s[C.dest_stride]
    if s[C.vector] < s[C.vectors]:
        if s[C.awaits]:
            await_scalar(rows, s, n)
        return
    s[C.issuing] = 0
    s[C.request] = NEVER
    s[slice_of(rows, s, n, s[B.tiers] + 3) + S.end] = now + 1
    if s[job + J.rows_left] == 0:
        s[job + J.finish] = max(now, s[job + J.written]) + s[B.vector_done]
        s[C.finish_at] = min(s[C.finish_at], s[job + J.finish])
    may_start(s)


@compiled
def accept_other(rows: Rows, s: Int, now: int) -> None:
    """Do what :func:`accept_row` does for GATHER, and for operations that read more than one row for a result."""
    op, phase = s[C.op], s[C.phase]
    final, last_row = phase == s[C.final], s[C.row] + 1 == s[C.rows]
    s[C.request] = now + 1
    if op == VectorOp.GATHER:
        n = s[AT.job + JOB * s[C.which] + J.number]
        s[C.element] += 1
        if s[C.element] == rows[n, COL.length]:
            put_result(s, now, s[C.dest])
            end_vector(rows, s, now)
        elif s[C.awaits]:
            await_scalar(rows, s, n)
        return
    s[C.phase] = FIRST if final else phase + 1
    if op == VectorOp.ROTATE:
        many = s[C.b_rows] > 2
        if phase == FIRST:
            s[C.phase] = SECOND if many or last_row else FIRST
        elif many or s[C.table] + 1 == s[C.b_rows]:
            s[C.table] = 0
            s[C.phase] = THIRD if phase == SECOND else FIRST
        else:
            s[C.table] += 1
            s[C.phase] = phase
    elif op == VectorOp.ADD and final:
        s[C.request] += s[B.add_pause]
        s[C.paused] = s[C.request]
    if final:
        put_result(s, now, s[C.dest] + s[C.row])
        s[C.row] += 1
        if last_row:
            end_vector(rows, s, now)


@inlined
def accept_row(rows: Rows, s: Int, now: int) -> None:
    """The row that the running job has asked for is read in this cycle; go on to the next one."""
    if s[C.simple]:
        s[C.request] = now + 1
        if s[C.dest_kind] != VectorDest.NONE:
            put_result(s, now, s[C.dest] + s[C.row])
        s[C.row] += 1
        if s[C.row] == s[C.rows]:
            if s[C.reduces]:
                s[AT.scalar + VECTORS * s[C.which] + s[C.vector]] = now
                s[AT.job + JOB * s[C.which] + J.written] = now + s[B.scalar_write]
            end_vector(rows, s, now)
    else:
        accept_other(rows, s, now)
    may_ask(s)
