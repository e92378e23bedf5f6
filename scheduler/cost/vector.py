# SPDX-License-Identifier: Apache-2.0
"""The vector unit: VECTOR and ROUTE from the queue to completion; its rows take part in `scheduler.cost.combine`."""

from __future__ import annotations

from hdl.isa import Opcode, VectorDest, VectorFn, VectorOp, VectorSum
from scheduler.cost.events import grant, post, slice_of, take, waits, wake
from scheduler.cost.state import *
from scheduler.stream.compiled import compiled, inlined
from scheduler.stream.table import COL, Rows

A, SECOND, THIRD = range(3)
"""What a row that is asked for is: operand A, operand B (ROTATE: the first table), ROTATE's second table."""


@inlined
def reads_scalar(rows: Rows, n: int) -> bool:
    """Return whether a VECTOR reads the scalars from ``s_base`` on."""
    op = rows[n, COL.op]
    if op == VectorOp.MAP:
        return rows[n, COL.fn] == VectorFn.EXP2
    if op == VectorOp.MAX or op == VectorOp.ARGMAX:
        return rows[n, COL.first] == 0
    return op == VectorOp.SCALE or op == VectorOp.RESCALE or op == VectorOp.GATHER


@inlined
def sums(rows: Rows, n: int) -> bool:
    """Return whether a VECTOR is a MAP with a sum."""
    return rows[n, COL.op] == VectorOp.MAP and rows[n, COL.sum] != VectorSum.NONE


@inlined
def await_scalar(rows: Rows, s: Int, n: int) -> None:
    """Let the next row wait for the scalar that the job before the running one is still to write."""
    other = 1 - s[WHICH]
    old = JOB + 16 * other
    if not s[old + LIVE] or not s[old + REDUCES]:
        return
    low, count = s[old + D_SCALAR], s[old + VECTORS]
    at = SCALAR + SCALAR_PLACES * other
    if reads_scalar(rows, n):
        place, more = rows[n, COL.s_base] + s[VECTOR] - low, 1
        if rows[n, COL.op] == VectorOp.GATHER:
            place += s[ELEMENT] * rows[n, COL.vectors]
            more += s[B.lookup]
        if 0 <= place < count:
            s[REQUEST] = max(s[REQUEST], s[at + place] + s[B.scalar_write] + more)
    if sums(rows, n) and not rows[n, COL.first]:
        place = rows[n, COL.d_scalar] + s[VECTOR] - low
        if 0 <= place < count:
            s[REQUEST] = max(s[REQUEST], s[at + place] + s[B.scalar_write] + 1)


@inlined
def may_ask(s: Int) -> None:
    """Note when the running job can ask for its next row."""
    s[ASK_AT] = s[REQUEST] if s[CREDITS] > 0 and not s[BLOCKED] else NEVER


@compiled
def start_vector(rows: Rows, s: Int, now: int) -> None:
    """Start the VECTOR that is set up."""
    n, which = s[PENDING], 1 - s[WHICH]
    old, job = JOB + 16 * s[WHICH], JOB + 16 * which
    op, vectors, count = rows[n, COL.op], rows[n, COL.vectors], rows[n, COL.rows]
    dest = rows[n, COL.dest_kind]
    gather = op == VectorOp.GATHER
    s[WHICH] = which
    s[PENDING] = -1
    s[START_AT] = NEVER
    s[ISSUING] = 1
    s[job + NUMBER] = n
    s[job + LIVE] = 1
    s[job + ROWS_LEFT] = 0 if dest == VectorDest.NONE else vectors * (1 if gather else count)
    s[job + FINISH] = NEVER
    s[job + WRITTEN] = 0
    s[job + REDUCES] = op == VectorOp.MAX or op == VectorOp.SUMSQ or op == VectorOp.ARGMAX or sums(rows, n)
    s[job + D_SCALAR] = rows[n, COL.d_scalar]
    s[job + VECTORS] = vectors
    s[job + TO_ROWS] = dest == VectorDest.ROWS
    s[job + D_LOW] = rows[n, COL.dest_base]
    s[job + D_HIGH] = rows[n, COL.dest_base] + (vectors - 1) * rows[n, COL.dest_stride] + (0 if gather else count - 1)
    low, high = s[old + D_LOW], s[old + D_HIGH]
    first = rows[n, COL.a_base]
    meets = first <= high and first + (vectors - 1) * rows[n, COL.a_stride] + count - 1 >= low
    final = A
    if op == VectorOp.MUL or op == VectorOp.ADD or op == VectorOp.ROTATE:
        tables = rows[n, COL.b_rows] * (2 if op == VectorOp.ROTATE else 1)
        first = rows[n, COL.b_base]
        meets = meets or (first <= high and first + (vectors - 1) * rows[n, COL.b_stride] + tables - 1 >= low)
        if op != VectorOp.ROTATE:
            final = SECOND
    s[BLOCKED] = s[old + LIVE] and s[old + TO_ROWS] and meets
    s[VECTOR] = 0
    s[ROW] = 0
    s[PHASE] = SECOND if op == VectorOp.ROTATE else A
    s[TABLE] = 0
    s[ELEMENT] = 0
    s[A_AT] = rows[n, COL.a_base]
    s[B_AT] = rows[n, COL.b_base]
    s[D_AT] = rows[n, COL.dest_base]
    s[C_OP] = op
    s[C_VECTORS] = vectors
    s[C_ROWS] = count
    s[C_DEST] = dest
    s[C_FINAL] = final
    s[C_REDUCES] = s[job + REDUCES]
    s[C_SIMPLE] = final == A and op != VectorOp.ROTATE and not gather
    s[C_WAITS] = s[old + LIVE] and s[old + REDUCES] and (reads_scalar(rows, n) or (sums(rows, n) and not rows[n, COL.first]))
    s[C_DEST_TIERS] = rows[n, COL.dest_tiers]
    s[C_BROWS] = rows[n, COL.b_rows]
    s[C_ASTRIDE] = rows[n, COL.a_stride]
    s[C_BSTRIDE] = rows[n, COL.b_stride]
    s[C_DSTRIDE] = rows[n, COL.dest_stride]
    s[REQUEST] = now + 1 + (s[B.lookup] if gather else 0)
    await_scalar(rows, s, n)
    may_ask(s)
    unit = s[B.tiers] + 3
    x = UNIT + WIDTH * unit
    s[slice_of(rows, s, n, unit) + S_BEGIN] = now + 1
    s[x + HELD] = -1
    s[x + FREE] = now + 1
    wake(s, unit, now + 1)


