# SPDX-License-Identifier: Apache-2.0
"""The machine between parts of cocotbext-axi: a memory at each channel group, a manager at the registers.

Runs inside the simulator. Nothing of this project's benches is used: AXI is here as somebody else understands it.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from typing import Any

import cocotb
import numpy as np
import numpy.typing as npt
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, RisingEdge, with_timeout
from cocotbext.axi import AxiBus, AxiLiteBus, AxiLiteMaster, AxiRam

from hdl.config import MachineConfig
from hdl.isa.error_codes import ErrorCode
from hdl.isa.legality import Limits
from hdl.regs import counter_names, register_map
from sim.machine.system import JobResult

__all__ = ["MEMORY_BYTES", "ForeignSystem", "pauses"]

MEMORY_BYTES = 1 << 18
"""Of each group: as much as random streams use."""

PERIOD_NS = 2
MOST_CYCLES = 400_000
"""Cycles after which a stream counts as hung: with every channel paused nine cycles of ten, one takes a tenth."""

Bytes = npt.NDArray[np.uint8]


def pauses(rng: random.Random, rate: float) -> Iterator[bool]:
    """Yield for each cycle whether a channel pauses: a share `rate` of them, in runs of random length."""
    while True:
        yield from [rng.random() < rate] * rng.choice([1, 1, 1, 2, 5])


class ForeignSystem:
    """The machine, two memories and a manager.

    Parameters
    ----------
    dut : cocotb handle
        The emitted machine.
    config : MachineConfig
        What it is.
    """

    def __init__(self, dut: Any, config: MachineConfig) -> None:
        self._dut = dut
        self._config = config
        self._offsets = {register.name: register.offset for register in register_map(config)}
        self._masks = {register.name: register.mask for register in register_map(config)}
        logging.getLogger("cocotb").setLevel(logging.WARNING)  # they tell of every burst
        self.memories = [
            AxiRam(AxiBus.from_prefix(dut, f"m_axi_g{group}_c0"), dut.clk, dut.rst, size=MEMORY_BYTES)
            for group in range(2)
        ]
        self.registers = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axil"), dut.clk, dut.rst)

    async def reset(self) -> None:
        """Start the clock, reset the machine, and wait until it is ready."""
        self._dut.rst.value = 1
        Clock(self._dut.clk, PERIOD_NS, unit="ns").start()
        await ClockCycles(self._dut.clk, 4)
        self._dut.rst.value = 0
        await ClockCycles(self._dut.clk, 2)
        await self.ready()

    def pause(self, rng: random.Random, rates: dict[str, float]) -> None:
        """Let the channels pause, those called ``aw``, ``w``, ``b``, ``ar`` and ``r``, each a share of the cycles."""
        for one in (*self.memories, self.registers):
            for name, rate in rates.items():
                side = one.write_if if name in ("aw", "w", "b") else one.read_if
                generator = pauses(random.Random(rng.random()), rate) if rate else None
                channel = getattr(side, f"{name}_channel")
                channel.set_pause_generator(generator)
                channel.pause = False

    def put(self, images: tuple[bytes, bytes]) -> None:
        """Fill both memories: images, then zeros."""
        for memory, image in zip(self.memories, images, strict=True):
            memory.write(0, image.ljust(MEMORY_BYTES, b"\0"))

    def contents(self) -> tuple[Bytes, Bytes]:
        """Return all bytes of both memories."""
        first, second = (np.frombuffer(memory.read(0, MEMORY_BYTES), np.uint8) for memory in self.memories)
        return first, second

    async def read(self, name: str) -> int:
        """Return a register."""
        return int(await self.registers.read_dword(self._offsets[name]))

    async def write(self, name: str, value: int) -> None:
        """Write a register."""
        await self.registers.write_dword(self._offsets[name], value)

    async def write_wide(self, name: str, value: int) -> None:
        """Write a pair of registers."""
        await self.write(f"{name}_LO", value & 0xFFFF_FFFF)
        await self.write(f"{name}_HI", value >> 32)

    async def read_wide(self, name: str) -> int:
        """Return a pair of registers."""
        return await self.read(f"{name}_LO") | await self.read(f"{name}_HI") << 32

    async def ready(self) -> None:
        """Wait until a stream can be started."""
        for _ in range(1000):
            if await self.read("STATUS") & self._masks["STATUS"]("READY"):
                return
        raise AssertionError("the machine never became ready")

    async def run(self, stream_base: int, limits: Limits) -> JobResult:
        """Run the stream that lies in memory, from its start to its interrupt."""
        await self.write_wide("STREAM_BASE", stream_base)
        await self.write("WATCHDOG", MOST_CYCLES // 4)
        for group in range(2):
            await self.write_wide(f"MEMORY{group}_BYTES", limits.memory_bytes[group])
            await self.write_wide(f"WINDOW{group}_BASE", limits.window[group][0])
            await self.write_wide(f"WINDOW{group}_LIMIT", limits.window[group][1])
        both = self._masks["IRQ_PENDING"]("DONE", "ERROR")
        await self.write("IRQ_PENDING", both)
        await self.write("IRQ_ENABLE", both)
        assert not self._dut.irq.value
        # The interrupt may come before the answer to the write that starts.
        raised = cocotb.start_soon(self._interrupt())
        await self.write("CONTROL", self._masks["CONTROL"]("START", "INVALIDATE"))
        await with_timeout(raised, MOST_CYCLES * PERIOD_NS, "ns")
        await self.ready()
        status = await self.read("STATUS")
        failed = bool(status & self._masks["STATUS"]("ERROR"))
        counters = {name: await self.read_wide(f"COUNT_{name.upper()}") for name in counter_names(self._config)}
        return JobResult(
            done=bool(status & self._masks["STATUS"]("DONE")) and not failed,
            error=ErrorCode(await self.read("ERROR_CODE")) if failed else None,
            error_pc=await self.read("ERROR_PC"),
            error_address=await self.read_wide("ERROR_ADDRESS"),
            semaphores_left=bool(status & self._masks["STATUS"]("SEMAPHORES")),
            counters=counters,
            memory=self.contents(),
            wall_s=0.0,
        )

    async def _interrupt(self) -> None:
        if not self._dut.irq.value:
            await RisingEdge(self._dut.irq)
