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

from hdl.isa import Dest, Mode, Opcode, Order, VectorBits, VectorDest, VectorFn, VectorOp, VectorSum, most_of
from scheduler.language.work import Work
from scheduler.models.fixed_point import PROBABILITY_MULT, PROBABILITY_SHIFT

__all__ = ["Chain", "Job", "JobPipeline", "KeyTiles"]

MOST_LENGTH = most_of(Opcode.VECTOR, "length") >> 1
"""Valid elements that an instruction can say, in a field with a sign. No vector is longer: all of it is valid then."""
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
    """

    tiers: tuple[int, ...]
    keys: int
    values: int
    tag: int


@dataclass(frozen=True)
class Job:
    """Attention of `vectors` queries over the keys of one head; addresses as instructions take them.

    Attributes
    ----------
    name : str
        For the timeline.
    tier, head : int
        Where it runs; key/value head.
    tiles : KeyTiles
        Its keys and values.
    vectors : int
        Queries.
    query, query_stride, output, output_stride : int
        Activation words of the queries and of the contexts.
    context, context_stride : int
        Combine rows of the contexts.
    position, step : int
        Position of the first query, and of the next one relative to it.
    """

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


@dataclass(frozen=True)
class _Scores:
    """One job's block of keys, with the regions it uses."""

    job: Job
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
        What a step's lowering shares.
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

    def __init__(self, work: Work, layer: int, jobs: int) -> None:
        self.work = work
        self.layer = layer
        self.cached: dict[int, KeyTiles] = {}
        self.chains: list[Chain] = []
        self._clock = work.emitter.clock
        self._rate = len(work.background) / max(1, jobs)
        self._due = 0.0
        regions = work.chip.regions
        self._ahead = min(regions - 1, work.shape.config.tiers)
        self._delay = min(MOST_DELAY, regions - 1)
        self.group = max(1, min(work.shape.config.tiers, regions - self._delay))
        self._pending: deque[tuple[int, _Scores]] = deque()
        self._undivided: deque[tuple[int, Job, int]] = deque()
        self._open: set[Job] = set()
        self._behind: list[tuple[set[Job], Callable[[], None]]] = []

    def run(self, jobs: Sequence[Job]) -> None:
        """Emit the scores of up to `group` jobs, and what earlier jobs have left to do.

        The jobs' blocks of keys take turns, so that each can be rescaled while the unit works on the others.
        """
        work, size = self.work, self.work.chip.size
        scalars = [work.next_scalars() for _ in jobs]
        self._open.update(jobs)
        for first in range(0, max(job.keys for job in jobs), size.key_block):
            for job, scalar in zip(jobs, scalars, strict=True):
                if first >= job.keys:
                    continue
                keys = min(size.key_block, job.keys - first)
                block = _Scores(job, first, keys, work.next_region(), work.next_words(job.tier), scalar)
                self._pending.append((_scores(work, self.layer, block), block))
                if len(self._pending) > self._ahead:
                    self.advance()

    def make_room(self, tiers: Sequence[int], tiles: int) -> None:
        """Finish the softmax of jobs until none reads keys and values that begin at some tile in some tiers."""
        while any(block.job.tier in tiers and block.job.tiles.keys == tiles for _, block in self._pending):
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
        ready = _softmax(self.work, self.layer, block)
        if block.is_last:
            self._undivided.append((ready, block.job, block.scalar))

    def _divide(self) -> None:
        _, job, scalar = self._undivided.popleft()
        _divide(self.work, self.layer, job, scalar)
        self._open.discard(job)
        for waiting, _ in self._behind:
            waiting.discard(job)
        while self._behind and not self._behind[0][0]:
            self._behind.pop(0)[1]()


def _columns(work: Work, keys: int) -> int:
    """Return the tiles of keys (rows of scores) of a block of keys, whole units."""
    unit = work.shape.key_unit
    return -(-keys // unit) * unit // work.shape.config.columns


def _scores(work: Work, layer: int, block: _Scores) -> int:
    job, shape = block.job, work.shape
    rows = _columns(work, block.keys)
    parameters = work.model.layers[layer].heads[job.head]
    return work.emitter.gemm(
        f"scores {job.name}", tier_base=job.tier, tier_count=1, tokens=job.vectors, k_slices=shape.head_words,
        n_tiles=rows, vcache_base=job.tiles.keys + shape.key_tiles(block.first), tag=job.tiles.tag, act_base=job.query,
        act_stride=job.query_stride, mode=Mode.REQUANT16, shift=parameters.score_shift, param_hold=1,
        param_base=work.word(layer, "score") + job.head, dest_kind=Dest.COMBINE, dest_base=block.region,
        dest_stride=rows,
    )  # fmt: skip


def _softmax(work: Work, layer: int, block: _Scores) -> int:
    job, shape, emit, size = block.job, work.shape, work.emitter, work.chip.size
    rows = _columns(work, block.keys)
    words = rows * shape.config.columns // shape.config.rows
    parameters = work.model.layers[layer].heads[job.head]
    highest, total = block.scalar, block.scalar + size.job_tokens
    valid = min(job.position + 1 - block.first, MOST_LENGTH - job.vectors)
    scores = {
        "vectors": job.vectors, "rows": rows, "a_base": block.region, "a_stride": rows, "masked": 1,
        "length": valid & 0xFFFF, "length_step": job.step, "first": int(block.is_first),
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
    return emit.gemm(
        f"context {job.name}", tier_base=job.tier, tier_count=1, tokens=job.vectors, k_slices=words,
        n_tiles=shape.head_rows, order=Order.N_INNER, vcache_base=job.tiles.values + shape.key_tiles(block.first),
        tag=job.tiles.tag, act_base=block.words, act_stride=words, mode=Mode.REQUANT16, shift=parameters.value_shift,
        param_hold=1, param_base=work.word(layer, "context") + job.head, dest_kind=Dest.COMBINE,
        dest_base=job.context, dest_stride=job.context_stride, accumulate=int(not block.is_first),
    )  # fmt: skip


def _divide(work: Work, layer: int, job: Job, scalar: int) -> None:
    parameters = work.model.layers[layer].heads[job.head]
    work.emitter.vector(
        f"divide {job.name}", op=VectorOp.SCALE, vectors=job.vectors, rows=work.shape.head_rows, a_base=job.context,
        a_stride=job.context_stride, s_base=scalar + work.chip.size.job_tokens, shift=parameters.context_shift,
        bits=VectorBits.BITS8, dest_kind=VectorDest.ACTIVATION, dest_tiers=1, dest_base=job.output,
        dest_stride=job.output_stride,
    )  # fmt: skip
