# SPDX-License-Identifier: Apache-2.0
"""First-word-fall-through stream FIFO on the memory wrapper."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from amaranth.hdl import Module, Shape, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.common.sram import Collision, Sram, address_bits
from hdl.emit.hierarchy import instantiate

__all__ = ["TIMING", "FifoTiming", "StreamFifo"]


class FifoTiming(NamedTuple):
    """Cycles of a first-word-fall-through FIFO.

    Attributes
    ----------
    through : int
        From a word's transfer at the input to the first cycle in which the output shows it.
    """

    through: int


TIMING: Final = FifoTiming(through=2)
"""The memory is written, then read into the output register."""


class StreamFifo(wiring.Component):
    """FIFO of `depth` words between two streams.

    Latency: two cycles from ``input`` to ``output``. Throughput: one word per cycle in and out at the same time.
    The memory's read register is the output register and holds one word more than `depth`.

    Parameters
    ----------
    shape : shape-castable
        Payload.
    depth : int
        Words of memory, at least 2.

    Members
    -------
    input : In(stream)
    output : Out(stream)
    level : Out
        Words held, 0 to depth + 1.
    busy : Out(1)
        At least one word is held.
    """

    def __init__(self, shape: Any, depth: int) -> None:
        self.shape = shape
        self.depth = depth
        super().__init__(
            {
                "input": In(stream.Signature(shape)),
                "output": Out(stream.Signature(shape)),
                "level": Out(range(depth + 2)),
                "busy": Out(1),
            }
        )

    def module_key(self) -> str:
        """Name of the Verilog module: the shape."""
        return f"stream_fifo_w{Shape.cast(self.shape).width}_d{self.depth}"

    def elaborate(self, platform: object) -> Module:
        """Build pointers around one memory."""
        m = Module()
        width = Shape.cast(self.shape).width
        # At equal addresses the memory is empty, and not read, or full, and not written.
        memory = instantiate(m, platform, "memory", Sram(width, self.depth, collision=Collision.NEVER))
        stored = Signal(range(self.depth + 1))
        write_addr = Signal(address_bits(self.depth))
        read_addr = Signal(address_bits(self.depth))
        write = Signal()
        read = Signal()
        valid = Signal()
        m.d.comb += [
            self.input.ready.eq(stored != self.depth),
            write.eq(self.input.valid & self.input.ready),
            read.eq((stored != 0) & (~valid | self.output.ready)),
            self.output.valid.eq(valid),
            self.output.payload.eq(memory.read_data),
            self.level.eq(stored + valid),
            self.busy.eq(valid | (stored != 0)),
            memory.write_en.eq(write),
            memory.write_addr.eq(write_addr),
            memory.write_data.eq(self.input.payload),
            memory.read_en.eq(read),
            memory.read_addr.eq(read_addr),
        ]
        m.d.sync += stored.eq(stored + write - read)
        with m.If(write):
            m.d.sync += write_addr.eq(write_addr + 1)
            with m.If(write_addr == self.depth - 1):
                m.d.sync += write_addr.eq(0)
        with m.If(read):
            m.d.sync += [valid.eq(1), read_addr.eq(read_addr + 1)]
            with m.If(read_addr == self.depth - 1):
                m.d.sync += read_addr.eq(0)
        with m.Elif(self.output.ready):
            m.d.sync += valid.eq(0)
        return m
