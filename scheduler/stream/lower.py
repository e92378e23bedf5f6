# SPDX-License-Identifier: Apache-2.0
"""Lowers one step of a language model to a stream: planned, emitted, synchronised, encoded."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import repeat
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hdl.isa import Instruction
from scheduler.cost.memory_timing import MemoryTiming
from scheduler.cost.model import simulate
from scheduler.memory.image import Symbol
from scheduler.memory.model import ModelMemory
from scheduler.models.constants import Constants
from scheduler.ops.batch import Chunk, MicroBatch, Routing
from scheduler.ops.draw import draw_routing
from scheduler.plan.beside import split
from scheduler.plan.estimate import estimate
from scheduler.plan.limits import LoweringError
from scheduler.plan.pinned import Pinned
from scheduler.plan.places import Places, plan_places
from scheduler.plan.pools import StepSize
from scheduler.plan.residence import Residence
from scheduler.plan.tiling import Tiling
from scheduler.stream.choose import MOST_LISTED, Chooser, Plan, Tried, sharing, slot_counts
from scheduler.stream.cuts import Spread, cut_chunks, spread_chunks
from scheduler.stream.emit.beside import emit_beside
from scheduler.stream.emit.emitter import carriers
from scheduler.stream.emit.experts import ListsFullError
from scheduler.stream.emit.head import logit_parts
from scheduler.stream.emit.labels import Label, Labels
from scheduler.stream.emit.micro_batches import emit_micro_batches
from scheduler.stream.emit.step import MOST_WAVES, emit_step
from scheduler.stream.list_schedule import list_schedule
from scheduler.stream.synchronise import SyncError, synchronise
from scheduler.stream.table import Builder, Table

__all__ = [
    "LogitBlock", "Part", "StepProgram", "check_batch", "check_smallest_step", "default_key_block", "gather_logits",
    "lower_step", "parts_of",
]  # fmt: skip


MOST_PARTS = 8
"""Parts that are tried once something fits."""
SMALL_BLOCK = 64
"""Tokens of a block of attention in plans that are fine: the vector unit must not wait for long projections."""
MEAN_OF = 8
"""Routings that are drawn for what slots can expect."""


@dataclass(frozen=True)
class Part:
    """Some of a step's tokens that go through all layers together.

    Attributes
    ----------
    chunks : tuple of Chunk
    first : int
        Tokens of the step before this part.
    outputs : tuple of int
        Numbers of the part's chunks whose last token's logits are wanted.
    places : Places
        Where the part's data lie on the chip.
    spread : Spread, optional
        Which tokens of the step these are, if not consecutive ones.
    """

    chunks: tuple[Chunk, ...]
    first: int
    outputs: tuple[int, ...]
    places: Places
    spread: Spread | None = None

    @property
    def numbers(self) -> npt.NDArray[np.intp]:
        """The part's tokens among the step's."""
        return np.arange(self.first, self.first + self.tokens) if self.spread is None else self.spread.numbers

    @property
    def tokens(self) -> int:
        """New tokens of the part."""
        return sum(len(chunk.tokens) for chunk in self.chunks)


@dataclass(frozen=True, eq=False)
class StepProgram:
    """A step's stream and what it needs in memory.

    Attributes
    ----------
    parts : tuple of Part
        Tokens that go through the model together; one part where they fit.
    chunks : tuple of Chunk
        What the step works on.
    table : Table
        The stream, END included.
    marks : int64 array [instructions]
        What each instruction is for, as numbers; :attr:`labels` are the texts.
    label_texts : Labels
        What they mean.
    stream_base : int
        Byte address of the stream in group 0.
    patch : Symbol
        The part of memory that the host writes for this step (stream and token lists).
    window : tuple of two (int, int)
        Output windows of the groups: first byte and end.
    logits : Symbol
        Where the logits appear, see :meth:`read_logits`.
    plan : Plan
        How the step is emitted.
    tried : tuple of Tried
        What it was chosen from.
    on_chip : frozenset
        What the step leaves of the weights that stay from step to step.
    kept_tiles : int
        V-Cache tiles of each tier, from the first on, that the step finds as the one before has left them.
    """

    parts: tuple[Part, ...]
    chunks: tuple[Chunk, ...]
    table: Table
    marks: npt.NDArray[np.int64]
    label_texts: Labels
    stream_base: int
    patch: Symbol
    window: tuple[tuple[int, int], tuple[int, int]]
    logits: Symbol
    plan: Plan
    tried: tuple[Tried, ...]
    on_chip: frozenset[Hashable] = frozenset()
    kept_tiles: int = 0

    @cached_property
    def instructions(self) -> tuple[Instruction, ...]:
        """The stream, one instruction after the other."""
        return self.table.instructions()

    @cached_property
    def labels(self) -> tuple[Label, ...]:
        """What each instruction is for."""
        return self.label_texts.of(self.marks.tolist())

    @property
    def places(self) -> Places:
        """Where the first part's data lie on the chip."""
        return self.parts[0].places

    @property
    def tiling(self) -> Tiling:
        """The model on the machine."""
        return self.places.tiling

    def read_logits(self, memory: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.int16]:
        """Return the logits [sequences, vocabulary] from the groups' memories after the step."""
        config = self.tiling.config
        return gather_logits(memory, self.logits, self.logit_blocks, config.columns, self.tiling.model.vocabulary)

    def slot_counts(self, routing: Sequence[Routing | None]) -> list[list[int]]:
        """Return the tokens of each slot after each ROUTE, as the machine's router fills them with a routing."""
        if self.plan.cuts:
            return slot_counts(self.plan.cuts, routing, by_number=True)
        return slot_counts([part.tokens for part in self.parts], routing)

    @property
    def logit_blocks(self) -> list[LogitBlock]:
        """The blocks of logits in the order in which they lie in memory."""
        shares, found, done = self.places.residence.head, [], 0
        for part in self.parts:
            count = len(part.outputs)
            rows = list(range(done, done + count)) if part.spread is None else list(part.spread.rows)
            for numbers in logit_parts(shares, part.places.head_tiles) if count else ():
                first = shares[numbers[0]].first
                found += [
                    LogitBlock(row, many, first, shares[numbers[-1]].end - first) for row, many in _runs_of(rows)
                ]  # fmt: skip
            done += count
        return found


