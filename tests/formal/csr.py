# SPDX-License-Identifier: Apache-2.0
"""The register port: AXI4-Lite's rules, an answer for each request, and what a register holds.

Nothing here depends on how long a read takes, and a bound holds for however long a counter's value takes to come.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Mux, Signal, Value

from hdl.control.csr import AXIL_ADDRESS_BITS, CsrBlock
from hdl.regs import COUNTER_BASE, counter_names, register_map
from tests.formal.machines import TINIEST
from tests.support.formal.bench import Bench
from tests.support.formal.engine import How, Method
from tests.support.formal.proof import Bug, Proof

__all__ = ["PROOFS"]

REGISTERS = {register.name: register for register in register_map(TINIEST)}
WRITABLE = [register.offset for register in REGISTERS.values() if register.access != "ro"]
KEPT = [register.offset for register in REGISTERS.values() if register.access == "rw"]
COUNTERS = range(COUNTER_BASE, COUNTER_BASE + 8 * len(counter_names(TINIEST)), 4)
READABLE = sorted({*(register.offset for register in REGISTERS.values()), *COUNTERS})

LOOK_UP = 4
"""Cycles that a counter's value may take to come, in the claim that reads end."""

LONGEST_READ = LOOK_UP + 4


def place(b: Bench, block: Any) -> tuple[Any, Any]:
    """Place the block with a manager that keeps to the rules; return the block and its port."""
    csr = b.place(block(TINIEST))
    axil = csr.axil
    b.assume_hold(axil.awvalid, axil.awready, axil.awaddr)
    b.assume_hold(axil.wvalid, axil.wready, Cat(axil.wdata, axil.wstrb))
    b.assume_hold(axil.arvalid, axil.arready, axil.araddr)
    return csr, axil


def among(address: Any, offsets: list[int]) -> Value:
    return Cat(address == offset for offset in offsets).any()


def writes(b: Bench, block: Any) -> None:
    csr, axil = place(b, block)
    taken = b.wire(axil.awvalid & axil.awready)
    answered = b.wire(axil.bvalid & axil.bready)
    owed = b.count(2, taken, answered)
    b.claim("address and data are taken together", taken == (axil.wvalid & axil.wready))
    b.claim("no write is taken while one is not answered", ~taken | (owed == 0))
    b.claim("an answer for each write, in the next cycle, and none without", axil.bvalid == (owed != 0))
    b.claim("a write is taken at once", taken | ~axil.awvalid | ~axil.wvalid | (owed != 0))
    b.hold("the answer", axil.bvalid, axil.bready, axil.bresp)
    good = b.wire(taken & axil.wstrb.all() & among(axil.awaddr, WRITABLE))
    b.claim("SLVERR for what cannot be written, OKAY for the rest",
            ~b.past(taken) | (axil.bresp == Mux(b.past(good), 0, 2)))  # fmt: skip
    control = REGISTERS["CONTROL"]
    starts = good & (axil.awaddr == control.offset) & axil.wdata[control["START"].bits] & csr.ready
    b.claim("started by a write to CONTROL and by nothing else", csr.start == b.past(starts))
    b.cover("a bad write is answered after a good one", (axil.bresp == 2) & axil.bvalid & b.past(b.past(b.past(good))))
    b.cover("start", csr.start)


