# SPDX-License-Identifier: Apache-2.0
"""What the waits of a stream guarantee, whatever the timing.

A wait is granted when its semaphore's counter has reached the count: some posts have been made, but which? The answer
is a *claim*: for every wait a set of posts that surely come first. A claim may be used to prove itself, by induction
over the grants in the order in which they happen: if, before some moment, every grant came after the posts claimed for
it, then everything that happened so far happened in the order that the claim implies; and if in that order the counter
cannot reach the count without a certain post, the next grant comes after that post too. So a claim holds as soon as the
order that it implies is enough to show it. The first claim is that a wait comes after the posts which satisfy it in
program order; what cannot be shown is taken out until the rest can.

Posts of one unit are made in order, so that a set of them is a number: the first so many.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from scheduler.stream.clocks import (
    ASKED,
    BEFORE,
    COUNTS,
    FIRST,
    GRANT,
    GRANTS,
    PLACE,
    QUEUE_LOW,
    QUEUED,
    UNIT_HIGH,
    UNIT_LOW,
    UNITS,
    Clocks,
    begin,
    complete_after,
    completions_of,
    enter,
    note_fields,
    restart,
    wait_for,
    was_granted,
)
from scheduler.stream.compiled import compiled
from scheduler.stream.conflicts import Loads
from scheduler.stream.table import COL, Rows

__all__ = ["Claim", "Semaphores", "deadlock", "overflows", "semaphores_of", "settle", "stolen"]

Claim = npt.NDArray[np.int32]
"""Shape [waits, UNITS]: how many of a unit's posts come before each wait is granted."""

Places = npt.NDArray[np.int32]
"""Shape [semaphores, UNITS, UNITS]: how far something has come in some list, by semaphore, unit or queue of the list,
and unit or queue that asks; it never goes back."""

Numbers = npt.NDArray[np.int32]

MAX_PASSES = 64


class Semaphores(NamedTuple):
    """The waits and posts of a stream.

    Attributes
    ----------
    waits : int32 array [waits, 3]
        In program order: the instruction, the semaphore, the count.
    chain : int32 array [posts]
        Completions that post, by semaphore and unit, in order.
    chain_at : int32 array [semaphores * UNITS + 1]
        Where those of each semaphore and unit begin.
    turn : int32 array [posts, 2]
        Units that post and their completions, by semaphore, in program order.
    turn_at : int32 array [semaphores + 1]
        Where those of each semaphore begin.
    waiters : int32 array [waits, 2]
        By semaphore and queue, in order: the instruction, and the sum of the counts up to it.
    waiters_at : int32 array [semaphores * UNITS + 1]
        Where those of each semaphore and queue begin.
    first : int32 array [semaphores]
        The first post of each semaphore, counted over all posts of the stream; -1: none.
    """

    waits: Numbers
    chain: Numbers
    chain_at: Numbers
    turn: Numbers
    turn_at: Numbers
    waiters: Numbers
    waiters_at: Numbers
    first: Numbers


@compiled
def _control(rows: Rows, n: int, control: Numbers) -> None:
    """Write down semaphore and count of both waits of an instruction, then semaphore and 1 or 0 of both posts."""
    control[0], control[1] = rows[n, COL.wait0_sem], rows[n, COL.wait0_count]
    control[2], control[3] = rows[n, COL.wait1_sem], rows[n, COL.wait1_count]
    control[4], control[5] = rows[n, COL.post0_sem], rows[n, COL.post0_en]
    control[6], control[7] = rows[n, COL.post1_sem], rows[n, COL.post1_en]


@compiled
def _count(
    rows: Rows, clocks: Clocks, chain_at: Numbers, turn_at: Numbers, waiters_at: Numbers, first: Numbers,
    control: Numbers,
) -> int:  # fmt: skip
    """Count waits and posts one place behind where they will begin; return how many waits there are."""
    waits, posts, steps = 0, 0, clocks.steps
    for n in range(len(rows)):
        _control(rows, n, control)
        for place in range(0, 4, 2):
            if control[place + 1]:
                waiters_at[control[place] * UNITS + steps[n, QUEUE_LOW] + 1] += 1
                waits += 1
        for place in range(4, 8, 2):
            if control[place + 1]:
                semaphore = control[place]
                if first[semaphore] < 0:
                    first[semaphore] = posts
                posts += 1
                turn_at[semaphore + 1] += completions_of(clocks, n)
                for unit in range(steps[n, UNIT_LOW], steps[n, UNIT_HIGH] + 1):
                    chain_at[semaphore * UNITS + unit + 1] += 1
    return waits


