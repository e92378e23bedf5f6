# SPDX-License-Identifier: Apache-2.0
"""Attention of one layer: projections, rotation, append to the cache, scores, online softmax, context, output.

Tokens go through in blocks. Of each block, jobs of one tier each compute the attention of some queries (some tokens of
one head, or a decoded token's grouped heads) in blocks of keys. Decoded tokens whose sequences have a prefix in common
attend to it together, and then each to its own keys. The next block's projection comes between this block's jobs, and
this block's output projection, norm and router between the next block's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from hdl.isa import Dest, Format
from scheduler.models.description import LatentAttention
from scheduler.ops.batch import Chunk, Piece
from scheduler.plan.places import AHEAD
from scheduler.stream.emit.dense import Dense, Group
from scheduler.stream.emit.job_table import JOB, NEVER, PIECE, TURN, Int64
from scheduler.stream.emit.jobs import Beside, Chain, JobPipeline, Span
from scheduler.stream.emit.labels import HEAD_MARK, job_mark
from scheduler.stream.emit.latent import expand_contexts, project_latent
from scheduler.stream.emit.project import Appends, BlockPlace, project_block
from scheduler.stream.emit.work import Work

__all__ = ["Attention", "Segment", "emit_attention"]

SECTION = 16
"""Tokens of a block that norms, resident matrices and rotations take at a time."""
APPENDED = 2
"""Sequences whose keys are appended before those of others are attended to."""
EDGE = 4
"""The same in the first and the last block, where the array and the vector unit wait for one another."""


def emit_attention(
    work: Work, dense: Dense, segments: Sequence[Segment], loads: Beside | None = None
) -> None:  # fmt: skip
    """Emit the attention of some segments one after the other: residual rows in, residual rows out.

    Parameters
    ----------
    work : Work
        What a step's emission shares.
    dense : Dense
        Dense matrices.
    segments : sequence of Segment
        Layers whose heads have the same sizes.
    loads : Beside, optional
        Loads of weights that go on beside all of it, and behind it.
    """
    Attention(work, dense, segments, loads).run()


class Segment:
    """The attention of some tokens in a layer.

    Parameters
    ----------
    layer : int
        Layer number.
    blocks : sequence of sequences of Piece
        The tokens, block by block.
    route : callable
        ``route(first, count)`` emits what follows for some tokens whose residual is complete, as the steps of a chain.
    start : callable, optional
        ``start()`` returns the cycle in which the residual is complete, `NEVER` as long as it is not known; default:
        it is.
    begin : callable, optional
        ``begin()`` emits what comes before the first job.
    finish : callable, optional
        ``finish()`` emits what follows when all tokens are routed, as the steps of a chain.
    """

    def __init__(
        self, layer: int, blocks: Sequence[Sequence[Piece]], route: Callable[[int, int], Iterator[int]],
        start: Callable[[], int] | None = None, begin: Callable[[], None] | None = None,
        finish: Callable[[], Iterator[int]] | None = None,
    ) -> None:  # fmt: skip
        self.layer = layer
        self.blocks = blocks
        self.start = start
        self.finish = finish
        self.begin = begin
        self._route = route
        self._left = sum(piece.count for pieces in blocks for piece in pieces)

    def route(self, first: int, count: int) -> Iterator[int]:
        """Emit what follows for some tokens."""
        yield from self._route(first, count)
        self._left -= count

    def routed(self) -> int:
        """Return 0 when all tokens are routed, `NEVER` before."""
        return NEVER if self._left else 0


@dataclass
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
    first : int
        Key that the first tile begins with.
    ready : int
        Cycle in which the keys are expected.
    """

    tiers: tuple[int, ...]
    keys: int
    values: int
    tag: int
    first: int
    ready: int = 0


