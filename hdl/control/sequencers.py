# SPDX-License-Identifier: Apache-2.0
"""All tiers' sequencers with what ties them together: gangs, tags, token lists, credits, errors, statistics."""

from __future__ import annotations

from functools import reduce
from itertools import pairwise
from operator import or_
from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hdl.common.sram import Sram
from hdl.config import MachineConfig
from hdl.control.gang_history import GangHistory
from hdl.control.gangs import Member, connect_gangs
from hdl.control.sequencer import TierSequencer
from hdl.control.tags import TAG_BITS, TierTags
from hdl.emit.hierarchy import instantiate, parameter_key, parameters
from hdl.interfaces import (
    dispatch_layout,
    error_layout,
    fill_control_layout,
    list_entry_layout,
    queue_entry_layout,
    row_descriptor_layout,
    slot_write_layout,
    wait_layout,
)
from hdl.isa.error_codes import ErrorCode

__all__ = ["MISS_CYCLES", "SequencerBlock", "sequencer_stats_layout"]

MISS_CYCLES = 8
"""Cycles that a wave must wait for a tile with no load pending before that is the error VCACHE_MISS."""

LIST_ENTRY_BITS = 64

STALL_LAYOUT = data.StructLayout({"tag": 1, "edge": 1, "credit": 1})


def sequencer_stats_layout() -> data.StructLayout:
    """Return one tier's events of a cycle.

    Exactly one of ``wave``, ``stall_tag``, ``stall_credit``, ``stall_edge``, ``wait_semaphore``, ``wait_gang`` and
    ``idle`` is set. ``new_own``: a V-Cache tile is read; ``link_m``: a tile is taken through the stationary link;
    ``link_n``, ``link_k``: a wave takes activations / partial sums from the tier below; ``last``: it finishes a row;
    ``op_first``, ``op_last``: it is the first / last of its operation.
    """
    names = (
        "wave", "new_own", "link_m", "link_n", "link_k", "stall_tag", "stall_credit", "stall_edge", "wait_semaphore",
        "wait_gang", "idle", "last", "op_first", "op_last",
    )  # fmt: skip
    return data.StructLayout(dict.fromkeys(names, 1))


