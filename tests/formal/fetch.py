# SPDX-License-Identifier: Apache-2.0
"""The fetch unit: legal bursts, no more on its way than the buffer holds, instructions offered until taken."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Mux, Signal

from hdl.isa import Opcode
from hdl.memory.axi import fetch_buffer_beats
from hdl.memory.fetch import FetchUnit, longest_burst
from tests.formal.bursts import claim_legal
from tests.formal.machines import TINIEST
from tests.support.formal.bench import Bench
from tests.support.formal.proof import Bug, Proof

__all__ = ["PROOFS"]

CONFIG = TINIEST.replace(rows=32, columns=32, row_fifo_depth=49, channel_bytes=128)
"""A beat of four instructions, and a buffer of four beats."""

BUFFER = fetch_buffer_beats(CONFIG)


def place(b: Bench, block: Any) -> tuple[Any, Any]:
    """Place the unit with a host and a memory that keep to the rules; return it, and the beats that are owed to it."""
    unit = b.place(block(CONFIG))
    ar, r = unit.read.ar, unit.read.r
    requested, came = b.wire(ar.valid & ar.ready), b.wire(r.valid & r.ready)
    bits = BUFFER.bit_length() + 2
    owed = b.count(bits, Mux(requested, ar.payload.beats_minus_1 + 1, 0), came)
    b.assume(~r.valid | (owed != 0))
    b.assume_hold(r.valid, r.ready, r.payload)
    # The host starts while nothing runs, and what it says stays.
    running = Signal()
    ends = unit.instructions.valid & unit.instructions.ready & (unit.instructions.payload.word[:6] == Opcode.END)
    with b.m.If(unit.start):
        b.m.d.sync += running.eq(1)
    with b.m.Elif(ends | unit.stop | unit.halt):
        b.m.d.sync += running.eq(0)
    b.assume(~unit.start | ~running)
    b.assume((b.past(Cat(unit.base, unit.limit)) == Cat(unit.base, unit.limit)) | unit.start)
    b.assume(unit.limit <= 1 << CONFIG.address_bits)
    return unit, owed


def requests(b: Bench, block: Any) -> None:
    unit, owed = place(b, block)
    ar, r = unit.read.ar, unit.read.r
    claim_legal(b, CONFIG, "a request", ar.valid, ar.payload, longest_burst(CONFIG))
    b.hold("a request", ar.valid, ar.ready, ar.payload)
    asked = Mux(ar.valid, ar.payload.beats_minus_1 + 1, 0)
    b.claim("no more is on its way than the buffer holds", owed + asked <= BUFFER)
    b.claim("quiet only if nothing is owed or asked for", ~unit.quiet | ((owed == 0) & ~ar.valid))
    b.cover("as much is on its way as the buffer holds", owed == BUFFER)
    b.cover("quiet after a stream", unit.quiet & b.past(r.valid & r.ready))


def instructions(b: Bench, block: Any) -> None:
    unit, _ = place(b, block)
    out = unit.instructions
    waits = b.past(out.valid & ~out.ready & ~unit.stop & ~unit.start)
    dropped = unit.halt | b.past(unit.halt)
    b.claim("an instruction stays offered until taken, or until a halt", ~waits | out.valid | dropped)
    b.claim("and stays the same", ~waits | ~out.valid | (b.past(out.payload) == Cat(out.payload)))
    taken = b.wire(out.valid & out.ready)
    next_pc = Signal(out.payload.pc.shape())
    b.m.d.sync += next_pc.eq(Mux(unit.start, 0, next_pc + taken))
    b.claim("instructions are numbered from 0, none left out", ~out.valid | (out.payload.pc == next_pc))
    ended = Signal()
    with b.m.If(unit.start):
        b.m.d.sync += ended.eq(0)
    with b.m.Elif(taken & (out.payload.word[:6] == Opcode.END)):
        b.m.d.sync += ended.eq(1)
    b.claim("nothing comes after END", ~ended | ~out.valid)
    b.cover("END is taken as the fifth", taken & (out.payload.word[:6] == Opcode.END) & (next_pc == 4))


PROOFS = (
    Proof(
        "fetch-requests", FetchUnit,
        "bursts within 4 KiB and half the buffer; no more beats on their way than it holds; quiet when none is owed",
        requests,
        (
            Bug("a beat that comes makes room for two", "(self.read.r.valid & self.read.r.ready)),",
                "((self.read.r.valid & self.read.r.ready) << 1)),"),
            Bug("quiet while beats are owed", "self.quiet.eq((free == depth) & ~splitter.busy)",
                "self.quiet.eq(~splitter.busy)"),
        ),
    ),
    Proof(
        "fetch-instructions", FetchUnit, "instructions wait to be taken, are numbered without gaps, and end at END",
        instructions,
        (
            Bug("the stream goes on after END", "with m.If(is_end):", "with m.If(0):"),
            Bug("an instruction is overwritten before it is taken", "(~valid | (out.ready & ~is_end))",
                "(~valid | ~is_end)"),
        ),
        slow=True,
    ),
)  # fmt: skip
