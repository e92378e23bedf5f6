# SPDX-License-Identifier: Apache-2.0
"""Finds the latest earlier instruction that a new one must not overtake and that nothing keeps ahead of it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hdl.isa import LoadDest, Mapping3D, Opcode
from scheduler.stream.blocks import (
    ACCESS,
    ADD,
    BEGIN,
    INNER,
    KIND,
    OUTER,
    READ,
    SPACE,
    STRIDE,
    TIER,
    WRITE,
    Blocks,
    end_of,
)
from scheduler.stream.clocks import (
    COUNTS,
    FILLED,
    LAST_TILE,
    OPCODE,
    QUEUE_HIGH,
    QUEUE_LOW,
    SCORED,
    SLOT,
    TAG,
    TIER0,
    TIERS,
    UNIT_HIGH,
    UNIT_LOW,
    UNITS,
    VECTOR,
    Clocks,
    all_done_before,
    done_before,
    done_before_grant,
)
from scheduler.stream.compiled import compiled
from scheduler.stream.machine import ACTIVATION, SLOTS, SPACES, VCACHE, Machine
from scheduler.stream.marks import Marks, mark, marked, new_marks, next_from, run_of
from scheduler.stream.segments import Segments, Spans, latest_overlap, near_overlap
from scheduler.stream.table import COL, Rows

__all__ = [
    "KEY_KIND", "KEY_TIER", "KEY_TURN", "WRITTEN", "Cells", "Fills", "Keys", "Loads",
    "Numbering", "Seen", "conflict_in_memory", "conflict_of", "new_cells", "note_cells", "ordered", "tag_loads",
    "tag_orders",
]  # fmt: skip

WRITTEN = 0
"""Layer of `Marks` for writes: 16 times the instruction's number plus one, plus its tier plus one.

