# SPDX-License-Identifier: Apache-2.0
"""The cycle model's loop, and what it wants to know of a stream beforehand."""

from __future__ import annotations

from typing import Final

import numpy as np

from hdl.isa import LoadDest, Mapping3D, Opcode
from scheduler.cost.combine import combine_run
from scheduler.cost.events import accept_post, first_unit, unit_count
from scheduler.cost.fetch import consume_known, dispatch, start_fetch
from scheduler.cost.hbm.cells import K
from scheduler.cost.hbm.channel import Channel
from scheduler.cost.hbm.loads import take_bursts
from scheduler.cost.hbm.memory import advance
from scheduler.cost.loads import load_step
from scheduler.cost.state import AGENTS, AT, DISPATCHER, MOST_UNITS, NEVER, NOTE, SLICE, B, C, Int, M, N, S
from scheduler.cost.stores import answer_writes, store_step
from scheduler.cost.tiers import tier_step
from scheduler.cost.vector import vector_step
from scheduler.stream.compiled import compiled, inlined
from scheduler.stream.table import COL, Rows

__all__ = ["notes_of", "run", "run_with_hbm", "segments_of", "slices_of"]

AHEAD: Final = 4
"""Cycles: fewer than lie between what a channel does and what its beat or response does at a unit."""


@compiled
def come(rows: Rows, s: Int) -> None:
    """Let the units know of what the channels have ended."""
    h = s[M.hbm]
    now = s[h + K.now]
    if s[h + K.writes]:
        s[h + K.writes] = 0
        answer_writes(rows, s)
    if s[h + K.fetches]:
        s[h + K.fetches] = 0
        consume_known(rows, s, now)
    if s[h + K.loads]:
        s[h + K.loads] = 0
        take_bursts(rows, s, now)


@inlined
def next_time(s: Int) -> int:
    """Return the first cycle in which anyone acts."""
    now = NEVER
    for agent in range(AGENTS):
        now = min(now, s[AT.time + agent])
    return now


@inlined
def act(rows: Rows, s: Int, now: int) -> None:
    """Let all act who act in a cycle."""
    tiers = s[B.tiers]
    for agent in range(AGENTS):
        if s[AT.time + agent] == now:
            if agent < tiers:
                tier_step(rows, s, agent, now)
            elif agent < tiers + 2:
                load_step(rows, s, agent - tiers, now)
            elif agent == tiers + 2:
                store_step(rows, s, now)
            elif agent == tiers + 3:
                vector_step(rows, s, now)
            elif agent == DISPATCHER:
                dispatch(rows, s, now)
            else:
                accept_post(rows, s, agent - MOST_UNITS, now)


@compiled
def run(rows: Rows, s: Int) -> None:
    """Run a stream on its state: let whoever acts next act, until nobody does."""
    start_fetch(rows, s)
    while True:
        now = next_time(s)
        if s[C.next] < now:
            combine_run(rows, s, now)
            continue
        if now == NEVER:
            return
        act(rows, s, now)


@compiled
def run_with_hbm(rows: Rows, s: Int, first: Channel, second: Channel) -> None:
    """Run a stream on its state and on the channels of both groups.

    The channels are worked out up to the cycle in which the next unit acts, and what units ask for comes later than
    that: so a channel gets its requests in order. Banks and bus go ahead of them by `AHEAD` cycles at most.
    """
    h = s[M.hbm]
    start_fetch(rows, s)
    while True:
        now = next_time(s)
        until = min(now, s[C.next])
        if s[h + K.waiting] and s[h + K.now] < until:
            if advance(s, first, second, until):
                come(rows, s)
            continue
        if s[C.next] < now:
            busy = s[h + K.waiting] > 0 or s[C.store] >= 0  # a store asks as its rows are read
            combine_run(rows, s, min(now, s[C.next] + AHEAD) if busy else now)
            continue
        if now == NEVER:
            return
        act(rows, s, now)


