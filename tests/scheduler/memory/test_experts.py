# SPDX-License-Identifier: Apache-2.0
"""Where experts lie: what the addresses name is the expert's bytes, and one LOAD with a slot finds any of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hdl.config import ADDRESS_UNIT, PRESETS
from scheduler.memory.experts import ExpertContents, ExpertMemory
from scheduler.memory.image import ImageBuilder
from scheduler.memory.placement import Part, Placement
from scheduler.models.description import Experts
from scheduler.plan.layer import Way, experts_alone, plan_layer
from scheduler.plan.residence import Residence
from scheduler.plan.tiling import Tiling
from tests.support.layers import random_layer

TINY = PRESETS["tiny"]
MLP = Experts(count=5, chosen=2, intermediate=13)
LAYERS = [random_layer(np.random.default_rng(seed), 5, 21, 13) for seed in (1, 2)]


def residence(way: Way = Way.ALONE) -> Residence:
    """Return the residence of two layers of five experts, an odd number."""
    model = experts_alone(21, MLP)
    return plan_layer(Tiling(TINY, replace(model, layers=model.layers * 2)), 4, way).places.residence


def memory_of(placement: Placement, way: Way = Way.ALONE) -> tuple[ExpertMemory, ExpertContents, ImageBuilder]:
    """Return two layers of experts behind something of another length in each group."""
    builder, contents = ImageBuilder(TINY), ExpertContents(TINY, LAYERS)
    builder.reserve("before", 0, 100)
    memory = ExpertMemory(residence(way), builder, contents, placement)
    for layer in (0, 1):
        memory.add(layer, MLP)
    return memory, contents, builder


@pytest.mark.parametrize("placement", list(Placement))
def test_addresses_name_the_experts_bytes(placement: Placement) -> None:
    memory, contents, builder = memory_of(placement)
    images = builder.build()
    taken = [np.zeros(image.size, dtype=int) for image in images]
    for layer in (0, 1):
        for expert in range(5):
            for part in Part:
                planes = contents.expert_planes(layer, expert, part)
                places = memory.planes(layer, part, expert)
                assert (places[0].group == places[1].group) == (placement == Placement.WHOLE)
                for place, own in zip(places, planes, strict=True):
                    assert images[place.group][place.address :][: len(own)].tobytes() == own
                    taken[place.group][place.address : place.address + len(own)] += 1
                later = memory.planes(layer, part, expert, 2)
                assert [b.address - a.address for a, b in zip(places, later, strict=True)] == [64, 64]
            words, place = contents.expert_words(layer, expert).astype("<u2").tobytes(), memory.words(layer, expert)
            assert images[place.group][place.address :][: len(words)].tobytes() == words
            assert place.group == layer and place.address % 32 == 0
            taken[place.group][place.address : place.address + len(words)] += 1
    assert max(own.max() for own in taken) == 1


def test_a_load_with_a_slot_finds_any_expert() -> None:
    """Even experts' high planes lie in one group a stride apart, odd ones' in the other at the same addresses."""
    memory, _, _ = memory_of(Placement.EVEN_ODD)
    for layer in (0, 1):
        for part in Part:
            first, stride = memory.planes(layer, part, 0), memory.stride(layer, part) * 32
            for expert in range(5):
                high, low = memory.planes(layer, part, expert)
                group = (expert + (part == Part.DOWN)) % 2
                assert (high.group, low.group) == (group, 1 - group)
                assert high.address == first[0].address + expert // 2 * stride
                assert low.address == first[1].address + expert // 2 * stride
        stride = memory.stride(layer, "words") * 32
        assert memory.words(layer, 3).address == memory.words(layer, 0).address + 3 * stride
        assert memory.words(layer, 3, high_only=True).address == memory.words(layer, 3).address + stride // 2


def test_gangs_have_the_words_of_each_tiers_tiles() -> None:
    """Up: 4 tiles, 2 a tier. Down: a tile a tier, then one that tier 1 has no part of."""
    memory, contents, builder = memory_of(Placement.EVEN_ODD, Way.GANG)
    images = builder.build()
    for layer in (0, 1):
        for expert in range(5):
            words = contents.expert_words(layer, expert)
            none = np.zeros_like(words[:1])
            for tier, own in enumerate(([0, 1, 4, 6], [2, 3, 5, None])):
                place = memory.gang_words(layer, expert)
                address = place.address + tier * memory.gang_words_apart(layer) * ADDRESS_UNIT
                wanted = np.concatenate([none if n is None else words[n : n + 1] for n in own])
                found = images[place.group][address:][: wanted.nbytes].view("<u2").reshape(wanted.shape)
                np.testing.assert_array_equal(found, wanted)
                assert place.group == 1 - layer


@pytest.mark.parametrize("tiers", [2, 4])
def test_parts_of_resident_experts_have_their_words_one_behind_the_other(tiers: int) -> None:
    """Of 8 tiles up and 4 down; on four tiers there are gangs of two and of four."""
    config = TINY.replace(name="many", tiers=tiers, vcache_tiles=1024, semaphores=64)
    model = experts_alone(32, replace(MLP, intermediate=32))
    model = replace(model, layers=model.layers * 2)
    own = replace(plan_layer(Tiling(config, model), 4, Way.ALONE).places.residence, resident=True)
    layers = [random_layer(np.random.default_rng(seed), 5, 32, 32) for seed in (1, 2)]
    builder, contents = ImageBuilder(config), ExpertContents(config, layers)
    memory = ExpertMemory(own, builder, contents, Placement.EVEN_ODD)
    for layer in (0, 1):
        memory.add(layer, model.layers[0].mlp)  # type: ignore[arg-type]
    images = builder.build()
    widths = own.gang_widths(model.layers[0])
    assert widths == tuple(w for w in (2, 4) if w <= tiers)
    for layer in (0, 1):
        for width in widths:
            for place in range(width):
                symbol = memory.part_words(layer, width, place)
                assert symbol.address % 32 == 0
                wanted = [
                    words[first + place * many // width : first + (place + 1) * many // width]
                    for words in (contents.expert_words(layer, expert) for expert in range(5))
                    for first, many in ((0, 8), (8, 4))
                ]  # fmt: skip
                data = np.concatenate(wanted).astype("<u2").tobytes()
                assert images[symbol.group][symbol.address :][: len(data)].tobytes() == data


def test_gangs_share_no_word_between_the_projections() -> None:
    """Of 4 tiles up each of four tiers would have one, half a word."""
    config = TINY.replace(name="many", tiers=4, vcache_tiles=1024, semaphores=64)
    model = experts_alone(32, replace(MLP, intermediate=16))
    own = replace(plan_layer(Tiling(config, model), 4, Way.ALONE).places.residence, resident=True)
    assert own.gang_widths(model.layers[0]) == (2,)


def test_a_shape_without_weights_has_the_same_addresses() -> None:
    for way in Way:
        with_weights, _, _ = memory_of(Placement.EVEN_ODD, way)
        builder = ImageBuilder(TINY)
        builder.reserve("before", 0, 100)
        memory = ExpertMemory(residence(way), builder, None, Placement.EVEN_ODD)
        for layer in (0, 1):
            memory.add(layer, MLP)
        assert memory.planes(1, Part.DOWN, 4) == with_weights.planes(1, Part.DOWN, 4)
        assert memory.words(1, 4) == with_weights.words(1, 4)
        assert not any(image.any() for image in builder.build())