The other layers are for reads and additions: one more than the instruction's number; it counts if the last write is
older. These are kept apart by *key*: kind, units that complete the instruction, and tier. What has the same key is
completed in order, so that the latest stands for all. The layer of a key is its number plus one."""

Keys = npt.NDArray[np.int32]
"""Shape [keys, 24]."""

KEY_KIND, KEY_TIER, KEY_LATEST = range(3)
KEY_TURN, KEY_BEGIN, KEY_END = range(3, 24, len(SPACES))
"""Columns of `Keys`: kind and tier, one more than the number of the latest instruction; and for each space a number
that is higher for keys that were met there later (0: not met), the lowest cell, and the end of the highest."""

Numbering = npt.NDArray[np.int32]
"""Number of each possible key, or -1 until it is met."""

Fills = npt.NDArray[np.int32]
"""What the last write of a tile was before each fill. A tile's place there is its cell plus what `Steps` has for the
load from column `FILLED` on, by tier. The last one: places that are taken."""

Loads = npt.NDArray[np.int32]
"""Numbers of loads."""

Seen = npt.NDArray[np.int64]
"""Shape [UNITS, 5]: for each queue the last GEMM that reads activations there without a list, one more than its number
(0: none), and first cell, cells, distance and number of the runs. What it reads and nobody has written since is known
to be there for the GEMMs behind it, which often read the same for other columns of a matrix."""

ALL_KEYS = 2 * UNITS * UNITS * (TIERS + 1)


class Cells(NamedTuple):
    """For each cell, the last accesses that a later instruction can conflict with.

    Attributes
    ----------
    marks
        Who touched them.
    keys, numbering, fills, seen
        See above.
    kept : int32 array [cells]
        Fill tags that an earlier stream left (-1: none, or no tile).
    """

    marks: Marks
    keys: Keys
    numbering: Numbering
    fills: Fills
    seen: Seen
    kept: npt.NDArray[np.int32]


def new_cells(rows: Rows, machine: Machine, tags: npt.NDArray[np.int32] | None = None) -> Cells:
    """Return cells that nothing has touched, for instructions that are all like one of the rows.

    `tags`: what an earlier stream left [tiers * vcache_tiles]; default: nothing.
    """
    opcodes = rows[:, COL.opcode]
    at = np.flatnonzero(opcodes == Opcode.GEMM)
    gangs = (rows[at, COL.tier_base] * 16 + rows[at, COL.tier_count]) * 2 + (rows[at, COL.mapping] == Mapping3D.K)
    keys = 5 + 2 * int(sum(gang >> 1 & 15 for gang in np.flatnonzero(np.bincount(gangs))))
    at = np.flatnonzero((opcodes == Opcode.LOAD) & (rows[:, COL.dest_kind] == LoadDest.VCACHE))
    masks = rows[at, COL.dest_tiers]
    tiles = sum(masks >> tier & 1 for tier in range(machine.tiers)) * rows[at, COL.count]
    fills = np.empty(int(tiles.sum()) + 1, np.int32)
    fills[-1] = 0
    kept = np.full(machine.cells + 1, -1, np.int32)
    if tags is not None:
        kept[machine.vcache : machine.vcache + tags.size] = tags
    return Cells(
        new_marks(1 + keys, machine.cells), np.zeros((keys, 24), np.int32),
        np.full(ALL_KEYS, -1, np.int32), fills, np.zeros((UNITS, 5), np.int64), kept,
    )  # fmt: skip


@compiled
def key_of(clocks: Clocks, cells: Cells, n: int, kind: int, tier: int) -> int:
    """Return the number of the key of an access by instruction `n`."""
    steps, now, keys, numbering = clocks.steps, clocks.now, cells.keys, cells.numbering
    low, high = steps[n, UNIT_LOW], steps[n, UNIT_HIGH]
    if steps[n, OPCODE] == Opcode.LOAD:
        high = steps[n, QUEUE_HIGH]
    place = (((kind == ADD) * UNITS + low) * UNITS + high) * (TIERS + 1) + tier + 1
    key = numbering[place]
    if key < 0:
        key = now[COUNTS, 2]
        now[COUNTS, 2] += 1
        numbering[place] = key
        keys[key, KEY_KIND], keys[key, KEY_TIER] = kind, tier
    return int(key)


@compiled
def ordered(
    clocks: Clocks, n: int, number: int, tier: int, kind: int, new_tier: int, new_kind: int, space: int
) -> bool:  # fmt: skip
    """Return whether an access by instruction `number` surely precedes one by `n`, the instruction that was begun."""
    steps = clocks.steps
    if space == SLOTS and steps[n, OPCODE] == Opcode.GEMM:  # looked up when the leader's waits are granted
        return bool(done_before_grant(clocks, n, number))
    if done_before(clocks, n, number, tier):
        return True
    first, second = steps[number, OPCODE], steps[n, OPCODE]
    low, high = steps[n, QUEUE_LOW], steps[n, QUEUE_HIGH]
    if first != second:  # the vector unit's instructions do their work in order
        return bool(low == VECTOR and steps[number, QUEUE_LOW] == VECTOR)
    if second == Opcode.GEMM:
        if kind == READ and new_kind == WRITE:
            # The tier that read has issued its last wave before the new operation's first, in each of its queues.
            return bool(low <= TIER0 + tier <= high)
        return bool(tier == new_tier and kind != READ and new_kind != READ)  # rows of one tier arrive in order
    if steps[number, SCORED] or steps[n, SCORED]:
        return False
    # Loads of one engine and stores do their work in order.
    return bool(low <= steps[number, QUEUE_HIGH] and steps[number, QUEUE_LOW] <= high)


@compiled
def tag_orders(clocks: Clocks, cells: Cells, n: int, load: int, tier: int, first: int, end: int) -> bool:
    """Return whether the fill tag alone makes GEMM `n` wait for `load` in all of its tiles `first` up to `end`.

    It does, unless an older fill of the tile, maybe of an earlier stream, had the same tag and may still be there. A
    slot's fill between them does not disprove that, as it may have been skipped. (A GEMM whose slot's load is skipped
    does not read.)
    """
    steps, fills = clocks.steps, cells.fills
    tag, settled = steps[n, TAG], -1
    for cell in range(first, end):
        latest = fills[steps[load, FILLED + tier] + cell]
        if latest == settled:
            continue
        older = latest
        while older > 0:
            number = (older >> 4) - 1
            if steps[number, TAG] == tag:
                return False
            if not steps[number, SLOT] and done_before(clocks, n, number, -1):
                break
            older = fills[steps[number, FILLED + tier] + cell]
        if older <= 0 and cells.kept[cell] == tag:
            return False
        if older == latest:
            settled = latest
    return True


@compiled
def _latest_since(cells: Cells, key: int, blocks: Blocks, low: int, high: int, more: int) -> int:
    """Return one more than the number of a key's latest access to blocks since the last write, or `more` if higher."""
    marks = cells.marks
    for b in range(low, high):
        for run in range(blocks[b, OUTER]):
            cell = blocks[b, BEGIN] + run * blocks[b, STRIDE]
            end = cell + blocks[b, INNER]
            while True:
                cell = next_from(marks, key + 1, cell, end, more + 1)
                if cell >= end:
                    break
                number, behind = run_of(marks, key + 1, cell, end)
                while number > more and cell < behind:
                    writer, cell = run_of(marks, WRITTEN, cell, behind)
                    if number > writer >> 4:
                        more = number
                cell = behind
    return more


