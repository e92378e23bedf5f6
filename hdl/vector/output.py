# SPDX-License-Identifier: Apache-2.0
"""The vector unit's result rows on their way to the combine buffer or to activation buffers."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.common.sram_fifo import SramFifo
from hdl.config import MachineConfig
from hdl.emit.hierarchy import digest, instantiate
from hdl.interfaces import bank_write_layout, write_layout
from hdl.vector.issue import OUTPUT_DEPTH

__all__ = ["VectorOutput"]


class VectorOutput(wiring.Component):
    """FIFO of result rows and their writes; assembles GATHER's rows.

    Latency: 2 cycles from `push` to the write. Throughput: one row per cycle.

    Members
    -------
    push : In(1), row : In(columns signed(32)), dest : In(16), half : In(1)
        A result row; the issue's credits guarantee room.
    job : In(1)
        Which instruction's it is.
    gather, collect : In(1), pick, place : In
        It is a GATHER's; take lane `pick` of the row as lane `place` of the row that is pushed.
    activation : In(1), tiers : In(tiers).array(2)
        The row goes to activation buffers; to which, by job: constant until the job's rows have left.
    row_write : Out(stream of bank_write_layout).array(result_lanes)
    act_write : Out(stream of write_layout)
    room, room_job : Out(1)
        Pulse: a row of that job has left.
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        lane_bits = config.columns.bit_length() - 1
        super().__init__(
            {
                "push": In(1),
                "row": In(data.ArrayLayout(signed(32), config.columns)),
                "dest": In(16),
                "half": In(1),
                "job": In(1),
                "gather": In(1),
                "collect": In(1),
                "pick": In(lane_bits),
                "place": In(lane_bits),
                "activation": In(1),
                "tiers": In(config.tiers).array(2),
                "row_write": Out(stream.Signature(bank_write_layout(config))).array(config.result_lanes),
                "act_write": Out(stream.Signature(write_layout(config))),
                "room": Out(1),
                "room_job": Out(1),
            }
        )

    def module_key(self) -> str:
        """Name of the Verilog module."""
        c = self.config
        sizes = (c.tiers, c.rows, c.activation_bits, c.combine_bits, c.result_lanes, write_layout(c).size)
        return f"vector_output_c{c.columns}_{digest(sizes)}"

    def elaborate(self, platform: object) -> Module:
        """Build assembly, FIFO and writes."""
        m = Module()
        config = self.config
        columns = config.columns
        width = 32 * columns
        fifo = instantiate(m, platform, "rows", SramFifo(width + 19, OUTPUT_DEPTH))

        # GATHER: the elements so far; lanes beyond the last one are zero.
        gathered = Signal(width)
        picked = Signal(32)
        m.d.comb += picked.eq(self.row.as_value().word_select(self.pick, 32))
        assembled = Signal(width)
        for lane in range(columns):
            now = Mux(self.place == lane, picked, gathered.word_select(lane, 32))
            m.d.comb += assembled.word_select(lane, 32).eq(now)
        with m.If(self.collect):
            m.d.sync += gathered.eq(Mux(self.push, 0, assembled))
        m.d.comb += [
            fifo.push.eq(self.push),
            fifo.push_data.eq(
                Cat(Mux(self.gather, assembled, self.row.as_value()), self.dest, self.half, self.job, self.activation)
            ),
        ]

        row, dest, half = fifo.data[:width], fifo.data[width : width + 16], fifo.data[width + 16]
        job, activation = fifo.data[width + 17], fifo.data[width + 18]
        bank_bits = (config.result_lanes - 1).bit_length()
        bank = dest[:bank_bits]
        taken = Signal(config.result_lanes)
        for number, write in enumerate(self.row_write):
            mine = bank == number if bank_bits else 1
            m.d.comb += [
                write.valid.eq(fifo.valid & ~activation & mine),
                write.payload.row.eq(dest[bank_bits:]),
                write.payload.data.eq(row),
                taken[number].eq(write.valid & write.ready),
            ]
        word = self.act_write.payload
        elements = Cat(row.word_select(lane, 32)[:8] for lane in range(columns))
        pieces = config.rows // columns
        enable = [(half == piece).replicate(columns) for piece in range(pieces)] if pieces > 1 else [(1 << columns) - 1]
        m.d.comb += [
            self.act_write.valid.eq(fifo.valid & activation),
            word.valid.eq(1),
            word.tiers.eq(Mux(job, self.tiers[1], self.tiers[0])),
            word.addr.eq(dest),
            word.enable.eq(Cat(*enable) if pieces > 1 else enable[0]),
            word.data.eq(elements.replicate(pieces)),
            fifo.pop.eq(taken.any() | (self.act_write.valid & self.act_write.ready)),
            self.room.eq(fifo.pop),
            self.room_job.eq(job),
        ]
        return m
