# SPDX-License-Identifier: Apache-2.0
"""The latencies and rates of a machine's blocks as plain numbers, for compiled functions.

Each block says how long its steps take beside the RTL that causes it (``TIMING`` in its file, and what follows from a
configuration as functions). Nothing is restated here: this module only adds up what lies on the same way.
"""

from __future__ import annotations

from typing import NamedTuple

from hdl.array.stack import result_latency
from hdl.config import INSTRUCTION_BYTES, MachineConfig
from hdl.control.dispatcher import TIMING as DISPATCHER
from hdl.control.operation import TIMING as SETUP
from hdl.control.semaphores import TIMING as SEMAPHORES
from hdl.control.sequencer import TIMING as SEQUENCER
from hdl.control.supervisor import TIMING as SUPERVISOR
from hdl.memory.axi import TIMING as MASTER
from hdl.memory.axi import fetch_buffer_beats
from hdl.memory.bursts import TIMING as BURSTS
from hdl.memory.fetch import TIMING as FETCH
from hdl.memory.fetch import longest_burst
from hdl.memory.jobs import job_fifo_depth
from hdl.memory.load_address import TIMING as ADDRESSES
from hdl.memory.loads import TIMING as LOADS
from hdl.memory.store import TIMING as STORE
from hdl.memory.store import tracker_depth
from hdl.memory.store_decode import TIMING as STORE_FRONT
from hdl.result.control import TIMING as COLLECTOR
from hdl.vector.route import TIMING as ROUTE
from hdl.vector.setup import TIMING as VECTOR_FRONT
from hdl.vector.unit import vector_timing

__all__ = ["Blocks", "blocks_of"]


class Blocks(NamedTuple):
    """A machine's sizes and its blocks' cycles; sizes that are not explained are those of ``MachineConfig``.

    Attributes
    ----------
    edge : int
        1: stationary words are fed from the edge.
    fetch_first, fetch_again : int
        From the first cycle to the first address of the instructions at the memory; from a beat that leaves the fetch
        buffer to the address of the burst for which it makes room.
    fetch_beat : int
        From a beat on the bus to the first cycle in which it can leave the buffer.
    fetch_depth, fetch_burst : int
        Beats of the buffer and of a burst of instructions.
    instruction_beats, beat_instructions : int
        Beats of an instruction, instructions of a beat, 1 or more each.
    dispatch : int
        From an instruction's last beat that leaves the buffer to its dispatch, which is also how many can be between.
    enter : int
        From the dispatch to the head of an empty queue.
    posted, granted, granted_again : int
        From a post to the first grant that can take it; from the request for semaphores to the grant; from a grant to
        the next one.
    setup, ask, grant, slot, lag : int
        Tiers: from the queue to the offer and to the request for semaphores; from the grant to the offer; with a slot;
        from a leader's look-up of a slot to its followers'.
    nest : int
        From the offer to the first wave.
    tile, hold, credit : int
        From the launch of a tile's last word to a wave that needs it; from a gang's first wave to what comes next; from
        a row that leaves its FIFO to a wave that needs its place.
    result, hop : int
        From a wave that finishes a row in tier 0 to the first cycle in which the bus can move it; for each tier above.
    post : int
        From there to its post.
    load_decode, load_grant, load_slot : int
        Load engines: from the queue to the request for semaphores, from the grant to the begin, with a slot.
    load_ranges, load_queued : int
        Loads that have begun and whose data are not asked for yet; from such a begin to the first cycle in which they
        can be.
    load_issue, load_request : int
        From there to the first burst, from a burst to its address at the memory.
    load_jobs : int
        Loads that have begun and whose data side has not.
    load_beat, load_word, load_post : int
        From a beat on the bus to the data side, from its last beat there to a word, from the last word to the post.
    store_check, store_grant : int
        Store unit: from the queue to the request for semaphores, from the grant to the start.
    store_read, store_row, store_beat : int
        From the start to the first read, from a read to its row, from a row to its beat.
    store_request, write : int
        From the start to the first write address; from an address or a beat to the memory.
    store_next, store_post, discard : int
        From the last beat to the next store, from the last response to the post, from the last row of a DISCARD to its
        end.
    tracker : int
        Bursts of a store that can be on their way.
    vector_check, vector_grant : int
        Vector unit: from the queue to the request for semaphores, from the grant to the start.
    vector_issue, lookup, row_write, scalar_write, add_pause, vector_next, vector_done, vector_post, results
        See ``hdl.vector.unit.VectorTiming``.
    route_check, route, route_sort : int
        From the queue to a ROUTE's request for semaphores; cycles beside those by tokens, choices and experts; those of
        them that there are not with slots by number.
    settle : int
        From the last event to the end of the stream.
    """

    tiers: int
    rows: int
    columns: int
    result_lanes: int
    row_fifo_depth: int
    queue_depth: int
    group_bytes: int
    burst_beats: int
    outstanding_bursts: int
    fill_words: int
    skew_fifo_beats: int
    skew_k: int
    edge: int
    fetch_first: int
    fetch_again: int
    fetch_beat: int
    fetch_depth: int
    fetch_burst: int
    instruction_beats: int
    beat_instructions: int
    dispatch: int
    enter: int
    posted: int
    granted: int
    granted_again: int
    setup: int
    ask: int
    grant: int
    slot: int
    lag: int
    nest: int
    tile: int
    hold: int
    credit: int
    result: int
    hop: int
    post: int
    load_decode: int
    load_grant: int
    load_slot: int
    load_ranges: int
    load_queued: int
    load_issue: int
    load_request: int
    load_jobs: int
    load_beat: int
    load_word: int
    load_post: int
    store_check: int
    store_grant: int
    store_read: int
    store_row: int
    store_beat: int
    store_request: int
    write: int
    store_next: int
    store_post: int
    discard: int
    tracker: int
    vector_check: int
    vector_grant: int
    vector_issue: int
    lookup: int
    row_write: int
    scalar_write: int
    add_pause: int
    vector_next: int
    vector_done: int
    vector_post: int
    results: int
    route_check: int
    route: int
    route_sort: int
    settle: int


