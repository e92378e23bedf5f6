# SPDX-License-Identifier: Apache-2.0
"""Which queues a gang's instruction enters, in stacks of any height."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import data
from amaranth.sim import Simulator

from hdl.common.queues import gang_queues
from hdl.config import PRESETS
from hdl.control.checker import InstructionVerdict
from hdl.emit.files import FILE_LIST, write
from hdl.emit.lint import lint_verilator
from hdl.emit.verilog import emit
from sim.simulator.tools import find_verilator


@pytest.mark.parametrize("tiers", [1, 3, 7, 8])
def test_the_gang_is_the_tiers_from_base_on(tiers: int) -> None:
    config = PRESETS["nano"].replace(tiers=tiers, row_fifo_depth=64)
    gemm = Signal(data.StructLayout({"tier_base": 3, "tier_count": 4}))
    m = Module()
    queues = Signal(tiers)
    m.d.comb += queues.eq(gang_queues(config, gemm))

    async def testbench(ctx: Any) -> None:
        for base in range(tiers):
            for count in range(tiers - base + 1):
                ctx.set(gemm, {"tier_base": base, "tier_count": count})
                assert ctx.get(queues) == sum(1 << tier for tier in range(base, base + count)), (base, count)

    simulator = Simulator(m)
    simulator.add_testbench(testbench)
    simulator.run()


@pytest.mark.parametrize("tiers", [7, 8])
def test_no_comparison_is_constant(tiers: int, tmp_path: Path) -> None:
    """With eight tiers every number that a field can hold is that of a tier."""
    write(emit(InstructionVerdict(PRESETS["nano"].replace(tiers=tiers, row_fifo_depth=64)), "top"), tmp_path)
    verilator = find_verilator()
    report = lint_verilator(tmp_path / FILE_LIST, "top", verilator=verilator.executable, env=verilator.env())
    assert report.messages == ()
