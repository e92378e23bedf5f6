# SPDX-License-Identifier: Apache-2.0
"""cocotb bench that plays recorded port values into an emitted stack and records what comes back.

Files in the directory named by ``STACK_BENCH``: ``stimulus.json`` (a list of cycles, each a map from port to its value
in hexadecimal, of the ports that change) and, as the answer, ``response.json`` (a list of [cycle, lane, result]).
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import cocotb
from cocotb.clock import Clock
from cocotb.handle import HierarchyObject
from cocotb.triggers import ClockCycles, ReadOnly, RisingEdge


@cocotb.test()
async def play(dut: HierarchyObject) -> None:
    folder = Path(os.environ["STACK_BENCH"])
    stimulus = json.loads((folder / "stimulus.json").read_text())
    tiers = int(os.environ["STACK_TIERS"])
    handles = {name: getattr(dut, name) for cycle in stimulus for name in cycle}
    results = [getattr(dut, f"result__{lane}") for lane in range(tiers)]
    for handle in handles.values():
        handle.value = 0
    Clock(dut.clk, 10, "ns").start()
    dut.rst.value = 1
    await ClockCycles(dut.clk, 3)
    dut.rst.value = 0
    response = []
    for cycle, values in enumerate(stimulus):
        for name, value in values.items():
            handles[name].value = int(value, 16)
        await ReadOnly()
        for lane, result in enumerate(results):
            word = result.value.to_unsigned()
            if word & 1:
                response.append([cycle, lane, f"{word:x}"])
        await RisingEdge(dut.clk)
    (folder / "response.json").write_text(json.dumps(response))