@compiled
def _latest_writer(clocks: Clocks, cells: Cells, n: int, blocks: Blocks, low: int, high: int, worst: int) -> int:
    """Return the latest writer that conflicts with an access, the blocks `low` up to `high`, or `worst` if higher."""
    kind, tier, space, marks = blocks[low, KIND], blocks[low, TIER], blocks[low, SPACE], cells.marks
    by_tag, previous = space == VCACHE and kind == READ, 0
    for b in range(low, high):
        for run in range(blocks[b, OUTER]):
            cell = blocks[b, BEGIN] + run * blocks[b, STRIDE]
            end = cell + blocks[b, INNER]
            while True:
                first = next_from(marks, WRITTEN, cell, end, (worst + 2) << 4)
                if first >= end:
                    break
                writer, cell = run_of(marks, WRITTEN, first, end)
                if writer == previous and not by_tag:
                    continue
                previous, number = writer, (writer >> 4) - 1
                if by_tag:
                    fine = done_before(clocks, n, number, -1) or tag_orders(clocks, cells, n, number, tier, first, cell)
                else:
                    fine = ordered(clocks, n, number, (writer & 15) - 1, WRITE, tier, kind, space)
                if not fine:
                    worst = number
    return worst


@compiled
def _latest_other(clocks: Clocks, cells: Cells, n: int, blocks: Blocks, low: int, high: int, worst: int) -> int:
    """Return the latest read or addition that conflicts with an access, as `_latest_writer` does for writes."""
    keys, kind, tier, space = cells.keys, blocks[low, KIND], blocks[low, TIER], blocks[low, SPACE]
    begin, end = blocks[low, BEGIN], end_of(blocks, low)
    for b in range(low + 1, high):
        begin, end = min(begin, blocks[b, BEGIN]), max(end, end_of(blocks, b))
    for key in range(clocks.now[COUNTS, 2]):
        latest, other, own = keys[key, KEY_LATEST] - 1, keys[key, KEY_KIND], keys[key, KEY_TIER]
        if other == kind or latest <= worst:
            continue
        if keys[key, KEY_END + space] <= begin or end <= keys[key, KEY_BEGIN + space]:
            continue
        if ordered(clocks, n, latest, own, other, tier, kind, space):
            continue
        latest = _latest_since(cells, key, blocks, low, high, worst + 1) - 1
        if latest > worst and not ordered(clocks, n, latest, own, other, tier, kind, space):
            worst = latest
    return worst


@compiled
def _seen(clocks: Clocks, cells: Cells, n: int, blocks: Blocks, low: int, high: int) -> int:
    """Return the last GEMM in the queue of `n` with the same access and no conflict left open, or -1."""
    seen, queue = cells.seen, clocks.steps[n, QUEUE_LOW]
    if high > low + 1 or blocks[low, SPACE] != ACTIVATION or blocks[low, KIND] != READ:
        return -1
    if seen[queue, 1] != blocks[low, BEGIN] or seen[queue, 2] != blocks[low, INNER]:
        return -1
    if seen[queue, 3] != blocks[low, STRIDE] or seen[queue, 4] != blocks[low, OUTER]:
        return -1
    return int(seen[queue, 0] - 1)


@compiled
def _note_seen(clocks: Clocks, cells: Cells, n: int, blocks: Blocks, low: int, high: int) -> None:
    """Note the activations that a GEMM reads which comes after all that it conflicts with."""
    steps, seen = clocks.steps, cells.seen
    if steps[n, OPCODE] != Opcode.GEMM:
        return
    queue = steps[n, QUEUE_LOW]
    for b in range(low, high):
        if blocks[b, SPACE] == ACTIVATION and blocks[b, KIND] == READ and blocks[b, TIER] == queue - TIER0:
            seen[queue, 0] = n + 1
            seen[queue, 1], seen[queue, 2] = blocks[b, BEGIN], blocks[b, INNER]
            seen[queue, 3], seen[queue, 4] = blocks[b, STRIDE], blocks[b, OUTER]
            return


