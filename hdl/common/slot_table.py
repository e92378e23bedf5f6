# SPDX-License-Identifier: Apache-2.0
"""A copy of the routing table, beside the unit that reads it."""

from __future__ import annotations

from amaranth.hdl import Cat, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.common.sram import Sram
from hdl.config import MachineConfig
from hdl.emit.hierarchy import digest, instantiate
from hdl.interfaces import slot_write_layout

__all__ = ["SlotTable"]


class SlotTable(wiring.Component):
    """Slots as ROUTEs wrote them; the route unit clears them after a reset.

    Latency: the slot's fields show in the cycle after ``read_en`` and stay until the next read.

    Members
    -------
    write : In(slot_write_layout)
        Broadcast of the route unit.
    read_en : In(1), slot : In(slot_bits)
    count : Out(list_bits + 1), base : Out(list_bits), expert : Out(slot_bits), high_only : Out(1)
        Tokens (0: empty), first list entry, expert, whether only its high plane is wanted.
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "write": In(slot_write_layout(config)),
                "read_en": In(1),
                "slot": In(config.slot_bits),
                "count": Out(config.list_bits + 1),
                "base": Out(config.list_bits),
                "expert": Out(config.slot_bits),
                "high_only": Out(1),
            }
        )

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return f"slot_table_{digest(self.config.list_depth, self.config.expert_slots)}"

    def elaborate(self, platform: object) -> Module:
        """Build the memory."""
        m = Module()
        fields = Cat(self.count, self.base, self.expert, self.high_only)
        memory = instantiate(m, platform, "memory", Sram(len(fields), self.config.expert_slots))
        m.d.comb += [
            memory.write_en.eq(self.write.valid),
            memory.write_addr.eq(self.write.slot),
            memory.write_data.eq(Cat(self.write.count, self.write.base, self.write.expert, self.write.high_only)),
            memory.read_en.eq(self.read_en),
            memory.read_addr.eq(self.slot),
            fields.eq(memory.read_data),
        ]
        return m
