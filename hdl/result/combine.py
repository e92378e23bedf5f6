# SPDX-License-Identifier: Apache-2.0
"""Combine units: rows of int32 sums that gated result rows are added to, and that stores and the vector unit use."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hdl.common.sram import Sram, address_bits
from hdl.emit.hierarchy import instantiate

__all__ = ["CombineLane", "CombineUnit"]


class CombineLane(wiring.Component):
    """One column of a combine unit: ``hdl.numerics.combine_add``.

    Stage 0 multiplies, stage 1 adds.  One multiplier, 16 x 16 bits.

    Members
    -------
    load : In(1), gate : In(16), result : In(signed(16))
        Stage 0: take the product.
    old : In(32)
        Stage 1: what the memory shows.
    forward : In(1)
        Stage 1: the row was written in the cycle before; use that sum instead of `old`.
    accumulate, clear, write : In(1)
        Stage 1: add to the old value; make the new value zero; the new value is being written.
    current : Out(32)
        Stage 1: the row's value before this operation.
    updated : Out(32)
        Stage 1: its value after it.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "load": In(1),
                "gate": In(16),
                "result": In(signed(16)),
                "old": In(32),
                "forward": In(1),
                "accumulate": In(1),
                "clear": In(1),
                "write": In(1),
                "current": Out(32),
                "updated": Out(32),
            }
        )

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return "combine_lane"

    def elaborate(self, platform: object) -> Module:
        """Build multiplier, adder and the forwarding register."""
        m = Module()
        product = Signal(32)
        written = Signal(32)
        with m.If(self.load):
            # int16 x uint16 has 32 significant bits; the sum wraps to 32 anyway.
            m.d.sync += product.eq(self.result * self.gate)
        with m.If(self.write):
            m.d.sync += written.eq(self.updated)
        m.d.comb += self.current.eq(Mux(self.forward, written, self.old))
        with m.If(~self.clear):
            m.d.comb += self.updated.eq(Mux(self.accumulate, self.current, 0) + product)
        return m


class CombineUnit(wiring.Component):
    """A bank of the combine buffer with its adders.

    Throughput: one operation, one vector read and one write of a row per cycle, at any rows (the same row in
    consecutive cycles is forwarded), as far as the memory's two ports allow: :class:`hdl.result.bank.BankArbiter` keeps
    the rules given below.  Whatever reads in a cycle sees all that was accepted in earlier ones.  In one cycle, reads
    see the row as it was, and an operation overrides a write of its row.  Latency: 1 cycle from a read to `read`.

    Parameters
    ----------
    columns : int
        int32 lanes of a row.
    depth : int
        Rows of this bank.

    Members
    -------
    valid : In(1)
        An operation is presented this cycle.
    store : In(1)
        1 = read the row, and set it to zero if `clear`; 0 = add a result row.
    clear : In(1)
    row : In
        Row of this bank.
    accumulate : In(1), gate : In(16), data : In(columns signed(16))
        The result row: ``row = (row if accumulate else 0) + gate * data``, wrapping.
    vector_read : In(1), vector_row : In
        Read a row for the vector unit; not in a cycle in which an operation reads (`store`, or `accumulate`).
    write : In(1), write_row : In, write_data : In(32 * columns)
        Write a whole row; not in a cycle with `writing`.
    read_valid : Out(1), read : Out(columns signed(32))
        The row that was read in the cycle before; `read_valid` if by a `store` operation.
    writing : Out(1)
        The operation in the second stage writes.
    active : Out(1)
        An operation or a vector read is in the second stage.
    """

    def __init__(self, columns: int, depth: int) -> None:
        self.columns = columns
        self.depth = depth
        super().__init__(
            {
                "valid": In(1),
                "store": In(1),
                "clear": In(1),
                "row": In(address_bits(depth)),
                "accumulate": In(1),
                "gate": In(16),
                "data": In(data.ArrayLayout(signed(16), columns)),
                "vector_read": In(1),
                "vector_row": In(address_bits(depth)),
                "write": In(1),
                "write_row": In(address_bits(depth)),
                "write_data": In(32 * columns),
                "read_valid": Out(1),
                "read": Out(data.ArrayLayout(signed(32), columns)),
                "writing": Out(1),
                "active": Out(1),
            }
        )

    def module_key(self) -> str:
        """Name of the Verilog module: columns and rows."""
        return f"combine_unit_c{self.columns}_d{self.depth}"

    def elaborate(self, platform: object) -> Module:
        """Build the two stages around one memory."""
        m = Module()
        memory = instantiate(m, platform, "rows", Sram(32 * self.columns, self.depth))

        # Stage 1 copies of the operation.
        valid = Signal()
        store = Signal()
        clear = Signal()
        accumulate = Signal()
        row = Signal(address_bits(self.depth))
        forward = Signal()
        write = Signal()
        looked = Signal()  # a vector read is in stage 1
        read_row = Signal(address_bits(self.depth))
        m.d.comb += [write.eq(valid & (~store | clear)), read_row.eq(Mux(self.vector_read, self.vector_row, self.row))]
        m.d.sync += [valid.eq(self.valid), looked.eq(self.vector_read)]
        with m.If(self.valid):
            m.d.sync += [
                store.eq(self.store),
                clear.eq(self.store & self.clear),
                accumulate.eq(self.accumulate),
                row.eq(self.row),
            ]
        with m.If(self.valid | self.vector_read):
            # The memory returns the old word when it is written in the cycle of the read.
            m.d.sync += forward.eq(write & (row == read_row))

        lanes = [instantiate(m, platform, f"lane{column}", CombineLane()) for column in range(self.columns)]
        for column, lane in enumerate(lanes):
            m.d.comb += [
                lane.load.eq(self.valid & ~self.store),
                lane.gate.eq(self.gate),
                lane.result.eq(self.data[column]),
                lane.old.eq(memory.read_data.word_select(column, 32)),
                lane.forward.eq(forward),
                lane.accumulate.eq(accumulate),
                lane.clear.eq(clear),
                lane.write.eq(write),
                self.read[column].eq(lane.current),
            ]
        m.d.comb += [
            memory.read_en.eq(self.vector_read | (self.valid & (self.store | self.accumulate))),
            memory.read_addr.eq(read_row),
            memory.write_en.eq(write | self.write),
            memory.write_addr.eq(Mux(write, row, self.write_row)),
            memory.write_data.eq(Mux(write, Cat(lane.updated for lane in lanes), self.write_data)),
            self.read_valid.eq(valid & store),
            self.writing.eq(write),
            self.active.eq(valid | looked),
        ]
        return m
