# SPDX-License-Identifier: Apache-2.0
"""What is known to happen before what in a stream, whatever the timing: queues, semaphores and fill tags.

Each instruction has a *grant* (its waits are satisfied), a *start*, and one or more *completions* (the moments at which
it posts: one for a load, a store, a VECTOR or a ROUTE, one per tier that makes rows for a GEMM). The facts used:

- instructions of one queue are granted in order; a gang's waits are granted in its leader's queue, and only its start
  comes after the starts of what precedes it in the queues of the followers;
- a gang with a slot reads the table from its leader's grant on: before its start, and maybe before instructions that
  precede it in the queues of the followers;
- completions of one load engine, of the store unit, of the vector unit and of one row-making tier happen in order; of a
  `scored` PAIR load engine 0 posts, whichever of them reads, so that it is in the order of engine 0's completions only,
  and its data come in no order with those of other loads;
- a completion comes after its instruction's start, and so after every completion that the grant waited for;
- a GEMM that reads the last tile of a load by its tag completes after the load (not those with a slot, which may be
  skipped).

So what precedes a moment is, of the completions of each unit, the first so many, and of the grants in each queue, the
first so many: a *vector clock*, one number for each unit or queue.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hdl.isa import Format, Mapping3D, Opcode
from scheduler.stream.compiled import compiled
from scheduler.stream.table import COL, Rows

__all__ = [
    "ASKED", "BEFORE", "COMPLETED", "CONDITION", "COUNTS", "ENTERED", "FILLED", "FIRST", "GRANT", "GRANTED", "GRANTS",
    "LAST_TILE", "LATEST_COMPLETED", "LATEST_ENTERED", "LATEST_OWNED", "LOAD0", "LOAD1", "LOOKED", "OPCODE", "PLACE",
    "QUEUED", "QUEUE_HIGH", "QUEUE_LOW", "SCORED", "SLOT", "START", "STEP", "STORE", "TAG", "TIER0", "TIERS", "UNITS",
    "UNIT_HIGH", "UNIT_LOW", "VECTOR", "Clocks", "Ends", "Now", "Steps", "all_done_before", "begin", "complete_after",
    "completions_of", "done_before", "done_before_grant", "enter", "new_clocks", "note_fields", "restart",
    "unit_name", "wait_for", "was_granted",
]  # fmt: skip

LOAD0, LOAD1, STORE, VECTOR, TIER0 = range(5)
TIERS = 8
UNITS = 4 + TIERS
"""Numbers of the queues that instructions enter and of the units that complete them, alike: the two load engines, the
store unit, the vector unit, the tiers of the largest machine. An instruction enters neighbouring queues only: a PAIR
load both of the load engines', a gang those of its tiers. The one completion of a PAIR load counts as the first
engine's, and happens in the order of both."""

Steps = npt.NDArray[np.int32]
"""Shape [instructions, STEP]: what is known of each instruction."""

OPCODE, QUEUE_LOW, QUEUE_HIGH, UNIT_LOW, UNIT_HIGH, FIRST, TAG, SLOT, LAST_TILE, QUEUED, CONDITION, SCORED = range(12)
"""Columns of `Steps`: opcode, first and last queue, first and last unit that completes (none: the last is lower),
number of the first completion, fill tag, whether there is a slot, last tile that a load fills, place in the first
queue, from 1 on, for :mod:`scheduler.stream.alone` a number for the slot of a load, and whether either
engine may read all of a PAIR load."""

STEP = 84
ASKED, GRANT, LOOKED, START, GRANTED, FILLED = range(12, STEP, 12)
"""Columns where these begin. UNITS columns each: grants that precede an instruction's by the order of its queues alone,
grants and completions that precede its grant, completions that precede its start, and grants that precede its start
with its own. TIERS columns: see :mod:`scheduler.stream.conflicts`."""

Ends = npt.NDArray[np.int32]
"""Shape [completions, 28]."""

BEFORE, GRANTS, PLACE = range(0, 36, 12)
"""Columns of `Ends` where these begin: completions that precede a completion and itself, grants that precede it, and
its place among its unit's, from 1 on."""

Now = npt.NDArray[np.int64]
"""Shape [6, UNITS]: where the stream has come to."""

ENTERED, LATEST_ENTERED, COMPLETED, LATEST_COMPLETED, LATEST_OWNED, COUNTS = range(6)
"""Rows of `Now`: for each queue and unit instructions so far, the latest one, completions so far, the latest one, the
latest one that counts as the unit's (none: -1); then instructions and completions in all, and two counters of
:mod:`scheduler.stream.conflicts`: keys, and spaces in which keys were met."""


Chain = npt.NDArray[np.int32]
"""Shape [UNITS, instructions]: the instructions that each unit completes, in order."""


class Clocks(NamedTuple):
    """Grows with the stream, one instruction at a time in program order.

    Attributes
    ----------
    steps, ends, now, chain
        See above.
    """

    steps: Steps
    ends: Ends
    now: Now
    chain: Chain


