# SPDX-License-Identifier: Apache-2.0
"""Brings the instructions of a plain stream into an order in which no unit waits longer than it has to.

The machine's queues are in order, so the order of the stream decides what waits for what. It is found by list
scheduling: a rough model of the units runs the instructions as soon as what they depend on
(:mod:`scheduler.stream.dependences`) is done; of those that could begin at about the same time, the one with the
longest way to the end comes first. The order of their begins is the new order of the stream. Forward and backward
passes improve one another (Li and Willis, *An iterative scheduling technique for resource-constrained project
scheduling*, 1992): what the last pass ended late comes first in the next one.

The costs are those of :mod:`scheduler.cost.work`. What the model leaves out, such as banks that units share, the cycle
model knows, which has the last word (:mod:`scheduler.stream.choose`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hdl.config import MachineConfig
from hdl.isa import Format, Opcode
from scheduler.cost.blocks import Blocks, blocks_of
from scheduler.cost.clock import MEMORY_LATENCY
from scheduler.cost.slots import HIGH_ONLY
from scheduler.cost.work import (
    gemm_cycles,
    gemm_waves,
    load_cycles,
    load_steps,
    makes_scalars,
    route_cycles,
    store_cycles,
    vector_cycles,
)
from scheduler.stream.clocks import QUEUE_HIGH as HIGH
from scheduler.stream.clocks import QUEUE_LOW as LOW
from scheduler.stream.clocks import STEP, UNITS, note_fields
from scheduler.stream.compiled import compiled
from scheduler.stream.dependences import EARLIER, IN_ORDER, KIND_OF, LATER, TILES, dependences
from scheduler.stream.lists import Memory
from scheduler.stream.table import COL, Rows, Table

__all__ = ["SlotMeans", "list_schedule"]

WINDOWS = (100, 200, 300)
"""Cycles within which the way to the end decides who begins: each is tried."""
SERIAL = (False, True)
"""Whether the way to the end counts all that is still to come on a unit: each is tried."""
LONG = 1 << 14
"""Instructions of a stream from which on its own order decides instead, within each of these cycles:"""
LONG_WINDOWS = (0, 50, 100)
LONGEST, LONGEST_WINDOWS = 1 << 16, (50,)
"""The same of streams that are longer still: each try takes seconds."""
MOSTLY_HIGH = 0.75
"""Share of a slot's bytes that can be expected up to which its loads are taken to be of the high plane alone."""
MOST_PASSES = 6
"""Pairs of a backward and a forward pass."""
CONFLICTS = 1.15
"""A vector operation takes so much longer than alone, as it shares the banks of the combine buffer."""

Int = npt.NDArray[np.int64]
Int32 = npt.NDArray[np.int32]
Float = npt.NDArray[np.float64]

WORK, LATENCY, FIRST_UNIT, LAST_UNIT = range(4)
"""Columns of tasks: cycles on the units, cycles from there until others see the result, units."""


class SlotMeans(NamedTuple):
    """What can be expected of the slots that a ROUTE writes.

    Attributes
    ----------
    tokens : sequence of int
    loaded : sequence of float
        Of the bytes of each slot's expert those that `scored` loads read, 0 to 1.
    """

    tokens: Sequence[int]
    loaded: Sequence[float]

    @classmethod
    def of(cls, draws: Sequence[Sequence[int]]) -> SlotMeans:
        """Return the means of slots that were drawn several times (:mod:`scheduler.cost.slots`)."""
        drawn = np.zeros((len(draws), max(map(len, draws))), np.int64)
        for row, own in zip(drawn, draws, strict=True):
            row[: len(own)] = own
        tokens = drawn & HIGH_ONLY - 1
        loaded = np.where(tokens == 0, 0, np.where(drawn & HIGH_ONLY, 0.5, 1))
        return cls(np.ceil(tokens.mean(axis=0)).astype(int).tolist(), loaded.mean(axis=0).tolist())


class _Graph(NamedTuple):
    """Tasks and their edges in one direction: `first` says where the edges of each task begin."""

    tasks: Int32
    edges: Int32
    first: Int32
    backward: int


