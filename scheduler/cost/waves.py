# SPDX-License-Identifier: Apache-2.0
"""When the waves of a GEMM go, and when its rows are at the collector."""

from __future__ import annotations

from typing import Final

from hdl.isa import Dest, Mapping3D, Order
from scheduler.cost.events import slice_of, wake
from scheduler.cost.hbm.requests import item_launch
from scheduler.cost.state import AT, HEAD, NEVER, NOTE, RECORD, RUN, RUNS, B, C, H, Int, M, N, R, S, U
from scheduler.stream.compiled import compiled, inlined
from scheduler.stream.table import COL, Rows

__all__ = ["PORT_ADD", "PORT_BANK", "PORT_TIERS", "PORT_WRITE", "next_run", "plan"]

PORT_BANK: Final = 0
PORT_ADD: Final = 8
PORT_WRITE: Final = 16
PORT_TIERS: Final = 24
"""Ports, eight of each, of the banks of the combine buffer and of the tiers: a result row is at the bank; it reads the
row that is there; it is written, one cycle later; a result row is written to the tier's activation buffer."""

ROWS_AT_ONCE: Final = 16
"""Rows that an operation plans at once, when it waited for room in the FIFO of rows."""


@inlined
def next_run(s: Int, tier: int, earliest: int) -> None:
    """Bring a tier's next run of rows to the head."""
    h = AT.head + HEAD * tier
    at = s[h + H.through]
    if at == s[h + H.runs]:
        s[h + H.at] = NEVER
        s[h + H.left] = 0
        return
    e = AT.run + RUN * (RUNS * tier + at % RUNS)
    s[h + H.through] = at + 1
    s[h + H.at] = max(s[e + R.at], earliest)
    s[h + H.left] = s[e + R.rows]
    s[h + H.ports] = s[e + R.ports]
    s[h + H.step] = s[e + R.step]
    s[h + H.ends] = s[e + R.ends]


@compiled
def skew(rows: Rows, s: Int, n: int, place: int) -> int:
    """Return how many cycles a tier's waves go after the leader's."""
    return place * (s[B.skew_k] - 1) if rows[n, COL.mapping] == Mapping3D.K else 0


@compiled
def ports_of(rows: Rows, s: Int, n: int, tile: int, token: int, place: int) -> int:
    """Return the ports that a result row needs that one tier of a gang makes of a token.

    Where the token list names the rows, a token's first one is taken to lie in bank 0.
    """
    low, mapping, along = rows[n, COL.tier_base], rows[n, COL.mapping], rows[n, COL.n_tiles]
    if s[AT.unit + RECORD * low + U.tokens] == 0:
        return 0  # a slot without tokens: the row is dropped
    if rows[n, COL.dest_kind] != Dest.COMBINE:
        tiers = rows[n, COL.dest_tiers] if rows[n, COL.dest_tiers] else 1 << (low + place)
        return int(tiers << PORT_TIERS)
    row = rows[n, COL.dest_base]
    row += tile % along if rows[n, COL.order] == Order.N_INNER else tile // rows[n, COL.k_slices]
    if mapping == Mapping3D.N:
        row += place * along
    if not rows[n, COL.dest_list]:
        row += (token + (place * rows[n, COL.tokens] if mapping == Mapping3D.M else 0)) * rows[n, COL.dest_stride]
    port = 1 << (PORT_BANK + row % s[B.result_lanes])
    return int(port | port << (PORT_ADD - PORT_BANK) if rows[n, COL.accumulate] else port)


