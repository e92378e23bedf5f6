# SPDX-License-Identifier: Apache-2.0
"""cocotb side of `test_hbm_channel.py`."""

from __future__ import annotations

import os
from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles


@cocotb.test()
async def replay(dut: Any) -> None:
    dut.timing.value = int(os.environ["HBM_TIMING"])
    dut.count.value = int(os.environ["HBM_COUNT"])
    dut.rst.value = 1
    cocotb.start_soon(Clock(dut.clk, 2, "ns").start())
    await ClockCycles(dut.clk, 3)
    dut.rst.value = 0
    await ClockCycles(dut.clk, int(os.environ["HBM_CYCLES"]))
