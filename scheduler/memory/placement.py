# SPDX-License-Identifier: Apache-2.0
"""Which channel group holds each nibble plane of an expert.

The A3D-MoE abstract names an even-odd expert placement without saying what it is; ``even_odd`` is this project's
reading of it, the others are controls.
"""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Part", "Placement", "plane_group"]


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
    WHOLE = "whole"
    """Whole experts by parity: both planes of the even ones in group 0, of the odd ones in group 1."""

    @property
    def by_parity(self) -> bool:
        """Whether even and odd experts lie in different groups, each kind one after the other."""
        return self in (Placement.EVEN_ODD, Placement.WHOLE)


def plane_group(policy: Placement, expert: int, part: Part, plane: int) -> int:
    """Return the channel group (0 or 1) of a matrix's nibble plane: 0 the high one, 1 the low one."""
    if policy == Placement.WHOLE:
        return expert % 2
    high = {
        Placement.EVEN_ODD: (expert + (part == Part.DOWN)) % 2, Placement.INTERLEAVED: int(part == Part.DOWN),
        Placement.ONE_GROUP: 0,
    }[policy]  # fmt: skip
    return high ^ plane
