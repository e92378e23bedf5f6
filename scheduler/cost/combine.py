# SPDX-License-Identifier: Apache-2.0
"""Result bus, banks of the combine buffer, and who asks for them: cycle by cycle, as long as anyone does."""

from __future__ import annotations

from hdl.isa import VectorOp
from scheduler.cost.events import post, wake
from scheduler.cost.state import (
    FINISH_AT, OFFER_LIST, OFFER_ROW, OFFER_TIERS, W_NUMBER, NEEDS,
    ACTS, ADD, ADDS, AHEAD, AVAIL, A_AT, B, BANK, BLOCKED, B_AT, COMBINE, CREDITS, CYCLE, C_BROWS, C_NEXT, C_OP, C_TIME,
    C_WATCH, DROP, ELEMENT, ENDS, FINISH, FINISHED, HEAD, ISSUING, Int, JOB, KIND, LEFT, LIVE, MASK, NEVER, NOTE_WIDTH,
    NOTES, N_DONE, OUTPUT, OUTPUT_PLACES, OUT_COUNT, OUT_HEAD, PARKED, PENDING, PENDING_AT, PHASE, REQUEST, RESULTS, ROW,
    ROWS_LEFT, STEP, STORE_TURN, S_NUMBER, S_READ, S_ROW, TABLE, TURN, UNIT, VECTOR, WHICH, WIDTH, WRITES, WRITTEN, WORD, W_AT, W_KIND, TO_COMBINE, TO_LISTS, LIST_OWNER, W_WHERE, ROW_OWNER, UNIT_OWNER, LANE_TURN, LOAD_TURN,
)
from scheduler.cost.loads import word_leaves
from scheduler.cost.stores import store_row
from scheduler.cost.tiers import next_run
from scheduler.cost.vector import A, THIRD, accept_row, finish_job, start_vector
from scheduler.stream.compiled import compiled, inlined
from scheduler.stream.table import Rows


@inlined
def request_row(s: Int) -> int:
    """Return the row that the vector unit's running job asks for."""
    phase = s[PHASE]
    if phase == A:
        # The rows of GATHER depend on data.
        return s[A_AT] + (5 * s[ELEMENT] + 3 * s[VECTOR] if s[C_OP] == VectorOp.GATHER else s[ROW])
    small = s[C_OP] == VectorOp.ROTATE and s[C_BROWS] <= 2
    return s[B_AT] + (s[TABLE] if small else s[ROW] % s[C_BROWS]) + (s[C_BROWS] if phase == THIRD else 0)


@inlined
def give_credit(s: Int, tier: int, now: int) -> bool:
    """A row of a tier is off its FIFO: let an operation that waits for room go on; return whether there is one.

    It does so when there is room for some rows at once: one by one would take long, and the FIFO is full meanwhile.
    """
    found = False
    room = s[B.row_fifo] - s[HEAD + 16 * tier + AHEAD]
    for low in range(tier + 1):
        x = UNIT + WIDTH * low
        if s[x + PARKED] == -1:
            if room >= s[x + NEEDS]:
                # The last of them goes when this place is known to be free.
                s[x + CYCLE] = max(s[x + CYCLE], now + s[B.credit] - (s[x + NEEDS] - 1))
                wake(s, low, now + 1)
                found = True
    return found


@inlined
def move_rows(rows: Rows, s: Int, now: int, limit: int) -> int:
    """Move result rows over the bus in one cycle; return the cycle before which nothing else needs to know."""
    tiers, lanes = s[B.tiers], s[B.lanes]
    banks, adds, acts, used = 0, 0, 0, 0
    posted = False
    loser, winner = -1, -1
    tier = s[TURN]
    for _ in range(tiers):
        h = HEAD + 16 * tier
        if s[h + AVAIL] <= now:
            kind = s[h + KIND]
            ends = s[h + ENDS] if s[h + LEFT] == 1 else -1
            bit = 1 << s[h + BANK]
            if (kind != DROP and used == lanes) or (ends >= 0 and posted):
                free = False
            elif kind == COMBINE:
                free = not banks & bit
            else:
                free = kind == DROP or not acts & s[h + MASK]
            if free:
                if kind == COMBINE:
                    banks |= bit
                    used += 1
                    if s[h + ADD]:
                        adds |= bit
                elif kind != DROP:
                    acts |= s[h + MASK]
                    used += 1
                if winner < 0:
                    winner = tier
                s[h + AHEAD] -= 1
                if ends >= 0:
                    posted = True
                    s[s[NOTES] + NOTE_WIDTH * ends + N_DONE] = now
                    post(rows, s, 4, ends, now + s[B.post])
                    limit = min(limit, now + s[B.post])
                s[h + LEFT] -= 1
                if s[h + LEFT]:
                    s[h + AVAIL] = now + 1
                    bank = s[h + BANK] + s[h + STEP]
                    s[h + BANK] = bank - lanes if bank >= lanes else bank
                else:
                    s[C_TIME] = now + 1
                    next_run(s, tier)
                if s[C_WATCH] and give_credit(s, tier, now):
                    limit = min(limit, now + 1)
            elif loser < 0:
                loser = tier
        tier = tier + 1 if tier + 1 < tiers else 0
    if loser >= 0:
        s[TURN] = loser
    elif winner >= 0:
        s[TURN] = winner + 1 if winner + 1 < tiers else 0
    s[WRITES] = s[RESULTS]
    s[RESULTS] = banks
    s[ADDS] = adds
    s[ACTS] = acts
    return limit


