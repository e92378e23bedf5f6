# SPDX-License-Identifier: Apache-2.0
"""The hub of a tier: the bond registers of everything that steers it, and the decoding of what is for this tier.

Theory of operation
-------------------
Dispatch, fill control and the write bus come from the tier below, take one register here, and go on to the tier above
as that register shows them.  So whatever the base launches in one cycle reaches tier ``i`` in the same cycle, ``i + 1``
cycles later, and what is launched in order arrives in order.

- **Dispatch**: lane 0 is this tier's wave; lane ``j`` goes up as lane ``j - 1``.
- **Fill and writes**: bit 0 of a ``tiers`` mask is this tier; the mask goes up shifted by one, and a word that nobody
  further up wants goes no further, so that it toggles nothing there.

A control bit is registered in every cycle; the fields that it qualifies are registered only with it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hdl.array.fill_slice import column_run, column_words
from hdl.array.row import row_wave_layout
from hdl.config import MachineConfig
from hdl.emit.hierarchy import parameter_key, parameters
from hdl.interfaces import dispatch_layout, fill_control_layout, tail_layout, write_layout

__all__ = ["Hub", "Path", "unused_dispatch", "unused_fill"]


Path = tuple[str, ...]
"""A field of a nested struct."""


def _register(
    m: Module, name: str, source: Any, control: Collection[Path], enable: Any, unused: Collection[Path] = ()
) -> Any:
    """Register the struct `source`: `control` bits in every cycle, `unused` never, all else with `enable`."""
    layout = source.shape()
    registered = Signal(layout, name=name)

    def fields(view: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
        for key, field in view.shape():
            if isinstance(field.shape, data.StructLayout):
                yield from fields(view[key], (*path, key))
            else:
                yield (*path, key), view[key]

    sources = dict(fields(source))
    for path, target in fields(registered):
        if path in unused:
            continue
        is_control = path in control
        held = Signal(target.shape(), name=f"{name}_{'_'.join(path)}", reset_less=not is_control)
        m.d.comb += target.eq(held)
        if is_control:
            m.d.sync += held.eq(sources[path])
        else:
            with m.If(enable):
                m.d.sync += held.eq(sources[path])
    return registered


def unused_dispatch(config: MachineConfig) -> tuple[Path, ...]:
    """Return the fields of a dispatch lane that this array has no use for: no register, they arrive as zero."""
    unused: tuple[Path, ...] = (("edge_load",), ("edge_below",), ("edge_tile",))
    if config.stationary_feed == "edge":
        unused = (("wave", "stationary_below"), ("wave", "vcache_addr"))
    if not config.vertical_links:
        links = ("stationary_below", "activation_below", "psum_below")
        unused = tuple(dict.fromkeys((*unused, *(("wave", link) for link in links), ("edge_below",))))
    return unused


def unused_fill(config: MachineConfig) -> tuple[Path, ...]:
    """Return the fields of a fill word's control part that this array has no use for.

    The edge feed's banks could not take a transposed tile or half of one: no such word comes, and its bit costs no
    register.
    """
    return () if config.stationary_feed == "vertical" else (("columns",), ("low",))


class Hub(wiring.Component):
    """Bond registers and decoders of one tier.

    Latency: every output shows what the bond carried one cycle before (``psum_take``: three cycles).
    Throughput: a word per lane and cycle.

    Parameters
    ----------
    config : MachineConfig
        Sizes of the machine.

    Members
    -------
    dispatch, dispatch_above : In / Out(dispatch_layout).array(tiers)
        From the tier below, to the tier above.
    fill_control, fill_control_above : In / Out(fill_control_layout).array(2)
    write, write_above : In / Out(write_layout).array(result_lanes + 1)
    wave : Out(row_wave_layout)
        This tier's wave, for row 0.
    tail : Out(tail_layout)
        Its tail; to be pushed when ``wave.valid``.
    psum_take : Out(1)
        Row 0 adds to the partial sums of the tier below in this cycle (stage t+2; only with links).
    edge_load, edge_below, edge_tile : Out(1), Out(1), Out(vcache_bits)
        Tile request, for the edge feed.
    fill_select : Out(fill_words)
        One bit for every ``fill_rows`` rows: the V-Cache banks of these rows take this cycle's word.
    fill_columns, fill_mask : Out(1), Out(columns // column_run)
        The word is of a transposed tile / one bit for each word's columns: they are written. Vertical feed only.
    fill_tile, fill_lane : Out(vcache_bits).array(fill_words), Out(fill_words)
        For every ``fill_rows`` rows the tile that is filled, and the lane that the data are in: both lanes may fill
        this tier in a cycle, words of different rows, none transposed. Edge feed: Out(vcache_bits), Out(1), for all
        rows; one lane at a time.
    fill_low : Out(fill_words)
        For every ``fill_rows`` rows: only the lower four bits of each byte are written. Vertical feed only.
    fill_turn : Out(1)
        Lane of a transposed tile's word. Vertical feed only.
    activation_enable, activation_addr : Out(rows), Out(activation_bits)
        Write of the activation banks, one enable for each row.
    param_write, param_write_addr : Out(1), Out(param bits)
        Write of the requantisation memory.
    write_data : Out(8 * rows)
        Data of either write.
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        lanes = config.result_lanes + 1
        members: dict[str, Any] = {
            "dispatch": In(dispatch_layout(config)).array(config.tiers),
            "dispatch_above": Out(dispatch_layout(config)).array(config.tiers),
            "fill_control": In(fill_control_layout(config)).array(2),
            "fill_control_above": Out(fill_control_layout(config)).array(2),
            "write": In(write_layout(config)).array(lanes),
            "write_above": Out(write_layout(config)).array(lanes),
            "wave": Out(
                row_wave_layout(
                    activation_words=config.activation_words,
                    vcache_tiles=config.vcache_tiles if config.stationary_feed == "vertical" else None,
                    links=config.vertical_links,
                )
            ),
            "tail": Out(tail_layout(config)),
            "psum_take": Out(1),
            "fill_select": Out(config.fill_words),
            "activation_enable": Out(config.rows),
            "activation_addr": Out(config.activation_bits),
            "param_write": Out(1),
            "param_write_addr": Out(param_write_bits(config)),
            "write_data": Out(8 * config.rows),
        }
        if config.stationary_feed == "vertical":
            members |= {
                "fill_columns": Out(1),
                "fill_mask": Out(config.columns // column_run(config)),
                "fill_tile": Out(config.vcache_bits).array(config.fill_words),
                "fill_lane": Out(config.fill_words),
                "fill_low": Out(config.fill_words),
                "fill_turn": Out(1),
            }
        else:
            members |= {"fill_tile": Out(config.vcache_bits), "fill_lane": Out(1)}
            members |= {"edge_load": Out(1), "edge_below": Out(1), "edge_tile": Out(config.vcache_bits)}
        super().__init__(members)

    PARAMETERS = parameters(
        "accumulator_depth activation_words columns group_bytes parameter_words result_lanes rows "
        "stationary_feed tiers vcache_tiles vertical_links"
    )
    """What the module depends on."""

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return parameter_key("hub", self.config, self.PARAMETERS)

    def elaborate(self, platform: object) -> Module:
        """Build the registers and decoders."""
        m = Module()
        self._dispatch(m)
        self._fill(m)
        self._write(m)
        return m

    def _dispatch(self, m: Module) -> None:
        control = (("wave", "valid"), ("edge_load",))
        edge = self.config.stationary_feed == "edge"
        unused = unused_dispatch(self.config)
        lanes = []
        for index in range(self.config.tiers):
            source = self.dispatch[index]
            enable = source.wave.valid | source.edge_load if edge else source.wave.valid
            lanes.append(_register(m, f"dispatch_{index}", source, control, enable, unused))
        for index, lane in enumerate(lanes[1:]):
            m.d.comb += self.dispatch_above[index].eq(lane)
        own = lanes[0]
        m.d.comb += [self.wave[field].eq(own.wave[field]) for field in self.wave.shape().members]
        m.d.comb += self.tail.eq(own.tail)
        if self.config.vertical_links:
            take = Signal(2)
            m.d.sync += take.eq(((own.wave.valid & own.wave.psum_below) << 0) | (take[0] << 1))
            m.d.comb += self.psum_take.eq(take[1])
        if edge:
            m.d.comb += [
                self.edge_load.eq(own.edge_load),
                self.edge_below.eq(own.edge_below),
                self.edge_tile.eq(own.edge_tile),
            ]

    def _fill(self, m: Module) -> None:
        config = self.config
        vertical = config.stationary_feed == "vertical"
        unused = unused_fill(config)
        hits = []
        lanes = []
        for index in range(2):
            source = self.fill_control[index]
            lane = _register(m, f"fill_{index}", source, (("valid",),), source.valid, unused)
            above = self.fill_control_above[index]
            m.d.comb += [
                above.eq(lane),
                above.tiers.eq(lane.tiers[1:]),
                above.valid.eq(lane.valid & lane.tiers[1:].any()),
            ]
            hit = Signal(name=f"fill_hit_{index}")
            m.d.comb += hit.eq(lane.valid & lane.tiers[0])
            hits.append(hit)
            lanes.append(lane)
        if not vertical:
            word = Signal.like(lanes[0].word)
            m.d.comb += [word.eq(lanes[0].word), self.fill_tile.eq(lanes[0].tile), self.fill_lane.eq(hits[1])]
            with m.If(hits[1]):
                m.d.comb += [word.eq(lanes[1].word), self.fill_tile.eq(lanes[1].tile)]
            with m.If(hits[0] | hits[1]):
                m.d.comb += [self.fill_select[i].eq(word == i) for i in range(config.fill_words)]
            return
        # A column takes one word for all rows, or one for each half of them.
        parts = column_words(config)
        part_bits = parts.bit_length() - 1
        turned, selects = [], []
        for index, (hit, lane) in enumerate(zip(hits, lanes, strict=True)):
            select = Signal(config.fill_words, name=f"select_{index}")
            turned.append(hit & lane.columns)
            with m.If(hit):
                for i in range(config.fill_words):
                    of_column = lane.word[:part_bits] == i * parts // config.fill_words if part_bits else 1
                    m.d.comb += select[i].eq(Mux(lane.columns, of_column, lane.word == i))
            selects.append(select)
        word = Signal.like(lanes[0].word)
        m.d.comb += [
            self.fill_select.eq(selects[0] | selects[1]),
            self.fill_lane.eq(selects[1]),
            *(tile.eq(Mux(selects[1][i], lanes[1].tile, lanes[0].tile)) for i, tile in enumerate(self.fill_tile)),
            *(low.eq(Mux(selects[1][i], lanes[1].low, lanes[0].low)) for i, low in enumerate(self.fill_low)),
            self.fill_turn.eq(hits[1]),
            self.fill_columns.eq(turned[0] | turned[1]),
            word.eq(Mux(turned[1], lanes[1].word, lanes[0].word)),
        ]
        for i in range(len(self.fill_mask)):
            m.d.comb += self.fill_mask[i].eq(~self.fill_columns | ((word >> part_bits) == i))

    def _write(self, m: Module) -> None:
        config = self.config
        hit_any: Any = 0
        parameter: Any = 0
        enable: Any = 0
        chosen: Any = 0
        chosen_address: Any = 0
        for index in range(config.result_lanes + 1):
            source = self.write[index]
            lane = _register(m, f"write_{index}", source, (("valid",),), source.valid)
            above = self.write_above[index]
            m.d.comb += [
                above.eq(lane),
                above.tiers.eq(lane.tiers[1:]),
                above.valid.eq(lane.valid & lane.tiers[1:].any()),
            ]
            hit = Signal(name=f"write_hit_{index}")
            m.d.comb += hit.eq(lane.valid & lane.tiers[0])
            # At most one lane hits a tier in a cycle (the result bus and the load path see to it): or, not priority.
            hit_any = hit_any | hit
            parameter = parameter | (hit & lane.parameter)
            enable = enable | Mux(hit & ~lane.parameter, lane.enable, 0)
            chosen = chosen | Mux(hit, lane.data.as_value(), 0)
            chosen_address = chosen_address | Mux(hit, lane.addr, 0)
        m.d.comb += [
            self.activation_enable.eq(enable),
            self.activation_addr.eq(chosen_address),
            self.param_write.eq(parameter),
            self.param_write_addr.eq(chosen_address),
            self.write_data.eq(chosen),
        ]


def param_write_bits(config: MachineConfig) -> int:
    """Return the width of a write address of the requantisation memory: word x parameter_parts + part."""
    return config.parameter_bits + (config.parameter_parts - 1).bit_length()
