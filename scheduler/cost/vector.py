# SPDX-License-Identifier: Apache-2.0
"""The vector unit's front: VECTOR and ROUTE from the queue to the start, and their ends."""

from __future__ import annotations

from hdl.isa import Opcode, VectorDest, VectorOp
from scheduler.cost.events import grant, post, slice_of, take, waits, wake
from scheduler.cost.slots import HIGH_ONLY
from scheduler.cost.state import AT, JOB, NEVER, NOTE, QUEUE, RECORD, B, C, Int, J, M, N, S, U
from scheduler.cost.vector_rows import FIRST, SECOND, await_scalar, may_ask, may_start
from scheduler.cost.work import makes_scalars, reads_scalars, route_cycles, route_work, vector_requests
from scheduler.stream.compiled import compiled
from scheduler.stream.table import COL, Rows

__all__ = ["finish_jobs", "start_vector", "vector_step"]

_VECTOR = 3
"""Source of the posts."""


@compiled
def start_vector(rows: Rows, s: Int, now: int) -> None:
    """Start the VECTOR that is set up, beside the job before, which has issued its rows."""
    n, which = s[C.pending], 1 - s[C.which]
    old, job = AT.job + JOB * s[C.which], AT.job + JOB * which
    op, vectors, count = rows[n, COL.op], rows[n, COL.vectors], rows[n, COL.rows]
    dest, gather = rows[n, COL.dest_kind], op == VectorOp.GATHER
    two = op == VectorOp.MUL or op == VectorOp.ADD
    s[C.which] = which
    s[C.pending] = -1
    s[C.start_at] = NEVER
    s[C.issuing] = 1
    s[job + J.number] = n
    s[job + J.live] = 1
    s[job + J.rows_left] = 0 if dest == VectorDest.NONE else vectors * (1 if gather else count)
    s[job + J.finish] = NEVER
    s[job + J.written] = 0
    s[job + J.reduces] = makes_scalars(op, rows[n, COL.sum])
    s[job + J.scalar] = rows[n, COL.d_scalar]
    s[job + J.vectors] = vectors
    s[job + J.to_rows] = dest == VectorDest.ROWS
    s[job + J.low] = rows[n, COL.dest_base]
    s[job + J.high] = rows[n, COL.dest_base] + (vectors - 1) * rows[n, COL.dest_stride] + (0 if gather else count - 1)
    # It waits for the end of the job before if the rows from its first to its last one meet those that this writes.
    low, high, first = s[old + J.low], s[old + J.high], rows[n, COL.a_base]
    meets = first <= high and first + (vectors - 1) * rows[n, COL.a_stride] + count - 1 >= low
    if two or op == VectorOp.ROTATE:
        tables = rows[n, COL.b_rows] * (1 if two else 2)
        first = rows[n, COL.b_base]
        meets = meets or (first <= high and first + (vectors - 1) * rows[n, COL.b_stride] + tables - 1 >= low)
    s[C.blocked] = s[old + J.live] and s[old + J.to_rows] and meets
    s[C.vector] = 0
    s[C.row] = 0
    s[C.phase] = SECOND if op == VectorOp.ROTATE else FIRST
    s[C.table] = 0
    s[C.element] = 0
    s[C.a] = rows[n, COL.a_base]
    s[C.b] = rows[n, COL.b_base]
    s[C.dest] = rows[n, COL.dest_base]
    s[C.op] = op
    s[C.vectors] = vectors
    s[C.rows] = count
    s[C.dest_kind] = dest
    s[C.dest_tiers] = rows[n, COL.dest_tiers]
    s[C.b_rows] = rows[n, COL.b_rows]
    s[C.a_stride] = rows[n, COL.a_stride]
    s[C.b_stride] = rows[n, COL.b_stride]
    s[C.dest_stride] = rows[n, COL.dest_stride]
    s[C.final] = SECOND if two else FIRST
    s[C.simple] = not (two or gather or op == VectorOp.ROTATE)
    s[C.reduces] = s[job + J.reduces]
    reads = reads_scalars(op, rows[n, COL.fn], rows[n, COL.first])
    goes_on = op == VectorOp.MAP and s[job + J.reduces] and not rows[n, COL.first]
    s[C.awaits] = s[old + J.live] and s[old + J.reduces] and (reads or goes_on)
    s[C.request] = max(now + s[B.vector_issue] + (s[B.lookup] if gather else 0), s[C.paused])
    if s[C.awaits]:
        await_scalar(rows, s, n)
    may_ask(s)
    unit = s[B.tiers] + 3
    x = AT.unit + RECORD * unit
    at = slice_of(rows, s, n, unit)
    s[at + S.start] = now + s[B.vector_issue]
    s[at + S.work] = vector_requests(op, vectors, count, rows[n, COL.b_rows], rows[n, COL.length])
    s[x + U.held] = -1
    s[x + U.free] = now + 1
    wake(s, unit, now + 1)


