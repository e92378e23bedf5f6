# SPDX-License-Identifier: Apache-2.0
"""The load engines: when a LOAD asks for its data, when they are there, when the next one can."""

from __future__ import annotations

from hdl.isa import Format, LoadDest
from scheduler.cost.events import grant, post, slice_of, slot_tokens, take, waits, wake
from scheduler.cost.memory import latency, transfers
from scheduler.cost.state import *
from scheduler.cost.work import load_beats, load_steps, load_words
from scheduler.stream.compiled import compiled
from scheduler.stream.table import COL, Rows


@compiled
def burst_cell(engine: int, number: int) -> int:
    """Return the first cell of a burst of a load engine."""
    return BURST + BURST_WIDTH * (BURST_PLACES * engine + number % BURST_PLACES)


@compiled
def room_at(s: Int, engine: int, beats: int) -> int:
    """Return the first cycle in which a burst that brings the engine's beats to `beats` has room in the skew FIFO."""
    need = beats - s[B.skew_beats]
    if need <= 0:
        return 0
    count = s[UNIT + WIDTH * (s[B.tiers] + engine) + COUNT]
    at = count - 1
    while at > 0 and count - at < BURST_PLACES and s[burst_cell(engine, at - 1) + UP_TO] >= need:
        at -= 1
    e = burst_cell(engine, at)
    return s[e + TAKEN_OUT] - (s[e + UP_TO] - need) + 1


@compiled
def ask(s: Int, n: int, engine: int, earliest: int, beats: int) -> int:
    """Ask for a burst as soon as the engine may; return its first beat's cycle on the bus."""
    x = UNIT + WIDTH * (s[B.tiers] + engine)
    count = s[x + COUNT]
    issue = max(earliest, room_at(s, engine, s[x + BEATS] + beats))
    if count >= s[B.outstanding]:
        issue = max(issue, s[burst_cell(engine, count - s[B.outstanding]) + ENDED])
    asked = issue + s[B.load_request]
    first = asked + latency(s)
    start = max(first, s[BUS0 + engine])
    length = transfers(s, beats)
    if engine == 0 and s[JITTER] and s[FETCHED] > start:  # both come in turns
        shared = min(length, s[FETCHED] - start)
        length += shared
        s[FETCHED] += shared
    s[BUS0 + engine] = start + length
    s[x + COUNT] = count + 1
    s[x + BEATS] += beats
    s[x + SPLIT] = issue
    e = burst_cell(engine, count)
    s[e + ASKED] = asked
    s[e + FIRST_BEAT] = first
    s[e + LENGTH] = length
    s[e + ENDED] = s[BUS0 + engine]
    s[e + UP_TO] = s[x + BEATS]
    s[e + WHOSE] = n
    return start


