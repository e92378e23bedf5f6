# SPDX-License-Identifier: Apache-2.0
"""The queues: every word comes out once, in order, and none holds more than it has room for."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Signal, Value

from hdl.common.sram_fifo import SramFifo
from hdl.common.stream_fifo import StreamFifo
from hdl.result.direct_fifo import DirectFifo
from tests.support.formal.bench import Bench
from tests.support.formal.proof import Bug, Proof

__all__ = ["PROOFS", "any_word"]

DEPTH = 3
"""No power of two, so that the pointers wrap by comparison."""


def any_word(b: Bench, name: str, push: Value, word: Value, pop: Value, out: Value, held: Signal) -> None:
    """Claim that some pushed word, whichever it is, comes out as it was after those pushed before it.

    Parameters
    ----------
    held : Signal
        Words that are held, before what `push` and `pop` do in this cycle.
    """
    chosen, waits = Signal(), Signal()  # the word was pushed; it has not come out yet
    kept, ahead = Signal(len(word)), Signal(len(held))
    begins = b.wire(push & ~chosen & b.free(f"{name}_choose"))
    with b.m.If(begins):
        b.m.d.sync += [chosen.eq(1), waits.eq(1), kept.eq(word), ahead.eq(held - pop)]
    with b.m.Elif(waits & pop):
        b.m.d.sync += [ahead.eq(ahead - 1), waits.eq(ahead != 0)]
    comes = waits & pop & (ahead == 0)
    b.claim(f"{name}: words come out as they were, in order", ~comes | (out == kept))
    b.cover(f"{name}: a word comes out after two others", comes & b.past(waits & pop) & b.past(b.past(waits & pop)))


def stream_fifo(b: Bench, block: Any) -> None:
    fifo = b.place(block(2, DEPTH))
    push = b.wire(fifo.input.valid & fifo.input.ready)
    pop = b.wire(fifo.output.valid & fifo.output.ready)
    held = b.count(4, push, pop)
    b.claim("level is what came in and not out", fifo.level == held)
    b.claim("never more than its room", held <= DEPTH + 1)
    b.claim("busy while it holds a word", fifo.busy == (held != 0))
    b.claim("a word shows in the cycle after it was in the memory", fifo.output.valid | ~b.past(held != pop))
    b.claim("takes a word while its memory has room", fifo.input.ready | (held >= DEPTH))
    b.hold("the output", fifo.output.valid, fifo.output.ready, fifo.output.payload)
    any_word(b, "word", push, fifo.input.payload, pop, fifo.output.payload, held)
    b.cover("full", held == DEPTH + 1)


def sram_fifo(b: Bench, block: Any) -> None:
    fifo = b.place(block(2, DEPTH))
    held = b.count(4, fifo.push, fifo.pop)
    # A credit comes back in the cycle after the pop.
    b.assume(~fifo.push | (held < DEPTH))
    b.assume(~fifo.pop | fifo.valid)
    b.claim("valid only with a word", ~fifo.valid | (held != 0))
    b.claim("empty says so", fifo.empty == (held == 0))
    b.claim("a word shows in the cycle after it was in the memory", fifo.valid | ~b.past(held != fifo.pop))
    b.hold("the head", fifo.valid, fifo.pop, fifo.data)
    any_word(b, "word", fifo.push, fifo.push_data, fifo.pop, fifo.data, held)
    b.cover("all credits are used", held == DEPTH)


def direct_fifo(b: Bench, block: Any) -> None:
    fifo = b.place(block(2, DEPTH))
    held = b.count(4, fifo.push, fifo.pop)
    b.assume(~fifo.push | (held < DEPTH))
    b.assume(~fifo.pop | fifo.valid)
    b.claim("level is what came in and not out", fifo.level == held)
    b.claim("shows a word in the cycle after it came", fifo.valid == (held != 0))
    b.hold("the head", fifo.valid, fifo.pop, fifo.data)
    any_word(b, "word", fifo.push, fifo.push_data, fifo.pop, fifo.data, held)
    b.cover("full", held == DEPTH)


PROOFS = (
    Proof(
        "stream-fifo", StreamFifo, "order, contents, level and room; the output waits for its taker", stream_fifo,
        (
            Bug("a full memory is written", "self.input.ready.eq(stored != self.depth)", "self.input.ready.eq(1)"),
            Bug("the write pointer does not wrap", "with m.If(write_addr == self.depth - 1)", "with m.If(0)"),
        ),
    ),
    Proof(
        "sram-fifo", SramFifo, "order and contents, as long as there is a credit for each push", sram_fifo,
        (Bug("the head is read again while it is popped", "(level != 0) & (~self.valid | self.pop)",
             "(level != 0) & ~self.valid | self.pop"),),
    ),
    Proof(
        "direct-fifo", DirectFifo, "order, contents and level", direct_fifo,
        (Bug("a word passes those in the memory", "direct.eq(self.push & (stored == 0) & free)",
             "direct.eq(self.push & free)"),),
    ),
)  # fmt: skip
