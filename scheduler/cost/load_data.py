# SPDX-License-Identifier: Apache-2.0
"""The load engines' data side: when the tiles of a LOAD come, and its words that leave one by one.

Fill words go to the tiers as they come. Other words share ports with results and with the other engine: they leave one
by one (:mod:`scheduler.cost.combine`), and loads behind them are settled when the last one has left.
"""

from __future__ import annotations

from hdl.isa import LoadDest
from scheduler.cost.events import is_pair, left_out
from scheduler.cost.hbm.requests import word_launch
from scheduler.cost.hbm.settle import settle_known
from scheduler.cost.load_end import TO_ROWS, begin_words, finish_load
from scheduler.cost.state import AT, NEVER, NOTE, OPEN_LOADS, RECORD, WORDS, B, Int, M, N, U, W
from scheduler.cost.work import load_steps
from scheduler.stream.compiled import compiled
from scheduler.stream.table import COL, Rows

__all__ = ["settle_loads", "word_leaves"]


@compiled
def settle(rows: Rows, s: Int, n: int, engine: int, free: int, now: int) -> None:
    """Settle a LOAD at the data side, which is free from a cycle on."""
    note = s[M.notes] + NOTE * n
    form, dest, count = rows[n, COL.format], rows[n, COL.dest_kind], rows[n, COL.count]
    empty = left_out(rows, s, n)
    s[note + N.tile0] = max(s[note + N.tile0], free)
    steps = 1
    if not empty:
        steps = load_steps(s[B.rows], s[B.columns], s[B.group_bytes], dest, form, count)
    s[note + N.tiles] = max(s[note + N.tiles], s[note + N.tile0] + steps - 1)
    if dest != LoadDest.VCACHE and not empty:
        begin_words(rows, s, n, engine)
        return
    # From steps to the launch of the first and of the last tile's last word.
    last = s[note + N.tiles]
    if not empty:
        tile = max(1, (last + 1 - s[note + N.tile0]) // count)
        s[note + N.tile0] = min(last, s[note + N.tile0] + tile - 1) + s[B.load_word]
    s[note + N.tiles] = last + s[B.load_word]
    finish_load(rows, s, n, engine, last + s[B.load_word], now)


@compiled
def settle_loads(rows: Rows, s: Int, now: int) -> None:
    """Settle the LOADs that have asked for their data, in order, up to one whose words leave one by one."""
    if s[M.hbm]:
        settle_known(rows, s, now)
        return
    moved = True
    while moved:
        moved = False
        for engine in range(2):
            x = AT.unit + RECORD * (s[B.tiers] + engine)
            if s[x + U.settled] == s[x + U.opened] or s[AT.word + WORDS * engine + W.number] >= 0:
                continue
            n = s[AT.open + OPEN_LOADS * engine + s[x + U.settled] % OPEN_LOADS]
            free = s[x + U.words_end]
            if is_pair(rows, n):
                y = AT.unit + RECORD * (s[B.tiers] + 1 - engine)
                at = AT.open + OPEN_LOADS * (1 - engine) + s[y + U.settled] % OPEN_LOADS
                if (
                    s[AT.word + WORDS * (1 - engine) + W.number] >= 0
                    or s[y + U.settled] == s[y + U.opened]
                    or s[at] != n
                ):
                    continue
                free = max(free, s[y + U.words_end])
                s[y + U.settled] += 1
            s[x + U.settled] += 1
            settle(rows, s, n, engine, free, now)
            moved = True


@compiled
def word_leaves(rows: Rows, s: Int, engine: int, now: int) -> bool:
    """Let a word leave in this cycle; return whether it is the last one of its LOAD."""
    w = AT.word + WORDS * engine
    s[w + W.left] -= 1
    if s[w + W.left]:
        place = s[w + W.words] - s[w + W.left]
        if s[w + W.kind] == TO_ROWS:
            s[w + W.where] += 1
        if s[M.hbm]:
            s[w + W.at] = max(now + 1, word_launch(rows, s, s[w + W.number], place))
            return False
        step = s[w + W.first] + (s[w + W.last] - s[w + W.first]) * place // (s[w + W.words] - 1)
        s[w + W.at] = max(now + 1, step + s[B.load_word])
        return False
    n = s[w + W.number]
    s[w + W.number] = -1
    s[w + W.at] = NEVER
    finish_load(rows, s, n, engine, now, now)
    settle_loads(rows, s, now)
    return True