class SequencerBlock(wiring.Component):
    """The core of the unified 3D dataflow controller: turns the tiers' GEMM queues into waves on the dispatch bond.

    Latency: 9 cycles from a queue head to its first wave on an idle tier's dispatch lane (see `TierSequencer`).
    Throughput: one wave per tier and cycle, across tiles and operations.

    Gangs: the leader's wave goes when its own conditions and those of the followers hold; M and N followers go in the
    same cycle, K followers when the strobe comes through the delay lines of ``skew_k - 1`` cycles between neighbours
    (the dispatch bond adds one cycle per tier). A K leader checks tags and credit for the whole gang when it goes.

    Members
    -------
    queue : In(stream of queue_entry_layout).array(tiers)
        Heads of the tiers' instruction queues.
    enter_valid, enter_tiers, enter_k : In
        The dispatcher puts a GEMM into its queues; see `GangHistory`. May be left open: K GEMMs then wait for the
        gang to assemble every time.
    dispatch : Out(dispatch_layout).array(tiers)
    descriptor_valid : Out(1).array(tiers)
    descriptor : Out(row_descriptor_layout).array(tiers)
    credit : In(1).array(tiers)
        A row of that tier left its FIFO in the collector.
    wait : Out(stream of wait_layout).array(tiers)
        Semaphore waits; a transfer is the grant.
    fill_control, fill_tag : In, array(2)
        Fill words launched on the bond in this cycle.
    list_write_valid, list_write_tiers, list_write_addr, list_write_entry : In
        Token-list writes of loads, always accepted.
    route_valid, route_addr, route_entry : In / route_ready : Out(1)
        Token-list writes of the route unit, in every tier; they give way to those of loads.
    slot_write : In
        The routing table, see `SlotTable`.
    loads_pending : In(1)
        Some LOAD is queued or in flight.
    halt : In(1)
        Start no further wave.
    tags_first : In(vcache_bits + 1)
        See `TierTags`.
    tags_clear : In(1)
        Sweep the tags (pulse).
    tags_ready : Out(1)
    busy : Out(1).array(tiers)
        An instruction is held or running.
    error : Out(error_layout())
        First error of the block, level until reset; no further wave starts.
    stats : Out(sequencer_stats_layout()).array(tiers)
        Events, one cycle late.
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        tiers = config.tiers
        super().__init__(
            {
                "queue": In(stream.Signature(queue_entry_layout())).array(tiers),
                "enter_valid": In(1),
                "enter_tiers": In(tiers),
                "enter_k": In(1),
                "dispatch": Out(dispatch_layout(config)).array(tiers),
                "descriptor_valid": Out(1).array(tiers),
                "descriptor": Out(row_descriptor_layout(config)).array(tiers),
                "credit": In(1).array(tiers),
                "wait": Out(stream.Signature(wait_layout(config))).array(tiers),
                "fill_control": In(fill_control_layout(config)).array(2),
                "fill_tag": In(TAG_BITS).array(2),
                "list_write_valid": In(1),
                "list_write_tiers": In(tiers),
                "list_write_addr": In(config.list_bits),
                "list_write_entry": In(LIST_ENTRY_BITS),
                "route_valid": In(1),
                "route_ready": Out(1),
                "route_addr": In(config.list_bits),
                "route_entry": In(list_entry_layout()),
                "slot_write": In(slot_write_layout(config)),
                "loads_pending": In(1),
                "halt": In(1),
                "tags_clear": In(1),
                "tags_first": In(config.vcache_bits + 1),
                "tags_ready": Out(1),
                "busy": Out(1).array(tiers),
                "error": Out(error_layout()),
                "stats": Out(sequencer_stats_layout()).array(tiers),
            }
        )

    PARAMETERS = parameters("group_bytes k_link_stages queue_depth row_fifo_depth", TierSequencer.PARAMETERS)
    """What the module depends on."""

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return parameter_key("sequencer_block", self.config, self.PARAMETERS)

    def elaborate(self, platform: object) -> Module:
        """Place the tiers and connect them."""
        m = Module()
        config = self.config
        tiers = config.tiers
        history = instantiate(m, platform, "history", GangHistory(config))
        m.d.comb += [
            history.enter_valid.eq(self.enter_valid),
            history.enter_tiers.eq(self.enter_tiers),
            history.enter_k.eq(self.enter_k),
            history.taken.eq(Cat(queue.valid & queue.ready for queue in self.queue)),
        ]
        routed = self.route_valid & self.route_ready
        m.d.comb += self.route_ready.eq(~self.list_write_valid)
        sequencers: list[Any] = []
        tags: list[Any] = []
        for tier in range(tiers):
            sequencer = instantiate(m, platform, f"tier{tier}", TierSequencer(config))
            tag = instantiate(m, platform, f"tags{tier}", TierTags(config))
            tokens = instantiate(m, platform, f"list{tier}", Sram(LIST_ENTRY_BITS, config.list_depth))
            connect(m, flipped(self.queue[tier]), sequencer.queue)
            connect(m, sequencer.wait, flipped(self.wait[tier]))
            m.d.comb += [
                sequencer.index.eq(tier),
                sequencer.chained.eq(history.chained[tier]),
                sequencer.slot_write.eq(self.slot_write),
                tokens.write_en.eq(routed | (self.list_write_valid & self.list_write_tiers[tier])),
                tokens.write_addr.eq(Mux(self.list_write_valid, self.list_write_addr, self.route_addr)),
                tokens.write_data.eq(Mux(self.list_write_valid, self.list_write_entry, self.route_entry.as_value())),
                tokens.read_en.eq(sequencer.list_en),
                tokens.read_addr.eq(sequencer.list_addr),
                sequencer.list_entry.eq(tokens.read_data),
                tag.tier_select.eq(1 << tier),
                tag.clear.eq(self.tags_clear),
                tag.first.eq(self.tags_first),
                *(tag.fill_control[lane].eq(self.fill_control[lane]) for lane in range(2)),
                *(tag.fill_tag[lane].eq(self.fill_tag[lane]) for lane in range(2)),
                self.dispatch[tier].eq(sequencer.dispatch),
                self.descriptor_valid[tier].eq(sequencer.descriptor_valid),
                self.descriptor[tier].eq(sequencer.descriptor),
                self.busy[tier].eq(sequencer.busy),
            ]
            sequencers.append(sequencer)
            tags.append(tag)
        m.d.comb += self.tags_ready.eq(Cat(tag.ready for tag in tags).all())
        self._open_slots(m, sequencers)

        waves = [Member("wave", tier, tiers, sequencer.pending) for tier, sequencer in enumerate(sequencers)]
        self._compare_next(m, waves, sequencers)
        requests = waves
        stop = Signal()
        m.d.comb += stop.eq(self.halt | self.error.valid)
        if config.stationary_feed == "edge":
            requests = [Member("request", tier, tiers, sequencer.request) for tier, sequencer in enumerate(sequencers)]
            connect_gangs(m, requests, stop, config.skew_k - 1)
            for below, member in pairwise(requests):
                # A request is on hold in its first cycle, so the comparison may be one cycle old.
                m.d.sync += member.same_op.eq(member.pending.pc == below.pending.pc)
            for member, sequencer in zip(requests, sequencers, strict=True):
                # A K follower must be free to take the request when the strobe arrives.
                m.d.comb += [sequencer.request_go.eq(member.go), member.k_ready.eq(~member.pending.hold)]
        self._look_up_tiles(m, requests, sequencers, tags)
        self._count_credits(m, waves)
        connect_gangs(m, waves, stop, config.skew_k - 1)
        m.d.comb += [sequencer.go.eq(member.go) for member, sequencer in zip(waves, sequencers, strict=True)]
        missing = self._find_stalls(m, waves, requests, sequencers)
        self._collect_errors(m, requests, sequencers, missing)
        return m

    def _open_slots(self, m: Module, sequencers: list[Any]) -> None:
        """Tell followers that their leader has looked a slot up.

        One bit for each pair is enough: a leader looks no other gang's slot up before this gang has begun, and by then
        the follower has.
        """
        for tier, follower in enumerate(sequencers[1:], 1):
            opened = Signal(tier, name=f"slot_opened{tier}")
            found = opened & follower.slot_wanted
            m.d.comb += follower.slot_open.eq(found.any())
            m.d.sync += opened.eq((opened & ~found) | Cat(leader.slot_opens[tier] for leader in sequencers[:tier]))

    def _compare_next(self, m: Module, members: list[Member], sequencers: list[Any]) -> None:
        """Compare neighbours' instructions a cycle ahead: each S1 holds its present or its next wave then."""
        for below, member in pairwise(members):
            lower, upper = sequencers[below.tier], sequencers[member.tier]
            with_present = Mux(upper.advance, upper.next_pc == below.pending.pc, member.pending.pc == below.pending.pc)
            with_next = Mux(upper.advance, upper.next_pc == lower.next_pc, member.pending.pc == lower.next_pc)
            m.d.sync += member.same_op.eq(Mux(lower.advance, with_next, with_present))

    def _look_up_tiles(self, m: Module, members: list[Member], sequencers: list[Any], tags: list[Any]) -> None:
        """Look up tags: each tier for its own step, the tiers above a K leader for the leader's."""
        for member, sequencer, tag in zip(members, sequencers, tags, strict=True):
            addr = Signal(self.config.vcache_bits, name=f"tag_addr{member.tier}")
            expected = Signal(TAG_BITS, name=f"tag_expected{member.tier}")
            reach = range(member.tier + 1)
            addrs = [Mux(sequencer.tag_source[other], sequencers[other].tag_addr, 0) for other in reach]
            wanted = [Mux(sequencer.tag_source_now[other], members[other].pending.tag, 0) for other in reach]
            m.d.comb += [
                addr.eq(reduce(or_, addrs)),
                expected.eq(reduce(or_, wanted)),
                tag.addr.eq(addr),
                member.tile_here.eq(tag.valid & (tag.tag == expected)),
            ]

    def _count_credits(self, m: Module, members: list[Member]) -> None:
        """Count the drain credits; a leader takes those of all tiers in which its step finishes a row."""
        depth = self.config.row_fifo_depth
        for member in members:
            count = Signal(range(depth + 1), init=depth, name=f"credits{member.tier}")
            some = Signal(init=1, name=f"credits_some{member.tier}")
            take = Signal(name=f"credit_take{member.tier}")
            give = self.credit[member.tier]
            m.d.comb += [
                member.has_credit.eq(some),
                take.eq(Cat(leader.leads_go & leader.takes[member.tier] for leader in members).any()),
            ]
            # `take` comes late in the cycle: keep "not zero" beside the count.
            m.d.sync += [
                count.eq(count + give - take),
                some.eq((count > 1) | give | ((count == 1) & ~take)),
            ]

    def _find_stalls(
        self, m: Module, waves: list[Member], requests: list[Member], sequencers: list[Any]
    ) -> list[Signal]:
        """Classify each tier's cycle; return per tier whether it leads a step that waits for a tile."""
        edge = self.config.stationary_feed == "edge"
        missing: list[Signal] = []
        reasons: list[Any] = []
        for member, request, sequencer in zip(waves, requests, sequencers, strict=True):
            pending = member.pending
            misses = Signal(name=f"misses{member.tier}")
            m.d.comb += misses.eq(request.assembled & request.free & ~request.tiles_ok)
            missing.append(misses)

            leader_reason = Signal(STALL_LAYOUT, name=f"leader_reason{member.tier}")
            reason = Signal(STALL_LAYOUT, name=f"reason{member.tier}")
            with m.If(member.assembled):
                tile = (pending.hold & ~sequencer.requested & misses) if edge else misses
                m.d.comb += [
                    leader_reason.tag.eq(tile),
                    leader_reason.edge.eq(~tile & ~member.free),
                    leader_reason.credit.eq(~tile & member.free & ~member.credits_ok),
                ]
            m.d.comb += reason.eq(leader_reason)
            for leader, its_reason in zip(waves, reasons, strict=False):
                # Followers in step report what holds their leader.
                with m.If(leader.assembled & leader.steps_with(member)):
                    m.d.comb += reason.eq(its_reason)
            reasons.append(leader_reason)

            stats = Signal(sequencer_stats_layout(), init={"idle": 1}, name=f"stats_register{member.tier}")
            now = Signal(sequencer_stats_layout(), name=f"stats_now{member.tier}")
            m.d.sync += stats.eq(now)
            m.d.comb += [
                self.stats[member.tier].eq(stats),
                now.wave.eq(member.go),
                now.new_own.eq(member.go & pending.new & ~pending.stationary_below),
                now.link_m.eq(member.go & pending.new & pending.stationary_below),
                now.link_n.eq(member.go & pending.activation_below),
                now.link_k.eq(member.go & pending.follows_k),
                now.last.eq(member.go & pending.last & ~pending.above_k),
                now.op_first.eq(member.go & pending.op_first),
                now.op_last.eq(member.go & pending.op_last),
            ]
            with m.If(~member.go):
                with m.If(reason.tag):
                    m.d.comb += now.stall_tag.eq(1)
                with m.Elif(reason.edge):
                    m.d.comb += now.stall_edge.eq(1)
                with m.Elif(reason.credit):
                    m.d.comb += now.stall_credit.eq(1)
                with m.Elif(pending.valid | sequencer.slot_wanted.any()):
                    m.d.comb += now.wait_gang.eq(1)
                with m.Elif(sequencer.waiting):
                    m.d.comb += now.wait_semaphore.eq(1)
                with m.Else():
                    m.d.comb += now.idle.eq(1)
        return missing

    def _collect_errors(self, m: Module, members: list[Member], sequencers: list[Any], missing: list[Signal]) -> None:
        """Keep the first error, and notice steps that wait for a tile that no load brings."""
        report = Signal(error_layout())
        for member, sequencer, misses in zip(reversed(members), reversed(sequencers), reversed(missing), strict=True):
            count = Signal(range(MISS_CYCLES + 1), name=f"miss_count{member.tier}")
            with m.If(~misses | self.loads_pending | ~self.tags_ready):
                m.d.sync += count.eq(0)
            with m.Elif(count != MISS_CYCLES):
                m.d.sync += count.eq(count + 1)
            with m.If(sequencer.error.valid):
                m.d.comb += report.eq(sequencer.error)
            with m.Elif(misses & (count == MISS_CYCLES)):
                m.d.comb += [
                    report.valid.eq(1),
                    report.code.eq(ErrorCode.VCACHE_MISS),
                    report.pc.eq(member.pending.pc),
                    report.address.eq(0),
                ]
        with m.If(~self.error.valid):
            m.d.sync += self.error.eq(report)
