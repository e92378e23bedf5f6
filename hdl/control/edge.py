# SPDX-License-Identifier: Apache-2.0
"""Tile requests of the edge feed: one tile ahead of the waves, across operations."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.config import MachineConfig
from hdl.control.gangs import pending_layout
from hdl.control.operation import start_layout
from hdl.emit.hierarchy import parameter_key, parameters

__all__ = ["EdgeRequester", "StartFork"]

GANG_FIELDS = (
    "pc", "chained", "leads", "follows", "follows_k", "above", "above_k", "gang", "tag", "stationary_below",
    "activation_below",
)  # fmt: skip


class EdgeRequester(wiring.Component):
    """Walks through the stationary tiles of a tier's operations and asks the feeder for each.

    One tile may be shifted in ahead: the next request goes in the cycle of the previous tile's ``new`` wave at the
    earliest, and a tile's ``new`` wave `rows` cycles after its request.

    Latency: a tile is looked up for two cycles before its request can go; from ``go`` to ``edge_load`` one cycle.

    Members
    -------
    start : In(stream of start_layout)
        The operations, in order.
    request : Out(pending_layout(config))
        The next request, for the gang logic.
    tag_addr : Out(vcache_bits)
        Its tile.
    go : In(1)
        The request is made in this cycle.
    new_wave : In(1)
        A ``new`` wave is issued in this cycle.
    hold : Out(1)
        The tile of the next ``new`` wave is not shifted in yet.
    requested : Out(1)
        It is asked for.
    edge_load, edge_below, edge_tile : Out
        Registered fields of the dispatch lane.
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "start": In(stream.Signature(start_layout(config))),
                "request": Out(pending_layout(config)),
                "tag_addr": Out(config.vcache_bits),
                "go": In(1),
                "new_wave": In(1),
                "hold": Out(1),
                "requested": Out(1),
                "edge_load": Out(1),
                "edge_below": Out(1),
                "edge_tile": Out(config.vcache_bits),
            }
        )

    PARAMETERS = parameters("list_depth parameter_words rows semaphores tiers vcache_tiles")
    """What the module depends on."""

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return parameter_key("edge_requester", self.config, self.PARAMETERS)

    def elaborate(self, platform: object) -> Module:
        """Build the tile counter and the state of the shift front."""
        m = Module()
        config = self.config
        current = Signal(pending_layout(config))
        tile = Signal(config.vcache_bits)
        left = Signal(17)
        looked = Signal()
        front = Signal()
        timer = Signal(range(config.rows))

        m.d.comb += self.start.ready.eq(~current.valid)
        with m.If(self.start.valid & ~current.valid):
            start = self.start.payload
            m.d.sync += [current[name].eq(start.op[name]) for name in GANG_FIELDS]
            m.d.sync += [
                current.valid.eq(1),
                current.op_first.eq(1),
                current.reads_tile.eq(~start.op.stationary_below & ~start.op.skipped),
                tile.eq(start.loop.tile),
                left.eq(start.tiles - 1),
                looked.eq(0),
            ]
        with m.Elif(self.go):
            m.d.sync += [
                current.valid.eq(left != 0),
                current.op_first.eq(0),
                tile.eq(tile + 1),
                left.eq(left - 1),
                looked.eq(0),
            ]
        with m.Else():
            m.d.sync += looked.eq(1)
        m.d.comb += [
            self.tag_addr.eq(tile),
            self.request.eq(current),
            # The front takes the next tile from the cycle on in which the previous one becomes active.
            self.request.hold.eq(~looked | (front & ~self.new_wave)),
            self.requested.eq(front),
            self.hold.eq(~front | (timer != 0)),
        ]
        with m.If(timer != 0):
            m.d.sync += timer.eq(timer - 1)
        with m.If(self.go):
            m.d.sync += [
                front.eq(1),
                timer.eq(config.rows - 1),
                self.edge_tile.eq(tile),
                self.edge_below.eq(current.stationary_below),
            ]
        with m.Elif(self.new_wave):
            m.d.sync += front.eq(0)
        m.d.sync += self.edge_load.eq(self.go)
        return m


class StartFork(wiring.Component):
    """Hands each operation to the loop nest (through one register) and to the tile requests, in either order.

    The requests run ahead of the waves by more than an operation when that has a single tile; the register frees the
    setup stage for the next instruction.

    Members
    -------
    start : In(stream of start_layout)
    waves : Out(stream of start_layout)
        One cycle later.
    requests : Out(stream of start_layout)
        In the same cycle.
    held : Out(1)
        An operation is in the register.
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        signature = stream.Signature(start_layout(config))
        super().__init__({"start": In(signature), "waves": Out(signature), "requests": Out(signature), "held": Out(1)})

    PARAMETERS = parameters("list_depth parameter_words semaphores tiers vcache_tiles")
    """What the module depends on."""

    def module_key(self) -> str:
        """Name of the Verilog module."""
        return parameter_key("start_fork", self.config, self.PARAMETERS)

    def elaborate(self, platform: object) -> Module:
        """Build the register and the two flags."""
        m = Module()
        full = Signal()
        kept = Signal(start_layout(self.config))
        copied, requested = Signal(), Signal()
        can_copy, can_request, done = Signal(), Signal(), Signal()
        m.d.comb += [
            can_copy.eq(copied | ~full | self.waves.ready),
            can_request.eq(requested | self.requests.ready),
            done.eq(self.start.valid & can_copy & can_request),
            self.start.ready.eq(can_copy & can_request),
            self.requests.valid.eq(self.start.valid & ~requested),
            self.requests.payload.eq(self.start.payload),
            self.waves.valid.eq(full),
            self.waves.payload.eq(kept),
            self.held.eq(full),
        ]
        m.d.sync += [
            copied.eq(self.start.valid & can_copy & ~done),
            requested.eq(self.start.valid & can_request & ~done),
        ]
        with m.If(self.start.valid & can_copy & ~copied):
            m.d.sync += [full.eq(1), kept.eq(self.start.payload)]
        with m.Elif(self.waves.ready):
            m.d.sync += full.eq(0)
        return m
