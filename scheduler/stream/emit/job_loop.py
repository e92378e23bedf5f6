# SPDX-License-Identifier: Apache-2.0
"""The loop that orders and emits the jobs of attention, compiled: most instructions of a step come from here.

:mod:`scheduler.stream.emit.jobs` says what it does, starts it and does what it stops for.
"""

from __future__ import annotations

from hdl.isa import Dest, Format, Mode, Opcode, Order, VectorBits, VectorDest, VectorFn, VectorOp, VectorSum, most_of
from scheduler.cost.clock import DONE, FREE, State, take_gemm, take_load, take_vector
from scheduler.models.fixed_point import PROBABILITY_MULT, PROBABILITY_SHIFT
from scheduler.plan.places import TAGS
from scheduler.stream.compiled import compiled
from scheduler.stream.emit.job_table import BLOCK, JOB, NEVER, OP, PIECE, STATE, STOP, TURN, UNTIL, Int64, Loop, Sizes
from scheduler.stream.emit.labels import CONTEXT, DIVIDE, EXP, KEYS, MAX, RESCALE, SCORES, VALUES
from scheduler.stream.table import COL, Rows

__all__ = ["emit_jobs"]

MOST_LENGTH = most_of(Opcode.VECTOR, "length") >> 1
"""Valid elements that an instruction can say, in a field with a sign. No vector is longer: all of it is valid then."""


@compiled
def _gemm(loop: Loop, job: int, rows: Rows, n: int) -> None:
    """Write what both GEMMs of a job have in common."""
    jobs = loop.jobs
    rows[n, COL.opcode], rows[n, COL.tier_base], rows[n, COL.tier_count] = Opcode.GEMM, jobs[job, JOB.tier], 1
    rows[n, COL.tokens], rows[n, COL.mode], rows[n, COL.param_hold] = jobs[job, JOB.vectors], Mode.REQUANT16, 1
    rows[n, COL.dest_kind] = Dest.COMBINE


@compiled
def _overlaps(first: int, count: int, other: int, many: int) -> bool:
    return first < other + many and other < first + count


@compiled
def _place_scores(sizes: Sizes, loop: Loop, turns: Int64, ops: Int64, op: int) -> bool:
    """Give a block rows, words and, if it is its job's first, scalars, those next in turn, if they are free.

    Returns
    -------
    bool
        Whether they are.
    """
    jobs, state, job, blocks = loop.jobs, loop.state, ops[op, OP.job], loop.pending
    vectors, tier = jobs[job, JOB.vectors], jobs[job, JOB.tier]
    if state[STATE.pending] == len(blocks):
        return False
    count = vectors * ops[op, OP.rows]
    first = turns[TURN.region] if turns[TURN.region] + count <= sizes.region_rows else 0
    for number in range(state[STATE.pending]):
        block = (state[STATE.pending_at] + number) % len(blocks)
        own = blocks[block, BLOCK.rows] * jobs[blocks[block, BLOCK.job], JOB.vectors]
        if _overlaps(first, count, blocks[block, BLOCK.region] - sizes.region_base, own):
            return False
    if ops[op, OP.is_first] or ops[op, OP.is_last]:
        if state[STATE.undivided] + state[STATE.pending] >= len(loop.undivided):
            return False
    if ops[op, OP.is_first] and not jobs[job, JOB.placed]:
        scalar = turns[TURN.scalar] if turns[TURN.scalar] + 2 * vectors <= sizes.scalars else 0
        for other in range(state[STATE.divided], state[STATE.started]):
            if jobs[other, JOB.divided]:
                continue
            if _overlaps(
                scalar, 2 * vectors, jobs[other, JOB.scalar] - sizes.scalar_base, 2 * jobs[other, JOB.vectors]
            ):
                return False
        turns[TURN.scalar] = scalar + 2 * vectors
        jobs[job, JOB.scalar], state[STATE.started] = sizes.scalar_base + scalar, job + 1
        jobs[job, JOB.sums] = jobs[job, JOB.scalar] + vectors
    turns[TURN.region] = first + count
    count = count * sizes.columns // sizes.rows
    words = turns[TURN.words + tier] if turns[TURN.words + tier] + count <= sizes.words else 0
    turns[TURN.words + tier] = words + count
    at = (state[STATE.pending_at] + state[STATE.pending]) % len(blocks)
    blocks[at, BLOCK.region], blocks[at, BLOCK.words] = sizes.region_base + first, sizes.words_base + words
    return True


