# SPDX-License-Identifier: Apache-2.0
"""Memory channels, instruction fetch and the dispatcher."""

from __future__ import annotations

from scheduler.cost.events import DISPATCHER, first_unit, unit_count, wake
from scheduler.cost.state import (
    B, BEAT, BURST, BURST_PLACES, BURSTS, BUS0, DISPATCHED, FETCH, FETCHED, FETCH_PLACES, HEAD_AT, HISTORY0, Int, LATENCY, NEVER, NEXT,
    NOTE_WIDTH, NOTES, N_CONSUMED, N_DISPATCHED, QUEUE, QUEUE_PLACES, QUEUED, REORDERS, TIME, UNIT, WIDTH,
)
from scheduler.stream.compiled import compiled
from scheduler.stream.table import Rows


@compiled
def read_burst(s: Int, group: int, asked: int, beats: int) -> int:
    """Return the cycle in which the first beat of a load's burst is on the bus; the memory has its address at `asked`."""
    start = max(asked + s[LATENCY] << 8, s[BUS0 + group])
    s[BUS0 + group] = start + beats * s[BEAT]
    return start >> 8


@compiled
def fetch_burst(s: Int, asked: int) -> int:
    """Return the same for a burst of instructions, which comes behind what loads had asked for before."""
    if s[REORDERS]:
        s[BUS0] += s[B.fetch_burst] * s[BEAT]
        return asked + s[LATENCY]
    at = s[HISTORY0] - 1
    low = max(0, s[HISTORY0] - BURST_PLACES)
    while at >= low and s[BURST + 4 * (at % BURST_PLACES)] > asked:
        at -= 1
    start = max(asked + s[LATENCY], s[FETCHED])
    if at >= low:
        start = max(start, s[BURST + 4 * (at % BURST_PLACES) + 1])
    s[BUS0] = max(s[BUS0], start << 8) + s[B.fetch_burst] * s[BEAT]
    s[FETCHED] = start + (s[B.fetch_burst] * s[BEAT] >> 8)
    return start


@compiled
def consume(rows: Rows, s: Int, n: int, earliest: int) -> None:
    """Let instruction `n` leave the fetch buffer, and ask for what there is room for then."""
    if n >= len(rows):
        return
    per, beats = s[B.beat_instructions], s[B.instruction_beats]
    beat = n // per if beats == 1 else (n + 1) * beats - 1
    length = s[B.fetch_burst]
    arrival = s[FETCH + 16 + beat // length % FETCH_PLACES] + (beat % length * s[BEAT] >> 8) + s[B.fetch_beat]
    cycle = max(earliest, arrival)
    if n:
        cycle = max(cycle, s[FETCH + (n - 1) % 16] + 1)
    s[FETCH + n % 16] = cycle
    s[s[NOTES] + NOTE_WIDTH * n + N_CONSUMED] = cycle
    consumed = (n + 1) // per if beats == 1 else beat + 1
    while (s[BURSTS] + 1) * length - s[B.fetch_depth] <= consumed:
        s[FETCH + 16 + s[BURSTS] % FETCH_PLACES] = fetch_burst(s, cycle + s[B.fetch_again])
        s[BURSTS] += 1


@compiled
def start_fetch(rows: Rows, s: Int) -> None:
    """Ask for the first instructions."""
    for burst in range(s[B.fetch_depth] // s[B.fetch_burst]):
        s[FETCH + 16 + burst] = fetch_burst(s, s[B.fetch_first] + burst)
        s[BURSTS] += 1
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
