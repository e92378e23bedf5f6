# SPDX-License-Identifier: Apache-2.0
"""Load unit: two load engines, one a channel group, from instruction to memories of the tiers."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.config import MachineConfig
from hdl.emit.hierarchy import digest, instantiate
from hdl.interfaces import (
    error_layout,
    fill_control_layout,
    post_layout,
    queue_entry_layout,
    wait_layout,
    write_layout,
)
from hdl.memory.axi import group_read_signature, read_beat_layout
from hdl.memory.fifo import StreamFifo
from hdl.memory.jobs import job_fifo_depth, job_layout, log2
from hdl.memory.load_address import LoadAddress
from hdl.memory.load_data import LoadData

__all__ = ["LoadUnit", "load_stats_layout"]


def load_stats_layout() -> data.StructLayout:
    """Return the load unit's pulses of a cycle, one bit an engine (lane).

    ``beats``: a beat arrived. ``words``: a fill word was launched. ``gave_way``: a fill word waited for the other
    lane's to the same tier. ``waiting``: a load waits for a semaphore or its partner. ``blocked``: a burst waits for
    room or for the limit of outstanding bursts. ``starved``: a load waits for read data.
    """
    return data.StructLayout({"beats": 2, "words": 2, "gave_way": 2, "waiting": 2, "blocked": 2, "starved": 2})


class LoadUnit(wiring.Component):
    """Runs LOAD instructions: an address side that runs ahead, a skew FIFO and a data side for each channel group.

    Latency: about 7 cycles from ``queue`` to ``read.ar``, 4 from ``read.r`` to the fill word. Throughput: one beat per
    cycle and group (a fill word per cycle for a PAIR load, per engine for HIGH loads, per two cycles for BYTES), also
    across instructions, as long as ``skew_fifo_beats`` and ``outstanding_bursts`` cover the memory's latency; one unit
    write and one list entry per cycle for both engines together.

    After ``halt`` or an error of its own it issues no new bursts and launches nothing more; beats of bursts on their
    way find their reserved room in the skew FIFO, and ``quiet`` rises when the last one arrived. Only a reset ends that.

    Parameters
    ----------
    config : MachineConfig

    Members
    -------
    queue : In(stream of queue_entry_layout).array(2)
        LOAD instructions of each engine; a PAIR load is in both.
    wait, post : Out(stream).array(2)
        Semaphores; a PAIR load waits and posts through engine 0. Each engine posts after it launched the last word.
    read : Out(group_read_signature).array(2)
    fill_control, fill_data, fill_tag : Out, 2 lanes
        Fill words; PAIR loads use lane 0. The lanes never carry words for the same tier in one cycle.
    unit_write : Out(stream of write_layout)
        Activation and parameter words.
    list_write_valid, list_write_tiers, list_write_addr, list_write_entry : Out
        A token-list entry; always accepted.
    limit : In(address_bits + 1).array(2)
        Bytes of each group's memory.
    halt : In(1)
    quiet : Out(1)
        No AXI transaction is outstanding.
    pending : Out(1)
        A load is queued here or not finished.
    error : Out(error_layout)
        ADDRESS or AXI_READ; stays until reset.
    stats : Out(load_stats_layout)
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "queue": In(stream.Signature(queue_entry_layout())).array(2),
                "wait": Out(stream.Signature(wait_layout(config))).array(2),
                "post": Out(stream.Signature(post_layout(config))).array(2),
                "read": Out(group_read_signature(config)).array(2),
                "fill_control": Out(fill_control_layout(config)).array(2),
                "fill_data": Out(8 * config.columns).array(2, config.fill_rows),
                "fill_tag": Out(6).array(2),
                "unit_write": Out(stream.Signature(write_layout(config))),
                "list_write_valid": Out(1),
                "list_write_tiers": Out(config.tiers),
                "list_write_addr": Out(config.list_bits),
                "list_write_entry": Out(64),
                "limit": In(config.address_bits + 1).array(2),
                "halt": In(1),
                "quiet": Out(1),
                "pending": Out(1),
                "error": Out(error_layout()),
                "stats": Out(load_stats_layout()),
            }
        )

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return f"load_unit_{digest(self.config.digest())}"

    def elaborate(self, platform: object) -> Module:
        """Connect the engines and arbitrate their outputs."""
        m = Module()
        config = self.config
        address = [instantiate(m, platform, f"address{g}", LoadAddress(config, g)) for g in range(2)]
        datas = [instantiate(m, platform, f"data{g}", LoadData(config, g)) for g in range(2)]
        stop = Signal()

        for g in range(2):
            jobs = StreamFifo(job_layout(config), job_fifo_depth(config))
            skew = StreamFifo(read_beat_layout(config), config.skew_fifo_beats)
            instantiate(m, platform, f"jobs{g}", jobs)
            instantiate(m, platform, f"skew{g}", skew)
            wiring.connect(m, wiring.flipped(self.queue[g]), address[g].queue)
            wiring.connect(m, address[g].wait, wiring.flipped(self.wait[g]))
            wiring.connect(m, address[g].request, wiring.flipped(self.read[g].ar))
            wiring.connect(m, address[g].jobs, jobs.input)
            wiring.connect(m, jobs.output, datas[g].jobs)
            wiring.connect(m, wiring.flipped(self.read[g].r), skew.input)
            wiring.connect(m, skew.output, datas[g].beats)
            other = address[1 - g]
            arrived = self.read[g].r.valid & self.read[g].r.ready
            m.d.comb += [
                address[g].limit.eq(self.limit[g]),
                address[g].stop.eq(stop),
                address[g].released.eq(skew.output.valid & skew.output.ready),
                address[g].answered.eq(arrived & self.read[g].r.payload.last),
                address[g].partner_here.eq(other.pair_here),
                address[g].partner_held.eq(other.pair_held),
                address[g].partner_bad_high.eq(other.pair_bad_high),
                datas[g].stop.eq(stop),
                self.stats.beats[g].eq(arrived),
                self.stats.waiting[g].eq(address[g].waiting),
                self.stats.blocked[g].eq(address[g].blocked),
                self.stats.starved[g].eq(datas[g].starved),
            ]
            if g == 1:
                m.d.comb += [
                    address[1].partner_go.eq(address[0].pair_go),
                    datas[0].partner_data.eq(skew.output.payload.data),
                    datas[0].partner_ready.eq(datas[1].pair_ready),
                    datas[1].follow.eq(datas[0].pair_step),
                ]
        self._errors(m, address, datas, stop)
        self._outputs(m, address, datas, stop)
        return m

    def _errors(self, m: Module, address: list[LoadAddress], datas: list[LoadData], stop: Signal) -> None:
        """Keep the first error; it stops both engines."""
        held = Signal(error_layout())
        m.d.comb += [
            self.error.eq(held),
            stop.eq(self.halt | held.valid),
            self.quiet.eq(~(address[0].outstanding | address[1].outstanding)),
        ]
        # Data before addresses: what the data side handles is older.
        faults = [unit.fault for unit in (*datas, *address)]
        with m.If(~stop):
            for fault in reversed(faults):
                with m.If(fault.valid):
                    m.d.sync += held.eq(fault)

    def _outputs(self, m: Module, address: list[LoadAddress], datas: list[LoadData], stop: Signal) -> None:
        """Launch the data sides' words: fill lanes, unit writes, list entries, and the posts that follow the last."""
        config = self.config
        word_bits = log2(config.fill_words)
        outs = [unit.out for unit in datas]
        words = [out.payload for out in outs]
        # An instruction that posts is finished only when the register for its post is free.
        ready = Signal(2)
        launch = Signal(2)
        fill, unit, entry = Signal(2), Signal(2), Signal(2)
        launch_fill, launch_unit, launch_entry = Signal(2), Signal(2), Signal(2)
        m.d.comb += [
            launch.eq(launch_fill | launch_unit | launch_entry),
            self.stats.words.eq(launch_fill),
            self.stats.gave_way.eq(fill & ~launch_fill),
        ]
        finished = Signal(2)
        counts = []
        for g in range(2):
            posts = words[g].last & (words[g].post.en0 | words[g].post.en1)
            post_valid = Signal(name=f"post_valid{g}")
            m.d.comb += [
                ready[g].eq(outs[g].valid & ~stop & ~(posts & post_valid)),
                fill[g].eq(ready[g] & words[g].fill),
                unit[g].eq(ready[g] & words[g].unit),
                entry[g].eq(ready[g] & words[g].list),
                outs[g].ready.eq(launch[g]),
                self.post[g].valid.eq(post_valid),
                finished[g].eq((launch[g] & words[g].last) | datas[g].followed),
            ]
            with m.If(launch[g] & posts):
                m.d.sync += [post_valid.eq(1), self.post[g].payload.eq(words[g].post)]
            with m.Elif(self.post[g].ready):
                m.d.sync += post_valid.eq(0)
            count = Signal(range(job_fifo_depth(config) + 8), name=f"unfinished{g}")
            m.d.sync += count.eq(count + address[g].accepted - finished[g])
            counts.append((count != 0) | self.queue[g].valid)
        m.d.comb += self.pending.eq(Cat(counts).any())

        # Fill lanes: they share a tier's write port, so one of two words for the same tier waits, in turns.
        conflict = Signal()
        turn = Signal()
        m.d.comb += [
            conflict.eq(fill.all() & (words[0].tiers & words[1].tiers).any()),
            launch_fill[0].eq(fill[0] & ~(conflict & turn)),
            launch_fill[1].eq(fill[1] & ~(conflict & ~turn)),
        ]
        with m.If(conflict):
            m.d.sync += turn.eq(~turn)
        for g in range(2):
            m.d.comb += [
                self.fill_control[g].valid.eq(launch_fill[g]),
                self.fill_control[g].tiers.eq(words[g].tiers),
                self.fill_control[g].word.eq(words[g].position[:word_bits]),
                self.fill_control[g].tile.eq(words[g].position[word_bits:]),
                self.fill_tag[g].eq(words[g].tag),
                *(
                    self.fill_data[g][i].eq(words[g].data.word_select(i, 8 * config.columns))
                    for i in range(config.fill_rows)
                ),
            ]

        # Unit writes: one engine at a time, and it stays until its word is taken.
        owner = self._choose(m, "unit", unit, self.unit_write.ready)
        chosen = Array(words)[owner]
        m.d.comb += [
            self.unit_write.valid.eq(unit.any()),
            self.unit_write.payload.valid.eq(unit.any()),
            self.unit_write.payload.parameter.eq(chosen.parameter),
            self.unit_write.payload.tiers.eq(chosen.tiers),
            self.unit_write.payload.addr.eq(chosen.position),
            self.unit_write.payload.enable.eq(~0),
            self.unit_write.payload.data.eq(chosen.data),
            launch_unit.eq(unit & Mux(self.unit_write.ready, 1 << owner, 0)),
        ]
        owner = self._choose(m, "list", entry, None)
        chosen = Array(words)[owner]
        m.d.comb += [
            self.list_write_valid.eq(entry.any()),
            self.list_write_tiers.eq(chosen.tiers),
            self.list_write_addr.eq(chosen.position),
            self.list_write_entry.eq(chosen.data),
            launch_entry.eq(entry & (1 << owner)),
        ]

    def _choose(self, m: Module, name: str, wants: Signal, ready: Signal | None) -> Signal:
        """Return which engine has the output: in turns when both want it, fixed while an offer is not taken."""
        owner = Signal(name=f"{name}_owner")
        last = Signal(name=f"{name}_last")
        m.d.comb += owner.eq(Mux(wants.all(), ~last, wants[1]))
        taken = wants.any() if ready is None else wants.any() & ready
        if ready is not None:
            locked = Signal(name=f"{name}_locked")
            with m.If(locked):
                m.d.comb += owner.eq(last)
            m.d.sync += locked.eq(wants.any() & ~ready)
            taken = wants.any()
        with m.If(taken):
            m.d.sync += last.eq(owner)
        return owner
