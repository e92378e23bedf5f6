# SPDX-License-Identifier: Apache-2.0
"""The FIFO on the memory wrapper against a Python queue."""

from __future__ import annotations

import random
from collections import deque
from typing import Any

import pytest
from amaranth.sim import Simulator

from hdl.common.stream_fifo import StreamFifo


@pytest.mark.parametrize("depth", [2, 5, 16])
@pytest.mark.parametrize(("push", "pop"), [(1.0, 1.0), (0.9, 0.3), (0.3, 0.9), (0.5, 0.5)])
def test_random(depth: int, push: float, pop: float) -> None:
    """Order, level, room for at least `depth` words, and one word a cycle when nobody pauses."""
    rng = random.Random(depth)
    fifo = StreamFifo(12, depth)
    model: deque[int] = deque()
    outs: list[int] = []

    async def bench(ctx: Any) -> None:
        fullest = 0
        for cycle in range(400):
            offered = rng.random() < push
            value = rng.randrange(1 << 12)
            taking = rng.random() < pop
            ctx.set(fifo.input.valid, offered)
            ctx.set(fifo.input.payload, value)
            ctx.set(fifo.output.ready, taking)
            assert ctx.get(fifo.level) == len(model) and ctx.get(fifo.busy) == bool(model)
            if len(model) < depth:
                assert ctx.get(fifo.input.ready), "a word below the depth was refused"
            if ctx.get(fifo.output.valid):
                assert ctx.get(fifo.output.payload) == model[0]
                if taking:
                    model.popleft()
                    outs.append(cycle)
            if offered and ctx.get(fifo.input.ready):
                model.append(value)
            fullest = max(fullest, len(model))
            await ctx.tick()
        if push == pop == 1.0:
            assert outs == list(range(2, 400)), "latency of two cycles, then a word every cycle"
        elif push > pop:
            assert fullest == depth + 1

    simulator = Simulator(fifo)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