def unit_name(number: int) -> str:
    """Return the name of a queue or unit: ``load0``, ``load1``, ``store``, ``vector``, ``tier0`` ..."""
    return ("load0", "load1", "store", "vector")[number] if number < TIER0 else f"tier{number - TIER0}"


def new_clocks(instructions: int, completions: int) -> Clocks:
    """Return room for a stream of so many instructions and completions."""
    clocks = Clocks(
        np.zeros((instructions, STEP), np.int32),
        np.zeros((completions + 1, 28), np.int32),
        np.zeros((6, UNITS), np.int64),
        np.zeros((UNITS, instructions), np.int32),
    )
    restart(clocks)
    return clocks


def restart(clocks: Clocks) -> None:
    """Go back to the begin of the stream."""
    clocks.now[:] = 0
    clocks.now[[LATEST_ENTERED, LATEST_COMPLETED, LATEST_OWNED]] = -1


@compiled
def note_fields(steps: Steps, n: int, rows: Rows, r: int, first: int) -> None:
    """Note the fields of instruction `n`, which is in row `r` and whose first completion is `first`."""
    opcode = rows[r, COL.opcode]
    steps[n, OPCODE] = opcode
    steps[n, FIRST] = first
    steps[n, TAG] = rows[r, COL.tag]
    steps[n, SLOT] = rows[r, COL.slot_en]
    steps[n, SCORED] = rows[r, COL.scored] and rows[r, COL.format] == Format.PAIR
    steps[n, LAST_TILE] = rows[r, COL.dest_base] + rows[r, COL.count] - 1
    low, high = 0, -1
    if opcode == Opcode.LOAD:
        low = high = LOAD0 + rows[r, COL.group]
        if rows[r, COL.format] == Format.PAIR:
            low, high = LOAD0, LOAD1
    elif opcode == Opcode.STORE:
        low = high = STORE
    elif opcode == Opcode.VECTOR or opcode == Opcode.ROUTE:
        low = high = VECTOR
    elif opcode == Opcode.GEMM:
        low = TIER0 + rows[r, COL.tier_base]
        high = low + rows[r, COL.tier_count] - 1
    steps[n, QUEUE_LOW], steps[n, QUEUE_HIGH] = low, high
    if opcode == Opcode.GEMM and rows[r, COL.mapping] == Mapping3D.K:
        low = high
    elif opcode == Opcode.LOAD:
        high = low
    steps[n, UNIT_LOW], steps[n, UNIT_HIGH] = low, high


@compiled
def completions_of(clocks: Clocks, n: int) -> int:
    """Return how many completions instruction `n` has; their numbers follow each other."""
    return int(clocks.steps[n, UNIT_HIGH] - clocks.steps[n, UNIT_LOW] + 1)


@compiled
def begin(clocks: Clocks, rows: Rows, r: int) -> int:
    """Begin the next instruction, which is in row `r`, with what its queues say; return its number.

    It may be begun again as long as it has not entered its queues.
    """
    steps, ends, now = clocks.steps, clocks.ends, clocks.now
    n, first = now[COUNTS, 0], now[COUNTS, 1]
    note_fields(steps, n, rows, r, first)
    low, latest = steps[n, QUEUE_LOW], -1
    if low <= steps[n, QUEUE_HIGH]:
        latest = now[LATEST_ENTERED, low]
    if latest >= 0:  # copied, not compared: most are in one queue
        for unit in range(UNITS):
            start, granted = steps[latest, START + unit], steps[latest, GRANTED + unit]
            steps[n, START + unit] = steps[n, LOOKED + unit] = start
            steps[n, GRANTED + unit] = steps[n, ASKED + unit] = granted
    else:
        for column in range(ASKED, FILLED):
            steps[n, column] = 0
    for queue in range(low + 1, steps[n, QUEUE_HIGH] + 1):
        latest = now[LATEST_ENTERED, queue]
        if latest >= 0:
            for unit in range(UNITS):
                steps[n, START + unit] = max(steps[n, START + unit], steps[latest, START + unit])
                steps[n, GRANTED + unit] = max(steps[n, GRANTED + unit], steps[latest, GRANTED + unit])
            if steps[n, OPCODE] != Opcode.GEMM:  # the leader asks for its gang
                for unit in range(UNITS):
                    steps[n, ASKED + unit] = max(steps[n, ASKED + unit], steps[latest, GRANTED + unit])
                    steps[n, LOOKED + unit] = max(steps[n, LOOKED + unit], steps[latest, START + unit])
    for unit in range(UNITS):
        steps[n, GRANT + unit] = steps[n, ASKED + unit]
        ends[first, BEFORE + unit] = 0
        ends[first, GRANTS + unit] = 0
    return int(n)


