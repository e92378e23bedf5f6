# SPDX-License-Identifier: Apache-2.0
"""Looks up the indices that GATHER's choices hold, ahead of the rows that are asked for."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.config import MachineConfig

__all__ = ["IndexLookup"]


class IndexLookup(wiring.Component):
    """Reads scalars ``base + j*vectors + t``: for each vector t the elements j from 0 to ``length - 1``.

    Latency: 2 cycles from `read` to `valid`. Throughput: one index per cycle.

    Members
    -------
    start : In(1), base : In(12)
        Begin; `base` is the first scalar.
    vectors : In(10), length : In(lane bits + 1)
        Constant from the cycle after `start` on.
    halt : In(1)
        Read nothing in this cycle.
    read : Out(1), address : Out(12), data : In(16)
        The index at an address; `data` one cycle after `read`, held until the next one.
    valid : Out(1), index : Out(16), take : In(1)
        The next element's index; `take` only when `valid`.
    """

    def __init__(self, config: MachineConfig) -> None:
        self.lane_bits = config.columns.bit_length() - 1
        super().__init__(
            {
                "start": In(1),
                "base": In(12),
                "vectors": In(10),
                "length": In(self.lane_bits + 1),
                "halt": In(1),
                "read": Out(1),
                "address": Out(12),
                "data": In(16),
                "valid": Out(1),
                "index": Out(16),
                "take": In(1),
            }
        )

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return f"vector_lookup_{self.lane_bits}"

    def elaborate(self, platform: object) -> Module:
        """Build the loops, and two places for what was read: the memory's output and a register."""
        m = Module()
        more, fetched, moves = Signal(), Signal(), Signal()
        vector, element, first = Signal(10), Signal(self.lane_bits), Signal(12)
        m.d.comb += [
            moves.eq(fetched & (~self.valid | self.take)),
            self.read.eq(more & (~fetched | moves) & ~self.halt),
        ]
        with m.If(self.take):
            m.d.sync += self.valid.eq(0)
        with m.If(moves):
            m.d.sync += [self.valid.eq(1), self.index.eq(self.data), fetched.eq(0)]
        with m.If(self.read):
            m.d.sync += fetched.eq(1)
            with m.If(element + 1 == self.length):
                m.d.sync += [
                    element.eq(0), vector.eq(vector + 1), first.eq(first + 1), self.address.eq(first + 1),
                    more.eq(vector + 1 != self.vectors),
                ]  # fmt: skip
            with m.Else():
                m.d.sync += [element.eq(element + 1), self.address.eq(self.address + self.vectors)]
        with m.If(self.start):
            m.d.sync += [
                more.eq(1), fetched.eq(0), self.valid.eq(0), vector.eq(0), element.eq(0), first.eq(self.base),
                self.address.eq(self.base),
            ]  # fmt: skip
        return m
