# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""The FIFO of posts against a Python queue."""

from __future__ import annotations

import random
from collections import deque
from typing import Any

import pytest
from amaranth.sim import Simulator

from hdl.result.direct_fifo import TIMING, DirectFifo


@pytest.mark.parametrize("depth", [2, 5, 8])
@pytest.mark.parametrize(("push", "pop"), [(1.0, 1.0), (0.9, 0.3), (0.3, 0.9), (0.5, 0.5)])
def test_random(depth: int, push: float, pop: float) -> None:
    """Order, level, the full depth, latency, one word a cycle; the memory is never read where it is written."""
    rng = random.Random(depth)
    fifo = DirectFifo(12, depth)
    model: deque[int] = deque()
    outs: list[int] = []

    async def bench(ctx: Any) -> None:
        levels = set()
        for cycle in range(400):
            value, taking = rng.randrange(1 << 12), rng.random() < pop
            pushing = rng.random() < push and len(model) < depth
            ctx.set(fifo.push, pushing)
            ctx.set(fifo.push_data, value)
            assert ctx.get(fifo.level) == len(model) and ctx.get(fifo.valid) == bool(model)
            popping = bool(model) and taking
            ctx.set(fifo.pop, popping)
            if popping:
                assert ctx.get(fifo.data) == model.popleft()
                outs.append(cycle)
            if pushing:
                model.append(value)
            levels.add(len(model))
            await ctx.tick()
        if push == pop == 1.0:
            assert outs == list(range(TIMING.through, 400))
        elif push > pop:
            assert depth in levels

    simulator = Simulator(fifo)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
