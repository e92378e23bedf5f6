# SPDX-License-Identifier: Apache-2.0
"""Trees over the lanes of a row: a sum, and the first of the largest elements."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["BestTree", "SumTree", "tree_stages"]

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
        """Build the levels; the left one of a pair wins unless the right one is larger or alone."""
        m = Module()
        level: list[tuple[Value, Value, Value]] = [
            (self.row.word_select(lane, 16).as_signed(), self.candidates[lane], Cat()) for lane in range(self.columns)
        ]
        depth = 0
        while len(level) > 1:
            following = []
            for number, (left, right) in enumerate(zip(level[0::2], level[1::2], strict=True)):
                takes_right = Signal(name=f"right_{depth}_{number}")
                m.d.comb += takes_right.eq(right[1] & (~left[1] | (right[0] > left[0])))
                best = Mux(takes_right, right[0], left[0]).as_signed()
                place = Cat(Mux(takes_right, right[2], left[2]), takes_right) if depth else Cat(takes_right)
                following.append((best, left[1] | right[1], place))
            depth += 1
            if depth % LEVELS_PER_STAGE == 0 or len(following) == 1:
                stage = (depth - 1) // LEVELS_PER_STAGE
                held = []
                for number, (value, found, place) in enumerate(following):
                    registers = (
                        Signal(signed(16), name=f"value_{stage}_{number}"),
                        Signal(name=f"found_{stage}_{number}"),
                        Signal(len(place), name=f"lane_{stage}_{number}"),
                    )
                    with m.If(self.enable[stage]):
                        m.d.sync += [r.eq(v) for r, v in zip(registers, (value, found, place), strict=True)]
                    held.append(registers)
                following = held
            level = following
        m.d.comb += [self.value.eq(level[0][0]), self.found.eq(level[0][1]), self.lane.eq(level[0][2])]
        return m
