# SPDX-License-Identifier: Apache-2.0
"""Which plans of a step are tried, and which of them is the shortest by the cycle model."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
import numpy.typing as npt

from hdl.numerics.precision import Precision, Thresholds, precisions
from scheduler.cost.memory_timing import MemoryTiming
from scheduler.cost.slots import EXPERT, HIGH_ONLY
from scheduler.memory.model import ModelMemory
from scheduler.models.constants import Constants
from scheduler.models.description import Experts
from scheduler.ops.batch import Chunk, Routing
from scheduler.plan.pinned import Pinned, plan_pinned
from scheduler.plan.places import key_space
from scheduler.plan.policy import SEQUENTIAL, Policy
from scheduler.plan.residence import Residence
from scheduler.stream.cuts import spread_sizes

__all__ = ["MOST_LISTED", "Chooser", "Plan", "Tried", "sharing", "slot_counts"]

MOST_LISTED = 1 << 18
"""Instructions of the longest stream that other plans are tried for: more take longer than they are worth."""
BESIDE = 2
"""Micro-batches that run beside one another where weights stream: each reads its own."""
LEAST_CUT = 32
"""New tokens of a sequence below which it is not cut."""
BUCKET = 64
"""Decoded sequences whose mean lengths lie in the same range of so many keys make no other step."""


@dataclass(frozen=True)
class Plan:
    """A way to emit a step.

    Attributes
    ----------
    cuts : tuple of int
        Tokens of each micro-batch; none: the sequential plan.
    listed : bool
        Whether list scheduling orders the instructions.
    early_keys : bool
        Whether keys that the step does not write are loaded apart from those that it does: they need not wait for them.
    early_planes : bool
        Whether the high planes of experts that are likely to be wanted are loaded before the machine knows the routing,
        where its scores decide whether their low planes come too.
    pinned : bool
        Whether weights stay in V-Cache for the next step, and what stayed there is not loaded.
    gang : int
        Tiers that run an expert together.
    prefixes : bool
        Whether decoded tokens attend to a prefix that their sequences have in common together, so that it is read once.
    spread : bool
        Whether each micro-batch has a part of each prompt and some of the decoded sequences; else they are consecutive
        tokens.
    fine : bool
        Whether attention takes small blocks of tokens and GEMMs are short, so that another order has more to choose
        from. Micro-batches that are spread always do so.
    """

    cuts: tuple[int, ...] = ()
    listed: bool = False
    early_keys: bool = False
    early_planes: bool = False
    pinned: bool = False
    gang: int = 1
    prefixes: bool = False
    spread: bool = False
    fine: bool = False

    def __str__(self) -> str:
        if not self.cuts:
            name = "sequential"
        elif self.spread:
            name = f"micro-batches of {' + '.join(map(str, self.cuts))} tokens, each with its own weights"
        elif len(self.cuts) == 1:
            name = "one batch, experts beside attention"
        else:
            name = f"micro-batches of {' + '.join(map(str, self.cuts))} tokens"
        more = {
            "list schedule": self.listed, "small blocks": self.fine, "old keys early": self.early_keys,
            "high planes early": self.early_planes,
            "weights stay": self.pinned, "prefixes read once": self.prefixes,
        }  # fmt: skip
        gang = [f"experts on gangs of {self.gang}"] if self.gang > 1 else []
        return ", ".join([name, *gang, *(text for text, on in more.items() if on)])


@dataclass(frozen=True)
class Tried:
    """A plan, and the cycles that the cycle model says."""

    plan: Plan
    cycles: int


class Chooser:
    """Names the plans that are worth a try, and learns from steps that differ little.

    Parameters
    ----------
    policy : Policy
    timing : MemoryTiming, optional
        How the memories behave for the cycle model that compares plans.

    Attributes
    ----------
    on_chip : frozenset
        What of the weights that stay from step to step the machine has, see `scheduler.plan.pinned.Pinned.all`.
    """

    def __init__(self, policy: Policy = SEQUENTIAL, timing: MemoryTiming | None = None) -> None:
        self.policy = policy
        self.timing = timing or MemoryTiming()
        self.on_chip: frozenset[Hashable] = frozenset()
        self._decoded = False
        self._known: dict[tuple[object, ...], Plan] = {}
        self._memory: ModelMemory | None = None
        self._pinned: Pinned | None = None
        self._whole = True

    def pinned(self, memory: ModelMemory, constants: Constants, slots: bool = False) -> Pinned | None:
        """Return which weights may stay from step to step; with another memory, nothing of them is on the chip.

        Experts do not where the machine decides which of their planes it reads: the host does not know what is there.
        """
        if not self.policy.residency:
            return None
        whole = not slots or not any(layer.scored for layer in constants.layers)
        if memory is not self._memory or whole != self._whole:
            self.forget()
            self._memory, self._whole, residence = memory, whole, memory.residence
            keys = key_space(residence.tiling, memory.context, 1)
            self._pinned = plan_pinned(residence, [layer.shares for layer in constants.layers], keys, whole)
        return self._pinned

    def ran(self, chunks: Sequence[Chunk], on_chip: frozenset[Hashable]) -> None:
        """Note that the machine has run a step, and what it left of what stays."""
        self.on_chip = on_chip
        self._decoded = _decodes(chunks)

    def forget(self) -> None:
        """Note that the machine has stopped with an error, which invalidates V-Cache, or that another model runs."""
        self.on_chip = frozenset()

    def plans(
        self, residence: Residence, chunks: Sequence[Chunk], slots: bool, pinned: Pinned | None = None,
        scored: bool = False,
    ) -> list[Plan]:  # fmt: skip
        """Return the plans to try, the sequential one first; more than that only if there is a choice.

        Parameters
        ----------
        residence : Residence
        chunks : sequence of Chunk
            New tokens of each sequence.
        slots : bool
            The machine finds the routing.
        pinned : Pinned, optional
            What may stay from step to step. It pays in steps that decode only, from the second in a row on: others have
            use for all of V-Cache, and what is loaded for one step alone costs more than it saves.
        scored : bool
            Scores decide what is loaded of experts.
        """
        if self.policy == SEQUENTIAL:
            return [Plan()]
        pins = pinned is not None and self._decoded and _decodes(chunks)
        known = self._known.get((*_key(chunks, slots), scored, pins))
        if known is not None:
            return list(dict.fromkeys([Plan(), known]))
        if not residence.resident:
            return self._streamed(residence, chunks, slots)
        cuts = [(), *_cuts(chunks)] if self.policy.micro_batches and _can_share(residence) else [()]
        ways = [(False, False)]
        if self.policy.list_schedule:  # only another order makes use of keys that can come early
            ways += [(True, early) for early in (False, True) if not early or any(c.position for c in chunks)]
        prefixes = self.policy.prefixes and sharing(chunks) > 0
        found = [Plan(own, *way, prefixes=prefixes) for own in cuts for way in ways]
        for width in _widths(residence):
            found += [Plan(own, *ways[-1], gang=width, prefixes=prefixes) for own in cuts if own]
        if pins:
            found += [Plan((len(chunks),), *way, pinned=True, prefixes=prefixes) for way in ways]
        if slots and scored:
            found += [replace(plan, early_planes=True) for plan in found if len(plan.cuts) == 1]
        return list(dict.fromkeys([Plan(), *found]))

    def _streamed(self, residence: Residence, chunks: Sequence[Chunk], slots: bool) -> list[Plan]:
        """Return the plans of a step whose weights stream; micro-batches need another order to run beside one another.

        Keys that come early gain nothing there.
        """
        prefixes = self.policy.prefixes and sharing(chunks) > 0
        found = [Plan(), Plan(prefixes=prefixes)]
        if self.policy.list_schedule:
            found.append(Plan(listed=True, fine=True, prefixes=prefixes))
            cuts = spread_sizes(chunks, BESIDE)
            if self.policy.micro_batches and residence.gangs and not slots and len(cuts) > 1:
                found.append(Plan(cuts, listed=True, spread=True, prefixes=prefixes))
        return list(dict.fromkeys(found))

    def learn(
        self, chunks: Sequence[Chunk], slots: bool, tried: Sequence[Tried], pinned: bool = False, scored: bool = False
    ) -> Plan:  # fmt: skip
        """Return the shortest plan; the next steps like the first one try only that one's, beside the sequential.

        `pinned`: there was something that may stay from step to step. `scored`: scores decided what was loaded.
        """
        best = min(tried, key=lambda one: one.cycles).plan
        pins = pinned and self._decoded and _decodes(chunks)
        self._known.setdefault((*_key(chunks, slots), scored, pins), best)
        return best


def sharing(chunks: Sequence[Chunk]) -> int:
    """Return how many decoded tokens that follow each other attend to the same prefix, at most; 0: no two do."""
    most = 0
    for prefix, run in groupby(chunks, key=lambda chunk: chunk.prefix if len(chunk.tokens) == 1 else None):
        if prefix is not None:
            most = max(most, len(list(run)))
    return most if most > 1 else 0


def _decodes(chunks: Sequence[Chunk]) -> bool:
    return all(len(chunk.tokens) == 1 for chunk in chunks)


def _key(chunks: Sequence[Chunk], slots: bool) -> tuple[object, ...]:
    """Return what steps that differ little have in common."""
    sizes = tuple(len(chunk.tokens) for chunk in chunks if len(chunk.tokens) > 1)
    decoded = [chunk.end for chunk in chunks if len(chunk.tokens) == 1]
    return slots, sizes, len(decoded), sum(decoded) // max(1, len(decoded)) // BUCKET, sharing(chunks)


def _can_share(residence: Residence) -> bool:
    """Return whether micro-batches can use the same weights: experts on single tiers, as a whole."""
    tiling = residence.tiling
    if not residence.resident or residence.gangs or len({tiling.heads(kind) for kind in tiling.kinds}) > 1:
        return False
    return all(len(pieces) == 1 for pieces in residence.pieces.values())


def _widths(residence: Residence) -> list[int]:
    """Return the numbers of tiers that can run any routed expert together."""
    kinds = [kind for kind in residence.tiling.kinds if isinstance(kind.mlp, Experts)]
    found = set.intersection(*(set(residence.gang_widths(kind)) for kind in kinds)) if kinds else set[int]()
    return sorted(found)


def _cuts(chunks: Sequence[Chunk]) -> list[tuple[int, ...]]:
    """Return the tokens of micro-batches that may pay, in the order of the step's tokens."""
    runs: list[int] = []  # tokens of sequences that are prefilled, of sequences that are decoded, and so on
    kinds: list[bool] = []
    for chunk in chunks:
        many = len(chunk.tokens) > 1
        if kinds and kinds[-1] == many and not many:
            runs[-1] += 1
        else:
            runs.append(len(chunk.tokens))
            kinds.append(many)
    total = sum(runs)
    halves, pieces = (
        [size for run, many in zip(runs, kinds, strict=True) for size in (cut(run) if many else [run])]
        for cut in (_halves, _pieces)
    )
    found = [(total,), tuple(runs), tuple(halves), tuple(pieces)]
    if len(runs) == 1 and total > 1:
        found.append((total - total // 2, total // 2))
    return list(dict.fromkeys(found))


def _halves(count: int) -> list[int]:
    if count < LEAST_CUT:
        return [count]
    first = -(-count // 32) * 16
    return [first, count - first]


def _pieces(count: int) -> list[int]:
    """Return pieces of `LEAST_CUT` tokens and the rest."""
    return [min(LEAST_CUT, count - first) for first in range(0, count, LEAST_CUT)]


def slot_counts(
    tokens: Sequence[int], routing: Sequence[Routing | None], by_number: bool = False,
    thresholds: Sequence[Thresholds] = (),
) -> list[list[int]]:  # fmt: skip
    """Return each slot after each ROUTE of a step, as the machine's router fills them (:mod:`scheduler.cost.slots`).

    Parameters
    ----------
    tokens : sequence of int
        New tokens of each part of the step, or of each micro-batch.
    routing : sequence of Routing or None
        Of all tokens, for each layer (None, or no experts: a layer without).
    by_number : bool
        Of micro-batches: slots by the experts' numbers, and a layer of all micro-batches before the next layer.
    thresholds : sequence of Thresholds
        Of each layer, whose ROUTEs empty slots by them, or ask for the high plane only; default: none does.
    """
    ends = np.cumsum(tokens)
    runs = [(end - count, end) for count, end in zip(tokens, ends.tolist(), strict=True)]
    known = [(n, route) for n, route in enumerate(routing) if route is not None and route.experts.size]
    found = [
        _slots_of(Routing(route.experts[first:end], route.gates[first:end]), by_number, thresholds[n : n + 1])
        for n, route in known
        for first, end in runs
    ]
    if by_number:
        return found
    return [counts for number in range(len(runs)) for counts in found[number :: len(runs)]]


def _slots_of(routing: Routing, by_number: bool, thresholds: Sequence[Thresholds]) -> list[int]:
    """Return the slots that a ROUTE writes."""
    counts: npt.NDArray[np.int64] = np.bincount(routing.experts.ravel())
    order = np.arange(counts.size) if by_number else np.argsort(-counts, kind="stable")
    slots = counts + EXPERT * np.arange(counts.size)
    if thresholds and thresholds[0].full:
        wanted = precisions(routing.experts, routing.gates, counts.size, thresholds[0])
        slots[wanted == Precision.SKIP] -= counts[wanted == Precision.SKIP]
        slots += np.where(wanted == Precision.HIGH, HIGH_ONLY, 0)
    return list(slots[order].tolist())
