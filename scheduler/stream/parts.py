# SPDX-License-Identifier: Apache-2.0
"""Cuts a step into parts that fit the chip, and refuses batches that no part could run."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat

from scheduler.memory.model import ModelMemory
from scheduler.ops.batch import Chunk
from scheduler.plan.estimate import estimate
from scheduler.plan.limits import LoweringError
from scheduler.plan.places import plan_places
from scheduler.plan.pools import StepSize
from scheduler.plan.residence import Residence
from scheduler.plan.tiling import Tiling
from scheduler.stream.choose import sharing
from scheduler.stream.cuts import cut_chunks
from scheduler.stream.step_program import Part

__all__ = ["check_batch", "check_smallest_step", "default_key_block", "parts_of", "size_of"]

MOST_PARTS = 8
"""Parts that are tried once something fits."""


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


def size_of(
    chunks: Sequence[Chunk], outputs: int, key_block: int, slots: bool, prefixes: bool = False
) -> StepSize:  # fmt: skip
    """Return what a part needs room for; `outputs` of its sequences have logits; the rest as for :func:`parts_of`."""
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
        places = plan_places(residence, size_of(own, len(outputs), key_block, slots, prefixes))
        parts.append(Part(own, first, outputs, places))
        first += parts[-1].tokens
    return tuple(parts)


def _price(part: Part) -> int:
    """Return the cycles that a part takes when nothing overlaps."""
    return sum(one.cycles for one in estimate(part.places, part.chunks, None, len(part.outputs)))


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
    plan_places(residence, size_of([Chunk(0, 0, (0,))], 1, block, False))
