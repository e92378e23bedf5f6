# SPDX-License-Identifier: Apache-2.0
"""What both ways of running a layer's experts share: loads and GEMMs of one expert on one tier, and their order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from hdl.isa import Dest, Format, LoadDest, Mode
from scheduler.language.work import Work
from scheduler.memory.placement import Part

__all__ = ["LaneJob", "load_job", "run_lanes"]


@dataclass(eq=False, kw_only=True)
class LaneJob:
    """One expert on one tier.

    Attributes
    ----------
    layer : int
    name : str
        For the timeline.
    expert : int
        Whose weights are loaded; with a slot, the expert that addresses count from.
    count : int
        Tokens; with a slot, the most that there can be.
    place : int
        Which of the tier's places for an expert's weights it uses.
    slot : dict of str to int
        The fields that make an instruction follow a slot; empty where the routing is known.
    entry : int
        First token-list entry; with a slot, counted from the slot's own.
    tag : int
        Fill tag.
    loaded : bool
        Whether its loads have been emitted.
    """

    layer: int
    name: str
    expert: int
    count: int
    place: int = 0
    slot: Mapping[str, int] = field(default_factory=dict)
    entry: int = 0
    tag: int = 0
    loaded: bool = False


Job = TypeVar("Job", bound=LaneJob)


def load_job(work: Work, tier: int, job: LaneJob) -> None:
    """Emit the loads of a job's requantisation words and weights."""
    shape = work.shape
    job.tag = work.next_tag()
    job.loaded = True
    name = f"layer{job.layer}.expert{job.expert}"

    def steps(what: str) -> dict[str, int]:
        """Return the slot, and how far the experts' pieces lie apart."""
        return {**job.slot, "slot_stride": work.memory.stride(f"layer{job.layer}.{what}")} if job.slot else {}

    words = work.memory.symbol(f"{name}.words")
    before, work.emitter.layer = work.emitter.layer, job.layer
    work.emitter.load(
        f"{job.name} words", dest_kind=LoadDest.PARAMETER, dest_tiers=1 << tier, group=words.group,
        dest_base=work.chip.slot_words[job.place], count=shape.expert_words, addr=words.units, **steps("words"),
    )  # fmt: skip
    base = work.chip.slots[job.place]
    for part, count in (
        (Part.UP, shape.up_tiles * shape.hidden_words), (Part.DOWN, shape.hidden_rows * shape.inner_words)
    ):  # fmt: skip
        high, low = work.memory.planes(f"{name}.{part}")
        work.emitter.load(
            f"{job.name} {part}", format=Format.PAIR, group=high.group, dest_tiers=1 << tier, dest_base=base,
            count=count, tag=job.tag, addr=high.units, addr_low=low.units, **steps(str(part)),
        )  # fmt: skip
        base += count
    work.emitter.layer = before


def run_lanes(
    work: Work,
    lanes: Sequence[Sequence[Job]],
    finished: Callable[[int, Job], None],
    begins: Callable[[int, Job], None] | None = None,
) -> None:
    """Emit the GEMMs of the jobs of every tier, in chunks of tokens.

    A chunk's down projection comes after the next chunk's up projection, so that neither waits for the other's drain.

    Parameters
    ----------
    work : Work
        What a step's lowering shares.
    lanes : sequence of sequences of LaneJob
        Jobs of each tier, in order.
    finished : callable
        ``finished(tier, job)`` is called when the last GEMM of a job is in the queue: its place is free then, and the
        next job's loads may be emitted. A job that is not loaded waits until the one before it has finished.
    begins : callable, optional
        ``begins(tier, job)`` is called when the first GEMM of a job is in the queue.
    """

    def up(tier: int, job: Job, first: int, parity: int) -> None:
        _up(work, tier, job, first, parity)
        if first == 0 and begins is not None:
            begins(tier, job)

    steps = [[(job, first) for job in lane for first in range(0, job.count, work.chip.chunk)] for lane in lanes]
    for place in range(max((len(s) for s in steps), default=0) + 1):
        for tier, own in enumerate(steps):
            ahead = place < len(own) and own[place][0].loaded
            if ahead:
                up(tier, *own[place], place % 2)
            if 0 < place <= len(own):
                done, first = own[place - 1]
                _down(work, tier, done, first, (place - 1) % 2)
                if place == len(own) or own[place][0] is not done:
                    finished(tier, done)
            if place < len(own) and not ahead:  # its place has only now become free
                up(tier, *own[place], place % 2)


def _common(work: Work, tier: int, job: LaneJob, first: int) -> dict[str, int]:
    """Return the fields of both GEMMs of a chunk, whose first token is `first`."""
    return {
        "tier_base": tier, "tier_count": 1, "tokens": min(work.chip.chunk, job.count - first), "tag": job.tag,
        "list_base": job.entry + first, **job.slot,
    }  # fmt: skip


def _up(work: Work, tier: int, job: LaneJob, first: int, parity: int) -> None:
    shape, chip = work.shape, work.chip
    expert, words = work.model.layers[job.layer].experts.experts[job.expert], chip.words["experts"]
    work.emitter.gemm(
        f"{job.name} up", **_common(work, tier, job, first), k_slices=shape.hidden_words, n_tiles=shape.up_tiles,
        vcache_base=chip.slots[job.place], act_base=words["x"], act_list=1, mode=Mode.SWIGLU, shift=expert.up_shift,
        post_mult=expert.post_mult, post_shift=expert.post_shift, param_base=chip.slot_words[job.place],
        dest_kind=Dest.ACTIVATION, dest_base=words["h"] + parity * chip.chunk * shape.inner_words,
        dest_stride=shape.inner_words,
    )  # fmt: skip


def _down(work: Work, tier: int, job: LaneJob, first: int, parity: int) -> None:
    shape, chip = work.shape, work.chip
    expert = work.model.layers[job.layer].experts.experts[job.expert]
    work.emitter.gemm(
        f"{job.name} down", **_common(work, tier, job, first), k_slices=shape.inner_words, n_tiles=shape.hidden_rows,
        vcache_base=chip.slots[job.place] + shape.up_tiles * shape.hidden_words,
        act_base=chip.words["experts"]["h"] + parity * chip.chunk * shape.inner_words, act_stride=shape.inner_words,
        dest_list=1, mode=Mode.REQUANT16, shift=expert.down_shift,
        param_base=chip.slot_words[job.place] + shape.up_tiles, dest_kind=Dest.COMBINE, accumulate=1,
    )  # fmt: skip
