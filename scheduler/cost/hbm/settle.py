# SPDX-License-Identifier: Apache-2.0
"""The load engines' data side with HBM: what comes is known bit by bit, and so is what becomes of it.

A load is *current* when all before it are through: its tiles are then ready one by one as their beats come
(:func:`scheduler.cost.hbm.requests.item_launch`), or its words leave. Before that its beats wait, and it is only known
when they would be through with nothing in their way.
"""

from __future__ import annotations

from hdl.isa import LoadDest
from scheduler.cost.events import is_pair, left_out, wake
from scheduler.cost.hbm.cells import ASK, ASK_AT, A
from scheduler.cost.load_end import begin_words, finish_load
from scheduler.cost.state import AT, NOTE, OPEN_LOADS, RECORD, WORDS, B, Int, M, N, U, W
from scheduler.cost.work import load_steps
from scheduler.stream.compiled import compiled
from scheduler.stream.table import COL, Rows

__all__ = ["settle_known", "wake_for_tiles"]


@compiled
def wake_for_tiles(s: Int, n: int, now: int) -> None:
    """Let operations go on that wait for tiles of a load."""
    for tier in range(s[B.tiers]):
        if s[AT.unit + RECORD * tier + U.parked] == n + 1:
            wake(s, tier, now)


@compiled
def make_current(rows: Rows, s: Int, n: int, engine: int, empty: bool, now: int) -> None:
    """Let a load be current, if the engine and a PAIR's other one are free of words."""
    x = AT.unit + RECORD * (s[B.tiers] + engine)
    free = s[x + U.words_end]
    if is_pair(rows, n):
        free = max(free, s[AT.unit + RECORD * (s[B.tiers] + 1 - engine) + U.words_end])
    note = s[M.notes] + NOTE * n
    s[note + N.tile0] = max(s[note + N.tile0], free)
    s[note + N.begun] = now
    if empty:
        return
    if rows[n, COL.dest_kind] == LoadDest.VCACHE:
        wake_for_tiles(s, n, now)
        return
    s[x + U.settled] += 1
    begin_words(rows, s, n, engine)


@compiled
def settle_load(rows: Rows, s: Int, n: int, engine: int, empty: bool, now: int) -> None:
    """Settle a current load of which all is known; words do not leave one by one."""
    note = s[M.notes] + NOTE * n
    steps = 1
    if not empty:
        steps = load_steps(
            s[B.rows], s[B.columns], s[B.group_bytes], rows[n, COL.dest_kind], rows[n, COL.format], rows[n, COL.count]
        )
    last = max(s[note + N.tiles], s[note + N.tile0] + steps - 1)
    for e in range(engine, 2 if is_pair(rows, n) else engine + 1):
        s[AT.unit + RECORD * (s[B.tiers] + e) + U.settled] += 1
    s[note + N.tiles] = last + s[B.load_word]
    finish_load(rows, s, n, engine, last + s[B.load_word], now)


@compiled
def settle_known(rows: Rows, s: Int, now: int) -> None:
    """Make loads current, and settle them, as far as they are known."""
    moved = True
    while moved:
        moved = False
        for engine in range(2):
            x = AT.unit + RECORD * (s[B.tiers] + engine)
            place = s[x + U.settled]
            if place == s[x + U.opened] or s[AT.word + WORDS * engine + W.number] >= 0:
                continue
            n = s[AT.open + OPEN_LOADS * engine + place % OPEN_LOADS]
            if is_pair(rows, n):
                y = AT.unit + RECORD * (s[B.tiers] + 1 - engine)
                if (
                    engine
                    or s[AT.word + WORDS + W.number] >= 0
                    or s[y + U.settled] == s[y + U.opened]
                    or s[AT.open + OPEN_LOADS + s[y + U.settled] % OPEN_LOADS] != n
                ):
                    continue
            empty = left_out(rows, s, n)
            if s[s[M.notes] + NOTE * n + N.begun] < 0:
                make_current(rows, s, n, engine, empty, now)
                moved = True
            elif place < s[s[M.hbm] + ASK_AT + ASK * engine + A.loads]:
                settle_load(rows, s, n, engine, empty, now)
                moved = True
