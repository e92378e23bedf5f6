# SPDX-License-Identifier: Apache-2.0
"""Latent attention: what comes before the scores and after the contexts.

A head's projection of keys is applied to its query (*absorb*) and its projection of values to its context (*expand*),
so that scores and contexts are taken with the cached latent vector, which all heads share: attention with one
key/value head whose keys are the latent vector and the rotated key, and whose values are the latent vector.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hdl.isa import Dest, Mode, VectorBits, VectorDest, VectorOp
from scheduler.models.description import LatentAttention
from scheduler.models.fixed_point import ROTATE_SHIFT
from scheduler.ops.batch import Piece
from scheduler.stream.emit.dense import Dense, Group, emit_norm
from scheduler.stream.emit.project import Appends, BlockPlace
from scheduler.stream.emit.work import Work

__all__ = ["expand_contexts", "project_latent"]


class _Sizes:
    """Words and rows of the parts of a token's latent attention."""

    def __init__(self, work: Work, layer: int) -> None:
        attention = work.layer(layer).attention
        assert isinstance(attention, LatentAttention)
        config = work.config

        def words(width: int) -> int:
            return -(-width // config.rows)

        def rows(width: int) -> int:
            return words(width) * config.rows // config.columns

        self.heads = attention.heads
        self.query_rows, self.query_words = rows(attention.query_rank), words(attention.query_rank)
        self.key_rows, self.rotated_rows = rows(attention.kv_rank), rows(attention.rope_dim)
        self.key_words = words(attention.kv_rank)
        self.plain_words, self.value_words = words(attention.plain_dim), words(attention.value_dim)
        self.rows = self.query_rows + self.key_rows + self.rotated_rows


def project_latent(
    work: Work, dense: Dense, layer: int, pieces: Sequence[Piece], place: BlockPlace, appends: Appends
) -> Iterator[int]:
    """Emit norm, latent projection, append of latent vectors, and the queries of a block.

    Yields the cycle in which the next step can begin.
    """
    emit, heads, tiling, size = work.emitter, work.heads(layer), work.tiling, _Sizes(work, layer)
    constants, count = work.constants_of(layer), place.tokens
    x = work.places.words["attention"]["x"] + place.first * tiling.hidden_words
    rope = work.places.rows["attention"]["rope"] + place.first * heads.rope_rows
    emit_norm(
        work, "norm 1", constants.attention_norm, row=place.first * tiling.hidden_rows, stride=tiling.hidden_rows,
        count=count, scalar=place.scalar, word=x, tiers=1,
    )  # fmt: skip
    ready = dense.project(
        layer, "latent", [Group(count, x, place.rows)], act_stride=tiling.hidden_words,
        shift=constants.shifts["latent"], dest_kind=Dest.COMBINE, dest_stride=size.rows,
    )  # fmt: skip
    yield ready

    def rows(first: int, many: int) -> dict[str, int]:
        return {"vectors": count, "rows": many, "a_base": place.rows + first, "a_stride": size.rows}

    norm, source, stride = constants.attention_norm, x, tiling.hidden_words
    if size.query_rows:
        source, stride = place.latent, size.query_words
        part = rows(0, size.query_rows)
        emit.vector("latent q norm: sum of squares", op=VectorOp.SUMSQ, **part, d_scalar=place.scalar, mult=norm.mult,
                    shift=norm.eps_shift, imm=norm.eps)  # fmt: skip
        emit.vector(
            "latent q norm: scale", op=VectorOp.SCALE, **part, s_base=place.scalar, shift=norm.shift,
            bits=VectorBits.BITS8, dest_kind=VectorDest.ACTIVATION, dest_tiers=1, dest_base=source, dest_stride=stride,
        )  # fmt: skip
    part, keys = rows(size.query_rows, size.key_rows), place.rows + size.query_rows
    emit.vector("latent k norm: sum of squares", op=VectorOp.SUMSQ, **part, d_scalar=place.scalar, mult=norm.mult,
                shift=norm.eps_shift, imm=norm.eps)  # fmt: skip
    emit.vector(
        "latent k norm: scale", op=VectorOp.SCALE, **part, s_base=place.scalar, shift=norm.shift, bits=VectorBits.BITS8,
        dest_kind=VectorDest.ROWS, dest_base=keys, dest_stride=size.rows,
    )  # fmt: skip
    own = rows(size.query_rows + size.key_rows, size.rotated_rows)
    table = {"b_rows": size.rotated_rows, "shift": ROTATE_SHIFT, "bits": VectorBits.BITS8}
    emit.vector(
        "rotate k", op=VectorOp.ROTATE, **own, b_base=rope, b_stride=heads.rope_rows, **table,
        dest_kind=VectorDest.ROWS, dest_base=own["a_base"], dest_stride=size.rows,
    )  # fmt: skip
    yield emit.clock.vector
    appends.wait(pieces, place.first, (keys, keys), size.rows)
    plain = place.latent + work.places.block * size.query_words
    dense.project(
        layer, "query plain", [Group(count, source, plain)], act_stride=stride, shift=constants.shifts["query plain"],
        mode=Mode.REQUANT8, dest_kind=Dest.ACTIVATION, dest_tiers=work.every_tier,
        dest_stride=size.heads * size.plain_words,
    )  # fmt: skip
    rotated = place.rows + work.places.block * size.rows
    many = size.heads * size.rotated_rows
    ready = dense.project(
        layer, "query rotated", [Group(count, source, rotated)], act_stride=stride,
        shift=constants.shifts["query rotated"], dest_kind=Dest.COMBINE, dest_stride=many,
    )  # fmt: skip
    dense.project_heads(
        layer, "absorb", tokens=count, act=(plain, size.plain_words, size.heads * size.plain_words),
        dest=(place.query, heads.key_words, heads.query_words), shift=constants.shifts["absorb"], tiers=work.every_tier,
    )  # fmt: skip
    yield ready
    for token in range(count):
        emit.vector(
            "rotate q", op=VectorOp.ROTATE, vectors=size.heads, rows=size.rotated_rows, a_base=rotated + token * many,
            a_stride=size.rotated_rows, b_base=rope + token * heads.rope_rows, **table,
            dest_kind=VectorDest.ACTIVATION, dest_tiers=work.every_tier,
            dest_base=place.query + token * heads.query_words + size.key_words, dest_stride=heads.key_words,
        )  # fmt: skip
    yield emit.clock.vector


def expand_contexts(work: Work, dense: Dense, layer: int, place: BlockPlace, at: int, count: int) -> tuple[int, int]:
    """Emit each head's projection of its context from the block's token `at` on; return first word and stride."""
    heads, size = work.heads(layer), _Sizes(work, layer)
    stride = size.heads * size.value_words
    words = place.latent + work.places.block * (size.query_words + size.heads * size.plain_words) + at * stride
    dense.project_heads(
        layer, "expand", tokens=count,
        act=(place.context_words + at * heads.context_words, heads.value_words, heads.context_words),
        dest=(words, size.value_words, stride), shift=work.constants_of(layer).shifts["expand"], tiers=1,
    )  # fmt: skip
    return words, stride
