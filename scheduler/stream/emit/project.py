# SPDX-License-Identifier: Apache-2.0
"""What comes before the scores: norm, projection, rotation, and the append of keys and values to the cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from hdl.isa import Dest, StoreFormat, VectorBits, VectorDest, VectorOp
from scheduler.cost.cycle_model import STORE_SETUP
from scheduler.models.fixed_point import KEY_SHIFT, ROTATE_SHIFT, VALUE_SHIFT
from scheduler.ops.batch import Piece
from scheduler.plan.tiling import HeadTiling
from scheduler.stream.emit.dense import Dense, Group, emit_norm
from scheduler.stream.emit.head_norm import HeadNorms
from scheduler.stream.emit.work import Work

__all__ = ["BlockPlace", "append", "append_cycles", "project_block"]


@dataclass(frozen=True)
class BlockPlace:
    """Where a block of tokens lies on the chip.

    Attributes
    ----------
    first, tokens : int
        Number of the block's first token in the step, and how many it has.
    rows : int
        Combine row of the first token's queries, keys and values.
    query : int
        Activation word of the first token's queries.
    scalar : int
        First scalar of its norm.
    context_rows, context_words : int
        Of the first token's contexts, before and after the division.
    section : int
        Tokens that go through norms, matrices and rotations at a time.
    latent : int
        Latent attention: activation word of the first token's latent query, plain queries and expanded contexts.
    """

    first: int
    tokens: int
    rows: int
    query: int
    scalar: int
    context_rows: int
    context_words: int
    section: int
    latent: int = 0


def project_block(work: Work, dense: Dense, layer: int, pieces: Sequence[Piece], place: BlockPlace) -> Iterator[int]:
    """Emit norm and projection, rotation and append of keys, rotation of queries of a block, some tokens at a time.

    Yields the cycle in which the next step can begin. Short steps let the vector unit work on some tokens while the
    array projects others.
    """
    emit, heads, tiling = work.emitter, work.heads(layer), work.tiling
    rope = work.places.rows["attention"]["rope"] + place.first * heads.rope_rows
    x = work.places.words["attention"]["x"] + place.first * tiling.hidden_words
    stride, keys = heads.projected_rows, place.rows + heads.query_rows
    sections = [(at, min(place.section, place.tokens - at)) for at in range(0, place.tokens, place.section)]

    def rotation(at: int, count: int) -> dict[str, int]:
        return {
            "op": VectorOp.ROTATE, "vectors": count, "a_stride": stride, "b_base": rope + at * heads.rope_rows,
            "b_stride": heads.rope_rows, "b_rows": heads.rotated_rows, "shift": ROTATE_SHIFT, "bits": VectorBits.BITS8,
        }  # fmt: skip

    ready = []
    for at, count in sections:
        emit_norm(
            work, "norm 1", work.constants_of(layer).attention_norm, row=(place.first + at) * tiling.hidden_rows,
            stride=tiling.hidden_rows, count=count, scalar=place.scalar + at, word=x + at * tiling.hidden_words,
            tiers=1,
        )  # fmt: skip
        ready.append(
            dense.project(
                layer, "qkv", [Group(count, x + at * tiling.hidden_words, place.rows + at * stride)],
                act_stride=tiling.hidden_words, shift=work.constants_of(layer).shifts["qkv"], dest_kind=Dest.COMBINE,
                dest_stride=stride,
            )
        )  # fmt: skip
        yield emit.clock.vector if len(ready) < len(sections) else ready[0]
    norm = HeadNorms(work, dense, layer)
    for there, (at, count) in zip([*ready[1:], 0], sections, strict=True):
        own = keys + at * stride
        norm.emit_shared(place.rows + at * stride, count)
        norm.emit_keys(own, count)
        emit.vector(
            "rotate k", **rotation(at, count), rows=heads.kv_heads * heads.key_rows, a_base=own,
            dest_kind=VectorDest.ROWS, dest_base=own, dest_stride=stride,
        )  # fmt: skip
        yield there
    done = 0
    for piece in pieces:
        values = keys + heads.kv_heads * heads.key_rows
        append(work, layer, piece, (keys + done * stride, values + done * stride), stride)
        done += piece.count
    for at, count in sections:
        norm.emit_queries(place.rows + at * stride, count)
        emit.vector(
            "rotate q", **rotation(at, count), rows=heads.query_rows, a_base=place.rows + at * stride,
            dest_kind=VectorDest.ACTIVATION, dest_tiers=work.every_tier, dest_base=place.query + at * heads.query_words,
            dest_stride=heads.query_words,
        )  # fmt: skip
        yield emit.clock.vector


def append_cycles(heads: HeadTiling, pieces: Sequence[Piece]) -> int:
    """Return about how many cycles the stores take that append some pieces' keys and values to the cache."""
    parts = heads.key_rows + heads.value_rows
    stores = sum(heads.kv_heads * (2 if piece.count == 1 else parts) for piece in pieces)
    rows = sum(heads.kv_heads * parts * piece.count for piece in pieces)
    return stores * STORE_SETUP + rows


def append(work: Work, layer: int, piece: Piece, rows: tuple[int, int], stride: int) -> None:
    """Store the keys and values of a piece's tokens, whose rows begin at `rows`, a token's `stride` rows apart."""
    keys, values = rows
    config, heads = work.config, work.heads(layer)
    for head in range(heads.kv_heads):
        for what, shift in (("keys", KEY_SHIFT), ("values", VALUE_SHIFT)):
            own = heads.key_rows if what == "keys" else heads.value_rows
            base = (keys if what == "keys" else values) + head * own
            unit = config.columns if what == "keys" else config.rows  # tokens of a block
            area = work.memory.cache(layer, piece.chunk.slot, head, what)
            done = 0
            while done < piece.count:
                position = piece.position + done
                count = min(unit - position % unit, piece.count - done)
                start = area.address + position // unit * unit * own * config.columns
                for fields in _stores(work, what, own, stride, position % unit, count):
                    address = start + fields.pop("byte")
                    work.emitter.store(
                        f"append {what}", format=StoreFormat.INT8, shift=shift, group=area.group,
                        row_base=base + done * stride + fields.pop("row"), addr=address // 32, offset=address % 32,
                        **fields,
                    )  # fmt: skip
                done += count


def _stores(work: Work, what: str, rows: int, stride: int, first: int, count: int) -> Iterator[dict[str, int]]:
    """Yield the stores that bring `count` tokens from place `first` on into a block of keys or values."""
    c = work.config
    # Bytes from one of a token's rows to the next: keys lie in slices of R, values in tiles of C.
    if what == "keys":
        places = [r * c.columns // c.rows * c.columns * c.rows + r * c.columns % c.rows for r in range(rows)]
        token = c.rows
    else:
        places = [r * c.rows * c.columns for r in range(rows)]
        token = c.columns
    gaps = {b - a for a, b in pairwise(places)}
    if count == 1 and len(gaps) <= 1:
        gap = gaps.pop() // c.columns - 1 if gaps else 0
        yield {"row": 0, "rows": rows, "byte": first * token, "row_gap": 0, "addr_gap": gap}
        return
    for row, place in enumerate(places):
        yield {
            "row": row, "rows": count, "byte": place + first * token, "row_gap": stride - 1,
            "addr_gap": token // c.columns - 1,
        }  # fmt: skip
