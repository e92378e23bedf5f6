# SPDX-License-Identifier: Apache-2.0
"""The load engines with HBM: bursts are asked for when it is known that they may be, and come when they come."""

from __future__ import annotations

from hdl.config import ADDRESS_UNIT
from hdl.isa import Format, LoadDest
from scheduler.cost.events import is_pair, left_out, slice_of, slot_expert, wake
from scheduler.cost.hbm.cells import ASK, ASK_AT, A
from scheduler.cost.hbm.requests import add_request, items_cell, word_launch
from scheduler.cost.hbm.settle import settle_known, wake_for_tiles
from scheduler.cost.slots import HIGH_ONLY
from scheduler.cost.state import (
    AT,
    BURST,
    BURSTS,
    NEVER,
    NOTE,
    OPEN_LOADS,
    RANGES,
    RECORD,
    WORDS,
    B,
    C,
    Int,
    M,
    N,
    S,
    U,
    W,
)
from scheduler.cost.work import load_beats, load_steps
from scheduler.stream.compiled import compiled
from scheduler.stream.table import COL, Rows

__all__ = ["ask", "asks", "begin_asking", "burst_ended", "take_bursts"]


@compiled
def asker(s: Int, engine: int) -> int:
    """Return the first cell of a load engine's record."""
    return int(s[M.hbm] + ASK_AT + ASK * engine)


@compiled
def burst_cell(engine: int, number: int) -> int:
    """Return the first cell of a burst of a load engine."""
    return AT.burst + 8 * (BURSTS * engine + number % BURSTS)


@compiled
def asks(s: Int, engine: int) -> bool:
    """Return whether a load engine has not asked for all that the load before wants."""
    return bool(s[asker(s, engine) + A.number] >= 0)


