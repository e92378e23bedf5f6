# SPDX-License-Identifier: Apache-2.0
"""Rows that HBM opens for runs of beats, and its refreshes: what an activity has where no channel was simulated."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from scheduler.cost.hbm.channel import _bank as bank_of
from scheduler.cost.hbm.channel import _row as row_of
from scheduler.cost.hbm.timing import HbmTiming, T, parameters_of
from scheduler.stream.compiled import compiled

__all__ = ["ROW_BYTES", "refreshes_of", "rows_opened"]

Int = npt.NDArray[np.int64]

ROW_BYTES: Final = 1024
"""Bytes of the row for which energy tables have an activate."""


@compiled
def _opened(timing: Int, runs: Int, banks: Int) -> int:
    """Return the rows that runs of beats open, in `banks` with their open rows, which it changes."""
    count = 0
    beside = 1 << timing[T.column_at]  # so many rows take turns, beat by beat
    block = beside << timing[T.column_bits]
    for n in range(len(runs)):
        beat, end = runs[n, 1], runs[n, 1] + runs[n, 2]
        while beat < end:
            stop = min(end, (beat // block + 1) * block)
            for one in range(beat, min(stop, beat + beside)):
                bank, row = bank_of(timing, one), row_of(timing, one)
                if banks[runs[n, 0], bank] != row:
                    banks[runs[n, 0], bank] = row
                    count += 1
            beat = stop
    return count


def rows_opened(timing: HbmTiming, runs: Int) -> int:
    """Return the rows that runs of beats open, one run after the other, pages left open.

    Loads, stores and instructions take turns in a machine, not run by run, and refreshes close rows: how far that is
    from what channels do is in docs/decisions/0024-energy.md.

    Parameters
    ----------
    timing : HbmTiming
        Its mapping and the columns of a row.
    runs : int64 array [runs, 3]
        Group (0 or 1), first beat, how many.
    """
    fields = parameters_of(timing, 800.0)  # where the bits are does not depend on the clock
    return int(_opened(fields, np.ascontiguousarray(runs), np.full((2, timing.banks), -1, np.int64)))


def refreshes_of(timing: HbmTiming, cycles: int, mhz: float) -> int:
    """Return the banks that one channel refreshes in some cycles of a machine of `mhz`: one each interval."""
    return int(cycles // int(parameters_of(timing, mhz)[T.refresh]))
