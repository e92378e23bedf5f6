# SPDX-License-Identifier: Apache-2.0
"""cocotb test that `test_memories.py` runs: a read that meets a write, or one beside it, in a memory of a queue."""

import os

import cocotb
from cocotb.clock import Clock
from cocotb.handle import HierarchyObject
from cocotb.triggers import ClockCycles


@cocotb.test()
async def reads_while_it_writes(dut: HierarchyObject) -> None:
    dut.write_en.value = dut.read_en.value = 1
    dut.write_data.value = 7
    dut.write_addr.value = 1
    dut.read_addr.value = int(os.environ["READ_ADDRESS"])
    Clock(dut.clk, 10, "ns").start()
    await ClockCycles(dut.clk, 4)
