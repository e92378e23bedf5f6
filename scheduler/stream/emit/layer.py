# SPDX-License-Identifier: Apache-2.0
"""Emits a layer of experts alone: activations in, experts, rows out, for one part of the tokens after the other."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from hdl.isa import LoadDest, StoreFormat
from scheduler.cost.work import gemm_waves, tile_steps
from scheduler.memory.layer import LayerMemory
from scheduler.models.quantise import GATE_BITS
from scheduler.ops.batch import Routing
from scheduler.plan.layer import LayerPlan, Way
from scheduler.stream.emit.emitter import carriers
from scheduler.stream.emit.experts import RoutedJob, RoutedLists, routed_jobs
from scheduler.stream.emit.gang import GangQueues
from scheduler.stream.emit.pieces import PieceRunner
from scheduler.stream.emit.tiers import TierRunner, tiling_of
from scheduler.stream.emit.work import Work

__all__ = ["emit_layer"]

AHEAD = 4
"""Shares of a gang's experts that are loaded before the first GEMM."""


def emit_layer(
    work: Work,
    memory: LayerMemory,
    plan: LayerPlan,
    routing: Sequence[Routing],
    high_only: Collection[int] = (),
) -> list[list[int]]:
    """Emit the layer; return the experts of each tier, or with `Way.GANG` of all tiers together.

    Parameters
    ----------
    work : Work
        Of this layer alone.
    memory : LayerMemory
        Where it lies.
    plan : LayerPlan
        How it runs.
    routing : sequence of Routing
        Experts and gates of the tokens of each part.
    high_only : collection of int
        Experts that run on their high nibbles only, for half the bytes.
    """
    work.emitter.layer = 0
    counts = [len(own.experts) for own in routing]
    by_tier = _by_tier(work, plan, routing)
    runner = TierRunner(work, RoutedLists(work)) if plan.whole else None
    rows = max(counts) * work.tiling.hidden_rows
    work.emitter.store("clear", format=StoreFormat.DISCARD, rows=rows, clear=1)
    _post_to(work, by_tier)
    for number, own in enumerate(routing):
        source, result = memory.inputs[number], memory.outputs[number]
        mask = 1 if plan.way == Way.GANG else sum(1 << t for t, own in enumerate(by_tier) if own)
        work.emitter.load(
            "activations", dest_kind=LoadDest.ACTIVATION, dest_tiers=mask, dest_base=work.places.words["experts"]["x"],
            count=counts[number] * work.tiling.hidden_words, group=source.group, addr=source.addr,
        )  # fmt: skip
        jobs = routed_jobs(0, own, high_only)
        if plan.way == Way.GANG:
            gang = GangQueues(work, [jobs], AHEAD)
            gang.prime()
            gang.run(0)
        else:
            tiers = {expert: tier for tier, own in enumerate(by_tier) for expert in own}
            queues: list[list[RoutedJob]] = [[] for _ in by_tier]
            for job in sorted(jobs, key=lambda j: by_tier[tiers[j.expert]].index(j.expert)):
                queues[tiers[job.expert]].append(job)
            _run_alone(work, runner, queues)
        work.emitter.store(
            "results", format=StoreFormat.INT16, shift=GATE_BITS, group=result.group,
            rows=counts[number] * work.tiling.hidden_rows, addr=result.addr, clear=1,
        )  # fmt: skip
        if number + 1 < len(routing):
            _post_to(work, by_tier)
    return by_tier


def _post_to(work: Work, by_tier: list[list[int]]) -> None:
    """Emit harmless stores: every tier waits for the rows to be clear, and an instruction has two posts."""
    for _ in range(2, sum(map(bool, by_tier)), 2):
        work.emitter.store("clear", **carriers(work.config)["store"])


def _run_alone(work: Work, runner: TierRunner | None, queues: list[list[RoutedJob]]) -> None:
    if runner is not None:
        runner.run(queues)
        return
    pieces = PieceRunner(work, RoutedLists(work))
    pieces.add(queues)
    pieces.run(0)


def _by_tier(work: Work, plan: LayerPlan, routing: Sequence[Routing]) -> list[list[int]]:
    """Return the experts of each tier for the whole batch, so that what a tier holds serves all parts.

    Those with the most tokens come first, each on the tier that is free first. Weights come one expert after the other;
    an expert ends neither before its waves nor before its weights are there.
    """
    numbers, counts = np.unique(np.concatenate([own.experts for own in routing]), return_counts=True)
    order = sorted(zip(numbers.tolist(), counts.tolist(), strict=True), key=lambda own: (-own[1], own[0]))
    if plan.way == Way.GANG:
        return [[expert for expert, _ in order]]
    config, tiles = work.config, tiling_of(work, 0).tiles
    by_tier: list[list[int]] = [[] for _ in range(config.tiers)]
    free, loaded = [0] * config.tiers, 0
    for expert, tokens in order:
        tier = free.index(min(free))
        start = max(loaded, free[tier])
        loaded += tile_steps(config, tiles)
        free[tier] = max(start + gemm_waves(tokens, 1, tiles), loaded + tokens)
        by_tier[tier].append(expert)
    return by_tier
