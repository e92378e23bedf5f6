# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""The memory wrapper: old data on read-during-write, held read data, write lanes, shapes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from amaranth.sim import Simulator

from hdl.common.sram import Sram, SramError, address_bits


@pytest.mark.parametrize(("width", "depth", "granularity"), [(8, 16, None), (24, 5, 8), (12, 2, 12), (1, 3, None)])
def test_random_access(width: int, depth: int, granularity: int | None) -> None:
    memory = Sram(width, depth, granularity=granularity)
    rng = np.random.default_rng(width * depth)
    lanes = width // granularity if granularity else 1

    async def bench(ctx: Any) -> None:
        contents = [0] * depth
        shown = 0
        same = 0
        for _ in range(600):
            write_en, read_en = int(rng.random() < 0.6), int(rng.random() < 0.6)
            write_addr, read_addr = (int(rng.integers(min(depth, 4))) for _ in range(2))
            word = int(rng.integers(1 << width))
            mask = int(rng.integers(1 << lanes)) if granularity else 1
            ctx.set(memory.write_en, write_en)
            ctx.set(memory.write_addr, write_addr)
            ctx.set(memory.write_data, word)
            if granularity:
                ctx.set(memory.write_mask, mask)
            ctx.set(memory.read_en, read_en)
            ctx.set(memory.read_addr, read_addr)
            assert ctx.get(memory.read_data) == shown
            await ctx.tick()
            if read_en:
                shown = contents[read_addr]
                same += int(write_en and mask and read_addr == write_addr and word != shown)
            if write_en:
                for lane in range(lanes):
                    if mask >> lane & 1:
                        bits = ((1 << (granularity or width)) - 1) << (lane * (granularity or width))
                        contents[write_addr] = contents[write_addr] & ~bits | word & bits
        assert same > 10

    simulator = Simulator(memory)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()


def test_module_key() -> None:
    assert Sram(16, 4).module_key() == "sram_w16_d4"
    assert Sram(16, 4, granularity=8).module_key() == "sram_w16_d4_g8"


def test_address_bits() -> None:
    assert [address_bits(depth) for depth in (1, 2, 3, 4, 5, 1024, 1025)] == [1, 1, 2, 2, 3, 10, 11]


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"width": 0, "depth": 4}, "Sram width: 0; use at least 1 bit"),
        ({"width": 8, "depth": 1}, "Sram depth: 1; use at least 2 words"),
        ({"width": 8, "depth": 4, "granularity": 3}, "Sram granularity: 3 does not divide the width 8"),
    ],
)
def test_illegal_shapes(shape: dict[str, int], message: str) -> None:
    with pytest.raises(SramError, match=message):
        Sram(**shape)