def _runs_of(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Return runs of consecutive numbers: the first of each, and how many."""
    found: list[tuple[int, int]] = []
    for number in numbers:
        if found and number == sum(found[-1]):
            found[-1] = found[-1][0], found[-1][1] + 1
        else:
            found.append((number, 1))
    return found


@dataclass(frozen=True)
class LogitBlock:
    """Logits that lie together: of each of some sequences, `tiles` rows of C int16.

    Attributes
    ----------
    first, count : int
        Sequences.
    tile, tiles : int
        Output tiles of the head.
    """

    first: int
    count: int
    tile: int
    tiles: int


def gather_logits(
    memory: Sequence[npt.NDArray[np.uint8]], region: Symbol, blocks: Sequence[LogitBlock], columns: int, vocabulary: int
) -> npt.NDArray[np.int16]:
    """Return the logits [sequences, vocabulary] whose blocks lie one after the other in a region of memory."""
    raw = np.asarray(memory[region.group])[region.address : region.address + region.size]
    rows = raw.copy().view("<i2").reshape(-1, columns)
    result = np.zeros((max(b.first + b.count for b in blocks), -(-vocabulary // columns) * columns), dtype=np.int16)
    done = 0
    for block in blocks:
        own = rows[done : done + block.count * block.tiles].reshape(block.count, -1)
        first = block.tile * columns
        result[block.first : block.first + block.count, first : first + own.shape[1]] = own
        done += block.count * block.tiles
    return result[:, :vocabulary]


def check_batch(memory: ModelMemory, chunks: Sequence[Chunk]) -> None:
    """Refuse a batch that the model or its memory has no place for.

    Raises
    ------
    LoweringError
        Names the sequence, its value and the limit.
    """
    vocabulary = memory.tiling.model.vocabulary
    if not chunks:
        raise LoweringError("batch: no sequences; give at least one")
    if len({chunk.sequence for chunk in chunks}) != len(chunks):
        raise LoweringError("batch: two sequences have the same place; give each its own")
    for chunk in chunks:
        if not 0 <= chunk.sequence < memory.sequences:
            raise LoweringError(
                f"batch: sequence {chunk.sequence}; the memory has sequences 0 to {memory.sequences - 1}"
            )
        if not chunk.tokens:
            raise LoweringError(f"sequence {chunk.sequence}: no new tokens; give at least one")
        if chunk.end > memory.context:
            raise LoweringError(
                f"sequence {chunk.sequence}: {chunk.end} tokens; the context is {memory.context}: shorten it or "
                "generate fewer tokens"
            )
        wrong = [token for token in chunk.tokens if not 0 <= token < vocabulary]
        if wrong:
            raise LoweringError(f"sequence {chunk.sequence}: token {wrong[0]}; the vocabulary is 0 to {vocabulary - 1}")
    starts = {chunk.sequence: chunk.position for chunk in chunks}
    for chunk in chunks:
        if chunk.prefix is None:
            continue
        owner, tokens = chunk.prefix.sequence, chunk.prefix.tokens
        name = f"sequence {chunk.sequence}: prefix of {tokens} tokens of sequence {owner}"
        if not 0 <= owner < memory.sequences:
            raise LoweringError(f"{name}; the memory has sequences 0 to {memory.sequences - 1}")
        most = min(chunk.position, starts.get(owner, chunk.position))
        if not 1 <= tokens <= most:
            raise LoweringError(f"{name}; 1 to {most} of them have been run before the step")
        align = memory.tiling.key_alignment
        if tokens % align:
            raise LoweringError(f"{name}; use a multiple of {align}, what is loaded as a whole")


def _size(
    chunks: Sequence[Chunk], outputs: int, key_block: int, slots: bool, prefixes: bool = False
) -> StepSize:  # fmt: skip
    return StepSize(
        tokens=sum(len(c.tokens) for c in chunks), outputs=outputs, longest=max(len(c.tokens) for c in chunks),
        keys=max(c.end for c in chunks), key_block=key_block, slots=slots, sharing=sharing(chunks) if prefixes else 0,
    )  # fmt: skip


def parts_of(
    residence: Residence, chunks: Sequence[Chunk], key_block: int, slots: bool, largest: int | None = None,
    prefixes: bool = False,
) -> tuple[Part, ...]:  # fmt: skip
    """Return a step's tokens in parts that fit the chip: one, or as many as take the fewest cycles.

    Parameters
    ----------
    residence : Residence
        The model on the machine.
    chunks : sequence of Chunk
        New tokens of each sequence.
    key_block : int
        Keys that are scored at once.
    slots : bool
        The machine finds the routing.
    largest : int, optional
        Most tokens of a part.
    prefixes : bool
        Decoded tokens attend to a prefix that their sequences have in common together.

    Raises
    ------
    LoweringError
        Not even single tokens fit.
    """
    total = sum(len(chunk.tokens) for chunk in chunks)
    reason: LoweringError | None = None
    best: tuple[int, tuple[Part, ...]] | None = None
    for count in range(1 if largest is None else -(-total // largest), total + 1):
        most = -(-total // count)
        if count > 1 and most == -(-total // (count - 1)):
            continue
        try:
            parts = _plan_parts(residence, cut_chunks(chunks, repeat(most)), key_block, slots, prefixes)
        except LoweringError as error:
            reason = reason or error
            continue
        price = sum(_price(part) for part in parts)
        if best is None or price < best[0]:
            best = price, parts
        elif count >= MOST_PARTS:
            break
        if best is not None and (count >= MOST_PARTS or best[1][0].places.block == best[1][0].tokens):
            break  # more parts read weights more often, and cannot make blocks any larger
    if best is None:
        assert reason is not None
        raise reason
    return best[1]


def _plan_parts(
    residence: Residence, cuts: Sequence[tuple[tuple[Chunk, ...], tuple[int, ...]]], key_block: int, slots: bool,
    prefixes: bool,
) -> tuple[Part, ...]:  # fmt: skip
    parts, first = [], 0
    for own, outputs in cuts:
        places = plan_places(residence, _size(own, len(outputs), key_block, slots, prefixes))
        parts.append(Part(own, first, outputs, places))
        first += parts[-1].tokens
    return tuple(parts)


def _price(part: Part) -> int:
    """Return the cycles that a part takes when nothing overlaps."""
    return sum(one.cycles for one in estimate(part.places, part.chunks, None, len(part.outputs)))


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
    pinned = own.pinned(memory, constants)
    lowering = _Lowering(constants, memory, chunks, routing, block, own.timing, pinned, own.on_chip)
    plans, tried = own.plans(residence, chunks, routing is None, pinned), list[Tried]()
    if len(plans) > 1:
        tried = lowering.time(plans)
        plans = [own.learn(chunks, routing is None, tried, pinned is not None)] if tried else plans
    return lowering.program(plans[0], tuple(tried))


class _Emitted(NamedTuple):
    """A step's instructions without semaphores, and what they are for."""

    parts: tuple[Part, ...]
    stream: Builder
    labels: Labels
    on_chip: frozenset[Hashable] = frozenset()


class _Lowering:
    """A step whose plans are tried."""

    def __init__(
        self, constants: Constants, memory: ModelMemory, chunks: Sequence[Chunk],
        routing: Sequence[Routing | None] | None, block: int, timing: MemoryTiming, pinned: Pinned | None,
        on_chip: frozenset[Hashable],
    ) -> None:  # fmt: skip
        self._constants = constants
        self._memory = memory
        self._chunks = chunks
        self._routing = routing
        self._block = block
        self._timing = timing
        self._pinned = pinned
        self._on_chip = on_chip
        self._config = memory.tiling.config
        self._last: tuple[tuple[Plan, frozenset[Hashable]], _Emitted] | None = None

    def time(self, plans: Sequence[Plan]) -> list[Tried]:
        """Return the plans that can be, with their cycles; nothing for a stream that takes too long to try others.

        Plans with weights that stay are timed as if these were there: the first step is what later ones are paid with.
        """
        tried: list[Tried] = []
        for plan in plans:
            try:
                emitted = self._emit(plan, self._all())
                if len(emitted.stream) > MOST_LISTED:
                    break
                table, _ = self._order(emitted, plan)
            except (LoweringError, SyncError):
                if plan == plans[0]:
                    raise
                continue
            counts = self._counts(emitted, plan)
            tried.append(Tried(plan, simulate(self._config, table, memory=self._timing, slot_counts=counts).cycles))
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
            parts=parts, chunks=tuple(self._chunks), table=table, marks=np.append(marks, labels.mark(-1, "end")),
            label_texts=labels, stream_base=binary.address, patch=memory.step, window=memory.window,
            logits=Symbol(memory.logits.group, memory.logits.address, size), plan=plan, tried=tried,
            on_chip=on_chip, kept_tiles=kept,
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
        slots, prefixes = self._routing is None, plan.prefixes
        parts = parts_of(self._memory.residence, self._chunks, self._block, slots, prefixes=prefixes)
        if plan.cuts:
            return self._emit_cut(parts, plan, on_chip)
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
                    self._memory.residence, self._chunks, self._block, slots, -(-most // 2), prefixes
                )  # fmt: skip

    def _fine(self, part: Part) -> Part:
        """Return a part with smaller blocks of attention."""
        size = replace(part.places.size, block=SMALL_BLOCK)
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
        for own, ends in cut_chunks(self._chunks, plan.cuts):
            batches.append(MicroBatch(own, first))
            outputs += [before + number for number in ends]
            first, before = batches[-1].end, before + len(own)
        there = set(on_chip)
        emitter = emit_micro_batches(
            self._constants, self._memory, part.places, batches, self._routing, outputs, labels, plan.early_keys, there
        )  # fmt: skip
        return _Emitted((part,), emitter.stream, labels, frozenset(there) if plan.pinned else frozenset())

    def _emit_beside(self, plan: Plan) -> _Emitted:
        """Emit micro-batches that stream weights, each for itself."""
        if self._routing is None:
            raise LoweringError("micro-batches with weights of their own: the routing has to be known")
        regions = split(self._memory.residence, len(plan.cuts))
        parts, first = [], 0
        cuts = spread_chunks(self._chunks, len(plan.cuts))
        for (own, outputs, spread), region in zip(cuts, regions, strict=True):
            size = replace(_size(own, len(outputs), self._block, False, plan.prefixes), block=SMALL_BLOCK)
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
            order = list_schedule(plain, self._config, memory, self._mean_counts(emitted, plan), plan.spread)
            plain, marks = Table(plain.rows[order]), marks[order]
        own = Builder.of(plain) if stream is None or plan.listed else stream
        table, origin = synchronise(own, self._config, memory, carriers(self._config), end=True)
        return table, marks[origin]

    def _counts(self, emitted: _Emitted, plan: Plan, seed: int = 0) -> list[list[int]]:
        """Return the tokens of slots with a routing that is drawn."""
        if self._routing is not None:
            return []
        tokens = plan.cuts or [part.tokens for part in emitted.parts]
        shares = [layer.shares for layer in self._constants.layers]
        drawn = draw_routing(self._memory.tiling.model, sum(tokens), np.random.default_rng(seed), shares)
        return slot_counts(tokens, drawn, by_number=bool(plan.cuts))

    def _mean_counts(self, emitted: _Emitted, plan: Plan) -> list[list[int]]:
        """Return the tokens of slots that can be expected: an order that is made for one routing fits no other."""
        draws = [self._counts(emitted, plan, seed) for seed in range(1, 1 + MEAN_OF)]
        means = []
        for counts in zip(*draws, strict=True):
            padded = np.zeros((len(counts), max(map(len, counts))))
            for row, own in zip(padded, counts, strict=True):
                row[: len(own)] = own
            means.append(np.ceil(padded.mean(axis=0)).astype(int).tolist())
        return means


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


def _slice(route: Routing | None, part: Part) -> Routing | None:
    if route is None or not route.experts.size:  # a layer without experts
        return None
    own = part.numbers
    return Routing(route.experts[own], route.gates[own])


def default_key_block(tiling: Tiling, most: int) -> int:
    """Return the keys that are scored at once unless something else is asked for.

    Parameters
    ----------
    tiling : Tiling
    most : int
        What the model is, or will be, quantised for.
    """
    return min(tiling.key_block, max(tiling.key_alignment, most // tiling.key_alignment * tiling.key_alignment))


def check_smallest_step(residence: Residence, key_block: int) -> None:
    """Check that the machine has room for a step of one token, before there is a model.

    Parameters
    ----------
    residence : Residence
        The model on the machine.
    key_block : int
        What the model will be quantised for.

    Raises
    ------
    LoweringError
        It has not; names the memory, the need and the remedy.
    """
    block = default_key_block(residence.tiling, key_block)
    plan_places(residence, _size([Chunk(0, 0, (0,))], 1, block, False))
