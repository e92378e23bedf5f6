# SPDX-License-Identifier: Apache-2.0
"""The one cost interface: how much work an instruction is, how many cycles it takes on a unit that it has for itself.

Plain functions of numbers, for planner and emitter as for the cycle model's compiled loops; the machine's numbers come
from :func:`scheduler.cost.blocks.blocks_of`. Work is what a unit does at its rate: waves, beats, requests of rows.
Cycles are the work and what lies before and behind it; what several instructions on several units do to each other is
the cycle model's (:mod:`scheduler.cost.model`).
"""

from __future__ import annotations

from hdl.config import MachineConfig
from hdl.isa import Format, LoadDest, Mapping3D, Order, StoreFormat, VectorDest, VectorFn, VectorOp, VectorSum
from hdl.isa.legality import LIST_ENTRY_BYTES
from scheduler.cost.blocks import Blocks
from scheduler.stream.compiled import compiled
from scheduler.stream.segments import is_plane
from scheduler.stream.table import COL, Rows

__all__ = [
    "fetch_beats", "gemm_cycles", "gemm_waves", "load_beats", "load_cycles", "load_steps", "load_words", "makes_rows",
    "makes_scalars", "reads_scalars", "route_cycles", "route_work", "store_beats", "store_cycles", "tile_steps",
    "vector_cycles", "vector_requests",
]  # fmt: skip


