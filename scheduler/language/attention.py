# SPDX-License-Identifier: Apache-2.0
"""Attention of one layer: projections, rotation, append to the cache, scores, online softmax, context, output.

Tokens go through in blocks. Of each block, jobs of one tier each compute the attention of some queries (16 tokens of
one head, or a decoded token's grouped heads) in blocks of keys; the scores of the next job are computed while the
vector unit works on those of the present one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from hdl.isa import (
    Dest,
    Format,
    LoadDest,
    Mode,
    Order,
    StoreFormat,
    VectorBits,
    VectorDest,
    VectorFn,
    VectorOp,
    VectorSum,
)
from scheduler.fixed_point import (
    KEY_SHIFT,
    PROBABILITY_MULT,
    PROBABILITY_SHIFT,
    ROTATE_SHIFT,
    VALUE_SHIFT,
)
from scheduler.language.batch import Piece
from scheduler.language.dense import lower_norm, project
from scheduler.language.work import Work

__all__ = ["KeyTiles", "lower_attention"]


@dataclass(frozen=True)
class KeyTiles:
    """Where a sequence's keys and values of one head lie in V-Cache.

    Attributes
    ----------
    tiers : tuple of int
        Tiers that hold them.
    keys, values : int
        First tiles.
    tag : int
        Fill tag.
    """

    tiers: tuple[int, ...]
    keys: int
    values: int
    tag: int


@dataclass(frozen=True)
class _Job:
    """Attention of `vectors` queries over the keys of one head; addresses as instructions take them."""

    name: str
    tier: int
    head: int
    tiles: KeyTiles
    vectors: int
    query: int
    query_stride: int
    context: int
    context_stride: int
    output: int
    output_stride: int
    position: int
    step: int

    @property
    def keys(self) -> int:
        """Keys of the last query."""
        return self.position + (self.vectors - 1) * self.step + 1


def lower_attention(work: Work, layer: int, blocks: Sequence[Sequence[Piece]]) -> None:
    """Emit the attention of a layer: residual rows in, residual rows out.

    Parameters
    ----------
    work : Work
        What a step's lowering shares.
    layer : int
        Layer number.
    blocks : sequence of sequences of Piece
        The step's tokens, block by block.
    """
    pipeline = _Pipeline(work, layer)
    for number, pieces in enumerate(blocks):
        parity = number % 2
        _project(work, layer, pieces, parity)
        for piece in pieces:
            if len(piece.chunk.tokens) == 1:
                _decode(pipeline, piece, pieces[0].first, parity)
            else:
                _prefill(pipeline, piece, pieces[0].first, parity)
        pipeline.flush()
        _output(work, layer, pieces, parity)


def _project(work: Work, layer: int, pieces: Sequence[Piece], parity: int) -> None:
    """Norm, query/key/value projection, rotation, append."""
    chip, shape, emit = work.chip, work.shape, work.emitter
    rows, words = chip.rows["attention"], chip.words["attention"]
    first, count = pieces[0].first, sum(p.count for p in pieces)
    x = words["x"] + parity * chip.block * shape.hidden_words
    qkv = rows["qkv"] + parity * chip.block * shape.projected_rows
    rope = rows["rope"] + parity * chip.block * shape.rope_rows
    query = words["query"] + parity * chip.block * shape.query_words
    parameters = work.model.layers[layer]
    done = 0
    for piece in pieces:
        table = work.memory.rope(piece.position)
        emit.load(
            "rope", dest_kind=LoadDest.ROWS, dest_base=rope + done * shape.rope_rows, group=table.group,
            count=piece.count * shape.rope_rows, addr=table.units,
        )  # fmt: skip
        done += piece.count
    lower_norm(
        work, "norm 1", parameters.attention_norm, row=first * shape.hidden_rows, stride=shape.hidden_rows, count=count,
        scalar=chip.scalars["attention"]["norm"] + parity * chip.block, word=x, tiers=1,
    )  # fmt: skip
    project(
        work, "qkv", layer, tokens=count, act=x, dest_kind=Dest.COMBINE, dest_base=qkv,
        dest_stride=shape.projected_rows,
    )  # fmt: skip
    rotate = {
        "op": VectorOp.ROTATE, "vectors": count, "a_stride": shape.projected_rows, "b_base": rope,
        "b_stride": shape.rope_rows, "b_rows": shape.head_rows, "shift": ROTATE_SHIFT, "bits": VectorBits.BITS8,
    }  # fmt: skip
    keys = qkv + shape.query_rows
    emit.vector(
        "rotate k", **rotate, rows=shape.key_rows, a_base=keys, dest_kind=VectorDest.ROWS, dest_base=keys,
        dest_stride=shape.projected_rows,
    )  # fmt: skip
    done = 0
    for piece in pieces:
        _append(work, layer, piece, keys + done * shape.projected_rows)
        done += piece.count
    emit.vector(
        "rotate q", **rotate, rows=shape.query_rows, a_base=qkv, dest_kind=VectorDest.ACTIVATION,
        dest_tiers=work.every_tier, dest_base=query, dest_stride=shape.query_words,
    )  # fmt: skip


def _append(work: Work, layer: int, piece: Piece, rows: int) -> None:
    """Store the keys and values of a piece's tokens, whose rows begin at `rows`, one sequence's row stride apart."""
    shape = work.shape
    c = shape.config
    for head in range(shape.kv_heads):
        for what, shift in (("keys", KEY_SHIFT), ("values", VALUE_SHIFT)):
            base = rows + head * shape.head_rows + (shape.key_rows if what == "values" else 0)
            unit = c.columns if what == "keys" else c.rows  # tokens of a block
            done = 0
            while done < piece.count:
                position = piece.position + done
                count = min(unit - position % unit, piece.count - done)
                area = work.memory.cache(layer, piece.chunk.slot, head, what)
                start = area.address + position // unit * unit * shape.head_dim
                for fields in _stores(work, what, position % unit, count):
                    address = start + fields.pop("byte")
                    work.emitter.store(
                        f"append {what}", format=StoreFormat.INT8, shift=shift, group=area.group,
                        row_base=base + done * shape.projected_rows + fields.pop("row"), addr=address // 32,
                        offset=address % 32, **fields,
                    )  # fmt: skip
                done += count


def _stores(work: Work, what: str, first: int, count: int) -> Iterator[dict[str, int]]:
    """Yield the stores that bring `count` tokens from place `first` on into a block of keys or values."""
    shape = work.shape
    c = shape.config
    # Bytes from one of a token's rows to the next: keys lie in slices of R, values in tiles of C.
    if what == "keys":
        places = [r * c.columns // c.rows * c.columns * c.rows + r * c.columns % c.rows for r in range(shape.head_rows)]
        token = c.rows
    else:
        places = [r * c.rows * c.columns for r in range(shape.head_rows)]
        token = c.columns
    gaps = {b - a for a, b in pairwise(places)}
    if count == 1 and len(gaps) <= 1:
        gap = gaps.pop() // c.columns - 1 if gaps else 0
        yield {"row": 0, "rows": shape.head_rows, "byte": first * token, "row_gap": 0, "addr_gap": gap}
        return
    for row, place in enumerate(places):
        yield {
            "row": row, "rows": count, "byte": place + first * token, "row_gap": shape.projected_rows - 1,
            "addr_gap": token // c.columns - 1,
        }  # fmt: skip


def _load_keys(work: Work, layer: int, slot: int, head: int, tiles: KeyTiles, first: int, end: int) -> None:
    """Load the keys and values `first` to `end` - 1 (whole units) of a head."""
    shape = work.shape
    mask = sum(1 << tier for tier in tiles.tiers)
    for what, form, base in (("keys", Format.COLUMNS, tiles.keys), ("values", Format.BYTES, tiles.values)):
        area = work.memory.cache(layer, slot, head, what)
        work.emitter.load(
            f"{what} of sequence {slot} head {head}", format=form, group=area.group, dest_tiers=mask,
            dest_base=base + shape.key_tiles(first), count=shape.key_tiles(end) - shape.key_tiles(first), tag=tiles.tag,
            addr=(area.address + first * shape.head_dim) // 32,
        )  # fmt: skip


def _decode(pipeline: _Pipeline, piece: Piece, block_first: int, parity: int) -> None:
    """Run a decoded token's jobs: the query heads of one key/value head together."""
    work = pipeline.work
    shape = work.shape
    at = piece.first - block_first
    keys = piece.position + 1
    if pipeline.cached:  # their place is given away
        pipeline.flush()
        pipeline.cached.clear()
    for head in range(shape.kv_heads):
        tier = work.next_tier()
        pipeline.make_room(tier)
        base = work.key_slot((tier,))
        tiles = KeyTiles((tier,), base, base + shape.key_tiles(keys), work.next_tag())
        end = -(-keys // shape.key_unit) * shape.key_unit
        _load_keys(work, pipeline.layer, piece.chunk.slot, head, tiles, 0, end)
        words = at * shape.query_words + head * shape.group * shape.head_words
        rows = at * shape.query_rows + head * shape.group * shape.head_rows
        pipeline.run(
            _Job(
                name=f"sequence {piece.chunk.slot} head {head}", tier=tier, head=head, tiles=tiles,
                vectors=shape.group, query=_region(work, "query", parity) + words, query_stride=shape.head_words,
                context=_context(work, parity) + rows, context_stride=shape.head_rows,
                output=_region(work, "context", parity) + words, output_stride=shape.head_words,
                position=piece.position, step=0,
            )
        )  # fmt: skip


def _prefill(pipeline: _Pipeline, piece: Piece, block_first: int, parity: int) -> None:
    """Run the jobs of several tokens of a sequence: some consecutive tokens and one query head each."""
    work = pipeline.work
    shape = work.shape
    slot, unit = piece.chunk.slot, shape.key_unit
    if piece.position == piece.chunk.position:
        pipeline.flush()
        pipeline.cached.clear()
        for head in range(shape.kv_heads):
            tiers = work.tiers_of(head)
            base = work.key_slot(tiers)
            pipeline.cached[head] = KeyTiles(tiers, base, base + shape.key_tiles(piece.chunk.end), work.next_tag())
    # Whole units; what earlier blocks have loaded of the first is loaded again.
    start = 0 if piece.position == piece.chunk.position else piece.position // unit * unit
    if start and start < piece.position:
        pipeline.flush()
    end = -(-(piece.position + piece.count) // unit) * unit
    for head, tiles in pipeline.cached.items():
        _load_keys(work, pipeline.layer, slot, head, tiles, start, end)
    for done in range(0, piece.count, work.chip.size.job_tokens):
        at = piece.first - block_first + done
        for head in range(shape.heads):
            tiles = pipeline.cached[head // shape.group]
            words = at * shape.query_words + head * shape.head_words
            pipeline.run(
                _Job(
                    name=f"sequence {slot} head {head}", tier=tiles.tiers[head % shape.group % len(tiles.tiers)],
                    head=head // shape.group, tiles=tiles, vectors=min(work.chip.size.job_tokens, piece.count - done),
                    query=_region(work, "query", parity) + words, query_stride=shape.query_words,
                    context=_context(work, parity) + at * shape.query_rows + head * shape.head_rows,
                    context_stride=shape.query_rows, output=_region(work, "context", parity) + words,
                    output_stride=shape.query_words, position=piece.position + done, step=1,
                )
            )  # fmt: skip


def _region(work: Work, name: str, parity: int) -> int:
    """Return the first word of the block's queries or contexts, heads * head_dim bytes a token."""
    return work.chip.words["attention"][name] + parity * work.chip.block * work.shape.query_words


def _context(work: Work, parity: int) -> int:
    return work.chip.rows["attention"]["context"] + parity * work.chip.block * work.shape.query_rows


@dataclass(frozen=True)
class _Scores:
    """One job's block of keys, with the regions it uses."""

    job: _Job
    first: int
    keys: int
    region: int
    words: int
    scalar: int

    @property
    def is_first(self) -> bool:
        return self.first == 0

    @property
    def is_last(self) -> bool:
        return self.first + self.keys >= self.job.keys


class _Pipeline:
    """Runs jobs: the scores of the next ones come before softmax and context of the present one.

    Attributes
    ----------
    work : Work
    layer : int
    cached : dict of int to KeyTiles
        Keys and values of the sequence that is prefilled, by head.
    """

    def __init__(self, work: Work, layer: int) -> None:
        self.work = work
        self.layer = layer
        self.cached: dict[int, KeyTiles] = {}
        self._pending: list[_Scores] = []

    def run(self, job: _Job) -> None:
        """Emit a job's scores, and what earlier jobs have left to do."""
        work, size = self.work, self.work.chip.size
        scalar = work.next_scalars()
        for first in range(0, job.keys, size.key_block):
            keys = min(size.key_block, job.keys - first)
            block = _Scores(job, first, keys, work.next_region(), work.next_words(job.tier), scalar)
            _scores(work, self.layer, block)
            self._pending.append(block)
            if len(self._pending) > min(work.chip.regions - 1, work.shape.config.tiers):
                self._finish_first()

    def make_room(self, tier: int) -> None:
        """Finish jobs until one more may have its keys in a tier."""
        while sum(block.job.tier == tier for block in self._pending) >= self.work.key_slots:
            self._finish_first()

    def flush(self) -> None:
        """Finish all jobs."""
        while self._pending:
            self._finish_first()

    def _finish_first(self) -> None:
        _softmax(self.work, self.layer, self._pending.pop(0))


def _columns(work: Work, keys: int) -> int:
    """Return the tiles of keys (rows of scores) of a block of keys, whole units."""
    unit = work.shape.key_unit
    return -(-keys // unit) * unit // work.shape.config.columns


def _scores(work: Work, layer: int, block: _Scores) -> None:
    job, shape = block.job, work.shape
    rows = _columns(work, block.keys)
    parameters = work.model.layers[layer].heads[job.head]
    work.emitter.gemm(
        f"scores {job.name}", tier_base=job.tier, tier_count=1, tokens=job.vectors, k_slices=shape.head_words,
        n_tiles=rows, vcache_base=job.tiles.keys + shape.key_tiles(block.first), tag=job.tiles.tag, act_base=job.query,
        act_stride=job.query_stride, mode=Mode.REQUANT16, shift=parameters.score_shift, param_hold=1,
        param_base=work.word(layer, "score") + job.head, dest_kind=Dest.COMBINE, dest_base=block.region,
        dest_stride=rows,
    )  # fmt: skip


def _softmax(work: Work, layer: int, block: _Scores) -> None:
    job, shape, emit, size = block.job, work.shape, work.emitter, work.chip.size
    rows = _columns(work, block.keys)
    words = rows * shape.config.columns // shape.config.rows
    parameters = work.model.layers[layer].heads[job.head]
    highest, total = block.scalar, block.scalar + size.job_tokens
    scores = {
        "vectors": job.vectors, "rows": rows, "a_base": block.region, "a_stride": rows, "masked": 1,
        "length": job.position + 1 - block.first & 0xFFFF, "length_step": job.step, "first": int(block.is_first),
    }  # fmt: skip
    context = {
        "vectors": job.vectors, "rows": shape.head_rows, "a_base": job.context, "a_stride": job.context_stride,
    }  # fmt: skip
    emit.vector(f"max {job.name}", op=VectorOp.MAX, **scores, s_base=highest, d_scalar=highest)
    emit.vector(
        f"exp {job.name}", op=VectorOp.MAP, fn=VectorFn.EXP2, **scores, s_base=highest, d_scalar=total,
        sum=VectorSum.SUM_RECIP if block.is_last else VectorSum.SUM, mult=PROBABILITY_MULT, shift=PROBABILITY_SHIFT,
        bits=VectorBits.BITS8, dest_kind=VectorDest.ACTIVATION, dest_tiers=1 << job.tier, dest_base=block.words,
        dest_stride=words, imm=parameters.context_mult if block.is_last else 0,
    )  # fmt: skip
    if not block.is_first:
        emit.vector(
            f"rescale {job.name}", op=VectorOp.RESCALE, **context, s_base=highest, bits=VectorBits.BITS32,
            dest_kind=VectorDest.ROWS, dest_base=job.context, dest_stride=job.context_stride,
        )  # fmt: skip
    emit.gemm(
        f"context {job.name}", tier_base=job.tier, tier_count=1, tokens=job.vectors, k_slices=words,
        n_tiles=shape.head_rows, order=Order.N_INNER, vcache_base=job.tiles.values + shape.key_tiles(block.first),
        tag=job.tiles.tag, act_base=block.words, act_stride=words, mode=Mode.REQUANT16, shift=parameters.value_shift,
        param_hold=1, param_base=work.word(layer, "context") + job.head, dest_kind=Dest.COMBINE,
        dest_base=job.context, dest_stride=job.context_stride, accumulate=int(not block.is_first),
    )  # fmt: skip
    if block.is_last:
        emit.vector(
            f"divide {job.name}", op=VectorOp.SCALE, **context, s_base=total, shift=parameters.context_shift,
            bits=VectorBits.BITS8, dest_kind=VectorDest.ACTIVATION, dest_tiers=1, dest_base=job.output,
            dest_stride=job.output_stride,
        )  # fmt: skip


def _output(work: Work, layer: int, pieces: Sequence[Piece], parity: int) -> None:
    """Emit the output projection of a block, added to the residual."""
    shape = work.shape
    project(
        work, "output", layer, tokens=sum(p.count for p in pieces),
        act=_region(work, "context", parity), dest_kind=Dest.COMBINE,
        dest_base=pieces[0].first * shape.hidden_rows, dest_list=1, accumulate=1,
    )  # fmt: skip
