# SPDX-License-Identifier: Apache-2.0
"""Attention jobs: some queries of one head against its keys on one tier, software-pipelined over the vector unit.

The vector unit works in order, and so does each tier. A job's scores are computed while the unit works on earlier
jobs, and its context is divided by the softmax's sum some jobs later, so that neither waits for the other's latency.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Protocol

from hdl.isa import Dest, Mode, Opcode, Order, VectorBits, VectorDest, VectorFn, VectorOp, VectorSum, most_of
from scheduler.models.fixed_point import PROBABILITY_MULT, PROBABILITY_SHIFT
from scheduler.models.quantised_model import AttentionHead
from scheduler.plan.tiling import HeadTiling
from scheduler.stream.emit.dense import Dense
from scheduler.stream.emit.work import Work

__all__ = ["Chain", "Held", "Job", "JobPipeline", "KeySource", "KeyTiles"]

MOST_LENGTH = most_of(Opcode.VECTOR, "length") >> 1
"""Valid elements that an instruction can say, in a field with a sign. No vector is longer: all of it is valid then."""
MAXIMA = 3
"""Maxima that come before an exponential, on large arrays: it waits for its own, whose latency they fill."""
MOST_DELAY = 4
"""Jobs whose division waits behind the softmax of later ones."""


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
    first : int
        Key that the first tile begins with.
    """

    tiers: tuple[int, ...]
    keys: int
    values: int
    tag: int
    first: int = 0


class KeySource(Protocol):
    """Brings the keys and values of one head onto a tier."""

    def tiles(self, first: int) -> KeyTiles:
        """Return where the keys of the block that begins with key `first` lie; emit their loads if need be."""


@dataclass(frozen=True)
class Held:
    """Keys and values that are on the chip for all jobs of a head."""

    held: KeyTiles

    def tiles(self, first: int) -> KeyTiles:
        """Return where all keys lie."""
        return self.held


@dataclass(frozen=True)
class Job:
    """Attention of `vectors` queries over the keys of one head; addresses as instructions take them.

    Attributes
    ----------
    name : str
        For the timeline.
    tier, head : int
        Where it runs; key/value head.
    source : KeySource
        Its keys and values.
    vectors : int
        Queries.
    query, query_stride, output, output_stride : int
        Activation words of the queries and of the contexts.
    context, context_stride : int
        Combine rows of the contexts.
    position, step : int
        Position of the first query, and of the next one relative to it.
    start : int
        First key that is looked at, a whole alignment.
    output_tiers : int
        Mask of the tiers whose buffers get the contexts.
    """

    name: str
    tier: int
    head: int
    source: KeySource
    vectors: int
    query: int
    query_stride: int
    context: int
    context_stride: int
    output: int
    output_stride: int
    position: int
    step: int
    start: int = 0
    output_tiers: int = 1

    @property
    def keys(self) -> int:
        """Keys of the last query."""
        return self.position + (self.vectors - 1) * self.step + 1


@dataclass(frozen=True, eq=False)
class _Scores:
    """One job's block of keys, with the regions it uses."""

    job: Job
    tiles: KeyTiles
    first: int
    keys: int
    region: int
    words: int
    scalar: int

    @property
    def is_first(self) -> bool:
        return self.first == self.job.start

    @property
    def is_last(self) -> bool:
        return self.first + self.keys >= self.job.keys


class Chain:
    """Work that goes on beside the jobs: steps, each of which says when the next one can begin.

    Parameters
    ----------
    ready : int
        Cycle in which the first step can begin.
    steps : iterator of int
        Emits a step and yields the cycle in which the next can begin.
    """

    def __init__(self, ready: int, steps: Iterator[int]) -> None:
        self.ready = ready
        self.done = False
        self._steps = steps

    def step(self) -> None:
        """Emit the next step."""
        following = next(self._steps, None)
        self.done = following is None
        self.ready = self.ready if following is None else following


