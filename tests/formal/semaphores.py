# SPDX-License-Identifier: Apache-2.0
"""Semaphores: counts are exact, grants are covered by posts, overflow is flagged, nobody waits for ever."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Cat, Mux, Signal

from hdl.common.queues import queue_count
from hdl.control.semaphores import POST_SOURCES, TIMING, SemaphoreUnit
from tests.formal.machines import TINIEST
from tests.support.formal.bench import Bench
from tests.support.formal.engine import How, Method
from tests.support.formal.proof import Bug, Proof

__all__ = ["PROOFS"]

WAITERS = queue_count(TINIEST)


def place(b: Bench, block: Any) -> Any:
    """Place the unit with waits and posts as the machine makes them."""
    unit = b.place(block(TINIEST))
    for wait in unit.wait:
        b.assume(wait.payload.sem0 != wait.payload.sem1)
        b.assume_hold(wait.valid, wait.ready, wait.payload)
    for post in unit.post:
        b.assume_hold(post.valid, post.ready, post.payload)
    return unit


def counts(b: Bench, block: Any) -> None:
    unit = place(b, block)
    bits = TINIEST.semaphore_bits
    granted = b.wire(Cat(wait.valid & wait.ready for wait in unit.wait))
    taken = b.wire(Cat(post.valid & post.ready for post in unit.post))
    b.claim("one grant a cycle", (granted & (granted - 1)) == 0)
    b.claim("one post a cycle", (taken & (taken - 1)) == 0)
    b.claim("ready only what is valid", ~Cat((x.ready & ~x.valid) for x in (*unit.wait, *unit.post)).any())

    covered, right, over, empty, busy = [], [], [], [], []
    for number, value in enumerate(unit.values):
        minus, plus = Signal(bits, name=f"minus{number}"), Signal(2, name=f"plus{number}")
        for wait in unit.wait:
            pairs = ((wait.payload.sem0, wait.payload.count0), (wait.payload.sem1, wait.payload.count1))
            for which, amount in pairs:
                with b.m.If(wait.valid & wait.ready & (which == number)):
                    b.m.d.comb += minus.eq(amount)
        for post in unit.post:
            with b.m.If(post.valid & post.ready):
                first, second = post.payload.sem0 == number, post.payload.sem1 == number
                b.m.d.comb += plus.eq((post.payload.en0 & first) + (post.payload.en1 & second))
        # The reference counts in the cycle of the transfer, the unit in the next.
        count, following = Signal(bits, name=f"count{number}"), Signal(bits + 1, name=f"following{number}")
        b.m.d.comb += following.eq(count - minus + plus)
        with b.m.If(~following[bits]):
            b.m.d.sync += count.eq(following)
        covered.append(minus <= count)
        right.append(value == b.past(count))
        over.append(following[bits])
        empty.append((value == 0) & (count == 0))
        busy.append((plus == 2) & (minus == 3))
    b.claim("a grant takes no more than was posted before", Cat(covered).all())
    b.claim("the count is posts less grants", Cat(right).all())
    b.claim("what does not fit is flagged, nothing else is", unit.overflow == b.past(b.past(b.past(Cat(over).any()))))
    b.claim("all zero says so", ~unit.all_zero | Cat(empty).all())
    b.cover("two posts and a grant at once", Cat(busy).any())
    b.cover("overflow", unit.overflow)


def fairness(b: Bench, block: Any) -> None:
    unit = place(b, block)
    who = b.constant("who", range(WAITERS))
    mine, valid, enough = Signal(), Signal(), Signal()
    values = Array(unit.values)
    for number, wait in enumerate(unit.wait):
        with b.m.If(who == number):
            b.m.d.comb += [
                valid.eq(wait.valid),
                mine.eq(wait.valid & wait.ready),
                enough.eq(
                    (values[wait.payload.sem0] >= wait.payload.count0)
                    & (values[wait.payload.sem1] >= wait.payload.count1)
                ),
            ]
    # Others may take what it waits for: then it starts anew.
    waited = Signal(8)
    b.m.d.sync += waited.eq(Mux(valid & enough & ~mine, Mux(waited == 255, 255, waited + 1), 0))
    longest = TIMING.again * WAITERS + TIMING.ask
    b.claim("a wait that can be granted is granted in its turn", waited <= longest)
    b.cover("a wait is granted after others", mine & (waited > 2 * TIMING.again))
    source = b.constant("source", range(POST_SOURCES))
    offered, accepted, others = Signal(), Signal(), Signal(4)
    for number, post in enumerate(unit.post):
        with b.m.If(source == number):
            b.m.d.comb += [offered.eq(post.valid), accepted.eq(post.ready)]
    b.m.d.sync += others.eq(Mux(offered & ~accepted, others + 1, 0))
    b.claim("a post is taken within as many cycles as there are sources", others < POST_SOURCES)
    b.cover("a post waits for all others", accepted & (others == POST_SOURCES - 1))


PROOFS = (
    Proof(
        "semaphore-counts", SemaphoreUnit,
        "every count is posts less grants; no grant without its posts; what does not fit is flagged", counts,
        (
            Bug("a granted wait subtracts nothing of its second semaphore",
                " | Mux(taken.sem1 == number, taken.count1, 0)", ""),
            Bug("a wait is compared with what the last grant takes", "& ~granted & ~stale)", "& ~granted)"),
            Bug("two posts to one semaphore count as one", "plus = (given.en0 & (given.sem0 == number)) + ",
                "plus = (given.en0 & (given.sem0 == number)) | "),
            Bug("a counter flags its own upper half", "self.over.eq(following[bits])",
                "self.over.eq(following[bits - 1])"),
        ),
        how=How(Method.INDUCTION, 6),
    ),
    Proof(
        "semaphore-turns", SemaphoreUnit,
        "a wait that can be granted is granted, and a post taken, after each other one's turn at most", fairness,
        (Bug("the first waiter always goes first", "mask.eq(~(grant | (grant - 1)))", "mask.eq(0)"),),
        how=How(Method.INDUCTION, 20),
    ),
)  # fmt: skip
