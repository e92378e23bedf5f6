# SPDX-License-Identifier: Apache-2.0
"""Experts of one micro-batch beside the attention of another; weights stay on the chip until both have used them.

An expert runs on one tier, or on a gang of several, each with an equal part of the output tiles: the tiers of a gang
have as much to do as each other, however the tokens choose. Loads and instructions are more, and the tiers wait for
each other; which is shorter, the cycle model says.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from hdl.isa import Format, LoadDest
from scheduler.models.description import Experts
from scheduler.plan.limits import LoweringError
from scheduler.plan.pinned import PINNED_HIGH_TAG, PINNED_TAG, resident
from scheduler.plan.residence import Run, up_step
from scheduler.stream.emit.expert_jobs import Jobs
from scheduler.stream.emit.experts import ListsFullError, RoutedJob, RoutedLists, take_entries
from scheduler.stream.emit.job_table import NEVER
from scheduler.stream.emit.tiers import (
    TierJob,
    down,
    load_parts,
    load_piece,
    load_words,
    pieces_of,
    tiling_of,
    up,
)
from scheduler.stream.emit.work import Work

__all__ = ["ExpertWaves", "SharedExperts"]

LOADS_AHEAD = 0
"""Cycles of loads that wait in the queues, by the forecast, before more weights are asked for: what attention loads
comes behind them."""
WAVES_AHEAD = 256
"""The same for the waves of a tier."""
MOST_WAVES = 512
"""Most waves of one GEMM."""


@dataclass(eq=False)
class Weights:
    """An expert's weights on a tier or a gang, from their load to their last use.

    Attributes
    ----------
    layer, tier : int
        Layer; tier, or number of the gang.
    users : int
        Jobs that still need them.
    job : TierJob
        The first of these.
    half : bool
        Whether the loads of high planes that come early were emitted.
    loaded : bool
        Whether all loads were.
    place, tag, words : int
        Where they lie then.
    ready : int
        Cycle in which they are expected.
    end : int
        Cycle in which the last job so far is expected to be done.
    """

    layer: int
    tier: int
    users: int
    job: TierJob
    half: bool = False
    loaded: bool = False
    place: int = 0
    tag: int = -1
    words: int = 0
    ready: int = 0
    end: int = 0

    @property
    def stays(self) -> bool:
        """Whether they are kept for the next step."""
        return self.tag in (PINNED_TAG, PINNED_HIGH_TAG)

    @property
    def waits(self) -> bool:
        """Whether they are loaded only if the machine's routing needs them: not before it is known."""
        return bool(self.job.slot) and self.job.slot_loads and (self.half or not self.job.early)


@dataclass(eq=False)
class _Job:
    """A micro-batch's tokens of an expert."""

    job: TierJob
    weights: Weights


@dataclass(eq=False)
class _Queue:
    """What a tier has to do for a micro-batch in a layer."""

    ups: deque[tuple[_Job, int]] = field(default_factory=deque)
    downs: deque[tuple[_Job, int, int]] = field(default_factory=deque)
    open: deque[tuple[bool, _Job, int, int, Run, bool]] = field(default_factory=deque)