class JobPipeline:
    """Orders the work of the vector unit in a layer's attention: list scheduling on the forecast of `Emitter.clock`.

    Scores come ahead of the softmax, the division comes behind it, other work of the layer (chains) in between: of what
    is ready, the division first, then chains in their order, then the next softmax.

    Parameters
    ----------
    work : Work
        What a step's emission shares.
    dense : Dense
        Which knows the requantisation words of scores and contexts.
    layer : int
        Layer number.
    jobs : int
        Calls of `advance` to come: weights that are loaded in the background are spread over them.

    Attributes
    ----------
    cached : dict of int to KeyTiles
        Keys and values of the sequence that is prefilled, by head.
    chains : list of Chain
        Other work.
    """

    def __init__(self, work: Work, dense: Dense, layer: int, jobs: int) -> None:
        self.work = work
        self.dense = dense
        self.layer = layer
        self.heads: HeadTiling = work.heads(layer)
        self.cached: dict[int, KeyTiles] = {}
        self.chains: list[Chain] = []
        self._clock = work.emitter.clock
        self._rate = len(work.background) / max(1, jobs)
        self._due = 0.0
        regions, tiers = work.places.regions, work.config.tiers
        many = regions > 2 * tiers
        self._ahead = regions // 2 if many else min(regions - 1, tiers)
        self._delay = regions // 4 if many else min(MOST_DELAY, regions - 1)
        self.group = max(1, min(2 * tiers if many else tiers, regions - self._delay))
        self._pending: deque[tuple[int, _Scores]] = deque()
        self._undivided: deque[tuple[int, Job, int]] = deque()
        self._open: set[Job] = set()
        self._maxima = MAXIMA if many else 0
        self._maxed: set[_Scores] = set()
        self._behind: list[tuple[set[Job], Callable[[], None]]] = []

    def run(self, jobs: Sequence[Job]) -> None:
        """Emit the scores of up to `group` jobs, and what earlier jobs have left to do.

        The jobs' blocks of keys take turns, so that each can be rescaled while the unit works on the others.
        """
        work, size = self.work, self.work.places.size.key_block
        scalars = [work.next_scalars() for _ in jobs]
        self._open.update(jobs)
        for offset in range(0, max(job.keys - job.start for job in jobs), size):
            for job, scalar in zip(jobs, scalars, strict=True):
                first = job.start + offset
                if first >= job.keys:
                    continue
                keys, tiles = min(size, job.keys - first), job.source.tiles(first)
                block = _Scores(job, tiles, first, keys, work.next_region(), work.next_words(job.tier), scalar)
                self._pending.append((self._scores(block), block))
                if len(self._pending) > self._ahead:
                    self.advance()

    def make_room(self, tiers: Sequence[int], tiles: int) -> None:
        """Finish the softmax of jobs until none reads keys and values that begin at some tile in some tiers."""
        while any(block.job.tier in tiers and block.tiles.keys == tiles for _, block in self._pending):
            self.advance()

    def after(self, action: Callable[[], None]) -> None:
        """Do something as soon as all jobs that were run so far are divided."""
        if self._open:
            self._behind.append((set(self._open), action))
        else:
            action()

    def settle(self) -> None:
        """Finish the softmax of all jobs: their keys and values may be overwritten."""
        while self._pending:
            self.advance()

    def advance(self) -> None:
        """Emit work until the softmax of the oldest scores is out."""
        left = len(self._pending)
        while len(self._pending) == left:
            self._emit_one()
        self._due += self._rate
        while self._due >= 1 and self.work.background:
            self._due -= 1
            self.work.background.popleft()()

    def finish(self, chain: Chain) -> None:
        """Emit work until a chain is done."""
        while not chain.done:
            self._emit_one()

    def open_jobs(self) -> frozenset[Job]:
        """Return the jobs that are not divided yet."""
        return frozenset(self._open)

    def close(self, jobs: Collection[Job]) -> None:
        """Emit work until some jobs are divided."""
        while not self._open.isdisjoint(jobs):
            self._emit_one()

    def flush(self) -> None:
        """Finish everything."""
        while self._pending or self._undivided or self.chains:
            self._emit_one()

    def _emit_one(self) -> None:
        """Emit what is ready, or else what will be first."""
        now = self._clock.vector
        choices: list[tuple[int, Callable[[], None]]] = []
        if self._undivided:
            ready = 0 if len(self._undivided) > self._delay else self._undivided[0][0]
            choices.append((ready, self._divide))
        choices += [(chain.ready, partial(self._step, chain)) for chain in self.chains]
        if self._pending and len(self._undivided) <= self._delay:
            choices.append((self._pending[0][0], self._softmax))
        ready, action = min(choices, key=lambda choice: max(choice[0], now))
        self._clock.wait(ready)
        action()

    def _step(self, chain: Chain) -> None:
        chain.step()
        if chain.done:
            self.chains.remove(chain)

    def _softmax(self) -> None:
        _, block = self._pending.popleft()
        ready = self._emit_softmax(block)
        if block.is_last:
            self._undivided.append((ready, block.job, block.scalar))

    def _divide(self) -> None:
        _, job, scalar = self._undivided.popleft()
        self._emit_divide(job, scalar)
        self._open.discard(job)
        for waiting, _ in self._behind:
            waiting.discard(job)
        while self._behind and not self._behind[0][0]:
            self._behind.pop(0)[1]()

    # Instructions.

    def _columns(self, keys: int) -> int:
        """Return the tiles of keys (rows of scores) of a block of keys, whole alignments."""
        align = self.work.tiling.key_alignment
        return -(-keys // align) * align // self.work.config.columns

    def _scores(self, block: _Scores) -> int:
        job, work = block.job, self.work
        rows = self._columns(block.keys)
        place = work.tiling.key_tiles(self.heads, block.first - block.tiles.first)
        return work.emitter.gemm(
            f"scores {job.name}", tier_base=job.tier, tier_count=1, tokens=job.vectors, k_slices=self.heads.key_words,
            n_tiles=rows, vcache_base=block.tiles.keys + place, tag=block.tiles.tag, act_base=job.query,
            act_stride=job.query_stride, mode=Mode.REQUANT16, shift=self._head(job).score_shift, param_hold=1,
            param_base=self.dense.score_word(self.layer, job.head), dest_kind=Dest.COMBINE, dest_base=block.region,
            dest_stride=rows,
        )  # fmt: skip

    def _head(self, job: Job) -> AttentionHead:
        return self.work.constants_of(self.layer).heads[job.head]

    def _score_fields(self, block: _Scores) -> dict[str, int]:
        """Return the fields of the VECTORs that read a block's scores."""
        job, rows = block.job, self._columns(block.keys)
        valid = min(job.position + 1 - block.first, MOST_LENGTH - job.vectors)
        return {
            "vectors": job.vectors, "rows": rows, "a_base": block.region, "a_stride": rows, "masked": 1,
            "length": valid & 0xFFFF, "length_step": job.step, "first": int(block.is_first),
        }  # fmt: skip

    def _emit_max(self, block: _Scores) -> None:
        """Emit a block's maximum, unless that is done, or the job's block before it still needs the one before."""
        if block in self._maxed or any(other.job is block.job for other in self._maxed):
            return
        self._maxed.add(block)
        self.work.emitter.vector(
            f"max {block.job.name}", op=VectorOp.MAX, **self._score_fields(block), s_base=block.scalar,
            d_scalar=block.scalar,
        )  # fmt: skip

    def _emit_softmax(self, block: _Scores) -> int:
        job, work, emit = block.job, self.work, self.work.emitter
        self._emit_max(block)
        for _, other in islice(self._pending, self._maxima):
            self._emit_max(other)
        self._maxed.discard(block)
        rows = self._columns(block.keys)
        words = rows * work.config.columns // work.config.rows
        constants = self._head(job)
        highest, total = block.scalar, block.scalar + work.places.job_vectors
        scores = self._score_fields(block)
        context = {
            "vectors": job.vectors, "rows": self.heads.value_rows, "a_base": job.context,
            "a_stride": job.context_stride,
        }  # fmt: skip
        emit.vector(
            f"exp {job.name}", op=VectorOp.MAP, fn=VectorFn.EXP2, **scores, s_base=highest, d_scalar=total,
            sum=VectorSum.SUM_RECIP if block.is_last else VectorSum.SUM, mult=PROBABILITY_MULT,
            shift=PROBABILITY_SHIFT, bits=VectorBits.BITS8, dest_kind=VectorDest.ACTIVATION, dest_tiers=1 << job.tier,
            dest_base=block.words, dest_stride=words, imm=constants.context_mult if block.is_last else 0,
        )  # fmt: skip
        if not block.is_first:
            emit.vector(
                f"rescale {job.name}", op=VectorOp.RESCALE, **context, s_base=highest, bits=VectorBits.BITS32,
                dest_kind=VectorDest.ROWS, dest_base=job.context, dest_stride=job.context_stride,
            )  # fmt: skip
        place = work.tiling.value_tiles(self.heads, block.first - block.tiles.first)
        return emit.gemm(
            f"context {job.name}", tier_base=job.tier, tier_count=1, tokens=job.vectors, k_slices=words,
            n_tiles=self.heads.value_rows, order=Order.N_INNER, vcache_base=block.tiles.values + place,
            tag=block.tiles.tag, act_base=block.words, act_stride=words, mode=Mode.REQUANT16,
            shift=constants.value_shift, param_hold=1, param_base=self.dense.context_word(self.layer, job.head),
            dest_kind=Dest.COMBINE, dest_base=job.context, dest_stride=job.context_stride,
            accumulate=int(not block.is_first),
        )  # fmt: skip

    def _emit_divide(self, job: Job, scalar: int) -> None:
        self.work.emitter.vector(
            f"divide {job.name}", op=VectorOp.SCALE, vectors=job.vectors, rows=self.heads.value_rows,
            a_base=job.context, a_stride=job.context_stride, s_base=scalar + self.work.places.job_vectors,
            shift=self._head(job).context_shift, bits=VectorBits.BITS8, dest_kind=VectorDest.ACTIVATION,
            dest_tiers=job.output_tiers, dest_base=job.output, dest_stride=job.output_stride,
        )  # fmt: skip
