# SPDX-License-Identifier: Apache-2.0
"""Rows that HBM opens for runs of beats, and its refreshes: what an activity has where no channel was simulated."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from scheduler.cost.hbm.timing import HbmTiming, T, parameters_of

__all__ = ["ROW_BYTES", "refreshes_of", "rows_opened"]

Int = npt.NDArray[np.int64]

ROW_BYTES = 1024
"""Bytes of the row for which energy tables have an activate."""


def rows_opened(timing: HbmTiming, first: Int, beats: Int) -> int:
    """Return the rows that runs of beats lie in, each run for itself.

    A row that the run before has left open is opened once more here, and one that a refresh or another stream closes in
    between is not: the two errors go in opposite directions.

    Parameters
    ----------
    timing : HbmTiming
        Its mapping and its columns of a row; 2**column_at rows lie beside one another, beat by beat.
    first, beats : int64 arrays [runs]
        First beat of each run, and how many.
    """
    fields = parameters_of(timing, 800.0)  # the places of bits do not depend on the clock
    beside = 1 << int(fields[T.column_at])
    block = beside << int(fields[T.column_bits])
    first, beats = first[beats > 0], beats[beats > 0]
    end = first + beats
    low, high = first // block, (end - 1) // block
    one = low == high
    whole = np.maximum(high - low - 1, 0) * beside
    head = np.minimum((low + 1) * block - first, beside)
    tail = np.minimum(end - high * block, beside)
    return int(np.where(one, np.minimum(beats, beside), head + whole + tail).sum())


def refreshes_of(timing: HbmTiming, cycles: int, mhz: float) -> int:
    """Return the banks that one channel refreshes in some cycles of a machine of `mhz`: one each interval."""
    return int(cycles // int(parameters_of(timing, mhz)[T.refresh]))