@compiled
def fetch_data(rows: Rows, s: Int, n: int, low: int, high: int) -> None:
    """Work out when the data of a LOAD come, and when its steps at the data side are if nothing is in their way."""
    form, dest, count = rows[n, COL.format], rows[n, COL.dest_kind], rows[n, COL.count]
    left = load_beats(s[B.tile_bytes], s[B.rows], s[B.columns], s[B.group_bytes], dest, form, count)
    steps = load_steps(s[B.tile_bytes], s[B.rows], s[B.columns], s[B.group_bytes], dest, form, count)
    per = max(1, steps // left)
    x0, x1 = UNIT + WIDTH * (s[B.tiers] + low), UNIT + WIDTH * (s[B.tiers] + high)
    step = max(s[x0 + DATA], s[x1 + DATA])
    issue0, issue1 = s[x0 + SPLIT] + 1, s[x1 + SPLIT] + 1
    first = -1
    while left > 0:
        beats = min(left, s[B.burst_beats])
        start = ask(s, n, low, issue0, beats)
        end = s[BUS0 + low]
        issue0 = s[x0 + SPLIT] + 1
        if high > low:
            start = max(start, ask(s, n, high, issue1, beats))
            end = max(end, s[BUS0 + high])
            issue1 = s[x1 + SPLIT] + 1
        begin = max(step, start + s[B.load_fifo])
        if first < 0:
            first = begin
        step = max(begin + min(beats * per, steps), end + s[B.load_fifo])
        for engine in range(low, high + 1):
            x = UNIT + WIDTH * (s[B.tiers] + engine)
            s[burst_cell(engine, s[x + COUNT] - 1) + TAKEN_OUT] = step - 1
        left -= beats
        steps -= beats * per
    s[x0 + DATA] = step
    s[x1 + DATA] = step
    s[s[NOTES] + NOTE_WIDTH * n + N_TILE0] = first
    s[s[NOTES] + NOTE_WIDTH * n + N_TILES] = step - 1


@compiled
def begin_words(rows: Rows, s: Int, n: int, engine: int) -> None:
    """Let the words of a LOAD be written one by one, as buses and banks permit."""
    w = WORD + 8 * engine
    f = s[NOTES] + NOTE_WIDTH * n
    dest = rows[n, COL.dest_kind]
    s[w + W_NUMBER] = n
    s[w + W_COUNT] = load_words(
        s[B.tile_bytes], s[B.rows], s[B.columns], s[B.group_bytes], dest, rows[n, COL.format], rows[n, COL.count]
    )
    s[w + W_LEFT] = s[w + W_COUNT]
    s[w + W_FIRST] = s[f + N_TILE0]
    s[w + W_LAST] = s[f + N_TILES]
    s[w + W_AT] = s[f + N_TILE0] + 1
    s[w + W_KIND] = TO_COMBINE if dest == LoadDest.ROWS else TO_LISTS if dest == LoadDest.LIST else TO_TIERS
    s[w + W_WHERE] = rows[n, COL.dest_base] if dest == LoadDest.ROWS else rows[n, COL.dest_tiers]
    s[WORDS_AT] = min(s[WORDS_AT], s[w + W_AT])
    s[C_NEXT] = min(s[C_NEXT], s[w + W_AT])


@compiled
def finish_load(rows: Rows, s: Int, n: int, engine: int, done: int, now: int) -> None:
    """End a LOAD whose last word leaves in a cycle: tiles are known to come, and the semaphores are posted."""
    high = 1 if rows[n, COL.format] == Format.PAIR else engine
    for e in range(engine, high + 1):
        s[slice_of(rows, s, n, s[B.tiers] + e) + S_END] = done + 1
    f = s[NOTES] + NOTE_WIDTH * n
    s[f + N_DONE] = done
    if rows[n, COL.dest_kind] == LoadDest.VCACHE:
        s[f + N_BEGUN] = now
        for tier in range(s[B.tiers]):
            if s[UNIT + WIDTH * tier + PARKED] == n + 1:
                wake(s, tier, now)
    post(rows, s, engine, n, done + 1)


@compiled
def settle_loads(rows: Rows, s: Int, now: int) -> None:
    """Let the LOADs that have asked for their data go on at the data side, in order, as far as that is known."""
    moved = True
    while moved:
        moved = False
        for engine in range(2):
            x = UNIT + WIDTH * (s[B.tiers] + engine)
            if s[x + OPEN] == s[x + OPENED] or s[WORD + 8 * engine + W_NUMBER] >= 0:
                continue
            n = s[OPENS + OPEN_PLACES * engine + s[x + OPEN] % OPEN_PLACES]
            pair = rows[n, COL.format] == Format.PAIR
            free = s[x + BUSY]
            if pair:
                y = UNIT + WIDTH * (s[B.tiers] + 1 - engine)
                at = OPENS + OPEN_PLACES * (1 - engine) + s[y + OPEN] % OPEN_PLACES
                if s[WORD + 8 * (1 - engine) + W_NUMBER] >= 0 or s[y + OPEN] == s[y + OPENED] or s[at] != n:
                    continue
                free = max(free, s[y + BUSY])
                s[y + OPEN] += 1
            s[x + OPEN] += 1
            moved = True
            f = s[NOTES] + NOTE_WIDTH * n
            late = max(0, free - s[f + N_TILE0])
            s[f + N_TILE0] += late
            dest, form, count = rows[n, COL.dest_kind], rows[n, COL.format], rows[n, COL.count]
            empty = slot_tokens(rows, s, n, 1) == 0
            if not empty:
                steps = load_steps(s[B.tile_bytes], s[B.rows], s[B.columns], s[B.group_bytes], dest, form, count)
                s[f + N_TILES] = max(s[f + N_TILES], s[f + N_TILE0] + steps - 1)
            last = s[f + N_TILES]
            if dest != LoadDest.VCACHE and not empty:
                begin_words(rows, s, n, engine)
                continue
            s[x + BUSY] = last + 1
            if pair:
                s[UNIT + WIDTH * (s[B.tiers] + 1 - engine) + BUSY] = last + 1
            if not empty:
                # From steps to the last words of the first and of the last tile.
                s[f + N_TILE0] = min(last, s[f + N_TILE0] + max(1, (last + 1 - s[f + N_TILE0]) // count) - 1) + 1
            s[f + N_TILES] = last + 1
            finish_load(rows, s, n, 0 if pair else engine, last + 1, now)


@compiled
def word_leaves(rows: Rows, s: Int, engine: int, now: int) -> bool:
    """A word leaves in this cycle; return whether it is the last one of its LOAD."""
    w = WORD + 8 * engine
    s[w + W_LEFT] -= 1
    if s[w + W_LEFT]:
        place = s[w + W_COUNT] - s[w + W_LEFT]
        nominal = s[w + W_FIRST] + (s[w + W_LAST] - s[w + W_FIRST]) * place // (s[w + W_COUNT] - 1) + 1
        s[w + W_AT] = max(now + 1, nominal)
        s[w + W_WHERE] += s[w + W_KIND] == TO_COMBINE
        return False
    n = s[w + W_NUMBER]
    s[w + W_NUMBER] = -1
    s[w + W_AT] = NEVER
    s[UNIT + WIDTH * (s[B.tiers] + engine) + BUSY] = now
    finish_load(rows, s, n, engine, now, now)
    settle_loads(rows, s, now)
    return True


@compiled
def begin_load(rows: Rows, s: Int, n: int, engine: int, start: int, now: int) -> None:
    """Begin a LOAD: from `start` on, and when the load before has asked for all its data, it asks for its own."""
    tiers = s[B.tiers]
    high = 1 if rows[n, COL.format] == Format.PAIR else engine
    empty = slot_tokens(rows, s, n, 1) == 0
    form, dest, count = rows[n, COL.format], rows[n, COL.dest_kind], rows[n, COL.count]
    beats = load_beats(s[B.tile_bytes], s[B.rows], s[B.columns], s[B.group_bytes], dest, form, count)
    begun = 0
    for e in range(engine, high + 1):
        x = UNIT + WIDTH * (tiers + e)
        s[x + SPLIT] = max(start, s[x + SPLIT])
        begun = max(begun, s[x + SPLIT])
        s[x + FREE] = s[x + SPLIT]
        s[x + HELD] = -1
        at = slice_of(rows, s, n, tiers + e)
        s[at + S_GRANT] = now
        s[at + S_BEGIN] = s[x + SPLIT]
        s[at + S_WORK] = 0 if empty else beats
        wake(s, tiers + e, max(now, s[x + SPLIT]))
        s[OPENS + OPEN_PLACES * e + s[x + OPENED] % OPEN_PLACES] = n
        s[x + OPENED] += 1
    if empty:
        f = s[NOTES] + NOTE_WIDTH * n
        at = max(s[UNIT + WIDTH * (tiers + engine) + DATA], s[UNIT + WIDTH * (tiers + high) + DATA])
        s[f + N_TILE0] = max(at, begun + s[B.load_fifo])
        s[f + N_TILES] = s[f + N_TILE0]
    else:
        fetch_data(rows, s, n, engine, high)
    settle_loads(rows, s, now)


@compiled
def load_step(rows: Rows, s: Int, engine: int, now: int) -> None:
    """Let a load engine go on: one instruction is decoded, one waits for semaphores and its partner."""
    unit = s[B.tiers] + engine
    s[TIME + unit] = NEVER
    x = UNIT + WIDTH * unit
    for _ in range(2):
        if s[x + NEXT_OP] < 0 and s[x + OPENED] - s[x + OPEN] < OPEN_PLACES - 2:
            n = take(rows, s, unit, now)
            if n >= 0:
                s[x + NEXT_OP] = n
                s[x + NEXT_SINCE] = now + 1
                s[slice_of(rows, s, n, unit) + S_TAKE] = now
        if s[x + NEXT_OP] < 0 or s[x + HELD] >= 0:
            break
        at = max(s[x + NEXT_SINCE], s[x + FREE])
        if now < at:
            wake(s, unit, at)
            break
        s[x + HELD] = s[x + NEXT_OP]
        s[x + VALID] = now + 1
        s[x + NEXT_OP] = -1
        wake(s, unit, now + 1)
    n = s[x + HELD]
    if n < 0:
        return
    if now < s[x + VALID]:
        wake(s, unit, s[x + VALID])
        return
    start = now
    if rows[n, COL.format] == Format.PAIR:
        partner = UNIT + WIDTH * (s[B.tiers] + 1 - engine)
        if s[partner + HELD] != n:
            return
        if now < s[partner + VALID]:
            wake(s, s[B.tiers], s[partner + VALID])
            return
        if engine == 1:
            wake(s, s[B.tiers], now)
            return
        start = now + 1
    if waits(rows, n):
        if not grant(rows, s, unit, n, now):
            return
        start = now + 1
    if rows[n, COL.slot_en]:
        start += s[B.load_slot]
    begin_load(rows, s, n, engine, start, now)
