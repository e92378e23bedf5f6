# SPDX-License-Identifier: Apache-2.0
"""Elements of loaded combine rows leaving the load unit: int16 to int32, in slices that are emitted once."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.memory.jobs import ROW_SHIFT_BITS

__all__ = ["RowSlice", "slice_elements"]

_MOST_ELEMENTS = 16


def slice_elements(columns: int) -> int:
    """Return how many of a row's elements one slice takes."""
    return min(columns, _MOST_ELEMENTS)


class RowSlice(wiring.Component):
    """Picks the elements of one engine and shifts them left.

    Latency: combinational.

    Parameters
    ----------
    elements : int
        Elements of the slice.

    Members
    -------
    elements : In(16 * elements).array(2)
        Of each engine's output word, as in memory.
    shift : In(5).array(2)
        Left shift, 0 to 16.
    owner : In(1)
        The engine whose elements are taken.
    lanes : Out(32 * elements)
        ``element << shift`` as int32, element 0 lowest.
    """

    def __init__(self, elements: int) -> None:
        self.count = elements
        super().__init__(
            {
                "elements": In(16 * elements).array(2),
                "shift": In(ROW_SHIFT_BITS).array(2),
                "owner": In(1),
                "lanes": Out(32 * elements),
            }
        )

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return f"row_slice_e{self.count}"

    def elaborate(self, platform: object) -> Module:
        """Build the multiplexer and the shifters."""
        m = Module()
        shift = Signal(ROW_SHIFT_BITS)
        m.d.comb += shift.eq(Mux(self.owner, self.shift[1], self.shift[0]))
        for i in range(self.count):
            element = Signal(signed(16), name=f"element_{i}")
            bits = slice(16 * i, 16 * (i + 1))
            m.d.comb += [
                element.eq(Mux(self.owner, self.elements[1][bits], self.elements[0][bits])),
                self.lanes[32 * i : 32 * (i + 1)].eq(element << shift),
            ]
        return m
