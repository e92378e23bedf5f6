# SPDX-License-Identifier: Apache-2.0
"""Loads and GEMMs of experts on single tiers, whole or in pieces, for both ways of knowing the routing."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from hdl.config import ADDRESS_UNIT
from hdl.isa import Dest, Format, LoadDest, Mapping3D, Mode
from scheduler.memory.placement import Part
from scheduler.models.description import Experts
from scheduler.plan.residence import ExpertPiece, Run
from scheduler.plan.tiling import ExpertTiling
from scheduler.stream.emit.work import Work

__all__ = [
    "TierJob",
    "TierRunner",
    "TokenLists",
    "addressed",
    "down",
    "load_parts",
    "load_piece",
    "load_words",
    "pieces_of",
    "plane_loads",
    "run_whole",
    "slot_fields",
    "tiling_of",
    "up",
]  # fmt: skip


@dataclass(eq=False, kw_only=True)
class TierJob:
    """One expert on one tier.

    Attributes
    ----------
    layer : int
    name : str
        For the timeline.
    expert : int
        Whose weights are loaded; of a slot by falling counts, 0.
    count : int
        Tokens; with a slot, the most that there can be.
    high : bool
        Of its weights only the high nibbles are loaded, half the bytes.
    slot : dict of str to int
        The fields that make an instruction follow a slot; empty where the routing is known.
    slot_loads : bool
        Whether its loads follow the slot too; slots by number have one expert's weights for all steps.
    scored : bool
        Whether these loads bring what the slot's importance asks for.
    numbered : bool
        The slot is the expert's own: where its planes lie is known.
    early : bool
        With `scored`: the high planes do not follow the slot, they come before the machine knows what it needs; what
        follows the slot are low planes.
    expected : int
        Tokens that can be expected; 0: as many as `count`.
    entry : int
        First token-list entry; with a slot, counted from the slot's own.
    words : int
        First requantisation word of the expert on the chip.
    place : int
        Whole experts: which of the tier's places its weights have.
    tag : int
        Whole experts: fill tag.
    loaded : bool
        Whether its first loads have been emitted.
    done : bool
        Whether its last GEMM has been emitted.
    """

    layer: int
    name: str
    expert: int
    count: int
    high: bool = False
    slot: Mapping[str, int] = field(default_factory=dict)
    slot_loads: bool = True
    scored: bool = False
    numbered: bool = False
    early: bool = False
    expected: int = 0
    entry: int = 0
    words: int = 0
    place: int = 0
    tag: int = 0
    loaded: bool = False
    done: bool = False


Job = TypeVar("Job", bound=TierJob)


def tiling_of(work: Work, layer: int) -> ExpertTiling:
    """Return a layer's routed experts in the sizes of the machine."""
    mlp = work.layer(layer).mlp
    assert isinstance(mlp, Experts)
    return work.tiling.expert(mlp.intermediate)


def pieces_of(work: Work, layer: int) -> tuple[ExpertPiece, ...]:
    """Return the pieces of a layer's routed experts."""
    return work.residence.pieces[tiling_of(work, layer).down.inputs]


def slot_fields(job: TierJob, stride: int) -> dict[str, int]:
    """Return the fields of a load that follows a job's slot; none if it does not."""
    follows = job.slot and job.slot_loads
    return {**job.slot, "slot_stride": stride, "scored": int(job.scored)} if follows else {}


def addressed(job: TierJob) -> int:
    """Return the expert whose addresses a job's loads have: the machine counts from the first one to a slot's."""
    return 0 if job.slot and job.slot_loads else job.expert


def load_words(work: Work, tier: int, job: TierJob) -> None:
    """Emit the load of a job's requantisation words."""
    job.loaded = True
    words = work.experts.words(job.layer, addressed(job), job.high)
    stride = slot_fields(job, work.experts.stride(job.layer, "words"))
    work.emitter.load(
        f"{job.name} words", dest_kind=LoadDest.PARAMETER, dest_tiers=1 << tier, group=words.group,
        dest_base=job.words, count=tiling_of(work, job.layer).words, addr=words.addr, **stride,
    )  # fmt: skip


