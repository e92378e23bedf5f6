# SPDX-License-Identifier: Apache-2.0
"""Fill tags that a stream leaves in V-Cache: what the next one may find there."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hdl.isa import LoadDest, Opcode
from scheduler.stream.compiled import compiled
from scheduler.stream.table import COL, Rows, Table

__all__ = ["note_tags"]


def note_tags(table: Table, tags: npt.NDArray[np.int16]) -> None:
    """Put the tags of a stream's loads over those that were there before it.

    A load with a slot may find no tokens and load nothing: its tiles count as not valid.

    Parameters
    ----------
    table : Table
        A legal stream.
    tags : int16 array [tiers, vcache_tiles]
        -1: not valid. Changed.
    """
    _note(table.rows, tags)


@compiled
def _note(rows: Rows, tags: npt.NDArray[np.int16]) -> None:
    for n in range(len(rows)):
        if rows[n, COL.opcode] != Opcode.LOAD or rows[n, COL.dest_kind] != LoadDest.VCACHE:
            continue
        tag = -1 if rows[n, COL.slot_en] else rows[n, COL.tag]
        first = rows[n, COL.dest_base]
        for tier in range(len(tags)):
            if rows[n, COL.dest_tiers] >> tier & 1:
                for tile in range(first, first + rows[n, COL.count]):
                    tags[tier, tile] = tag