@inlined
def turn_over(s: Int, now: int) -> None:
    """Clear what the result bus moved before the cycle before."""
    s[WRITES] = s[RESULTS] if now == s[C_TIME] + 1 else 0
    s[RESULTS] = 0
    s[ADDS] = 0
    s[ACTS] = 0


@compiled
def finish_jobs(rows: Rows, s: Int, now: int) -> bool:
    """End jobs of the vector unit that are complete, in order; return whether there was one."""
    done = False
    s[FINISH_AT] = NEVER
    for place in range(2):
        older = s[WHICH] ^ 1
        job = JOB + 16 * (older ^ place)
        if s[job + FINISH] < NEVER and not (place and s[JOB + 16 * older + LIVE]):
            at = max(s[job + FINISH], s[FINISHED])
            if at <= now and not done:
                finish_job(rows, s, job, now)
                done = True
            else:
                s[FINISH_AT] = min(s[FINISH_AT], max(at, now + 1))
    return done


@compiled
def offer_words(s: Int, now: int) -> None:
    """Find the words of loads that could leave in this cycle: one for the tiers, one row, one list entry."""
    s[OFFER_TIERS] = -1
    s[OFFER_ROW] = -1
    s[OFFER_LIST] = -1
    for engine in range(2):
        w = WORD + 8 * engine
        if s[w + W_NUMBER] < 0 or s[w + W_AT] > now:
            continue
        if s[w + W_KIND] == TO_COMBINE:
            s[OFFER_ROW] = engine if s[OFFER_ROW] < 0 else 1 - s[ROW_OWNER]
        elif s[w + W_KIND] == TO_LISTS:
            s[OFFER_LIST] = engine if s[OFFER_LIST] < 0 else 1 - s[LIST_OWNER]
        else:
            s[OFFER_TIERS] = engine if s[OFFER_TIERS] < 0 else 1 - s[UNIT_OWNER]
    if s[OFFER_ROW] >= 0:
        s[ROW_OWNER] = s[OFFER_ROW]
        if s[WRITES] >> s[WORD + 8 * s[OFFER_ROW] + W_WHERE] % s[B.lanes] & 1:
            s[OFFER_ROW] = -1
    if s[OFFER_LIST] >= 0:
        s[LIST_OWNER] = s[OFFER_LIST]
    if s[OFFER_TIERS] >= 0:
        s[UNIT_OWNER] = s[OFFER_TIERS]
        if s[WORD + 8 * s[OFFER_TIERS] + W_WHERE] & s[ACTS]:
            s[OFFER_TIERS] = -1


@compiled
def move_words(rows: Rows, s: Int, now: int) -> bool:
    """Let the words that are left of those leave; return whether a LOAD is complete with that."""
    done = False
    if s[OFFER_ROW] >= 0:
        done |= word_leaves(rows, s, s[OFFER_ROW], now)
    if s[OFFER_TIERS] >= 0:
        done |= word_leaves(rows, s, s[OFFER_TIERS], now)
    if s[OFFER_LIST] >= 0:
        done |= word_leaves(rows, s, s[OFFER_LIST], now)
    s[OFFER_TIERS] = -1
    s[OFFER_ROW] = -1
    return done


