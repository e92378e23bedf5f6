# SPDX-License-Identifier: Apache-2.0
"""Some neighbouring lanes of the vector unit as one module, so that a wide unit is a few instances of it."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hdl.emit.hierarchy import instantiate
from hdl.vector.lane import VectorLane, lane_members

__all__ = ["LaneGroup", "group_size"]

MOST_LANES = 16

SHARED = (
    "load", "enable", "takes", "in_shift", "narrow", "fn", "pivot", "use_b", "square", "rotate", "keeps", "table_write",
    "table_read", "factor", "shift", "add", "bits",
)  # fmt: skip
"""Inputs that all lanes have in common."""


def group_size(columns: int) -> int:
    """Return the lanes of a group; both are powers of two."""
    return min(columns, MOST_LANES)


class LaneGroup(wiring.Component):
    """Lanes `first` to ``first + group_size(columns) - 1``.

    Latency and throughput: those of `VectorLane`.

    Parameters
    ----------
    columns : int
        Lanes of the whole unit.

    Members
    -------
    first : In(lane bits)
        Number of the first lane (a constant outside).
    data : In(32 x size), load, enable, takes, in_shift, narrow, fn, pivot, use_b, square, rotate, keeps,
    table_write, table_read, factor, shift, add, bits : In
        As of `VectorLane`.
    count : In(lane bits + 1)
        Stage 9: lanes below it hold elements that count.
    seen : In(lane bits + 1), restricted, row_before, row_same : In(1), choice : In(lane bits)
        Stage 3: lanes below `seen` hold valid elements; with `restricted` only those take part in a search that come
        after the pivot's element: lower ones, and equal ones in a row after it (`row_before`), or in its row
        (`row_same`) and a lane after `choice`.
    x : Out(16 x size), candidates : Out(size)
        Stage 3: low bits of x; lanes that take part.
    result : Out(size x signed(32))
    """

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self.size = group_size(columns)
        bits = columns.bit_length() - 1
        lane = lane_members()
        super().__init__(
            {
                **{name: lane[name] for name in SHARED},
                "first": In(bits),
                "data": In(32 * self.size),
                "count": In(bits + 1),
                "seen": In(bits + 1),
                "restricted": In(1),
                "row_before": In(1),
                "row_same": In(1),
                "choice": In(bits),
                "x": Out(16 * self.size),
                "candidates": Out(self.size),
                "result": Out(data.ArrayLayout(signed(32), self.size)),
            }
        )

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return f"vector_lane_group_c{self.columns}"

    def elaborate(self, platform: object) -> Module:
        """Place the lanes."""
        m = Module()
        lanes = [instantiate(m, platform, f"lane{number}", VectorLane()) for number in range(self.size)]
        candidates = []
        for place, lane in enumerate(lanes):
            number = self.first + place
            behind = self.row_before | (self.row_same & (number > self.choice))
            candidates.append((number < self.seen) & (~self.restricted | lane.below | (lane.equal & behind)))
            m.d.comb += [
                *(getattr(lane, name).eq(getattr(self, name)) for name in SHARED),
                lane.data.eq(self.data.word_select(place, 32)),
                lane.neighbour.eq(lanes[place ^ 1].own),
                lane.valid.eq(number < self.count),
            ]
        m.d.comb += [
            self.x.eq(Cat(lane.x for lane in lanes)),
            self.candidates.eq(Cat(candidates)),
            self.result.eq(Cat(lane.result for lane in lanes)),
        ]
        return m
