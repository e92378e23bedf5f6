# SPDX-License-Identifier: Apache-2.0
"""One processing element (PE): a stationary byte, a multiplier and one partial-sum register.

``psum <= psum_in + stationary * activation`` on every enabled cycle: int8 x int8 into int32, exact, wrapping at 32
bits.  The PE knows nothing of waves: its row drives ``load`` and ``enable``.
"""

from __future__ import annotations

from amaranth.hdl import Module, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["ProcessingElement"]


class ProcessingElement(wiring.Component):
    """Multiply-accumulate cell of the weight-stationary array.

    Latency: ``stationary`` and ``psum`` are registers, one cycle each.  Throughput: one product per cycle.

    Members
    -------
    load : In(1)
        Take ``stationary_in``.
    stationary_in : In(signed(8))
        Next stationary value.
    stationary : Out(signed(8))
        The stationary register; also the start of the link to the PE above (M mapping).
    enable : In(1)
        Take a new partial sum; without it the register does not toggle.
    activation : In(signed(8))
        Activation of the row, registered in the row.
    psum_in : In(signed(32))
        Partial sum of the PE one row up the column.
    psum : Out(signed(32))
        The partial-sum register.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "load": In(1),
                "stationary_in": In(signed(8)),
                "stationary": Out(signed(8)),
                "enable": In(1),
                "activation": In(signed(8)),
                "psum_in": In(signed(32)),
                "psum": Out(signed(32)),
            }
        )

    def module_key(self) -> str:
        """Name of the Verilog module: there is one PE."""
        return "pe"

    def elaborate(self, platform: object) -> Module:
        """Build the two registers and the multiplier."""
        m = Module()
        # Data registers carry no reset: what they hold is meaningless until a wave has passed, and a reset would cost
        # a gate a bit.
        stationary = Signal(signed(8), reset_less=True)
        psum = Signal(signed(32), reset_less=True)
        with m.If(self.load):
            m.d.sync += stationary.eq(self.stationary_in)
        with m.If(self.enable):
            m.d.sync += psum.eq(self.psum_in + stationary * self.activation)
        m.d.comb += [self.stationary.eq(stationary), self.psum.eq(psum)]
        return m
