# SPDX-License-Identifier: Apache-2.0
"""Why units stood: each cycle of a unit has one cause, found from when its instructions came, waited and worked."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

__all__ = ["CAUSES", "stalls_of", "unit_names"]

Int = npt.NDArray[np.int64]

CAUSES: Mapping[str, str] = {
    "work": "waves, beats, rows",
    "tiles": "tiers: a GEMM that could begin, or has begun, waits for tiles that a load has not brought yet",
    "rows": "tiers: result rows are taken away more slowly than they are made",
    "memory": "loads and stores: between the first and the last word of an instruction nothing moved",
    "banks": "vector unit: rows are not granted, results not written, scalars not there, an operation pauses",
    "order": "an instruction that is ready waits for the one before it in the same unit",
    "semaphores": "the next instruction waits for semaphores",
    "partners": "the next instruction waits for its other units",
    "full": "the queue is empty, and the dispatcher stands before a full one",
    "fetch": "the queue is empty, and the dispatcher waits for instructions",
    "empty": "the queue is empty: instructions on their way, or none left",
}
"""Causes and what they mean."""


def unit_names(tiers: int) -> tuple[str, ...]:
    """Return the units' names by number."""
    return (*(f"tier{tier}" for tier in range(tiers)), "load0", "load1", "store", "vector")


def _standing(dispatched: Int, left_buffer: Int, dispatch: int, at: Int) -> tuple[Int, Int]:
    """Return how many cycles before each of `at` the dispatcher stood before a full queue, and without instructions."""
    here = dispatched[dispatched >= 0]
    before = np.concatenate(([-1], here[:-1])) + 1
    able = np.maximum(before, left_buffer[: len(here)] + dispatch)
    times = np.stack([before, able, here], axis=1).ravel()
    starved = np.cumsum(np.stack([np.zeros_like(here), able - before, np.zeros_like(here)], axis=1).ravel())
    full = np.cumsum(np.stack([np.zeros_like(here), np.zeros_like(here), here - able], axis=1).ravel())
    return np.interp(at, times, full).astype(np.int64), np.interp(at, times, starved).astype(np.int64)


def stalls_of(
    unit: str, own: Mapping[str, Int], entered: Int, dispatched: Int, left_buffer: Int, cycles: int, dispatch: int
) -> dict[str, int]:
    """Return the cycles of a unit by cause; they add up to all cycles of the stream.

    Parameters
    ----------
    unit : str
        Its name.
    own : mapping of str to int64 arrays [slices]
        ``taken``, ``granted``, ``ready``, ``start``, ``end``, ``work`` and ``tiles`` of its slices, in order.
    entered : int64 array [slices]
        Cycles in which its instructions were dispatched.
    dispatched, left_buffer : int64 arrays [instructions]
        Cycles in which each instruction of the stream was dispatched, and left the fetch buffer.
    cycles : int
        Of the stream.
    dispatch : int
        Cycles from the fetch buffer to the dispatch, see ``scheduler.cost.blocks.Blocks``.
    """
    result = dict.fromkeys(CAUSES, 0)
    if not len(entered):
        return {**result, "empty": cycles}
    tier = unit.startswith("tier")
    # From what the unit did before on, step by step; instructions can be ahead of it in each of them.
    free = np.concatenate(([0], np.maximum.accumulate(own["end"])[:-1]))
    taken = np.maximum(free, own["taken"])
    granted = np.maximum(taken, own["granted"])
    ready = np.maximum(granted, own["ready"])
    start = np.maximum(ready, own["start"])
    end = np.maximum(start, own["end"])
    came = np.clip(entered, free, taken)
    full, starved = (
        high - low
        for high, low in zip(
            _standing(dispatched, left_buffer, dispatch, came), _standing(dispatched, left_buffer, dispatch, free),
            strict=True,
        )
    )  # fmt: skip
    inside = end - start
    work = np.minimum(own["work"], inside)
    tiles = np.minimum(own["tiles"], inside - work)
    result["full"], result["fetch"] = int(full.sum()), int(starved.sum())
    result["empty"] = int((taken - free).sum()) - result["full"] - result["fetch"] + max(0, cycles - int(end[-1]))
    result["semaphores"] = int((granted - taken).sum())
    result["partners"] = int((ready - granted).sum())
    result["tiles" if tier else "order"] += int((start - ready).sum())
    result["work"] = int(work.sum())
    result["tiles"] += int(tiles.sum())
    result["rows" if tier else "banks" if unit == "vector" else "memory"] += int((inside - work - tiles).sum())
    return result
