# SPDX-License-Identifier: Apache-2.0
"""Result bus, banks of the combine buffer, and who asks for them: cycle by cycle, as long as anyone does."""

from __future__ import annotations

from hdl.isa import VectorOp
from scheduler.cost.events import post, wake
from scheduler.cost.loads import word_leaves
from scheduler.cost.state import *
from scheduler.cost.stores import store_row
from scheduler.cost.tiers import next_run
from scheduler.cost.vector import A, THIRD, accept_row, finish_job, may_ask, start_vector
from scheduler.stream.compiled import compiled, inlined
from scheduler.stream.table import Rows


@inlined
def lanes_mask(lanes: int) -> int:
    """Return as many ones as there are banks."""
    return (1 << lanes) - 1


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
    taken, used = 0, 0
    posted = False
    loser, winner = -1, -1
    tier, at = s[TURN], NEVER
    for _ in range(tiers):
        h = HEAD + 16 * tier
        if s[h + AVAIL] <= now:
            need, left = s[h + NEED], s[h + LEFT]
            ends = s[h + ENDS] if left == 1 else -1
            if need & taken or (need and used == lanes) or (ends >= 0 and posted):
                if loser < 0:
                    loser = tier
            else:
                taken |= need
                if need:
                    used += 1
                if winner < 0:
                    winner = tier
                s[h + AHEAD] -= 1
                if ends >= 0:
                    posted = True
                    s[s[NOTES] + NOTE_WIDTH * ends + N_DONE] = now
                    post(rows, s, 4, ends, now + s[B.post])
                    limit = min(limit, now + s[B.post])
                if left > 1:
                    s[h + LEFT] = left - 1
                    s[h + AVAIL] = now + 1
                    if s[h + STEP] and need >> TIERS == 0:
                        # The next bank, in both of the ports.
                        need <<= s[h + STEP]
                        over = need & ((lanes_mask(lanes) << ADDS | lanes_mask(lanes)) << lanes)
                        s[h + NEED] = need ^ over | over >> lanes
                else:
                    next_run(s, tier, now + 1)
                if s[C_WATCH] and give_credit(s, tier, now):
                    limit = min(limit, now + 1)
        at = min(at, max(s[h + AVAIL], now + 1))
        tier = tier + 1 if tier + 1 < tiers else 0
    if loser >= 0:
        s[TURN] = loser
    elif winner >= 0:
        s[TURN] = winner + 1 if winner + 1 < tiers else 0
    s[ROWS_AT] = at
    s[PORTS] = taken | (s[PORTS] >> BANK & 255) << WRITE
    return limit


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
        if s[PORTS] >> (WRITE + s[WORD + 8 * s[OFFER_ROW] + W_WHERE] % s[B.lanes]) & 1:
            s[OFFER_ROW] = -1
    if s[OFFER_LIST] >= 0:
        s[LIST_OWNER] = s[OFFER_LIST]
    if s[OFFER_TIERS] >= 0:
        s[UNIT_OWNER] = s[OFFER_TIERS]
        if s[WORD + 8 * s[OFFER_TIERS] + W_WHERE] << TIERS & s[PORTS]:
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
    s[WORDS_AT] = max(now + 1, min(s[WORD + W_AT], s[WORD + 8 + W_AT]))
    return done


@compiled
def gives_way(s: Int, dest: int) -> bool:
    """Return whether the vector unit's result gives way to a word of a load for the same place; they take turns."""
    if dest >> TIERS == 0:
        row = s[OFFER_ROW]
        if row < 0 or dest != 1 << (WRITE + s[WORD + 8 * row + W_WHERE] % s[B.lanes]):
            return False
        mine = s[LOAD_TURN] & dest == 0
        s[LOAD_TURN] ^= dest
        if mine:
            s[OFFER_ROW] = -1
        return not mine
    if s[OFFER_TIERS] < 0:
        return False
    mine = s[LANE_TURN] != 0
    s[LANE_TURN] ^= 1
    if mine:
        s[OFFER_TIERS] = -1
    return not mine


@compiled
def combine_run(rows: Rows, s: Int, until: int) -> None:
    """Advance bus, banks, vector unit and the store's reads up to a cycle, or until something else has to act."""
    last_lane = s[B.lanes] - 1
    now, limit = s[C_NEXT], until
    while now < limit:
        if now > s[C_TIME]:
            s[PORTS] = (s[PORTS] >> BANK & 255) << WRITE if now == s[C_TIME] + 1 else 0
        after = now + 1
        if s[FINISH_AT] <= now and finish_jobs(rows, s, now):
            limit = min(limit, after)
        ports = s[PORTS]

        # Who asks for rows of the banks; the store and the vector unit take turns.
        store_goes, vector_goes = False, False
        if s[S_READ] <= now:
            store_goes = not ports >> (BANK + (s[S_ROW] & last_lane)) & 1
        if s[ASK_AT] <= now:
            bank = request_row(s) & last_lane
            vector_goes = not ports >> (ADDS + bank) & 1
            if store_goes and s[S_ROW] & last_lane == bank:
                store_goes = s[STORE_TURN] >> bank & 1 != 0
                vector_goes = vector_goes and not store_goes
                s[STORE_TURN] ^= 1 << bank
        starts = s[START_AT] <= now

        # Who writes rows and words.
        words = s[WORDS_AT] <= now
        if words:
            offer_words(s, now)
        if s[OUT_AT] <= now:
            e = OUTPUT + 3 * s[OUT_HEAD]
            if not s[e + 1] & ports and not (words and gives_way(s, s[e + 1])):
                job = JOB + 16 * s[e + 2]
                s[OUT_HEAD] = (s[OUT_HEAD] + 1) % OUTPUT_PLACES
                s[OUT_COUNT] -= 1
                s[OUT_AT] = s[OUTPUT + 3 * s[OUT_HEAD]] if s[OUT_COUNT] else NEVER
                s[CREDITS] += 1
                if s[CREDITS] == 1:
                    may_ask(s)
                s[job + ROWS_LEFT] -= 1
                if s[job + ROWS_LEFT] == 0:
                    s[job + FINISH] = max(now, s[job + WRITTEN]) + 1
                    s[FINISH_AT] = min(s[FINISH_AT], s[job + FINISH])
        if words and move_words(rows, s, now):
            limit = min(limit, after)
        if store_goes:
            store_row(rows, s, now)
            if s[S_NUMBER] < 0:
                limit = min(limit, after)
        if vector_goes:
            accept_row(rows, s, now)
        if starts:
            start_vector(rows, s, now)
            limit = min(limit, after)

        # Result rows, which the banks see in the next cycle.
        if s[ROWS_AT] <= now:
            limit = move_rows(rows, s, now, limit)
        else:
            s[PORTS] = (ports >> BANK & 255) << WRITE
        s[C_TIME] = after
        now = min(s[ROWS_AT], s[FINISH_AT], s[S_READ], s[WORDS_AT], s[OUT_AT], s[ASK_AT], s[START_AT])
        if now < after:
            now = after
        s[C_NEXT] = now
