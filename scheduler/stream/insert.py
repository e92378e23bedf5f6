# SPDX-License-Identifier: Apache-2.0
"""The loop that puts waits, posts and carriers into a plain stream."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hdl.isa import Opcode
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
from scheduler.stream.compiled import NONE, compiled, constant, wide
from scheduler.stream.conflicts import (
    Cells,
    Loads,
    conflict_in_memory,
    conflict_of,
    note_cells,
    tag_loads,
)
from scheduler.stream.machine import Machine
from scheduler.stream.segments import (
    LOADS,
    STORES,
    Segments,
    note_spans,
)
from scheduler.stream.table import COL, Rows
from scheduler.stream.touched import Touched

__all__ = [
    "CARRIERS", "FULL", "NO_CARRIER", "NO_SEMAPHORE", "ORIGIN", "PAIR", "PLACES", "TOO_MANY_POSTS", "TOO_MANY_WAITS",
    "WRONG", "Posted", "new_posted", "run", "write_out",
]  # fmt: skip

PAIR = constant(UNITS)
"""Stands for the two queues in which a PAIR load waits."""

PLACES = 2
"""Waits, and posts, of an instruction."""

CARRIERS = (VECTOR, STORE, LOAD0, LOAD1)
"""Queues that can take a harmless instruction, in the order in which they are asked to."""

Notes = npt.NDArray[np.int32]
"""Shape [instructions, 10]: the stream with its semaphores."""

SOURCE, ORIGIN, WAITING, WAITS, POSTING, POSTS = 0, 1, 2, 3, 7, 8
"""Columns of `Notes`: the row of an instruction, the plain instruction that it belongs to, how many waits it has and
semaphore and count of each, how many posts and the semaphore of each."""

Pending = npt.NDArray[np.int64]
"""Shape [2, 5]: how many waits, semaphore and count of each, for the next plain instruction and for its carrier."""

PLAIN, OTHER = map(constant, range(2))
"""Rows of `Pending`."""

Semaphores = npt.NDArray[np.int64]
"""Shape [semaphores, UNITS + 2]: for each queue the place there of the last instruction that waited for a semaphore
(none: -1), then the instruction that was last made to post it."""

POSTER, POOL = UNITS, UNITS + 1
"""Columns of `Semaphores`. The second is a list of the semaphores for gangs, in the order of their first use."""

Pairs = npt.NDArray[np.int64]
"""Shape [UNITS, UNITS + 1]: the semaphore from each unit to each queue, or -1."""

Chain = npt.NDArray[np.int32]
"""Shape [UNITS, instructions]: the instructions that each unit completes, in order."""

State = npt.NDArray[np.int64]
"""Shape [CARRIER + UNITS]."""

USED, POOLED, WRONG = range(3)
WANTED, RELAYING, RELAYED, CARRIER = 5, 6, 7, 8
"""Places in `State`: semaphores in use, those of the pool, what is wrong (one of the codes below, and two numbers), the
queue in which a carrier is wanted, whether that is a relay, the last relay of the next plain instruction (none: -1),
and for each queue the row of its carrier, or -1."""

RELAY = STORE
"""The queue that waits for another which takes no carriers, a tier's or a PAIR load's, with more to wait for than
places."""

TOO_MANY_WAITS, TOO_MANY_POSTS, NO_CARRIER, NO_SEMAPHORE, FULL = map(constant, range(1, 6))
"""What can be wrong: an instruction has to wait, or post, too often (plain instruction); there is no carrier (plain
instruction, queue) or no semaphore left (unit, queue; a gang: -1); the room is full."""


class Posted(NamedTuple):
    """The stream with its semaphores, and what is known of these.

    Attributes
    ----------
    notes, pending, semaphores, pairs, chain, state
        See above.
    tagged, tagged_at
        Loads whose last tile a GEMM reads by tag: all of them, and where those of each instruction begin.
    """

    notes: Notes
    pending: Pending
    semaphores: Semaphores
    pairs: Pairs
    chain: Chain
    state: State
    tagged: Loads
    tagged_at: Loads


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
    state[RELAYED:] = -1
    for queue, row in carriers.items():
        state[CARRIER + queue] = row
    return Posted(
        np.zeros((instructions, 10), np.int32), np.zeros((2, 5), np.int64),
        np.full((semaphores, UNITS + 2), -1, np.int64), np.full((UNITS, UNITS + 1), -1, np.int64),
        np.zeros((UNITS, instructions), np.int32), state, np.zeros(instructions + tiles, np.int32),
        np.zeros(instructions + 1, np.int32),
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
def _fail(posted: Posted, code: int, first: int, second: int) -> int:
    state = posted.state
    state[WRONG], state[WRONG + 1], state[WRONG + 2] = code, first, second
    return -1


@compiled
def _begin(clocks: Clocks, posted: Posted, rows: Rows, r: int, whose: int) -> int:
    """Begin the instruction in row `r` (again) with the waits that it has so far; return its number."""
    n, pending = begin(clocks, rows, r), posted.pending
    for wait in range(pending[whose, 0]):
        number = posted.semaphores[pending[whose, 1 + 2 * wait], POSTER]
        first = wide(clocks.steps[number, FIRST])
        for completion in range(first, first + completions_of(clocks, number)):
            wait_for(clocks, n, completion)
    return n


@compiled
def _append(
    clocks: Clocks, cells: Cells, segments: Segments, posted: Posted, r: int, origin: int, whose: int,
    machine: Machine, touched: Touched, place: int,
) -> None:  # fmt: skip
    """Let the instruction that was begun, which is in row `r`, become a part of the stream.

    Parameters
    ----------
    whose : int
        Whose pending waits it takes.
    touched, place
        What it touches.
    """
    n, steps, now, notes, pending = clocks.now[COUNTS, 0], clocks.steps, clocks.now, posted.notes, posted.pending
    notes[n, SOURCE], notes[n, ORIGIN], notes[n, WAITING] = r, origin, pending[whose, 0]
    blocks, low, high = touched.blocks, touched.blocks_at[place], touched.blocks_at[place + 1]
    tagged = wide(posted.tagged_at[n])
    if steps[n, OPCODE] == Opcode.GEMM:
        end = tag_loads(clocks, cells, machine, blocks, low, high, posted.tagged, tagged)
        for at in range(tagged, end):
            complete_after(clocks, wide(steps[n, FIRST]), wide(steps[posted.tagged[at], FIRST]))
        tagged = end
    posted.tagged_at[n + 1] = tagged
    enter(clocks, n)
    for unit in range(steps[n, UNIT_LOW], steps[n, UNIT_HIGH] + 1):
        posted.chain[unit, now[COMPLETED, unit] - 1] = n
    load = steps[n, OPCODE] == Opcode.LOAD
    if load and steps[n, QUEUE_HIGH] > steps[n, QUEUE_LOW]:
        posted.chain[LOAD1, now[COMPLETED, LOAD1] - 1] = n
    note_cells(clocks, cells, n, machine, blocks, low, high)
    low, high = touched.spans_at[place], touched.spans_at[place + 1]
    note_spans(touched.spans, low, high, segments, LOADS if load else STORES, n)
    for wait in range(pending[whose, 0]):
        semaphore, count = pending[whose, 1 + 2 * wait], pending[whose, 2 + 2 * wait]
        notes[n, WAITS + 2 * wait], notes[n, WAITS + 2 * wait + 1] = semaphore, count
        posted.semaphores[semaphore, steps[n, QUEUE_LOW]] = steps[n, QUEUED]
    pending[whose, 0] = 0


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
            number = wide(chain[unit, middle])
            place = unit - steps[number, UNIT_LOW] if completions_of(clocks, number) > 1 else 0
            if _covers(clocks, steps[number, FIRST] + place, earlier):
                high = middle
            else:
                low = middle + 1
        while low < end:
            number = wide(chain[unit, low])
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
        return _fail(posted, NO_SEMAPHORE, unit, queue)
    posted.state[USED] = number + 1
    return int(number)


@compiled
def _from_pool(clocks: Clocks, posted: Posted, number: int, n: int) -> int:
    """Return a semaphore for gang `number` whose earlier waiters can neither take its posts nor lose theirs to `n`."""
    steps, notes, pending, semaphores = clocks.steps, posted.notes, posted.pending, posted.semaphores
    for place in range(posted.state[POOLED]):
        semaphore = semaphores[place, POOL]
        fits = True
        for wait in range(notes[number, WAITING]):
            fits &= notes[number, WAITS + 2 * wait] != semaphore
        for whose in range(len(pending)):
            for wait in range(pending[whose, 0]):
                fits &= pending[whose, 1 + 2 * wait] != semaphore
        for queue in range(UNITS):
            waiter = semaphores[semaphore, queue]
            fits &= waiter <= steps[number, GRANTED + queue] and waiter <= steps[n, ASKED + queue]
        if fits:
            return int(semaphore)
    semaphore = _semaphore(posted, NONE, NONE)
    if semaphore >= 0:
        semaphores[posted.state[POOLED], POOL] = semaphore
        posted.state[POOLED] += 1
    return semaphore


@compiled
def _ask_for_carrier(posted: Posted, queue: int, r: int) -> int:
    """Ask for a harmless instruction in a queue."""
    if posted.state[CARRIER + queue] < 0:
        return _fail(posted, NO_CARRIER, r, queue)
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
            return _ask_for_carrier(posted, queue, r)
    return _fail(posted, TOO_MANY_POSTS, wide(posted.notes[earlier, ORIGIN]), NONE)


@compiled
def _order_after(clocks: Clocks, posted: Posted, r: int, earlier: int, who: int) -> int:
    """Let the instruction that was begun, whose waits are row `who` of `Pending`, wait for `earlier`.

    Row `r` has the plain instruction that it is, or that it is put in for.

    Returns
    -------
    int
        0, or -1: a carrier has to come first (``posted.state[WANTED]``), or something is wrong.
    """
    n, steps, notes, pending = clocks.now[COUNTS, 0], clocks.steps, posted.notes, posted.pending
    low, high = wide(steps[n, QUEUE_LOW]), steps[n, QUEUE_HIGH]
    consumer = PAIR if steps[n, OPCODE] == Opcode.LOAD and low < high else low
    if pending[who, 0] == PLACES:
        if consumer >= TIER0 or who == OTHER:  # a carrier cannot wait for it
            return _fail(posted, TOO_MANY_WAITS, r, NONE)
        for column in range(pending.shape[1]):
            pending[1, column] = pending[0, column]
        pending[0, 0] = 0
        return _ask_for_carrier(posted, low, r)
    number = earlier
    if completions_of(clocks, number) == 1 or notes[number, POSTING] == PLACES:
        number = _poster(clocks, posted, earlier, r)
        if number < 0:
            return -1
    if completions_of(clocks, number) > 1:
        semaphore = _from_pool(clocks, posted, number, n)
    else:
        unit = wide(steps[number, UNIT_LOW])
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


@compiled
def _wait_for_all(clocks: Clocks, n: int, number: int) -> None:
    """Take it that the instruction that was begun waits for another."""
    first = wide(clocks.steps[number, FIRST])
    for completion in range(first, first + completions_of(clocks, number)):
        wait_for(clocks, n, completion)


@compiled
def _relay(
    clocks: Clocks, cells: Cells, segments: Segments, posted: Posted, rows: Rows, r: int, touched: Touched, place: int
) -> int:
    """Let another queue wait for what the instruction that was begun, in row `r`, has no places for.

    Returns
    -------
    int
        What it has to wait for with the place that is left; or -1: as `_order_after`.
    """
    state, blocks, reach = posted.state, touched.blocks, touched.spans
    low, high = touched.blocks_at[place], touched.blocks_at[place + 1]
    first, end = touched.spans_at[place], touched.spans_at[place + 1]
    tree = STORES if rows[r, COL.opcode] == Opcode.LOAD else LOADS
    n, one, two = clocks.now[COUNTS, 0], -1, -1
    if state[RELAYED] >= 0:
        _wait_for_all(clocks, n, state[RELAYED])
    for many in range(PLACES + 1):
        worst = conflict_of(clocks, cells, n, blocks, low, high)
        if first < end:
            worst = max(worst, conflict_in_memory(clocks, n, reach, first, end, segments, tree))
        if worst < 0:
            break
        if many == 0:
            one = worst
        elif many == 1:
            two = worst
        _wait_for_all(clocks, n, worst)
    _begin(clocks, posted, rows, r, PLAIN)
    if state[RELAYED] >= 0 and one < 0:
        return int(state[RELAYED])
    if state[RELAYED] < 0 and two < 0:
        return int(one)
    own = state[CARRIER + RELAY]
    if own < 0:
        return _fail(posted, NO_CARRIER, r, RELAY)
    # What the relay's queue has waited for already is not waited for again: a post for it would be another's.
    _begin(clocks, posted, rows, own, OTHER)
    if not done_before(clocks, n, one, -1) and _order_after(clocks, posted, r, one, OTHER) < 0:
        return -1
    if two >= 0:
        _begin(clocks, posted, rows, own, OTHER)
        if not done_before(clocks, n, two, -1) and _order_after(clocks, posted, r, two, OTHER) < 0:
            return -1 if state[WANTED] < 0 else _fail(posted, TOO_MANY_WAITS, r, NONE)
    state[RELAYING] = 1
    return _ask_for_carrier(posted, RELAY, r)


@compiled
def _order(
    clocks: Clocks, cells: Cells, segments: Segments, posted: Posted, rows: Rows, r: int, touched: Touched, place: int
) -> int:
    """Begin the plain instruction in row `r` and let it wait for all that it has to; return as `_order_after`."""
    n, blocks, reach = _begin(clocks, posted, rows, r, PLAIN), touched.blocks, touched.spans
    low, high = touched.blocks_at[place], touched.blocks_at[place + 1]
    first, end = touched.spans_at[place], touched.spans_at[place + 1]
    tree = STORES if rows[r, COL.opcode] == Opcode.LOAD else LOADS
    queue_low, queue_high = clocks.steps[n, QUEUE_LOW], clocks.steps[n, QUEUE_HIGH]
    full = queue_low >= TIER0 or queue_low < queue_high  # its queue takes no carriers
    while True:
        worst = conflict_of(clocks, cells, n, blocks, low, high)
        if first < end:
            worst = max(worst, conflict_in_memory(clocks, n, reach, first, end, segments, tree))
        if worst < 0:
            return 0
        if full and posted.pending[0, 0] == PLACES - 1:
            worst = _relay(clocks, cells, segments, posted, rows, r, touched, place)
            if worst < 0:
                return -1
        if _order_after(clocks, posted, r, worst, PLAIN) < 0:
            return -1
        _begin(clocks, posted, rows, r, PLAIN)


@compiled
def run(
    rows: Rows, machine: Machine, cells: Cells, clocks: Clocks, segments: Segments, posted: Posted, touched: Touched,
    carriers: Touched,
) -> int:  # fmt: skip
    """Put semaphores into a part of the plain rows.

    Parameters
    ----------
    touched : Touched
        What the part's instructions touch.
    carriers : Touched
        What the carriers touch.

    Returns
    -------
    int
        0, or -1: see `posted.state`.
    """
    now, state, r = clocks.now, posted.state, touched.part[0]
    while r < touched.part[1]:
        n = now[COUNTS, 0]
        if n + 2 >= len(posted.notes) or posted.tagged_at[n] + machine.activation > len(posted.tagged):
            return _fail(posted, FULL, NONE, NONE)
        place = r - touched.part[0]
        state[WANTED], state[RELAYING] = -1, 0
        if _order(clocks, cells, segments, posted, rows, r, touched, place) == 0:
            _append(clocks, cells, segments, posted, r, r, PLAIN, machine, touched, place)
            state[RELAYED] = -1
            r += 1
            continue
        if state[WANTED] < 0:
            return -1
        if state[RELAYING]:
            state[RELAYED] = n
        own = state[CARRIER + state[WANTED]]
        _begin(clocks, posted, rows, own, OTHER)
        _append(clocks, cells, segments, posted, own, r, OTHER, machine, carriers, own - carriers.part[0])
    return 0
