# SPDX-License-Identifier: Apache-2.0
"""How the memories behave: latency, random additions to it, channels that pause."""

from __future__ import annotations

from scheduler.cost.state import *
from scheduler.stream.compiled import compiled

__all__ = ["latency", "transfers"]


@compiled
def draw(s: Int) -> int:
    """Return the next random number, 0 to 2**24 - 1."""
    x = s[SEED]
    x ^= x << 13 & 0xFFFFFFFF
    x ^= x >> 17
    x ^= x << 5 & 0xFFFFFFFF
    s[SEED] = x
    return x >> 8


@compiled
def transfers(s: Int, count: int) -> int:
    """Return the cycles that some transfers take, one after the other, when all channels of a group take part in each."""
    cycles = count
    if s[STALL]:
        for _ in range(count):
            longest = 0
            for _ in range(s[CHANNELS]):
                pauses = 0
                while draw(s) & 255 < s[STALL]:
                    pauses += 1
                longest = max(longest, pauses)
            cycles += longest
    return cycles


@compiled
def latency(s: Int) -> int:
    """Return the cycles from a request, which may have to wait for its channels, to what is asked for."""
    longest = 0
    if s[JITTER]:
        for _ in range(s[CHANNELS]):
            longest = max(longest, draw(s) % (s[JITTER] + 1))
    return s[LATENCY] + longest + transfers(s, 1) - 1
