# SPDX-License-Identifier: Apache-2.0
"""Knows which K GEMMs directly follow another K GEMM of the same gang in the queues of all its tiers."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.config import MachineConfig

__all__ = ["GangHistory"]


class GangHistory(wiring.Component):
    """One bit beside each entry of the tiers' instruction queues: ``chained``.

    The tiers of a K gang run the same loop nest a fixed time apart, tier i up to ``i * (skew_k - 1)`` cycles behind the
    leader, which may be several short operations. If the instruction before in *every* tier of the gang was a K GEMM of
    the same gang, the followers repeat the leader's steps with that delay, so the leader need not see them arrive; it
    only leaves each setup stage its time between the first steps of two operations.
    Only at the entry of the queues can that be known: a follower may have instructions of its own between the two.

    Members
    -------
    enter_valid : In(1)
        A GEMM enters the queues of its gang in this cycle.
    enter_tiers : In(tiers)
        Its gang.
    enter_k : In(1)
        Its mapping is K.
    taken : In(tiers)
        The head of a tier's queue is taken in this cycle.
    chained : Out(tiers)
        Bit of the head of each queue; valid one cycle after the entry. 0 when ``enter_valid`` is never driven.
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "enter_valid": In(1),
                "enter_tiers": In(config.tiers),
                "enter_k": In(1),
                "taken": In(config.tiers),
                "chained": Out(config.tiers),
            }
        )

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return f"gang_history_t{self.config.tiers}_q{self.config.queue_depth}"

    def elaborate(self, platform: object) -> Module:
        """Build the last gang of each tier, and one bit-wide queue per tier."""
        m = Module()
        tiers = self.config.tiers
        depth = self.config.queue_depth + 4
        last_gang = [Signal(tiers, name=f"last_gang{tier}") for tier in range(tiers)]
        chained = Signal()
        m.d.comb += chained.eq(
            self.enter_k
            & Cat(~self.enter_tiers[tier] | (last_gang[tier] == self.enter_tiers) for tier in range(tiers)).all()
        )
        for tier in range(tiers):
            bits = Signal(depth, name=f"bits{tier}")
            level = Signal(range(depth + 1), name=f"level{tier}")
            enter, leave = Signal(name=f"enter{tier}"), Signal(name=f"leave{tier}")
            place = Signal(range(depth + 1), name=f"place{tier}")
            m.d.comb += [
                enter.eq(self.enter_valid & self.enter_tiers[tier]),
                leave.eq(self.taken[tier] & (level != 0)),
                place.eq(level - leave),
                self.chained[tier].eq(bits[0]),
            ]
            m.d.sync += level.eq(place + enter)
            shifted = Signal(depth, name=f"shifted{tier}")
            with m.If(leave):
                m.d.comb += shifted.eq(bits >> 1)
            with m.Else():
                m.d.comb += shifted.eq(bits)
            m.d.sync += bits.eq(shifted)
            with m.If(enter):
                # Bits at and above the level are zero.
                m.d.sync += [bits.eq(shifted | (chained << place)), last_gang[tier].eq(0)]
                with m.If(self.enter_k):
                    m.d.sync += last_gang[tier].eq(self.enter_tiers)
        return m
