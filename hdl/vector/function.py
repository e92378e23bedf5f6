# SPDX-License-Identifier: Apache-2.0
"""The functions of an element: a power of two, a sigmoid, or the element itself."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.isa import VectorFn
from hdl.numerics import SIGMOID_FRACTION_BITS, sigmoid_table
from hdl.numerics.vector import EXP2_FRACTION_BITS, EXP2_GUARD_BITS, EXP2_UNIT_BITS, exp2_table

__all__ = ["FUNCTION_STAGES", "X_BITS", "FunctionLane"]

FUNCTION_STAGES = 3
X_BITS = 24
"""Width of an element after the input shift."""

_BASE_BITS = 18
_SLOPE_BITS = 12
_FRACTION_BITS = 8


class FunctionLane(wiring.Component):
    """``exp2_q15(x - pivot)``, ``sigmoid_q16(x)`` or x.

    Latency: 3 cycles. Throughput: one element per cycle. One multiplier, 12 x 8 bits.

    Members
    -------
    enable : In(3)
        Bit i lets the registers of stage i load: the valid bit, delayed by i cycles.
    fn : In(6)
        ``VectorFn`` of the element in each stage, two bits each.
    x : In(signed(24)), pivot : In(signed(16))
        Stage 0. For EXP2 and SIGMOID x lies within int16.
    f : Out(signed(25))
        In the cycle after stage 2.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "enable": In(FUNCTION_STAGES),
                "fn": In(2 * FUNCTION_STAGES),
                "x": In(signed(X_BITS)),
                "pivot": In(signed(16)),
                "f": Out(signed(X_BITS + 1)),
            }
        )

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return "vector_function"

    def elaborate(self, platform: object) -> Module:
        """Build table, interpolation and the final shift."""
        m = Module()
        exp2 = [self.fn.word_select(stage, 2) == VectorFn.EXP2 for stage in range(FUNCTION_STAGES)]
        sigmoid = [self.fn.word_select(stage, 2) == VectorFn.SIGMOID for stage in range(FUNCTION_STAGES)]

        # Stage 0: tables. exp2 looks at how far x lies below the pivot, sigmoid at the magnitude of x.
        below = Signal(signed(18))
        depth = Signal(17)
        negated = Signal(16)
        magnitude = Signal(15)
        x16 = self.x[:16]
        m.d.comb += [
            below.eq(self.pivot - x16.as_signed()),
            depth.eq(Mux(below[-1], 0, below)),
            negated.eq(-x16.as_signed()),
            magnitude.eq(Mux(x16[15], Mux(negated[15], 0x7FFF, negated), x16)),
        ]
        base, slope, fraction = Signal(_BASE_BITS), Signal(_SLOPE_BITS), Signal(_FRACTION_BITS)
        octave, negative = Signal(5), Signal()
        x0, x1 = Signal(signed(X_BITS)), Signal(signed(X_BITS))
        with m.If(self.enable[0]):
            m.d.sync += x0.eq(self.x)
            # The tables stand inside the conditions so that a simulator looks at them only when they are needed.
            with m.If(exp2[0]):
                with m.Switch(depth[EXP2_FRACTION_BITS:EXP2_UNIT_BITS]):
                    for index, (start, fall) in enumerate(exp2_table()):
                        with m.Case(index):
                            m.d.sync += [base.eq(start), slope.eq(fall)]
                m.d.sync += [
                    fraction.eq(depth[:EXP2_FRACTION_BITS]),
                    octave.eq(Mux(depth[EXP2_UNIT_BITS + 5 :].any(), 31, depth[EXP2_UNIT_BITS:][:5])),
                ]
            with m.Elif(sigmoid[0]):
                with m.Switch(magnitude[SIGMOID_FRACTION_BITS:]):
                    for index, (start, rise) in enumerate(sigmoid_table()):
                        with m.Case(index):
                            m.d.sync += [base.eq(start), slope.eq(rise)]
                m.d.sync += [
                    fraction.eq(magnitude[:SIGMOID_FRACTION_BITS]),
                    negative.eq(x16[15]),
                ]

        # Stage 1: interpolate.
        product = Signal(_SLOPE_BITS + _FRACTION_BITS)
        value = Signal(_BASE_BITS + EXP2_FRACTION_BITS)
        octave1, negative1 = Signal(5), Signal()
        m.d.comb += product.eq(slope * fraction)
        with m.If(self.enable[1]):
            m.d.sync += [x1.eq(x0), octave1.eq(octave), negative1.eq(negative)]
            with m.If(exp2[1]):
                m.d.sync += value.eq((base << EXP2_FRACTION_BITS) - product)
            with m.Else():
                half = 1 << SIGMOID_FRACTION_BITS - 1
                m.d.sync += value.eq(base + ((product + half) >> SIGMOID_FRACTION_BITS))

        # Stage 2: the octave's shift with round half up; the other half of the sigmoid.
        shifted = Signal(_BASE_BITS)
        m.d.comb += shifted.eq(value >> (octave1 + (EXP2_FRACTION_BITS + EXP2_GUARD_BITS - 1)))
        with m.If(self.enable[2]):
            with m.If(exp2[2]):
                m.d.sync += self.f.eq((shifted + 1) >> 1)
            with m.Elif(sigmoid[2]):
                m.d.sync += self.f.eq(Mux(negative1, 65536 - value[:17], value[:17]))
            with m.Else():
                m.d.sync += self.f.eq(x1)
        return m
