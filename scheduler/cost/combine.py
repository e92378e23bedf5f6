# SPDX-License-Identifier: Apache-2.0
"""Result bus, banks of the combine buffer, and who asks for them: cycle by cycle, as long as anyone does."""

from __future__ import annotations

from hdl.isa import VectorOp
from scheduler.cost.events import post, wake
from scheduler.cost.state import (
    ACTS, ADD, ADDS, AHEAD, AVAIL, A_AT, B, BANK, BLOCKED, B_AT, COMBINE, CREDITS, CYCLE, C_BROWS, C_NEXT, C_OP, C_TIME,
    C_WATCH, DROP, ELEMENT, ENDS, FINISH, FINISHED, HEAD, ISSUING, Int, JOB, KIND, LEFT, LIVE, MASK, NEVER, NOTE_WIDTH,
    NOTES, N_DONE, OUTPUT, OUTPUT_PLACES, OUT_COUNT, OUT_HEAD, PARKED, PENDING, PENDING_AT, PHASE, REQUEST, RESULTS, ROW,
    ROWS_LEFT, STEP, STORE_TURN, S_NUMBER, S_READ, S_ROW, TABLE, TURN, UNIT, VECTOR, WHICH, WIDTH, WRITES, WRITTEN, WORD, W_AT, W_KIND, TO_COMBINE, TO_LISTS, LIST_OWNER, W_WHERE, ROW_OWNER, UNIT_OWNER, LANE_TURN, LOAD_TURN,
)
from scheduler.cost.loads import word_leaves
from scheduler.cost.stores import store_row
from scheduler.cost.tiers import next_run
from scheduler.cost.vector import A, THIRD, accept_row, finish_job, start_vector
from scheduler.stream.compiled import compiled
from scheduler.stream.table import Rows


@compiled
def request_row(s: Int) -> int:
    """Return the row that the vector unit's running job asks for."""
    phase = s[PHASE]
    if phase == A:
        # The rows of GATHER depend on data.
        return s[A_AT] + (5 * s[ELEMENT] + 3 * s[VECTOR] if s[C_OP] == VectorOp.GATHER else s[ROW])
    small = s[C_OP] == VectorOp.ROTATE and s[C_BROWS] <= 2
    return s[B_AT] + (s[TABLE] if small else s[ROW] % s[C_BROWS]) + (s[C_BROWS] if phase == THIRD else 0)


@compiled
def give_credit(s: Int, tier: int, now: int) -> bool:
    """A row of a tier is off its FIFO: let the operation that waits for that go on; return whether there is one."""
    found = False
    for low in range(tier + 1):
        x = UNIT + WIDTH * low
        if s[x + PARKED] == -1:
            s[x + CYCLE] = max(s[x + CYCLE], now + s[B.credit])
            wake(s, low, now + 1)
            found = True
    return found


@compiled
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


