# SPDX-License-Identifier: Apache-2.0
"""All pairs of instructions that touch the same cell, or bytes of memory, with nothing to order them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hdl.isa import Opcode
from scheduler.stream.blocks import ACCESS, BEGIN, INNER, KIND, OUTER, READ, SPACE, STRIDE, TIER, WRITE, Blocks
from scheduler.stream.clocks import COUNTS, Clocks, done_before
from scheduler.stream.compiled import compiled
from scheduler.stream.conflicts import (
    KEY_KIND,
    KEY_TIER,
    KEY_TURN,
    WRITTEN,
    Cells,
    conflict_in_memory,
    conflict_of,
    note_cells,
    ordered,
    tag_orders,
)
from scheduler.stream.machine import VCACHE, Machine
from scheduler.stream.marks import marked
from scheduler.stream.segments import (
    LOADS,
    STORES,
    Segments,
    note_spans,
)
from scheduler.stream.table import COL, Rows
from scheduler.stream.touched import Touched

__all__ = [
    "CELL", "EARLIER", "EARLIER_KIND", "LATER", "LATER_KIND", "MEMORY", "WHERE", "Races", "find_races",
]  # fmt: skip

Races = npt.NDArray[np.int64]
"""Shape [races, 7]: both instructions, the earlier one first, a space (or MEMORY), kinds of both accesses, a cell, and
whether it is a race."""

EARLIER, LATER, WHERE, EARLIER_KIND, LATER_KIND, CELL, OPEN = range(7)

BY_READER, BY_WRITER = 0, 4
"""Bits behind the number of an instruction."""

MEMORY = 100
"""Stands for a space: some bytes of memory, one entry for all of them."""


@compiled
def _add(races: Races, first: int, at: int, earlier: int, cell: int, open_: int) -> int:
    """Note an earlier access (a number for it) among those from `first` up to `at`; return their end, -1: no room.

    The entry keeps the lowest cell.
    """
    for place in range(first, at):
        if races[place, EARLIER] == earlier:
            races[place, OPEN] |= open_
            if cell < races[place, CELL]:
                races[place, CELL] = cell
            return at
    if at == len(races):
        return -1
    races[at, EARLIER], races[at, CELL], races[at, OPEN] = earlier, cell, open_
    return at + 1


@compiled
def _finish(races: Races, first: int, at: int, shift: int, n: int, space: int, kind: int, new_kind: int) -> int:
    """Put the entries from `first` on in order and keep the open ones; return their end."""
    for place in range(first + 1, at):
        for other in range(place, first, -1):
            if races[other - 1, EARLIER] <= races[other, EARLIER]:
                break
            for column in range(races.shape[1]):
                upper = races[other, column]
                races[other, column] = races[other - 1, column]
                races[other - 1, column] = upper
    end = first
    for place in range(first, at):
        if races[place, OPEN]:
            races[end, EARLIER], races[end, LATER] = (races[place, EARLIER] >> shift) - 1, n
            races[end, WHERE], races[end, CELL] = space, races[place, CELL]
            races[end, EARLIER_KIND], races[end, LATER_KIND] = kind, new_kind
            end += 1
    return end


@compiled
def _with_writers(
    clocks: Clocks, cells: Cells, n: int, blocks: Blocks, low: int, high: int, races: Races, first: int
) -> int:
    """Note the races of one access, blocks `low` up to `high`, with writes; return where they end, -1: no room."""
    kind, tier, space = blocks[low, KIND], blocks[low, TIER], blocks[low, SPACE]
    at = first
    for b in range(low, high):
        for run in range(blocks[b, OUTER]):
            begin = blocks[b, BEGIN] + run * blocks[b, STRIDE]
            for cell in range(begin, begin + blocks[b, INNER]):
                writer = marked(cells.marks, WRITTEN, cell)
                number = (writer >> 4) - 1
                if number < 0:
                    continue
                if space == VCACHE and kind == READ:
                    fine = done_before(clocks, n, number, -1)
                    fine = fine or tag_orders(clocks, cells, n, number, tier, cell, cell + 1)
                else:
                    fine = ordered(clocks, n, number, (writer & 15) - 1, WRITE, tier, kind, space)
                at = _add(races, first, at, writer, cell, not fine)
                if at < 0:
                    return -1
    return _finish(races, first, at, BY_WRITER, n, space, WRITE, kind)


@compiled
def _with_readers(
    clocks: Clocks, cells: Cells, n: int, blocks: Blocks, low: int, high: int, key: int, races: Races, first: int
) -> int:
    """Note the races of one access with reads or additions of one key; return where they end, -1: no room."""
    kind, tier, space = blocks[low, KIND], blocks[low, TIER], blocks[low, SPACE]
    at, other, own = first, cells.keys[key, KEY_KIND], cells.keys[key, KEY_TIER]
    for b in range(low, high):
        for run in range(blocks[b, OUTER]):
            begin = blocks[b, BEGIN] + run * blocks[b, STRIDE]
            for cell in range(begin, begin + blocks[b, INNER]):
                number = marked(cells.marks, key + 1, cell)
                if number > marked(cells.marks, WRITTEN, cell) >> 4:
                    fine = ordered(clocks, n, number - 1, own, other, tier, kind, space)
                    at = _add(races, first, at, number, cell, not fine)
                    if at < 0:
                        return -1
    return _finish(races, first, at, BY_READER, n, space, other, kind)


@compiled
def _next_key(cells: Cells, keys: int, space: int, key: int) -> int:
    """Return the key that was met in a space after `key` (-1: the first), or -1."""
    best = -1
    for other in range(keys):
        turn = cells.keys[other, KEY_TURN + space]
        if not turn or (key >= 0 and turn <= cells.keys[key, KEY_TURN + space]):
            continue
        if best < 0 or turn < cells.keys[best, KEY_TURN + space]:
            best = other
    return best


@compiled
def _races_on_chip(
    clocks: Clocks, cells: Cells, n: int, blocks: Blocks, first: int, end: int, races: Races, at: int
) -> int:
    """Note the races of an instruction behind the first `at`; return their end, -1: no room."""
    low = first
    while low < end:
        high = low + 1
        while high < end and blocks[high, ACCESS] == blocks[low, ACCESS]:
            high += 1
        at = _with_writers(clocks, cells, n, blocks, low, high, races, at)
        keys, key = clocks.now[COUNTS, 2], -1
        while at >= 0:
            key = _next_key(cells, keys, blocks[low, SPACE], key)
            if key < 0:
                break
            if cells.keys[key, KEY_KIND] != blocks[low, KIND]:
                at = _with_readers(clocks, cells, n, blocks, low, high, key, races, at)
        if at < 0:
            return -1
        low = high
    return at


@compiled
def find_races(
    rows: Rows, first: int, machine: Machine, touched: Touched, clocks: Clocks, cells: Cells, segments: Segments,
    races: Races, ends: npt.NDArray[np.int64],
) -> int:  # fmt: skip
    """Look for races in a part from instruction `first` on, until there is no room for them.

    Parameters
    ----------
    clocks
        The order of the whole stream.
    cells, segments
        What the instructions before `first` have left there.
    ends : int64 array [1]
        How many races there are so far.

    Returns
    -------
    int
        The instruction to go on with.
    """
    blocks, reach = touched.blocks, touched.spans
    for n in range(first, touched.part[1]):
        place = n - touched.part[0]
        low, high = touched.blocks_at[place], touched.blocks_at[place + 1]
        begin, end = touched.spans_at[place], touched.spans_at[place + 1]
        load, at = rows[n, COL.opcode] == Opcode.LOAD, ends[0]
        in_order = conflict_of(clocks, cells, n, blocks, low, high) < 0
        if not in_order:
            at = _races_on_chip(clocks, cells, n, blocks, low, high, races, at)
        if at >= 0 and begin < end:
            if conflict_in_memory(clocks, n, reach, begin, end, segments, STORES if load else LOADS) >= 0:
                if at == len(races):
                    return n
                races[at, LATER], races[at, WHERE] = n, MEMORY
                at += 1
        if at < 0:
            return n
        ends[0] = at
        note_cells(clocks, cells, n, machine, blocks, low, high, in_order)
        note_spans(reach, begin, end, segments, LOADS if load else STORES, n)
    return int(touched.part[1])
