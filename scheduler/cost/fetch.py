# SPDX-License-Identifier: Apache-2.0
"""Memory channels, instruction fetch and the dispatcher."""

from __future__ import annotations

from hdl.isa import Format
from scheduler.cost.events import DISPATCHER, first_unit, slice_of, unit_count, wake
from scheduler.cost.memory import latency, transfers
from scheduler.cost.state import *
from scheduler.stream.compiled import compiled
from scheduler.stream.table import COL, Rows


@compiled
def delay_load(rows: Rows, s: Int, n: int, by: int) -> None:
    """Let the data of a LOAD of the first engine that are on their way come later."""
    f = s[NOTES] + NOTE_WIDTH * n
    s[f + N_TILES] += by
    if s[WORD + W_NUMBER] == n:
        s[WORD + W_LAST] += by
        return
    if s[f + N_DONE] < 0:
        return
    s[f + N_DONE] += by
    pair = rows[n, COL.format] == Format.PAIR
    for engine in range(2 if pair else 1):
        x = UNIT + WIDTH * (s[B.tiers] + engine)
        s[slice_of(rows, s, n, s[B.tiers] + engine) + S_END] += by
        s[x + BUSY] = max(s[x + BUSY], s[f + N_DONE])
        s[x + DATA] = max(s[x + DATA], s[f + N_DONE])
    for place in range(s[POST + 1]):
        at = POST + 2 + 2 * ((s[POST] + place) % POST_PLACES)
        if s[at + 1] == n:
            s[at] += by
            if place == 0:
                s[TIME + MOST_UNITS] = max(s[TIME + MOST_UNITS], s[at])


@compiled
def fetch_burst(rows: Rows, s: Int, asked: int) -> None:
    """Put a burst of instructions on the bus; its address arrives in cycle `asked`.

    It comes behind what loads had asked for before, and what they ask for later comes behind it. Memories that reorder
    send both in turns.
    """
    length = transfers(s, s[B.fetch_burst])
    first = max(asked + latency(s), s[FETCHED])
    count = s[UNIT + WIDTH * s[B.tiers] + COUNT]
    at = count
    low = max(0, count - BURST_PLACES + 1)
    turns = s[JITTER] > 0
    while at > low:
        e = BURST + BURST_WIDTH * ((at - 1) % BURST_PLACES)
        if s[e + ENDED] <= first if turns else s[e + ASKED] <= asked:
            break
        at -= 1
    start, end = first, first + length
    if turns:
        if at < count:
            e = BURST + BURST_WIDTH * (at % BURST_PLACES)
            end += min(length, max(0, s[BUS0] - max(first, s[e + ENDED] - s[e + LENGTH])))
            bus = s[e + ENDED] + length - s[e + LENGTH]
        else:
            bus = s[BUS0]
    else:
        if at > low:
            start = max(start, s[BURST + BURST_WIDTH * ((at - 1) % BURST_PLACES) + ENDED])
        end = start + length
        bus = end
    s[FETCHED] = end
    b = FETCH + 16 + 2 * (s[BURSTS] % FETCH_PLACES)
    s[b] = start
    s[b + 1] = end
    s[BURSTS] += 1
    while at < count:
        e = BURST + BURST_WIDTH * (at % BURST_PLACES)
        bus = max(bus, s[e + FIRST_BEAT]) + s[e + LENGTH]
        late = bus - s[e + ENDED]
        if late <= 0:
            return
        s[e + ENDED] += late
        n = s[e + WHOSE]
        if at + 1 == count or s[BURST + BURST_WIDTH * ((at + 1) % BURST_PLACES) + WHOSE] != n:
            # Its last burst: what the data side has to wait for.
            slack = s[s[NOTES] + NOTE_WIDTH * n + N_TILES] - s[B.load_fifo] - (s[e + ENDED] - late)
            if late > slack:
                delay_load(rows, s, n, late - max(0, slack))
        at += 1
    s[BUS0] = max(s[BUS0], bus)


@compiled
def consume(rows: Rows, s: Int, n: int, earliest: int) -> None:
    """Let instruction `n` leave the fetch buffer, and ask for what there is room for then."""
    if n >= len(rows):
        return
    per, beats = s[B.beat_instructions], s[B.instruction_beats]
    beat = n // per if beats == 1 else (n + 1) * beats - 1
    length = s[B.fetch_burst]
    b = FETCH + 16 + 2 * (beat // length % FETCH_PLACES)
    arrival = s[b] + (s[b + 1] - s[b]) * (beat % length + 1) // length - 1 + s[B.fetch_beat]
    cycle = max(earliest, arrival)
    if n:
        cycle = max(cycle, s[FETCH + (n - 1) % 16] + beats)
    s[FETCH + n % 16] = cycle
    s[s[NOTES] + NOTE_WIDTH * n + N_CONSUMED] = cycle
    consumed = (n + 1) // per if beats == 1 else beat + 1
    while True:
        # All beats of an instruction but the last one leave the buffer as soon as the one before is complete.
        more = (s[BURSTS] + 1) * length - s[B.fetch_depth] - consumed
        if more >= beats:
            return
        fetch_burst(rows, s, cycle + max(0, more) + s[B.fetch_again])


@compiled
def start_fetch(rows: Rows, s: Int) -> None:
    """Ask for the first instructions."""
    for burst in range(s[B.fetch_depth] // s[B.fetch_burst]):
        fetch_burst(rows, s, s[B.fetch_first] + burst)
    for n in range(s[B.dispatch]):
        consume(rows, s, n, 0)
    wake(s, DISPATCHER, s[FETCH] + s[B.dispatch])


@compiled
def dispatch(rows: Rows, s: Int, now: int) -> None:
    """Let the next instruction enter its queues, if all have room."""
    s[TIME + DISPATCHER] = NEVER
    n = s[NEXT]
    if n >= len(rows):
        return
    due = max(s[FETCH + n % 16] + s[B.dispatch], s[DISPATCHED] + 1)
    if now < due:
        wake(s, DISPATCHER, due)
        return
    first, count = first_unit(rows, s[B.tiers], n), unit_count(rows, n)
    for unit in range(first, first + count):
        if s[UNIT + WIDTH * unit + QUEUED] > s[B.queue_depth]:
            return  # woken when the unit takes one
    for unit in range(first, first + count):
        x = UNIT + WIDTH * unit
        at = QUEUE + 2 * (QUEUE_PLACES * unit + (s[x + HEAD_AT] + s[x + QUEUED]) % QUEUE_PLACES)
        s[at] = n
        s[at + 1] = now + s[B.enter]
        s[x + QUEUED] += 1
        if s[x + QUEUED] == 1:
            wake(s, unit, now + s[B.enter])
    s[s[NOTES] + NOTE_WIDTH * n + N_DISPATCHED] = now
    s[DISPATCHED] = now
    s[NEXT] = n + 1
    consume(rows, s, n + s[B.dispatch], now)
    if n + 1 < len(rows):
        wake(s, DISPATCHER, max(now + 1, s[FETCH + (n + 1) % 16] + s[B.dispatch]))
