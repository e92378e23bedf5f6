# SPDX-License-Identifier: Apache-2.0
"""The blocks' latencies and rates as plain numbers of one machine, for compiled functions."""

from __future__ import annotations

from typing import NamedTuple

from hdl.config import INSTRUCTION_BYTES, MachineConfig

__all__ = ["Blocks", "blocks_of"]


class Blocks(NamedTuple):
    tiers: int
    rows: int
    columns: int
    lanes: int
    queue_depth: int
    row_fifo: int
    edge: int
    skew_k: int
    group_bytes: int
    tile_bytes: int
    fetch_first: int
    fetch_again: int
    fetch_beat: int
    fetch_depth: int
    fetch_burst: int
    instruction_beats: int
    beat_instructions: int
    dispatch: int
    enter: int
    setup: int
    slot: int
    nest: int
    look: int
    credit: int
    result: int
    hop: int
    post: int
    load_slot: int
    load_request: int
    load_fifo: int
    burst_beats: int
    outstanding: int
    skew_beats: int
    store_check: int
    store_row: int
    tracker: int
    vector_setup: int
    row_write: int
    scalar_write: int
    output_depth: int
    add_pause: int
    lookup: int
    route: int
    settle: int


def blocks_of(c: MachineConfig) -> Blocks:
    depth = max(2, 512 // c.group_bytes)
    tree = -(-(c.columns.bit_length() - 1) // 2)
    return Blocks(
        tiers=c.tiers, rows=c.rows, columns=c.columns, lanes=c.result_lanes, queue_depth=c.queue_depth,
        row_fifo=c.row_fifo_depth,
        edge=int(c.stationary_feed == "edge"), skew_k=c.skew_k, group_bytes=c.group_bytes, tile_bytes=c.tile_bytes,
        fetch_first=4, fetch_again=3, fetch_beat=2, fetch_depth=depth, fetch_burst=min(c.burst_beats, depth // 2),
        instruction_beats=max(1, INSTRUCTION_BYTES // c.group_bytes),
        beat_instructions=max(1, c.group_bytes // INSTRUCTION_BYTES), dispatch=4, enter=2,
        setup=6, slot=2, nest=2, look=2, credit=2, result=1 + c.rows + 11 + 5 + 2, hop=2,
        post=2,
        load_slot=4, load_request=2, load_fifo=2, burst_beats=c.burst_beats,
        outstanding=c.outstanding_bursts, skew_beats=c.skew_fifo_beats,
        store_check=2, store_row=3, tracker=max(2, c.outstanding_bursts) + 1,
        vector_setup=7, row_write=14, scalar_write=13 + tree + 8, output_depth=24, add_pause=12, lookup=2,
        route=9, settle=17,
    )  # fmt: skip
