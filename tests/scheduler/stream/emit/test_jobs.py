# SPDX-License-Identifier: Apache-2.0
"""Attention jobs: online softmax over blocks of keys, each block once, the first and the last one marked."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hdl.isa import Instruction, Opcode, VectorOp, VectorSum
from scheduler.ops.batch import Chunk
from scheduler.stream.emit.dense import Dense
from scheduler.stream.emit.job_table import JOB, Int64
from scheduler.stream.emit.jobs import Chain, JobPipeline, Span
from scheduler.stream.emit.labels import job_mark
from scheduler.stream.emit.work import Work
from tests.support.emitting import TINY, emitted, weights_of, work_of

KEYS, VALUES, TAG = 100, 120, 5
"""Tiles of keys and of values that are on the chip, and their tag."""


def pipeline_of(keys: int, jobs: int = 1) -> tuple[Work, JobPipeline]:
    """Return a pipeline for jobs over some keys."""
    work = work_of([Chunk(0, keys - 1, (1,))], TINY)
    dense = Dense(work)
    dense.load_layer(0)
    return work, JobPipeline(work, dense, 0, jobs, 4)


def job(
    pipeline: JobPipeline, sequence: int, position: int, *, vectors: int = 1, step: int = 0, tier: int = 0
) -> Int64:
    """Return a job of the first head, whose queries lie 4 words apart."""
    row = pipeline.rows_of_heads(np.zeros(1, np.int64))
    for column, value in (
        (JOB.tier, tier), (JOB.vectors, vectors), (JOB.query, 30), (JOB.query_stride, 4), (JOB.context, 60),
        (JOB.context_stride, 4), (JOB.output, 70), (JOB.output_stride, 4), (JOB.output_tiers, 1),
        (JOB.position, position), (JOB.step, step), (JOB.mark, job_mark(0, sequence, 0)),
        (JOB.pieces, KEYS), (JOB.pieces + 1, VALUES), (JOB.pieces + 2, TAG),
    ):  # fmt: skip
        row[:, column] = value
    return row


def of(work: Work, sequence: int) -> dict[str, list[Instruction]]:
    """Return a job's instructions by what they do."""
    found: dict[str, list[Instruction]] = {}
    for label, one in emitted(work):
        what, _, whose = label.partition(" ")
        if whose == f"sequence {sequence} head 0":
            found.setdefault(what, []).append(one)
    return found


@pytest.mark.parametrize(("keys", "blocks"), [(1, [1]), (8, [8]), (9, [8, 1]), (21, [8, 8, 5])])
def test_blocks_of_keys_in_order(keys: int, blocks: list[int]) -> None:
    work, pipeline = pipeline_of(keys)
    pipeline.run(job(pipeline, 0, keys - 1), Span(0, keys, held=0))
    pipeline.flush()
    own = of(work, 0)
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
    pipeline.run(job(pipeline, 0, 8, vectors=4, step=1), Span(0, 12, held=0))
    pipeline.flush()
    most = of(work, 0)["max"]
    assert [(one["length"], one["length_step"]) for one in most] == [(9, 1), (1, 1)]  # keys 0 to 7, then 8 to 11


def test_a_window_begins_at_its_first_whole_unit() -> None:
    work, pipeline = pipeline_of(30)
    pipeline.run(job(pipeline, 0, 29), Span(16, 30, held=0))
    pipeline.flush()
    own = of(work, 0)
    assert [one["vcache_base"] for one in own["scores"]] == [102, 103]
    assert [one["length"] for one in own["max"]] == [14, 6]
    assert [one["first"] for one in own["exp"]] == [1, 0]


def test_blocks_of_jobs_take_turns_and_no_region_is_used_before_it_is_read() -> None:
    work, pipeline = pipeline_of(21, 2)
    pipeline.run(np.concatenate([job(pipeline, 0, 20), job(pipeline, 1, 20, tier=1)]), Span(0, 21, held=0))
    assert pipeline.jobs == 2
    pipeline.close(1)
    assert len(of(work, 0)["divide"]) == 1
    pipeline.flush()
    assert len(of(work, 1)["divide"]) == 1
    order = [label for label, _ in emitted(work) if label.startswith("scores")]
    groups = [range(begin, min(begin + pipeline.group, 2)) for begin in range(0, 2, pipeline.group)]
    assert order == [f"scores sequence {n} head 0" for group in groups for _ in range(3) for n in group]
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
    pipeline.run(job(pipeline, 0, 8), Span(0, 9, held=0))
    pipeline.after(lambda: done.append("behind a"))
    steps = iter((5, 7))

    def chain():  # type: ignore[no-untyped-def]
        for ready in steps:
            done.append(f"step {ready}")
            yield ready

    added = Chain(work.emitter, 0, chain())
    pipeline.add(added)
    pipeline.flush()
    assert done[0] == "nothing runs" and set(done[1:]) == {"behind a", "step 5", "step 7"}
    assert done.index("step 5") < done.index("step 7") and added.done
    assert of(work, 0)["divide"]


def test_loads_in_the_background_are_spread_over_the_jobs() -> None:
    work = work_of([Chunk(0, 31, (1,))], TINY)
    dense = Dense(work)
    dense.load_layer(0)
    loads: list[int] = []
    work.background.extend((lambda n=n: loads.append(n)) for n in range(4))  # type: ignore[misc]
    pipeline = JobPipeline(work, dense, 0, 1, 8)
    pipeline.run(job(pipeline, 0, 31), Span(0, 32, held=0))
    pipeline.settle()
    assert loads == [0, 1], "four blocks of eight"


@pytest.mark.parametrize("buffers", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("keys", [8, 9, 30])
def test_a_piece_of_keys_stays_until_its_last_block_is_read(buffers: int, keys: int) -> None:
    """Jobs that load their own keys, piece by piece, more of them than their tiers have buffers for."""
    work = work_of([Chunk(0, keys - 1, (1,))], TINY)
    work.places = replace(work.places, key_piece=8, regions=16)
    work.key_buffers, work.key_buffer_tiles = buffers, 2
    dense = Dense(work)
    dense.load_layer(0)
    pipeline = JobPipeline(work, dense, 0, 8, 64)
    rows = np.concatenate([job(pipeline, n, keys - 1) for n in range(8)])
    rows[:, JOB.tier] = work.next_tiers(8)
    pipeline.run(rows, Span(0, keys))
    pipeline.flush()
    read = [label for label, _, _ in weights_of(work) if label.startswith(("scores", "context"))]  # checks the tags
    assert len(read) == 8 * 2 * -(-keys // 8)
