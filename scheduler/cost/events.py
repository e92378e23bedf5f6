# SPDX-License-Identifier: Apache-2.0
"""Who acts when, and semaphores: what the model's units have in common."""

from __future__ import annotations

from hdl.isa import Format, Opcode
from scheduler.cost.state import *
from scheduler.stream.compiled import compiled, inlined
from scheduler.stream.table import COL, Rows

DISPATCHER = MOST_UNITS + 5


@inlined
def wake(s: Int, agent: int, cycle: int) -> None:
    """Let an agent act in a cycle, if it does not act before."""
    if cycle < s[TIME + agent]:
        s[TIME + agent] = cycle


@compiled
def satisfied(rows: Rows, s: Int, n: int) -> bool:
    """Return whether the semaphores hold what an instruction waits for."""
    return (
        s[VALUE + rows[n, COL.wait0_sem]] >= rows[n, COL.wait0_count]
        and s[VALUE + rows[n, COL.wait1_sem]] >= rows[n, COL.wait1_count]
    )


@compiled
def waits(rows: Rows, n: int) -> bool:
    """Return whether an instruction waits for semaphores."""
    return rows[n, COL.wait0_count] > 0 or rows[n, COL.wait1_count] > 0


@compiled
def grant(rows: Rows, s: Int, unit: int, n: int, now: int) -> bool:
    """Grant the waits of an instruction, one instruction a cycle, or note that its unit asks."""
    if not satisfied(rows, s, n):
        s[UNIT + WIDTH * unit + ASKS] = n
        return False
    if s[GRANTED] >= now:
        wake(s, unit, now + 1)
        return False
    s[GRANTED] = now
    s[UNIT + WIDTH * unit + ASKS] = -1
    s[VALUE + rows[n, COL.wait0_sem]] -= rows[n, COL.wait0_count]
    s[VALUE + rows[n, COL.wait1_sem]] -= rows[n, COL.wait1_count]
    return True


@compiled
def post(rows: Rows, s: Int, source: int, n: int, cycle: int) -> None:
    """Let a source post for an instruction from a cycle on; nothing happens for one that has no posts."""
    s[DONE] = max(s[DONE], cycle)
    if not (rows[n, COL.post0_en] or rows[n, COL.post1_en]):
        return
    p = POST + POST_WIDTH * source
    at = p + 2 + 2 * ((s[p] + s[p + 1]) % POST_PLACES)
    s[at] = cycle
    s[at + 1] = n
    s[p + 1] += 1
    if s[p + 1] == 1:
        wake(s, MOST_UNITS + source, cycle)


@compiled
def accept_post(rows: Rows, s: Int, source: int, now: int) -> None:
    """Accept the oldest post of a source, one post a cycle."""
    s[TIME + MOST_UNITS + source] = NEVER
    if s[POSTED] >= now:
        wake(s, MOST_UNITS + source, now + 1)
        return
    s[POSTED] = now
    s[DONE] = max(s[DONE], now)
    p = POST + POST_WIDTH * source
    n = s[p + 3 + 2 * s[p]]
    s[p] = (s[p] + 1) % POST_PLACES
    s[p + 1] -= 1
    if s[p + 1]:
        wake(s, MOST_UNITS + source, max(now + 1, s[p + 2 + 2 * s[p]]))
    if rows[n, COL.post0_en]:
        s[VALUE + rows[n, COL.post0_sem]] += 1
    if rows[n, COL.post1_en]:
        s[VALUE + rows[n, COL.post1_sem]] += 1
    for unit in range(s[B.tiers] + 4):
        asks = s[UNIT + WIDTH * unit + ASKS]
        if asks >= 0 and satisfied(rows, s, asks):
            wake(s, unit, now + 1)


@compiled
def first_unit(rows: Rows, tiers: int, n: int) -> int:
    """Return the first unit that an instruction goes to; the others follow it."""
    opcode = rows[n, COL.opcode]
    if opcode == Opcode.GEMM:
        return rows[n, COL.tier_base]
    if opcode == Opcode.LOAD:
        return tiers if rows[n, COL.format] == Format.PAIR else tiers + rows[n, COL.group]
    return tiers + 2 if opcode == Opcode.STORE else tiers + 3


@compiled
def unit_count(rows: Rows, n: int) -> int:
    """Return how many units an instruction goes to."""
    opcode = rows[n, COL.opcode]
    if opcode == Opcode.GEMM:
        return rows[n, COL.tier_count]
    if opcode == Opcode.LOAD:
        return 2 if rows[n, COL.format] == Format.PAIR else 1
    return 1 if opcode == Opcode.STORE or opcode == Opcode.VECTOR or opcode == Opcode.ROUTE else 0


@compiled
def slice_of(rows: Rows, s: Int, n: int, unit: int) -> int:
    """Return the first cell of the slice of an instruction on a unit."""
    return s[SLICES] + 8 * (s[s[NOTES] + NOTE_WIDTH * n + N_SLICE] + unit - first_unit(rows, s[B.tiers], n))


@compiled
def take(rows: Rows, s: Int, unit: int, now: int) -> int:
    """Take the head of a unit's queue; -1: there is none yet."""
    x = UNIT + WIDTH * unit
    if not s[x + QUEUED]:
        return -1
    at = QUEUE + 2 * (QUEUE_PLACES * unit + s[x + HEAD_AT])
    if s[at + 1] > now:
        wake(s, unit, s[at + 1])
        return -1
    s[x + HEAD_AT] = (s[x + HEAD_AT] + 1) % QUEUE_PLACES
    s[x + QUEUED] -= 1
    if s[NEXT] < len(rows):
        wake(s, DISPATCHER, now + 1)
    return s[at]


@compiled
def slot_tokens(rows: Rows, s: Int, n: int, most: int) -> int:
    """Return how many tokens an instruction's slot has; without a slot, or when counts are not known: `most`."""
    if not rows[n, COL.slot_en] or not s[COUNTS_WIDTH]:
        return most
    width = s[COUNTS_WIDTH]
    slot = rows[n, COL.slot]
    return s[s[COUNTS] + width * max(s[ROUTED] - 1, 0) + slot] if slot < width else 0