class _LayerWords:
    """Requantisation words of experts that run on gangs: those of all experts of a layer are loaded at once.

    Parameters
    ----------
    work : Work
    gang : int
        Tiers of a gang.

    Raises
    ------
    LoweringError
        There is no room for those of two layers, or of all where there are fewer.
    """

    def __init__(self, work: Work, gang: int) -> None:
        self._work = work
        self._gang = gang
        kinds = [kind.mlp for kind in work.tiling.kinds if isinstance(kind.mlp, Experts)]
        self._size = max(mlp.count * work.tiling.expert(mlp.intermediate).words // gang for mlp in kinds)
        base, layers = work.places.expert_words[0], len(work.tiling.model.layers)
        turns = min(layers, (work.config.parameter_words - base) // self._size)
        if turns < min(2, layers):
            raise LoweringError(
                f"experts on gangs: requantisation words of two layers take {2 * self._size} beside {base}; "
                f"parameter_words is {work.config.parameter_words}"
            )
        self._bases = [base + turn * self._size for turn in range(turns)]
        self.turns = turns
        """Layers whose words are on the chip at a time."""
        self._loaded: set[int] = set()

    def load(self, job: TierJob) -> int:
        """Emit the loads of the words of a job's layer, unless they were; return where its expert's begin."""
        work, layer = self._work, job.layer
        base, mlp = self._bases[layer % len(self._bases)], work.layer(layer).mlp
        assert isinstance(mlp, Experts)
        each = tiling_of(work, layer).words // self._gang
        if layer not in self._loaded:
            self._loaded.add(layer)
            for place in range(self._gang):
                words = work.experts.part_words(layer, self._gang, place)
                tiers = sum(1 << tier for tier in range(place, work.config.tiers, self._gang))
                work.emitter.load(
                    "expert words", dest_kind=LoadDest.PARAMETER, dest_tiers=tiers, group=words.group, dest_base=base,
                    count=mlp.count * each, addr=words.addr,
                )  # fmt: skip
        return base + job.expert * each


class SharedExperts:
    """Experts of all layers and micro-batches.

    Parameters
    ----------
    work : Work
        What a step's emission shares.
    jobs : Jobs
        Of every layer and micro-batch.
    tokens : sequence of int
        Of each micro-batch.
    gang : int
        Tiers that run an expert together, each with an equal part of the output tiles; a divisor of the tiers.

    Attributes
    ----------
    gang : int
    bases : tuple of int
        First tiles of the places for weights, the same in all tiers.
    """

    def __init__(self, work: Work, jobs: Jobs, tokens: Sequence[int], gang: int = 1) -> None:
        assert gang == 1 or work.pinned is None  # what stays from step to step lies on single tiers
        self._work = work
        self._tokens = tokens
        self.gang = gang
        size = work.residence.piece_tiles // gang
        self.bases = tuple(base + part * size for base in work.places.piece_buffers for part in range(gang))
        self._layer_words = _LayerWords(work, gang) if gang > 1 else None
        tiers, self._places = work.config.tiers // gang, len(self.bases)
        self._held: list[list[Weights | None]] = [[None] * self._places for _ in range(tiers)]
        self._pinned = 0 if work.pinned is None else work.pinned.places
        self._coming: deque[Weights] = deque()
        self._lists = RoutedLists(work)
        self.halves = [[0, 1] for _ in range(tiers)]
        """Of each tier, the free halves of the place for what lies between the projections."""
        self._jobs: list[list[list[list[_Job]]]] = []  # by layer, micro-batch, tier
        for layer, own in enumerate(jobs):
            self._jobs.append(self._deal(layer, own))

    def _dense_load(self, layer: int) -> npt.NDArray[np.float64]:
        """Return what dense matrices keep each tier busy with, in tokens of an expert, for each micro-batch."""
        work, kind = self._work, self._work.layer(layer)
        found = np.zeros((work.config.tiers, len(self._tokens)))
        if not isinstance(kind.mlp, Experts):
            return found
        for name, shares in work.residence.shares[kind].items():
            for share in shares:
                slices = work.residence.matrices[kind][name].k_slices
                found[: share.tiers] += np.array(self._tokens) * slices * share.each
        found /= tiling_of(work, layer).tiles
        gangs: npt.NDArray[np.float64] = found.reshape(-1, self.gang, len(self._tokens)).sum(axis=1)
        return gangs

    def _deal(self, layer: int, jobs: Sequence[Sequence[TierJob]]) -> list[list[list[_Job]]]:
        """Give experts to tiers, those with the most tokens first, and bring their weights into an order."""
        tiers = self._work.config.tiers // self.gang
        tokens = np.zeros((len(jobs), 1 + max((j.expert for own in jobs for j in own), default=0)), np.int64)
        for number, own in enumerate(jobs):
            for job in own:
                tokens[number, job.expert] = job.expected or job.count
        load = self._dense_load(layer)
        experts: list[list[int]] = [[] for _ in range(tiers)]
        share = 1 / np.maximum(1, tokens.sum(axis=1))
        pinned = self._pinned_weights(layer, jobs)
        for expert, weights in pinned.items():
            load[weights.tier] += tokens[:, expert]
        others = [e for e in np.flatnonzero(tokens.sum(axis=0)).tolist() if e not in pinned]
        places = self._places - self._pinned
        for expert in sorted(others, key=lambda e: (-int(tokens[:, e].sum()), e)):
            open_ = [t for t in range(tiers) if len(experts[t]) < places] or list(range(tiers))
            tier = min(open_, key=lambda t: (float(((load[t] + tokens[:, expert]) * share).max()), t))
            load[tier] += tokens[:, expert]
            experts[tier].append(expert)
        by_expert = [{job.expert: job for job in own} for own in jobs]
        found: list[list[list[_Job]]] = [[[] for _ in range(tiers)] for _ in jobs]
        kept: list[list[Weights]] = [[] for _ in range(tiers)]
        passing: list[list[list[Weights]]] = [[[] for _ in range(tiers)] for _ in jobs]
        for expert, weights in pinned.items():
            for number, jobs_of in enumerate(by_expert):
                if expert in jobs_of:
                    found[number][weights.tier].append(_Job(jobs_of[expert], weights))
            if not weights.loaded:
                kept[weights.tier].append(weights)
        for tier, own_experts in enumerate(experts):
            many = len(own_experts) if len(own_experts) <= places else places - 1
            for place, expert in enumerate(own_experts):
                users = [n for n, own in enumerate(by_expert) if expert in own]
                shared: Weights | None = None
                for number in users:
                    job = by_expert[number][expert]
                    if place >= many:
                        weights = Weights(layer, tier, 1, job)
                        passing[number][tier].append(weights)
                    elif shared is None:
                        weights = shared = Weights(layer, tier, len(users), job)
                        kept[tier].append(weights)
                    else:
                        weights = shared
                    found[number][tier].append(_Job(job, weights))
        coming = [
            own[place] for group in (kept, *passing) for place in range(max(map(len, group), default=0))
            for own in group if place < len(own)
        ]  # fmt: skip
        # Those first that can come early; of some, only the high planes can.
        self._coming.extend(one for one in coming if not one.waits)
        self._coming.extend(one for one in coming if one.waits or one.job.early)
        return found

    def _pinned_weights(self, layer: int, jobs: Sequence[Sequence[TierJob]]) -> dict[int, Weights]:
        """Return the weights, by expert, of jobs whose expert stays in V-Cache from step to step."""
        work, found = self._work, dict[int, Weights]()
        if work.pinned is None:
            return found
        for job in (job for own in jobs for job in own if job.expert not in found):
            at = work.pinned.place_of(layer, job.expert)
            if at is not None:
                tier, place = at
                found[job.expert] = Weights(
                    layer, tier, 1 << 30, job, loaded=resident(layer, job.expert, job.high) in work.on_chip,
                    place=place, tag=PINNED_HIGH_TAG if job.high else PINNED_TAG,
                    words=work.places.expert_words[place],
                )  # fmt: skip
        return found

    # Loads.

    routed = -1
    """The last layer whose routing the machine knows, where it finds it."""
    done = False
    """The loads of weights are a chain that goes on beside all layers."""

    @property
    def ready(self) -> int:
        """Cycle in which the next weights can be loaded."""
        if not self._coming or (self._coming[0].waits and self._coming[0].layer > self.routed):
            return NEVER
        place = self._place_for(self._coming[0])
        if place is None or self._takes_words(self._coming[0].layer):
            return NEVER
        held = self._held[self._coming[0].tier][place]
        return max(self._work.emitter.clock.loads - LOADS_AHEAD, held.end if held else 0)

    def _takes_words(self, layer: int) -> bool:
        """Return whether a layer's requantisation words would take the place of those that are still needed."""
        if self._layer_words is None:
            return False
        oldest = layer - self._layer_words.turns
        return any(own is not None and own.users and own.layer <= oldest for held in self._held for own in held)

    def _place_for(self, weights: Weights) -> int | None:
        """Return the place of weights that stay, or the one that has been free for the longest."""
        if weights.stays or weights.half:
            return weights.place
        held = self._held[weights.tier]
        free = [place for place in range(self._pinned, len(held)) if (own := held[place]) is None or not own.users]
        return min(free, key=lambda place: one.end if (one := held[place]) else -1, default=None)

    def step(self) -> None:
        """Emit the loads of the next weights."""
        work, weights = self._work, self._coming.popleft()
        place = self._place_for(weights)
        assert place is not None
        job, before = weights.job, work.emitter.layer
        plane: Format | None = None
        if weights.stays:
            wanted, other = (resident(weights.layer, job.expert, high) for high in (job.high, not job.high))
            plane = Format.LOW if other in work.on_chip and not job.high else None
            work.on_chip.discard(other)
            work.on_chip.add(wanted)
        elif not weights.half:
            self._held[weights.tier][place] = weights
            weights.tag = work.next_tag()
        weights.place, early = place, job.early and not weights.half
        weights.loaded, weights.half = not early, early
        work.emitter.layer = weights.layer
        if job.early:
            plane = Format.HIGH if early else Format.LOW
        if self._layer_words is None:
            job.words, piece = work.places.expert_words[place], pieces_of(work, job.layer)[0]
            if not early:
                load_words(work, weights.tier, job)
            weights.ready = load_piece(work, weights.tier, job, piece, self.bases[place], weights.tag, plane)
        else:
            job.words = self._layer_words.load(job)
            weights.ready = load_parts(work, weights.tier * self.gang, self.gang, job, self.bases[place], weights.tag)
        weights.words = job.words
        work.emitter.layer = before

    def load_until(self, weights: Weights) -> None:
        """Emit the loads of weights and of all that come before."""
        while not weights.loaded:
            self.step()

    def load_lists(self, layer: int, batch: int) -> None:
        """Emit the loads of a layer's token lists, where the host knows the routing."""
        work = self._work
        for tier, queue in enumerate(self._jobs[layer][batch]):
            known = [one.job for one in queue if isinstance(one.job, RoutedJob)]
            entries, count = [job.entries(work) for job in known], sum(job.count for job in known)
            if not count:
                continue
            leader = tier * self.gang
            if not self._lists.room(leader, count):
                raise ListsFullError(
                    f"token lists of layer {layer}: tier {leader} has no room beside those that are still needed"
                )
            first = take_entries(work, leader, layer, count)
            symbol = work.area.add(np.concatenate(entries).tobytes())
            work.emitter.load(
                "token list", dest_kind=LoadDest.LIST, dest_tiers=((1 << self.gang) - 1) << leader,
                group=symbol.group, dest_base=first, count=count, addr=symbol.addr,
            )  # fmt: skip
            for job in known:
                job.entry = first
                first += job.count
                self._lists.hold(leader, job)

    def waves(self, layer: int, batch: int) -> ExpertWaves:
        """Return the GEMMs of a layer's experts for a micro-batch."""
        return ExpertWaves(self._work, self, layer, self._jobs[layer][batch])


class ExpertWaves:
    """The GEMMs of a layer's experts for one micro-batch, as a chain.

    Attributes
    ----------
    end : int
        Cycle in which all are expected to be done.
    """

    def __init__(self, work: Work, experts: SharedExperts, layer: int, jobs: list[list[_Job]]) -> None:
        self._work = work
        self._experts = experts
        self._layer = layer
        self.end = 0
        self._queues = [
            _Queue(deque((one, first) for one in own for first in range(0, one.job.count, work.places.chunk)))
            for own in jobs
        ]

    @property
    def done(self) -> bool:
        """Whether nothing is left."""
        return not any(queue.ups or queue.downs or queue.open for queue in self._queues)

    def _free(self, tier: int) -> int:
        gang = self._experts.gang
        return max(self._work.emitter.clock.tiers[tier * gang : (tier + 1) * gang])

    def _ready(self, tier: int) -> int:
        queue = self._queues[tier]
        free = self._free(tier) - WAVES_AHEAD
        if queue.open:
            return max(free, queue.open[0][1].weights.ready - WAVES_AHEAD)
        if not queue.downs and not (queue.ups and self._experts.halves[tier]):
            return NEVER
        weights = queue.downs[0][0].weights if queue.downs else queue.ups[0][0].weights
        if not weights.loaded:
            return max(free, self._experts.ready)
        return max(free, weights.ready - WAVES_AHEAD)

    @property
    def ready(self) -> int:
        """Cycle in which the next GEMM can be emitted."""
        return min(map(self._ready, range(len(self._queues))))

    def step(self) -> None:
        """Emit the next GEMM."""
        tier = min(range(len(self._queues)), key=self._ready)
        work, queue = self._work, self._queues[tier]
        before, work.emitter.layer = work.emitter.layer, self._layer
        if not queue.open:
            self._open(tier)
        is_up, one, first, parity, run, last = queue.open.popleft()
        expert, (up_run, _) = tiling_of(work, self._layer), pieces_of(work, self._layer)[0].runs
        base, weights, gang = self._experts.bases[one.weights.place], one.weights, self._experts.gang
        if is_up:
            base += run.first * expert.up.k_slices
            up(work, tier * gang, one.job, first, parity, run, base, weights.tag, weights.ready, gang)
        else:
            base += up_run.count // gang * expert.up.k_slices + run.first * expert.down.k_slices
            end = down(work, tier * gang, one.job, first, parity, run, base, weights.tag, weights.ready, gang)
            self.end, weights.end = max(self.end, end), max(weights.end, end)
            if last:
                self._experts.halves[tier].append(parity)
            if last and first + work.places.chunk >= one.job.count:
                weights.users -= 1
                one.job.done = True
        work.emitter.layer = before

    def _open(self, tier: int) -> None:
        """Choose what a tier does next, and cut it so that what attention wants of the tier does not wait long."""
        work, queue = self._work, self._queues[tier]
        halves = self._experts.halves[tier]
        is_up = bool(queue.ups and halves) and (not queue.downs or self._is_there(tier))
        if is_up:
            one, first = queue.ups.popleft()
            self._experts.load_until(one.weights)
            one.job.words = one.weights.words
            parity = halves.pop(0)
            queue.downs.append((one, first, parity))
        else:
            one, first, parity = queue.downs.popleft()
        run, expert = pieces_of(work, self._layer)[0].runs[0 if is_up else 1], tiling_of(work, self._layer)
        gang = self._experts.gang
        if gang > 1:  # a tier's output tiles follow those of the tier below: all in one instruction
            queue.open.append((is_up, one, first, parity, Run(run.part, 0, run.count // gang), True))
            return
        tokens = max(1, (one.job.expected or one.job.count) - first)
        each = min(tokens, work.places.chunk) * (expert.up if is_up else expert.down).k_slices
        step = up_step(work.config) if is_up else 2  # a GEMM makes whole words of what lies between the projections
        size = max(step, MOST_WAVES // each // step * step)
        for at in range(0, run.count, size):
            many = min(size, run.count - at)
            part = Run(run.part, run.first + at, many)
            queue.open.append((is_up, one, first, parity, part, at + many == run.count))

    def _is_there(self, tier: int) -> bool:
        """Return whether a tier's next weights are, by the forecast."""
        weights = self._queues[tier].ups[0][0].weights
        return weights.loaded and weights.ready <= self._free(tier) + WAVES_AHEAD
