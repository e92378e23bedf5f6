# SPDX-License-Identifier: Apache-2.0
"""Load unit: two load engines, one a channel group, from instruction to memories of the tiers."""

from __future__ import annotations

from typing import Final, NamedTuple

from amaranth.hdl import Cat
from amaranth.lib import data, stream
from amaranth.lib.wiring import In, Out

from hdl.common.stream_fifo import TIMING as FIFO_TIMING
from hdl.common.stream_fifo import StreamFifo
from hdl.config import MachineConfig
from hdl.emit.hierarchy import parameter_key, parameters
from hdl.emit.structural import StructuralComponent, Structure, struct_of
from hdl.interfaces import (
    error_layout,
    fill_control_layout,
    post_layout,
    queue_entry_layout,
    row_write_layout,
    slot_write_layout,
    wait_layout,
    write_layout,
)
from hdl.memory.axi import group_read_signature, read_beat_layout
from hdl.memory.fill_lane import FILL_LANE_CYCLES, FillLane
from hdl.memory.jobs import job_fifo_depth, job_layout
from hdl.memory.launch import LoadLaunch, offer_layout
from hdl.memory.load_address import LoadAddress
from hdl.memory.load_data import LoadData
from hdl.memory.load_mux import LoadMux
from hdl.memory.load_rows import RowSlice, slice_elements

__all__ = ["TIMING", "LoadTiming", "LoadUnit", "load_stats_layout"]


class LoadTiming(NamedTuple):
    """Cycles of a load engine's data side.

    Attributes
    ----------
    beat : int
        From a beat at ``read.r`` to the first cycle in which it is taken out of the skew FIFO.
    word : int
        From the last beat of a word, taken there, to the launch.
    fill : int
        From the launch of a fill word to the word on its lane.
    post : int
        From the launch of the last word to the post.
    """

    beat: int
    word: int
    fill: int
    post: int


TIMING: Final = LoadTiming(beat=FIFO_TIMING.through, word=1, fill=FILL_LANE_CYCLES, post=1)
"""The skew FIFO, the output register of the data side, the register of the lane, the register of the post."""


def load_stats_layout() -> data.StructLayout:
    """Return the load unit's pulses of a cycle, one bit an engine (lane).

    ``beats``: a beat arrived. ``words``: a fill word was launched. ``gave_way``: a fill word waited for the other
    lane's to the same tier. ``waiting``: a load waits for a semaphore or its partner. ``blocked``: a burst waits for
    room or for the limit of outstanding bursts. ``starved``: a load waits for read data. ``left_out``: a load begins
    that reads nothing, as its slot is empty or wants no low plane. ``reduced``: a PAIR load begins that reads the high
    plane only.
    """
    return data.StructLayout(
        {"beats": 2, "words": 2, "gave_way": 2, "waiting": 2, "blocked": 2, "starved": 2, "left_out": 2, "reduced": 2}
    )


