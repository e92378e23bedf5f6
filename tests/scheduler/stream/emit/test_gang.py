# SPDX-License-Identifier: Apache-2.0
"""Experts on all tiers together: every output tile of every expert once, and loads not too far ahead."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from hdl.isa import LoadDest, Mapping3D, Opcode
from scheduler.memory.placement import Part
from scheduler.ops.batch import Chunk, Routing
from scheduler.plan.layer import Way
from scheduler.stream.emit.experts import routed_jobs
from scheduler.stream.emit.gang import GangQueues
from scheduler.stream.lower_layer import LayerOptions
from tests.support.emitting import STREAMED, emitted, weights_of, work_of
from tests.support.layers import TINY, batch, random_layer, run_and_compare

CHOSEN = np.array([[0, 1, 4], [0, 1, 2], [4, 0, 1], [0, 4, 1], [0, 2, 1], [0, 1, 2], [1, 0, 4]])
ROUTING = Routing(CHOSEN, np.ones((7, 3), np.uint16))
CHUNKS = [Chunk(0, 0, (1,) * 7)]


@pytest.mark.parametrize("depth", [64, 4], ids=["all tokens", "some tokens"])
@pytest.mark.parametrize("ahead", [None, 1, 2])
def test_every_output_tile_of_every_expert_once(depth: int, ahead: int | None) -> None:
    work = work_of(CHUNKS, STREAMED.replace(accumulator_depth=depth))
    assert work.places.chunk == min(7, depth)
    queues = GangQueues(work, [routed_jobs(n, ROUTING) for n in (0, 1)], ahead)
    queues.prime()
    for layer in (0, 1):
        work.emitter.layer = layer
        queues.load_lists(layer)
        queues.run(layer)
    done: Counter[tuple[str, int]] = Counter()
    for label, gemm, tiers in weights_of(work):
        _, expert, part = label.split()
        matrix = getattr(work.tiling.expert(13), part)
        assert gemm["mapping"] == (Mapping3D.N if gemm["tier_count"] > 1 else Mapping3D.ALONE)
        addresses = [work.experts.planes(n, Part(part), int(expert))[0] for n in (0, 1)]
        for tiles in tiers:
            high = max((a for a in addresses if a.address <= tiles[0][1]), key=lambda a: a.address)
            first = (tiles[0][1] - high.address) // 32 // matrix.k_slices
            assert tiles[0][0] == high.group and (tiles[0][1] - high.address) % (32 * matrix.k_slices) == 0
            for n in range(gemm["n_tiles"]):
                done[label, first + n] += gemm["tokens"]
    counts = {0: 7, 1: 7, 2: 3, 4: 4}
    assert done == {
        (f"expert {e} {part}", n): 2 * count
        for e, count in counts.items() for part, many in (("up", 4), ("down", 3)) for n in range(many)
    }  # fmt: skip


@pytest.mark.parametrize("ahead", [1, 2])
def test_loads_are_no_further_ahead_than_asked(ahead: int) -> None:
    work = work_of(CHUNKS, STREAMED)
    assert len(work.places.piece_buffers) >= 2
    queues = GangQueues(work, [routed_jobs(0, ROUTING)], ahead)
    queues.prime()
    queues.run(0)
    open_tags: list[int] = []
    for _, one in emitted(work):
        if one.opcode == Opcode.LOAD and one["tag"] and one["tag"] not in open_tags:
            open_tags.append(one["tag"])
        if one.opcode == Opcode.GEMM:
            assert one["tag"] == open_tags.pop(0)
        assert len(open_tags) <= ahead
    assert not open_tags


def test_the_next_experts_up_comes_before_the_last_ones_down() -> None:
    work = work_of(CHUNKS, STREAMED)
    queues = GangQueues(work, [routed_jobs(0, ROUTING)])
    queues.prime()
    queues.run(0)
    order = list(dict.fromkeys(label for label, _, _ in weights_of(work)))
    first_down = {e: order.index(f"expert {e} down") for e in (0, 1, 4)}
    first_up = {e: order.index(f"expert {e} up") for e in (1, 4, 2)}
    assert first_up[1] < first_down[0] and first_up[4] < first_down[1] and first_up[2] < first_down[4]
    # h has two places, so that an up projection does not overwrite what the last down projection reads.
    places = [one["dest_base"] for label, one, _ in weights_of(work) if label == "expert 0 up"]
    other = [one["dest_base"] for label, one, _ in weights_of(work) if label == "expert 1 up"]
    assert abs(places[0] - other[0]) == work.places.chunk * 2


@pytest.mark.parametrize("list_depth", [32, 64])
@pytest.mark.parametrize("tokens", [16, 24, 30])
def test_a_token_list_stays_until_its_experts_last_gemm(list_depth: int, tokens: int) -> None:
    """Lists are as long as the memory for them, or half as long, and weights of several experts are loaded ahead."""
    rng = np.random.default_rng(tokens)
    layer = random_layer(rng, 6, 24, 24)
    config = TINY.replace(name="short_lists", list_depth=list_depth, parameter_words=256)
    x, _, gates = batch(rng, layer, tokens, 2)
    everywhere = np.stack([np.array([0, n % 5 + 1]) for n in range(tokens)])
    program = run_and_compare(config, layer, x, everywhere, gates, LayerOptions(way=Way.GANG))
    lists = [i for i in program.instructions if i.opcode == Opcode.LOAD and i["dest_kind"] == LoadDest.LIST]
    assert sum(i["count"] for i in lists) == 2 * tokens
    every = np.stack([rng.permutation(6)[:4] for _ in range(tokens)])
    run_and_compare(config, layer, x, every, np.repeat(gates, 2, axis=1), LayerOptions(way=Way.GANG))