@compiled
def _fill(
    rows: Rows, clocks: Clocks, semaphores: Semaphores, chains: Numbers, turns: Numbers, queues: Numbers,
    control: Numbers,
) -> None:  # fmt: skip
    """Put waits and posts to their places; the last arrays say where the next of each kind goes."""
    wait, steps = 0, clocks.steps
    for n in range(len(rows)):
        _control(rows, n, control)
        for place in range(0, 4, 2):
            if control[place + 1]:
                semaphore, count = control[place], control[place + 1]
                semaphores.waits[wait, 0], semaphores.waits[wait, 1], semaphores.waits[wait, 2] = n, semaphore, count
                wait += 1
                key = semaphore * UNITS + steps[n, QUEUE_LOW]
                at = queues[key]
                before = semaphores.waiters[at - 1, 1] if at > semaphores.waiters_at[key] else 0
                semaphores.waiters[at, 0], semaphores.waiters[at, 1] = n, before + count
                queues[key] = at + 1
        # All of a completion's posts come before those of the next one.
        for unit in range(steps[n, UNIT_LOW], steps[n, UNIT_HIGH] + 1):
            completion = steps[n, FIRST] + unit - steps[n, UNIT_LOW]
            for place in range(4, 8, 2):
                if control[place + 1]:
                    semaphore = control[place]
                    at = turns[semaphore]
                    semaphores.turn[at, 0], semaphores.turn[at, 1] = unit, completion
                    turns[semaphore] = at + 1
                    key = semaphore * UNITS + unit
                    semaphores.chain[chains[key]] = completion
                    chains[key] += 1


def semaphores_of(rows: Rows, clocks: Clocks, semaphores: int) -> Semaphores:
    """Return the waits and posts of a stream whose fields have been noted in `clocks`."""
    chain_at, waiters_at = np.zeros((2, semaphores * UNITS + 1), np.int32)
    turn_at, first = np.zeros(semaphores + 1, np.int32), np.full(semaphores, -1, np.int32)
    control = np.zeros(8, np.int32)
    waits = _count(rows, clocks, chain_at, turn_at, waiters_at, first, control)
    for begins in (chain_at, turn_at, waiters_at):
        np.cumsum(begins, out=begins)
    result = Semaphores(
        np.zeros((waits, 3), np.int32), np.zeros(chain_at[-1], np.int32), chain_at,
        np.zeros((turn_at[-1], 2), np.int32), turn_at, np.zeros((waits, 2), np.int32), waiters_at, first,
    )  # fmt: skip
    _fill(rows, clocks, result, chain_at.copy(), turn_at.copy(), waiters_at.copy(), control)
    return result


@compiled
def deadlock(rows: Rows, clocks: Clocks, values: Numbers) -> tuple[int, int, int]:
    """Return the first wait that finds too few posts in program order: instruction, semaphore and count, or -1 thrice.

    On the way, the fields of the instructions are noted.

    Parameters
    ----------
    values : int32 array [semaphores]
        Zero; counters as that instruction finds them afterwards.
    """
    first = 0
    for n in range(len(rows)):
        note_fields(clocks.steps, n, rows, n, first)
        first += completions_of(clocks, n)
        for place in range(2):
            semaphore, count = rows[n, COL.wait0_sem], rows[n, COL.wait0_count]
            if place:
                semaphore, count = rows[n, COL.wait1_sem], rows[n, COL.wait1_count]
            if values[semaphore] < count:
                return n, int(semaphore), int(count)
            values[semaphore] -= count
        if rows[n, COL.post0_en]:
            values[rows[n, COL.post0_sem]] += completions_of(clocks, n)
        if rows[n, COL.post1_en]:
            values[rows[n, COL.post1_sem]] += completions_of(clocks, n)
    return -1, -1, -1


