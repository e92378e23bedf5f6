# SPDX-License-Identifier: Apache-2.0
"""The cycle model's loop, and which load fills which tile."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hdl.config import MachineConfig
from hdl.isa import LoadDest, Mapping3D, Opcode
from scheduler.cost.combine import combine_run
from scheduler.cost.events import DISPATCHER, accept_post, first_unit, unit_count
from scheduler.cost.fetch import dispatch, start_fetch
from scheduler.cost.loads import load_step
from scheduler.cost.state import *
from scheduler.cost.stores import store_step
from scheduler.cost.tiers import tier_step
from scheduler.cost.vector import vector_step
from scheduler.stream.compiled import bare, compiled
from scheduler.stream.table import COL, Rows


@compiled
def run_all(rows: Rows, s: Int) -> int:
    """Run a stream; return the cycle of the last event."""
    tiers = s[B.tiers]
    start_fetch(rows, s)
    while True:
        now = NEVER
        for agent in range(AGENTS):
            now = min(now, s[TIME + agent])
        if s[C_NEXT] < now:
            combine_run(rows, s, now)
            continue
        if now == NEVER:
            return s[DONE]
        for agent in range(AGENTS):
            if s[TIME + agent] == now:
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
def run(rows: Rows, s: Int) -> int:
    """Run a stream; return the cycle of the last event.

    The arrays are handed on as bare memory: counting the references to an array would take as long as all the rest.
    """
    return run_all(bare(rows), bare(s))


@compiled
def slices_of(rows: Rows, tiers: int, firsts: Int, slices: Int) -> int:
    """Number the slices of a stream, as far as there is room; return how many there are."""
    at = 0
    for n in range(len(rows)):
        count = unit_count(rows, n)
        if len(firsts):
            firsts[n] = at
            for place in range(count):
                slices[at + place, 0] = n
                slices[at + place, 1] = first_unit(rows, tiers, n) + place
        at += count
    return at


@compiled
def chains_of(rows: Rows, chained: Int) -> None:
    """Find the K GEMMs that directly follow another one of the same gang in the queues of all its tiers."""
    last = np.zeros(8, dtype=np.int64)
    for n in range(len(rows)):
        if rows[n, COL.opcode] != Opcode.GEMM:
            continue
        low, count = rows[n, COL.tier_base], rows[n, COL.tier_count]
        gang = (low << 8) + count if rows[n, COL.mapping] == Mapping3D.K and count > 1 else 0
        same = gang > 0
        for tier in range(low, low + count):
            same = same and last[tier] == gang
            last[tier] = gang
        chained[n] = 1 if same else 0


@compiled
def segments_of(rows: Rows, table: Int, firsts: Int, slices: Int, segments: Int) -> int:
    """Find which load fills each tile that a GEMM reads: runs of tiles of the same load (end, load or -1)."""
    table[:] = -1
    at = 0
    for n in range(len(rows)):
        if rows[n, COL.opcode] == Opcode.LOAD and rows[n, COL.dest_kind] == LoadDest.VCACHE:
            low = rows[n, COL.dest_base]
            for tier in range(table.shape[0]):
                if rows[n, COL.dest_tiers] >> tier & 1:
                    table[tier, low : low + rows[n, COL.count]] = n
        elif rows[n, COL.opcode] == Opcode.GEMM:
            low = rows[n, COL.vcache_base]
            high = low + rows[n, COL.k_slices] * rows[n, COL.n_tiles]
            for place in range(rows[n, COL.tier_count]):
                tier = rows[n, COL.tier_base] + place
                if len(segments):
                    slices[firsts[n] + place, 7] = at
                tile = low
                while tile < high:
                    load = table[tier, tile]
                    end = tile + 1
                    while end < high and table[tier, end] == load:
                        end += 1
                    if len(segments):
                        segments[at, 0] = end
                        segments[at, 1] = load if load >= 0 and rows[load, COL.tag] == rows[n, COL.tag] else -1
                    at += 1
                    tile = end
    return at


def simulate(config, rows, *, latency=40, slot_counts=(), jitter=0, stall=0, seed=1):
    n = len(rows)
    none1, none2 = np.zeros(0, np.int64), np.zeros((0, 8), np.int64)
    total = slices_of(rows, config.tiers, none1, none2)
    firsts, slices = np.zeros(n, np.int64), np.full((total, 8), -1, np.int64)
    slices_of(rows, config.tiers, firsts, slices)
    table = np.empty((config.tiers, config.vcache_tiles), np.int64)
    count = segments_of(rows, table, firsts, slices, np.zeros((0, 2), np.int64))
    segments = np.zeros((count, 2), np.int64)
    segments_of(rows, table, firsts, slices, segments)
    width = max([len(c) for c in slot_counts], default=0)
    counts = np.zeros((len(slot_counts), width), np.int64)
    for i, cc in enumerate(slot_counts):
        counts[i, : len(cc)] = cc
    chained = np.zeros(n, np.int64)
    chains_of(rows, chained)
    s = new_state(config, firsts, chained, slices, segments, counts, (latency, jitter, stall, config.channels_per_group, seed))
    done = run(rows, s)
    return s, done + s[B.settle] + 1