@inlined
def may_start(s: Int) -> None:
    """Note when the VECTOR that is set up can start: the job before has issued its rows, the one before that is done."""
    waits = s[PENDING] < 0 or s[ISSUING] or s[JOB + 16 * (s[WHICH] ^ 1) + LIVE]
    s[START_AT] = NEVER if waits else max(s[PENDING_AT], s[FINISHED] - 1)
    s[C_NEXT] = min(s[C_NEXT], s[START_AT])


@inlined
def put_result(s: Int, now: int, row: int) -> None:
    """A result row is on its way; it will be written to a combine row, or to activation buffers."""
    at = OUTPUT + 3 * ((s[OUT_HEAD] + s[OUT_COUNT]) % OUTPUT_PLACES)
    s[at] = now + s[B.row_write]
    if s[C_DEST] == VectorDest.ROWS:
        s[at + 1] = 1 << (WRITE + (row & s[B.lanes] - 1))
    else:
        s[at + 1] = s[C_DEST_TIERS] << TIERS
    s[at + 2] = s[WHICH]
    if s[OUT_COUNT] == 0:
        s[OUT_AT] = s[at]
    s[OUT_COUNT] += 1
    s[CREDITS] -= 1


@compiled
def end_vector(rows: Rows, s: Int, now: int) -> None:
    """All rows of a vector are read: go on to the next one, or end."""
    job = JOB + 16 * s[WHICH]
    n = s[job + NUMBER]
    s[ROW] = 0
    s[ELEMENT] = 0
    s[VECTOR] += 1
    s[A_AT] += s[C_ASTRIDE]
    s[B_AT] += s[C_BSTRIDE]
    s[D_AT] += s[C_DSTRIDE]
    if s[VECTOR] < s[C_VECTORS]:
        if s[C_WAITS]:
            await_scalar(rows, s, n)
        return
    s[ISSUING] = 0
    s[REQUEST] = NEVER
    s[slice_of(rows, s, n, s[B.tiers] + 3) + S_END] = now + 1
    if s[job + ROWS_LEFT] == 0:
        s[job + FINISH] = max(now, s[job + WRITTEN]) + 1
        s[FINISH_AT] = min(s[FINISH_AT], s[job + FINISH])
    may_start(s)


@compiled
def accept_other(rows: Rows, s: Int, now: int) -> None:
    """Do what :func:`accept_row` does for the operations that read more than one row for a result, and for GATHER."""
    op, phase = s[C_OP], s[PHASE]
    final = phase == s[C_FINAL]
    last_row = s[ROW] + 1 == s[C_ROWS]
    s[REQUEST] = now + 1
    if op == VectorOp.GATHER:
        n = s[JOB + 16 * s[WHICH] + NUMBER]
        s[ELEMENT] += 1
        if s[ELEMENT] < rows[n, COL.length]:
            await_scalar(rows, s, n)
            return
        put_result(s, now, s[D_AT])
        end_vector(rows, s, now)
        return
    if final:
        put_result(s, now, s[D_AT] + s[ROW])
    s[PHASE] = A if final else phase + 1
    if op == VectorOp.ROTATE:
        many = s[C_BROWS] > 2
        if phase == A:
            s[PHASE] = SECOND if many or last_row else A
        elif many or s[TABLE] + 1 == s[C_BROWS]:
            s[TABLE] = 0
            s[PHASE] = THIRD if phase == SECOND else A
        else:
            s[TABLE] += 1
            s[PHASE] = phase
    elif op == VectorOp.ADD and final:
        s[REQUEST] += s[B.add_pause]
    if final:
        s[ROW] += 1
        if last_row:
            end_vector(rows, s, now)