@compiled
def _in_program_order(semaphores: Semaphores, claim: Claim, taken: Numbers, used: Numbers) -> None:
    """Claim that every wait comes after the posts that satisfy it in program order."""
    for wait in range(len(claim)):
        semaphore = semaphores.waits[wait, 1]
        for _ in range(semaphores.waits[wait, 2]):
            used[semaphore, semaphores.turn[semaphores.turn_at[semaphore] + taken[semaphore], 0]] += 1
            taken[semaphore] += 1
        for unit in range(UNITS):
            claim[wait, unit] = used[semaphore, unit]


@compiled
def _order(rows: Rows, clocks: Clocks, semaphores: Semaphores, claim: Claim, tagged: Loads, tagged_at: Numbers) -> None:
    """Find the order that a claim implies."""
    wait, steps = 0, clocks.steps
    for r in range(len(rows)):
        n = begin(clocks, rows, r)
        while wait < len(claim) and semaphores.waits[wait, 0] == n:
            at = semaphores.waits[wait, 1] * UNITS
            for unit in range(UNITS):
                if claim[wait, unit]:
                    wait_for(clocks, n, semaphores.chain[semaphores.chain_at[at + unit] + claim[wait, unit] - 1])
            wait += 1
        for place in range(tagged_at[n], tagged_at[n + 1]):
            complete_after(clocks, steps[n, FIRST], steps[tagged[place], FIRST])
        enter(clocks, n)


@compiled
def _taken(
    clocks: Clocks, semaphores: Semaphores, places: Places, semaphore: int, by: int, clock: Numbers, n: int, column: int
) -> int:
    """Return what the waits whose grant is among some grants have taken from a semaphore.

    Parameters
    ----------
    by : int
        The queue or unit that asks: its later questions are about no fewer grants.
    clock, n, column
        Where the grants are.
    """
    total = 0
    for queue in range(UNITS):
        at = semaphores.waiters_at[semaphore * UNITS + queue]
        many, most = places[semaphore, queue, by], semaphores.waiters_at[semaphore * UNITS + queue + 1] - at
        while many < most and clocks.steps[semaphores.waiters[at + many, 0], QUEUED] <= clock[n, column + queue]:
            many += 1
        places[semaphore, queue, by] = many
        if many:
            total += semaphores.waiters[at + many - 1, 1]
    return total


@compiled
def _show(clocks: Clocks, semaphores: Semaphores, claim: Claim, taken: Places, possible: Places) -> None:
    """Claim what can be shown when everything that has happened so far happened in the order of `clocks`."""
    steps = clocks.steps
    for wait in range(len(claim)):
        n, semaphore, count = semaphores.waits[wait, 0], semaphores.waits[wait, 1], semaphores.waits[wait, 2]
        queue = steps[n, QUEUE_LOW]
        # What earlier waits have surely taken has been posted too.
        spare = -count - _taken(clocks, semaphores, taken, semaphore, queue, steps, n, ASKED)
        # Posts that may come before the grant: not those that follow it.
        for unit in range(UNITS):
            at = semaphores.chain_at[semaphore * UNITS + unit]
            many, most = possible[semaphore, unit, queue], semaphores.chain_at[semaphore * UNITS + unit + 1] - at
            while many < most and clocks.ends[semaphores.chain[at + many], GRANTS + queue] < steps[n, QUEUED]:
                many += 1
            possible[semaphore, unit, queue] = many
            spare += many
        for unit in range(UNITS):
            claim[wait, unit] = max(possible[semaphore, unit, queue] - max(spare, 0), 0)


