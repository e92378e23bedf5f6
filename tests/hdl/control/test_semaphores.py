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
from hdl.control.semaphores import POST_SOURCES, TIMING, SemaphoreUnit

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
        met = [False] * WAITERS  # in the cycle before, by the counters of that cycle
        on_the_way = [0] * CONFIG.semaphores  # what the last cycle's grant and post change
        since = TIMING.again  # cycles since the last grant
        grants = 0
        for _ in range(3000):
            for who in range(WAITERS):
                if waits[who] is None and rng.random() < 0.7:
                    first, second = rng.sample(range(CONFIG.semaphores), 2)
                    waits[who] = (first, rng.choice([0, 1, 1, 2, 5]), second, rng.choice([0, 0, 1, 3]))
                wait(ctx, unit, who, waits[who])
            for source in range(POST_SOURCES):
                if not posts[source] and rng.random() < 0.5:
                    # Keep well below overflow, what is on offer included.
                    full = [
                        max(v, v + w) + sum(p.count(s) for p in posts)
                        for s, (v, w) in enumerate(zip(values, on_the_way, strict=True))
                    ]
                    low = [s for s in range(CONFIG.semaphores) if full[s] < 8]
                    posts[source] = tuple(rng.choices(low, k=rng.choice([1, 1, 2]))) if low else ()
                post(ctx, unit, source, *posts[source])
            assert [ctx.get(value) for value in unit.values] == values
            assert not ctx.get(unit.overflow)

            since += 1
            granted = [who for who in range(WAITERS) if ctx.get(unit.wait[who].ready)]
            taken = [s for s in range(POST_SOURCES) if posts[s] and ctx.get(unit.post[s].ready)]
            assert len(granted) == (any(met) and since >= TIMING.again) and all(met[who] for who in granted)
            assert len(taken) == any(posts)
            for who in range(WAITERS):
                if granted:
                    patience[who] = 0 if who in granted or not met[who] else patience[who] + 1
                assert patience[who] < WAITERS
            met = [w is not None and values[w[0]] >= w[1] and values[w[2]] >= w[3] for w in waits]
            values = [value + change for value, change in zip(values, on_the_way, strict=True)]
            on_the_way = [0] * CONFIG.semaphores
            for who in granted:
                first, count0, second, count1 = waits[who] or (0, 0, 0, 0)
                on_the_way[first] -= count0
                on_the_way[second] -= count1
                waits[who], met[who] = None, False
                grants, since = grants + 1, 0
            for source in taken:
                for semaphore in posts[source]:
                    on_the_way[semaphore] += 1
                posts[source] = ()
            await ctx.tick()
        assert grants > 300

    simulate(process)


async def granted_after(ctx: Any, unit: SemaphoreUnit, who: int) -> int:
    """Return the cycles from this one to that of a grant, and leave the cycle behind."""
    for cycles in range(10):
        if ctx.get(unit.wait[who].ready):
            await ctx.tick()
            return cycles
        await ctx.tick()
    raise AssertionError("no grant")


def test_timing_is_what_it_says() -> None:
    """A wait that is there takes a post `TIMING.post` cycles after it; counters that hold enough grant after `ask`."""

    async def process(ctx: Any, unit: SemaphoreUnit) -> None:
        wait(ctx, unit, 1, (5, 2, 0, 0))
        post(ctx, unit, 0, 5, 5)
        await ctx.tick()
        post(ctx, unit, 0)
        assert 1 + await granted_after(ctx, unit, 1) == TIMING.post
        wait(ctx, unit, 1, None)
        post(ctx, unit, 2, 3, 4)
        await ctx.tick()
        post(ctx, unit, 2)
        await ctx.tick().repeat(TIMING.post)
        wait(ctx, unit, 2, (3, 1, 0, 0))
        wait(ctx, unit, 3, (4, 1, 0, 0))
        assert await granted_after(ctx, unit, 2) == TIMING.ask
        wait(ctx, unit, 2, None)
        assert 1 + await granted_after(ctx, unit, 3) == TIMING.again

    simulate(process)


@pytest.mark.parametrize("other", [0, 1])
def test_a_grant_counts_before_the_next(other: int) -> None:
    """Two waits on one semaphore that holds enough for one: the second is not granted on what the first took."""

    async def process(ctx: Any, unit: SemaphoreUnit) -> None:
        post(ctx, unit, 0, 6, 6)
        await ctx.tick()
        post(ctx, unit, 0)
        wait(ctx, unit, 0, (6, 2, 1, 0))
        wait(ctx, unit, 3, (6, 1, 1, 0) if other else (1, 0, 6, 1))
        assert await granted_after(ctx, unit, 0)
        wait(ctx, unit, 0, None)
        for _ in range(8):
            assert not ctx.get(unit.wait[3].ready)
            await ctx.tick()
        assert ctx.get(unit.all_zero)

    simulate(process)


def test_post_and_grant_in_the_same_cycle() -> None:
    async def process(ctx: Any, unit: SemaphoreUnit) -> None:
        post(ctx, unit, 0, 5, 5)
        await ctx.tick()
        post(ctx, unit, 0)
        wait(ctx, unit, 1, (5, 2, 0, 0))
        while not ctx.get(unit.wait[1].ready):
            await ctx.tick()
        post(ctx, unit, 0, 5)
        await ctx.tick()
        post(ctx, unit, 0)
        wait(ctx, unit, 1, None)
        assert ctx.get(unit.values[5]) == 2
        await ctx.tick()
        assert ctx.get(unit.values[5]) == 1

    simulate(process)


def test_both_waits_or_none() -> None:
    async def process(ctx: Any, unit: SemaphoreUnit) -> None:
        post(ctx, unit, 3, 1)
        await ctx.tick()
        post(ctx, unit, 3)
        assert not ctx.get(unit.all_zero)
        wait(ctx, unit, 0, (1, 1, 2, 1))
        for _ in range(8):
            assert not ctx.get(unit.wait[0].ready)
            await ctx.tick()
        assert ctx.get(unit.values[1]) == 1
        post(ctx, unit, 2, 2)
        await ctx.tick()
        post(ctx, unit, 2)
        assert 1 + await granted_after(ctx, unit, 0) == TIMING.post
        wait(ctx, unit, 0, None)
        await ctx.tick()
        assert ctx.get(unit.all_zero) and not ctx.get(unit.wait[0].ready)

    simulate(process)


def test_overflow_is_reported_and_does_not_wrap() -> None:
    async def process(ctx: Any, unit: SemaphoreUnit) -> None:
        post(ctx, unit, 1, 7)
        for _ in range(15):
            await ctx.tick()
            assert not ctx.get(unit.overflow)
        post(ctx, unit, 1)
        # A grant in the same cycle makes room.
        wait(ctx, unit, 0, (7, 1, 0, 0))
        while not ctx.get(unit.wait[0].ready):
            await ctx.tick()
        post(ctx, unit, 1, 7)
        await ctx.tick()
        wait(ctx, unit, 0, None)
        post(ctx, unit, 1)
        await ctx.tick()
        assert ctx.get(unit.values[7]) == 15
        post(ctx, unit, 1, 7)
        await ctx.tick()
        post(ctx, unit, 1)
        await ctx.tick()
        assert not ctx.get(unit.overflow) and ctx.get(unit.values[7]) == 15
        await ctx.tick()
        assert ctx.get(unit.overflow) and ctx.get(unit.values[7]) == 15
        await ctx.tick()
        assert not ctx.get(unit.overflow)

    simulate(process)
