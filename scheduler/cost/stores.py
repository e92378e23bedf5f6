# SPDX-License-Identifier: Apache-2.0
"""The store unit: when a STORE reads its rows, when its beats and their responses come."""

from __future__ import annotations

from hdl.isa import StoreFormat
from scheduler.cost.events import grant, post, slice_of, take, waits, wake
from scheduler.cost.memory import latency, transfers
from scheduler.cost.state import *
from scheduler.stream.compiled import compiled
from scheduler.stream.table import COL, Rows


@compiled
def finish_store(rows: Rows, s: Int, n: int, beat: int, answered: int) -> None:
    """End a store whose last beat goes out in a cycle, and whose last response comes in another."""
    unit = s[B.tiers] + 2
    s[S_NUMBER] = -1
    s[S_READ] = NEVER
    s[UNIT + WIDTH * unit + BUSY] = beat + 1
    wake(s, unit, beat + 1)
    s[slice_of(rows, s, n, unit) + S_END] = answered + 1
    s[s[NOTES] + NOTE_WIDTH * n + N_DONE] = answered
    post(rows, s, 3 - 1, n, answered + 1)


@compiled
def store_row(rows: Rows, s: Int, now: int) -> None:
    """Read a row of the store that runs: when does it leave, and when can the next one be read?"""
    n, count = s[S_NUMBER], s[S_COUNT]
    s[S_COUNT] = count + 1
    s[S_LEFT] -= 1
    s[S_ROW] += s[S_STEP]
    last = s[S_LEFT] == 0
    taken = now + s[B.store_row]
    if count:
        taken = max(taken, s[S_TAKEN] + s[S_PACE])
    if s[S_DISCARD]:
        s[S_TAKEN] = taken
        if last:
            finish_store(rows, s, n, taken, taken + 2)
            return
    else:
        asked = s[S_START] + 2
        if s[S_APART]:
            asked += count
            if count >= s[B.tracker]:
                asked = max(asked, s[REPLY + (count - s[B.tracker]) % 128] + 1)
        s[S_PLACE] += 1
        if last or s[S_APART] or s[S_PLACE] == s[S_PLACES]:
            s[S_PLACE] = 0
            s[S_BEAT] = max(taken + 2, asked + 1, s[S_BEAT]) + transfers(s, s[S_PACE])
            beat = s[S_BEAT] - 1
            taken = max(taken, beat - 1 - s[S_PACE])
            answered = max(beat + 1, asked + 3) + latency(s)
            s[REPLY + count % 128] = answered
            if last:
                finish_store(rows, s, n, beat, answered)
                return
        s[S_TAKEN] = taken
    s[REPLY + 128 + count % 8] = taken
    s[S_READ] = now + 1
    if count >= 7:
        s[S_READ] = max(now + 1, s[REPLY + 128 + (count - 7) % 8] + 1)


@compiled
def start_store(rows: Rows, s: Int, n: int, now: int) -> None:
    """Start a store."""
    form = rows[n, COL.format]
    s[S_NUMBER] = n
    s[S_START] = now
    s[S_LEFT] = rows[n, COL.rows]
    s[S_ROW] = rows[n, COL.row_base]
    s[S_STEP] = 1 + rows[n, COL.row_gap]
    s[S_READ] = now + 1
    s[S_COUNT] = 0
    s[S_TAKEN] = 0
    s[S_BEAT] = 0
    s[S_PLACE] = 0
    s[S_DISCARD] = form == StoreFormat.DISCARD
    s[S_APART] = rows[n, COL.addr_gap] != 0
    width = s[B.columns] << form if form != StoreFormat.DISCARD else s[B.group_bytes]
    s[S_PACE] = max(1, width // s[B.group_bytes])
    s[S_PLACES] = max(1, s[B.group_bytes] // width)
    if form != StoreFormat.DISCARD:
        s[S_PLACE] = (32 * rows[n, COL.addr] + rows[n, COL.offset]) // width % s[S_PLACES]
    at = slice_of(rows, s, n, s[B.tiers] + 2)
    s[at + S_BEGIN] = now
    s[at + S_WORK] = rows[n, COL.rows]
    s[C_NEXT] = min(s[C_NEXT], now + 1)


@compiled
def store_step(rows: Rows, s: Int, now: int) -> None:
    """Let the store unit go on: take and check an instruction, wait for semaphores and for the store before."""
    unit = s[B.tiers] + 2
    s[TIME + unit] = NEVER
    x = UNIT + WIDTH * unit
    if s[x + HELD] < 0:
        if s[x + FREE] > now:
            wake(s, unit, s[x + FREE])
            return
        n = take(rows, s, unit, now)
        if n < 0:
            return
        s[x + HELD] = n
        s[x + TAKEN] = now
        extent = 0
        if rows[n, COL.addr_gap] and rows[n, COL.format] != StoreFormat.DISCARD:
            left = rows[n, COL.rows] - 1
            while left:
                extent += 1
                left >>= 1
        s[x + VALID] = now + s[B.store_check] + extent
        s[x + GRANT] = 0
        s[slice_of(rows, s, n, unit) + S_TAKE] = now
    n = s[x + HELD]
    if now < s[x + VALID]:
        wake(s, unit, s[x + VALID])
        return
    if not s[x + GRANT]:
        if waits(rows, n):
            if not grant(rows, s, unit, n, now):
                return
            s[x + VALID] = now + 1
        s[x + GRANT] = 1
        s[slice_of(rows, s, n, unit) + S_GRANT] = now
    at = max(s[x + VALID], s[x + BUSY])
    if s[S_NUMBER] >= 0:
        return  # woken when the store that runs ends
    if now < at:
        wake(s, unit, at)
        return
    start_store(rows, s, n, now)
    s[x + HELD] = -1
    s[x + FREE] = now + 1
    wake(s, unit, now + 1)
