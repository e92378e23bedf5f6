# SPDX-License-Identifier: Apache-2.0
"""What is used in turn: tags, tiers, regions, places of keys; each stays inside what the plan gave it."""

from __future__ import annotations

import pytest

from scheduler.memory.layer import LayerMemory
from scheduler.memory.placement import Placement
from scheduler.models.constants import placeholders
from scheduler.models.description import Experts
from scheduler.ops.batch import Chunk
from scheduler.plan.layer import Way, experts_alone, plan_layer
from scheduler.plan.places import TAGS
from scheduler.plan.tiling import Tiling
from scheduler.stream.emit.work import Work
from tests.support.checkpoints import small_model
from tests.support.emitting import TINY, work_of

CHUNKS = [Chunk(0, 5, (1, 2, 3, 4)), Chunk(1, 8, (5,))]


def test_a_tag_comes_again_after_all_others() -> None:
    work = work_of(CHUNKS)
    tags = [work.next_tag() for _ in range(2 * TAGS)]
    assert sorted(tags[:TAGS]) == list(range(TAGS)) and tags[TAGS:] == tags[:TAGS]


def test_jobs_go_to_the_tiers_in_turn() -> None:
    work = work_of(CHUNKS)
    assert [*work.next_tiers(3), *work.next_tiers(1)] == [0, 1, 0, 1]


def test_keys_have_places_inside_what_is_left() -> None:
    work = work_of(CHUNKS)
    base, size = work.places.keys
    assert work.key_buffer_tiles == work.tiling.key_tiles(work.heads(0), 9) + work.tiling.value_tiles(work.heads(0), 9)
    found = [work.key_buffer((0,)) for _ in range(work.key_buffers)]
    assert found == [base + n * work.key_buffer_tiles for n in range(work.key_buffers)]
    assert found[-1] + work.key_buffer_tiles <= base + size
    assert work.key_buffer((0,)) == base
    # A place for both tiers is the next one that neither uses.
    assert work.key_buffer((0, 1)) == base + work.key_buffer_tiles == work.key_buffer((1,)) - work.key_buffer_tiles


@pytest.mark.parametrize(
    ("tiers", "heads", "own"),
    [
        (2, 1, [(0, 1)]), (2, 2, [(0,), (1,)]), (2, 3, [(0,), (1,), (0,)]), (3, 2, [(0,), (1,)]),
        (4, 2, [(0, 1), (2, 3)]),
    ],
)  # fmt: skip
def test_heads_have_tiers(tiers: int, heads: int, own: list[tuple[int, ...]]) -> None:
    config = TINY.replace(tiers=tiers, row_fifo_depth=128)
    work = work_of([Chunk(0, 0, (1,))], config, small_model("mixtral", heads=heads, kv_heads=heads, head_dim=8))
    assert [work.tiers_of(0, head) for head in range(heads)] == own


def test_a_layer_alone_has_no_model_memory() -> None:
    tiling = Tiling(TINY, experts_alone(21, Experts(count=5, chosen=2, intermediate=13)))
    places = plan_layer(tiling, 4, Way.ALONE).places
    memory = LayerMemory.__new__(LayerMemory)
    memory.experts = work_of(CHUNKS).experts
    work = Work(placeholders(tiling.model), memory, places)
    assert work.experts.placement == Placement.EVEN_ODD and work.key_buffers == 1
    with pytest.raises(AssertionError):
        work.memory  # noqa: B018
