# SPDX-License-Identifier: Apache-2.0
"""Instruction fetch, on the bus that it shares with a load engine, and the dispatcher."""

from __future__ import annotations

from scheduler.cost.events import first_unit, is_pair, slice_of, unit_count, wake
from scheduler.cost.hbm.cells import K
from scheduler.cost.hbm.requests import add_request
from scheduler.cost.memory import latency, transfers
from scheduler.cost.state import (
    AT,
    BURST,
    BURSTS,
    DISPATCHER,
    FETCHES,
    MOST_UNITS,
    NEVER,
    NOTE,
    POSTS,
    QUEUE,
    RECORD,
    B,
    F,
    Int,
    M,
    N,
    P,
    S,
    U,
    W,
)
from scheduler.stream.compiled import compiled
from scheduler.stream.table import Rows

__all__ = ["consume_known", "dispatch", "start_fetch"]


@compiled
def delay_load(rows: Rows, s: Int, n: int, by: int) -> None:
    """Let the data of a LOAD of the first engine that are on their way come later."""
    note = s[M.notes] + NOTE * n
    s[note + N.tiles] += by
    if s[AT.word + W.number] == n:
        s[AT.word + W.last] += by
        return
    if s[note + N.done] < 0:
        return
    s[note + N.done] += by
    for unit in range(s[B.tiers], s[B.tiers] + (2 if is_pair(rows, n) else 1)):
        x = AT.unit + RECORD * unit
        s[slice_of(rows, s, n, unit) + S.end] += by
        s[x + U.words_end] = max(s[x + U.words_end], s[note + N.done])
        s[x + U.steps_end] = max(s[x + U.steps_end], s[note + N.done])
    for place in range(s[AT.post + P.due]):
        at = AT.post + P.first + 2 * ((s[AT.post + P.head] + place) % POSTS)
        if s[at + 1] == n:
            s[at] += by
            if place == 0:
                s[AT.time + MOST_UNITS] = max(s[AT.time + MOST_UNITS], s[at])


@compiled
def early(s: Int) -> int:
    """Return by how many beats the first burst of instructions is shorter; without HBM it is taken to be whole.

    Bursts end at multiples of their length, and a stream begins where it begins.
    """
    return int(s[s[M.hbm] + K.fetch_first] % s[B.fetch_burst]) if s[M.hbm] else 0


@compiled
def ask_for_burst(s: Int, asked: int) -> None:
    """With HBM: put a burst of instructions on its way."""
    first = max(0, s[M.bursts] * s[B.fetch_burst] - early(s))
    beats = min((s[M.bursts] + 1) * s[B.fetch_burst] - early(s), s[M.fetch_room]) - first
    b = AT.fetch + 2 * (s[M.bursts] % FETCHES)
    s[b + F.start], s[b + F.end] = NEVER, NEVER
    s[M.bursts] += 1
    if beats > 0:
        add_request(s, 0, 1, asked, s[s[M.hbm] + K.fetch_first] + first, beats, -1)


@compiled
def fetch_burst(rows: Rows, s: Int, asked: int) -> None:
    """Put a burst of instructions on the bus; its address arrives in cycle `asked`. None goes beyond the memory's end.

    It comes behind what the loads had asked for before, and what they ask for later comes behind it. Memories that
    reorder send both in turns.
    """
    if s[M.hbm]:
        ask_for_burst(s, asked)
        return
    beats = min(s[B.fetch_burst], s[M.fetch_room] - s[M.bursts] * s[B.fetch_burst])
    if beats <= 0:
        s[M.bursts] += 1
        return
    cycles = transfers(s, beats)
    start = max(asked + latency(s), s[M.fetched])
    turns = s[M.jitter] > 0
    count = s[AT.unit + RECORD * s[B.tiers] + U.bursts]
    at, low = count, max(0, count - BURSTS + 1)
    while at > low:
        e = AT.burst + 8 * ((at - 1) % BURSTS)
        if s[e + BURST.end] <= start if turns else s[e + BURST.asked] <= asked:
            break
        at -= 1
    if turns:
        end = start + cycles
        bus = s[M.bus]
        if at < count:
            e = AT.burst + 8 * (at % BURSTS)
            end += min(cycles, max(0, bus - max(start, s[e + BURST.end] - s[e + BURST.cycles])))
            bus = s[e + BURST.end] + cycles - s[e + BURST.cycles]
    else:
        if at > low:
            start = max(start, s[AT.burst + 8 * ((at - 1) % BURSTS) + BURST.end])
        end = start + cycles
        bus = end
    s[M.fetched] = end
    b = AT.fetch + 2 * (s[M.bursts] % FETCHES)
    s[b + F.start] = start
    s[b + F.end] = end
    s[M.bursts] += 1
    while at < count:
        e = AT.burst + 8 * (at % BURSTS)
        bus = max(bus, s[e + BURST.first]) + s[e + BURST.cycles]
        late = bus - s[e + BURST.end]
        if late <= 0:
            return
        n = s[e + BURST.number]
        if at + 1 == count or s[AT.burst + 8 * ((at + 1) % BURSTS) + BURST.number] != n:
            # Its last burst: the data side may have had to wait for more than that.
            slack = max(0, s[s[M.notes] + NOTE * n + N.tiles] - s[B.load_beat] - s[e + BURST.end])
            if late > slack:
                delay_load(rows, s, n, late - slack)
        s[e + BURST.end] = bus
        at += 1
    s[M.bus] = max(s[M.bus], bus)


