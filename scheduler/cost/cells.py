# SPDX-License-Identifier: Apache-2.0
"""Names of the cells of the cycle model's state: its own, and those of the records in its regions."""

from __future__ import annotations

from typing import NamedTuple

__all__ = [
    "BurstCells", "CombineCells", "FetchCells", "HeadCells", "JobCells", "NoteCells", "PostCells", "RunCells",
    "SliceCells", "StreamCells", "UnitCells", "WordCells",
]  # fmt: skip


class StreamCells(NamedTuple):
    """Cells of the stream as a whole.

    Attributes
    ----------
    latency, jitter, stall, channels, random : int
        Memory: cycles from a request to the first beat, largest random addition, chance of a pause in 1/256, channels
        of a group, state of the random numbers.
    fetch_room : int
        Beats from the first instruction to the end of the memory.
    next, dispatched : int
        Instruction that is dispatched next, cycle of the last dispatch.
    bursts, fetched : int
        Bursts of instructions that were asked for, cycle after the last one on the bus.
    routed : int
        ROUTEs that are through.
    granted, posted : int
        Cycles of the last grant and of the last post.
    done : int
        Last cycle in which anything happened.
    parked : int
        Operations that wait for room in the FIFOs of rows.
    bus : int
        First cycle in which the bus of group 0 is free; group 1's follows.
    bus1 : int
    counts, counts_width, notes, segments, slices : int
        First cells of the regions whose size depends on the stream; slots of the table, and of a ROUTE's counts.
    hbm : int
        First cell of the region of requests to HBM (:mod:`scheduler.cost.hbm.cells`); 0: the memories have a latency.
    scored : int
        1: slots say of some experts that only their high plane is wanted, and engine 0 posts in order.
    named : int
        1: slots say which expert they are for (:mod:`scheduler.cost.slots`).
    ordered, order_head : int
        Loads that are still to be posted in order, place of the oldest in its ring.
    """

    latency: int
    jitter: int
    stall: int
    channels: int
    random: int
    fetch_room: int
    next: int
    dispatched: int
    bursts: int
    fetched: int
    routed: int
    granted: int
    posted: int
    done: int
    parked: int
    bus: int
    bus1: int
    counts: int
    counts_width: int
    notes: int
    segments: int
    slices: int
    hbm: int
    scored: int
    named: int
    ordered: int
    order_head: int


