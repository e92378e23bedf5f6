# SPDX-License-Identifier: Apache-2.0
"""From an instruction's header to the semaphore ports of the unit that takes it."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Value

__all__ = ["assign_posts", "assign_waits", "has_posts", "has_waits"]


def has_waits(instruction: Any) -> Value:
    """Return whether an instruction (a view of its layout) waits for a semaphore."""
    return (instruction.wait0_count | instruction.wait1_count).any()


def assign_waits(wait: Any, instruction: Any) -> list[Any]:
    """Return the assignments of a ``wait_layout`` from an instruction."""
    return [
        wait.sem0.eq(instruction.wait0_sem),
        wait.count0.eq(instruction.wait0_count),
        wait.sem1.eq(instruction.wait1_sem),
        wait.count1.eq(instruction.wait1_count),
    ]


def has_posts(post: Any) -> Value:
    """Return whether a ``post_layout`` posts a semaphore."""
    return post.en0 | post.en1


def assign_posts(post: Any, instruction: Any) -> list[Any]:
    """Return the assignments of a ``post_layout`` from an instruction."""
    return [
        post.en0.eq(instruction.post0_en),
        post.sem0.eq(instruction.post0_sem),
        post.en1.eq(instruction.post1_en),
        post.sem1.eq(instruction.post1_sem),
    ]
