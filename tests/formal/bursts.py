# SPDX-License-Identifier: Apache-2.0
"""The burst splitter: bursts cover a range once, in order, within the boundaries, the room and the leave given."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Signal

from hdl.config import MachineConfig
from hdl.memory.bursts import BEATS_BITS, BurstSplitter
from hdl.memory.jobs import log2
from tests.formal.machines import TINIEST
from tests.support.formal.bench import Bench
from tests.support.formal.engine import How, Method
from tests.support.formal.proof import Bug, Proof

__all__ = ["PROOFS", "claim_legal"]

ROOM_BITS = 4


def claim_legal(
    b: Bench, config: MachineConfig, name: str, valid: Any, address: Any, longest: int | None = None
) -> None:
    """Claim that a burst of a group is aligned, no longer than it may be, and within 4 KiB of each channel."""
    longest = config.burst_beats if longest is None else longest
    beat_bits = log2(config.group_bytes)
    first = address.addr[beat_bits:]
    b.claim(f"{name} is aligned to a beat", ~valid | (address.addr[:beat_bits] == 0))
    b.claim(f"{name} is no longer than configured", ~valid | (address.beats_minus_1 < longest))
    # Beats of a group are beats of each of its channels.
    page = log2(4096 // config.channel_bytes)
    b.claim(f"{name} stays within 4 KiB", ~valid | (first[:page] + address.beats_minus_1 < 1 << page))


def splitter(b: Bench, block: Any) -> None:
    unit = b.place(block(TINIEST, ROOM_BITS))
    beat_bits = log2(TINIEST.group_bytes)
    given, request = unit.range, unit.request
    b.assume_hold(given.valid, given.ready, given.payload)
    b.assume(~given.valid | ((given.payload.beats != 0) & (given.payload.addr[:beat_bits] == 0)))
    b.hold("a request", request.valid, request.ready, request.payload)
    claim_legal(b, TINIEST, "a request", request.valid, request.payload)

    # The reference: whether a range is not finished, where it goes on, and how much of it is left.
    open_, place, left = Signal(), Signal(TINIEST.address_bits - beat_bits), Signal(BEATS_BITS)
    taken = b.wire(given.valid & given.ready)
    some = (unit.length != 0) & (unit.length <= left)
    b.claim("a burst only of what is left of the range", ~unit.issued | (open_ & some))
    b.claim("the last burst is known", ~unit.issued | (unit.ends == (unit.length == left)))
    b.claim("only with leave and room", ~unit.issued | (unit.enable & (unit.length <= unit.room)))
    b.claim("a range is taken when nothing is left", ~taken | ~open_ | (unit.issued & unit.ends))
    b.claim("there is something left of a range that is not finished", ~open_ | (left != 0))
    b.claim("busy until the last request is taken", unit.busy == (open_ | request.valid))
    stuck = open_ & ~unit.issued & ~unit.blocked & (request.ready | ~request.valid)
    b.claim("a burst is made as soon as it may be", ~stuck)
    b.claim("blocked without leave or room, and for nothing else",
            unit.blocked == (open_ & ~(unit.enable & (unit.length <= unit.room))))  # fmt: skip
    with b.m.If(unit.issued):
        b.m.d.sync += [left.eq(left - unit.length), place.eq(place + unit.length), open_.eq(unit.length != left)]
    with b.m.If(unit.abandon):
        b.m.d.sync += open_.eq(0)
    with b.m.Elif(taken):
        b.m.d.sync += [open_.eq(1), left.eq(given.payload.beats), place.eq(given.payload.addr >> beat_bits)]
    made = Cat(b.past(place), b.past(unit.length)) == Cat(
        request.payload.addr[beat_bits:], (request.payload.beats_minus_1 + 1)[: len(unit.length)]
    )
    b.claim("each burst is requested in the next cycle, where the one before ended",
            ~b.past(unit.issued) | (request.valid & made))  # fmt: skip
    b.claim("no request without a burst", ~request.valid | b.past(unit.issued | (request.valid & ~request.ready)))
    ranges = Signal(2)
    b.m.d.sync += ranges.eq(ranges + (taken & (ranges != 3)))
    crosses = request.valid & (request.payload.addr[:4] != 0) & (unit.length == TINIEST.burst_beats)
    b.cover("a range that begins between boundaries goes on", crosses & unit.issued)
    b.cover("the second range ends", (ranges == 2) & unit.issued & unit.ends & (request.payload.beats_minus_1 == 3))


PROOFS = (
    Proof(
        "burst-splitter", BurstSplitter,
        "bursts cover their range once and in order, within 4 KiB, length, room and leave; requests wait", splitter,
        (
            Bug("the split at the boundary is one beat late", "to_boundary.eq(self.longest - beat[:burst_bits])",
                "to_boundary.eq(self.longest - beat[:burst_bits] + 1)"),
            Bug("a burst may have one beat more than there is room", "(self.length <= self.room)",
                "(self.length <= self.room + 1)"),
            Bug("a waiting request is overwritten", "active & allowed & (~waiting | self.request.ready)",
                "active & allowed"),
            Bug("a range is taken while the last but one burst is made", "~active | (self.issued & self.ends)",
                "~active | self.issued"),
        ),
        how=How(Method.INDUCTION, 4),
    ),
)  # fmt: skip
