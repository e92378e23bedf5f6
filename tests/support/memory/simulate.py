# SPDX-License-Identifier: Apache-2.0
"""Runs the memory path in Amaranth's simulator with Python memories."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from amaranth.sim import Simulator

from hdl.config import MachineConfig
from hdl.emit.hierarchy import ports_of
from tests.support.memory.axi_slave import AxiSlave, Behaviour
from tests.support.memory.environment import Environment, Get
from tests.support.memory.path import MemoryPath

Until = Callable[[Environment, Get], bool]


def channel_views(config: MachineConfig, memory: np.ndarray) -> list[np.ndarray]:
    """Return each channel's (beats, channel_bytes) view of a group's memory."""
    striped = memory.reshape(-1, config.channels_per_group, config.channel_bytes)
    return [striped[:, i, :] for i in range(config.channels_per_group)]


def simulate(
    environment: Environment,
    behaviour: Behaviour | Sequence[Behaviour] | None = None,
    *,
    until: Until | None = None,
    cycles: int = 50_000,
    each: Callable[[Environment, Get], None] | None = None,
) -> list[AxiSlave]:
    """Run until `until` (by default, until everything is finished); fail after `cycles`. Return the memories.

    One `behaviour` is for both groups, two are for one each.
    """
    config = environment.config
    dut = MemoryPath(config)
    ports = {port.name: port for port in ports_of(dut)}
    each_group = [behaviour or Behaviour()] * 2 if not isinstance(behaviour, Sequence) else behaviour
    slaves = [
        AxiSlave(
            f"axi{g}__{i}",
            view,
            each_group[g],
            100 * g + i + environment.rng.getrandbits(16),
            alone=config.channels_per_group == 1,
        )
        for g in range(2)
        for i, view in enumerate(channel_views(config, environment.memory[g]))
    ]
    finished = until or (lambda env, get: env.finished(get))

    async def bench(ctx: Any) -> None:
        before: dict[str, int] = {}

        def get(name: str) -> int:
            port = ports[name]
            return int(ctx.get(port.value)) & ((1 << port.width) - 1)

        for _ in range(cycles):
            values = environment.drive()
            for slave in slaves:
                values |= slave.drive()
            for name, value in values.items():
                value = int(value)
                if before.get(name) != value:
                    before[name] = value
                    ctx.set(ports[name].value, value)
            environment.observe(get)
            for slave in slaves:
                slave.observe(get)
            if each is not None:
                each(environment, get)
            done = finished(environment, get)
            await ctx.tick()
            if done:
                return
        raise AssertionError(f"not finished after {cycles} cycles; errors: {environment.log.errors}")

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return slaves
