# SPDX-License-Identifier: Apache-2.0
"""What a step works on: new tokens of some sequences, and which experts they go to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

__all__ = ["Chunk", "MicroBatch", "Piece", "Prefix", "Routing", "blocks_of", "mixed_blocks", "with_own_prefixes"]


@dataclass(frozen=True)
class Prefix:
    """First tokens that a sequence has in common with another, in whose place their keys and values lie.

    Attributes
    ----------
    sequence : int
        Place of the sequence that has run them.
    tokens : int
        How many they are: a multiple of `scheduler.plan.tiling.Tiling.key_alignment`.
    """

    sequence: int
    tokens: int


@dataclass(frozen=True)
class Chunk:
    """New tokens of one sequence.

    Attributes
    ----------
    sequence : int
        Place of the sequence's keys and values in memory.
    position : int
        Position of the first new token: as many tokens of the sequence have been run before.
    tokens : tuple of int
        Token numbers, 1 or more.
    prefix : Prefix or None
        Tokens before `position` whose keys and values lie in another sequence's place.
    """

    sequence: int
    position: int
    tokens: tuple[int, ...]
    prefix: Prefix | None = None

    @property
    def end(self) -> int:
        """Length of the sequence after the step."""
        return self.position + len(self.tokens)


@dataclass(frozen=True)
class MicroBatch:
    """Some of a step's tokens that go through a layer together.

    Attributes
    ----------
    chunks : tuple of Chunk
    first : int
        Number of the first token in the step.
    """

    chunks: tuple[Chunk, ...]
    first: int

    @property
    def end(self) -> int:
        """Number of the token after the last."""
        return self.first + sum(len(chunk.tokens) for chunk in self.chunks)


@dataclass(frozen=True, eq=False)
class Routing:
    """Experts of a step's tokens in one layer.

    Attributes
    ----------
    experts : int array [tokens, k]
        Chosen experts.
    gates : uint16 array [tokens, k]
        Gate scores, Q15.
    """

    experts: npt.NDArray[np.int64]
    gates: npt.NDArray[np.uint16]


@dataclass(frozen=True)
class Piece:
    """Consecutive tokens of one chunk within a token block.

    Attributes
    ----------
    chunk : Chunk
        Whose.
    first : int
        Number of the first token in the step.
    position : int
        Its position in the sequence.
    count : int
        Tokens.
    """

    chunk: Chunk
    first: int
    position: int
    count: int


def with_own_prefixes(chunks: Sequence[Chunk]) -> list[Chunk]:
    """Return chunks, those in whose places others have a prefix with it as their own: they attend to it with them.

    Where others have prefixes of several lengths there, it is the one that most of them have, of these the longest.
    """
    users = Counter(chunk.prefix for chunk in chunks if chunk.prefix is not None)
    found = []
    for chunk in chunks:
        own = chunk.prefix
        if own is None:
            known = [p for p in users if p is not None and p.sequence == chunk.sequence and p.tokens <= chunk.position]
            own = max(known, key=lambda prefix: (users[prefix], prefix.tokens), default=None)
        found.append(replace(chunk, prefix=own))
    return found


def blocks_of(chunks: Sequence[Chunk], block: int, first: int = 0) -> list[list[Piece]]:
    """Cut tokens, numbered from `first` on, into blocks of at most `block`, and each block at the ends of sequences."""
    blocks: list[list[Piece]] = []
    begin = first
    for chunk in chunks:
        done = 0
        while done < len(chunk.tokens):
            used = (first - begin) % block
            if used == 0:
                blocks.append([])
            count = min(block - used, len(chunk.tokens) - done)
            blocks[-1].append(Piece(chunk, first, chunk.position + done, count))
            first += count
            done += count
    return blocks


def mixed_blocks(chunks: Sequence[Chunk], block: int, least: int = 1) -> list[list[Piece]]:
    """Cut tokens into blocks of at most `block` so that some decoded sequences come before each block of prompts.

    The keys of decoded sequences come from memory while the vector unit works on prompts. Without either it is
    :func:`blocks_of`.

    Parameters
    ----------
    chunks : sequence of Chunk
        New tokens of each sequence.
    block : int
        Most tokens of a block.
    least : int
        Fewest tokens of a block of decoded sequences while there are more: each block reads the dense weights again.
    """
    runs: list[tuple[bool, int, list[Chunk]]] = []  # whether they are decoded, first token, chunks
    first = 0
    for chunk in chunks:
        decoded = len(chunk.tokens) == 1
        if not runs or runs[-1][0] != decoded:
            runs.append((decoded, first, []))
        runs[-1][2].append(chunk)
        first += len(chunk.tokens)
    prompts = [own for decoded, at, run in runs if not decoded for own in blocks_of(run, block, at)]
    total = sum(len(run) for decoded, _, run in runs if decoded)
    if not prompts or not total:
        return blocks_of(chunks, block)
    size = min(block, max(least, -(-total // len(prompts))))
    others = [own for decoded, at, run in runs if decoded for own in blocks_of(run, size, at)]
    found = []
    for place, own in enumerate(prompts):
        found += others[place * len(others) // len(prompts) : (place + 1) * len(others) // len(prompts)]
        found.append(own)
    return found
