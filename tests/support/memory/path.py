# SPDX-License-Identifier: Apache-2.0
"""Everything between instruction queues and AXI in one component, as the machine connects it."""

from __future__ import annotations

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.config import MachineConfig
from hdl.emit.hierarchy import instantiate
from hdl.memory.axi import GroupMaster, axi_signature
from hdl.memory.fetch import FetchUnit
from hdl.memory.loads import LoadUnit
from hdl.memory.store import StoreUnit

HIDDEN = {"read", "write"}


class MemoryPath(wiring.Component):
    """Load, store and fetch unit on two group masters; their ports are called ``load_*``, ``store_*``, ``fetch_*``."""

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        self.units = {"load": LoadUnit(config), "store": StoreUnit(config), "fetch": FetchUnit(config)}
        ports = {
            f"{name}_{port}": member
            for name, unit in self.units.items()
            for port, member in unit.signature.members.items()
            if port not in HIDDEN
        }
        axi = Out(axi_signature(config)).array(config.channels_per_group)
        super().__init__({**ports, "axi0": axi, "axi1": axi})

    def elaborate(self, platform: object) -> Module:
        """Connect the units' group ports to the masters."""
        m = Module()
        masters = []
        for g, axi in enumerate((self.axi0, self.axi1)):
            masters.append(instantiate(m, platform, f"master{g}", GroupMaster(self.config, fetch=g == 0)))
            for channel in range(self.config.channels_per_group):
                wiring.connect(m, masters[g].axi[channel], wiring.flipped(axi[channel]))
        for name, unit in self.units.items():
            instantiate(m, platform, name, unit)
            for port, member in unit.signature.members.items():
                if port not in HIDDEN:
                    self._join(m, getattr(self, f"{name}_{port}"), getattr(unit, port), member)
        for g in range(2):
            wiring.connect(m, self.units["load"].read[g], masters[g].load)
            wiring.connect(m, self.units["store"].write[g], masters[g].store)
        wiring.connect(m, self.units["fetch"].read, masters[0].fetch)
        return m

    def _join(self, m: Module, outer: object, inner: object, member: wiring.Member) -> None:
        if member.dimensions:
            for o, i in zip(outer, inner, strict=True):  # type: ignore[call-overload]
                self._join(m, o, i, wiring.Member(member.flow, member._description, _dimensions=member.dimensions[1:]))
        elif member.is_signature:
            wiring.connect(m, wiring.flipped(outer), inner)
        elif member.flow == In:
            m.d.comb += inner.eq(outer)  # type: ignore[attr-defined]
        else:
            m.d.comb += outer.eq(inner)  # type: ignore[attr-defined]
