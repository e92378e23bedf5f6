# SPDX-License-Identifier: Apache-2.0
"""Experts in pieces: all pieces in order, no more of them on the chip than there are slots."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hdl.isa import LoadDest, Opcode
from scheduler.ops.batch import Chunk
from scheduler.stream.emit.pieces import PieceRunner
from scheduler.stream.emit.tiers import TierJob
from tests.support.emitting import STREAMED, emitted, weights_of, work_of

SMALL = STREAMED.replace(vcache_tiles=32, vertical_links=False)  # an expert is three pieces, of up to 6 tiles
CHUNKS = [Chunk(0, 0, (1,) * 7)]


def jobs_of(tier: int, counts: list[int], layer: int = 0) -> list[TierJob]:
    """Return jobs with some tokens each."""
    return [TierJob(layer=layer, name=f"t{tier}e{e}", expert=e, count=n) for e, n in enumerate(counts)]


@pytest.mark.parametrize("depth", [64, 4], ids=["all tokens", "four at a time"])
def test_pieces_of_all_chunks_in_order(depth: int) -> None:
    work = work_of(CHUNKS, SMALL.replace(accumulator_depth=depth))
    assert [len(piece.runs) for piece in work.residence.pieces[13]] == [1, 1, 1]
    runner = PieceRunner(work)
    runner.add([jobs_of(0, [7, 2]), jobs_of(1, [3])])
    runner.run(0)
    found: dict[int, list[tuple[str, int, int]]] = {0: [], 1: []}
    for label, one, _ in weights_of(work):  # which checks tags
        found[one["tier_base"]].append((label, one["list_base"], one["param_base"]))
    chunks = [(0, 0), (0, 4), (1, 0)] if depth == 4 else [(0, 0), (1, 0)]
    words = work.places.expert_words
    wanted = [
        (f"t0e{e} {part}", first, words[e % len(words)] + word)
        for e, first in chunks for part, word in (("up", 0), ("up", 2), ("down", 4))
    ]  # fmt: skip
    assert found[0] == wanted
    assert [label for label, _, _ in found[1]] == ["t1e0 up", "t1e0 up", "t1e0 down"]


@pytest.mark.parametrize("places", [1, 2])
def test_no_piece_is_overwritten_before_its_use_and_words_neither(places: int) -> None:
    work = work_of(CHUNKS, SMALL)
    work.places = replace(work.places, expert_words=work.places.expert_words[:places])
    slots = len(work.places.piece_buffers)
    assert slots >= 2
    runner = PieceRunner(work)
    runner.add([jobs_of(0, [1] * 5), []])
    runner.fill(0)
    runner.fill(0)
    waiting = [one for _, one in emitted(work) if one.opcode == Opcode.LOAD and one["dest_kind"] == LoadDest.VCACHE]
    assert len(waiting) == min(slots, 3 * places), "as many as there are slots and places of words, once"
    runner.run(0)
    held: dict[int, str] = {}
    used: list[str] = []
    for label, one in emitted(work):
        name = label.split()[0]
        if label.endswith("words"):
            before = held.get(one["dest_base"])
            assert before is None or used.count(before) == 3
            held[one["dest_base"]] = name
        if one.opcode == Opcode.GEMM:
            used.append(name)
            assert held[max(base for base in held if base <= one["param_base"])] == name
    assert len(used) == 15 and len(held) == min(5, places)


def test_only_the_layers_own_pieces_run() -> None:
    work = work_of(CHUNKS, SMALL)
    runner = PieceRunner(work)
    for layer in (0, 1):
        runner.add([jobs_of(0, [1], layer), []])
    runner.run(0)
    first = len(weights_of(work))
    assert first == 3
    loads = [one for _, one in emitted(work) if one.opcode == Opcode.LOAD]
    assert len(loads) > 4, "the next layer's pieces come ahead"
    runner.run(1)
    assert len(weights_of(work)) == 6


def test_what_a_job_needs_comes_before_its_weights() -> None:
    work = work_of(CHUNKS, SMALL)
    called: list[tuple[int, str, int]] = []

    class Lists:
        def fits(self, tier: int, job: TierJob) -> bool:
            return True

        def load(self, tier: int, job: TierJob) -> None:
            called.append((tier, job.name, len(emitted(work))))

    runner = PieceRunner(work, Lists())
    runner.add([jobs_of(0, [9]), jobs_of(1, [1])])
    runner.run(0)
    assert sorted(name for _, name, _ in called) == ["t0e0", "t1e0"], "once a job"
    for tier, name, before in called:
        assert tier == int(name[1]) and not [label for label, _ in emitted(work)[:before] if label.startswith(name)]
