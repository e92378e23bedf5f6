# SPDX-License-Identifier: Apache-2.0
"""The tiers' sequencers: when a GEMM's waves go, and when its rows are at the collector."""

from __future__ import annotations

from hdl.isa import Dest, Mapping3D, Order
from scheduler.cost.events import grant, slice_of, slot_tokens, take, waits, wake
from scheduler.cost.state import *
from scheduler.stream.compiled import compiled, inlined
from scheduler.stream.table import COL, Rows


@inlined
def next_run(s: Int, tier: int, earliest: int) -> None:
    """Bring a tier's next run of rows to the head."""
    h = HEAD + 16 * tier
    at = s[h + RUN_HEAD]
    if at == s[h + RUN_TAIL]:
        s[h + AVAIL] = NEVER
        s[h + LEFT] = 0
        return
    e = RUN + 8 * (RUN_PLACES * tier + at % RUN_PLACES)
    s[h + RUN_HEAD] = at + 1
    s[h + AVAIL] = max(s[e + R_TIME], earliest)
    s[h + LEFT] = s[e + R_COUNT]
    s[h + NEED] = s[e + R_NEED]
    s[h + STEP] = s[e + R_STEP]
    s[h + ENDS] = s[e + R_ENDS]


@compiled
def add_rows(rows: Rows, s: Int, n: int, cycle: int, tile: int, token: int, count: int, ends: bool) -> None:
    """Add the rows of `count` waves that go from `cycle` on, in all tiers that make rows."""
    low, gang, mapping = rows[n, COL.tier_base], rows[n, COL.tier_count], rows[n, COL.mapping]
    along = rows[n, COL.n_tiles]
    column = tile % along if rows[n, COL.order] == Order.N_INNER else tile // rows[n, COL.k_slices]
    skipped = s[UNIT + WIDTH * low + TOKENS] == 0
    for place in range(gang - 1 if mapping == Mapping3D.K else 0, gang):
        tier = low + place
        need, step = 0, 0
        if skipped:
            pass  # the row is dropped
        elif rows[n, COL.dest_kind] == Dest.COMBINE:
            # Where the list names rows, a token's first row is taken to lie in bank 0.
            step = 0 if rows[n, COL.dest_list] else rows[n, COL.dest_stride]
            first = token + (place * rows[n, COL.tokens] if mapping == Mapping3D.M else 0)
            bank = rows[n, COL.dest_base] + first * step + column + (place * along if mapping == Mapping3D.N else 0)
            need = 1 << (BANK + bank % s[B.lanes])
            if rows[n, COL.accumulate]:
                need |= need << (ADDS - BANK)
        else:
            need = (rows[n, COL.dest_tiers] if rows[n, COL.dest_tiers] else 1 << tier) << TIERS
        h = HEAD + 16 * tier
        e = RUN + 8 * (RUN_PLACES * tier + s[h + RUN_TAIL] % RUN_PLACES)
        skew = place * (s[B.skew_k] - 1) if mapping == Mapping3D.K else 0
        s[e + R_TIME] = cycle + skew + s[B.result] + s[B.hop] * tier
        s[e + R_COUNT] = count
        s[e + R_NEED] = need
        s[e + R_STEP] = step % s[B.lanes]
        s[e + R_ENDS] = n if ends else -1
        s[h + RUN_TAIL] += 1
        s[h + AHEAD] += count
        if s[h + LEFT] == 0:
            next_run(s, tier, s[C_TIME])
            s[ROWS_AT] = min(s[ROWS_AT], s[h + AVAIL])
            s[C_NEXT] = min(s[C_NEXT], s[h + AVAIL])


@compiled
def tile_ready(rows: Rows, s: Int, load: int, tile: int) -> int:
    """Return the first cycle in which a wave that needs a tile can go; NEVER: its load has not begun."""
    if load < 0:
        return 0
    f = s[NOTES] + NOTE_WIDTH * load
    if s[f + N_BEGUN] < 0:
        return NEVER
    count = rows[load, COL.count]
    first = s[f + N_TILE0]
    if count > 1:
        first += (s[f + N_TILES] - first) * (tile - rows[load, COL.dest_base]) // (count - 1)
    return first + s[B.look]


@compiled
def first_wave(rows: Rows, s: Int, n: int, cycle: int) -> None:
    """Note that an operation's first wave goes in a cycle; what comes after a gang may ask for semaphores then."""
    low, gang = rows[n, COL.tier_base], rows[n, COL.tier_count]
    s[UNIT + WIDTH * low + FIRST] = cycle
    for place in range(gang):
        own = cycle + (place * (s[B.skew_k] - 1) if rows[n, COL.mapping] == Mapping3D.K else 0)
        s[slice_of(rows, s, n, low + place) + S_BEGIN] = own
        if gang > 1 and s[UNIT + WIDTH * (low + place) + OP] == n:
            s[UNIT + WIDTH * (low + place) + HOLD] = own + 1
            wake(s, low + place, own + 1)


