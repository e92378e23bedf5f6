# SPDX-License-Identifier: Apache-2.0
"""The load engines' front: decoding, semaphores, partners, bursts ahead of the data."""

from __future__ import annotations

from hdl.isa import Format
from scheduler.cost.events import (
    PARTED,
    grant,
    high_alone,
    is_pair,
    left_out,
    note_order,
    slice_of,
    slot_expert,
    take,
    waits,
    wake,
)
from scheduler.cost.hbm.loads import asks, begin_asking, take_bursts
from scheduler.cost.load_data import settle_loads
from scheduler.cost.memory import latency, transfers
from scheduler.cost.state import AT, BURST, BURSTS, NEVER, NOTE, OPEN_LOADS, RANGES, RECORD, B, Int, M, N, S, U
from scheduler.cost.work import load_beats, load_steps
from scheduler.stream.compiled import compiled
from scheduler.stream.table import COL, Rows

__all__ = ["load_step"]


@compiled
def burst_cell(engine: int, number: int) -> int:
    """Return the first cell of a burst of a load engine."""
    return AT.burst + 8 * (BURSTS * engine + number % BURSTS)


@compiled
def room_at(s: Int, engine: int, beats: int) -> int:
    """Return the first cycle in which a burst that brings the engine's beats to `beats` has room in the skew FIFO."""
    need = beats - s[B.skew_fifo_beats]
    if need <= 0:
        return 0
    count = s[AT.unit + RECORD * (s[B.tiers] + engine) + U.bursts]
    at = count - 1
    while at > 0 and count - at < BURSTS and s[burst_cell(engine, at - 1) + BURST.beats] >= need:
        at -= 1
    e = burst_cell(engine, at)
    return int(s[e + BURST.taken] - (s[e + BURST.beats] - need) + 1)


@compiled
def request(s: Int, n: int, engine: int, earliest: int, beats: int) -> int:
    """Ask for a burst as soon as the engine may; return its first beat's cycle on the bus."""
    x = AT.unit + RECORD * (s[B.tiers] + engine)
    count = s[x + U.bursts]
    issue = max(earliest, room_at(s, engine, s[x + U.beats] + beats))
    if count >= s[B.outstanding_bursts]:
        issue = max(issue, s[burst_cell(engine, count - s[B.outstanding_bursts]) + BURST.end])
    asked = issue + s[B.load_request]
    first = asked + latency(s)
    start = max(first, s[M.bus + engine])
    cycles = transfers(s, beats)
    if engine == 0 and s[M.jitter] and s[M.fetched] > start:
        # Memories that reorder send data and instructions in turns.
        shared = min(cycles, s[M.fetched] - start)
        cycles += shared
        s[M.fetched] += shared
    s[M.bus + engine] = start + cycles
    s[x + U.bursts] = count + 1
    s[x + U.beats] += beats
    s[x + U.issued] = issue
    e = burst_cell(engine, count)
    s[e + BURST.asked] = asked
    s[e + BURST.first] = first
    s[e + BURST.cycles] = cycles
    s[e + BURST.end] = start + cycles
    s[e + BURST.beats] = s[x + U.beats]
    s[e + BURST.number] = n
    return int(start)