@compiled
def consume(rows: Rows, s: Int, n: int, earliest: int) -> None:
    """Let instruction `n` leave the fetch buffer, and ask for what there is room for then."""
    if n >= len(rows):
        return
    per, beats = s[B.beat_instructions], s[B.instruction_beats]
    beat = n // per if beats == 1 else (n + 1) * beats - 1
    length = s[B.fetch_burst]
    burst, skipped = (beat + early(s)) // length, early(s)
    b = AT.fetch + 2 * (burst % FETCHES)
    begin = max(0, burst * length - skipped)
    here = min(length * (burst + 1) - skipped, s[M.fetch_room]) - begin
    arrival = s[b + F.start] + (s[b + F.end] - s[b + F.start]) * (beat - begin + 1) // here - 1
    cycle = max(earliest, arrival + s[B.fetch_beat])
    if n:
        cycle = max(cycle, s[AT.left + (n - 1) % 16] + beats)
    s[AT.left + n % 16] = cycle
    s[s[M.notes] + NOTE * n + N.consumed] = cycle
    consumed = (n + 1) // per if beats == 1 else beat + 1
    while True:
        # All beats of an instruction but the last one leave the buffer as soon as the one before is complete.
        more = (s[M.bursts] + 1) * length - skipped - s[B.fetch_depth] - consumed
        if more >= beats:
            return
        fetch_burst(rows, s, cycle + max(0, more) + s[B.fetch_again])


@compiled
def consume_known(rows: Rows, s: Int, now: int) -> None:
    """With HBM: let instructions leave the fetch buffer as far as it is known when they are there."""
    c = s[M.hbm] + K.consumed
    while s[c] < min(len(rows), s[M.next] + s[B.dispatch]):
        n = s[c]
        beat = n // s[B.beat_instructions] if s[B.instruction_beats] == 1 else (n + 1) * s[B.instruction_beats] - 1
        if (beat + early(s)) // s[B.fetch_burst] >= s[s[M.hbm] + K.fetch_here]:
            return
        earliest = 0
        if n >= s[B.dispatch]:
            earliest = s[s[M.notes] + NOTE * (n - s[B.dispatch]) + N.dispatched]
        consume(rows, s, n, earliest)
        s[c] += 1
        if n == s[M.next]:
            wake(s, DISPATCHER, max(now, s[AT.left + n % 16] + s[B.dispatch], s[M.dispatched] + 1))


@compiled
def start_fetch(rows: Rows, s: Int) -> None:
    """Ask for the first instructions."""
    for burst in range(s[B.fetch_depth] // s[B.fetch_burst]):
        fetch_burst(rows, s, s[B.fetch_first] + burst)
    if s[M.hbm]:
        return
    for n in range(s[B.dispatch]):
        consume(rows, s, n, 0)
    wake(s, DISPATCHER, s[AT.left] + s[B.dispatch])


@compiled
def dispatch(rows: Rows, s: Int, now: int) -> None:
    """Let the next instruction enter its queues, if all have room."""
    s[AT.time + DISPATCHER] = NEVER
    n = s[M.next]
    if n >= len(rows) or (s[M.hbm] and s[s[M.hbm] + K.consumed] <= n):
        return
    due = max(s[AT.left + n % 16] + s[B.dispatch], s[M.dispatched] + 1)
    if now < due:
        wake(s, DISPATCHER, due)
        return
    first, count = first_unit(rows, s[B.tiers], n), unit_count(rows, n)
    for unit in range(first, first + count):
        if s[AT.unit + RECORD * unit + U.queued] > s[B.queue_depth]:
            return  # woken when the unit takes one
    for unit in range(first, first + count):
        x = AT.unit + RECORD * unit
        at = AT.queue + 2 * (QUEUE * unit + (s[x + U.head] + s[x + U.queued]) % QUEUE)
        s[at] = n
        s[at + 1] = now + s[B.enter]
        s[x + U.queued] += 1
        if s[x + U.queued] == 1:
            wake(s, unit, now + s[B.enter])
    s[s[M.notes] + NOTE * n + N.dispatched] = now
    s[M.dispatched] = now
    s[M.done] = max(s[M.done], now)
    s[M.next] = n + 1
    if s[M.hbm]:
        consume_known(rows, s, now)
        if s[s[M.hbm] + K.consumed] <= n + 1:
            return
    else:
        consume(rows, s, n + s[B.dispatch], now)
    if n + 1 < len(rows):
        wake(s, DISPATCHER, max(now + 1, s[AT.left + (n + 1) % 16] + s[B.dispatch]))
