# SPDX-License-Identifier: Apache-2.0
"""What the cycle model's loop knows of a stream before it runs: slices, followers in a gang, who fills which tiles."""

from __future__ import annotations

from hdl.isa import Format, Instruction, LoadDest, Mapping3D, Opcode
from scheduler.cost.engine import notes_of, segments_of, slices_of
from scheduler.cost.state import N, S
from scheduler.stream.table import Rows, Table

TIERS, TILES = 4, 64


def rows_of(*program: Instruction) -> Rows:
    return Table.of(program).rows


def gemm(base: int, count: int, mapping: Mapping3D = Mapping3D.K, **fields: int) -> Instruction:
    own = {"tier_base": base, "tier_count": count, "mapping": mapping if count > 1 else Mapping3D.ALONE}
    return Instruction(Opcode.GEMM, {"tokens": 1, "k_slices": 2, "n_tiles": 3, **own, **fields})


def load(tiers: int, base: int, count: int, **fields: int) -> Instruction:
    return Instruction(
        Opcode.LOAD, {"dest_kind": LoadDest.VCACHE, "dest_tiers": tiers, "dest_base": base, "count": count, **fields}
    )


def test_an_instruction_has_a_slice_on_each_of_its_units() -> None:
    rows = rows_of(
        gemm(1, 2), load(1, 0, 1, format=Format.PAIR), load(1, 0, 1, group=1), Instruction(Opcode.STORE, {"rows": 1}),
        Instruction(Opcode.VECTOR, {}), Instruction(Opcode.NOP, {}), Instruction(Opcode.ROUTE, {}),
    )  # fmt: skip
    slices = slices_of(rows, TIERS)
    assert slices[:, S.number].tolist() == [0, 0, 1, 1, 2, 3, 4, 6]
    assert slices[:, S.unit].tolist() == [1, 2, TIERS, TIERS + 1, TIERS + 1, TIERS + 2, TIERS + 3, TIERS + 3]
    assert notes_of(rows)[:, N.slice].tolist() == [0, 2, 4, 5, 6, 7, 7]


def test_only_the_same_k_gang_follows_without_a_gap() -> None:
    rows = rows_of(gemm(0, 2), gemm(0, 2), gemm(0, 4), gemm(0, 4), gemm(1, 1), gemm(0, 4), gemm(0, 4, Mapping3D.N))
    assert notes_of(rows)[:, N.chained].tolist() == [0, 1, 0, 1, 0, 0, 0]


def test_tiles_belong_to_the_last_load_with_the_same_tag() -> None:
    """Tier 0 reads tiles 4 to 9: two of the first load, two of the second, two that are resident."""
    rows = rows_of(
        load(1, 0, 8, tag=5), load(1, 6, 2, tag=5), load(2, 4, 6, tag=5), gemm(0, 1, tag=5, vcache_base=4),
        gemm(0, 1, tag=6, vcache_base=4),
    )  # fmt: skip
    notes, slices = notes_of(rows), slices_of(rows, TIERS)
    segments = segments_of(rows, TIERS, TILES, notes, slices)
    first, second = (int(slices[notes[n, N.slice], S.segment]) for n in (3, 4))
    assert segments[first : first + 3].tolist() == [[6, 0], [8, 1], [10, -1]]
    assert segments[second : second + 3].tolist() == [[6, -1], [8, -1], [10, -1]], "another tag is another content"
