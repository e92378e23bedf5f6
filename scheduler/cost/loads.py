# SPDX-License-Identifier: Apache-2.0
"""The load engines: when a LOAD asks for its data, when they are there, when the next one can."""

from __future__ import annotations

from hdl.isa import Format, LoadDest
from scheduler.cost.events import grant, post, slice_of, slot_tokens, take, waits, wake
from scheduler.cost.fetch import read_burst
from scheduler.cost.state import (
    B, BEATS, BURST, BURST_PLACES, COUNT, DATA, FREE, GRANT, HELD, HISTORY0, Int, NEVER, NEXT_OP, NEXT_SINCE, NOTE_WIDTH,
    NOTES, N_BEGUN, N_DONE, N_TILE0, N_TILES, PARKED, SPLIT, S_BEGIN, S_END, S_GRANT, S_TAKE, S_WORK, TIME, UNIT, VALID,
    WIDTH,
)
from scheduler.cost.work import load_beats, load_steps
from scheduler.stream.compiled import compiled
from scheduler.stream.table import COL, Rows

# Cells of a burst.
ASKED, ENDED, TAKEN_OUT, UP_TO = range(4)


@compiled
def room_at(s: Int, engine: int, beats: int) -> int:
    """Return the first cycle in which a burst that brings the engine's beats to `beats` has room in the skew FIFO."""
    need = beats - s[B.skew_beats]
    if need <= 0:
        return 0
    x = UNIT + WIDTH * (s[B.tiers] + engine)
    base = BURST + 4 * BURST_PLACES * engine
    at = s[x + COUNT] - 1
    while at > 0 and s[x + COUNT] - at < BURST_PLACES and s[base + 4 * ((at - 1) % BURST_PLACES) + UP_TO] >= need:
        at -= 1
    e = base + 4 * (at % BURST_PLACES)
    return s[e + TAKEN_OUT] - (s[e + UP_TO] - need) + 1


@compiled
def ask(s: Int, engine: int, earliest: int, beats: int) -> int:
    """Ask for a burst as soon as the engine may; return its first beat's cycle on the bus."""
    x = UNIT + WIDTH * (s[B.tiers] + engine)
    base = BURST + 4 * BURST_PLACES * engine
    count = s[x + COUNT]
    issue = max(earliest, room_at(s, engine, s[x + BEATS] + beats))
    if count >= s[B.outstanding]:
        issue = max(issue, s[base + 4 * ((count - s[B.outstanding]) % BURST_PLACES) + ENDED] + 1)
    start = read_burst(s, engine, issue + s[B.load_request], beats)
    e = base + 4 * (count % BURST_PLACES)
    s[x + COUNT] = count + 1
    s[x + BEATS] += beats
    s[x + SPLIT] = issue
    s[e + ASKED] = issue + s[B.load_request]
    s[e + ENDED] = start + beats - 1
    s[e + UP_TO] = s[x + BEATS]
    if engine == 0:
        s[HISTORY0] = count + 1
    return start


@compiled
def fetch_data(rows: Rows, s: Int, n: int, low: int, high: int) -> int:
    """Work out when the data of a LOAD come; return the cycle in which its first step is at the data side.

    `DATA` of the engines is the cycle after the last step then.
    """
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
        start = ask(s, low, issue0, beats)
        issue0 = s[x0 + SPLIT] + 1
        if high > low:
            start = max(start, ask(s, high, issue1, beats))
            issue1 = s[x1 + SPLIT] + 1
        begin = max(step, start + s[B.load_fifo])
        if first < 0:
            first = begin
        step = max(begin + beats * per, start + beats + s[B.load_fifo])
        for engine in range(low, high + 1):
            x = UNIT + WIDTH * (s[B.tiers] + engine)
            s[BURST + 4 * (BURST_PLACES * engine + (s[x + COUNT] - 1) % BURST_PLACES) + TAKEN_OUT] = step - 1
        left -= beats
    s[x0 + DATA] = step
    s[x1 + DATA] = step
    return first


@compiled
def begin_load(rows: Rows, s: Int, n: int, engine: int, start: int, now: int) -> None:
    """Begin a LOAD: from `start` on, and when the load before has asked for all its data, it asks for its own."""
    tiers = s[B.tiers]
    pair = rows[n, COL.format] == Format.PAIR
    high = 1 if pair else engine
    empty = slot_tokens(rows, s, n, 1) == 0
    form, dest, count = rows[n, COL.format], rows[n, COL.dest_kind], rows[n, COL.count]
    beats = load_beats(s[B.tile_bytes], s[B.rows], s[B.columns], s[B.group_bytes], dest, form, count)
    begun = 0
    for e in range(engine, high + 1):
        x = UNIT + WIDTH * (tiers + e)
        s[x + SPLIT] = max(start, s[x + SPLIT])
        begun = max(begun, s[x + SPLIT])
        s[x + GRANT] = n
        at = slice_of(rows, s, n, tiers + e)
        s[at + S_GRANT] = now
        s[at + S_BEGIN] = s[x + SPLIT]
        s[at + S_WORK] = 0 if empty else beats
        wake(s, tiers + e, max(now + 1, s[x + SPLIT]))
    x = UNIT + WIDTH * (tiers + engine)
    if empty:
        first = max(s[x + DATA], s[UNIT + WIDTH * (tiers + high) + DATA], begun + s[B.load_fifo])
        s[x + DATA] = first + 1
        s[UNIT + WIDTH * (tiers + high) + DATA] = first + 1
    else:
        first = fetch_data(rows, s, n, engine, high)
    done = s[x + DATA]  # the last word leaves
    for e in range(engine, high + 1):
        s[UNIT + WIDTH * (tiers + e) + HELD] = -1
        s[slice_of(rows, s, n, tiers + e) + S_END] = done + 1
    f = s[NOTES] + NOTE_WIDTH * n
    s[f + N_DONE] = done
    if dest == LoadDest.VCACHE:
        s[f + N_BEGUN] = now
        s[f + N_TILE0] = min(done, first + max(1, beats // count))
        s[f + N_TILES] = done
        for tier in range(tiers):
            if s[UNIT + WIDTH * tier + PARKED] == n + 1:
                wake(s, tier, now)
    post(rows, s, engine, n, done + 1)


@compiled
def load_step(rows: Rows, s: Int, engine: int, now: int) -> None:
    """Let a load engine go on: one instruction is decoded, one waits for semaphores and its partner."""
    unit = s[B.tiers] + engine
    s[TIME + unit] = NEVER
    x = UNIT + WIDTH * unit
    for _ in range(2):
        if s[x + NEXT_OP] < 0:
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
    for e in range(2):
        y = UNIT + WIDTH * (s[B.tiers] + e)
        if s[y + GRANT] == n:
            s[y + FREE] = s[slice_of(rows, s, n, s[B.tiers] + e) + S_BEGIN]
