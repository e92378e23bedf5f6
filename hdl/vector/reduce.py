# SPDX-License-Identifier: Apache-2.0
"""Trees over the lanes of a row: a sum, and the first of the largest elements."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hdl.emit.hierarchy import instantiate

__all__ = ["BestNode", "BestTree", "SumTree", "tree_stages"]

LEVELS_PER_STAGE = 2


def tree_stages(columns: int) -> int:
    """Return the cycles that a tree over `columns` lanes takes."""
    return -(-(columns.bit_length() - 1) // LEVELS_PER_STAGE)


class SumTree(wiring.Component):
    """Sum of the lanes of a row.

    Latency: ``tree_stages(columns)`` cycles. Throughput: one row per cycle.

    Members
    -------
    enable : In(stages)
        Valid bits of the stages.
    row : In(columns signed(32))
    total : Out(signed(32 + log2(columns)))
    """

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self.stages = tree_stages(columns)
        bits = 32 + columns.bit_length() - 1
        super().__init__(
            {
                "enable": In(self.stages),
                "row": In(data.ArrayLayout(signed(32), columns)),
                "total": Out(signed(bits)),
            }
        )

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return f"vector_sum_tree_c{self.columns}"

    def elaborate(self, platform: object) -> Module:
        """Build the levels, a register after every second."""
        m = Module()
        level: list[Value] = [self.row[lane] for lane in range(self.columns)]
        depth = 0
        while len(level) > 1:
            level = [a + b for a, b in zip(level[0::2], level[1::2], strict=True)]
            depth += 1
            if depth % LEVELS_PER_STAGE == 0 or len(level) == 1:
                stage = (depth - 1) // LEVELS_PER_STAGE
                held = [Signal(signed(len(v)), name=f"sum_{stage}_{i}") for i, v in enumerate(level)]
                with m.If(self.enable[stage]):
                    m.d.sync += [register.eq(value) for register, value in zip(held, level, strict=True)]
                level = list(held)
        m.d.comb += self.total.eq(level[0])
        return m


class BestTree(wiring.Component):
    """Largest of the candidates of a row; of equal ones the first.

    Latency: ``tree_stages(columns)`` cycles. Throughput: one row per cycle.

    Members
    -------
    enable : In(stages)
        Valid bits of the stages.
    row : In(columns x 16)
        int16 elements.
    candidates : In(columns)
        Lanes that take part.
    value : Out(signed(16)), lane : Out(log2(columns)), found : Out(1)
        The best; only if there is a candidate.
    """

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self.stages = tree_stages(columns)
        super().__init__(
            {
                "enable": In(self.stages),
                "row": In(16 * columns),
                "candidates": In(columns),
                "value": Out(signed(16)),
                "lane": Out(columns.bit_length() - 1),
                "found": Out(1),
            }
        )

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return f"vector_best_tree_c{self.columns}"

    def elaborate(self, platform: object) -> Module:
        """Build the stages of nodes, each of which takes the best of some neighbours."""
        m = Module()
        values: list[Value] = [self.row.word_select(lane, 16) for lane in range(self.columns)]
        found: list[Value] = [self.candidates[lane] for lane in range(self.columns)]
        places: list[Value] = [Const(0, 0) for _ in range(self.columns)]
        for stage in range(self.stages):
            size = min(1 << LEVELS_PER_STAGE, len(values))
            below = len(places[0])
            nodes = []
            for number in range(len(values) // size):
                node = instantiate(m, platform, f"node_{stage}_{number}", BestNode(size, below))
                own = slice(number * size, (number + 1) * size)
                m.d.comb += [
                    node.enable.eq(self.enable[stage]),
                    node.values.eq(Cat(values[own])),
                    node.candidates.eq(Cat(found[own])),
                ]
                if below:
                    m.d.comb += node.places.eq(Cat(places[own]))
                nodes.append(node)
            values, found, places = [n.value for n in nodes], [n.found for n in nodes], [n.lane for n in nodes]
        m.d.comb += [self.value.eq(values[0]), self.found.eq(found[0]), self.lane.eq(places[0])]
        return m


class BestNode(wiring.Component):
    """Best of two or four neighbours of a `BestTree`, registered; the left one wins unless the right one is larger.

    Latency: one cycle. Throughput: one row per cycle.

    Parameters
    ----------
    size : int
        Neighbours, 2 or 4.
    below : int
        Bits of the lane numbers that the neighbours bring along.

    Members
    -------
    enable : In(1)
    values : In(16 x size), candidates : In(size), places : In(below x size; only if there are any)
        Elements, whether they take part, and their lanes within the part of the row that each stands for.
    value : Out(signed(16)), found : Out(1), lane : Out(below + log2(size))
    """

    def __init__(self, size: int, below: int) -> None:
        self.size = size
        self.below = below
        members = {"places": In(below * size)} if below else {}
        super().__init__(
            {
                "enable": In(1),
                "values": In(16 * size),
                "candidates": In(size),
                **members,
                "value": Out(signed(16)),
                "found": Out(1),
                "lane": Out(below + size.bit_length() - 1),
            }
        )

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return f"vector_best_node_{self.size}_{self.below}"

    def elaborate(self, platform: object) -> Module:
        """Build the levels of pairs."""
        m = Module()
        level: list[tuple[Value, Value, Value]] = [
            (
                self.values.word_select(place, 16).as_signed(),
                self.candidates[place],
                self.places.word_select(place, self.below) if self.below else Cat(),
            )
            for place in range(self.size)
        ]
        depth = 0
        while len(level) > 1:
            following = []
            for number, (left, right) in enumerate(zip(level[0::2], level[1::2], strict=True)):
                takes_right = Signal(name=f"right_{depth}_{number}")
                m.d.comb += takes_right.eq(right[1] & (~left[1] | (right[0] > left[0])))
                best = Mux(takes_right, right[0], left[0]).as_signed()
                place = Cat(Mux(takes_right, right[2], left[2]), takes_right) if len(left[2]) else Cat(takes_right)
                following.append((best, left[1] | right[1], place))
            level = following
            depth += 1
        with m.If(self.enable):
            m.d.sync += [self.value.eq(level[0][0]), self.found.eq(level[0][1]), self.lane.eq(level[0][2])]
        return m
