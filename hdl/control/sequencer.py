# SPDX-License-Identifier: Apache-2.0
"""One tier's sequencer: runs the loop nest of its queue's GEMMs, at most one wave per cycle, without a bubble between.

Stages: setup (next instruction) -> S0 (loop counters; addresses of token list and tag go to their memories) -> S1 (list
entry and tag are there; the wave waits here until it may go) -> output register (the dispatch lane and the descriptor).
S0 and S1 advance together. While a wave waits in S1 the memories read its addresses again every cycle.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from amaranth.hdl import Const, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hdl.config import MachineConfig
from hdl.control.edge import EdgeRequester, StartFork
from hdl.control.gangs import pending_layout
from hdl.control.loop_nest import LoopNest, loop_wave_layout
from hdl.control.operation import TIER_INDEX_BITS, OperationSetup, operation_layout, row_byte
from hdl.emit.hierarchy import instantiate, parameter_key, parameters
from hdl.interfaces import (
    PC_BITS,
    dispatch_layout,
    error_layout,
    list_entry_layout,
    queue_entry_layout,
    row_descriptor_layout,
    slot_write_layout,
    wait_layout,
)
from hdl.isa import Mode
from hdl.isa.error_codes import ErrorCode

__all__ = ["TIMING", "SequencerTiming", "TierSequencer"]


class SequencerTiming(NamedTuple):
    """Cycles of a tier's sequencer.

    Attributes
    ----------
    nest : int
        From an operation's transfer into the loop nest to the cycle in which its first wave can go.
    dispatch : int
        From the cycle in which a wave goes to the dispatch lane.
    tile : int
        From a tile's last fill word to the cycle in which a wave that waits for it can go.
    hold : int
        From the first wave of a gang's operation to the first cycle in which the next instruction asks for semaphores.
    credit : int
        From the return of a credit to the cycle in which a wave that waits for it can go.
    """

    nest: int
    dispatch: int
    tile: int
    hold: int
    credit: int


TIMING: Final = SequencerTiming(nest=2, dispatch=1, tile=2, hold=1, credit=1)
"""S0 and S1; the output register; the tag is written, then read; hold and credits are registers."""


class TierSequencer(wiring.Component):
    """Sequencer of one tier; the gang logic between tiers is in `hdl.control.sequencers`.

    Latency: from the acceptance of an instruction to its first wave in S1: ``OperationSetup.LATENCY`` + 2 cycles;
    from ``go`` to the dispatch lane and the descriptor: 1 cycle. Throughput: one wave per cycle, also from one
    operation to the next if each has at least ``OperationSetup.LATENCY`` + 1 waves.

    Members
    -------
    index : In(3)
        Number of this tier (a constant outside).
    queue, chained, wait : see `OperationSetup`
    slot_write, slot_opens, slot_wanted, slot_open : see `OperationSetup`
    list_en, list_addr : Out
        Read of the token list; the entry comes one cycle later.
    list_entry : In(list_entry_layout())
    tag_addr : Out(vcache_bits)
        Tile of the wave that will be in S1 in the next cycle (edge feed: of the next tile request).
    tag_source : Out(tiers)
        One-hot: the tier whose ``tag_addr`` this tier's tags shall look up: the leader's where that wave (request)
        follows a K gang's leader, else the own one.
    tag_source_now : Out(tiers)
        The same for ``pending`` (``request``): the tier whose tag is wanted.
    next_pc : Out(PC_BITS)
        Instruction of the wave in S0.
    advance : Out(1)
        That wave moves into S1.
    pending : Out(pending_layout(config))
        The wave in S1.
    go : In(1)
        Issue the wave in S1; only when ``pending.valid``.
    request : Out(pending_layout(config))
        Edge feed: the next tile request, else zero.
    request_go : In(1)
        Edge feed: make it; only when ``request.valid``.
    requested : Out(1)
        Edge feed: the tile of the next ``new`` wave is asked for.
    dispatch : Out(dispatch_layout)
        Lane of the dispatch bond (registered; fields keep their value while ``valid`` is low).
    descriptor_valid : Out(1)
    descriptor : Out(row_descriptor_layout)
        Pushed with each ``last`` wave of a tier that makes rows.
    busy : Out(1)
        An instruction is held or running.
    waiting : Out(1)
        The next instruction waits for semaphores.
    error : Out(error_layout())
        Level until reset: RANGE, ILLEGAL_FIELD. A wave whose list entry leads outside a memory is not issued.
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "index": In(TIER_INDEX_BITS),
                "queue": In(stream.Signature(queue_entry_layout())),
                "chained": In(1),
                "wait": Out(stream.Signature(wait_layout(config))),
                "slot_write": In(slot_write_layout(config)),
                "slot_opens": Out(config.tiers),
                "slot_wanted": Out(config.tiers),
                "slot_open": In(1),
                "list_en": Out(1),
                "list_addr": Out(config.list_bits),
                "list_entry": In(list_entry_layout()),
                "tag_addr": Out(config.vcache_bits),
                "tag_source": Out(config.tiers),
                "tag_source_now": Out(config.tiers),
                "next_pc": Out(PC_BITS),
                "advance": Out(1),
                "pending": Out(pending_layout(config)),
                "go": In(1),
                "request": Out(pending_layout(config)),
                "request_go": In(1),
                "requested": Out(1),
                "dispatch": Out(dispatch_layout(config)),
                "descriptor_valid": Out(1),
                "descriptor": Out(row_descriptor_layout(config)),
                "busy": Out(1),
                "waiting": Out(1),
                "error": Out(error_layout()),
            }
        )

    PARAMETERS = parameters(
        "activation_words combine_rows stationary_feed",
        EdgeRequester.PARAMETERS,
        LoopNest.PARAMETERS,
        OperationSetup.PARAMETERS,
        StartFork.PARAMETERS,
    )
    """What the module depends on."""

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return parameter_key("tier_sequencer", self.config, self.PARAMETERS)

    def elaborate(self, platform: object) -> Module:
        """Build the pipeline."""
        m = Module()
        config = self.config
        setup = instantiate(m, platform, "setup", OperationSetup(config))
        connect(m, flipped(self.queue), setup.queue)
        connect(m, setup.wait, flipped(self.wait))
        m.d.comb += [setup.index.eq(self.index), setup.chained.eq(self.chained), self.waiting.eq(setup.waiting)]
        m.d.comb += [
            setup.slot_write.eq(self.slot_write),
            self.slot_opens.eq(setup.slot_opens),
            self.slot_wanted.eq(setup.slot_wanted),
            setup.slot_open.eq(self.slot_open),
        ]

        nest = instantiate(m, platform, "nest", LoopNest(config))
        edge = self.config.stationary_feed == "edge"
        forked = Signal()
        if edge:
            requester = instantiate(m, platform, "requester", EdgeRequester(config))
            fork = instantiate(m, platform, "start_fork", StartFork(config))
            connect(m, setup.start, fork.start)
            connect(m, fork.waves, nest.start)
            connect(m, fork.requests, requester.start)
            m.d.comb += forked.eq(fork.held)
        else:
            connect(m, setup.start, nest.start)

        # S1: the wave that may go next.
        valid = Signal()
        wave = Signal(loop_wave_layout(config))
        op = Signal(operation_layout(config))
        advance = Signal()
        m.d.comb += [advance.eq(nest.valid & (~valid | self.go)), nest.advance.eq(advance)]
        with m.If(advance):
            m.d.sync += [valid.eq(1), wave.eq(nest.wave), op.eq(nest.op)]
        with m.Elif(self.go):
            m.d.sync += valid.eq(0)

        uses_list = Mux(advance, nest.op.act_list | nest.op.dest_list, valid & (op.act_list | op.dest_list))
        m.d.comb += [
            self.list_en.eq(uses_list),
            self.list_addr.eq(Mux(advance, nest.wave.list, wave.list)),
            self.busy.eq(setup.held | forked | nest.valid | valid | self.dispatch.wave.valid),
        ]
        pending = self.pending
        m.d.comb += [
            self.advance.eq(advance),
            self.next_pc.eq(nest.op.pc),
            pending.valid.eq(valid),
            *(
                pending[name].eq(op[name])
                for name in ("pc", "chained", "leads", "follows", "follows_k", "above", "above_k", "gang", "tag")
            ),
            pending.op_first.eq(wave.op_first),
            pending.new.eq(wave.new),
            pending.last.eq(wave.last),
            pending.op_last.eq(wave.op_last),
            pending.stationary_below.eq(op.stationary_below),
            pending.activation_below.eq(op.activation_below),
        ]
        if edge:
            # The request has made sure of the tile.
            m.d.comb += [
                pending.hold.eq(wave.new & requester.hold),
                self.tag_addr.eq(requester.tag_addr),
                self.tag_source.eq(self._tag_source(requester.request)),
                self.tag_source_now.eq(self._tag_source(requester.request)),
                self.request.eq(requester.request),
                self.requested.eq(requester.requested),
                requester.go.eq(self.request_go),
                requester.new_wave.eq(self.go & wave.new),
                self.dispatch.edge_load.eq(requester.edge_load),
                self.dispatch.edge_below.eq(requester.edge_below),
                self.dispatch.edge_tile.eq(requester.edge_tile),
            ]
        else:
            m.d.comb += [
                pending.reads_tile.eq(wave.new & ~op.stationary_below & ~op.skipped),
                self.tag_addr.eq(Mux(advance, nest.wave.tile, wave.tile)),
                self.tag_source.eq(Mux(advance, self._tag_source(nest.op), self._tag_source(op))),
                self.tag_source_now.eq(self._tag_source(op)),
            ]

        # A gang's operation that has not begun is a barrier: until then nothing orders what comes after it in this
        # queue with what comes before it in the others, so the next instruction must not take semaphores or look its
        # slot up yet. Late by a cycle is soon enough: it asks two cycles after this one left the setup stage.
        def waits_for_gang(operation: Any, first: Value) -> Value:
            return first & (operation.above | operation.above_k | operation.follows | operation.follows_k)

        m.d.sync += setup.hold.eq(
            forked
            | (nest.valid & waits_for_gang(nest.op, nest.wave.op_first))
            | (valid & ~self.go & waits_for_gang(op, wave.op_first))
        )

        act_over, dest_over = self._output(m, op, wave)
        with m.If(~self.error.valid):
            with m.If(setup.error.valid):
                m.d.sync += self.error.eq(setup.error)
            with m.If(self.go & (act_over | dest_over)):
                m.d.sync += [
                    self.error.valid.eq(1),
                    self.error.code.eq(ErrorCode.RANGE),
                    self.error.pc.eq(op.pc),
                ]
        return m

    def _tag_source(self, op: Any) -> Value:
        leader = op.gang & ~(op.gang << 1)
        own = Const(1, self.config.tiers) << self.index
        return Mux(op.follows_k, leader, own)[: self.config.tiers]

    def _output(self, m: Module, op: Signal, wave: Signal) -> tuple[Signal, Signal]:
        """Build the output registers; return (activation address, destination address) outside its memory."""
        config = self.config
        entry = self.list_entry
        source, offset = Signal(16), Signal(16)
        act = Signal(18)
        addr = Signal(19)
        act_over, dest_over = Signal(), Signal()
        row = Signal()
        drop = Signal()
        m.d.comb += [
            source.eq(Mux(op.act_list, entry.source, 0)),
            offset.eq(Mux(op.dest_list, entry.dest, 0)),
            act.eq(wave.act + source),
            addr.eq(wave.dest + offset),
            act_over.eq((act >> config.activation_bits).any()),
            drop.eq(op.skipped | (op.dest_list & entry.drop)),
            row.eq(wave.last & op.makes_rows),
            dest_over.eq(
                row
                & ~drop
                & Mux(op.combine, (addr >> config.combine_bits).any(), (addr >> config.activation_bits).any())
            ),
        ]
        fine = self.go & ~act_over & ~dest_over & ~self.error.valid
        out, tail, descriptor = self.dispatch.wave, self.dispatch.tail, self.descriptor
        m.d.sync += [out.valid.eq(fine), self.descriptor_valid.eq(fine & row)]
        # The range checks come late: they only keep the valid bits low.
        with m.If(self.go):
            m.d.sync += [
                out.new.eq(wave.new),
                out.stationary_below.eq(op.stationary_below),
                out.activation_below.eq(op.activation_below),
                out.psum_below.eq(op.follows_k),
                out.vcache_addr.eq(wave.tile),
                out.activation_addr.eq(act),
                tail.accumulate.eq(op.makes_rows),
                tail.first.eq(wave.first & op.makes_rows),
                tail.last.eq(row),
                tail.accumulator_addr.eq(wave.acc),
                tail.mode.eq(op.mode),
                tail.param_addr.eq(wave.param),
                tail.shift.eq(op.shift),
                tail.post_mult.eq(op.post_mult),
                tail.post_shift.eq(op.post_shift),
            ]
        with m.If(self.go & row):
            m.d.sync += [
                descriptor.combine.eq(op.combine),
                descriptor.accumulate.eq(op.accumulate),
                descriptor.drop.eq(drop),
                descriptor.half.eq(op.mode == Mode.SWIGLU),
                descriptor.op_end.eq(wave.op_last),
                descriptor.tiers.eq(op.tiers),
                descriptor.addr.eq(addr),
                descriptor.byte.eq(Mux(op.combine, 0, row_byte(config, wave.n_global, op.mode == Mode.SWIGLU))),
                descriptor.gate.eq(Mux(op.dest_list, entry.gate, 1)),
                descriptor.post0_en.eq(op.post0_en & wave.op_last),
                descriptor.post0_sem.eq(op.post0_sem),
                descriptor.post1_en.eq(op.post1_en & wave.op_last),
                descriptor.post1_sem.eq(op.post1_sem),
            ]
        return act_over, dest_over
