# SPDX-License-Identifier: Apache-2.0
"""What passes a tier's bond registers: order, masks, and no traffic beyond the tiers that want it."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pytest
from amaranth.sim import Simulator

from hdl.array.fill_slice import FillSlice, column_run
from hdl.array.hub import Hub
from hdl.array.links import PartialSumLink
from hdl.config import PRESETS
from hdl.interfaces import fill_control_layout, write_layout

CONFIG = PRESETS["nano"].replace(name="test", tiers=3, result_lanes=2, row_fifo_depth=64)


def run(component: Any, bench: Any) -> None:
    simulator = Simulator(component)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()


def test_words_go_up_only_where_they_are_wanted() -> None:
    hub = Hub(CONFIG)

    async def bench(ctx: Any) -> None:
        for mask in range(1 << CONFIG.tiers):
            fill = {"valid": 1, "tiers": mask, "tile": 3, "word": 1}
            ctx.set(hub.fill_control[1], fill_control_layout(CONFIG).const(fill))
            write = {"valid": 1, "tiers": mask, "addr": 5, "enable": 0b1010, "data": [1, 2, 3, 4]}
            ctx.set(hub.write[2], write_layout(CONFIG).const(write))
            await ctx.tick()
            assert ctx.get(hub.fill_control_above[1].valid) == (mask > 1)
            assert ctx.get(hub.fill_control_above[1].tiers) == mask >> 1
            assert ctx.get(hub.write_above[2].valid) == (mask > 1)
            assert ctx.get(hub.write_above[2].tiers) == mask >> 1
            assert ctx.get(hub.fill_select) == (0b10 if mask & 1 else 0)
            assert ctx.get(hub.activation_enable) == (0b1010 if mask & 1 else 0)
            assert ctx.get(hub.param_write) == 0
            if mask & 1:
                assert (ctx.get(hub.fill_tile[1]), ctx.get(hub.fill_lane)) == (3, 0b10)
                assert ctx.get(hub.activation_addr) == 5
                assert ctx.get(hub.write_data) == 0x04030201

    run(hub, bench)


def test_both_lanes_fill_a_tier() -> None:
    """Each group of rows has the tile and the lane of the word that it takes."""
    config = CONFIG.replace(rows=16, columns=8, channel_bytes=4, row_fifo_depth=128)
    hub = Hub(config)

    async def bench(ctx: Any) -> None:
        for words in permutations(range(config.fill_words), 2):
            for lane, word in enumerate(words):
                fill = {"valid": 1, "tiers": 1, "tile": 2 + lane, "word": word, "low": lane}
                ctx.set(hub.fill_control[lane], fill_control_layout(config).const(fill))
            await ctx.tick()
            assert ctx.get(hub.fill_select) == 1 << words[0] | 1 << words[1]
            assert ctx.get(hub.fill_lane) == 1 << words[1]
            assert [ctx.get(hub.fill_low) >> word & 1 for word in words] == [0, 1]
            assert [ctx.get(hub.fill_tile[word]) for word in words] == [2, 3]

    run(hub, bench)


@pytest.mark.parametrize(("rows", "columns", "group_bytes"), [(4, 4, 4), (8, 8, 4), (16, 8, 4), (16, 8, 16)])
def test_words_of_transposed_tiles(rows: int, columns: int, group_bytes: int) -> None:
    """Which rows and bytes take a word: it holds two columns, one, half a column, two columns."""
    config = CONFIG.replace(rows=rows, columns=columns, channel_bytes=group_bytes, row_fifo_depth=128)
    hub = Hub(config)

    async def bench(ctx: Any) -> None:
        for transposed in range(2):
            for word in range(config.fill_words):
                for lane in range(2):
                    fill = {"valid": 1, "columns": transposed, "tiers": 0b011, "tile": 3, "word": word}
                    ctx.set(hub.fill_control[lane], fill_control_layout(config).const(fill))
                    ctx.set(hub.fill_control[1 - lane].valid, 0)
                    ctx.set(hub.fill_control[1 - lane].columns, 1 - transposed)
                    await ctx.tick()
                    assert ctx.get(hub.fill_control_above[lane].columns) == transposed
                    selected, mask = ctx.get(hub.fill_select), ctx.get(hub.fill_mask)
                    written = {
                        (row, column)
                        for row in range(rows)
                        for column in range(columns)
                        if selected >> row // config.fill_rows & 1 and mask >> column // column_run(config) & 1
                    }
                    size = config.fill_bytes
                    numbers = range(word * size, (word + 1) * size)
                    assert written == {divmod(n, rows)[::-1] if transposed else divmod(n, columns) for n in numbers}
                    assert ctx.get(hub.fill_columns) == transposed

    run(hub, bench)


def test_parameter_writes_touch_no_activation() -> None:
    hub = Hub(CONFIG)

    async def bench(ctx: Any) -> None:
        word = {"valid": 1, "tiers": 1, "parameter": 1, "addr": 9, "enable": 15, "data": [1, 2, 3, 4]}
        ctx.set(hub.write[0], write_layout(CONFIG).const(word))
        other = {"valid": 1, "tiers": 2, "addr": 7, "enable": 15, "data": [9, 9, 9, 9]}
        ctx.set(hub.write[1], write_layout(CONFIG).const(other))
        await ctx.tick()
        assert (ctx.get(hub.param_write), ctx.get(hub.param_write_addr)) == (1, 9)
        assert ctx.get(hub.write_data) == 0x04030201
        assert ctx.get(hub.activation_enable) == 0

    run(hub, bench)


def test_dispatch_shifts_lanes() -> None:
    """Lane 0 stays, lane j goes up as j - 1; nothing but the valid bits moves without a wave."""
    hub = Hub(CONFIG)

    async def bench(ctx: Any) -> None:
        for lane in range(3):
            ctx.set(hub.dispatch[lane].wave.valid, 1)
            ctx.set(hub.dispatch[lane].wave.vcache_addr, 10 + lane)
            ctx.set(hub.dispatch[lane].wave.psum_below, lane == 0)
            ctx.set(hub.dispatch[lane].tail.shift, 20 + lane)
        await ctx.tick()
        for lane in range(3):
            ctx.set(hub.dispatch[lane].wave.valid, 0)
            ctx.set(hub.dispatch[lane].wave.vcache_addr, 0)
        for cycle in range(4):
            assert ctx.get(hub.wave.valid) == (cycle == 0)
            assert (ctx.get(hub.wave.vcache_addr), ctx.get(hub.tail.shift)) == (10, 20)
            for lane in range(2):
                assert ctx.get(hub.dispatch_above[lane].wave.valid) == (cycle == 0)
                assert ctx.get(hub.dispatch_above[lane].wave.vcache_addr) == 11 + lane
            assert ctx.get(hub.dispatch_above[2].wave.valid) == 0
            assert ctx.get(hub.psum_take) == (cycle == 2)
            await ctx.tick()

    run(hub, bench)


def test_fill_slice_picks_the_lane() -> None:
    part = FillSlice(4)

    async def bench(ctx: Any) -> None:
        ctx.set(part.below[0], 0x11223344)
        ctx.set(part.below[1], 0x55667788)
        ctx.set(part.valid[0], 1)
        ctx.set(part.valid[1], 1)
        await ctx.tick()
        ctx.set(part.valid[1], 0)
        for lane in range(2):
            ctx.set(part.below[lane], 0xFFFFFFFF)
        assert ctx.get(part.row) == 0x11223344
        ctx.set(part.select, 1)
        assert ctx.get(part.row) == 0x55667788
        await ctx.tick()
        assert [ctx.get(part.above[lane]) for lane in range(2)] == [0xFFFFFFFF, 0x55667788]

    run(part, bench)


@pytest.mark.parametrize("stages", [1, 2, 5])
def test_partial_sum_link(stages: int) -> None:
    """Sums appear `stages` cycles after they were sent and stay until the next; the gate gives zero."""
    link = PartialSumLink(2, stages)
    rng = np.random.default_rng(stages)

    async def bench(ctx: Any) -> None:
        sent: list[int | None] = []
        shown = 0
        for cycle in range(300):
            word = int(rng.integers(1 << 62))
            send = bool(rng.random() < 0.5)
            ctx.set(link.leaving, word)
            ctx.set(link.send, send)
            ctx.set(link.below, word)
            ctx.set(link.take, cycle % 2)
            assert ctx.get(link.entry) == (word if cycle % 2 else 0)
            sent.append(word if send else None)
            if cycle >= stages and sent[cycle - stages] is not None:
                shown = sent[cycle - stages] or 0
            if shown:
                assert ctx.get(link.above) == shown
            await ctx.tick()

    run(link, bench)
