# SPDX-License-Identifier: Apache-2.0
"""What micro-batches have to do for each expert: tokens that the host knows, or slots by number that ROUTE fills.

A slot by number is an expert's own: its weights are loaded before the machine has found the routing, and stay for the
other micro-batches. With as many tokens as serving has, nearly all experts are used.
"""

from __future__ import annotations

from collections.abc import Sequence

from scheduler.memory.placement import Placement
from scheduler.models.description import Experts
from scheduler.ops.batch import MicroBatch, Routing
from scheduler.plan.limits import LoweringError
from scheduler.stream.emit.experts import reduced, routed_jobs
from scheduler.stream.emit.slots import score_fields
from scheduler.stream.emit.tiers import TierJob
from scheduler.stream.emit.work import Work

__all__ = ["Jobs", "NumberedRoutes", "host_jobs"]

LIKELY = 2.0
"""Tokens from which on an expert's weights are loaded although the machine does not know yet that it needs them."""

LIKELY_HIGH = 1.5
"""The same for high planes alone, where scores decide about the low ones."""

Jobs = list[list[Sequence[TierJob]]]
"""For each layer, for each micro-batch: a job for each expert that has, or may have, tokens."""


def host_jobs(work: Work, batches: Sequence[MicroBatch], routing: Sequence[Routing | None]) -> Jobs:
    """Return the jobs of micro-batches whose routing is known; experts are as important as for all of them together."""
    found: Jobs = []
    for layer, route in enumerate(routing):
        known = None if route is None or not route.experts.size else route  # a layer without experts
        less = ([], []) if known is None else reduced(work, layer, known)
        found.append(
            [[] if known is None else routed_jobs(layer, _rows(known, b), *less, first=b.first) for b in batches]
        )
    return found


def _rows(route: Routing, batch: MicroBatch) -> Routing:
    return Routing(route.experts[batch.first : batch.end], route.gates[batch.first : batch.end])


class NumberedRoutes:
    """Routing tables and token lists of micro-batches, each in a place of its own.

    A micro-batch's ROUTE overwrites what its experts of the layer before have done with. Those of another micro-batch
    may still be under way.

    Parameters
    ----------
    work : Work
        What a step's emission shares.
    batches : sequence of MicroBatch

    Raises
    ------
    LoweringError
        The machine has too few slots for all tables, several ROUTEs would each find how important experts are, or
        scores decide and all high planes lie in one group.
    """

    def __init__(self, work: Work, batches: Sequence[MicroBatch]) -> None:
        scored = any(layer.scored for layer in work.constants.layers)
        if len(batches) > 1 and scored:
            raise LoweringError("micro-batches: experts are loaded as the tokens of the whole step ask for")
        if scored and work.experts.placement == Placement.ONE_GROUP:
            others = ", ".join(placement for placement in Placement if placement != Placement.ONE_GROUP)
            raise LoweringError(
                f"slots: placement {work.experts.placement}; the machine may look for the plane of a reduced expert in "
                f"either group: where scores decide, use {others}"
            )
        self._work = work
        self._batches = batches
        mlps = [kind.mlp for kind in work.tiling.kinds if isinstance(kind.mlp, Experts)]
        self._slots = max((mlp.count for mlp in mlps), default=1)
        self._chosen = max((mlp.chosen for mlp in mlps), default=1)
        if len(batches) * self._slots > work.config.expert_slots:
            raise LoweringError(
                f"micro-batches: {len(batches)} routing tables of {self._slots} slots; expert_slots is "
                f"{work.config.expert_slots}"
            )

    def jobs(self) -> Jobs:
        """Return the jobs."""
        return [
            [self._jobs(layer, number) for number in range(len(self._batches))]
            for layer in range(len(self._work.tiling.model.layers))
        ]

    def _jobs(self, layer: int, number: int) -> list[TierJob]:
        mlp, batch = self._work.layer(layer).mlp, self._batches[number]
        if not isinstance(mlp, Experts):
            return []
        tokens, first = batch.end - batch.first, number * self._slots
        scored = self._work.constants_of(layer).scored
        shares = self._work.constants_of(layer).shares or (1 / mlp.count,) * mlp.count
        return [
            TierJob(
                layer=layer, name=f"expert {expert}", expert=expert, count=tokens,
                expected=max(1, min(tokens, round(tokens * mlp.chosen * shares[expert]))),
                slot={"slot_en": 1, "slot": first + expert},
                slot_loads=scored or self._unlikely(layer, expert, tokens * mlp.chosen * shares[expert]),
                scored=scored, numbered=True,
                early=scored and self._work.early_planes and tokens * mlp.chosen * shares[expert] >= LIKELY_HIGH,
            )
            for expert in range(mlp.count)
        ]  # fmt: skip

    def _unlikely(self, layer: int, expert: int, expected: float) -> bool:
        """Return whether an expert's weights had better wait until the machine knows that it needs them."""
        pinned = self._work.pinned
        stays = pinned is not None and pinned.place_of(layer, expert) is not None
        return len(self._batches) == 1 and expected < LIKELY and not stays

    def emit(self, layer: int, number: int) -> None:
        """Emit a micro-batch's ROUTE, behind the choices of all its tokens."""
        work, batch, places, tiling = self._work, self._batches[number], self._work.places, self._work.tiling
        mlp, tokens = work.layer(layer).mlp, batch.end - batch.first
        assert isinstance(mlp, Experts)
        work.emitter.route(
            "route", tokens=tokens, choices=mlp.chosen, experts=mlp.count, s_base=places.scalars["experts"]["choice"],
            a_base=places.rows["experts"]["gates"], a_stride=1,
            list_base=places.list_entries[0] + batch.first * self._chosen,
            source_base=batch.first * tiling.hidden_words, source_stride=tiling.hidden_words,
            dest_base=batch.first * tiling.hidden_rows, dest_stride=tiling.hidden_rows,
            slot_base=number * self._slots, by_number=1, **score_fields(work.constants_of(layer).thresholds),
        )  # fmt: skip
