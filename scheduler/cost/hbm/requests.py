# SPDX-License-Identifier: Apache-2.0
"""Requests of the cycle model's units to HBM: on their way, and when the items of a load come."""

from __future__ import annotations

from scheduler.cost.hbm.cells import ENTRIES, ENTRY, INDEX_AT, RING, RING_AT, RINGS, STORE_AT, STORES, K, Q
from scheduler.cost.hbm.channel import STREAMS
from scheduler.cost.state import NEVER, NOTE, B, Int, M, N
from scheduler.cost.work import load_steps, load_words
from scheduler.stream.compiled import compiled
from scheduler.stream.table import COL, Rows

__all__ = ["add_request", "entry_cell", "item_launch", "items_cell", "ring_cell", "store_cell", "word_launch"]


@compiled
def ring_cell(s: Int, group: int, stream: int) -> int:
    """Return the first cell of the ring of a channel's stream."""
    return int(s[M.hbm] + RING_AT + RINGS * (STREAMS * group + stream))


@compiled
def entry_cell(ring: int, number: int) -> int:
    """Return the first cell of a request of a ring."""
    return int(ring + Q.first + ENTRIES * (number % RING))


@compiled
def add_request(s: Int, group: int, stream: int, asked: int, beat: int, beats: int, tag: int) -> None:
    """Put a request on its way, whose address (a write: whose last beat) the memory takes in cycle `asked`."""
    ring = ring_cell(s, group, stream)
    e = entry_cell(ring, s[ring + Q.added])
    s[e + ENTRY.at] = asked + 1
    s[e + ENTRY.beat], s[e + ENTRY.beats] = beat, beats
    s[e + ENTRY.begin] = NEVER
    s[e + ENTRY.tag] = tag
    s[ring + Q.added] += 1
    s[s[M.hbm] + K.waiting] += 1


@compiled
def items_cell(s: Int, n: int) -> int:
    """Return the first cell of a LOAD's items."""
    h = s[M.hbm]
    return int(h + s[h + INDEX_AT + n])


@compiled
def store_cell(s: Int, place: int) -> int:
    """Return the first cell of a store that waits for its responses."""
    return int(s[M.hbm] + STORE_AT + 2 * (place % STORES))


@compiled
def item_launch(rows: Rows, s: Int, n: int, item: int) -> int:
    """Return when the last word of a tile leaves, or NEVER: it is not known yet."""
    note = s[M.notes] + NOTE * n
    step = s[items_cell(s, n) + item]
    if step == NEVER or s[note + N.begun] < 0:
        return NEVER
    count = rows[n, COL.count]
    steps = load_steps(s[B.rows], s[B.columns], s[B.group_bytes], rows[n, COL.dest_kind], rows[n, COL.format], count)
    return int(max(step, s[note + N.tile0] + ((item + 1) * steps + count - 1) // count - 1) + s[B.load_word])


@compiled
def word_launch(rows: Rows, s: Int, n: int, place: int) -> int:
    """Return the first cycle in which a word can leave that leaves by itself, or NEVER: it is not known yet."""
    count = rows[n, COL.count]
    words = load_words(s[B.rows], s[B.columns], s[B.group_bytes], rows[n, COL.dest_kind], rows[n, COL.format], count)
    per = max(1, words // count)
    step = s[items_cell(s, n) + min(count - 1, place // per)]
    if step == NEVER:
        return NEVER
    return int(max(step - (per - 1 - place % per), s[s[M.notes] + NOTE * n + N.tile0]) + s[B.load_word])
