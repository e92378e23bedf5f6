# SPDX-License-Identifier: Apache-2.0
"""How matrices become tiles, words and planes, padded with zeros."""

from __future__ import annotations

import numpy as np

from hdl.config import PRESETS
from hdl.numerics import split_nibbles
from scheduler.memory.layout import (
    BANK_BEATS,
    LayerShape,
    memory_alignment,
    pack_planes,
    parameter_words,
    spread_size,
    tiles_of,
)
from scheduler.memory.placement import Part
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


def test_words_lie_where_their_channels_do() -> None:
    expert = random_layer(np.random.default_rng(1), 1, 10, 6).experts[0]
    shape = LayerShape(TINY, 10, 6)
    up, down = (parameter_words(shape, part, expert) for part in Part)
    assert up.shape == (2, 8) and down.shape == (2, 8)
    np.testing.assert_array_equal(up[:, :4].reshape(-1)[:6], expert.gate_mult)
    np.testing.assert_array_equal(up[:, 4:].reshape(-1)[:6], expert.up_mult)
    np.testing.assert_array_equal(down.reshape(-1)[:10], expert.down_mult)
    assert not up[1, 2:4].any() and not up[1, 6:].any() and not down[1, 2:].any()


def test_planes_are_nibbles_in_order() -> None:
    weights = np.array([[[-128, 127], [0, -1]]], dtype=np.int8)
    high, low = pack_planes(weights)
    for plane, nibbles in zip((high, low), split_nibbles(weights.reshape(-1)), strict=True):
        found = [(plane[n // 2] >> 4 * (n % 2)) & 15 for n in range(4)]
        assert found == [int(n) & 15 for n in nibbles]


def test_a_part_is_cut_at_whole_words_and_where_loads_begin() -> None:
    """Tall tiles (8 x 4) have 16 bytes a plane, half a unit of memory; four tiles of up make a word of h."""
    tall = LayerShape(TINY.replace(columns=4, row_fifo_depth=64), 8, 8)
    assert memory_alignment(tall.config) == 32
    assert [(tall.k_slices(part), tall.n_tiles(part), tall.n_step(part)) for part in Part] == [(1, 4, 4), (1, 2, 2)]
    square = LayerShape(TINY, 9, 7)
    assert [(square.k_slices(part), square.n_tiles(part), square.n_step(part)) for part in Part] == [
        (2, 2, 2), (1, 2, 1)
    ]  # fmt: skip


def test_equal_regions_begin_in_different_banks() -> None:
    """Sixteen banks, two of which a sequential stream reads at a time: eight places to begin."""
    config = PRESETS["small"]
    step = BANK_BEATS * config.group_bytes
    for size in (4 * step + 32, 5 * step, 8 * step, 8 * step + 32, 9 * step, 100 * step):
        apart = spread_size(config, size)
        assert size <= apart <= size + 2 * step and len({n * apart // step % 8 for n in range(8)}) == 8
    assert spread_size(config, 4 * step) == 4 * step and spread_size(config, 96) == 96
