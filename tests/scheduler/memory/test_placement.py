# SPDX-License-Identifier: Apache-2.0
"""Which group holds which plane."""

from __future__ import annotations

import pytest

from scheduler.memory.placement import Part, Placement, plane_group


def test_placements_spread_high_planes() -> None:
    high, low = (
        {p: [plane_group(p, e, part, plane) for e in (0, 1, 2) for part in Part] for p in Placement} for plane in (0, 1)
    )
    assert high == {
        Placement.EVEN_ODD: [0, 1, 1, 0, 0, 1],
        Placement.INTERLEAVED: [0, 1, 0, 1, 0, 1],
        Placement.ONE_GROUP: [0, 0, 0, 0, 0, 0],
        Placement.WHOLE: [0, 0, 1, 1, 0, 0],
    }
    for placement, groups in high.items():
        assert low[placement] == (groups if placement == Placement.WHOLE else [1 - group for group in groups])


def test_a_placement_is_asked_for_by_name() -> None:
    assert Placement("even_odd") is Placement.EVEN_ODD
    with pytest.raises(ValueError, match="odd_even"):
        Placement("odd_even")
