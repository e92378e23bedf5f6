# SPDX-License-Identifier: Apache-2.0
"""Where a step's data lie: within every memory, apart from each other, or refused by the field that is short."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from hdl.config import PRESETS, MachineConfig
from scheduler.models.description import Model
from scheduler.plan.limits import MOST_COUNT, LoweringError
from scheduler.plan.places import SPARE_ROWS, SPARE_SCALARS, Places, most_block, plan_places
from scheduler.plan.pools import Pool, Ring, StepSize
from scheduler.plan.residence import plan_residence
from scheduler.plan.tiling import Tiling
from tests.support.checkpoints import small_model

TINY = PRESETS["tiny"]
ODD = small_model("mixtral", hidden=21, heads=4, kv_heads=2, head_dim=6, intermediate=13, vocabulary=21)


def plan(config: MachineConfig, size: StepSize, model: Model = ODD) -> Places:
    """Return the places of a step of a model on a machine."""
    return plan_places(plan_residence(Tiling(config, model)), size)


def test_a_ring_never_cuts_a_piece() -> None:
    ring = Ring(10, 7)
    assert [ring.take(n) for n in (3, 3, 3, 4, 7, 1)] == [10, 13, 10, 13, 10, 10]
    with pytest.raises(ValueError, match="ring: 8 cells of 7"):
        ring.take(8)


def test_a_pools_regions_follow_each_other() -> None:
    pool = Pool(5, {"a": 3, "b": 0, "c": 2})
    assert (pool["a"], pool["b"], pool["c"], pool.size, pool.end) == (5, 8, 8, 5, 10)


SIZES = [
    StepSize(tokens=1, outputs=1, longest=1, keys=1, key_block=8),
    StepSize(tokens=5, outputs=2, longest=4, keys=9, key_block=16),
    StepSize(tokens=20, outputs=0, longest=20, keys=40, key_block=16),
    StepSize(tokens=17, outputs=17, longest=1, keys=64, key_block=64),
]


@pytest.mark.parametrize("slots", [False, True], ids=["host", "slots"])
@pytest.mark.parametrize("tiles", [256, 64], ids=["resident", "streamed"])
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size.tokens} tokens")
def test_everything_has_its_place(size: StepSize, tiles: int, slots: bool) -> None:
    config = TINY.replace(vcache_tiles=tiles)
    own = StepSize(size.tokens, size.outputs, size.longest, size.keys, size.key_block, slots)
    places = plan(config, own)
    residual, x = size.tokens * 3, size.tokens * 3
    assert places.rows["attention"].base == residual and places.words["attention"].sizes["x"] == x
    # What overlaps in time lies apart; no one has the spare cells.
    assert places.rows["experts"].base == places.rows["attention"].end
    assert max(pool.end for pool in places.rows.values()) <= config.combine_rows - SPARE_ROWS
    assert max(pool.end for pool in places.scalars.values()) <= config.scalar_depth - SPARE_SCALARS
    assert max(pool.end for pool in places.words.values()) <= config.activation_words
    assert places.rows["attention"].sizes["scores"] == places.regions * places.score_rows
    words = places.job_vectors * places.size.key_block // places.config.rows
    assert places.words["attention"].sizes["scores"] in (2 * words, 4 * words)
    assert places.words["experts"].sizes["h"] == 2 * places.chunk * 2
    assert 1 <= places.block <= min(size.tokens, most_block(places.residence))
    # V-Cache: dense matrices, experts, keys, in this order.
    edges = [places.residence.dense_tiles, *places.piece_buffers, places.keys[0]]
    assert edges[0] == edges[1] and all(b - a == places.residence.piece_tiles for a, b in pairwise(edges[1:]))
    assert sum(places.keys) == config.vcache_tiles
    heads = places.tiling.heads(ODD.layers[0])
    assert (
        places.tiling.key_tiles(heads, places.key_piece) + places.tiling.value_tiles(heads, places.key_piece)
        <= (places.keys[1])
    )
    # Requantisation words.
    each = 7 if slots or tiles == 256 else 4  # of two tiers together, 2 + 2 output tiles a tier
    words = [*places.expert_words, places.expert_words[-1] + each]
    assert all(b - a == each for a, b in pairwise(words)) and words[-1] <= config.parameter_words
    assert places.list_entries == (places.block, config.list_depth - places.block)
    assert places.choice_tokens == size.tokens or not slots


def test_keys_that_do_not_fit_come_in_pieces() -> None:
    long = StepSize(tokens=1, outputs=1, longest=1, keys=60, key_block=8)
    model = small_model("mixtral", hidden=16, heads=4, kv_heads=2, head_dim=16, vocabulary=24, intermediate=8)
    assert plan(TINY, long, model).key_piece == 60
    places = plan(TINY.replace(vcache_tiles=64), long, model)
    assert places.key_piece % 8 == 0 and 8 <= places.key_piece < 60


def test_the_choice_of_experts_is_cut_where_scalars_are_few() -> None:
    """Five scalars for each of 20 tokens; in slots mode ROUTE has all of them at once."""
    size = StepSize(tokens=20, outputs=0, longest=20, keys=20, key_block=8)
    tokens = {depth: plan(TINY.replace(scalar_depth=depth), size).choice_tokens for depth in (64, 128, 256, 512)}
    assert tokens == {64: 1, 128: 3, 256: 10, 512: 20}
    assert plan(TINY, StepSize(20, 0, 20, 20, 8, slots=True)).choice_tokens == 20
    with pytest.raises(LoweringError, match="needs scalar_depth of"):
        plan(TINY.replace(scalar_depth=64), StepSize(20, 0, 20, 20, 8, slots=True))


@pytest.mark.parametrize("slots", [False, True], ids=["host", "slots"])
@pytest.mark.parametrize(
    ("name", "value"), [("combine_rows", 64), ("activation_words", 16), ("scalar_depth", 16), ("list_depth", 16)]
)
def test_what_is_short_is_named_and_what_is_named_is_enough(name: str, value: int, slots: bool) -> None:
    size = StepSize(tokens=20, outputs=2, longest=20, keys=40, key_block=16, slots=slots)
    if name == "list_depth" and not slots:
        assert plan(TINY.replace(list_depth=value), size)
        return
    with pytest.raises(LoweringError, match=f"step of 20 tokens, 40 keys on tiny: needs {name}") as caught:
        plan(TINY.replace(**{name: value}), size)  # type: ignore[arg-type]
    found = re.search(rf"needs {name} of (\d+), the machine has {value}; .* or raise {name}$", str(caught.value))
    assert found and int(found[1]) > value
    assert plan(TINY.replace(**{name: 1 << (int(found[1]) - 1).bit_length()}), size)  # type: ignore[arg-type]


def test_more_tokens_than_an_instruction_counts_are_refused() -> None:
    with pytest.raises(LoweringError, match=f"step of {MOST_COUNT + 1} tokens: instructions count up to {MOST_COUNT};"):
        plan(TINY, StepSize(MOST_COUNT + 1, 0, 1, 1, 8))