@compiled
def _costs(rows: Rows, b: Blocks, shares: Float, steps: Int32, tasks: Int32) -> None:
    """Fill in the tasks of a stream, of whose loads only shares are read."""
    for n in range(len(rows)):
        opcode = rows[n, COL.opcode]
        note_fields(steps, 0, rows, n, 0)
        tasks[n, FIRST_UNIT], tasks[n, LAST_UNIT] = steps[0, LOW], steps[0, HIGH]
        work, total = 0, 0
        if opcode == Opcode.GEMM:
            tokens, slices, tiles = rows[n, COL.tokens], rows[n, COL.k_slices], rows[n, COL.n_tiles]
            work = gemm_waves(tokens, slices, tiles)
            order, mapping, gang = rows[n, COL.order], rows[n, COL.mapping], rows[n, COL.tier_count]
            total = gemm_cycles(b, tokens, slices, tiles, mapping, gang, order) + b.setup
        elif opcode == Opcode.LOAD:
            dest, form, count = rows[n, COL.dest_kind], rows[n, COL.format], rows[n, COL.count]
            work = load_steps(b.rows, b.columns, b.group_bytes, dest, form, count)
            total = load_cycles(b, MEMORY_LATENCY, dest, form, count)
            left_out = work - int(work * shares[n])
            work, total = work - left_out, total - left_out
        elif opcode == Opcode.STORE:
            form, many, apart, byte = (
                rows[n, COL.format],
                rows[n, COL.rows],
                rows[n, COL.addr_gap] > 0,
                rows[n, COL.offset],
            )
            work = store_cycles(b, MEMORY_LATENCY, form, many, apart, byte, False)
            total = store_cycles(b, MEMORY_LATENCY, form, many, apart, byte, True)
        elif opcode == Opcode.VECTOR:
            op, more = rows[n, COL.op], b.scalar_write
            if not makes_scalars(op, rows[n, COL.sum]):
                more = b.row_write
            work = vector_cycles(
                b.add_pause, op, rows[n, COL.vectors], rows[n, COL.rows], rows[n, COL.b_rows], rows[n, COL.length]
            )
            work = int(work * CONFLICTS) + b.vector_next + b.vector_issue - 1
            total = work + more + b.vector_done + b.vector_post + b.posted
        elif opcode == Opcode.ROUTE:
            work = total = route_cycles(rows, n, b.route, b.route_sort, rows[n, COL.tokens])
        tasks[n, WORK], tasks[n, LATENCY] = work, max(0, total - work)


@compiled
def _ways(graph: _Graph, serial: bool, left: Int, ways: Int32) -> None:
    """Write down how long the way from each task to the end of the stream is.

    Parameters
    ----------
    serial : bool
        It is no shorter than what is still to come, in the order of the stream, on the busiest of the task's units.
    left : int64 array [UNITS]
        Zeros.
    """
    tasks, edges = graph.tasks, graph.edges
    for number in range(len(tasks)):
        n = len(tasks) - 1 - number
        way = tasks[n, WORK] + tasks[n, LATENCY]
        for e in range(graph.first[n], graph.first[n + 1]):
            kind, before = edges[e, KIND_OF], tasks[n, WORK] + tasks[n, LATENCY]
            if kind == IN_ORDER:
                before = 0
            elif kind == TILES:
                before = tasks[n, LATENCY]
            way = max(way, before + ways[edges[e, LATER]])
        for unit in range(tasks[n, FIRST_UNIT], tasks[n, LAST_UNIT] + 1):
            left[unit] += tasks[n, WORK]
            if serial:
                way = max(way, left[unit])
        ways[n] = way


@compiled
def _ready(graph: _Graph, n: int, begin: int, end: int, later: int, kind: int) -> int:
    """Return from when on a task can run by one edge, from a task that ran from `begin` to `end`.

    Backward passes count cycles from the end of the stream: a task's latency lies before it there.
    """
    tasks = graph.tasks
    if kind == IN_ORDER:
        return max(0, end + int(tasks[n, WORK] - tasks[later, WORK])) if graph.backward else begin + 1
    latency = int(tasks[later if graph.backward else n, LATENCY])
    return latency + (max(begin, end - int(tasks[later, WORK])) if kind == TILES else end)


