# SPDX-License-Identifier: Apache-2.0
"""What comes before the scores: norm, projection, rotation, and the append of keys and values to the cache."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from hdl.isa import Dest, Opcode, StoreFormat, VectorBits, VectorDest, VectorOp, most_of
from scheduler.cost.blocks import blocks_of
from scheduler.cost.work import gemm_waves, store_cycles
from scheduler.models.fixed_point import KEY_SHIFT, ROTATE_SHIFT, VALUE_SHIFT
from scheduler.ops.batch import Piece
from scheduler.stream.emit.dense import Dense, Group, emit_norm
from scheduler.stream.emit.head_norm import HeadNorms
from scheduler.stream.emit.work import Work

__all__ = ["Appends", "BlockPlace", "cycles_before_keys", "project_block"]


MOST_GAP = most_of(Opcode.STORE, "addr_gap")
"""Rows' bytes that a store can leave out."""


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
    runs : tuple of (int, int)
        First token of the block and number of tokens whose queries attend to a prefix together: those of a key/value
        head lie one behind the other.
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
    runs: tuple[tuple[int, int], ...] = ()


def project_block(
    work: Work, dense: Dense, layer: int, pieces: Sequence[Piece], place: BlockPlace, appends: Appends
) -> Iterator[int]:
    """Emit norm and projection, rotation and append of keys, rotation of queries of a block, some tokens at a time.

    Keys are appended before queries are rotated where matrices are resident; else they wait in `appends` until the
    jobs that read them, so that the jobs of some sequences run beside the stores of others.

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
    values = keys + heads.kv_heads * heads.key_rows
    if work.residence.resident:
        appends.run(pieces, place.first, (keys, values), stride)
    else:
        appends.wait(pieces, place.first, (keys, values), stride)
    for at, count in sections:
        norm.emit_queries(place.rows + at * stride, count)
        for first, many, run in _runs_of(place.runs, at, count):
            # In a run each head's queries go to a place of their own.
            parts = heads.kv_heads if run is not None else 1
            rows, words = heads.query_rows // parts, heads.query_words // parts
            base, tokens = (first, 0) if run is None else run
            for part in range(parts):
                word = base * heads.query_words + (part * tokens + first - base) * words
                emit.vector(
                    "rotate q", **rotation(first, many), rows=rows, a_base=place.rows + first * stride + part * rows,
                    dest_kind=VectorDest.ACTIVATION, dest_tiers=work.every_tier, dest_base=place.query + word,
                    dest_stride=words,
                )  # fmt: skip
        yield emit.clock.vector


def _runs_of(
    runs: Sequence[tuple[int, int]], at: int, count: int
) -> Iterator[tuple[int, int, tuple[int, int] | None]]:  # fmt: skip
    """Cut a block's tokens from `at` on where runs begin and end; yield first token, number of tokens and their run."""
    end = at + count
    cuts = sorted({at, end, *(cut for first, many in runs for cut in (first, first + many) if at < cut < end)})
    for begin, stop in pairwise(cuts):
        yield begin, stop - begin, next((run for run in runs if run[0] <= begin < run[0] + run[1]), None)


def cycles_before_keys(work: Work, pieces: Sequence[Piece]) -> int:
    """Return about how many cycles after a layer the first block of the next one loads keys.

    Those are the projections' waves, beside which the vector unit works, and the stores that append keys and values.
    """
    blocks, heads, layer = blocks_of(work.config), work.heads(0), work.layer(0)
    tokens, total = sum(piece.count for piece in pieces), 0
    for name, matrix in work.residence.matrices[layer].items():  # in the order of their use
        if name == "output":
            break
        total += sum(gemm_waves(tokens, matrix.k_slices, share.each) for share in work.residence.shares[layer][name])
    for piece in pieces:
        for rows in (heads.key_rows, heads.value_rows):
            count, each = (1, rows) if piece.count == 1 else (rows, piece.count)
            total += heads.kv_heads * count * store_cycles(blocks, 0, StoreFormat.INT8, each, True, 0, False)
    return total