@compiled
def _scores(sizes: Sizes, loop: Loop, clock: State, rows: Rows, marks: Int64, ops: Int64, op: int) -> None:
    """Emit the scores of a block of keys that has its place; it has to wait for its softmax then."""
    jobs, state, job = loop.jobs, loop.state, ops[op, OP.job]
    n, piece = state[STATE.instructions], JOB.pieces + PIECE * ops[op, OP.piece]
    at, blocks = (state[STATE.pending_at] + state[STATE.pending]) % len(loop.pending), loop.pending
    tall, region = ops[op, OP.rows], blocks[at, BLOCK.region]
    _gemm(loop, job, rows, n)
    rows[n, COL.k_slices], rows[n, COL.n_tiles] = sizes.key_words, tall
    rows[n, COL.vcache_base], rows[n, COL.tag] = jobs[job, piece] + ops[op, OP.key_place], jobs[job, piece + 2]
    rows[n, COL.act_base], rows[n, COL.act_stride] = jobs[job, JOB.query], jobs[job, JOB.query_stride]
    rows[n, COL.shift], rows[n, COL.param_base] = jobs[job, JOB.score_shift], jobs[job, JOB.score_word]
    rows[n, COL.dest_base], rows[n, COL.dest_stride] = region, tall
    marks[n] = jobs[job, JOB.mark] + SCORES
    state[STATE.instructions] = n + 1
    ready = take_gemm(clock, rows, n, max(clock[DONE], jobs[job, piece + 3]))
    state[STATE.pending] += 1
    state[STATE.pending_rows] += tall * jobs[job, JOB.vectors]
    blocks[at, BLOCK.ready], blocks[at, BLOCK.job], blocks[at, BLOCK.maxed] = ready, job, 0
    blocks[at, BLOCK.rows] = tall
    valid = jobs[job, JOB.position] + 1 - ops[op, OP.first]
    blocks[at, BLOCK.valid] = min(valid, MOST_LENGTH - jobs[job, JOB.vectors]) & 0xFFFF
    blocks[at, BLOCK.is_first], blocks[at, BLOCK.is_last] = ops[op, OP.is_first], ops[op, OP.is_last]
    blocks[at, BLOCK.keys], blocks[at, BLOCK.tag] = jobs[job, piece], jobs[job, piece + 2]
    blocks[at, BLOCK.value_tile] = jobs[job, piece + 1] + ops[op, OP.value_place]


@compiled
def _vector(loop: Loop, block: int, rows: Rows, n: int) -> None:
    """Write what the VECTORs that read a block's scores have in common."""
    blocks = loop.pending
    job = blocks[block, BLOCK.job]
    rows[n, COL.opcode], rows[n, COL.vectors] = Opcode.VECTOR, loop.jobs[job, JOB.vectors]
    rows[n, COL.rows], rows[n, COL.a_stride] = blocks[block, BLOCK.rows], blocks[block, BLOCK.rows]
    rows[n, COL.a_base], rows[n, COL.masked] = blocks[block, BLOCK.region], 1
    rows[n, COL.length], rows[n, COL.length_step] = blocks[block, BLOCK.valid], loop.jobs[job, JOB.step]
    rows[n, COL.first], rows[n, COL.s_base] = blocks[block, BLOCK.is_first], loop.jobs[job, JOB.scalar]


@compiled
def _max(loop: Loop, clock: State, rows: Rows, marks: Int64, block: int) -> None:
    """Emit a block's maximum, unless that is done, or the job's block before it still needs the one before."""
    jobs, state, job = loop.jobs, loop.state, loop.pending[block, BLOCK.job]
    if loop.pending[block, BLOCK.maxed] or jobs[job, JOB.maxed]:
        return
    loop.pending[block, BLOCK.maxed], jobs[job, JOB.maxed] = 1, 1
    n = state[STATE.instructions]
    _vector(loop, block, rows, n)
    rows[n, COL.op], rows[n, COL.d_scalar] = VectorOp.MAX, jobs[job, JOB.scalar]
    marks[n] = jobs[job, JOB.mark] + MAX
    take_vector(clock, rows, n, 0)
    state[STATE.instructions] = n + 1


