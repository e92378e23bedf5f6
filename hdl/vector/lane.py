# SPDX-License-Identifier: Apache-2.0
"""One column of the vector unit's pipeline."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.common.requant import clamp, partial_products
from hdl.emit.hierarchy import instantiate
from hdl.isa import VectorBits
from hdl.vector.function import FUNCTION_STAGES, X_BITS, FunctionLane

__all__ = ["LANE_STAGES", "PHASES", "STAGE_F", "STAGE_X", "Phase", "VectorLane", "lane_members"]

STAGE_X = 2
"""Stage whose registers hold x; the tree of maxima sees it one stage later."""

STAGE_F = 3
"""First stage of the function."""

LANE_STAGES = 10
"""Stages from the row's register to the result."""

PHASES = 3


class Phase:
    """What a row that enters the pipeline is: operand A, operand B (or ROTATE's first table), ROTATE's second table.

    ROTATE's tables are kept in the lanes, up to two rows of each, for the rows of operand A that come after them.
    """

    A, B, C = range(PHASES)


def lane_members() -> dict[str, Any]:
    """Return the ports of a lane."""
    return {
        "load": In(1),
        "data": In(32),
        "enable": In(LANE_STAGES),
        "takes": In(1),
        "in_shift": In(5),
        "narrow": In(1),
        "fn": In(2 * FUNCTION_STAGES),
        "pivot": In(signed(16)),
        "use_b": In(1),
        "square": In(1),
        "rotate": In(2),
        "keeps": In(2),
        "table_write": In(1),
        "table_read": In(1),
        "factor": In(17),
        "neighbour": In(signed(16)),
        "shift": In(6),
        "add": In(1),
        "bits": In(2),
        "valid": In(1),
        "x": Out(16),
        "own": Out(signed(16)),
        "below": Out(1),
        "equal": Out(1),
        "result": Out(signed(32)),
    }


