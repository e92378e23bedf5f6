# SPDX-License-Identifier: Apache-2.0
"""Attention of one layer: projections, rotation, append to the cache, scores, online softmax, context, output.

Tokens go through in blocks. Of each block, jobs of one tier each compute the attention of some queries (some tokens of
one head, or a decoded token's grouped heads) in blocks of keys. The next block's projection comes between this block's
jobs, and this block's output projection, norm and router between the next block's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from hdl.isa import Dest, Format
from scheduler.models.description import LatentAttention
from scheduler.ops.batch import Piece
from scheduler.plan.places import AHEAD
from scheduler.stream.emit.dense import Dense, Group
from scheduler.stream.emit.jobs import Chain, Held, Job, JobPipeline, KeyTiles
from scheduler.stream.emit.latent import expand_contexts, project_latent
from scheduler.stream.emit.project import Appends, BlockPlace, project_block
from scheduler.stream.emit.work import Work

__all__ = ["emit_attention"]

SECTION = 16
"""Tokens of a block that norms, resident matrices and rotations take at a time."""
APPENDED = 2
"""Sequences whose keys are appended before those of others are attended to."""
EDGE = 4
"""The same in the first and the last block, where the array and the vector unit wait for one another."""


def emit_attention(
    work: Work, dense: Dense, layer: int, blocks: Sequence[Sequence[Piece]], route: Callable[[int, int], Iterator[int]]
) -> None:
    """Emit the attention of a layer: residual rows in, residual rows out.

    Parameters
    ----------
    work : Work
        What a step's emission shares.
    dense : Dense
        Dense matrices.
    layer : int
        Layer number.
    blocks : sequence of sequences of Piece
        The step's tokens, block by block.
    route : callable
        ``route(first, count)`` emits what follows for some tokens whose residual is complete, as the steps of a chain.
    """
    _Attention(work, dense, layer, blocks, route).run()


class _Pieces:
    """Keys and values of one head that come onto a tier piece by piece, the next one ahead of its use."""

    def __init__(self, pipeline: JobPipeline, sequence: int, head: int, tier: int, span: tuple[int, int]) -> None:
        self._pipeline = pipeline
        self._what = (sequence, head)
        self._tier = tier
        self._start, self._end = span
        self._known: dict[int, KeyTiles] = {}

    def tiles(self, first: int) -> KeyTiles:
        """Return the place of the piece that a block of keys lies in."""
        work = self._pipeline.work
        size = work.places.key_piece
        number = (first - self._start) // size
        found = self._load(number)
        if work.key_buffers > 1 and self._start + (number + 1) * size < self._end:
            self._load(number + 1)
        return found

    def _load(self, number: int) -> KeyTiles:
        if number not in self._known:
            work, (sequence, head) = self._pipeline.work, self._what
            first = self._start + number * work.places.key_piece
            end = min(self._end, first + work.places.key_piece)
            base = work.key_buffer((self._tier,))
            self._pipeline.make_room((self._tier,), base)
            values = base + work.tiling.key_tiles(self._pipeline.heads, end - first)
            tiles = KeyTiles((self._tier,), base, values, work.next_tag(), first)
            load_keys(self._pipeline, sequence, head, tiles, first, end)
            self._known = {n: t for n, t in self._known.items() if n >= number - 1}
            self._known[number] = tiles
        return self._known[number]


def load_keys(pipeline: JobPipeline, sequence: int, head: int, tiles: KeyTiles, first: int, end: int) -> None:
    """Load the keys and values from `first`, a whole alignment, up to `end` - 1 and to the end of its alignment."""
    work, heads, tiling = pipeline.work, pipeline.heads, pipeline.work.tiling
    mask = sum(1 << tier for tier in tiles.tiers)
    for what, form, base, count in (
        ("keys", Format.COLUMNS, tiles.keys, tiling.key_tiles),
        ("values", Format.BYTES, tiles.values, tiling.value_tiles),
    ):  # fmt: skip
        area = work.memory.cache(pipeline.layer, sequence, head, what)
        before = count(heads, first)
        work.emitter.load(
            f"{what} of sequence {sequence} head {head}", format=form, group=area.group, dest_tiers=mask,
            dest_base=base + before - count(heads, tiles.first), count=count(heads, end) - before, tag=tiles.tag,
            addr=(area.address + before * work.config.tile_bytes) // 32,
        )  # fmt: skip


class _Attention:
    """Attention of a layer while it is emitted."""

    def __init__(
        self,
        work: Work,
        dense: Dense,
        layer: int,
        blocks: Sequence[Sequence[Piece]],
        route: Callable[[int, int], Iterator[int]],
    ) -> None:
        self.work = work
        self.dense = dense
        self.layer = layer
        self.blocks = blocks
        self.route = route
        self.heads = work.heads(layer)
        self.latent = isinstance(work.layer(layer).attention, LatentAttention)
        jobs = sum(self._job_count(piece) for pieces in blocks for piece in pieces)
        self.pipeline = JobPipeline(work, dense, layer, jobs)
        self.projections: list[Chain] = []
        self._places: dict[int, BlockPlace] = {}
        self.appends = Appends(work, layer)
        resident = work.residence.resident
        copies = work.places.copies  # what is projected ahead must not overwrite what is attended to
        self.ahead = min(AHEAD, len(blocks) if copies >= len(blocks) else copies - 1)
        self.section = SECTION if resident else work.places.block
        self.edge = EDGE if resident else work.places.block

    def place(self, number: int) -> BlockPlace:
        """Return where a block's rows, words and scalars lie."""
        if number not in self._places:
            self._places[number] = self._place(number)
        return self._places[number]

    def _place(self, number: int) -> BlockPlace:
        places, heads = self.work.places, self.heads
        own = number % places.copies
        contexts = min(2, places.copies)
        rows, words = places.rows["attention"], places.words["attention"]
        # Each layer uses its own strides within a region that is large enough for all.
        return BlockPlace(
            first=self.blocks[number][0].first,
            tokens=sum(piece.count for piece in self.blocks[number]),
            rows=rows["qkv"] + own * (rows.sizes["qkv"] // places.copies),
            query=words["query"] + own * places.block * heads.query_words,
            latent=words["latent"] + own * (words.sizes["latent"] // places.copies) if self.latent else 0,
            scalar=places.scalars["attention"]["norm"] + own * places.block,
            context_rows=rows["context"] + number % contexts * places.block * heads.context_rows,
            context_words=words["context"] + number % contexts * places.block * heads.context_words,
            section=self.edge if number == 0 else self.section,
        )  # fmt: skip

    def run(self) -> None:
        """Emit everything."""
        work, pipeline, clock = self.work, self.pipeline, self.work.emitter.clock
        clock.wait(max(clock.tiers))  # the layer before is complete
        open_jobs: list[frozenset[Job]] = []
        for number in range(self.ahead):
            self._project(number)
        contexts = min(2, work.places.copies)
        for number, pieces in enumerate(self.blocks):
            if not self.ahead:
                pipeline.flush()
                self._project(number)
            pipeline.finish(self.projections[number])
            pipeline.close(open_jobs[number - contexts] if number >= contexts else ())  # their place is used again
            if self.ahead:
                self._project(number + self.ahead)
            first = pieces[0].first
            for place, piece in enumerate(pieces):
                self.appends.emit(pieces[min(place + APPENDED, len(pieces) - 1)].first)
                run = self._decode if len(piece.chunk.tokens) == 1 else self._prefill
                for end in run(piece, number):
                    if end - first >= self.section or (piece is pieces[-1] and end == piece.first + piece.count):
                        pipeline.after(partial(self._finish, (first, end - first), number))
                        first = end
            open_jobs.append(pipeline.open_jobs())
        pipeline.flush()

    def _project(self, number: int) -> None:
        if number < len(self.blocks):
            project = project_latent if self.latent else project_block
            steps = project(self.work, self.dense, self.layer, self.blocks[number], self.place(number), self.appends)
            self.projections.append(Chain(self.work.emitter.clock.vector, steps))
            self.pipeline.chains.append(self.projections[-1])

    def _finish(self, section: tuple[int, int], number: int) -> None:
        first, count = section
        size = self.edge if number + 1 == len(self.blocks) else self.section
        for at in range(first, first + count, size):
            part = min(size, first + count - at)
            ready = self._output(at, part, number)
            self.pipeline.chains.append(Chain(ready, self.route(at, part)))

    def _output(self, first: int, count: int, number: int) -> int:
        """Emit the output projection of some tokens, added to the residual; return when it is complete."""
        work, place, heads = self.work, self.place(number), self.heads
        act, stride = place.context_words + (first - place.first) * heads.context_words, heads.context_words
        if self.latent:
            act, stride = expand_contexts(work, self.dense, self.layer, place, first - place.first, count)
        return self.dense.project(
            self.layer, "output", [Group(count, act, first * work.tiling.hidden_rows)], act_stride=stride,
            shift=work.constants_of(self.layer).shifts["output"],
            dest_kind=Dest.COMBINE, dest_list=1, accumulate=1,
        )  # fmt: skip

    # Jobs.

    def _start(self, position: int) -> int:
        """Return the first key that a query looks at, a whole alignment."""
        align, window = self.work.tiling.key_alignment, self.heads.window
        return 0 if window is None else max(0, position + 1 - window) // align * align

    def _job_count(self, piece: Piece) -> int:
        """Return the softmax pieces that a piece's jobs make."""
        places, heads = self.work.places, self.heads
        keys = piece.position + piece.count - self._start(piece.position)
        blocks = -(-keys // places.size.key_block)
        if len(piece.chunk.tokens) == 1:
            return heads.kv_heads * -(-heads.group // places.job_vectors) * blocks
        return heads.heads * -(-piece.count // places.job_vectors) * blocks

    def _job(self, number: int, at: int, query_head: int, **own: object) -> Job:
        """Return a job whose first query is that of a query head of the block's token `at`."""
        place, heads = self.place(number), self.heads
        return Job(
            query=place.query + at * heads.query_words + query_head * heads.key_words,
            context=place.context_rows + at * heads.context_rows + query_head * heads.value_rows,
            output=place.context_words + at * heads.context_words + query_head * heads.value_words,
            output_tiers=self.work.every_tier if self.latent else 1,
            **own,  # type: ignore[arg-type]
        )

    def _decode(self, piece: Piece, number: int) -> Iterator[int]:
        """Run a decoded token's jobs, query heads of one key/value head together; yield the token after it."""
        work, heads, pipeline = self.work, self.heads, self.pipeline
        at = piece.first - self.blocks[number][0].first
        start, end = self._start(piece.position), piece.position + 1
        size = min(work.places.job_vectors, heads.group)
        parts = [(head, first) for head in range(heads.kv_heads) for first in range(0, heads.group, size)]
        jobs = []
        for count, (head, first) in enumerate(parts, 1):
            source = _Pieces(pipeline, piece.chunk.sequence, head, work.next_tier(), (start, end))
            tier = source._tier
            source.tiles(start)
            jobs.append(
                self._job(
                    number, at, head * heads.group + first, name=f"sequence {piece.chunk.sequence} head {head}",
                    tier=tier, head=head, source=source, vectors=min(size, heads.group - first),
                    query_stride=heads.key_words, context_stride=heads.value_rows,
                    output_stride=heads.value_words, position=piece.position, step=0, start=start,
                )
            )  # fmt: skip
            if len(jobs) == pipeline.group or count == len(parts) or work.key_buffers == 1:
                pipeline.run(jobs)
                jobs = []
        yield piece.first + 1

    def _prefill(self, piece: Piece, number: int) -> Iterator[int]:
        """Run the jobs of several tokens of a sequence: some consecutive tokens and one query head each.

        Yields, whenever all heads of some tokens were run, the token after them.
        """
        work, heads, pipeline = self.work, self.heads, self.pipeline
        size = work.places.job_vectors
        held = self._hold(piece)
        for done in range(0, piece.count, size):
            at = piece.first - self.blocks[number][0].first + done
            position, count = piece.position + done, min(size, piece.count - done)
            jobs = []
            for head in range(heads.heads):
                own = head // heads.group
                if held:
                    tiles = pipeline.cached[own]
                    tier, source = tiles.tiers[head % heads.group % len(tiles.tiers)], Held(tiles)
                    start = max(tiles.first, self._start(position))
                else:
                    tier, start = work.next_tier(), self._start(position)
                    source = _Pieces(pipeline, piece.chunk.sequence, own, tier, (start, position + count))  # type: ignore[assignment]
                    source.tiles(start)
                jobs.append(
                    self._job(
                        number, at, head, name=f"sequence {piece.chunk.sequence} head {head}", tier=tier, head=own,
                        source=source, vectors=count, query_stride=heads.query_words,
                        context_stride=heads.context_rows, output_stride=heads.context_words, position=position,
                        step=1, start=start,
                    )
                )  # fmt: skip
                if len(jobs) == pipeline.group or head + 1 == heads.heads or (not held and work.key_buffers == 1):
                    pipeline.run(jobs)
                    jobs = []
            yield min(piece.first + done + size, piece.first + piece.count)

    def _hold(self, piece: Piece) -> bool:
        """Bring a sequence's keys and values onto the chip for all its jobs, if they fit; return whether they do."""
        work, heads, pipeline, tiling = self.work, self.heads, self.pipeline, self.work.tiling
        sequence, align, chunk = piece.chunk.sequence, tiling.key_alignment, piece.chunk
        start = self._start(chunk.position)
        each = -(-heads.kv_heads // work.config.tiers)
        if chunk.end - start > work.places.key_piece or each > work.key_buffers:
            return False
        begins = piece.position == chunk.position
        if begins:
            pipeline.settle()
            pipeline.cached.clear()
            for head in range(heads.kv_heads):
                tiers = work.tiers_of(self.layer, head)
                base = work.key_buffer(tiers)
                values = base + tiling.key_tiles(heads, chunk.end - start)
                pipeline.cached[head] = KeyTiles(tiers, base, values, work.next_tag(), start)
        # Whole alignments; what earlier blocks have loaded of the first is loaded again.
        first = start if begins else piece.position // align * align
        if not begins and first < piece.position:
            pipeline.settle()
        for head, tiles in pipeline.cached.items():
            load_keys(pipeline, sequence, head, tiles, first, piece.position + piece.count)
        return True
