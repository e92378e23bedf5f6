# SPDX-License-Identifier: Apache-2.0
"""cocotb test that `test_two_machines.py` runs: two machines below one top, each with registers of its own."""

import os
from types import SimpleNamespace

import cocotb
from cocotb.clock import Clock
from cocotb.handle import HierarchyObject
from cocotb.triggers import ClockCycles

from hdl.config import PRESETS
from hdl.regs import register_map
from sim.benches.axil import AxilManager


@cocotb.test()
async def each_answers_for_itself(dut: HierarchyObject) -> None:
    Clock(dut.clk, 10, "ns").start()
    ports = {}
    for name in os.environ["MACHINES"].split():
        start = f"{name}_s_axil_"
        handles = {port: getattr(dut, start + port) for port in os.environ["AXIL_PORTS"].split()}
        view = SimpleNamespace(clk=dut.clk, **{f"s_axil_{port}": handle for port, handle in handles.items()})
        ports[name] = AxilManager(view, PRESETS[name])
        ports[name].idle()
    dut.rst.value = 1
    await ClockCycles(dut.clk, 4)
    dut.rst.value = 0
    hashes = set()
    for name, port in ports.items():
        for register in register_map(PRESETS[name]):
            if register.value is not None:
                assert await port.read(register.name) == register.value, (name, register.name)
        hashes.add(await port.read("CONFIG_HASH"))
        await port.write("WATCHDOG", len(hashes))
    assert len(hashes) == len(ports) == 2
    assert [await port.read("WATCHDOG") for port in ports.values()] == [1, 2], "a write reached both machines"
