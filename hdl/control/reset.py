# SPDX-License-Identifier: Apache-2.0
"""The registers from which the blocks of the machine get their resets."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["ResetRegister"]


class ResetRegister(wiring.Component):
    """Reset of one block: a register, so that no reset has to cross the machine within a cycle.

    Each block has one of its own, which a tool can place beside it; flattened, they would be merged to one.

    Latency: 1 cycle.

    Members
    -------
    request : In(1)
        Reset the block in the next cycle.
    reset : Out(1)
        High in the cycle after a request, and until the cycle after the reset of the domain.
    """

    keep_hierarchy = True
    """Synthesis is asked to leave the module as it is."""

    def __init__(self) -> None:
        super().__init__({"request": In(1), "reset": Out(1, init=1)})

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return "reset_register"

    def elaborate(self, platform: object) -> Module:
        """Build the register."""
        m = Module()
        held = Signal(init=1)
        m.d.sync += held.eq(self.request)
        m.d.comb += self.reset.eq(held)
        return m
