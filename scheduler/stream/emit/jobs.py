# SPDX-License-Identifier: Apache-2.0
"""Attention jobs: some queries of one head against its keys on one tier, software-pipelined over the vector unit.

The vector unit works in order, and so does each tier. A job's scores are computed while the unit works on earlier
jobs, and its context is divided by the softmax's sum some jobs later, so that neither waits for the other's latency.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np

from scheduler.plan.tiling import HeadTiling
from scheduler.stream.emit.dense import Dense
from scheduler.stream.emit.emitter import Emitter
from scheduler.stream.emit.job_loop import emit_jobs
from scheduler.stream.emit.job_table import JOB, JOB_COLUMNS, OP, STATE, STOP, UNTIL, Int64, Sizes, new_loop
from scheduler.stream.emit.work import Work

__all__ = ["Beside", "Chain", "JobPipeline", "Span"]

MAXIMA = 3
"""Maxima that come before an exponential, on large arrays: it waits for its own, whose latency they fill."""
MOST_DELAY = 4
"""Jobs whose division waits behind the softmax of later ones."""
NO_OPERATIONS = np.zeros((0, len(OP)), np.int64)


class Beside(Protocol):
    """Work that goes on beside the jobs, step by step."""

    @property
    def ready(self) -> int:
        """Cycle in which the next step can begin; `NEVER` as long as it waits for other work."""
        ...

    @property
    def done(self) -> bool:
        """Whether no step is left."""
        ...

    def step(self) -> None:
        """Emit the next step."""
        ...


class Chain:
    """Work that goes on beside the jobs: steps, each of which says when the next one can begin.

    Parameters
    ----------
    emitter : Emitter
    layer : int
        What the instructions are for.
    steps : iterator of int
        Emits a step and yields the cycle in which the next can begin.
    ready : int
        Cycle in which the first step can begin.
    start : callable, optional
        The same, and `NEVER` as long as it waits for other work.
    """

    def __init__(
        self, emitter: Emitter, layer: int, steps: Iterator[int], ready: int = 0,
        start: Callable[[], int] | None = None,
    ) -> None:  # fmt: skip
        self.done = False
        self._emitter = emitter
        self._layer = layer
        self._steps = steps
        self._ready = ready
        self._start = start

    @property
    def ready(self) -> int:
        """Cycle in which the next step can begin."""
        return self._ready if self._start is None else self._start()

    def step(self) -> None:
        """Emit the next step."""
        emitter, self._start = self._emitter, None
        before, emitter.layer = emitter.layer, self._layer
        following = next(self._steps, None)
        emitter.layer = before
        self.done = following is None
        self._ready = self._ready if following is None else following


@dataclass(frozen=True)
class Span:
    """Keys that some jobs look at, and how these come onto the chip.

    Attributes
    ----------
    start, end : int
        First key, a whole alignment, and the one behind the last query's last.
    held : int or None
        They are on the chip from this key on for all jobs of a head; None: each job loads its own, piece by piece.
    prefix : int
        Keys that lie in another sequence's place.
    begins, ends : bool
        Whether no jobs have looked at earlier keys for the same queries, and none will at later ones.
    """

    start: int
    end: int
    held: int | None = None
    prefix: int = 0
    begins: bool = True
    ends: bool = True


class JobPipeline:
    """Orders the work of the vector unit in a layer's attention: list scheduling on the forecast of `Emitter.clock`.

    Scores come ahead of the softmax, the division comes behind it, other work of the layer (chains) in between: of what
    is ready, the division first, then chains in their order, then the next softmax. The loop that does so is compiled
    (:mod:`scheduler.stream.emit.job_loop`); it stops where a chain, or a load in the background, comes next.

    Parameters
    ----------
    work : Work
        What a step's emission shares.
    dense : Dense
        Which knows the requantisation words of scores and contexts.
    layer : int
        Layer number.
    jobs, blocks : int
        Jobs to come and their blocks of keys: weights that are loaded in the background are spread over them.
    """

    def __init__(
        self, work: Work, dense: Dense, layer: int, jobs: int, blocks: int, loads: Beside | None = None
    ) -> None:
        self.work = work
        self.heads: HeadTiling = work.heads(layer)
        self._emitter = work.emitter
        self._chains: list[Beside] = [] if loads is None else [loads]
        self._loads = loads
        regions, tiers = work.places.regions, work.config.tiers
        many = regions > 2 * tiers
        delay = regions // 4 if many else min(MOST_DELAY, regions - 1)
        self.group = max(1, min(2 * tiers if many else tiers, regions - delay))
        ahead = regions // 2 if many else min(regions - 1, tiers)
        self._sizes = _sizes(work, self.heads, ahead * work.places.score_rows, delay, many)
        self._loop = new_loop(self._sizes, jobs, len(work.background) / max(1, blocks))
        self._state = self._loop.state
        self._state[STATE.behind] = np.iinfo(np.int64).max
        self._jobs = 0
        self._behind: list[tuple[int, Callable[[], None]]] = []
        self._dense = dense
        self._heads: dict[int, Int64] = {}
        self.layer(layer)

    def layer(self, layer: int) -> None:
        """Let the jobs that come be those of a layer whose heads have the same sizes."""
        if layer not in self._heads:
            self._heads = {layer: _head_columns(self.work, self._dense, layer, self.heads)}
        self._rows = self._heads[layer]

    def add(self, chain: Beside) -> None:
        """Let other work go on beside the jobs."""
        self._chains.append(chain)

    def rows_of_heads(self, heads: Int64) -> Int64:
        """Return a table of jobs, one of each of some key/value heads, with what depends on the head alone."""
        return self._rows[heads]

    def run(self, jobs: Int64, span: Span) -> None:
        """Emit the scores of jobs over the same keys, `group` at a time, and what earlier jobs have left to do.

        The blocks of keys of a group's jobs take turns, so that each can be rescaled while the unit works on the
        others.

        Parameters
        ----------
        jobs : int64 array [jobs, columns]
            See :data:`scheduler.stream.emit.job_table.JOB`.
        span : Span
        """
        first, self._jobs = self._jobs, self._jobs + len(jobs)
        self._loop.jobs[first : self._jobs] = jobs
        group = self.group if span.held is not None else self._loading_group(span)
        key = (self.heads, len(jobs), group, span)
        known = self.work.operations.get(key)
        if known is None:
            known = self.work.operations[key] = _operations(self.work, self.heads, len(jobs), group, span)
        operations = known.copy()
        operations[:, OP.job] += first
        self._state[STATE.op] = 0
        self._go(UNTIL.operated, operations)

    def _loading_group(self, span: Span) -> int:
        """Return how many jobs that load their own keys may take turns: their tiers have buffers for all of them.

        A job has two pieces of keys on the chip where it needs more than one, and jobs go to the tiers in turn.
        """
        work = self.work
        if work.key_buffers == 1:
            return 1
        pieces = min(2, -(-(span.end - span.start) // work.places.key_piece))
        return min(self.group, work.config.tiers * (work.key_buffers // pieces))

    def after(self, action: Callable[[], None]) -> None:
        """Do something as soon as all jobs that were run so far are divided."""
        if self._state[STATE.divided] < self._jobs:
            self._behind.append((self._jobs, action))
            self._state[STATE.behind] = self._behind[0][0]
        else:
            action()

    def settle(self) -> None:
        """Finish the softmax of all jobs: their keys and values may be overwritten."""
        self._go(UNTIL.settled)

    def finish(self, chain: Beside) -> None:
        """Emit work until a chain is done."""
        while not chain.done:
            before = self._emitter.stream.count
            if not self._once(UNTIL.asked, NO_OPERATIONS):
                assert before != self._emitter.stream.count, "work that waits for itself"

    @property
    def jobs(self) -> int:
        """Jobs that were run so far."""
        return self._jobs

    def close(self, jobs: int) -> None:
        """Emit work until the first so many jobs are divided."""
        self._state[STATE.close] = jobs
        self._go(UNTIL.closed)

    def flush(self) -> None:
        """Finish everything."""
        self._go(UNTIL.flushed)

    def _go(self, until: int, operations: Int64 = NO_OPERATIONS) -> None:
        while self._once(until, operations):
            pass

    def _once(self, until: int, operations: Int64) -> bool:
        """Run the loop until it stops, and do what it stopped for; return whether there was anything."""
        state, stream, chains, work = self._state, self._emitter.stream, self._chains, self.work
        state[STATE.instructions], state[STATE.chains] = stream.count, len(chains)
        state[STATE.needed] = len(chains) - (self._loads is not None)
        state[STATE.background] = len(work.background)
        if len(chains) > len(self._loop.chains):
            self._loop = self._loop._replace(chains=np.zeros(2 * len(chains), np.int64))
        for number, chain in enumerate(chains):
            self._loop.chains[number] = chain.ready
        stop = emit_jobs(
            self._sizes, self._loop, work.turns, self._emitter.clock.state, stream.rows, stream.marks, operations, until
        )
        stream.count = int(state[STATE.instructions])
        if stop == STOP.chain:
            chain = chains[state[STATE.chosen]]
            chain.step()
            if chain.done and chain is not self._loads:
                chains.remove(chain)
        elif stop == STOP.behind:
            while self._behind and self._behind[0][0] <= state[STATE.divided]:
                self._behind.pop(0)[1]()
            state[STATE.behind] = self._behind[0][0] if self._behind else np.iinfo(np.int64).max
        elif stop == STOP.background:
            while self._loop.due[0] >= 1 and work.background:
                self._loop.due[0] -= 1
                work.background.popleft()()
        elif stop == STOP.full:
            stream.grow()
        return bool(stop != STOP.end)


def _sizes(work: Work, heads: HeadTiling, ahead: int, delay: int, many: bool) -> Sizes:
    places, config = work.places, work.config
    return Sizes(
        rows=config.rows, columns=config.columns, key_words=heads.key_words, value_rows=heads.value_rows,
        job_vectors=places.job_vectors, tile_bytes=config.tile_bytes, buffers=work.key_buffers,
        buffer_base=places.keys[0], buffer_tiles=work.key_buffer_tiles,
        region_base=places.rows["attention"]["scores"], region_rows=places.rows["attention"].sizes["scores"],
        words_base=places.words["attention"]["scores"], words=places.words["attention"].sizes["scores"],
        scalar_base=places.scalars["attention"]["jobs"], scalars=places.scalars["attention"].sizes["jobs"],
        ahead=ahead, delay=delay, maxima=MAXIMA if many else 0, patient=int(work.residence.resident),
    )  # fmt: skip


def _head_columns(work: Work, dense: Dense, layer: int, heads: HeadTiling) -> Int64:
    """Return the columns of a job of each key/value head that depend on nothing else."""
    found = np.zeros((heads.kv_heads, JOB_COLUMNS), np.int64)
    for head, own in enumerate(work.constants_of(layer).heads):
        found[head, JOB.score_shift], found[head, JOB.value_shift] = own.score_shift, own.value_shift
        found[head, JOB.context_mult], found[head, JOB.context_shift] = own.context_mult, own.context_shift
        found[head, JOB.score_word] = dense.score_word(layer, head)
        found[head, JOB.context_word] = dense.context_word(layer, head)
    return found


def _operations(work: Work, heads: HeadTiling, jobs: int, group: int, span: Span) -> Int64:
    """Return what jobs over the same keys have to emit, in order: loads of pieces of keys, and blocks of keys.

    The next piece is loaded ahead of its use where there is room for two. With `Work.early_keys` what the step does not
    write is loaded apart: it does not have to wait.
    """
    early = work.early_keys
    tiling, size, piece = work.tiling, work.places.size.key_block, work.places.key_piece
    loaded, found = [0] * jobs, []

    def load(job: int, most: int) -> None:
        while loaded[job] <= most and span.start + loaded[job] * piece < span.end:
            first = span.start + loaded[job] * piece
            end = min(span.end, first + piece)
            old = max(first, (span.end - 1) // tiling.key_alignment * tiling.key_alignment) if early else first
            before = tiling.key_tiles(heads, first), tiling.value_tiles(heads, first)
            total = tiling.key_tiles(heads, end) - before[0]
            ends = sorted({min(max(first, span.prefix), end), min(old, end), end})
            for begin, stop in pairwise([first, *ends]):
                keys, values = tiling.key_tiles(heads, begin), tiling.value_tiles(heads, begin)
                many = tiling.key_tiles(heads, stop) - keys, tiling.value_tiles(heads, stop) - values
                if stop > begin:
                    found.append(
                        (0, job, loaded[job] % 2, 0, total, keys - before[0], values - before[1], keys, many[0],
                         values, many[1], int(begin > first), int(begin < span.prefix))
                    )  # fmt: skip
            loaded[job] += 1

    ahead = int(work.key_buffers > 1)
    for begin in range(0, jobs, group):
        own = range(begin, min(begin + group, jobs))
        if span.held is None:
            for job in own:
                load(job, ahead)
        for first in range(span.start, span.end, size):
            keys = min(size, span.end - first)
            rows = -(-keys // tiling.key_alignment) * tiling.key_alignment // work.config.columns
            for job in own:
                number, base = 0, span.held
                if base is None:
                    number = (first - span.start) // piece
                    base = span.start + number * piece
                    load(job, number + ahead)
                is_first, is_last = span.begins and first == span.start, span.ends and first + keys >= span.end
                places = tiling.key_tiles(heads, first - base), tiling.value_tiles(heads, first - base)
                found.append(
                    (1, job, number % 2, first, rows, int(is_first), int(is_last), places[0], 0, places[1], 0, 0, 0)
                )
    return np.array(found, np.int64)
