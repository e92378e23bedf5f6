# SPDX-License-Identifier: Apache-2.0
"""How the memories behave, as the benches' model does: latency, random additions to it, channels that pause."""

from __future__ import annotations

from scheduler.cost.state import Int, M
from scheduler.stream.compiled import compiled

__all__ = ["latency", "transfers"]


@compiled
def draw(s: Int) -> int:
    """Return the next random number, 0 to 2**24 - 1."""
    x = s[M.random]
    x ^= x << 13 & 0xFFFFFFFF
    x ^= x >> 17
    x ^= x << 5 & 0xFFFFFFFF
    s[M.random] = x
    return int(x >> 8)


@compiled
def transfers(s: Int, count: int) -> int:
    """Return the cycles that transfers one after the other take, all channels of a group taking part in each."""
    cycles = count
    if s[M.stall]:
        for _ in range(count):
            longest = 0
            for _ in range(s[M.channels]):
                pauses = 0
                while draw(s) & 255 < s[M.stall]:
                    pauses += 1
                longest = max(longest, pauses)
            cycles += longest
    return cycles


@compiled
def latency(s: Int) -> int:
    """Return the cycles from a request at the memory, which may have to wait for its channels, to what it asks for."""
    longest = 0
    if s[M.jitter]:
        for _ in range(s[M.channels]):
            longest = max(longest, draw(s) % (s[M.jitter] + 1))
    return int(s[M.latency] + longest + transfers(s, 1) - 1)
