# SPDX-License-Identifier: Apache-2.0
"""Routed experts when the host knows the routing: each on a tier, weights in buffers, filled ahead of their use."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from hdl.isa import LoadDest
from hdl.numerics.precision import Precision, precisions
from scheduler.cost.work import gemm_waves, tile_steps
from scheduler.models.description import Experts
from scheduler.ops.batch import Routing
from scheduler.plan.limits import LoweringError
from scheduler.stream.emit.pieces import PieceRunner
from scheduler.stream.emit.tiers import TierJob, load_piece, load_words, pieces_of, run_whole, tiling_of
from scheduler.stream.emit.work import Work

__all__ = [
    "ExpertQueues", "ListsFullError", "RoutedJob", "RoutedLists", "load_list", "reduced", "routed_jobs", "take_entries",
]  # fmt: skip


class ListsFullError(LoweringError):
    """More tokens go to the experts of a tier than its list holds."""


@dataclass(eq=False, kw_only=True)
class RoutedJob(TierJob):
    """One expert on one tier, with its tokens.

    Attributes
    ----------
    tokens, gates : arrays [count]
        Tokens that chose it.
    number : int
        Place in the tier's queue, over all layers.
    """

    tokens: npt.NDArray[np.int64]
    gates: npt.NDArray[np.int64]
    number: int = 0

    def entries(self, work: Work) -> npt.NDArray[np.uint16]:
        """Return the token-list entries [count, 4]."""
        table = np.zeros((self.count, 4), dtype="<u2")
        table[:, 0] = self.tokens * work.tiling.hidden_words
        table[:, 1] = self.tokens * work.tiling.hidden_rows
        table[:, 2] = self.gates
        return table


def reduced(work: Work, layer: int, routing: Routing) -> tuple[list[int], list[int]]:
    """Return which experts are loaded in part, and which not at all: what :func:`routed_jobs` takes.

    ROUTE decides likewise in slots mode, for the tokens that it routes.
    """
    thresholds, mlp = work.constants_of(layer).thresholds, work.layer(layer).mlp
    if not thresholds.full or not isinstance(mlp, Experts):
        return [], []
    found = precisions(routing.experts, routing.gates, mlp.count, thresholds)
    high_only, without = (np.flatnonzero(found == what).tolist() for what in (Precision.HIGH, Precision.SKIP))
    return high_only, without


def routed_jobs(
    layer: int, routing: Routing, high_only: Collection[int] = (), without: Collection[int] = (), first: int = 0
) -> list[RoutedJob]:  # fmt: skip
    """Return a job for each expert that some token chose, by number.

    Parameters
    ----------
    layer : int
    routing : Routing
    high_only, without : collection of int
        Experts that run on their high planes only, and those that are left out.
    first : int
        Number of the first token.
    """
    jobs = []
    for expert in sorted(set(np.unique(routing.experts).tolist()) - set(without)):
        tokens, places = np.nonzero(routing.experts == expert)
        gates = routing.gates[tokens, places].astype(np.int64)
        jobs.append(
            RoutedJob(
                layer=layer, name=f"expert {expert}", expert=expert, count=tokens.size, high=expert in high_only,
                tokens=first + tokens, gates=gates,
            )
        )  # fmt: skip
    return jobs


def load_list(work: Work, tiers: int, job: RoutedJob) -> None:
    """Emit the load of a job's token list into the tiers of a mask; what lay there before is overwritten in turn."""
    job.entry = take_entries(work, (tiers & -tiers).bit_length() - 1, job.layer, job.count)
    symbol = work.area.add(job.entries(work).tobytes())
    work.emitter.load(
        f"{job.name} list", dest_kind=LoadDest.LIST, dest_tiers=tiers, group=symbol.group, dest_base=job.entry,
        count=job.count, addr=symbol.addr,
    )  # fmt: skip


class RoutedLists:
    """Token lists of experts on single tiers; what lies there stays until its expert's last GEMM is emitted.

    Parameters
    ----------
    work : Work
        What a step's emission shares.
    """

    def __init__(self, work: Work) -> None:
        self._work = work
        self._held: list[list[tuple[range, RoutedJob]]] = [[] for _ in range(work.config.tiers)]

    def fits(self, tier: int, job: TierJob) -> bool:
        """Return whether a job's list would overwrite none that a GEMM which is to come needs."""
        return self.room(tier, job.count)

    def room(self, tier: int, count: int) -> bool:
        """Return the same of some entries; what is too long for the list has room as soon as nothing is held."""
        held = self._held[tier] = [one for one in self._held[tier] if not one[1].done]
        ring = self._work.lists[tier]
        if not held or count > ring.size:  # what is too long is refused when it is loaded
            return not held
        first = ring.following(count)
        return not any(first < entries.stop and entries.start < first + count for entries, _ in held)

    def load(self, tier: int, job: TierJob) -> None:
        """Emit its load."""
        assert isinstance(job, RoutedJob)
        load_list(self._work, 1 << tier, job)
        self.hold(tier, job)

    def hold(self, tier: int, job: RoutedJob) -> None:
        """Keep a job's entries until it is done."""
        self._held[tier].append((range(job.entry, job.entry + job.count), job))


def take_entries(work: Work, tier: int, layer: int, count: int) -> int:
    """Return the first of some entries of a tier's list."""
    ring = work.lists[tier]
    if count > ring.size:
        raise ListsFullError(
            f"token lists of layer {layer}: {count} entries in tier {tier}; list_depth leaves {ring.size}: run fewer "
            "tokens in a step or raise list_depth"
        )
    return ring.take(count)