@compiled
def fetch_beats(group_bytes: int, instructions: int) -> int:
    """Return the beats of group 0 that some instructions take."""
    return -(-instructions * 32 // group_bytes)


# GEMM.


@compiled
def gemm_waves(tokens: int, k_slices: int, n_tiles: int) -> int:
    """Return the waves of each tier of a GEMM."""
    return tokens * k_slices * n_tiles


@compiled
def gemm_cycles(b: Blocks, tokens: int, k_slices: int, n_tiles: int, mapping: int, gang: int, order: int) -> int:
    """Return the cycles from the first wave of a GEMM to the first one that can take its last post.

    All tiles are there, and no row has to wait.

    Parameters
    ----------
    b : Blocks
        The machine.
    tokens, k_slices, n_tiles, mapping, gang, order : int
        Fields of the instruction. The tiers of a gang work at the same time, on as many waves each; `order` decides
        which rows are finished when, and nothing else.
    """
    tiles = k_slices * n_tiles
    cycles = tokens * tiles
    if b.edge:
        cycles = (tiles - 1) * max(tokens, b.rows) + tokens
    if mapping == Mapping3D.K:
        cycles += (gang - 1) * (b.skew_k - 1)
    # All rows of the last tile are made in the last cycles, one a cycle in each tier; the last one ends the operation.
    makers = 1 if mapping == Mapping3D.K else gang
    burst = tokens * (n_tiles if order == Order.N_INNER else 1)
    late = max(0, burst * makers - burst * b.result_lanes) // b.result_lanes
    return cycles - 1 + b.result + max(b.hop * (gang - 1), late) + b.post + b.posted


# LOAD.


@compiled
def load_piece(tile_bytes: int, rows: int, columns: int, dest: int, form: int) -> int:
    """Return the bytes in one group's memory of one unit of a LOAD."""
    if dest == LoadDest.VCACHE:
        return tile_bytes // 2 if is_plane(form) else tile_bytes
    if dest == LoadDest.ACTIVATION:
        return rows
    return LIST_ENTRY_BYTES if dest == LoadDest.LIST else 2 * columns


@compiled
def load_beats(rows: int, columns: int, group_bytes: int, dest: int, form: int, count: int) -> int:
    """Return the beats that a LOAD reads from one group (PAIR: from each).

    Parameters
    ----------
    rows, columns, group_bytes : int
        Of the machine.
    dest, form, count : int
        Fields of the instruction.
    """
    return -(-count * load_piece(rows * columns, rows, columns, dest, form) // group_bytes)


@compiled
def load_words(rows: int, columns: int, group_bytes: int, dest: int, form: int, count: int) -> int:
    """Return the words that a LOAD writes: fill words, activation words, parts of multipliers, rows, list entries."""
    if dest == LoadDest.VCACHE:
        word = group_bytes if is_plane(form) else 2 * group_bytes
    elif dest == LoadDest.LIST:
        word = LIST_ENTRY_BYTES
    else:
        word = 2 * columns if dest == LoadDest.ROWS else rows
    return count * load_piece(rows * columns, rows, columns, dest, form) // word


@compiled
def load_steps(rows: int, columns: int, group_bytes: int, dest: int, form: int, count: int) -> int:
    """Return the cycles that a LOAD keeps the data side of its engines: a beat or a word each."""
    return max(
        load_beats(rows, columns, group_bytes, dest, form, count),
        load_words(rows, columns, group_bytes, dest, form, count),
    )


def tile_steps(config: MachineConfig, tiles: int) -> int:
    """Return the cycles that a LOAD of whole tiles from both groups keeps the data side of its engines."""
    return int(load_steps(config.rows, config.columns, config.group_bytes, LoadDest.VCACHE, Format.PAIR, tiles))


@compiled
def load_cycles(b: Blocks, latency: int, dest: int, form: int, count: int) -> int:
    """Return the cycles from the begin of a LOAD to the first grant that can take its post; the bus is free."""
    steps = load_steps(b.rows, b.columns, b.group_bytes, dest, form, count)
    return b.load_issue + b.load_request + latency + b.load_beat + steps - 1 + b.load_word + b.load_post + b.posted


# STORE.


@compiled
def store_beats(columns: int, group_bytes: int, form: int, rows: int, apart: bool, first_byte: int) -> int:
    """Return the beats that a STORE writes; `apart`: its rows lie apart in memory, and share no beats."""
    if form == StoreFormat.DISCARD:
        return 0
    row = columns << form
    if apart:
        return rows * -(-row // group_bytes)
    return -(-(first_byte % group_bytes + rows * row) // group_bytes)


@compiled
def store_cycles(b: Blocks, latency: int, form: int, rows: int, apart: bool, first_byte: int, posted: bool) -> int:
    """Return the cycles from the start of a STORE to that of the next one, or to the first grant that takes its post.

    Parameters
    ----------
    b : Blocks
        The machine.
    latency : int
        Cycles from a write to its response.
    form, rows : int
        Fields of the instruction.
    apart : bool
        Rows lie apart in memory.
    first_byte : int
        Address of the first row.
    posted : bool
        Whether the post is meant.
    """
    work = max(rows, store_beats(b.columns, b.group_bytes, form, rows, apart, first_byte))
    if form == StoreFormat.DISCARD:
        last = b.store_read + b.store_row + work - 1
        return last + (b.discard + b.store_post + b.posted if posted else b.store_next)
    if apart and rows > b.tracker:
        # Each row is a burst, and only so many wait for their response.
        work = max(work, (rows - 1) // b.tracker * (b.store_request + latency) + (rows - 1) % b.tracker + 1)
    last = b.store_read + b.store_row + b.store_beat + work - 1
    return last + (b.write + latency + b.store_post + b.posted if posted else b.store_next)


# VECTOR and ROUTE.


@compiled
def makes_scalars(op: int, total: int) -> bool:
    """Return whether a VECTOR writes a scalar for each vector; `total` is its field ``sum``."""
    return (
        op == VectorOp.MAX
        or op == VectorOp.SUMSQ
        or op == VectorOp.ARGMAX
        or (op == VectorOp.MAP and total != VectorSum.NONE)
    )


@compiled
def makes_rows(dest: int) -> bool:
    """Return whether a VECTOR makes result rows; `dest` is its field ``dest_kind``."""
    return dest != VectorDest.NONE


@compiled
def reads_scalars(op: int, fn: int, first: int) -> bool:
    """Return whether a VECTOR reads the scalars from ``s_base`` on."""
    if op == VectorOp.MAP:
        return fn == VectorFn.EXP2
    if op == VectorOp.MAX or op == VectorOp.ARGMAX:
        return first == 0
    return op == VectorOp.SCALE or op == VectorOp.RESCALE or op == VectorOp.GATHER


@compiled
def vector_requests(op: int, vectors: int, rows: int, b_rows: int, length: int) -> int:
    """Return the rows of the combine buffer that a VECTOR asks for, one a cycle: operands, tables, gathered rows."""
    if op == VectorOp.GATHER:
        return vectors * length
    if op == VectorOp.MUL or op == VectorOp.ADD:
        return 2 * vectors * rows
    if op == VectorOp.ROTATE:
        return vectors * (rows + 2 * b_rows) if b_rows <= 2 else 3 * vectors * rows
    return vectors * rows


@compiled
def vector_cycles(pause: int, op: int, vectors: int, rows: int, b_rows: int, length: int) -> int:
    """Return the cycles from a VECTOR's first request to the cycle after its last; `pause` is `Blocks.add_pause`."""
    cycles = vector_requests(op, vectors, rows, b_rows, length)
    return cycles + pause * (vectors * rows - 1) if op == VectorOp.ADD else cycles


@compiled
def route_work(rows: Rows, n: int, most: int) -> int:
    """Return the items that the ROUTE in row `n` works on; `most`: tokens of the expert that has the most."""
    tokens, choices, experts = rows[n, COL.tokens], rows[n, COL.choices], rows[n, COL.experts]
    sorting = 0 if rows[n, COL.by_number] else experts + most
    return int(tokens * choices + experts + sorting + tokens * (choices + 2))


@compiled
def route_cycles(rows: Rows, n: int, phases: int, sort: int, most: int) -> int:
    """Return the cycles from the begin of a ROUTE to its post; see `Blocks.route` and `Blocks.route_sort`."""
    return route_work(rows, n, most) + phases - (sort if rows[n, COL.by_number] else 0)
