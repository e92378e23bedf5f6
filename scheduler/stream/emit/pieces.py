# SPDX-License-Identifier: Apache-2.0
"""Experts that do not fit a tier as a whole: their pieces pass through buffers of V-Cache, ahead of their use."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from scheduler.memory.placement import Part
from scheduler.plan.residence import ExpertPiece
from scheduler.stream.emit.tiers import TierJob, TokenLists, down, load_piece, load_words, pieces_of, tiling_of, up
from scheduler.stream.emit.work import Work

__all__ = ["PieceRunner"]


@dataclass(frozen=True)
class _Step:
    """One piece of one expert for some of its tokens.

    Attributes
    ----------
    job : TierJob
    number : int
        Jobs of the tier before this one.
    first : int
        First token of the job.
    piece : ExpertPiece
    parity : int
        Which of the two places h has.
    """

    job: TierJob
    number: int
    first: int
    piece: ExpertPiece
    parity: int


class PieceRunner:
    """Loads and GEMMs of pieces, tier by tier, in the order in which they are added.

    Parameters
    ----------
    work : Work
        What a step's emission shares.
    lists : TokenLists, optional
        Loads a job's token list before its weights.
    """

    def __init__(self, work: Work, lists: TokenLists | None = None) -> None:
        self._work = work
        self._lists = lists
        tiers = work.config.tiers
        self._steps: list[deque[_Step]] = [deque() for _ in range(tiers)]  # not loaded yet
        self._ready: list[deque[tuple[_Step, int, int]]] = [deque() for _ in range(tiers)]  # with base and tag
        self._turn = [0] * tiers
        self._jobs = [0] * tiers
        self._chunks = [0] * tiers

    def add(self, queues: Sequence[Sequence[TierJob]]) -> None:
        """Append the jobs of every tier."""
        for tier, queue in enumerate(queues):
            for job in queue:
                for first in range(0, job.count, self._work.places.chunk):
                    for piece in pieces_of(self._work, job.layer):
                        step = _Step(job, self._jobs[tier], first, piece, self._chunks[tier] % 2)
                        self._steps[tier].append(step)
                    self._chunks[tier] += 1
                self._jobs[tier] += 1

    def fill(self, tier: int) -> None:
        """Emit loads as far as there are buffers."""
        places = self._work.places
        steps, ready = self._steps[tier], self._ready[tier]
        while steps and len(ready) < len(places.piece_buffers):
            step = steps[0]
            oldest = ready[0][0].number if ready else step.number
            if step.number - oldest >= len(places.expert_words):
                return
            if self._lists is not None and not step.job.loaded and not self._lists.fits(tier, step.job):
                return
            steps.popleft()
            if not step.job.loaded:
                step.job.words = places.expert_words[step.number % len(places.expert_words)]
                if self._lists is not None:
                    self._lists.load(tier, step.job)
                load_words(self._work, tier, step.job)
            base, tag = places.piece_buffers[self._turn[tier] % len(places.piece_buffers)], self._work.next_tag()
            self._turn[tier] += 1
            load_piece(self._work, tier, step.job, step.piece, base, tag)
            ready.append((step, base, tag))

    def run(self, layer: int) -> None:
        """Emit the GEMMs of a layer's jobs, on the tier whose turn comes first by the forecast."""
        tiers = range(self._work.config.tiers)
        clock = self._work.emitter.clock
        for tier in tiers:
            self.fill(tier)
        while True:
            open_ = [t for t in tiers if self._ready[t] and self._ready[t][0][0].job.layer == layer]
            if not open_:
                return
            tier = min(open_, key=lambda t: clock.tiers[t])
            step, base, tag = self._ready[tier].popleft()
            for run in step.piece.runs:
                emit = up if run.part == Part.UP else down
                emit(self._work, tier, step.job, step.first, step.parity, run, base, tag)
                expert = tiling_of(self._work, layer)
                base += run.count * (expert.up if run.part == Part.UP else expert.down).k_slices
            following = (
                self._ready[tier][0][0] if self._ready[tier] else self._steps[tier][0] if self._steps[tier] else None
            )
            step.job.done = following is None or following.job is not step.job
            self.fill(tier)