class ExpertQueues:
    """Experts of all layers, each on a tier, in the order in which the tier runs them.

    Parameters
    ----------
    work : Work
        What a step's emission shares.
    routing : sequence of Routing or None
        Of every layer; None: one without experts.
    before_keys : int
        Cycles from a layer's begin to its first load of keys.
    """

    def __init__(self, work: Work, routing: Sequence[Routing | None], before_keys: int) -> None:
        self._work = work
        self._before_keys = before_keys
        tiers = work.config.tiers
        self._pieces = None if work.residence.resident and self._whole() else PieceRunner(work)
        self._queues: list[list[RoutedJob]] = [[] for _ in range(tiers)]
        self._layers: list[list[list[RoutedJob]]] = []
        self._load_clock = 0  # forecast: when the loads that were emitted are through
        self._keys_wanted = 0  # forecast: when the next layer first loads keys
        for layer, route in enumerate(routing):
            jobs = [] if route is None else routed_jobs(layer, route, *reduced(work, layer, route))
            queues: list[list[RoutedJob]] = [[] for _ in range(tiers)]
            load = [0] * tiers
            for job in sorted(jobs, key=lambda j: (-self._cost(j), j.expert)):
                tier = min(range(tiers), key=lambda t: (load[t], t))
                load[tier] += self._cost(job)
                queues[tier].append(job)
            for tier, queue in enumerate(queues):
                for job in queue:
                    job.number = len(self._queues[tier])
                    if self._pieces is None:
                        job.place = job.number % len(work.places.piece_buffers)
                        job.words = work.places.expert_words[job.place]
                    self._queues[tier].append(job)
            self._layers.append(queues)
            if self._pieces is not None:
                self._pieces.add(queues)

    def _whole(self) -> bool:
        """Return whether the experts of all layers are loaded as a whole."""
        kinds = enumerate(self._work.tiling.model.layers)
        return all(len(pieces_of(self._work, n)) == 1 for n, kind in kinds if isinstance(kind.mlp, Experts))

    def _load(self, tier: int, job: RoutedJob) -> None:
        """Load a whole expert."""
        work = self._work
        job.tag = work.next_tag()
        before, work.emitter.layer = work.emitter.layer, job.layer
        load_words(work, tier, job)
        load_piece(work, tier, job, pieces_of(work, job.layer)[0], work.places.piece_buffers[job.place], job.tag)
        work.emitter.layer = before

    def _cost(self, job: RoutedJob) -> int:
        """Return the cycles of a job: its waves, or its weights' share of the bandwidth."""
        config, tiles = self._work.config, tiling_of(self._work, job.layer).tiles
        passes = -(-job.count // self._work.places.chunk)
        return max(gemm_waves(job.count, 1, tiles), tile_steps(config, passes * tiles) * config.tiers)

    def prime(self) -> None:
        """Let the experts that have a buffer from the beginning be loaded beside the first layer's attention."""
        if self._pieces is not None:
            for tier in range(self._work.config.tiers):
                self._work.background.append(partial(self._pieces.fill, tier))
            return
        for place in range(len(self._work.places.piece_buffers)):
            for tier, queue in enumerate(self._queues):
                if place < len(queue):
                    self._work.background.append(partial(self._load, tier, queue[place]))

    def load_lists(self, layer: int) -> None:
        """Emit the loads of a layer's token lists."""
        work = self._work
        for tier, queue in enumerate(self._layers[layer]):
            entries, count = [], 0
            for job in queue:
                entries.append(job.entries(work))
                count += job.count
            if not count:
                continue
            first = take_entries(work, tier, layer, count)
            symbol = work.area.add(np.concatenate(entries).tobytes())
            work.emitter.load(
                "token list", dest_kind=LoadDest.LIST, dest_tiers=1 << tier, group=symbol.group, dest_base=first,
                count=count, addr=symbol.addr,
            )  # fmt: skip
            for job in queue:
                job.entry = first
                first += job.count

    def run(self, layer: int) -> None:
        """Emit a layer's experts.

        A buffer is loaded again once its expert's last GEMM is in the queue, when that load can be done before the
        next layer loads keys; else beside that layer's attention, whose own loads it would hold up.
        """
        while self._work.background:
            self._work.background.popleft()()
        if self._pieces is not None:
            self._pieces.run(layer)
            return
        queues = self._layers[layer]
        tiers = self._work.emitter.clock.tiers
        waves = [sum(gemm_waves(job.count, 1, tiling_of(self._work, layer).tiles) for job in queue) for queue in queues]
        self._load_clock = min(tiers)
        end = max(start + own for start, own in zip(tiers, waves, strict=True))
        self._keys_wanted = end + self._before_keys
        run_whole(self._work, queues, self._next_load)

    def _next_load(self, tier: int, done: RoutedJob) -> None:
        following = done.number + len(self._work.places.piece_buffers)
        if following >= len(self._queues[tier]):
            return
        job, expert = self._queues[tier][following], tiling_of(self._work, done.layer)
        load = partial(self._load, tier, job)
        free = self._work.emitter.clock.tiers[tier]
        end = max(self._load_clock, free) + tile_steps(self._work.config, expert.tiles) + expert.words
        if end <= self._keys_wanted or job.layer == done.layer:
            self._load_clock = end
            load()
        else:
            self._work.background.append(load)
