# SPDX-License-Identifier: Apache-2.0
"""Requantisation of one output channel: multiply, shift with round half up, saturate."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Shape, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["PRODUCT_BITS", "SHIFTED_BITS", "RequantLane", "clamp", "round_saturate", "shift_clamp"]

PRODUCT_BITS = 48
"""int32 x uint16 as a signed number."""

SHIFTED_BITS = 17
"""What is left after the shift: an int16 and one bit below the binary point."""


def clamp(value: Value, bits: int) -> Value:
    """Return the signed `value` saturated to `bits` bits, as a signed number of that width."""
    sign = value[-1]
    # It fits when all bits from the new sign bit up are equal.
    upper = value[bits - 1 :]
    fits = upper.all() | ~upper.any()
    limit = Cat((~sign).replicate(bits - 1), sign)
    return Mux(fits, value[:bits], limit).as_signed()


def shift_clamp(product: Value, shift: Value) -> Value:
    """Return ``2 * product >> shift`` saturated to :data:`SHIFTED_BITS` bits, for :func:`round_saturate`.

    ``(x + 2**(s-1)) >> s`` equals ``((x >> (s-1)) + 1) >> 1``: with one more bit at the bottom, the shifter itself
    delivers the rounding bit (and zero for a shift of zero), and no constant ``2**(s-1)`` has to be decoded and added
    over the full width.
    """
    return clamp(Cat(Const(0, 1), product).as_signed() >> shift, SHIFTED_BITS)


def round_saturate(m: Module, shifted: Value, narrow: Value, name: str) -> Signal:
    """Round the result of :func:`shift_clamp` half up; saturate to 8 bits if `narrow`, else to 16.

    Saturating first is harmless: what was clamped lies beyond the final range on the same side, or rounds onto it.
    """
    rounded = Signal(signed(SHIFTED_BITS), name=f"{name}_rounded")
    result = Signal(signed(16), name=f"{name}_result")
    m.d.comb += [
        rounded.eq((shifted.as_signed() >> 1) + shifted[0]),
        result.eq(Mux(narrow, clamp(rounded, 8), clamp(rounded, 16))),
    ]
    return result


class RequantLane(wiring.Component):
    """Requantise one channel: ``hdl.numerics.requant`` to 8 or 16 bits.

    Latency: 4 cycles from `acc` to `result` (`acc` register, product, shifted, rounded).  Throughput: one per cycle.
    One multiplier, 32 x 16 bits.

    Members
    -------
    enable : In(4)
        Bit i lets the registers of stage i load: the valid bit of the row, delayed by i cycles.
    acc : In(signed(32))
        Accumulator, stage 0.
    mult : In(16)
        Multiplier, stage 1 (what the parameter memory shows one cycle after `acc`).
    shift : In(6)
        Right shift 0 to 47, stage 2.
    narrow : In(1)
        1 = saturate to 8 bits, 0 = to 16; stage 3.
    result : Out(signed(16))
        Requantised value, in the cycle after stage 3.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "enable": In(4),
                "acc": In(signed(32)),
                "mult": In(16),
                "shift": In(6),
                "narrow": In(1),
                "result": Out(signed(16)),
            }
        )

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return "requant_lane"

    def elaborate(self, platform: object) -> Module:
        """Build the four stages."""
        m = Module()
        acc = Signal(signed(32))
        product = Signal(signed(PRODUCT_BITS))
        shifted = Signal(Shape(SHIFTED_BITS, signed=True))
        with m.If(self.enable[0]):
            m.d.sync += acc.eq(self.acc)
        with m.If(self.enable[1]):
            m.d.sync += product.eq(acc * self.mult)
        with m.If(self.enable[2]):
            m.d.sync += shifted.eq(shift_clamp(product, self.shift))
        rounded = round_saturate(m, shifted, self.narrow, "requant")
        with m.If(self.enable[3]):
            m.d.sync += self.result.eq(rounded)
        return m
