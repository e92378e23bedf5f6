# SPDX-License-Identifier: Apache-2.0
"""How matrices become tiles and planes, and which group holds which plane."""

from __future__ import annotations

import numpy as np

from scheduler.memory.layout import LayerShape, pack_planes, tiles_of
from scheduler.memory.placement import Part, Placement, high_plane_group
from tests.support.layers import TINY, random_layer


def test_tiles_hold_gate_and_up_side_by_side() -> None:
    rng = np.random.default_rng(10)
    expert = random_layer(rng, 1, 10, 6).experts[0]
    shape = LayerShape(TINY, 10, 6)
    up = tiles_of(shape, Part.UP, expert)
    assert up.shape == (shape.tiles(Part.UP), 8, 8) == (4, 8, 8)
    # Tile 2 is output tile 1, slice 0: channels 4 to 7 (two of them padding), inputs 0 to 7.
    np.testing.assert_array_equal(up[2, :, :2], expert.gate[4:6, :8].T)
    np.testing.assert_array_equal(up[2, :, 4:6], expert.up[4:6, :8].T)
    assert not up[2, :, 2:4].any() and not up[3, 2:].any()
    high, low = pack_planes(up)
    assert len(high) == len(low) == up.size // 2
    nibble = high[0] & 15
    assert (nibble - 16 if nibble > 7 else nibble) == (int(up.flat[0]) + 8) >> 4


def test_placements_spread_high_planes() -> None:
    groups = {p: [high_plane_group(p, e, part) for e in (0, 1) for part in Part] for p in Placement}
    assert groups == {
        Placement.EVEN_ODD: [0, 0, 1, 1],
        Placement.INTERLEAVED: [0, 1, 0, 1],
        Placement.ONE_GROUP: [0, 0, 0, 0],
    }
