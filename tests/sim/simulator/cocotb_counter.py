# SPDX-License-Identifier: Apache-2.0
"""cocotb tests that `test_runner.py` runs: some pass, some fail on purpose."""

import os
from pathlib import Path

import cocotb
from cocotb.clock import Clock
from cocotb.handle import HierarchyObject
from cocotb.triggers import ClockCycles, Timer


async def start(dut: HierarchyObject, step: int) -> Clock:
    clock = Clock(dut.clk, 10, "ns")
    clock.start()
    dut.rst.value = 1
    dut.step.value = step
    await ClockCycles(dut.clk, 2)
    dut.rst.value = 0
    await ClockCycles(dut.clk, 1)
    return clock


@cocotb.test()
async def counts(dut: HierarchyObject) -> None:
    await start(dut, step=3)
    first = dut.count.value.to_unsigned()
    await ClockCycles(dut.clk, 5)
    width = len(dut.count.value)
    assert dut.count.value.to_unsigned() == (first + 15) % 2**width
    assert width == int(os.environ.get("EXPECTED_WIDTH", "8"))
    Path("left_behind.txt").write_text("here")


@cocotb.test()
async def counts_by_one(dut: HierarchyObject) -> None:
    await start(dut, step=1)
    await ClockCycles(dut.clk, 200)


@cocotb.test(skip="FAIL" not in os.environ)
async def fails(dut: HierarchyObject) -> None:
    await start(dut, step=1)
    assert dut.count.value.to_unsigned() == 77, "the count is not 77"


@cocotb.test(skip="HANG" not in os.environ)
async def hangs(dut: HierarchyObject) -> None:
    while True:
        await Timer(1, "us")


@cocotb.test(skip="PEEK" not in os.environ)
async def peeks(dut: HierarchyObject) -> None:
    await start(dut, step=1)
    assert dut.inner.value.to_unsigned() >= 0


@cocotb.test(skip="CLOCK" not in os.environ)
async def clock_is_compiled(dut: HierarchyObject) -> None:
    assert (await start(dut, step=1)).impl == "gpi"
