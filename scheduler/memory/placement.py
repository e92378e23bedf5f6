# SPDX-License-Identifier: Apache-2.0
"""Which channel group holds an expert's high-nibble plane; the low plane always lies in the other group.

The A3D-MoE abstract names an even-odd expert placement without saying what it is; ``even_odd`` is this project's
reading of it, ``interleaved`` and ``one_group`` are controls.
"""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Part", "Placement", "high_plane_group"]


class Part(StrEnum):
    """The two matrices of an expert."""

    UP = "up"
    """Gate and up projection, their channels interleaved tile by tile."""
    DOWN = "down"
    """Down projection."""


class Placement(StrEnum):
    """Placement policies."""

    EVEN_ODD = "even_odd"
    """Even experts' high planes in group 0, odd experts' in group 1, of the down projection the other way round: two
    experts' high planes load at once, and an expert's own two."""
    INTERLEAVED = "interleaved"
    """Matrices alternate: an expert's up projection has its high plane in group 0, its down projection in group 1."""
    ONE_GROUP = "one_group"
    """All high planes in group 0."""


def high_plane_group(policy: Placement, expert: int, part: Part) -> int:
    """Return the channel group (0 or 1) of a matrix's high-nibble plane."""
    if policy == Placement.EVEN_ODD:
        return (expert + (part == Part.DOWN)) % 2
    if policy == Placement.INTERLEAVED:
        return int(part == Part.DOWN)
    return 0
