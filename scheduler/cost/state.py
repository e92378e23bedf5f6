# SPDX-License-Identifier: Apache-2.0
"""What the cycle model keeps while a stream runs: one array of numbers, so that compiled functions pass it cheaply.

Named tuples name its cells. Cells of their own: the machine's numbers (``s[B.setup]``), those of the stream as a whole
(``s[M.next]``), those of result bus, combine buffer, store and vector unit (``s[C.ports]``). Regions hold records,
whose cells are named likewise: ``s[AT.unit + RECORD * unit + U.taken]``.

Units are numbered as their queues are: the tiers from 0 on, both load engines, the store unit, the vector unit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from scheduler.cost.blocks import Blocks
from scheduler.cost.cells import (
    BurstCells,
    CombineCells,
    FetchCells,
    HeadCells,
    JobCells,
    NoteCells,
    PostCells,
    RunCells,
    SliceCells,
    StreamCells,
    UnitCells,
    WordCells,
)

__all__ = [
    "AGENTS",
    "AT",
    "BURST",
    "BURSTS",
    "DISPATCHER",
    "FETCHES",
    "HEAD",
    "JOB",
    "MOST_UNITS",
    "NEVER",
    "NOTE",
    "OPEN_LOADS",
    "ORDER",
    "OUTPUTS",
    "POSTS",
    "QUEUE",
    "RANGES",
    "RECORD",
    "REPLIES",
    "RUN",
    "RUNS",
    "SLICE",
    "TAKEN_ROWS",
    "VECTORS",
    "WORDS",
    "B",
    "C",
    "F",
    "H",
    "Int",
    "J",
    "M",
    "N",
    "P",
    "R",
    "S",
    "U",
    "W",
    "new_state",
]  # fmt: skip

Int = npt.NDArray[np.int64]

NEVER: Final = 1 << 60
"""A cycle that does not come."""

MOST_UNITS: Final = 12
DISPATCHER: Final = MOST_UNITS + 5
AGENTS: Final = DISPATCHER + 1
"""Who acts at a time of its own: the units, the five sources of posts, the dispatcher."""


U: Final = UnitCells(*range(len(UnitCells._fields)))
H: Final = HeadCells(*range(len(HeadCells._fields)))
R: Final = RunCells(*range(len(RunCells._fields)))
J: Final = JobCells(*range(len(JobCells._fields)))
BURST: Final = BurstCells(*range(len(BurstCells._fields)))
W: Final = WordCells(*range(len(WordCells._fields)))
P: Final = PostCells(*range(len(PostCells._fields)))
F: Final = FetchCells(*range(len(FetchCells._fields)))
N: Final = NoteCells(*range(len(NoteCells._fields)))
S: Final = SliceCells(*range(len(SliceCells._fields)))

RECORD: Final = 40
HEAD: Final = 8
RUN: Final = 8
JOB: Final = 16
WORDS: Final = 8
NOTE: Final = 8
SLICE: Final = 11
"""Cells of the records; those of a burst are eight as well."""

QUEUE: Final = 66
POSTS: Final = 128
FETCHES: Final = 256
BURSTS: Final = 1024
RUNS: Final = 512
VECTORS: Final = 1024
OUTPUTS: Final = 32
REPLIES: Final = 128
TAKEN_ROWS: Final = 8
OPEN_LOADS: Final = 128
ORDER: Final = 512
RANGES: Final = 16
"""Places of the rings: at least what the largest machine can have under way."""


class Regions(NamedTuple):
    """First cells of the regions.

    Attributes
    ----------
    time : int
        For each agent the cycle in which it acts next.
    unit : int
        Records of the units.
    queue : int
        For each unit pairs of instruction and first cycle in which it can be taken.
    value : int
        Semaphores.
    post : int
        For each source of posts (load engines, store, vector unit, collector) those that are due.
    left : int
        Cycles in which the last 16 instructions left the fetch buffer.
    fetch : int
        Bursts of instructions.
    burst : int
        For each load engine its bursts.
    head, run : int
        For each tier its rows at the head, and the runs behind.
    job : int
        The two jobs of the vector unit.
    scalar : int
        For each of them the cycles in which its vectors' last rows were read.
    output : int
        Result rows of the vector unit: first cycle of the write, ports, job.
    reply, taken : int
        Cycles of the store's last responses, cycles in which its last rows were taken.
    word : int
        For each load engine the load whose words leave one by one.
    open : int
        For each load engine the loads that have begun and are not settled.
    range, asked : int
        For each load engine, of its last loads that have data: instruction and first cycle in which the splitter can
        take it; cycle in which it did (NEVER: not yet).
    fill : int
        With HBM, for each tier the first cycle in which words that have its V-Cache for themselves are through, and the
        same of other words.
    order : int
        Loads that engine 0 posts, in their order, if some of them are engine 1's.
    end : int
        Cell after the last.
    """

    time: int
    unit: int
    queue: int
    value: int
    post: int
    left: int
    fetch: int
    burst: int
    head: int
    run: int
    job: int
    scalar: int
    output: int
    reply: int
    taken: int
    word: int
    open: int
    range: int
    asked: int
    fill: int
    order: int
    end: int


def _after(first: int, sizes: Sequence[int]) -> list[int]:
    """Return where regions of some sizes begin that follow each other from a cell on, and where the last one ends."""
    places = [first]
    for size in sizes:
        places.append(places[-1] + size)
    return places


_OWN: Final = _after(0, [len(Blocks._fields), len(StreamCells._fields), len(CombineCells._fields)])

B: Final = Blocks(*range(_OWN[0], _OWN[1]))
M: Final = StreamCells(*range(_OWN[1], _OWN[2]))
C: Final = CombineCells(*range(_OWN[2], _OWN[3]))
AT: Final = Regions(
    *_after(
        _OWN[3],
        [
            AGENTS, RECORD * MOST_UNITS, 2 * QUEUE * MOST_UNITS, 64, 5 * (P.first + 2 * POSTS), 16, 2 * FETCHES,
            2 * 8 * BURSTS, HEAD * 8, 8 * RUN * RUNS, 2 * JOB, 2 * VECTORS, 3 * OUTPUTS, REPLIES, TAKEN_ROWS, 2 * WORDS,
            2 * OPEN_LOADS, 4 * RANGES, 2 * RANGES, 16, ORDER,
        ],
    )
)  # fmt: skip


def new_state(
    blocks: Blocks,
    memory: Sequence[int],
    notes: Int,
    segments: Int,
    slices: Int,
    counts: Int,
    hbm: Int | None = None,
    flags: Sequence[int] = (0, 0),
) -> Int:
    """Return the state before a stream.

    Parameters
    ----------
    blocks : Blocks
        The machine.
    memory : sequence of int
        Cells `latency` to `fetch_room` of `StreamCells`.
    notes, segments, slices : int64 arrays
        Of the stream, see `scheduler.cost.engine`.
    counts : int64 array [1 + routes, slots]
        Tokens of each slot, and of the slots that each ROUTE writes; no slots: not known.
    hbm : int64 array, optional
        Region of requests to HBM, see `scheduler.cost.hbm.cells.new_region`; default: there is no HBM.
    flags : (int, int)
        Cells `scored` and `named` of `StreamCells`.
    """
    tables = [notes, segments, slices, counts] + ([] if hbm is None else [hbm])
    places = _after(AT.end, [table.size for table in tables])
    s = np.zeros(places[-1], dtype=np.int64)
    s[: len(blocks)] = blocks
    s[M.latency : M.latency + len(memory)] = memory
    s[[M.dispatched, M.granted, M.posted]] = -1
    s[[M.notes, M.segments, M.slices, M.counts, M.hbm]] = [*places[: len(tables)], 0][:5]
    s[M.counts_width] = counts.shape[1]
    s[[M.scored, M.named]] = flags
    for table, place in zip(tables, places, strict=False):
        s[place : place + table.size] = table.ravel()
    s[AT.time : AT.time + AGENTS] = NEVER
    units = s[AT.unit : AT.queue].reshape(-1, RECORD)
    units[:, [U.asks, U.held, U.op, U.first, U.begun, U.decoded]] = -1
    s[AT.head : AT.run].reshape(-1, HEAD)[:, H.at] = NEVER
    s[AT.job : AT.scalar].reshape(-1, JOB)[:, J.finish] = NEVER
    words = s[AT.word : AT.open].reshape(-1, WORDS)
    words[:, W.number], words[:, W.at] = -1, NEVER
    s[[C.next, C.rows_at, C.finish_at, C.ask_at, C.output_at, C.start_at, C.words_at, C.read_at, C.request]] = NEVER
    s[[C.pending, C.store]] = -1
    s[C.credits] = blocks.results
    return s
