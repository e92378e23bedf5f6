# SPDX-License-Identifier: Apache-2.0
"""Latent attention: each head's query is absorbed and its context expanded by its own matrix."""

from __future__ import annotations

from collections import Counter

import pytest

from hdl.isa import Mode, VectorDest, VectorOp
from scheduler.models.description import DenseMlp, LatentAttention, Layer, Model
from scheduler.ops.batch import Chunk, Piece
from scheduler.stream.emit.dense import Dense
from scheduler.stream.emit.latent import expand_contexts, project_latent
from scheduler.stream.emit.project import Appends, BlockPlace
from scheduler.stream.emit.work import Work
from tests.support.emitting import TINY, emitted, weights_of, work_of

HEADS, TOKENS = 3, 5
CHUNK = Chunk(0, 2, (1,) * TOKENS)


def latent_model(query_rank: int) -> Model:
    """Return a model whose heads' keys are 3 words of latent vector and 1 that is rotated."""
    attention = LatentAttention(
        heads=HEADS, query_rank=query_rank, kv_rank=20, plain_dim=5, rope_dim=4, value_dim=9
    )  # fmt: skip
    layer = Layer(attention=attention, mlp=DenseMlp(intermediate=16))
    return Model(
        family="deepseek_v2", name="latent", hidden=24, vocabulary=16, context=32, layers=(layer, layer),
        missing="its arithmetic",
    )  # fmt: skip


def projected(query_rank: int) -> tuple[Work, BlockPlace, Dense]:
    """Emit the projections of a block of five tokens."""
    config = TINY.replace(vcache_tiles=1024, parameter_words=256, combine_rows=1024)
    work = work_of([CHUNK], config, latent_model(query_rank))
    dense, pools = Dense(work), work.places
    dense.load_layer(0)
    place = BlockPlace(
        first=0, tokens=TOKENS, rows=pools.rows["attention"]["qkv"], query=pools.words["attention"]["query"],
        scalar=pools.scalars["attention"]["norm"], context_rows=pools.rows["attention"]["context"],
        context_words=pools.words["attention"]["context"], section=TOKENS,
        latent=pools.words["attention"]["latent"],
    )  # fmt: skip
    list(project_latent(work, dense, 0, [Piece(CHUNK, 0, 2, TOKENS)], place, Appends(work, 0)))
    return work, place, dense


@pytest.mark.parametrize("query_rank", [0, 12], ids=["direct", "by rank"])
def test_each_heads_query_is_absorbed_by_its_own_matrix(query_rank: int) -> None:
    work, place, _ = projected(query_rank)
    rank = 2 if query_rank else 0
    plain = place.latent + work.places.block * rank
    high, _ = work.memory.planes("layer0.absorb")
    done: Counter[int] = Counter()
    for label, gemm, (tiles, *_) in weights_of(work):
        if label != "absorb":
            continue
        head = (tiles[0][1] - high.address) // 32 // 3  # one slice, three output tiles a head
        assert gemm["mode"] == Mode.REQUANT8 and (gemm["k_slices"], gemm["n_tiles"], gemm["tokens"]) == (1, 3, TOKENS)
        assert (gemm["act_base"], gemm["act_stride"]) == (plain + head, HEADS)
        assert (gemm["dest_base"], gemm["dest_stride"]) == (place.query + 4 * head, 4 * HEADS)
        done[head] += 1
    assert done == {0: 1, 1: 1, 2: 1}


@pytest.mark.parametrize("query_rank", [0, 12], ids=["direct", "by rank"])
def test_vectors_are_normed_and_rotated_where_they_lie(query_rank: int) -> None:
    """A token's rows: the latent query's 2 (or none), 3 of keys, 1 that is rotated."""
    work, place, _ = projected(query_rank)
    rank = 2 if query_rank else 0
    found = {label: one for label, one in emitted(work) if one["op"] and "rotate q" not in label}
    keys = found["latent k norm: scale"]
    assert (keys["a_base"], keys["rows"], keys["a_stride"]) == (place.rows + rank, 3, rank + 4)
    assert (keys["dest_kind"], keys["dest_base"]) == (VectorDest.ROWS, keys["a_base"])
    rotated = found["rotate k"]
    assert rotated["op"] == VectorOp.ROTATE and (rotated["a_base"], rotated["rows"]) == (place.rows + rank + 3, 1)
    assert ("latent q norm: scale" in found) == bool(query_rank)
    queries = [one for label, one in emitted(work) if label == "rotate q"]
    assert len(queries) == TOKENS
    for token, one in enumerate(queries):
        assert (one["vectors"], one["rows"]) == (HEADS, 1)
        assert one["dest_base"] == place.query + token * 4 * HEADS + 3 and one["dest_stride"] == 4


def test_contexts_of_some_tokens_are_expanded() -> None:
    work, place, dense = projected(12)
    before = len(weights_of(work))
    words, stride = expand_contexts(work, dense, 0, place, 2, 3)
    assert stride == HEADS * 2
    assert words == place.latent + work.places.block * (2 + HEADS) + 2 * stride
    high, _ = work.memory.planes("layer0.expand")
    heads = set()
    for label, gemm, (tiles, *_) in weights_of(work)[before:]:
        head = (tiles[0][1] - high.address) // 32 // 6  # three slices, two output tiles a head
        heads.add(head)
        assert label == "expand" and (gemm["k_slices"], gemm["n_tiles"], gemm["tokens"]) == (3, 2, 3)
        assert (gemm["act_base"], gemm["act_stride"]) == (place.context_words + 2 * 9 + 3 * head, 9)
        assert (gemm["dest_base"], gemm["dest_stride"]) == (words + 2 * head, stride)
    assert heads == {0, 1, 2}
