# SPDX-License-Identifier: Apache-2.0
"""The store unit: when a STORE reads its rows, when its beats go and their responses come."""

from __future__ import annotations

from hdl.config import ADDRESS_UNIT
from hdl.isa import StoreFormat
from scheduler.cost.events import grant, post, slice_of, take, waits, wake
from scheduler.cost.hbm.cells import K
from scheduler.cost.hbm.channel import WRITES
from scheduler.cost.hbm.requests import add_request, store_cell
from scheduler.cost.memory import latency, transfers
from scheduler.cost.state import AT, NEVER, NOTE, RECORD, REPLIES, TAKEN_ROWS, B, C, Int, M, N, S, U
from scheduler.stream.compiled import compiled
from scheduler.stream.table import COL, Rows

__all__ = ["answer_writes", "store_row", "store_step"]

_STORE = 2
"""Source of the posts."""


@compiled
def answer_writes(rows: Rows, s: Int) -> None:
    """With HBM: end the stores whose last response is known, in order."""
    h = s[M.hbm]
    while s[h + K.stores_first] < s[h + K.stores_next]:
        e = store_cell(s, s[h + K.stores_first])
        if s[e + 1] == NEVER:
            return
        n, answered = s[e], s[e + 1]
        s[h + K.stores_first] += 1
        s[slice_of(rows, s, n, s[B.tiers] + 2) + S.end] = answered + 1
        s[s[M.notes] + NOTE * n + N.done] = answered
        post(rows, s, _STORE, n, max(answered + s[B.store_post], s[h + K.now]))


@compiled
def ask_to_write(rows: Rows, s: Int, n: int, beats: int, cycle: int, ends: bool) -> None:
    """With HBM: add beats to a store's burst, the first of which the memory takes in a cycle; whole ones go their way.

    Parameters
    ----------
    ends : bool
        They are the last of what lies side by side: the last ones of the store, or a row's.
    """
    h, group = s[M.hbm], rows[n, COL.group]
    last_row = s[C.store_left] == 0
    for beat in range(beats):
        s[h + K.write_beats] += 1
        last = ends and beat == beats - 1
        if last or (s[h + K.write_beat] + s[h + K.write_beats]) % s[B.burst_beats] == 0:
            tag = n if last and last_row else -1
            add_request(s, group, WRITES, cycle + beat, s[h + K.write_beat], s[h + K.write_beats], tag)
            s[h + K.responses] += 1
            s[h + K.write_beat] += s[h + K.write_beats]
            s[h + K.write_beats] = 0
    if ends and not last_row:
        width = s[B.columns] << rows[n, COL.format]
        row = s[C.store_count] * (1 + rows[n, COL.addr_gap]) * width  # `store_count` is that of the next row
        s[h + K.write_beat] = (ADDRESS_UNIT * rows[n, COL.addr] + rows[n, COL.offset] + row) // s[B.group_bytes]


@compiled
def finish_store(rows: Rows, s: Int, n: int, beat: int, answered: int) -> None:
    """End a store: its last beat goes out in a cycle, its last response comes in another one."""
    unit = s[B.tiers] + 2
    s[C.store] = -1
    s[C.read_at] = NEVER
    s[AT.unit + RECORD * unit + U.busy] = beat + s[B.store_next]
    wake(s, unit, beat + s[B.store_next])
    if s[M.hbm]:
        h = s[M.hbm]
        e = store_cell(s, s[h + K.stores_next])
        s[e], s[e + 1] = n, answered if s[C.discards] else NEVER
        s[h + K.stores_next] += 1
        answer_writes(rows, s)
        return
    s[slice_of(rows, s, n, unit) + S.end] = answered + 1
    s[s[M.notes] + NOTE * n + N.done] = answered
    post(rows, s, _STORE, n, answered + s[B.store_post])


@compiled
def write_row(rows: Rows, s: Int, taken: int, count: int, last: bool) -> int:
    """Send a row that was taken as a beat (or several, or a part of one); return when the response comes.

    `C.store_taken` is then when the row was taken: the beat may have had to wait for its address.
    """
    s[C.store_taken] = taken
    asked = s[C.store_start] + s[B.store_request]
    if s[C.store_apart]:  # a burst a row, and as many on their way as there are places for
        asked += count
        if count >= s[B.tracker] and not s[M.hbm]:
            asked = max(asked, s[AT.reply + (count - s[B.tracker]) % REPLIES] + 1)
    s[C.store_place] += 1
    if not (last or s[C.store_apart] or s[C.store_place] == s[C.store_places]):
        return 0
    s[C.store_place] = 0
    start = max(taken + s[B.store_beat], asked + 1, s[C.store_beat])
    s[C.store_beat] = start + transfers(s, s[C.store_pace])
    if s[M.hbm]:
        cycle = max(start + s[B.write], asked + s[B.write] + 2)
        ask_to_write(rows, s, s[C.store], s[C.store_pace], cycle, last or s[C.store_apart] != 0)
        s[C.store_taken] = max(taken, s[C.store_beat] - 1 - s[C.store_pace] - 1)
        return 0
    beat = s[C.store_beat] - 1
    s[C.store_taken] = max(taken, beat - s[C.store_pace] - 1)
    answered = max(beat + s[B.write], asked + s[B.write] + 2) + latency(s)
    s[AT.reply + count % REPLIES] = answered
    return int(answered)