class Appends:
    """Stores of new keys and values that wait for their turn.

    Parameters
    ----------
    work : Work
        What a step's emission shares.
    layer : int
    """

    def __init__(self, work: Work, layer: int) -> None:
        self._work = work
        self._layer = layer
        self._waiting: deque[tuple[Piece, tuple[int, int], int]] = deque()

    def wait(self, pieces: Sequence[Piece], first: int, rows: tuple[int, int], stride: int) -> None:
        """Let pieces wait whose block's token `first` has its keys and values at `rows`, a token `stride` rows."""
        for piece in pieces:
            offset = (piece.first - first) * stride
            self._waiting.append((piece, (rows[0] + offset, rows[1] + offset), stride))

    def run(self, pieces: Sequence[Piece], first: int, rows: tuple[int, int], stride: int) -> None:
        """Store them at once."""
        self.wait(pieces, first, rows, stride)
        self.emit(pieces[-1].first)

    def emit(self, token: int) -> None:
        """Store what waits, up to the piece that begins with the step's token `token`."""
        while self._waiting and self._waiting[0][0].first <= token:
            append(self._work, self._layer, *self._waiting.popleft())


def append(work: Work, layer: int, piece: Piece, rows: tuple[int, int], stride: int) -> None:
    """Store the keys and values of a piece's tokens, whose rows begin at `rows`, a token's `stride` rows apart."""
    keys, values = rows
    if piece.count == 1 and _append_token(work, layer, piece, rows):
        return
    config, heads = work.config, work.heads(layer)
    for head in range(heads.kv_heads):
        for what, shift in (("keys", KEY_SHIFT), ("values", VALUE_SHIFT)):
            own = heads.key_rows if what == "keys" else heads.value_rows
            base = (keys if what == "keys" else values) + head * own
            align = config.columns if what == "keys" else config.rows  # tokens of a block
            area = work.memory.cache(layer, piece.chunk.sequence, head, what)
            done = 0
            while done < piece.count:
                position = piece.position + done
                count = min(align - position % align, piece.count - done)
                start = area.address + position // align * align * own * config.columns
                for fields in _stores(work, what, own, stride, position % align, count):
                    address = start + fields.pop("byte")
                    work.emitter.store(
                        f"append {what}", format=StoreFormat.INT8, shift=shift, group=area.group,
                        row_base=base + done * stride + fields.pop("row"), addr=address // 32, offset=address % 32,
                        **fields,
                    )  # fmt: skip
                done += count


def _append_token(work: Work, layer: int, piece: Piece, rows: tuple[int, int]) -> bool:
    """Store one token's keys and values, those of all heads of a channel group at once; return whether that can be.

    Heads of one row lie the same distance apart in rows and in memory, every second one in the same group.
    """
    config, heads, sequence = work.config, work.heads(layer), piece.chunk.sequence
    if heads.kv_heads < 4 or heads.key_rows != 1 or heads.value_rows != 1:
        return False
    areas = work.memory.caches(layer, sequence).tolist()
    for number, (what, base, shift) in enumerate((("keys", rows[0], KEY_SHIFT), ("values", rows[1], VALUE_SHIFT)), 1):
        align, token = (config.columns, config.rows) if what == "keys" else (config.rows, config.columns)
        offset = piece.position // align * align * config.columns + piece.position % align * token
        for head in (0, 1):
            area, following = areas[head], areas[head + 2]
            gap, rest = divmod(following[number] - area[number], config.columns)
            if area[0] != following[0] or rest or gap - 1 > MOST_GAP:
                return False
            address = area[number] + offset
            work.emitter.store(
                f"append {what}", format=StoreFormat.INT8, shift=shift, group=area[0], row_base=base + head,
                rows=(heads.kv_heads - head + 1) // 2, row_gap=1, addr=address // 32, offset=address % 32,
                addr_gap=gap - 1,
            )  # fmt: skip
    return True


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
