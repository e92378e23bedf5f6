# SPDX-License-Identifier: Apache-2.0
"""cocotb test that `test_litex.py` runs: a random stream on the machine in a LiteX SoC, all by way of its bus."""

import json
import logging
import os
from typing import Any

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, RisingEdge, with_timeout
from cocotbext.axi import AxiLiteBus, AxiLiteMaster

from hdl.regs import register_map
from sim.golden.executor import Executor
from sim.stimulus.streams import StreamOptions, random_stream
from tests.support.foreign.machine import CONFIG

PERIOD_NS = 2
MOST_CYCLES = 400_000


@cocotb.test()
async def stream(dut: Any) -> None:
    """Images go in through the bus, and come back through it: every byte is what the executor says."""
    logging.getLogger("cocotb").setLevel(logging.WARNING)
    place = json.loads(os.environ["A3D_PLACES"])
    registers = {register.name: register for register in register_map(CONFIG)}
    host = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "host"), dut.clk, dut.rst)
    Clock(dut.clk, PERIOD_NS, unit="ns").start()
    dut.rst.value = 1
    await ClockCycles(dut.clk, 4)
    dut.rst.value = 0
    await ClockCycles(dut.clk, 200)  # the tags are swept

    async def read(name: str) -> int:
        return int(await host.read_dword(place["registers"] + registers[name].offset))

    async def write(name: str, value: int) -> None:
        await host.write_dword(place["registers"] + registers[name].offset, value)

    assert await read("ID") == registers["ID"].value
    given = random_stream(CONFIG, int(os.environ["A3D_SEED"]), options=StreamOptions.everything(slots=True))
    executor = Executor(CONFIG, given.images, given.limits)
    executor.run(given.instructions)
    for base, image in zip(place["memories"], given.images, strict=True):
        await host.write(base, image)
    await write("STREAM_BASE_LO", given.stream_base)
    for group in range(2):
        await write(f"MEMORY{group}_BYTES_LO", given.limits.memory_bytes[group])
        await write(f"WINDOW{group}_BASE_LO", given.limits.window[group][0])
        await write(f"WINDOW{group}_LIMIT_LO", given.limits.window[group][1])
    await write("WATCHDOG", MOST_CYCLES // 4)
    await write("IRQ_ENABLE", registers["IRQ_ENABLE"].mask("DONE", "ERROR"))
    assert await read("STATUS") & registers["STATUS"].mask("READY")
    raised = cocotb.start_soon(_rising(dut.irq))
    await write("CONTROL", registers["CONTROL"].mask("START", "INVALIDATE"))
    await with_timeout(raised, MOST_CYCLES * PERIOD_NS, "ns")
    status = await read("STATUS")
    assert status & registers["STATUS"].mask("DONE"), f"code {await read('ERROR_CODE')} at {await read('ERROR_PC')}"
    assert await read("COUNT_INSTRUCTIONS_LO") == len(given.instructions)
    changed = 0
    for group, (base, want) in enumerate(zip(place["memories"], executor.memory, strict=True)):
        got = np.frombuffer((await host.read(base, len(want))).data, np.uint8)
        wrong = np.flatnonzero(got != want)
        assert not wrong.size, f"group {group}: {wrong.size} bytes differ, first at {wrong[0]:#x}"
        changed += int((want != np.frombuffer(given.images[group], np.uint8)).sum())
    assert changed > 100


async def _rising(signal: Any) -> None:
    await RisingEdge(signal)