@compiled
def _rescale(sizes: Sizes, loop: Loop, clock: State, rows: Rows, marks: Int64, job: int) -> None:
    """Emit the multiplication of a job's context by what a higher maximum makes of it."""
    jobs, n = loop.jobs, loop.state[STATE.instructions]
    rows[n, COL.opcode], rows[n, COL.op], rows[n, COL.bits] = Opcode.VECTOR, VectorOp.RESCALE, VectorBits.BITS32
    rows[n, COL.vectors], rows[n, COL.rows] = jobs[job, JOB.vectors], sizes.value_rows
    rows[n, COL.a_base], rows[n, COL.a_stride] = jobs[job, JOB.context], jobs[job, JOB.context_stride]
    rows[n, COL.s_base], rows[n, COL.dest_kind] = jobs[job, JOB.scalar], VectorDest.ROWS
    rows[n, COL.dest_base], rows[n, COL.dest_stride] = jobs[job, JOB.context], jobs[job, JOB.context_stride]
    marks[n] = jobs[job, JOB.mark] + RESCALE
    take_vector(clock, rows, n, 0)
    loop.state[STATE.instructions] = n + 1


@compiled
def _softmax(sizes: Sizes, loop: Loop, clock: State, rows: Rows, marks: Int64) -> None:
    """Emit the softmax of the oldest block and what it adds to the context."""
    jobs, state, blocks = loop.jobs, loop.state, loop.pending
    block = state[STATE.pending_at]
    job = blocks[block, BLOCK.job]
    state[STATE.pending_at] = (block + 1) % len(blocks)
    state[STATE.pending] -= 1
    state[STATE.pending_rows] -= blocks[block, BLOCK.rows] * jobs[job, JOB.vectors]
    _max(loop, clock, rows, marks, block)
    for ahead in range(min(sizes.maxima, state[STATE.pending])):
        _max(loop, clock, rows, marks, (block + 1 + ahead) % len(blocks))
    if blocks[block, BLOCK.maxed]:
        jobs[job, JOB.maxed] = 0
    last, n = blocks[block, BLOCK.is_last], state[STATE.instructions]
    words = blocks[block, BLOCK.rows] * sizes.columns // sizes.rows
    _vector(loop, block, rows, n)
    rows[n, COL.op], rows[n, COL.fn], rows[n, COL.sum] = VectorOp.MAP, VectorFn.EXP2, VectorSum.SUM
    if last:
        rows[n, COL.sum], rows[n, COL.imm] = VectorSum.SUM_RECIP, jobs[job, JOB.context_mult]
    rows[n, COL.d_scalar] = jobs[job, JOB.sums]
    rows[n, COL.mult], rows[n, COL.shift], rows[n, COL.bits] = PROBABILITY_MULT, PROBABILITY_SHIFT, VectorBits.BITS8
    rows[n, COL.dest_kind], rows[n, COL.dest_tiers] = VectorDest.ACTIVATION, 1 << jobs[job, JOB.tier]
    rows[n, COL.dest_base], rows[n, COL.dest_stride] = blocks[block, BLOCK.words], words
    marks[n] = jobs[job, JOB.mark] + EXP
    take_vector(clock, rows, n, 0)
    state[STATE.instructions] = n + 1
    if not blocks[block, BLOCK.is_first]:
        _rescale(sizes, loop, clock, rows, marks, job)
    n = state[STATE.instructions]
    _gemm(loop, job, rows, n)
    rows[n, COL.k_slices], rows[n, COL.n_tiles], rows[n, COL.order] = words, sizes.value_rows, Order.N_INNER
    rows[n, COL.vcache_base], rows[n, COL.tag] = blocks[block, BLOCK.value_tile], blocks[block, BLOCK.tag]
    rows[n, COL.act_base], rows[n, COL.act_stride] = blocks[block, BLOCK.words], words
    rows[n, COL.shift], rows[n, COL.param_base] = jobs[job, JOB.value_shift], jobs[job, JOB.context_word]
    rows[n, COL.dest_base], rows[n, COL.dest_stride] = jobs[job, JOB.context], jobs[job, JOB.context_stride]
    rows[n, COL.accumulate] = 1 - blocks[block, BLOCK.is_first]
    marks[n] = jobs[job, JOB.mark] + CONTEXT
    state[STATE.instructions] = n + 1
    ready = take_gemm(clock, rows, n, clock[DONE])
    if last:
        at = (state[STATE.undivided_at] + state[STATE.undivided]) % len(loop.undivided)
        loop.undivided[at, 0], loop.undivided[at, 1] = ready, job
        state[STATE.undivided] += 1


