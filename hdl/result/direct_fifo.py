# SPDX-License-Identifier: Apache-2.0
"""A first-word-fall-through FIFO on the memory wrapper whose empty memory is passed by."""

from __future__ import annotations

from typing import Final, NamedTuple

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.common.sram import Collision, Sram, address_bits
from hdl.emit.hierarchy import instantiate

__all__ = ["TIMING", "DirectFifo", "DirectFifoTiming"]


class DirectFifoTiming(NamedTuple):
    """Cycles of the FIFO.

    Attributes
    ----------
    through : int
        From the push of a word into the empty FIFO to the first cycle in which ``valid`` shows it.
    """

    through: int


TIMING: Final = DirectFifoTiming(through=1)
"""The head's own register."""


class DirectFifo(wiring.Component):
    """First-word-fall-through FIFO; its head is a register of its own, or the memory's output register.

    Latency: 1 cycle from `push` to `valid` when empty.  Throughput: one push and one pop per cycle.  Capacity: `depth`
    words; a push beyond corrupts the FIFO.

    Parameters
    ----------
    width : int
        Bits of a word.
    depth : int
        Words, at least 2; need not be a power of two.

    Members
    -------
    push : In(1), push_data : In(width)
        Append a word.
    valid : Out(1), data : Out(width)
        The oldest word.
    pop : In(1)
        Remove it; only while `valid`.
    level : Out(range(depth + 1))
        Words held.
    """

    def __init__(self, width: int, depth: int) -> None:
        self.width = width
        self.depth = depth
        super().__init__(
            {
                "push": In(1),
                "push_data": In(width),
                "valid": Out(1),
                "data": Out(width),
                "pop": In(1),
                "level": Out(range(depth + 1)),
            }
        )

    def module_key(self) -> str:
        """Name of the Verilog module: the shape."""
        return f"direct_fifo_w{self.width}_d{self.depth}"

    def elaborate(self, platform: object) -> Module:
        """Build the head, and pointers and level around one memory."""
        m = Module()
        # While the memory holds words, the head holds one too: at equal addresses the memory is empty.
        memory = instantiate(m, platform, "memory", Sram(self.width, self.depth, collision=Collision.NEVER))
        write_at = Signal(address_bits(self.depth))
        read_at = Signal(address_bits(self.depth))
        stored = Signal(range(self.depth + 1))
        head = Signal(self.width, reset_less=True)
        in_head = Signal(init=1)  # not before its first read is the memory's output known
        free, fetch, direct = Signal(), Signal(), Signal()

        def step(pointer: Signal) -> Value:
            return Mux(pointer == self.depth - 1, 0, pointer + 1)

        m.d.comb += [
            free.eq(~self.valid | self.pop),
            fetch.eq((stored != 0) & free),
            direct.eq(self.push & (stored == 0) & free),
            memory.write_en.eq(self.push & ~direct),
            memory.write_addr.eq(write_at),
            memory.write_data.eq(self.push_data),
            memory.read_en.eq(fetch),
            memory.read_addr.eq(read_at),
            self.data.eq(Mux(in_head, head, memory.read_data)),
            self.level.eq(stored + self.valid),
        ]
        m.d.sync += stored.eq(stored + memory.write_en - fetch)
        with m.If(memory.write_en):
            m.d.sync += write_at.eq(step(write_at))
        with m.If(fetch):
            m.d.sync += read_at.eq(step(read_at))
        with m.If(direct):
            m.d.sync += [head.eq(self.push_data), in_head.eq(1)]
        with m.Elif(fetch):
            m.d.sync += in_head.eq(0)
        with m.If(free):
            m.d.sync += self.valid.eq(direct | fetch)
        return m
