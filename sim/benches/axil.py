# SPDX-License-Identifier: Apache-2.0
"""AXI4-Lite manager for cocotb: one access at a time, with the register names of ``hdl.regs``."""

from __future__ import annotations

from typing import Any

from cocotb.triggers import RisingEdge

from hdl.config import MachineConfig
from hdl.errors import A3dError
from hdl.regs import counter_names, register_map

__all__ = ["AxilError", "AxilManager"]


class AxilError(A3dError):
    """A register access was answered with an error response."""


class AxilManager:
    """Drives the ``s_axil_*`` ports of a bench's top.

    Parameters
    ----------
    dut : cocotb handle
        Top with a ``clk`` port.
    config : MachineConfig
        Gives the register map.
    """

    def __init__(self, dut: Any, config: MachineConfig) -> None:
        self.clk = dut.clk
        names = (
            "awaddr awprot awvalid awready wdata wstrb wvalid wready bresp bvalid bready "
            "araddr arprot arvalid arready rdata rresp rvalid rready"
        )
        self.port = {name: getattr(dut, f"s_axil_{name}") for name in names.split()}
        self.config = config
        self.registers = {register.name: register for register in register_map(config)}

    def idle(self) -> None:
        """Drive all inputs to their idle values."""
        for name in ("awaddr", "awprot", "awvalid", "wdata", "wvalid", "araddr", "arprot", "arvalid"):
            self.port[name].value = 0
        self.port["wstrb"].value = 15
        self.port["bready"].value = 1
        self.port["rready"].value = 1

    def _offset(self, target: str | int) -> int:
        return self.registers[target].offset if isinstance(target, str) else target

    def bits(self, register: str, *fields: str) -> int:
        """Return the bits of some fields of a register, all set."""
        return self.registers[register].mask(*fields)

    async def write(self, target: str | int, value: int) -> None:
        """Write a 32-bit register by name or byte offset; raise AxilError on an error response."""
        port = self.port
        port["awaddr"].value = self._offset(target)
        port["wdata"].value = value & 0xFFFF_FFFF
        port["awvalid"].value = 1
        port["wvalid"].value = 1
        while True:
            await RisingEdge(self.clk)
            if port["awready"].value and port["wready"].value:
                break
        port["awvalid"].value = 0
        port["wvalid"].value = 0
        while True:
            await RisingEdge(self.clk)
            if port["bvalid"].value:
                break
        if int(port["bresp"].value):
            raise AxilError(f"register write to {target}: response {int(port['bresp'].value)}; use a writable register")

    async def read(self, target: str | int) -> int:
        """Return a 32-bit register by name or byte offset; raise AxilError on an error response."""
        port = self.port
        port["araddr"].value = self._offset(target)
        port["arvalid"].value = 1
        while True:
            await RisingEdge(self.clk)
            if port["arready"].value:
                break
        port["arvalid"].value = 0
        while True:
            await RisingEdge(self.clk)
            if port["rvalid"].value:
                break
        if int(port["rresp"].value):
            raise AxilError(f"register read of {target}: response {int(port['rresp'].value)}; use a mapped register")
        return int(port["rdata"].value)

    async def write_wide(self, name: str, value: int) -> None:
        """Write a 64-bit register pair ``NAME_LO``/``NAME_HI``."""
        await self.write(f"{name}_LO", value)
        await self.write(f"{name}_HI", value >> 32)

    async def read_wide(self, name: str) -> int:
        """Return a 64-bit register pair."""
        return await self.read(f"{name}_LO") | (await self.read(f"{name}_HI")) << 32

    async def counters(self) -> dict[str, int]:
        """Return all performance counters by name."""
        return {name: await self.read_wide(f"COUNT_{name.upper()}") for name in counter_names(self.config)}
