# SPDX-License-Identifier: Apache-2.0
"""Norms of queries and keys: every row divided once and multiplied by its own weights."""

from __future__ import annotations

import pytest

from hdl.isa import Instruction, VectorOp
from scheduler.ops.batch import Chunk
from scheduler.stream.emit.dense import Dense
from scheduler.stream.emit.head_norm import HeadNorms
from scheduler.stream.emit.work import Work
from tests.support.checkpoints import small_model
from tests.support.emitting import TINY, emitted, work_of

BIG = TINY.replace(name="big", vcache_tiles=1024, parameter_words=512, combine_rows=2048)


def work_for(family: str, tokens: int) -> tuple[Work, Dense]:
    """Return a step of a model with 5 + 2 heads of two rows."""
    model = small_model(family, hidden=24, heads=10, kv_heads=2, head_dim=16)
    work = work_of([Chunk(0, 0, (1,) * tokens)], BIG, model)
    return work, Dense(work)


def rows_of(one: Instruction) -> list[tuple[int, ...]]:
    """Return the rows of each vector of an instruction."""
    firsts = [one["a_base"] + v * one["a_stride"] for v in range(one["vectors"])]
    return [tuple(range(first, first + one["rows"])) for first in firsts]


@pytest.mark.parametrize("tokens", [1, 3, 12, 13, 20])
def test_each_head_is_divided_by_its_own_sum(tokens: int) -> None:
    """Twelve heads of 2 rows; a token has 10 x 2 + 2 x 2 x 2 rows."""
    work, dense = work_for("qwen3_moe", tokens)
    HeadNorms(work, dense, 0).emit_shared(100, tokens)
    squares = [one for _, one in emitted(work) if one["op"] == VectorOp.SUMSQ]
    scales = [one for _, one in emitted(work) if one["op"] == VectorOp.SCALE]
    wanted = sorted((100 + 28 * t + 2 * h, 101 + 28 * t + 2 * h) for t in range(tokens) for h in range(12))
    assert sorted(r for one in squares for r in rows_of(one)) == wanted
    assert sorted(r for one in scales for r in rows_of(one)) == wanted
    assert len(squares) == min(tokens, 12), "as few instructions as there can be"
    # A scalar holds the sum of squares until its own rows are scaled.
    held: dict[int, tuple[int, ...]] = {}
    room = work.places.scalars["attention"]
    for _, one in emitted(work):
        assert one["rows"] == 2
        for v, rows in enumerate(rows_of(one)):
            if one["op"] == VectorOp.SUMSQ:
                assert one["d_scalar"] + v not in held
                assert room["heads"] <= one["d_scalar"] + v < room["heads"] + room.sizes["heads"]
                held[one["d_scalar"] + v] = rows
            else:
                assert held.pop(one["s_base"] + v) == rows
                assert one["dest_base"] == one["a_base"] and one["dest_stride"] == one["a_stride"]
    assert not held


def test_heads_have_weights_in_common() -> None:
    work, dense = work_for("qwen3_moe", 3)
    norms = HeadNorms(work, dense, 1)
    norms.emit_queries(100, 3)
    norms.emit_keys(120, 3)
    weights = dense.norm_row(1)
    assert weights == dense.norm_row(0) + work.tiling.most_norm_rows == dense.norm_row(0) + 4
    found = [(one["op"], one["a_base"], one["rows"], one["b_base"], one["b_rows"]) for _, one in emitted(work)]
    assert found == [(VectorOp.MUL, 100, 20, weights, 2), (VectorOp.MUL, 120, 4, weights + 2, 2)]


def test_a_norm_of_all_heads_is_multiplied_in_tables_of_up_to_eight_rows() -> None:
    """OLMoE: 20 rows of queries are 8 + 8 + 4, 4 rows of keys 4."""
    work, dense = work_for("olmoe", 3)
    norms = HeadNorms(work, dense, 0)
    norms.emit_shared(100, 3)
    assert not emitted(work)
    norms.emit_queries(100, 3)
    norms.emit_keys(120, 3)
    weights = dense.norm_row(0)
    found = [(one["op"], one["a_base"], one["rows"], one["b_base"], one["b_rows"]) for _, one in emitted(work)]
    assert found == [
        (VectorOp.SUMSQ, 100, 20, 0, 0), (VectorOp.SCALE, 100, 20, 0, 0), (VectorOp.MUL, 100, 8, weights, 8),
        (VectorOp.MUL, 108, 8, weights + 8, 8), (VectorOp.MUL, 116, 4, weights + 16, 4),
        (VectorOp.SUMSQ, 120, 4, 0, 0), (VectorOp.SCALE, 120, 4, 0, 0), (VectorOp.MUL, 120, 4, weights + 20, 4),
    ]  # fmt: skip
    assert {(one["vectors"], one["a_stride"]) for _, one in emitted(work)} == {(3, 28)}


def test_a_mixtral_has_none() -> None:
    work, dense = work_for("mixtral", 3)
    norms = HeadNorms(work, dense, 0)
    norms.emit_shared(100, 3)
    norms.emit_queries(100, 3)
    norms.emit_keys(120, 3)
    assert not emitted(work)
