# SPDX-License-Identifier: Apache-2.0
"""The beginning and the end of a step: embeddings and tables where their tokens are, logits where the host looks."""

from __future__ import annotations

import numpy as np
import pytest

from hdl.isa import LoadDest, Opcode, StoreFormat, VectorOp
from scheduler.ops.batch import Chunk
from scheduler.plan.shares import Share
from scheduler.stream.emit.dense import Dense
from scheduler.stream.emit.head import emit_embeddings, emit_head, emit_rotations, logit_parts
from tests.support.checkpoints import small_model
from tests.support.emitting import STREAMED, TINY, emitted, work_of

CHUNKS = [Chunk(0, 5, (1, 2, 3, 4)), Chunk(2, 8, (20,))]


def test_each_token_gets_its_embedding() -> None:
    work = work_of(CHUNKS)
    emit_embeddings(work, CHUNKS)
    found = emitted(work)
    assert [one["addr"] for _, one in found] == [work.memory.embedding(t).addr for t in (1, 2, 3, 4, 20)]
    assert [one["dest_base"] for _, one in found] == [0, 3, 6, 9, 12]
    assert all(one["dest_kind"] == LoadDest.ROWS and one["count"] == 3 and one["group"] == 1 for _, one in found)
    assert {one["shift"] for _, one in found} == {work.constants.embedding_shift}


def test_tables_of_a_chunk_come_at_once_where_they_lie_side_by_side() -> None:
    """A table of 2 rows of 16 bytes is a unit of memory; one of 2 rows of 8 bytes (4 lanes) is half of one."""
    work = work_of(CHUNKS)
    emit_rotations(work, CHUNKS)
    first = work.places.rows["attention"]["rope"]
    assert [(one["addr"], one["dest_base"], one["count"]) for _, one in emitted(work)] == [
        (work.memory.rope(5).addr, first, 8), (work.memory.rope(8).addr, first + 8, 2)
    ]  # fmt: skip
    narrow = TINY.replace(name="narrow", rows=4, columns=4, row_fifo_depth=64)
    work = work_of(CHUNKS, narrow, small_model("mixtral", heads=2, kv_heads=1, head_dim=4))
    emit_rotations(work, CHUNKS)
    first = work.places.rows["attention"]["rope"]
    assert [(one["addr"], one["dest_base"], one["count"]) for _, one in emitted(work)] == [
        (work.memory.rope(p).addr, first + 2 * n, 2) for n, p in enumerate((5, 6, 7, 8, 8))
    ]


def test_parts_of_the_vocabulary_have_whole_shares() -> None:
    shares = [Share(0, 2, 2), Share(4, 2, 1), Share(6, 1, 1)]
    assert logit_parts(shares, 7) == [[0, 1, 2]]
    assert logit_parts(shares, 6) == [[0, 1], [2]]
    assert logit_parts(shares, 4) == [[0], [1, 2]]
    assert logit_parts(shares, 1) == [[0], [1], [2]], "one share at least"


@pytest.mark.parametrize(
    ("chunks", "outputs", "norms"),
    [
        (CHUNKS, [0, 1], [(9, 0, 1), (12, 1, 1)]),  # last tokens: 3 and 4, of 3 rows each
        (CHUNKS, [1], [(12, 0, 1)]),
        ([Chunk(0, 5, (1,)), Chunk(1, 8, (5,)), Chunk(2, 0, (7,))], [0, 1, 2], [(0, 0, 3)]),  # decode: together
    ],
    ids=["mixed", "one", "decode"],
)
@pytest.mark.parametrize("config", [TINY, STREAMED], ids=["resident", "streamed"])
def test_last_tokens_go_through_norm_and_head(config: object, chunks: list, outputs: list, norms: list) -> None:
    work = work_of(chunks, config)  # type: ignore[arg-type]
    dense = Dense(work)
    dense.load_layer(0)
    dense.load_head()
    done = 1
    emit_head(work, dense, chunks, outputs, done)
    found = emitted(work)
    squares = [one for _, one in found if one.opcode == Opcode.VECTOR and one["op"] == VectorOp.SUMSQ]
    assert [(one["a_base"], one["d_scalar"], one["vectors"]) for one in squares] == norms
    gemms = [one for _, one in found if one.opcode == Opcode.GEMM]
    assert {(one["tokens"], one["act_stride"], one["act_base"]) for one in gemms} == {(len(outputs), 3, 0)}
    (store,) = [one for _, one in found if one.opcode == Opcode.STORE]
    logits = work.memory.logits
    assert store["format"] == StoreFormat.INT16 and store["group"] == logits.group
    assert store["rows"] == len(outputs) * 3
    assert store["addr"] * 32 + store["offset"] == logits.address + done * 3 * 16


def test_a_wide_vocabulary_is_stored_part_by_part_from_two_places_in_turn() -> None:
    wide = small_model("mixtral", hidden=21, heads=4, kv_heads=2, head_dim=6, intermediate=13, vocabulary=2000)
    work = work_of(CHUNKS, STREAMED.replace(combine_rows=256), wide)
    dense = Dense(work)
    emit_head(work, dense, CHUNKS, [0, 1], 0)
    stores = [one for _, one in emitted(work) if one.opcode == Opcode.STORE]
    assert len(stores) > 2
    ends = np.cumsum([one["rows"] * 16 for one in stores])
    addresses = [one["addr"] * 32 + one["offset"] - work.memory.logits.address for one in stores]
    assert addresses == [0, *ends[:-1].tolist()] and ends[-1] == 2 * 250 * 16
    bases = [one["row_base"] for one in stores]
    first, size = work.places.rows["head"]["logits"], work.places.head_tiles
    assert bases == [first + n % 2 * 2 * size for n in range(len(stores))]
    assert max(one["row_base"] + one["rows"] for one in stores) <= first + work.places.rows["head"].sizes["logits"]
    # Each part's GEMMs fill exactly the rows that its store takes.
    rows: set[int] = set()
    for _, one in emitted(work):
        if one.opcode == Opcode.GEMM:
            own = one["tier_count"] * one["n_tiles"]
            rows |= {one["dest_base"] + t * one["dest_stride"] + n for t in range(one["tokens"]) for n in range(own)}
        if one.opcode == Opcode.STORE:
            assert rows == set(range(one["row_base"], one["row_base"] + one["rows"]))
            rows = set()
