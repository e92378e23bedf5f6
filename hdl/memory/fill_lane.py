# SPDX-License-Identifier: Apache-2.0
"""The register at the end of a fill lane of the load unit."""

from __future__ import annotations

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.config import MachineConfig
from hdl.emit.hierarchy import parameter_key, parameters
from hdl.interfaces import fill_control_layout

__all__ = ["FILL_LANE_CYCLES", "FillLane"]

FILL_LANE_CYCLES = 1
"""Cycles of the register."""


class FillLane(wiring.Component):
    """Holds a lane's fill word for a cycle, so that no tier waits for the arbitration of the lanes.

    The word is taken whenever one is offered, whether it leaves or not; ``valid`` says that it has left.

    Latency: one cycle. Throughput: one word per cycle.

    Members
    -------
    offered : In(1)
        The word is a fill word.
    control : In(fill_control_layout), tag : In(6), words : In(8 * fill_bytes)
        The word; ``valid``: it leaves in this cycle.
    out_control, out_tag, out_words : Out
        The same, a cycle later.
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "offered": In(1),
                "control": In(fill_control_layout(config)),
                "tag": In(6),
                "words": In(8 * config.fill_bytes),
                "out_control": Out(fill_control_layout(config)),
                "out_tag": Out(6),
                "out_words": Out(8 * config.fill_bytes),
            }
        )

    PARAMETERS = parameters("columns group_bytes rows tiers vcache_tiles")
    """What the module depends on."""

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return parameter_key("fill_lane", self.config, self.PARAMETERS)

    def elaborate(self, platform: object) -> Module:
        """Build the register."""
        m = Module()
        with m.If(self.offered):
            m.d.sync += [
                self.out_control.eq(self.control),
                self.out_tag.eq(self.tag),
                self.out_words.eq(self.words),
            ]
        m.d.sync += self.out_control.valid.eq(self.control.valid)
        return m
