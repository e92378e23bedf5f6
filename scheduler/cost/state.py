# SPDX-License-Identifier: Apache-2.0
"""What the cycle model keeps while a stream runs: one array of numbers, so that compiled functions pass it cheaply.

The array begins with the machine's numbers (:class:`scheduler.cost.blocks.Blocks`, ``s[B.setup]``); regions of a fixed
size follow, and behind them those whose size depends on the stream. Constants name regions (``UNIT``, ``QUEUE`` ...) and
the cells of a region's records (``TAKEN`` ...): ``s[UNIT + WIDTH * unit + TAKEN]``.

Units are numbered as their queues are: the tiers from 0 on, both load engines, the store unit, the vector unit.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from hdl.config import MachineConfig
from scheduler.cost.blocks import Blocks, blocks_of


Int = npt.NDArray[np.int64]

NEVER: Final = 1 << 60
"""A cycle that does not come."""

B: Any = Blocks(*range(len(Blocks._fields)))
"""Cells of the machine's numbers."""

WIDTH: Final = 32
MOST_UNITS: Final = 12
AGENTS: Final = MOST_UNITS + 6
"""Who acts at a time of its own: the units, the sources of posts, the dispatcher."""

MISC: Final = 64
(
    LATENCY, JITTER, STALL, CHANNELS, SEED, NEXT, DISPATCHED, BURSTS, ROUTED, GRANTED, POSTED, BUS0, BUS1, HISTORY0, HISTORY1, DONE,
    COUNTS, COUNTS_WIDTH, NOTES, SEGMENTS, SLICES, FETCHED,
) = range(MISC, MISC + 22)  # fmt: skip
"""Cells of their own.

Memory: latency, largest random addition to it, chance of a stall in 1/256, channels of a group, state of the random
numbers. Dispatcher: the instruction that
comes next, the cycle of the last one, bursts of instructions that were asked for. ROUTEs that are through. Cycles of the
last grant and the last post. First cycle in which each group's bus is free; entries of each group's history. Last cycle
in which anything happened. First cell of the slot counts and their number for a ROUTE, of the notes, of the segments, of the slices."""

TIME: Final = 96
"""For each agent the cycle in which it acts next."""
UNIT: Final = TIME + AGENTS
"""A record for each unit."""
QUEUE_PLACES: Final = 66
QUEUE: Final = UNIT + WIDTH * MOST_UNITS
"""For each unit the instructions in its queue: pairs of number and first cycle in which it can be taken."""
VALUE: Final = QUEUE + 2 * QUEUE_PLACES * MOST_UNITS
"""Semaphores."""
POST_PLACES: Final = 64
POST_SOURCES: Final = 5
POST: Final = VALUE + 64
"""For each source head, number, and pairs of cycle and instruction."""
POST_WIDTH: Final = 2 + 2 * POST_PLACES
FETCH: Final = POST + POST_WIDTH * POST_SOURCES
"""First the cycles in which the last 16 instructions left the fetch buffer, then for each burst of instructions the
cycle in which it begins on the bus and the one after its end."""
FETCH_PLACES: Final = 256
BURST_PLACES: Final = 1024
BURST: Final = FETCH + 16 + 2 * FETCH_PLACES
"""For each load engine its last bursts: cycle of the address, first cycle in which the memory has a beat, cycles on the
bus, cycle after them, last cycle at the data side, beats of the engine up to its end, instruction."""
BURST_WIDTH: Final = 8
ASKED, FIRST_BEAT, LENGTH, ENDED, TAKEN_OUT, UP_TO, WHOSE = range(7)
HEAD: Final = BURST + 2 * BURST_WIDTH * BURST_PLACES
"""For each tier the rows at the head of its FIFO."""
RUN_PLACES: Final = 512
RUN: Final = HEAD + 16 * 8
"""For each tier the runs of rows behind."""
JOB: Final = RUN + 8 * RUN_PLACES * 8
"""The two jobs of the vector unit."""
SCALAR_PLACES: Final = 1024
SCALAR: Final = JOB + 2 * 16
"""For each of the two jobs and each vector the cycle in which its last row was accepted."""
OUTPUT_PLACES: Final = 32
OUTPUT: Final = SCALAR + 2 * SCALAR_PLACES
"""Result rows of the vector unit: first cycle of the write, ports that it takes, job."""
REPLY: Final = OUTPUT + 3 * OUTPUT_PLACES
"""Cycles of the store's last 128 write responses, then those in which its last 8 rows were taken."""
WORD: Final = REPLY + 128 + 8
"""For each load engine the words that it writes one by one: instruction, words, words left, next one's first cycle,
first and last step at the data side, kind, tiers or next row."""
W_NUMBER, W_COUNT, W_LEFT, W_AT, W_FIRST, W_LAST, W_KIND, W_WHERE = range(8)
TO_TIERS, TO_COMBINE, TO_LISTS = range(3)
OPEN_PLACES: Final = 32
OPENS: Final = WORD + 2 * 8
"""For each load engine the instructions that have asked for their data and come after such words."""
FIXED: Final = OPENS + 2 * OPEN_PLACES

# Cells of a unit's record.
(
    HEAD_AT, QUEUED, ASKS, HELD, TAKEN, VALID, FREE, OP, READY, LAST, HOLD, FIRST, TILE, TOKEN, CYCLE, TILES, TOKENS,
    PARKED, FRONT, NEXT_OP, NEXT_SINCE, SPLIT, DATA, COUNT, BEATS, BUSY, GRANT, OPEN, OPENED, NEEDS,
) = range(30)  # fmt: skip

