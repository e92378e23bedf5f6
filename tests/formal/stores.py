# SPDX-License-Identifier: Apache-2.0
"""The store unit's writes: legal bursts, beats after their address, WLAST where the address said, few on their way."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from amaranth.hdl import Cat, Signal
from amaranth.lib import data

from hdl.isa import Opcode, StoreFormat, instruction_layout
from hdl.memory.store import StoreUnit, tracker_depth
from tests.formal.bursts import claim_legal
from tests.formal.machines import TINIEST
from tests.support.formal.bench import Bench
from tests.support.formal.engine import How, Method
from tests.support.formal.proof import Bug, Proof

__all__ = ["PROOFS"]

MOST = tracker_depth(TINIEST) + 1
"""Bursts that are requested and not answered, at most."""


class Writes:
    """What one group's memory knows of the writes that the unit makes there."""

    def __init__(self, b: Bench, unit: Any, group: int) -> None:
        self.port = port = unit.write[group]
        aw, w, response = port.aw, port.w, port.b
        self.asked = b.wire(aw.valid & aw.ready)
        self.written = b.wire(w.valid & w.ready)
        self.ended = b.wire(self.written & w.payload.last)
        self.answered = b.wire(response.valid & response.ready)
        self.bursts = b.count(4, self.asked, self.answered)  # not answered
        self.unwritten = b.count(4, self.asked, self.ended)  # with beats to come
        # A response comes after the last beat of its burst.
        b.assume(~response.valid | (b.past(self.bursts - self.unwritten != 0) & (self.bursts != self.unwritten)))
        b.assume_hold(response.valid, response.ready, response.payload)


def place(b: Bench, block: Any) -> tuple[Any, list[Writes]]:
    """Place the unit, with instructions that the dispatcher lets pass."""
    unit = b.place(block(TINIEST))
    store: Any = data.View(instruction_layout(Opcode.STORE), unit.queue.payload.word)
    b.assume(store.rows != 0)
    b.assume(Cat(store.format == form for form in StoreFormat).any())
    b.assume(unit.halt | ~b.past(unit.halt))  # a halt lasts until the reset
    return unit, [Writes(b, unit, group) for group in range(2)]


def outstanding(b: Bench, block: Any) -> None:
    unit, groups = place(b, block)
    all_bursts = groups[0].bursts + groups[1].bursts
    b.claim("no more bursts on their way than the tracker holds", all_bursts <= MOST)
    for number, group in enumerate(groups):
        port = group.port
        b.claim(f"group {number}: beats only of bursts that were asked for", ~port.w.valid | (group.unwritten != 0))
        b.claim(f"group {number}: quiet only if all is answered", ~unit.quiet | ((group.bursts == 0) & ~port.aw.valid))
    b.cover("as many bursts are on their way as may be", all_bursts == MOST)
    b.cover("all are answered", unit.quiet & b.past(groups[1].answered))


def bursts(b: Bench, block: Any) -> None:
    _, groups = place(b, block)
    for number, group in enumerate(groups):
        aw, w = group.port.aw, group.port.w
        claim_legal(b, TINIEST, f"a request of group {number}", aw.valid, aw.payload)
        b.hold(f"a request of group {number}", aw.valid, aw.ready, aw.payload)
        # Only a stop changes a beat that waits: its strobes fall, which the masters' register has taken or not.
        b.hold(f"a beat of group {number}", w.valid, w.ready, w.payload.last)
        lengths = [Signal(aw.payload.beats_minus_1.shape(), name=f"length{number}_{place}") for place in range(MOST)]
        after = b.wire(group.unwritten - group.ended)
        with b.m.If(group.ended):
            for now, following in pairwise(lengths):
                b.m.d.sync += now.eq(following)
        with b.m.Elif(group.written):
            b.m.d.sync += lengths[0].eq(lengths[0] - 1)
        with b.m.If(group.asked):
            for place_, length in enumerate(lengths):
                with b.m.If(after == place_):
                    b.m.d.sync += length.eq(aw.payload.beats_minus_1)
        b.claim(f"group {number}: WLAST with the last beat of its burst and with no other",
                ~w.valid | (w.payload.last == (lengths[0] == 0)))  # fmt: skip
        three = group.ended & b.past(group.written) & b.past(b.past(group.written))
        b.cover(f"group {number}: a beat ends a burst, the third in a row, and another burst follows",
                three & (group.unwritten > 1))  # fmt: skip


PROOFS = (
    Proof(
        "store-outstanding", StoreUnit,
        "no more bursts wait for a response than the tracker holds; beats only after their address; quiet is quiet",
        outstanding,
        (
            Bug("a request does not wait for the tracker",
                "splitter.request.ready.eq(tracker.input.ready & aw_ready)", "splitter.request.ready.eq(aw_ready)"),
            Bug("beats are written before their address is taken", "w_valid.eq((ahead != 0) & (",
                "w_valid.eq(running & ("),
            Bug("quiet before the last response", "(ahead == 0) & ~tracker.busy)", "(ahead == 0))"),
        ),
        how=How(Method.BOUNDED, 12),
    ),
    Proof(
        "store-bursts", StoreUnit,
        "bursts within 4 KiB; WLAST with the last beat of its burst and no other; requests and beats wait", bursts,
        (
            Bug("WLAST is left out at a boundary", "w_last.eq(boundary | row_ends | (beats_left == 1))",
                "w_last.eq(row_ends | (beats_left == 1))"),
            Bug("the place in a burst is forgotten between rows", "Mux(row_ends, job.jump, 1)", "1"),
        ),
        how=How(Method.BOUNDED, 12),
    ),
)  # fmt: skip