def load_keys(work: Work, layer: int, chunk: Chunk, head: int, tiles: KeyTiles, first: int, end: int) -> int:
    """Load the keys and values from `first`, a whole alignment, up to `end` - 1 and to the end of its alignment.

    Those of a prefix come from the place of its own sequence.

    Returns
    -------
    int
        The cycle in which they are expected.
    """
    heads, tiling = work.heads(layer), work.tiling
    mask, ready = sum(1 << tier for tier in tiles.tiers), 0
    for what, form, base, count in (
        ("keys", Format.COLUMNS, tiles.keys, tiling.key_tiles),
        ("values", Format.BYTES, tiles.values, tiling.value_tiles),
    ):  # fmt: skip
        for sequence, begin, stop in _places_of(chunk, first, end):
            area = work.memory.cache(layer, sequence, head, what)
            before = count(heads, begin)
            ready = work.emitter.load(
                f"{what} of sequence {sequence} head {head}", format=form, group=area.group, dest_tiers=mask,
                dest_base=base + before - count(heads, tiles.first), count=count(heads, stop) - before, tag=tiles.tag,
                addr=(area.address + before * work.config.tile_bytes) // 32,
            )  # fmt: skip
    return ready


def _places_of(chunk: Chunk, first: int, end: int) -> list[tuple[int, int, int]]:
    """Return the places of a sequence's keys from `first` to `end` - 1: sequence, first key, the one after the last."""
    if chunk.prefix is None or first >= chunk.prefix.tokens:
        return [(chunk.sequence, first, end)]
    border = min(chunk.prefix.tokens, end)
    common = [(chunk.prefix.sequence, first, border)]
    return [*common, (chunk.sequence, border, end)] if border < end else common


