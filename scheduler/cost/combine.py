# SPDX-License-Identifier: Apache-2.0
"""Result bus, banks of the combine buffer, and who asks for them: cycle by cycle, as long as anyone does."""

from __future__ import annotations

from scheduler.cost.events import post, wake
from scheduler.cost.load_data import word_leaves
from scheduler.cost.load_end import TO_LISTS, TO_ROWS
from scheduler.cost.state import AT, HEAD, JOB, NEVER, NOTE, OUTPUTS, RECORD, WORDS, B, C, H, Int, J, M, N, U, W
from scheduler.cost.stores import store_row
from scheduler.cost.vector import finish_jobs, start_vector
from scheduler.cost.vector_rows import accept_row, may_ask, request_row
from scheduler.cost.waves import PORT_ADD, PORT_BANK, PORT_TIERS, PORT_WRITE, next_run
from scheduler.stream.compiled import compiled, inlined
from scheduler.stream.table import Rows

__all__ = ["combine_run"]

_COLLECTOR = 4
"""Source of the posts."""


@inlined
def give_credit(s: Int, tier: int, now: int) -> bool:
    """A row of a tier has moved: let an operation that waits for room go on; return whether there is one.

    It goes on when there is room for some rows at once: one by one would take long, and the FIFO is full meanwhile.
    """
    found = False
    room = s[B.row_fifo_depth] - s[AT.head + HEAD * tier + H.ahead]
    for low in range(tier + 1):
        x = AT.unit + RECORD * low
        if s[x + U.parked] == -1 and room >= s[x + U.needs]:
            # The last of them goes when its place is known to be free.
            s[x + U.cycle] = max(s[x + U.cycle], now + s[B.credit] - (s[x + U.needs] - 1))
            wake(s, low, now + 1)
            found = True
    return found


@inlined
def next_bank(s: Int, ports: int, step: int) -> int:
    """Return the ports that a row needs `step` banks after another one."""
    lanes = s[B.result_lanes]
    ports <<= step
    over = ports & ((1 << lanes) - 1) << lanes | ports & ((1 << lanes) - 1) << (lanes + PORT_ADD)
    return int(ports ^ over | over >> lanes)


@inlined
def move_rows(rows: Rows, s: Int, now: int, limit: int) -> int:
    """Move result rows over the bus in one cycle; return the cycle before which nobody else needs to know."""
    tiers, lanes = s[B.tiers], s[B.result_lanes]
    taken, used, posted = 0, 0, False
    loser, winner = -1, -1
    tier, at = s[C.turn], NEVER
    for _ in range(tiers):
        h = AT.head + HEAD * tier
        if s[h + H.at] <= now:
            ports, left = s[h + H.ports], s[h + H.left]
            ends = s[h + H.ends] if left == 1 else -1
            if ports & taken or (ports and used == lanes) or (ends >= 0 and posted):
                if loser < 0:
                    loser = tier
            else:
                taken |= ports
                if ports:
                    used += 1
                if winner < 0:
                    winner = tier
                s[h + H.ahead] -= 1
                if ends >= 0:
                    posted = True
                    s[s[M.notes] + NOTE * ends + N.done] = now
                    post(rows, s, _COLLECTOR, ends, now + s[B.post])
                    limit = min(limit, now + s[B.post])
                if left > 1:
                    s[h + H.left] = left - 1
                    s[h + H.at] = now + 1
                    if s[h + H.step] and ports >> PORT_TIERS == 0:
                        s[h + H.ports] = next_bank(s, ports, s[h + H.step])
                else:
                    next_run(s, tier, now + 1)
                if s[M.parked] and give_credit(s, tier, now):
                    limit = min(limit, now + 1)
        at = min(at, max(s[h + H.at], now + 1))
        tier = tier + 1 if tier + 1 < tiers else 0
    if loser >= 0:
        s[C.turn] = loser
    elif winner >= 0:
        s[C.turn] = winner + 1 if winner + 1 < tiers else 0
    s[C.rows_at] = at
    s[C.ports] = taken | (s[C.ports] >> PORT_BANK & 255) << PORT_WRITE
    return limit


@compiled
def offer_words(s: Int, now: int) -> None:
    """Find the words of loads that could leave in this cycle: one for the tiers, one row, one list entry."""
    s[C.word_offer] = -1
    s[C.row_offer] = -1
    s[C.list_offer] = -1
    for engine in range(2):  # in turns, when both have one
        w = AT.word + WORDS * engine
        if s[w + W.at] > now:
            continue
        if s[w + W.kind] == TO_ROWS:
            s[C.row_offer] = engine if s[C.row_offer] < 0 else 1 - s[C.rows_from]
        elif s[w + W.kind] == TO_LISTS:
            s[C.list_offer] = engine if s[C.list_offer] < 0 else 1 - s[C.lists_from]
        else:
            s[C.word_offer] = engine if s[C.word_offer] < 0 else 1 - s[C.words_from]
    if s[C.row_offer] >= 0:
        s[C.rows_from] = s[C.row_offer]
        if s[C.ports] >> (PORT_WRITE + s[AT.word + WORDS * s[C.row_offer] + W.where] % s[B.result_lanes]) & 1:
            s[C.row_offer] = -1
    if s[C.list_offer] >= 0:
        s[C.lists_from] = s[C.list_offer]
    if s[C.word_offer] >= 0:
        s[C.words_from] = s[C.word_offer]
        if s[AT.word + WORDS * s[C.word_offer] + W.where] << PORT_TIERS & s[C.ports]:
            s[C.word_offer] = -1


