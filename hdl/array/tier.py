# SPDX-License-Identifier: Apache-2.0
"""One array tier, a die of the stack: hub, rows, accumulators and drain between two bonds.

Structure only (see :class:`hdl.emit.structural.StructuralComponent`): a wide tier has more wires than a module of logic
may have ports.  All tiers of a stack are the same module, whatever their height.

Timing, with ``t`` the cycle in which the hub shows a wave to row 0: row ``r`` sees it in ``t + r``, its partial sums
leave row R-1 in ``t + R + 2``, the finished row is presented to the drain in ``t + R + 3`` and is on the bond below in
``t + R + 4 + Drain.LATENCY``.
"""

from __future__ import annotations

from typing import Any

from amaranth.lib.wiring import In, Out

from hdl.array.accumulator import DRAIN_FIELDS, Accumulators
from hdl.array.edge import EdgeBank, EdgeFeeder, EdgeRow
from hdl.array.fill_slice import FillSlice, FillTurn, column_run, turned_bytes
from hdl.array.hub import Hub
from hdl.array.links import PartialSumLink, ResultHop
from hdl.array.row import Row
from hdl.config import MachineConfig
from hdl.drain.drain import Drain
from hdl.emit.hierarchy import parameter_key, parameters
from hdl.emit.structural import StructuralComponent, Structure
from hdl.interfaces import bond_signature, tail_layout

__all__ = ["Tier"]

_TURN_COLUMNS = 8
"""Columns that one :class:`FillTurn` takes: near the square root of the columns the text of a tier is shortest."""


