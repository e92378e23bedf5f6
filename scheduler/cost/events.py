# SPDX-License-Identifier: Apache-2.0
"""Who acts when, queues and semaphores: what the units of the cycle model have in common."""

from __future__ import annotations

from typing import Final

from hdl.isa import Format, LoadDest, Opcode
from scheduler.cost.slots import EXPERT, HIGH_ONLY
from scheduler.cost.state import (
    AT,
    DISPATCHER,
    MOST_UNITS,
    NEVER,
    NOTE,
    ORDER,
    POSTS,
    QUEUE,
    RECORD,
    SLICE,
    B,
    Int,
    M,
    N,
    P,
    U,
)
from scheduler.stream.compiled import compiled, inlined
from scheduler.stream.table import COL, Rows

__all__ = [
    "PARTED", "accept_post", "first_unit", "grant", "high_alone", "is_pair", "left_out", "note_order", "post",
    "post_load", "slice_of", "slot_expert", "slot_tokens", "take", "unit_count", "waits", "wake",
]  # fmt: skip


PARTED: Final = 2
"""What `scored` is of a LOAD whose engines have parted: it is a HIGH load of one of them."""


@inlined
def wake(s: Int, agent: int, cycle: int) -> None:
    """Let an agent act in a cycle, if it does not act before."""
    if cycle < s[AT.time + agent]:
        s[AT.time + agent] = cycle


@compiled
def is_pair(rows: Rows, n: int) -> bool:
    """Return whether a LOAD takes both engines."""
    return bool(rows[n, COL.dest_kind] == LoadDest.VCACHE and rows[n, COL.format] == Format.PAIR)


@compiled
def first_unit(rows: Rows, tiers: int, n: int) -> int:
    """Return the first unit that an instruction goes to; the others follow it."""
    opcode = rows[n, COL.opcode]
    if opcode == Opcode.GEMM:
        return int(rows[n, COL.tier_base])
    if opcode == Opcode.LOAD:
        return tiers if is_pair(rows, n) else tiers + rows[n, COL.group]
    return tiers + 2 if opcode == Opcode.STORE else tiers + 3


@compiled
def unit_count(rows: Rows, n: int) -> int:
    """Return how many units an instruction goes to."""
    opcode = rows[n, COL.opcode]
    if opcode == Opcode.GEMM:
        return int(rows[n, COL.tier_count])
    if opcode == Opcode.LOAD:
        return 2 if is_pair(rows, n) else 1
    return 1 if opcode == Opcode.STORE or opcode == Opcode.VECTOR or opcode == Opcode.ROUTE else 0


@compiled
def slice_of(rows: Rows, s: Int, n: int, unit: int) -> int:
    """Return the first cell of an instruction's slice on a unit."""
    return int(s[M.slices] + SLICE * (s[s[M.notes] + NOTE * n + N.slice] + unit - first_unit(rows, s[B.tiers], n)))


@compiled
def slot_tokens(rows: Rows, s: Int, n: int, most: int) -> int:
    """Return how many tokens an instruction's slot has; without a slot, or when the counts are not known, `most`."""
    if not rows[n, COL.slot_en] or not s[M.counts_width]:
        return most
    return int(s[s[M.counts] + rows[n, COL.slot]] & HIGH_ONLY - 1)


