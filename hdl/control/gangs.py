# SPDX-License-Identifier: Apache-2.0
"""When the tiers of a gang act together: in the same cycle (M, N) or a fixed time apart (K).

The same logic serves waves and, with the edge feed, tile requests; both are called steps here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data

from hdl.control.operation import TIER_INDEX_BITS
from hdl.interfaces import PC_BITS

__all__ = ["Lane", "connect_gangs", "pending_layout"]


def pending_layout() -> data.StructLayout:
    """Return what the gang logic must know about a tier's next step.

    ``op_first``: first step of its operation. ``reads_tile``: needs its V-Cache tile to be filled in this tier.
    ``hold``: not yet possible for a reason of this tier's own. Waves only: ``new``, and ``last``: finishes a row.
    The other fields are those of `operation_layout`.
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
            "top": TIER_INDEX_BITS,
            "tag": 6,
            "op_first": 1,
            "reads_tile": 1,
            "hold": 1,
            "new": 1,
            "last": 1,
            "stationary_below": 1,
            "activation_below": 1,
        }
    )


class Lane:
    """One tier's signals in the gang logic.

    Parameters
    ----------
    name : str
        Prefix of the signals.
    tier : int
    pending : view of pending_layout
        The tier's next step.

    Attributes
    ----------
    tile_here : Signal
        Input: the tag looked up for this tier is the wanted one.
    credit_ok : Signal
        Input: the row that the step finishes, if any, has a drain credit.
    k_ready : Signal
        Input: a K leader may start on this follower.
    tiles_k, tile_ok : Signal
        Tags are right in this tier and those above it in its K gang; the step's tiles are there.
    same_below : Signal
        The tier below is at the same instruction.
    there, there_k : Signal
        This tier and those above it follow the tier below.
    assembled : Signal
        Of a leader: its gang has come together (or need not).
    gang_tiles, gang_free, gang_ready : Signal
        Tiles are there / nothing is on hold / all conditions hold, in this tier and those above it in its M or N gang.
    copies : Signal
        The step goes with the tier below in the same cycle.
    go : Signal
        Output: the step is done in this cycle.
    """

    def __init__(self, name: str, tier: int, pending: Any) -> None:
        self.name = name
        self.tier = tier
        self.pending = pending

        def signal(what: str, init: int = 0) -> Signal:
            return Signal(name=f"{name}_{what}{tier}", init=init)

        self.tile_here = signal("tile_here")
        self.credit_ok = signal("credit_ok", 1)
        self.k_ready = signal("k_ready", 1)
        self.tiles_k = signal("tiles_k")
        self.tile_ok = signal("tile_ok")
        self.same_below = signal("same_below")
        self.there = signal("there")
        self.there_k = signal("there_k")
        self.assembled = signal("assembled")
        self.gang_tiles = signal("gang_tiles")
        self.gang_free = signal("gang_free")
        self.gang_ready = signal("gang_ready")
        self.copies = signal("copies")
        self.go = signal("go")


def connect_gangs(m: Module, lanes: Sequence[Lane], stop: Value, delay: int) -> None:
    """Build the logic from the lanes' inputs to their ``go``.

    Parameters
    ----------
    m : Module
    lanes : sequence of Lane
        Tier 0 first.
    stop : Value
        Leaders start no step.
    delay : int
        Cycles from a tier's step of a K gang to that of the tier above.
    """
    below: Lane | None = None
    for lane, above in zip(lanes, [*lanes[1:], None], strict=True):
        pending = lane.pending
        m.d.comb += [
            # With chained K instructions the tiers above may still be at an earlier one, but of the same gang.
            lane.tiles_k.eq(lane.tile_here & (~pending.above_k | (above.tiles_k if above else 1))),
            lane.tile_ok.eq(~pending.reads_tile | lane.tiles_k),
            lane.there.eq(lane.same_below & pending.follows & (~pending.above | (above.there if above else 1))),
            lane.there_k.eq(
                lane.same_below
                & pending.follows_k
                & lane.k_ready
                & (~pending.above_k | (above.there_k if above else 1))
            ),
            lane.assembled.eq(
                (~pending.above | (above.there if above else 1))
                & (~pending.above_k | ~pending.op_first | pending.chained | (above.there_k if above else 1))
            ),
            lane.gang_tiles.eq(lane.tile_ok & (~pending.above | (above.gang_tiles if above else 1))),
            lane.gang_free.eq(~pending.hold & (~pending.above | (above.gang_free if above else 1))),
            lane.gang_ready.eq(
                lane.tile_ok & lane.credit_ok & ~pending.hold & (~pending.above | (above.gang_ready if above else 1))
            ),
        ]
        lead = pending.valid & pending.leads & lane.assembled & lane.gang_ready & ~stop
        if below is None:
            m.d.comb += lane.go.eq(lead)
        else:
            # The strobes of a K gang's lower neighbour, one bit per cycle.
            line = Signal(delay, name=f"{lane.name}_k_delay{lane.tier}")
            m.d.sync += line.eq(Cat(below.go & below.pending.above_k, line))
            m.d.comb += [
                lane.same_below.eq(pending.valid & (pending.pc == below.pending.pc)),
                lane.copies.eq(lane.same_below & pending.follows & below.pending.above),
                lane.go.eq(
                    Mux(
                        pending.follows_k,
                        pending.valid & line[-1],
                        Mux(pending.follows, lane.copies & below.go, lead),
                    )
                ),
            ]
        below = lane
