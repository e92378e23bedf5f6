# SPDX-License-Identifier: Apache-2.0
"""A serial line of eight data bits, no parity, one stop bit: receiver and transmitter.

A bit takes a whole number of clocks, the same for both directions. The line is idle high; a byte is a low start bit,
its bits from the lowest on, and a high stop bit.
"""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out

from hdl.errors import A3dError

__all__ = ["BITS", "LEAST_DIVISOR", "UartReceiver", "UartTransmitter", "clocks_per_bit"]

BITS = 10
"""Bits of a byte on the line: start, eight of data, stop."""

LEAST_DIVISOR = 4
"""Fewest clocks of a bit: a bit is sampled in its middle, which the two synchronising registers put off."""

MOST_DIVISOR = 1 << 16
MOST_ERROR = 0.02
"""How far a rate may be off: at the end of a byte, half a bit is 5 % of ten bits, and both ends may be off."""


def clocks_per_bit(clock_hz: float, baud: int) -> int:
    """Return how many clocks a bit takes.

    Raises
    ------
    A3dError
        The clock cannot make the rate.
    """
    divisor = round(clock_hz / baud)
    if not LEAST_DIVISOR <= divisor <= MOST_DIVISOR:
        low, high = clock_hz / MOST_DIVISOR, clock_hz / LEAST_DIVISOR
        raise A3dError(
            f"baud: {baud} with a clock of {clock_hz / 1e6:g} MHz; a bit must take {LEAST_DIVISOR} to {MOST_DIVISOR} "
            f"clocks: use {low:.0f} to {high:.0f}"
        )
    error = clock_hz / divisor / baud - 1
    if abs(error) > MOST_ERROR:
        raise A3dError(
            f"baud: {baud} with a clock of {clock_hz / 1e6:g} MHz would be off by {abs(error):.1%}, at most "
            f"{MOST_ERROR:.0%} is allowed: use {clock_hz / divisor:.0f}, or a clock that is a multiple"
        )
    return divisor


class UartReceiver(wiring.Component):
    """Takes bytes from the line.

    Parameters
    ----------
    divisor : int
        Clocks of a bit.

    Members
    -------
    line : In(1)
        Asynchronous; goes through two registers.
    valid : Out(1)
        A byte came, for one cycle; it cannot be refused.
    data : Out(8)
        The byte, with `valid`.
    broken : Out(1)
        With `valid`: its stop bit was not high.
    """

    def __init__(self, divisor: int) -> None:
        self.divisor = divisor
        super().__init__({"line": In(1, init=1), "valid": Out(1), "data": Out(8), "broken": Out(1)})

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return f"uart_receiver_d{self.divisor}"

    def elaborate(self, platform: object) -> Module:
        """Build the synchroniser, the counter of clocks and the shift register."""
        m = Module()
        line = Signal(init=1)
        m.submodules.synchroniser = FFSynchronizer(self.line, line, init=1)
        clocks = Signal(range(self.divisor))
        bits = Signal(range(BITS + 1))
        shift = Signal(9)
        m.d.sync += self.valid.eq(0)
        with m.If(bits == 0):
            with m.If(~line):
                m.d.sync += [bits.eq(BITS), clocks.eq(self.divisor // 2 - 1)]
        with m.Elif(clocks != 0):
            m.d.sync += clocks.eq(clocks - 1)
        with m.Else():
            m.d.sync += [clocks.eq(self.divisor - 1), shift.eq(Cat(shift[1:], line)), bits.eq(bits - 1)]
            with m.If((bits == BITS) & line):
                m.d.sync += bits.eq(0)  # not a start bit: noise
            with m.If(bits == 1):
                m.d.sync += self.valid.eq(1)
        m.d.comb += [self.data.eq(shift[:8]), self.broken.eq(~shift[8])]
        return m


class UartTransmitter(wiring.Component):
    """Puts bytes on the line, one right after the other where they come so.

    Parameters
    ----------
    divisor : int
        Clocks of a bit.

    Members
    -------
    line : Out(1)
    valid : In(1)
    data : In(8)
    ready : Out(1)
        The byte is taken.
    """

    def __init__(self, divisor: int) -> None:
        self.divisor = divisor
        super().__init__({"line": Out(1, init=1), "valid": In(1), "data": In(8), "ready": Out(1)})

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return f"uart_transmitter_d{self.divisor}"

    def elaborate(self, platform: object) -> Module:
        """Build the counter of clocks and the shift register."""
        m = Module()
        clocks = Signal(range(self.divisor))
        bits = Signal(range(BITS))
        shift = Signal(BITS - 1, init=~0)
        m.d.comb += self.ready.eq((bits == 0) & (clocks == 0))
        with m.If(clocks != 0):
            m.d.sync += clocks.eq(clocks - 1)
        with m.Elif(bits != 0):
            m.d.sync += [self.line.eq(shift[0]), shift.eq(Cat(shift[1:], 1))]
            m.d.sync += [bits.eq(bits - 1), clocks.eq(self.divisor - 1)]
        with m.Elif(self.valid):
            m.d.sync += [self.line.eq(0), shift.eq(Cat(self.data, 1)), bits.eq(BITS - 1), clocks.eq(self.divisor - 1)]
        return m
