# SPDX-License-Identifier: Apache-2.0
"""Cells and bytes that instructions touch: those that the reference names, access by access."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from hdl.isa import LoadDest, Opcode
from hdl.isa.asm import assemble
from scheduler.stream.blocks import ACCESS, BEGIN, INNER, KIND, KINDS, OUTER, SPACE, STRIDE, TIER, most_blocks
from scheduler.stream.footprints import footprint
from scheduler.stream.lists import apply_lists, token_lists
from scheduler.stream.machine import SPACES, machine_of
from scheduler.stream.segments import GROUP, experts_of, new_spans, spans
from scheduler.stream.table import Table
from sim.golden.order.footprint import SPACES as REFERENCE_SPACES
from sim.golden.order.footprint import Lists, space_cells
from sim.golden.order.footprint import footprint as reference
from tests.support.streams import CONFIGS, drawn


@pytest.mark.parametrize("slots", [False, True], ids=["no slots", "slots"])
@pytest.mark.parametrize("name", list(CONFIGS))
def test_cells_and_bytes_are_the_references(name: str, slots: bool) -> None:
    config = CONFIGS[name]
    machine, seen = machine_of(config), Counter[str]()
    assert SPACES == REFERENCE_SPACES
    begins = dict(zip(SPACES, machine[-8:], strict=False))
    for space, end in zip(SPACES, machine[-7:], strict=True):
        assert end - begins[space] >= space_cells(space, config)
    for seed in range(4):
        stream, images, _ = drawn(config, seed, 50, slots=slots)
        table, lists = Table.of(stream), Lists(config)
        ours, blocks, found = (
            token_lists(table, machine, images),
            np.zeros((most_blocks(machine), 8), np.int64),
            new_spans(1),
        )
        for number, instruction in enumerate(stream):
            wanted = reference(instruction, config, lists)
            many = footprint(table.rows, number, machine, ours, blocks, 0)
            accesses: dict[int, tuple[tuple[str, str, int], set[int]]] = {}
            for block in blocks[:many].tolist():
                names = SPACES[block[SPACE]], KINDS[block[KIND]], block[TIER]
                cells = accesses.setdefault(block[ACCESS], (names, set()))[1]
                assert accesses[block[ACCESS]][0] == names
                for run in range(block[OUTER]):
                    first = block[BEGIN] + run * block[STRIDE] - int(begins[names[0]])
                    cells.update(range(first, first + block[INNER]))
            expected = [((a.space, a.kind, a.tier), set(a.cells.tolist())) for a in wanted.accesses if a.cells.size]
            assert _joined(accesses[access] for access in sorted(accesses)) == _joined(expected)
            seen.update(f"{instruction.opcode.name} {a.kind}s {a.space}" for a in wanted.accesses)
            reach = spans(table.rows, number, machine, experts_of(table.rows, number, machine, ours), found, 0)
            bytes_ = [
                (span[0] // GROUP, span[0] % GROUP + run * span[2], span[1])
                for span in found[:reach].tolist()
                for run in range(span[3])
            ]
            own = wanted.reads + wanted.writes
            runs = [(s.group, at, s.width) for s in own for at in range(s.start, s.end, s.step)]
            assert _whole(bytes_) == _whole(runs)
            lists.apply(instruction, images)
            apply_lists(table.rows, number, machine, ours)
    for kind in ("GEMM adds combine", "GEMM writes activation", "LOAD writes vcache", "STORE writes combine"):
        assert seen[kind], kind
    assert bool(seen["ROUTE reads scalar"]) == bool(seen["GEMM reads slots"]) == slots


def _joined(accesses: object) -> list[tuple[tuple[str, str, int], set[int]]]:
    """Join neighbouring accesses that differ in nothing but their cells, as writes to several tiers."""
    result: list[tuple[tuple[str, str, int], set[int]]] = []
    for names, cells in accesses:  # type: ignore[attr-defined]
        if result and result[-1][0] == names:
            result[-1][1].update(cells)
        else:
            result.append((names, set(cells)))
    return result


def _whole(runs: list[tuple[int, int, int]]) -> set[tuple[int, int]]:
    """Return the units of 4 bytes of some runs of bytes."""
    return {(group, at) for group, begin, width in runs for at in range(begin // 4, -(-(begin + width) // 4))}


def test_lists_hold_what_loads_and_routes_leave() -> None:
    config = CONFIGS["stack"]
    machine, routed = machine_of(config), 0
    for seed in range(3):
        stream, images, _ = drawn(config, seed, 60, slots=True)
        table, lists = Table.of(stream), Lists(config)
        ours = token_lists(table, machine, images)
        for number, instruction in enumerate(stream):
            lists.apply(instruction, images)
            apply_lists(table.rows, number, machine, ours)
            if instruction.opcode != Opcode.ROUTE and instruction["dest_kind"] != LoadDest.LIST:
                continue
            known = ours.entries[:, 4] == 0
            assert np.array_equal(lists._routed.reshape(-1) < 0, known)
            assert np.array_equal(lists.entries.reshape(-1, 4)[known], ours.entries[known, :4])
            routed += np.count_nonzero(~known)
    assert routed


def test_a_load_over_a_part_of_what_a_route_wrote() -> None:
    """The GEMM takes two sources from the list that was loaded, the others are those of all tokens."""
    config = CONFIGS["tiny"]
    machine, memory = machine_of(config), np.arange(4096, dtype=np.uint8)
    stream = list(
        assemble(
            "route tokens=4 choices=1 experts=2 source_stride=3 dest=40 dest_stride=2\n"
            "load dest_kind=list dest_tiers=0 dest=1 count=2\n"
            "gemm tokens=4 k_slices=1 n_tiles=1 act_list=1 dest_list=1 dest_kind=combine\n"
            "gemm tiers=1 tokens=4 k_slices=1 n_tiles=1 act_list=1 dest_list=1 dest_kind=combine\n"
        )
    )
    memory[:8], memory[8:16] = np.array([100, 60, 0, 0], "<u2").view(np.uint8), 1
    table, lists = Table.of(stream), Lists(config)
    ours, blocks = token_lists(table, machine, (memory, memory)), np.zeros((most_blocks(machine), 8), np.int64)
    for number, instruction in enumerate(stream):
        wanted = reference(instruction, config, lists)
        cells = {space: set[int]() for space in SPACES}
        for block in blocks[: footprint(table.rows, number, machine, ours, blocks, 0)].tolist():
            for run in range(block[OUTER]):
                first = block[BEGIN] + run * block[STRIDE] - machine[-8:][block[SPACE]]
                cells[SPACES[block[SPACE]]].update(range(first, first + block[INNER]))
        for space in SPACES:
            assert cells[space] == {c for a in wanted.accesses if a.space == space for c in a.cells.tolist()}, number
        lists.apply(instruction, (memory, memory))
        apply_lists(table.rows, number, machine, ours)
    assert cells["combine"] == {40, 42, 44, 46}
