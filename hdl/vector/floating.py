# SPDX-License-Identifier: Apache-2.0
"""Reciprocal and reciprocal square root of an integer as a scaled FLOAT."""

from __future__ import annotations

from amaranth.hdl import Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.numerics.vector import FLOAT_FRACTION_BITS, RSQRT_BITS, recip_table, rsqrt_table

__all__ = ["FLOAT_STAGES", "STAGE_MULT", "FloatUnit"]

FLOAT_STAGES = 6

STAGE_MULT = 4
"""Stage that takes the factor."""

_FALL_BITS = 9


class FloatUnit(wiring.Component):
    """``float_scale(rsqrt(value) or recip(value), mult)``.

    Latency: 6 cycles. Throughput: one number per cycle. Multipliers: 9 x 8 and 16 x 16.

    Members
    -------
    enable : In(6)
        Valid bits of the stages.
    root : In(3)
        Stages 0 to 2: reciprocal square root of 48 bits instead of reciprocal of 32.
    value : In(48)
        Stage 0; 0 counts as 1.
    mult : In(16)
        Stage 4: Q15 factor.
    mantissa : Out(16), exponent : Out(6)
        In the cycle after stage 5.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "enable": In(FLOAT_STAGES),
                "root": In(3),
                "value": In(RSQRT_BITS),
                "mult": In(16),
                "mantissa": Out(16),
                "exponent": Out(6),
            }
        )

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return "vector_float_unit"

    def elaborate(self, platform: object) -> Module:
        """Build normalisation, table, interpolation and scaling."""
        m = Module()
        # Stage 0: count leading zeros; both functions see a 48-bit number.
        value = Signal(RSQRT_BITS)
        m.d.comb += value.eq(Mux(self.root[0], self.value, self.value[:32] << 16))
        zeros = Signal(6)
        least = Mux(self.root[0], RSQRT_BITS - 1, 31)
        m.d.comb += zeros.eq(least)
        for bit in range(RSQRT_BITS):  # the highest set bit is assigned last
            with m.If(value[bit]):
                m.d.comb += zeros.eq(RSQRT_BITS - 1 - bit)
        held = Signal(RSQRT_BITS)
        shift = Signal(6)
        with m.If(self.enable[0]):
            one = Mux(self.root[0], Const(1, RSQRT_BITS), Const(1 << 16, RSQRT_BITS))
            m.d.sync += [held.eq(Mux(value.any(), value, one)), shift.eq(Mux(self.root[0], zeros & 0x3E, zeros))]

        # Stage 1: the leading 16 bits.
        scaled = Signal(16)
        power = Signal(6)
        with m.If(self.enable[1]):
            m.d.sync += [
                scaled.eq((held << shift)[RSQRT_BITS - 16 : RSQRT_BITS]),
                power.eq(Mux(self.root[1], 39 - (shift >> 1), 47 - shift)),
            ]

        # Stage 2: tables; both are indexed by the high byte.
        base, fall = Signal(17), Signal(_FALL_BITS)
        index = scaled[FLOAT_FRACTION_BITS:]
        fraction, power2 = Signal(FLOAT_FRACTION_BITS), Signal(6)
        with m.If(self.enable[2]):
            m.d.sync += [fraction.eq(scaled[:FLOAT_FRACTION_BITS]), power2.eq(power)]
            with m.If(self.root[2]):
                with m.Switch(index):
                    for number, (start, step) in enumerate(rsqrt_table()):
                        with m.Case(64 + number):
                            m.d.sync += [base.eq(start), fall.eq(step)]
            with m.Else():
                with m.Switch(index):
                    for number, (start, step) in enumerate(recip_table()):
                        with m.Case(128 + number):
                            m.d.sync += [base.eq(start), fall.eq(step)]

        # Stage 3: interpolate.
        exact = Signal(17)
        half = 1 << FLOAT_FRACTION_BITS - 1
        mantissa, power3 = Signal(16), Signal(6)
        m.d.comb += exact.eq(base - ((fall * fraction + half) >> FLOAT_FRACTION_BITS))
        with m.If(self.enable[3]):
            m.d.sync += [mantissa.eq(Mux(exact[16], 65535, exact)), power3.eq(power2)]

        # Stages 4 and 5: scale.
        product, power4 = Signal(32), Signal(6)
        with m.If(self.enable[4]):
            m.d.sync += [product.eq(mantissa * self.mult), power4.eq(power3)]
        with m.If(self.enable[5]):
            m.d.sync += [
                self.mantissa.eq(Mux(product[31], product[16:], product[15:31])),
                self.exponent.eq(power4 - product[31]),
            ]
        return m