def reads(b: Bench, block: Any) -> None:
    csr, axil = place(b, block)
    taken = b.wire(axil.arvalid & axil.arready)
    answered = b.wire(axil.rvalid & axil.rready)
    owed = b.count(2, taken, answered)
    b.claim("no read is taken while one is not answered", ~taken | (owed == 0))
    b.claim("no answer without a read", ~axil.rvalid | (owed == 1))
    b.hold("the answer", axil.rvalid, axil.rready, Cat(axil.rdata, axil.rresp))
    address = Signal(AXIL_ADDRESS_BITS)
    with b.m.If(taken):
        b.m.d.sync += address.eq(axil.araddr)
    b.claim("SLVERR for what is no register, OKAY for the rest",
            ~axil.rvalid | (axil.rresp == Mux(among(address, READABLE), 0, 2)))  # fmt: skip
    if hasattr(csr, "counter_ask"):
        asks = Signal(range(LOOK_UP + 2))
        waits = b.wire(csr.counter_ask & ~csr.counter_answered)
        b.m.d.sync += asks.eq(Mux(waits, asks + 1, 0))
        b.assume(~waits | (asks < LOOK_UP))
    waited = Signal(range(LONGEST_READ + 2))
    b.m.d.sync += waited.eq(Mux(axil.rvalid | (owed + taken == 0), 0, waited + 1))
    b.claim("a read is answered in time", waited <= LONGEST_READ)
    b.claim("a read is taken when no other is there", axil.arready | (owed != 0) | axil.rvalid)
    b.cover("an answer waits", b.past(axil.rvalid & ~axil.rready) & answered & (axil.rresp == 0))
    b.cover("a bad address is answered", answered & (axil.rresp == 2))


def contents(b: Bench, block: Any) -> None:
    _, axil = place(b, block)
    taken = b.wire(axil.awvalid & axil.awready)
    whole = b.wire(axil.wstrb.all())
    asked = b.wire(axil.arvalid & axil.arready)
    address, steady = Signal(AXIL_ADDRESS_BITS), Signal()
    with b.m.If(asked):
        b.m.d.sync += address.eq(axil.araddr)
    values, told = [], []
    for offset in KEPT:
        value = Signal(32, name=f"value_{offset:x}")
        values.append(value)
        with b.m.If(taken & whole & (axil.awaddr == offset)):
            b.m.d.sync += value.eq(axil.wdata)
        told.append((address == offset) & (axil.rdata == value))
    # A write to the register during the read may come before or after it.
    reads = b.wire(Mux(asked, axil.araddr, address))
    b.m.d.sync += steady.eq((asked | steady) & ~(taken & (axil.awaddr == reads)))
    b.claim("a register reads as it was written last", ~(axil.rvalid & steady & among(address, KEPT)) | Cat(told).any())
    partial = Signal()
    with b.m.If(taken & ~whole & (axil.awaddr == KEPT[-1]) & (axil.wdata != values[-1])):
        b.m.d.sync += partial.eq(1)
    b.cover("a value is read after a partial write",
            axil.rvalid & steady & partial & (address == KEPT[-1]) & (axil.rdata == 0x12345678))  # fmt: skip


PROOFS = (
    Proof(
        "csr-writes", CsrBlock,
        "one answer for each write, in the next cycle, held until taken; SLVERR as documented; START only when written",
        writes,
        (
            Bug("a write is taken while its predecessor's answer waits",
                "write.eq(self.axil.awvalid & self.axil.wvalid & ~self.axil.bvalid)",
                "write.eq(self.axil.awvalid & self.axil.wvalid)"),
            Bug("partial writes are done", "write & self.axil.wstrb.all() & ", "write & "),
            Bug("an answer does not wait to be taken", "with m.Elif(self.axil.bready):", "with m.Else():"),
        ),
    ),
    Proof(
        "csr-reads", CsrBlock,
        "one answer for each read, held until taken, in bounded time; SLVERR as documented", reads,
        (
            Bug("a read's answer does not wait to be taken", 'm.State("HOLD"), m.If(self.axil.rready):',
                'm.State("HOLD"):'),
            Bug("addresses are taken while a read is on its way",
                'with m.FSM(name="read"):', 'm.d.comb += self.axil.arready.eq(1)\n        with m.FSM(name="read"):'),
        ),
    ),
    Proof(
        "csr-contents", CsrBlock, "every writable register reads as it was written last by a whole write", contents,
        (
            Bug("a write goes to the next register", "word.eq(self.axil.awaddr[2:])",
                "word.eq(self.axil.awaddr[2:] ^ 1)"),
        ),
        how=How(Method.INDUCTION, 4),
    ),
)  # fmt: skip
