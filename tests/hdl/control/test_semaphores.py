# SPDX-License-Identifier: Apache-2.0
"""The semaphore unit against counters in Python."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from amaranth.sim import Simulator

from hdl.common.queues import queue_count
from hdl.config import PRESETS
from hdl.control.semaphores import POST_SOURCES, SemaphoreUnit

CONFIG = PRESETS["tiny"].replace(semaphores=8, semaphore_bits=4)
WAITERS = queue_count(CONFIG)


def simulate(process: Callable[[Any, SemaphoreUnit], Any]) -> None:
    unit = SemaphoreUnit(CONFIG)

    async def testbench(ctx: Any) -> None:
        await process(ctx, unit)

    simulator = Simulator(unit)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()


def post(ctx: Any, unit: SemaphoreUnit, source: int, *semaphores: int) -> None:
    first, second = [*semaphores, None, None][:2]
    ctx.set(
        unit.post[source].payload,
        {"en0": first is not None, "sem0": first or 0, "en1": second is not None, "sem1": second or 0},
    )
    ctx.set(unit.post[source].valid, bool(semaphores))


def wait(ctx: Any, unit: SemaphoreUnit, who: int, pair: tuple[int, int, int, int] | None) -> None:
    ctx.set(unit.wait[who].valid, pair is not None)
    if pair:
        ctx.set(unit.wait[who].payload, dict(zip(("sem0", "count0", "sem1", "count1"), pair, strict=True)))


@pytest.mark.parametrize("seed", range(3))
def test_random_traffic(seed: int) -> None:
    """Grants never overdraw, take both counts at once, and nobody whose condition stays true waits for ever."""
    rng = random.Random(seed)

    async def process(ctx: Any, unit: SemaphoreUnit) -> None:
        values = [0] * CONFIG.semaphores
        waits: list[tuple[int, int, int, int] | None] = [None] * WAITERS
        posts: list[tuple[int, ...]] = [()] * POST_SOURCES
        patience = [0] * WAITERS
        grants = 0
        for _ in range(1500):
            for who in range(WAITERS):
                if waits[who] is None and rng.random() < 0.7:
                    first, second = rng.sample(range(CONFIG.semaphores), 2)
                    waits[who] = (first, rng.choice([0, 1, 1, 2, 5]), second, rng.choice([0, 0, 1, 3]))
                wait(ctx, unit, who, waits[who])
            for source in range(POST_SOURCES):
                if not posts[source] and rng.random() < 0.5:
                    # Keep well below overflow, what is on offer included.
                    low = [s for s in range(CONFIG.semaphores) if values[s] + sum(p.count(s) for p in posts) < 8]
                    posts[source] = tuple(rng.choices(low, k=rng.choice([1, 1, 2]))) if low else ()
                post(ctx, unit, source, *posts[source])
            assert [ctx.get(value) for value in unit.values] == values
            assert ctx.get(unit.all_zero) == (not any(values))
            assert not ctx.get(unit.overflow)

            met = [w is not None and values[w[0]] >= w[1] and values[w[2]] >= w[3] for w in waits]
            granted = [who for who in range(WAITERS) if ctx.get(unit.wait[who].ready)]
            taken = [s for s in range(POST_SOURCES) if posts[s] and ctx.get(unit.post[s].ready)]
            assert len(granted) == any(met) and all(met[who] for who in granted)
            assert len(taken) == any(posts)
            for who in range(WAITERS):
                patience[who] = 0 if who in granted or not met[who] else patience[who] + 1
                assert patience[who] < WAITERS
            for who in granted:
                first, count0, second, count1 = waits[who] or (0, 0, 0, 0)
                values[first] -= count0
                values[second] -= count1
                waits[who] = None
                grants += 1
            for source in taken:
                for semaphore in posts[source]:
                    values[semaphore] += 1
                posts[source] = ()
            await ctx.tick()
        assert grants > 300

    simulate(process)


def test_post_and_wait_in_the_same_cycle() -> None:
    async def process(ctx: Any, unit: SemaphoreUnit) -> None:
        post(ctx, unit, 0, 5, 5)
        await ctx.tick()
        assert ctx.get(unit.values[5]) == 2
        wait(ctx, unit, 1, (5, 2, 0, 0))
        post(ctx, unit, 0, 5)
        assert ctx.get(unit.wait[1].ready)
        await ctx.tick()
        assert ctx.get(unit.values[5]) == 1
        # A post is not seen in its own cycle.
        post(ctx, unit, 0, 5)
        assert not ctx.get(unit.wait[1].ready)
        await ctx.tick()
        assert ctx.get(unit.wait[1].ready)

    simulate(process)


def test_both_waits_or_none() -> None:
    async def process(ctx: Any, unit: SemaphoreUnit) -> None:
        post(ctx, unit, 3, 1)
        await ctx.tick()
        post(ctx, unit, 3)
        wait(ctx, unit, 0, (1, 1, 2, 1))
        for _ in range(3):
            assert not ctx.get(unit.wait[0].ready)
            await ctx.tick()
        assert ctx.get(unit.values[1]) == 1
        post(ctx, unit, 2, 2)
        await ctx.tick()
        post(ctx, unit, 2)
        assert ctx.get(unit.wait[0].ready)
        await ctx.tick()
        assert ctx.get(unit.all_zero) and not ctx.get(unit.wait[0].ready)

    simulate(process)


def test_overflow_is_reported_and_does_not_wrap() -> None:
    async def process(ctx: Any, unit: SemaphoreUnit) -> None:
        post(ctx, unit, 1, 7)
        for _ in range(15):
            await ctx.tick()
            assert not ctx.get(unit.overflow)
        # A wait in the same cycle makes room.
        wait(ctx, unit, 0, (7, 1, 0, 0))
        await ctx.tick()
        assert not ctx.get(unit.overflow) and ctx.get(unit.values[7]) == 15
        wait(ctx, unit, 0, None)
        await ctx.tick()
        assert ctx.get(unit.overflow) and ctx.get(unit.values[7]) == 15
        post(ctx, unit, 1)
        await ctx.tick()
        assert not ctx.get(unit.overflow)

    simulate(process)