@compiled
def last_wave(rows: Rows, s: Int, n: int, cycle: int, work: int) -> None:
    """Note that an operation's last wave goes in a cycle."""
    low = rows[n, COL.tier_base]
    for place in range(rows[n, COL.tier_count]):
        tier = low + place
        own = cycle + (place * (s[B.skew_k] - 1) if rows[n, COL.mapping] == Mapping3D.K else 0)
        at = slice_of(rows, s, n, tier)
        s[at + S_END] = own + 1
        s[at + S_WORK] = work
        if s[UNIT + WIDTH * tier + OP] == n:
            s[UNIT + WIDTH * tier + LAST] = own
            s[UNIT + WIDTH * tier + FRONT] = s[UNIT + WIDTH * low + FRONT]
            wake(s, tier, own - 1)


@compiled
def tiles_ready(rows: Rows, s: Int, n: int, tile: int) -> int:
    """Return when a tile of an operation is there in all tiers that read it, or -1 - the load that has not begun.

    The segments of tiles move on to the one with this tile.
    """
    low, there = rows[n, COL.tier_base], 0
    readers = 1 if rows[n, COL.mapping] == Mapping3D.M else rows[n, COL.tier_count]
    place = rows[n, COL.vcache_base] + tile
    for tier in range(low, low + readers):
        at = slice_of(rows, s, n, tier) + S_SEGMENT
        while s[s[SEGMENTS] + 2 * s[at]] <= place:
            s[at] += 1
        load = s[s[SEGMENTS] + 2 * s[at] + 1]
        cycle = tile_ready(rows, s, load, place)
        if cycle == NEVER:
            return -1 - load
        there = max(there, cycle)
    return there


@compiled
def segment_end(rows: Rows, s: Int, n: int) -> int:
    """Return the tile up to which each tier's tiles come from the loads that they come from now."""
    low, end = rows[n, COL.tier_base], NEVER
    readers = 1 if rows[n, COL.mapping] == Mapping3D.M else rows[n, COL.tier_count]
    for tier in range(low, low + readers):
        end = min(end, s[s[SEGMENTS] + 2 * s[slice_of(rows, s, n, tier) + S_SEGMENT]])
    return end - rows[n, COL.vcache_base]


@compiled
def plan(rows: Rows, s: Int, low: int) -> None:
    """Work out when the waves of the operation that tier `low` leads go, as far as that is known.

    Stops at a tile whose load has not begun, and where the rows that are ahead fill their FIFO.
    """
    x = UNIT + WIDTH * low
    n = s[x + OP]
    if s[x + PARKED] == -1:
        s[C_WATCH] -= 1
    s[x + PARKED] = 0
    skipped = s[x + TOKENS] == 0
    gang, tokens, tiles = rows[n, COL.tier_count], max(1, s[x + TOKENS]), s[x + TILES]
    slices, along = rows[n, COL.k_slices], rows[n, COL.n_tiles]
    edge, feed = s[B.edge], s[B.rows]
    period = max(tokens, feed) if edge else tokens
    maker = low + (gang - 1 if rows[n, COL.mapping] == Mapping3D.K else 0)
    while s[x + TILE] < tiles:
        tile = s[x + TILE]
        if s[x + TOKEN] == 0:
            if rows[n, COL.order] == Order.N_INNER:
                finishing = (slices - 1) * along
            else:
                finishing = tile - tile % slices + slices - 1
            there = 0
            if not skipped:
                there = tiles_ready(rows, s, n, tile)
                if there < 0:
                    s[x + PARKED] = -there
                    return
            if edge:
                there = max(there, s[x + FRONT], s[x + READY] - s[B.nest]) + feed
            start = max(s[x + CYCLE], there)
            if s[x + FIRST] < 0:
                first_wave(rows, s, n, start)
            if tile < finishing and not skipped:
                # Tiles that finish no row, up to one that comes from another load.
                more = min(segment_end(rows, s, n), finishing) - tile
                start += (more - 1) * period
                if more > 1:
                    start = max(start, tiles_ready(rows, s, n, tile + more - 1) + (feed if edge else 0))
                s[x + FRONT] = start
                s[x + CYCLE] = start + tokens
                s[x + TILE] = tile + more
                continue
            s[x + FRONT] = start
            s[x + CYCLE] = start
        room = NEVER
        for tier in range(maker, low + gang):
            h = HEAD + 16 * tier
            room = min(room, s[B.row_fifo] - s[h + AHEAD])
            if s[h + RUN_TAIL] - s[h + RUN_HEAD] >= RUN_PLACES - 1:
                room = 0
        count = min(tokens - s[x + TOKEN], room)
        if count <= 0:
            s[x + PARKED] = -1
            s[x + NEEDS] = min(16, tokens - s[x + TOKEN])
            s[C_WATCH] += 1
            return
        ends = s[x + TOKEN] + count == tokens and tile == tiles - 1
        add_rows(rows, s, n, s[x + CYCLE], tile, s[x + TOKEN], count, ends)
        s[x + CYCLE] += count
        s[x + TOKEN] += count
        if s[x + TOKEN] == tokens:
            s[x + TOKEN] = 0
            s[x + TILE] = tile + 1
    last_wave(rows, s, n, s[x + CYCLE] - 1, tiles * tokens)