# Cells of a tier's head of rows: first cycle in which the next one can move, rows left of its run, what it takes of
# the ports (below), banks from one to the next, the operation that ends with the run (-1: none); runs that came and
# those that are through; rows that are ahead of the bus.
AVAIL, LEFT, NEED, STEP, ENDS, RUN_HEAD, RUN_TAIL, AHEAD = range(8)
# Cells of a run of rows.
R_TIME, R_COUNT, R_NEED, R_STEP, R_ENDS = range(5)

BANK: Final = 0
ADDS: Final = 8
WRITE: Final = 16
TIERS: Final = 24
"""Ports, eight bits each, of the banks of the combine buffer and of the tiers: a result row is at the bank, it reads the
old row, it is written (a cycle later); a result row is written to a tier's activation buffer."""

# Cells of a job of the vector unit.
NUMBER, LIVE, ROWS_LEFT, FINISH, WRITTEN, REDUCES, D_SCALAR, VECTORS, TO_ROWS, D_LOW, D_HIGH, POSTS = range(12)

# Cells of result bus, combine buffer, vector unit and store, in `COMBINE_CELLS`.
CELLS: Final = FIXED
(
    C_TIME, C_NEXT, PORTS, ROWS_AT, TURN, STORE_TURN, PENDING, PENDING_AT, WHICH, ISSUING, REQUEST,
    BLOCKED, CREDITS, VECTOR, ROW, PHASE, TABLE, ELEMENT, A_AT, B_AT, D_AT, FINISHED, OUT_HEAD, OUT_COUNT, LAST_ACCEPT,
    S_NUMBER, S_ROW, S_LEFT, S_READ, S_COUNT, S_TAKEN, S_BEAT, S_START, S_STEP, S_PACE, S_APART, S_PLACE, S_PLACES,
    S_DISCARD, C_OP, C_VECTORS, C_ROWS, C_DEST, C_FINAL, C_REDUCES, C_DEST_TIERS, C_BROWS, C_ASTRIDE, C_BSTRIDE,
    C_DSTRIDE, C_WATCH, UNIT_OWNER, ROW_OWNER, LIST_OWNER, LANE_TURN, LOAD_TURN, FINISH_AT, OFFER_TIERS, OFFER_ROW, OFFER_LIST,
    ASK_AT, OUT_AT, START_AT, WORDS_AT, C_SIMPLE, C_WAITS,
) = range(CELLS, CELLS + 66)  # fmt: skip
END_OF_FIXED: Final = CELLS + 72

# Cells of the notes on an instruction.
NOTE_WIDTH: Final = 8
N_DISPATCHED, N_DONE, N_BEGUN, N_TILE0, N_TILES, N_SLICE, N_CHAINED, N_CONSUMED = range(8)

# Columns of the slices.
SLICE_COLUMNS = ("number", "unit", "taken", "granted", "start", "end", "work", "segment")
S_NUM, S_UNIT, S_TAKE, S_GRANT, S_BEGIN, S_END, S_WORK, S_SEGMENT = range(8)


def new_state(
    config: MachineConfig, firsts: Int, chained: Int, slices: Int, segments: Int, counts: Int, memory: tuple[int, int, int, int, int]
) -> Int:
    """Return the state before a stream."""
    blocks = blocks_of(config)
    notes, instructions = END_OF_FIXED, len(firsts)
    size = notes + NOTE_WIDTH * instructions + counts.size + segments.size + slices.size
    s = np.zeros(size, dtype=np.int64)
    s[: len(blocks)] = blocks
    s[LATENCY : LATENCY + 5] = memory
    s[[DISPATCHED, GRANTED, POSTED]] = -1
    s[NOTES] = notes
    s[COUNTS] = notes + NOTE_WIDTH * instructions
    s[COUNTS_WIDTH] = counts.shape[1] if counts.size else 0
    s[SEGMENTS] = s[COUNTS] + counts.size
    s[s[COUNTS] : s[SEGMENTS]] = counts.ravel()
    s[SLICES] = s[SEGMENTS] + segments.size
    s[s[SEGMENTS] : s[SLICES]] = segments.ravel()
    s[s[SLICES] :] = slices.ravel()
    s[TIME : TIME + AGENTS] = NEVER
    for unit in range(MOST_UNITS):
        for cell in (ASKS, HELD, OP, NEXT_OP, GRANT, FIRST):
            s[UNIT + WIDTH * unit + cell] = -1
    for tier in range(8):
        s[HEAD + 16 * tier + AVAIL] = NEVER
    for job in range(2):
        s[JOB + 16 * job + FINISH] = NEVER
    s[[C_NEXT, ROWS_AT, S_READ, REQUEST, FINISH_AT, ASK_AT, OUT_AT, START_AT, WORDS_AT, PENDING_AT, WORD + W_AT, WORD + 8 + W_AT]] = NEVER
    s[[PENDING, S_NUMBER]] = -1
    s[FINISHED] = -8
    s[CREDITS] = blocks.output_depth
    made = s[notes : notes + NOTE_WIDTH * instructions].reshape(instructions, NOTE_WIDTH)
    made[:, [N_DISPATCHED, N_DONE, N_BEGUN, N_CONSUMED]] = -1
    made[:, N_SLICE] = firsts
    made[:, N_CHAINED] = chained
    s[[WORD, WORD + 8]] = -1
    return s
