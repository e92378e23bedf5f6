# SPDX-License-Identifier: Apache-2.0
"""Experts in slots mode: a stream that does not know the routing (``docs/vector.md``, section 6).

After the router, ROUTE sorts the chosen experts by falling numbers of tokens into slots. The stream has as many slots
as there can be chosen experts, dealt to the tiers in turn, each with GEMMs for as many tokens as it can have: with
those before it having at least as many, slot s has at most ``tokens * chosen / (s + 1)``. The machine fills in counts,
addresses and experts, and skips what is empty.
"""

from __future__ import annotations

from collections import deque

from hdl.isa.slots import MAX_CHOICES
from scheduler.language.expert_lanes import LaneJob, load_job, run_lanes
from scheduler.language.work import Work
from scheduler.memory.placement import Placement
from scheduler.models.quantise import QuantisedExpert
from scheduler.plan.shape import LoweringError

__all__ = ["SlotQueues"]


class SlotQueues:
    """Slots of all layers; takes the place of :class:`scheduler.language.experts.ExpertQueues`.

    Parameters
    ----------
    work : Work
        What a step's lowering shares.

    Raises
    ------
    LoweringError
        The model's experts do not have their constants in common, or the machine's table or lists are too small.
    """

    def __init__(self, work: Work) -> None:
        self._work = work
        shape, chip = work.shape, work.chip
        if work.memory.placement != Placement.EVEN_ODD:
            raise LoweringError(f"slots: placement {work.memory.placement}; place experts {Placement.EVEN_ODD}")
        if shape.experts > shape.config.expert_slots:
            raise LoweringError(
                f"slots: {shape.experts} experts; the machine has expert_slots of {shape.config.expert_slots}: raise "
                "expert_slots or use a model with fewer experts"
            )
        if shape.chosen > MAX_CHOICES:
            raise LoweringError(f"slots: {shape.chosen} experts a token; ROUTE takes up to {MAX_CHOICES}")
        entries = chip.size.tokens * shape.chosen
        if entries > chip.list_entries[1]:
            raise LoweringError(
                f"slots: {entries} choices of {chip.size.tokens} tokens; list_depth leaves {chip.list_entries[1]} "
                "entries: run fewer tokens in a step or raise list_depth"
            )
        for number, layer in enumerate(work.model.layers):
            constants = {_constants(expert) for expert in layer.experts.experts}
            if len(constants) > 1:
                raise LoweringError(
                    f"slots: layer {number}: its experts differ in up_shift, post_mult, post_shift or down_shift, "
                    "which instructions hold for all of them: quantise the model so that they are common"
                )
        self._placed = [0] * shape.config.tiers

    def prime(self) -> None:
        """Nothing can be loaded before the routing is known."""

    def load_lists(self, layer: int) -> None:
        """ROUTE writes the lists."""

    def run(self, layer: int) -> None:
        """Emit the ROUTE and the slots of a layer."""
        work, shape = self._work, self._work.shape
        while work.background:
            work.background.popleft()()
        self._route()
        tiers, choices = shape.config.tiers, work.chip.size.tokens * shape.chosen
        lanes: list[list[LaneJob]] = [[] for _ in range(tiers)]
        for slot in range(min(shape.experts, choices)):
            tier = slot % tiers
            lanes[tier].append(
                LaneJob(
                    layer=layer, name=f"slot {slot}", expert=0, count=min(work.chip.size.tokens, choices // (slot + 1)),
                    place=self._placed[tier] % len(work.chip.slots), slot={"slot_en": 1, "slot": slot},
                )
            )  # fmt: skip
            self._placed[tier] += 1
        waiting = [deque(lane) for lane in lanes]
        free = [len(work.chip.slots)] * tiers  # places for weights

        def load_next(tier: int) -> None:
            if waiting[tier] and free[tier]:
                free[tier] -= 1
                load_job(work, tier, waiting[tier].popleft())

        def finish(tier: int, _: LaneJob) -> None:
            free[tier] += 1
            load_next(tier)

        # No more loads ahead of the first GEMMs than these need: the dispatcher stands still where a queue is full.
        for tier in range(tiers):
            load_next(tier)
        run_lanes(work, lanes, finish, lambda tier, _: load_next(tier))

    def _route(self) -> None:
        work, shape, chip = self._work, self._work.shape, self._work.chip
        work.emitter.route(
            "route", tokens=chip.size.tokens, choices=shape.chosen, experts=shape.experts,
            s_base=chip.scalars["experts"]["choice"], a_base=chip.rows["experts"]["gates"], a_stride=1,
            list_base=work.lists[0].take(chip.size.tokens * shape.chosen), source_stride=shape.hidden_words,
            dest_stride=shape.hidden_rows,
        )  # fmt: skip


def _constants(expert: QuantisedExpert) -> tuple[int, int, int, int]:
    """Return what instructions hold of an expert."""
    return expert.up_shift, expert.post_mult, expert.post_shift, expert.down_shift
