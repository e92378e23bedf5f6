# SPDX-License-Identifier: Apache-2.0
"""Lowers one step of a language model to a stream: planned, emitted, synchronised, encoded."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from scheduler.cost.memory_timing import MemoryTiming
from scheduler.cost.model import simulate
from scheduler.memory.image import Symbol
from scheduler.memory.model import ModelMemory
from scheduler.models.constants import Constants
from scheduler.ops.batch import Chunk, MicroBatch, Routing
from scheduler.ops.draw import draw_routing
from scheduler.plan.limits import LoweringError
from scheduler.plan.pinned import Pinned
from scheduler.plan.places import plan_places
from scheduler.plan.residence import Residence
from scheduler.stream.choose import MOST_LISTED, Chooser, Plan, Tried, slot_counts
from scheduler.stream.cuts import cut_chunks, spread_chunks
from scheduler.stream.emit.beside import emit_beside
from scheduler.stream.emit.emitter import carriers
from scheduler.stream.emit.experts import ListsFullError
from scheduler.stream.emit.labels import Labels
from scheduler.stream.emit.micro_batches import emit_micro_batches
from scheduler.stream.emit.step import MOST_WAVES, emit_step
from scheduler.stream.list_schedule import SlotMeans, list_schedule
from scheduler.stream.parts import check_batch, default_key_block, parts_of, size_of
from scheduler.stream.region import split
from scheduler.stream.step_program import Part, StepProgram
from scheduler.stream.synchronise import SyncError, synchronise
from scheduler.stream.table import Builder, Table

__all__ = ["lower_step"]

SMALL_BLOCK = 64
"""Tokens of a block of attention in plans that are fine: the vector unit must not wait for long projections."""
MEAN_OF = 8
"""Routings that are drawn for what slots can expect."""
SCORED_MEAN_OF = 4
"""Routings that a plan is timed with where scores decide what is loaded: one alone favours what suits it."""


def lower_step(
    constants: Constants,
    memory: ModelMemory,
    chunks: Sequence[Chunk],
    routing: Sequence[Routing | None] | None,
    *,
    key_block: int | None = None,
    chooser: Chooser | None = None,
) -> StepProgram:
    """Return the stream of a step.

    The step area of `memory` is written anew: stream and token lists.

    Parameters
    ----------
    constants : Constants
        Of the model.
    memory : ModelMemory
        Where it lies.
    chunks : sequence of Chunk
        New tokens of each sequence.
    routing : sequence of Routing or None, or None
        Experts of all tokens, for each layer (None for a layer without experts). None: slots mode, the stream does not
        depend on the routing, which the machine finds (:mod:`scheduler.stream.emit.slots`).
    key_block : int, optional
        Keys that are scored at once; default: :func:`default_key_block`.
    chooser : Chooser, optional
        Who says which plans are tried; default: the sequential one.

    Raises
    ------
    LoweringError
        A batch that does not fit, or a model that cannot run in slots mode.
    """
    check_batch(memory, chunks)
    residence = memory.residence
    tiling = residence.tiling
    block = key_block or default_key_block(tiling, constants.key_block)
    if block % tiling.key_alignment:
        raise LoweringError(f"key_block: {block}; use a multiple of {tiling.key_alignment}")
    if block > constants.key_block:
        raise LoweringError(
            f"key_block: {block}; the model was quantised for blocks of up to {constants.key_block} keys: use a "
            "smaller block, or quantise with a larger one"
        )
    own = chooser or Chooser()
    pinned = own.pinned(memory, constants, routing is None)
    lowering = _Lowering(constants, memory, chunks, routing, block, own.timing, pinned, own.on_chip)
    try:
        return _shortest(lowering, own, residence, pinned)
    except SyncError:
        if routing is not None or not residence.gangs:
            raise
        lowering.use_single_tiers()  # which takes fewer semaphores
        return _shortest(lowering, own, residence, pinned)


def _shortest(
    lowering: _Lowering, chooser: Chooser, residence: Residence, pinned: Pinned | None
) -> StepProgram:  # fmt: skip
    """Return the shortest of the plans that a chooser names."""
    chunks, slots, tried = lowering.chunks, lowering.slots, list[Tried]()
    scored = lowering.scored
    plans = chooser.plans(residence, chunks, slots, pinned, scored)
    if len(plans) > 1:
        tried = lowering.time(plans)
        plans = [chooser.learn(chunks, slots, tried, pinned is not None, scored)] if tried else plans
    return lowering.program(plans[0], tuple(tried))


class _Emitted(NamedTuple):
    """A step's instructions without semaphores, and what they are for."""

    parts: tuple[Part, ...]
    stream: Builder
    labels: Labels
    on_chip: frozenset[Hashable] = frozenset()


