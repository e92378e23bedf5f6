# SPDX-License-Identifier: Apache-2.0
"""Which tiers' rows the result bus moves in a cycle."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["BusArbiter"]


class BusArbiter(wiring.Component):
    """Choose up to `lanes` rows without a common resource, round robin.

    Requests are looked at in rotating order; each is granted if nothing it needs was taken by an earlier one.  The
    next cycle starts with the first request that lost, so no request loses more than ``requesters - 1`` times while
    its resources are not blocked from outside.

    Latency: combinational.

    Parameters
    ----------
    requesters : int
        Tiers.
    lanes : int
        Grants per cycle to requests that need a lane; others are not limited.
    resources : int
        Resources besides lanes.

    Members
    -------
    request : In(requesters)
    needs_lane : In(requesters)
    needs : In(resources).array(requesters)
        Resources that a request needs, all at once.
    blocked : In(resources)
        Resources that are not available in this cycle.
    grant : Out(requesters)
    lane : Out(lanes).array(requesters)
        One-hot lane of a granted request; zero without a lane.
    """

    def __init__(self, requesters: int, lanes: int, resources: int) -> None:
        self.requesters = requesters
        self.lanes = lanes
        self.resources = resources
        super().__init__(
            {
                "request": In(requesters),
                "needs_lane": In(requesters),
                "needs": In(resources).array(requesters),
                "blocked": In(resources),
                "grant": Out(requesters),
                "lane": Out(lanes).array(requesters),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Unroll the scan twice: requesters from `first` up, then those below."""
        m = Module()
        count = self.requesters
        first = Signal(range(max(2, count)))
        # Unary count of lanes in use and set of resources in use, before each step of the scan.
        used = Const(0, self.lanes)
        taken = self.blocked
        grants: list[Signal] = []
        losers: list[Signal] = []
        for step in range(2 * count):
            tier, again = step % count, step >= count
            # The first part of the scan always has the last requester, the second part never.
            turn = Const(int(not again)) if tier == count - 1 else (first > tier) if again else (first <= tier)
            candidate = Signal(name=f"candidate{step}")
            granted = Signal(name=f"granted{step}")
            next_used = Signal(self.lanes, name=f"used{step}")
            next_taken = Signal(self.resources, name=f"taken{step}")
            m.d.comb += [
                candidate.eq(self.request[tier] & turn),
                granted.eq(candidate & ~(self.needs[tier] & taken).any() & ~(self.needs_lane[tier] & used[-1])),
                next_used.eq(Mux(granted & self.needs_lane[tier], Cat(Const(1, 1), used)[: self.lanes], used)),
                next_taken.eq(taken | (self.needs[tier] & granted.replicate(self.resources))),
            ]
            with m.If(granted):
                m.d.comb += self.grant[tier].eq(1)
                with m.If(self.needs_lane[tier]):
                    # The lowest free lane: the first zero of the unary count.
                    m.d.comb += self.lane[tier].eq(~used & Cat(Const(1, 1), used)[: self.lanes])
            loser = Signal(name=f"loser{step}")
            m.d.comb += loser.eq(candidate & ~granted)
            grants.append(granted)
            losers.append(loser)
            used, taken = next_used, next_taken

        # Later assignments win: the first loser of the scan, else the one behind the first grant.
        for step in reversed(range(2 * count)):
            with m.If(grants[step]):
                m.d.sync += first.eq((step + 1) % count)
        for step in reversed(range(2 * count)):
            with m.If(losers[step]):
                m.d.sync += first.eq(step % count)
        return m
