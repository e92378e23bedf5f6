# SPDX-License-Identifier: Apache-2.0
"""What is wrong with an instruction on its own or with what loads have left for it, and which tags it waits for."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hdl.isa import Format, LoadDest, Opcode, VectorDest
from scheduler.stream.blocks import BEGIN, INNER, KIND, OUTER, SPACE, STRIDE, TIER, WRITE, Blocks, end_of
from scheduler.stream.clocks import CONDITION, TAG, Clocks
from scheduler.stream.compiled import compiled
from scheduler.stream.conflicts import WRITTEN, Cells, Loads, tag_loads
from scheduler.stream.footprints import has_sum, reads_scalar, scalar_span, writes_scalar
from scheduler.stream.legal import Int64, addresses_fit
from scheduler.stream.machine import ACTIVATION, COMBINE, VCACHE, Machine
from scheduler.stream.marks import mark, marked
from scheduler.stream.segments import STORES, Segments, latest_overlap, near_range, note_spans
from scheduler.stream.table import COL, Rows
from scheduler.stream.touched import Touched

__all__ = [
    "CHANGED_LIST", "EXPERT", "IN_PLACE", "NO_HIGH", "NO_ROUTE", "OPERAND_B", "OUTSIDE", "OWN_READS", "SCALARS",
    "STORED", "TWICE", "WRONG_SLOT", "WRONG_TAG", "examine",
]  # fmt: skip

Stamps = npt.NDArray[np.int32]
"""For each cell, a number that says when it was last looked at."""

(
    OUTSIDE, TWICE, OWN_READS, IN_PLACE, OPERAND_B, SCALARS, CHANGED_LIST, STORED, NO_ROUTE, EXPERT, WRONG_SLOT,
    WRONG_TAG, NO_HIGH,
) = range(1, 14)  # fmt: skip
"""What can be wrong with an instruction, in the order in which it is looked for."""

SLOT_NUMBERS = 256
"""Slots that an instruction can name."""

SEVERAL = 24
"""Blocks of a GEMM up to which it pays to look at their extents first."""

Progress = npt.NDArray[np.int64]
"""Shape [2]."""

TAGGED, FOUND = range(2)
"""Places in `Progress`: tagged loads and findings so far."""


@compiled
def _near(blocks: Blocks, i: int, j: int) -> bool:
    """Return whether the extents of two blocks overlap."""
    return bool(blocks[i, BEGIN] < end_of(blocks, j) and blocks[j, BEGIN] < end_of(blocks, i))


@compiled
def _stamp(blocks: Blocks, b: int, stamps: Stamps) -> bool:
    """Stamp the cells of a block; return whether one of them was stamped already."""
    again, stamp = False, stamps[-1]
    for run in range(blocks[b, OUTER]):
        first = blocks[b, BEGIN] + run * blocks[b, STRIDE]
        for cell in range(first, first + blocks[b, INNER]):
            again |= stamps[cell] == stamp
            stamps[cell] = stamp
    return again


@compiled
def _stamped(blocks: Blocks, b: int, stamps: Stamps) -> bool:
    """Return whether a cell of a block is stamped."""
    stamp = stamps[-1]
    for run in range(blocks[b, OUTER]):
        first = blocks[b, BEGIN] + run * blocks[b, STRIDE]
        for cell in range(first, first + blocks[b, INNER]):
            if stamps[cell] == stamp:
                return True
    return False


@compiled
def _meet(blocks: Blocks, i: int, j: int, stamps: Stamps) -> bool:
    """Return whether two blocks share a cell."""
    if not _near(blocks, i, j):
        return False
    stamps[-1] += 1
    _stamp(blocks, i, stamps)
    return _stamped(blocks, j, stamps)


@compiled
def _gemm_conflict(blocks: Blocks, low: int, high: int, stamps: Stamps) -> int:
    """Return what is wrong with the accesses of a GEMM, or 0.

    Its rows come out while later waves still read, so it must not write activations that it reads; and two rows of one
    GEMM for the same cell have no defined order unless they are added.
    """
    first, near = high, False  # writes are the last blocks
    while first > low and blocks[first - 1, KIND] == WRITE:
        first -= 1
    for write in range(first, high):
        if blocks[write, OUTER] > 1 and blocks[write, STRIDE] < blocks[write, INNER]:
            return TWICE
        for other in range(max(low, write - SEVERAL), write):
            if blocks[other, KIND] == WRITE or blocks[other, SPACE] == ACTIVATION:
                near |= _near(blocks, write, other)
    if not near and high - low <= SEVERAL:
        return 0
    stamps[-1] += 1
    for write in range(first, high):
        if _stamp(blocks, write, stamps):
            return TWICE
    for read in range(low, first):
        if blocks[read, SPACE] == ACTIVATION and _stamped(blocks, read, stamps):
            return OWN_READS
    return 0


@compiled
def _vector_conflict(rows: Rows, r: int, blocks: Blocks, low: int, high: int, stamps: Stamps) -> int:
    """Return what is wrong with the accesses of a VECTOR, or 0.

    Results may go over operand A in place, and a running maximum or choice over the one before; nothing else that an
    instruction writes may be something that it reads, and nothing may be written twice.
    """
    kind, write = rows[r, COL.dest_kind], low
    while write < high and blocks[write, KIND] != WRITE:
        write += 1
    if kind != VectorDest.NONE and blocks[write, OUTER] > 1 and blocks[write, STRIDE] < blocks[write, INNER]:
        return TWICE
    if kind == VectorDest.ROWS:
        stride, alone = rows[r, COL.a_stride], rows[r, COL.vectors] == 1
        in_place = rows[r, COL.dest_base] == rows[r, COL.a_base]
        in_place &= alone or (rows[r, COL.dest_stride] == stride and stride >= rows[r, COL.rows])
        if not in_place and _meet(blocks, write, low, stamps):
            return IN_PLACE
        for read in range(low + 1, write):
            if blocks[read, SPACE] == COMBINE and _meet(blocks, write, read, stamps):
                return OPERAND_B
    if writes_scalar(rows, r) and reads_scalar(rows, r):
        read, written = rows[r, COL.s_base], rows[r, COL.d_scalar]
        if read < written + rows[r, COL.vectors] and written < read + scalar_span(rows, r):
            if read != written or has_sum(rows, r):
                return SCALARS
    return 0


@compiled
def _note(found: Int64, progress: Progress, code: int, n: int, first: int, second: int, third: int) -> None:
    at = progress[FOUND]
    found[at, 0], found[at, 1], found[at, 2], found[at, 3], found[at, 4] = code, n, first, second, third
    progress[FOUND] = at + 1


@compiled
def _examine_slot(
    rows: Rows, n: int, route: int, machine: Machine, limits: Int64, found: Int64, progress: Progress
) -> None:
    """Note what is wrong with the use of a slot: no ROUTE before it, or an expert outside memory."""
    if route < 0:
        _note(found, progress, NO_ROUTE, n, 0, 0, 0)
    elif rows[n, COL.opcode] == Opcode.LOAD:
        experts = rows[route, COL.experts]
        for turn in range(4):  # places grow with the experts, in either group
            expert = min(turn, experts - 1) if turn < 2 else max(0, experts - 4 + turn)
            if not addresses_fit(rows, n, expert, machine, limits):
                _note(found, progress, EXPERT, n, expert, 0, 0)
                return


@compiled
def _examine_tiles(
    clocks: Clocks, cells: Cells, n: int, condition: int, machine: Machine, tags: Stamps, blocks: Blocks, low: int,
    high: int, found: Int64, progress: Progress,
) -> None:  # fmt: skip
    """Note the first tile that a GEMM does not find filled, or only if a slot is not empty that is not its own."""
    steps, marks = clocks.steps, cells.marks
    for b in range(low, high):
        if blocks[b, SPACE] != VCACHE:
            continue
        first, tier = blocks[b, BEGIN], blocks[b, TIER]
        base = machine.vcache + tier * machine.vcache_tiles
        for cell in range(first, first + blocks[b, INNER]):
            load = (marked(marks, WRITTEN, cell) >> 4) - 1
            needs = steps[load, CONDITION] if load >= 0 else -1
            if needs >= 0 and needs != condition:
                _note(found, progress, WRONG_SLOT, n, tier, cell - base, needs % SLOT_NUMBERS)
                return
        for cell in range(first, first + blocks[b, INNER]):
            load = (marked(marks, WRITTEN, cell) >> 4) - 1
            tag = steps[load, TAG] if load >= 0 else tags[cell - machine.vcache]
            if tag != steps[n, TAG]:
                _note(found, progress, WRONG_TAG, n, tier, cell - base, tag)
                return


@compiled
def _examine_halves(
    rows: Rows, n: int, condition: int, clocks: Clocks, cells: Cells, machine: Machine, tags: Stamps, blocks: Blocks,
    low: int, high: int, found: Int64, progress: Progress,
) -> None:  # fmt: skip
    """Note the first tile that has no high plane for the low one that a LOAD brings, or only for another slot.

    A load that the slot's importance may leave out has to leave tags as they are: GEMMs read the tile all the same.
    """
    for b in range(low, high):
        if blocks[b, SPACE] != VCACHE:
            continue
        for cell in range(blocks[b, BEGIN], blocks[b, BEGIN] + blocks[b, INNER]):
            load = (marked(cells.marks, WRITTEN, cell) >> 4) - 1
            needs = clocks.steps[load, CONDITION] if load >= 0 else -1
            tier = (cell - machine.vcache) // machine.vcache_tiles
            tile = (cell - machine.vcache) % machine.vcache_tiles
            if needs >= 0 and needs != condition:
                _note(found, progress, WRONG_SLOT, n, tier, tile, needs % SLOT_NUMBERS)
                return
            tag = clocks.steps[load, TAG] if load >= 0 else tags[cell - machine.vcache]
            if tag < 0 or (rows[n, COL.scored] and tag != rows[n, COL.tag]):
                _note(found, progress, NO_HIGH, n, tier, tile, tag)
                return


@compiled
def examine(
    rows: Rows, first: int, machine: Machine, limits: Int64, touched: Touched, clocks: Clocks, cells: Cells,
    segments: Segments, tags: Stamps, stamps: Stamps, tagged: Loads, tagged_at: Stamps, found: Int64,
    progress: Progress,
) -> int:  # fmt: skip
    """Examine the instructions of a part from number `first` on, until there is no room for what is found.

    Parameters
    ----------
    clocks
        The fields of all instructions.
    tags : int32 array [tiers * vcache_tiles]
        Fill tags that an earlier stream left (-1: not valid).
    stamps : int32 array [cells + 1]
        Zero before the first instruction of all.
    tagged, tagged_at
        For each GEMM the loads whose last tile it reads by tag: all of them, and where those of each instruction begin.
    found : int64 array [findings, 5]
        Code, instruction and three numbers that depend on the code.

    Returns
    -------
    int
        The instruction to go on with; -1 after a finding that ends it all.
    """
    steps, blocks, reach = clocks.steps, touched.blocks, touched.spans
    for n in range(first, touched.part[1]):
        place = n - touched.part[0]
        low, high = touched.blocks_at[place], touched.blocks_at[place + 1]
        tiles = 0
        for b in range(low, high):
            tiles += blocks[b, INNER] if blocks[b, SPACE] == VCACHE else 0
        if progress[FOUND] + 4 > len(found) or progress[TAGGED] + tiles > len(tagged):
            return n
        opcode, slot = rows[n, COL.opcode], rows[n, COL.slot_en]
        wrong, detail = 0, COMBINE
        if opcode == Opcode.GEMM:
            wrong, detail = _gemm_conflict(blocks, low, high, stamps), blocks[high - 1, SPACE]
        elif opcode == Opcode.VECTOR:
            wrong = _vector_conflict(rows, n, blocks, low, high, stamps)
            detail = COMBINE if rows[n, COL.dest_kind] == VectorDest.ROWS else ACTIVATION
        if wrong:
            _note(found, progress, wrong, n, detail, 0, 0)
            return -1
        load, begin, end = opcode == Opcode.LOAD, touched.spans_at[place], touched.spans_at[place + 1]
        if opcode == Opcode.STORE:
            note_spans(reach, begin, end, segments, STORES, n)
        elif load and rows[n, COL.dest_kind] == LoadDest.LIST:
            if latest_overlap(reach, begin, end, segments, STORES):
                _note(found, progress, CHANGED_LIST, n, 0, 0, 0)
        if load and rows[n, COL.scored] and rows[n, COL.format] == Format.PAIR:
            if near_range(reach, begin, end, segments):
                _note(found, progress, STORED, n, 0, 0, 0)
        condition = -1
        if slot:
            _examine_slot(rows, n, touched.routes[place, 0], machine, limits, found, progress)
            condition = touched.routes[place, 1] * SLOT_NUMBERS + rows[n, COL.slot]
        steps[n, CONDITION] = condition
        if opcode == Opcode.GEMM:
            progress[TAGGED] = tag_loads(clocks, cells, machine, blocks, low, high, tagged, progress[TAGGED])
            _examine_tiles(clocks, cells, n, condition, machine, tags, blocks, low, high, found, progress)
        tagged_at[n + 1] = progress[TAGGED]
        if load and rows[n, COL.dest_kind] == LoadDest.VCACHE:
            if rows[n, COL.format] == Format.LOW:
                _examine_halves(rows, n, condition, clocks, cells, machine, tags, blocks, low, high, found, progress)
            for b in range(low, high):
                if blocks[b, SPACE] == VCACHE:
                    mark(cells.marks, WRITTEN, blocks[b, BEGIN], blocks[b, BEGIN] + blocks[b, INNER], (n + 1) * 16)
    if touched.part[2]:
        _note(found, progress, OUTSIDE, touched.part[1], touched.part[2] - 1, 0, 0)
        return -1
    return int(touched.part[1])
