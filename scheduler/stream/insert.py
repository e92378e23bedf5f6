# SPDX-License-Identifier: Apache-2.0
"""The loop that puts waits, posts and carriers into a plain stream."""

from __future__ import annotations

from hdl.isa import Opcode
from scheduler.stream.clocks import (
    COUNTS,
    FIRST,
    OPCODE,
    QUEUE_HIGH,
    QUEUE_LOW,
    QUEUED,
    TIER0,
    Clocks,
    begin,
    complete_after,
    completions_of,
    done_before,
    enter,
    wait_for,
)
from scheduler.stream.compiled import compiled
from scheduler.stream.conflicts import Cells, conflict_in_memory, conflict_of, note_cells, tag_loads
from scheduler.stream.machine import Machine
from scheduler.stream.posted import (
    CARRIER,
    FULL,
    NO_CARRIER,
    ORIGIN,
    OTHER,
    PLACES,
    PLAIN,
    POSTER,
    RELAY,
    RELAYED,
    RELAYING,
    SOURCE,
    TOO_MANY_WAITS,
    WAITING,
    WAITS,
    WANTED,
    Posted,
    fail,
)
from scheduler.stream.posters import ask_for_carrier, order_after
from scheduler.stream.segments import LOADS, STORES, Segments, note_spans
from scheduler.stream.table import COL, Rows
from scheduler.stream.touched import Touched

__all__ = ["run"]


@compiled
def _wait_for_all(clocks: Clocks, n: int, number: int) -> None:
    """Take it that the instruction that was begun waits for another."""
    first = clocks.steps[number, FIRST]
    for completion in range(first, first + completions_of(clocks, number)):
        wait_for(clocks, n, completion)


@compiled
def _wait(clocks: Clocks, posted: Posted, n: int, whose: int) -> None:
    """Let the instruction that was begun come after the posts that it waits for so far."""
    pending = posted.pending
    for wait in range(pending[whose, 0]):
        _wait_for_all(clocks, n, posted.semaphores[pending[whose, 1 + 2 * wait], POSTER])


@compiled
def _begin(clocks: Clocks, posted: Posted, rows: Rows, r: int, whose: int) -> int:
    """Begin the instruction in row `r` (again) with the waits that it has so far; return its number."""
    n = begin(clocks, rows, r)
    _wait(clocks, posted, n, whose)
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
    n, steps, notes, pending = clocks.now[COUNTS, 0], clocks.steps, posted.notes, posted.pending
    notes[n, SOURCE], notes[n, ORIGIN], notes[n, WAITING] = r, origin, pending[whose, 0]
    blocks, low, high = touched.blocks, touched.blocks_at[place], touched.blocks_at[place + 1]
    tagged = posted.tagged_at[n]
    if steps[n, OPCODE] == Opcode.GEMM:
        end = tag_loads(clocks, cells, machine, blocks, low, high, posted.tagged, tagged)
        for at in range(tagged, end):
            complete_after(clocks, steps[n, FIRST], steps[posted.tagged[at], FIRST])
        tagged = end
    posted.tagged_at[n + 1] = tagged
    enter(clocks, n)
    note_cells(clocks, cells, n, machine, blocks, low, high, True)
    low, high = touched.spans_at[place], touched.spans_at[place + 1]
    note_spans(touched.spans, low, high, segments, LOADS if steps[n, OPCODE] == Opcode.LOAD else STORES, n)
    for wait in range(pending[whose, 0]):
        semaphore, count = pending[whose, 1 + 2 * wait], pending[whose, 2 + 2 * wait]
        notes[n, WAITS + 2 * wait], notes[n, WAITS + 2 * wait + 1] = semaphore, count
        posted.semaphores[semaphore, steps[n, QUEUE_LOW]] = steps[n, QUEUED]
    pending[whose, 0] = 0


@compiled
def _relay(
    clocks: Clocks, cells: Cells, segments: Segments, posted: Posted, rows: Rows, r: int, touched: Touched, place: int
) -> int:
    """Let another queue wait for what the instruction that was begun, in row `r`, has no places for.

    Returns
    -------
    int
        What it has to wait for with the place that is left; or -1: as `order_after`.
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
        return fail(posted, NO_CARRIER, r, RELAY)
    # What the relay's queue has waited for already is not waited for again: a post for it would be another's.
    for many in range(2):
        worst = two if many else one
        _begin(clocks, posted, rows, own, OTHER)
        if worst < 0 or done_before(clocks, n, worst, -1):
            continue
        if order_after(clocks, posted, r, worst, OTHER) < 0:
            return -1 if many == 0 or state[WANTED] < 0 else fail(posted, TOO_MANY_WAITS, r, -1)
    state[RELAYING] = 1
    return ask_for_carrier(posted, RELAY, r)


@compiled
def _order(
    clocks: Clocks, cells: Cells, segments: Segments, posted: Posted, rows: Rows, r: int, touched: Touched, place: int
) -> int:
    """Begin the plain instruction in row `r` and let it wait for all that it has to; return as `order_after`."""
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
        if order_after(clocks, posted, r, worst, PLAIN) < 0:
            return -1
        _wait(clocks, posted, n, PLAIN)


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
            return fail(posted, FULL, -1, -1)
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
