# SPDX-License-Identifier: Apache-2.0
"""Routed experts on single tiers: every token of every expert once, from its own weights, words and list."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from hdl.config import MachineConfig
from hdl.isa import Format, LoadDest, Opcode
from scheduler.memory.placement import Part
from scheduler.ops.batch import Chunk, Routing
from scheduler.stream.emit.experts import ExpertQueues, ListsFullError, load_list, routed_jobs
from scheduler.stream.emit.work import Work
from tests.support.emitting import STREAMED, TINY, emitted, labels_of, weights_of, work_of

TOKENS = 7
CHUNKS = [Chunk(0, 0, (1,) * TOKENS)]
CHOSEN = np.array([[0, 1, 4], [0, 1, 2], [4, 0, 1], [0, 4, 1], [0, 2, 1], [0, 1, 2], [1, 0, 4]])
ROUTING = Routing(CHOSEN, np.arange(21, dtype=np.uint16).reshape(7, 3))
CONFIGS = {
    "whole": TINY,
    "pieces": STREAMED.replace(vertical_links=False),
    "four tokens at a time": TINY.replace(accumulator_depth=4),
}


def test_an_experts_job_has_its_tokens_and_their_gates() -> None:
    jobs = routed_jobs(3, ROUTING, high_only=(4,))
    assert [(job.expert, job.count, job.high) for job in jobs] == [
        (0, 7, False), (1, 7, False), (2, 3, False), (4, 4, True)
    ]  # fmt: skip
    two = jobs[2]
    assert two.tokens.tolist() == [1, 4, 5] and two.gates.tolist() == [5, 13, 17] and two.layer == 3
    work = work_of(CHUNKS)
    assert two.entries(work).tolist() == [[3 * t, 3 * t, g, 0] for t, g in ((1, 5), (4, 13), (5, 17))]


def test_a_list_is_put_into_the_step_area_and_loaded() -> None:
    work = work_of(CHUNKS)
    job = routed_jobs(0, ROUTING)[2]
    load_list(work, 2, job)
    ((label, one),) = emitted(work)
    assert label == "expert 2 list" and one["dest_kind"] == LoadDest.LIST and one["dest_tiers"] == 2
    assert (one["count"], one["dest_base"]) == (3, work.places.block) and job.entry == work.places.block
    at = one["addr"] * 32
    assert work.memory.images[0][at : at + 24].tobytes() == job.entries(work).tobytes()


def test_a_list_that_is_too_long_is_named() -> None:
    work = work_of([Chunk(0, 0, (1,) * 12)], TINY.replace(list_depth=16))
    everyone = Routing(np.zeros((12, 1), np.int64), np.ones((12, 1), np.uint16))
    room = work.places.list_entries[1]
    with pytest.raises(
        ListsFullError, match=f"token lists of layer 0: 12 entries in tier 0; list_depth leaves {room}: .* raise"
    ):
        load_list(work, 1, routed_jobs(0, everyone)[0])


def check(work: Work, layers: int) -> None:
    """Check that each expert's tokens go through all its output tiles, from its own weights, words and list."""
    lists: dict[tuple[int, int], tuple[int, ...]] = {}
    words: dict[tuple[int, int], int] = {}
    gemms = iter(weights_of(work))
    done: Counter[tuple[int, str, int, int]] = Counter()
    labels = labels_of(work.emitter)
    for n, (label, one) in enumerate(emitted(work)):
        layer = labels[n].layer
        tiers = [t for t in (0, 1) if one["dest_tiers"] >> t & 1]
        if one.opcode == Opcode.LOAD and one["dest_kind"] == LoadDest.LIST:
            table = work.memory.images[0][one["addr"] * 32 :][: 8 * one["count"]].view("<u2").reshape(-1, 4)
            lists |= {(t, one["dest_base"] + k): tuple(row) for t in tiers for k, row in enumerate(table.tolist())}
        if one.opcode == Opcode.LOAD and one["dest_kind"] == LoadDest.PARAMETER:
            words |= {(t, one["dest_base"] + k): one["addr"] * 32 + 16 * k for t in tiers for k in range(one["count"])}
        if one.opcode != Opcode.GEMM:
            continue
        _, _, (tiles,) = next(gemms)
        _, expert, part = label.split()
        tier, matrix = one["tier_base"], getattr(work.tiling.expert(13), part)
        high, _ = work.experts.planes(layer, Part(part), int(expert))
        first = (tiles[0][1] - high.address) // 32 // matrix.k_slices
        assert tiles == [(high.group, high.address + 32 * (first * matrix.k_slices + k)) for k in range(len(tiles))]
        at = work.experts.words(layer, int(expert)).address + 16 * (first + (4 if part == "down" else 0))
        assert words[tier, one["param_base"]] == at
        for k in range(one["tokens"]):
            token = lists[tier, one["list_base"] + k][0] // 3
            assert int(expert) in CHOSEN[token]
            done.update((layer, part, int(expert), token) for _ in range(one["n_tiles"]))
    wanted = {
        (layer, part, expert, token): tiles
        for layer in range(layers) for token in range(TOKENS) for expert in CHOSEN[token].tolist()
        for part, tiles in (("up", 4), ("down", 3))
    }  # fmt: skip
    assert done == wanted


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_every_token_of_every_expert_once(config: MachineConfig) -> None:
    work = work_of(CHUNKS, config)
    queues = ExpertQueues(work, [ROUTING, ROUTING], 100)
    queues.prime()
    for layer in (0, 1):
        work.emitter.layer = layer
        queues.load_lists(layer)
        queues.run(layer)
    check(work, 2)
    assert not work.background


def test_experts_are_dealt_to_the_tier_with_the_least_to_do() -> None:
    """So few tokens cost less than the loads of an expert, which all cost the same."""
    work = work_of(CHUNKS)
    queues = ExpertQueues(work, [ROUTING], 100)
    queues.prime()
    queues.load_lists(0)
    queues.run(0)
    order: dict[int, list[str]] = {0: [], 1: []}
    for label, one, _ in weights_of(work):
        if label.endswith("up"):
            order[one["tier_base"]].append(label)
    assert order == {0: ["expert 0 up", "expert 2 up"], 1: ["expert 1 up", "expert 4 up"]}


def test_a_layer_without_experts_emits_nothing() -> None:
    work = work_of(CHUNKS)
    queues = ExpertQueues(work, [None, ROUTING], 100)
    queues.load_lists(0)
    queues.run(0)
    assert not [one for _, one in emitted(work) if one.opcode == Opcode.GEMM]
    assert all(one["format"] in (Format.BYTES, Format.PAIR) for _, one in emitted(work))
