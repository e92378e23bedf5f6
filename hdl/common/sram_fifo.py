# SPDX-License-Identifier: Apache-2.0
"""A first-word-fall-through FIFO on the memory wrapper."""

from __future__ import annotations

from typing import Final, NamedTuple

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.common.sram import Collision, Sram, address_bits
from hdl.emit.hierarchy import instantiate

__all__ = ["TIMING", "SramFifo", "SramFifoTiming"]


class SramFifoTiming(NamedTuple):
    """Cycles of the FIFO.

    Attributes
    ----------
    through : int
        From the push of a word into the empty FIFO to the first cycle in which ``valid`` shows it.
    """

    through: int


TIMING: Final = SramFifoTiming(through=2)
"""The memory is written, then read into its output register."""


class SramFifo(wiring.Component):
    """First-word-fall-through FIFO whose head is the memory's own output register.

    Latency: 2 cycles from `push` to `valid` when empty.  Throughput: one push and one pop per cycle.  Capacity:
    ``depth`` words, the head included.  There is no full flag: whoever pushes holds one of at most `depth` credits,
    which come back in the cycle after the pop at the earliest, and an excess push corrupts the FIFO.

    Parameters
    ----------
    width : int
        Bits of a word.
    depth : int
        Words of the memory, at least 2; need not be a power of two.

    Members
    -------
    push : In(1), push_data : In(width)
        Append a word.
    valid : Out(1), data : Out(width)
        The oldest word.
    pop : In(1)
        Remove it; only while `valid`.
    empty : Out(1)
        No word is stored, nor on its way to the head.
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
                "empty": Out(1),
            }
        )

    def module_key(self) -> str:
        """Name of the Verilog module: the shape."""
        return f"sram_fifo_w{self.width}_d{self.depth}"

    def elaborate(self, platform: object) -> Module:
        """Build pointers and level around one memory."""
        m = Module()
        # At equal addresses the memory is empty, and not read, or full, when nobody has a credit left for a push.
        memory = instantiate(m, platform, "memory", Sram(self.width, self.depth, collision=Collision.NEVER))
        last = self.depth - 1
        write_at = Signal(address_bits(self.depth))
        read_at = Signal(address_bits(self.depth))
        level = Signal(range(self.depth + 1))
        fetch = Signal()

        def step(pointer: Signal) -> Value:
            return Mux(pointer == last, 0, pointer + 1)

        m.d.comb += [
            # A word can be fetched from the cycle after its push, when the memory holds it.
            fetch.eq((level != 0) & (~self.valid | self.pop)),
            memory.write_en.eq(self.push),
            memory.write_addr.eq(write_at),
            memory.write_data.eq(self.push_data),
            memory.read_en.eq(fetch),
            memory.read_addr.eq(read_at),
            self.data.eq(memory.read_data),
            self.empty.eq((level == 0) & ~self.valid),
        ]
        m.d.sync += level.eq(level + self.push - fetch)
        with m.If(self.push):
            m.d.sync += write_at.eq(step(write_at))
        with m.If(fetch):
            m.d.sync += [read_at.eq(step(read_at)), self.valid.eq(1)]
        with m.Elif(self.pop):
            m.d.sync += self.valid.eq(0)
        return m
