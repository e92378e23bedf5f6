# SPDX-License-Identifier: Apache-2.0
"""Experts in slots mode: a stream that does not know the routing (``docs/vector.md``, section 6).

After the router, ROUTE sorts the chosen experts by falling numbers of tokens into slots. The stream has as many slots
as there can be chosen experts, dealt to the tiers in turn, each with GEMMs for as many tokens as it can have: with
those before it having at least as many, slot s has at most ``tokens * chosen / (s + 1)``. The machine fills in counts,
addresses and experts, and skips what is empty. Streamed experts run on all tiers together, slot after slot, unless
the step asks for single tiers.
"""

from __future__ import annotations

from hdl.isa.slots import MAX_CHOICES
from hdl.numerics.precision import Thresholds
from scheduler.memory.placement import Placement
from scheduler.models.description import Experts
from scheduler.plan.limits import LoweringError
from scheduler.stream.emit.gang import GangQueues
from scheduler.stream.emit.pieces import PieceRunner
from scheduler.stream.emit.tiers import TierJob, TierRunner, pieces_of
from scheduler.stream.emit.work import Work

__all__ = ["SlotQueues", "score_fields"]


def score_fields(thresholds: Thresholds) -> dict[str, int]:
    """Return the fields of a ROUTE that say what an expert's importance is compared with."""
    fields = {
        "full_score": thresholds.full, "high_score": thresholds.skip, "first_full": int(thresholds.first_full),
    }  # fmt: skip
    return fields if thresholds.full else {}


class SlotQueues:
    """Slots of all layers; takes the place of :class:`scheduler.stream.emit.experts.ExpertQueues`.

    Parameters
    ----------
    work : Work
        What a step's emission shares.

    Raises
    ------
    LoweringError
        The model's experts do not have their constants in common, or the machine's table or lists are too small.
    """

    def __init__(self, work: Work) -> None:
        self._work = work
        places, config = work.places, work.config
        if work.experts.placement != Placement.EVEN_ODD:
            raise LoweringError(f"slots: placement {work.experts.placement}; place experts {Placement.EVEN_ODD}")
        for number, layer in enumerate(work.tiling.model.layers):
            mlp = layer.mlp
            if not isinstance(mlp, Experts):
                continue
            if mlp.count > config.expert_slots:
                raise LoweringError(
                    f"slots: {mlp.count} experts; the machine has expert_slots of {config.expert_slots}: raise "
                    "expert_slots or use a model with fewer experts"
                )
            if mlp.chosen > MAX_CHOICES:
                raise LoweringError(f"slots: {mlp.chosen} experts a token; ROUTE takes up to {MAX_CHOICES}")
            entries = places.size.tokens * mlp.chosen
            if entries > places.list_entries[1]:
                raise LoweringError(
                    f"slots: {entries} choices of {places.size.tokens} tokens; list_depth leaves "
                    f"{places.list_entries[1]} entries: run fewer tokens in a step or raise list_depth"
                )
            if len(work.constants_of(number).experts) > 1:
                raise LoweringError(
                    f"slots: layer {number}: its experts differ in up_shift, post_mult, post_shift or down_shift, "
                    "which instructions hold for all of them: quantise the model so that they are common"
                )
        self._runner = TierRunner(work)

    def prime(self) -> None:
        """Nothing can be loaded before the routing is known."""

    def load_lists(self, layer: int) -> None:
        """ROUTE writes the lists."""

    def run(self, layer: int) -> None:
        """Emit the ROUTE and the slots of a layer."""
        work, mlp = self._work, self._work.layer(layer).mlp
        if not isinstance(mlp, Experts):
            return
        while work.background:
            work.background.popleft()()
        self._route(layer, mlp)
        tiers, tokens = work.config.tiers, work.places.size.tokens
        choices = tokens * mlp.chosen
        jobs = [
            TierJob(
                layer=layer, name=f"slot {slot}", expert=0, count=min(tokens, choices // (slot + 1)),
                slot={"slot_en": 1, "slot": slot}, scored=work.constants_of(layer).scored,
            )
            for slot in range(min(mlp.count, choices))
        ]  # fmt: skip
        if work.residence.gangs and not work.places.size.alone:
            gang = GangQueues(work, [[] if number != layer else jobs for number in range(layer + 1)])
            gang.run(layer)
            return
        queues = [jobs[tier::tiers] for tier in range(tiers)]
        if work.residence.resident and len(pieces_of(work, layer)) == 1:
            self._runner.run(queues)
        else:
            runner = PieceRunner(work)
            runner.add(queues)
            runner.run(layer)

    def _route(self, layer: int, mlp: Experts) -> None:
        work, places, tiling = self._work, self._work.places, self._work.tiling
        work.emitter.route(
            "route", tokens=places.size.tokens, choices=mlp.chosen, experts=mlp.count,
            s_base=places.scalars["experts"]["choice"], a_base=places.rows["experts"]["gates"], a_stride=1,
            list_base=work.lists[0].take(places.size.tokens * mlp.chosen), source_stride=tiling.hidden_words,
            dest_stride=tiling.hidden_rows, **score_fields(work.constants_of(layer).thresholds),
        )  # fmt: skip
