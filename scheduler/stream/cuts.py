# SPDX-License-Identifier: Apache-2.0
"""Cuts a step's tokens into parts, or into micro-batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from scheduler.ops.batch import Chunk

__all__ = ["Spread", "cut_chunks", "spread_chunks", "spread_sizes"]

STEP = 16
"""Tokens of a prompt that attention takes at once: pieces of prompts are whole numbers of them."""


@dataclass(frozen=True, eq=False)
class Spread:
    """Where tokens that are not consecutive lie in the step.

    Attributes
    ----------
    numbers : intp array
        Of the tokens.
    rows : tuple of int
        Of the sequences whose logits are wanted.
    """

    numbers: npt.NDArray[np.intp]
    rows: tuple[int, ...]


def cut_chunks(chunks: Sequence[Chunk], sizes: Iterable[int]) -> list[tuple[tuple[Chunk, ...], tuple[int, ...]]]:
    """Cut a step's tokens into parts of at most some sizes, one after the other.

    Returns
    -------
    list of (chunks, outputs)
        Parts, each with the numbers of its chunks that end a sequence's.
    """
    parts: list[tuple[list[Chunk], list[int]]] = []
    room, more = 0, iter(sizes)
    for chunk in chunks:
        done = 0
        while done < len(chunk.tokens):
            if not room:
                parts.append(([], []))
                room = next(more)
            count = min(room, len(chunk.tokens) - done)
            own, outputs = parts[-1]
            if done + count == len(chunk.tokens):
                outputs.append(len(own))
            own.append(replace(chunk, position=chunk.position + done, tokens=chunk.tokens[done : done + count]))
            room -= count
            done += count
    return [(tuple(own), tuple(outputs)) for own, outputs in parts]


def _pieces(chunks: Sequence[Chunk], count: int) -> list[list[tuple[int, int, int]]]:
    """Return what each micro-batch has: numbers of chunks, and their first and last tokens (exclusive)."""
    found: list[list[tuple[int, int, int]]] = [[] for _ in range(count)]
    decoded = [number for number, chunk in enumerate(chunks) if len(chunk.tokens) == 1]
    turn = {number: place * count // len(decoded) for place, number in enumerate(decoded)}
    for number, chunk in enumerate(chunks):
        if number in turn:
            found[turn[number]].append((number, 0, 1))
            continue
        steps = -(-len(chunk.tokens) // STEP)
        ends = [min(len(chunk.tokens), STEP * -(-steps * (n + 1) // count)) for n in range(count)]
        for own, first, end in zip(found, [0, *ends], ends, strict=False):
            if first < end:
                own.append((number, first, end))
    return [own for own in found if own]


def spread_sizes(chunks: Sequence[Chunk], count: int) -> tuple[int, ...]:
    """Return the tokens of the micro-batches of :func:`spread_chunks`."""
    return tuple(sum(end - first for _, first, end in own) for own in _pieces(chunks, count))


def spread_chunks(
    chunks: Sequence[Chunk], count: int
) -> list[tuple[tuple[Chunk, ...], tuple[int, ...], Spread]]:  # fmt: skip
    """Cut a step into at most so many micro-batches that have about the same part of each prompt and of what decodes.

    Returns
    -------
    list of (chunks, outputs, spread)
        Micro-batches, each with the numbers of its chunks that end a sequence's, and where its tokens lie in the step.
    """
    before = np.cumsum([0, *(len(chunk.tokens) for chunk in chunks)])
    found = []
    for pieces in _pieces(chunks, count):
        own, outputs, numbers, rows = [], [], [], []
        for place, (number, first, end) in enumerate(pieces):
            chunk = chunks[number]
            own.append(replace(chunk, position=chunk.position + first, tokens=chunk.tokens[first:end]))
            numbers.append(np.arange(before[number] + first, before[number] + end))
            if end == len(chunk.tokens):
                outputs.append(place)
                rows.append(number)
        found.append((tuple(own), tuple(outputs), Spread(np.concatenate(numbers), tuple(rows))))
    return found
