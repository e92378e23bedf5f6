# SPDX-License-Identifier: Apache-2.0
"""The stack in Amaranth's simulator against the NumPy model: every row, in the exact cycle."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from amaranth.sim import Simulator

from hdl.array.stack import Stack
from hdl.config import PRESETS, MachineConfig
from hdl.emit.hierarchy import ports_of
from tests.hdl.array.stack_model import Cycle, Row, Wave, port_values, preload, random_traffic, run_model, silence


def config_of(tiers: int, rows: int, columns: int, **changes: Any) -> MachineConfig:
    # The row FIFO is not in the stack; its least depth depends on tiers x rows.
    return PRESETS["nano"].replace(
        name="test", tiers=tiers, rows=rows, columns=columns, row_fifo_depth=256, **changes
    )


def simulate(config: MachineConfig, traffic: list[Cycle]) -> list[list[tuple[int, list[int]]]]:
    """Return (cycle, values) of every row on each result lane."""
    stack = Stack(config)
    inputs = {port.name: port.value for port in ports_of(stack) if port.direction == "input"}
    seen: list[list[tuple[int, list[int]]]] = [[] for _ in range(config.tiers)]

    async def bench(ctx: Any) -> None:
        before: dict[str, int] = {}
        for cycle, launch in enumerate(traffic):
            values = port_values(config, launch)
            for name, value in values.items():
                if before.get(name) != value:
                    ctx.set(inputs[name], value)
            before = values
            for tier in range(config.tiers):
                result = stack.result[tier]
                if ctx.get(result.valid):
                    seen[tier].append((cycle, [ctx.get(result.data[c]) for c in range(config.columns)]))
            await ctx.tick()

    simulator = Simulator(stack)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return seen


def compare(seen: list[list[tuple[int, list[int]]]], expected: list[list[Row]]) -> None:
    for tier, (got, want) in enumerate(zip(seen, expected, strict=True)):
        assert [cycle for cycle, _ in got] == [row.cycle for row in want], f"tier {tier}: rows in other cycles"
        for index, ((cycle, values), row) in enumerate(zip(got, want, strict=True)):
            assert values == row.values.tolist(), f"tier {tier}, row {index}, cycle {cycle}"


def check(config: MachineConfig, traffic: list[Cycle]) -> list[list[Row]]:
    expected = run_model(config, traffic)
    compare(simulate(config, traffic), expected)
    return expected


@pytest.mark.parametrize(
    "config",
    [
        config_of(1, 4, 4),
        config_of(2, 8, 4),
        config_of(3, 4, 4),
        config_of(3, 4, 4, k_link_stages=3),
        config_of(2, 4, 4, vertical_links=False),
        config_of(1, 4, 4, stationary_feed="edge", vertical_links=False),
        config_of(3, 4, 4, stationary_feed="edge"),
        config_of(2, 8, 4, stationary_feed="edge", k_link_stages=2),
    ],
    ids=lambda c: f"{c.stationary_feed}-{c.tiers}x{c.rows}x{c.columns}-k{c.k_link_stages}-links{int(c.vertical_links)}",
)
def test_random_traffic(config: MachineConfig) -> None:
    """Any waves on any lanes, fills and writes at the same time, links from wherever the tier below happens to be."""
    expected = check(config, random_traffic(config, seed=1, cycles=300))
    assert all(len(rows) > 20 for rows in expected)


def gemm(
    config: MachineConfig, mapping: str, tokens: int, slices: int, rng: np.random.Generator, start: list[Cycle]
) -> tuple[list[Cycle], Any]:
    """A GEMM over all tiers as the sequencers would issue it, and its exact result per tier (tokens x columns)."""
    tiers, rows, columns = config.tiers, config.rows, config.columns
    lag = config.skew_k - 1 if mapping == "k" else 0
    edge = config.stationary_feed == "edge"
    period = max(tokens, rows) if edge else tokens
    lead = rows if edge else 0
    base = len(start)
    traffic = start + [Cycle() for _ in range(lead + slices * period + lag * tiers)]
    waves = []
    for tier in range(tiers):
        follower = tier > 0
        for k in range(slices):
            if edge:
                below = int(follower and mapping == "m")
                traffic[base + lag * tier + k * period].requests[tier] = (k, below)
            for token in range(tokens):
                top = mapping != "k" or tier == tiers - 1
                wave = Wave(
                    new=int(token == 0),
                    stationary_below=int(follower and mapping == "m"),
                    activation_below=int(follower and mapping == "n"),
                    psum_below=int(follower and mapping == "k"),
                    vcache_addr=k,
                    activation_addr=token * slices + k,
                    accumulate=int(top),
                    first=int(k == 0),
                    last=int(k == slices - 1),
                    accumulator_addr=token,
                )
                traffic[base + lead + lag * tier + k * period + token].waves[tier] = wave
                waves.append(wave)
    return traffic + silence(config), (tiers, rows, columns)


@pytest.mark.parametrize("feed", ["vertical", "edge"])
@pytest.mark.parametrize("mapping", ["alone", "m", "n", "k"])
@pytest.mark.parametrize("tokens", [1, 2, 3, 4, 5, 7, 8])
def test_gemm(feed: Any, mapping: str, tokens: int) -> None:
    """A whole GEMM in every mapping equals a matrix product of what was loaded (not only the wave model)."""
    config = config_of(2 if mapping == "k" else 3, 4, 4, stationary_feed=feed)
    rng = np.random.default_rng(tokens)
    slices = 3
    start = preload(config, rng, tiles=slices, words=tokens * slices, params=1)
    traffic, _ = gemm(config, mapping, tokens, slices, rng, start)
    expected = check(config, traffic)

    weights = np.zeros((config.tiers, slices, config.rows, config.columns), np.int64)
    inputs = np.zeros((config.tiers, tokens, slices, config.rows), np.int64)
    for cycle in start:
        for fill in cycle.fills.values():
            rows = slice(fill.word * config.fill_rows, (fill.word + 1) * config.fill_rows)
            weights[fill.tiers.bit_length() - 1, fill.tile, rows] = fill.data
        for write in cycle.writes.values():
            if not write.parameter:
                inputs[write.tiers.bit_length() - 1, write.addr // slices, write.addr % slices] = write.data
    if mapping == "m":
        weights[:] = weights[0]
    if mapping == "n":
        inputs[:] = inputs[0]
    products = np.einsum("gtkr,gkrc->gtc", inputs, weights)
    wanted = [products.sum(axis=0)] if mapping == "k" else list(products)
    for tier, product in zip(range(config.tiers - len(wanted), config.tiers), wanted, strict=True):
        assert [row.accumulators.tolist() for row in expected[tier]] == product.tolist()
    if mapping == "k":
        assert not expected[0]
