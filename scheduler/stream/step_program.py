# SPDX-License-Identifier: Apache-2.0
"""A step's stream and all that a machine needs to run it: parts, logits, labels, what stays on the chip."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from hdl.isa import Instruction
from hdl.numerics.precision import Thresholds
from scheduler.memory.image import Symbol
from scheduler.ops.batch import Chunk, Routing
from scheduler.plan.places import Places
from scheduler.plan.tiling import Tiling
from scheduler.stream.choose import Plan, Tried, slot_counts
from scheduler.stream.cuts import Spread
from scheduler.stream.emit.head import logit_parts
from scheduler.stream.emit.labels import Label, Labels
from scheduler.stream.table import Table

__all__ = ["LogitBlock", "Part", "StepProgram", "gather_logits"]


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
    thresholds : tuple of Thresholds
        How important an expert has to be for its planes, layer by layer.
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
    thresholds: tuple[Thresholds, ...] = ()

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
            return slot_counts(self.plan.cuts, routing, True, self.thresholds)
        return slot_counts([part.tokens for part in self.parts], routing, False, self.thresholds)

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
