# SPDX-License-Identifier: Apache-2.0
"""The bus arbiter alone: no common resource, nothing left that could go, no starvation."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from amaranth.sim import Simulator

from hdl.result.arbiter import BusArbiter

Cycle = tuple[list[int | None], int]
"""Resources that each requester needs (None: no request), and the blocked ones."""


def grants(dut: BusArbiter, cycles: list[Cycle], needs_lane: int) -> list[tuple[list[bool], list[int]]]:
    """Return the grants and the lanes of each cycle."""
    seen: list[tuple[list[bool], list[int]]] = []

    async def bench(ctx):
        ctx.set(dut.needs_lane, needs_lane)
        for needs, blocked in cycles:
            ctx.set(dut.request, sum(1 << i for i, need in enumerate(needs) if need is not None))
            ctx.set(dut.blocked, blocked)
            for i, need in enumerate(needs):
                ctx.set(dut.needs[i], need or 0)
            grant = ctx.get(dut.grant)
            lanes = [ctx.get(dut.lane[i]) for i in range(dut.requesters)]
            seen.append(([bool(grant >> i & 1) for i in range(dut.requesters)], lanes))
            await ctx.tick()

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()
    return seen


@pytest.mark.parametrize(("requesters", "lanes"), [(1, 1), (2, 1), (4, 2), (8, 4), (5, 2)])
def test_grants_are_free_of_conflicts_and_complete(requesters: int, lanes: int) -> None:
    rng = np.random.default_rng(requesters)
    dut = BusArbiter(requesters, lanes, 6)
    needs_lane = ((1 << requesters) - 1) & ~(1 << 2)
    cycles: list[Cycle] = [
        (
            [int(rng.integers(0, 64) & rng.integers(0, 64)) if rng.random() < 0.8 else None for _ in range(requesters)],
            int(rng.integers(0, 64) & rng.integers(0, 64) & rng.integers(0, 64)),
        )
        for _ in range(400)
    ]
    for (needs, blocked), (granted, lane) in zip(cycles, grants(dut, cycles, needs_lane), strict=True):
        taken, used = blocked, 0
        for i in range(requesters):
            if not granted[i]:
                assert lane[i] == 0
                continue
            need = needs[i]
            assert need is not None and not need & taken
            taken |= need
            assert bin(lane[i]).count("1") == (needs_lane >> i & 1)
            assert not lane[i] & used
            used |= lane[i]
        full = bin(used).count("1") == lanes
        for i, need in enumerate(needs):
            if need is not None and not granted[i]:
                assert need & taken or (full and needs_lane >> i & 1), "a row that could have moved"


def test_a_loser_keeps_its_turn_while_its_resource_is_blocked() -> None:
    """Requesters 0 and 1 share a resource that is rarely free; the others must not move the turn past them."""
    rng = np.random.default_rng(2)
    dut = BusArbiter(4, 4, 3)
    cycles: list[Cycle] = [([1, 1, 2, 4], int(rng.random() < 0.7)) for _ in range(3000)]
    winners = [
        0 if granted[0] else 1
        for (_, blocked), (granted, _) in zip(cycles, grants(dut, cycles, 0xF), strict=True)
        if not blocked
    ]
    assert len(winners) > 500
    assert all(a != b for a, b in pairwise(winners)), "they take turns"