@compiled
def first_beat(rows: Rows, s: Int, n: int, engine: int) -> int:
    """Return the number of the first beat that a LOAD reads on an engine."""
    group, address = rows[n, COL.group], rows[n, COL.addr]
    place, pair = 0, rows[n, COL.format] == Format.PAIR
    if rows[n, COL.slot_en]:
        expert = slot_expert(rows, s, n)
        place = (expert >> 1 if pair else expert) * rows[n, COL.slot_stride]
        if pair:
            group ^= expert & 1
        elif s[M.scored] and rows[n, COL.scored] and s[s[M.counts] + rows[n, COL.slot]] & HIGH_ONLY:
            place += rows[n, COL.slot_stride] >> 1  # parameters of the high plane alone
    if pair and group != engine:
        address = rows[n, COL.addr_low]
    return int((address + place) * ADDRESS_UNIT // s[B.group_bytes])


@compiled
def begin_asking(rows: Rows, s: Int, n: int, engine: int) -> None:
    """Let a LOAD ask for its data on an engine, from the cycle behind the one in which the splitter takes it."""
    form, dest, count = rows[n, COL.format], rows[n, COL.dest_kind], rows[n, COL.count]
    a = asker(s, engine)
    s[a + A.number], s[a + A.asked] = n, s[a + A.asked] + 1
    s[a + A.left] = load_beats(s[B.rows], s[B.columns], s[B.group_bytes], dest, form, count)
    s[a + A.beat] = first_beat(rows, s, n, engine)
    s[a + A.issue] = s[AT.unit + RECORD * (s[B.tiers] + engine) + U.issued] + s[B.load_issue]


@compiled
def ask_next(rows: Rows, s: Int, engine: int) -> bool:
    """Let the next LOAD that has begun ask for its data; return whether there is one."""
    x, a = AT.unit + RECORD * (s[B.tiers] + engine), asker(s, engine)
    if s[a + A.asked] == s[x + U.ranged]:
        return False
    place = RANGES * engine + s[a + A.asked] % RANGES
    n = s[AT.range + 2 * place]
    s[x + U.issued] = max(s[x + U.issued], s[AT.range + 2 * place + 1])
    s[AT.asked + place] = s[x + U.issued]
    s[slice_of(rows, s, n, s[B.tiers] + engine) + S.start] = s[x + U.issued]
    begin_asking(rows, s, n, engine)
    return True


@compiled
def may_ask(s: Int, engine: int, beats: int) -> int:
    """Return the first cycle in which an engine may ask for a burst, or NEVER: it is not known yet."""
    x, a = AT.unit + RECORD * (s[B.tiers] + engine), asker(s, engine)
    issue, count = s[a + A.issue], s[x + U.bursts]
    if count >= s[B.outstanding_bursts]:
        end = s[burst_cell(engine, count - s[B.outstanding_bursts]) + BURST.end]
        if end == NEVER:
            return NEVER
        issue = max(issue, end)
    need = s[x + U.beats] + beats - s[B.skew_fifo_beats]
    if need <= 0:
        return int(issue)
    at = s[a + A.stepped] - 1
    if at < 0 or s[burst_cell(engine, at) + BURST.beats] < need:
        return NEVER
    while at > 0 and count - at < BURSTS and s[burst_cell(engine, at - 1) + BURST.beats] >= need:
        at -= 1
    e = burst_cell(engine, at)
    return int(max(issue, s[e + BURST.taken] - (s[e + BURST.beats] - need) + 1))


@compiled
def ask(rows: Rows, s: Int, engine: int, now: int) -> None:
    """Let an engine ask for the bursts of which it is known when it may."""
    x, a = AT.unit + RECORD * (s[B.tiers] + engine), asker(s, engine)
    while s[a + A.left] > 0:
        beat = s[a + A.beat]
        beats = min(s[a + A.left], s[B.burst_beats] - beat % s[B.burst_beats])
        issue = may_ask(s, engine, beats)
        if issue == NEVER:
            return
        add_request(s, engine, 0, issue + s[B.load_request], beat, beats, -1)
        e = burst_cell(engine, s[x + U.bursts])
        s[x + U.bursts] += 1
        s[x + U.beats] += beats
        s[x + U.issued] = issue
        s[e + BURST.asked] = issue + s[B.load_request]
        s[e + BURST.first], s[e + BURST.end] = NEVER, NEVER
        s[e + BURST.cycles] = beats
        s[e + BURST.beats] = s[x + U.beats]
        s[e + BURST.number] = s[a + A.number]
        s[a + A.beat] += beats
        s[a + A.left] -= beats
        s[a + A.issue] = issue + 1
        if s[a + A.left] == 0:
            s[a + A.number] = -1
            # A load that is held can begin, on this engine or, a PAIR, on both.
            for unit in range(s[B.tiers], s[B.tiers] + 2):
                if s[AT.unit + RECORD * unit + U.granted]:
                    wake(s, unit, now)
            if not ask_next(rows, s, engine):
                return


@compiled
def burst_ended(s: Int, engine: int, begin: int, end: int) -> None:
    """Note when an engine's next burst is on the bus: from a cycle on, to another one (exclusive)."""
    a = asker(s, engine)
    e = burst_cell(engine, s[a + A.ended])
    s[e + BURST.first], s[e + BURST.end] = begin, end
    s[a + A.ended] += 1


@compiled
def end_of_load(s: Int, low: int, high: int) -> None:
    """Turn to the next load."""
    for engine in range(low, high + 1):
        a = asker(s, engine)
        s[a + A.loads] += 1
        s[a + A.done], s[a + A.item] = 0, 0


@compiled
def fill_port(rows: Rows, s: Int, n: int, more: int, steps: int, begin: int) -> int:
    """Return from when on a burst's fill words can leave, at `begin` or later.

    Both engines fill a tier at the same time, but for words that have its V-Cache for themselves: of transposed tiles,
    and all with the edge feed or with two words a tile.
    """
    if rows[n, COL.dest_kind] != LoadDest.VCACHE:
        return begin
    words = max(1, rows[n, COL.count] * s[B.fill_words] * more // steps)
    alone = rows[n, COL.format] == Format.COLUMNS or s[B.edge] or s[B.fill_words] == 2
    for tier in range(s[B.tiers]):
        if rows[n, COL.dest_tiers] >> tier & 1:
            begin = max(begin, s[AT.fill + 2 * tier])
            if alone:
                begin = max(begin, s[AT.fill + 2 * tier + 1])
    for tier in range(s[B.tiers]):
        if rows[n, COL.dest_tiers] >> tier & 1:
            end = AT.fill + 2 * tier + (0 if alone else 1)
            s[end] = max(s[end], begin + words)
    return begin


@compiled
def take_burst(rows: Rows, s: Int, n: int, low: int, high: int) -> None:
    """Work out when a burst is through at the data side if nothing there is in its way, and which items are with it."""
    form, dest, count = rows[n, COL.format], rows[n, COL.dest_kind], rows[n, COL.count]
    total = load_beats(s[B.rows], s[B.columns], s[B.group_bytes], dest, form, count)
    steps = load_steps(s[B.rows], s[B.columns], s[B.group_bytes], dest, form, count)
    a = asker(s, low)
    first, end, step, beats = 0, 0, 0, 0
    for engine in range(low, high + 1):
        e = burst_cell(engine, s[asker(s, engine) + A.stepped])
        first, end, beats = max(first, s[e + BURST.first]), max(end, s[e + BURST.end]), s[e + BURST.cycles]
        step = max(step, s[AT.unit + RECORD * (s[B.tiers] + engine) + U.steps_end])
    done = s[a + A.done]
    more, all_steps = beats * (steps // total), total * (steps // total)
    last = done + more >= all_steps
    if last:
        more = steps - done
    begin = fill_port(rows, s, n, more, steps, max(step, first + s[B.load_beat]))
    if done == 0:
        note = s[M.notes] + NOTE * n
        s[note + N.tile0] = max(s[note + N.tile0], begin)
    step = max(begin + more, end + s[B.load_beat])
    items, item = items_cell(s, n), s[a + A.item]
    while item < count:
        place = ((item + 1) * steps + count - 1) // count - 1 - done
        if place >= more:
            break
        s[items + item] = begin + place * (step - 1 - begin) // max(1, more - 1)
        item += 1
    s[a + A.item], s[a + A.done] = item, done + more
    for engine in range(low, high + 1):
        s[burst_cell(engine, s[asker(s, engine) + A.stepped]) + BURST.taken] = step - 1
        s[asker(s, engine) + A.stepped] += 1
        s[AT.unit + RECORD * (s[B.tiers] + engine) + U.steps_end] = step
    s[s[M.notes] + NOTE * n + N.tiles] = step - 1
    if last:
        end_of_load(s, low, high)


@compiled
def take_next(rows: Rows, s: Int, engine: int, now: int) -> bool:
    """Let a burst, or a load without one, through at the data side, if it is there; return whether one was."""
    a, x = asker(s, engine), AT.unit + RECORD * (s[B.tiers] + engine)
    if s[a + A.loads] == s[x + U.opened]:
        return False
    n = s[AT.open + OPEN_LOADS * engine + s[a + A.loads] % OPEN_LOADS]
    high = engine
    if is_pair(rows, n):
        b, y = asker(s, 1), AT.unit + RECORD * (s[B.tiers] + 1)
        if engine or s[b + A.loads] == s[y + U.opened]:
            return False
        if s[AT.open + OPEN_LOADS + s[b + A.loads] % OPEN_LOADS] != n:
            return False
        high = 1
    note = s[M.notes] + NOTE * n
    if left_out(rows, s, n):
        step = s[note + N.tile0]
        for e in range(engine, high + 1):
            step = max(step, s[AT.unit + RECORD * (s[B.tiers] + e) + U.steps_end])
        s[note + N.tile0], s[note + N.tiles] = step, step
        items = items_cell(s, n)
        for item in range(rows[n, COL.count]):
            s[items + item] = step
        end_of_load(s, engine, high)
        return True
    for e in range(engine, high + 1):
        if s[asker(s, e) + A.stepped] == s[asker(s, e) + A.ended]:
            return False
    take_burst(rows, s, n, engine, high)
    wake_for_tiles(s, n, now)
    w = AT.word + WORDS * engine
    if s[w + W.number] == n and s[w + W.at] == NEVER:
        s[w + W.at] = max(s[C.time], word_launch(rows, s, n, s[w + W.words] - s[w + W.left]))
        s[C.words_at] = min(s[C.words_at], s[w + W.at])
        s[C.next] = min(s[C.next], s[w + W.at])
    return True


@compiled
def take_bursts(rows: Rows, s: Int, now: int) -> None:
    """Let what has come through at the data side, as far as it has, and ask for what there is room for then."""
    moved = True
    while moved:
        moved = False
        for engine in range(2):
            if take_next(rows, s, engine, now):
                moved = True
    settle_known(rows, s, now)
    ask(rows, s, 0, now)
    ask(rows, s, 1, now)
