# SPDX-License-Identifier: Apache-2.0
"""The gates between the blocks: why a memory unit moved nothing, what to blame for a deadlock."""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from amaranth.hdl import Signal
from amaranth.sim import Simulator

from hdl.common.queues import load_queue, queue_count, store_queue, vector_queue
from hdl.config import PRESETS
from hdl.control.counters import event_layout
from hdl.control.glue import MachineGlue
from hdl.regs import EXHAUSTIVE, GLOBAL_COUNTERS

CONFIG = PRESETS["tiny"]
QUEUES = queue_count(CONFIG)


def simulate(process: Callable[[Any, MachineGlue], Coroutine[Any, Any, None]]) -> None:
    dut = MachineGlue(CONFIG)

    async def bench(ctx: Any) -> None:
        await process(ctx, dut)

    sim = Simulator(dut)
    sim.add_clock(1e-8)
    sim.add_testbench(bench)
    sim.run()


def test_queue_numbers() -> None:
    numbers = [*range(CONFIG.tiers), load_queue(CONFIG, 0), load_queue(CONFIG, 1)]
    assert [*numbers, store_queue(CONFIG), vector_queue(CONFIG)] == list(range(QUEUES))


def test_exhaustive_counters_exist() -> None:
    """The groups name counters, each of them once, that count by one (their sums are compared with `cycles`)."""
    names = [name for group in EXHAUSTIVE.values() for name in group]
    assert len(names) == len(set(names))
    widths = {name: len(Signal(field.shape)) for name, field in event_layout(CONFIG)}
    assert set(names) <= {name for name, _ in GLOBAL_COUNTERS}
    assert {widths[name] for name in names} == {1}


def load_reason(beat: int, refused: int, blocked: int, starved: int, waiting: int) -> str | None:
    """Return the field of `load_cycles` that must be set."""
    reasons = {"blocked": blocked | refused, "starved": starved, "wait": waiting, "idle": 1}
    return None if beat else next(name for name, holds in reasons.items() if holds)


def test_a_load_cycle_has_one_reason() -> None:
    """All combinations in one engine, random ones in the other: one reason each, the first that holds."""
    rng = random.Random(1)

    async def process(ctx: Any, dut: MachineGlue) -> None:
        for bits in range(64):
            states = [[bits >> i & 1 for i in range(6)], [rng.randrange(2) for _ in range(6)]]
            stats = dut.loads
            inputs = (stats.beats, stats.blocked, stats.starved, stats.waiting, dut.read_valid, dut.read_ready)
            for signal, first, second in zip(inputs, *states, strict=True):
                ctx.set(signal, first | second << 1)
            await ctx.delay(1e-10)
            for group, (beat, blocked, starved, waiting, valid, ready) in enumerate(states):
                reason = load_reason(beat, valid & ~ready & 1, blocked, starved, waiting)
                names = ("blocked", "starved", "wait", "idle")
                seen = [name for name in names if ctx.get(getattr(dut.load_cycles, name)) >> group & 1]
                assert seen == ([reason] if reason else [])

    simulate(process)


def test_a_store_cycle_has_one_reason() -> None:
    async def process(ctx: Any, dut: MachineGlue) -> None:
        for bits in range(64):
            beat, blocked, waiting, busy, valid, ready = (bits >> i & 1 for i in range(6))
            group = bits % 2
            ctx.set(dut.store.beats, beat << group)
            ctx.set(dut.store.blocked, blocked)
            ctx.set(dut.store.waiting, waiting)
            ctx.set(dut.store_busy, busy)
            ctx.set(dut.write_valid, valid << group)
            ctx.set(dut.write_ready, ready << group)
            await ctx.delay(1e-10)
            reasons = {"blocked": blocked | (valid & ~ready & 1), "wait": waiting, "busy": busy, "idle": 1}
            expected = [] if beat else [next(name for name, holds in reasons.items() if holds)]
            assert [name for name in reasons if ctx.get(getattr(dut.store_cycles, name))] == expected

    simulate(process)


@pytest.mark.parametrize("seed", range(3))
def test_the_first_waiting_instruction_is_blamed(seed: int) -> None:
    """Of the instructions that the waiting units took last, the first in program order; none waits: the oldest."""
    rng = random.Random(seed)

    async def process(ctx: Any, dut: MachineGlue) -> None:
        for _ in range(30):
            taken = rng.sample(range(1 << 24), QUEUES)
            waiting = [rng.random() < 0.3 for _ in range(QUEUES)]
            oldest = rng.randrange(1 << 24)
            ctx.set(dut.oldest_pc, oldest)
            for queue, pc in enumerate(taken):
                ctx.set(dut.queue_pc[queue], pc)
                ctx.set(dut.queue_valid[queue], 1)
                ctx.set(dut.queue_ready[queue], 1)
            await ctx.tick()
            for queue in range(QUEUES):
                # What stands at a head but is not taken, or is asked for but not there, does not count.
                ctx.set(dut.queue_valid[queue], queue % 2)
                ctx.set(dut.queue_ready[queue], (queue + 1) % 2)
                ctx.set(dut.queue_pc[queue], 0)
            ctx.set(dut.waits, sum(1 << queue for queue in range(QUEUES) if waiting[queue]))
            for _ in range(2 * QUEUES):
                await ctx.tick()
            expected = min((pc for pc, waits in zip(taken, waiting, strict=True) if waits), default=oldest)
            assert ctx.get(dut.stuck_pc) == expected

    simulate(process)


def test_progress_and_idle_look_at_every_unit() -> None:
    async def process(ctx: Any, dut: MachineGlue) -> None:
        async def value(output: Any) -> int:
            await ctx.delay(1e-10)
            return int(ctx.get(output))

        assert not await value(dut.progress)
        for signal in (
            dut.issued, dut.vector_rows, dut.rows, dut.waves, dut.store.rows, dut.store.beats, dut.loads.beats,
            dut.loads.words,
        ):  # fmt: skip
            ctx.set(signal, 1)
            await ctx.tick()
            assert await value(dut.progress)
            ctx.set(signal, 0)
            await ctx.tick()
            assert not await value(dut.progress)
        ctx.set(dut.dispatcher_empty, 1)
        assert await value(dut.idle)
        for unit in range(len(dut.units_busy)):
            ctx.set(dut.units_busy, 1 << unit)
            assert not await value(dut.idle)

    simulate(process)
