# SPDX-License-Identifier: Apache-2.0
"""Experts on single tiers: fields of their loads and GEMMs, and the order of whole ones."""

from __future__ import annotations

import pytest

from hdl.isa import Format, Opcode
from scheduler.memory.placement import Part
from scheduler.ops.batch import Chunk
from scheduler.plan.residence import ExpertPiece, Run
from scheduler.stream.emit.tiers import TierJob, TierRunner, down, load_piece, load_words, run_whole, up
from scheduler.stream.emit.work import Work
from tests.support.emitting import TINY, emitted, work_of

CHUNKS = [Chunk(0, 0, (1,) * 7)]
WHOLE = ExpertPiece((Run(Part.UP, 0, 4), Run(Part.DOWN, 0, 3)))
SLOT = {"slot_en": 1, "slot": 2}


def job(expert: int, count: int = 7, **changes: object) -> TierJob:
    """Return a job of layer 1."""
    return TierJob(layer=1, name=f"e{expert}", expert=expert, count=count, **changes)  # type: ignore[arg-type]


def test_a_whole_expert_is_two_loads_of_both_planes() -> None:
    work = work_of(CHUNKS)
    load_piece(work, 1, job(3), WHOLE, 50, 9)
    (_, one), (_, two) = emitted(work)
    for load, part, base, count in ((one, Part.UP, 50, 12), (two, Part.DOWN, 62, 6)):
        high, low = work.experts.planes(1, part, 3)
        assert load["format"] == Format.PAIR and (load["addr"], load["addr_low"]) == (high.addr, low.addr)
        assert (load["group"], load["dest_tiers"], load["tag"]) == (high.group, 2, 9)
        assert (load["dest_base"], load["count"]) == (base, count)


def test_a_piece_begins_at_its_first_output_tile() -> None:
    work = work_of(CHUNKS)
    load_piece(work, 0, job(3), ExpertPiece((Run(Part.UP, 2, 2),)), 50, 9)
    ((_, load),) = emitted(work)
    assert load["addr"] == work.experts.planes(1, Part.UP, 3, 2 * 3)[0].addr and load["count"] == 2 * 3


def test_high_nibbles_alone_are_half_the_bytes() -> None:
    work = work_of(CHUNKS)
    load_piece(work, 0, job(3, high=True), WHOLE, 50, 9)
    assert {load["format"] for _, load in emitted(work)} == {Format.HIGH}
    assert not any("addr_low" in load.values for _, load in emitted(work))


def test_a_slots_loads_have_strides_and_its_gemms_the_slot() -> None:
    work = work_of(CHUNKS)
    own = job(0, slot=SLOT)
    load_words(work, 0, own)
    load_piece(work, 0, own, WHOLE, 50, 9)
    up(work, 0, own, 0, 0, WHOLE.runs[0], 50, 9)
    down(work, 0, own, 0, 0, WHOLE.runs[1], 62, 9)
    found = [one for _, one in emitted(work)]
    assert all(one["slot_en"] == 1 and one["slot"] == 2 for one in found) and own.loaded
    assert [one["slot_stride"] for one in found] == [
        work.experts.stride(1, "words"), work.experts.stride(1, Part.UP), work.experts.stride(1, Part.DOWN), 0, 0
    ]  # fmt: skip


@pytest.mark.parametrize("parity", [0, 1])
def test_both_gemms_of_a_chunk_share_their_place_of_h(parity: int) -> None:
    """The tokens from 4 on; words of a run are those of its output tiles, down's behind the 4 of up."""
    work = work_of(CHUNKS, TINY.replace(accumulator_depth=4))
    own = job(2, entry=20, words=30)
    up(work, 1, own, 4, parity, Run(Part.UP, 2, 2), 50, 9)
    down(work, 1, own, 4, parity, Run(Part.DOWN, 1, 2), 62, 9)
    (_, first), (_, second) = emitted(work)
    h = work.places.words["experts"]["h"] + parity * 4 * 2
    assert (first["dest_base"], first["param_base"]) == (h + 1, 32) and first["act_list"] == 1
    assert (second["act_base"], second["param_base"]) == (h, 30 + 4 + 1) and second["dest_list"] == 1
    for gemm in (first, second):
        assert (gemm["tokens"], gemm["list_base"], gemm["tier_base"], gemm["tag"]) == (3, 24, 1, 9)
    assert second["dest_base"] == 1 and second["accumulate"] == 1


def order_of(work: Work) -> dict[int, list[str]]:
    """Return the GEMMs of each tier with their first list entry."""
    found: dict[int, list[str]] = {0: [], 1: []}
    for label, one in emitted(work):
        if one.opcode == Opcode.GEMM:
            found[one["tier_base"]].append(f"{label} {one['list_base']}")
    return found


def test_a_chunks_down_comes_behind_the_next_ones_up() -> None:
    work = work_of(CHUNKS, TINY.replace(accumulator_depth=4))
    ended: list[tuple[int, str]] = []
    jobs = [[job(0, loaded=True), job(1, 3, loaded=True)], [job(2, 2, loaded=True)]]
    run_whole(work, jobs, lambda tier, own: ended.append((tier, own.name)))
    assert order_of(work) == {
        0: ["e0 up 0", "e0 up 4", "e0 down 0", "e1 up 0", "e0 down 4", "e1 down 0"], 1: ["e2 up 0", "e2 down 0"]
    }  # fmt: skip
    assert sorted(ended) == [(0, "e0"), (0, "e1"), (1, "e2")]


def test_a_runner_loads_ahead_as_far_as_there_are_places_and_keeps_what_is_there() -> None:
    work = work_of(CHUNKS)
    runner = TierRunner(work)
    jobs = [job(n % 2) for n in range(6)]
    runner.run([jobs, []])
    words = [label for label, one in emitted(work) if label.endswith("words")]
    assert words == ["e0 words", "e1 words"], "two experts in turn stay where they are"
    assert len(order_of(work)[0]) == 12 and {own.place for own in jobs} == {0, 1}
    many = [job(n % 5) for n in range(10)]
    runner.run([many, []])
    assert len([label for label, _ in emitted(work) if label.endswith("words")]) > 5
    # No place gets new weights before the last GEMM that reads the old ones.
    tags: dict[int, int] = {}
    for _, one in emitted(work):
        if one.opcode == Opcode.LOAD and one["tag"]:
            tags |= {one["dest_base"] + n: one["tag"] for n in range(one["count"])}
        if one.opcode == Opcode.GEMM:
            tiles = range(one["vcache_base"], one["vcache_base"] + one["k_slices"] * one["n_tiles"])
            assert {tags[n] for n in tiles} == {one["tag"]}


def test_slots_are_never_taken_for_one_another() -> None:
    work = work_of(CHUNKS)
    jobs = [job(0, slot={"slot_en": 1, "slot": n}) for n in (0, 2)]
    TierRunner(work).run([jobs, []])
    assert jobs[0].place != jobs[1].place
    assert len([label for label, _ in emitted(work) if label.endswith("words")]) == 2
