# SPDX-License-Identifier: Apache-2.0
"""Accumulators: read-modify-write at full rate at any addresses, forwarding, the tail queue, the drain's operands."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from amaranth.lib import data
from amaranth.sim import Simulator

from hdl.array.accumulator import DRAIN_FIELDS, Accumulators
from hdl.numerics import wrap
from tests.support.array.stack_model import to_int

TAIL = data.StructLayout(
    {
        "accumulate": 1, "first": 1, "last": 1, "accumulator_addr": 3, "mode": 2, "param_addr": 4, "shift": 6,
        "post_mult": 16, "post_shift": 6,
    }
)  # fmt: skip


@pytest.mark.parametrize(("columns", "rows", "density"), [(1, 1, 1.0), (3, 5, 1.0), (3, 5, 0.5), (7, 8, 0.9)])
def test_random_waves(columns: int, rows: int, density: float) -> None:
    """Waves pushed at row 0 come out `rows` cycles later; sums follow two cycles behind, rows three."""
    depth = 5
    dut = Accumulators(columns, depth=depth, in_flight=rows, tail_layout=TAIL)
    rng = np.random.default_rng(rows)
    corners = np.array([-(2**31), 2**31 - 1, -1, 0, 1])
    cycles = 1200

    waves: list[dict[str, int] | None] = []
    for index in range(cycles):
        wave = {name: int(rng.integers(1 << field.width)) for name, field in TAIL}
        # Runs of one address, then of two that alternate, then any.
        wave["accumulator_addr"] = int(rng.integers([1, 2, depth][index // 50 % 3]))
        wave |= {
            "first": int(rng.random() < 0.2), "last": int(rng.random() < 0.2), "accumulate": int(rng.random() < 0.85)
        }  # fmt: skip
        waves.append(wave if rng.random() < density else None)
    sums = np.where(
        rng.random((cycles, columns)) < 0.3,
        rng.choice(corners, (cycles, columns)),
        rng.integers(-(2**31), 2**31, (cycles, columns)),
    )

    memory = np.zeros((depth, columns), np.int64)
    rows_out: dict[int, tuple[dict[str, int], Any]] = {}
    sends: set[int] = set()
    forwarded = 0
    previous = None
    for index, wave in enumerate(waves):
        if wave is None:
            previous = None
            continue
        if not wave["accumulate"]:
            sends.add(index + rows + 2)
            previous = None
            continue
        address = wave["accumulator_addr"]
        forwarded += int(not wave["first"] and previous == address)
        total = wrap((0 if wave["first"] else memory[address]) + sums[index], 32)
        previous = address
        if wave["last"]:
            rows_out[index + rows + 3] = (wave, total)
        else:
            memory[address] = total
    assert density < 1 or forwarded > 50

    async def bench(ctx: Any) -> None:
        for cycle in range(cycles + rows + 4):
            entering = waves[cycle] if cycle < cycles else None
            ctx.set(dut.push, entering is not None)
            ctx.set(dut.tail, entering or {})
            leaving = waves[cycle - rows] if rows <= cycle < cycles + rows else None
            ctx.set(dut.leaving, leaving is not None)
            summed = cycle - rows - 2
            valid = 0 <= summed < cycles and waves[summed] is not None
            junk = rng.integers(-(2**31), 2**31, columns)
            ctx.set(dut.psum_in, to_int(sums[summed] if valid else junk, 32))
            assert ctx.get(dut.link_send) == (cycle in sends)
            assert ctx.get(dut.row_valid) == (cycle in rows_out), cycle
            if cycle in rows_out:
                wave, total = rows_out[cycle]
                assert [ctx.get(dut.row[c]) for c in range(columns)] == total.tolist(), cycle
                assert {f: ctx.get(getattr(dut, f)) for f in DRAIN_FIELDS} == {f: wave[f] for f in DRAIN_FIELDS}
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