@compiled
def _run(
    graph: _Graph, ways: Int32, window: int, needs: Int32, begins: Int32, at: Int32, ready: Int32, free: Int
) -> int:
    """Run all tasks; return the cycle in which the last one is seen to be done.

    Parameters
    ----------
    ways : int32 array [tasks]
        Of those that could begin within `window` cycles, the one with the largest number comes first.
    needs : int32 array [tasks]
        Edges that lead to each.
    begins : int32 array [tasks]
        Afterwards the cycle in which each begins.
    at, ready, free : arrays [tasks], [tasks], [UNITS]
        Zeros, to work with.
    """
    tasks, edges, many, last = graph.tasks, graph.edges, 0, 0
    for n in range(len(tasks)):
        if not needs[n]:
            ready[many] = n
            many += 1
    while many:
        least = 1 << 60
        for place in range(many):
            n = ready[place]
            begin = at[n]
            for unit in range(tasks[n, FIRST_UNIT], tasks[n, LAST_UNIT] + 1):
                begin = max(begin, free[unit])
            begins[n] = begin
            least = min(least, begin)
        best = -1
        for place in range(many):
            n = ready[place]
            if begins[n] > least + window:
                continue
            if best < 0 or ways[n] > ways[ready[best]] or (ways[n] == ways[ready[best]] and n < ready[best]):
                best = place
        n = ready[best]
        many -= 1
        ready[best] = ready[many]
        end = begins[n] + tasks[n, WORK]
        last = max(last, end + tasks[n, LATENCY])
        for unit in range(tasks[n, FIRST_UNIT], tasks[n, LAST_UNIT] + 1):
            free[unit] = end
        for e in range(graph.first[n], graph.first[n + 1]):
            later = int(edges[e, LATER])
            at[later] = max(at[later], _ready(graph, n, begins[n], end, later, edges[e, KIND_OF]))
            needs[later] -= 1
            if not needs[later]:
                ready[many] = later
                many += 1
    return last


class _Problem:
    """The graph of a stream in both directions."""

    def __init__(
        self, table: Table, config: MachineConfig, memory: Memory, slots: Sequence[SlotMeans]
    ) -> None:  # fmt: skip
        many = len(table)
        forth = dependences(table, config, memory)
        edges = np.concatenate([forth.edges, _kept_in_order(table.rows)])
        edges = np.ascontiguousarray(edges[np.argsort(edges[:, EARLIER], kind="stable")])
        starts = np.searchsorted(edges[:, EARLIER], np.arange(many + 1)).astype(np.int32)
        tasks = np.zeros((many, 4), np.int32)
        rows, shares = _expected(table.rows, slots)
        _costs(rows, blocks_of(config), shares, np.zeros((1, STEP), np.int32), tasks)
        back = edges[np.argsort(edges[:, LATER], kind="stable")][:, [LATER, EARLIER, KIND_OF]]
        back = np.ascontiguousarray(back)
        first = np.searchsorted(back[:, EARLIER], np.arange(many + 1)).astype(np.int32)
        self._forward = _Graph(tasks, edges, starts, 0)
        self._backward = _Graph(tasks, back, first, 1)
        self._work = tasks[:, WORK]

    def ways(self, serial: bool) -> Int32:
        found = np.zeros(len(self._work), np.int32)
        _ways(self._forward, serial, np.zeros(UNITS, np.int64), found)
        return found

    def run(self, ways: Int32, window: int, backward: bool = False) -> tuple[int, Int32]:
        """Return when all is done, and when each task begins."""
        graph, many = self._backward if backward else self._forward, len(self._work)
        needs = np.bincount(graph.edges[:, LATER], minlength=many).astype(np.int32)
        begins, at, ready = np.zeros((3, many), np.int32)
        return _run(graph, ways, window, needs, begins, at, ready, np.zeros(UNITS, np.int64)), begins

    def improve(self, length: int, begins: Int32, window: int) -> tuple[int, Int32]:
        """Return the best that backward and forward passes find, and when each task begins then."""
        best, latest, found = length, begins, {length}
        for _ in range(MOST_PASSES):
            _, late = self.run(latest + self._work, window, True)
            length, latest = self.run(late + self._work, window)
            if length < best:
                best, begins = length, latest
            if length in found:
                break
            found.add(length)
        return best, begins


