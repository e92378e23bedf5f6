# SPDX-License-Identifier: Apache-2.0
"""Routed experts that all tiers run together, one after the other: each tier has a part of the output tiles.

No tier waits for another whose experts have more tokens, whether the host knows the routing or the machine finds it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hdl.config import ADDRESS_UNIT
from hdl.isa import Dest, LoadDest, Mapping3D, Mode
from scheduler.memory.placement import Part
from scheduler.plan.shares import Share
from scheduler.stream.emit.experts import RoutedJob, load_list
from scheduler.stream.emit.tiers import TierJob, addressed, plane_fields, slot_fields, tiling_of
from scheduler.stream.emit.work import Work

__all__ = ["GangQueues"]


@dataclass(frozen=True)
class _Step:
    """A share of one matrix of an expert for some of its tokens.

    Attributes
    ----------
    job : TierJob
    number : int
        Jobs before this one.
    first : int
        First token of the job.
    part : Part
    share : Share
    word : int
        Requantisation words of the expert before this share's.
    parity : int
        Which of the two places h has.
    """

    job: TierJob
    number: int
    first: int
    part: Part
    share: Share
    word: int
    parity: int


class GangQueues:
    """Experts of all layers, one after the other on all tiers.

    Takes the place of :class:`scheduler.stream.emit.experts.ExpertQueues`.

    Parameters
    ----------
    work : Work
        What a step's emission shares.
    layers : sequence of sequences of TierJob
        Experts of every layer with their tokens, or slots of one whose routing the machine has found.
    ahead : int, optional
        Shares whose loads come before the GEMM of an earlier one: the dispatcher, which stands still where a queue is
        full, must not keep that GEMM waiting. Default: as many as there are buffers.
    """

    def __init__(self, work: Work, layers: Sequence[Sequence[TierJob]], ahead: int | None = None) -> None:
        self._work = work
        self._steps: deque[_Step] = deque()  # not loaded yet
        self._ready: deque[tuple[_Step, int, int]] = deque()  # with base and tag
        self._left: dict[int, int] = {}  # by job: shares that are not emitted yet
        self._lists: deque[tuple[int, range]] = deque()  # jobs' list entries that a later GEMM may need
        self._tilings = {n: tiling_of(work, n) for n, jobs in enumerate(layers) if jobs}
        self._turn = 0
        self._most = len(work.places.piece_buffers) if ahead is None else min(ahead, len(work.places.piece_buffers))
        self._jobs = self._chunks = 0
        for jobs in layers:
            self._add(sorted(jobs, key=lambda job: (-job.count, job.expert)))

    def prime(self) -> None:
        """Load the first experts, as far as there are buffers."""
        self._fill()

    def load_lists(self, layer: int) -> None:
        """Lists are loaded expert by expert."""

    def _add(self, jobs: Sequence[TierJob]) -> None:
        """Append a layer's jobs.

        The first share of an expert's up projection comes before the down projection of the one before, so that
        neither waits for the other's drain.
        """
        waiting: list[_Step] = []
        for job in jobs:
            for first in range(0, job.count, self._work.places.chunk):
                ups, downs = self._cut(job, first)
                self._left[self._jobs] = self._left.get(self._jobs, 0) + len(ups) + len(downs)
                self._steps.append(ups[0])
                self._steps.extend(waiting)
                self._steps.extend(ups[1:])
                waiting = downs
                self._chunks += 1
            self._jobs += 1
        self._steps.extend(waiting)

    def _cut(self, job: TierJob, first: int) -> tuple[list[_Step], list[_Step]]:
        shares = self._work.residence.gangs[self._tilings[job.layer].down.inputs]
        found: tuple[list[_Step], list[_Step]] = ([], [])
        word = 0
        for part, own, steps in zip((Part.UP, Part.DOWN), shares, found, strict=True):
            for share in own:
                steps.append(_Step(job, self._jobs, first, part, share, word, self._chunks % 2))
                word += share.each
        return found

    def _fill(self) -> None:
        """Emit loads as far as there are buffers."""
        work, places = self._work, self._work.places
        while self._steps and len(self._ready) < self._most:
            step = self._steps[0]
            if not self._loadable(step):
                if self._ready:
                    return
                # Nothing is on its way that could make room: what the experts before it still need comes first.
                step = next(one for one in self._steps if one.job.loaded)
            self._steps.remove(step)
            if not step.job.loaded:
                self._load_job(step)
            base, tag = places.piece_buffers[self._turn % len(places.piece_buffers)], work.next_tag()
            self._turn += 1
            slices = self._slices(step)
            tiles, places_of = step.share.each * slices, np.arange(step.share.tiers)
            layer, expert = step.job.layer, addressed(step.job)
            high, low = work.experts.planes(layer, step.part, expert, step.share.first * slices)
            fields, apart = plane_fields(step.job, high, low), places_of * tiles * work.config.plane_bytes
            columns = {"dest_tiers": 1 << places_of, "addr": (high.address + apart) // ADDRESS_UNIT}
            if "addr_low" in fields:
                columns["addr_low"] = (low.address + apart) // ADDRESS_UNIT
            work.emitter.loads(
                f"{step.job.name} {step.part}", columns, **fields, dest_base=base, count=tiles, tag=tag,
                **slot_fields(step.job, work.experts.stride(layer, step.part)),
            )  # fmt: skip
            self._ready.append((step, base, tag))

    def _loadable(self, step: _Step) -> bool:
        """Return whether an expert's list and words overwrite none that an earlier expert's GEMMs still need."""
        job, work = step.job, self._work
        while self._lists and not self._left[self._lists[0][0]]:
            self._lists.popleft()
        if job.loaded or not self._lists:
            return True
        if step.number - self._lists[0][0] >= len(work.places.expert_words):
            return False
        if job.slot:
            return True  # ROUTE has written the list
        ring = work.lists[0]
        if job.count > ring.size:
            return True  # refused when it is loaded
        first = ring.following(job.count)
        return all(first >= held.stop or held.start >= first + job.count for _, held in self._lists)

    def _slices(self, step: _Step) -> int:
        expert = self._tilings[step.job.layer]
        return (expert.up if step.part == Part.UP else expert.down).k_slices

    def _load_job(self, step: _Step) -> None:
        """Emit the loads of an expert's token list, where the host knows it, and requantisation words."""
        work, job = self._work, step.job
        job.loaded = True
        if isinstance(job, RoutedJob):
            load_list(work, work.every_tier, job)
        self._lists.append((step.number, range(job.entry, job.entry + job.count)))
        job.words = work.places.expert_words[step.number % len(work.places.expert_words)]
        count = work.residence.gang_words(self._tilings[job.layer].down.inputs)
        words = [work.experts.gang_words(job.layer, addressed(job), tier) for tier in range(work.config.tiers)]
        work.emitter.loads(
            f"{job.name} words",
            {"dest_tiers": 1 << np.arange(len(words)), "addr": np.array([own.addr for own in words])},
            dest_kind=LoadDest.PARAMETER, group=words[0].group, dest_base=job.words, count=count,
            **slot_fields(job, work.experts.stride(job.layer, "gang_words")),
        )  # fmt: skip

    def run(self, layer: int) -> None:
        """Emit a layer's experts."""
        while self._work.background:
            self._work.background.popleft()()
        self._fill()
        while self._ready and self._ready[0][0].job.layer == layer:
            step, base, tag = self._ready.popleft()
            self._emit(step, base, tag)
            self._left[step.number] -= 1
            self._fill()

    def _emit(self, step: _Step, base: int, tag: int) -> None:
        work, places, job, share = self._work, self._work.places, step.job, step.share
        expert, constants = self._tilings[job.layer], work.constants_of(job.layer).expert(job.expert)
        words = places.words["experts"]
        h = words["h"] + step.parity * places.chunk * expert.inner_words
        common = {
            "tier_base": 0, "tier_count": share.tiers, "mapping": Mapping3D.N if share.tiers > 1 else Mapping3D.ALONE,
            "tokens": min(places.chunk, job.count - step.first), "tag": tag, "list_base": job.entry + step.first,
            "n_tiles": share.each, "vcache_base": base, "param_base": job.words + step.word,
            "k_slices": self._slices(step), **job.slot,
        }  # fmt: skip
        if step.part == Part.UP:
            work.emitter.gemm(
                f"{job.name} up", **common, act_base=words["x"], act_list=1, mode=Mode.SWIGLU,
                shift=constants.up_shift, post_mult=constants.post_mult, post_shift=constants.post_shift,
                dest_kind=Dest.ACTIVATION, dest_tiers=1,
                dest_base=h + share.first * work.config.columns // 2 // work.config.rows,
                dest_stride=expert.inner_words,
            )  # fmt: skip
        else:
            work.emitter.gemm(
                f"{job.name} down", **common, act_base=h, act_stride=expert.inner_words, dest_list=1,
                mode=Mode.REQUANT16, shift=constants.down_shift, dest_kind=Dest.COMBINE, dest_base=share.first,
                accumulate=1,
            )  # fmt: skip
