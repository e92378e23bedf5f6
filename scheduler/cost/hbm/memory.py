# SPDX-License-Identifier: Apache-2.0
"""Both groups' HBM channels in the cycle model: they take requests from the rings and say when their beats come.

All channels of a group do the same, so that one stands for them. A channel that has nothing to do is not worked out
cycle by cycle, but the commands that it gives are the same: refreshes need their cycles, waiting for the next one none.
"""

from __future__ import annotations

from scheduler.cost.hbm.cells import ENTRY, K, Q
from scheduler.cost.hbm.channel import COMMAND, NONE, STREAMS, WRITES, Channel, cycle, push, room, wait
from scheduler.cost.hbm.loads import burst_ended
from scheduler.cost.hbm.requests import entry_cell, ring_cell, store_cell
from scheduler.cost.state import AT, FETCHES, NEVER, F, Int, M
from scheduler.stream.compiled import compiled

__all__ = ["advance"]

_RESPONSE = 2
"""Cycles from a write's command to its response."""


@compiled
def next_request(s: Int, group: int) -> int:
    """Return the cycle in which a channel gets its next request, or NEVER."""
    first = NEVER
    for stream in range(STREAMS):
        ring = ring_cell(s, group, stream)
        if s[ring + Q.told] < s[ring + Q.added]:
            first = min(first, s[entry_cell(ring, s[ring + Q.told]) + ENTRY.at])
    return first


@compiled
def tell(s: Int, channel: Channel, group: int, now: int) -> None:
    """Tell a channel, which has worked out cycle `now`, of the requests that it gets in it."""
    for stream in range(STREAMS):
        ring = ring_cell(s, group, stream)
        while s[ring + Q.told] < s[ring + Q.added]:
            e = entry_cell(ring, s[ring + Q.told])
            if s[e + ENTRY.at] > now or room(channel, stream) == 0:
                break
            push(channel, stream, s[e + ENTRY.beat], s[e + ENTRY.beats])
            s[ring + Q.told] += 1
            s[s[M.hbm] + K.inside0 + group] += 1


@compiled
def end_write(s: Int, group: int, n: int, now: int) -> None:
    """Note that a write is done, and the response of the store that ends with it."""
    h = s[M.hbm]
    s[h + K.responses] -= 1
    s[h + K.writes] |= 1 << group
    if n < 0:
        return
    for place in range(s[h + K.stores_first], s[h + K.stores_next]):
        e = store_cell(s, place)
        if s[e] == n:
            s[e + 1] = now + _RESPONSE


@compiled
def note_column(s: Int, channel: Channel, group: int, now: int) -> None:
    """Note what comes of the column command that a channel has given in a cycle."""
    h, stream, last = s[M.hbm], channel.command[COMMAND.column_stream], channel.command[COMMAND.column_last]
    ring = ring_cell(s, group, stream)
    e = entry_cell(ring, s[ring + Q.ended])
    if stream != WRITES:
        beat = max(now + 1 + s[h + K.delay], s[M.bus + group])  # those of both ids share the bus, in order
        s[M.bus + group] = beat + 1
        if s[e + ENTRY.begin] == NEVER:
            s[e + ENTRY.begin] = beat
    if not last:
        return
    s[ring + Q.ended] += 1
    s[h + K.waiting] -= 1
    s[h + K.inside0 + group] -= 1
    if stream == WRITES:
        end_write(s, group, s[e + ENTRY.tag], now)
    elif stream == 0:
        burst_ended(s, group, s[e + ENTRY.begin], s[M.bus + group])
        s[h + K.loads] |= 1 << group
    else:
        b = AT.fetch + 2 * (s[h + K.fetch_here] % FETCHES)
        s[b + F.start], s[b + F.end] = s[e + ENTRY.begin], s[M.bus + group]
        s[h + K.fetch_here] += 1
        s[h + K.fetches] = 1


@compiled
def step(s: Int, channel: Channel, group: int, now: int, due: int) -> None:
    """Work out a cycle of a channel that has requests, or gets one."""
    if s[s[M.hbm] + K.inside0 + group]:
        cycle(channel)
        if channel.command[COMMAND.column] != NONE:
            note_column(s, channel, group, now)
    elif due <= now:
        wait(channel, now + 1)
    if due <= now:
        tell(s, channel, group, now)


@compiled
def advance(s: Int, first: Channel, second: Channel, until: int) -> bool:
    """Work the channels out up to a cycle, or until a request has ended; return whether one has."""
    h = s[M.hbm]
    now = s[h + K.now]
    due0, due1 = next_request(s, 0), next_request(s, 1)
    while now < until:
        if s[h + K.inside0] + s[h + K.inside1] == 0:
            now = max(now, min(due0, due1))
            if now >= until:
                break
        step(s, first, 0, now, due0)
        step(s, second, 1, now, due1)
        if due0 <= now:
            due0 = next_request(s, 0)
        if due1 <= now:
            due1 = next_request(s, 1)
        now += 1
        if s[h + K.loads] + s[h + K.fetches] + s[h + K.writes]:
            s[h + K.now] = now
            return True
    s[h + K.now] = until
    return False
