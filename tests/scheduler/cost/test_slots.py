# SPDX-License-Identifier: Apache-2.0
"""What slots load: PAIR loads of which the high plane is wanted read that of one group."""

from __future__ import annotations

import numpy as np

from hdl.config import PRESETS
from hdl.isa import Format
from hdl.isa.asm import assemble
from hdl.numerics.precision import Thresholds
from scheduler.cost.energy.work import work_of
from scheduler.cost.slots import EXPERT, HIGH_ONLY, loaded_rows, tokens_of
from scheduler.ops.batch import Routing
from scheduler.stream.choose import slot_counts
from scheduler.stream.table import COL, Table

TINY = PRESETS["tiny"]
LOAD = "load format=pair count=48 slot_en=1 slot_stride=128 addr=64 addr_low=640"
BEGIN = f"""
    route tokens=2 choices=1 experts=4 by_number=1 full_score=5 post=s0
    {LOAD} scored=1 slot=0 dest_tiers=0 wait=s0
    {LOAD} scored=1 slot=1 dest_tiers=1
"""
STREAM = f"""{BEGIN}
    {LOAD} slot=1 dest_tiers=0
    route tokens=2 choices=1 experts=2 by_number=1 slot_base=1
    {LOAD} scored=1 slot=1 dest_tiers=0
    end"""


def test_loads_of_reduced_slots() -> None:
    rows = Table.of(assemble(STREAM)).rows
    counts = [[1 + HIGH_ONLY, 1 + HIGH_ONLY + EXPERT], [2, 0]]
    changed = loaded_rows(rows, counts)
    assert changed[:, COL.format].tolist() == [0, Format.HIGH, Format.HIGH, Format.PAIR, 0, Format.PAIR, 0]
    assert changed[:3, COL.group].tolist() == [0, 0, 1]
    assert tokens_of(counts) == [[1, 1], [2, 0]]
    assert loaded_rows(rows, tokens_of(counts)) is rows


def test_bytes_of_reduced_slots() -> None:
    stream = Table.of(assemble(f"{BEGIN}\nend"))
    half = 48 * TINY.plane_bytes // TINY.group_bytes
    for counts, beats in (
        ([1, 1], [2 * half, 2 * half]), ([1 + HIGH_ONLY, 1 + HIGH_ONLY + EXPERT], [half, half]),
        ([1 + HIGH_ONLY, 1 + HIGH_ONLY], [2 * half, 0]), ([1 + HIGH_ONLY, 0], [half, 0]),
    ):  # fmt: skip
        assert work_of(TINY, stream.rows, [counts]).read_beats.tolist() == beats


def test_counts_of_a_routing_with_thresholds() -> None:
    """Expert 3 is full, 1 wants its high plane, 0 nothing; by falling counts its slot is where its tokens put it."""
    routing = Routing(
        np.array([[3, 0], [3, 1], [3, 0]]), np.array([[30000, 99], [30000, 9000], [30000, 99]], np.uint16)
    )
    thresholds = (Thresholds(20000, 1000),)
    assert slot_counts([3], [routing], True, thresholds) == [[0, 1 + HIGH_ONLY + EXPERT, 2 * EXPERT, 3 + 3 * EXPERT]]
    assert slot_counts([3], [routing], False, thresholds) == [[3 + 3 * EXPERT, 0, 1 + HIGH_ONLY + EXPERT, 2 * EXPERT]]
    assert slot_counts([3], [routing], False) == [[3 + 3 * EXPERT, 2, 1 + EXPERT, 2 * EXPERT]]
