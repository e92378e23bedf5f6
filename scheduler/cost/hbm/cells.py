# SPDX-License-Identifier: Apache-2.0
"""What the cycle model keeps of a stream's requests to HBM: a region of its state, which is there only with HBM.

The machine's units put requests into rings, one for each stream of a channel (:mod:`scheduler.cost.hbm.channel`), with
the cycle in which the channel gets them; the channels take them from there, and note when their beats come.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from hdl.isa import Opcode
from scheduler.cost.hbm.channel import STREAMS
from scheduler.cost.state import NEVER, Int
from scheduler.stream.table import COL, Rows

__all__ = [
    "ASK", "ASK_AT", "ENTRIES", "ENTRY", "INDEX_AT", "RING", "RINGS", "RING_AT", "STORES", "STORE_AT", "A", "K", "Q",
    "new_region", "place_of_items",
]  # fmt: skip

RING: Final = 128
"""Requests of a stream that can be under way."""

STORES: Final = 256
"""Stores that can wait for their responses, DISCARDs behind them included."""


class Cells(NamedTuple):
    """Single cells.

    Attributes
    ----------
    now : int
        First cycle that the channels have not worked out.
    waiting : int
        Requests that are under way.
    inside0, inside1 : int
        Of each channel, those that it has been told of.
    delay : int
        From a read's command to the first cycle in which its beat can be on the bus.
    loads, fetches, writes : int
        Streams with a request that has ended and that was not looked at: bit g for channel g.
    fetch_first : int
        Number of the stream's first beat in group 0.
    fetch_here : int
        Bursts of instructions that are there.
    consumed : int
        Instructions of which it is known when they leave the fetch buffer.
    write_beat, write_beats : int
        The running store's burst that is not complete: its first beat, and its beats up to now.
    responses : int
        Bursts of stores that have no response.
    stores_first, stores_next : int
        Stores that wait for responses: the oldest one, and the one after the last.
    """

    now: int
    waiting: int
    inside0: int
    inside1: int
    delay: int
    loads: int
    fetches: int
    writes: int
    fetch_first: int
    fetch_here: int
    consumed: int
    write_beat: int
    write_beats: int
    responses: int
    stores_first: int
    stores_next: int


class AskCells(NamedTuple):
    """Cells of a load engine.

    Attributes
    ----------
    number, left, beat, issue : int
        Load that asks for its data (-1: none), beats that it has not asked for, number of the next one, first cycle in
        which it can.
    asked : int
        Loads that ask or have asked, of those that have data.
    ended, stepped : int
        Bursts that have come, and that are through at the data side if nothing there is in their way.
    loads : int
        Loads of which all bursts are.
    done, item : int
        Of the load behind them: steps, and items that are complete.
    """

    number: int
    left: int
    beat: int
    issue: int
    asked: int
    ended: int
    stepped: int
    loads: int
    done: int
    item: int


class RingCells(NamedTuple):
    """Cells of a ring of requests: how many were added, told to the channel, ended; then its entries."""

    added: int
    told: int
    ended: int
    first: int


class EntryCells(NamedTuple):
    """Cells of a request.

    Attributes
    ----------
    at, beat, beats : int
        Cycle in which the channel gets it, its first beat, how many.
    begin : int
        Cycle of its first beat on the bus (NEVER: not known).
    tag : int
        Writes: store that ends with it, or -1.
    """

    at: int
    beat: int
    beats: int
    begin: int
    tag: int


K: Final = Cells(*range(len(Cells._fields)))
A: Final = AskCells(*range(len(AskCells._fields)))
Q: Final = RingCells(*range(len(RingCells._fields)))
ENTRY: Final = EntryCells(*range(len(EntryCells._fields)))

ASK: Final = len(AskCells._fields)
ENTRIES: Final = len(EntryCells._fields)
RINGS: Final = Q.first + ENTRIES * RING
"""Cells of an engine's record, of a request, of a ring."""

ASK_AT: Final = len(Cells._fields)
RING_AT: Final = ASK_AT + 2 * ASK
STORE_AT: Final = RING_AT + 2 * STREAMS * RINGS
INDEX_AT: Final = STORE_AT + 2 * STORES
"""Where these begin in the region: the records of both load engines; the rings, by group and stream; stores that wait
(instruction, and the cycle of its last response, NEVER: not known); for each instruction where its items begin. The
items are behind: for each item of each LOAD the step in which it is complete if nothing at the data side is in its way.
"""


def place_of_items(rows: Rows) -> Int:
    """Return for each instruction where its items begin, and, last, how many there are: shape [instructions + 1]."""
    counts = np.where(rows[:, COL.opcode] == Opcode.LOAD, rows[:, COL.count], 0)
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])


def new_region(rows: Rows, delay: int, fetch_first: int) -> Int:
    """Return the region before a stream runs.

    Parameters
    ----------
    rows : int64 array [instructions, columns]
    delay, fetch_first : int
        See :class:`Cells`.
    """
    places = INDEX_AT + len(rows) + place_of_items(rows)
    region = np.zeros(places[-1], np.int64)
    region[K.delay], region[K.fetch_first] = delay, fetch_first
    for engine in range(2):
        region[ASK_AT + ASK * engine + A.number] = -1
    region[INDEX_AT : places[0]] = places[:-1]
    region[places[0] :] = NEVER
    return region
