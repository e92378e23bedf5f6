# SPDX-License-Identifier: Apache-2.0
"""What a machine did in a run, in the units in which an energy table has its entries."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

__all__ = ["Activity"]


@dataclass(frozen=True, kw_only=True)
class Activity:
    """Counts of a run, or of several: activities of the same machine are added with ``+``.

    Padding counts: a PE that multiplies by a padded zero is clocked as any other. A cycle without a wave counts as idle
    for each PE of the tier.

    Attributes
    ----------
    cycles : int
    pe_cycles : int
        PEs x cycles.
    channel_cycles : float
        Pseudo-channels of 32 bytes x cycles, both groups.
    macs : int
        Multiply-accumulates, padding included: waves x PEs of a tier.
    register_bits : int
        Bits written into the array's registers: partial sums and activations with each wave, stationary bytes with each
        tile.
    vcache_read_bytes, vcache_write_bytes : int
    accumulator_bytes : int
        Read and written.
    buffer_bytes : int
        Read and written in activation buffers, combine buffer, requantisation words and token lists.
    lane_operations : int
        Elements of rows in drains, in the combine buffer's adders, in the vector unit.
    vertical_bytes : int
        Over bonds: a byte that crosses two counts twice.
    lateral_bytes : int
        Along a die.
    offchip_bytes : int
        Between dies and memories.
    hbm_read_bytes, hbm_write_bytes : int
    hbm_activates, hbm_refreshes : float
        Rows that were opened, and refreshes of a bank; both for rows of 1,024 bytes: those of a narrower channel count
        as the part of it that they are.
    """

    cycles: int
    pe_cycles: int
    channel_cycles: float
    macs: int
    register_bits: int
    vcache_read_bytes: int
    vcache_write_bytes: int
    accumulator_bytes: int
    buffer_bytes: int
    lane_operations: int
    vertical_bytes: int
    lateral_bytes: int
    offchip_bytes: int
    hbm_read_bytes: int
    hbm_write_bytes: int
    hbm_activates: float
    hbm_refreshes: float

    @property
    def idle_pe_cycles(self) -> int:
        """PEs x cycles without a wave."""
        return self.pe_cycles - self.macs

    def __add__(self, other: Activity) -> Activity:
        """Return the sum of two runs."""
        mine, theirs = dataclasses.asdict(self), dataclasses.asdict(other)
        return Activity(**{name: mine[name] + theirs[name] for name in mine})

    def to_dict(self) -> dict[str, Any]:
        """Return the counts by name."""
        return dataclasses.asdict(self)
