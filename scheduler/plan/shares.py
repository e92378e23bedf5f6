# SPDX-License-Identifier: Apache-2.0
"""A matrix in tiles, and the shares of it that gangs hold at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hdl.config import MachineConfig
from scheduler.memory.layout import memory_alignment
from scheduler.plan.limits import MOST_COUNT, MOST_STRIDE, LoweringError

__all__ = ["Matrix", "Share", "shares_of"]


@dataclass(frozen=True)
class Matrix:
    """A matrix in tiles.

    Attributes
    ----------
    name : str
    inputs, outputs : int
        Published widths.
    k_slices, n_tiles : int
        Reduction slices of R and output tiles of C.
    """

    name: str
    inputs: int
    outputs: int
    k_slices: int
    n_tiles: int

    @property
    def tiles(self) -> int:
        """V-Cache tiles of the whole matrix."""
        return self.k_slices * self.n_tiles


@dataclass(frozen=True)
class Share:
    """Consecutive output tiles of a matrix that a gang holds at a time, `each` of them a tier.

    Attributes
    ----------
    first : int
        First output tile.
    tiers : int
        Gang: tiers 0 to ``tiers - 1``.
    each : int
        Output tiles of a tier.
    """

    first: int
    tiers: int
    each: int

    @property
    def end(self) -> int:
        """Output tile after the last."""
        return self.first + self.tiers * self.each


def shares_of(matrix: Matrix, config: MachineConfig, room: int, step: int = 1, whole: int = 1) -> tuple[Share, ...]:
    """Cut a matrix into shares that fit `room` tiles of each tier.

    A tier's tiles begin where a load can begin. What the gang cannot divide evenly goes to smaller gangs. Without
    vertical links there are no gangs.

    Parameters
    ----------
    matrix : Matrix
    config : MachineConfig
    room : int
        V-Cache tiles of each tier.
    step : int
        Every share begins and ends at a multiple of so many output tiles, the matrix's end aside.
    whole : int
        Output tiles that a tier has all of, or none; a divisor of the matrix's.

    Raises
    ------
    LoweringError
        Not even the smallest share fits.
    """
    gangs = range(config.tiers if config.vertical_links else 1, 0, -1)
    least = memory_alignment(config)
    align = least // math.gcd(least, matrix.k_slices * config.plane_bytes)  # output tiles from one load to the next
    most = min(room // matrix.k_slices, MOST_COUNT)
    found, first = [], 0
    while first < matrix.n_tiles:
        left = matrix.n_tiles - first
        for tiers in gangs:
            # All but the last load of a matrix begin and end where loads can.
            each = min(left // tiers, most, MOST_STRIDE // tiers)
            if each * tiers < left or tiers > 1:
                each -= each % align
            if each * tiers < left:
                each -= each % (step // math.gcd(step, tiers))
            each -= each % whole
            if each > 0:
                break
        else:
            raise LoweringError(
                f"matrix {matrix.name}: {min(left, align)} output tiles of {matrix.k_slices} slices; V-Cache has room "
                f"for {room} tiles: raise vcache_tiles"
            )
        found.append(Share(first, tiers, each))
        first = found[-1].end
    return tuple(found)
