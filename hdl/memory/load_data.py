# SPDX-License-Identifier: Apache-2.0
"""Data side of a load engine: takes beats from the skew FIFO and makes words for their destination."""

from __future__ import annotations

from amaranth.hdl import Cat
from amaranth.lib import stream
from amaranth.lib.wiring import In, Out

from hdl.config import MachineConfig
from hdl.emit.hierarchy import parameter_key
from hdl.emit.structural import StructuralComponent, Structure
from hdl.interfaces import error_layout
from hdl.memory.axi import read_beat_layout
from hdl.memory.jobs import item_bytes, job_layout, out_word_layout
from hdl.memory.load_control import LoadControl, sub_bits
from hdl.memory.load_slice import FillGearbox, ItemGearbox

__all__ = ["LoadData"]

SLICE_BYTES = 64
"""Bytes of a beat that one slice of the gearbox takes, at most."""


class LoadData(StructuralComponent):
    """Gearbox between beats and fill words (2 x group_bytes), bus words (rows bytes), rows, list entries (8 bytes).

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
    pair_end : Out(1)
        Engine 1: the same, or its part of one that has its high plane only is done but for the launch.
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
                "pair_end": Out(1),
                "active": Out(1),
                "starved": Out(1),
                "fault": Out(error_layout()),
            }
        )

    PARAMETERS = LoadControl.PARAMETERS
    """What the module depends on."""

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return parameter_key(f"load_data_{self.group}", self.config, self.PARAMETERS)

    def structure(self) -> Structure:
        """Place the control and the slices of the gearbox."""
        s = Structure(self)
        config = self.config
        control = s.add("control", LoadControl(config, self.group))
        s.link(self.jobs, control.jobs)
        s.connect(control.beat_valid, self.beats.valid)
        s.connect(control.beat_error, self.beats.payload.error)
        s.connect(self.beats.ready, control.take)
        s.connect(self.out.valid, control.out_valid)
        s.connect(control.out_ready, self.out.ready)
        s.connect(control.stop, self.stop)
        if self.group == 0:
            s.connect(control.partner_ready, self.partner_ready)
            s.connect(self.pair_step, control.pair_step)
        else:
            s.connect(control.follow, self.follow)
        for name in ("pair_ready", "followed", "pair_end", "active", "starved", "fault"):
            s.connect(getattr(self, name), getattr(control, name))

        width = min(SLICE_BYTES, config.group_bytes)
        count = config.group_bytes // width
        slices = []
        for index in range(count):
            # Bytes of items are the lowest of the word.
            item = min(max(item_bytes(config) - 2 * width * index, 0), 2 * width)
            part = FillGearbox(width, partner=self.group == 0, item=item)
            slices.append(s.add(f"fill_{index}", part))
        items = s.add("items", ItemGearbox(config, sub_bits(config)))
        beat = self.beats.payload.data
        recent = Cat(*(part.previous for part in slices), beat)
        for index, part in enumerate(slices):
            low, bits = 8 * width * index, 8 * width
            s.connect(part.beat, beat[low : low + bits])
            s.connect(part.bytes, recent[2 * low : 2 * (low + bits)])
            s.connect(part.take, control.take)
            s.connect(part.load_fill, control.load_fill)
            s.connect(part.merge, control.merge)
            s.connect(part.low, control.low)
            if part.item_width:
                s.connect(part.load_item, control.load_item)
                s.connect(part.item, items.item[2 * low : 2 * low + 8 * part.item_width])
            if part.has_partner:
                s.connect(part.partner, self.partner_data[low : low + bits])
                s.connect(part.pair, control.pair)
                s.connect(part.high, control.high)
        s.connect(items.beat, beat)
        s.connect(items.previous, [part.previous for part in slices])
        s.connect(items.take, control.take)
        s.connect(items.sub, control.sub)
        s.connect(items.list, control.list)
        s.connect(items.row, control.row)
        s.connect(items.load_item, control.load_item)
        rest = [items.rest] if items.rest_bytes else []
        s.connect(self.out.payload, [control.header, *(part.out for part in slices), *rest])
        return s