class LoadUnit(StructuralComponent):
    """Runs LOAD instructions: an address side that runs ahead, a skew FIFO and a data side for each channel group.

    Latency: about 7 cycles from ``queue`` to ``read.ar``, 4 from ``read.r`` to the fill word. Throughput: one beat per
    cycle and group (a fill word per cycle for a PAIR load, per engine for HIGH loads, per two cycles for BYTES and
    COLUMNS), also across instructions, as long as ``skew_fifo_beats`` and ``outstanding_bursts`` cover the memory's
    latency; one bus word, one row and one list entry per cycle for both engines together.

    After ``halt`` or an error of its own it issues no new bursts and launches nothing more; beats of bursts on their
    way find their reserved room in the skew FIFO, and ``quiet`` rises when the last one arrived. Only a reset ends it.

    Structure only: its buses are wide (`large`: two fill words of 32,768 bits), and what logic there is fits in blocks.

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
        Fill words, a cycle after their launch; PAIR loads use lane 0. The lanes carry words for the same tier in one
        cycle only where :class:`LoadLaunch` says that they do not clash.
    bus_write : Out(stream of write_layout)
        Activation and parameter words.
    row_write : Out(stream of row_write_layout)
        Rows of the combine buffer, numbered in the whole buffer: int16 elements shifted left, as int32.
    list_write_valid, list_write_tiers, list_write_addr, list_write_entry : Out
        A token-list entry; always accepted.
    slot_write : In
        The routing table, see `SlotTable`.
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
    begun : Out(2), ended : Out(3)
        Pulses for traces: an engine starts to ask for an instruction's data; it launched the last word of one (bit 2:
        engine 1 did its part of a PAIR load, whose words engine 0 launches).
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
                "bus_write": Out(stream.Signature(write_layout(config))),
                "row_write": Out(stream.Signature(row_write_layout(config))),
                "list_write_valid": Out(1),
                "list_write_tiers": Out(config.tiers),
                "list_write_addr": Out(config.list_bits),
                "list_write_entry": Out(64),
                "slot_write": In(slot_write_layout(config)),
                "limit": In(config.address_bits + 1).array(2),
                "halt": In(1),
                "soft_reset": In(1),
                "quiet": Out(1),
                "pending": Out(1),
                "error": Out(error_layout()),
                "stats": Out(load_stats_layout()),
                "begun": Out(2),
                "ended": Out(3),
            }
        )

    PARAMETERS = parameters(
        "vcache_tiles",
        LoadAddress.PARAMETERS,
        LoadData.PARAMETERS,
        LoadLaunch.PARAMETERS,
        LoadMux.PARAMETERS,
        FillLane.PARAMETERS,
    )
    """What the module depends on."""

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return parameter_key("load_unit", self.config, self.PARAMETERS)

    def structure(self) -> Structure:
        """Place the engines and connect them."""
        s = Structure(self)
        config = self.config
        reset = self.soft_reset
        address = [s.add(f"address{g}", LoadAddress(config, g), reset=reset) for g in range(2)]
        datas = [s.add(f"data{g}", LoadData(config, g), reset=reset) for g in range(2)]
        launch = s.add("launch", LoadLaunch(config), reset=reset)
        mux = s.add("mux", LoadMux(config))
        for g in range(2):
            jobs = s.add(f"jobs{g}", StreamFifo(job_layout(config), job_fifo_depth(config)), reset=reset)
            skew = s.add(f"skew{g}", StreamFifo(read_beat_layout(config), config.skew_fifo_beats), reset=reset)
            s.link(self.queue[g], address[g].queue)
            s.link(address[g].wait, self.wait[g])
            s.link(address[g].request, self.read[g].ar)
            s.link(address[g].jobs, jobs.input)
            s.link(jobs.output, datas[g].jobs)
            s.link(self.read[g].r, skew.input)
            s.link(skew.output, datas[g].beats)
            s.link(launch.post[g], self.post[g])
            s.connect(mux.read_valid[g], self.read[g].r.valid)
            s.connect(mux.read_ready[g], skew.input.ready)
            s.connect(mux.read_last[g], self.read[g].r.payload.last)
            s.connect(mux.word_valid[g], skew.output.valid)
            s.connect(mux.word_ready[g], datas[g].beats.ready)
            other = address[1 - g]
            s.connect(address[g].limit, self.limit[g])
            s.connect(address[g].slot_write, self.slot_write)
            s.connect(address[g].stop, launch.stop)
            s.connect(address[g].released, mux.released[g])
            s.connect(address[g].answered, mux.answered[g])
            s.connect(address[g].partner_here, other.pair_here)
            s.connect(address[g].partner_held, other.pair_held)
            s.connect(address[g].partner_bad_high, other.pair_bad_high)
            s.connect(datas[g].stop, launch.stop)
            s.connect(launch.accepted[g], address[g].accepted)
            s.connect(launch.followed[g], datas[g].followed)
            s.connect(launch.queued[g], self.queue[g].valid)
            # Data before addresses: what the data side handles is older.
            s.connect(launch.fault[g], datas[g].fault)
            s.connect(launch.fault[2 + g], address[g].fault)
            if g == 1:
                s.connect(address[1].partner_go, address[0].pair_go)
                s.connect(datas[0].partner_data, skew.output.payload.data)
                s.connect(datas[0].partner_ready, datas[1].pair_ready)
                s.connect(datas[1].follow, datas[0].pair_step)
        s.connect(launch.halt, self.halt)
        s.connect(self.error, launch.error)
        s.connect(self.pending, launch.pending)
        s.connect(mux.outstanding, [unit.outstanding for unit in address])
        s.connect(self.quiet, mux.quiet)
        stats = {
            "beats": mux.arrived,
            "words": launch.fill,
            "gave_way": launch.gave_way,
            "waiting": [unit.waiting for unit in address],
            "blocked": [unit.blocked for unit in address],
            "starved": [unit.starved for unit in datas],
            "left_out": [unit.left_out for unit in address],
            "reduced": [unit.reduced for unit in address],
        }
        s.connect(self.stats, struct_of(load_stats_layout(), {name: Cat(*bits) for name, bits in stats.items()}))
        s.connect(self.begun, [unit.begun for unit in address])
        s.connect(self.ended, [*launch.ended, datas[1].pair_end])
        self._outputs(s, datas, launch, mux)
        return s

    def _outputs(self, s: Structure, datas: list[LoadData], launch: LoadLaunch, mux: LoadMux) -> None:
        """Connect the engines' words to the lanes and ports that the launcher gives them."""
        config = self.config
        control = fill_control_layout(config)
        word_bits, tile_bits = control["word"].width, control["tile"].width
        item_bits = len(mux.data[0])
        for g in range(2):
            word = datas[g].out.payload
            offer = {
                name: getattr(word, name)
                for name in ("fill", "columns", "bus", "list", "row", "empty", "last", "alone", "tiers", "post")
            }
            offer |= {"valid": datas[g].out.valid, "word": word.position[:word_bits]}
            s.connect(launch.offer[g], struct_of(offer_layout(config), offer))
            s.connect(datas[g].out.ready, launch.launch[g])
            lane = s.add(f"lane{g}", FillLane(config))
            fields = {
                "valid": launch.fill[g],
                "columns": word.columns,
                "low": word.low,
                "tiers": word.tiers,
                "tile": word.position[word_bits : word_bits + tile_bits],
                "word": word.position[:word_bits],
            }
            s.connect(lane.offered, word.fill)
            s.connect(lane.control, struct_of(control, fields))
            s.connect(lane.tag, word.tag)
            s.connect(lane.words, word.data[: 8 * config.fill_bytes])
            s.connect(self.fill_control[g], lane.out_control)
            s.connect(self.fill_tag[g], lane.out_tag)
            width = 8 * config.columns
            for i in range(config.fill_rows):
                s.connect(self.fill_data[g][i], lane.out_words[width * i : width * (i + 1)])
            for name in ("parameter", "tiers", "position"):
                s.connect(getattr(mux, name)[g], getattr(word, name))
            s.connect(mux.data[g], word.data[:item_bits])
        s.connect(mux.bus_valid, launch.bus_valid)
        s.connect(mux.bus_owner, launch.bus_owner)
        s.connect(mux.row_owner, launch.row_owner)
        s.connect(mux.list_owner, launch.list_owner)
        s.connect(self.bus_write.valid, launch.bus_valid)
        s.connect(self.bus_write.payload, mux.bus)
        s.connect(launch.bus_ready, self.bus_write.ready)
        self._row_write(s, datas, launch, mux)
        s.connect(self.list_write_valid, launch.list_valid)
        s.connect(self.list_write_tiers, mux.list_tiers)
        s.connect(self.list_write_addr, mux.list_addr)
        s.connect(self.list_write_entry, mux.list_entry)

    def _row_write(self, s: Structure, datas: list[LoadData], launch: LoadLaunch, mux: LoadMux) -> None:
        """Connect the row stream: elements of the engine that has it, widened in slices."""
        columns = self.config.columns
        step = slice_elements(columns)
        slices = []
        for first in range(0, columns, step):
            part = s.add(f"row_{first // step}", RowSlice(step))
            for g in range(2):
                word = datas[g].out.payload
                s.connect(part.elements[g], word.data[16 * first : 16 * (first + step)])
                s.connect(part.shift[g], word.shift)
            s.connect(part.owner, launch.row_owner)
            slices.append(part)
        s.connect(self.row_write.valid, launch.row_valid)
        s.connect(self.row_write.payload, [mux.row, *(part.lanes for part in slices)])
        s.connect(launch.row_ready, self.row_write.ready)