@compiled
def gives_way(s: Int, ports: int) -> bool:
    """Return whether a result of the vector unit gives way to a load's word for the same place; they take turns."""
    if ports >> PORT_TIERS == 0:
        row = s[C.row_offer]
        if row < 0 or ports != 1 << (PORT_WRITE + s[AT.word + WORDS * row + W.where] % s[B.result_lanes]):
            return False
        mine = s[C.load_turn] & ports == 0
        s[C.load_turn] ^= ports
        if mine:
            s[C.row_offer] = -1
        return not mine
    if s[C.word_offer] < 0:
        return False
    mine = s[C.tiers_turn] != 0
    s[C.tiers_turn] ^= 1
    if mine:
        s[C.word_offer] = -1
    return not mine


@compiled
def move_words(rows: Rows, s: Int, now: int) -> bool:
    """Let the words leave that are still offered; return whether a LOAD is complete with that."""
    done = False
    for offer in (s[C.row_offer], s[C.word_offer], s[C.list_offer]):
        if offer >= 0 and word_leaves(rows, s, offer, now):
            done = True
    s[C.words_at] = max(now + 1, min(s[AT.word + W.at], s[AT.word + WORDS + W.at]))
    return done


@inlined
def write_result(s: Int, now: int, words: bool) -> None:
    """Write the vector unit's oldest result, if its bank or its tiers are free."""
    e = AT.output + 3 * s[C.output_head]
    if s[e + 1] & s[C.ports] or (words and gives_way(s, s[e + 1])):
        return
    job = AT.job + JOB * s[e + 2]
    s[C.output_head] = (s[C.output_head] + 1) % OUTPUTS
    s[C.outputs] -= 1
    s[C.output_at] = s[AT.output + 3 * s[C.output_head]] if s[C.outputs] else NEVER
    s[C.credits] += 1
    if s[C.credits] == 1:
        may_ask(s)
    s[job + J.rows_left] -= 1
    if s[job + J.rows_left] == 0:
        s[job + J.finish] = max(now, s[job + J.written]) + s[B.vector_done]
        s[C.finish_at] = min(s[C.finish_at], s[job + J.finish])


@compiled
def combine_run(rows: Rows, s: Int, until: int) -> None:
    """Advance bus, banks, vector unit and the store's reads up to a cycle, or until somebody else has to act."""
    last_lane = s[B.result_lanes] - 1
    now, limit = s[C.next], until
    while now < limit:
        if now > s[C.time]:
            s[C.ports] = (s[C.ports] >> PORT_BANK & 255) << PORT_WRITE if now == s[C.time] + 1 else 0
        if s[C.finish_at] <= now and finish_jobs(rows, s, now):
            limit = min(limit, now + 1)
        ports = s[C.ports]

        # Who reads rows; where both want a bank, the store and the vector unit take turns.
        store_goes, vector_goes = False, False
        if s[C.read_at] <= now:
            store_goes = not ports >> (PORT_BANK + (s[C.store_row] & last_lane)) & 1
        if s[C.ask_at] <= now:
            bank = request_row(s) & last_lane
            vector_goes = not ports >> (PORT_ADD + bank) & 1
            if store_goes and s[C.store_row] & last_lane == bank:
                store_goes = s[C.store_turn] >> bank & 1 != 0
                vector_goes = vector_goes and not store_goes
                s[C.store_turn] ^= 1 << bank
        starts = s[C.start_at] <= now

        # Who writes rows and words.
        words = s[C.words_at] <= now
        if words:
            offer_words(s, now)
        if s[C.output_at] <= now:
            write_result(s, now, words)
        if words and move_words(rows, s, now):
            limit = min(limit, now + 1)
        if store_goes:
            store_row(rows, s, now)
            if s[C.store] < 0:
                limit = min(limit, now + 1)
        if vector_goes:
            accept_row(rows, s, now)
        if starts:
            start_vector(rows, s, now)
            limit = min(limit, now + 1)

        # Result rows, which the banks see in the next cycle.
        if s[C.rows_at] <= now:
            limit = move_rows(rows, s, now, limit)
        else:
            s[C.ports] = (ports >> PORT_BANK & 255) << PORT_WRITE
        s[C.time] = now + 1
        now = max(
            now + 1,
            min(
                s[C.rows_at], s[C.finish_at], s[C.read_at], s[C.words_at], s[C.output_at], s[C.ask_at], s[C.start_at]
            ),
        )  # fmt: skip
        s[C.next] = now
