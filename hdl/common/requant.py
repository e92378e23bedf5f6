# SPDX-License-Identifier: Apache-2.0
"""Requantisation of one output channel: multiply, shift with round half up, saturate."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Shape, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = [
    "PRODUCT_BITS", "REQUANT_STAGES", "SHIFTED_BITS", "RequantLane", "clamp", "partial_products", "round_saturate",
    "shift_clamp",
]  # fmt: skip

PRODUCT_BITS = 48
"""int32 x uint16 as a signed number."""

SHIFTED_BITS = 17
"""What is left after the shift: an int16 and one bit below the binary point."""

REQUANT_STAGES = 5
"""Stages of a `RequantLane`: accumulator, two partial products, their sum, shifted, rounded."""

_PART_BITS = 17
"""Unsigned bits of a factor that one multiplier of 18 x 18 signed bits takes."""


def partial_products(wide: Value, narrow: Value) -> tuple[Value, Value, int]:
    """Return two products and how far the second is to be shifted left, so that the sum is ``wide * narrow``.

    Each fits a multiplier of 18 x 18 signed bits, when `wide` has at most 35 bits and `narrow` 17 or, signed, 18; the
    adder comes after a register, which a single product of this width would not leave room for in a cycle.

    Parameters
    ----------
    wide, narrow : Value
        The factors; `wide` has more than 17 bits.
    """
    high = wide[_PART_BITS:]
    return wide[:_PART_BITS] * narrow, (high.as_signed() if wide.shape().signed else high) * narrow, _PART_BITS


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

    Latency: :data:`REQUANT_STAGES` cycles from `acc` to `result`.  Throughput: one per cycle.
    Two multipliers, 17 x 16 and 15 x 16 bits.

    Members
    -------
    enable : In(REQUANT_STAGES)
        Bit i lets the registers of stage i load: the valid bit of the row, delayed by i cycles.
    acc : In(signed(32))
        Accumulator, stage 0.
    mult : In(16)
        Multiplier, stage 1 (what the parameter memory shows one cycle after `acc`).
    shift : In(6)
        Right shift 0 to 47, stage 3.
    narrow : In(1)
        1 = saturate to 8 bits, 0 = to 16; stage 4.
    result : Out(signed(16))
        Requantised value, in the cycle after stage 4.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "enable": In(REQUANT_STAGES),
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
        """Build the stages."""
        m = Module()
        acc = Signal(signed(32))
        product = Signal(signed(PRODUCT_BITS))
        shifted = Signal(Shape(SHIFTED_BITS, signed=True))
        *parts, by = partial_products(acc, self.mult)
        low, high = Signal(33), Signal(signed(31))
        with m.If(self.enable[0]):
            m.d.sync += acc.eq(self.acc)
        with m.If(self.enable[1]):
            m.d.sync += [low.eq(parts[0]), high.eq(parts[1])]
        with m.If(self.enable[2]):
            m.d.sync += product.eq(low + (high << by))
        with m.If(self.enable[3]):
            m.d.sync += shifted.eq(shift_clamp(product, self.shift))
        rounded = round_saturate(m, shifted, self.narrow, "requant")
        with m.If(self.enable[4]):
            m.d.sync += self.result.eq(rounded)
        return m