class Tier(StructuralComponent):
    """One tier of the stack.

    Parameters
    ----------
    config : MachineConfig
        Sizes of the machine.  With ``vertical_links=False`` the three links are absent and their wires are zero.

    Members
    -------
    below : In(bond_signature)
        Bond to the die below (the tier below, or the base die).
    above : Out(bond_signature)
        Bond to the tier above; left open at the top of the stack.
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        bond = bond_signature(config)
        super().__init__({"below": In(bond), "above": Out(bond)})

    PARAMETERS = parameters("accumulator_depth k_link_stages parameter_words", Hub.PARAMETERS)
    """What the module depends on."""

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return parameter_key("tier", self.config, self.PARAMETERS)

    def structure(self) -> Structure:
        """Describe the tier."""
        s = Structure(self)
        config = self.config
        hub = s.add("hub", Hub(config))
        for lane in range(config.tiers):
            s.connect(hub.dispatch[lane], self.below.dispatch[lane])
            s.connect(self.above.dispatch[lane], hub.dispatch_above[lane])
        for lane in range(2):
            s.connect(hub.fill_control[lane], self.below.fill_control[lane])
            s.connect(self.above.fill_control[lane], hub.fill_control_above[lane])
        for lane in range(config.result_lanes + 1):
            s.connect(hub.write[lane], self.below.write[lane])
            s.connect(self.above.write[lane], hub.write_above[lane])
        fill_rows = self._fill(s, hub)
        rows = self._rows(s, hub, fill_rows)
        self._sums(s, hub, rows)
        return s

    def _fill(self, s: Structure, hub: Hub) -> list[FillSlice]:
        config = self.config
        slices = []
        for index in range(config.fill_rows):
            part = s.add(f"fill_{index}", FillSlice(config.columns))
            for lane in range(2):
                s.connect(part.valid[lane], self.below.fill_control[lane].valid)
                s.connect(part.below[lane], self.below.fill_data[lane][index])
                s.connect(self.above.fill_data[lane][index], part.above[lane])
            s.connect(part.select, hub.fill_turn if config.stationary_feed == "vertical" else hub.fill_lane)
            slices.append(part)
        return slices

    def _rows(self, s: Structure, hub: Hub, fill: list[FillSlice]) -> list[Any]:
        config = self.config
        links = config.vertical_links
        vertical = config.stationary_feed == "vertical"
        turns = self._turns(s, fill) if vertical else []
        rows: list[Any] = []
        for index in range(config.rows):
            if vertical:
                row: Any = Row(
                    config.columns,
                    vcache_tiles=config.vcache_tiles,
                    activation_words=config.activation_words,
                    links=links,
                    column_run=column_run(config),
                )
            else:
                row = EdgeRow(config.columns, activation_words=config.activation_words, links=links)
            s.add(f"row_{index}", row)
            s.connect(row.wave_in, rows[-1].wave_out if rows else hub.wave)
            s.connect(row.write_en, hub.activation_enable[index])
            s.connect(row.write_addr, hub.activation_addr)
            s.connect(row.write_data, hub.write_data[8 * index : 8 * index + 8])
            if links:
                s.connect(row.activation_below, self.below.activation[index])
                s.connect(self.above.activation[index], row.activation)
            if vertical:
                word, part = divmod(index, config.fill_rows)
                s.connect(row.fill_en, hub.fill_select[word])
                s.connect(row.fill_addr, hub.fill_tile[word])
                s.connect(row.fill_lane, hub.fill_lane[word])
                for lane in range(2):
                    s.connect(row.fill_data[lane], fill[part].above[lane])
                s.connect(row.fill_low, hub.fill_low[word])
                s.connect(row.fill_columns, hub.fill_columns)
                s.connect(row.fill_mask, hub.fill_mask)
                s.connect(row.fill_turned, _turned(turns, turned_bytes(config, index)))
            if vertical and links:
                s.connect(row.stationary_below, self.below.stationary[index])
                s.connect(self.above.stationary[index], row.stationary)
            if rows:
                s.connect(row.psum_in, rows[-1].psum_out)
            rows.append(row)
        if not vertical:
            self._edge(s, hub, fill, rows)
        return rows

    def _turns(self, s: Structure, fill: list[FillSlice]) -> list[FillTurn]:
        """Regroup the fill slices' bytes for transposed tiles, some columns at a time."""
        columns = self.config.columns
        width = _TURN_COLUMNS if columns % _TURN_COLUMNS == 0 else columns
        turns = []
        for first in range(0, columns, width):
            turn = s.add(f"turn_{first // width}", FillTurn(len(fill), width, max(1, self.config.rows // columns)))
            s.connect(turn.slices, [part.row[8 * first : 8 * (first + width)] for part in fill])
            turns.append(turn)
        return turns

    def _edge(self, s: Structure, hub: Hub, fill: list[FillSlice], rows: list[Any]) -> None:
        config = self.config
        feeder = s.add(
            "feeder",
            EdgeFeeder(
                config.rows,
                config.columns,
                vcache_tiles=config.vcache_tiles,
                banks=config.fill_rows,
                links=config.vertical_links,
            ),
        )
        s.connect(feeder.load, hub.edge_load)
        s.connect(feeder.from_below, hub.edge_below)
        s.connect(feeder.tile, hub.edge_tile)
        for index, part in enumerate(fill):
            bank = s.add(
                f"vcache_{index}",
                EdgeBank(config.columns, vcache_tiles=config.vcache_tiles, fill_words=config.fill_words),
            )
            s.connect(bank.fill_select, hub.fill_select)
            s.connect(bank.fill_tile, hub.fill_tile)
            s.connect(bank.fill_data, part.row)
            s.connect(bank.read_en, feeder.read_en[index])
            s.connect(bank.read_tile, feeder.read_tile)
            s.connect(bank.read_word, feeder.read_word)
            s.connect(feeder.read_data[index], bank.read_data)
        for index, row in enumerate(rows):
            s.connect(row.front_in, rows[index - 1].front_out if index else feeder.front)
            s.connect(row.shift_in, rows[index - 1].shift_out if index else feeder.shift)
            s.connect(row.shift_on, feeder.shift_on)
        if config.vertical_links:
            s.connect(feeder.below, self.below.edge)
            s.connect(self.above.edge, feeder.above)

    def _sums(self, s: Structure, hub: Hub, rows: list[Any]) -> None:
        config = self.config
        accumulators = s.add(
            "accumulators",
            Accumulators(
                config.columns,
                depth=config.accumulator_depth,
                in_flight=config.rows,
                tail_layout=tail_layout(config),
            ),
        )
        s.connect(accumulators.push, hub.wave.valid)
        s.connect(accumulators.tail, hub.tail)
        s.connect(accumulators.leaving, rows[-1].wave_out.valid)
        s.connect(accumulators.psum_in, rows[-1].psum_out)
        if config.vertical_links:
            link = s.add("psum_link", PartialSumLink(config.columns, config.k_link_stages))
            s.connect(link.below, self.below.psum)
            s.connect(link.take, hub.psum_take)
            s.connect(rows[0].psum_in, link.entry)
            s.connect(link.leaving, rows[-1].psum_out)
            s.connect(link.send, accumulators.link_send)
            s.connect(self.above.psum, link.above)

        drain = s.add("drain", Drain(config))
        s.connect(drain.row_valid, accumulators.row_valid)
        s.connect(drain.row, accumulators.row)
        for field in DRAIN_FIELDS:
            s.connect(getattr(drain, field), getattr(accumulators, field))
        s.connect(drain.param_write, hub.param_write)
        s.connect(drain.param_write_addr, hub.param_write_addr)
        s.connect(drain.param_write_data, hub.write_data)
        for lane in range(config.tiers):
            hop = s.add(f"result_{lane}", ResultHop(16 * config.columns))
            source = self.above.result[lane - 1] if lane else drain.result
            s.connect(hop.valid, source.valid)
            s.connect(hop.row, source.data)
            s.connect(self.below.result[lane], [hop.below_valid, hop.below_row])


def _turned(turns: list[FillTurn], places: list[tuple[int, int]]) -> list[Any]:
    """Return the bytes at some (slice, column) of a fill word."""
    parts = []
    for index, column in places:
        turn = turns[column // turns[0].columns]
        low = 8 * turn.position(index, column % turn.columns)
        parts.append(turn.turned[low : low + 8])
    return parts
