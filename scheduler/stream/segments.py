# SPDX-License-Identifier: Apache-2.0
"""Which bytes of memory an instruction reads or writes, and which instruction last did so to any of them.

Of all memory only what the stream stores matters: loads elsewhere can meet nothing. That part is cut at every place
where a span begins or ends into segments, each with its latest store and its latest load. They are the leaves of a
tree, so that a span of many segments costs little more than one of a few.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hdl.config import ADDRESS_UNIT
from hdl.isa import Format, LoadDest, Opcode, StoreFormat
from hdl.isa.legality import LIST_ENTRY_BYTES
from scheduler.stream.compiled import compiled
from scheduler.stream.lists import TokenLists, route_of
from scheduler.stream.machine import Machine
from scheduler.stream.table import COL, Rows

__all__ = [
    "GROUP", "LOADS", "MOST_SPANS", "STORES", "Bounds", "Ranges", "Segments", "Spans", "Trees", "element_bytes",
    "experts_of", "latest_overlap", "load_bytes", "near_overlap", "near_range", "new_spans", "note_spans",
    "segments_of", "spans",
]  # fmt: skip

Int64 = npt.NDArray[np.int64]
Spans = npt.NDArray[np.int64]
"""Shape [many, 4], a span a row: first byte, bytes of a run, bytes from one run to the next, runs. An address in group
1 has `GROUP` added."""

MOST_SPANS = 4
"""Spans of one instruction."""

GROUP = 1 << 44
"""More than any address, also those of an expert behind the last one that fits."""


Ranges = npt.NDArray[np.int64]
"""Shape [2, ranges]: begin and end of the parts of memory that hold all stores, in order and apart."""

Bounds = npt.NDArray[np.int64]
"""Where segments begin, in order; the last one ends at the last element."""

Trees = npt.NDArray[np.int32]
"""Shape [4, 2 * segments]: two trees, of stores and of loads. For each node, one more than the number of the latest
instruction of all segments below, and of the latest that covers all below."""

NEAR = 8
"""Bounds that are looked at one by one."""

STORES, LOADS = 0, 2
"""First rows of the trees."""


class Segments(NamedTuple):
    """The stored part of memory.

    Attributes
    ----------
    ranges, bounds, trees
        See above.
    """

    ranges: Ranges
    bounds: Bounds
    trees: Trees


@compiled
def element_bytes(rows: Rows, r: int) -> int:
    """Return the bytes of one element that the STORE in row `r` writes (DISCARD: 0)."""
    kind = rows[r, COL.format]
    return 1 if kind == StoreFormat.INT8 else 2 if kind == StoreFormat.INT16 else 4 if kind == StoreFormat.INT32 else 0


@compiled
def is_plane(form: int) -> bool:
    """Return whether a load of this format reads half a tile from a group."""
    return bool(form == Format.PAIR or form == Format.HIGH or form == Format.LOW)


@compiled
def load_bytes(rows: Rows, r: int, machine: Machine) -> int:
    """Return the bytes that the LOAD in row `r` reads from one group, in whole beats; PAIR: of each plane."""
    kind, size = rows[r, COL.dest_kind], 2 * machine.columns
    if kind == LoadDest.VCACHE:
        size = machine.rows * machine.columns
        if is_plane(rows[r, COL.format]):
            size //= 2
    elif kind == LoadDest.ACTIVATION:
        size = machine.rows
    elif kind == LoadDest.LIST:
        size = LIST_ENTRY_BYTES
    return int(-(-rows[r, COL.count] * size // machine.group_bytes) * machine.group_bytes)


@compiled
def _span(found: Spans, at: int, group: int, begin: int, width: int, step: int, runs: int) -> int:
    if runs <= 0 or width <= 0:
        return at
    if step == width:
        width, runs = width * runs, 1
    found[at, 0], found[at, 1], found[at, 2], found[at, 3] = group * GROUP + begin, width, step, runs
    return at + 1


@compiled
def spans(rows: Rows, r: int, machine: Machine, experts: int, found: Spans, at: int) -> int:
    """Write down behind the first `at` spans the bytes that row `r` reads (LOAD) or writes (STORE), in up to four.

    Parameters
    ----------
    experts : int
        Experts that a slot may stand for.

    Returns
    -------
    int
        How many spans there are then.
    """
    opcode, group, begin = rows[r, COL.opcode], rows[r, COL.group], rows[r, COL.addr] * ADDRESS_UNIT
    if opcode == Opcode.STORE:
        width = machine.columns * element_bytes(rows, r)
        step = width * (1 + rows[r, COL.addr_gap])
        return _span(found, at, group, begin + rows[r, COL.offset], width, step, rows[r, COL.rows])
    if opcode != Opcode.LOAD:
        return at
    width, step, low = load_bytes(rows, r, machine), 0, rows[r, COL.addr_low] * ADDRESS_UNIT
    even, odd = 1, 0
    if rows[r, COL.slot_en]:
        step, even = rows[r, COL.slot_stride] * ADDRESS_UNIT, experts
        if rows[r, COL.format] == Format.PAIR:
            even, odd = (experts + 1) // 2, experts // 2
        elif rows[r, COL.scored] and rows[r, COL.dest_kind] == LoadDest.PARAMETER:  # and for the high plane alone
            half = (rows[r, COL.slot_stride] >> 1) * ADDRESS_UNIT
            at = _span(found, at, group, begin + half, width, step, even)
    at = _span(found, at, group, begin, width, step, even)
    if rows[r, COL.format] == Format.PAIR:
        at = _span(found, at, 1 - group, low, width, step, even)
        at = _span(found, at, 1 - group, begin, width, step, odd)
        at = _span(found, at, group, low, width, step, odd)
    return at


def new_spans(instructions: int) -> Spans:
    """Return room for the spans of some instructions."""
    return np.zeros((MOST_SPANS * instructions, 4), dtype=np.int64)


@compiled
def _place(sorted_: Int64, value: int) -> int:
    """Return how many elements are not above `value`."""
    low, high = 0, len(sorted_)
    while low < high:
        middle = (low + high) >> 1
        if sorted_[middle] <= value:
            low = middle + 1
        else:
            high = middle
    return low


@compiled
def _stored(ranges: Ranges, low: int, high: int) -> bool:
    """Return whether bytes `low` up to `high` meet a range that holds stores."""
    place = _place(ranges[0], high - 1)
    return bool(place and ranges[1, place - 1] > low)


@compiled
def experts_of(rows: Rows, r: int, machine: Machine, lists: TokenLists) -> int:
    """Return how many experts the slot of the instruction in row `r` may name."""
    route = route_of(rows, r, lists)
    return int(rows[route, COL.experts]) if route >= 0 else int(machine.expert_slots)


@compiled
def _extents(rows: Rows, machine: Machine, found: Spans, low: Int64, high: Int64) -> int:
    """Write down first byte and end of each store; return how many there are."""
    many = 0
    for r in range(len(rows)):
        if rows[r, COL.opcode] == Opcode.STORE and spans(rows, r, machine, 0, found, 0):
            low[many] = found[0, 0]
            high[many] = found[0, 0] + (found[0, 3] - 1) * found[0, 2] + found[0, 1]
            many += 1
    return many


@compiled
def _cuts(rows: Rows, machine: Machine, ranges: Ranges, found: Spans, cuts: Int64) -> int:
    """Write down, as far as there is room, where runs of spans begin and end; return how many places there are."""
    many = 0
    for r in range(len(rows)):
        for s in range(spans(rows, r, machine, machine.expert_slots, found, 0)):
            begin, width, step, runs = found[s, 0], found[s, 1], found[s, 2], found[s, 3]
            if not _stored(ranges, begin, begin + (runs - 1) * step + width):
                continue
            for run in range(runs):
                if many + 2 <= len(cuts):
                    cuts[many], cuts[many + 1] = begin + run * step, begin + run * step + width
                many += 2
    return many


def segments_of(rows: Rows, machine: Machine) -> Segments:
    """Return the segments of a stream, untouched."""
    stores = int(np.count_nonzero(rows[:, COL.opcode] == Opcode.STORE))
    low, high = np.zeros(stores, np.int64), np.zeros(stores, np.int64)
    many = _extents(rows, machine, new_spans(1), low, high)
    order = np.argsort(low[:many], kind="stable")
    low, reach = low[:many][order], np.maximum.accumulate(high[:many][order])
    apart = np.ones(many, dtype=np.bool_)
    apart[1:] = low[1:] > reach[:-1]
    ranges = np.stack([low[apart], reach[np.append(apart[1:], True)] if many else reach])
    cuts = np.zeros(4 * len(rows), np.int64)
    needed = _cuts(rows, machine, ranges, new_spans(1), cuts)
    if needed > len(cuts):
        cuts = np.zeros(needed, np.int64)
        _cuts(rows, machine, ranges, new_spans(1), cuts)
    bounds = np.unique(cuts[:needed])
    return Segments(ranges, bounds, np.zeros((4, 2 * max(len(bounds) - 1, 1)), np.int32))


@compiled
def _mark(trees: Trees, tree: int, first: int, end: int, value: int) -> None:
    """Note that `value`, the largest so far, is the latest of segments `first` up to `end`."""
    leaves = trees.shape[1] // 2
    low, high = first + leaves, end + leaves
    while low < high:
        if low & 1:
            trees[tree, low] = trees[tree + 1, low] = value
            low += 1
        if high & 1:
            high -= 1
            trees[tree, high] = trees[tree + 1, high] = value
        low >>= 1
        high >>= 1
    for node in (first + leaves, end - 1 + leaves):
        while node > 1:
            node >>= 1
            trees[tree, node] = value


@compiled
def _latest(trees: Trees, tree: int, first: int, end: int) -> int:
    """Return the latest of segments `first` up to `end`."""
    leaves = trees.shape[1] // 2
    low, high, most = first + leaves, end + leaves, 0
    while low < high:
        if low & 1:
            most = max(most, trees[tree, low])
            low += 1
        if high & 1:
            high -= 1
            most = max(most, trees[tree, high])
        low >>= 1
        high >>= 1
    for node in (first + leaves, end - 1 + leaves):
        while node > 1:
            node >>= 1
            most = max(most, trees[tree + 1, node])
    return most


@compiled
def _ahead(bounds: Bounds, place: int, value: int) -> int:
    """Return how many bounds are not above `value`, of which there are at least `place`."""
    for _ in range(NEAR):
        if place == len(bounds) or bounds[place] > value:
            return place
        place += 1
    return _place(bounds, value)


@compiled
def near_overlap(found: Spans, low: int, high: int, segments: Segments, tree: int) -> int:
    """Return one more than the number of the latest instruction in a tree that comes near spans, or 0.

    What lies in the gaps of a span counts as well.
    """
    most, bounds = 0, segments.bounds
    for s in range(low, high):
        begin, end = found[s, 0], found[s, 0] + (found[s, 3] - 1) * found[s, 2] + found[s, 1]
        if _stored(segments.ranges, begin, end):
            most = max(most, _latest(segments.trees, tree, _place(bounds, begin) - 1, _place(bounds, end - 1)))
    return most


@compiled
def near_range(found: Spans, low: int, high: int, segments: Segments) -> bool:
    """Return whether spans come near a range that holds stores."""
    for s in range(low, high):
        if _stored(segments.ranges, found[s, 0], found[s, 0] + (found[s, 3] - 1) * found[s, 2] + found[s, 1]):
            return True
    return False


@compiled
def latest_overlap(found: Spans, low: int, high: int, segments: Segments, tree: int) -> int:
    """Return one more than the number of the latest instruction in a tree that shares a byte with spans, or 0."""
    most, bounds = 0, segments.bounds
    for s in range(low, high):
        begin, width, step, runs = found[s, 0], found[s, 1], found[s, 2], found[s, 3]
        if not _stored(segments.ranges, begin, begin + (runs - 1) * step + width):
            continue
        place = _place(bounds, begin)
        for run in range(runs):
            byte = begin + run * step
            first = _ahead(bounds, place, byte)
            place = _ahead(bounds, first, byte + width - 1)
            most = max(most, _latest(segments.trees, tree, first - 1, place))
            place = place if step >= width else first
    return most


@compiled
def note_spans(found: Spans, low: int, high: int, segments: Segments, tree: int, number: int) -> None:
    """Note in a tree that instruction `number`, later than all before, touches spans."""
    bounds = segments.bounds
    for s in range(low, high):
        begin, width, step, runs = found[s, 0], found[s, 1], found[s, 2], found[s, 3]
        if not _stored(segments.ranges, begin, begin + (runs - 1) * step + width):
            continue
        place = _place(bounds, begin)
        for run in range(runs):
            byte = begin + run * step
            first = _ahead(bounds, place, byte)
            place = _ahead(bounds, first, byte + width - 1)
            _mark(segments.trees, tree, first - 1, place, number + 1)
            place = place if step >= width else first
