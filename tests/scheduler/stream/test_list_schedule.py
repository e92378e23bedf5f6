# SPDX-License-Identifier: Apache-2.0
"""What list scheduling takes slots to be, and how it orders loads that scores may shorten."""

from __future__ import annotations

import numpy as np
import pytest

from hdl.config import PRESETS
from hdl.isa import Opcode
from hdl.isa.asm import assemble
from scheduler.cost.slots import EXPERT, HIGH_ONLY
from scheduler.stream.list_schedule import SlotMeans, list_schedule
from scheduler.stream.table import COL, Table

TINY = PRESETS["tiny"]
LOAD = "load format=pair count=48 slot_en=1 slot_stride=128 addr=64 addr_low=640"
GEMM = "gemm tokens=40 k_slices=6 n_tiles=8 mode=requant16 dest_kind=combine slot_en=1 slot=1 tiers=1 tag=1"
MEMORY = (np.zeros(1 << 17, np.uint8), np.zeros(1 << 17, np.uint8))


def test_means_of_slots() -> None:
    """Full, reduced, empty; missing slots of a draw are empty; tokens are rounded up, experts are not looked at."""
    means = SlotMeans.of([[3 + 7 * EXPERT, 1 + HIGH_ONLY], [2, 4, 0], [2, 2 + HIGH_ONLY + EXPERT, 5]])
    assert means.tokens == [3, 3, 2]
    np.testing.assert_allclose(means.loaded, [1, (0.5 + 1 + 0.5) / 3, 1 / 3])


@pytest.mark.parametrize("scored", [0, 1])
def test_loads_that_scores_may_shorten_keep_their_order(scored: int) -> None:
    """The second load has the longer way to the end: it comes first unless which engines the first takes is open."""
    text = f"""
        route tokens=40 choices=1 experts=2 by_number=1 full_score={5 * scored} dest_stride=8
        {LOAD} scored={scored} slot=0 dest_tiers=0
        {LOAD} scored={scored} slot=1 dest_tiers=1 tag=1
        {GEMM}"""
    table = Table.of(assemble(text))
    order = list_schedule(table, TINY, MEMORY, [SlotMeans([20, 20], [1, 1])])
    loads = [n for n in order.tolist() if table.rows[n, COL.opcode] == Opcode.LOAD]
    assert loads == ([1, 2] if scored else [2, 1])
