# SPDX-License-Identifier: Apache-2.0
"""Attention jobs: online softmax over blocks of keys, each block once, the first and the last one marked."""

from __future__ import annotations

import pytest

from hdl.isa import Instruction, Opcode, VectorOp, VectorSum
from scheduler.ops.batch import Chunk
from scheduler.stream.emit.dense import Dense
from scheduler.stream.emit.jobs import Chain, Held, Job, JobPipeline, KeyTiles
from scheduler.stream.emit.work import Work
from tests.support.emitting import TINY, work_of

TILES = KeyTiles((0,), 100, 120, 5)


def pipeline_of(keys: int, regions_for: int = 1) -> tuple[Work, JobPipeline]:
    """Return a pipeline for sequences of some keys."""
    work = work_of([Chunk(0, keys - 1, (1,) * regions_for)], TINY)
    dense = Dense(work)
    dense.load_layer(0)
    pipeline = JobPipeline(work, dense, 0, 4)
    work.emitter.labels.clear()
    return work, pipeline


def job(name: str, position: int, *, vectors: int = 1, step: int = 0, start: int = 0, tier: int = 0) -> Job:
    """Return a job whose queries lie 4 words apart."""
    return Job(
        name=name, tier=tier, head=0, source=Held(TILES), vectors=vectors, query=30, query_stride=4, context=60,
        context_stride=4, output=70, output_stride=4, position=position, step=step, start=start,
    )  # fmt: skip


def of(work: Work, name: str) -> dict[str, list[Instruction]]:
    """Return a job's instructions by what they do."""
    found: dict[str, list[Instruction]] = {}
    instructions = list(work.emitter.stream.table().instructions())
    for label, one in zip(work.emitter.labels, instructions[-len(work.emitter.labels) :], strict=True):
        what, _, whose = label.operation.partition(" ")
        if whose == name:
            found.setdefault(what, []).append(one)
    return found


@pytest.mark.parametrize(("keys", "blocks"), [(1, [1]), (8, [8]), (9, [8, 1]), (21, [8, 8, 5])])
def test_blocks_of_keys_in_order(keys: int, blocks: list[int]) -> None:
    work, pipeline = pipeline_of(keys)
    pipeline.run([job("a", keys - 1)])
    pipeline.flush()
    own = of(work, "a")
    many = len(blocks)
    assert {what: len(ones) for what, ones in own.items()} == {
        **dict.fromkeys(("scores", "max", "exp", "context"), many), "divide": 1,
        **({"rescale": many - 1} if many > 1 else {}),
    }  # fmt: skip
    assert [one["vcache_base"] for one in own["scores"]] == [100 + n for n in range(many)]
    assert [one["vcache_base"] for one in own["context"]] == [120 + n for n in range(many)]
    assert [one["first"] for one in own["exp"]] == [1] + [0] * (many - 1)
    assert [one["sum"] for one in own["exp"]] == [VectorSum.SUM] * (many - 1) + [VectorSum.SUM_RECIP]
    assert [one["accumulate"] for one in own["context"]] == [0] + [1] * (many - 1)
    assert [one["length"] for one in own["max"]] == [keys - 8 * n for n in range(many)]
    # A block's scores, maximum and exponentials are of one region; its context reads what the exponentials wrote.
    for scores, most, power, context in zip(own["scores"], own["max"], own["exp"], own["context"], strict=True):
        assert scores["dest_base"] == most["a_base"] == power["a_base"]
        assert power["dest_base"] == context["act_base"] and power["s_base"] == most["d_scalar"]
    (divide,) = own["divide"]
    assert divide["op"] == VectorOp.SCALE and divide["s_base"] == own["exp"][-1]["d_scalar"]
    assert (divide["a_base"], divide["dest_base"]) == (60, 70)


def test_queries_of_a_prompt_see_one_key_more_each() -> None:
    work, pipeline = pipeline_of(12)
    pipeline.run([job("a", 8, vectors=4, step=1)])
    pipeline.flush()
    most = of(work, "a")["max"]
    assert [(one["length"], one["length_step"]) for one in most] == [(9, 1), (1, 1)]  # keys 0 to 7, then 8 to 11


def test_a_window_begins_at_its_first_whole_unit() -> None:
    work, pipeline = pipeline_of(30)
    pipeline.run([job("a", 29, start=16)])
    pipeline.flush()
    own = of(work, "a")
    assert [one["vcache_base"] for one in own["scores"]] == [102, 103]
    assert [one["length"] for one in own["max"]] == [14, 6]
    assert [one["first"] for one in own["exp"]] == [1, 0]


def test_blocks_of_jobs_take_turns_and_no_region_is_used_before_it_is_read() -> None:
    work, pipeline = pipeline_of(21)
    jobs = [job("a", 20), job("b", 12, tier=1)]
    pipeline.run(jobs)
    assert pipeline.open_jobs() == frozenset(jobs)
    pipeline.close(jobs[:1])
    assert jobs[0] not in pipeline.open_jobs()
    pipeline.flush()
    assert not pipeline.open_jobs()
    order = [str(label.operation) for label in work.emitter.labels]
    scores = [label for label in order if label.startswith("scores")]
    assert scores == ["scores a", "scores b", "scores a", "scores b", "scores a"]
    waiting: set[int] = set()
    for one in work.emitter.stream.table().instructions():
        if one.opcode == Opcode.GEMM and one["act_base"] == 30:
            assert one["dest_base"] not in waiting
            waiting.add(one["dest_base"])
        if one.opcode == Opcode.VECTOR and one["op"] == VectorOp.MAP:
            waiting.remove(one["a_base"])
    assert not waiting


def test_what_waits_for_jobs_comes_when_they_are_divided() -> None:
    work, pipeline = pipeline_of(9)
    done: list[str] = []
    pipeline.after(lambda: done.append("nothing runs"))
    assert done == ["nothing runs"]
    pipeline.run([job("a", 8)])
    pipeline.after(lambda: done.append("behind a"))
    steps = iter((5, 7))

    def chain():  # type: ignore[no-untyped-def]
        for ready in steps:
            done.append(f"step {ready}")
            yield ready

    pipeline.chains.append(Chain(0, chain()))
    pipeline.flush()
    assert done[0] == "nothing runs" and set(done[1:]) == {"behind a", "step 5", "step 7"}
    assert done.index("step 5") < done.index("step 7") and not pipeline.chains
    assert of(work, "a")["divide"]


def test_loads_in_the_background_are_spread_over_the_jobs() -> None:
    work = work_of([Chunk(0, 31, (1,))], TINY)
    dense = Dense(work)
    dense.load_layer(0)
    loads: list[int] = []
    work.background.extend((lambda n=n: loads.append(n)) for n in range(4))  # type: ignore[misc]
    pipeline = JobPipeline(work, dense, 0, 8)
    pipeline.run([job("a", 31)])
    pipeline.settle()
    assert loads == [0, 1], "four blocks of eight"
