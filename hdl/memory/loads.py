# SPDX-License-Identifier: Apache-2.0
"""Load unit: two load engines, one a channel group, from instruction to memories of the tiers."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.config import MachineConfig
from hdl.emit.hierarchy import digest, instantiate, ports_of
from hdl.interfaces import (
    error_layout,
    fill_control_layout,
    post_layout,
    queue_entry_layout,
    wait_layout,
    write_layout,
)
from hdl.legality import LIST_ENTRY_BYTES
from hdl.memory.axi import group_read_signature, read_beat_layout
from hdl.memory.fifo import StreamFifo
from hdl.memory.jobs import job_fifo_depth, job_layout, log2
from hdl.memory.launch import LoadLaunch
from hdl.memory.load_address import LoadAddress
from hdl.memory.load_data import LoadData

__all__ = ["LoadUnit", "load_stats_layout"]

MOST_INSTANCE_OUTPUTS = 65_536
"""Bits that Amaranth's netlist lets an instance drive."""


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
    way find their reserved room in the skew FIFO, and ``quiet`` rises when the last one arrived. Only a reset ends it.

    Where its outputs are too many for a Verilog instance (`large`: two fill words of 32,768 bits), the unit has no
    ``module_key``: it stays part of its parent's conversion, and the parent resets it through ``soft_reset``.

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
    soft_reset : In(1)
        Resets everything in the unit, as the reset of the domain does.
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
                "soft_reset": In(1),
                "quiet": Out(1),
                "pending": Out(1),
                "error": Out(error_layout()),
                "stats": Out(load_stats_layout()),
            }
        )

        if sum(port.width for port in ports_of(self) if port.direction == "output") <= MOST_INSTANCE_OUTPUTS:
            self.module_key = self._module_key

    def _module_key(self) -> str:
        """Name of the Verilog module, where the unit can be an instance."""
        return f"load_unit_{digest(self.config.digest())}"

    def elaborate(self, platform: object) -> Module:
        """Connect the engines; there are no registers here."""
        m = Module()
        config = self.config

        def place(name: str, component: Any) -> Any:
            return instantiate(m, platform, name, component, reset=self.soft_reset)

        address = [place(f"address{g}", LoadAddress(config, g)) for g in range(2)]
        datas = [place(f"data{g}", LoadData(config, g)) for g in range(2)]
        launch = place("launch", LoadLaunch(config))

        for g in range(2):
            jobs = place(f"jobs{g}", StreamFifo(job_layout(config), job_fifo_depth(config)))
            skew = place(f"skew{g}", StreamFifo(read_beat_layout(config), config.skew_fifo_beats))
            wiring.connect(m, wiring.flipped(self.queue[g]), address[g].queue)
            wiring.connect(m, address[g].wait, wiring.flipped(self.wait[g]))
            wiring.connect(m, address[g].request, wiring.flipped(self.read[g].ar))
            wiring.connect(m, address[g].jobs, jobs.input)
            wiring.connect(m, jobs.output, datas[g].jobs)
            wiring.connect(m, wiring.flipped(self.read[g].r), skew.input)
            wiring.connect(m, skew.output, datas[g].beats)
            wiring.connect(m, launch.post[g], wiring.flipped(self.post[g]))
            other = address[1 - g]
            arrived = self.read[g].r.valid & self.read[g].r.ready
            m.d.comb += [
                address[g].limit.eq(self.limit[g]),
                address[g].stop.eq(launch.stop),
                address[g].released.eq(skew.output.valid & skew.output.ready),
                address[g].answered.eq(arrived & self.read[g].r.payload.last),
                address[g].partner_here.eq(other.pair_here),
                address[g].partner_held.eq(other.pair_held),
                address[g].partner_bad_high.eq(other.pair_bad_high),
                datas[g].stop.eq(launch.stop),
                launch.accepted[g].eq(address[g].accepted),
                launch.followed[g].eq(datas[g].followed),
                launch.queued[g].eq(self.queue[g].valid),
                # Data before addresses: what the data side handles is older.
                launch.fault[g].eq(datas[g].fault),
                launch.fault[2 + g].eq(address[g].fault),
                self.stats.beats[g].eq(arrived),
                self.stats.words[g].eq(launch.fill[g]),
                self.stats.gave_way[g].eq(launch.gave_way[g]),
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
        m.d.comb += [
            launch.halt.eq(self.halt),
            self.error.eq(launch.error),
            self.pending.eq(launch.pending),
            self.quiet.eq(~(address[0].outstanding | address[1].outstanding)),
        ]
        self._outputs(m, datas, launch)
        return m

    def _outputs(self, m: Module, datas: list[LoadData], launch: LoadLaunch) -> None:
        """Connect the engines' words to the lanes and ports that the launcher gives them."""
        config = self.config
        word_bits = log2(config.fill_words)
        words = [unit.out.payload for unit in datas]
        for g in range(2):
            m.d.comb += [
                launch.offer[g].valid.eq(datas[g].out.valid),
                *(launch.offer[g][n].eq(words[g][n]) for n in ("fill", "unit", "list", "last", "tiers", "post")),
                datas[g].out.ready.eq(launch.launch[g]),
                self.fill_control[g].valid.eq(launch.fill[g]),
                self.fill_control[g].tiers.eq(words[g].tiers),
                self.fill_control[g].word.eq(words[g].position[:word_bits]),
                self.fill_control[g].tile.eq(words[g].position[word_bits:]),
                self.fill_tag[g].eq(words[g].tag),
            ]
            m.d.comb += [
                self.fill_data[g][i].eq(words[g].data.word_select(i, 8 * config.columns))
                for i in range(config.fill_rows)
            ]

        def chosen(owner: Value, name: str, width: int | None = None) -> Value:
            return Mux(owner, words[1][name][:width], words[0][name][:width])

        unit = self.unit_write.payload
        owner = launch.unit_owner
        m.d.comb += [
            self.unit_write.valid.eq(launch.unit_valid),
            launch.unit_ready.eq(self.unit_write.ready),
            unit.valid.eq(launch.unit_valid),
            unit.parameter.eq(chosen(owner, "parameter")),
            unit.tiers.eq(chosen(owner, "tiers")),
            unit.addr.eq(chosen(owner, "position")),
            unit.enable.eq(~0),
            unit.data.eq(chosen(owner, "data", 8 * config.rows)),
            self.list_write_valid.eq(launch.list_valid),
            self.list_write_tiers.eq(chosen(launch.list_owner, "tiers")),
            self.list_write_addr.eq(chosen(launch.list_owner, "position")),
            self.list_write_entry.eq(chosen(launch.list_owner, "data", 8 * LIST_ENTRY_BYTES)),
        ]
