# SPDX-License-Identifier: Apache-2.0
"""The loop that puts waits, posts and carriers into a plain stream."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hdl.isa import Opcode
from scheduler.stream.blocks import Blocks
from scheduler.stream.clocks import (
    ASKED,
    BEFORE,
    COMPLETED,
    COUNTS,
    FIRST,
    GRANTED,
    LATEST_OWNED,
    LOAD0,
    LOAD1,
    OPCODE,
    PLACE,
    QUEUE_HIGH,
    QUEUE_LOW,
    QUEUED,
    STORE,
    TIER0,
    UNIT_HIGH,
    UNIT_LOW,
    UNITS,
    VECTOR,
    Clocks,
    begin,
    complete_after,
    completions_of,
    done_before,
    enter,
    wait_for,
)
from scheduler.stream.compiled import compiled
from scheduler.stream.footprints import footprint
from scheduler.stream.hazards import (
    Cells,
    Loads,
    conflict_in_memory,
    conflict_of,
    note_cells,
    tag_loads,
)
from scheduler.stream.lists import TokenLists, apply_lists
from scheduler.stream.machine import Machine
from scheduler.stream.spans import (
    LOADS,
    STORES,
    Segments,
    Spans,
    experts_of,
    new_spans,
    note_spans,
    spans,
)
from scheduler.stream.table import COL, Rows

__all__ = [
    "CARRIERS", "FULL", "NO_CARRIER", "NO_SEMAPHORE", "OUTSIDE", "PAIR", "PLACES", "TOO_MANY_POSTS", "TOO_MANY_WAITS",
    "WRONG", "Posted", "new_posted", "run",
]  # fmt: skip

PAIR = UNITS
"""Stands for the two queues in which a PAIR load waits."""

PLACES = 2
"""Waits, and posts, of an instruction."""

CARRIERS = (VECTOR, STORE, LOAD0, LOAD1)
"""Queues that can take a harmless instruction, in the order in which they are asked to."""

RELAY = STORE
"""The queue that waits for another which takes no carriers, a tier's or a PAIR load's, with more to wait for than
places."""

MOST_RELAYED = 64
"""Instructions that one waits for by a relay."""

Notes = npt.NDArray[np.int32]
"""Shape [instructions, 10]: the stream with its semaphores."""

SOURCE, ORIGIN, WAITING, WAITS, POSTING, POSTS = 0, 1, 2, 3, 7, 8
"""Columns of `Notes`: the row of an instruction, the plain instruction that it belongs to, how many waits it has and
semaphore and count of each, how many posts and the semaphore of each."""

Semaphores = npt.NDArray[np.int32]
"""Shape [semaphores, UNITS + 2]: for each queue the place there of the last instruction that waited for a semaphore
(none: -1), then the instruction that was last made to post it."""

POSTER, POOL = UNITS, UNITS + 1
"""Columns of `Semaphores`. The second is a list of the semaphores for gangs, in the order of their first use."""

Pairs = npt.NDArray[np.int32]
"""Shape [UNITS, UNITS + 1]: the semaphore from each unit to each queue, or -1."""

Chain = npt.NDArray[np.int32]
"""Shape [UNITS, instructions]: the instructions that each unit completes, in order."""

State = npt.NDArray[np.int64]
"""Shape [5 + UNITS]."""

USED, POOLED, WRONG = range(3)
CARRIER = 5
"""Places in `State`: semaphores in use, those of the pool, what is wrong (one of the codes below, and two numbers), and
for each queue the row of its carrier, or -1."""

OUTSIDE, TOO_MANY_WAITS, TOO_MANY_POSTS, NO_CARRIER, NO_SEMAPHORE, FULL = range(1, 7)
"""What can be wrong: an access through a list leaves its memory (plain instruction, kind plus three times the space);
an instruction has to wait, or post, too often (plain instruction); there is no carrier (plain instruction, queue) or no
semaphore left (unit, queue; a gang: -1); the room is full."""


class Posted(NamedTuple):
    """The stream with its semaphores, and what is known of these.

    Attributes
    ----------
    notes, semaphores, pairs, chain, state
        See above.
    tagged, tagged_at
        Loads whose last tile a GEMM reads by tag: all of them, and where those of each instruction begin.
    blocks, found
        What a carrier touches.
    wanted, own
        What one instruction has yet to wait for (the rest: -1), and the waits that it has while others do that.
    """

    notes: Notes
    semaphores: Semaphores
    pairs: Pairs
    chain: Chain
    state: State
    tagged: Loads
    tagged_at: Loads
    blocks: Blocks
    found: Spans
    wanted: Loads
    own: Loads


def new_posted(instructions: int, semaphores: int, tiles: int, carriers: Mapping[int, int]) -> Posted:
    """Return room for a stream.

    Parameters
    ----------
    instructions : int
        The most that it can have.
    semaphores, tiles : int
        The machine's; tiles are those of all tiers.
    carriers : mapping of int to int
        Rows of the queues' carriers.
    """
    state = np.zeros(CARRIER + UNITS, np.int64)
    state[CARRIER:] = -1
    for queue, row in carriers.items():
        state[CARRIER + queue] = row
    return Posted(
        np.zeros((instructions, 10), np.int32), np.full((semaphores, UNITS + 2), -1, np.int32),
        np.full((UNITS, UNITS + 1), -1, np.int32), np.zeros((UNITS, instructions), np.int32), state,
        np.zeros(instructions + tiles, np.int32), np.zeros(instructions + 1, np.int32), np.zeros((32, 8), np.int64),
        new_spans(), np.full(MOST_RELAYED, -1, np.int32), np.zeros(POSTING - WAITING, np.int32),
    )  # fmt: skip


@compiled
def write_out(rows: Rows, notes: Notes, result: Rows) -> None:
    """Write the stream with its semaphores into `result`."""
    for n in range(len(result)):
        for column in range(rows.shape[1]):
            result[n, column] = rows[notes[n, SOURCE], column]
        if notes[n, WAITING]:
            result[n, COL.wait0_sem], result[n, COL.wait0_count] = notes[n, WAITS], notes[n, WAITS + 1]
        if notes[n, WAITING] > 1:
            result[n, COL.wait1_sem], result[n, COL.wait1_count] = notes[n, WAITS + 2], notes[n, WAITS + 3]
        if notes[n, POSTING]:
            result[n, COL.post0_sem], result[n, COL.post0_en] = notes[n, POSTS], 1
        if notes[n, POSTING] > 1:
            result[n, COL.post1_sem], result[n, COL.post1_en] = notes[n, POSTS + 1], 1


@compiled
def _fail(state: State, code: int, first: int, second: int) -> int:
    state[WRONG], state[WRONG + 1], state[WRONG + 2] = code, first, second
    return -1


@compiled
def _resume(clocks: Clocks, posted: Posted, rows: Rows, r: int) -> int:
    """Begin the instruction in row `r` (again), with the waits that it has so far; return its number."""
    n, notes = begin(clocks, rows, r), posted.notes
    for wait in range(notes[n, WAITING]):
        number = posted.semaphores[notes[n, WAITS + 2 * wait], POSTER]
        first = clocks.steps[number, FIRST]
        for completion in range(first, first + completions_of(clocks, number)):
            wait_for(clocks, n, completion)
    return n


@compiled
def _append(
    clocks: Clocks, cells: Cells, segments: Segments, posted: Posted, r: int, origin: int, machine: Machine,
    blocks: Blocks, many: int, found: Spans, reaches: int,
) -> None:  # fmt: skip
    """Let the instruction that was begun, which is in row `r`, become a part of the stream."""
    steps, now = clocks.steps, clocks.now
    notes, semaphores, chain = posted.notes, posted.semaphores, posted.chain
    n = now[COUNTS, 0]
    notes[n, SOURCE], notes[n, ORIGIN] = r, origin
    if steps[n, OPCODE] == Opcode.GEMM:
        posted.tagged_at[n + 1] = tag_loads(clocks, cells, machine, blocks, many, posted.tagged, posted.tagged_at[n])
        for place in range(posted.tagged_at[n], posted.tagged_at[n + 1]):
            complete_after(clocks, steps[n, FIRST], steps[posted.tagged[place], FIRST])
    else:
        posted.tagged_at[n + 1] = posted.tagged_at[n]
    enter(clocks, n)
    for unit in range(steps[n, UNIT_LOW], steps[n, UNIT_HIGH] + 1):
        chain[unit, now[COMPLETED, unit] - 1] = n
    load = steps[n, OPCODE] == Opcode.LOAD
    if load and steps[n, QUEUE_HIGH] > steps[n, QUEUE_LOW]:
        chain[LOAD1, now[COMPLETED, LOAD1] - 1] = n
    note_cells(clocks, cells, n, machine, blocks, many)
    if reaches:
        note_spans(found, reaches, segments, LOADS if load else STORES, n)
    for wait in range(notes[n, WAITING]):
        semaphores[notes[n, WAITS + 2 * wait], steps[n, QUEUE_LOW]] = steps[n, QUEUED]


@compiled
def _append_carrier(
    clocks: Clocks, cells: Cells, segments: Segments, posted: Posted, lists: TokenLists, rows: Rows, queue: int,
    origin: int, machine: Machine,
) -> int:  # fmt: skip
    """Put a harmless instruction into a queue, with the waits of the instruction that was begun; return its number."""
    r = posted.state[CARRIER + queue]
    if r < 0:
        return _fail(posted.state, NO_CARRIER, origin, queue)
    if clocks.now[COUNTS, 0] + 2 >= len(posted.notes):
        return _fail(posted.state, FULL, 0, 0)
    n = _resume(clocks, posted, rows, r)
    blocks, found = posted.blocks, posted.found
    many = footprint(rows, r, machine, lists, blocks)
    reaches = spans(rows, r, machine, 0, found)
    _append(clocks, cells, segments, posted, r, origin, machine, blocks, many, found, reaches)
    return n


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
    steps, chain, best = clocks.steps, posted.chain, -1
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
        return _fail(posted.state, NO_SEMAPHORE, unit, queue)
    posted.state[USED] = number + 1
    return int(number)


@compiled
def _from_pool(clocks: Clocks, posted: Posted, number: int, n: int) -> int:
    """Return a semaphore for gang `number` whose earlier waiters can neither take its posts nor lose theirs to `n`."""
    steps, notes, semaphores, state = clocks.steps, posted.notes, posted.semaphores, posted.state
    for place in range(state[POOLED]):
        semaphore = semaphores[place, POOL]
        fits = True
        for wait in range(posted.own[0]):  # while others wait for what is left
            fits &= posted.own[1 + 2 * wait] != semaphore
        for side in range(2):
            own = n if side else number
            for wait in range(notes[own, WAITING]):
                fits &= notes[own, WAITS + 2 * wait] != semaphore
        for queue in range(UNITS):
            waiter = semaphores[semaphore, queue]
            fits &= waiter <= steps[number, GRANTED + queue] and waiter <= steps[n, ASKED + queue]
        if fits:
            return int(semaphore)
    semaphore = _semaphore(posted, -1, -1)
    if semaphore >= 0:
        semaphores[state[POOLED], POOL] = semaphore
        state[POOLED] += 1
    return semaphore


@compiled
def _poster(
    clocks: Clocks, cells: Cells, segments: Segments, posted: Posted, lists: TokenLists, rows: Rows, earlier: int,
    origin: int, machine: Machine,
) -> int:  # fmt: skip
    """Return the first instruction with a post to spare that completes after all of `earlier`, or as it does."""
    now, notes = clocks.now, posted.notes
    if notes[earlier, POSTING] < PLACES:
        return earlier
    number = _later_poster(clocks, posted, earlier)
    if number >= 0:
        return number
    for queue in CARRIERS:  # a unit that has come past it already
        latest = now[LATEST_OWNED, queue]
        if latest >= 0 and _covers(clocks, latest, earlier):
            n = now[COUNTS, 0]
            waiting = notes[n, WAITING]
            notes[n, WAITING] = 0
            number = _append_carrier(clocks, cells, segments, posted, lists, rows, queue, origin, machine)
            if number >= 0:  # the waits are those of the instruction that comes next
                notes[n + 1, WAITING] = waiting
                for column in range(WAITS, POSTING):
                    notes[n + 1, column] = notes[n, column]
            return number
    return _fail(posted.state, TOO_MANY_POSTS, notes[earlier, ORIGIN], 0)


@compiled
def _order_after(
    clocks: Clocks, cells: Cells, segments: Segments, posted: Posted, lists: TokenLists, rows: Rows, r: int,
    earlier: int, origin: int, machine: Machine,
) -> int:  # fmt: skip
    """Let the instruction that was begun, in row `r`, wait for `earlier`; return the number that it has then, or -1."""
    steps, now, notes, semaphores, pairs = clocks.steps, clocks.now, posted.notes, posted.semaphores, posted.pairs
    n = now[COUNTS, 0]
    low, high = steps[n, QUEUE_LOW], steps[n, QUEUE_HIGH]
    consumer = PAIR if steps[n, OPCODE] == Opcode.LOAD and low < high else low
    if notes[n, WAITING] == PLACES:
        if consumer >= TIER0:  # a carrier cannot wait for it
            return _fail(posted.state, TOO_MANY_WAITS, origin, 0)
        if _append_carrier(clocks, cells, segments, posted, lists, rows, low, origin, machine) < 0:
            return -1
        begin(clocks, rows, r)
    number = earlier
    if completions_of(clocks, number) == 1 or notes[number, POSTING] == PLACES:
        number = _poster(clocks, cells, segments, posted, lists, rows, earlier, origin, machine)
        if number < 0:
            return -1
    n = now[COUNTS, 0]
    if completions_of(clocks, number) > 1:
        semaphore = _from_pool(clocks, posted, number, n)
    else:
        unit = steps[number, UNIT_LOW]
        semaphore = pairs[unit, consumer]
        if semaphore < 0:
            semaphore = _semaphore(posted, unit, consumer)
            pairs[unit, consumer] = semaphore
    if semaphore < 0:
        return -1
    notes[number, POSTS + notes[number, POSTING]] = semaphore
    notes[number, POSTING] += 1
    semaphores[semaphore, POSTER] = number
    place = 0
    while place < notes[n, WAITING] and notes[n, WAITS + 2 * place] != semaphore:
        place += 1
    if place == notes[n, WAITING]:
        notes[n, WAITING] += 1
        notes[n, WAITS + 2 * place] = semaphore
        notes[n, WAITS + 2 * place + 1] = 0
    # The same semaphore again: its unit now posts for a later instruction as well.
    notes[n, WAITS + 2 * place + 1] += completions_of(clocks, number)
    return _resume(clocks, posted, rows, r)


@compiled
def _takes_carriers(clocks: Clocks, n: int) -> bool:
    """Return whether a harmless instruction can wait for `n`, in its own queue."""
    steps = clocks.steps
    low, high = steps[n, QUEUE_LOW], steps[n, QUEUE_HIGH]
    return bool(low < TIER0 and low == high)


@compiled
def _left(
    clocks: Clocks, cells: Cells, segments: Segments, posted: Posted, rows: Rows, r: int, blocks: Blocks, many: int,
    found: Spans, reaches: int, tree: int, wanted: Notes,
) -> int:  # fmt: skip
    """Return how many instructions the one that was begun, in row `r`, has yet to wait for, and which: in `wanted`."""
    n, count = clocks.now[COUNTS, 0], 0
    while count < len(wanted):
        worst = conflict_of(clocks, cells, n, blocks, many)
        if reaches:
            worst = max(worst, conflict_in_memory(clocks, n, found, reaches, segments, tree))
        if worst < 0:
            break
        wanted[count] = worst
        count += 1
        first = clocks.steps[worst, FIRST]
        for completion in range(first, first + completions_of(clocks, worst)):
            wait_for(clocks, n, completion)
    for place in range(count, len(wanted)):
        wanted[place] = -1
    _resume(clocks, posted, rows, r)
    return count


@compiled
def _relay(
    clocks: Clocks, cells: Cells, segments: Segments, posted: Posted, lists: TokenLists, rows: Rows, r: int,
    machine: Machine, wanted: Notes,
) -> int:  # fmt: skip
    """Let another queue wait for all that is `wanted`, and the instruction that was begun, in row `r`, for that."""
    notes, state, own, n = posted.notes, posted.state, posted.own, clocks.now[COUNTS, 0]
    for place in range(len(own)):
        own[place] = notes[n, WAITING + place]
        notes[n, WAITING + place] = 0
    row = state[CARRIER + RELAY]
    if row < 0:
        return _fail(state, NO_CARRIER, r, RELAY)
    begin(clocks, rows, row)
    for number in wanted:
        if number >= 0:
            if clocks.now[COUNTS, 0] + 4 >= len(notes):
                return _fail(state, FULL, 0, 0)
            if done_before(clocks, clocks.now[COUNTS, 0], number, -1):
                continue  # the relay's queue has waited for it; a post for it once more would be another's
            if _order_after(clocks, cells, segments, posted, lists, rows, row, number, r, machine) < 0:
                return -1
    relay = _append_carrier(clocks, cells, segments, posted, lists, rows, RELAY, r, machine)
    if relay < 0:
        return -1
    n = clocks.now[COUNTS, 0]
    for place in range(len(own)):
        notes[n, WAITING + place] = own[place]
    own[0] = 0
    _resume(clocks, posted, rows, r)
    return _order_after(clocks, cells, segments, posted, lists, rows, r, relay, r, machine)


@compiled
def run(
    rows: Rows, plain: int, machine: Machine, lists: TokenLists, cells: Cells, clocks: Clocks, segments: Segments,
    posted: Posted, blocks: Blocks, found: Spans,
) -> int:  # fmt: skip
    """Put semaphores into the first `plain` rows; return the number of instructions, or -1: see `posted.state`."""
    now, notes, state = clocks.now, posted.notes, posted.state
    wanted = posted.wanted
    for r in range(plain):
        n = now[COUNTS, 0]
        if n + 2 >= len(notes) or posted.tagged_at[n] + machine.activation - machine.vcache > len(posted.tagged):
            return _fail(state, FULL, 0, 0)
        many = footprint(rows, r, machine, lists, blocks)
        if many < 0:
            return _fail(state, OUTSIDE, r, -1 - many)
        reaches = spans(rows, r, machine, experts_of(rows, machine, lists), found)
        tree = STORES if rows[r, COL.opcode] == Opcode.LOAD else LOADS
        n = begin(clocks, rows, r)
        while True:
            worst = conflict_of(clocks, cells, n, blocks, many)
            if reaches:
                worst = max(worst, conflict_in_memory(clocks, n, found, reaches, segments, tree))
            if worst < 0:
                break
            last = notes[n, WAITING] == PLACES - 1 and not _takes_carriers(clocks, n)
            if last and _left(clocks, cells, segments, posted, rows, r, blocks, many, found, reaches, tree, wanted) > 1:
                n = _relay(clocks, cells, segments, posted, lists, rows, r, machine, wanted)
            else:
                n = _order_after(clocks, cells, segments, posted, lists, rows, r, worst, r, machine)
            if n < 0:
                return -1
        _append(clocks, cells, segments, posted, r, r, machine, blocks, many, found, reaches)
        apply_lists(rows, r, machine, lists)
    return int(now[COUNTS, 0])