@compiled
def finish_job(rows: Rows, s: Int, job: int, now: int) -> None:
    """End a job of the vector unit."""
    n = s[job + J.number]
    posts = rows[n, COL.post0_en] or rows[n, COL.post1_en]
    s[job + J.live] = 0
    s[job + J.finish] = NEVER
    s[C.blocked] = 0
    s[C.finished] = now + 1 + (s[B.vector_post] if posts else 0)  # the register of the post is free again
    s[s[M.notes] + NOTE * n + N.done] = now
    may_ask(s)
    may_start(s)
    post(rows, s, _VECTOR, n, now + s[B.vector_post])
    wake(s, s[B.tiers] + 3, s[C.finished])


@compiled
def finish_jobs(rows: Rows, s: Int, now: int) -> bool:
    """End the job of the vector unit that is complete, in order; return whether there is one."""
    done = False
    s[C.finish_at] = NEVER
    for place in range(2):
        older = s[C.which] ^ 1
        job = AT.job + JOB * (older ^ place)
        if s[job + J.finish] < NEVER and not (place and s[AT.job + JOB * older + J.live]):
            at = max(s[job + J.finish], s[C.finished])
            if at <= now and not done:
                finish_job(rows, s, job, now)
                done = True
            else:
                s[C.finish_at] = min(s[C.finish_at], max(at, now + 1))
    return done


@compiled
def fill_slots(rows: Rows, s: Int, n: int) -> int:
    """Fill the table with a ROUTE's counts; return the largest."""
    most, own = 0, s[M.counts] + s[M.counts_width] * (1 + s[M.routed])
    first = s[M.counts] + rows[n, COL.slot_base]
    for number in range(rows[n, COL.experts]):
        s[first + number] = s[own + number]
        most = max(most, s[own + number] & HIGH_ONLY - 1)
    return int(most)


@compiled
def run_route(rows: Rows, s: Int, n: int, now: int) -> None:
    """Run a ROUTE whose waits are granted."""
    unit = s[B.tiers] + 3
    x = AT.unit + RECORD * unit
    most = rows[n, COL.tokens]
    if s[M.counts_width]:
        most = fill_slots(rows, s, n)
    done = now + route_cycles(rows, n, s[B.route], s[B.route_sort], most)
    at = slice_of(rows, s, n, unit)
    s[at + S.start] = now
    s[at + S.end] = done
    s[at + S.work] = route_work(rows, n, most)
    s[s[M.notes] + NOTE * n + N.done] = done
    s[x + U.held] = -1
    s[x + U.free] = done + 1
    s[M.routed] += 1
    wake(s, unit, done + 1)
    post(rows, s, _VECTOR, n, done)


@compiled
def next_vector(rows: Rows, s: Int, now: int) -> bool:
    """Take the next VECTOR, or the next ROUTE when nothing else runs; return whether one is held."""
    unit = s[B.tiers] + 3
    x = AT.unit + RECORD * unit
    if s[x + U.held] >= 0:
        return True
    if s[x + U.free] > now:
        wake(s, unit, s[x + U.free])
        return False
    if not s[x + U.queued]:
        return False
    head = s[AT.queue + 2 * (QUEUE * unit + s[x + U.head])]
    route = rows[head, COL.opcode] == Opcode.ROUTE
    if route:
        if s[C.pending] >= 0 or s[AT.job + J.live] or s[AT.job + JOB + J.live]:
            return False  # woken when a job ends
        if now < s[C.finished]:
            wake(s, unit, s[C.finished])
            return False
    n = take(rows, s, unit, now)
    if n < 0:
        return False
    s[x + U.held] = n
    s[x + U.granted] = 0
    s[x + U.valid] = now + s[B.route_check if route else B.vector_check]
    s[slice_of(rows, s, n, unit) + S.taken] = now
    return True


@compiled
def vector_step(rows: Rows, s: Int, now: int) -> None:
    """Let the vector unit's front go on: take and check an instruction, wait for semaphores."""
    unit = s[B.tiers] + 3
    s[AT.time + unit] = NEVER
    if not next_vector(rows, s, now):
        return
    x = AT.unit + RECORD * unit
    n = s[x + U.held]
    if now < s[x + U.valid]:
        wake(s, unit, s[x + U.valid])
        return
    if s[x + U.granted]:
        return  # started by the job before
    if waits(rows, n):
        if not grant(rows, s, unit, n, now):
            return
        now += s[B.granted]
        s[x + U.valid] = now + s[B.vector_grant]
    s[x + U.granted] = 1
    at = slice_of(rows, s, n, unit)
    s[at + S.granted] = now
    s[at + S.ready] = s[x + U.valid]
    if rows[n, COL.opcode] == Opcode.ROUTE:
        run_route(rows, s, n, now)
        return
    s[C.pending] = n
    s[C.pending_at] = s[x + U.valid]
    may_start(s)