@compiled
def add_rows(rows: Rows, s: Int, n: int, cycle: int, tile: int, token: int, count: int, ends: bool) -> None:
    """Add the rows of `count` waves that go from `cycle` on, in all tiers that make rows."""
    low, gang = rows[n, COL.tier_base], rows[n, COL.tier_count]
    for place in range(gang - 1 if rows[n, COL.mapping] == Mapping3D.K else 0, gang):
        tier = low + place
        h = AT.head + HEAD * tier
        e = AT.run + RUN * (RUNS * tier + s[h + H.runs] % RUNS)
        s[e + R.at] = cycle + skew(rows, s, n, place) + s[B.result] + s[B.hop] * tier
        s[e + R.rows] = count
        s[e + R.ports] = ports_of(rows, s, n, tile, token, place)
        s[e + R.step] = 0 if rows[n, COL.dest_list] else rows[n, COL.dest_stride] % s[B.result_lanes]
        s[e + R.ends] = n if ends else -1
        s[h + H.runs] += 1
        s[h + H.ahead] += count
        if s[h + H.left] == 0:
            next_run(s, tier, s[C.time])
            s[C.rows_at] = min(s[C.rows_at], s[h + H.at])
            s[C.next] = min(s[C.next], s[h + H.at])


@compiled
def room_for_rows(rows: Rows, s: Int, n: int) -> int:
    """Return for how many more rows of an operation there is room."""
    low, gang = rows[n, COL.tier_base], rows[n, COL.tier_count]
    room = NEVER
    for tier in range(low + gang - 1 if rows[n, COL.mapping] == Mapping3D.K else low, low + gang):
        h = AT.head + HEAD * tier
        room = min(room, s[B.row_fifo_depth] - s[h + H.ahead])
        if s[h + H.runs] - s[h + H.through] >= RUNS - 1:
            room = 0
    return room


@compiled
def tile_ready(rows: Rows, s: Int, load: int, tile: int) -> int:
    """Return the first cycle in which a wave that needs a tile can go; NEVER: when the tile comes is not known yet."""
    if load < 0:
        return 0
    note = s[M.notes] + NOTE * load
    if s[note + N.begun] < 0:
        return NEVER
    if s[M.hbm]:
        launch = item_launch(rows, s, load, tile - rows[load, COL.dest_base])
        return NEVER if launch == NEVER else launch + s[B.tile]
    count, cycle = rows[load, COL.count], s[note + N.tile0]
    if count > 1:
        cycle += (s[note + N.tiles] - cycle) * (tile - rows[load, COL.dest_base]) // (count - 1)
    return int(cycle + s[B.tile])


@compiled
def tiles_ready(rows: Rows, s: Int, n: int, tile: int) -> int:
    """Return when a tile of an operation is there in all tiers that read it; -1 - a load: when it comes is not known.

    The tiers' segments move on to the one with this tile.
    """
    low, there = rows[n, COL.tier_base], 0
    place = rows[n, COL.vcache_base] + tile
    for tier in range(low, low + (1 if rows[n, COL.mapping] == Mapping3D.M else rows[n, COL.tier_count])):
        at = slice_of(rows, s, n, tier) + S.segment
        while s[s[M.segments] + 2 * s[at]] <= place:
            s[at] += 1
        load = s[s[M.segments] + 2 * s[at] + 1]
        cycle = tile_ready(rows, s, load, place)
        if cycle == NEVER:
            return int(-1 - load)
        there = max(there, cycle)
    return there


@compiled
def segment_end(rows: Rows, s: Int, n: int) -> int:
    """Return the tile up to which each tier's tiles come from the loads that they come from now."""
    low, end = rows[n, COL.tier_base], NEVER
    for tier in range(low, low + (1 if rows[n, COL.mapping] == Mapping3D.M else rows[n, COL.tier_count])):
        end = min(end, s[s[M.segments] + 2 * s[slice_of(rows, s, n, tier) + S.segment]])
    return int(end - rows[n, COL.vcache_base])


@compiled
def first_wave(rows: Rows, s: Int, n: int, cycle: int) -> None:
    """Note that an operation's first wave goes; what comes after a gang may ask for semaphores then."""
    low, gang = rows[n, COL.tier_base], rows[n, COL.tier_count]
    s[AT.unit + RECORD * low + U.first] = cycle
    for place in range(gang):
        tier = low + place
        own = cycle + skew(rows, s, n, place)
        s[slice_of(rows, s, n, tier) + S.start] = own
        if gang > 1 and s[AT.unit + RECORD * tier + U.op] == n:
            s[AT.unit + RECORD * tier + U.hold] = own + s[B.hold]
            wake(s, tier, own + s[B.hold])


