# SPDX-License-Identifier: Apache-2.0
"""Wide data paths of the collector: multiplexers of rows, and the registers that launch writes on the bond.

Each works on whole buses, so that a machine of any width takes a few lines of Verilog.
"""

from __future__ import annotations

from functools import reduce
from operator import or_

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.config import MachineConfig
from hdl.emit.hierarchy import parameter_key, parameters
from hdl.interfaces import row_descriptor_layout, write_layout

__all__ = ["LoadLane", "RowMux", "WriteLane"]


class RowMux(wiring.Component):
    """AND-OR multiplexer: the choice whose bit in `select` is set, else zero; with one choice always that one.

    Latency: one cycle with `registered` (the register keeps its value while nothing is selected), else combinational.

    Parameters
    ----------
    width : int
        Bits of a choice.
    count : int
        Choices.
    registered : bool
        Whether a register follows.

    Members
    -------
    select : In(count)
        One-hot, or zero.
    choice : In(width).array(count)
    out : Out(width)
    """

    def __init__(self, width: int, count: int, *, registered: bool) -> None:
        self.width = width
        self.count = count
        self.registered = registered
        super().__init__({"select": In(count), "choice": In(width).array(count), "out": Out(width)})

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return f"row_mux_w{self.width}_n{self.count}{'_reg' if self.registered else ''}"

    def elaborate(self, platform: object) -> Module:
        """Build the multiplexer."""
        m = Module()
        # A multiplexer with zero, not a replicated bit: Yosys would write the bit out `width` times.
        chosen = reduce(or_, (Mux(self.select[i], word, 0) for i, word in enumerate(self.choice)))
        if self.count == 1:
            chosen = self.choice[0]
        if self.registered:
            with m.If(self.select.any()):
                m.d.sync += self.out.eq(chosen)
        else:
            m.d.comb += self.out.eq(chosen)
        return m


class WriteLane(wiring.Component):
    """Write register of one activation lane: the elements of a row in the word that the bond carries.

    Latency: one cycle. Throughput: one row per cycle.

    Parameters
    ----------
    config : MachineConfig

    Members
    -------
    row_valid : In(1)
        A row goes to activation buffers.
    entry : In(row_descriptor_layout)
        Its descriptor.
    elements : In(8 * columns)
        Low bytes of its columns.
    write : Out(write_layout)
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "row_valid": In(1),
                "entry": In(row_descriptor_layout(config)),
                "elements": In(8 * config.columns),
                "write": Out(write_layout(config)),
            }
        )

    PARAMETERS = parameters("columns rows semaphores tiers write_bits")
    """What the module depends on."""

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return parameter_key("write_lane", self.config, self.PARAMETERS)

    def elaborate(self, platform: object) -> Module:
        """Repeat the elements over the word; the enables select the copy at byte ``entry.byte``."""
        m = Module()
        config = self.config
        half = config.columns // 2
        copies = config.rows // half
        entry, write = self.entry, self.write
        m.d.sync += write.valid.eq(self.row_valid)
        first = Signal(8 * half)  # the elements of half a row, and of all of it
        m.d.comb += first.eq(self.elements)
        enable = Signal(copies)
        for copy in range(copies):
            full_here = entry.byte[config.columns.bit_length() - 1 :] == copy // 2
            half_here = entry.byte[half.bit_length() - 1 :] == copy
            m.d.comb += enable[copy].eq(Mux(entry.half, half_here, full_here))
        with m.If(self.row_valid):
            m.d.sync += [
                write.tiers.eq(entry.tiers),
                write.addr.eq(entry.addr),
                write.data.as_value().eq(
                    Mux(entry.half, first.replicate(copies), self.elements.replicate(copies // 2))
                ),
                write.enable.eq(Cat(bit.replicate(half) for bit in enable)),
            ]
        return m


class LoadLane(wiring.Component):
    """Write register of the lane that loads and the vector unit share; both give way to result rows for the same tiers.

    When either could go, they take turns.

    Latency: one cycle. Throughput: one word per cycle.

    Parameters
    ----------
    config : MachineConfig

    Members
    -------
    result_tiers : In(tiers)
        Tiers that result rows are written to in the same cycle.
    bus_write, vector_act : In(stream of write_layout)
        Words of loads, and of the vector unit.
    load_lane : Out(write_layout)
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "result_tiers": In(config.tiers),
                "bus_write": In(stream.Signature(write_layout(config))),
                "vector_act": In(stream.Signature(write_layout(config))),
                "load_lane": Out(write_layout(config)),
            }
        )

    PARAMETERS = parameters("rows tiers write_bits")
    """What the module depends on."""

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return parameter_key("load_lane", self.config, self.PARAMETERS)

    def elaborate(self, platform: object) -> Module:
        """Build the choice and the register."""
        m = Module()
        load, vector = self.bus_write, self.vector_act
        load_free = Signal()
        vector_free = Signal()
        vector_turn = Signal()
        m.d.comb += [
            load_free.eq(~(self.result_tiers & load.payload.tiers).any()),
            vector_free.eq(~(self.result_tiers & vector.payload.tiers).any()),
            load.ready.eq(load_free & ~(vector.valid & vector_free & vector_turn)),
            vector.ready.eq(vector_free & ~(load.valid & load_free & ~vector_turn)),
        ]
        with m.If(load.valid & load_free & vector.valid & vector_free):
            m.d.sync += vector_turn.eq(~vector_turn)
        m.d.sync += self.load_lane.valid.eq(0)
        for source in (load, vector):
            with m.If(source.valid & source.ready):
                m.d.sync += [self.load_lane.eq(source.payload), self.load_lane.valid.eq(1)]
        return m
