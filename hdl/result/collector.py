# SPDX-License-Identifier: Apache-2.0
"""The collector: takes the tiers' result rows off the bond and moves them to where their descriptors say."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import signed
from amaranth.lib import data, stream
from amaranth.lib.wiring import In, Out

from hdl.common.sram_fifo import SramFifo
from hdl.config import MachineConfig
from hdl.emit.hierarchy import parameter_key, parameters
from hdl.emit.structural import StructuralComponent, Structure
from hdl.interfaces import (
    bank_write_layout,
    error_layout,
    post_layout,
    result_layout,
    row_descriptor_layout,
    row_write_layout,
    write_layout,
)
from hdl.result.combine import CombineUnit
from hdl.result.control import (
    STORE_DEPTH,
    CollectorControl,
    collector_stats_layout,
    store_read_layout,
)
from hdl.result.lanes import LoadLane, RowMux, WriteLane

__all__ = ["Collector", "collector_stats_layout", "store_read_layout"]


class Collector(StructuralComponent):
    """Row and descriptor FIFOs of every tier, result bus, activation write lanes, combine buffer, posts.

    Throughput: ``result_lanes`` rows per cycle as long as no two of a cycle share a destination: the activation write
    port of a tier, the combine unit ``row % result_lanes``, or the post channel (one row with a post per cycle).
    Latency, row on `result` to ``write[lane]``: 4 cycles when nothing is in the way (2 in the FIFO, bus, write
    register); to the combine buffer the same.  `credit` comes in the cycle after the row left its FIFO.

    Order: rows of one tier stay in order.  A post is offered no earlier than the row's activation write is on the bond
    (`write` is the register that launches it) or its combine operation precedes any later store read.

    Each bank of the combine buffer (row ``r`` lies in bank ``r % result_lanes``) reads and writes a row per cycle.
    Result rows go first: they write, and read if they accumulate.  Store reads and vector reads take turns at what is
    left of the read port, vector writes and rows from loads at the write port; the vector unit can thus read and write
    a row of a bank in every cycle.  What is accepted in a cycle is seen by all that is accepted in later ones.  In the
    same cycle, reads see the row as it was, and result rows and clearing reads override writes of their row.

    A row whose address lies outside its memory raises RANGE and is not written.  (Reads and writes of the vector unit
    are not checked: their addresses have no more bits than a bank.)

    Parameters
    ----------
    config : MachineConfig

    Members
    -------
    descriptor_valid : In(1).array(tiers), descriptor : In(row_descriptor_layout).array(tiers)
        What to do with the tier's next row; pushed when its wave is issued.  Credits guarantee space.  ``byte`` must be
        a multiple of the elements of the row (C, or C/2 with ``half``).
    result : In(result_layout).array(tiers)
        Rows off the bond.
    credit : Out(1).array(tiers)
        Pulse: one row of the tier has left its FIFO.
    write : Out(write_layout).array(result_lanes)
        Activation writes to the bond.
    bus_write : In(stream of write_layout)
        Loads for activation buffers and parameter memories.
    vector_act : In(stream of write_layout)
        Words of the vector unit for activation buffers.
    load_lane : Out(write_layout)
        Both go to the bond here, in the cycle after they were accepted, which waits until no result is written to one
        of their tiers in the same cycle.  They take turns.
    vector_read : In(stream of bank_bits).array(result_lanes)
        Reads of a row of a bank.
    vector_data : Out(columns signed(32)).array(result_lanes)
        The row, in the cycle after the read was accepted and in no other.
    vector_write : In(stream of bank_write_layout).array(result_lanes)
        Writes of a row of a bank.
    load_rows : In(stream of row_write_layout)
        Writes of rows by loads.
    store_read : In(stream of store_read_layout), store_data : Out(stream of C signed(32))
        Combine-buffer reads, answered in order; they take cycles in which the row's unit has no result row.
    post : Out(stream of post_layout)
    busy : Out(1)
        A descriptor or row is stored, or in flight here, or a post waits.
    stats : Out(collector_stats_layout)
        Registered.
    error : Out(error_layout)
        Registered pulse.
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        tiers = config.tiers
        super().__init__(
            {
                "descriptor_valid": In(1).array(tiers),
                "descriptor": In(row_descriptor_layout(config)).array(tiers),
                "result": In(result_layout(config)).array(tiers),
                "credit": Out(1).array(tiers),
                "write": Out(write_layout(config)).array(config.result_lanes),
                "bus_write": In(stream.Signature(write_layout(config))),
                "vector_act": In(stream.Signature(write_layout(config))),
                "load_lane": Out(write_layout(config)),
                "vector_read": In(stream.Signature(config.bank_bits)).array(config.result_lanes),
                "vector_data": Out(data.ArrayLayout(signed(32), config.columns)).array(config.result_lanes),
                "vector_write": In(stream.Signature(bank_write_layout(config))).array(config.result_lanes),
                "load_rows": In(stream.Signature(row_write_layout(config))),
                "store_read": In(stream.Signature(store_read_layout())),
                "store_data": Out(stream.Signature(data.ArrayLayout(signed(32), config.columns))),
                "post": Out(stream.Signature(post_layout(config))),
                "busy": Out(1),
                "stats": Out(collector_stats_layout(config)),
                "error": Out(error_layout()),
            }
        )

    PARAMETERS = parameters(
        "bank_rows combine_rows semaphores",
        CollectorControl.PARAMETERS,
        LoadLane.PARAMETERS,
        WriteLane.PARAMETERS,
    )
    """What the module depends on."""

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return parameter_key("collector", self.config, self.PARAMETERS)

    def structure(self) -> Structure:
        """Stage 0 is the head of the FIFOs, stage 1 the bus registers, stage 2 the write registers."""
        s = Structure(self)
        config = self.config
        control = s.add("control", CollectorControl(config))
        fifos = []
        for tier in range(config.tiers):
            fifo = s.add(f"rows{tier}", SramFifo(16 * config.columns, config.row_fifo_depth))
            s.connect(fifo.push, self.result[tier].valid)
            s.connect(fifo.push_data, self.result[tier].data)
            s.connect(fifo.pop, control.pop[tier])
            s.connect(control.descriptor_valid[tier], self.descriptor_valid[tier])
            s.connect(control.descriptor[tier], self.descriptor[tier])
            s.connect(self.credit[tier], control.credit[tier])
            fifos.append(fifo)
        s.connect(control.row_valid, [fifo.valid for fifo in fifos])
        s.connect(control.row_empty, [fifo.empty for fifo in fifos])
        for name in ("busy", "stats", "error"):
            s.connect(getattr(self, name), getattr(control, name))
        s.link(control.post, self.post)
        s.link(self.store_read, control.store_read)

        bus_rows = []
        for lane in range(config.result_lanes):
            bus = s.add(f"bus{lane}", RowMux(16 * config.columns, config.tiers, registered=True))
            s.connect(bus.select, control.chosen[lane])
            for tier, fifo in enumerate(fifos):
                s.connect(bus.choice[tier], fifo.data)
            bus_rows.append(bus.out)
        self._writes(s, control, bus_rows)
        self._combine(s, control, bus_rows)
        return s

    def _writes(self, s: Structure, control: CollectorControl, bus_rows: list[Any]) -> None:
        """Stage 1 to 2: rows for activation buffers, and loads where no result goes."""
        config = self.config
        writing = []
        for lane, row in enumerate(bus_rows):
            write = s.add(f"write{lane}_register", WriteLane(config))
            s.connect(write.row_valid, control.to_activation[lane])
            s.connect(write.entry, control.bus[lane])
            s.connect(write.elements, [row[16 * column : 16 * column + 8] for column in range(config.columns)])
            s.connect(self.write[lane], write.write)
            writing.append(write.write.valid)
        loads = s.add("load_register", LoadLane(config))
        s.connect(loads.result_tiers, control.result_tiers)
        s.link(self.bus_write, loads.bus_write)
        s.link(self.vector_act, loads.vector_act)
        s.connect(self.load_lane, loads.load_lane)
        s.connect(control.writing, [*writing, loads.load_lane.valid])

    def _combine(self, s: Structure, control: CollectorControl, bus_rows: list[Any]) -> None:
        """Stage 1: combine units, the rows that are written to them and those that they read."""
        config = self.config
        lanes, columns = config.result_lanes, config.columns
        units = []
        for number in range(lanes):
            source = s.add(f"combine{number}_source", RowMux(16 * columns, lanes, registered=False))
            s.connect(source.select, control.unit_source[number])
            for lane, row in enumerate(bus_rows):
                s.connect(source.choice[lane], row)
            unit = s.add(f"combine{number}", CombineUnit(columns, config.bank_rows))
            operation = ("valid", "store", "clear", "row", "accumulate", "gate")
            for name in (*operation, "vector_read", "vector_row", "write", "write_row"):
                s.connect(getattr(unit, name), getattr(control, f"unit_{name}")[number])
            s.connect(unit.data, source.out)
            written = s.add(f"combine{number}_write", RowMux(32 * columns, 2, registered=False))
            s.connect(written.select, control.write_source[number])
            s.connect(written.choice[0], self.vector_write[number].payload.data)
            s.connect(written.choice[1], self.load_rows.payload.data)
            s.connect(unit.write_data, written.out)
            s.link(self.vector_read[number], control.vector_read[number])
            s.connect(self.vector_data[number], unit.read)
            s.connect(control.vector_write_row[number], self.vector_write[number].payload.row)
            s.connect(self.vector_write[number].ready, control.vector_write_ready[number])
            units.append(unit)
        s.connect(control.vector_write_valid, [write.valid for write in self.vector_write])
        s.connect(control.load_valid, self.load_rows.valid)
        s.connect(control.load_row, self.load_rows.payload.row)
        s.connect(self.load_rows.ready, control.load_ready)
        s.connect(control.unit_read, [unit.read_valid for unit in units])
        s.connect(control.unit_writing, [unit.writing for unit in units])
        s.connect(control.unit_active, [unit.active for unit in units])
        read = s.add("read_source", RowMux(32 * columns, lanes, registered=False))
        s.connect(read.select, [unit.read_valid for unit in units])
        for number, unit in enumerate(units):
            s.connect(read.choice[number], unit.read)
        stored = s.add("store_rows", SramFifo(32 * columns, STORE_DEPTH))
        s.connect(stored.push, control.stored_push)
        s.connect(stored.push_data, read.out)
        s.connect(stored.pop, control.stored_pop)
        s.connect(control.stored_valid, stored.valid)
        s.connect(control.store_ready, self.store_data.ready)
        s.connect(self.store_data.valid, control.store_valid)
        s.connect(self.store_data.payload, stored.data)