def plane_loads(
    work: Work, job: TierJob, part: Part, tag: int, tile: int = 0, plane: Format | None = None
) -> list[dict[str, int]]:  # fmt: skip
    """Return the fields that say what the loads of a part of a job's weights read, from a tile on.

    Parameters
    ----------
    work : Work
    job : TierJob
    part : Part
    tag : int
        Fill tag that the tiles have when all loads are done.
    tile : int
    plane : Format, optional
        HIGH or LOW: only that plane of the expert itself. HIGH comes in any case, LOW where the slot asks for it.

    Returns
    -------
    list of dict of str to int
        One load, or two where both planes lie in the same group.
    """
    follows = bool(job.slot) and job.slot_loads
    high, low = work.experts.planes(job.layer, part, 0 if follows and not job.numbered else job.expert, tile)
    slot = slot_fields(job, 0 if job.numbered else work.experts.stride(job.layer, part))
    upper = {"format": Format.HIGH, "group": high.group, "addr": high.addr, "tag": tag}
    lower = {"format": Format.LOW, "group": low.group, "addr": low.addr, "tag": tag} | slot
    if plane is not None:
        return [upper if plane == Format.HIGH else lower]
    if job.high:
        return [upper | slot]
    if high.group == low.group:
        # GEMMs wait for the tag of the low plane; where that may not come, the high plane has it too.
        return [upper | {**slot, "scored": 0, "tag": tag if job.scored else work.next_tag()}, lower]
    turned = job.numbered and follows and job.expert % 2  # the machine swaps the groups for an odd expert
    pair = {"format": Format.PAIR, "group": high.group ^ turned, "addr": high.addr, "addr_low": low.addr, "tag": tag}
    return [pair | slot]


def load_piece(
    work: Work, tier: int, job: TierJob, piece: ExpertPiece, base: int, tag: int, plane: Format | None = None
) -> int:  # fmt: skip
    """Emit the loads of a piece of an expert's weights to V-Cache from `base` on; return when they are expected.

    `plane`: see :func:`plane_loads`.
    """
    ready = 0
    expert = tiling_of(work, job.layer)
    for run in piece.runs:
        slices = (expert.up if run.part == Part.UP else expert.down).k_slices
        for fields in plane_loads(work, job, run.part, tag, run.first * slices, plane):
            ready = work.emitter.load(
                f"{job.name} {run.part}", **fields, dest_tiers=1 << tier, dest_base=base, count=run.count * slices
            )
        base += run.count * slices
    return ready


def load_parts(work: Work, tier: int, gang: int, job: TierJob, base: int, tag: int) -> int:
    """Emit the loads of a whole expert to a gang, each tier an equal part of the output tiles of both projections.

    Returns
    -------
    int
        The cycle in which they are expected.
    """
    ready, expert, config = 0, tiling_of(work, job.layer), work.config
    places = np.arange(gang)
    for part, matrix in ((Part.UP, expert.up), (Part.DOWN, expert.down)):
        tiles = matrix.tiles // gang
        apart = places * tiles * config.plane_bytes // ADDRESS_UNIT
        for fields in plane_loads(work, job, part, tag):
            columns: dict[str, npt.NDArray[np.int64]] = {"dest_tiers": 1 << tier + places}
            columns |= {name: fields.pop(name) + apart for name in ("addr", "addr_low") if name in fields}
            ready = work.emitter.loads(f"{job.name} {part}", columns, **fields, dest_base=base, count=tiles)
        base += tiles
    return ready


def _common(tier: int, job: TierJob, first: int, count: int, tag: int, gang: int) -> dict[str, int]:
    """Return the fields of all GEMMs for `count` tokens of a job from `first` on."""
    return {
        "tier_base": tier, "tier_count": gang, "mapping": Mapping3D.N if gang > 1 else Mapping3D.ALONE,
        "tokens": count, "tag": tag, "list_base": job.entry + first, **job.slot,
    }  # fmt: skip


