# SPDX-License-Identifier: Apache-2.0
"""SwiGLU of one pair of channels, behind the requantisation of both."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.common.requant import PRODUCT_BITS, SHIFTED_BITS, partial_products, round_saturate, shift_clamp
from hdl.numerics import SIGMOID_FRACTION_BITS, SIGMOID_SEGMENTS, sigmoid_table

__all__ = ["SWIGLU_STAGES", "SwigluPair"]

SWIGLU_STAGES = 10
"""Stages of a `SwigluPair`."""

STAGE_MULT = 6
"""Stage that takes the multiplier of the product; its shift is taken two stages later."""

_SEGMENT_BITS = (SIGMOID_SEGMENTS - 1).bit_length()
_SLOPE_BITS = 12


class SwigluPair(wiring.Component):
    """Second half of ``hdl.numerics.swiglu``, or a delay of the same length when `swiglu` is 0.

    With `swiglu` 1, `low` is ``requant(silu_q11(gate) * up, post_mult, post_shift, 8)`` and `high` is 0; with 0, `low`
    is `gate` and `high` is `up`.  Values that pass travel in the registers of the computation.

    Latency: :data:`SWIGLU_STAGES` cycles.  Throughput: one pair per cycle.  Multipliers: 12 x 8 (interpolation), three
    times 16 x 16 and 17 x 16.

    Members
    -------
    enable, swiglu : In(SWIGLU_STAGES)
        Bit i belongs to stage i: valid bit and mode of the row, delayed by i cycles.
    gate, up : In(signed(16))
        Requantised gate (Q4.11) and up channel, stage 0.
    post_mult : In(16)
        Multiplier of the product, stage :data:`STAGE_MULT`.
    post_shift : In(6)
        Shift of the product 0 to 47, two stages later.
    low, high : Out(signed(16))
        Results, in the cycle after the last stage.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "enable": In(SWIGLU_STAGES),
                "swiglu": In(SWIGLU_STAGES),
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
        """Build the stages."""
        m = Module()
        # The gate and up values beside the sigmoid: gates[0] and ups[0] hold what stage 0 loaded, and so on.
        gates = [Signal(signed(16), name=f"gate{i}") for i in range(4)]
        ups = [Signal(signed(16), name=f"up{i}") for i in range(5)]
        for source, registers in ((self.gate, gates), (self.up, ups)):
            for stage, register in enumerate(registers):
                with m.If(self.enable[stage]):
                    m.d.sync += register.eq(registers[stage - 1] if stage else source)

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
        with m.If(self.enable[0] & self.swiglu[0]):
            m.d.sync += [
                base.eq(entry_base),
                slope.eq(entry_slope),
                fraction.eq(magnitude[:SIGMOID_FRACTION_BITS]),
            ]

        # Stages 1 and 2: interpolate; sigmoid(-x) = 1 - sigmoid(x).
        half = 1 << (SIGMOID_FRACTION_BITS - 1)
        rise, base1 = Signal(_SLOPE_BITS + SIGMOID_FRACTION_BITS), Signal(16)
        positive = Signal(16)
        sigmoid = Signal(16)
        with m.If(self.enable[1] & self.swiglu[1]):
            m.d.sync += [rise.eq(slope * fraction), base1.eq(base)]
        m.d.comb += positive.eq(base1 + ((rise + half) >> SIGMOID_FRACTION_BITS))
        with m.If(self.enable[2] & self.swiglu[2]):
            m.d.sync += sigmoid.eq(Mux(gates[1][15], -positive, positive))

        # Stages 3 and 4: SiLU.
        weighted = Signal(signed(33))
        silu = Signal(signed(16))
        with m.If(self.enable[3] & self.swiglu[3]):
            m.d.sync += weighted.eq(gates[2] * sigmoid)
        with m.If(self.enable[4]):
            m.d.sync += silu.eq(Mux(self.swiglu[4], (weighted + (1 << 15)) >> 16, gates[3]))

        # Stage 5: product of the two branches, or both side by side.
        product = Signal(signed(32))
        with m.If(self.enable[5]):
            m.d.sync += product.eq(Mux(self.swiglu[5], silu * ups[4], Cat(silu, ups[4]).as_signed()))

        # Stages 6 to 9: requantisation to 8 bits. What passes goes through the lower part and the high word.
        *parts, by = partial_products(product, self.post_mult)
        low, high = Signal(33), Signal(signed(31))
        scaled_product = Signal(signed(PRODUCT_BITS))
        shifted = Signal(signed(SHIFTED_BITS))
        passing_up = Signal(signed(16))
        with m.If(self.enable[6]):
            m.d.sync += [
                low.eq(Mux(self.swiglu[6], parts[0], product[:32])),
                high.eq(Mux(self.swiglu[6], parts[1], 0)),
            ]
        with m.If(self.enable[7]):
            m.d.sync += scaled_product.eq(low + (high << by))
        with m.If(self.enable[8]):
            m.d.sync += [
                shifted.eq(Mux(self.swiglu[8], shift_clamp(scaled_product, self.post_shift), scaled_product[:16])),
                passing_up.eq(Mux(self.swiglu[8], 0, scaled_product[16:32])),
            ]
        rounded = round_saturate(m, shifted, self.swiglu[9], "post")
        with m.If(self.enable[9]):
            m.d.sync += [self.low.eq(Mux(self.swiglu[9], rounded, shifted[:16])), self.high.eq(passing_up)]
        return m
