# SPDX-License-Identifier: Apache-2.0
"""Accumulators of a tier: what happens to the partial sums that leave the last row of PEs.

Theory of operation
-------------------
What a wave wants done with its partial sums (its *tail*) does not travel through the rows: it waits in a queue, which
is exact because waves never overtake each other.  The queue is a memory with two pointers; a push per valid wave that
enters row 0 and a pop per valid wave that leaves row R-1.

With ``L`` the cycle in which ``leaving`` says that a wave leaves the last row's control (two cycles before its sums):

=====  ======================================================================================
L      the tail is read from the queue
L+1    A: the tail is visible; the accumulator memory is read, unless ``first``
L+2    B: the partial sums and the old values are visible; add; write back, unless ``last``
L+3    C: a ``last`` row is visible to the drain, with its drain parameters
=====  ======================================================================================

A wave in A that reads the address that B is writing would get the old word (the memory says so), so it takes the sum
register instead in the next cycle.  That register holds the finished row for the drain as well, so forwarding costs
one multiplexer.  Any later wave reads after the write.
"""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hdl.common.sram import Collision, Sram
from hdl.emit.hierarchy import digest, instantiate

__all__ = ["DRAIN_FIELDS", "Accumulators"]

DRAIN_FIELDS = ("mode", "param_addr", "shift", "post_mult", "post_shift")
"""Fields of the tail that go to the drain with the finished row."""


class Accumulators(wiring.Component):
    """Read-modify-write accumulators with the tail queue in front and the drain's operands behind.

    Latency: a finished row is visible three cycles after ``leaving``, one after its last partial sums.
    Throughput: one wave per cycle, at any sequence of addresses.

    Parameters
    ----------
    columns : int
        Accumulator lanes.
    depth : int
        Output rows, at least 2.
    in_flight : int
        Most waves that can be between ``push`` and ``leaving``: the rows of the tier.
    tail_layout : data.StructLayout
        The tail, see :func:`hdl.interfaces.tail_layout`.

    Members
    -------
    push, tail : In(1), In(tail_layout)
        A wave enters row 0 this cycle.
    leaving : In(1)
        A wave's control leaves row R-1 this cycle; its partial sums are on ``psum_in`` two cycles later.
    psum_in : In(32 * columns)
        Partial sums of row R-1.
    link_send : Out(1)
        ``psum_in`` belongs to the tier above this cycle (a wave with ``accumulate = 0``).
    row_valid, row : Out(1), Out(columns x signed(32))
        A finished row.
    mode, param_addr, shift, post_mult, post_shift : Out
        Its drain parameters.
    """

    def __init__(self, columns: int, *, depth: int, in_flight: int, tail_layout: data.StructLayout) -> None:
        self.columns = columns
        self.depth = depth
        self.in_flight = in_flight
        self.tail_layout = tail_layout
        super().__init__(
            {
                "push": In(1),
                "tail": In(tail_layout),
                "leaving": In(1),
                "psum_in": In(32 * columns),
                "link_send": Out(1),
                "row_valid": Out(1),
                "row": Out(data.ArrayLayout(signed(32), columns)),
                **{field: Out(tail_layout[field].shape) for field in DRAIN_FIELDS},
            }
        )

    def module_key(self) -> str:
        """Name of the Verilog module."""
        layout = tuple((name, field.width) for name, field in self.tail_layout)
        return f"accumulators_c{self.columns}_d{self.depth}_f{self.in_flight}_{digest(layout)}"

    def elaborate(self, platform: object) -> Module:
        """Build queue, memory and adders."""
        m = Module()

        # The queue. In the worst case one entry per row is waiting while the next one is pushed.
        queue_bits = self.in_flight.bit_length()
        # More words than entries in flight: at equal addresses it is empty, and nothing leaves.
        storage = Sram(self.tail_layout.size, 1 << queue_bits, collision=Collision.NEVER)
        queue = instantiate(m, platform, "tail_queue", storage)
        push_pointer = Signal(queue_bits)
        pop_pointer = Signal(queue_bits)
        m.d.comb += [
            queue.write_en.eq(self.push),
            queue.write_addr.eq(push_pointer),
            queue.write_data.eq(self.tail.as_value()),
            queue.read_en.eq(self.leaving),
            queue.read_addr.eq(pop_pointer),
        ]
        with m.If(self.push):
            m.d.sync += push_pointer.eq(push_pointer + 1)
        with m.If(self.leaving):
            m.d.sync += pop_pointer.eq(pop_pointer + 1)

        # A: read. Waves that only pass partial sums upward touch nothing.
        tail_a = Signal(self.tail_layout)
        valid_a = Signal()
        active_a = Signal()
        m.d.sync += valid_a.eq(self.leaving)
        m.d.comb += [tail_a.as_value().eq(queue.read_data), active_a.eq(valid_a & tail_a.accumulate)]
        memory = instantiate(m, platform, "memory", Sram(32 * self.columns, self.depth))
        m.d.comb += [
            memory.read_en.eq(active_a & ~tail_a.first),
            memory.read_addr.eq(tail_a.accumulator_addr),
        ]

        # B: add and write back.
        active_b = Signal()
        first_b = Signal(reset_less=True)
        last_b = Signal(reset_less=True)
        forward_b = Signal(reset_less=True)
        address_b = Signal.like(tail_a.accumulator_addr, reset_less=True)
        drain_b = {field: Signal(len(tail_a[field]), name=f"{field}_b", reset_less=True) for field in DRAIN_FIELDS}
        link_send = Signal()
        m.d.sync += [active_b.eq(active_a), link_send.eq(valid_a & ~tail_a.accumulate)]
        m.d.comb += self.link_send.eq(link_send)
        with m.If(active_a):
            m.d.sync += [
                first_b.eq(tail_a.first),
                last_b.eq(tail_a.last),
                forward_b.eq(active_b & ~last_b & (address_b == tail_a.accumulator_addr)),
                address_b.eq(tail_a.accumulator_addr),
            ]
        with m.If(active_a & tail_a.last):
            m.d.sync += [register.eq(tail_a[field]) for field, register in drain_b.items()]
        total_c = Signal(32 * self.columns, reset_less=True)
        operand = Signal(32 * self.columns)
        m.d.comb += operand.eq(Mux(first_b, 0, Mux(forward_b, total_c, memory.read_data)))
        total = Signal(32 * self.columns)
        lanes = [slice(32 * column, 32 * column + 32) for column in range(self.columns)]
        m.d.comb += total.eq(Cat((operand[lane] + self.psum_in[lane])[:32] for lane in lanes))
        m.d.comb += [
            memory.write_en.eq(active_b & ~last_b),
            memory.write_addr.eq(address_b),
            memory.write_data.eq(total),
        ]

        # C: the finished row.
        row_valid = Signal()
        m.d.sync += row_valid.eq(active_b & last_b)
        with m.If(active_b):
            m.d.sync += total_c.eq(total)
        for field, before in drain_b.items():
            register = Signal(len(before), name=f"{field}_c", reset_less=True)
            with m.If(active_b & last_b):
                m.d.sync += register.eq(before)
            m.d.comb += getattr(self, field).eq(register)
        m.d.comb += [self.row_valid.eq(row_valid), self.row.as_value().eq(total_c)]
        return m
