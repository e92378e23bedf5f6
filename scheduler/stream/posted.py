# SPDX-License-Identifier: Apache-2.0
"""The stream that semaphores are put into: its instructions with their waits and posts, and what is known of these."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from scheduler.stream.clocks import LOAD0, LOAD1, STORE, UNITS, VECTOR
from scheduler.stream.compiled import compiled
from scheduler.stream.conflicts import Loads
from scheduler.stream.table import COL, Rows

__all__ = [
    "CARRIER", "CARRIERS", "FULL", "NO_CARRIER", "NO_SEMAPHORE", "ORIGIN", "OTHER", "PAIR", "PLACES", "PLAIN", "POOL",
    "POOLED", "POSTER", "POSTING", "POSTS", "RELAY", "RELAYED", "RELAYING", "SOURCE", "TOO_MANY_POSTS",
    "TOO_MANY_WAITS", "USED", "WAITING", "WAITS", "WANTED", "WRONG", "Posted", "fail", "new_posted", "write_out",
]  # fmt: skip

PAIR = UNITS
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

PLAIN, OTHER = range(2)
"""Rows of `Pending`."""

Semaphores = npt.NDArray[np.int64]
"""Shape [semaphores, UNITS + 2]: for each queue the place there of the last instruction that waited for a semaphore
(none: -1), then the instruction that was last made to post it."""

POSTER, POOL = UNITS, UNITS + 1
"""Columns of `Semaphores`. The second is a list of the semaphores for gangs, in the order of their first use."""

Pairs = npt.NDArray[np.int64]
"""Shape [UNITS, UNITS + 1]: the semaphore from each unit to each queue, or -1."""

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

TOO_MANY_WAITS, TOO_MANY_POSTS, NO_CARRIER, NO_SEMAPHORE, FULL = range(1, 6)
"""What can be wrong: an instruction has to wait, or post, too often (plain instruction); there is no carrier (plain
instruction, queue) or no semaphore left (unit, queue; a gang: -1); the room is full."""


class Posted(NamedTuple):
    """The stream with its semaphores, and what is known of these.

    Attributes
    ----------
    notes, pending, semaphores, pairs, state
        See above.
    tagged, tagged_at
        Loads whose last tile a GEMM reads by tag: all of them, and where those of each instruction begin.
    """

    notes: Notes
    pending: Pending
    semaphores: Semaphores
    pairs: Pairs
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
        state, np.zeros(instructions + tiles, np.int32),
        np.zeros(instructions + 1, np.int32),
    )  # fmt: skip


@compiled
def write_out(rows: Rows, notes: Notes, plain: int, carriers: Rows) -> None:
    """Turn plain rows into the stream with its semaphores, in place.

    Parameters
    ----------
    rows : int64 array [many, len(COLUMNS)]
        The plain instructions, `plain` of them, and room.
    notes : Notes
        Of the stream, as long as `rows`.
    carriers : int64 array [carriers, len(COLUMNS)]
        What sources from `plain` on stand for.
    """
    for n in range(len(notes) - 1, -1, -1):  # no instruction comes before its plain row
        source = notes[n, SOURCE]
        if source >= plain:
            for column in range(rows.shape[1]):
                rows[n, column] = carriers[source - plain, column]
        elif source != n:
            for column in range(rows.shape[1]):
                rows[n, column] = rows[source, column]
        if notes[n, WAITING]:
            rows[n, COL.wait0_sem], rows[n, COL.wait0_count] = notes[n, WAITS], notes[n, WAITS + 1]
        if notes[n, WAITING] > 1:
            rows[n, COL.wait1_sem], rows[n, COL.wait1_count] = notes[n, WAITS + 2], notes[n, WAITS + 3]
        if notes[n, POSTING]:
            rows[n, COL.post0_sem], rows[n, COL.post0_en] = notes[n, POSTS], 1
        if notes[n, POSTING] > 1:
            rows[n, COL.post1_sem], rows[n, COL.post1_en] = notes[n, POSTS + 1], 1


@compiled
def fail(posted: Posted, code: int, first: int, second: int) -> int:
    """Note what is wrong, one of the codes above and its two numbers, and return -1."""
    state = posted.state
    state[WRONG], state[WRONG + 1], state[WRONG + 2] = code, first, second
    return -1