class CombineCells(NamedTuple):
    """Cells of result bus, combine buffer, vector unit and the store that runs.

    Attributes
    ----------
    time, next : int
        Next cycle to look at, and the first in which there is something to do.
    ports : int
        Ports that results use in this cycle (`scheduler.cost.waves.PORT_BANK` and the others).
    rows_at, finish_at, ask_at, output_at, start_at, words_at, read_at : int
        Next cycle in which a result row can move, a job of the vector unit ends, its running job asks for a row, its
        oldest result can be written, the VECTOR that is set up can start, a load's word can leave, the store reads.
    turn, store_turn, load_turn, tiers_turn : int
        Whose turn it is: tier on the bus; by bank: the store's before the vector unit's, the loads' before the vector
        unit's; the vector unit's before the loads'.
    rows_from, lists_from, words_from : int
        Load engine whose row, list entry, word for the tiers was last offered.
    row_offer, list_offer, word_offer : int
        Engines that offer one in this cycle (-1: none).
    pending, pending_at : int
        VECTOR that is set up (-1: none), first cycle in which it can start.
    which, issuing, request, paused, blocked, credits : int
        Running job; it has rows to ask for; first cycle in which it can; the same after the last result of ADD, for the
        next job too; it waits for rows of the job before; result rows for which there is room.
    vector, row, phase, table, element : int
        Place in the running job's loops.
    a, b, dest : int
        First rows of the operands and of the result of the present vector.
    op, vectors, rows, dest_kind, dest_tiers, b_rows, a_stride, b_stride, dest_stride : int
        Fields of the running job.
    final, simple, reduces, awaits : int
        Phase that makes results; a row makes one result; it makes scalars; it reads scalars that the job before makes.
    finished : int
        First cycle in which the next job can end.
    outputs, output_head : int
        Result rows on their way, place of the oldest.
    store, store_row, store_left, store_step, store_count, store_start : int
        Running store (-1: none), its next row, rows left, rows from one to the next, rows that were read, its start.
    store_taken, store_beat, store_pace, store_apart, store_place, store_places, discards : int
        Cycle in which the last row was taken; cycle after the last beat; beats of a row, 1 or more; rows have beats of
        their own; place in the beat and rows of a beat; nothing is written.
    """

    time: int
    next: int
    ports: int
    rows_at: int
    finish_at: int
    ask_at: int
    output_at: int
    start_at: int
    words_at: int
    read_at: int
    turn: int
    store_turn: int
    load_turn: int
    tiers_turn: int
    rows_from: int
    lists_from: int
    words_from: int
    row_offer: int
    list_offer: int
    word_offer: int
    pending: int
    pending_at: int
    which: int
    issuing: int
    request: int
    paused: int
    blocked: int
    credits: int
    vector: int
    row: int
    phase: int
    table: int
    element: int
    a: int
    b: int
    dest: int
    op: int
    vectors: int
    rows: int
    dest_kind: int
    dest_tiers: int
    b_rows: int
    a_stride: int
    b_stride: int
    dest_stride: int
    final: int
    simple: int
    reduces: int
    awaits: int
    finished: int
    outputs: int
    output_head: int
    store: int
    store_row: int
    store_left: int
    store_step: int
    store_count: int
    store_start: int
    store_taken: int
    store_beat: int
    store_pace: int
    store_apart: int
    store_place: int
    store_places: int
    discards: int


class UnitCells(NamedTuple):
    """Cells of a unit's record; those that not all units have are marked.

    Attributes
    ----------
    head, queued : int
        Place of the queue's head, instructions in it.
    asks : int
        Instruction whose semaphores are not there (-1: none).
    held, taken, valid, free : int
        Instruction that waits for its semaphores (-1: none), when it left the queue, when it is ready (tiers: -1 before
        the grant), first cycle in which the next one can be taken.
    granted : int
        All but tiers: the waits are granted.
    op, ready, first, last, hold, begun : int
        Tiers: GEMM in the loop nest (-1: none), first cycle in which its first wave can go, that of its first and of
        its last wave, first cycle in which what comes next may ask for semaphores; leaders: GEMM whose waves go.
        Loads: `ready` is the first cycle in which a load whose waits are granted can begin.
    tile, token, cycle, tiles, tokens, front : int
        Leaders: wave that comes next, first cycle in which it can go, tiles and tokens of the operation; when the last
        tile became active.
    parked, needs : int
        Leaders: 1 + the load that the waves wait for, -1: they wait for room for `needs` rows, 0: for nothing.
    decoded, decoded_at : int
        Loads: instruction behind the one that is held (-1: none), first cycle in which it can follow.
    issued, bursts, beats : int
        Loads: cycle of the last burst (or of the first cycle in which one can be made), bursts and beats that were
        asked for.
    ranged : int
        Loads: those that have begun and have data.
    steps_end, words_end : int
        Loads: cycle after the last step at the data side if nothing is in its way; after the last one that is settled.
    opened, settled : int
        Loads: loads that have begun, and that are settled at the data side.
    busy : int
        Store: first cycle in which the next one can start.
    """

    head: int
    queued: int
    asks: int
    held: int
    taken: int
    valid: int
    free: int
    granted: int
    op: int
    ready: int
    first: int
    last: int
    hold: int
    begun: int
    tile: int
    token: int
    cycle: int
    tiles: int
    tokens: int
    front: int
    parked: int
    needs: int
    decoded: int
    decoded_at: int
    issued: int
    bursts: int
    beats: int
    steps_end: int
    words_end: int
    opened: int
    settled: int
    busy: int
    ranged: int


