# SPDX-License-Identifier: Apache-2.0
"""Three steps of three sequences: prompts, a prompt beside two that decode, and decode alone."""

from __future__ import annotations

from scheduler.ops.batch import Chunk

__all__ = ["STEPS", "prompt"]


def prompt(slot: int, position: int, count: int) -> Chunk:
    """Return new tokens of a sequence."""
    return Chunk(slot, position, tuple((7 * slot + 3 * n + position) % 20 for n in range(count)))


STEPS = (
    [prompt(0, 0, 17), prompt(2, 0, 3)], [prompt(0, 17, 1), prompt(1, 0, 9), prompt(2, 3, 1)],
    [prompt(0, 18, 1), prompt(1, 9, 1), prompt(2, 4, 1)],
)  # fmt: skip
