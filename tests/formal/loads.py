# SPDX-License-Identifier: Apache-2.0
"""A load engine's read requests: legal bursts, no more on their way than configured, room for every beat."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Mux, Signal
from amaranth.lib import data

from hdl.common.stream_fifo import StreamFifo
from hdl.isa import Format, LoadDest, Opcode, instruction_layout
from hdl.memory.load_address import LoadAddress
from tests.formal.bursts import claim_legal
from tests.formal.machines import TINIEST
from tests.support.formal.bench import Bench
from tests.support.formal.proof import Bug, Proof

__all__ = ["PROOFS"]


def loads(b: Bench, block: Any) -> None:
    """The address side with its skew FIFO, between a memory that keeps to the rules and a data side that may wait."""
    unit = b.place(block(TINIEST, 0))
    skew = b.place(StreamFifo(1, TINIEST.skew_fifo_beats), "skew")
    # The dispatcher lets no load of nothing pass, nor one of an unknown kind.
    load: Any = data.View(instruction_layout(Opcode.LOAD), unit.queue.payload.word)
    b.assume(load.count != 0)
    b.assume(Cat(load.dest_kind == kind for kind in LoadDest).any())
    b.assume((load.dest_kind != LoadDest.VCACHE) | Cat(load.format == form for form in Format).any())
    ar = unit.request
    requested = b.wire(ar.valid & ar.ready)
    arrived = b.wire(skew.input.valid & skew.input.ready)
    last = b.free("last")
    b.drive(unit.answered, arrived & last)
    b.drive(unit.released, skew.output.valid & skew.output.ready)

    # Bursts are answered in order. The memory keeps how long the two are that may be on their way.
    most = TINIEST.outstanding_bursts
    bursts = b.count(4, requested, arrived & last)
    lengths = [Signal(ar.payload.beats_minus_1.shape(), name=f"length{number}") for number in range(most)]
    after = b.wire(bursts - (arrived & last))
    with b.m.If(arrived):
        b.m.d.sync += lengths[0].eq(Mux(last, lengths[1], lengths[0] - 1))
    with b.m.If(requested):
        for number in range(most):
            with b.m.If(after == number):
                b.m.d.sync += lengths[number].eq(ar.payload.beats_minus_1)
    b.assume(~skew.input.valid | (bursts != 0))
    b.assume(last == (lengths[0] == 0))
    b.assume_hold(skew.input.valid, skew.input.ready, last)

    claim_legal(b, TINIEST, "a request", ar.valid, ar.payload)
    b.hold("a request", ar.valid, ar.ready, ar.payload)
    b.claim("no more bursts on their way than configured", bursts + ar.valid <= most)
    b.claim("a beat that arrives always finds room", ~skew.input.valid | skew.input.ready)
    b.claim("outstanding until the last beat is there", unit.outstanding == (bursts + ar.valid != 0))
    b.cover("the skew FIFO is full", skew.level == TINIEST.skew_fifo_beats + 0)
    b.cover("as many bursts are on their way as may be", (bursts == most) & b.past(arrived))


PROOFS = (
    Proof(
        "load-credits", LoadAddress,
        "bursts within 4 KiB, no more on their way than configured; every beat finds room in the skew FIFO", loads,
        (
            Bug("one burst more may be on its way", "(bursts != self.config.outstanding_bursts)",
                "(bursts != self.config.outstanding_bursts + 1)"),
            Bug("a beat that leaves makes room for two", "splitter.length, 0) + released)",
                "splitter.length, 0) + (released << 1))"),
        ),
        slow=True,
    ),
)  # fmt: skip
