# SPDX-License-Identifier: Apache-2.0
"""Experts in slots mode: a stream that does not know the routing (``docs/vector.md``, section 6).

After the router, ROUTE sorts the chosen experts by falling numbers of tokens into slots. The stream has as many slots
as there can be chosen experts, dealt to the tiers in turn, each with GEMMs for as many tokens as it can have: with
those before it having at least as many, slot s has at most ``tokens * chosen / (s + 1)``. The machine fills in counts,
addresses and experts, and skips what is empty.
"""

from __future__ import annotations

from dataclasses import dataclass

from hdl.isa import Dest, Format, LoadDest, Mode
from hdl.slots import MAX_CHOICES
from scheduler.language.shape import LoweringError
from scheduler.language.work import Work
from scheduler.placement import Part, Placement
from scheduler.quantise import QuantisedExpert

__all__ = ["SlotQueues"]


@dataclass
class _Job:
    """One slot on its tier.

    Attributes
    ----------
    slot, tokens : int
        Its number, and the most tokens that it can have.
    place : int
        Which of the tier's places for an expert's weights it uses.
    tag : int
        Fill tag.
    loaded : bool
        Whether its loads have been emitted.
    """

    slot: int
    tokens: int
    place: int
    tag: int = 0
    loaded: bool = False


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
        lanes: list[list[_Job]] = [[] for _ in range(tiers)]
        for slot in range(min(shape.experts, choices)):
            tier = slot % tiers
            tokens = min(work.chip.size.tokens, choices // (slot + 1))
            lanes[tier].append(_Job(slot, tokens, self._placed[tier] % len(work.chip.slots)))
            self._placed[tier] += 1
        for place in range(len(work.chip.slots)):
            for tier, lane in enumerate(lanes):
                if place < len(lane):
                    self._load(layer, tier, lane[place])
        # As with routing known to the host: a chunk's down projection comes after the next chunk's up projection.
        steps = [
            [(n, first) for n, job in enumerate(lane) for first in range(0, job.tokens, work.chip.chunk)]
            for lane in lanes
        ]
        for place in range(max(len(s) for s in steps) + 1):
            for tier, (lane, own) in enumerate(zip(lanes, steps, strict=True)):
                ahead = place < len(own) and lane[own[place][0]].loaded
                if ahead:
                    self._up(layer, tier, lane[own[place][0]], own[place][1], place % 2)
                if 0 < place <= len(own):
                    number, first = own[place - 1]
                    self._down(layer, tier, lane[number], first, (place - 1) % 2)
                    following = number + len(work.chip.slots)
                    if (place == len(own) or own[place][0] != number) and following < len(lane):
                        self._load(layer, tier, lane[following])
                if place < len(own) and not ahead:  # its place has only now become free
                    self._up(layer, tier, lane[own[place][0]], own[place][1], place % 2)

    def _route(self) -> None:
        work, shape, chip = self._work, self._work.shape, self._work.chip
        work.emitter.route(
            "route", tokens=chip.size.tokens, choices=shape.chosen, experts=shape.experts,
            s_base=chip.scalars["experts"]["choice"], a_base=chip.rows["experts"]["gates"], a_stride=1,
            list_base=work.lists[0].take(chip.size.tokens * shape.chosen), source_stride=shape.hidden_words,
            dest_stride=shape.hidden_rows,
        )  # fmt: skip

    def _load(self, layer: int, tier: int, job: _Job) -> None:
        """Emit the loads of a slot's expert; the addresses are those of expert 0."""
        work, shape = self._work, self._work.shape
        job.tag = work.next_tag()
        job.loaded = True
        name, slot = f"layer{layer}.expert0", {"slot_en": 1, "slot": job.slot}
        words = work.memory.symbol(f"{name}.words")
        work.emitter.load(
            f"slot {job.slot} words", dest_kind=LoadDest.PARAMETER, dest_tiers=1 << tier, group=words.group,
            dest_base=work.chip.slot_words[job.place], count=shape.expert_words, addr=words.units,
            slot_stride=work.memory.stride(f"layer{layer}.words"), **slot,
        )  # fmt: skip
        base = work.chip.slots[job.place]
        for part, count in (
            (Part.UP, shape.up_tiles * shape.hidden_words), (Part.DOWN, shape.hidden_rows * shape.inner_words)
        ):  # fmt: skip
            high, low = work.memory.planes(f"{name}.{part}")
            work.emitter.load(
                f"slot {job.slot} {part}", format=Format.PAIR, group=high.group, dest_tiers=1 << tier, dest_base=base,
                count=count, tag=job.tag, addr=high.units, addr_low=low.units,
                slot_stride=work.memory.stride(f"layer{layer}.{part}"), **slot,
            )  # fmt: skip
            base += count

    def _common(self, tier: int, job: _Job, first: int) -> dict[str, int]:
        tokens = min(self._work.chip.chunk, job.tokens - first)
        return {
            "tier_base": tier, "tier_count": 1, "tokens": tokens, "tag": job.tag, "list_base": first, "slot_en": 1,
            "slot": job.slot,
        }  # fmt: skip

    def _up(self, layer: int, tier: int, job: _Job, first: int, parity: int) -> None:
        work, shape, chip = self._work, self._work.shape, self._work.chip
        expert, words = work.model.layers[layer].experts.experts[0], chip.words["experts"]
        work.emitter.gemm(
            f"slot {job.slot} up", **self._common(tier, job, first), k_slices=shape.hidden_words,
            n_tiles=shape.up_tiles, vcache_base=chip.slots[job.place], act_base=words["x"], act_list=1,
            mode=Mode.SWIGLU, shift=expert.up_shift, post_mult=expert.post_mult, post_shift=expert.post_shift,
            param_base=chip.slot_words[job.place], dest_kind=Dest.ACTIVATION,
            dest_base=words["h"] + parity * chip.chunk * shape.inner_words, dest_stride=shape.inner_words,
        )  # fmt: skip

    def _down(self, layer: int, tier: int, job: _Job, first: int, parity: int) -> None:
        work, shape, chip = self._work, self._work.shape, self._work.chip
        work.emitter.gemm(
            f"slot {job.slot} down", **self._common(tier, job, first), k_slices=shape.inner_words,
            n_tiles=shape.hidden_rows, vcache_base=chip.slots[job.place] + shape.up_tiles * shape.hidden_words,
            act_base=chip.words["experts"]["h"] + parity * chip.chunk * shape.inner_words,
            act_stride=shape.inner_words, dest_list=1, mode=Mode.REQUANT16,
            shift=work.model.layers[layer].experts.experts[0].down_shift,
            param_base=chip.slot_words[job.place] + shape.up_tiles, dest_kind=Dest.COMBINE, accumulate=1,
        )  # fmt: skip


def _constants(expert: QuantisedExpert) -> tuple[int, int, int, int]:
    """Return what instructions hold of an expert."""
    return expert.up_shift, expert.post_mult, expert.post_shift, expert.down_shift