def _expected(job: TierJob, first: int, count: int) -> int | None:
    """Return how many of `count` tokens from `first` on a GEMM with a slot can expect."""
    return min(count, max(1, job.expected - first)) if job.expected else None


def up(
    work: Work, tier: int, job: TierJob, first: int, parity: int, run: Run, base: int, tag: int,
    ready: int | None = None, gang: int = 1,
) -> None:  # fmt: skip
    """Emit some output tiles of an up projection, which can begin in cycle `ready`.

    `tier` is the leader of a gang of `gang` tiers, each of which has as many of them as `run` says.
    """
    places, expert = work.places, tiling_of(work, job.layer)
    constants, words = work.constants_of(job.layer).expert(job.expert), places.words["experts"]
    h = words["h"] + parity * places.chunk * expert.inner_words
    count = min(places.chunk, job.count - first)
    work.emitter.gemm(
        f"{job.name} up", ready=ready, expected=_expected(job, first, count),
        **_common(tier, job, first, count, tag, gang), k_slices=expert.up.k_slices,
        n_tiles=run.count, vcache_base=base, act_base=words["x"], act_list=1, mode=Mode.SWIGLU,
        shift=constants.up_shift, post_mult=constants.post_mult, post_shift=constants.post_shift,
        param_base=job.words + run.first, dest_kind=Dest.ACTIVATION, dest_tiers=1 << tier if gang > 1 else 0,
        dest_base=h + run.first * work.config.columns // 2 // work.config.rows,
        dest_stride=expert.inner_words,
    )  # fmt: skip


def down(
    work: Work, tier: int, job: TierJob, first: int, parity: int, run: Run, base: int, tag: int,
    ready: int | None = None, gang: int = 1,
) -> int:  # fmt: skip
    """Emit some output tiles of a down projection, likewise; return when they are expected."""
    places, expert = work.places, tiling_of(work, job.layer)
    h = places.words["experts"]["h"] + parity * places.chunk * expert.inner_words
    count = min(places.chunk, job.count - first)
    return work.emitter.gemm(
        f"{job.name} down", ready=ready, expected=_expected(job, first, count),
        **_common(tier, job, first, count, tag, gang), k_slices=expert.inner_words,
        n_tiles=run.count, vcache_base=base, act_base=h, act_stride=expert.inner_words, dest_list=1,
        mode=Mode.REQUANT16, shift=work.constants_of(job.layer).expert(job.expert).down_shift,
        param_base=job.words + expert.up.n_tiles // gang + run.first, dest_kind=Dest.COMBINE, dest_base=run.first,
        accumulate=1,
    )  # fmt: skip


def run_whole(
    work: Work,
    queues: Sequence[Sequence[Job]],
    finished: Callable[[int, Job], None],
    begins: Callable[[int, Job], None] | None = None,
) -> None:
    """Emit the GEMMs of the jobs of every tier, in chunks of tokens; experts are on the chip as a whole.

    A chunk's down projection comes after the next chunk's up projection, so that neither waits for the other's drain.

    Parameters
    ----------
    work : Work
        What a step's emission shares.
    queues : sequence of sequences of TierJob
        Jobs of each tier, in order.
    finished : callable
        ``finished(tier, job)`` is called when the last GEMM of a job is in the queue: its place is free then, and the
        next job's loads may be emitted. A job that is not loaded waits until the one before it has finished.
    begins : callable, optional
        ``begins(tier, job)`` is called when the first GEMM of a job is in the queue.
    """

    def emit_up(tier: int, job: Job, first: int, parity: int) -> None:
        run = pieces_of(work, job.layer)[0].runs[0]
        up(work, tier, job, first, parity, run, work.places.piece_buffers[job.place], job.tag)
        if first == 0 and begins is not None:
            begins(tier, job)

    steps = [[(job, first) for job in queue for first in range(0, job.count, work.places.chunk)] for queue in queues]
    for place in range(max((len(s) for s in steps), default=0) + 1):
        for tier, own in enumerate(steps):
            ahead = place < len(own) and own[place][0].loaded
            if ahead:
                emit_up(tier, *own[place], place % 2)
            if 0 < place <= len(own):
                done, first = own[place - 1]
                runs = pieces_of(work, done.layer)[0].runs
                base = work.places.piece_buffers[done.place] + runs[0].count * tiling_of(work, done.layer).up.k_slices
                down(work, tier, done, first, (place - 1) % 2, runs[1], base, done.tag)
                if place == len(own) or own[place][0] is not done:
                    done.done = True
                    finished(tier, done)
            if place < len(own) and not ahead:  # its place has only now become free
                emit_up(tier, *own[place], place % 2)


