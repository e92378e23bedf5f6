# SPDX-License-Identifier: Apache-2.0
"""Bytes that cross bonds, and bytes that travel along a die, by the work of a stream."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hdl.config import MachineConfig
from hdl.interfaces import dispatch_layout
from scheduler.cost.energy.work import Work

__all__ = ["MovedBytes", "moved_bytes"]


class MovedBytes(NamedTuple):
    """Bytes by the way that they take.

    Attributes
    ----------
    vertical_bytes : int
        Over bonds, once for each bond that they cross.
    lateral_bytes : int
        Along a die.
    offchip_bytes : int
        To and from the memories.
    """

    vertical_bytes: int
    lateral_bytes: int
    offchip_bytes: int


def moved_bytes(config: MachineConfig, work: Work) -> MovedBytes:
    """Return where a stream's bytes travel.

    Vertical: fill words and words of the write bus as far up as their highest tier, a wave's dispatch up to its tier, a
    finished row (int16) down from its tier, and the three links between neighbours. Lateral: beats between channel and
    bonds, a wave's activations along the rows of its tier, result rows to the bus's other end, rows between combine
    buffer and vector unit; with the edge feed, tiles on their way in. Memories over their rows or columns are none of
    it: a V-Cache word goes to the row below it.
    """
    c = config
    bonds = np.arange(1, c.tiers + 1)
    lane = dispatch_layout(c)
    control = -(-(lane["wave"].width + lane["tail"].width) // 8)
    vertical = (
        work.fill_bonds * c.fill_bytes + work.result_bond_bytes + work.bus_bond_bytes
        + int((work.wave * bonds).sum()) * control + int((work.rows * bonds).sum()) * 2 * c.columns
        + int(work.link_m.sum()) * c.tile_bytes + int(work.link_n.sum()) * c.rows
        + int(work.link_k.sum()) * 4 * c.columns
    )  # fmt: skip
    offchip = (int(work.read_beats.sum() + work.write_beats.sum()) + work.fetch_beats) * c.group_bytes
    lateral = (
        offchip + int(work.wave.sum()) * c.rows + int(work.rows.sum()) * 2 * c.columns
        + work.vector_moved * 4 * c.columns
    )  # fmt: skip
    if c.stationary_feed == "edge":
        lateral += int(work.new_own.sum() + work.link_m.sum()) * c.tile_bytes
    return MovedBytes(vertical, lateral, offchip)
