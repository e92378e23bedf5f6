# SPDX-License-Identifier: Apache-2.0
"""Who posts for a wait, and on which semaphore."""

from __future__ import annotations

from hdl.isa import Opcode
from scheduler.stream.clocks import (
    ASKED,
    BEFORE,
    COMPLETED,
    COUNTS,
    FIRST,
    GRANTS,
    LATEST_OWNED,
    OPCODE,
    PLACE,
    QUEUE_HIGH,
    QUEUE_LOW,
    TIER0,
    UNIT_HIGH,
    UNIT_LOW,
    UNITS,
    Clocks,
    completions_of,
)
from scheduler.stream.compiled import compiled
from scheduler.stream.posted import (
    CARRIER,
    CARRIERS,
    NO_CARRIER,
    NO_SEMAPHORE,
    ORIGIN,
    OTHER,
    PAIR,
    PLACES,
    POOL,
    POOLED,
    POSTER,
    POSTING,
    POSTS,
    TOO_MANY_POSTS,
    TOO_MANY_WAITS,
    USED,
    WAITING,
    WAITS,
    WANTED,
    Posted,
    fail,
)

__all__ = ["ask_for_carrier", "order_after"]

RESERVE = 4
"""One in so many semaphores is kept for pairs of units, and for the latest gang: see `_gang_after`."""

KEPT = 12
"""Semaphores of the pool that are kept for those who are in no tier's queue, when semaphores are short: they know
little of what the tiers have been granted, and the tiers would take all."""


@compiled
def _covers(clocks: Clocks, completion: int, number: int) -> bool:
    """Return whether a completion comes after all of an instruction's."""
    steps, ends = clocks.steps, clocks.ends
    low = steps[number, UNIT_LOW]
    for unit in range(low, steps[number, UNIT_HIGH] + 1):
        if ends[completion, BEFORE + unit] < ends[steps[number, FIRST] + unit - low, PLACE]:
            return False
    return True


@compiled
def _later_poster(clocks: Clocks, posted: Posted, earlier: int) -> int:
    """Return the first instruction with one completion and a post to spare that completes after `earlier`, or -1."""
    steps, chain, best = clocks.steps, clocks.chain, -1
    for unit in range(UNITS):
        low, end = 0, clocks.now[COMPLETED, unit]
        high = end
        while low < high:
            middle = (low + high) >> 1
            number = chain[unit, middle]
            place = unit - steps[number, UNIT_LOW] if completions_of(clocks, number) > 1 else 0
            if _covers(clocks, steps[number, FIRST] + place, earlier):
                high = middle
            else:
                low = middle + 1
        while low < end:
            number = chain[unit, low]
            if best >= 0 and number >= best:
                break
            if posted.notes[number, POSTING] < PLACES and completions_of(clocks, number) == 1:
                best = number
            low += 1
    return int(best)


@compiled
def _semaphore(posted: Posted, unit: int, queue: int) -> int:
    """Return a semaphore that was not in use."""
    number = posted.state[USED]
    if number == len(posted.semaphores):
        return fail(posted, NO_SEMAPHORE, unit, queue)
    posted.state[USED] = number + 1
    return int(number)


@compiled
def _fitting(clocks: Clocks, posted: Posted, number: int, n: int, begin: int) -> int:
    """Return a semaphore of the pool, from place `begin` on, for gang `number`, or -1.

    Its earlier waiters can neither take the gang's posts nor lose theirs to `n`.
    """
    steps, notes, pending, semaphores = clocks.steps, posted.notes, posted.pending, posted.semaphores
    first = steps[number, FIRST]
    for place in range(begin, posted.state[POOLED]):
        semaphore = semaphores[place, POOL]
        fits = True
        for wait in range(notes[number, WAITING]):
            fits &= notes[number, WAITS + 2 * wait] != semaphore
        for whose in range(len(pending)):
            for wait in range(pending[whose, 0]):
                fits &= pending[whose, 1 + 2 * wait] != semaphore
        for queue in range(UNITS):
            waiter = semaphores[semaphore, queue]
            fits &= waiter <= steps[n, ASKED + queue]
            for completion in range(first, first + completions_of(clocks, number)):
                fits &= waiter <= clocks.ends[completion, GRANTS + queue]
        if fits:
            return int(semaphore)
    return -1


@compiled
def _gang_after(clocks: Clocks, posted: Posted, number: int) -> int:
    """Return the latest gang with a post to spare that completes after all of gang `number`, or `number`.

    Who waits for it waits longer than it has to, and with it all that comes behind it in its queue: the other gangs
    before it need no semaphore any more.
    """
    steps, ends, low = clocks.steps, clocks.ends, clocks.steps[number, UNIT_LOW]
    place = clocks.now[COMPLETED, low]
    while place > 0:
        place -= 1
        other = clocks.chain[low, place]
        if other <= number:
            break
        if completions_of(clocks, other) == 1 or posted.notes[other, POSTING] == PLACES:
            continue
        first, covers = steps[other, FIRST], True
        for unit in range(low, steps[number, UNIT_HIGH] + 1):
            most = 0
            for completion in range(first, first + completions_of(clocks, other)):
                most = max(most, ends[completion, BEFORE + unit])
            covers &= most >= ends[steps[number, FIRST] + unit - low, PLACE]
        if covers:
            return int(other)
    return number