class TokenLists(Protocol):
    """Loads the token lists of jobs, one after the other, into each tier's memory."""

    def fits(self, tier: int, job: TierJob) -> bool:
        """Return whether a job's list would overwrite none that a GEMM which is to come needs."""
        ...

    def load(self, tier: int, job: TierJob) -> None:
        """Emit its load."""
        ...


class TierRunner:
    """Runs whole experts on single tiers; their weights come ahead of their use and stay until their place is needed.

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
        tiers, places = work.config.tiers, len(work.places.piece_buffers)
        self._held: list[list[TierJob | None]] = [[None] * places for _ in range(tiers)]
        self._users = [[0] * places for _ in range(tiers)]
        self._turn = [0] * tiers

    def run(self, queues: Sequence[Sequence[TierJob]]) -> None:
        """Emit the jobs of every tier.

        No more loads come ahead of the first GEMMs than these need: the dispatcher stands still where a queue is full.
        """
        waiting = [deque(queue) for queue in queues]
        ahead = [0] * len(queues)  # jobs with weights whose first GEMM is still to come

        def load_next(tier: int) -> None:
            if waiting[tier] and not ahead[tier] and self._place(tier, waiting[tier][0]):
                waiting[tier].popleft()
                ahead[tier] += 1

        def begin(tier: int, _: TierJob) -> None:
            ahead[tier] -= 1
            load_next(tier)

        def finish(tier: int, job: TierJob) -> None:
            self._users[tier][job.place] -= 1
            load_next(tier)

        for tier in range(len(queues)):
            load_next(tier)
        run_whole(self._work, queues, finish, begin)

    def _place(self, tier: int, job: TierJob) -> bool:
        """Bring a job's weights to a place, if one is free or has them; return whether there is one."""
        work, held, users = self._work, self._held[tier], self._users[tier]
        if self._lists is not None and not self._lists.fits(tier, job):
            return False
        known = None if job.slot else next((n for n, one in enumerate(held) if one and _same(one, job)), None)
        if known is None:
            places = [(self._turn[tier] + n) % len(held) for n in range(len(held))]
            free = next((place for place in places if not users[place]), None)
            if free is None:
                return False
            job.place, job.tag, job.words = free, work.next_tag(), work.places.expert_words[free]
            self._turn[tier] = free + 1
            held[free] = job
        else:
            job.place, job.tag, job.words = known, held[known].tag, work.places.expert_words[known]  # type: ignore[union-attr]
        users[job.place] += 1
        job.loaded = True
        if self._lists is not None:
            self._lists.load(tier, job)
        if known is None:
            load_words(work, tier, job)
            load_piece(work, tier, job, pieces_of(work, job.layer)[0], work.places.piece_buffers[job.place], job.tag)
        return True


def _same(one: TierJob, other: TierJob) -> bool:
    """Return whether two jobs have the same weights."""
    return (one.layer, one.expert, one.high, one.slot) == (other.layer, other.expert, other.high, other.slot)