@compiled
def begin_gemm(rows: Rows, s: Int, n: int) -> None:
    """Begin a GEMM, if all tiers of its gang have it."""
    low, gang = rows[n, COL.tier_base], rows[n, COL.tier_count]
    x = UNIT + WIDTH * low
    if s[s[NOTES] + NOTE_WIDTH * n + N_CHAINED]:
        # The followers repeat the leader's steps; it leaves their setup the time between two operations.
        if s[x + OP] != n or s[x + BUSY] == n:
            return
        ready = max(s[x + READY], s[x + FIRST] + s[B.setup] + 1)
    else:
        ready = 0
        for tier in range(low, low + gang):
            if s[UNIT + WIDTH * tier + OP] != n:
                return
            late = 1 if tier > low and rows[n, COL.mapping] == Mapping3D.K else 0  # the comparison is registered
            ready = max(ready, s[UNIT + WIDTH * tier + READY] + late)
    s[x + BUSY] = n
    most = rows[n, COL.tokens]
    if rows[n, COL.slot_en]:
        most = max(0, min(most, slot_tokens(rows, s, n, NEVER) - rows[n, COL.list_base]))
    s[x + TOKENS] = most
    s[x + TILES] = rows[n, COL.k_slices] * rows[n, COL.n_tiles] if most else 1
    s[x + TILE] = 0
    s[x + TOKEN] = 0
    s[x + CYCLE] = ready
    s[x + FIRST] = -1
    plan(rows, s, low)


@compiled
def setup(rows: Rows, s: Int, tier: int, now: int) -> bool:
    """Let a tier's next instruction wait for its semaphores; return whether it is ready from `VALID` on."""
    x = UNIT + WIDTH * tier
    n = s[x + HELD]
    if s[x + VALID] >= 0:
        return True
    slot = rows[n, COL.slot_en]
    waiting = waits(rows, n)
    if rows[n, COL.tier_base] != tier or not (waiting or slot):
        s[x + VALID] = s[x + TAKEN] + s[B.setup]
        s[slice_of(rows, s, n, tier) + S_GRANT] = s[x + TAKEN]
        return True
    at = max(s[x + TAKEN] + 1, s[x + HOLD])  # a gang's operation before it has begun
    if now < at:
        if at < NEVER:
            wake(s, tier, at)
        return False
    if waiting:
        if not grant(rows, s, tier, n, now):
            return False
        at = now + 1
    s[x + VALID] = max(s[x + TAKEN] + s[B.setup], at + (s[B.slot] if slot else 0))
    s[slice_of(rows, s, n, tier) + S_GRANT] = now
    return True


@compiled
def tier_step(rows: Rows, s: Int, tier: int, now: int) -> None:
    """Let a tier go on: waves, the next instruction's setup, its move into the loop nest."""
    s[TIME + tier] = NEVER
    x = UNIT + WIDTH * tier
    if s[x + PARKED] != 0:
        plan(rows, s, tier)
    if s[x + HELD] < 0:
        if s[x + FREE] > now:
            wake(s, tier, s[x + FREE])
            return
        n = take(rows, s, tier, now)
        if n < 0:
            return
        s[x + HELD] = n
        s[x + TAKEN] = now
        s[x + VALID] = -1
        s[slice_of(rows, s, n, tier) + S_TAKE] = now
    if not setup(rows, s, tier, now) or (s[x + OP] >= 0 and s[x + LAST] == NEVER):
        return
    at = max(s[x + VALID], s[x + LAST] - 1)
    if now < at:
        wake(s, tier, at)
        return
    n = s[x + HELD]
    s[x + OP] = n
    s[x + READY] = max(now + s[B.nest], s[x + LAST] + 1)
    at = slice_of(rows, s, n, tier)
    # A follower in a chain of K gangs may come to what its leader has long begun.
    s[x + LAST] = s[at + S_END] - 1 if s[at + S_END] >= 0 else NEVER
    s[x + HOLD] = 0 if rows[n, COL.tier_count] == 1 else s[at + S_BEGIN] + 1 if s[at + S_BEGIN] >= 0 else NEVER
    s[x + HELD] = -1
    s[x + FREE] = now + 1
    wake(s, tier, now + 1)
    if s[at + S_END] < 0:
        begin_gemm(rows, s, n)