@compiled
def _divide(sizes: Sizes, loop: Loop, clock: State, rows: Rows, marks: Int64) -> None:
    """Emit the division of the oldest context."""
    jobs, state, n = loop.jobs, loop.state, loop.state[STATE.instructions]
    job = loop.undivided[state[STATE.undivided_at], 1]
    state[STATE.undivided_at] = (state[STATE.undivided_at] + 1) % len(loop.undivided)
    state[STATE.undivided] -= 1
    rows[n, COL.opcode], rows[n, COL.op], rows[n, COL.bits] = Opcode.VECTOR, VectorOp.SCALE, VectorBits.BITS8
    rows[n, COL.vectors], rows[n, COL.rows] = jobs[job, JOB.vectors], sizes.value_rows
    rows[n, COL.a_base], rows[n, COL.a_stride] = jobs[job, JOB.context], jobs[job, JOB.context_stride]
    rows[n, COL.s_base], rows[n, COL.shift] = jobs[job, JOB.sums], jobs[job, JOB.context_shift]
    rows[n, COL.dest_kind], rows[n, COL.dest_tiers] = VectorDest.ACTIVATION, jobs[job, JOB.output_tiers]
    rows[n, COL.dest_base], rows[n, COL.dest_stride] = jobs[job, JOB.output], jobs[job, JOB.output_stride]
    marks[n] = jobs[job, JOB.mark] + DIVIDE
    take_vector(clock, rows, n, 0)
    state[STATE.instructions] = n + 1
    jobs[job, JOB.divided] = 1
    while state[STATE.divided] < len(jobs) and jobs[state[STATE.divided], JOB.divided]:
        state[STATE.divided] += 1


@compiled
def _emit_one(sizes: Sizes, loop: Loop, clock: State, rows: Rows, marks: Int64) -> int:
    """Emit what is ready, or else what will be first; return why the loop has to stop, if it has to."""
    state, now = loop.state, clock[FREE]
    some, best, first, chosen = False, now, now, -3
    late = state[STATE.undivided] > loop.state[STATE.delay]
    if state[STATE.undivided]:
        first = 0 if late else loop.undivided[state[STATE.undivided_at], 0]
        some, best, chosen = True, max(first, now), -2
    for chain in range(state[STATE.chains]):
        ready = loop.chains[chain]
        if ready == NEVER:
            continue
        if not some or max(ready, now) < best:
            some, best, first, chosen = True, max(ready, now), ready, chain
    if state[STATE.pending] and not late:
        ready = loop.pending[state[STATE.pending_at], BLOCK.ready]
        if not some or max(ready, now) < best:
            some, best, first, chosen = True, max(ready, now), ready, -1
    if not some:
        return int(STOP.end)
    clock[FREE] = max(now, first)
    if chosen >= 0:
        state[STATE.chosen] = chosen
        return int(STOP.chain)
    if chosen == -2:
        _divide(sizes, loop, clock, rows, marks)
        return int(STOP.behind if state[STATE.divided] >= state[STATE.behind] else STOP.end)
    _softmax(sizes, loop, clock, rows, marks)
    if state[STATE.advancing]:
        state[STATE.advancing] = 0
        loop.due[0] += loop.due[1]
        if loop.due[0] >= 1 and state[STATE.background]:
            return int(STOP.background)
    return int(STOP.end)


