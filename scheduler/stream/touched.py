# SPDX-License-Identifier: Apache-2.0
"""All that the instructions of a part of a stream touch: what later passes over them start from."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from scheduler.stream.blocks import Blocks, most_blocks
from scheduler.stream.compiled import compiled
from scheduler.stream.footprints import footprint
from scheduler.stream.lists import TokenLists, apply_lists, route_of
from scheduler.stream.machine import Machine
from scheduler.stream.segments import Spans, experts_of, new_spans, spans
from scheduler.stream.table import COL, Rows

__all__ = ["Touched", "new_touched", "touch"]

PART = 1024
"""Instructions of a part: what they touch stays in the processor's caches."""


class Touched(NamedTuple):
    """What the instructions of a part touch.

    Attributes
    ----------
    blocks : int64 array [blocks, 8]
        On chip.
    blocks_at : int64 array [PART + 1]
        Where those of each instruction begin.
    spans : int64 array [spans, 4]
        In memory.
    spans_at : int64 array [PART + 1]
        Where those of each instruction begin.
    routes : int64 array [PART, 2]
        For each instruction with a slot the row of the ROUTE that wrote the slot (-1: none), and its number.
    part : int64 array [3]
        First instruction of the part, its end, and what is wrong with the instruction there: 0, or one more than what
        :func:`scheduler.stream.footprints.footprint` says of an access through a list.
    """

    blocks: Blocks
    blocks_at: npt.NDArray[np.int64]
    spans: Spans
    spans_at: npt.NDArray[np.int64]
    routes: npt.NDArray[np.int64]
    part: npt.NDArray[np.int64]


def new_touched(machine: Machine) -> Touched:
    """Return room for a part."""
    return Touched(
        np.empty((16 * PART + most_blocks(machine), 8), np.int64), np.zeros(PART + 1, np.int64), new_spans(PART),
        np.zeros(PART + 1, np.int64), np.zeros((PART, 2), np.int64), np.zeros(3, np.int64),
    )  # fmt: skip


@compiled
def touch(rows: Rows, first: int, end: int, machine: Machine, lists: TokenLists, most: int, touched: Touched) -> None:
    """Write down what the instructions from `first` on touch, up to `end` at most.

    Parameters
    ----------
    lists : TokenLists
        Their contents before the first of these instructions; afterwards, behind the last one.
    most : int
        Blocks that an instruction can have.
    """
    blocks, reach, routes, part = touched.blocks, touched.spans, touched.routes, touched.part
    at, span, n = 0, 0, first
    part[0], part[2] = first, 0
    while n < end and n - first < PART and at + most <= len(blocks):
        place = n - first
        touched.blocks_at[place], touched.spans_at[place] = at, span
        if rows[n, COL.slot_en]:
            routes[place, 0], routes[place, 1] = route_of(rows, n, lists), lists.slots[rows[n, COL.slot]]
        many = footprint(rows, n, machine, lists, blocks, at)
        if many < 0:
            part[2] = -many
            break
        at = many
        span = spans(rows, n, machine, experts_of(rows, n, machine, lists), reach, span)
        apply_lists(rows, n, machine, lists)
        n += 1
    touched.blocks_at[n - first], touched.spans_at[n - first] = at, span
    part[1] = n