@compiled
def store_row(rows: Rows, s: Int, now: int) -> None:
    """Read a row of the store that runs: when does it leave, and when can the next one be read?"""
    n, count = s[C.store], s[C.store_count]
    if s[M.hbm] and s[s[M.hbm] + K.responses] >= s[B.tracker] and not s[C.discards]:
        s[C.read_at] = now + 1  # as many are on their way as there are places for
        return
    s[C.store_count] = count + 1
    s[C.store_left] -= 1
    s[C.store_row] += s[C.store_step]
    last = s[C.store_left] == 0
    taken = now + s[B.store_row]
    if count:
        taken = max(taken, s[C.store_taken] + s[C.store_pace])
    if s[C.discards]:
        s[C.store_taken] = taken
        if last:
            finish_store(rows, s, n, taken, taken + s[B.discard])
            return
    else:
        answered = write_row(rows, s, taken, count, last)
        if last:
            finish_store(rows, s, n, s[C.store_beat] - 1, answered)
            return
    # Rows are read ahead as far as there is room for them.
    s[AT.taken + count % TAKEN_ROWS] = s[C.store_taken]
    s[C.read_at] = now + 1
    if count >= TAKEN_ROWS - 1:
        s[C.read_at] = max(now + 1, s[AT.taken + (count + 1) % TAKEN_ROWS] + 1)


@compiled
def start_store(rows: Rows, s: Int, n: int, now: int) -> None:
    """Start a store."""
    form = rows[n, COL.format]
    discards = form == StoreFormat.DISCARD
    width = s[B.group_bytes] if discards else s[B.columns] << form
    s[C.store] = n
    s[C.store_start] = now
    s[C.store_left] = rows[n, COL.rows]
    s[C.store_row] = rows[n, COL.row_base]
    s[C.store_step] = 1 + rows[n, COL.row_gap]
    s[C.store_count] = 0
    s[C.store_taken] = 0
    s[C.store_beat] = 0
    s[C.store_pace] = max(1, width // s[B.group_bytes])
    s[C.store_places] = max(1, s[B.group_bytes] // width)
    s[C.store_apart] = rows[n, COL.addr_gap] != 0
    s[C.store_place] = (ADDRESS_UNIT * rows[n, COL.addr] + rows[n, COL.offset]) // width % s[C.store_places]
    s[C.discards] = discards
    if s[M.hbm]:
        h = s[M.hbm]
        s[h + K.write_beat] = (ADDRESS_UNIT * rows[n, COL.addr] + rows[n, COL.offset]) // s[B.group_bytes]
        s[h + K.write_beats] = 0
    s[C.read_at] = now + s[B.store_read]
    s[C.next] = min(s[C.next], s[C.read_at])
    at = slice_of(rows, s, n, s[B.tiers] + 2)
    s[at + S.start] = now
    s[at + S.work] = rows[n, COL.rows]


@compiled
def store_step(rows: Rows, s: Int, now: int) -> None:
    """Let the store unit go on: take and check an instruction, wait for semaphores and for the store before."""
    unit = s[B.tiers] + 2
    s[AT.time + unit] = NEVER
    x = AT.unit + RECORD * unit
    if s[x + U.held] < 0:
        if s[x + U.free] > now:
            wake(s, unit, s[x + U.free])
            return
        n = take(rows, s, unit, now)
        if n < 0:
            return
        s[x + U.held] = n
        s[x + U.granted] = 0
        s[x + U.valid] = now + s[B.store_check]
        if rows[n, COL.addr_gap] and rows[n, COL.format] != StoreFormat.DISCARD:
            left = rows[n, COL.rows] - 1
            while left:  # how far it reaches is added up bit by bit
                s[x + U.valid] += 1
                left >>= 1
        s[slice_of(rows, s, n, unit) + S.taken] = now
    n = s[x + U.held]
    if now < s[x + U.valid]:
        wake(s, unit, s[x + U.valid])
        return
    if not s[x + U.granted]:
        if waits(rows, n):
            if not grant(rows, s, unit, n, now):
                return
            s[x + U.valid] = now + s[B.granted] + s[B.store_grant]
        s[x + U.granted] = 1
        at = slice_of(rows, s, n, unit)
        s[at + S.granted] = max(now, s[x + U.valid] - s[B.store_grant])
        s[at + S.ready] = s[x + U.valid]
    if s[C.store] >= 0:
        return  # woken when the store that runs ends
    at = max(s[x + U.valid], s[x + U.busy])
    if now < at:
        wake(s, unit, at)
        return
    start_store(rows, s, n, now)
    s[x + U.held] = -1
    s[x + U.free] = now + 1
    wake(s, unit, now + 1)