@compiled
def _load(sizes: Sizes, loop: Loop, turns: Int64, clock: State, rows: Rows, marks: Int64, ops: Int64, op: int) -> bool:
    """Emit the loads of a piece of keys and values, unless a softmax that is to come needs what lies in its place."""
    jobs, state, job = loop.jobs, loop.state, ops[op, OP.job]
    tier, n, piece = jobs[job, JOB.tier], state[STATE.instructions], JOB.pieces + PIECE * ops[op, OP.piece]
    base = sizes.buffer_base + turns[TURN.buffers + tier] % sizes.buffers * sizes.buffer_tiles
    if not ops[op, OP.again]:
        for number in range(state[STATE.pending]):
            block = (state[STATE.pending_at] + number) % len(loop.pending)
            if jobs[loop.pending[block, BLOCK.job], JOB.tier] == tier and loop.pending[block, BLOCK.keys] == base:
                return False
        turns[TURN.buffers + tier] += 1
        turns[TURN.tag] += 1
        jobs[job, piece], jobs[job, piece + 1] = base, base + ops[op, OP.rows]
        jobs[job, piece + 2] = turns[TURN.tag] % TAGS
    for kind in range(2):
        area = JOB.prefix_group if ops[op, OP.shared] else JOB.group
        where, place, many = jobs[job, area + 1 + kind], ops[op, OP.key_place + 2 * kind], OP.key_tiles + 2 * kind
        rows[n, COL.opcode], rows[n, COL.group] = Opcode.LOAD, jobs[job, area]
        rows[n, COL.format] = Format.BYTES if kind else Format.COLUMNS
        begin = jobs[job, piece + kind] + (ops[op, OP.is_last] if kind else ops[op, OP.is_first])
        rows[n, COL.dest_tiers], rows[n, COL.dest_base] = 1 << tier, begin
        rows[n, COL.count], rows[n, COL.tag] = ops[op, many], jobs[job, piece + 2]
        rows[n, COL.addr] = (where + place * sizes.tile_bytes) // 32
        marks[n] = jobs[job, JOB.key_mark] + (VALUES if kind else KEYS)
        there = take_load(clock, rows, n, clock[FREE])
        if not kind:
            jobs[job, piece + 3] = there
        n += 1
    state[STATE.instructions] = n
    return True


@compiled
def _too_early(loop: Loop, clock: State, ops: Int64, op: int) -> bool:
    """Return whether the keys of a block come later than other work that could go on: the tier would wait for them."""
    state, job = loop.state, ops[op, OP.job]
    there = loop.jobs[job, JOB.pieces + PIECE * ops[op, OP.piece] + 3]
    if there <= clock[FREE]:
        return False
    if state[STATE.pending] and loop.pending[state[STATE.pending_at], BLOCK.ready] < there:
        return True
    if state[STATE.undivided] and loop.undivided[state[STATE.undivided_at], 0] < there:
        return True
    for chain in range(state[STATE.chains]):
        if loop.chains[chain] < there:
            return True
    return False


@compiled
def emit_jobs(
    sizes: Sizes, loop: Loop, turns: Int64, clock: State, rows: Rows, marks: Int64, ops: Int64, until: int
) -> int:
    """Emit until something has to be done that is not done here; return what, one of `STOP`.

    Parameters
    ----------
    sizes, loop
        Of the layer.
    turns : int64 array [TURN.many]
        Where what is used in turn has come to.
    clock : State
        The forecast.
    rows, marks
        The instructions of the step so far and what they are for; those that come are added.
    ops : int64 array [operations, len(OP)]
        With `UNTIL.operated`: what to emit, the jobs' other work between it.
    until : int
        Where the loop's end is: one of `UNTIL`.
    """
    state = loop.state
    while True:
        if state[STATE.instructions] + 16 > len(rows):
            return int(STOP.full)
        if not state[STATE.advancing]:
            if until == UNTIL.operated:
                if state[STATE.op] == len(ops):
                    return int(STOP.end)
                op = state[STATE.op]
                if sizes.patient and ops[op, OP.scores] and _too_early(loop, clock, ops, op):
                    stop = _emit_one(sizes, loop, clock, rows, marks)
                    if stop != STOP.end:
                        return int(stop)
                elif ops[op, OP.scores]:
                    if not _place_scores(sizes, loop, turns, ops, op):
                        stop = _emit_one(sizes, loop, clock, rows, marks)
                        if stop != STOP.end:
                            return int(stop)
                        continue
                    state[STATE.delay] = sizes.delay * sizes.job_vectors // loop.jobs[ops[op, OP.job], JOB.vectors]
                    _scores(sizes, loop, clock, rows, marks, ops, op)
                    state[STATE.op] += 1
                    state[STATE.advancing] = state[STATE.pending_rows] > sizes.ahead
                elif _load(sizes, loop, turns, clock, rows, marks, ops, op):
                    state[STATE.op] += 1
                else:
                    state[STATE.advancing] = 1
                continue
            if until == UNTIL.settled:
                if not state[STATE.pending]:
                    return int(STOP.end)
                state[STATE.advancing] = 1
            elif until == UNTIL.closed and state[STATE.divided] >= state[STATE.close]:
                return int(STOP.end)
            elif until == UNTIL.flushed and not (state[STATE.pending] or state[STATE.undivided] or state[STATE.needed]):
                return int(STOP.end)
        stop = _emit_one(sizes, loop, clock, rows, marks)
        if stop != STOP.end:
            return int(stop)