@compiled
def find_slices(rows: Rows, tiers: int, slices: Int) -> int:
    """Number a stream's slices, in program order, as far as there is room; return how many there are."""
    count = 0
    for n in range(len(rows)):
        units = unit_count(rows, n)
        if len(slices):
            for place in range(units):
                slices[count + place, S.number] = n
                slices[count + place, S.unit] = first_unit(rows, tiers, n) + place
                slices[count + place, S.work] = 0
                slices[count + place, S.tiles] = 0
        count += units
    return count


@compiled
def find_notes(rows: Rows, last: Int, notes: Int) -> None:
    """Note each instruction's first slice, and K GEMMs that directly follow another one of their gang in all queues.

    `last` has a place for each tier: the gang of its last GEMM, if that was one of a K gang, else 0.
    """
    at = 0
    for n in range(len(rows)):
        notes[n, N.slice] = at
        notes[n, N.chained] = 0
        at += unit_count(rows, n)
        if rows[n, COL.opcode] == Opcode.GEMM:
            low, count = rows[n, COL.tier_base], rows[n, COL.tier_count]
            gang = (low << 8) + count if rows[n, COL.mapping] == Mapping3D.K and count > 1 else 0
            chained = gang > 0
            for tier in range(low, low + count):
                chained = chained and last[tier] == gang
                last[tier] = gang
            notes[n, N.chained] = chained


@compiled
def find_segments(rows: Rows, table: Int, notes: Int, slices: Int, segments: Int) -> int:
    """Find which load fills the tiers' tiles of each GEMM, and note it as far as there is room.

    Returns
    -------
    int
        How many segments there are.
    """
    table[:] = -1
    count = 0
    for n in range(len(rows)):
        if rows[n, COL.opcode] == Opcode.LOAD and rows[n, COL.dest_kind] == LoadDest.VCACHE:
            low = rows[n, COL.dest_base]
            for tier in range(len(table)):
                if rows[n, COL.dest_tiers] >> tier & 1:
                    table[tier, low : low + rows[n, COL.count]] = n
        elif rows[n, COL.opcode] == Opcode.GEMM:
            tile = rows[n, COL.vcache_base]
            end = tile + rows[n, COL.k_slices] * rows[n, COL.n_tiles]
            for place in range(rows[n, COL.tier_count]):
                tier = rows[n, COL.tier_base] + place
                if len(segments):
                    slices[notes[n, N.slice] + place, S.segment] = count
                at = tile
                while at < end:
                    load = table[tier, at]
                    while at < end and table[tier, at] == load:
                        at += 1
                    if len(segments):
                        here = load >= 0 and rows[load, COL.tag] == rows[n, COL.tag]
                        segments[count, 0] = at
                        segments[count, 1] = load if here else -1
                    count += 1
    return count


def slices_of(rows: Rows, tiers: int) -> Int:
    """Return a stream's slices before it runs: shape [slices, SLICE], in program order."""
    none = np.zeros((0, SLICE), dtype=np.int64)
    slices = np.full((find_slices(rows, tiers, none), SLICE), -1, dtype=np.int64)
    find_slices(rows, tiers, slices)
    return slices


def notes_of(rows: Rows) -> Int:
    """Return the notes on a stream's instructions before it runs: shape [instructions, NOTE]."""
    notes = np.full((len(rows), NOTE), -1, dtype=np.int64)
    find_notes(rows, np.zeros(8, dtype=np.int64), notes)
    return notes


def segments_of(rows: Rows, tiers: int, vcache_tiles: int, notes: Int, slices: Int) -> Int:
    """Return which loads fill the tiles that GEMMs read, and note in their slices where theirs begin.

    Returns
    -------
    int64 array [segments, 2]
        Tile after the last one, and the load (-1: the tiles are resident).
    """
    table = np.empty((tiers, vcache_tiles), dtype=np.int64)
    none = np.zeros((0, 2), dtype=np.int64)
    segments = np.zeros((find_segments(rows, table, notes, slices, none), 2), dtype=np.int64)
    find_segments(rows, table, notes, slices, segments)
    return segments
