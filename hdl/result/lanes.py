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
from hdl.emit.hierarchy import digest
from hdl.interfaces import row_descriptor_layout, write_layout

__all__ = ["LoadLane", "RowMux", "WriteLane"]


class RowMux(wiring.Component):
    """AND-OR multiplexer: the choice whose bit in `select` is set, else zero.

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

    def module_key(self) -> str:
        """Name of the Verilog module."""
        c = self.config
        return f"write_lane_c{c.columns}_r{c.rows}_{digest(row_descriptor_layout(c).size, write_layout(c).size)}"

    def elaborate(self, platform: object) -> Module:
        """Repeat the elements over the word; the enables select the copy at byte ``entry.lane``."""
        m = Module()
        config = self.config
        half = config.columns // 2
        pieces = config.rows // half
        entry, write = self.entry, self.write
        m.d.sync += write.valid.eq(self.row_valid)
        first = Signal(8 * half)  # the elements of half a row, and of all of it
        m.d.comb += first.eq(self.elements)
        enable = Signal(pieces)
        for piece in range(pieces):
            full_here = entry.lane[config.columns.bit_length() - 1 :] == piece // 2
            half_here = entry.lane[half.bit_length() - 1 :] == piece
            m.d.comb += enable[piece].eq(Mux(entry.half, half_here, full_here))
        with m.If(self.row_valid):
            m.d.sync += [
                write.tiers.eq(entry.tiers),
                write.addr.eq(entry.addr),
                write.data.as_value().eq(
                    Mux(entry.half, first.replicate(pieces), self.elements.replicate(pieces // 2))
                ),
                write.enable.eq(Cat(bit.replicate(half) for bit in enable)),
            ]
        return m


class LoadLane(wiring.Component):
    """Write register of the lane of loads, which gives way to result rows for the same tiers.

    Latency: one cycle. Throughput: one word per cycle.

    Parameters
    ----------
    config : MachineConfig

    Members
    -------
    result_tiers : In(tiers)
        Tiers that result rows are written to in the same cycle.
    unit_write : In(stream of write_layout)
    unit_lane : Out(write_layout)
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "result_tiers": In(config.tiers),
                "unit_write": In(stream.Signature(write_layout(config))),
                "unit_lane": Out(write_layout(config)),
            }
        )

    def module_key(self) -> str:
        """Name of the Verilog module."""
        c = self.config
        return f"load_lane_t{c.tiers}_r{c.rows}_{digest(write_layout(c).size)}"

    def elaborate(self, platform: object) -> Module:
        """Build the register."""
        m = Module()
        word = self.unit_write.payload
        m.d.comb += self.unit_write.ready.eq(~(self.result_tiers & word.tiers).any())
        m.d.sync += self.unit_lane.valid.eq(0)
        with m.If(self.unit_write.valid & self.unit_write.ready):
            m.d.sync += [self.unit_lane.eq(word), self.unit_lane.valid.eq(1)]
        return m
