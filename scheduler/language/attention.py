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

from hdl.isa import Dest, Format, StoreFormat, VectorBits, VectorDest, VectorOp
from scheduler.cost.cycle_model import STORE_SETUP
from scheduler.language.attention_jobs import Chain, Job, JobPipeline, KeyTiles
from scheduler.language.dense import lower_norm, project
from scheduler.language.work import Work
from scheduler.models.fixed_point import KEY_SHIFT, ROTATE_SHIFT, VALUE_SHIFT
from scheduler.ops.batch import Piece
from scheduler.plan.chip import AHEAD, copies
from scheduler.plan.shape import ModelShape

__all__ = ["append_cycles", "lower_attention"]

SECTION = 16
"""Tokens of a block that norms, dense matrices and rotations take at a time."""
EDGE = 4
"""The same in the first and the last block, where the array and the vector unit wait for one another."""


def lower_attention(
    work: Work, layer: int, blocks: Sequence[Sequence[Piece]], route: Callable[[int, int], Iterator[int]]
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
        ``route(first, count)`` emits what follows for some tokens whose residual is complete, as the steps of a chain.
    """
    pipeline = JobPipeline(work, layer, sum(_job_count(work, piece) for pieces in blocks for piece in pieces))
    clock = work.emitter.clock
    clock.wait(max(clock.tiers))  # the layer before is complete
    projections: list[Chain] = []
    open_jobs: list[frozenset[Job]] = []

    def project_block(number: int) -> None:
        if number < len(blocks):
            projections.append(Chain(clock.vector, _projection(work, layer, blocks[number], number)))
            pipeline.chains.append(projections[-1])

    def finish(section: tuple[int, int], block_first: int, number: int) -> None:
        first, count = section
        size = EDGE if number + 1 == len(blocks) else SECTION
        for at in range(first, first + count, size):
            part = min(size, first + count - at)
            ready = _output(work, layer, at, part, block_first, number)
            pipeline.chains.append(Chain(ready, route(at, part)))

    for number in range(AHEAD):
        project_block(number)
    for number, pieces in enumerate(blocks):
        pipeline.finish(projections[number])
        pipeline.close(open_jobs[number - 2] if number >= 2 else ())  # their contexts' place is used again
        project_block(number + AHEAD)
        first = pieces[0].first
        for piece in pieces:
            run = _decode if len(piece.chunk.tokens) == 1 else _prefill
            for end in run(pipeline, piece, pieces[0].first, number):
                if end - first >= SECTION or (piece is pieces[-1] and end == piece.first + piece.count):
                    pipeline.after(partial(finish, (first, end - first), pieces[0].first, number))
                    first = end
        open_jobs.append(pipeline.open_jobs())
    pipeline.flush()


def _job_count(work: Work, piece: Piece) -> int:
    """Return the softmax pieces that a piece's jobs make."""
    shape, size = work.shape, work.chip.size
    blocks = -(-(piece.position + piece.count) // size.key_block)
    if len(piece.chunk.tokens) == 1:
        return shape.kv_heads * blocks
    return shape.heads * -(-piece.count // size.job_tokens) * blocks


def _projection(work: Work, layer: int, pieces: Sequence[Piece], number: int) -> Iterator[int]:
    """Emit norm and projection, rotation and append of keys, rotation of queries of a block, some tokens at a time.

    Yields the cycle in which the next step can begin. Short steps let the vector unit work on some tokens while the
    array projects others.
    """
    chip, shape, emit = work.chip, work.shape, work.emitter
    rows, words = chip.rows["attention"], chip.words["attention"]
    first, total = pieces[0].first, sum(p.count for p in pieces)
    x = words["x"] + first * shape.hidden_words
    place = number % copies(chip.size.tokens, chip.block) * chip.block
    qkv = rows["qkv"] + place * shape.projected_rows
    rope = rows["rope"] + first * shape.rope_rows
    query = words["query"] + place * shape.query_words
    scalar = chip.scalars["attention"]["norm"] + place
    keys = qkv + shape.query_rows
    size = EDGE if number == 0 else SECTION
    sections = [(at, min(size, total - at)) for at in range(0, total, size)]

    def rotation(at: int, count: int) -> dict[str, int]:
        return {
            "op": VectorOp.ROTATE, "vectors": count, "a_stride": shape.projected_rows,
            "b_base": rope + at * shape.rope_rows, "b_stride": shape.rope_rows, "b_rows": shape.head_rows,
            "shift": ROTATE_SHIFT, "bits": VectorBits.BITS8,
        }  # fmt: skip

    ready = []
    for at, count in sections:
        lower_norm(
            work, "norm 1", work.model.layers[layer].attention_norm, row=(first + at) * shape.hidden_rows,
            stride=shape.hidden_rows, count=count, scalar=scalar + at, word=x + at * shape.hidden_words, tiers=1,
        )  # fmt: skip
        ready.append(
            project(
                work, "qkv", layer, tokens=count, act=x + at * shape.hidden_words, dest_kind=Dest.COMBINE,
                dest_base=qkv + at * shape.projected_rows, dest_stride=shape.projected_rows,
            )
        )  # fmt: skip
        yield emit.clock.vector if len(ready) < len(sections) else ready[0]
    for there, (at, count) in zip([*ready[1:], 0], sections, strict=True):
        own = keys + at * shape.projected_rows
        emit.vector(
            "rotate k", **rotation(at, count), rows=shape.key_rows, a_base=own, dest_kind=VectorDest.ROWS,
            dest_base=own, dest_stride=shape.projected_rows,
        )  # fmt: skip
        yield there
    done = 0
    for piece in pieces:
        _append(work, layer, piece, keys + done * shape.projected_rows)
        done += piece.count
    for at, count in sections:
        emit.vector(
            "rotate q", **rotation(at, count), rows=shape.query_rows, a_base=qkv + at * shape.projected_rows,
            dest_kind=VectorDest.ACTIVATION, dest_tiers=work.every_tier, dest_base=query + at * shape.query_words,
            dest_stride=shape.query_words,
        )  # fmt: skip
        yield emit.clock.vector


def append_cycles(shape: ModelShape, pieces: Sequence[Piece]) -> int:
    """Return about how many cycles the stores take that append some pieces' keys and values to the cache."""
    stores = sum(2 * shape.kv_heads * (1 if piece.count == 1 else shape.head_rows) for piece in pieces)
    rows = sum(2 * shape.kv_heads * shape.head_rows * piece.count for piece in pieces)
    return stores * STORE_SETUP + rows


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


def _decode(pipeline: JobPipeline, piece: Piece, block_first: int, number: int) -> Iterator[int]:
    """Run a decoded token's jobs, the query heads of one key/value head together; yield the token after it."""
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
                vectors=shape.group, query=_query_words(work, number) + words, query_stride=shape.head_words,
                context=_context_rows(work, number) + rows, context_stride=shape.head_rows,
                output=_context_words(work, number) + words, output_stride=shape.head_words,
                position=piece.position, step=0,
            )
        )  # fmt: skip
        if len(jobs) == pipeline.group or head + 1 == shape.kv_heads or work.key_slots == 1:
            pipeline.run(jobs)
            jobs = []
    yield piece.first + 1


def _prefill(pipeline: JobPipeline, piece: Piece, block_first: int, number: int) -> Iterator[int]:
    """Run the jobs of several tokens of a sequence: some consecutive tokens and one query head each.

    Yields, whenever all heads of some tokens were run, the token after them.
    """
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
    for done in range(0, piece.count, work.chip.size.job_tokens):
        at = piece.first - block_first + done
        jobs = []
        for head in range(shape.heads):
            tiles = pipeline.cached[head // shape.group]
            words = at * shape.query_words + head * shape.head_words
            jobs.append(
                Job(
                    name=f"sequence {slot} head {head}", tier=tiles.tiers[head % shape.group % len(tiles.tiers)],
                    head=head // shape.group, tiles=tiles, vectors=min(work.chip.size.job_tokens, piece.count - done),
                    query=_query_words(work, number) + words, query_stride=shape.query_words,
                    context=_context_rows(work, number) + at * shape.query_rows + head * shape.head_rows,
                    context_stride=shape.query_rows, output=_context_words(work, number) + words,
                    output_stride=shape.query_words, position=piece.position + done, step=1,
                )
            )  # fmt: skip
        for some in range(0, len(jobs), pipeline.group):
            pipeline.run(jobs[some : some + pipeline.group])
        yield min(piece.first + done + work.chip.size.job_tokens, piece.first + piece.count)


def _query_words(work: Work, number: int) -> int:
    """Return the first word of a block's queries, heads * head_dim bytes a token."""
    place = number % copies(work.chip.size.tokens, work.chip.block)
    return work.chip.words["attention"]["query"] + place * work.chip.block * work.shape.query_words


def _context_words(work: Work, number: int) -> int:
    """Return the first word of a block's contexts."""
    return work.chip.words["attention"]["context"] + number % 2 * work.chip.block * work.shape.query_words


def _context_rows(work: Work, number: int) -> int:
    """Return the first row of a block's contexts before they are divided."""
    return work.chip.rows["attention"]["context"] + number % 2 * work.chip.block * work.shape.query_rows


def _output(work: Work, layer: int, first: int, count: int, block_first: int, number: int) -> int:
    """Emit the output projection of some tokens of a block, added to the residual; return when it is complete."""
    shape = work.shape
    return project(
        work, "output", layer, tokens=count,
        act=_context_words(work, number) + (first - block_first) * shape.query_words, dest_kind=Dest.COMBINE,
        dest_base=first * shape.hidden_rows, dest_list=1, accumulate=1,
    )  # fmt: skip
