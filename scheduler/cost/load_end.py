# SPDX-License-Identifier: Apache-2.0
"""How a LOAD ends at the data side: its words leave one by one, its tiles are there, it posts."""

from __future__ import annotations

from typing import Final

from hdl.isa import LoadDest
from scheduler.cost.events import PARTED, is_pair, post_load, slice_of, wake
from scheduler.cost.hbm.requests import word_launch
from scheduler.cost.state import AT, NOTE, RECORD, WORDS, B, C, Int, M, N, S, U, W
from scheduler.cost.work import load_words
from scheduler.stream.compiled import compiled
from scheduler.stream.table import COL, Rows

__all__ = ["TO_LISTS", "TO_ROWS", "TO_TIERS", "begin_words", "finish_load"]

TO_TIERS: Final = 0
TO_ROWS: Final = 1
TO_LISTS: Final = 2
"""Where words go that leave one by one."""


@compiled
def begin_words(rows: Rows, s: Int, n: int, engine: int) -> None:
    """Let the words of a LOAD leave one by one."""
    w = AT.word + WORDS * engine
    note = s[M.notes] + NOTE * n
    form, dest, count = rows[n, COL.format], rows[n, COL.dest_kind], rows[n, COL.count]
    s[w + W.number] = n
    s[w + W.words] = load_words(s[B.rows], s[B.columns], s[B.group_bytes], dest, form, count)
    s[w + W.left] = s[w + W.words]
    s[w + W.first] = s[note + N.tile0]
    s[w + W.last] = s[note + N.tiles]
    s[w + W.at] = s[note + N.tile0] + s[B.load_word]
    if s[M.hbm]:
        s[w + W.at] = max(s[C.time], word_launch(rows, s, n, 0))
    s[w + W.kind] = TO_TIERS
    s[w + W.where] = rows[n, COL.dest_tiers]
    if dest == LoadDest.ROWS:
        s[w + W.kind] = TO_ROWS
        s[w + W.where] = rows[n, COL.dest_base]
    elif dest == LoadDest.LIST:
        s[w + W.kind] = TO_LISTS
    s[C.words_at] = min(s[C.words_at], s[w + W.at])
    s[C.next] = min(s[C.next], s[w + W.at])


@compiled
def finish_load(rows: Rows, s: Int, n: int, engine: int, done: int, now: int) -> None:
    """End a LOAD whose last word leaves in a cycle: when its tiles come is known, and its post is due."""
    first = 0 if is_pair(rows, n) else engine
    for e in range(first, 2 if is_pair(rows, n) else engine + 1):
        s[AT.unit + RECORD * (s[B.tiers] + e) + U.words_end] = done
        s[slice_of(rows, s, n, s[B.tiers] + e) + S.end] = done + 1
    for e in range(2):  # a load may wait until this one makes room
        if s[AT.unit + RECORD * (s[B.tiers] + e) + U.granted]:
            wake(s, s[B.tiers] + e, now)
    note = s[M.notes] + NOTE * n
    s[note + N.done] = done
    if rows[n, COL.dest_kind] == LoadDest.VCACHE:
        s[note + N.begun] = now
        for tier in range(s[B.tiers]):
            if s[AT.unit + RECORD * tier + U.parked] == n + 1:
                wake(s, tier, now)
    # Engine 0 posts for all PAIR loads, those too of which engine 1 runs the high plane alone.
    post_load(rows, s, 0 if rows[n, COL.scored] == PARTED else first, n)
