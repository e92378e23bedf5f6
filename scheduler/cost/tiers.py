# SPDX-License-Identifier: Apache-2.0
"""The tiers' sequencers: setup of GEMMs, gangs, and from what is planned of their waves to what comes after."""

from __future__ import annotations

from hdl.isa import Mapping3D
from scheduler.cost.events import grant, slice_of, slot_tokens, take, waits, wake
from scheduler.cost.state import AT, NEVER, NOTE, RECORD, B, Int, M, N, S, U
from scheduler.cost.waves import plan
from scheduler.stream.compiled import compiled
from scheduler.stream.table import COL, Rows

__all__ = ["tier_step"]


@compiled
def begin_gemm(rows: Rows, s: Int, n: int) -> None:
    """Begin a GEMM, if all tiers of its gang have it.

    In a chain of K gangs the followers repeat the leader's steps; it leaves their setup the time between two of them.
    """
    low, gang = rows[n, COL.tier_base], rows[n, COL.tier_count]
    x = AT.unit + RECORD * low
    if s[s[M.notes] + NOTE * n + N.chained]:
        if s[x + U.op] != n or s[x + U.begun] == n:
            return
        ready = max(s[x + U.ready], s[x + U.first] + s[B.setup] + 1)
    else:
        ready = 0
        for tier in range(low, low + gang):
            if s[AT.unit + RECORD * tier + U.op] != n:
                return
            late = 1 if tier > low and rows[n, COL.mapping] == Mapping3D.K else 0  # the comparison is registered
            ready = max(ready, s[AT.unit + RECORD * tier + U.ready] + late)
    tokens = rows[n, COL.tokens]
    if rows[n, COL.slot_en]:
        tokens = max(0, min(tokens, slot_tokens(rows, s, n, NEVER) - rows[n, COL.list_base]))
    s[x + U.begun] = n
    s[x + U.tokens] = tokens
    s[x + U.tiles] = rows[n, COL.k_slices] * rows[n, COL.n_tiles] if tokens else 1
    s[x + U.tile] = 0
    s[x + U.token] = 0
    s[x + U.cycle] = ready
    s[x + U.first] = -1
    for tier in range(low, low + gang):
        s[slice_of(rows, s, n, tier) + S.ready] = ready
    plan(rows, s, low)


@compiled
def set_up(rows: Rows, s: Int, tier: int, now: int) -> bool:
    """Let a tier's next instruction wait for its semaphores; return whether it is ready from `U.valid` on."""
    x = AT.unit + RECORD * tier
    n = s[x + U.held]
    if s[x + U.valid] >= 0:
        return True
    slot, waiting, leader = rows[n, COL.slot_en], waits(rows, n), rows[n, COL.tier_base]
    if leader != tier and slot:
        at = s[slice_of(rows, s, n, leader) + S.looked]
        if at < 0:  # it looks the slot up behind its leader, which wakes it
            return False
        s[x + U.valid] = max(s[x + U.taken] + s[B.setup], max(s[x + U.taken] + s[B.ask], at + s[B.lag]) + s[B.slot])
        s[slice_of(rows, s, n, tier) + S.granted] = s[x + U.taken]
        return True
    if leader != tier or not (waiting or slot):
        s[x + U.valid] = s[x + U.taken] + s[B.setup]
        s[slice_of(rows, s, n, tier) + S.granted] = s[x + U.taken]
        return True
    at = max(s[x + U.taken] + s[B.ask], s[x + U.hold])  # a gang's operation before it has begun
    if now < at:
        if at < NEVER:
            wake(s, tier, at)
        return False
    if waiting:
        if not grant(rows, s, tier, n, now):
            return False
        now += s[B.granted]
        at = now + s[B.grant]
    s[x + U.valid] = max(s[x + U.taken] + s[B.setup], at + (s[B.slot] if slot else 0))
    s[slice_of(rows, s, n, tier) + S.granted] = now
    if slot:
        s[slice_of(rows, s, n, tier) + S.looked] = at
        for follower in range(tier + 1, tier + rows[n, COL.tier_count]):
            wake(s, follower, now + 1)
    return True


@compiled
def tier_step(rows: Rows, s: Int, tier: int, now: int) -> None:
    """Let a tier go on: waves, the next instruction's setup, its move into the loop nest."""
    s[AT.time + tier] = NEVER
    x = AT.unit + RECORD * tier
    if s[x + U.parked] != 0:
        plan(rows, s, tier)
    if s[x + U.held] < 0:
        if s[x + U.free] > now:
            wake(s, tier, s[x + U.free])
            return
        n = take(rows, s, tier, now)
        if n < 0:
            return
        s[x + U.held] = n
        s[x + U.taken] = now
        s[x + U.valid] = -1
        s[slice_of(rows, s, n, tier) + S.taken] = now
    if not set_up(rows, s, tier, now) or (s[x + U.op] >= 0 and s[x + U.last] == NEVER):
        return
    # The loop nest takes the next operation while the last wave but one of the present one goes.
    at = max(s[x + U.valid], s[x + U.last] - 1)
    if now < at:
        wake(s, tier, at)
        return
    n = s[x + U.held]
    own = slice_of(rows, s, n, tier)
    s[x + U.op] = n
    s[x + U.ready] = max(now + s[B.nest], s[x + U.last] + 1)
    # A follower in a chain of K gangs may come to what its leader has long begun.
    s[x + U.last] = s[own + S.end] - 1 if s[own + S.end] >= 0 else NEVER
    s[x + U.hold] = 0
    if rows[n, COL.tier_count] > 1:
        s[x + U.hold] = s[own + S.start] + s[B.hold] if s[own + S.start] >= 0 else NEVER
    s[x + U.held] = -1
    s[x + U.free] = now + 1
    wake(s, tier, now + 1)
    if s[own + S.end] < 0:
        begin_gemm(rows, s, n)