class Attention:
    """Attention of a layer while it is emitted."""

    def __init__(
        self,
        work: Work,
        dense: Dense,
        segments: Sequence[Segment],
        loads: Beside | None,
    ) -> None:
        self.work = work
        self.dense = dense
        self.segments = segments
        self.layer = segments[0].layer
        self.blocks = [pieces for segment in segments for pieces in segment.blocks]
        self._segment_of = [segment for segment in segments for _ in segment.blocks]
        self.heads = work.heads(self.layer)
        self.latent = isinstance(work.layer(self.layer).attention, LatentAttention)
        self.prefixes = work.places.size.sharing > 0 and self.heads.window is None
        counts = [
            count for pieces in self.blocks for run in self._runs(pieces) for count in self._counts_of(run)
        ]  # fmt: skip
        self.pipeline = JobPipeline(
            work, dense, self.layer, sum(jobs for jobs, _ in counts), sum(n for _, n in counts), loads
        )
        self.cached: list[KeyTiles] = []  # of the sequence that is prefilled, by head
        self._held: list[int] = []
        kv_heads = np.arange(self.heads.kv_heads)
        self._kv_of_head = np.repeat(kv_heads, self.heads.group)
        size = min(work.places.job_vectors, self.heads.group)
        self._firsts = np.array([h * self.heads.group + f for h in kv_heads for f in range(0, self.heads.group, size)])
        self.projections: list[Chain] = []
        self._places: dict[int, BlockPlace] = {}
        self._appends = {id(segment): Appends(work, segment.layer) for segment in segments}
        resident = work.residence.resident
        copies = work.places.copies  # what is projected ahead must not overwrite what is attended to
        self.ahead = min(AHEAD, len(self.blocks) if copies >= len(self.blocks) else copies - 1)
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
            section=self.edge if self._begins(number) else self.section,
            runs=tuple(
                (run[0].first - self.blocks[number][0].first, len(run))
                for run in self._runs(self.blocks[number])
                if len(run) > 1
            ),
        )  # fmt: skip

    def _begins(self, number: int) -> bool:
        """Return whether a block is the first of its segment."""
        return number == 0 or self._segment_of[number - 1] is not self._segment_of[number]

    def run(self) -> None:
        """Emit everything."""
        work, pipeline = self.work, self.pipeline
        jobs_of: list[int] = []
        for number in range(self.ahead):
            self._project(number)
        contexts = min(2, work.places.copies)
        for number, pieces in enumerate(self.blocks):
            segment = self._segment_of[number]
            self.layer, appends = segment.layer, self._appends[id(segment)]
            pipeline.layer(self.layer)
            if self._begins(number) and segment.begin is not None:
                segment.begin()
            if not self.ahead:
                pipeline.flush()
                self._project(number)
            pipeline.finish(self.projections[number])
            pipeline.close(jobs_of[number - contexts] if number >= contexts else 0)  # their place is used again
            if self.ahead:
                self._project(number + self.ahead)
            first, place = pieces[0].first, 0
            for together in self._runs(pieces):
                if len(together) > 1:
                    self._attend_prefix(together, number)
                for piece in together:
                    appends.emit(pieces[min(place + APPENDED, len(pieces) - 1)].first)
                    place += 1
                    emit = self._decode if len(piece.chunk.tokens) == 1 else self._prefill
                    for end in emit(piece, number, together):
                        if end - first >= self.section or (piece is pieces[-1] and end == piece.first + piece.count):
                            pipeline.after(partial(self._finish, (first, end - first), number))
                            first = end
            jobs_of.append(pipeline.jobs)
        pipeline.flush()

    def _project(self, number: int) -> None:
        if number < len(self.blocks):
            project, segment = project_latent if self.latent else project_block, self._segment_of[number]
            steps = project(
                self.work, self.dense, segment.layer, self.blocks[number], self.place(number),
                self._appends[id(segment)],
            )  # fmt: skip
            self.projections.append(Chain(self.work.emitter, segment.layer, steps, start=segment.start))
            self.pipeline.add(self.projections[-1])

    def _finish(self, section: tuple[int, int], number: int) -> None:
        first, count = section
        segment, emitter = self._segment_of[number], self.work.emitter
        last = number + 1 == len(self.blocks) or self._begins(number + 1)
        size = self.edge if last else self.section
        for at in range(first, first + count, size):
            part = min(size, first + count - at)
            before, emitter.layer = emitter.layer, segment.layer
            ready = self._output(at, part, number)
            emitter.layer = before
            self.pipeline.add(Chain(emitter, segment.layer, segment.route(at, part), ready))
        tokens = self.blocks[number][-1]
        if last and first + count == tokens.first + tokens.count and segment.finish is not None:
            self.pipeline.add(Chain(emitter, segment.layer, segment.finish(), start=segment.routed))

    def _output(self, first: int, count: int, number: int) -> int:
        """Emit the output projection of some tokens, added to the residual; return when it is complete."""
        work, place, heads, layer = self.work, self.place(number), self.heads, self._segment_of[number].layer
        act, stride = place.context_words + (first - place.first) * heads.context_words, heads.context_words
        if self.latent:
            act, stride = expand_contexts(work, self.dense, layer, place, first - place.first, count)
        return self.dense.project(
            layer, "output", [Group(count, act, first * work.tiling.hidden_rows)], act_stride=stride,
            shift=work.constants_of(layer).shifts["output"],
            dest_kind=Dest.COMBINE, dest_list=1, accumulate=1,
        )  # fmt: skip

    # Jobs.

    def _start(self, position: int) -> int:
        """Return the first key that a query looks at, a whole alignment."""
        align, window = self.work.tiling.key_alignment, self.heads.window
        return 0 if window is None else max(0, position + 1 - window) // align * align

    def _counts(self, piece: Piece) -> tuple[int, int]:
        """Return a piece's jobs, and the blocks of keys that they have together."""
        places, heads = self.work.places, self.heads
        keys = piece.position + piece.count - self._start(piece.position)
        blocks = -(-keys // places.size.key_block)
        if len(piece.chunk.tokens) == 1:
            jobs = heads.kv_heads * -(-heads.group // places.job_vectors)
        else:
            jobs = heads.heads * -(-piece.count // places.job_vectors)
        return jobs, jobs * blocks

    def _counts_of(self, run: Sequence[Piece]) -> Iterator[tuple[int, int]]:
        """Yield the same of decoded tokens that attend to a prefix together, or of a piece alone."""
        if len(run) > 1:
            keys, many = self._common(run[0]), len(run) * self.heads.group
            jobs = self.heads.kv_heads * -(-many // self.work.places.job_vectors)
            yield len(self._prefix_parts(keys, jobs)) * jobs, jobs * (keys // self.work.places.size.key_block)
        for piece in run:
            yield self._counts(piece)

    def _runs(self, pieces: Sequence[Piece]) -> list[list[Piece]]:
        """Return a block's pieces, those together that attend to a prefix together."""
        runs: list[list[Piece]] = []
        for piece in pieces:
            together = self.prefixes and len(piece.chunk.tokens) == 1 and self._common(piece) > 0
            prefix = piece.chunk.prefix if together else None
            last = runs[-1][-1].chunk if runs else None
            if prefix is not None and last is not None and last.prefix == prefix and len(last.tokens) == 1:
                runs[-1].append(piece)
            else:
                runs.append([piece])
        return runs

    def _common(self, piece: Piece) -> int:
        """Return the keys of a piece's prefix that are whole blocks: those that sequences can attend to together."""
        block, prefix = self.work.places.size.key_block, piece.chunk.prefix
        return 0 if prefix is None else prefix.tokens // block * block

    def _jobs(self, number: int, at: int, chunk: Chunk, query_heads: Int64) -> Int64:
        """Return jobs whose first query is each that of a query head of the block's token `at`."""
        place, heads, sequence = self.place(number), self.heads, chunk.sequence
        jobs = self.pipeline.rows_of_heads(self._kv_of_head[query_heads])
        jobs[:, JOB.query] = place.query + at * heads.query_words + query_heads * heads.key_words
        jobs[:, JOB.context] = place.context_rows + at * heads.context_rows + query_heads * heads.value_rows
        jobs[:, JOB.output] = place.context_words + at * heads.context_words + query_heads * heads.value_words
        jobs[:, JOB.output_tiers] = self.work.every_tier if self.latent else 1
        own = query_heads // heads.group
        jobs[:, JOB.group : JOB.values + 1] = self.work.memory.caches(self.layer, sequence)[own]
        if chunk.prefix is not None:
            common = self.work.memory.caches(self.layer, chunk.prefix.sequence)[own]
            jobs[:, JOB.prefix_group : JOB.prefix_values + 1] = common
        jobs[:, JOB.key_mark] = job_mark(self.layer, sequence, 0) + own * HEAD_MARK
        return jobs

    def _prefix_parts(self, keys: int, jobs: int) -> list[tuple[int, int, bool]]:
        """Return first key, the one after the last and whether all jobs of a head find them on the chip.

        Several jobs of a head that each load the keys would read them several times.
        """
        heads, places = self.heads, self.work.places
        each = -(-heads.kv_heads // self.work.config.tiers)
        if jobs == heads.kv_heads or each > self.work.key_buffers:
            return [(0, keys, False)]
        piece = places.key_piece // places.size.key_block * places.size.key_block
        if not piece:
            return [(0, keys, False)]
        return [(first, min(first + piece, keys), True) for first in range(0, keys, piece)]

    def _attend_prefix(self, run: Sequence[Piece], number: int) -> None:
        """Run the jobs of decoded tokens over the prefix that their sequences have in common, all tokens together.

        Queries and contexts of a key/value head lie one behind the other, token by token.
        """
        work, heads, pipeline = self.work, self.heads, self.pipeline
        keys, size, many = self._common(run[0]), work.places.job_vectors, len(run) * self.heads.group
        at = run[0].first - self.blocks[number][0].first
        firsts = np.arange(0, many, size)
        head, query = np.repeat(np.arange(heads.kv_heads), len(firsts)), np.tile(firsts, heads.kv_heads)
        prefix = run[0].chunk.prefix
        assert prefix is not None
        owner = Chunk(prefix.sequence, keys, ())
        for first, end, held in self._prefix_parts(keys, len(head)):
            jobs = self._jobs(number, at, owner, head * heads.group)
            self._order_queries(jobs, number, at, head, head * many + query, many)
            jobs[:, JOB.vectors] = np.minimum(size, many - query)
            jobs[:, JOB.position], jobs[:, JOB.mark], jobs[:, JOB.divided] = keys - 1, jobs[:, JOB.key_mark], 1
            if held:
                tiles = self._hold_prefix(owner, first, end)
                for number_of_job, own in enumerate(head.tolist()):
                    tiers = tiles[own].tiers
                    jobs[number_of_job, JOB.tier] = tiers[number_of_job % len(tiers)]
                    jobs[number_of_job, JOB.pieces : JOB.pieces + PIECE] = (
                        tiles[own].keys, tiles[own].values, tiles[own].tag, tiles[own].ready,
                    )  # fmt: skip
            else:
                jobs[:, JOB.tier] = work.next_tiers(len(jobs))
            pipeline.run(jobs, Span(first, end, first if held else None, begins=first == 0, ends=False))
        pipeline.settle()

    def _hold_prefix(self, owner: Chunk, first: int, end: int) -> list[KeyTiles]:
        """Bring keys and values of a prefix onto the chip for all jobs of each head."""
        work, found = self.work, []
        self.pipeline.settle()
        self.cached.clear()
        for head in range(self.heads.kv_heads):
            tiers = work.tiers_of(self.layer, head)
            base = work.key_buffer(tiers)
            tiles = KeyTiles(
                tiers, base, base + work.tiling.key_tiles(self.heads, end - first), work.next_tag(), first
            )  # fmt: skip
            tiles.ready = load_keys(work, self.layer, owner, head, tiles, first, end)
            found.append(tiles)
        return found

    def _order_queries(self, jobs: Int64, number: int, at: int, head: Int64, query: Int64, many: int) -> None:
        """Let jobs begin with some of the queries of a run that begins with the block's token `at`.

        Parameters
        ----------
        jobs : int64 array [jobs, columns]
        number, at : int
            Block, and its token.
        head, query : int64 arrays [jobs]
            Key/value head, and the query's number in the run, where each head has `many`, one behind the other.
        many : int
        """
        work, place, heads = self.work, self.place(number), self.heads
        scalars = work.places.scalars["attention"]["prefix"]
        scalars += (number % min(2, work.places.copies) * work.places.block + at) * 2 * heads.heads
        jobs[:, JOB.query] = place.query + at * heads.query_words + query * heads.key_words
        jobs[:, JOB.context] = place.context_rows + at * heads.context_rows + query * heads.value_rows
        jobs[:, JOB.query_stride], jobs[:, JOB.context_stride] = heads.key_words, heads.value_rows
        jobs[:, JOB.placed], jobs[:, JOB.scalar] = 1, scalars + query + head * many
        jobs[:, JOB.sums] = jobs[:, JOB.scalar] + many

    def _decode(self, piece: Piece, number: int, run: Sequence[Piece]) -> Iterator[int]:
        """Run a decoded token's jobs, query heads of one key/value head together; yield the token after it.

        In a `run` of several pieces the prefix has been attended to.
        """
        heads, size = self.heads, self.work.places.job_vectors
        jobs = self._jobs(number, piece.first - self.blocks[number][0].first, piece.chunk, self._firsts)
        jobs[:, JOB.tier] = self.work.next_tiers(len(jobs))
        jobs[:, JOB.vectors] = np.minimum(size, heads.group - self._firsts % heads.group)
        jobs[:, JOB.query_stride], jobs[:, JOB.context_stride] = heads.key_words, heads.value_rows
        jobs[:, JOB.output_stride], jobs[:, JOB.position] = heads.value_words, piece.position
        jobs[:, JOB.mark] = jobs[:, JOB.key_mark]
        prefix = 0 if piece.chunk.prefix is None else piece.chunk.prefix.tokens
        if len(run) > 1:
            at, own = run[0].first - self.blocks[number][0].first, piece.first - run[0].first
            head, many = self._kv_of_head[self._firsts], len(run) * heads.group
            query = head * many + own * heads.group + self._firsts % heads.group
            self._order_queries(jobs, number, at, head, query, many)
            self.pipeline.run(jobs, Span(self._common(piece), piece.position + 1, prefix=prefix, begins=False))
        else:
            self.pipeline.run(jobs, Span(self._start(piece.position), piece.position + 1, prefix=prefix))
        yield piece.first + 1

    def _prefill(self, piece: Piece, number: int, _: Sequence[Piece]) -> Iterator[int]:
        """Run the jobs of several tokens of a sequence: some consecutive tokens and one query head each.

        Yields, whenever all heads of some tokens were run, the token after them.
        """
        work, heads, sequence = self.work, self.heads, piece.chunk.sequence
        size, every = work.places.job_vectors, np.arange(self.heads.heads)
        held = self._hold(piece)
        for done in range(0, piece.count, size):
            position, count = piece.position + done, min(size, piece.count - done)
            jobs = self._jobs(number, piece.first - self.blocks[number][0].first + done, piece.chunk, every)
            start = self._start(position)
            if held:
                start = max(self.cached[0].first, start)
                for head in range(heads.heads):
                    tiles = self.cached[head // heads.group]
                    jobs[head, JOB.tier] = tiles.tiers[head % heads.group % len(tiles.tiers)]
                    jobs[head, JOB.pieces : JOB.pieces + PIECE] = tiles.keys, tiles.values, tiles.tag, tiles.ready
            else:
                jobs[:, JOB.tier] = work.next_tiers(len(jobs))
            jobs[:, JOB.vectors], jobs[:, JOB.position], jobs[:, JOB.step] = count, position, 1
            jobs[:, JOB.query_stride], jobs[:, JOB.context_stride] = heads.query_words, heads.context_rows
            jobs[:, JOB.output_stride] = heads.context_words
            jobs[:, JOB.mark] = job_mark(self.layer, sequence, 0) + every * HEAD_MARK
            prefix = 0 if piece.chunk.prefix is None else piece.chunk.prefix.tokens
            self.pipeline.run(jobs, Span(start, position + count, self.cached[0].first if held else None, prefix))
            yield min(piece.first + done + size, piece.first + piece.count)

    def _turns(self) -> list[int]:
        """Return how often each tier's places for keys were given away: in between, other jobs' keys may come there."""
        return [int(self.work.turns[TURN.buffers + tier]) for tier in range(self.work.config.tiers)]

    def _hold(self, piece: Piece) -> bool:
        """Bring a sequence's keys and values onto the chip for all its jobs, if they fit; return whether they do."""
        work, heads, pipeline, tiling = self.work, self.heads, self.pipeline, self.work.tiling
        align, chunk = tiling.key_alignment, piece.chunk
        start = self._start(chunk.position)
        each = -(-heads.kv_heads // work.config.tiers)
        if chunk.end - start > work.places.key_piece or each > work.key_buffers:
            return False
        begins = piece.position == chunk.position or self._held != self._turns()
        if begins:
            pipeline.settle()
            self.cached.clear()
            for head in range(heads.kv_heads):
                tiers = work.tiers_of(self.layer, head)
                base = work.key_buffer(tiers)
                values = base + tiling.key_tiles(heads, chunk.end - start)
                self.cached.append(KeyTiles(tiers, base, values, work.next_tag(), start))
            self._held = self._turns()
        # Whole alignments; what earlier blocks have loaded of the first is loaded again.
        first = start if begins else piece.position // align * align
        if not begins and first < piece.position:
            pipeline.settle()
        for head, tiles in enumerate(self.cached):
            tiles.ready = load_keys(work, self.layer, chunk, head, tiles, first, piece.position + piece.count)
        return True
