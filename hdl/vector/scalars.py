# SPDX-License-Identifier: Apache-2.0
"""The vector unit's scalar memory, and what turns the sums and maxima of rows into scalars."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hdl.array.memory import Sram
from hdl.config import MachineConfig
from hdl.emit.hierarchy import instantiate
from hdl.isa import VectorFn
from hdl.vector.floating import FLOAT_STAGES, FloatUnit
from hdl.vector.function import FUNCTION_STAGES, FunctionLane

__all__ = ["ScalarUnit", "reduction_layout"]

LOWEST = -32768
_GRAND_BITS = 48


def reduction_layout(config: MachineConfig) -> data.StructLayout:
    """Return what accompanies a row to its reduction: place in its vector, scalar operand, scalar to write."""
    return data.StructLayout({"first_row": 1, "last_row": 1, "row": 9, "factor": 17, "scalar": config.scalar_bits})


class ScalarUnit(wiring.Component):
    """Accumulates over the rows of a vector, makes its scalar, and writes it.

    Latency from a vector's last row to the written scalar: 9 cycles (FLOAT), 3 (SUM), 5 (MAXCORR), 2 (CHOICE).
    Throughput: one row per cycle. Multipliers: 32 x 17, and those of the two function units.

    Members
    -------
    sums, best, choice, root, reciprocal, first : In(1)
        What the instruction makes: a sum (squares or MAP), a MAXCORR, a CHOICE; of a sum the reciprocal square root,
        the reciprocal. `first`: do not read what was there. Constant while an instruction runs.
    mult : In(16), eps : In(48)
        Factor of the FLOAT; what is added to a sum of squares.
    row_valid : In(1), row : In(reduction_layout)
        A row's reduction is there.
    total : In(signed), value : In(signed(16)), lane : In, found : In(1)
        Its sum; its best element.
    read_en : In(1), read_addr : In(scalar_bits), read_data : Out(32)
        Read of a scalar for the issue; data in the next cycle, held until the next read.
    busy : Out(1)
        A scalar is being made.
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        lane_bits = config.columns.bit_length() - 1
        super().__init__(
            {
                "sums": In(1),
                "best": In(1),
                "choice": In(1),
                "root": In(1),
                "reciprocal": In(1),
                "first": In(1),
                "mult": In(16),
                "eps": In(_GRAND_BITS),
                "row_valid": In(1),
                "row": In(reduction_layout(config)),
                "total": In(signed(32 + lane_bits)),
                "value": In(signed(16)),
                "lane": In(lane_bits),
                "found": In(1),
                "read_en": In(1),
                "read_addr": In(config.scalar_bits),
                "read_data": Out(32),
                "busy": Out(1),
            }
        )

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return f"vector_scalar_unit_c{self.config.columns}_s{self.config.scalar_depth}"

    def elaborate(self, platform: object) -> Module:
        """Build accumulators, the three ways to a scalar, and the memory."""
        m = Module()
        config = self.config
        operands = instantiate(m, platform, "operands", Sram(32, config.scalar_depth))
        results = instantiate(m, platform, "results", Sram(32, config.scalar_depth))
        floats = instantiate(m, platform, "floats", FloatUnit())
        powers = instantiate(m, platform, "powers", FunctionLane())
        row = self.row

        # Accumulate; a vector is complete with its last row.
        total = Signal(_GRAND_BITS)
        highest, index, found = Signal(signed(16)), Signal(16), Signal()
        complete, factor, place = Signal(), Signal(17), Signal(config.scalar_bits)
        better = self.found & (row.first_row | ~found | (self.value > highest))
        m.d.sync += complete.eq(self.row_valid & row.last_row)
        with m.If(self.row_valid):
            m.d.sync += [
                total.eq(Mux(row.first_row, 0, total) + self.total),
                factor.eq(row.factor),
                place.eq(row.scalar),
                found.eq(self.found | (found & ~row.first_row)),
            ]
            with m.If(better):
                m.d.sync += [highest.eq(self.value), index.eq(Cat(self.lane, row.row))]
            with m.Elif(row.first_row):
                m.d.sync += [highest.eq(LOWEST), index.eq(0xFFFF)]
        m.d.comb += [results.read_en.eq(self.row_valid & row.last_row), results.read_addr.eq(row.scalar)]

        # Stages after the accumulator: valid bits and the scalar's number.
        length = 2 + FLOAT_STAGES
        valid = Signal(length + 1)
        places = [place, *(Signal(config.scalar_bits, name=f"place{n}") for n in range(1, length + 1))]
        m.d.comb += valid[0].eq(complete)
        for stage in range(length):
            m.d.sync += valid[stage + 1].eq(valid[stage])
            with m.If(valid[stage]):
                m.d.sync += places[stage + 1].eq(places[stage])

        # Sums: what was there, times the correction.
        carried, partial = Signal(49), Signal(_GRAND_BITS)
        with m.If(valid[0]):
            m.d.sync += [carried.eq(Mux(self.first, 0, results.read_data) * factor), partial.eq(total)]
        grand = Signal(_GRAND_BITS)
        with m.If(valid[1]):
            with m.If(self.root):
                m.d.sync += grand.eq(partial + self.eps)
            with m.Else():
                m.d.sync += grand.eq((partial + ((carried + (1 << 14)) >> 15))[:32])
        m.d.comb += [
            floats.enable.eq(Mux(self.root | self.reciprocal, valid[2 : 2 + FLOAT_STAGES], 0)),
            floats.root.eq(self.root),
            floats.value.eq(grand),
            floats.mult.eq(self.mult),
        ]

        # Maxima: the correction is the power of two by which the maximum has grown.
        old, above = Signal(signed(16)), Signal(signed(16))
        m.d.comb += [
            old.eq(Mux(self.first, LOWEST, factor[:16].as_signed())),
            above.eq(Mux(highest > old, highest, old)),
            powers.fn.eq(VectorFn.EXP2),
            powers.enable.eq(Mux(self.best, valid[:FUNCTION_STAGES], 0)),
            powers.x.eq(old),
            powers.pivot.eq(above),
        ]
        maxima = [above, *(Signal(16, name=f"maximum{n}") for n in range(1, FUNCTION_STAGES + 1))]
        for stage in range(FUNCTION_STAGES):
            with m.If(valid[stage] & self.best):
                m.d.sync += maxima[stage + 1].eq(maxima[stage])

        # One write port; the instruction says which way the scalars come.
        write_en, write_addr, write_data = Signal(), Signal(config.scalar_bits), Signal(32)
        with m.If(self.choice):
            choice = Mux(found, Cat(highest, index), Const((0xFFFF << 16) | (LOWEST & 0xFFFF), 32))
            m.d.comb += [write_en.eq(valid[0]), write_addr.eq(places[0]), write_data.eq(choice)]
        with m.Elif(self.best):
            corrected = Cat(maxima[FUNCTION_STAGES], Mux(self.first, 0, powers.f[:16]))
            m.d.comb += [
                write_en.eq(valid[FUNCTION_STAGES]),
                write_addr.eq(places[FUNCTION_STAGES]),
                write_data.eq(corrected),
            ]
        with m.Elif(self.root | self.reciprocal):
            m.d.comb += [
                write_en.eq(valid[length]),
                write_addr.eq(places[length]),
                write_data.eq(Cat(floats.mantissa, floats.exponent)),
            ]
        with m.Elif(self.sums):
            m.d.comb += [write_en.eq(valid[2]), write_addr.eq(places[2]), write_data.eq(grand)]
        for memory in (operands, results):
            m.d.comb += [
                memory.write_en.eq(write_en),
                memory.write_addr.eq(write_addr),
                memory.write_data.eq(write_data),
            ]
        m.d.comb += [
            operands.read_en.eq(self.read_en),
            operands.read_addr.eq(self.read_addr),
            self.read_data.eq(operands.read_data),
            self.busy.eq(valid.any()),
        ]
        return m