@compiled
def last_wave(rows: Rows, s: Int, n: int, cycle: int, work: int) -> None:
    """Note that an operation's last wave goes."""
    low = rows[n, COL.tier_base]
    for place in range(rows[n, COL.tier_count]):
        tier = low + place
        x = AT.unit + RECORD * tier
        own = cycle + skew(rows, s, n, place)
        at = slice_of(rows, s, n, tier)
        s[at + S.end] = own + 1
        s[at + S.work] = work
        if s[x + U.op] == n:
            s[x + U.last] = own
            s[x + U.front] = s[AT.unit + RECORD * low + U.front]
            wake(s, tier, own - 1)


@compiled
def tile_start(rows: Rows, s: Int, n: int, there: int) -> int:
    """Return when the first wave of an operation's next tile goes, which is `there` in a cycle."""
    low = rows[n, COL.tier_base]
    x = AT.unit + RECORD * low
    if s[B.edge]:
        # It is shifted in from the edge, at the earliest when the tile before is active.
        there = max(there, s[x + U.front], s[x + U.ready] - s[B.nest]) + s[B.rows]
    start = max(s[x + U.cycle], there)
    if s[x + U.first] < 0:
        first_wave(rows, s, n, start)
    else:
        s[slice_of(rows, s, n, low) + S.tiles] += start - s[x + U.cycle]
    return int(start)


@compiled
def plan(rows: Rows, s: Int, low: int) -> None:
    """Work out when the waves of the operation that tier `low` leads go, as far as that is known.

    Stops at a tile of which it is not known when it comes, and where the rows that are ahead fill their FIFO.
    """
    x = AT.unit + RECORD * low
    n = s[x + U.op]
    if s[x + U.parked] == -1:
        s[M.parked] -= 1
    s[x + U.parked] = 0
    skipped = s[x + U.tokens] == 0
    tokens, tiles = max(1, s[x + U.tokens]), s[x + U.tiles]
    slices = rows[n, COL.k_slices]
    feed = s[B.rows] if s[B.edge] else 0
    period = max(tokens, feed)
    while s[x + U.tile] < tiles:
        tile = s[x + U.tile]
        if s[x + U.token] == 0:
            if rows[n, COL.order] == Order.N_INNER:
                finishing = (slices - 1) * rows[n, COL.n_tiles]
            else:
                finishing = tile - tile % slices + slices - 1
            there = 0
            if not skipped:
                there = tiles_ready(rows, s, n, tile)
                if there < 0:
                    s[x + U.parked] = -there
                    return
            start = tile_start(rows, s, n, there)
            if tile < finishing and not skipped:
                # Tiles that finish no row, up to one that comes from another load.
                more = min(segment_end(rows, s, n), finishing) - tile
                if more > 1:
                    there = tiles_ready(rows, s, n, tile + more - 1)
                    if there < 0:  # with HBM they become known one by one
                        more = 1
                if more > 1:
                    smooth = start + (more - 1) * period
                    start = max(smooth, there + feed)
                    s[slice_of(rows, s, n, low) + S.tiles] += start - smooth
                s[x + U.front] = start
                s[x + U.cycle] = start + tokens
                s[x + U.tile] = tile + more
                continue
            s[x + U.front] = start
            s[x + U.cycle] = start
        count = min(tokens - s[x + U.token], room_for_rows(rows, s, n))
        if count <= 0:
            s[x + U.parked] = -1
            s[x + U.needs] = min(ROWS_AT_ONCE, tokens - s[x + U.token])
            s[M.parked] += 1
            return
        ends = s[x + U.token] + count == tokens and tile == tiles - 1
        add_rows(rows, s, n, s[x + U.cycle], tile, s[x + U.token], count, ends)
        s[x + U.cycle] += count
        s[x + U.token] += count
        if s[x + U.token] == tokens:
            s[x + U.token] = 0
            s[x + U.tile] = tile + 1
    last_wave(rows, s, n, s[x + U.cycle] - 1, tiles * tokens)