class _Lowering:
    """A step whose plans are tried.

    Attributes
    ----------
    chunks : sequence of Chunk
        New tokens of each sequence.
    slots : bool
        The machine finds the routing.
    alone : bool
        Slots run on single tiers where weights stream, not on all tiers together.
    """

    def __init__(
        self, constants: Constants, memory: ModelMemory, chunks: Sequence[Chunk],
        routing: Sequence[Routing | None] | None, block: int, timing: MemoryTiming, pinned: Pinned | None,
        on_chip: frozenset[Hashable],
    ) -> None:  # fmt: skip
        self._constants = constants
        self._memory = memory
        self.chunks = chunks
        self.slots = routing is None
        self.alone = False
        self._routing = routing
        self._block = block
        self._timing = timing
        self._pinned = pinned
        self._on_chip = on_chip
        self._config = memory.tiling.config
        self._thresholds = tuple(layer.thresholds for layer in constants.layers)
        self.scored = any(layer.scored for layer in constants.layers)
        self._last: tuple[tuple[Plan, frozenset[Hashable]], _Emitted] | None = None

    def use_single_tiers(self) -> None:
        """Emit slots on single tiers from now on."""
        self.alone, self._last = True, None

    def time(self, plans: Sequence[Plan]) -> list[Tried]:
        """Return the plans that can be, with their cycles; nothing for a stream that takes too long to try others.

        Plans with weights that stay are timed as if these were there: the first step is what later ones are paid with.
        """
        tried: list[Tried] = []
        refused: LoweringError | SyncError | None = None
        for plan in plans:
            try:
                emitted = self._emit(plan, self._all())
                if len(emitted.stream) > MOST_LISTED:
                    break
                table, _ = self._order(emitted, plan)
            except (LoweringError, SyncError) as error:
                refused = refused or error
                continue
            tried.append(Tried(plan, self._cycles(emitted, plan, table)))
        if refused and not tried:
            raise refused
        return tried

    def program(self, plan: Plan, tried: tuple[Tried, ...]) -> StepProgram:
        """Return the stream of a plan."""
        tiling, memory = self._memory.tiling, self._memory
        parts, stream, labels, on_chip = emitted = self._emit(plan, self._on_chip)
        kept = self._pinned.tiles if self._pinned is not None and plan.pinned and self._on_chip else 0
        self._last = None  # its rows become the stream's
        table, marks = self._order(emitted, plan, stream)
        binary = memory.add(table.to_binary())
        size = sum(len(part.outputs) for part in parts) * tiling.logit_rows * tiling.config.columns * 2
        return StepProgram(
            parts=parts, chunks=tuple(self.chunks), table=table, marks=np.append(marks, labels.mark(-1, "end")),
            label_texts=labels, stream_base=binary.address, patch=memory.step, window=memory.window,
            logits=Symbol(memory.logits.group, memory.logits.address, size), plan=plan, tried=tried,
            on_chip=on_chip, kept_tiles=kept, thresholds=self._thresholds,
        )  # fmt: skip

    def _all(self) -> frozenset[Hashable]:
        """Return all that may stay from step to step."""
        return frozenset() if self._pinned is None else self._pinned.all(len(self._memory.tiling.model.layers))

    def _emit(self, plan: Plan, on_chip: frozenset[Hashable]) -> _Emitted:
        """Return a plan's instructions; the memory's step area has their lists until others are emitted."""
        key = replace(plan, listed=False), on_chip if plan.pinned else frozenset[Hashable]()  # the order comes later
        if self._last is None or self._last[0] != key:
            self._last = None
            self._last = key, self._emit_anew(plan, on_chip)
        return self._last[1]

    def _emit_anew(self, plan: Plan, on_chip: frozenset[Hashable]) -> _Emitted:
        slots, prefixes = self.slots, plan.prefixes
        parts = parts_of(self._memory.residence, self.chunks, self._block, slots, prefixes=prefixes)
        if self.alone:
            parts = tuple(map(_alone, parts))
        if plan.cuts:
            return self._emit_cut(parts, plan, on_chip)
        self._check_whole(parts)
        while True:
            try:
                labels = Labels()
                waves = 0
                if plan.fine:
                    waves, parts = MOST_WAVES, tuple(map(self._fine, parts))
                stream = _emit(self._constants, self._memory, parts, self._routing, labels, plan.early_keys, waves)
                return _Emitted(parts, stream, labels)
            except ListsFullError:  # the routing is known now, and so is what the lists take
                most = max(part.tokens for part in parts)
                if most == 1:
                    raise
                parts = parts_of(
                    self._memory.residence, self.chunks, self._block, slots, -(-most // 2), prefixes
                )  # fmt: skip
                self._check_whole(parts)

    def _check_whole(self, parts: Sequence[Part]) -> None:
        """Refuse parts that would each find how important experts are."""
        if len(parts) > 1 and self.scored:
            raise LoweringError(
                f"precision: experts are loaded as the tokens of the whole step ask for, and this step of "
                f"{sum(part.tokens for part in parts)} tokens runs in {len(parts)} parts: run fewer tokens in a step"
            )

    def _fine(self, part: Part) -> Part:
        """Return a part with smaller blocks of attention."""
        size = replace(part.places.size, block=SMALL_BLOCK, alone=self.alone)
        return replace(part, places=plan_places(self._memory.residence, size))

    def _emit_cut(self, parts: tuple[Part, ...], plan: Plan, on_chip: frozenset[Hashable]) -> _Emitted:
        """Emit micro-batches, which have to fit the chip together."""
        if plan.spread:
            return self._emit_beside(plan)
        if len(parts) > 1:
            raise LoweringError("micro-batches: the step does not fit the chip as a whole")
        self._memory.begin_step()
        size = replace(parts[0].places.size, beside=True, pinned=self._pinned if plan.pinned else None)
        part, labels = replace(parts[0], places=plan_places(self._memory.residence, size)), Labels()
        batches, outputs, first, before = [], [], 0, 0
        for own, ends in cut_chunks(self.chunks, plan.cuts):
            batches.append(MicroBatch(own, first))
            outputs += [before + number for number in ends]
            first, before = batches[-1].end, before + len(own)
        there = set(on_chip)
        emitter = emit_micro_batches(
            self._constants, self._memory, part.places, batches, self._routing, outputs, labels, plan.early_keys,
            plan.early_planes, there, plan.gang,
        )  # fmt: skip
        return _Emitted((part,), emitter.stream, labels, frozenset(there) if plan.pinned else frozenset())

    def _emit_beside(self, plan: Plan) -> _Emitted:
        """Emit micro-batches that stream weights, each for itself."""
        if self._routing is None:
            raise LoweringError("micro-batches with weights of their own: the routing has to be known")
        regions = split(self._memory.residence, len(plan.cuts))
        parts, first = [], 0
        cuts = spread_chunks(self.chunks, len(plan.cuts))
        for (own, outputs, spread), region in zip(cuts, regions, strict=True):
            size = replace(size_of(own, len(outputs), self._block, False, plan.prefixes), block=SMALL_BLOCK)
            places = plan_places(region.residence, size)
            parts.append(Part(own, first, outputs, places, spread))
            first += parts[-1].tokens
        self._memory.begin_step()
        labels = Labels()
        routing = [[_slice(route, part) for route in self._routing] for part in parts]
        stream = emit_beside(self._constants, self._memory, parts, regions, routing, labels, plan.early_keys)
        return _Emitted(tuple(parts), stream, labels)

    def _order(
        self, emitted: _Emitted, plan: Plan, stream: Builder | None = None
    ) -> tuple[Table, npt.NDArray[np.int64]]:
        """Return the stream with its semaphores, and the marks of its instructions but the last.

        Without `stream`, which becomes the result, what was emitted stays as it is.
        """
        many, memory = len(emitted.stream), self._memory.images
        plain, marks = emitted.stream.table(), emitted.stream.marks[:many].copy()
        if plan.listed:
            order = list_schedule(plain, self._config, memory, self._means(emitted, plan), plan.spread)
            plain, marks = Table(plain.rows[order]), marks[order]
        own = Builder.of(plain) if stream is None or plan.listed else stream
        table, origin = synchronise(own, self._config, memory, carriers(self._config), end=True)
        return table, marks[origin]

    def _cycles(self, emitted: _Emitted, plan: Plan, table: Table) -> int:
        """Return the cycles of a stream; where scores decide what is loaded, in the mean of several routings."""
        drawn = [
            self._counts(emitted, plan, seed) for seed in range(SCORED_MEAN_OF if self.slots and self.scored else 1)
        ]
        cycles = (simulate(self._config, table, memory=self._timing, slot_counts=own).cycles for own in drawn)
        return round(sum(cycles) / len(drawn))

    def _counts(self, emitted: _Emitted, plan: Plan, seed: int = 0) -> list[list[int]]:
        """Return the tokens of slots with a routing that is drawn."""
        if self._routing is not None:
            return []
        tokens = plan.cuts or [part.tokens for part in emitted.parts]
        shares = [layer.shares for layer in self._constants.layers]
        drawn = draw_routing(self._memory.tiling.model, sum(tokens), np.random.default_rng(seed), shares)
        return slot_counts(tokens, drawn, bool(plan.cuts), self._thresholds)

    def _means(self, emitted: _Emitted, plan: Plan) -> list[SlotMeans]:
        """Return what can be expected of slots: an order that is made for one routing fits no other."""
        draws = [self._counts(emitted, plan, seed) for seed in range(1, 1 + MEAN_OF)]
        return [SlotMeans.of(counts) for counts in zip(*draws, strict=True)]


def _emit(
    constants: Constants, memory: ModelMemory, parts: Sequence[Part], routing: Sequence[Routing | None] | None,
    labels: Labels, early_keys: bool, most_waves: int,
) -> Builder:  # fmt: skip
    """Return the instructions of all parts without semaphores."""
    memory.begin_step()
    stream, done = Builder(), 0
    for part in parts:
        own = None if routing is None else [_slice(route, part) for route in routing]
        emit_step(
            constants, memory, part.places, part.chunks, own, part.outputs, done, labels, stream, early_keys, most_waves
        )  # fmt: skip
        done += len(part.outputs)
    return stream


def _alone(part: Part) -> Part:
    """Return a part whose slots run on single tiers."""
    places = part.places
    return replace(part, places=replace(places, size=replace(places.size, alone=True)))


def _slice(route: Routing | None, part: Part) -> Routing | None:
    if route is None or not route.experts.size:  # a layer without experts
        return None
    own = part.numbers
    return Routing(route.experts[own], route.gates[own])