def blocks_of(config: MachineConfig) -> Blocks:
    """Return the numbers of a machine."""
    c = config
    vector = vector_timing(c.columns)
    first_row = SEQUENCER.dispatch + result_latency(c, 0) + COLLECTOR.row
    return Blocks(
        tiers=c.tiers, rows=c.rows, columns=c.columns, result_lanes=c.result_lanes, row_fifo_depth=c.row_fifo_depth,
        queue_depth=c.queue_depth, group_bytes=c.group_bytes, burst_beats=c.burst_beats,
        outstanding_bursts=c.outstanding_bursts, fill_words=c.fill_words, skew_fifo_beats=c.skew_fifo_beats,
        skew_k=c.skew_k,
        edge=int(c.stationary_feed == "edge"),
        fetch_first=FETCH.start - SUPERVISOR.start + MASTER.request, fetch_again=FETCH.again + MASTER.request,
        fetch_beat=MASTER.fetched, fetch_depth=fetch_buffer_beats(c), fetch_burst=longest_burst(c),
        instruction_beats=max(1, INSTRUCTION_BYTES // c.group_bytes),
        beat_instructions=max(1, c.group_bytes // INSTRUCTION_BYTES),
        dispatch=FETCH.word + DISPATCHER.checks, enter=DISPATCHER.queue, posted=SEMAPHORES.post,
        granted=SEMAPHORES.ask, granted_again=SEMAPHORES.again,
        setup=SETUP.setup, ask=SETUP.ask, grant=SETUP.grant, slot=SETUP.slot, lag=SETUP.lag, nest=SEQUENCER.nest,
        tile=LOADS.fill + SEQUENCER.tile, hold=SEQUENCER.hold, credit=COLLECTOR.credit + SEQUENCER.credit,
        result=first_row, hop=result_latency(c, 1) - result_latency(c, 0), post=COLLECTOR.post,
        load_decode=ADDRESSES.decode, load_grant=ADDRESSES.grant, load_slot=ADDRESSES.slot,
        load_ranges=ADDRESSES.ranges, load_queued=ADDRESSES.queued, load_issue=BURSTS.issue,
        load_request=BURSTS.request + MASTER.request, load_jobs=job_fifo_depth(c) + 1, load_beat=LOADS.beat,
        load_word=LOADS.word, load_post=LOADS.post,
        store_check=STORE_FRONT.check, store_grant=STORE_FRONT.grant, store_read=STORE.read,
        store_row=COLLECTOR.store_row, store_beat=STORE.beat, store_request=STORE.request, write=MASTER.request,
        store_next=STORE.next, store_post=STORE.post, discard=STORE.discard, tracker=tracker_depth(c) + 1,
        vector_check=VECTOR_FRONT.check, vector_grant=VECTOR_FRONT.grant, vector_issue=vector.issue,
        lookup=vector.lookup, row_write=vector.row, scalar_write=vector.scalar, add_pause=vector.pause,
        vector_next=vector.next, vector_done=vector.done, vector_post=vector.post, results=vector.results,
        route_check=ROUTE.check, route=ROUTE.phases, route_sort=ROUTE.sort, settle=SUPERVISOR.settle,
    )  # fmt: skip
