# SPDX-License-Identifier: Apache-2.0
"""When the tiers of a gang act together: in the same cycle (M, N) or a fixed time apart (K).

The same logic serves waves and, with the edge feed, tile requests; both are called steps here. All that comes early in
a cycle (who leads whom) is worked out per pair of tiers, so that the late signals (tags from their memory) pass few
gates on their way to ``go``.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data

from hdl.config import MachineConfig
from hdl.control.operation import OperationSetup
from hdl.interfaces import PC_BITS
from hdl.isa import Opcode, field_widths

__all__ = ["Member", "connect_gangs", "pending_layout"]


def pending_layout(config: MachineConfig) -> data.StructLayout:
    """Return what the gang logic must know about a tier's next step.

    ``op_first``: first step of its operation. ``reads_tile``: needs its V-Cache tile to be filled in this tier.
    ``hold``: not yet possible for a reason of this tier's own. Waves only: ``new``; ``last``: finishes a row;
    ``op_last``: last step of its operation. The other fields are those of `operation_layout`.
    """
    return data.StructLayout(
        {
            "valid": 1,
            "pc": PC_BITS,
            "chained": 1,
            "leads": 1,
            "follows": 1,
            "follows_k": 1,
            "above": 1,
            "above_k": 1,
            "gang": config.tiers,
            **field_widths(Opcode.GEMM, "tag"),
            "op_first": 1,
            "reads_tile": 1,
            "hold": 1,
            "new": 1,
            "last": 1,
            "op_last": 1,
            "stationary_below": 1,
            "activation_below": 1,
        }
    )


class Member:
    """One tier's signals in the gang logic.

    Parameters
    ----------
    name : str
        Prefix of the signals.
    tier : int
    tiers : int
    pending : view of pending_layout
        The tier's next step.

    Attributes
    ----------
    tile_here, has_credit : Signal
        Inputs: the tag looked up for this tier is the wanted one; a drain credit is there.
    same_op : Signal
        Input: the tier below has the same instruction pending. It may lag by a cycle if ``k_ready`` covers that.
    k_ready : Signal
        Input: a K leader may start on this follower.
    assembled : Signal
        Of a leader: its gang has come together (or need not).
    tiles_ok, free, credits_ok : Signal
        Of a leader, for its whole gang: tiles are there; nothing is on hold; the row has its credits.
    takes : Signal
        Of a leader: tiers whose credit its step takes.
    leads_go : Signal
        The leader does its step in this cycle.
    go : Signal
        Output: the step is done in this cycle.
    """

    def __init__(self, name: str, tier: int, tiers: int, pending: Any) -> None:
        self.name = name
        self.tier = tier
        self.pending = pending

        def signal(what: str, width: int = 1, init: int = 0) -> Signal:
            return Signal(width, name=f"{name}_{what}{tier}", init=init)

        self.tile_here = signal("tile_here")
        self.has_credit = signal("has_credit", init=1)
        self.same_op = signal("same_op")
        self.k_ready = signal("k_ready", init=1)
        self.assembled = signal("assembled")
        self.tiles_ok = signal("tiles_ok")
        self.free = signal("free")
        self.credits_ok = signal("credits_ok")
        self.takes = signal("takes", tiers)
        self.leads_go = signal("leads_go")
        self.go = signal("go")

    def steps_with(self, other: Member) -> Value:
        """Whether `other` is in the M or N gang that this tier leads."""
        return self.pending.above & self.pending.gang[other.tier]


def connect_gangs(m: Module, members: Sequence[Member], stop: Value, delay: int) -> None:
    """Build the logic from the members' inputs to their ``go``.

    Parameters
    ----------
    m : Module
    members : sequence of Member
        Tier 0 first.
    stop : Value
        Leaders start no step.
    delay : int
        Cycles from a tier's step of a K gang to that of the tier above.
    """
    linked, linked_k = _links(m, members)
    for member in members:
        pending = member.pending
        name, tier = member.name, member.tier
        above = members[tier + 1 :]
        # Cycles since the operation's first step, beyond the first. A leader that waited long may have three operations
        # decoded while the setup stage of a follower has one; it must leave that stage the time for each.
        since = Signal(range(OperationSetup.LATENCY + 1), name=f"{name}_since{tier}")
        spaced = Signal(name=f"{name}_spaced{tier}")
        m.d.comb += spaced.eq(since == OperationSetup.LATENCY)
        with m.If(member.go & pending.op_first):
            m.d.sync += since.eq(0)
        with m.Elif(~spaced):
            m.d.sync += since.eq(since + 1)

        there = Cat(~pending.gang[other.tier] | linked[other.tier] for other in above).all()
        there_k = Cat(~pending.gang[other.tier] | linked_k[other.tier] for other in above).all()
        needs = Signal(len(members), name=f"{name}_needs{tier}")
        credit_from = Mux(pending.above_k, pending.gang & ~(pending.gang >> 1), pending.gang)
        m.d.comb += [
            member.assembled.eq(
                pending.valid
                & pending.leads
                & (~pending.above | there)
                & (~pending.above_k | ~pending.op_first | (pending.chained & spaced) | there_k)
            ),
            # Tiers whose tile this step needs. K: the leader speaks for all, the others will step later.
            *(
                needs[other.tier].eq(
                    pending.gang[other.tier] & Mux(pending.above_k, pending.reads_tile, other.pending.reads_tile)
                )
                for other in members
            ),
            member.tiles_ok.eq(Cat(~needs[other.tier] | other.tile_here for other in members).all()),
            member.free.eq(
                ~pending.hold & Cat(~member.steps_with(other) | ~other.pending.hold for other in above).all()
            ),
            member.takes.eq(Mux(pending.last, credit_from, 0)),
            member.credits_ok.eq(Cat(~member.takes[other.tier] | other.has_credit for other in members).all()),
            member.leads_go.eq(member.assembled & member.free & member.credits_ok & ~stop & member.tiles_ok),
        ]
        steps = [member.leads_go, *(other.leads_go & other.steps_with(member) for other in members[:tier])]
        if tier:
            # The strobes of a K gang's lower neighbour, one bit per cycle.
            below = members[tier - 1]
            line = Signal(delay, name=f"{name}_k_delay{tier}")
            m.d.sync += line.eq(Cat(below.go & below.pending.above_k, line))
            steps.append(pending.valid & pending.follows_k & line[-1])
        m.d.comb += member.go.eq(Cat(steps).any())


def _links(m: Module, members: Sequence[Member]) -> tuple[Signal, Signal]:
    """Return per tier whether it is at the same instruction as the tier below: M and N gangs, K gangs that start.

    The instructions that two neighbours share are in the same order in both queues, and M and N steps are done in the
    same cycle by both. So if one neighbour's is a follower's M or N step and the other's has the gang reach above it,
    they are the same instruction. In a K gang the upper one may be behind, at an earlier instruction.
    """
    linked, linked_k = (Signal(len(members), name=f"{members[0].name}_{name}") for name in ("linked", "linked_k"))
    for below, member in pairwise(members):
        pending = member.pending
        m.d.comb += [
            # The tier below's own link, or the leader itself, says whether that one is valid.
            linked[member.tier].eq(pending.valid & pending.follows & below.pending.above),
            linked_k[member.tier].eq(pending.valid & pending.follows_k & member.same_op & member.k_ready),
        ]
    return linked, linked_k
