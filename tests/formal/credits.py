# SPDX-License-Identifier: Apache-2.0
"""Drain credits: no more rows in flight than a row FIFO holds, and each credit comes back once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from amaranth.hdl import Cat, Signal

from hdl.common.sram_fifo import SramFifo
from hdl.control.sequencers import SequencerBlock
from hdl.interfaces import row_descriptor_layout
from hdl.result.control import POST_DEPTH, STORE_DEPTH, CollectorControl
from tests.formal.machines import TINIEST
from tests.support.formal.bench import Bench
from tests.support.formal.engine import How, Method
from tests.support.formal.proof import Bug, Proof

__all__ = ["PROOFS"]

DEPTH = TINIEST.row_fifo_depth
BITS = DEPTH.bit_length() + 1


def taken(b: Bench, block: Any) -> None:
    """The counters of the sequencers by themselves, for two tiers; the gang logic that asks them is left out."""
    leaders = [
        SimpleNamespace(
            tier=tier,
            has_credit=Signal(name=f"has_credit{tier}"),
            leads_go=b.free(f"leads_go{tier}"),
            takes=b.free(f"takes{tier}", 2),
        )
        for tier in range(2)
    ]
    credit = b.free("credit", 2)
    block._count_credits(SimpleNamespace(config=TINIEST, credit=credit), b.m, leaders)
    for tier, leader in enumerate(leaders):
        takes = b.wire(Cat(other.leads_go & other.takes[tier] for other in leaders).any())
        flying = b.count(BITS, takes, credit[tier])
        # A step goes when there is a credit, and one comes back for a row that was on its way.
        b.assume(~takes | leader.has_credit)
        b.assume(~credit[tier] | (flying != 0))
        b.claim(f"tier {tier}: no more rows in flight than their FIFO holds", flying <= DEPTH)
        b.claim(f"tier {tier}: a credit is there as long as there is room", leader.has_credit == (flying < DEPTH))
        b.cover(f"tier {tier}: a credit comes back into none", credit[tier] & (flying == DEPTH))


def place(b: Bench, block: Any) -> tuple[Any, Any, Any]:
    """Place the collector's control; return it, its descriptor at the head, and how many rows have their credit."""
    unit = b.place(block(TINIEST))
    shape = row_descriptor_layout(TINIEST)
    # The reference sees the same descriptor at the head.
    twin = b.place(SramFifo(shape.size, DEPTH), "twin")
    b.drive(twin.push, unit.descriptor_valid[0])
    b.drive(twin.push_data, unit.descriptor[0])
    b.drive(twin.pop, unit.pop[0])
    flying = b.count(BITS, unit.descriptor_valid[0], unit.credit[0])
    b.assume(~unit.descriptor_valid[0] | (flying < DEPTH))
    return unit, twin, flying


def rows(b: Bench, block: Any) -> None:
    unit, twin, flying = place(b, block)
    described, popped, credit = unit.descriptor_valid[0], unit.pop[0], unit.credit[0]
    arrives = b.free("arrives")
    coming = b.count(BITS, described, arrives)
    stored = b.count(BITS, arrives, popped)
    b.assume(~arrives | (coming != 0))  # a row follows its descriptor
    b.assume(~unit.row_valid[0] | (stored != 0))
    b.claim("a row leaves only if it is there, with its descriptor", ~popped | (unit.row_valid[0] & twin.valid))
    b.claim("a credit for each row that left, in the next cycle", credit == b.past(popped))
    b.claim("a row has its credit until it has left", flying == coming + stored + credit)
    b.claim("the row FIFO never overflows", (stored <= DEPTH) & (coming <= DEPTH) & (flying <= DEPTH))
    b.cover("three rows leave one after another", credit & b.past(credit) & b.past(b.past(credit)))


def posts(b: Bench, block: Any) -> None:
    unit, twin, _ = place(b, block)
    head: Any = row_descriptor_layout(TINIEST)(twin.data)
    post = unit.post
    taken_ = b.wire(post.valid & post.ready)
    queued = b.count(5, unit.pop[0] & head.op_end & (head.post0_en | head.post1_en), taken_)
    b.claim("no more posts wait than fit", queued <= POST_DEPTH)
    b.claim("a post only of a row that left", ~post.valid | (queued != 0))
    b.claim("a post shows two cycles after its row left", post.valid | ~b.past(queued != taken_))
    b.hold("a post", post.valid, post.ready, post.payload)
    b.cover("as many posts wait as fit", queued == POST_DEPTH)


def reads(b: Bench, block: Any) -> None:
    unit, _, _ = place(b, block)
    asked = b.wire(unit.unit_valid[0] & unit.unit_store[0])
    owed = b.count(5, asked, unit.unit_read)
    kept = b.count(5, unit.stored_push, unit.stored_pop)
    b.assume(~unit.unit_read | (owed != 0))
    b.assume(~unit.stored_valid | (kept != 0))
    b.claim("each row that is read for a store has room", owed + kept <= STORE_DEPTH)
    b.cover("as many rows are read ahead as fit", kept == STORE_DEPTH)


PROOFS = (
    Proof(
        "credits-taken", SequencerBlock,
        "no more rows in flight than their FIFO holds; a credit is there exactly as long as there is room", taken,
        (
            Bug("the last credit is given away twice", "(count > 1) | give", "(count >= 1) | give"),
            Bug("a credit that comes back while one is taken is lost", "count.eq(count + give - take)",
                "count.eq(Mux(take, count - 1, count + give))"),
        ),
    ),
    Proof(
        "credits-returned", CollectorControl, "a credit for each row that left its FIFO, which never overflows", rows,
        (
            Bug("a row leaves before it is there",
                "arbiter.request[tier].eq(self.row_valid[tier] & descriptor_fifo.valid)",
                "arbiter.request[tier].eq(descriptor_fifo.valid)"),
        ),
    ),
    Proof(
        "posts-queued", CollectorControl, "posts of rows are never more than fit, none is lost or made up", posts,
        (Bug("a post more is taken than fits", "fifo.level + valid >= POST_DEPTH", "fifo.level >= POST_DEPTH"),),
        how=How(Method.BOUNDED, 14),
    ),
    Proof(
        "rows-ahead", CollectorControl, "no more rows are read ahead for a store than there is room for", reads,
        (Bug("a row is read ahead that has no room", "room.eq(reserved != STORE_DEPTH)", "room.eq(1)"),),
    ),
)  # fmt: skip
