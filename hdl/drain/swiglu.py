# SPDX-License-Identifier: Apache-2.0
"""SwiGLU of one pair of channels, behind the requantisation of both."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.common.requant import PRODUCT_BITS, SHIFTED_BITS, round_saturate, shift_clamp
from hdl.numerics import SIGMOID_FRACTION_BITS, SIGMOID_SEGMENTS, sigmoid_table

__all__ = ["SwigluPair"]

_SEGMENT_BITS = (SIGMOID_SEGMENTS - 1).bit_length()
_SLOPE_BITS = 12


class SwigluPair(wiring.Component):
    """Second half of ``hdl.numerics.swiglu``, or a delay of the same length when `swiglu` is 0.

    With `swiglu` 1, `low` is ``requant(silu_q11(gate) * up, post_mult, post_shift, 8)`` and `high` is 0; with 0, `low`
    is `gate` and `high` is `up`.  Values that pass travel in the registers of the computation.

    Latency: 7 cycles.  Throughput: one pair per cycle.  Multipliers: 12 x 8 (interpolation), twice 16 x 16, 32 x 16.

    Members
    -------
    enable, swiglu : In(7)
        Bit i belongs to stage i: valid bit and mode of the row, delayed by i cycles.
    gate, up : In(signed(16))
        Requantised gate (Q4.11) and up channel, stage 0.
    post_mult : In(16)
        Multiplier of the product, stage 4.
    post_shift : In(6)
        Shift of the product 0 to 47, stage 5.
    low, high : Out(signed(16))
        Results, in the cycle after stage 6.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "enable": In(7),
                "swiglu": In(7),
                "gate": In(signed(16)),
                "up": In(signed(16)),
                "post_mult": In(16),
                "post_shift": In(6),
                "low": Out(signed(16)),
                "high": Out(signed(16)),
            }
        )

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return "swiglu_pair"

    def elaborate(self, platform: object) -> Module:
        """Build the seven stages."""
        m = Module()
        # The gate and up values beside the sigmoid: g0/u0 hold what stage 0 loaded, and so on.
        gates = [Signal(signed(16), name=f"gate{i}") for i in range(2)]
        ups = [Signal(signed(16), name=f"up{i}") for i in range(3)]

        # Stage 0: table.  -32768 has no magnitude of 15 bits and takes that of -32767.
        magnitude = Signal(15)
        entry_base, base = Signal(16), Signal(16)
        entry_slope, slope = Signal(_SLOPE_BITS), Signal(_SLOPE_BITS)
        fraction = Signal(SIGMOID_FRACTION_BITS)
        negated = Signal(16)
        m.d.comb += [
            negated.eq(-self.gate),
            magnitude.eq(Mux(self.gate[15], Mux(negated[15], 0x7FFF, negated), self.gate)),
        ]
        with m.Switch(magnitude[SIGMOID_FRACTION_BITS:]):
            for index, (value, rise) in enumerate(sigmoid_table()):
                with m.Case(index):
                    m.d.comb += [entry_base.eq(value), entry_slope.eq(rise)]
        with m.If(self.enable[0]):
            m.d.sync += [gates[0].eq(self.gate), ups[0].eq(self.up)]
            with m.If(self.swiglu[0]):
                m.d.sync += [
                    base.eq(entry_base),
                    slope.eq(entry_slope),
                    fraction.eq(magnitude[:SIGMOID_FRACTION_BITS]),
                ]

        # Stage 1: interpolate; sigmoid(-x) = 1 - sigmoid(x).
        half = 1 << (SIGMOID_FRACTION_BITS - 1)
        positive = Signal(16)
        sigmoid = Signal(16)
        m.d.comb += positive.eq(base + ((slope * fraction + half) >> SIGMOID_FRACTION_BITS))
        with m.If(self.enable[1]):
            m.d.sync += [gates[1].eq(gates[0]), ups[1].eq(ups[0])]
            with m.If(self.swiglu[1]):
                m.d.sync += sigmoid.eq(Mux(gates[0][15], -positive, positive))

        # Stage 2: SiLU.
        silu = Signal(signed(16))
        with m.If(self.enable[2]):
            scaled = (gates[1] * sigmoid + (1 << 15)) >> 16
            m.d.sync += [silu.eq(Mux(self.swiglu[2], scaled, gates[1])), ups[2].eq(ups[1])]

        # Stage 3: product of the two branches, or both side by side.
        product = Signal(signed(32))
        with m.If(self.enable[3]):
            m.d.sync += product.eq(Mux(self.swiglu[3], silu * ups[2], Cat(silu, ups[2]).as_signed()))

        # Stages 4 to 6: requantisation to 8 bits.
        scaled_product = Signal(signed(PRODUCT_BITS))
        shifted = Signal(signed(SHIFTED_BITS))
        passing_up = Signal(signed(16))
        with m.If(self.enable[4]):
            m.d.sync += scaled_product.eq(Mux(self.swiglu[4], product * self.post_mult, product))
        with m.If(self.enable[5]):
            m.d.sync += [
                shifted.eq(Mux(self.swiglu[5], shift_clamp(scaled_product, self.post_shift), scaled_product[:16])),
                passing_up.eq(Mux(self.swiglu[5], 0, scaled_product[16:32])),
            ]
        rounded = round_saturate(m, shifted, self.swiglu[6], "post")
        with m.If(self.enable[6]):
            m.d.sync += [self.low.eq(Mux(self.swiglu[6], rounded, shifted[:16])), self.high.eq(passing_up)]
        return m