@compiled
def combine_run(rows: Rows, s: Int, until: int) -> None:
    """Advance bus, banks, vector unit and the store's reads up to a cycle, or until something else has to act."""
    tiers, lanes = s[B.tiers], s[B.lanes]
    bank_mask = lanes - 1
    now, limit = s[C_NEXT], until
    while now < limit:
        if now > s[C_TIME]:
            s[WRITES] = s[RESULTS] if now == s[C_TIME] + 1 else 0
            s[RESULTS] = 0
            s[ADDS] = 0
            s[ACTS] = 0
        after = now + 1
        soon = NEVER
        results, adds, writes, acts = s[RESULTS], s[ADDS], s[WRITES], s[ACTS]

        # Jobs of the vector unit that are complete, in order.
        for place in range(2):
            job = JOB + 16 * (s[WHICH] ^ 1 ^ place)
            if s[job + FINISH] < NEVER and not (place and s[JOB + 16 * (s[WHICH] ^ 1) + LIVE]):
                at = max(s[job + FINISH], s[FINISHED])
                if at <= now:
                    finish_job(rows, s, job, now)
                    limit = min(limit, after)
                    soon = after
                else:
                    soon = min(soon, at)

        store_bank, vector_bank = -1, -1
        if s[S_NUMBER] >= 0:
            if s[S_READ] <= now:
                store_bank = s[S_ROW] & bank_mask
            else:
                soon = min(soon, s[S_READ])
        if s[ISSUING]:
            if s[REQUEST] > now:
                soon = min(soon, s[REQUEST])
            elif not s[BLOCKED] and s[CREDITS] > 0:
                vector_bank = request_row(s) & bank_mask
        store_goes = store_bank >= 0 and not results >> store_bank & 1
        vector_goes = vector_bank >= 0 and not adds >> vector_bank & 1
        if store_goes and vector_bank == store_bank:
            turn = s[STORE_TURN] >> store_bank & 1
            s[STORE_TURN] ^= 1 << store_bank
            if turn:
                vector_goes = False
            else:
                store_goes = False

        # Words of loads: rows of the combine buffer, and words for the tiers, one of each a cycle for both engines.
        loads_to, lane_tiers = -1, 0
        unit, row, entry = -1, -1, -1
        for engine in range(2):
            w = WORD + 8 * engine
            if s[w] >= 0:
                if s[w + W_AT] > now:
                    soon = min(soon, s[w + W_AT])
                elif s[w + W_KIND] == TO_COMBINE:
                    row = engine if row < 0 else 1 - s[ROW_OWNER]
                elif s[w + W_KIND] == TO_LISTS:
                    entry = engine if entry < 0 else 1 - s[LIST_OWNER]
                else:
                    unit = engine if unit < 0 else 1 - s[UNIT_OWNER]
        if entry >= 0:
            soon = after
            s[LIST_OWNER] = entry
        if row >= 0:
            soon = after
            s[ROW_OWNER] = row
            loads_to = s[WORD + 8 * row + W_WHERE] & bank_mask
            if writes >> loads_to & 1:
                loads_to = -1
        if unit >= 0:
            soon = after
            s[UNIT_OWNER] = unit
            lane_tiers = s[WORD + 8 * unit + W_WHERE]
            if lane_tiers & acts:
                lane_tiers = 0

        starts = s[PENDING] >= 0 and not s[ISSUING] and not s[JOB + 16 * (s[WHICH] ^ 1) + LIVE]
        # Results of the vector unit.
        if s[OUT_COUNT]:
            e = OUTPUT + 3 * s[OUT_HEAD]
            if s[e] <= now:
                dest = s[e + 1]
                free = not (writes >> dest & 1 if dest >= 0 else -dest & acts)
                if free and dest >= 0 and loads_to == dest:
                    free = not s[LOAD_TURN] >> dest & 1
                    s[LOAD_TURN] ^= 1 << dest
                    loads_to = -1 if free else loads_to
                elif free and dest < 0 and lane_tiers:
                    free = s[LANE_TURN] != 0
                    s[LANE_TURN] ^= 1
                    lane_tiers = 0 if free else lane_tiers
                if free:
                    job = JOB + 16 * s[e + 2]
                    s[OUT_HEAD] = (s[OUT_HEAD] + 1) % OUTPUT_PLACES
                    s[OUT_COUNT] -= 1
                    s[CREDITS] += 1
                    s[job + ROWS_LEFT] -= 1
                    if s[job + ROWS_LEFT] == 0:
                        s[job + FINISH] = max(now, s[job + WRITTEN]) + 1
                soon = after
            else:
                soon = min(soon, s[e])
        if loads_to >= 0 and word_leaves(rows, s, row, now):
            limit = min(limit, after)
        if lane_tiers and word_leaves(rows, s, unit, now):
            limit = min(limit, after)
        if entry >= 0 and word_leaves(rows, s, entry, now):
            limit = min(limit, after)
        if store_bank >= 0:
            soon = after
            if store_goes:
                store_row(rows, s, now)
                if s[S_NUMBER] < 0:
                    limit = min(limit, after)
        if vector_bank >= 0:
            soon = after
            if vector_goes:
                accept_row(rows, s, now)
        if starts:
            if s[PENDING_AT] <= now:
                if s[FINISHED] - 1 <= now:
                    start_vector(rows, s, now)
                    limit = min(limit, after)
                soon = after
            else:
                soon = min(soon, s[PENDING_AT])

        waiting = NEVER
        for tier in range(tiers):
            waiting = min(waiting, s[HEAD + 16 * tier + AVAIL])
        if waiting <= now:
            limit = move_rows(rows, s, now, limit)
            for tier in range(tiers):
                soon = min(soon, max(after, s[HEAD + 16 * tier + AVAIL]))
        else:
            soon = min(soon, waiting)
            s[WRITES] = results
            s[RESULTS] = 0
            s[ADDS] = 0
            s[ACTS] = 0
        s[C_TIME] = after
        now = max(after, soon)
        s[C_NEXT] = now if soon < NEVER else NEVER
        if soon == NEVER:
            return