@compiled
def request_data(rows: Rows, s: Int, n: int, low: int, high: int) -> None:
    """Ask for the data of a LOAD; note when its steps at the data side are if nothing there is in their way."""
    form, dest, count = rows[n, COL.format], rows[n, COL.dest_kind], rows[n, COL.count]
    left = load_beats(s[B.rows], s[B.columns], s[B.group_bytes], dest, form, count)
    steps = load_steps(s[B.rows], s[B.columns], s[B.group_bytes], dest, form, count)
    per = max(1, steps // left)
    x, y = AT.unit + RECORD * (s[B.tiers] + low), AT.unit + RECORD * (s[B.tiers] + high)
    step, first = max(s[x + U.steps_end], s[y + U.steps_end]), -1
    issue, other = s[x + U.issued] + s[B.load_issue], s[y + U.issued] + s[B.load_issue]
    while left > 0:
        beats = min(left, s[B.burst_beats])
        start = request(s, n, low, issue, beats)
        end = s[M.bus + low]
        issue = s[x + U.issued] + 1
        if high > low:
            start = max(start, request(s, n, high, other, beats))
            end = max(end, s[M.bus + high])
            other = s[y + U.issued] + 1
        begin = max(step, start + s[B.load_beat])
        if first < 0:
            first = begin
        step = max(begin + min(beats * per, steps), end + s[B.load_beat])
        for engine in range(low, high + 1):
            bursts = s[AT.unit + RECORD * (s[B.tiers] + engine) + U.bursts]
            s[burst_cell(engine, bursts - 1) + BURST.taken] = step - 1
        left -= beats
        steps -= beats * per
    s[x + U.steps_end] = step
    s[y + U.steps_end] = step
    note = s[M.notes] + NOTE * n
    s[note + N.tile0] = first
    s[note + N.tiles] = step - 1


@compiled
def job_room_at(s: Int, engine: int) -> int:
    """Return the first cycle in which one more load can begin, ahead of the data side; NEVER: not known yet."""
    x = AT.unit + RECORD * (s[B.tiers] + engine)
    before = s[x + U.opened] - s[B.load_jobs] - 1
    if before < 0:
        return 0
    if before >= s[x + U.settled]:
        return NEVER
    done = s[s[M.notes] + NOTE * s[AT.open + OPEN_LOADS * engine + before % OPEN_LOADS] + N.done]
    return int(done - s[B.load_word] + 1) if done >= 0 else NEVER


@compiled
def range_room_at(s: Int, engine: int) -> int:
    """Return the first cycle in which one more load can begin, ahead of those that ask for data; NEVER: not known."""
    before = s[AT.unit + RECORD * (s[B.tiers] + engine) + U.ranged] - s[B.load_ranges]
    return int(s[AT.asked + RANGES * engine + before % RANGES]) if before >= 0 else 0


@compiled
def queue_range(s: Int, n: int, engine: int, start: int) -> int:
    """Queue a LOAD's data behind those of the loads before; return when it asks for them, NEVER: not known yet."""
    x = AT.unit + RECORD * (s[B.tiers] + engine)
    place = RANGES * engine + s[x + U.ranged] % RANGES
    s[x + U.ranged] += 1
    busy = s[x + U.issued] > start
    if s[M.hbm] and asks(s, engine):
        s[AT.range + 2 * place], s[AT.range + 2 * place + 1] = n, start + s[B.load_queued]
        s[AT.asked + place] = NEVER
        return NEVER
    s[x + U.issued] = max(start + s[B.load_queued], s[x + U.issued]) if busy else start
    s[AT.asked + place] = s[x + U.issued]
    return int(s[x + U.issued])


@compiled
def begin_load(rows: Rows, s: Int, n: int, engine: int, start: int, now: int) -> None:
    """Begin a LOAD in a cycle; when the loads before have asked for all their data, it asks for its own."""
    tiers = s[B.tiers]
    high = 1 if is_pair(rows, n) else engine
    empty = left_out(rows, s, n)
    form, dest, count = rows[n, COL.format], rows[n, COL.dest_kind], rows[n, COL.count]
    beats = load_beats(s[B.rows], s[B.columns], s[B.group_bytes], dest, form, count)
    step = 0
    if engine == 0:
        note_order(s, n)
    for e in range(engine, high + 1):
        x = AT.unit + RECORD * (tiers + e)
        step = max(step, s[x + U.steps_end])
        s[x + U.free] = start
        s[x + U.held], s[x + U.granted] = -1, 0
        at = slice_of(rows, s, n, tiers + e)
        s[at + S.start] = start
        s[at + S.work] = 0 if empty else beats
        if not empty:
            s[at + S.start] = queue_range(s, n, e, start)
            if s[M.hbm] and s[at + S.start] < NEVER:
                begin_asking(rows, s, n, e)
        wake(s, tiers + e, max(now, start))
        s[AT.open + OPEN_LOADS * e + s[x + U.opened] % OPEN_LOADS] = n
        s[x + U.opened] += 1
    if empty:
        note = s[M.notes] + NOTE * n
        s[note + N.tile0] = max(step, start + s[B.load_beat])
        s[note + N.tiles] = s[note + N.tile0]
    elif not s[M.hbm]:
        request_data(rows, s, n, engine, high)
    if s[M.hbm]:
        take_bursts(rows, s, now)
    else:
        settle_loads(rows, s, now)


@compiled
def next_load(rows: Rows, s: Int, engine: int, now: int) -> None:
    """Let instructions into the two places of a load engine's front, as far as they are free."""
    unit = s[B.tiers] + engine
    x = AT.unit + RECORD * unit
    for _ in range(2):
        if s[x + U.decoded] < 0:
            n = take(rows, s, unit, now)
            if n >= 0:
                s[x + U.decoded] = n
                s[x + U.decoded_at] = now + s[B.load_decode] - 1
                s[slice_of(rows, s, n, unit) + S.taken] = now
        if s[x + U.decoded] < 0 or s[x + U.held] >= 0:
            return
        at = max(s[x + U.decoded_at], s[x + U.free])
        if now < at:
            wake(s, unit, at)
            return
        s[x + U.held] = s[x + U.decoded]
        s[x + U.valid] = now + 1
        s[x + U.decoded] = -1
        wake(s, unit, now + 1)


@compiled
def load_granted(rows: Rows, s: Int, n: int, engine: int, now: int) -> bool:
    """Try to have a LOAD's waits granted and, if it takes both engines, both together; engine 0 does that for both."""
    unit = s[B.tiers] + engine
    start, high = now, engine
    if is_pair(rows, n):
        partner = AT.unit + RECORD * (s[B.tiers] + 1 - engine)
        if s[partner + U.held] != n:
            return False
        if now < s[partner + U.valid]:
            wake(s, s[B.tiers], s[partner + U.valid])
            return False
        if engine == 1:
            wake(s, s[B.tiers], now)
            return False
        start, high = now + s[B.load_grant], 1
    if waits(rows, n):
        if not grant(rows, s, unit, n, now):
            return False
        now += s[B.granted]
        start = now + s[B.load_grant]
    if rows[n, COL.slot_en]:
        start += s[B.load_slot]
    for e in range(engine, high + 1):
        x = AT.unit + RECORD * (s[B.tiers] + e)
        s[x + U.granted], s[x + U.ready] = 1, start
        at = slice_of(rows, s, n, s[B.tiers] + e)
        s[at + S.granted], s[at + S.ready] = now, start
    return True


@compiled
def part(rows: Rows, s: Int, n: int, start: int) -> None:
    """Let one engine run a granted PAIR load of which only the high plane is wanted, and the other go on.

    The load becomes a HIGH one of the engine whose group has that plane; its address is known from here on.
    """
    tiers, expert = s[B.tiers], slot_expert(rows, s, n)
    engine = (rows[n, COL.group] ^ expert) & 1
    x = AT.unit + RECORD * (tiers + 1 - engine)
    at = slice_of(rows, s, n, tiers + 1 - engine)
    s[at + S.start], s[at + S.end] = start, start
    s[x + U.held], s[x + U.granted], s[x + U.free] = -1, 0, start
    if engine == 1:
        note_order(s, n)
        s[s[M.notes] + NOTE * n + N.slice] += 1
    rows[n, COL.format], rows[n, COL.group], rows[n, COL.scored] = Format.HIGH, engine, PARTED
    rows[n, COL.addr] += (expert >> 1) * rows[n, COL.slot_stride]
    rows[n, COL.slot_en] = 0
    wake(s, tiers, start)
    wake(s, tiers + 1, start)


@compiled
def load_step(rows: Rows, s: Int, engine: int, now: int) -> None:
    """Let a load engine's front go on."""
    unit = s[B.tiers] + engine
    s[AT.time + unit] = NEVER
    next_load(rows, s, engine, now)
    x = AT.unit + RECORD * unit
    n = s[x + U.held]
    if n < 0:
        return
    if now < s[x + U.valid]:
        wake(s, unit, s[x + U.valid])
        return
    if is_pair(rows, n) and engine == 1 and s[x + U.granted]:
        return  # the first engine begins for both
    if not s[x + U.granted]:
        if not load_granted(rows, s, n, engine, now):
            return
        if high_alone(rows, s, n) and not left_out(rows, s, n):
            part(rows, s, n, s[x + U.ready])
            return
    start = s[x + U.ready]
    for e in range(engine, 2 if is_pair(rows, n) else engine + 1):
        start = max(start, job_room_at(s, e))
        if not left_out(rows, s, n):
            start = max(start, range_room_at(s, e))  # NEVER: woken when the load before has asked for all its data
    if start < NEVER:
        begin_load(rows, s, n, engine, start, now)