@compiled
def conflict_of(clocks: Clocks, cells: Cells, n: int, blocks: Blocks, low: int, high: int) -> int:
    """Return the latest instruction that conflicts with `n`, the one that was begun, on chip and is not ordered, or -1.

    Parameters
    ----------
    blocks, low, high
        What instruction `n` touches: the blocks from `low` up to `high`.
    """
    found, settled = -1, all_done_before(clocks, n) - 1
    while low < high:
        behind = low + 1
        while behind < high and blocks[behind, ACCESS] == blocks[low, ACCESS]:
            behind += 1
        worst = found
        if blocks[low, SPACE] != SLOTS or clocks.steps[n, OPCODE] != Opcode.GEMM:  # see `ordered`
            worst = max(found, settled, _seen(clocks, cells, n, blocks, low, behind))
        latest = _latest_writer(clocks, cells, n, blocks, low, behind, worst)
        latest = _latest_other(clocks, cells, n, blocks, low, behind, latest)
        if latest > worst:
            found = latest
        low = behind
    return int(found)


@compiled
def conflict_in_memory(clocks: Clocks, n: int, found: Spans, low: int, high: int, segments: Segments, tree: int) -> int:
    """Return the latest instruction that conflicts with `n`, the one that was begun, in memory, not ordered, or -1.

    One engine reads a group and one unit stores, each in order: the latest instruction stands for all before it.
    Stores need no order among themselves.
    """
    number = near_overlap(found, low, high, segments, tree) - 1
    if number < 0 or done_before(clocks, n, number, -1):
        return -1
    number = latest_overlap(found, low, high, segments, tree) - 1
    return -1 if number < 0 or done_before(clocks, n, number, -1) else number


@compiled
def tag_loads(
    clocks: Clocks, cells: Cells, machine: Machine, blocks: Blocks, low: int, high: int, loads: Loads, at: int
) -> int:
    """Add the loads whose last tile a GEMM reads behind the first `at`; return how many there are then.

    They are complete before it is. Loads for a slot do not count: they and their GEMMs may be skipped.
    """
    steps = clocks.steps
    for b in range(low, high):
        if blocks[b, SPACE] != VCACHE or blocks[b, KIND] != READ:
            continue
        cell, end = blocks[b, BEGIN], blocks[b, BEGIN] + blocks[b, INNER]
        tiles = machine.vcache + blocks[b, TIER] * machine.vcache_tiles
        while cell < end:
            first = cell
            writer, cell = run_of(cells.marks, WRITTEN, first, end)
            load = (writer >> 4) - 1
            if load >= 0 and not steps[load, SLOT] and first <= tiles + steps[load, LAST_TILE] < cell:
                loads[at] = load
                at += 1
    return at


@compiled
def note_cells(
    clocks: Clocks, cells: Cells, n: int, machine: Machine, blocks: Blocks, low: int, high: int, in_order: bool
) -> None:
    """Note what instruction `n` touches, which has entered; `in_order`: it comes after all that it conflicts with."""
    steps, keys, fills, key = clocks.steps, cells.keys, cells.fills, -1
    if in_order:
        _note_seen(clocks, cells, n, blocks, low, high)
    for b in range(low, high):
        kind, space, inner = blocks[b, KIND], blocks[b, SPACE], blocks[b, INNER]
        begin, stride = blocks[b, BEGIN], blocks[b, STRIDE]
        layer, number = WRITTEN, (n + 1) * 16 + blocks[b, TIER] + 1
        if kind == WRITE and space == VCACHE:
            room = fills[-1]
            steps[n, FILLED + (begin - machine.vcache) // machine.vcache_tiles] = room - begin
            for cell in range(begin, begin + inner):
                fills[room - begin + cell] = marked(cells.marks, WRITTEN, cell)
            fills[-1] = room + inner
        elif kind != WRITE:
            if b == low or blocks[b, ACCESS] != blocks[b - 1, ACCESS]:
                key = key_of(clocks, cells, n, kind, blocks[b, TIER])
                keys[key, KEY_LATEST] = n + 1
                if not keys[key, KEY_TURN + space]:
                    clocks.now[COUNTS, 3] += 1
                    keys[key, KEY_TURN + space], keys[key, KEY_BEGIN + space] = clocks.now[COUNTS, 3], begin
            keys[key, KEY_BEGIN + space] = min(keys[key, KEY_BEGIN + space], begin)
            keys[key, KEY_END + space] = max(keys[key, KEY_END + space], end_of(blocks, b))
            layer, number = key + 1, n + 1
        for run in range(blocks[b, OUTER]):
            mark(cells.marks, layer, begin + run * stride, begin + run * stride + inner, number)