class HeadCells(NamedTuple):
    """Cells of a tier's rows at the collector.

    Attributes
    ----------
    at : int
        First cycle in which the next row can move.
    left : int
        Rows left of its run.
    ports, step : int
        Ports that it needs, banks to the next row's.
    ends : int
        Operation that ends with the run (-1: none).
    runs, through : int
        Runs that came, runs that were at the head.
    ahead : int
        Rows whose waves are planned and that have not moved.
    """

    at: int
    left: int
    ports: int
    step: int
    ends: int
    runs: int
    through: int
    ahead: int


class RunCells(NamedTuple):
    """Cells of a run of rows: first cycle, rows, and as in `HeadCells`."""

    at: int
    rows: int
    ports: int
    step: int
    ends: int


class JobCells(NamedTuple):
    """Cells of a job of the vector unit.

    Attributes
    ----------
    number, live : int
        Instruction; it is not complete.
    rows_left, finish, written : int
        Result rows that are not written, cycle in which it ends if that is known, in which its last scalar is written.
    reduces, scalar, vectors : int
        It makes scalars, the first of them, how many.
    to_rows, low, high : int
        It writes combine rows, from the first to the last of them.
    """

    number: int
    live: int
    rows_left: int
    finish: int
    written: int
    reduces: int
    scalar: int
    vectors: int
    to_rows: int
    low: int
    high: int


class BurstCells(NamedTuple):
    """Cells of a burst of a load.

    Attributes
    ----------
    asked : int
        Cycle of its address at the memory.
    first : int
        First cycle in which the memory has a beat.
    cycles, end : int
        Cycles that it takes on the bus, cycle after the last.
    taken : int
        Last step at the data side.
    beats : int
        Beats of the engine up to its end.
    number : int
        Instruction.
    """

    asked: int
    first: int
    cycles: int
    end: int
    taken: int
    beats: int
    number: int


class WordCells(NamedTuple):
    """Cells of the load whose words an engine writes one by one.

    Attributes
    ----------
    number, at : int
        Instruction (-1: none), first cycle of the next word.
    words, left : int
        Words, and those that have not left.
    first, last : int
        First and last step at the data side if nothing is in the way.
    kind, where : int
        `scheduler.cost.load_data.TO_TIERS` and the others; tiers or next row.
    """

    number: int
    at: int
    words: int
    left: int
    first: int
    last: int
    kind: int
    where: int


class PostCells(NamedTuple):
    """Cells of a source of posts: place of the oldest, how many are due, then pairs of cycle and instruction."""

    head: int
    due: int
    first: int


class FetchCells(NamedTuple):
    """Cells of a burst of instructions: its first cycle on the bus and the cycle after its last."""

    start: int
    end: int


class NoteCells(NamedTuple):
    """Cells of the notes on an instruction.

    Attributes
    ----------
    dispatched, consumed, done : int
        Cycles in which it was dispatched, in which it left the fetch buffer, in which it was complete; -1: not yet.
    slice : int
        Its first slice.
    chained : int
        A K GEMM that directly follows another one of its gang in all its queues.
    begun, tile0, tiles : int
        Loads: cycle in which it was settled when its tiles come (-1: not yet), launch of its first and of its last
        tile's last word (before that: steps at the data side).
    """

    dispatched: int
    consumed: int
    done: int
    slice: int
    chained: int
    begun: int
    tile0: int
    tiles: int


class SliceCells(NamedTuple):
    """Cells of a slice, an instruction's time on one unit.

    Attributes
    ----------
    number, unit : int
        Instruction and unit.
    taken, granted, ready, start, end : int
        Cycles in which it left the queue, its semaphores were granted, its partners were there too, it began to work,
        and after its last work.
    work : int
        Cycles of work: waves, beats (stores: rows), requests of rows.
    tiles : int
        Cycles in which its waves waited for tiles.
    segment : int
        GEMM: segment of the tiles of this tier.
    looked : int
        GEMM: first cycle in which the leader looked its slot up.
    """

    number: int
    unit: int
    taken: int
    granted: int
    ready: int
    start: int
    end: int
    work: int
    tiles: int
    segment: int
    looked: int