class VectorLane(wiring.Component):
    """Input shift, function, multiplication, output shift, saturation of one element.

    Latency: 11 cycles from `load` to `result`. Throughput: one element per cycle. Multipliers: 17 x 18, 8 x 18, 16 x 16
    (ROTATE) and 12 x 8.

    The registers of stage i load with ``enable[i]``: `load` delayed by i + 1 cycles.

    Members
    -------
    load : In(1), data : In(32)
        Take an element of a row.
    enable : In(10)
        Valid bits of the stages.
    takes : In(1)
        Stage 1: the row is operand A.
    in_shift : In(5), narrow : In(1)
        Stages 0 and 1: rounding shift of operand A; saturate it to 16 bits instead of 24.
    fn : In(6)
        Stages 3 to 5: function, two bits each.
    pivot : In(signed(16))
        Stage 3: what EXP2 subtracts; what ARGMAX compares with.
    use_b, square : In(1), rotate : In(2)
        Stage 6: the second factor is operand B; x itself; the first table, and in stage 7 (the second bit) the pair's
        other x times the second table is added; else `factor`.
    keeps : In(2), table_write : In(1), table_read : In(1)
        Stage 5: the row is kept as one of the first, of the second table. Stages 5 and 6: which of a table's two rows.
    factor : In(17)
        Stage 6.
    neighbour : In(signed(16))
        `own` of the other lane of the pair (ROTATE).
    shift : In(6)
        Stage 8: rounding shift of the result.
    add : In(1), bits : In(2)
        Stage 9: add the row that was taken last; width of the result.
    valid : In(1)
        Stage 9: whether the element counts; else the result is zero.
    x : Out(16)
        Low bits of x, in stage 3.
    own : Out(signed(16))
        Low bits of the function's value, in stage 6.
    below, equal : Out(1)
        Stage 3: x is below the pivot; equals it.
    result : Out(signed(32))
        In the cycle after stage 9.
    """

    def __init__(self) -> None:
        super().__init__(lane_members())

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return "vector_lane"

    def elaborate(self, platform: object) -> Module:
        """Build the stages."""
        m = Module()
        raw = Signal(signed(32))
        with m.If(self.load):
            m.d.sync += raw.eq(self.data)

        # Stages 0 and 1: shift right with one more bit at the bottom, then round and saturate.
        shifted = Signal(signed(X_BITS + 1))
        operand = [Signal(signed(16), name=f"operand{stage}") for stage in range(6)]
        with m.If(self.enable[0]):
            m.d.sync += [
                shifted.eq(clamp(Cat(Const(0, 1), raw).as_signed() >> self.in_shift, X_BITS + 1)),
                operand[0].eq(raw[:16]),
            ]
        rounded = Signal(signed(X_BITS + 1))
        x = Signal(signed(X_BITS))
        m.d.comb += rounded.eq((shifted >> 1) + shifted[0])
        with m.If(self.enable[1]):
            m.d.sync += operand[1].eq(operand[0])
            with m.If(self.takes):
                m.d.sync += x.eq(Mux(self.narrow, clamp(rounded, 16), clamp(rounded, X_BITS)))
        # Stage 2 gives ARGMAX's exclusion and the function's table a cycle of their own.
        x2 = Signal(signed(X_BITS))
        with m.If(self.enable[2]):
            m.d.sync += [x2.eq(x), operand[2].eq(operand[1])]
        m.d.comb += [
            self.x.eq(x2),
            self.below.eq(x2[:16].as_signed() < self.pivot),
            self.equal.eq(x2[:16].as_signed() == self.pivot),
        ]

        # Stages 3 to 5: the function.
        function = instantiate(m, platform, "curve", FunctionLane())
        m.d.comb += [
            function.enable.eq(self.enable[STAGE_F : STAGE_F + FUNCTION_STAGES]),
            function.fn.eq(self.fn),
            function.x.eq(x2),
            function.pivot.eq(self.pivot),
        ]
        for stage in (3, 4, 5):
            with m.If(self.enable[stage]):
                m.d.sync += operand[stage].eq(operand[stage - 1])

        # Stages 6 and 7: the product, and ROTATE's sum of two.
        tables = [[Signal(signed(16), name=f"table{n}_{place}") for place in range(2)] for n in range(2)]
        for number, rows in enumerate(tables):
            for place, register in enumerate(rows):
                with m.If(self.enable[5] & self.keeps[number] & (self.table_write == place)):
                    m.d.sync += register.eq(operand[4])
        first_table, second_table = (Mux(self.table_read, pair[1], pair[0]) for pair in tables)
        crossed = Signal(signed(32))
        m.d.comb += self.own.eq(function.f)
        with m.If(self.enable[6] & self.rotate[0]):
            m.d.sync += crossed.eq(self.neighbour * second_table)
        second = Signal(signed(18))
        *parts, by = partial_products(function.f, second)
        low, high = Signal(signed(35)), Signal(signed(26))
        total = Signal(signed(44))
        with m.If(self.rotate[0]):
            m.d.comb += second.eq(first_table)
        with m.Elif(self.use_b):
            m.d.comb += second.eq(operand[5])
        with m.Elif(self.square):
            m.d.comb += second.eq(function.f)
        with m.Else():
            m.d.comb += second.eq(self.factor)
        with m.If(self.enable[6]):
            m.d.sync += [low.eq(parts[0]), high.eq(parts[1])]
        with m.If(self.enable[7]):
            m.d.sync += total.eq(low + (high << by) + Mux(self.rotate[1], crossed, 0))

        # Stages 8 and 9: shift with one more bit, round, add, saturate.
        wide = Signal(signed(34))
        with m.If(self.enable[8]):
            m.d.sync += wide.eq(clamp(Cat(Const(0, 1), total).as_signed() >> self.shift, 34))
        final = Signal(signed(35))
        result = Signal(signed(32))
        m.d.comb += final.eq((wide >> 1) + wide[0] + Mux(self.add, raw, 0))
        with m.Switch(self.bits):
            with m.Case(VectorBits.BITS8):
                m.d.comb += result.eq(clamp(final, 8))
            with m.Case(VectorBits.BITS16):
                m.d.comb += result.eq(clamp(final, 16))
            with m.Default():
                m.d.comb += result.eq(clamp(final, 32))
        with m.If(self.enable[9]):
            m.d.sync += self.result.eq(Mux(self.valid, result, 0))
        return m
