# SPDX-License-Identifier: Apache-2.0
"""Sets of on-chip cells as blocks: ``outer`` runs of ``inner`` cells, ``stride`` apart."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from scheduler.stream.compiled import compiled
from scheduler.stream.machine import Machine

__all__ = [
    "ACCESS", "ADD", "BEGIN", "INNER", "KIND", "KINDS", "OUTER", "READ", "SPACE", "STRIDE", "TIER", "WRITE",
    "Blocks", "end_of", "most_blocks", "put", "put_run",
]  # fmt: skip

Blocks = npt.NDArray[np.int64]
"""Shape [many, 8]: what instructions touch on chip."""

SPACE, KIND, TIER, ACCESS, BEGIN, INNER, STRIDE, OUTER = range(8)
"""Columns of `Blocks`: number of the space, one of the kinds below, the tier that reads (reads by the array) or that
made the rows (results) and -1 for loads, stores and the vector unit, number of the access that the block is a part of,
first cell, cells of a run, cells from one run to the next, runs."""

KINDS = ("read", "write", "add")
READ, WRITE, ADD = range(len(KINDS))
"""Names of the kinds, and their numbers. The last one is an accumulation into a combine row, which commutes with other
additions."""


def most_blocks(machine: Machine) -> int:
    """Return how many blocks one instruction can have."""
    entries = max(machine.accumulator_depth, machine.list_depth)
    return 8 + machine.tiers * (4 + entries) * (1 + machine.tiers)


@compiled
def end_of(blocks: Blocks, b: int) -> int:
    """Return the end of a block's last run."""
    return int(blocks[b, BEGIN] + (blocks[b, OUTER] - 1) * blocks[b, STRIDE] + blocks[b, INNER])


@compiled
def put(
    blocks: Blocks, at: int, space: int, kind: int, tier: int, access: int, begin: int, inner: int, stride: int,
    outer: int,
) -> int:  # fmt: skip
    """Add a block behind the first `at`, unless it is empty; return how many there are then."""
    if inner <= 0 or outer <= 0:
        return at
    if outer > 1 and (stride == inner or (stride < inner and kind != WRITE)):
        # One run. What writes a cell twice stays as it is: that is for others to find.
        inner = (outer - 1) * stride + inner
        outer = 1
    blocks[at, SPACE] = space
    blocks[at, KIND] = kind
    blocks[at, TIER] = tier
    blocks[at, ACCESS] = access
    blocks[at, BEGIN] = begin
    blocks[at, INNER] = inner
    blocks[at, STRIDE] = stride
    blocks[at, OUTER] = outer
    return at + 1


@compiled
def put_run(blocks: Blocks, at: int, space: int, kind: int, tier: int, access: int, begin: int, inner: int) -> int:
    """Add one run behind the first `at` blocks, unless it is empty; return how many there are then."""
    return put(blocks, at, space, kind, tier, access, begin, inner, inner, 1)