def _kept_in_order(rows: Rows) -> Int32:
    """Return edges that keep `scored` loads of planes in their order: each may take both engines or either of them.

    A load that takes both waits until the engines have come equally far, and which ones do is known to the machine
    alone. Slots by falling counts have those of both planes first.
    """
    scored = (rows[:, COL.opcode] == Opcode.LOAD) & (rows[:, COL.scored] == 1) & (rows[:, COL.format] == Format.PAIR)
    loads = np.flatnonzero(scored).astype(np.int32)
    edges = np.zeros((max(0, len(loads) - 1), 3), np.int32)
    edges[:, EARLIER], edges[:, LATER], edges[:, KIND_OF] = loads[:-1], loads[1:], IN_ORDER
    return edges


def _expected(rows: Rows, slots: Sequence[SlotMeans]) -> tuple[Rows, Float]:
    """Return the rows with what can be expected of slots, and which shares of loads are read then.

    GEMMs have the tokens that can be expected. Loads whose low planes are seldom wanted are those of the high planes;
    without slots by number it is a guess which are odd experts'.
    """
    shares = np.ones(len(rows))
    gemms = np.flatnonzero((rows[:, COL.slot_en] == 1) & (rows[:, COL.opcode] == Opcode.GEMM))
    loads = np.flatnonzero((rows[:, COL.scored] == 1) & (rows[:, COL.opcode] == Opcode.LOAD))
    if not slots or not gemms.size:
        return rows, shares
    rows, routes = rows.copy(), np.flatnonzero(rows[:, COL.opcode] == Opcode.ROUTE)
    ends, tokens, loaded = [*routes[1:].tolist(), len(rows)], np.zeros(1 << 8, np.int64), np.ones(1 << 8)
    for route, end, own in zip(routes.tolist(), ends, slots, strict=True):
        first, last = rows[route, COL.slot_base], rows[route, COL.slot_base] + rows[route, COL.experts]
        tokens[first:last], loaded[first:last] = 0, 0
        tokens[first : first + len(own.tokens)] = own.tokens
        loaded[first : first + len(own.loaded)] = own.loaded
        between = gemms[(gemms > route) & (gemms < end)]
        left = tokens[rows[between, COL.slot]] - rows[between, COL.list_base]
        rows[between, COL.tokens] = np.clip(left, 1, rows[between, COL.tokens])
        between = loads[(loads > route) & (loads < end)]
        shares[between] = loaded[rows[between, COL.slot]]
        low = between[rows[between, COL.format] == Format.LOW]
        shares[low] = np.maximum(0, 2 * shares[low] - 1)  # an expert that has tokens has its high plane
        between = between[(shares[between] <= MOSTLY_HIGH) & (rows[between, COL.format] == Format.PAIR)]
        rows[between, COL.format] = Format.HIGH
        rows[between, COL.group] ^= (rows[between, COL.slot] - first) & 1
        shares[between] = np.minimum(1, 2 * shares[between])
    return rows, shares


def list_schedule(
    table: Table, config: MachineConfig, memory: Memory, slots: Sequence[SlotMeans] = (),
    in_order: bool = False,
) -> npt.NDArray[np.intp]:  # fmt: skip
    """Return the numbers of the instructions of a plain stream in a better order.

    Parameters
    ----------
    table : Table
        Instructions in program order without waits and posts, END excluded.
    config : MachineConfig
        The machine.
    memory : Memory
        Where token lists are read from.
    slots : sequence of SlotMeans, optional
        What can be expected of the slots that each ROUTE writes.
    in_order : bool
        What comes first in the stream is more urgent than what has the longest way to the end: the order is that in
        which micro-batches take turns.

    Returns
    -------
    intp array [instructions]
        What depends on one another keeps its order.
    """
    problem = _Problem(table, config, memory, slots)
    if in_order or len(table) > LONG:
        urgent = np.arange(len(table), 0, -1).astype(np.int32)
        starts = [(urgent, window) for window in (LONGEST_WINDOWS if len(table) > LONGEST else LONG_WINDOWS)]
    else:
        starts = [(problem.ways(serial), window) for serial in SERIAL for window in WINDOWS]
    tries = (problem.improve(*problem.run(ways, window), window) for ways, window in starts)
    _, begins = min(tries, key=lambda found: found[0])
    return np.lexsort((np.arange(len(begins)), begins))
