# SPDX-License-Identifier: Apache-2.0
"""Routed experts that all tiers run together, one after the other: each tier has a part of the output tiles.

No tier waits for another whose experts have more tokens, whether the host knows the routing or the machine finds it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hdl.config import ADDRESS_UNIT
from hdl.isa import Dest, LoadDest, Mapping3D, Mode, Opcode
from scheduler.memory.placement import Part
from scheduler.stream.emit.experts import RoutedJob, load_list
from scheduler.stream.emit.tiers import TierJob, addressed, plane_loads, slot_fields, tiling_of
from scheduler.stream.emit.work import Work
from scheduler.stream.table import COL, Columns, Rows, pattern_of

__all__ = ["GangQueues"]


@dataclass(frozen=True, eq=False)
class _Pattern:
    """What the instructions of a share of a matrix have in common, whatever the expert of the layer.

    Attributes
    ----------
    part : Part
    tile : int
        First tile of the share in the matrix.
    word : int
        Requantisation words of the expert before this share's.
    apart : int64 array [tiers]
        Address units from the share's first tile to that of each tier.
    loads : Rows [tiers, columns]
    gemm : Rows [1, columns]
    """

    part: Part
    tile: int
    word: int
    apart: npt.NDArray[np.int64]
    loads: Rows
    gemm: Rows


@dataclass(frozen=True, eq=False)
class _Layer:
    """What the instructions of a layer's experts have in common.

    Attributes
    ----------
    up, down : tuple of _Pattern
        Shares of both matrices.
    apart : int64 array [tiers]
        Address units from the first tier's requantisation words to each tier's.
    words : Rows [tiers, columns]
        Their loads.
    h_words : int
        Activation words of the inner vectors of a chunk of tokens.
    """

    up: tuple[_Pattern, ...]
    down: tuple[_Pattern, ...]
    apart: npt.NDArray[np.int64]
    words: Rows
    h_words: int


@dataclass(frozen=True, eq=False)
class _Step:
    """A share of one matrix of an expert for some of its tokens.

    Attributes
    ----------
    job : TierJob
    number : int
        Jobs before this one.
    first : int
        First token of the job.
    layer : _Layer
    pattern : _Pattern
    parity : int
        Which of the two places h has.
    """

    job: TierJob
    number: int
    first: int
    layer: _Layer
    pattern: _Pattern
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
        self._layers: dict[tuple[int, bool, bool, bool, bool], _Layer] = {}
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
        neither waits for the other's drain. Experts whose high planes alone are loaded come two at a time where these
        lie in different groups, share by share in turn: else one group after the other would be idle.
        """
        pairs, alone = self._pairs(jobs)
        waiting: list[_Step] = []
        for job in alone:
            for first in range(0, job.count, self._work.places.chunk):
                ups, downs = self._cut(job, first)
                self._steps.append(ups[0])
                self._steps.extend(waiting)
                self._steps.extend(ups[1:])
                waiting = downs
            self._jobs += 1
        self._steps.extend(waiting)
        for pair in pairs:
            both = []
            for job in pair:
                both.append(self._cut(job, 0))
                self._jobs += 1
            for one, other in zip(*both, strict=True):
                self._steps.extend(step for steps in zip(one, other, strict=True) for step in steps)

    def _pairs(self, jobs: Sequence[TierJob]) -> tuple[list[tuple[TierJob, TierJob]], list[TierJob]]:
        """Return the jobs that run two at a time, and the others."""
        groups: tuple[list[TierJob], list[TierJob]] = ([], [])
        for job in jobs:
            if job.high and job.count <= self._work.places.chunk:
                groups[self._work.experts.planes(job.layer, Part.UP, job.expert)[0].group].append(job)
        pairs = list(zip(*groups, strict=False))
        taken = {id(job) for pair in pairs for job in pair}
        return pairs, [job for job in jobs if id(job) not in taken]

    def _cut(self, job: TierJob, first: int) -> tuple[list[_Step], list[_Step]]:
        """Return the steps of a chunk of a job's tokens."""
        layer, parity = self._layer(job), self._chunks % 2
        ups, downs = (
            [_Step(job, self._jobs, first, layer, pattern, parity) for pattern in patterns]
            for patterns in (layer.up, layer.down)
        )
        self._left[self._jobs] = self._left.get(self._jobs, 0) + len(ups) + len(downs)
        self._chunks += 1
        return ups, downs

    def _layer(self, job: TierJob) -> _Layer:
        """Return what the instructions of a job's layer have in common."""
        key = job.layer, job.high, bool(job.slot), job.slot_loads, job.scored
        if key not in self._layers:
            self._layers[key] = self._layer_anew(job)
        return self._layers[key]

    def _layer_anew(self, job: TierJob) -> _Layer:
        work, expert = self._work, self._tilings[job.layer]
        words, patterns, word = work.places.words["experts"], [], 0
        parts = zip((Part.UP, Part.DOWN), work.residence.gangs[expert.down.inputs], strict=True)
        for share, part in ((share, part) for part, shares in parts for share in shares):
            slices = (expert.up if part == Part.UP else expert.down).k_slices
            tiles, places = share.each * slices, np.arange(share.tiers)
            loads = pattern_of(
                Opcode.LOAD, share.tiers, dest_tiers=1 << places, count=tiles,
                **slot_fields(job, work.experts.stride(job.layer, part)),
            )  # fmt: skip
            gemm = {
                "tier_count": share.tiers, "mapping": Mapping3D.N if share.tiers > 1 else Mapping3D.ALONE,
                "n_tiles": share.each, "k_slices": slices, **job.slot,
            }  # fmt: skip
            if part == Part.UP:
                gemm |= {
                    "act_base": words["x"], "act_list": 1, "mode": Mode.SWIGLU, "dest_kind": Dest.ACTIVATION,
                    "dest_tiers": 1, "dest_stride": expert.inner_words,
                    "dest_base": words["h"] + share.first * work.config.columns // 2 // work.config.rows,
                }  # fmt: skip
            else:
                gemm |= {
                    "act_base": words["h"], "act_stride": expert.inner_words, "dest_list": 1, "mode": Mode.REQUANT16,
                    "dest_kind": Dest.COMBINE, "dest_base": share.first, "accumulate": 1,
                }  # fmt: skip
            apart = places * (tiles * work.config.plane_bytes // ADDRESS_UNIT)
            patterns.append(_Pattern(part, share.first * slices, word, apart, loads, pattern_of(Opcode.GEMM, **gemm)))
            word += share.each
        tiers = np.arange(work.config.tiers)
        loads = pattern_of(
            Opcode.LOAD, len(tiers), dest_kind=LoadDest.PARAMETER, dest_tiers=1 << tiers,
            count=work.residence.gang_words(expert.down.inputs),
            **slot_fields(job, work.experts.stride(job.layer, "gang_words")),
        )  # fmt: skip
        up, down = (tuple(one for one in patterns if one.part == part) for part in (Part.UP, Part.DOWN))
        apart = tiers * work.experts.gang_words_apart(job.layer)
        return _Layer(up, down, apart, loads, work.places.chunk * expert.inner_words)

    def _fill(self) -> None:
        """Emit loads as far as there are buffers."""
        work, buffers = self._work, self._work.places.piece_buffers
        while self._steps and len(self._ready) < self._most:
            step = self._steps[0]
            if self._loadable(step):
                self._steps.popleft()
            elif self._ready:
                return
            else:
                # Nothing is on its way that could make room: what the experts before it still need comes first.
                step = next(one for one in self._steps if one.job.loaded)
                self._steps.remove(step)
            if not step.job.loaded:
                self._load_job(step)
            base, tag, job, pattern = buffers[self._turn % len(buffers)], work.next_tag(), step.job, step.pattern
            self._turn += 1
            for own in plane_loads(work, job, pattern.part, tag, pattern.tile):
                fields: Columns = {COL.dest_base: base, **(_slot_of(job) if job.slot_loads else {})}
                fields |= {getattr(COL, name): own[name] for name in ("format", "tag", "group")}
                fields |= {getattr(COL, n): own[n] + pattern.apart for n in ("addr", "addr_low") if n in own}
                work.emitter.loads_like(f"{job.name} {pattern.part}", pattern.loads, fields)
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

    def _load_job(self, step: _Step) -> None:
        """Emit the loads of an expert's token list, where the host knows it, and requantisation words."""
        work, job = self._work, step.job
        job.loaded = True
        if isinstance(job, RoutedJob):
            load_list(work, work.every_tier, job)
        self._lists.append((step.number, range(job.entry, job.entry + job.count)))
        job.words = work.places.expert_words[step.number % len(work.places.expert_words)]
        words = work.experts.gang_words(job.layer, addressed(job), job.high)
        fields: Columns = {
            COL.dest_base: job.words, COL.group: words.group, COL.addr: words.addr + step.layer.apart,
            **(_slot_of(job) if job.slot_loads else {}),
        }  # fmt: skip
        work.emitter.loads_like(f"{job.name} words", step.layer.words, fields)

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
        work, job, pattern = self._work, step.job, step.pattern
        constants, row = work.constants_of(job.layer).expert(job.expert), pattern.gemm[0]
        h, up = step.parity * step.layer.h_words, pattern.part == Part.UP
        fields: Columns = {
            COL.tokens: min(work.places.chunk, job.count - step.first), COL.tag: tag,
            COL.list_base: job.entry + step.first, COL.vcache_base: base, COL.param_base: job.words + pattern.word,
            COL.shift: constants.up_shift if up else constants.down_shift, **_slot_of(job),
        }  # fmt: skip
        if up:
            fields[COL.post_mult], fields[COL.post_shift] = constants.post_mult, constants.post_shift
            fields[COL.dest_base] = int(row[COL.dest_base]) + h
        else:
            fields[COL.act_base] = int(row[COL.act_base]) + h
        work.emitter.gemm_like(f"{job.name} {pattern.part}", pattern.gemm, fields)


def _slot_of(job: TierJob) -> dict[int, int]:
    """Return the column of an instruction that follows a job's slot."""
    return {COL.slot: job.slot["slot"]} if job.slot else {}
