# SPDX-License-Identifier: Apache-2.0
"""One combine unit against a model in Python, an operation in every cycle on few rows: all orders of neighbours."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from amaranth.sim import Simulator

from hdl import numerics as nx
from hdl.result.combine import CombineUnit

COLUMNS, ROWS = 4, 3


@pytest.mark.parametrize("seed", range(2))
def test_neighbouring_cycles(seed: int) -> None:
    """What is read in a cycle shows everything of the cycles before; in one cycle, reads come before writes."""
    rng = np.random.default_rng(seed)
    dut = CombineUnit(COLUMNS, ROWS)
    # What a cycle did to a row, what the next one did to the same row.
    pairs: Counter[tuple[str, str]] = Counter()

    async def bench(ctx):
        rows = np.zeros((ROWS, COLUMNS), np.int64)
        expected: tuple[bool, list[int]] | None = None  # (by a store, row)
        busy = writing = False
        before: set[tuple[str, int]] = set()
        for _ in range(3000):
            assert bool(ctx.get(dut.active)) == busy
            assert bool(ctx.get(dut.writing)) == writing
            assert bool(ctx.get(dut.read_valid)) == (expected is not None and expected[0])
            if expected is not None:
                assert list(ctx.get(dut.read)) == expected[1]
            kind = str(rng.choice(["none", "write", "accumulate", "store", "clear"]))
            row, gate = int(rng.integers(0, ROWS)), int(rng.choice([0, 1, 65535]))
            data = rng.integers(-32768, 32768, COLUMNS)
            reads = kind in ("accumulate", "store", "clear")
            look = not reads and rng.random() < 0.7
            look_row = int(rng.integers(0, ROWS))
            put = not writing and rng.random() < 0.7
            put_row, put_data = int(rng.integers(0, ROWS)), rng.integers(-(1 << 31), 1 << 31, COLUMNS)

            ctx.set(dut.valid, kind != "none")
            ctx.set(dut.store, kind in ("store", "clear"))
            ctx.set(dut.clear, kind == "clear")
            ctx.set(dut.accumulate, kind == "accumulate")
            ctx.set(dut.row, row)
            ctx.set(dut.gate, gate)
            ctx.set(dut.data, [int(v) for v in data])
            ctx.set(dut.vector_read, look)
            ctx.set(dut.vector_row, look_row)
            ctx.set(dut.write, put)
            ctx.set(dut.write_row, put_row)
            ctx.set(dut.write_data, sum((int(v) & 0xFFFFFFFF) << (32 * i) for i, v in enumerate(put_data)))

            old = rows.copy()
            now = {(kind, row)} if kind != "none" else set()
            if look:
                expected = (False, old[look_row].tolist())
                now.add(("vector read", look_row))
            else:
                expected = (True, old[row].tolist()) if kind in ("store", "clear") else None
            if put:
                rows[put_row] = put_data
                now.add(("whole row", put_row))
            if kind in ("write", "accumulate"):
                rows[row] = nx.combine_add(old[row], gate, data, kind == "accumulate")
            elif kind == "clear":
                rows[row] = 0
            pairs.update((a, b) for a, place in before for b, other in now if place == other)
            before, busy, writing = now, bool(look or kind != "none"), kind in ("write", "accumulate", "clear")
            await ctx.tick()

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()
    for first in ("write", "accumulate", "clear", "whole row"):
        for then in ("accumulate", "store", "clear", "vector read"):
            assert pairs[first, then] > 10, f"{first}, then {then}"