def settle(rows: Rows, clocks: Clocks, semaphores: Semaphores, tagged: Loads, tagged_at: Numbers) -> None:
    """Find the order that queues, semaphores and tags guarantee; afterwards it is in `clocks`.

    Parameters
    ----------
    rows
        A stream whose waits find their posts in program order.
    clocks
        Room for the order.
    semaphores
        The stream's waits and posts.
    tagged, tagged_at
        Loads whose last tile a GEMM reads by tag, of all instructions, and where those of each begin.
    """
    many = len(semaphores.turn_at) - 1
    claim, shown = np.zeros((2, len(semaphores.waits), UNITS), np.int32)
    _in_program_order(semaphores, claim, np.zeros(many, np.int32), np.zeros((many, UNITS), np.int32))

    def order() -> None:
        restart(clocks)
        _order(rows, clocks, semaphores, claim, tagged, tagged_at)
        places = np.zeros((2, many, UNITS, UNITS), np.int32)
        _show(clocks, semaphores, shown, places[0], places[1])

    order()
    for _ in range(MAX_PASSES):
        fewer = np.minimum(claim, shown)
        if np.array_equal(fewer, claim):
            break
        claim[:] = fewer
        order()
    else:
        claim[:] = 0  # nothing: this needs no proof
        order()
    # The claim holds. So does all that it shows, and so on.
    for _ in range(MAX_PASSES):
        if np.array_equal(shown, claim):
            break
        claim[:] = shown
        order()


@compiled
def _overflow(clocks: Clocks, semaphores: Semaphores, semaphore: int, most: int, taken: Places, later: Places) -> int:
    """Return the first completion whose post may make a semaphore count beyond `most`, or -1."""
    ends, first, end = clocks.ends, semaphores.turn_at[semaphore], semaphores.turn_at[semaphore + 1]
    for post in range(first, end):
        unit, completion = semaphores.turn[post, 0], semaphores.turn[post, 1]
        surely = -1  # other posts that come later
        for other in range(UNITS):
            at = semaphores.chain_at[semaphore * UNITS + other]
            many, length = later[semaphore, other, unit], semaphores.chain_at[semaphore * UNITS + other + 1] - at
            while many < length and ends[semaphores.chain[at + many], BEFORE + unit] < ends[completion, PLACE]:
                many += 1
            later[semaphore, other, unit] = many
            surely += length - many
        used = _taken(clocks, semaphores, taken, semaphore, unit, ends, completion, GRANTS)
        if end - first - surely - used > most:
            return int(completion)
    return -1


def overflows(clocks: Clocks, semaphores: Semaphores, most: int) -> list[tuple[int, int]]:
    """Return the semaphores that may count beyond `most`, each with the first instruction that may make it.

    Parameters
    ----------
    clocks, semaphores
        Of the stream, in an order that holds, such as the one that :func:`settle` finds.
    most : int
        What a counter can hold.
    """
    many = len(semaphores.turn_at) - 1
    taken, later = np.zeros((2, many, UNITS, UNITS), np.int32)
    found = []
    for semaphore in np.argsort(semaphores.first, kind="stable").tolist():
        if semaphores.turn_at[semaphore + 1] - semaphores.turn_at[semaphore] <= most:
            continue
        completion = _overflow(clocks, semaphores, semaphore, most, taken, later)
        if completion >= 0:
            steps = clocks.steps[: clocks.now[COUNTS, 0], FIRST]
            found.append((semaphore, int(np.searchsorted(steps, completion, side="right")) - 1))
    return found


@compiled
def _stolen(clocks: Clocks, semaphores: Semaphores, last: Numbers, thefts: Numbers) -> int:
    """Write down the waits (earlier, later) for one semaphore whose order is open; return how many there are."""
    many = 0
    for wait in range(len(semaphores.waits)):
        n, semaphore = semaphores.waits[wait, 0], semaphores.waits[wait, 1]
        earlier = last[semaphore]
        if earlier >= 0 and not was_granted(clocks, GRANT, n, earlier):
            thefts[many, 0], thefts[many, 1], thefts[many, 2] = earlier, n, semaphore
            many += 1
        last[semaphore] = n
    return many


def stolen(clocks: Clocks, semaphores: Semaphores) -> list[tuple[int, int, int]]:
    """Return neighbouring waits for one semaphore whose order is open: both instructions and the semaphore."""
    thefts = np.zeros((len(semaphores.waits), 3), np.int32)
    many = _stolen(clocks, semaphores, np.full(len(semaphores.turn_at) - 1, -1, np.int32), thefts)
    return [(earlier, later, semaphore) for earlier, later, semaphore in thefts[:many].tolist()]
