# SPDX-License-Identifier: Apache-2.0
"""Control of a load engine's data side: counts beats and words; no data passes through."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.config import MachineConfig
from hdl.emit.hierarchy import parameter_key, parameters
from hdl.interfaces import error_layout
from hdl.isa.error_codes import ErrorCode
from hdl.memory.jobs import LoadKind, job_layout, out_word_layout
from hdl.memory.load_slice import beats_per_word, words_per_beat

__all__ = ["LoadControl", "sub_bits", "word_header_layout"]


def sub_bits(config: MachineConfig) -> int:
    """Return the width of the counter of beats in a word, or words in a beat."""
    most = max(max(beats_per_word(config, k), words_per_beat(config, k)) for k in LoadKind)
    return max(1, (most - 1).bit_length())


def word_header_layout(config: MachineConfig) -> data.StructLayout:
    """Return all fields of ``out_word_layout`` but the last one, ``data``."""
    layout = out_word_layout(config)
    return data.StructLayout({name: field.shape for name, field in layout if name != "data"})


class LoadControl(wiring.Component):
    """Counters of the data side; see :class:`hdl.memory.load_data.LoadData`, whose ports most of these are.

    Parameters
    ----------
    config : MachineConfig
    group : int
        Channel group of this engine, 0 or 1.

    Members
    -------
    jobs, stop, partner_ready, pair_ready, pair_step, follow, followed, pair_end, active, starved, fault
        Ports of the data side.
    beat_valid, beat_error : In(1) / take : Out(1)
        The beat at the skew FIFO; it is taken, the next one follows.
    out_valid : Out(1) / out_ready : In(1) / header : Out(word_header_layout)
        The output word without its data.
    sub : Out
        Word in the beat.
    load_fill, load_item : Out(1)
        The output register takes a fill word / a bus word, list entry or row.
    merge, low, pair, high, list, row : Out(1)
        Fill word of planes; of a low one alone; of two; this engine's is the high one of these; a list entry; a row.
    """

    def __init__(self, config: MachineConfig, group: int) -> None:
        self.config = config
        self.group = group
        super().__init__(
            {
                "jobs": In(stream.Signature(job_layout(config))),
                "beat_valid": In(1),
                "beat_error": In(1),
                "take": Out(1),
                "out_valid": Out(1),
                "out_ready": In(1),
                "header": Out(word_header_layout(config)),
                "sub": Out(sub_bits(config)),
                "load_fill": Out(1),
                "load_item": Out(1),
                "merge": Out(1),
                "low": Out(1),
                "pair": Out(1),
                "high": Out(1),
                "list": Out(1),
                "row": Out(1),
                "stop": In(1),
                "partner_ready": In(1),
                "pair_ready": Out(1),
                "pair_step": Out(1),
                "follow": In(1),
                "followed": Out(1),
                "pair_end": Out(1),
                "active": Out(1),
                "starved": Out(1),
                "fault": Out(error_layout()),
            }
        )

    PARAMETERS = parameters("address_bits columns group_bytes position_bits rows semaphores tiers")
    """What the module depends on."""

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return parameter_key(f"load_control_{self.group}", self.config, self.PARAMETERS)

    def elaborate(self, platform: object) -> Module:
        """Build the counters."""
        m = Module()
        config = self.config
        active = Signal()
        job = Signal(job_layout(config))  # position, words and addr count

        # A word takes several beats (then `sub` counts beats) or a beat holds several words (then it counts words).
        sub = Signal(sub_bits(config))
        sub_last = Signal.like(sub)
        gathers = Signal()
        with m.Switch(job.kind):
            for kind in LoadKind:
                with m.Case(kind):
                    beats, words = beats_per_word(config, kind), words_per_beat(config, kind)
                    m.d.comb += [gathers.eq(beats > 1), sub_last.eq(beats * words - 1)]

        is_pair = job.kind == LoadKind.FILL_PAIR
        good = Signal()
        produce = Signal()
        final = Signal()
        step = Signal()
        out_valid = Signal()
        m.d.comb += [
            good.eq(active & (job.empty | (self.beat_valid & ~self.beat_error)) & ~self.stop),
            produce.eq(job.empty | ~gathers | (sub == sub_last)),
            final.eq(produce & (job.words == 1)),
            self.pair_ready.eq(good & is_pair),
            self.take.eq(step & ~job.empty & (gathers | (sub == sub_last) | final)),
            self.jobs.ready.eq(~active | (step & final)),
            self.active.eq(active),
            self.starved.eq(active & ~self.beat_valid & ~job.empty),
            self.out_valid.eq(out_valid),
            self.fault.valid.eq(active & self.beat_valid & self.beat_error & ~job.empty),
            self.fault.code.eq(ErrorCode.AXI_READ),
            self.fault.pc.eq(job.pc),
            self.fault.address.eq(job.addr),
        ]
        room = ~produce | ~out_valid | self.out_ready
        if self.group == 0:
            m.d.comb += [step.eq(good & room & (~is_pair | self.partner_ready)), self.pair_step.eq(step & is_pair)]
            makes = produce
        else:
            m.d.comb += [step.eq(Mux(is_pair, self.follow, good & room)), self.followed.eq(self.follow & final)]
            m.d.comb += self.pair_end.eq(step & final & (is_pair | job.alone))
            makes = produce & ~is_pair

        with m.If(step):
            m.d.sync += sub.eq(Mux((sub == sub_last) | final, 0, sub + 1))
            with m.If(produce):
                m.d.sync += [job.words.eq(job.words - 1), job.position.eq(job.position + 1)]
        with m.If(self.take):
            m.d.sync += job.addr.eq(job.addr + config.group_bytes)
        with m.If(self.jobs.ready):
            m.d.sync += [active.eq(self.jobs.valid), job.eq(self.jobs.payload)]

        fills = (job.kind <= LoadKind.FILL_LOW) & ~job.empty
        is_row = job.kind == LoadKind.ROWS
        is_low = job.kind == LoadKind.FILL_LOW
        is_list = job.kind == LoadKind.LIST
        to_bus = ((job.kind == LoadKind.ACTIVATION) | (job.kind == LoadKind.PARAMETER)) & ~job.empty
        m.d.comb += [
            self.sub.eq(sub),
            self.load_fill.eq(step & makes & fills),
            self.load_item.eq(step & makes & ~fills & ~job.empty),
            self.low.eq(is_low),
            self.merge.eq((job.kind == LoadKind.FILL_HIGH) | is_low | is_pair),
            self.pair.eq(is_pair),
            self.high.eq(job.high),
            self.list.eq(is_list),
            self.row.eq(is_row),
        ]
        with m.If(step & makes):
            m.d.sync += out_valid.eq(1)
            m.d.sync += [
                self.header.fill.eq(fills),
                self.header.columns.eq(job.kind == LoadKind.FILL_COLUMNS),
                self.header.low.eq(is_low),
                self.header.bus.eq(to_bus),
                self.header.parameter.eq(job.kind == LoadKind.PARAMETER),
                self.header.list.eq(is_list),
                self.header.row.eq(is_row),
                self.header.empty.eq(job.empty),
                self.header.last.eq(final),
                self.header.alone.eq(job.alone),
                self.header.tiers.eq(job.tiers),
                self.header.position.eq(job.position),
                self.header.tag.eq(job.tag),
                self.header.shift.eq(job.shift),
                self.header.post.eq(job.post),
            ]
        with m.Elif(self.out_ready):
            m.d.sync += out_valid.eq(0)
        return m
