# SPDX-License-Identifier: Apache-2.0
"""Who uses the two ports of a bank of the combine buffer in a cycle."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["BankArbiter"]


class BankArbiter(wiring.Component):
    """Result rows first; of the others those that share a port take turns.

    A combine operation (a result row, or a store read) reads in its stage 0 and writes in its stage 1, the cycle after.
    Vector reads, vector writes and rows from loads use their port in the cycle in which they are accepted.  The read
    port is wanted by accumulating result rows, store reads and vector reads; the write port by result rows and clearing
    store reads in stage 1, and by writes of vector unit and loads.  A clearing read that took the write port from a
    waiting write is not followed by another one before that write.

    Latency: combinational.  Throughput: a read and a write per cycle.

    Members
    -------
    result, accumulate : In(1)
        A result row enters stage 0; it reads the old row.
    store, clear : In(1)
        A store read is offered; it clears the row.
    store_ready : Out(1)
        It enters stage 0.  Meaningful only with ``store``.
    writing, clearing : In(1)
        The operation in stage 1 writes; it is a clearing store read.
    vector_read, vector_write, load : In(1)
        Offered by vector unit and loads.
    vector_read_ready, vector_write_ready, load_ready : Out(1)
    """

    def __init__(self) -> None:
        inputs = (
            "result", "accumulate", "store", "clear", "writing", "clearing", "vector_read", "vector_write", "load"
        )  # fmt: skip
        outputs = ("store_ready", "vector_read_ready", "vector_write_ready", "load_ready")
        super().__init__({**dict.fromkeys(inputs, In(1)), **dict.fromkeys(outputs, Out(1))})

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return "bank_arbiter"

    def elaborate(self, platform: object) -> Module:
        """Build the two choices; each turn changes hands when both sides wanted the port."""
        m = Module()
        store_turn = Signal()
        hold = Signal()  # a write waits since the clearing read before
        store_able = Signal()
        m.d.comb += [
            hold.eq(self.clear & self.clearing & (self.vector_write | self.load)),
            store_able.eq(self.store & ~self.result & ~hold),
            self.store_ready.eq(~self.result & ~hold & (store_turn | ~self.vector_read)),
            self.vector_read_ready.eq(~(self.result & self.accumulate) & ~(store_able & store_turn)),
        ]
        with m.If(store_able & self.vector_read):
            m.d.sync += store_turn.eq(~store_turn)

        load_turn = Signal()
        m.d.comb += [
            self.vector_write_ready.eq(~self.writing & ~(self.load & load_turn)),
            self.load_ready.eq(~self.writing & (load_turn | ~self.vector_write)),
        ]
        with m.If(self.vector_write & self.load & ~self.writing):
            m.d.sync += load_turn.eq(~load_turn)
        return m