@compiled
def _from_pool(clocks: Clocks, posted: Posted, number: int, n: int) -> tuple[int, int]:
    """Return the gang that posts, `number` or one after it, and its semaphore; or -1 twice."""
    short = posted.state[USED] >= len(posted.semaphores) * (RESERVE - 1) // RESERVE
    begin = KEPT if short and clocks.steps[n, QUEUE_LOW] >= TIER0 else 0
    semaphore = _fitting(clocks, posted, number, n, begin)
    if semaphore < 0 and short:
        number = _gang_after(clocks, posted, number)
        semaphore = _fitting(clocks, posted, number, n, begin)
    if semaphore < 0 and posted.state[USED] == len(posted.semaphores):
        semaphore = _fitting(clocks, posted, number, n, 0)
    if semaphore < 0:
        semaphore = _semaphore(posted, -1, -1)
        if semaphore < 0:
            return -1, -1
        posted.semaphores[posted.state[POOLED], POOL] = semaphore
        posted.state[POOLED] += 1
    return number, semaphore


@compiled
def ask_for_carrier(posted: Posted, queue: int, r: int) -> int:
    """Ask for a harmless instruction in a queue."""
    if posted.state[CARRIER + queue] < 0:
        return fail(posted, NO_CARRIER, r, queue)
    posted.state[WANTED] = queue
    return -1


@compiled
def _poster(clocks: Clocks, posted: Posted, earlier: int, r: int) -> int:
    """Return the first instruction with a post to spare that completes after all of `earlier`, or as it does, or -1."""
    if posted.notes[earlier, POSTING] < PLACES:
        return earlier
    number = _later_poster(clocks, posted, earlier)
    if number >= 0:
        return number
    for queue in CARRIERS:  # a unit that has come past it already
        latest = clocks.now[LATEST_OWNED, queue]
        if latest >= 0 and _covers(clocks, latest, earlier):
            return ask_for_carrier(posted, queue, r)
    return fail(posted, TOO_MANY_POSTS, posted.notes[earlier, ORIGIN], -1)


@compiled
def order_after(clocks: Clocks, posted: Posted, r: int, earlier: int, who: int) -> int:
    """Let the instruction that was begun, whose waits are row `who` of `Pending`, wait for `earlier`.

    Row `r` has the plain instruction that it is, or that it is put in for.

    Returns
    -------
    int
        0, or -1: a carrier has to come first (``posted.state[WANTED]``), or something is wrong.
    """
    n, steps, notes, pending = clocks.now[COUNTS, 0], clocks.steps, posted.notes, posted.pending
    low, high = steps[n, QUEUE_LOW], steps[n, QUEUE_HIGH]
    consumer = PAIR if steps[n, OPCODE] == Opcode.LOAD and low < high else low
    if pending[who, 0] == PLACES:
        if consumer >= TIER0 or who == OTHER:  # a carrier cannot wait for it
            return fail(posted, TOO_MANY_WAITS, r, -1)
        for column in range(pending.shape[1]):
            pending[1, column] = pending[0, column]
        pending[0, 0] = 0
        return ask_for_carrier(posted, low, r)
    number = earlier
    if completions_of(clocks, number) == 1 or notes[number, POSTING] == PLACES:
        number = _poster(clocks, posted, earlier, r)
        if number < 0:
            return -1
    if completions_of(clocks, number) > 1:
        number, semaphore = _from_pool(clocks, posted, number, n)
    else:
        unit = steps[number, UNIT_LOW]
        semaphore = posted.pairs[unit, consumer]
        if semaphore < 0:
            semaphore = _semaphore(posted, unit, consumer)
            posted.pairs[unit, consumer] = semaphore
    if semaphore < 0:
        return -1
    notes[number, POSTS + notes[number, POSTING]] = semaphore
    notes[number, POSTING] += 1
    posted.semaphores[semaphore, POSTER] = number
    place = 0
    while place < pending[who, 0] and pending[who, 1 + 2 * place] != semaphore:
        place += 1
    if place == pending[who, 0]:
        pending[who, 0] += 1
        pending[who, 1 + 2 * place], pending[who, 2 + 2 * place] = semaphore, 0
    # The same semaphore again: its unit now posts for a later instruction as well.
    pending[who, 2 + 2 * place] += completions_of(clocks, number)
    return 0
