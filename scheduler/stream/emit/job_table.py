# SPDX-License-Identifier: Apache-2.0
"""What the loop that emits the jobs of attention (:mod:`scheduler.stream.emit.job_loop`) works on."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from scheduler.stream.clocks import TIERS
from scheduler.stream.compiled import numbered

__all__ = [
    "BLOCK", "JOB", "JOB_COLUMNS", "OP", "PIECE", "STATE", "STOP", "TURN", "UNTIL", "Int64", "Loop", "Sizes",
    "new_loop", "new_turns",
]  # fmt: skip

Int64 = npt.NDArray[np.int64]

PIECE = 4
"""Columns of `JOB` for a piece of keys that is on the chip: first tile of keys, of values, fill tag, and the cycle in
which the keys are expected."""

JOB: Any = numbered(
    "JOB",
    "tier vectors query query_stride context context_stride output output_stride output_tiers position step placed "
    "scalar sums score_word context_word score_shift value_shift context_mult context_shift group keys values "
    "prefix_group prefix_keys prefix_values mark key_mark maxed divided pieces",
)
"""Columns of the table of jobs, each the attention of some queries over the keys of one head on one tier. Addresses are
as instructions take them, but `keys` and `values` are bytes of memory; `prefix_keys` and `prefix_values` are those of a
prefix that lies in another sequence's place. `position` is the first query's, `step` from one query's to the next
one's. `scalar` and `sums` are the first scalars of its maxima and sums: with `placed` they are given, else it gets
some that are free. `maxed`: the maximum of one of its blocks is out, the exponential is not. From `pieces` on: the two
pieces of keys that are on the chip."""

JOB_COLUMNS = len(JOB) - 1 + 2 * PIECE

OP: Any = numbered(
    "OP", "scores job piece first rows is_first is_last key_place key_tiles value_place value_tiles again shared"
)
"""Columns of what has to be emitted in order: with `scores` a block of keys of a job, which begins with key `first` and
takes `rows` rows of scores; without, the loads of a piece of keys, or with `again` of the rest of it: `rows` are all
tiles of its keys then, `is_first` and `is_last` those of keys and of values before what is loaded. Places are tiles
from the begin of the piece, or, of loads, from that of the cache, which is that of the prefix with `shared`."""

BLOCK: Any = numbered("BLOCK", "ready job region words rows valid is_first is_last keys value_tile tag maxed")
"""Columns of the blocks of keys whose scores are out and whose softmax is not."""

NEVER = 1 << 60
"""Cycle in which a chain is ready that waits for other work."""

STATE: Any = numbered(
    "STATE",
    "instructions op pending_at pending undivided_at undivided chains chosen advancing background divided behind close "
    "needed started pending_rows delay",
)
"""Places in the loop's state: instructions so far, the next row of `OP`, the rings of blocks whose softmax is to come
and of jobs whose division is, chains and the one to step, whether the oldest block's softmax is wanted, loads in the
background, jobs before which all are divided, the numbers of jobs that something, or `UNTIL.closed`, waits
for, the chains that have to come to an end, jobs that have begun, rows of scores whose softmax is to come, and jobs
whose division may wait."""

TURN: Any = numbered("TURN", "tag region scalar words buffers many", (0, 1, 2, 3, 3 + TIERS, 3 + 2 * TIERS))
"""Places of what is used in turn: tags, rows of scores, scalars of jobs, words of each tier, buffers of keys of each
tier."""


UNTIL: Any = numbered("UNTIL", "operated settled closed flushed asked")
"""Where the loop ends: all operations are emitted, no softmax is left, the jobs before `STATE.close` are divided,
nothing is left, or only where it has to stop."""

STOP: Any = numbered("STOP", "end chain behind background full")
"""Why it stops: it has come to its end, a chain has to make a step, what waits for the division of jobs can go on,
loads in the background are due, or the table of instructions is full."""


class Sizes(NamedTuple):
    """What the jobs of a layer have in common; see :class:`scheduler.stream.emit.work.Work` for what is used in turn.

    Attributes
    ----------
    ahead, delay, maxima : int
        Rows of scores that come before the softmax of an earlier block, jobs of `job_vectors` queries whose division
        waits behind a later softmax, maxima that come before an exponential.
    patient : int
        1: scores wait for their keys while other work can go on, by the forecast.
    """

    rows: int
    columns: int
    key_words: int
    value_rows: int
    job_vectors: int
    tile_bytes: int
    buffers: int
    buffer_base: int
    buffer_tiles: int
    region_base: int
    region_rows: int
    words_base: int
    words: int
    scalar_base: int
    scalars: int
    ahead: int
    delay: int
    maxima: int
    patient: int


class Loop(NamedTuple):
    """A layer's jobs and what is left to do of them.

    Attributes
    ----------
    jobs : int64 array [jobs, JOB_COLUMNS]
    pending : int64 array [MOST_PENDING, len(BLOCK)]
        Ring of blocks.
    undivided : int64 array [MOST_UNDIVIDED, 2]
        Ring of jobs: when the division can come, and the job.
    chains : int64 array [16 or more]
        When the next step of each can come.
    state : int64 array [len(STATE)]
    due : float64 array [2]
        Loads in the background that are due, and how many more with each softmax.
    """

    jobs: Int64
    pending: Int64
    undivided: Int64
    chains: Int64
    state: Int64
    due: npt.NDArray[np.float64]


def new_turns() -> Int64:
    """Return what is used in turn before anything is."""
    return np.zeros(TURN.many, np.int64)


UNDIVIDED = 2
MOST_PENDING, MOST_UNDIVIDED = 64, 128


def new_loop(sizes: Sizes, jobs: int, rate: float) -> Loop:
    """Return the loop of a layer of up to `jobs` jobs; `rate`: loads in the background for each softmax."""
    return Loop(
        np.zeros((jobs, JOB_COLUMNS), np.int64), np.zeros((MOST_PENDING, len(BLOCK)), np.int64),
        np.zeros((MOST_UNDIVIDED, UNDIVIDED), np.int64), np.zeros(16, np.int64),
        np.zeros(len(STATE), np.int64), np.array([0.0, rate]),
    )  # fmt: skip