@inlined
def accept_row(rows: Rows, s: Int, now: int) -> None:
    """The row that the running job has asked for is read in this cycle; go on to the next one."""
    if s[C_SIMPLE]:
        s[REQUEST] = now + 1
        if s[C_DEST] != VectorDest.NONE:
            put_result(s, now, s[D_AT] + s[ROW])
        s[ROW] += 1
        if s[ROW] == s[C_ROWS]:
            if s[C_REDUCES]:
                s[SCALAR + SCALAR_PLACES * s[WHICH] + s[VECTOR]] = now
                s[JOB + 16 * s[WHICH] + WRITTEN] = now + s[B.scalar_write]
            end_vector(rows, s, now)
    else:
        accept_other(rows, s, now)
    may_ask(s)


@compiled
def finish_job(rows: Rows, s: Int, job: int, now: int) -> None:
    """A job of the vector unit is complete."""
    n = s[job + NUMBER]
    s[job + LIVE] = 0
    s[job + FINISH] = NEVER
    s[BLOCKED] = 0
    may_ask(s)
    # The next one can end when the post is through.
    s[FINISHED] = now + 1 + (1 if rows[n, COL.post0_en] or rows[n, COL.post1_en] else 0)
    s[s[NOTES] + NOTE_WIDTH * n + N_DONE] = now
    may_start(s)
    post(rows, s, 3, n, now + 1)
    wake(s, s[B.tiers] + 3, s[FINISHED])


@compiled
def run_route(rows: Rows, s: Int, n: int, now: int) -> None:
    """Run a ROUTE whose waits are granted."""
    unit = s[B.tiers] + 3
    x = UNIT + WIDTH * unit
    tokens, choices = rows[n, COL.tokens], rows[n, COL.choices]
    most = s[s[COUNTS] + s[COUNTS_WIDTH] * s[ROUTED]] if s[COUNTS_WIDTH] else tokens
    work = tokens * choices + 2 * rows[n, COL.experts] + most + tokens * (choices + 2)
    done = now + work + s[B.route]
    at = slice_of(rows, s, n, unit)
    s[at + S_BEGIN] = now
    s[at + S_END] = done
    s[at + S_WORK] = work
    s[s[NOTES] + NOTE_WIDTH * n + N_DONE] = done
    s[x + HELD] = -1
    s[x + FREE] = done + 1
    s[ROUTED] += 1
    wake(s, unit, done + 1)
    post(rows, s, 3, n, done)


@compiled
def vector_step(rows: Rows, s: Int, now: int) -> None:
    """Let the vector unit's front go on: take and check an instruction, wait for semaphores."""
    unit = s[B.tiers] + 3
    s[TIME + unit] = NEVER
    x = UNIT + WIDTH * unit
    if s[x + HELD] < 0:
        if s[x + FREE] > now:
            wake(s, unit, s[x + FREE])
            return
        if not s[x + QUEUED]:
            return
        head = s[QUEUE + 2 * (QUEUE_PLACES * unit + s[x + HEAD_AT])]
        if rows[head, COL.opcode] == Opcode.ROUTE:
            if s[PENDING] >= 0 or s[JOB + LIVE] or s[JOB + 16 + LIVE]:
                return  # woken when a job ends
            if now < s[FINISHED]:
                wake(s, unit, s[FINISHED])
                return
        n = take(rows, s, unit, now)
        if n < 0:
            return
        s[x + HELD] = n
        s[x + TAKEN] = now
        s[x + VALID] = now + s[B.vector_setup]
        s[x + GRANT] = 0
        s[slice_of(rows, s, n, unit) + S_TAKE] = now
    n = s[x + HELD]
    if now < s[x + VALID]:
        wake(s, unit, s[x + VALID])
        return
    if s[x + GRANT]:
        return
    if waits(rows, n):
        if not grant(rows, s, unit, n, now):
            return
        s[x + VALID] = now + 1
    s[x + GRANT] = 1
    s[slice_of(rows, s, n, unit) + S_GRANT] = now
    if rows[n, COL.opcode] == Opcode.ROUTE:
        run_route(rows, s, n, now)
        return
    s[PENDING] = n
    s[PENDING_AT] = s[x + VALID]
    may_start(s)
