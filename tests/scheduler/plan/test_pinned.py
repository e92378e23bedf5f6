# SPDX-License-Identifier: Apache-2.0
"""What stays in V-Cache from step to step: the likeliest experts, each once, as many as leave room."""

from __future__ import annotations

from hdl.config import PRESETS
from scheduler.plan.pinned import dense_tiles, plan_pinned
from scheduler.plan.places import plan_places
from scheduler.plan.pools import StepSize
from scheduler.plan.residence import Residence, plan_residence
from scheduler.plan.tiling import Tiling
from tests.support.checkpoints import small_model

TINY = PRESETS["tiny"].replace(name="roomy", vcache_tiles=1024)


def residence(**more: int) -> Residence:
    model = small_model("mixtral", hidden=16, heads=2, kv_heads=2, head_dim=8, intermediate=16, vocabulary=20, **more)
    return plan_residence(Tiling(TINY, model))


def test_the_likeliest_experts_stay() -> None:
    own = residence(experts=5)
    shares = [[0.1, 0.5, 0.1, 0.1, 0.2], [0.3, 0.1, 0.1, 0.4, 0.1]]
    room = TINY.vcache_tiles - dense_tiles(own) - 3 * own.piece_tiles  # for three places, one of which has to turn
    found = plan_pinned(own, shares, room)
    assert found is not None and found.experts == (((0, 1), (1, 3)), ((1, 0), (0, 4)))
    assert found.tiles == found.dense_tiles + 2 * own.piece_tiles and found.places == 2
    assert found.place_of(1, 3) == (1, 0) and found.place_of(0, 4) == (1, 1) and found.place_of(0, 0) is None
    experts = {(0, 1), (1, 3), (1, 0), (0, 4)}
    assert found.all(2) == {"head", 0, 1, *experts, *((*pair, "high") for pair in experts)}


def test_without_shares_layers_take_turns() -> None:
    own = residence(experts=5)
    found = plan_pinned(own, [], TINY.vcache_tiles - dense_tiles(own) - 2 * own.piece_tiles)
    assert found is not None and found.experts == (((0, 0), (1, 0)),)


def test_nothing_stays_without_room_or_where_weights_stream() -> None:
    own = residence()
    assert plan_pinned(own, [], TINY.vcache_tiles - dense_tiles(own) - own.piece_tiles + 1) is None
    found = plan_pinned(own, [], TINY.vcache_tiles - dense_tiles(own) - own.piece_tiles)
    assert found is not None and found.places == 0 and found.tiles == found.dense_tiles
    narrow = plan_residence(Tiling(PRESETS["tiny"].replace(name="narrow", vcache_tiles=32), own.tiling.model))
    assert not narrow.resident and plan_pinned(narrow, [], 0) is None


def test_other_places_lie_behind_what_stays() -> None:
    own = residence(experts=5)
    found = plan_pinned(own, [], TINY.vcache_tiles - dense_tiles(own) - 3 * own.piece_tiles)
    assert found is not None
    size = StepSize(tokens=2, outputs=2, longest=1, keys=9, key_block=8, beside=True, pinned=found)
    places = plan_places(own, size)
    assert places.piece_buffers[: found.places + 1] == tuple(
        found.dense_tiles + n * own.piece_tiles for n in range(found.places + 1)
    )
    assert places.piece_buffers[found.places] == found.tiles and places.keys[0] >= found.tiles + own.piece_tiles
