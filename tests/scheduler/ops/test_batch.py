# SPDX-License-Identifier: Apache-2.0
"""Blocks of tokens: each token once, consecutive ones together, decoded sequences between the blocks of prompts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.ops.batch import Chunk, Piece, blocks_of, mixed_blocks


def chunks_of(sizes: list[int]) -> list[Chunk]:
    """Return new tokens of sequences that have 5 cached."""
    return [Chunk(slot, 5, (0,) * size) for slot, size in enumerate(sizes)]


def sizes_of(blocks: list[list[Piece]]) -> list[int]:
    """Return the tokens of each block."""
    return [sum(piece.count for piece in own) for own in blocks]


@given(sizes=st.lists(st.one_of(st.just(1), st.integers(1, 70)), min_size=1, max_size=20), block=st.integers(1, 32))
def test_every_token_once_and_every_block_in_one_piece(sizes: list[int], block: int) -> None:
    chunks = chunks_of(sizes)
    blocks = mixed_blocks(chunks, block, 3)
    numbers = [piece.first + n for own in blocks for piece in own for n in range(piece.count)]
    assert sorted(numbers) == list(range(sum(sizes)))
    positions = {slot: [] for slot in range(len(sizes))}
    for own in blocks:
        first = own[0].first
        for piece in own:
            assert piece.first == first
            first += piece.count
            positions[piece.chunk.sequence] += range(piece.position, piece.position + piece.count)
        assert first - own[0].first <= block
    assert all(found == list(range(5, 5 + size)) for found, size in zip(positions.values(), sizes, strict=True))


@pytest.mark.parametrize(
    ("sizes", "least", "expected"),
    [
        ([32, *[1] * 8], 1, [2, 8, 2, 8, 2, 8, 2, 8]), ([32, *[1] * 8], 4, [8, 4, 8, 8, 4, 8]),
        ([1, 1, 16], 1, [1, 8, 1, 8]), ([*[1] * 20], 1, [8, 8, 4]), ([20], 1, [8, 8, 4]),
        ([8, *[1] * 20], 1, [8, 8, 4, 8]),
    ],
    ids=str,
)  # fmt: skip
def test_decoded_sequences_are_dealt_among_prompts(sizes: list[int], least: int, expected: list[int]) -> None:
    found = mixed_blocks(chunks_of(sizes), 8, least)
    assert sizes_of(found) == expected
    if max(sizes) == 1 or len(sizes) == 1:
        assert found == blocks_of(chunks_of(sizes), 8)
