# SPDX-License-Identifier: Apache-2.0
"""Data side of a load engine: takes beats from the skew FIFO and makes words for their destination."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.config import MachineConfig
from hdl.emit.hierarchy import digest
from hdl.errors_hw import ErrorCode
from hdl.interfaces import error_layout
from hdl.legality import LIST_ENTRY_BYTES
from hdl.memory.axi import read_beat_layout
from hdl.memory.jobs import LoadKind, job_layout, kind_unit_bytes, out_word_layout
from hdl.memory.nibbles import merge_planes

__all__ = ["LoadData"]


class LoadData(wiring.Component):
    """Gearbox between beats and fill words (2 x group_bytes), units (rows bytes) and list entries (8 bytes).

    Latency: one cycle from the last beat of a word to the word. Throughput: one beat per cycle, or one word per cycle
    where a beat holds several; no cycle is lost between instructions.

    In a PAIR load, engine 0 merges its own beats with those of engine 1, which only follows.

    Parameters
    ----------
    config : MachineConfig
    group : int
        Channel group of this engine, 0 or 1.

    Members
    -------
    jobs : In(stream of job_layout)
    beats : In(stream of read_beat_layout)
        Output of the skew FIFO.
    out : Out(stream of out_word_layout)
    stop : In(1)
        Take no more beats.
    partner_data : In(8 * group_bytes)
        Engine 0: the beat at the head of engine 1's FIFO.
    partner_ready : In(1)
        Engine 0: engine 1 is in a PAIR load and has a good beat.
    pair_ready : Out(1)
        Engine 1: likewise.
    pair_step : Out(1) / follow : In(1)
        Engine 0 takes a beat of both planes in this cycle / engine 1 is told so.
    followed : Out(1)
        Engine 1: the last beat of a PAIR load was taken.
    active : Out(1)
        A job is not finished.
    starved : Out(1)
        There is a job but no beat.
    fault : Out(error_layout)
        AXI_READ with the address of the beat; stays.
    """

    def __init__(self, config: MachineConfig, group: int) -> None:
        self.config = config
        self.group = group
        super().__init__(
            {
                "jobs": In(stream.Signature(job_layout(config))),
                "beats": In(stream.Signature(read_beat_layout(config))),
                "out": Out(stream.Signature(out_word_layout(config))),
                "stop": In(1),
                "partner_data": In(8 * config.group_bytes),
                "partner_ready": In(1),
                "pair_ready": Out(1),
                "pair_step": Out(1),
                "follow": In(1),
                "followed": Out(1),
                "active": Out(1),
                "starved": Out(1),
                "fault": Out(error_layout()),
            }
        )

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return f"load_data_{self.group}_{digest(self.config.digest())}"

    def _beats_per_word(self, kind: LoadKind) -> int:
        return max(1, kind_unit_bytes(self.config, kind) // self.config.group_bytes)

    def _words_per_beat(self, kind: LoadKind) -> int:
        return max(1, self.config.group_bytes // kind_unit_bytes(self.config, kind))

    def elaborate(self, platform: object) -> Module:
        """Build the counters and the gearbox."""
        m = Module()
        config = self.config
        active = Signal()
        job = Signal(job_layout(config))  # position, units and addr count
        beat = self.beats.payload.data

        # A word takes several beats (then `sub` counts beats) or a beat holds several words (then it counts words).
        most = max(max(self._beats_per_word(k), self._words_per_beat(k)) for k in LoadKind)
        sub = Signal(range(max(2, most)))
        sub_last = Signal.like(sub)
        gathers = Signal()
        with m.Switch(job.kind):
            for kind in LoadKind:
                with m.Case(kind):
                    beats_per_word, words_per_beat = self._beats_per_word(kind), self._words_per_beat(kind)
                    m.d.comb += [gathers.eq(beats_per_word > 1), sub_last.eq(beats_per_word * words_per_beat - 1)]

        is_pair = job.kind == LoadKind.FILL_PAIR
        good = Signal()
        produce = Signal()
        final = Signal()
        step = Signal()
        out_valid = Signal()
        m.d.comb += [
            good.eq(active & self.beats.valid & ~self.beats.payload.error & ~self.stop),
            produce.eq(~gathers | (sub == sub_last)),
            final.eq(produce & (job.units == 1)),
            self.pair_ready.eq(good & is_pair),
            self.beats.ready.eq(step & (gathers | (sub == sub_last) | final)),
            self.jobs.ready.eq(~active | (step & final)),
            self.active.eq(active),
            self.starved.eq(active & ~self.beats.valid),
            self.out.valid.eq(out_valid),
            self.fault.valid.eq(active & self.beats.valid & self.beats.payload.error),
            self.fault.code.eq(ErrorCode.AXI_READ),
            self.fault.pc.eq(job.pc),
            self.fault.address.eq(job.addr),
        ]
        room = ~produce | ~out_valid | self.out.ready
        if self.group == 0:
            m.d.comb += [step.eq(good & room & (~is_pair | self.partner_ready)), self.pair_step.eq(step & is_pair)]
            makes = produce
        else:
            m.d.comb += [step.eq(Mux(is_pair, self.follow, good & room)), self.followed.eq(self.follow & final)]
            makes = produce & ~is_pair

        with m.If(step):
            m.d.sync += sub.eq(Mux((sub == sub_last) | final, 0, sub + 1))
            with m.If(produce):
                m.d.sync += [job.units.eq(job.units - 1), job.position.eq(job.position + 1)]
        previous = [
            Signal(8 * config.group_bytes, name=f"previous{i}")
            for i in range(max(self._beats_per_word(k) for k in LoadKind) - 1)
        ]
        with m.If(self.beats.ready):
            m.d.sync += job.addr.eq(job.addr + config.group_bytes)
            m.d.sync += [new.eq(old) for new, old in zip(previous, [beat, *previous], strict=False)]
        with m.If(self.jobs.ready):
            m.d.sync += [active.eq(self.jobs.valid), job.eq(self.jobs.payload)]

        # Planes of the weights; HIGH is PAIR with low nibbles of zero. Engine 1 never merges. Signals, because an
        # expression that is used twice is emitted twice.
        high = Signal(8 * config.group_bytes, name="high")
        m.d.comb += high.eq(beat)
        low: Signal | None = None
        if self.group == 0:
            low = Signal(8 * config.group_bytes, name="low")
            with m.If(is_pair):
                m.d.comb += low.eq(beat)
                with m.If(job.high):
                    m.d.comb += low.eq(self.partner_data)
                with m.Else():
                    m.d.comb += high.eq(self.partner_data)
        with m.If(step & makes):
            m.d.sync += out_valid.eq(1)
            self._word(m, job, sub, [beat, *previous], merge_planes(high, low), final)
        with m.Elif(self.out.ready):
            m.d.sync += out_valid.eq(0)
        return m

    def _word(self, m: Module, job: Value, sub: Signal, recent: list[Value], merged: Value, final: Signal) -> None:
        """Assign the output register (under the condition that a word is made); `recent`: beats, the newest first."""
        config = self.config
        out = self.out.payload
        beat = recent[0]

        def gathered(kind: LoadKind) -> Value:
            n = self._beats_per_word(kind)
            if n > 1:
                return Cat(*reversed(recent[:n]))
            words = self._words_per_beat(kind)
            return beat if words == 1 else beat.word_select(sub[: (words - 1).bit_length()], len(beat) // words)

        m.d.sync += [
            out.fill.eq(job.kind <= LoadKind.FILL_PAIR),
            out.unit.eq((job.kind == LoadKind.ACTIVATION) | (job.kind == LoadKind.PARAMETER)),
            out.parameter.eq(job.kind == LoadKind.PARAMETER),
            out.list.eq(job.kind == LoadKind.LIST),
            out.last.eq(final),
            out.tiers.eq(job.tiers),
            out.position.eq(job.position),
            out.tag.eq(job.tag),
            out.post.eq(job.post),
        ]
        with m.Switch(job.kind):
            with m.Case(LoadKind.FILL_BYTES):
                m.d.sync += out.data.eq(gathered(LoadKind.FILL_BYTES))
            with m.Case(LoadKind.FILL_HIGH, LoadKind.FILL_PAIR):
                m.d.sync += out.data.eq(merged)
            with m.Case(LoadKind.ACTIVATION, LoadKind.PARAMETER):
                m.d.sync += out.data[: 8 * config.rows].eq(gathered(LoadKind.ACTIVATION))
            with m.Case(LoadKind.LIST):
                m.d.sync += out.data[: 8 * LIST_ENTRY_BYTES].eq(gathered(LoadKind.LIST))
