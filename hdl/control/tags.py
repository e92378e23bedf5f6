# SPDX-License-Identifier: Apache-2.0
"""Tags of one tier's V-Cache: which tiles are filled, and by which load."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.common.sram import Sram
from hdl.config import MachineConfig
from hdl.emit.hierarchy import instantiate
from hdl.interfaces import fill_control_layout

__all__ = ["TAG_BITS", "TierTags"]

TAG_BITS = 6
"""Width of a fill tag."""


class TierTags(wiring.Component):
    """{valid, tag} of every V-Cache tile of one tier.

    The first fill word of a tile clears its valid bit, the last one sets it with the load's tag; a read in the cycle
    after the word's sees it. After reset all tiles are swept to not valid, after ``clear`` those from ``first`` on, one
    per cycle, during which ``ready`` is low and reads are not valid; fill words must not come then.

    Latency: ``valid`` and ``tag`` belong to the ``addr`` of the cycle before. Throughput: one read and one first or
    last fill word of a tile per cycle. A read in the very cycle of a fill word returns the old state.

    Members
    -------
    fill_control : In(fill_control_layout).array(2)
        Fill words launched in this cycle, lane by lane; of two for this tier at most one is the first or the last
        of its tile.
    fill_tag : In(6).array(2)
        Tag of the load that the fill word belongs to.
    tier_select : In(tiers)
        One-hot: this tier's bit in ``fill_control.tiers``.
    clear : In(1)
        Start a sweep (pulse).
    first : In(vcache_bits + 1)
        With ``clear``: the first tile that is swept, or their number for none.
    ready : Out(1)
        No sweep is running.
    addr : In(vcache_bits)
        Tile to look up.
    valid : Out(1)
        The tile looked up in the previous cycle is filled.
    tag : Out(6)
        Its tag.
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "fill_control": In(fill_control_layout(config)).array(2),
                "fill_tag": In(TAG_BITS).array(2),
                "tier_select": In(config.tiers),
                "clear": In(1),
                "first": In(config.vcache_bits + 1),
                "ready": Out(1),
                "addr": In(config.vcache_bits),
                "valid": Out(1),
                "tag": Out(TAG_BITS),
            }
        )

    def module_key(self) -> str:
        """Name of the Verilog module."""
        c = self.config
        return f"tier_tags_t{c.tiers}_d{c.vcache_tiles}_w{c.fill_words}"

    def elaborate(self, platform: object) -> Module:
        """Build the memory with its sweep counter."""
        m = Module()
        config = self.config
        memory = instantiate(m, platform, "memory", Sram(TAG_BITS + 1, config.vcache_tiles))
        sweeping = Signal(init=1)
        sweep_addr = Signal(config.vcache_bits)
        m.d.comb += self.ready.eq(~sweeping)
        with m.If(self.clear):
            m.d.sync += [sweeping.eq(self.first != config.vcache_tiles), sweep_addr.eq(self.first)]
        with m.Elif(sweeping):
            m.d.sync += sweep_addr.eq(sweep_addr + 1)
            with m.If(sweep_addr == config.vcache_tiles - 1):
                m.d.sync += sweeping.eq(0)

        with m.If(sweeping):
            m.d.comb += [memory.write_en.eq(1), memory.write_addr.eq(sweep_addr)]
        for lane in range(2):
            control = self.fill_control[lane]
            first = control.word == 0
            last = control.word == config.fill_words - 1
            mine = control.valid & (control.tiers & self.tier_select).any()
            with m.If(~sweeping & mine & (first | last)):
                m.d.comb += [
                    memory.write_en.eq(1),
                    memory.write_addr.eq(control.tile),
                    memory.write_data.eq(Mux(last, Cat(self.fill_tag[lane], Const(1, 1)), 0)),
                ]
        # No operation looks while a sweep begins: the register keeps the sweep's state out of the waves' way.
        swept = Signal()
        m.d.sync += swept.eq(~sweeping & ~self.clear)
        m.d.comb += [
            # Always enabled: a wave that waits for its tile looks again every cycle.
            memory.read_en.eq(1),
            memory.read_addr.eq(self.addr),
            self.tag.eq(memory.read_data[:TAG_BITS]),
            self.valid.eq(memory.read_data[TAG_BITS] & swept),
        ]
        return m