@inlined
def write_result(s: Int, now: int) -> None:
    """Write the vector unit's oldest result row, if its bank or its tiers are free."""
    e = OUTPUT + 3 * s[OUT_HEAD]
    dest = s[e + 1]
    if dest >= 0:
        if s[WRITES] >> dest & 1:
            return
        if s[OFFER_ROW] >= 0 and s[WORD + 8 * s[OFFER_ROW] + W_WHERE] % s[B.lanes] == dest:
            loads_turn = s[LOAD_TURN] >> dest & 1
            s[LOAD_TURN] ^= 1 << dest
            if loads_turn:
                return
            s[OFFER_ROW] = -1
    else:
        if -dest & s[ACTS]:
            return
        if s[OFFER_TIERS] >= 0:
            mine = s[LANE_TURN]
            s[LANE_TURN] ^= 1
            if not mine:
                return
            s[OFFER_TIERS] = -1
    job = JOB + 16 * s[e + 2]
    s[OUT_HEAD] = (s[OUT_HEAD] + 1) % OUTPUT_PLACES
    s[OUT_COUNT] -= 1
    s[CREDITS] += 1
    s[job + ROWS_LEFT] -= 1
    if s[job + ROWS_LEFT] == 0:
        s[job + FINISH] = max(now, s[job + WRITTEN]) + 1
        s[FINISH_AT] = min(s[FINISH_AT], s[job + FINISH])


@compiled
def combine_run(rows: Rows, s: Int, until: int) -> None:
    """Advance bus, banks, vector unit and the store's reads up to a cycle, or until something else has to act."""
    tiers, lanes = s[B.tiers], s[B.lanes]
    now, limit = s[C_NEXT], until
    while now < limit:
        if now > s[C_TIME]:
            turn_over(s, now)
        after = now + 1
        if s[FINISH_AT] <= now and finish_jobs(rows, s, now):
            limit = min(limit, after)
        results = s[RESULTS]

        # Who asks for rows of the banks; the store and the vector unit take turns.
        store_bank = s[S_ROW] % lanes if s[S_READ] <= now else -1
        vector_bank = -1
        if s[REQUEST] <= now and not s[BLOCKED] and s[CREDITS] > 0:
            vector_bank = request_row(s) % lanes
        store_goes = store_bank >= 0 and not results >> store_bank & 1
        vector_goes = vector_bank >= 0 and not s[ADDS] >> vector_bank & 1
        if store_goes and vector_bank == store_bank:
            turn = s[STORE_TURN] >> store_bank & 1
            s[STORE_TURN] ^= 1 << store_bank
            vector_goes = vector_goes and not turn
            store_goes = turn != 0
        starts = s[PENDING_AT] <= now and not s[ISSUING] and not s[JOB + 16 * (s[WHICH] ^ 1) + LIVE]

        # Who writes rows and words.
        words = s[WORD + W_AT] <= now or s[WORD + 8 + W_AT] <= now
        if words:
            offer_words(s, now)
        if s[OUT_COUNT] and s[OUTPUT + 3 * s[OUT_HEAD]] <= now:
            write_result(s, now)
        if words and move_words(rows, s, now):
            limit = min(limit, after)
        if store_goes:
            store_row(rows, s, now)
            if s[S_NUMBER] < 0:
                limit = min(limit, after)
        if vector_goes:
            accept_row(rows, s, now)
        if starts and s[FINISHED] - 1 <= now:
            start_vector(rows, s, now)
            limit = min(limit, after)

        # Result rows, which the banks see in the next cycle.
        waiting = NEVER
        for tier in range(tiers):
            waiting = min(waiting, s[HEAD + 16 * tier + AVAIL])
        if waiting <= now:
            limit = move_rows(rows, s, now, limit)
            waiting = NEVER
            for tier in range(tiers):
                waiting = min(waiting, s[HEAD + 16 * tier + AVAIL])
        elif results or s[ACTS]:
            turn_over(s, after)
        else:
            s[WRITES] = 0
        s[C_TIME] = after

        soon = min(waiting, s[FINISH_AT], s[S_READ], s[WORD + W_AT], s[WORD + 8 + W_AT])
        if s[OUT_COUNT]:
            soon = min(soon, s[OUTPUT + 3 * s[OUT_HEAD]])
        if not s[BLOCKED] and s[CREDITS] > 0:
            soon = min(soon, s[REQUEST])
        if not s[ISSUING] and not s[JOB + 16 * (s[WHICH] ^ 1) + LIVE]:
            soon = min(soon, max(s[PENDING_AT], s[FINISHED] - 1))
        if soon == NEVER:
            s[C_NEXT] = NEVER
            return
        now = max(after, soon)
        s[C_NEXT] = now