@compiled
def slot_expert(rows: Rows, s: Int, n: int) -> int:
    """Return the expert of an instruction's slot, which is taken to be the slot's number where it is not known."""
    if not s[M.named]:
        return int(rows[n, COL.slot])
    return int(s[s[M.counts] + rows[n, COL.slot]] // EXPERT)


@compiled
def left_out(rows: Rows, s: Int, n: int) -> bool:
    """Return whether a LOAD reads nothing: its slot is empty, or it is of a low plane that is not wanted."""
    if slot_tokens(rows, s, n, 1) == 0:
        return True
    if not s[M.scored] or not rows[n, COL.scored] or rows[n, COL.format] != Format.LOW:
        return False
    return bool(s[s[M.counts] + rows[n, COL.slot]] & HIGH_ONLY)


@compiled
def high_alone(rows: Rows, s: Int, n: int) -> bool:
    """Return whether a LOAD is of a PAIR of planes of which only the high one is wanted."""
    if not s[M.scored] or not rows[n, COL.scored] or not is_pair(rows, n):
        return False
    return bool(s[s[M.counts] + rows[n, COL.slot]] & HIGH_ONLY)


@compiled
def take(rows: Rows, s: Int, unit: int, now: int) -> int:
    """Take the head of a unit's queue and note that; -1: there is none yet."""
    x = AT.unit + RECORD * unit
    if not s[x + U.queued]:
        return -1
    at = AT.queue + 2 * (QUEUE * unit + s[x + U.head])
    if s[at + 1] > now:
        wake(s, unit, s[at + 1])
        return -1
    s[x + U.head] = (s[x + U.head] + 1) % QUEUE
    s[x + U.queued] -= 1
    if s[M.next] < len(rows):
        wake(s, DISPATCHER, now + 1)
    return int(s[at])


@compiled
def waits(rows: Rows, n: int) -> bool:
    """Return whether an instruction waits for semaphores."""
    return bool(rows[n, COL.wait0_count] > 0 or rows[n, COL.wait1_count] > 0)


@compiled
def satisfied(rows: Rows, s: Int, n: int) -> bool:
    """Return whether the semaphores hold what an instruction waits for."""
    first = s[AT.value + rows[n, COL.wait0_sem]] >= rows[n, COL.wait0_count]
    return bool(first and s[AT.value + rows[n, COL.wait1_sem]] >= rows[n, COL.wait1_count])


@compiled
def grant(rows: Rows, s: Int, unit: int, n: int, now: int) -> bool:
    """Say that the waits of an instruction hold, for one instruction at a time, or note that its unit asks.

    The grant comes `Blocks.granted` cycles later.
    """
    if not satisfied(rows, s, n):
        s[AT.unit + RECORD * unit + U.asks] = n
        return False
    if now < s[M.granted]:
        wake(s, unit, s[M.granted])
        return False
    s[M.granted] = now + s[B.granted_again]
    s[AT.unit + RECORD * unit + U.asks] = -1
    s[AT.value + rows[n, COL.wait0_sem]] -= rows[n, COL.wait0_count]
    s[AT.value + rows[n, COL.wait1_sem]] -= rows[n, COL.wait1_count]
    return True


@compiled
def post(rows: Rows, s: Int, source: int, n: int, cycle: int) -> None:
    """Let a source post for an instruction from a cycle on; one without posts has nothing to say."""
    s[M.done] = max(s[M.done], cycle)
    if not (rows[n, COL.post0_en] or rows[n, COL.post1_en]):
        return
    p = AT.post + (P.first + 2 * POSTS) * source
    at = p + P.first + 2 * ((s[p + P.head] + s[p + P.due]) % POSTS)
    s[at] = cycle
    s[at + 1] = n
    s[p + P.due] += 1
    if s[p + P.due] == 1:
        wake(s, MOST_UNITS + source, cycle)


@compiled
def post_load(rows: Rows, s: Int, source: int, n: int) -> None:
    """Let a load that is done post, engine 0's in the order in which it took them up."""
    note = s[M.notes] + NOTE * n
    if source or not s[M.scored]:
        post(rows, s, source, n, s[note + N.done] + s[B.load_post])
        return
    while s[M.ordered]:
        oldest = s[AT.order + s[M.order_head]]
        done = s[s[M.notes] + NOTE * oldest + N.done]
        if done < 0:
            return
        post(rows, s, 0, oldest, done + s[B.load_post])
        s[M.order_head] = (s[M.order_head] + 1) % ORDER
        s[M.ordered] -= 1


@compiled
def note_order(s: Int, n: int) -> None:
    """Note that engine 0 has taken up a load, for which it posts."""
    if s[M.scored]:
        s[AT.order + (s[M.order_head] + s[M.ordered]) % ORDER] = n
        s[M.ordered] += 1


@compiled
def accept_post(rows: Rows, s: Int, source: int, now: int) -> None:
    """Accept the oldest post of a source, one post a cycle."""
    agent = MOST_UNITS + source
    s[AT.time + agent] = NEVER
    if s[M.posted] >= now:
        wake(s, agent, now + 1)
        return
    s[M.posted] = now
    s[M.done] = max(s[M.done], now)
    p = AT.post + (P.first + 2 * POSTS) * source
    n = s[p + P.first + 2 * s[p + P.head] + 1]
    s[p + P.head] = (s[p + P.head] + 1) % POSTS
    s[p + P.due] -= 1
    if s[p + P.due]:
        wake(s, agent, max(now + 1, s[p + P.first + 2 * s[p + P.head]]))
    if rows[n, COL.post0_en]:
        s[AT.value + rows[n, COL.post0_sem]] += 1
    if rows[n, COL.post1_en]:
        s[AT.value + rows[n, COL.post1_sem]] += 1
    for unit in range(s[B.tiers] + 4):
        asks = s[AT.unit + RECORD * unit + U.asks]
        if asks >= 0 and satisfied(rows, s, asks):
            wake(s, unit, now + s[B.posted] - s[B.granted])
