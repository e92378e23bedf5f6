# SPDX-License-Identifier: Apache-2.0
"""The machine in a LiteX SoC: its registers and two memories on the SoC's bus, the machine as two masters of it.

There is no processor in it, so that no compiler for one is needed: who starts streams is a master outside, at the pins
``host_*`` (AXI-Lite). In an SoC with a processor leave `host` out, and give SoCCore a ``cpu_type``.

.. code-block:: sh

    a3d generate --config nano -o build/nano
    python docs/examples/litex/a3d_litex.py build/nano build/litex
"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path

from litex.build.generic_platform import GenericPlatform, Pins
from litex.build.io import CRG
from litex.gen import LiteXModule
from litex.soc.integration.soc import SoCRegion
from litex.soc.integration.soc_core import SoCMini
from litex.soc.interconnect import axi
from migen import ClockSignal, Instance, ResetSignal, Signal

REGISTERS = 0x8000_0000
MEMORIES = (0x4000_0000, 0x5000_0000)
"""Addresses on the bus. The machine's own begin at 0 in each group: `A3d` adds these."""

MEMORY_BYTES = 1 << 16
CLOCK_HZ = 50_000_000


class A3d(LiteXModule):
    """The machine with one channel in each group.

    Attributes
    ----------
    registers : AXILiteInterface
        A slave.
    memories : list of AXIInterface
        Masters, one for each group.
    irq : Signal
        Level, active high.

    Parameters
    ----------
    manifest : dict
        What ``manifest.json`` of the generated directory says: ports and their widths.
    bases : tuple of int
        Where each group's memory lies on the bus.
    """

    def __init__(self, manifest, bases):
        config = manifest["config"]
        if config["channels_per_group"] != 1:
            raise ValueError("channels of a group run in lockstep: a shared bus can serve one in each")
        bits = 8 * config["channel_bytes"]
        self.irq = Signal()
        self.registers = axi.AXILiteInterface(data_width=32, address_width=32)
        self.memories = [axi.AXIInterface(data_width=bits, address_width=32, id_width=1) for _ in bases]
        pins = {"i_clk": ClockSignal(), "i_rst": ResetSignal(), "o_irq": self.irq}
        for port in manifest["ports"]:
            bus, _, name = port["name"].rpartition("_")
            if bus == "s_axil":
                pin = self._pin(self.registers, name)[: port["width"]]
            elif bus.startswith("m_axi_g"):
                group = int(bus.removeprefix("m_axi_g").partition("_")[0])
                pin = self._pin(self.memories[group], name)
                if name in ("araddr", "awaddr"):
                    own = Signal(port["width"])
                    self.comb += pin.eq(bases[group] | own)
                    pin = own
            else:
                continue  # the trace stays open
            pins[f"{port['direction'][0]}_{port['name']}"] = pin
        self.specials += Instance(manifest["top"], **pins)

    @staticmethod
    def _pin(interface, name):
        """Return the signal of an interface that the standard calls `name`, such as ``awvalid``."""
        channel = next(channel for channel in ("aw", "ar", "w", "r", "b") if name.startswith(channel))
        return getattr(getattr(interface, channel), name.removeprefix(channel))


class A3dSoC(SoCMini):
    """The machine, a memory for each group, and a master at the pins.

    Parameters
    ----------
    platform : GenericPlatform
        With pins ``clk``, ``rst`` and ``irq``.
    folder : Path
        What `a3d generate` wrote.
    """

    def __init__(self, platform, folder):
        self.crg = CRG(platform.request("clk"), platform.request("rst"))
        SoCMini.__init__(self, platform, clk_freq=CLOCK_HZ)
        manifest = json.loads((folder / "manifest.json").read_text())
        for file in manifest["files"]:
            if file["path"].endswith(".v"):
                platform.add_source(str(folder / file["path"]))
        self.a3d = A3d(manifest, MEMORIES)
        self.comb += platform.request("irq").eq(self.a3d.irq)
        self.bus.add_slave("a3d", self.a3d.registers, SoCRegion(origin=REGISTERS, size=0x1000, cached=False))
        for group, base in enumerate(MEMORIES):
            self.add_ram(f"memory{group}", base, MEMORY_BYTES)
            self.bus.add_master(f"a3d_group{group}", self.a3d.memories[group])
        host = axi.AXILiteInterface(data_width=32, address_width=32)
        platform.add_extension(host.get_ios("host"))
        self.comb += host.connect_to_pads(platform.request("host"), mode="slave")
        self.bus.add_master("host", host)


def write_soc(folder: Path, out: Path) -> Path:
    """Write the Verilog of the SoC around the machine in `folder`; return the file, whose module is ``a3d_soc``."""
    platform = GenericPlatform("", [("clk", 0, Pins(1)), ("rst", 0, Pins(1)), ("irq", 0, Pins(1))])
    soc = A3dSoC(platform, folder)
    soc.finalize()
    out.mkdir(parents=True, exist_ok=True)
    with contextlib.chdir(out):  # contents of memories go where one is
        platform.get_verilog(soc, name="a3d_soc").write("a3d_soc.v")
    return out / "a3d_soc.v"


if __name__ == "__main__":
    print(write_soc(Path(sys.argv[1]), Path(sys.argv[2])))
