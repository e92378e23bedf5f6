# SPDX-License-Identifier: Apache-2.0
"""Dependences against all pairs of instructions that touch the same, and the orders that list scheduling finds."""

from __future__ import annotations

import numpy as np
import pytest

from hdl.config import PRESETS
from scheduler.stream.blocks import BEGIN, INNER, KIND, OUTER, STRIDE, WRITE, most_blocks
from scheduler.stream.dependences import EARLIER, LATER, dependences
from scheduler.stream.list_schedule import list_schedule
from scheduler.stream.lists import Memory, token_lists
from scheduler.stream.machine import machine_of
from scheduler.stream.table import Table
from scheduler.stream.touched import new_touched, touch
from tests.support.streams import drawn, plain_of

TINY = PRESETS["tiny"]


def plain(seed: int) -> tuple[Table, Memory]:
    """Return a drawn stream without waits, posts and END, and the memory that it starts with."""
    instructions, images, _ = drawn(TINY, seed, 50, slots=seed % 2 == 1)
    return Table.of(plain_of(instructions)), images


def touched_cells(table: Table, memory: Memory) -> list[dict[int, set[int]]]:
    """Return for each instruction the cells that it touches in each way."""
    machine = machine_of(TINY)
    lists, touched = token_lists(table, machine, memory), new_touched(machine)
    found: list[dict[int, set[int]]] = []
    while touched.part[1] < len(table):
        touch(table.rows, touched.part[1], len(table), machine, lists, most_blocks(machine), touched)
        for n in range(touched.part[1] - touched.part[0]):
            own: dict[int, set[int]] = {}
            for block in touched.blocks[touched.blocks_at[n] : touched.blocks_at[n + 1]]:
                for run in range(block[OUTER]):
                    begin = int(block[BEGIN] + run * block[STRIDE])
                    own.setdefault(int(block[KIND]), set()).update(range(begin, begin + int(block[INNER])))
            found.append(own)
    return found


def conflict(one: dict[int, set[int]], other: dict[int, set[int]]) -> bool:
    """Return whether two instructions touch a cell in ways that do not commute."""
    return any(
        (kind != own or kind == WRITE) and cells & others
        for kind, cells in one.items()
        for own, others in other.items()
    )


@pytest.mark.parametrize("seed", range(6))
def test_whatever_conflicts_is_ordered(seed: int) -> None:
    table, memory = plain(seed)
    edges = dependences(table, TINY, memory).edges
    assert (edges[:, EARLIER] < edges[:, LATER]).all()
    reach = np.eye(len(table), dtype=bool)
    for n in range(len(table) - 1, -1, -1):
        for later in edges[edges[:, EARLIER] == n, LATER]:
            reach[n] |= reach[later]
    cells = touched_cells(table, memory)
    pairs = [(m, n) for n in range(len(table)) for m in range(n) if conflict(cells[m], cells[n])]
    assert pairs and all(reach[m, n] for m, n in pairs)


@pytest.mark.parametrize("seed", range(6))
def test_an_order_keeps_what_depends_on_one_another(seed: int) -> None:
    table, memory = plain(seed)
    order = list_schedule(table, TINY, memory)
    assert sorted(order.tolist()) == list(range(len(table)))
    place = np.argsort(order)
    edges = dependences(table, TINY, memory).edges
    assert (place[edges[:, EARLIER]] < place[edges[:, LATER]]).all()
