# SPDX-License-Identifier: Apache-2.0
"""Fused streams that would stop: with short queues and one dispatcher, as the machine has them; none gets through."""

from __future__ import annotations

import random
from collections import Counter
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

from hdl.config import MachineConfig
from hdl.isa import Opcode
from hdl.isa.legality import Limits
from scheduler.cost.model import ModelDeadlockError, simulate
from scheduler.stream.choose import Plan
from scheduler.stream.prove import prove
from scheduler.stream.table import COL, COLUMNS, Rows, Table
from tests.support.checkpoints import small_model
from tests.support.language import LanguageRun, varied
from tests.support.plans import ROOMY, Forced
from tests.support.steps import STEPS

PLANS = {
    "micro-batches": Plan((5, 4, 2)),
    "list schedule": Plan((5, 4, 2), listed=True, early_keys=True),
    "experts beside attention": Plan((11,), listed=True),
}
SEMAPHORES = tuple(
    (COLUMNS.index(f"{what}{place}_sem"), COLUMNS.index(f"{what}{place}_{on}"))
    for what, on in (("wait", "count"), ("post", "en"))
    for place in (0, 1)
)
"""Columns that name a semaphore, and those that say whether it is used."""


class Fused(NamedTuple):
    """A stream, and what it is proved and run with."""

    rows: Rows
    config: MachineConfig
    images: list[npt.NDArray[np.uint8]]
    limits: Limits
    counts: list[list[int]]

    def proof(self, rows: Rows) -> set[str]:
        """Return the kinds of what the proof finds."""
        return {finding.kind for finding in prove(Table(rows), self.config, self.images, self.limits)}

    def stops(self, rows: Rows, queue_depth: int | None = None) -> bool:
        """Return whether the cycle model cannot bring it to its end."""
        config = self.config if queue_depth is None else self.config.replace(queue_depth=queue_depth)
        try:
            simulate(config, Table(rows), slot_counts=self.counts)
        except ModelDeadlockError:
            return True
        return False


@cache
def fused(name: str, slots: bool) -> Fused:
    """Return the stream of a mixed step by a plan."""
    model = small_model("mixtral", hidden=21, heads=4, kv_heads=2, head_dim=6, intermediate=13, vocabulary=21)
    one = LanguageRun(
        ROOMY, varied(model, 3), slots=slots, step_bytes=1 << 19, chooser=Forced([Plan(), PLANS[name]])
    )  # fmt: skip
    one.step(STEPS[0])
    program = one.step(STEPS[1])
    counts = program.slot_counts(one.routing) if slots else []
    limits = Limits((one.memory.images[0].size, one.memory.images[1].size), program.window)
    return Fused(program.table.rows, ROOMY, one.memory.images, limits, counts)


def moved(rows: Rows, first: int, to: int) -> Rows:
    """Return a stream with one instruction at another place."""
    order = list(range(len(rows)))
    order.insert(to, order.pop(first))
    return rows[order]


@pytest.mark.parametrize("slots", [False, True], ids=["host", "slots"])
@pytest.mark.parametrize("name", PLANS)
def test_what_would_stop_is_not_proved(name: str, slots: bool) -> None:
    """Posts that are missing, waits for more, instructions behind those that wait for them."""
    own, rng, found = fused(name, slots), random.Random(7), Counter[str]()
    assert own.proof(own.rows) == set() and not own.stops(own.rows)
    posts = np.flatnonzero(own.rows[:, COL.post0_en])
    waits = np.flatnonzero(own.rows[:, COL.wait0_count])
    for number in range(24):
        rows = own.rows.copy()
        if number % 3 == 0:
            rows[rng.choice(posts), COL.post0_en] = 0
        elif number % 3 == 1:
            rows[rng.choice(waits), COL.wait0_count] += 1
        else:  # an instruction that others wait for comes later, or one that waits comes earlier
            early, late = sorted(rng.sample(range(len(rows) - 1), 2))
            rows = moved(rows, early, late) if rng.random() < 0.5 else moved(rows, late, early)
        stops, kinds = own.stops(rows), own.proof(rows)
        assert kinds or not stops, "it would stop, and is proved"
        found[f"stops: {stops}"] += 1
        found.update(kinds)
    assert found["stops: True"] >= 4 and found["deadlock"] >= 8, found


@pytest.mark.parametrize("slots", [False, True], ids=["host", "slots"])
def test_what_only_long_queues_would_save_is_not_proved(slots: bool) -> None:
    """A load behind the GEMMs that wait for it: the dispatcher does not get there while their queue is full."""
    own = fused("micro-batches", slots)
    rows, seen = own.rows, 0
    loads = np.flatnonzero((rows[:, COL.opcode] == Opcode.LOAD) & (rows[:, COL.post0_en] > 0))
    for load in loads.tolist()[:40]:
        ends = np.flatnonzero(rows[:, COL.opcode] == Opcode.LOAD)
        later = moved(rows, load, int(min(load + 40, ends[-1])))
        if own.stops(later) and not own.stops(later, queue_depth=64):
            assert "deadlock" in own.proof(later)
            seen += 1
    assert seen, "none of them"


def test_waits_in_a_circle() -> None:
    """Two tiers, each of which waits for what the other one does behind it."""
    own = fused("experts beside attention", False)
    rows = own.rows.copy()
    used = {int(row[name]) for row in rows for name, on in SEMAPHORES if row[on]}
    free = [semaphore for semaphore in range(own.config.semaphores) if semaphore not in used]
    gemms = np.flatnonzero(
        (rows[:, COL.opcode] == Opcode.GEMM) & (rows[:, COL.tier_count] == 1) & (rows[:, COL.wait1_count] == 0)
        & (rows[:, COL.post1_en] == 0)
    )  # fmt: skip
    first = {int(rows[n, COL.tier_base]): int(n) for n in gemms[::-1]}
    for tier, semaphore in zip((0, 1), free, strict=False):
        rows[first[tier], [COL.wait1_count, COL.wait1_sem]] = 1, semaphore
        rows[first[1 - tier], [COL.post1_en, COL.post1_sem]] = 1, semaphore
    assert own.stops(rows) and "deadlock" in own.proof(rows)
