# SPDX-License-Identifier: Apache-2.0
"""Fill tags that a stream leaves in V-Cache: what the next one may find there."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hdl.isa import LoadDest, Opcode
from scheduler.stream.table import COL, Table

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
    rows = table.rows
    for row in rows[(rows[:, COL.opcode] == Opcode.LOAD) & (rows[:, COL.dest_kind] == LoadDest.VCACHE)]:
        tiers = [tier for tier in range(len(tags)) if row[COL.dest_tiers] >> tier & 1]
        first = row[COL.dest_base]
        tags[tiers, first : first + row[COL.count]] = -1 if row[COL.slot_en] else row[COL.tag]
