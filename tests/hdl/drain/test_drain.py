# SPDX-License-Identifier: Apache-2.0
"""The drain, bit for bit against ``hdl.numerics``, every mode, corner values, rows back to back and with gaps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from amaranth.sim import Simulator

from hdl import numerics as nx
from hdl.common.requant import REQUANT_STAGES, RequantLane
from hdl.config import PRESETS, MachineConfig
from hdl.drain import Drain
from hdl.drain.swiglu import SWIGLU_STAGES, SwigluPair
from hdl.isa import Mode

NANO = PRESETS["nano"]
WIDE = NANO.replace(name="wide", rows=8, row_fifo_depth=32)
"""Rows twice the columns: one write word is a whole requantisation word."""


@dataclass(frozen=True)
class Row:
    acc: tuple[int, ...]
    mode: Mode
    param: int
    shift: int
    post_mult: int
    post_shift: int


def expected(row: Row, mults: np.ndarray) -> list[int]:
    acc, mult = np.array(row.acc), mults[row.param]
    if row.mode == Mode.SWIGLU:
        half = len(acc) // 2
        out = nx.swiglu(acc[:half], acc[half:], mult[:half], mult[half:], row.shift, row.post_mult, row.post_shift)
        return out.tolist() + [0] * half
    return nx.requant(acc, mult, row.shift, 8 if row.mode == Mode.REQUANT8 else 16).tolist()


def corner_rows(config: MachineConfig, rng: np.random.Generator, count: int) -> list[Row]:
    """Rows whose accumulators, multipliers and shifts sit on corners as often as in between."""
    extremes = [-(2**31), -(2**31) + 1, -1, 0, 1, 2**31 - 1]
    rows = []
    for _ in range(count):
        shift = int(rng.choice([0, 1, 47, rng.integers(0, 48)]))
        scale = 2 ** int(rng.integers(1, 31))
        acc = [
            int(rng.choice(extremes)) if rng.random() < 0.2 else int(rng.integers(-scale, scale))
            for _ in range(config.columns)
        ]
        rows.append(
            Row(
                tuple(acc),
                Mode(int(rng.integers(0, 3))),
                int(rng.integers(0, 8)),
                shift,
                int(rng.choice([0, 1, 65535, rng.integers(0, 65536)])),
                int(rng.choice([0, 1, 47, rng.integers(0, 31)])),
            )
        )
    return rows


def sane_swiglu_rows(config: MachineConfig, rng: np.random.Generator, count: int) -> list[Row]:
    """SwiGLU rows whose gates spread over Q4.11 and whose results spread over int8."""
    return [
        Row(
            tuple(int(v) for v in rng.integers(-(2**19), 2**19, config.columns)),
            Mode.SWIGLU,
            0,
            20,
            int(rng.integers(1, 65536)),
            int(rng.integers(26, 38)),
        )
        for _ in range(count)
    ]


def multipliers(config: MachineConfig, rng: np.random.Generator) -> np.ndarray:
    mults = rng.integers(0, 65536, (8, config.columns))
    mults[1], mults[2] = 0, 65535
    mults[3] = rng.choice([0, 1, 65535], config.columns)
    return mults


def drive(config: MachineConfig, rows: list[Row], mults: np.ndarray, gaps: float, seed: int) -> None:
    dut = Drain(config)
    rng = np.random.default_rng(seed)
    want: list[tuple[int, list[int]]] = []
    got: list[tuple[int, list[int]]] = []

    async def bench(ctx):
        words = mults.astype("<u2").view(np.uint8).reshape(-1, config.rows)
        for addr, word in enumerate(words):
            ctx.set(dut.param_write, 1)
            ctx.set(dut.param_write_addr, addr)
            ctx.set(dut.param_write_data, int.from_bytes(word.tobytes(), "little"))
            await ctx.tick()
        ctx.set(dut.param_write, 0)
        pending = list(rows)
        for cycle in range(10 * len(rows) + 100):
            if ctx.get(dut.result.valid):
                got.append((cycle, [ctx.get(dut.result.data[i]) for i in range(config.columns)]))
            if len(got) == len(rows):
                break
            present = bool(pending) and rng.random() >= gaps
            ctx.set(dut.row_valid, present)
            if present:
                row = pending.pop(0)
                for i, acc in enumerate(row.acc):
                    ctx.set(dut.row[i], acc)
                ctx.set(dut.mode, row.mode)
                ctx.set(dut.param_addr, row.param)
                ctx.set(dut.shift, row.shift)
                ctx.set(dut.post_mult, row.post_mult)
                ctx.set(dut.post_shift, row.post_shift)
                want.append((cycle + Drain.LATENCY, expected(row, mults)))
            else:
                # Whatever lies on the data inputs of an idle cycle must not matter.
                ctx.set(dut.shift, int(rng.integers(0, 48)))
                ctx.set(dut.mode, int(rng.integers(0, 3)))
            await ctx.tick()

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()
    assert len(got) == len(rows)
    for number, (row, one, other) in enumerate(zip(rows, got, want, strict=True)):
        assert one == other, f"row {number}: {row}"


@pytest.mark.parametrize("config", [NANO, WIDE], ids=lambda c: c.name)
@pytest.mark.parametrize("gaps", [0.0, 0.5])
def test_mixed_modes_and_corners(config: MachineConfig, gaps: float) -> None:
    rng = np.random.default_rng(7)
    drive(config, corner_rows(config, rng, 400), multipliers(config, rng), gaps, seed=1)


def test_swiglu_over_the_whole_gate_range() -> None:
    rng = np.random.default_rng(11)
    mults = multipliers(NANO, rng)
    mults[0] = 65535
    rows = sane_swiglu_rows(NANO, rng, 500)
    results = np.array([expected(row, mults) for row in rows])
    assert len(np.unique(results)) > 100, "the stimulus must spread over int8"
    drive(NANO, rows, mults, 0.0, seed=2)


@pytest.mark.parametrize("mode", list(Mode))
def test_extreme_accumulators(mode: Mode) -> None:
    """int32 extremes with multipliers 0 and 65535 and shifts 0 and 47."""
    mults = np.zeros((8, NANO.columns), dtype=np.int64)
    mults[1], mults[2] = 65535, 1
    low, high = -(2**31), 2**31 - 1
    rows = [
        Row(acc, mode, param, shift, post_mult, post_shift)
        for acc in ((low, high, low, high), (low, low, high, high), (high, low, -1, 0))
        for param in range(3)
        for shift in (0, 15, 16, 47)
        for post_mult, post_shift in ((0, 0), (65535, 0), (65535, 47), (1, 1))
    ]
    drive(NANO, rows, mults, 0.0, seed=3)


def test_requant_lane_holds_when_not_enabled() -> None:
    dut = RequantLane()

    async def bench(ctx):
        ctx.set(dut.enable, (1 << REQUANT_STAGES) - 1)
        ctx.set(dut.acc, 100)
        ctx.set(dut.mult, 3)
        await ctx.tick().repeat(REQUANT_STAGES)
        assert ctx.get(dut.result) == 300
        ctx.set(dut.enable, 0)
        ctx.set(dut.acc, 5)
        await ctx.tick().repeat(6)
        assert ctx.get(dut.result) == 300

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()


def test_swiglu_pair_at_every_segment_edge() -> None:
    """Both ends of each table segment and both signs, against the specification, one per cycle."""
    dut = SwigluPair()
    edges = [s * 256 + d for s in range(128) for d in (0, 1, 127, 128, 255)]
    gates = [sign * g for g in edges for sign in (1, -1)] + [-32768, -32767, 32767]
    # A product of silu * up / 2**15 with up = 2**15 - 1 shows the top bits; up = 256 * k shows others.
    ups = [[32767, -32768, 1, 300][i % 4] for i in range(len(gates))]
    want = nx.requant(nx.silu_q11(gates) * np.array(ups), 40000, 37, 8).tolist()
    got: list[int] = []

    async def bench(ctx):
        ctx.set(dut.enable, (1 << SWIGLU_STAGES) - 1)
        ctx.set(dut.swiglu, (1 << SWIGLU_STAGES) - 1)
        ctx.set(dut.post_mult, 40000)
        ctx.set(dut.post_shift, 37)
        for i in range(len(gates) + SWIGLU_STAGES):
            ctx.set(dut.gate, gates[min(i, len(gates) - 1)])
            ctx.set(dut.up, ups[min(i, len(gates) - 1)])
            if i >= SWIGLU_STAGES:
                got.append(ctx.get(dut.low))
                assert ctx.get(dut.high) == 0
            await ctx.tick()

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()
    assert got == want
