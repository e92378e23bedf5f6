# SPDX-License-Identifier: Apache-2.0
"""Matrices in shares: every output tile once, in order, where loads can begin, and in the room that there is."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hdl.config import PRESETS
from scheduler.plan.limits import LoweringError
from scheduler.plan.shares import Matrix, Share, shares_of

TINY = PRESETS["tiny"]  # two tiers, tiles of 32 bytes a plane: any tile can begin a load
CONFIGS = {
    "tiny": TINY,
    "flat": TINY.replace(vertical_links=False),
    "fine": TINY.replace(tiers=3, columns=4, row_fifo_depth=96),  # 16 bytes a plane: every second tile
    "nano": PRESETS["nano"],
}


@given(st.sampled_from(sorted(CONFIGS)), st.integers(1, 9), st.integers(1, 40), st.integers(1, 200), st.integers(1, 3))
def test_shares_are_the_whole_matrix(name: str, slices: int, tiles: int, room: int, step: int) -> None:
    config, matrix = CONFIGS[name], Matrix("m", 0, 0, slices, tiles)
    try:
        shares = shares_of(matrix, config, room, step)
    except LoweringError as error:
        align = 32 // math.gcd(32, slices * config.plane_bytes)
        assert room < slices * math.lcm(align, step) and "raise vcache_tiles" in str(error)
        return
    assert [share.first for share in shares] == [0, *(share.end for share in shares)][:-1]
    assert shares[-1].end == tiles
    for share in shares:
        assert 1 <= share.tiers <= (config.tiers if config.vertical_links else 1)
        assert share.each * slices <= room
        assert share.end == tiles or share.end % step == 0
        for tier in range(share.tiers):
            assert (share.first + tier * share.each) * slices * config.plane_bytes % 32 == 0


def test_what_a_gang_cannot_divide_goes_to_smaller_gangs() -> None:
    assert shares_of(Matrix("m", 0, 0, 3, 7), TINY, 256) == (Share(0, 2, 3), Share(6, 1, 1))
    assert shares_of(Matrix("m", 0, 0, 3, 7), TINY, 6) == (Share(0, 2, 2), Share(4, 2, 1), Share(6, 1, 1))
    assert shares_of(Matrix("m", 0, 0, 3, 7), CONFIGS["flat"], 256) == (Share(0, 1, 7),)


def test_a_tier_has_all_tiles_of_a_head_or_none() -> None:
    shares = shares_of(Matrix("absorb", 0, 0, 2, 15), TINY, 256, whole=3)
    assert shares == (Share(0, 2, 6), Share(12, 1, 3))
    assert all(share.each % 3 == 0 for share in shares_of(Matrix("absorb", 0, 0, 2, 15), TINY, 8, whole=3))


def test_a_slice_that_does_not_fit_is_named() -> None:
    assert shares_of(Matrix("head", 0, 0, 9, 2), TINY, 9)
    with pytest.raises(LoweringError, match="matrix head: 1 output tiles of 9 slices; V-Cache has room for 8 tiles"):
        shares_of(Matrix("head", 0, 0, 9, 2), TINY, 8)
