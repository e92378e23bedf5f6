# SPDX-License-Identifier: Apache-2.0
"""Whole V-Cache contents of a tier after fills of both kinds, against a transposition in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from amaranth.sim import Simulator

from hdl.array.tier import Tier
from hdl.config import PRESETS, MachineConfig
from hdl.emit.hierarchy import ports_of
from tests.support.array.stack_model import Cycle, Fill, Wave, port_values, to_int


def config_of(rows: int, columns: int, group_bytes: int, tiers: int = 1) -> MachineConfig:
    return PRESETS["nano"].replace(
        name="test", rows=rows, columns=columns, tiers=tiers, channel_bytes=group_bytes, vcache_tiles=8,
        row_fifo_depth=128,
    )  # fmt: skip


def launches(config: MachineConfig, rng: np.random.Generator) -> tuple[list[Cycle], Any]:
    """Return fills of all tiles on both lanes, with gaps and the words of a tile mixed, and what V-Cache then holds."""
    tiles = config.vcache_tiles
    raw = rng.integers(-128, 128, (tiles, config.tile_bytes), np.int64).astype(np.int8)
    transposed = rng.integers(0, 2, tiles)
    transposed[:2] = [1, 0]
    want = np.stack(
        [
            data.reshape(config.columns, config.rows).T if turned else data.reshape(config.rows, config.columns)
            for data, turned in zip(raw, transposed, strict=True)
        ]
    )
    words = [
        Fill(
            1,
            tile,
            word,
            raw[tile].reshape(config.fill_words, config.fill_rows, config.columns)[word],
            columns=int(transposed[tile]),
        )
        for tile in range(tiles)
        for word in range(config.fill_words)
    ]
    cycles = []
    for index in rng.permutation(len(words)).tolist():
        lane = int(rng.integers(2))
        cycle = Cycle(fills={lane: words[index]})
        if rng.random() < 0.5:
            # The other lane carries a word of the other kind for nobody here.
            other = words[int(rng.integers(len(words)))]
            cycle.fills[1 - lane] = Fill(2, other.tile, other.word, other.data, columns=1 - words[index].columns)
        cycles.append(cycle)
        cycles += [Cycle() for _ in range(int(rng.integers(0, 3)))]
    return cycles, want


def stationary(config: MachineConfig, cycles: list[Cycle]) -> Any:
    """Play the fills into a tier, then read every tile with a wave; return the tiles that its PEs held."""
    tier = Tier(config)
    below = {port.name.removeprefix("below__"): port.value for port in ports_of(tier) if port.direction == "input"}
    waves = [Cycle(waves={0: Wave(new=1, vcache_addr=tile)}) for tile in range(config.vcache_tiles)]
    idle = config.rows + 3
    got = []

    async def bench(ctx: Any) -> None:
        for cycle in cycles + [Cycle(), Cycle()]:
            for name, value in port_values(config, cycle).items():
                ctx.set(below[name], value)
            await ctx.tick()
        for wave in waves:
            for cycle in [wave] + [Cycle()] * idle:
                for name, value in port_values(config, cycle).items():
                    ctx.set(below[name], value)
                await ctx.tick()
            got.append([ctx.get(tier.above.stationary[row]) for row in range(config.rows)])

    simulator = Simulator(tier)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return got


@pytest.mark.parametrize(
    "config",
    [
        config_of(4, 4, 4),  # nano: a word is two columns
        config_of(8, 8, 4),  # tiny: one column
        config_of(16, 16, 32),  # small: four columns
        config_of(16, 8, 4),  # R = 2C: half a column
        config_of(16, 8, 8),  # one column
        config_of(8, 4, 8, tiers=2),  # two columns
        config_of(16, 8, 32),  # four columns, two words a tile
    ],
    ids=lambda c: f"{c.rows}x{c.columns}-word{c.fill_bytes}",
)
def test_contents(config: MachineConfig) -> None:
    """Every byte, whatever the order of words, lanes and kinds."""
    cycles, want = launches(config, np.random.default_rng(config.rows * config.group_bytes))
    got = stationary(config, cycles)
    for tile, rows in enumerate(got):
        assert rows == [to_int(row, 8) for row in want[tile]], f"tile {tile}"
