# SPDX-License-Identifier: Apache-2.0
"""One tier's tag memory against a dictionary."""

from __future__ import annotations

import random
from typing import Any

from amaranth.sim import Simulator

from hdl.config import PRESETS
from hdl.control.tags import TierTags

CONFIG = PRESETS["tiny"].replace(vcache_tiles=16)
MINE = 1


def test_random_fills_and_sweeps() -> None:
    rng = random.Random(1)
    tags = TierTags(CONFIG)

    async def testbench(ctx: Any) -> None:
        ctx.set(tags.tier_select, 1 << MINE)
        state: dict[int, int] = {}
        looked_up: int | None = None
        expected: int | None = None
        sweeps = swept = 0
        for cycle in range(2000):
            ready = bool(ctx.get(tags.ready))
            # The look-up of the previous cycle, on the state before that cycle's fill word.
            if looked_up is not None and ready:
                assert ctx.get(tags.valid) == (expected is not None), cycle
                if expected is not None:
                    assert ctx.get(tags.tag) == expected
            elif not ready:
                assert not ctx.get(tags.valid)
                sweeps += 1
            looked_up = rng.randrange(CONFIG.vcache_tiles)
            ctx.set(tags.addr, looked_up)
            expected = state.get(looked_up)
            if not ready:
                looked_up = None
            owner = rng.randrange(3)
            for lane in range(2):
                tile, word, tag = (
                    rng.randrange(CONFIG.vcache_tiles),
                    rng.choice([0, 1, CONFIG.fill_words - 1, CONFIG.fill_words - 1]),
                    rng.randrange(64),
                )
                mine = owner == lane and ready
                tiers = (1 << MINE if mine else 0) | (rng.randrange(2) if rng.random() < 0.5 else 0)
                valid = rng.random() < 0.8
                ctx.set(tags.fill_control[lane], {"valid": valid, "tiers": tiers, "tile": tile, "word": word})
                ctx.set(tags.fill_tag[lane], tag)
                if valid and mine:
                    if word == 0:
                        state.pop(tile, None)
                    elif word == CONFIG.fill_words - 1:
                        state[tile] = tag
            clear = ready and cycle % 500 == 499 and cycle < 1999
            ctx.set(tags.clear, clear)
            if clear:
                # What this cycle's word wrote is swept as well, if it is not kept.
                first = (0, 5, CONFIG.vcache_tiles)[cycle // 500 % 3]
                ctx.set(tags.first, first)
                state = {tile: tag for tile, tag in state.items() if tile < first}
                swept += CONFIG.vcache_tiles - first
                looked_up = None
            await ctx.tick()
        assert sweeps == swept + CONFIG.vcache_tiles and swept > CONFIG.vcache_tiles

    simulator = Simulator(tags)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()
