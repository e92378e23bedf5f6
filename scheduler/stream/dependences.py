# SPDX-License-Identifier: Apache-2.0
"""What must come before what in a plain stream: the dependences that every other order of it has to keep.

Two instructions depend on one another when they touch the same cell on the chip or the same byte of memory and one of
them writes there (additions to a combine row commute). Stores stay in order, and so do loads of what the stream stores.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hdl.config import MachineConfig
from hdl.isa import Opcode
from scheduler.stream.blocks import ADD, BEGIN, INNER, KIND, OUTER, READ, SPACE, STRIDE, WRITE, most_blocks
from scheduler.stream.compiled import compiled
from scheduler.stream.lists import Memory, token_lists
from scheduler.stream.machine import VCACHE, machine_of
from scheduler.stream.segments import LOADS, STORES, Segments, latest_overlap, near_range, note_spans, segments_of
from scheduler.stream.table import COL, Rows, Table
from scheduler.stream.touched import Touched, new_touched, touch

__all__ = ["EARLIER", "IN_ORDER", "KIND_OF", "LATER", "TILES", "WHOLE", "Dependences", "dependences"]

EARLIER, LATER, KIND_OF = range(3)
"""Columns of edges: the instruction that comes first, the one that depends on it, and one of the kinds below."""

WHOLE, IN_ORDER, TILES = range(3)
"""The later one begins when the earlier one is complete; when it has begun; or it reads tiles of V-Cache, each of which
its tag says is there."""

Int = npt.NDArray[np.int64]
Int32 = npt.NDArray[np.int32]

NODES, EDGES, LAST_LOAD, LAST_STORE = range(4)


class _Cells(NamedTuple):
    """What has touched each cell since it was written.

    Attributes
    ----------
    writer, readers, adders : int32 arrays [cells]
        The instruction that wrote it (none: -1), and the first nodes of lists of those that have read it since, and
        that have added to it.
    nodes : int32 array [room, 2]
        The next node, and an instruction.
    seen : int32 array [instructions]
        One more than the latest instruction that got an edge from this one.
    edges : int32 array [room, 3]
    state : int64 array [4]
        Nodes, edges (of both there may be more than there is room for), the last load that has to stay in order, the
        last store.
    """

    writer: Int32
    readers: Int32
    adders: Int32
    nodes: Int32
    seen: Int32
    edges: Int32
    state: Int


class Dependences(NamedTuple):
    """The edges of a stream.

    Attributes
    ----------
    edges : int32 array [edges, 3]
        In the order of `EARLIER`.
    first : int32 array [instructions + 1]
        Where the edges of each instruction begin.
    """

    edges: Int32
    first: Int32


@compiled
def _edge(cells: _Cells, earlier: int, later: int, kind: int) -> None:
    if earlier < 0 or earlier == later or cells.seen[earlier] == later + 1:
        return
    cells.seen[earlier] = later + 1
    at = cells.state[EDGES]
    if at < len(cells.edges):
        cells.edges[at, EARLIER], cells.edges[at, LATER], cells.edges[at, KIND_OF] = earlier, later, kind
    cells.state[EDGES] = at + 1


@compiled
def _push(cells: _Cells, heads: Int32, cell: int, n: int) -> None:
    at = cells.state[NODES]
    if at < len(cells.nodes):
        cells.nodes[at, 0], cells.nodes[at, 1] = heads[cell], n
        heads[cell] = at
    cells.state[NODES] = at + 1


@compiled
def _edges_from(cells: _Cells, node: int, later: int) -> None:
    while node >= 0:
        _edge(cells, cells.nodes[node, 1], later, WHOLE)
        node = cells.nodes[node, 0]


@compiled
def _touch_cell(cells: _Cells, n: int, cell: int, kind: int, space: int) -> None:
    """Note that an instruction touches a cell, and what it depends on there."""
    _edge(cells, cells.writer[cell], n, TILES if kind == READ and space == VCACHE else WHOLE)
    if kind != ADD:
        _edges_from(cells, cells.adders[cell], n)
    if kind != READ:
        _edges_from(cells, cells.readers[cell], n)
    if kind == WRITE:
        cells.readers[cell] = cells.adders[cell] = -1
        cells.writer[cell] = n
    else:
        _push(cells, cells.readers if kind == READ else cells.adders, cell, n)


@compiled
def _touch_memory(cells: _Cells, rows: Rows, n: int, touched: Touched, segments: Segments, place: int) -> None:
    """The same for the bytes that a load or a store touches."""
    found, low, high = touched.spans, touched.spans_at[place], touched.spans_at[place + 1]
    load = rows[n, COL.opcode] == Opcode.LOAD
    if low < high:
        _edge(cells, latest_overlap(found, low, high, segments, STORES if load else LOADS) - 1, n, WHOLE)
        note_spans(found, low, high, segments, LOADS if load else STORES, n)
    if rows[n, COL.opcode] == Opcode.STORE:
        _edge(cells, cells.state[LAST_STORE], n, IN_ORDER)
        cells.state[LAST_STORE] = n
    elif load and near_range(found, low, high, segments):
        _edge(cells, cells.state[LAST_LOAD], n, IN_ORDER)
        cells.state[LAST_LOAD] = n


@compiled
def _note(cells: _Cells, rows: Rows, touched: Touched, segments: Segments) -> None:
    """Note what the instructions of a part touch."""
    blocks = touched.blocks
    for n in range(touched.part[0], touched.part[1]):
        place = n - touched.part[0]
        for writes in range(2):  # what an instruction reads itself, it reads before it writes
            for b in range(touched.blocks_at[place], touched.blocks_at[place + 1]):
                if (blocks[b, KIND] == WRITE) != writes:
                    continue
                for run in range(blocks[b, OUTER]):
                    begin = blocks[b, BEGIN] + run * blocks[b, STRIDE]
                    for cell in range(begin, begin + blocks[b, INNER]):
                        _touch_cell(cells, n, cell, blocks[b, KIND], blocks[b, SPACE])
        _touch_memory(cells, rows, n, touched, segments, place)


def dependences(table: Table, config: MachineConfig, memory: Memory) -> Dependences:
    """Return what the instructions of a stream depend on.

    Parameters
    ----------
    table : Table
        Instructions in program order, END excluded; waits and posts do not count.
    config : MachineConfig
        The machine.
    memory : Memory
        Where token lists are read from.
    """
    rows, machine, many = table.rows, machine_of(config), len(table)
    segments, most = segments_of(rows, machine), most_blocks(machine)
    nodes, edges = 1 << 16, 16 * many
    while True:
        empty = np.full((3, machine.cells + 1), -1, np.int32)
        cells = _Cells(
            empty[0], empty[1], empty[2], np.empty((nodes, 2), np.int32), np.zeros(many, np.int32),
            np.empty((edges, 3), np.int32), np.array([0, 0, -1, -1], np.int64),
        )  # fmt: skip
        lists, touched = token_lists(table, machine, memory), new_touched(machine)
        segments.trees[:] = 0
        while touched.part[1] < many:
            touch(rows, touched.part[1], many, machine, lists, most, touched)
            _note(cells, rows, touched, segments)
        if cells.state[NODES] <= nodes and cells.state[EDGES] <= edges:
            break
        nodes, edges = max(nodes, int(cells.state[NODES])), 2 * max(edges, int(cells.state[EDGES]))
    found = cells.edges[: cells.state[EDGES]]
    found = found[np.argsort(found[:, EARLIER], kind="stable")]
    first = np.searchsorted(found[:, EARLIER], np.arange(many + 1)).astype(np.int32)
    return Dependences(np.ascontiguousarray(found), first)