@compiled
def wait_for(clocks: Clocks, n: int, completion: int) -> None:
    """Let the grant of instruction `n`, the one that was begun, come after a completion."""
    steps, ends = clocks.steps, clocks.ends
    for unit in range(UNITS):
        steps[n, START + unit] = max(steps[n, START + unit], ends[completion, BEFORE + unit])
        steps[n, LOOKED + unit] = max(steps[n, LOOKED + unit], ends[completion, BEFORE + unit])
        steps[n, GRANT + unit] = max(steps[n, GRANT + unit], ends[completion, GRANTS + unit])
        steps[n, GRANTED + unit] = max(steps[n, GRANTED + unit], ends[completion, GRANTS + unit])


@compiled
def complete_after(clocks: Clocks, first: int, completion: int) -> None:
    """Let the instruction that was begun and whose first completion is `first` complete after another completion."""
    ends = clocks.ends
    for unit in range(UNITS):
        ends[first, BEFORE + unit] = max(ends[first, BEFORE + unit], ends[completion, BEFORE + unit])
        ends[first, GRANTS + unit] = max(ends[first, GRANTS + unit], ends[completion, GRANTS + unit])


@compiled
def _complete_in(clocks: Clocks, n: int, completion: int, unit: int) -> None:
    now = clocks.now
    clocks.chain[unit, now[COMPLETED, unit]] = n
    if now[LATEST_COMPLETED, unit] >= 0:
        complete_after(clocks, completion, now[LATEST_COMPLETED, unit])
    now[COMPLETED, unit] += 1
    now[LATEST_COMPLETED, unit] = completion
    clocks.ends[completion, BEFORE + unit] = now[COMPLETED, unit]


@compiled
def enter(clocks: Clocks, n: int) -> None:
    """Let instruction `n`, the one that was begun, enter its queues and complete."""
    steps, ends, now = clocks.steps, clocks.ends, clocks.now
    for queue in range(steps[n, QUEUE_LOW], steps[n, QUEUE_HIGH] + 1):
        now[ENTERED, queue] += 1
        now[LATEST_ENTERED, queue] = n
        steps[n, GRANTED + queue] = now[ENTERED, queue]
    low, high, first = steps[n, UNIT_LOW], steps[n, UNIT_HIGH], steps[n, FIRST]
    if high >= low:
        steps[n, QUEUED] = now[ENTERED, steps[n, QUEUE_LOW]]
        for unit in range(UNITS):
            ends[first, BEFORE + unit] = max(ends[first, BEFORE + unit], steps[n, START + unit])
            ends[first, GRANTS + unit] = max(ends[first, GRANTS + unit], steps[n, GRANTED + unit])
        for completion in range(first + 1, first + high - low + 1):
            for unit in range(PLACE):
                ends[completion, unit] = ends[first, unit]
        for unit in range(low, high + 1):
            completion = first + unit - low
            _complete_in(clocks, n, completion, unit)
            now[LATEST_OWNED, unit] = completion
            ends[completion, PLACE] = now[COMPLETED, unit]
        if steps[n, OPCODE] == Opcode.LOAD and steps[n, QUEUE_HIGH] > low and not steps[n, SCORED]:
            _complete_in(clocks, n, first, LOAD1)
    now[COUNTS, 0] = n + 1
    now[COUNTS, 1] = first + high - low + 1


@compiled
def was_granted(clocks: Clocks, clock: int, n: int, number: int) -> bool:
    """Return whether the grant of instruction `number` is among those of a clock of `n`, given by its first column."""
    steps = clocks.steps
    return bool(steps[n, clock + steps[number, QUEUE_LOW]] >= steps[number, QUEUED])


@compiled
def _done(clocks: Clocks, clock: int, n: int, number: int, tier: int) -> bool:
    """Return whether instruction `number` is complete before what the clock of `n` says, given by its first column."""
    steps, ends = clocks.steps, clocks.ends
    low, high, first = steps[number, UNIT_LOW], steps[number, UNIT_HIGH], steps[number, FIRST]
    if tier >= 0 and low < high:
        unit = TIER0 + tier
        return bool(unit < low or unit > high or steps[n, clock + unit] >= ends[first + unit - low, PLACE])
    for unit in range(low, high + 1):
        if steps[n, clock + unit] < ends[first + unit - low, PLACE]:
            return False
    return True


@compiled
def done_before(clocks: Clocks, n: int, number: int, tier: int) -> bool:
    """Return whether instruction `number` is complete before the start of instruction `n`.

    Of a gang's completions only that of `tier` matters, unless it is negative.
    """
    return bool(_done(clocks, START, n, number, tier))


@compiled
def all_done_before(clocks: Clocks, n: int) -> int:
    """Return an instruction, `n` or an earlier one, before which all are complete before the start of `n`."""
    first = n
    for unit in range(UNITS):
        many = clocks.steps[n, START + unit]
        if many < clocks.now[COMPLETED, unit]:
            first = min(first, clocks.chain[unit, many])
    return int(first)


@compiled
def done_before_grant(clocks: Clocks, n: int, number: int) -> bool:
    """Return whether instruction `number` is complete before the grant of instruction `n`."""
    return bool(_done(clocks, LOOKED, n, number, -1))
