# SPDX-License-Identifier: Apache-2.0
"""Attention of one layer: projections, rotation, append to the cache, scores, online softmax, context, output.

Tokens go through in blocks. Of each block, jobs of one tier each compute the attention of some queries (16 tokens of
one head, or a decoded token's grouped heads) in blocks of keys. The next block's projection comes between this block's
jobs, and this block's output projection, norm and router between the next block's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise

from hdl.isa import Dest, Format, LoadDest, StoreFormat, VectorBits, VectorDest, VectorOp
from scheduler.fixed_point import KEY_SHIFT, ROTATE_SHIFT, VALUE_SHIFT
from scheduler.language.attention_jobs import Job, JobPipeline, KeyTiles
from scheduler.language.batch import Piece
from scheduler.language.dense import lower_norm, project
from scheduler.language.work import Work

__all__ = ["lower_attention"]


def lower_attention(
    work: Work, layer: int, blocks: Sequence[Sequence[Piece]], route: Callable[[int, int], None]
) -> None:
    """Emit the attention of a layer: residual rows in, residual rows out.

    Parameters
    ----------
    work : Work
        What a step's lowering shares.
    layer : int
        Layer number.
    blocks : sequence of sequences of Piece
        The step's tokens, block by block.
    route : callable
        ``route(first, count)`` emits what follows for the tokens of a block.
    """
    pipeline = JobPipeline(work, layer, sum(_job_count(work, piece) for pieces in blocks for piece in pieces))
    for part in _projection(work, layer, blocks[0], 0):
        part()
    for number, pieces in enumerate(blocks):
        parity = number % 2
        if number + 1 < len(blocks):
            _interleave(pipeline, _projection(work, layer, blocks[number + 1], 1 - parity), pieces)
        for piece in pieces:
            if len(piece.chunk.tokens) == 1:
                _decode(pipeline, piece, pieces[0].first, parity)
            else:
                _prefill(pipeline, piece, pieces[0].first, parity)
        while pipeline.fillers:  # the next block's queries must be there before its jobs
            pipeline.advance()
        pipeline.after(partial(_output, work, layer, pieces, parity))
        pipeline.after(partial(pipeline.fillers.append, partial(route, pieces[0].first, sum(p.count for p in pieces))))
    pipeline.flush()


def _interleave(pipeline: JobPipeline, parts: Sequence[Callable[[], None]], pieces: Sequence[Piece]) -> None:
    """Let the next block's projection come between this block's jobs: the norm soon, the rotations late."""
    norm, keys, query = parts
    work = pipeline.work
    jobs = sum(_job_count(work, piece) for piece in pieces)
    gap = max(0, jobs - len(pipeline.fillers) - 4)
    pipeline.fillers += [norm, *([None] * gap), keys, query]


def _job_count(work: Work, piece: Piece) -> int:
    """Return the softmax pieces that a piece's jobs make."""
    shape, size = work.shape, work.chip.size
    blocks = -(-(piece.position + piece.count) // size.key_block)
    if len(piece.chunk.tokens) == 1:
        return shape.kv_heads * blocks
    return shape.heads * -(-piece.count // size.job_tokens) * blocks


def _projection(
    work: Work, layer: int, pieces: Sequence[Piece], parity: int
) -> tuple[Callable[[], None], Callable[[], None], Callable[[], None]]:
    """Return what emits norm and projection, rotation and append of the keys, rotation of the queries."""
    chip, shape, emit = work.chip, work.shape, work.emitter
    rows, words = chip.rows["attention"], chip.words["attention"]
    first, count = pieces[0].first, sum(p.count for p in pieces)
    x = words["x"] + first * shape.hidden_words
    qkv = rows["qkv"] + parity * chip.block * shape.projected_rows
    rope = rows["rope"] + parity * chip.block * shape.rope_rows
    query = words["query"] + parity * chip.block * shape.query_words
    keys = qkv + shape.query_rows
    rotation = {
        "op": VectorOp.ROTATE, "vectors": count, "a_stride": shape.projected_rows, "b_base": rope,
        "b_stride": shape.rope_rows, "b_rows": shape.head_rows, "shift": ROTATE_SHIFT, "bits": VectorBits.BITS8,
    }  # fmt: skip

    def norm() -> None:
        done = 0
        for piece in pieces:
            table = work.memory.rope(piece.position)
            emit.load(
                "rope", dest_kind=LoadDest.ROWS, dest_base=rope + done * shape.rope_rows, group=table.group,
                count=piece.count * shape.rope_rows, addr=table.units,
            )  # fmt: skip
            done += piece.count
        lower_norm(
            work, "norm 1", work.model.layers[layer].attention_norm, row=first * shape.hidden_rows,
            stride=shape.hidden_rows, count=count, scalar=chip.scalars["attention"]["norm"] + parity * chip.block,
            word=x, tiers=1,
        )  # fmt: skip
        project(
            work, "qkv", layer, tokens=count, act=x, dest_kind=Dest.COMBINE, dest_base=qkv,
            dest_stride=shape.projected_rows,
        )  # fmt: skip

    def rotate_keys() -> None:
        emit.vector(
            "rotate k", **rotation, rows=shape.key_rows, a_base=keys, dest_kind=VectorDest.ROWS, dest_base=keys,
            dest_stride=shape.projected_rows,
        )  # fmt: skip
        done = 0
        for piece in pieces:
            _append(work, layer, piece, keys + done * shape.projected_rows)
            done += piece.count

    def rotate_query() -> None:
        emit.vector(
            "rotate q", **rotation, rows=shape.query_rows, a_base=qkv, dest_kind=VectorDest.ACTIVATION,
            dest_tiers=work.every_tier, dest_base=query, dest_stride=shape.query_words,
        )  # fmt: skip

    return norm, rotate_keys, rotate_query


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


def _decode(pipeline: JobPipeline, piece: Piece, block_first: int, parity: int) -> None:
    """Run a decoded token's jobs: the query heads of one key/value head together."""
    work = pipeline.work
    shape = work.shape
    at = piece.first - block_first
    keys = piece.position + 1
    jobs = []
    for head in range(shape.kv_heads):
        tier = work.next_tier()
        base = work.key_slot((tier,))
        pipeline.make_room((tier,), base)
        tiles = KeyTiles((tier,), base, base + shape.key_tiles(keys), work.next_tag())
        end = -(-keys // shape.key_unit) * shape.key_unit
        _load_keys(work, pipeline.layer, piece.chunk.slot, head, tiles, 0, end)
        words = at * shape.query_words + head * shape.group * shape.head_words
        rows = at * shape.query_rows + head * shape.group * shape.head_rows
        jobs.append(
            Job(
                name=f"sequence {piece.chunk.slot} head {head}", tier=tier, head=head, tiles=tiles,
                vectors=shape.group, query=_region(work, "query", parity) + words, query_stride=shape.head_words,
                context=_context(work, parity) + rows, context_stride=shape.head_rows,
                output=_region(work, "context", parity) + words, output_stride=shape.head_words,
                position=piece.position, step=0,
            )
        )  # fmt: skip
        if len(jobs) == pipeline.group or head + 1 == shape.kv_heads or work.key_slots == 1:
            pipeline.run(jobs)
            jobs = []


def _prefill(pipeline: JobPipeline, piece: Piece, block_first: int, parity: int) -> None:
    """Run the jobs of several tokens of a sequence: some consecutive tokens and one query head each."""
    work = pipeline.work
    shape = work.shape
    slot, unit = piece.chunk.slot, shape.key_unit
    begins = piece.position == piece.chunk.position
    if begins:
        pipeline.settle()
        pipeline.cached.clear()
        for head in range(shape.kv_heads):
            tiers = work.tiers_of(head)
            base = work.key_slot(tiers)
            pipeline.cached[head] = KeyTiles(tiers, base, base + shape.key_tiles(piece.chunk.end), work.next_tag())
    # Whole units; what earlier blocks have loaded of the first is loaded again.
    start = 0 if begins else piece.position // unit * unit
    if not begins and start < piece.position:
        pipeline.settle()
    end = -(-(piece.position + piece.count) // unit) * unit
    for head, tiles in pipeline.cached.items():
        _load_keys(work, pipeline.layer, slot, head, tiles, start, end)
    jobs = []
    for done in range(0, piece.count, work.chip.size.job_tokens):
        at = piece.first - block_first + done
        for head in range(shape.heads):
            tiles = pipeline.cached[head // shape.group]
            words = at * shape.query_words + head * shape.head_words
            jobs.append(
                Job(
                    name=f"sequence {slot} head {head}", tier=tiles.tiers[head % shape.group % len(tiles.tiers)],
                    head=head // shape.group, tiles=tiles, vectors=min(work.chip.size.job_tokens, piece.count - done),
                    query=_region(work, "query", parity) + words, query_stride=shape.query_words,
                    context=_context(work, parity) + at * shape.query_rows + head * shape.head_rows,
                    context_stride=shape.query_rows, output=_region(work, "context", parity) + words,
                    output_stride=shape.query_words, position=piece.position + done, step=1,
                )
            )  # fmt: skip
    for some in range(0, len(jobs), pipeline.group):
        pipeline.run(jobs[some : some + pipeline.group])


def _region(work: Work, name: str, parity: int) -> int:
    """Return the first word of the block's queries or contexts, heads * head_dim bytes a token."""
    return work.chip.words["attention"][name] + parity * work.chip.block * work.shape.query_words


def _context(work: Work, parity: int) -> int:
    return work.chip.rows["attention"]["context"] + parity * work.chip.block * work.shape.query_rows


def _output(work: Work, layer: int, pieces: Sequence[Piece], parity: int) -> None:
    """Emit the output projection of a block, added to the residual."""
    shape = work.shape
    project(
        work, "output", layer, tokens=sum(p.count for p in pieces),
        act=_region(work, "context", parity), dest_kind=Dest.COMBINE,
        dest_base=pieces[0].first * shape.hidden_rows, dest_list=1, accumulate=1,
    )  # fmt: skip
