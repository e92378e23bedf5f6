# SPDX-License-Identifier: Apache-2.0
"""Wide registers at a die boundary: the partial-sum link (K) and the result lanes."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["PartialSumLink", "ResultHop"]


class PartialSumLink(wiring.Component):
    """Both ends of a tier's partial-sum links: the gate on the link from below, and the registers of the link upwards.

    Latency: ``below`` to ``entry`` none, ``leaving`` to ``above`` `stages` cycles.  Throughput: a row of sums a cycle.

    Parameters
    ----------
    columns : int
        Partial sums.
    stages : int
        Registers between row R-1 of this tier and row 0 of the next, at least 1.

    Members
    -------
    below, take, entry : In(32 * columns), In(1), Out(32 * columns)
        What row 0 adds to: the sums of the tier below if ``take``, else zero.
    leaving, send, above : In(32 * columns), In(1), Out(32 * columns)
        Sums of row R-1; they move into the link only with ``send``, one stage per cycle.
    """

    def __init__(self, columns: int, stages: int) -> None:
        self.columns = columns
        self.stages = stages
        width = 32 * columns
        super().__init__(
            {
                "below": In(width),
                "take": In(1),
                "entry": Out(width),
                "leaving": In(width),
                "send": In(1),
                "above": Out(width),
            }
        )

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return f"psum_link_c{self.columns}_s{self.stages}"

    def elaborate(self, platform: object) -> Module:
        """Build the gate and the registers."""
        m = Module()
        width = 32 * self.columns
        m.d.comb += self.entry.eq(Mux(self.take, self.below, 0))
        word, valid = self.leaving, self.send
        for stage in range(self.stages):
            register = Signal(width, name=f"stage_{stage}", reset_less=True)
            with m.If(valid):
                m.d.sync += register.eq(word)
            if stage + 1 < self.stages:
                moved = Signal(name=f"valid_{stage}")
                m.d.sync += moved.eq(valid)
                valid = moved
            word = register
        m.d.comb += self.above.eq(word)
        return m


class ResultHop(wiring.Component):
    """Register of one result lane on its way down.

    Latency: one cycle.  Throughput: one row per cycle; no back-pressure.

    Parameters
    ----------
    width : int
        Bits of a result row.

    Members
    -------
    valid, row : In(1), In(width)
        From this tier's drain or the tier above.
    below_valid, below_row : Out(1), Out(width)
        To the tier below.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        super().__init__({"valid": In(1), "row": In(width), "below_valid": Out(1), "below_row": Out(width)})

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return f"result_hop_w{self.width}"

    def elaborate(self, platform: object) -> Module:
        """Build the register."""
        m = Module()
        valid = Signal()
        row = Signal(self.width, reset_less=True)
        m.d.sync += valid.eq(self.valid)
        with m.If(self.valid):
            m.d.sync += row.eq(self.row)
        m.d.comb += [self.below_valid.eq(valid), self.below_row.eq(row)]
        return m
