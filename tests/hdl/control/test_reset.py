# SPDX-License-Identifier: Apache-2.0
"""Resets of the blocks: the register of each, how it stands in Verilog, and how long the units stay halted."""

from __future__ import annotations

import re
from typing import Any

from amaranth.sim import Simulator

from hdl.config import PRESETS
from hdl.control.reset import ResetRegister
from hdl.control.supervisor import SETTLE_CYCLES, Supervisor
from hdl.emit.verilog import emit
from hdl.machine import Machine


def run(dut: Any, bench: Any) -> None:
    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()


def test_a_request_resets_in_the_next_cycle() -> None:
    dut = ResetRegister()

    async def bench(ctx: Any) -> None:
        assert ctx.get(dut.reset), "until the first edge after the common reset"
        for request in (0, 1, 0, 0, 1, 1, 0):
            ctx.set(dut.request, request)
            await ctx.tick()
            assert ctx.get(dut.reset) == request

    run(dut, bench)


def test_units_stay_halted_until_they_have_been_reset() -> None:
    dut = Supervisor(PRESETS["nano"])

    async def bench(ctx: Any) -> None:
        ctx.set(dut.tags_ready, 1)
        ctx.set(dut.slots_ready, 1)
        while not ctx.get(dut.ready):
            await ctx.tick()
        ctx.set(dut.start, 1)
        await ctx.tick()
        ctx.set(dut.start, 0)
        while not ctx.get(dut.running):
            await ctx.tick()
        ctx.set(dut.overflow, 1)
        await ctx.tick()
        ctx.set(dut.overflow, 0)
        ctx.set(dut.tags_ready, 0)
        ctx.set(dut.quiet, 1)
        for _ in range(2 * SETTLE_CYCLES):
            assert ctx.get(dut.halt)
            if ctx.get(dut.soft_reset):
                break
            await ctx.tick()
        assert ctx.get(dut.soft_reset)
        await ctx.tick()
        assert ctx.get(dut.halt), "the units' resets are on in this cycle"
        await ctx.tick()
        assert not ctx.get(dut.halt)

    run(dut, bench)


def test_blocks_get_their_own_reset_alone() -> None:
    """In Verilog the common reset goes to few modules, and synthesis is asked not to merge the registers."""
    design = emit(Machine(PRESETS["nano"]), "a3d_top")
    assert "(* keep_hierarchy *)\nmodule reset_register (" in design.modules["reset_register"]
    top = design.modules["a3d_top"]
    resets = dict(re.findall(r"^  \w+ (\w+) \(\n    \.clk\(clk\),\n    \.rst\(([^)]*)\)", top, re.MULTILINE))
    common = {name for name, reset in resets.items() if reset == "rst"}
    own = set(resets) - common
    assert own and all(resets[name] == f"{name}_reset__reset" for name in own)
    assert common == {"csr", "supervisor", "glue", "loads_soft_reset"} | {f"{name}_reset" for name in own}
