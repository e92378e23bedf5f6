# SPDX-License-Identifier: Apache-2.0
"""The gates of the load unit outside its blocks: what both engines share of the outputs."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.config import MachineConfig
from hdl.emit.hierarchy import parameter_key, parameters
from hdl.interfaces import row_write_layout, write_layout
from hdl.isa import LIST_ENTRY_BYTES

__all__ = ["LoadMux"]


class LoadMux(wiring.Component):
    """Multiplexers of bus words and list entries, and the handshakes that the address sides count.

    Latency: combinational.

    Parameters
    ----------
    config : MachineConfig

    Members
    -------
    parameter, tiers, position, data : In, .array(2)
        Of each engine's output word; ``data`` is as many low bytes as a bus word or list entry takes.
    bus_valid, bus_owner, row_owner, list_owner : In(1)
        From the launcher.
    bus : Out(write_layout)
    row : Out(16)
        Number of the row that is written; its data take :class:`hdl.memory.load_rows.RowSlice`.
    list_tiers, list_addr, list_entry : Out
    read_valid, read_ready, read_last : In(1).array(2) / arrived, answered : Out(1).array(2)
        Beats off the bus: a beat arrived / the last one of a burst.
    word_valid, word_ready : In(1).array(2) / released : Out(1).array(2)
        A beat left the skew FIFO.
    outstanding : In(2) / quiet : Out(1)
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "parameter": In(1).array(2),
                "tiers": In(config.tiers).array(2),
                "position": In(config.position_bits).array(2),
                "data": In(8 * max(config.rows, LIST_ENTRY_BYTES)).array(2),
                "bus_valid": In(1),
                "bus_owner": In(1),
                "row_owner": In(1),
                "list_owner": In(1),
                "bus": Out(write_layout(config)),
                "row": Out(row_write_layout(config)["row"].shape),
                "list_tiers": Out(config.tiers),
                "list_addr": Out(config.list_bits),
                "list_entry": Out(8 * LIST_ENTRY_BYTES),
                "read_valid": In(1).array(2),
                "read_ready": In(1).array(2),
                "read_last": In(1).array(2),
                "arrived": Out(1).array(2),
                "answered": Out(1).array(2),
                "word_valid": In(1).array(2),
                "word_ready": In(1).array(2),
                "released": Out(1).array(2),
                "outstanding": In(2),
                "quiet": Out(1),
            }
        )

    PARAMETERS = parameters("columns list_depth position_bits rows tiers write_bits")
    """What the module depends on."""

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return parameter_key("load_mux", self.config, self.PARAMETERS)

    def elaborate(self, platform: object) -> Module:
        """Build the multiplexers."""
        m = Module()

        def chosen(owner: Value, choices: list[Value]) -> Value:
            return Mux(owner, choices[1], choices[0])

        bus = self.bus
        rows = 8 * self.config.rows
        m.d.comb += [
            bus.valid.eq(self.bus_valid),
            bus.parameter.eq(chosen(self.bus_owner, self.parameter)),
            bus.tiers.eq(chosen(self.bus_owner, self.tiers)),
            bus.addr.eq(chosen(self.bus_owner, self.position)),
            bus.enable.eq(~0),
            bus.data.as_value().eq(chosen(self.bus_owner, [word[:rows] for word in self.data])),
            self.row.eq(chosen(self.row_owner, self.position)),
            self.list_tiers.eq(chosen(self.list_owner, self.tiers)),
            self.list_addr.eq(chosen(self.list_owner, self.position)),
            self.list_entry.eq(chosen(self.list_owner, [word[: 8 * LIST_ENTRY_BYTES] for word in self.data])),
            self.quiet.eq(self.outstanding == 0),
        ]
        for g in range(2):
            m.d.comb += [
                self.arrived[g].eq(self.read_valid[g] & self.read_ready[g]),
                self.answered[g].eq(self.arrived[g] & self.read_last[g]),
                self.released[g].eq(self.word_valid[g] & self.word_ready[g]),
            ]
        return m
