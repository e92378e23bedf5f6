# SPDX-License-Identifier: Apache-2.0
"""What the machine's router makes of slots: tokens, their experts, and what is loaded of these.

A slot is one number: its tokens, `HIGH_ONLY` where only the high plane of its expert is wanted, `EXPERT` times the
expert's number. So ``5 + HIGH_ONLY + 3 * EXPERT`` are five tokens of expert 3, whose high plane is enough for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from hdl.isa import Format, Opcode
from hdl.isa.load import SCORED_FORMATS
from scheduler.stream.table import COL, Rows

__all__ = ["EXPERT", "HIGH_ONLY", "loaded_rows", "tokens_of"]

HIGH_ONLY: Final = 1 << 20
"""Added to a slot's tokens where only the high plane of its expert is wanted."""

EXPERT: Final = 1 << 21
"""Times the number of a slot's expert; an odd one's high plane lies in the other group."""

Counts = Sequence[Sequence[int]]


def tokens_of(slot_counts: Counts) -> list[list[int]]:
    """Return the tokens alone."""
    return [[count & HIGH_ONLY - 1 for count in counts] for counts in slot_counts]


def loaded_rows(rows: Rows, slot_counts: Counts) -> Rows:
    """Return a stream whose PAIR loads of slots that want the high plane only are HIGH loads of the right group.

    That says what such a load reads, and where. It is no stream that could run: the load was in both queues, in each
    of them behind others. LOW loads of such slots, which read nothing, are of no tiles.

    Parameters
    ----------
    rows : int64 array [instructions, columns]
    slot_counts : sequence of sequences of int
        Of each ROUTE in order, its slots.

    Returns
    -------
    int64 array [instructions, columns]
        `rows` itself where there is no such slot.
    """
    if not any(count & HIGH_ONLY for counts in slot_counts for count in counts):
        return rows
    routes = np.flatnonzero(rows[:, COL.opcode] == Opcode.ROUTE)
    scored = np.flatnonzero(
        (rows[:, COL.opcode] == Opcode.LOAD) & (rows[:, COL.scored] == 1) & np.isin(rows[:, COL.format], SCORED_FORMATS)
    )
    last = (rows[routes, COL.slot_base] + rows[routes, COL.experts]).max()
    table = np.zeros(max(int(last), 1 + int(rows[scored, COL.slot].max(initial=0))), np.int64)
    changed = rows.copy()
    ends: npt.NDArray[np.int64] = np.append(routes[1:], len(rows))
    for route, end, counts in zip(routes.tolist(), ends.tolist(), slot_counts, strict=True):
        first, many = int(rows[route, COL.slot_base]), int(rows[route, COL.experts])
        table[first : first + many] = 0
        table[first : first + len(counts)] = counts
        own = scored[(scored > route) & (scored < end)]
        wanted = table[rows[own, COL.slot]]
        high, pair = (wanted & HIGH_ONLY) > 0, rows[own, COL.format] == Format.PAIR
        changed[own[high & ~pair], COL.count] = 0
        own, wanted = own[high & pair], wanted[high & pair]
        changed[own, COL.format] = Format.HIGH
        changed[own, COL.group] ^= wanted // EXPERT & 1
        changed[own, COL.slot_stride] //= 2  # which is from every second expert to the next
        changed[own, COL.scored] = 0
    return changed
