# SPDX-License-Identifier: Apache-2.0
"""PE and row, alone: exact products, wrapping, stage timing, and nothing that moves without a wave."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from amaranth.sim import Simulator

from hdl.array.edge import EdgeRow
from hdl.array.pe import ProcessingElement
from hdl.array.row import ArrayRow, Row
from hdl.numerics import wrap
from tests.support.array.stack_model import random_bytes, to_int


def run(component: Any, bench: Any) -> None:
    simulator = Simulator(component)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()


def test_pe_products() -> None:
    """All corner products, among them -128 x -128, and sums that wrap."""
    pe = ProcessingElement()
    rng = np.random.default_rng(1)
    corners = [-128, -127, -1, 0, 1, 127]
    cases = [(s, a) for s in corners for a in corners] + [tuple(random_bytes(rng, 2).tolist()) for _ in range(300)]

    async def bench(ctx: Any) -> None:
        for index, (stationary, activation) in enumerate(cases):
            psum_in = int(rng.choice([0, 2**31 - 1, -(2**31), int(rng.integers(-(2**31), 2**31))]))
            ctx.set(pe.load, 1)
            ctx.set(pe.enable, 0)
            ctx.set(pe.stationary_in, stationary)
            held = ctx.get(pe.psum)
            await ctx.tick()
            assert ctx.get(pe.psum) == held
            ctx.set(pe.load, 0)
            ctx.set(pe.stationary_in, ~stationary)
            ctx.set(pe.enable, 1)
            ctx.set(pe.activation, activation)
            ctx.set(pe.psum_in, psum_in)
            await ctx.tick()
            assert ctx.get(pe.stationary) == stationary
            assert ctx.get(pe.psum) == wrap(psum_in + stationary * activation, 32), (index, stationary, activation)

    run(pe, bench)


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize(("columns", "run_bytes"), [(1, 1), (7, 1), (6, 2), (6, 6)])
def test_row(columns: int, run_bytes: int, links: bool) -> None:
    """Random waves with gaps, fills and writes at the same time, links, against the stage table."""
    tiles, words = 5, 6
    row = Row(columns, vcache_tiles=tiles, activation_words=words, links=links, column_run=run_bytes)
    rng = np.random.default_rng(columns)

    async def bench(ctx: Any) -> None:
        vcache = np.zeros((tiles, columns), np.int64)
        activations = np.zeros(words, np.int64)
        stationary, activation, psum = np.zeros(columns, np.int64), 0, np.zeros(columns, np.int64)
        stage1: dict[str, Any] | None = None  # the wave in stage t+1, with what the banks gave it
        stage2 = False
        for _ in range(1500):
            wave = {
                "valid": int(rng.random() < 0.7),
                "new": int(rng.integers(2)),
                "vcache_addr": int(rng.integers(tiles)),
                "activation_addr": int(rng.integers(words)),
            }
            if links:
                wave |= {"stationary_below": int(rng.integers(2)), "activation_below": int(rng.integers(2))}
            ctx.set(row.wave_in, wave)
            fill, fill_tile = random_bytes(rng, columns), int(rng.integers(tiles))
            write, write_addr = int(random_bytes(rng, ())), int(rng.integers(words))
            fill_en, write_en = int(rng.random() < 0.4), int(rng.random() < 0.4)
            ctx.set(row.fill_en, fill_en)
            ctx.set(row.fill_addr, fill_tile)
            lane = int(rng.integers(2))
            ctx.set(row.fill_lane, lane)
            ctx.set(row.fill_data[lane], to_int(fill, 8))
            ctx.set(row.fill_data[1 - lane], to_int(random_bytes(rng, columns), 8))
            transposed, turned = int(rng.random() < 0.5), random_bytes(rng, run_bytes)
            mask = rng.random(columns // run_bytes) < 0.6 if transposed else np.ones(columns // run_bytes, bool)
            ctx.set(row.fill_columns, transposed)
            ctx.set(row.fill_turned, to_int(turned, 8))
            ctx.set(row.fill_mask, to_int(mask, 1))
            half = int(rng.random() < 0.3)
            ctx.set(row.fill_low, half)
            ctx.set(row.write_en, write_en)
            ctx.set(row.write_addr, write_addr)
            ctx.set(row.write_data, write & 255)
            below_word, below_activation = random_bytes(rng, columns), int(random_bytes(rng, ()))
            if links:
                ctx.set(row.stationary_below, to_int(below_word, 8))
                ctx.set(row.activation_below, below_activation & 255)
            psum_in = rng.integers(-(2**31), 2**31, columns)
            ctx.set(row.psum_in, to_int(psum_in, 32))
            await ctx.tick()

            # Stages in the order of dataflow from the end, so that each uses the registers of before the edge.
            if stage2:
                psum = wrap(psum_in + stationary * activation, 32)
            stage2 = stage1 is not None
            if stage1 is not None:
                if stage1["new"]:
                    stationary = below_word.astype(np.int64) if stage1.get("stationary_below") else stage1["word"]
                activation = below_activation if stage1.get("activation_below") else stage1["activation"]
            stage1 = None
            if wave["valid"]:
                own = {"word": vcache[wave["vcache_addr"]].copy(), "activation": activations[wave["activation_addr"]]}
                stage1 = wave | own
            if fill_en:
                new = np.tile(turned, columns // run_bytes) if transposed else fill
                if half:
                    new = vcache[fill_tile] & ~15 | new & 15
                vcache[fill_tile] = np.where(np.repeat(mask, run_bytes), new, vcache[fill_tile])
            if write_en:
                activations[write_addr] = write

            assert ctx.get(row.psum_out) == to_int(psum, 32)
            assert ctx.get(row.wave_out.valid) == wave["valid"]
            if wave["valid"]:
                assert {name: ctx.get(row.wave_out[name]) for name in wave} == wave
            if links:
                assert ctx.get(row.stationary) == to_int(stationary, 8)
                assert ctx.get(row.activation) == int(activation) & 255

    run(row, bench)


@pytest.mark.parametrize(
    "row",
    [Row(3, vcache_tiles=4, activation_words=4), EdgeRow(3, activation_words=4)],
    ids=["vertical", "edge"],
)
def test_nothing_moves_without_a_wave(row: ArrayRow) -> None:
    """With `valid` low, no output changes whatever the other inputs do."""
    rng = np.random.default_rng(3)
    inputs = [row.wave_in.as_value()[1:], row.psum_in, row.write_data, row.write_addr, row.activation_below]
    outputs = [row.wave_out.as_value(), row.psum_out, row.activation]
    if isinstance(row, Row):
        inputs += [
            row.stationary_below,
            *row.fill_data,
            row.fill_lane,
            row.fill_addr,
            row.fill_mask,
            row.fill_turned,
            row.fill_columns,
            row.fill_low,
        ]
        outputs += [row.stationary]
    else:
        inputs += [row.front_in, row.shift_on]
        outputs += [row.front_out, row.shift_out]

    async def bench(ctx: Any) -> None:
        for value in inputs:
            ctx.set(value, (1 << len(value)) - 1)
        ctx.set(row.wave_in.valid, 1)
        ctx.set(row.write_en, 1)
        if isinstance(row, Row):
            ctx.set(row.fill_en, 1)
        else:
            ctx.set(row.shift_in, 1)
        await ctx.tick().repeat(4)
        ctx.set(row.wave_in.valid, 0)
        ctx.set(row.write_en, 0)
        if isinstance(row, Row):
            ctx.set(row.fill_en, 0)
        else:
            ctx.set(row.shift_in, 0)
        await ctx.tick().repeat(3)
        before = [ctx.get(value) for value in outputs]
        assert before[0] != 0  # the wave's fields are held, not cleared
        for _ in range(50):
            for value in inputs:
                ctx.set(value, int.from_bytes(rng.bytes(16)) & ((1 << len(value)) - 1))
            await ctx.tick()
            assert [ctx.get(value) for value in outputs] == before

    run(row, bench)
