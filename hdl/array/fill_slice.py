# SPDX-License-Identifier: Apache-2.0
"""One slice of the V-Cache fill path in a tier: the bond register of one row's data, and the choice of the lane.

A fill word covers ``fill_rows`` adjacent rows of a tile; slice ``j`` carries row ``word * fill_rows + j`` of both lanes
(channel groups).  A tier has one slice for each, so that no module is wider than a row.  The hub registers the control
part of the same fill words in step and decodes it.
"""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["FillSlice"]


class FillSlice(wiring.Component):
    """Register one row slice of both fill lanes and pick the lane that hits this tier.

    Latency: one cycle from ``below`` to ``above`` and to ``row``.  Throughput: one slice per lane and cycle.

    Parameters
    ----------
    columns : int
        Bytes of a slice.

    Members
    -------
    valid : In(1).array(2)
        The lane carries a fill word this cycle (from the tier below; other words are not taken in).
    below : In(8 * columns).array(2)
        Data of the lanes from the tier below.
    above : Out(8 * columns).array(2)
        The same for the tier above, registered.
    select : In(1)
        Registered by the hub in step with the data: lane 1 hits this tier, else lane 0.
    row : Out(8 * columns)
        Data of the lane that hits.
    """

    def __init__(self, columns: int) -> None:
        self.columns = columns
        width = 8 * columns
        super().__init__(
            {
                "valid": In(1).array(2),
                "below": In(width).array(2),
                "above": Out(width).array(2),
                "select": In(1),
                "row": Out(width),
            }
        )

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return f"fill_slice_c{self.columns}"

    def elaborate(self, platform: object) -> Module:
        """Build the registers and the multiplexer."""
        m = Module()
        lanes = [Signal(8 * self.columns, name=f"lane_{lane}", reset_less=True) for lane in range(2)]
        for lane, register in enumerate(lanes):
            with m.If(self.valid[lane]):
                m.d.sync += register.eq(self.below[lane])
            m.d.comb += self.above[lane].eq(register)
        m.d.comb += self.row.eq(Mux(self.select, lanes[1], lanes[0]))
        return m
